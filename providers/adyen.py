"""Adyen, in one file: what we ask of it, what its answers mean, and how its webhooks are read.

Three things differ from a provider that answers at once. A decline is a success of the HTTP call,
so the result code decides and never the status. Captures, cancels and refunds are only ``received``
and end by webhook. And no payment can be asked for: what is not known is settled by sending the
identical bytes again within the key's life, or by the webhook that carries our reference.

Paths, headers, results, errors and signatures are the official SDK's; only its transport is ours.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, assert_never
from urllib.parse import quote

import Adyen
import msgspec
import orjson
from Adyen import settings as sdk
from Adyen.services.checkout import AdyenCheckoutApi
from Adyen.util import generate_notification_sig

from providers.contract import (
    Acknowledgement,
    ActionRequired,
    Approved,
    Ask,
    Authorize,
    Call,
    Capabilities,
    Capture,
    Card,
    CardFacts,
    Declined,
    Event,
    Keep,
    Kind,
    NotProcessed,
    Outcome,
    Pending,
    Refund,
    Unknown,
    Void,
    WebhookRefused,
)
from providers.declines import Action, Decline, load, look_up
from providers.money import Money, MoneyError, Units, exponent, from_provider, to_provider
from providers.registry import AccountConfig, ConfigError
from providers.transport import MaybeSent, NotSent, Transport

# --- Config -------------------------------------------------------------------------------------

API_VERSION: Final = "v72"
"""Of Checkout. The SDK writes the same into its addresses; a test holds the two together."""

READ_TIMEOUT_S: Final = 60.0
"""Longest silence on one socket; the deadline of a call is the registry's and shorter."""

# --- Capabilities -------------------------------------------------------------------------------

CAPABILITIES: Final = Capabilities(
    # Adyen has to switch multiple partial captures on:
    # https://docs.adyen.com/online-payments/capture
    several_captures=False,
    # "at least 7 days": https://docs.adyen.com/development-resources/api-idempotency
    replay_horizon_s=6 * 24 * 3600,
    lookup=False,
)

_NO_DECIMALS: Final = "CVE DJF GNF IDR JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE_DECIMALS: Final = "BHD IQD JOD KWD LYD OMR TND"

# https://docs.adyen.com/development-resources/currency-codes: where Adyen's decimals are not ISO's
# (CLP, CVE, IDR, ISK) theirs count.
UNITS: Final = Units(
    exponents={
        **dict.fromkeys(_NO_DECIMALS.split(), 0),
        **dict.fromkeys(_THREE_DECIMALS.split(), 3),
        "CLP": 2,
        "ISK": 2,
    },
    steps={},
)
_USUAL_DECIMALS: Final = 2

# --- Decline and error tables -------------------------------------------------------------------

DECLINES: Final = load("adyen_refusals")

# A webhook names the refusal in words and without its code.
# https://docs.adyen.com/development-resources/refusal-reasons
REASONS: Final[Mapping[str, str]] = {
    "refused": "2",
    "referral": "3",
    "acquirer error": "4",
    "blocked card": "5",
    "expired card": "6",
    "invalid amount": "7",
    "invalid card number": "8",
    "issuer unavailable": "9",
    "not supported": "10",
    "3d not authenticated": "11",
    "not enough balance": "12",
    "acquirer fraud": "14",
    "cancelled": "15",
    "shopper cancelled": "16",
    "invalid pin": "17",
    "pin tries exceeded": "18",
    "pin validation not possible": "19",
    "fraud": "20",
    "not submitted": "21",
    "fraud-cancelled": "22",
    "transaction not permitted": "23",
    "cvc declined": "24",
    "restricted card": "25",
    "revocation of auth": "26",
    "declined non generic": "27",
    "withdrawal amount exceeded": "28",
    "withdrawal count exceeded": "29",
    "issuer suspected fraud": "31",
    "avs declined": "32",
    "card requires online pin": "33",
    "no checking account available on card": "34",
    "no savings account available on card": "35",
    "mobile pin required": "36",
    "contactless fallback": "37",
    "authentication required": "38",
    "rreq not received from ds": "39",
    "current aid is in penalty box": "40",
    "cvm required restart payment": "41",
    "3ds authentication error": "42",
    "online pin required": "43",
    "try another interface": "44",
    "chip downgrade mode": "45",
    "transaction blocked by adyen to prevent excessive retry fees": "46",
}

