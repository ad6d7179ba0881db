"""The words we speak to a payment service provider (PSP): what we ask, what can come of it, and what an adapter must do.

An outcome is a value, an exception is a bug. The six outcomes are the whole vocabulary, and the line between
:class:`NotProcessed` and :class:`Unknown` is the one that protects the shopper's money:

* ``NotProcessed``  it is certain that nothing happened there, so another account may be asked;
* ``Unknown``       anything else that is not a clear answer. It may have happened: nobody else is asked until it is settled.

This module is pure: no IO, no clock, no randomness.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Protocol

from providers.declines import Decline
from providers.money import Money


class Kind(StrEnum):
    """What an operation asks of a PSP."""

    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"


# --- What we ask ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Card:
    """A card number and what belongs to it. Its ``repr`` shows nothing of it, so it cannot slip into a log."""

    number: str = field(repr=False)
    exp_month: int = field(repr=False)
    exp_year: int = field(repr=False)
    cvc: str | None = field(default=None, repr=False)
    holder_name: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """What one account calls a payment method it already knows (``pm_…`` at Stripe, a stored payment method id at Adyen)."""

    value: str


Instrument = Card | Token


@dataclass(frozen=True, slots=True)
class Authorize:
    """Authorize ``amount``, and capture it at once when ``capture_method`` is ``automatic``."""

    operation_id: str
    payment_id: str
    amount: Money
    capture_method: Literal["automatic", "manual"]
    instrument: Instrument
    return_url: str
    reference: str | None = None
    description: str | None = None
    statement_descriptor: str | None = None
    customer: str | None = None
    off_session: bool = False
    setup_future_usage: str | None = None
    recurring: str | None = None
    network_transaction_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    billing_details: Mapping[str, Any] = field(default_factory=dict)
    shopper: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capture:
    """Capture ``amount`` of an authorization; ``final`` releases what is left of it."""

    operation_id: str
    payment_id: str
    amount: Money
    provider_payment_id: str
    final: bool = True


@dataclass(frozen=True, slots=True)
class Void:
    """Release an authorization that was not captured."""

    operation_id: str
    payment_id: str
    amount: Money
    provider_payment_id: str


@dataclass(frozen=True, slots=True)
class Refund:
    """Give ``amount`` of a captured payment back."""

    operation_id: str
    payment_id: str
    amount: Money
    provider_payment_id: str
    reason: str | None = None


Ask = Authorize | Capture | Void | Refund


# --- What can come of it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the PSP says about the card: fit to show, never the number."""

    brand: str | None = None
    bin: str | None = None
    last4: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None
    funding: str | None = None
    country: str | None = None


@dataclass(frozen=True, slots=True)
class Approved:
    """It happened: ``amount`` is authorized, captured, voided or refunded, and ``provider_id`` names it there."""

    provider_id: str
    amount: Money
    captured: bool = False
    network_transaction_id: str | None = None
    auth_code: str | None = None
    avs: str | None = None
    cvc: str | None = None
    card: CardFacts | None = None


@dataclass(frozen=True, slots=True)
class Declined:
    """The PSP or the issuer said no, and that is final for this operation. ``decline`` says what may be tried next."""

    decline: Decline
    provider_id: str | None = None
    card: CardFacts | None = None


@dataclass(frozen=True, slots=True)
class ActionRequired:
    """The shopper has to do something first (3-D Secure). ``action`` is the API's ``next_action``."""

    provider_id: str | None
    action: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pending:
    """Accepted there, result to follow by webhook."""

    provider_id: str | None


@dataclass(frozen=True, slots=True)
class NotProcessed:
    """Nothing happened there, for certain. ``reason`` is ours, ``provider_code`` is theirs where they gave one."""

    reason: Literal["not_sent", "rejected", "rate_limited", "credentials"]
    provider_code: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have happened. ``resend`` is true where the identical bytes may be sent again at once under the same key."""

    reason: str
    resend: bool = False
    provider_code: str | None = None


Outcome = Approved | Declined | ActionRequired | Pending | NotProcessed | Unknown


# --- What an adapter must do ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """One operation on its way to a PSP: the exact request, and the idempotency key it always travels under.

    ``request`` is what :meth:`Provider.compose` returned, or what the adapter last handed to ``keep``. The same operation
    always has the same key, and a request that was sent once is sent with the same bytes ever after.
    """

    operation_id: str
    kind: Kind
    request: Mapping[str, Any] = field(repr=False)
    key: str
    amount: Money
    provider_id: str | None = None


Keep = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Commits what is still to be sent of a request in several steps. Returns after the commit, raises if it could not."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a PSP tells us by webhook, in our words.

    ``operation_id`` is our reference where the PSP echoes it; ``provider_id`` finds the operation where it does not, and
    ``provider_payment_id`` names the payment there. ``outcome`` is ``None`` for an event that is kept but changes nothing.
    """

    event_id: str
    type: str
    kind: Kind | None = None
    operation_id: str | None = None
    provider_id: str | None = None
    provider_payment_id: str | None = None
    outcome: Outcome | None = None
    occurred_at: datetime | None = None


class WebhookRefused(Exception):
    """The webhook is not authentic, or no secret is configured to tell. The message says which; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The body with which a PSP wants its webhook to be acknowledged."""

    body: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider's adapter can do, asked before the call so that a refusal names the account and the capability."""

    several_captures: bool
    replay_horizon_s: int
    """How long the PSP certainly remembers an idempotency key, in seconds. After it only lookups remain."""
    lookup: bool
    """Whether the PSP can be asked what became of an operation."""


class Provider(Protocol):
    """One account at one PSP, spoken to through its official SDK. Created by the registry, closed once.

    An adapter returns outcomes; it raises only for bugs. SDK objects never leave it.
    """

    name: str
    capabilities: Capabilities
    acknowledgement: Acknowledgement

    def refuses(self, money: Money) -> str | None:
        """Why this provider cannot carry exactly this amount, or ``None`` when it can."""
        ...

    def compose(self, ask: Ask) -> Mapping[str, Any]:
        """The exact request for ``ask``, as JSON-able values. Pure: the same ask gives the same request."""
        ...

    async def send(self, call: Call, keep: Keep) -> Outcome:
        """Send ``call`` once. The result is read by the table of outcomes; whatever is not in it is ``Unknown``."""
        ...

    async def lookup(self, call: Call) -> Outcome:
        """Ask what became of ``call`` without changing anything. ``Unknown`` where the PSP cannot say; a miss is no proof."""
        ...

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> None:
        """Prove that the raw bytes are the PSP's. Raises :class:`WebhookRefused` on anything that is not authentic."""
        ...

    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        """The events in a body that was verified before, in its order; the same body always gives the same events."""
        ...
