"""The requests of the API, as they are validated. Strict: no field is guessed, converted or ignored."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from gateway.ids import ENDPOINT, PAYMENT, PAYMENT_METHOD, ROUTING_VERSION, is_id
from providers.money import AMOUNT_MAX, AMOUNT_MIN, MoneyError, exponent

METADATA_KEYS_MAX: Final = 50
_DIGITS: Final = re.compile(r"[0-9]{12,19}")


def _currency(code: str) -> str:
    try:
        exponent(code)
    except MoneyError:
        raise PydanticCustomError("currency", "must be an ISO 4217 currency in upper case, such as EUR") from None
    return code


def _card_number(number: str) -> str:
    if _DIGITS.fullmatch(number) is None:
        raise PydanticCustomError("card_number", "must be 12 to 19 digits without spaces")
    digits = [int(digit) for digit in reversed(number)]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    if (sum(digits[::2]) + doubled) % 10:
        raise PydanticCustomError("card_number", "is not a card number: its check digit does not fit")
    return number


def _id_of(prefix: str) -> AfterValidator:
    def check(value: str) -> str:
        if not is_id(value, prefix):
            raise PydanticCustomError("id", "must be an id that starts with {prefix}_", {"prefix": prefix})
        return value

    return AfterValidator(check)


def _metadata(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > METADATA_KEYS_MAX:
        raise PydanticCustomError("metadata", "has at most {most} keys", {"most": METADATA_KEYS_MAX})
    return metadata


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"https", "http"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # an address in brackets that is none, or a host name that would change when it is normalized
        good = False
    if not good or not value.isprintable() or " " in value:
        raise PydanticCustomError("url", "must be an absolute URL that starts with https://")
    return value


def _token(value: str) -> str:
    if value.endswith("/"):
        raise PydanticCustomError("token", "must be what the account calls the payment method")
    return value


def _base64(value: str) -> str:
    try:
        b64decode(value, validate=True)
    except ValueError:
        raise PydanticCustomError("base64", "must be base64") from None
    return value


Short = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Token = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_token)]
Long = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
Amount = Annotated[
    int, Field(ge=AMOUNT_MIN, le=AMOUNT_MAX, description="Minor units of the currency.", examples=[1999])
]
Currency = Annotated[str, AfterValidator(_currency), Field(description="ISO 4217, upper case.", examples=["EUR"])]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=40)],
        Annotated[str, StringConstraints(max_length=500)],
    ],
    AfterValidator(_metadata),
]
MethodId = Annotated[str, _id_of(PAYMENT_METHOD)]
PaymentId = Annotated[str, _id_of(PAYMENT)]
EndpointId = Annotated[str, _id_of(ENDPOINT)]
EventTypes = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=64)]],
    Field(min_length=1, max_length=100, examples=[["payment.*", "dispute.created"]]),
]


class Body(BaseModel):
    """A request body: unknown fields are refused, and no error repeats what was sent."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class CardIn(Body):
    """A card, accepted where a vault key is configured."""

    number: Annotated[str, AfterValidator(_card_number), Field(examples=["4242424242424242"])] = Field(repr=False)
    exp_month: int = Field(ge=1, le=12, examples=[12])
    exp_year: int = Field(ge=2000, le=2099, examples=[2030])
    cvc: Annotated[str, StringConstraints(pattern=r"^[0-9]{3,4}$")] | None = Field(
        default=None, repr=False, examples=["123"]
    )
    holder_name: Short | None = None


Tokens = Annotated[
    dict[Annotated[str, StringConstraints(min_length=1, max_length=64)], Token],
    Field(min_length=1, max_length=20, examples=[{"stripe": "pm_card_visa"}]),
]


class CardMethodIn(Body):
    """A card number."""

    type: Literal["card"]
    card: CardIn


class TokenMethodIn(Body):
    """What each account calls the payment method."""

    type: Literal["token"]
    tokens: Tokens


MethodIn = Annotated[CardMethodIn | TokenMethodIn, Field(discriminator="type")]


class AddressIn(Body):
    """A postal address."""

    line1: Short | None = None
    line2: Short | None = None
    city: Short | None = None
    state: Short | None = None
    postal_code: Annotated[str, StringConstraints(min_length=1, max_length=16)] | None = None
    country: Country | None = None


class BillingIn(Body):
    """Who pays."""

    name: Short | None = None
    email: Short | None = None
    phone: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = None
    address: AddressIn | None = None