NEVER_AGAIN: Final = ("03", "21")
"""Mastercard's merchant advice codes that forbid another try, as in "03: Do not try again"."""

_CANCELLED: Final = look_up(DECLINES, "15")

REFUSAL_CODES: Final = frozenset(
    # https://docs.adyen.com/development-resources/error-codes, those of errorType validation that a
    # card payment meets: refused before anything was done, because of what the request says.
    """
    100 102 104 107 109 117 119 120 121 122 124 125 128 130 131 132 133 134 135 137 138 139 152 154
    158 164 166 167 168 172 173 174 175 177 180 181 182 183 185 186 187 189 190 192 194 196 198 200
    201 702 800 801 802 803 805 806 807 14_004 14_005 14_006 14_007 14_012 14_018 14_030
    """.split()  # noqa: SIM905 - a line each would say no more
)

# The shopper mistyped the card: a decline, found by Adyen before it asked the issuer.
CARD_ERRORS: Final[Mapping[str, str]] = {
    "101": "8",  # card number
    "103": "24",  # length of the CVC
    "129": "8",  # expiry date
    "140": "6",  # expired
    "141": "8",  # expiry date
    "153": "24",  # CVC
}

Verdict = Literal["declined", "credentials", "rate_limited", "refused", "unknown"]
ANY: Final = "*"

# By HTTP status and errorCode, (status, ANY) where the code does not matter. What is not here is
# Unknown: 409 and 704 (our first request is still running), 703 (Adyen's key store is down), 5xx.
ERRORS: Final[Mapping[tuple[int, str], Verdict]] = {
    (401, ANY): "credentials",
    (403, ANY): "credentials",
    (429, ANY): "rate_limited",
    **{(status, code): "refused" for status in (400, 422) for code in REFUSAL_CODES},
    **{(422, code): "declined" for code in CARD_ERRORS},
}

# https://docs.adyen.com/online-payments/build-your-integration/payment-result-codes; a result code
# that is not here is Unknown: PartiallyAuthorised, authentication without payment, or a new word.
RESULTS: Final[Mapping[str, Literal["approved", "declined", "cancelled", "action", "pending"]]] = {
    "Authorised": "approved",
    "Refused": "declined",
    "Error": "declined",
    "Cancelled": "cancelled",
    "RedirectShopper": "action",
    "IdentifyShopper": "action",
    "ChallengeShopper": "action",
    "PresentToShopper": "action",
    "Pending": "pending",
    "Received": "pending",
}

# --- Event table --------------------------------------------------------------------------------

# eventCode and success: what it is about, and whether it says that it happened. Codes that end in
# _FAILED come with success=true and mean the failure.
EVENTS: Final[Mapping[tuple[str, bool], tuple[Kind, bool]]] = {
    ("AUTHORISATION", True): (Kind.AUTHORIZE, True),
    ("AUTHORISATION", False): (Kind.AUTHORIZE, False),
    ("CAPTURE", True): (Kind.CAPTURE, True),
    ("CAPTURE", False): (Kind.CAPTURE, False),
    ("CAPTURE_FAILED", True): (Kind.CAPTURE, False),
    ("CANCELLATION", True): (Kind.VOID, True),
    ("CANCELLATION", False): (Kind.VOID, False),
    ("TECHNICAL_CANCEL", True): (Kind.VOID, True),
    ("TECHNICAL_CANCEL", False): (Kind.VOID, False),
    ("REFUND", True): (Kind.REFUND, True),
    ("REFUND", False): (Kind.REFUND, False),
    ("REFUND_FAILED", True): (Kind.REFUND, False),
}

