"""One attempt, before it is made: its operation, and the exact request for it in its provider's own form.

Nothing is read, written or sent here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway import tracing
from gateway.deps import Deps
from gateway.ids import ATTEMPT, new_id
from gateway.payment import ALLOWED_BY, Operation, OperationStatus, Payment, Terms
from gateway.vault import Keyring, Wallet
from providers.contract import Authorize, Capability, Card, Instrument, Kind
from providers.money import Money
from routing.retries import Rule


@dataclass(frozen=True, slots=True)
class Step:
    """An attempt to be made: where, in which round, the rule that allows it, and the record of how its account was chosen."""

    account: str
    round: int
    rule: Rule
    record: Mapping[str, Any]


def compose(
    payment: Payment, step: Step, wallet: Wallet, deps: Deps, now: datetime
) -> tuple[Operation, Mapping[str, Any]]:
    """The next attempt and the exact request for it."""
    account, terms = deps.accounts[step.account], payment.terms
    instrument = wallet.instrument(step.account)
    if instrument is None:
        raise AssertionError("an eligible account has a token or a card")
    operation_id = new_id(ATTEMPT)
    ask = Authorize(
        operation_id=operation_id,
        payment_id=terms.id,
        amount=Money(terms.amount, terms.currency),
        capture_method="manual" if terms.capture_method == "manual" else "automatic",
        instrument=instrument,
        return_url=f"{deps.public_url}/v1/return/{deps.keys.return_token(operation_id)}",
        reference=terms.reference,
        description=terms.description,
        statement_descriptor=terms.statement_descriptor,
        customer=terms.customer,
        off_session=terms.off_session,
        three_d_secure="required" if terms.three_d_secure == "required" else "automatic",
        adjustable=bool(terms.adjustable),
        several_captures=terms.capture_method == "manual" and account.can(Capability.SEVERAL_CAPTURES),
        setup_future_usage=terms.setup_future_usage,
        recurring=terms.recurring,
        network_transaction_id=terms.network_transaction_id or _earlier(terms, wallet, instrument),
        metadata=terms.metadata,
        billing_details=terms.billing_details,
        shopper=terms.shopper,
    )
    request = account.provider.compose(ask)
    operation = attempt(payment, step, operation_id, account.provider.name, deps.keys, now)
    return operation, request


def attempt(payment: Payment, step: Step, operation_id: str, provider: str, keys: Keyring, now: datetime) -> Operation:
    """The attempt as it stands when it is committed: on its way. A retry bears the name of the rule that allows it."""
    return Operation(
        id=operation_id,
        kind=Kind.AUTHORIZE,
        seq=len(payment.operations) + 1,
        round=step.round,
        account=step.account,
        provider=provider,
        amount=payment.terms.amount,
        status=OperationStatus.SENT,
        provider_key=keys.provider_key(operation_id),
        metadata=None if step.rule is Rule.FIRST else {ALLOWED_BY: step.rule},
        created_at=now,
        decision=step.record,
        trace=tracing.kept() or payment.trace,
    )


def _earlier(terms: Terms, wallet: Wallet, instrument: Instrument) -> str | None:
    """The network's id of the payment that a stored card was first used for, where the shopper is away.

    A token needs none: its account knows what was before.
    """
    return wallet.network_transaction_id if terms.off_session and isinstance(instrument, Card) else None