class BrowserIn(Body):
    """What 3-D Secure asks to know of the browser."""

    accept_header: Annotated[str, StringConstraints(max_length=2048)] | None = None
    color_depth: int | None = Field(default=None, ge=1, le=48)
    java_enabled: bool | None = None
    javascript_enabled: bool | None = None
    language: Annotated[str, StringConstraints(max_length=35)] | None = None
    screen_height: int | None = Field(default=None, ge=0, le=65535)
    screen_width: int | None = Field(default=None, ge=0, le=65535)
    time_zone_offset: int | None = Field(default=None, ge=-1440, le=1440)
    user_agent: Annotated[str, StringConstraints(max_length=2048)] | None = None


class ShopperIn(Body):
    """The shopper in this session."""

    email: Short | None = None
    ip: Annotated[str, StringConstraints(min_length=2, max_length=45)] | None = None
    channel: Literal["web", "ios", "android"] | None = None
    origin: Annotated[str, AfterValidator(_url), StringConstraints(max_length=255)] | None = None
    browser_info: BrowserIn | None = None


class RoutingIn(Body):
    """Where the payment may go."""

    account: Short | None = Field(default=None, description="Pins one account: no other is asked.")


class RetryIn(Body):
    """Trying again by itself, while the shopper is away."""

    until: Annotated[str, StringConstraints(max_length=40)] = Field(
        description="Until when, at most 14 days from now (RFC 3339).", examples=["2026-12-01T00:00:00Z"]
    )


class PaymentCreate(Body):
    """``POST /v1/payments``."""

    amount: Amount
    currency: Currency
    confirm: bool = Field(default=False, description="Charge at once.")
    capture_method: Literal["automatic", "manual"] = "automatic"
    payment_method: MethodId | None = Field(default=None, description="A stored payment method.")
    payment_method_data: MethodIn | None = Field(default=None, description="A card or tokens, sent along.")
    reference: Short | None = Field(default=None, examples=["order-1001"])
    description: Long | None = None
    metadata: Metadata = Field(default_factory=dict, examples=[{"cart": "77"}])
    customer: Short | None = None
    off_session: bool = False
    return_url: Annotated[str, AfterValidator(_url), StringConstraints(max_length=1024)] | None = None
    routing: RoutingIn | None = None
    billing_details: BillingIn | None = None
    statement_descriptor: Annotated[str, StringConstraints(min_length=1, max_length=22)] | None = None
    shopper: ShopperIn | None = None
    setup_future_usage: Literal["on_session", "off_session"] | None = None
    recurring: Literal["subscription", "unscheduled", "card_on_file"] | None = None
    network_transaction_id: Short | None = Field(
        default=None,
        description="Of the first payment with this card, made elsewhere, for a payment without the shopper.",
    )
    three_d_secure: Literal["automatic", "required"] = Field(
        default="automatic", description="required: the shopper authenticates, whatever the provider's own rules say."
    )
    retry: RetryIn | None = Field(
        default=None,
        description="Try a payment without the shopper again by itself where it is declined for now. Needs off_session, confirm and a stored payment_method.",
    )
    incremental_authorization: bool = Field(
        default=False, description="Ask for an authorization whose amount can be changed later. Needs manual capture."
    )

    @model_validator(mode="after")
    def _one_method(self) -> PaymentCreate:
        if self.payment_method is not None and self.payment_method_data is not None:
            raise PydanticCustomError("one_method", "send payment_method or payment_method_data, not both")
        if self.confirm and self.payment_method is None and self.payment_method_data is None:
            raise PydanticCustomError("one_method", "confirm needs payment_method or payment_method_data")
        return self

    @model_validator(mode="after")
    def _fitting(self) -> PaymentCreate:
        if self.incremental_authorization and self.capture_method != "manual":
            raise PydanticCustomError("fitting", "incremental_authorization needs capture_method: manual")
        if self.retry is not None and not (self.off_session and self.confirm and self.payment_method):
            raise PydanticCustomError(
                "fitting", "retry needs off_session: true, confirm: true and a stored payment_method"
            )
        if self.off_session and self.three_d_secure == "required":
            raise PydanticCustomError("fitting", "three_d_secure cannot be required while off_session is true")
        return self


class PaymentMethodCreate(Body):
    """``POST /v1/payment_methods``."""

    type: Literal["card", "token"]
    card: CardIn | None = None
    tokens: Tokens | None = None
    customer: Short | None = None
    billing_details: BillingIn | None = None
    metadata: Metadata = Field(default_factory=dict)
    network_transaction_id: Short | None = Field(
        default=None, description="Of the payment that the card was first used for, elsewhere."
    )
    verify: bool = Field(default=False, description="Ask the issuer whether it is good, with an amount of zero.")
    currency: Currency | None = Field(default=None, description="Of the verification.")
    routing: RoutingIn | None = None
    return_url: Annotated[str, AfterValidator(_url), StringConstraints(max_length=1024)] | None = None
    shopper: ShopperIn | None = None