# How our operation ids begin. A reference of another form is a payment that we did not make.
PREFIXES: Final[Mapping[Kind, str]] = {
    Kind.AUTHORIZE: "att_",
    Kind.CAPTURE: "cap_",
    Kind.VOID: "vd_",
    Kind.REFUND: "re_",
}

# --- What is read of the answers ----------------------------------------------------------------


class _Amount(msgspec.Struct):
    value: int
    currency: str


class _Payment(msgspec.Struct, rename="camel"):
    result_code: str
    psp_reference: str | None = None
    merchant_reference: str | None = None
    amount: _Amount | None = None
    refusal_reason: str | None = None
    refusal_reason_code: str | None = None
    action: dict[str, Any] | None = None
    additional_data: dict[str, Any] = {}


class _Modification(msgspec.Struct, rename="camel"):
    psp_reference: str
    status: str
    payment_psp_reference: str | None = None
    reference: str | None = None
    amount: _Amount | None = None


class _Entry(msgspec.Struct):
    item: dict[str, Any] = msgspec.field(name="NotificationRequestItem")


class _Webhook(msgspec.Struct, rename="camel"):
    notification_items: list[_Entry]


class _Item(msgspec.Struct, rename="camel"):
    """A NotificationRequestItem after :func:`_normal`: every signed field is there."""

    psp_reference: str
    original_reference: str
    merchant_account_code: str
    merchant_reference: str
    event_code: str
    success: str
    amount: dict[str, Any]
    event_date: str = ""
    reason: str | None = None
    additional_data: dict[str, Any] = {}


# --- The adapter --------------------------------------------------------------------------------


class AdyenProvider:
    """One Adyen merchant account. Safe to use from many tasks at once."""

    name = "adyen"
    capabilities = CAPABILITIES
    acknowledgement = Acknowledgement(b"[accepted]", "text/plain")

    def __init__(self, config: AccountConfig, transport: Transport) -> None:
        if not config.merchant_account:
            raise ConfigError(f"account {config.name!r}: Adyen needs merchant_account")
        if config.livemode and not (config.live_prefix or config.base_url):
            raise ConfigError(f"account {config.name!r}: live Adyen needs live_prefix")
        self._merchant_account = config.merchant_account
        self._test = not config.livemode
        self._hmac_keys = tuple(secret.get_secret_value() for secret in config.webhook_secrets)
        self._api = AdyenCheckoutApi(client=_PooledClient(config, transport))
        if config.base_url:
            address = f"{config.base_url.rstrip('/')}/{API_VERSION}"
            self._api.payments_api.baseUrl = address
            self._api.modifications_api.baseUrl = address

    def refuses(self, money: Money) -> str | None:
        """Why Adyen cannot carry exactly this amount, or ``None`` when it can."""
        if exponent(money.currency) != _USUAL_DECIMALS and money.currency not in UNITS.exponents:
            return f"Adyen does not list {money.currency}"
        try:
            to_provider(money, UNITS)
        except MoneyError as error:
            return str(error)
        return None

    def compose(self, ask: Ask) -> Mapping[str, Any]:
        """The exact request for ``ask``: ``verb``, the ``payment`` it follows, and ``body``."""
        body: dict[str, Any] = {
            "merchantAccount": self._merchant_account,
            "reference": ask.operation_id,
        }
        match ask:
            case Authorize():
                body |= _authorize(ask, test=self._test)
                return {"verb": "payments", "payment": None, "body": body}
            case Capture():
                verb, body = "captures", body | {"amount": _amount(ask.amount)}
            case Void():
                verb = "cancels"
            case Refund():
                verb, body = "refunds", body | {"amount": _amount(ask.amount)}
                if reason := REFUND_REASONS.get(ask.reason or ""):
                    body["merchantRefundReason"] = reason
            case _:
                assert_never(ask)
        return {"verb": verb, "payment": ask.provider_payment_id, "body": body}

    async def send(self, call: Call, keep: Keep) -> Outcome:
        """Send ``call`` once. There is one step only, so ``keep`` is not needed."""
        request = call.request
        try:
            result = await _VERBS[request["verb"]](self._api, request["payment"], request["body"], call.key)
        except NotSent:
            return NotProcessed("not_sent")
        except MaybeSent:
            return Unknown("connection_lost", resend=True)
        except Adyen.exceptions.AdyenError as error:
            return _failure(error, call.kind)
        try:
            if call.kind is Kind.AUTHORIZE:
                return _paid(call, msgspec.convert(result.message, _Payment))
            return _received(call, msgspec.convert(result.message, _Modification))
        except msgspec.ValidationError:
            return Unknown("unreadable")

    async def lookup(self, call: Call) -> Outcome:
        """Always ``Unknown``: Adyen has no way to read a payment."""
        return Unknown("no_lookup")

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> None:
        """Prove **every** item. One item that is not authentic refuses them all.

        What is signed is what moves money: references, amount, event code and success. The rest of an item (reason, card
        details) is information.
        """
        if not self._hmac_keys:
            raise WebhookRefused("no webhook secret is configured for this account")
        for raw, item in _items(body):
            if not any(_signed(raw, key) for key in self._hmac_keys):
                raise WebhookRefused("the signature of an item matches no configured secret")
            if item.merchant_account_code != self._merchant_account:
                raise WebhookRefused("the webhook is for another merchant account")

    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        """The events of a body that was verified before, an item each."""
        return [_translated(item) for _, item in _items(body)]


