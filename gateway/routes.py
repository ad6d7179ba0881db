"""Routes: which accounts may take a payment, in which order they are asked, and why the others are not."""

from __future__ import annotations

from gateway.deps import Deps
from gateway.errors import Problem
from gateway.payment import Terms
from gateway.vault import Wallet
from providers.contract import Capability
from providers.money import Money


def route(terms: Terms, wallet: Wallet, deps: Deps) -> tuple[str, ...]:
    """The merchant's accounts that may take this payment, in the order of the configuration."""
    return tuple(name for name, reason in eligibility(terms, wallet, deps).items() if reason is None)


def eligibility(terms: Terms, wallet: Wallet, deps: Deps) -> dict[str, str | None]:
    """Each account of the merchant with the reason why it cannot take the payment, or ``None``.

    A payment that names its account has that one alone, and none where there is no account of that name.
    """
    money, needs, has_card = Money(terms.amount, terms.currency), _needs(terms), wallet.card is not None
    # An account that remembers the card itself knows its first payment, too.
    remembered = needs - {Capability.NETWORK_TRANSACTION_ID}
    reasons = {}
    for account in deps.accounts_of(terms.merchant_id, livemode=terms.livemode):
        if terms.pinned_account in {None, account.name}:
            has_token = account.name in wallet.tokens
            asked = remembered if has_token else needs
            reasons[account.name] = account.eligible(money, has_token=has_token, has_card=has_card, needs=asked)
    return reasons


def refusal(terms: Terms, wallet: Wallet, deps: Deps) -> Problem:
    """What is answered where no account may take the payment: each with its reason."""
    reasons = eligibility(terms, wallet, deps)
    if terms.pinned_account is not None and not reasons:
        return Problem("no_eligible_account", "There is no account of that name.", "routing.account")
    param = "routing.account" if terms.pinned_account is not None else None
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "no account is configured"
    return Problem(
        "no_eligible_account", f"No account can take this payment ({why}).", param, extra={"accounts": reasons}
    )


def _needs(terms: Terms) -> frozenset[Capability]:
    """What an account must be able to do for these terms."""
    wanted = {
        Capability.VERIFICATION: terms.amount == 0,
        Capability.MANUAL_CAPTURE: terms.capture_method == "manual",
        Capability.STORED_CREDENTIALS: terms.setup_future_usage is not None,
        Capability.MERCHANT_INITIATED: terms.off_session,
        Capability.INCREMENT: bool(terms.adjustable),
        Capability.REDIRECT: terms.three_d_secure == "required",
        Capability.NETWORK_TRANSACTION_ID: terms.network_transaction_id is not None,
    }
    return frozenset(capability for capability, needed in wanted.items() if needed)
