"""Payment methods and customers: stored once a key, shown without what is secret, deleted so that nothing can be charged.

A method is a card sealed at rest, tokens by account, or both once an account has handed out its own. A security code is never
stored with it: it goes into a verification, where one is asked for, and ends with it. A verification is a payment of amount zero
that runs the way of every charge, so routing, recovery, 3-D Secure and the replay of its answer are those of a charge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Protocol

import orjson
import structlog

from gateway.answers import Answer, charge_answer, decline_object, instant, next_action_object
from gateway.books import KeyUse, Method, Written, method_values
from gateway.brands import brand_of
from gateway.charge import Charge, charge
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.ids import CUSTOMER, is_id
from gateway.keys import Decided, written_once
from gateway.method_books import handed_out
from gateway.payment import Payment, Status, Terms
from gateway.queries import StoredCustomer, StoredMethod
from gateway.rows import card_json
from gateway.settle import MethodUse
from gateway.vault import Keyring, SealBroken, Sealer, Wallet, key_id_of, open_card, seal_card
from idempotency.key import Key
from providers.contract import Card, CardFacts, Outcome

log = structlog.get_logger()

NOT_SENT: Final = "not_sent"
"""The decline of a payment that reached no account at all."""
_VERIFICATIONS: Final[Mapping[Status, str]] = {
    Status.SUCCEEDED: "succeeded",
    Status.REQUIRES_CAPTURE: "succeeded",
    Status.REQUIRES_ACTION: "requires_action",
    Status.REQUIRES_CONFIRMATION: "processing",
    Status.PROCESSING: "processing",
    Status.REQUIRES_PAYMENT_METHOD: "failed",
    Status.FAILED: "failed",
    Status.CANCELED: "canceled",
}
"""What a verification is called, by the status of its payment."""


# --- Parts of a method ------------------------------------------------------------------------------------------------


class CardSent(Protocol):
    """A card as a request holds it."""

    number: str
    exp_month: int
    exp_year: int
    cvc: str | None
    holder_name: str | None


def card_from(sent: CardSent, keys: Keyring, param: str) -> Card:
    """The card that was sent. Raises :class:`Problem` (422) where no vault key is configured: then none is taken."""
    if keys.vault is None:
        raise Problem(
            "card_not_accepted",
            "Card numbers are accepted only where a vault key is configured; send tokens instead.",
            param,
        )
    return Card(sent.number, sent.exp_month, sent.exp_year, sent.cvc, sent.holder_name)


def card_method(
    card: Card, keys: Keyring, merchant_id: str, method_id: str, *, keeps: bool, keeps_code: bool = False
) -> Method:
    """A method of one card, sealed where it ``keeps`` the card. The code is kept only where a payment waits for it."""
    sealed_card = sealed_cvc = None
    if keeps and keys.vault is not None:
        kept = card if keeps_code else replace(card, cvc=None)
        sealed_card, sealed_cvc = seal_card(kept, keys.vault, merchant_id, method_id)
    facts = CardFacts(brand_of(card.number), card.number[:6], card.number[-4:], card.exp_month, card.exp_year)
    return Method(
        id=method_id,
        type="card",
        tokens={},
        card=card_json(facts),
        sealed_card=sealed_card,
        sealed_cvc=sealed_cvc,
        reusable=True,
        wipe_at=None,
        fingerprint=keys.card_fingerprint(card.number, merchant_id),
    )


async def unknown_customer(customer: str | None, merchant_id: str, deps: Deps, *, livemode: bool) -> Problem | None:
    """Why ``customer`` cannot be named, or ``None``. Any text of the merchant's own can; an id of ours must be there."""
    if customer is None or not is_id(customer, CUSTOMER):
        return None
    found = await deps.queries.customer(customer, merchant_id, livemode=livemode)
    if found is None:
        return Problem("validation_failed", "There is no such customer.", "customer")
    if found.deleted_at is not None:
        return Problem("validation_failed", "This customer was deleted.", "customer")
    return None