class _PooledClient(Adyen.AdyenClient):  # type: ignore[misc]
    """The SDK's client with a coroutine in the place of its blocking call.

    Every method of the SDK's services returns what this returns, so they can be awaited. It rests
    on four underscore methods of the SDK; ``tests/providers/test_adyen.py`` fails if one is gone.
    """

    def __init__(self, config: AccountConfig, transport: Transport) -> None:
        super().__init__(
            xapikey=config.api_key.get_secret_value(),
            platform=config.environment,
            live_endpoint_prefix=config.live_prefix,
        )
        self._own_address = config.base_url is not None
        self._transport = transport

    async def call_adyen_api(
        self,
        request_data: Mapping[str, Any],
        service: str,
        method: str,
        endpoint: str,
        idempotency_key: str | None = None,
        **kwargs: Any,
    ) -> Any:
        xapikey, _, _, kwargs = self._set_credentials(service, endpoint, **kwargs)
        # The SDK swaps "-live" and "-test" wherever they stand, also in an address of ours.
        platform = self._set_platform(**kwargs)
        url = endpoint if self._own_address else self._determine_api_url(platform, endpoint)
        headers = {
            self.APPLICATION_INFO_HEADER_NAME: sdk.LIB_NAME,
            self.APPLICATION_VERSION_HEADER_NAME: sdk.LIB_VERSION,
            "User-Agent": f"{self.USER_AGENT_SUFFIX}{sdk.LIB_VERSION}",
            "Content-Type": "application/json",
            "x-API-key": xapikey,
        }
        if idempotency_key:
            headers[self.IDEMPOTENCY_HEADER_NAME] = idempotency_key
        body = orjson.dumps(request_data)
        reply = await self._transport.request(method, url, headers, body, READ_TIMEOUT_S)
        # The SDK's reader breaks on JSON that is not an object. It gets no request to put into its
        # errors: the body may hold a card number.
        text = reply.body.decode(errors="replace") if reply.body.lstrip()[:1] == b"{" else ""
        return self._handle_response(url, text, "", reply.status, reply.headers)


_Verb = Callable[[Any, str | None, Mapping[str, Any], str], Any]

