"""One Adyen merchant account: how it is spoken to.

Three things differ from a provider that answers at once. A decline is a success of the HTTP call,
so the result code decides and never the status. Captures, cancels and refunds are only ``received``
and end by webhook. And no payment can be asked for: what is not known is settled by sending the
identical bytes again within the key's life, or by the webhook that carries our reference.

Paths, headers, results, errors and signatures are the official SDK's; only its transport is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import Adyen
import msgspec
import orjson
from Adyen import settings as sdk
from Adyen.services.checkout import AdyenCheckoutApi
from Adyen.services.disputes import AdyenDisputesApi

from providers.adyen import answers, asks, events
from providers.adyen.tables import CAPABILITIES, UNITS
from providers.contract import (
    Acknowledgement,
    Approved,
    Ask,
    Call,
    Declined,
    Event,
    Keep,
    Kind,
    NotProcessed,
    Outcome,
    Unknown,
    WebhookRefused,
    derived_key,
    fingerprint_of,
)
from providers.money import Money, MoneyError, to_provider
from providers.registry import AccountConfig, ConfigError
from providers.transport import MaybeSent, NotSent, Transport

API_VERSION: Final = "v72"
"""Of Checkout. The SDK writes the same into its addresses; a test holds the two together."""

DISPUTES_PATH: Final = "ca/services/DisputeService/v30"
"""Of the Disputes API, at Adyen and at a ``base_url`` alike."""

READ_TIMEOUT_S: Final = 60.0
"""Longest silence on one socket; the deadline of a call is the registry's and shorter."""


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
        client = _PooledClient(config, transport)
        self._api = AdyenCheckoutApi(client=client)
        self._disputes = AdyenDisputesApi(client=client)
        if config.base_url:
            address = config.base_url.rstrip("/")
            self._api.payments_api.baseUrl = f"{address}/{API_VERSION}"
            self._api.modifications_api.baseUrl = f"{address}/{API_VERSION}"
            self._disputes.disputes_api.baseUrl = f"{address}/{DISPUTES_PATH}"

    def refuses(self, money: Money) -> str | None:
        """Why Adyen cannot carry exactly this amount, or ``None`` when it can."""
        if not UNITS.tells(money.currency):
            return f"Adyen does not list {money.currency}"
        try:
            to_provider(money, UNITS)
        except MoneyError as error:
            return str(error)
        return None

    def compose(self, ask: Ask) -> Mapping[str, Any]:
        """The exact request for ``ask``: ``verb``, the ``payment`` it follows, and ``body``."""
        return asks.composed(ask, self._merchant_account, test=self._test)

    def completion(self, call: Call, details: Mapping[str, str]) -> Mapping[str, Any]:
        """``/payments/details`` with the result of the challenge: ``redirectResult`` or ``threeDSResult``.

        Raises :class:`~providers.contract.DetailsRefused` where neither is there. The answer may be another action: after the
        fingerprint of a browser the challenge.
        """
        return asks.completed(details)

    async def send(self, call: Call, keep: Keep) -> Outcome:
        """Send ``call`` once. ``keep`` is needed for disputes alone."""
        if call.kind in {Kind.DEFEND, Kind.ACCEPT}:
            return await self._send_dispute(call, keep)
        request = call.request
        verb, api = request["verb"], self._api
        answer: Any = answers.Payment if call.kind is Kind.AUTHORIZE else answers.Modification
        read: Any = answers.paid if call.kind is Kind.AUTHORIZE else answers.received
        key = _derived(call.key, request["body"]) if verb == "details" else call.key
        return await _read(call, _VERBS[verb](api, request["payment"], request["body"], key), answer, read)

    async def lookup(self, call: Call) -> Outcome:
        """Always ``Unknown``: Adyen has no way to read a payment."""
        return Unknown("no_lookup")

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> str:
        """Prove **every** item. One item that is not authentic refuses them all."""
        if not self._hmac_keys:
            raise WebhookRefused("no webhook secret is configured for this account", "no_secret")
        told = events.message(body)
        if told is not None:
            return self._verify_message(told, headers, body)
        proved_by, batch = "", events.batch(body)
        for raw, item in batch.items:
            key = next((key for key in self._hmac_keys if events.signed(raw, key)), None)
            if key is None:
                raise WebhookRefused("the signature of an item matches no configured secret")
            if item.merchant_account_code != self._merchant_account:
                raise WebhookRefused("the webhook is for another merchant account", "another_account")
            proved_by = key
        if batch.live is not None and batch.live is self._test:
            raise WebhookRefused("the webhook is of the other mode, test or live", "another_mode")
        return fingerprint_of(proved_by)

    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        """The events of a body that was verified before, an item each."""
        told = events.message(body)
        if told is not None:
            return [events.translated_message(told)]
        batch = events.batch(body)
        return [events.translated(item, alone) for (_, item), alone in zip(batch.items, batch.bodies, strict=True)]

    def _verify_message(self, told: events.Message, headers: Mapping[str, str], body: bytes) -> str:
        key = next((key for key in self._hmac_keys if events.signed_whole(headers, body, key)), None)
        if key is None:
            raise WebhookRefused("the signature of the body matches no configured secret")
        if told.data.merchant_account not in {None, self._merchant_account}:
            raise WebhookRefused("the webhook is for another merchant account", "another_account")
        if told.environment != ("test" if self._test else "live"):
            raise WebhookRefused("the webhook is of the other mode, test or live", "another_mode")
        return fingerprint_of(key)

    async def _send_dispute(self, call: Call, keep: Keep) -> Outcome:
        """Supply the documents, then say what is to be done with the dispute.

        The Disputes API promises no replay under a key, so a second request may be refused just because the first was
        obeyed. What is about to be sent is therefore kept as ``sent``: from then on a refusal proves nothing. Documents may
        be supplied again at any time; alone they defend nothing.
        """
        request, api = call.request, self._disputes.disputes_api
        if request["documents"]:
            body = {name: value for name, value in request["body"].items() if name != "defenseReasonCode"}
            body["defenseDocuments"] = request["documents"]
            sending = api.supply_defense_document(body, idempotency_key=_derived(call.key, body))
            supplied = await _read(call, sending, answers.DisputeAnswer, answers.disputed)
            if not isinstance(supplied, Approved):
                return supplied
        if not request.get("sent"):
            await keep({**request, "documents": [], "sent": True})
        verb = api.defend_dispute if call.kind is Kind.DEFEND else api.accept_dispute
        sending = verb(request["body"], idempotency_key=call.key)
        outcome = await _read(call, sending, answers.DisputeAnswer, answers.disputed)
        if isinstance(outcome, Declined) and request.get("sent"):
            return Unknown("earlier_send", provider_code=outcome.decline.provider_code)
        return outcome


