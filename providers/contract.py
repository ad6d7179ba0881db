"""The words we speak to a payment service provider (PSP): what we ask, what can come of it, and what an adapter must do.

An outcome is a value, an exception is a bug. The six outcomes are the whole vocabulary, and the line between
:class:`NotProcessed` and :class:`Unknown` is the one that protects the shopper's money:

* ``NotProcessed``  it is certain that nothing happened there, so another account may be asked;
* ``Unknown``       anything else that is not a clear answer. It may have happened: nobody else is asked until it is settled.

This module is pure: no IO, no clock, no randomness.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, Protocol

from providers.declines import Decline
from providers.money import Money


def derived_key(words: bytes) -> str:
    """The key of a further request of an operation: the same words always give the same key, shaped like the operation's own."""
    return str(uuid.UUID(bytes=hashlib.sha256(words).digest()[:16], version=4))


def fingerprint_of(secret: str) -> str:
    """What a webhook secret is called where it must not be shown: the first 8 hex digits of its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:8]


class Kind(StrEnum):
    """What an operation asks of a PSP."""

    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"
    INCREMENT = "increment"
    DEFEND = "defend"
    ACCEPT = "accept"


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
    """What one account calls a payment method it already knows. Only that account's adapter can read it.

    A merchant brings what the PSP calls it (``pm_…`` at Stripe, a stored payment method id at Adyen); what an adapter hands out in
    :attr:`Approved.token` may hold more than that, such as the customer it belongs to there.
    """

    value: str


Instrument = Card | Token


@dataclass(frozen=True, slots=True)
class Authorize:
    """Authorize ``amount``, and capture it at once when ``capture_method`` is ``automatic``.

    An amount of zero is a verification: the issuer is asked whether the card is good, and no money moves.
    ``setup_future_usage`` asks the account to remember the instrument: its word for it comes back as :attr:`Approved.token`.
    """

    operation_id: str
    payment_id: str
    amount: Money
    capture_method: Literal["automatic", "manual"]
    instrument: Instrument
    return_url: str
    """Where the PSP sends the shopper's browser back to: an address of the gateway, not the merchant's."""
    reference: str | None = None
    description: str | None = None
    statement_descriptor: str | None = None
    customer: str | None = None
    off_session: bool = False
    setup_future_usage: str | None = None
    recurring: str | None = None
    network_transaction_id: str | None = None
    three_d_secure: Literal["automatic", "required"] = "automatic"
    """``required`` asks for authentication whatever the PSP's own rules say."""
    adjustable: bool = False
    """Ask that the authorized amount may be changed later by :class:`Increment`."""
    several_captures: bool = False
    """Ask that more than one capture may be taken of it."""
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
    """Release an authorization that was not captured, or end an attempt that waits for its shopper (``unfinished``).

    ``attempt_id`` is the operation id that the authorization was sent with: the handle where the PSP gave none of its own.
    """

    operation_id: str
    payment_id: str
    amount: Money
    attempt_id: str
    provider_payment_id: str | None
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Refund:
    """Give ``amount`` of a captured payment back."""

    operation_id: str
    payment_id: str
    amount: Money
    provider_payment_id: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Increment:
    """Change an authorization to the new total ``amount``, up or down, before anything of it is captured."""

    operation_id: str
    payment_id: str
    amount: Money
    provider_payment_id: str


@dataclass(frozen=True, slots=True)
class Document:
    """A file of evidence. ``type`` is the PSP's own word for what it shows."""

    type: str
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Defend:
    """Contest a dispute. ``text`` holds what is said by the PSP's own field names, ``reason`` its defense reason code."""

    operation_id: str
    payment_id: str
    amount: Money
    provider_payment_id: str
    dispute_id: str
    """The PSP's own id of the dispute."""
    text: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    documents: tuple[Document, ...] = ()


@dataclass(frozen=True, slots=True)
class Accept:
    """Give a dispute up: the money stays with the shopper."""

    operation_id: str
    payment_id: str
    amount: Money
    provider_payment_id: str
    dispute_id: str


Ask = Authorize | Capture | Void | Refund | Increment | Defend | Accept


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
class ThreeDSecure:
    """How the shopper was authenticated. ``result`` is one word for both PSPs, the rest is what they say of it."""

    result: Literal["authenticated", "attempted", "exempted", "not_supported", "failed"]
    flow: Literal["frictionless", "challenge"] | None = None
    version: str | None = None
    eci: str | None = None