async def with_stored(command: Charge, method_id: str, deps: Deps) -> Charge:
    """The command with a payment method that is stored already, and what is known of its card's declines.

    What cannot be charged is ``unusable``, and says why. Raises :class:`Problem` (422) where there is no such method.
    """
    terms = command.terms
    found = await deps.queries.method_to_charge(method_id, terms.merchant_id, livemode=terms.livemode)
    if found is None:
        raise Problem("validation_failed", "There is no such payment method.", "payment_method")
    method, declines = found
    own = not command.new and method.created_at == terms.created_at  # they were stored in one commit
    unusable = _unusable(method, terms, own=own)
    if unusable is not None:
        return replace(command, wallet=Wallet(), method_id=method.id, unusable=unusable)
    card, vault = None, deps.keys.vault
    if method.sealed_card is not None and vault is None and not method.tokens:
        shut = _shut(method, vault, "the vault has no key", deps)
        return replace(command, wallet=Wallet(), method_id=method.id, unusable=shut)
    if method.sealed_card is not None and vault is not None:
        sealed_cvc = method.sealed_cvc if own else None  # it waits for the payment that it came with
        try:
            card = open_card(method.sealed_card, sealed_cvc, vault, terms.merchant_id, method.id)
        except SealBroken as error:  # moved, changed, or its key was taken away: it is for an operator
            shut = _shut(method, vault, str(error), deps)
            return replace(command, wallet=Wallet(), method_id=method.id, unusable=shut)
    use = MethodUse(spent=method.type == "card" and own, learns=method.reusable)
    if command.new:
        terms = replace(terms, billing_details=terms.billing_details or method.billing_details)
    return replace(
        command,
        terms=replace(terms, customer=terms.customer or method.customer),
        wallet=Wallet(method.tokens, card, method.network_transaction_id),
        method_id=method.id,
        card=method.card,
        declines=declines,
        use=use,
    )


def _unusable(method: StoredMethod, terms: Terms, *, own: bool) -> Problem | None:
    """Why a stored method may not be charged for a payment, or ``None``."""
    if method.deleted_at is not None:
        return Problem("validation_failed", "This payment method was deleted.", "payment_method")
    if not own and not method.reusable:
        return Problem(
            "validation_failed",
            "This payment method was for one payment; send the card again, with setup_future_usage to keep it.",
            "payment_method",
        )
    if method.customer is not None and terms.customer not in {None, method.customer}:
        return Problem("validation_failed", "This payment method is attached to another customer.", "customer")
    return None


def _shut(method: StoredMethod, vault: Sealer | None, why: str, deps: Deps) -> Problem:
    """What a stored card answers that does not open: its key is not here, or else it was changed or moved."""
    log.error("card_does_not_open", payment_method=method.id, why=why)
    if vault is not None and key_id_of(method.sealed_card or b"") in vault.key_ids:
        return Problem("internal_error", "The stored card cannot be opened.", "payment_method")
    deps.instruments.stood_in("vault_loss_card")
    return Problem("vault_unavailable", "Nothing was charged: the stored card's key is not here.", "payment_method")


# --- Objects ----------------------------------------------------------------------------------------------------------


def method_object(method: StoredMethod, verification: Payment | None) -> dict[str, Any]:
    """The payment method as the API shows it: of tokens only whose they are, of the card never the number."""
    return {
        "id": method.id,
        "object": "payment_method",
        "type": method.type,
        "customer": method.customer,
        "reusable": method.reusable and method.deleted_at is None,
        "deleted": method.deleted_at is not None,
        "tokens": sorted(method.tokens),
        "card": None if not method.card else {**_BLANK, **method.card, "fingerprint": method.fingerprint},
        "network_transaction_id": method.network_transaction_id,
        "billing_details": method.billing_details or None,
        "metadata": method.metadata or {},
        "verification": None if verification is None else _verification(verification),
        "livemode": method.livemode,
        "created": instant(method.created_at),
        "updated": instant(method.updated_at or method.created_at),
    }


ERASABLE: Final = ("billing_details", "metadata")
"""What of the object may name a person, and is erased with them: an event is stored for longer, so it never says it."""

_BLANK: Final = card_json(CardFacts()) or {}


def _verification(payment: Payment) -> dict[str, Any]:
    not_sent = payment.status is Status.FAILED and payment.decline is not None and payment.decline.code == NOT_SENT
    return {
        "payment": payment.terms.id,
        "status": "not_processed" if not_sent else _VERIFICATIONS[payment.status],
        "account": payment.account,
        "next_action": next_action_object(payment),
        "decline": decline_object(payment.decline),
    }


def customer_object(customer: StoredCustomer) -> dict[str, Any]:
    """The customer as the API shows it."""
    personal = customer.personal or {}
    return {
        "id": customer.id,
        "object": "customer",
        "deleted": customer.deleted_at is not None,
        "reference": customer.reference,
        "name": personal.get("name"),
        "email": personal.get("email"),
        "phone": personal.get("phone"),
        "metadata": customer.metadata,
        "livemode": customer.livemode,
        "created": instant(customer.created_at),
        "updated": instant(customer.updated_at),
    }