class PaymentMethodUpdate(Body):
    """``POST /v1/payment_methods/{id}``."""

    tokens: Tokens | None = Field(default=None, description="Added to those it has, by account.")
    customer: Short | None = Field(default=None, description="Attached once, never to another.")


class CustomerCreate(Body):
    """``POST /v1/customers``."""

    reference: Short | None = Field(default=None, description="What you call them; kept when they are deleted.")
    name: Short | None = None
    email: Short | None = None
    phone: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = None
    metadata: Metadata = Field(default_factory=dict)


class PaymentConfirm(Body):
    """``POST /v1/payments/{id}/confirm``."""

    payment_method: MethodId | None = None
    payment_method_data: MethodIn | None = None

    @model_validator(mode="after")
    def _one_method(self) -> PaymentConfirm:
        if self.payment_method is not None and self.payment_method_data is not None:
            raise PydanticCustomError("one_method", "send payment_method or payment_method_data, not both")
        return self


class PaymentCapture(Body):
    """``POST /v1/payments/{id}/capture``."""

    amount: Amount | None = Field(default=None, description="Minor units; left out: all that is left.")
    final: bool = Field(default=True, description="Release what is left of the authorization.")


class PaymentIncrement(Body):
    """``POST /v1/payments/{id}/increment``."""

    amount: Amount = Field(description="The new total in minor units, higher or lower than what is authorized.")


class PaymentResolve(Body):
    """``POST /v1/payments/{id}/resolve``."""

    operation: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = Field(
        default=None, description="The operation in review; it may be left out where only one is."
    )
    outcome: Literal["succeeded", "failed"] = Field(
        description="Whether the provider carried it out. failed: you have seen that it did not, and never will."
    )
    provider_id: Short | None = Field(
        default=None,
        description="What the provider calls it, such as pi_… or a PSP reference; needed where it succeeded.",
    )
    reason: Long = Field(description="Why this is so, in your words.")
    evidence: Long = Field(description="Where it can be seen: a line of a settlement report, a ticket, an address.")


class PaymentDetails(Body):
    """``POST /v1/payments/{id}/details``."""

    details: dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=16_384)],
    ] = Field(max_length=20, examples=[{"threeDSResult": "eyJ0cmFuc1N0YXR1cyI6IlkifQ=="}])


class DocumentIn(Body):
    """A file of evidence."""

    type: Short = Field(description="The provider's word for what it shows.", examples=["DefenseMaterial"])
    content_type: Literal["application/pdf", "image/jpeg", "image/png", "image/tiff"]
    content: Annotated[str, AfterValidator(_base64)] = Field(repr=False, description="The file in base64.")


class DisputeEvidence(Body):
    """``POST /v1/disputes/{id}/evidence``."""

    text: dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-z_]+$")],
        Annotated[str, StringConstraints(min_length=1, max_length=20_000)],
    ] = Field(default_factory=dict, max_length=40, examples=[{"product_description": "A chair, delivered on 3 May."}])
    reason: Short | None = Field(default=None, description="The provider's defense reason code, where it wants one.")
    documents: list[DocumentIn] = Field(default_factory=list, max_length=10)

    @model_validator(mode="after")
    def _something(self) -> DisputeEvidence:
        if not (self.text or self.documents or self.reason):
            raise PydanticCustomError(
                "evidence", "send text, documents or a reason: a dispute is not answered with nothing"
            )
        return self


class DisputeAccept(Body):
    """``POST /v1/disputes/{id}/accept``: there is nothing to say."""


class Nothing(Body):
    """There is nothing to say."""


class CreatedRange(Body):
    """From when, and until when."""

    gte: Short | None = Field(default=None, description="Then or later.", examples=["2026-11-21T09:30:00Z"])
    lt: Short | None = Field(default=None, description="Before.", examples=["2026-11-22T00:00:00Z"])


class InboundReplay(Body):
    """``POST /v1/inbound_events/replay``."""

    account: Short | None = Field(default=None, description="Only events of this account.")
    type: Short | None = Field(default=None, description="Only events of this type, in the provider's word.")
    result: Short | None = Field(default=None, description="Only events with this result.")
    status: Literal["applied", "waiting", "kept", "failed"] | None = None
    payment: PaymentId | None = Field(default=None, description="Only events about this payment.")
    created: CreatedRange = Field(default_factory=CreatedRange)
    after: Short | None = Field(
        default=None, description="Only events behind this one: the `after` of the last answer."
    )
    dry_run: bool = Field(default=True, description="Only say what would be done.")