async def _read(call: Call, sending: Any, answer: Any, read: Callable[[Call, Any], Outcome]) -> Outcome:
    """What comes of one request: a broken line, an error or an answer, each by its table."""
    try:
        result = await sending
    except NotSent:
        return NotProcessed("not_sent")
    except MaybeSent:
        return Unknown("connection_lost", resend=True)
    except Adyen.exceptions.AdyenError as error:
        return answers.failure(error, call)
    try:
        return read(call, msgspec.convert(result.message, answer))
    except msgspec.ValidationError:
        return Unknown("unreadable")


def _derived(key: str, body: Mapping[str, Any]) -> str:
    """The key of a further request of the same operation: the same body has the same key, and Adyen takes 64 characters."""
    words = orjson.dumps([key, body], option=orjson.OPT_SORT_KEYS)
    return derived_key(words)


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
    "details": lambda api, _, body, key: api.payments_api.payments_details(body, idempotency_key=key),
    "captures": lambda api, psp, body, key: api.modifications_api.capture_authorised_payment(
        body, _id(psp), idempotency_key=key
    ),
    "cancels": lambda api, psp, body, key: api.modifications_api.cancel_authorised_payment_by_psp_reference(
        body, _id(psp), idempotency_key=key
    ),
    "technicalCancels": lambda api, _, body, key: api.modifications_api.cancel_authorised_payment(
        body, idempotency_key=key
    ),
    "refunds": lambda api, psp, body, key: api.modifications_api.refund_captured_payment(
        body, _id(psp), idempotency_key=key
    ),
    "amountUpdates": lambda api, psp, body, key: api.modifications_api.update_authorised_amount(
        body, _id(psp), idempotency_key=key
    ),
}


def _id(value: str | None) -> str:
    if not value:
        raise ValueError("what follows a payment needs the payment's pspReference")
    return quote(value, safe="")