@dataclass(frozen=True, slots=True)
class Approved:
    """It happened: ``amount`` is authorized, captured, voided or refunded, and ``provider_id`` names it there.

    Of an :class:`Increment` ``amount`` is the new total, of a dispute's verbs the disputed amount.
    """

    provider_id: str
    amount: Money
    captured: bool = False
    network_transaction_id: str | None = None
    auth_code: str | None = None
    avs: str | None = None
    cvc: str | None = None
    card: CardFacts | None = None
    token: str | None = None
    """What this account calls the instrument from now on, where it was asked to remember it."""
    three_d_secure: ThreeDSecure | None = None
    capture_before: datetime | None = None
    """When the authorization lapses, where the PSP says so."""


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
    """Nothing happened there, for certain. ``reason`` is ours, ``provider_code`` is theirs where they gave one.

    ``conclusive``: also where the same request may have left before. The PSP keeps the first answer under a key, so this one would
    not be given if an earlier send had been obeyed.
    """

    reason: Literal["not_sent", "rejected", "rate_limited", "credentials"]
    provider_code: str | None = None
    conclusive: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have happened. ``resend`` is true where the identical bytes may be sent again at once under the same key."""

    reason: str
    resend: bool = False
    provider_code: str | None = None


Outcome = Approved | Declined | ActionRequired | Pending | NotProcessed | Unknown


class DisputeStatus(StrEnum):
    """Where a dispute stands."""

    INQUIRY = "inquiry"
    """The issuer asks; no money has moved. Answer it, or refund the payment."""
    NEEDS_RESPONSE = "needs_response"
    UNDER_REVIEW = "under_review"
    WON = "won"
    LOST = "lost"
    CLOSED = "closed"
    """An inquiry ended without becoming a chargeback."""


@dataclass(frozen=True, slots=True)
class DisputeNews:
    """What a PSP says of a dispute. ``None`` is what this news does not speak of."""

    dispute_id: str
    status: DisputeStatus
    amount: Money
    reason: str | None = None
    """One word for both PSPs: ``fraudulent``, ``product_not_received``, ``duplicate``, ``general``, …"""
    network_reason_code: str | None = None
    """The card network's own code, such as ``10.4``."""
    respond_by: datetime | None = None


@dataclass(frozen=True, slots=True)
class TokenNews:
    """What a PSP says of a token: that it was handed out, that its card has changed, or that it can be charged no more.

    ``names`` are the forms in which we may know it, the one that we would store first.
    """

    names: tuple[str, ...] = field(repr=False)
    alive: bool
    card: CardFacts | None = None


class NoticeKind(StrEnum):
    """What a PSP tells that changes nothing of ours, and that a merchant wants to hear of."""

    FRAUD_WARNING = "fraud_warning"
    """The issuer has reported fraud: a dispute may follow, and a refund may prevent it."""
    REVIEW_OPENED = "review_opened"
    """People at the PSP look at the payment."""
    REVIEW_CLOSED = "review_closed"
    REPORT = "report"
    """A report about settled money may be fetched."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One such telling, as small as it is of use. ``notice_id`` is what the PSP calls it: told again, it is the same one."""

    kind: NoticeKind
    notice_id: str
    reason: str | None = None
    """The PSP's own word: the type of fraud, why a review ended."""
    amount: Money | None = None
    report_url: str | None = None
    """Where a report is fetched, with the account's own credentials."""


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
    opened_at: datetime | None = None
    """When the operation was opened, by our clock: never later than it was first sent, and mostly a moment before.

    Of a void, when the authorization was that it is to release: that may have to be found first.
    """


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
    lapsed: bool = False
    """Of a release that nobody asked for: whether the authorization has run out."""
    dispute: DisputeNews | None = None
    """News of a dispute about the payment that ``provider_payment_id`` names; then there is no ``outcome``."""
    alone: bytes | None = field(default=None, repr=False)
    """Of one event among several in a webhook: a body that says this one alone, so that each is kept by itself."""
    token: TokenNews | None = None
    """News of a token; of one that was handed out just now ``provider_payment_id`` names the payment that asked for it."""
    notice: Notice | None = None


class DetailsRefused(Exception):
    """What the shopper brought back does not complete an attempt. The message says what is missing, never what was sent."""


RefusedFor = Literal[
    "no_secret", "basic_auth", "signature", "stale", "future", "another_account", "another_mode", "unreadable"
]
"""Why a webhook is not believed, in one word."""