class IncidentClose(Body):
    """``POST /v1/incidents/{id}/close``."""

    reason: Long = Field(description="What it was, and what was done about it, in your words.")


class MonitorTuning(Body):
    """How a monitor judges. What is left out is as usual, and so is what is null."""

    false_pages_per_day: float | None = Field(
        default=None,
        description="drop: how often it may alarm for nothing; below which chance it does follows from it.",
    )
    drop: float | None = Field(
        default=None, description="drop: how far below what is expected at least, as a share.", examples=[0.03]
    )
    window: Count | None = Field(default=None, description="static: minutes over which the rate is taken.")
    min_sample: Count | None = Field(default=None, description="Attempts in the window below which nothing is judged.")
    open_after: Count | None = Field(
        default=None, description="Bad looks in a row, one a minute, that open an incident."
    )
    close_after: Count | None = Field(default=None, description="Good looks in a row that close it.")
    severity: Literal["page", "ticket"] | None = Field(
        default=None, description="The highest that an incident may have."
    )


class MonitorMute(Body):
    """It goes on judging, and nobody is told."""

    until: str | None = Field(
        default=None, max_length=40, description="null: until you unmute it.", examples=["2026-11-27T06:00:00Z"]
    )
    reason: Long = Field(description="Why, in your words.")


MonitorSegment = Annotated[
    dict[Short, Short | None],
    Field(
        max_length=10,
        description="Which payments: a value by dimension, null for one that is not known; empty: all. drop and traffic take account, brand, "
        "currency and issuer_country; static takes every dimension of GET /v1/metrics.",
        examples=[{"account": "acme_us"}],
    ),
]
MonitorRate = Literal["authorization", "authentication", "technical", "blocked"]


class MonitorCreate(Body):
    """``POST /v1/monitors``."""

    name: Short
    kind: Literal["drop", "traffic", "static"] = Field(
        description="drop: a rate is lower than at this hour of other weeks. traffic: attempts are missing. static: a rate crosses a threshold."
    )
    segment: MonitorSegment = Field(default_factory=dict)
    rate: MonitorRate | None = Field(default=None, description="drop: what is watched.")
    metric: Short | None = Field(default=None, description="static: a rate of GET /v1/metrics.")
    op: Literal["below", "above"] | None = Field(
        default=None, description="static: which side of the threshold is bad."
    )
    threshold: float | None = Field(default=None, description="static: a share.", examples=[0.85])
    tuning: MonitorTuning | None = None
    mute: MonitorMute | None = None


class MonitorUpdate(Body):
    """``POST /v1/monitors/{id}``: what is left out stays as it is."""

    name: Short | None = None
    threshold: float | None = Field(default=None, description="static: a share.")
    tuning: MonitorTuning | None = Field(default=None, description="Field by field; null: all as usual.")
    mute: MonitorMute | None = Field(default=None, description="null: it is heard again.")


class IncidentAcknowledge(Body):
    """``POST /v1/monitor_incidents/{id}/acknowledge``."""

    note: Long | None = Field(default=None, description="What you know or do about it, in your words.")


class PaymentCancel(Body):
    """``POST /v1/payments/{id}/cancel``."""

    cancellation_reason: Literal["requested_by_customer", "duplicate", "fraudulent", "abandoned"] | None = None


class RefundCreate(Body):
    """``POST /v1/refunds``."""

    payment: PaymentId
    amount: Amount | None = Field(default=None, description="Minor units; left out: all that is left.")
    reason: Literal["requested_by_customer", "duplicate", "fraudulent", "return", "other"] | None = None
    metadata: Metadata = Field(default_factory=dict)


class EndpointCreate(Body):
    """``POST /v1/webhook_endpoints``."""

    url: str = Field(
        description="Where events are sent: https://, port 443 or 8443, an address of the public internet."
    )
    events: EventTypes | None = Field(
        default=None, description="Types, families such as payment.*, or *; left out: every type, also later ones."
    )
    description: Short | None = None


class EndpointUpdate(Body):
    """``POST /v1/webhook_endpoints/{id}``: what is left out stays as it is."""

    url: str | None = Field(default=None, description="With another one it starts afresh.")
    events: EventTypes | None = Field(default=None, description="null: every type.")
    description: Short | None = None
    status: Literal["enabled", "disabled"] | None = Field(
        default=None,
        description="disabled: nothing is sent, and what was on its way is canceled. enabled: it starts afresh.",
    )