_VERBS: Final[Mapping[str, _Verb]] = {
    "payments": lambda api, _, body, key: api.payments_api.payments(body, idempotency_key=key),
    "captures": lambda api, psp, body, key: api.modifications_api.capture_authorised_payment(
        body, _id(psp), idempotency_key=key
    ),
    "cancels": lambda api, psp, body, key: api.modifications_api.cancel_authorised_payment_by_psp_reference(
        body, _id(psp), idempotency_key=key
    ),
    "refunds": lambda api, psp, body, key: api.modifications_api.refund_captured_payment(
        body, _id(psp), idempotency_key=key
    ),
}


def _id(value: str | None) -> str:
    if not value:
        raise ValueError("what follows a payment needs the payment's pspReference")
    return quote(value, safe="")


# --- Verbs: what is sent ------------------------------------------------------------------------

REFUND_REASONS: Final[Mapping[str, str]] = {
    "duplicate": "DUPLICATE",
    "fraudulent": "FRAUD",
    "requested_by_customer": "CUSTOMER REQUEST",
    "return": "RETURN",
    "other": "OTHER",
}
RECURRING: Final[Mapping[str, str]] = {
    "subscription": "Subscription",
    "unscheduled": "UnscheduledCardOnFile",
    "card_on_file": "CardOnFile",
}
CHANNELS: Final[Mapping[str, str]] = {"web": "Web", "ios": "iOS", "android": "Android"}

_BROWSER: Final[Mapping[str, str]] = {
    "accept_header": "acceptHeader",
    "color_depth": "colorDepth",
    "java_enabled": "javaEnabled",
    "language": "language",
    "screen_height": "screenHeight",
    "screen_width": "screenWidth",
    "time_zone_offset": "timeZoneOffset",
    "user_agent": "userAgent",
}

_TEST_TOKEN: Final = "test_"  # noqa: S105 - a prefix
"""Adyen's test cards without PCI scope: `test_4111111111111111` and the fixed values below.

https://docs.adyen.com/development-resources/testing/test-card-numbers
"""
_TEST_CARD: Final = {
    "encryptedExpiryMonth": "test_03",
    "encryptedExpiryYear": "test_2030",
    "encryptedSecurityCode": "test_737",
}

_METADATA_MAX, _METADATA_KEY_MAX, _METADATA_VALUE_MAX = 20, 20, 80
_SHOPPER_REFERENCE_MIN: Final = 3


def _authorize(ask: Authorize, *, test: bool) -> Mapping[str, Any]:
    method = _payment_method(ask, test=test)
    body: dict[str, Any] = {
        "amount": _amount(ask.amount),
        "paymentMethod": method,
        "returnUrl": ask.return_url,
        "metadata": _metadata(ask),
        **_capture(ask),
        **_consent(ask, stored="storedPaymentMethodId" in method),
        **_shopper(ask),
    }
    if ask.reference:
        body["merchantOrderReference"] = ask.reference[:1000]
    if ask.statement_descriptor:
        body["shopperStatement"] = ask.statement_descriptor[:22]
    return body


def _amount(money: Money) -> Mapping[str, Any]:
    return {"value": to_provider(money, UNITS), "currency": money.currency}


def _capture(ask: Authorize) -> Mapping[str, Any]:
    """Always said: the merchant account's own setting is not ours to guess."""
    if ask.capture_method == "automatic":
        return {"captureDelayHours": 0}
    return {"additionalData": {"manualCapture": "true"}}


def _payment_method(ask: Authorize, *, test: bool) -> Mapping[str, Any]:
    method: dict[str, Any] = {"type": "scheme"}
    holder = ask.billing_details.get("name")
    match ask.instrument:
        case Card() as card:
            method |= {
                "number": card.number,
                "expiryMonth": f"{card.exp_month:02d}",
                "expiryYear": str(card.exp_year),
            }
            if card.cvc:
                method["cvc"] = card.cvc
            holder = card.holder_name or holder
        case token if test and token.value.startswith(_TEST_TOKEN):
            method |= {"encryptedCardNumber": token.value, **_TEST_CARD}
        case token:
            method["storedPaymentMethodId"] = token.value
            holder = None
    if holder:
        method["holderName"] = holder
    if ask.network_transaction_id:
        method["networkPaymentReference"] = ask.network_transaction_id
    return method


