"""The simulated Adyen as an ASGI application: its routes, credentials and dialect."""

import hmac
from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from providers.sandbox import adyen_errors as errors
from providers.sandbox.adyen_objects import new_psp_reference
from providers.sandbox.adyen_psp import AdyenPsp
from providers.sandbox.answers import Answer, bad_gateway
from providers.sandbox.books import Books
from providers.sandbox.clock import Clock
from providers.sandbox.config import SandboxConfig
from providers.sandbox.control import Room, application
from providers.sandbox.desk import Call, Desk, Verb, json_answer
from providers.sandbox.faults import Faults, Rule, Subject, retry_after
from providers.sandbox.keys import ADYEN_KEY_LIFE_S, Keys
from providers.sandbox.postman import Postman
from providers.sandbox.wire_log import WireLog

KEY_LENGTH_MAX = 64
DISPUTES = "/ca/services/DisputeService/v30"


class AdyenDialect:
    """JSON bodies, X-API-Key and ServiceErrors."""

    def __init__(self, api_key: str, merchant_account: str) -> None:
        self._api_key = api_key
        self._merchant_account = merchant_account

    def parse(self, request: Request, body: bytes) -> dict[str, Any]:
        """The JSON object of a body, or the query string's parameters."""
        if request.method != "POST":
            return dict(request.query_params)
        try:
            params = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise errors.malformed(f"Unexpected input: {error}") from None
        if not isinstance(params, dict):
            raise errors.malformed("Unexpected input: expected an object")
        return params

    def authenticate(self, request: Request, params: Mapping[str, Any]) -> Answer | None:
        """The API key first, then the merchant account it must be for."""
        shown = request.headers.get("x-api-key", "")
        if not hmac.compare_digest(shown.encode(), self._api_key.encode()):
            return errors.unauthorized()
        # /payments/details names no account; wherever one is named it must be the right one.
        wanted = not request.url.path.endswith("/payments/details")
        disputes = request.url.path.startswith(DISPUTES)
        account = params.get("merchantAccountCode" if disputes else "merchantAccount")
        if account == self._merchant_account or (account is None and not wanted):
            return None
        return errors.wrong_merchant_account(new_psp_reference())

    def check_key(self, key: str) -> Answer | None:
        """A key has at most 64 characters."""
        if len(key) <= KEY_LENGTH_MAX:
            return None
        return errors.malformed(f"Idempotency-Key exceeds {KEY_LENGTH_MAX} characters").answer

    def in_flight(self) -> Answer:
        """704, to be sent again with the same key."""
        return errors.in_progress()

    def mismatch(self, key: str) -> Answer:
        """Never asked for: Adyen compares no bodies."""
        raise AssertionError(key)

    def failure(self, rule: Rule) -> Answer:
        """The scripted failure in Adyen's words; a 502 comes from a proxy and is no JSON."""
        if rule.fault == "adyen_703":
            return errors.store_unavailable(transient=bool(rule.parameters["transient"]))
        status = int(rule.parameters["status"])
        if rule.fault == "adyen_704":
            return errors.in_progress(status=status, transient=bool(rule.parameters["transient"]))
        headers = retry_after(rule)
        match status:
            case 409:
                answer = errors.in_progress(status=409)
            case 502 | 504:
                return bad_gateway(status, headers)
            case _:
                answer = errors.internal(status)
        return Answer(answer.status, answer.body, {**answer.headers, **headers})

    def lie(self, answer: Answer, rule: Rule) -> Answer:
        """The same answer with another amount or currency; one without an amount stays."""
        body = orjson.loads(answer.body) if answer.body else {}
        amount = body.get("amount")
        if not isinstance(amount, dict):
            return answer
        if rule.fault == "wrong_amount":
            amount["value"] += rule.parameters["difference"]
        else:
            amount["currency"] = str(rule.parameters["currency"]).upper()
        return json_answer(answer.status, body, answer.headers)

    def headers(self, call: Call, first_request_id: str | None) -> dict[str, str]:
        """The key is echoed; nothing tells a replay from the first answer."""
        return {} if call.key is None else {"Idempotency-Key": call.key}


def adyen_app(config: SandboxConfig) -> Starlette:
    """Adyen's Checkout API under ``/v72``, its Disputes API, and the control paths under ``/_sandbox``."""
    clock = Clock()
    books = Books(clock.now)
    postman = Postman(
        url=config.adyen_webhook_url,
        sign=lambda body: {},  # Adyen signs within the body
        delay_s=config.webhook_delay_s,
        attempts_max=config.webhook_attempts_max,
        pause_s=config.webhook_pause_s,
    )
    psp = AdyenPsp(
        books,
        postman,
        merchant_account=config.adyen_merchant_account,
        hmac_key=config.adyen_hmac_key,
        multiple_captures=config.adyen_multiple_partial_captures,
        now=clock.now,
    )
    desk = Desk(
        dialect=AdyenDialect(config.adyen_api_key, config.adyen_merchant_account),
        books=books,
        wire=WireLog(config.wire_log_max),
        faults=Faults("adyen"),
        keys=Keys(config.keys_max, compare=False, life_s=ADYEN_KEY_LIFE_S),
        postman=postman,
        clock=clock,
    )
    return application(Room(desk, psp), _routes(desk, psp))


def _routes(desk: Desk, psp: AdyenPsp) -> list[Route]:
    def modification(operation: str) -> Any:
        return partial(psp.modification_subject, operation)

    disputes = psp.disputes
    table = [
        ("POST", "/v72/payments", psp.payment_subject, psp.pay),
        ("POST", "/v72/payments/details", psp.details_subject, psp.details),
        ("POST", "/v72/payments/{id}/captures", modification("capture"), psp.capture),
        ("POST", "/v72/payments/{id}/cancels", modification("void"), psp.cancel),
        ("POST", "/v72/payments/{id}/refunds", modification("refund"), psp.refund),
        ("POST", "/v72/payments/{id}/amountUpdates", modification("increment"), psp.adjust),
        ("POST", "/v72/cancels", modification("void"), psp.technical_cancel),
        ("POST", "/v72/storedPaymentMethods", _other("tokenize"), psp.store),
        ("GET", "/v72/storedPaymentMethods", _other("lookup"), psp.list_stored),
        ("DELETE", "/v72/storedPaymentMethods/{id}", _other("other"), psp.forget),
        ("POST", f"{DISPUTES}/retrieveApplicableDefenseReasons", disputes.subject("lookup"), disputes.reasons),
        ("POST", f"{DISPUTES}/supplyDefenseDocument", disputes.subject("other"), disputes.supply),
        ("POST", f"{DISPUTES}/deleteDisputeDefenseDocument", disputes.subject("other"), disputes.delete),
        ("POST", f"{DISPUTES}/defendDispute", disputes.subject("defend"), disputes.defend),
        ("POST", f"{DISPUTES}/acceptDispute", disputes.subject("accept"), disputes.accept),
    ]
    return [
        Route(path, partial(desk.serve, verb=Verb(subject, psp.timely(act))), methods=[method])
        for method, path, subject, act in table
    ]


def _other(operation: str) -> Any:
    def subject(params: Mapping[str, Any], path_id: str) -> tuple[Subject, str | None]:
        return Subject(operation=operation), None

    return subject