class EndpointRotate(Body):
    """``POST /v1/webhook_endpoints/{id}/rotate_secret``."""

    revoke_old: bool = Field(
        default=False, description="The old secret signs no more, where it is known to others. Else: for 24 hours."
    )


class EndpointReplay(Body):
    """``POST /v1/webhook_endpoints/{id}/replay``."""

    from_: str = Field(alias="from", max_length=40, examples=["2026-11-21T00:00:00Z"])
    to: str = Field(max_length=40, description="Not included.", examples=["2026-11-22T00:00:00Z"])
    types: EventTypes | None = Field(default=None, description="Types or families; left out: all that it wants.")
    status: Literal["failed", "all"] = Field(
        default="failed",
        description="failed: what it has not got. all: also what it has got.",
    )
    dry_run: bool = Field(default=True, description="Only say how many; false sends them.")


class RoutingSimulate(Body):
    """``POST /v1/routing/configs/{id}/simulate``."""

    days: int | None = Field(
        default=None, ge=1, le=400, description="The payments of so many days until now; 30 if no time is given."
    )
    from_: str | None = Field(default=None, alias="from", max_length=40, examples=["2026-10-01T00:00:00Z"])
    until: str | None = Field(
        default=None, max_length=40, description="Not included; now if not given.", examples=["2026-11-01T00:00:00Z"]
    )


class EventRedeliver(Body):
    """``POST /v1/events/{id}/redeliver``."""

    endpoint: EndpointId | None = Field(default=None, description="One endpoint; left out: all that want it.")


ConfigId = Annotated[str, _id_of(ROUTING_VERSION)]
_EXPECTED: Final = (
    "The version that you have seen in force for all payments, null where it was none; "
    "409 `routing_changed` where that is another one by now. Left out: whichever it is."
)


class RoutingDraft(Body):
    """``POST /v1/routing/configs``."""

    document: dict[str, Any] = Field(description="The routing document (docs/routing.md, docs/routing.schema.json).")
    name: Short | None = Field(default=None, description="Left out: the document's own name, else its number.")
    note: Long | None = Field(default=None, description="What it is for, in your words.")


class RoutingPublish(Body):
    """``POST /v1/routing/configs/{id}/publish``."""

    reason: Long = Field(description="Why, in your words: it stays in the history.")
    percent: int = Field(default=100, ge=1, le=100, description="The share of the payments that it decides.")
    starts_at: str | None = Field(
        default=None, max_length=40, description="Left out: at once.", examples=["2026-11-27T06:00:00Z"]
    )
    shadow: bool = Field(default=False, description="Only record what it would decide.")
    expected: ConfigId | None = Field(default=None, description=_EXPECTED)


class RoutingRollback(Body):
    """``POST /v1/routing/rollback``."""

    reason: Long = Field(description="Why, in your words: it stays in the history.")
    expected: ConfigId | None = Field(default=None, description=_EXPECTED)


class RoutingApprove(Body):
    """``POST /v1/routing/publications/{id}/approve``."""

    expected: ConfigId | None = Field(default=None, description=_EXPECTED)


class RoutingWithdraw(Body):
    """``POST /v1/routing/publications/{id}/withdraw``."""

    reason: Long = Field(description="Why, in your words: it stays in the history.")


class RoutingDryRun(Body):
    """``POST /v1/routing/configs/{id}/dry-run``: a payment that was made, or one that is described."""

    payment: PaymentId | None = Field(
        default=None, description="As it was known when it was routed; then nothing else."
    )
    amount: Amount | None = None
    currency: Currency | None = None
    country: Country | None = Field(default=None, description="Of the billing address.")
    brand: Short | None = Field(default=None, examples=["visa"])
    funding: Literal["credit", "debit", "prepaid"] | None = None
    bin: Annotated[str, StringConstraints(pattern=r"^[0-9]{6,8}$")] | None = Field(
        default=None, description="The first six to eight digits of the card."
    )
    issuer_country: Country | None = None
    initiator: Literal["customer", "merchant"] = "customer"
    recurring: Literal["subscription", "unscheduled", "card_on_file"] | None = None
    three_d_secure: Literal["automatic", "required"] = "automatic"
    capture_method: Literal["automatic", "manual"] = "automatic"
    metadata: Metadata = Field(default_factory=dict)
    tokens: list[Short] | None = Field(
        default=None,
        max_length=20,
        description="The accounts that know the payment method; left out: a card is at hand.",
    )
    at: str | None = Field(default=None, max_length=40, description="Left out: now.", examples=["2026-11-27T06:00:00Z"])
    payment_id: PaymentId | None = Field(
        default=None,
        description="Whose dice are thrown, where the arm of a split depends on them; left out: anybody's.",
    )