def _consent(ask: Authorize, *, stored: bool) -> Mapping[str, Any]:
    """Who is there, and what was agreed.

    https://docs.adyen.com/online-payments/tokenization
    """
    consent: dict[str, Any] = {"shopperInteraction": "ContAuth" if ask.off_session or stored else "Ecommerce"}
    known = ask.customer and len(ask.customer) >= _SHOPPER_REFERENCE_MIN
    if known:
        consent["shopperReference"] = ask.customer
    model = RECURRING.get(ask.recurring or "")
    if ask.off_session or (known and ask.setup_future_usage == "off_session"):
        model = model or "UnscheduledCardOnFile"
    elif stored or (known and ask.setup_future_usage):
        model = model or "CardOnFile"
    if known and ask.setup_future_usage and not (ask.off_session or stored):
        consent["storePaymentMethod"] = True
    return consent | ({"recurringProcessingModel": model} if model else {})


def _shopper(ask: Authorize) -> Mapping[str, Any]:
    """What helps the issuer to say yes. A part that Adyen would refuse is left out."""
    given, billing = ask.shopper, ask.billing_details
    phone = billing.get("phone") or ""
    told = {
        "shopperEmail": given.get("email") or billing.get("email"),
        "shopperIP": given.get("ip"),
        "channel": CHANNELS.get(str(given.get("channel", "")).lower()),
        "origin": given.get("origin"),
        "telephoneNumber": phone if phone.startswith("+") else None,
        "browserInfo": _browser(given.get("browser_info") or {}),
        "billingAddress": _address(billing.get("address") or {}),
    }
    return {name: value for name, value in told.items() if value}