class WebhookRefused(Exception):
    """The webhook is not authentic, or no secret is configured to tell. The message says which; nothing was stored.

    ``reason`` is that in one word: it is counted and shown, so it never holds anything that was sent.
    """

    def __init__(self, message: str, reason: RefusedFor = "signature") -> None:
        super().__init__(message)
        self.reason: RefusedFor = reason


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The body with which a PSP wants its webhook to be acknowledged."""

    body: bytes
    media_type: str


class Capability(StrEnum):
    """What an account may be able to do. The words stand in the API's refusals, in ``GET /v1/accounts`` and in the docs."""

    CARD_NUMBERS = "card_numbers"
    MANUAL_CAPTURE = "manual_capture"
    PARTIAL_CAPTURE = "partial_capture"
    SEVERAL_CAPTURES = "several_captures"
    INCREMENT = "incremental_authorization"
    DECREMENT = "decremental_authorization"
    PARTIAL_REFUND = "partial_refund"
    SEVERAL_REFUNDS = "several_refunds"
    VERIFICATION = "verification"
    STORED_CREDENTIALS = "stored_credentials"
    MERCHANT_INITIATED = "merchant_initiated"
    NETWORK_TRANSACTION_ID = "network_transaction_id"
    REDIRECT = "three_d_secure_redirect"
    NATIVE = "three_d_secure_native"
    LOOKUP = "lookup"
    DISPUTE_TEXT = "dispute_text"
    DISPUTE_DOCUMENTS = "dispute_documents"
    DISPUTE_ACCEPT = "dispute_accept"


MEANINGS: Final[Mapping[Capability, str]] = {
    Capability.CARD_NUMBERS: "charges a card number, where a vault key is configured",
    Capability.MANUAL_CAPTURE: "authorizes now and captures later",
    Capability.PARTIAL_CAPTURE: "captures less than was authorized and releases the rest",
    Capability.SEVERAL_CAPTURES: "captures one authorization in several parts",
    Capability.INCREMENT: "raises the authorized amount before a capture",
    Capability.DECREMENT: "lowers the authorized amount before a capture",
    Capability.PARTIAL_REFUND: "refunds a part of what was captured",
    Capability.SEVERAL_REFUNDS: "refunds in several parts",
    Capability.VERIFICATION: "verifies a card without a payment",
    Capability.STORED_CREDENTIALS: "remembers a card for later payments",
    Capability.MERCHANT_INITIATED: "charges a remembered card while the shopper is away",
    Capability.NETWORK_TRANSACTION_ID: "takes the network transaction id of a payment made elsewhere",
    Capability.REDIRECT: "3-D Secure by redirect, through `GET /v1/return/{token}`",
    Capability.NATIVE: "3-D Secure inside the checkout, through `next_action` and `/details`",
    Capability.LOOKUP: "can be asked what became of an operation",
    Capability.DISPUTE_TEXT: "takes a written answer to a dispute",
    Capability.DISPUTE_DOCUMENTS: "takes documents as evidence",
    Capability.DISPUTE_ACCEPT: "accepts a dispute",
}
"""What each capability means, for the printed page."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider's adapter can do, asked before the call so that a refusal names the account and the capability."""

    supported: frozenset[Capability]
    replay_horizon_s: int
    """How long the PSP certainly remembers an idempotency key, in seconds. After it only lookups remain."""
    on_request: frozenset[Capability] = frozenset()
    """What the PSP has to switch on for an account; the account's configuration then says so in ``enabled``."""
    notes: Mapping[Capability, str] = field(default_factory=dict)
    """What a reader of the printed page should know of one, such as its limits there."""


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

    def completion(self, call: Call, details: Mapping[str, str]) -> Mapping[str, Any]:
        """The exact request that finishes an attempt with what the shopper brought back, to be sent by :meth:`send`.

        ``call`` is the attempt that answered ``ActionRequired``; its request may be gone by now. ``details`` are the query
        parameters of the return address, or what the checkout page handed over. Pure: the same details give the same request,
        and its key at the PSP follows from the operation's key and the details, so it may be sent any number of times.
        Raises :class:`DetailsRefused` where something is missing.
        """
        ...

    async def send(self, call: Call, keep: Keep) -> Outcome:
        """Send ``call`` once. The result is read by the table of outcomes; whatever is not in it is ``Unknown``."""
        ...

    async def lookup(self, call: Call) -> Outcome:
        """Ask what became of ``call`` without changing anything. ``Unknown`` where the PSP cannot say; a miss is no proof."""
        ...

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> str:
        """Prove that the raw bytes are the PSP's and speak of this account, in its mode.

        Returns the :func:`fingerprint_of` the secret that proved it. Raises :class:`WebhookRefused` on anything that is not authentic.
        """
        ...

    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        """The events in a body that was verified before, in its order; the same body always gives the same events."""
        ...