# --- Storing ----------------------------------------------------------------------------------------------------------


async def store_method(
    method: Method, key: Key, fingerprint: bytes, now: datetime, deps: Deps, unusable: Problem | None
) -> Answer:
    """Store a method, once a key. ``unusable`` is raised where the key is new: a replay outlives what made it so."""
    shown = method_object(stored(method, livemode=key.livemode, at=now), None)
    row = method_values(method, key.merchant_id, livemode=key.livemode, at=now)

    async def write(use: KeyUse) -> Written:
        return await deps.books.store("method", row, method.id, use, now)

    return await stored_once(key, fingerprint, deps, Answer(201, orjson.dumps(shown)), write, unusable)


async def store_customer(customer: StoredCustomer, key: Key, fingerprint: bytes, deps: Deps) -> Answer:
    """Store a customer, once a key."""
    names = (name for name in StoredCustomer.__dataclass_fields__ if name != "deleted_at")
    row = {f"u_{name}": getattr(customer, name) for name in names}

    async def write(use: KeyUse) -> Written:
        return await deps.books.store("customer", row, customer.id, use, customer.created_at)

    return await stored_once(key, fingerprint, deps, Answer(201, orjson.dumps(customer_object(customer))), write, None)


async def stored_once(
    key: Key,
    fingerprint: bytes,
    deps: Deps,
    answer: Answer,
    write: Callable[[KeyUse], Awaitable[Written]],
    unusable: Problem | None,
) -> Answer:
    """Write what the key opens together with its answer, or give the answer that it has. ``unusable`` is raised where the key is new."""

    async def decide() -> Decided:
        if unusable is not None:
            raise unusable
        return answer, write

    return await written_once(key, fingerprint, deps, decide)


def stored(method: Method, *, livemode: bool, at: datetime) -> StoredMethod:
    """The method as it stands once it is written."""
    names = (name for name in StoredMethod.__dataclass_fields__ if name in Method.__dataclass_fields__)
    return StoredMethod(
        **{name: getattr(method, name) for name in names}, livemode=livemode, created_at=at, updated_at=at
    )


# --- Verifying --------------------------------------------------------------------------------------------------------


async def verify_method(
    method: Method, terms: Terms, key: Key, fingerprint: bytes, card: Card | None, unusable: Problem | None, deps: Deps
) -> Answer:
    """Store a method together with the payment of amount zero that verifies it, and answer how that stands.

    The method stays stored whatever comes of it; a declined one says so, and may be deleted. Raises what :func:`charge` raises:
    then nothing was stored.
    """

    def answer(payment: Payment, heard: Outcome | None, keys: Keyring, ok: int) -> Answer:
        return verified_answer(method, payment, heard, keys, ok)

    command = Charge(
        key,
        fingerprint,
        terms,
        wallet=Wallet(method.tokens, card, method.network_transaction_id),
        method=replace(method, verification_id=terms.id),
        method_id=method.id,
        card=method.card,
        unusable=unusable,
        answer=answer,
        use=MethodUse(spent=False, learns=True),
    )
    return await charge(command, deps)


def verified_answer(method: Method, payment: Payment, heard: Outcome | None, keys: Keyring, ok: int) -> Answer:
    """The answer to a verification: the method with what the payment has told about it, and what was ``heard`` just now.

    ``method`` is what this request brought. The same request under the same key brought the same before, but under another id:
    the payment knows the one that was stored. A token that the account handed out while nobody waited is shown by a GET.
    """
    plain = charge_answer(payment, keys, ok=ok)
    if plain.problem is not None:
        return plain
    told = {name: value for name, value in (card_json(payment.card) or {}).items() if value is not None}
    tokens = handed_out(payment.account, heard)
    known = replace(
        stored(method, livemode=payment.terms.livemode, at=payment.terms.created_at),
        id=payment.payment_method or method.id,
        tokens={**method.tokens, **tokens},
        card=({**(method.card or {}), **told}) or None,
        network_transaction_id=method.network_transaction_id or payment.network_transaction_id,
        updated_at=payment.updated_at,
    )
    headers = dict(plain.headers)
    if "Location" in headers:
        headers["Location"] = f"/v1/payment_methods/{known.id}"
    return replace(plain, body=orjson.dumps(method_object(known, payment)), headers=headers)