def _browser(info: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if any(info.get(name) is None for name in _BROWSER):
        return None
    return {theirs: info[name] for name, theirs in _BROWSER.items()}


def _address(given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if not all(given.get(line) for line in ("line1", "city", "postal_code", "country")):
        return None
    address = {
        "street": given["line1"],
        "houseNumberOrName": given.get("line2") or "N/A",
        "city": given["city"],
        "postalCode": given["postal_code"],
        "country": given["country"],
    }
    return address | ({"stateOrProvince": given["state"]} if given.get("state") else {})


def _metadata(ask: Authorize) -> Mapping[str, str]:
    """Ours, and as much of the merchant's as Adyen takes: too much of it refuses the payment (177)."""
    ours = {"payment": ask.payment_id}
    theirs = {
        key: value[:_METADATA_VALUE_MAX]
        for key, value in ask.metadata.items()
        if key not in ours and 0 < len(key) <= _METADATA_KEY_MAX
    }
    return ours | dict(list(theirs.items())[: _METADATA_MAX - len(ours)])


# --- Outcomes: what the answer means ------------------------------------------------------------


def _paid(call: Call, payment: _Payment) -> Outcome:
    """A result code, believed only where the answer is about what we asked for."""
    if payment.merchant_reference not in (None, call.operation_id):
        return Unknown("mismatch_operation")
    if mismatch := _other_money(call, payment.amount):
        return mismatch
    psp, code = payment.psp_reference, payment.refusal_reason_code
    match RESULTS.get(payment.result_code):
        case "approved" if psp:
            captured = "captureDelayHours" in call.request["body"]
            return _approved(psp, call.amount, payment.additional_data, captured=captured)
        # `Error` without a reason code says that something broke, not that nothing was taken.
        case "declined" if payment.result_code == "Refused" or (code and code != "0"):
            decline = _decline(code, payment.additional_data)
            return Declined(decline, psp, _card(payment.additional_data))
        case "cancelled":
            return Declined(_CANCELLED, psp)
        case "action" if payment.action:
            return ActionRequired(psp, _next_action(payment.action))
        case "pending":
            return Pending(psp)
        case _:
            return Unknown("result", provider_code=payment.result_code)


def _received(call: Call, modification: _Modification) -> Outcome:
    if modification.payment_psp_reference not in (None, call.request["payment"]):
        return Unknown("mismatch_payment")
    if modification.reference not in (None, call.operation_id):
        return Unknown("mismatch_operation")
    if mismatch := _other_money(call, modification.amount):
        return mismatch
    if modification.status != "received" or not modification.psp_reference:
        return Unknown("status", provider_code=modification.status)
    return Pending(modification.psp_reference)


def _other_money(call: Call, amount: _Amount | None) -> Unknown | None:
    """Adyen may leave the amount out, also of an `Authorised` (its own examples do)."""
    if amount is None:
        return None
    if amount.currency != call.amount.currency:
        return Unknown("mismatch_currency")
    same = amount.value == to_provider(call.amount, UNITS)
    return None if same else Unknown("mismatch_amount")


def _approved(psp: str, amount: Money, data: Mapping[str, Any], *, captured: bool) -> Approved:
    return Approved(
        provider_id=psp,
        amount=amount,
        captured=captured,
        network_transaction_id=_text(data, "networkTxReference"),
        auth_code=_text(data, "authCode"),
        avs=_text(data, "avsResult"),
        cvc=_text(data, "cvcResult"),
        card=_card(data),
    )


def _decline(code: str | None, data: Mapping[str, Any]) -> Decline:
    advice = _text(data, "merchantAdviceCode") or ""
    never = advice.startswith(NEVER_AGAIN)
    return look_up(DECLINES, code).advised("do_not_try_again" if never else None)


BRANDS: Final[Mapping[str, str]] = {"mc": "mastercard", "cup": "unionpay"}


def _card(data: Mapping[str, Any]) -> CardFacts | None:
    """The card as ``additionalData`` shows it, if the merchant account is set to show it."""
    brand, last4 = _text(data, "paymentMethod"), _text(data, "cardSummary")
    if brand is None and last4 is None:
        return None
    month, _, year = (_text(data, "expiryDate") or "").partition("/")
    return CardFacts(
        brand=BRANDS.get(brand or "", brand),
        bin=_text(data, "cardBin"),
        last4=last4,
        exp_month=int(month) if month.isdecimal() else None,
        exp_year=int(year) if year.isdecimal() else None,
        funding=(_text(data, "fundingSource") or "").lower() or None,
        country=_text(data, "cardIssuingCountry") or _text(data, "issuerCountry"),
    )


def _text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    return value if isinstance(value, str) and value else None


def _next_action(action: Mapping[str, Any]) -> Mapping[str, Any]:
    """A redirect as the API says it; all else is for Adyen's own components in the browser."""
    if action.get("type") != "redirect" or not action.get("url"):
        return {"type": "use_adyen_sdk", "use_adyen_sdk": dict(action)}
    redirect = {"url": action["url"]}
    if action.get("method", "GET") != "GET":
        redirect |= {"method": action["method"], "data": action.get("data") or {}}
    return {"type": "redirect_to_url", "redirect_to_url": redirect}


def _failure(error: Any, kind: Kind) -> Outcome:
    """An SDK error by the table. Its class decides nothing: 404 and 500 share one."""
    status, code = int(error.status_code or 0), str(error.error_code or "")
    verdict = ERRORS.get((status, code)) or ERRORS.get((status, ANY), "unknown")
    match verdict:
        case "credentials" | "rate_limited":
            return NotProcessed(verdict, code or None)
        case "declined" if kind is Kind.AUTHORIZE:
            found = look_up(DECLINES, CARD_ERRORS[code])
            return Declined(Decline(found.code, found.type, found.action, code, found.evidence))
        case "refused" if kind is Kind.AUTHORIZE:
            return NotProcessed("rejected", code)
        case "refused":
            return Declined(_refused(code))
        case "declined" | "unknown":
            # https://docs.adyen.com/development-resources/api-idempotency: send again only if told
            # to
            again = str((error.headers or {}).get("transient-error", "")).lower() == "true"
            return Unknown(f"http_{status}", resend=again, provider_code=code or None)
        case _:
            assert_never(verdict)


def _refused(code: str | None) -> Decline:
    return Decline("provider_refused", "hard", Action.DO_NOT_RETRY, code)


# --- Webhooks -----------------------------------------------------------------------------------


def _items(body: bytes) -> Sequence[tuple[Mapping[str, Any], _Item]]:
    """Every item, as it is signed and as it is read."""
    try:
        entries = msgspec.json.decode(body, type=_Webhook).notification_items
        items = [_normal(entry.item) for entry in entries]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WebhookRefused("the body is not an Adyen webhook") from error
    if not items:
        raise WebhookRefused("the webhook is empty")
    return items


def _normal(item: Mapping[str, Any]) -> tuple[Mapping[str, Any], _Item]:
    """The item as Adyen signs it: an absent field is empty, `true` is in small letters.

    The SDK would sign ``None`` and ``True`` as Python writes them, and break without an amount.
    """
    amount = msgspec.convert(item.get("amount") or {}, dict[str, Any])
    success = item.get("success")
    normal = {
        **item,
        "originalReference": item.get("originalReference") or "",
        "merchantReference": item.get("merchantReference") or "",
        "amount": {"value": amount.get("value", ""), "currency": amount.get("currency", "")},
        "success": str(success).lower() if isinstance(success, bool) else success,
        "additionalData": item.get("additionalData") or {},
    }
    return normal, msgspec.convert(normal, _Item)


def _signed(item: Mapping[str, Any], key: str) -> bool:
    try:
        sent = str(item["additionalData"]["hmacSignature"]).encode("ascii")
        unsigned = {name: value for name, value in item.items() if name != "additionalData"}
        return hmac.compare_digest(generate_notification_sig(unsigned, key), sent)
    except (ValueError, TypeError, KeyError):
        return False


def _translated(item: _Item) -> Event:
    """The item in our words. One without use for us, or unreadable, is kept as it is."""
    kind, happened = EVENTS.get((item.event_code, item.success == "true"), (None, False))
    outcome = None
    if kind is not None:
        try:
            outcome = _told(item, kind) if happened else _told_no(item, kind)
        except (MoneyError, msgspec.ValidationError):
            kind = None
    ours = kind is not None and item.merchant_reference.startswith(PREFIXES[kind])
    return Event(
        event_id=_event_id(item),
        type=item.event_code,
        kind=kind,
        operation_id=item.merchant_reference if ours else None,
        provider_id=item.psp_reference,
        provider_payment_id=item.original_reference or item.psp_reference,
        outcome=outcome,
        occurred_at=_moment(item.event_date),
    )


def _told(item: _Item, kind: Kind) -> Approved:
    amount = msgspec.convert(item.amount, _Amount, strict=False)
    money = from_provider(amount.value, amount.currency, UNITS)
    return _approved(item.psp_reference, money, item.additional_data, captured=kind is Kind.CAPTURE)


def _told_no(item: _Item, kind: Kind) -> Declined:
    if kind is not Kind.AUTHORIZE:
        return Declined(_refused(item.reason), item.psp_reference)
    words = (item.reason or "").partition(":")[0].strip()
    decline = _decline(REASONS.get(words.lower(), words or None), item.additional_data)
    return Declined(decline, item.psp_reference, _card(item.additional_data))


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _event_id(item: _Item) -> str:
    """Adyen gives none. Newer details of one event are new news, a repetition is not."""
    parts = (
        item.merchant_account_code,
        item.event_code,
        item.psp_reference,
        item.success,
        item.event_date,
        str(item.amount["value"]),
        str(item.amount["currency"]),
    )
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
