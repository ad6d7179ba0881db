"""Every way an answer can fail, at both PSPs, for every verb: each is what the outcome table says.

The table stands in the architecture, section 3: what is certainly nothing is ``NotProcessed``, and
what is not a clear answer is ``Unknown``. A wrong row here charges somebody twice.
"""

import asyncio
import socket
from typing import Any

import pytest

from providers.contract import Approved, Declined, Kind, NotProcessed, Pending, Unknown
from providers.declines import Action, Decline

KINDS = tuple(Kind)
DISPUTED = (Kind.DEFEND, Kind.ACCEPT)
BOTH = ("stripe", "adyen")
LOST = Unknown("connection_lost", resend=True)
UNREADABLE = Unknown("unreadable")


def success(provider: Any, kind: Any, *, value: Any = 1999, currency: Any = "EUR") -> Any:
    """The PSP's answer when all went well."""
    if provider == "adyen" and kind in DISPUTED:
        return {"disputeServiceResult": {"success": True}}
    if provider == "adyen":
        amount = {"value": value, "currency": currency}
        if kind is Kind.AUTHORIZE:
            return {
                "resultCode": "Authorised",
                "pspReference": "PSP1",
                "merchantReference": "att_1",
                "amount": amount,
            }
        given = {"pspReference": "MOD1", "status": "received", "paymentPspReference": "PSP1PAYMENT"}
        return given | ({} if kind is Kind.VOID else {"amount": amount})
    if kind is Kind.REFUND:
        return {
            "id": "re_psp",
            "object": "refund",
            "amount": value,
            "currency": currency.lower(),
            "status": "succeeded",
            "payment_intent": "pi_1",
            "metadata": {"operation": "re_1"},
        }
    if kind in (Kind.DEFEND, Kind.ACCEPT):
        return {
            "id": "dp_1",
            "object": "dispute",
            "amount": value,
            "currency": currency.lower(),
            "status": "under_review" if kind is Kind.DEFEND else "lost",
            "payment_intent": "pi_1",
            "metadata": {"operation": "def_1"},
            "evidence_details": {"submission_count": 1},
        }
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "amount": value,
        "amount_received": 0 if kind in (Kind.VOID, Kind.INCREMENT) else value,
        "currency": currency.lower(),
        "status": {Kind.VOID: "canceled", Kind.INCREMENT: "requires_capture"}.get(kind, "succeeded"),
        "metadata": {"operation": "att_1"} | ({"increment": "inc_1"} if kind is Kind.INCREMENT else {}),
    }


def stripe_error(code: Any, kind: Any = "invalid_request_error", **more: Any) -> Any:
    return {"error": {"type": kind, "code": code, "message": "no", **more}}


def adyen_error(code: Any, kind: Any = "validation") -> Any:
    return {"status": 422, "errorCode": code, "errorType": kind, "message": "no"}


def refused(code: Any) -> Any:
    return Declined(Decline("provider_refused", "hard", Action.DO_NOT_RETRY, code))


async def test_success_is_believed(loopback: Any, open_account: Any, kit: Any) -> None:
    for provider in BOTH:
        for kind in KINDS:
            loopback.will_answer(200, success(provider, kind))
            account = open_account(provider, loopback.url)

            outcome = await account.send(kit.call(account, kit.ask(provider, kind)), kit.keep_nothing, first_send=True)

            expected = Approved if provider == "stripe" or kind in (Kind.AUTHORIZE, *DISPUTED) else Pending
            assert type(outcome) is expected


# --- Where nothing may have left ----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("provider", BOTH)
async def test_a_refused_connection_and_an_unknown_name_are_not_sent(
    provider: Any, kind: Any, open_account: Any, kit: Any
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = listener.getsockname()[1]

    async def send(url: Any) -> Any:
        account = open_account(provider, url)
        call = kit.call(account, kit.ask(provider, kind))
        return await account.provider.send(call, kit.keep_nothing)

    assert await send(f"http://127.0.0.1:{closed}") == NotProcessed("not_sent")
    assert await send("http://nowhere.invalid") == NotProcessed("not_sent")


# --- Where something may have left --------------------------------------------------------------


async def reset_before(line: Any) -> None:
    line.reset()


async def closed_before(line: Any) -> None:
    line.close()


async def reset_in_the_headers(line: Any) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\nContent-")
    await asyncio.sleep(0.01)
    line.reset()


async def truncated(line: Any) -> None:
    await line.say(b'HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"id":')
    line.close()


def after_the_answer(provider: Any, kind: Any) -> Any:
    """The answer is whole, then the line breaks: an answer all the same."""

    async def reset_after(line: Any) -> None:
        await line.answer(200, success(provider, kind))
        await asyncio.sleep(0.01)
        line.reset()

    return reset_after


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("provider", BOTH)
@pytest.mark.parametrize(
    "behaviour",
    [reset_before, closed_before, reset_in_the_headers, truncated],
    ids=lambda behaviour: behaviour.__name__,
)
async def test_a_broken_line_is_unknown_and_may_be_sent_again(
    provider: Any, kind: Any, behaviour: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will(behaviour)
    account = open_account(provider, loopback.url)

    outcome = await account.provider.send(kit.call(account, kit.ask(provider, kind)), kit.keep_nothing)

    assert outcome == LOST
    assert len(loopback.seen) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("provider", BOTH)
async def test_a_line_that_breaks_after_the_answer_loses_nothing(
    provider: Any, kind: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will(after_the_answer(provider, kind))
    account = open_account(provider, loopback.url)

    outcome = await account.provider.send(kit.call(account, kit.ask(provider, kind)), kit.keep_nothing)

    assert isinstance(outcome, Approved | Pending)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("provider", BOTH)
async def test_silence_after_sending_is_unknown(
    provider: Any, kind: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will(lambda _line: asyncio.sleep(5))
    account = open_account(provider, loopback.url)
    call = kit.call(account, kit.ask(provider, kind))

    outcome = await account.send(call, kit.keep_nothing, first_send=True, timeout_s=0.06)

    assert outcome == Unknown("timeout")
    assert len(loopback.seen) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_silence_before_a_connection_is_not_sent(
    kind: Any, open_account: Any, hasty: Any, kit: Any, loopback: Any
) -> None:
    """A TLS handshake that nobody answers: not one byte of the request can have left."""

    async def send(provider: Any) -> Any:
        account = open_account(provider, f"https://{loopback.address}", hasty)
        call = kit.call(account, kit.ask(provider, kind))
        return await account.send(call, kit.keep_nothing, first_send=True, timeout_s=2)

    outcomes = await asyncio.gather(*(send(provider) for provider in BOTH))

    assert outcomes == [NotProcessed("not_sent")] * 2


# --- Answers that are not clear -----------------------------------------------------------------

GARBAGE = {
    "garbage": b"<html>hello</html>",
    "empty": b"",
    "a number": b"1111",
    "a list": b"[]",
    "no object": b"null",
    "an empty object": b"{}",
    "half": b'{"id": "pi_1", "object": "payment_in',
    "not utf-8": b"\xff\xfe{}",
    "another object": b'{"id":"x","object":"x","status":7,"resultCode":7,"pspReference":7}',
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("provider", BOTH)
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_a_success_that_cannot_be_read_is_unknown(
    provider: Any, kind: Any, garbage: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(200, garbage)
    account = open_account(provider, loopback.url)

    outcome = await account.provider.send(kit.call(account, kit.ask(provider, kind)), kit.keep_nothing)

    assert outcome in (UNREADABLE, Unknown("http_200"))


# A void is of an authorization, not of an amount.
@pytest.mark.parametrize("kind", [Kind.AUTHORIZE, Kind.CAPTURE, Kind.REFUND, Kind.INCREMENT])
@pytest.mark.parametrize("provider", BOTH)
async def test_another_amount_or_currency_is_unknown(
    provider: Any, kind: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    account = open_account(provider, loopback.url)
    call = kit.call(account, kit.ask(provider, kind))

    loopback.will_answer(200, success(provider, kind, value=1998))
    wrong_amount = await account.provider.send(call, kit.keep_nothing)
    loopback.will_answer(200, success(provider, kind, currency="USD"))
    wrong_currency = await account.provider.send(call, kit.keep_nothing)

    assert wrong_amount == Unknown("mismatch_amount")
    assert wrong_currency == Unknown("mismatch_currency")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("provider", BOTH)
async def test_an_answer_about_another_operation_is_unknown(
    provider: Any, kind: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    if provider == "adyen" and kind in DISPUTED:
        return  # the Disputes API names nothing in its answer
    other = success(provider, kind)
    other |= {"reference": "other", "merchantReference": "other", "metadata": {"operation": "x"}}
    other |= {"paymentPspReference": "other", "payment_intent": "pi_other"}
    if provider == "stripe" and kind not in (Kind.AUTHORIZE, Kind.REFUND):
        other["id"] = "dp_other" if kind in (Kind.DEFEND, Kind.ACCEPT) else "pi_other"
    loopback.will_answer(200, other)
    account = open_account(provider, loopback.url)

    outcome = await account.provider.send(kit.call(account, kit.ask(provider, kind)), kit.keep_nothing)

    assert outcome in (Unknown("mismatch_operation"), Unknown("mismatch_payment"))


# --- HTTP errors --------------------------------------------------------------------------------

HTML = b"<html>Bad Gateway</html>"
SAME_FOR_ALL = [
    # provider, status, body, headers, outcome
    ("stripe", 500, stripe_error(None, "api_error"), {}, Unknown("http_500")),
    ("stripe", 502, HTML, {}, Unknown("http_502")),
    ("stripe", 503, b"", {}, Unknown("http_503")),
    ("stripe", 504, HTML, {"Stripe-Should-Retry": "true"}, Unknown("http_504")),
    (
        "stripe",
        409,
        stripe_error("idempotency_key_in_use"),
        {},
        Unknown("http_409", resend=True, provider_code="idempotency_key_in_use"),
    ),
    ("stripe", 409, b"", {}, Unknown("http_409")),
    ("stripe", 429, stripe_error("rate_limit"), {}, NotProcessed("rate_limited", "rate_limit")),
    (
        "stripe",
        429,
        stripe_error("lock_timeout"),
        {},
        Unknown("http_429", resend=True, provider_code="lock_timeout"),
    ),
    ("stripe", 401, stripe_error(None), {}, NotProcessed("credentials")),
    ("stripe", 403, stripe_error("more_permissions_required"), {}, "credentials"),
    ("stripe", 400, stripe_error(None, "idempotency_error"), {}, Unknown("http_400")),
    (
        "stripe",
        400,
        stripe_error("payment_intent_unexpected_state"),
        {},
        Unknown("http_400", provider_code="payment_intent_unexpected_state"),
    ),
    (
        "stripe",
        400,
        stripe_error("a_new_code"),
        {},
        Unknown("http_400", provider_code="a_new_code"),
    ),
    ("stripe", 402, HTML, {}, Unknown("http_402")),
    ("stripe", 404, HTML, {}, Unknown("http_404")),
    ("stripe", 302, b"", {"Location": "/"}, Unknown("http_302")),
    ("adyen", 500, adyen_error("905"), {}, Unknown("http_500", provider_code="905")),
    ("adyen", 502, HTML, {}, Unknown("http_502")),
    (
        "adyen",
        503,
        adyen_error("703"),
        {"transient-error": "true"},
        Unknown("http_503", resend=True, provider_code="703"),
    ),
    ("adyen", 503, adyen_error("703"), {}, Unknown("http_503", provider_code="703")),
    (
        "adyen",
        422,
        adyen_error("704"),
        {"Transient-Error": "true"},
        Unknown("http_422", resend=True, provider_code="704"),
    ),
    (
        "adyen",
        422,
        adyen_error("704"),
        {"transient-error": "false"},
        Unknown("http_422", provider_code="704"),
    ),
    ("adyen", 409, adyen_error("704"), {}, Unknown("http_409", provider_code="704")),
    ("adyen", 429, b"", {}, NotProcessed("rate_limited")),
    ("adyen", 401, adyen_error("000"), {}, NotProcessed("credentials", "000")),
    ("adyen", 403, adyen_error("901"), {}, NotProcessed("credentials", "901")),
    ("adyen", 422, adyen_error("9_999"), {}, Unknown("http_422", provider_code="9_999")),
    ("adyen", 400, HTML, {}, Unknown("http_400")),
    ("adyen", 404, b"1111", {}, Unknown("http_404")),
    ("adyen", 302, b"", {"Location": "/"}, Unknown("http_302")),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("provider", "status", "body", "headers", "outcome"),
    SAME_FOR_ALL,
    ids=[f"{row[0]}-{row[1]}-{index}" for index, row in enumerate(SAME_FOR_ALL)],
)
async def test_an_http_error_is_read_by_the_table(
    provider: Any,
    status: Any,
    body: Any,
    headers: Any,
    outcome: Any,
    kind: Any,
    loopback: Any,
    open_account: Any,
    kit: Any,
) -> None:
    if outcome == "credentials":
        outcome = NotProcessed("credentials", "more_permissions_required")
    loopback.will_answer(status, body, headers)
    account = open_account(provider, loopback.url)

    found = await account.provider.send(kit.call(account, kit.ask(provider, kind)), kit.keep_nothing)

    assert found == outcome
    assert len(loopback.seen) == 1


REJECTED = [
    ("stripe", 400, stripe_error("parameter_missing"), "parameter_missing"),
    ("stripe", 404, stripe_error("resource_missing"), "resource_missing"),
    ("stripe", 400, stripe_error("amount_too_large"), "amount_too_large"),
    ("adyen", 422, adyen_error("137"), "137"),
    ("adyen", 400, adyen_error("702"), "702"),
    ("adyen", 422, adyen_error("14_030"), "14_030"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("provider", "status", "body", "code"), REJECTED)
async def test_a_refusal_in_the_allow_list_happened_nowhere(
    provider: Any, status: Any, body: Any, code: Any, kind: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    """A new payment may go elsewhere; what follows a payment is refused, and that is final."""
    loopback.will_answer(status, body)
    account = open_account(provider, loopback.url)

    found = await account.provider.send(kit.call(account, kit.ask(provider, kind)), kit.keep_nothing)

    assert found == (NotProcessed("rejected", code) if kind is Kind.AUTHORIZE else refused(code))


@pytest.mark.parametrize("kind", [Kind.CAPTURE, Kind.REFUND])
async def test_stripe_refusing_more_than_is_left_has_no_code_but_names_the_amount(
    kind: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    loopback.will_answer(400, stripe_error(None, param="amount"))
    account = open_account("stripe", loopback.url)

    found = await account.provider.send(kit.call(account, kit.ask("stripe", kind)), kit.keep_nothing)

    assert found == refused("amount_invalid")


@pytest.mark.parametrize("provider", BOTH)
async def test_nothing_is_certain_after_an_earlier_send(
    provider: Any, loopback: Any, open_account: Any, kit: Any
) -> None:
    body = stripe_error("parameter_missing") if provider == "stripe" else adyen_error("137")
    loopback.will_answer(400 if provider == "stripe" else 422, body)
    account = open_account(provider, loopback.url)
    call = kit.call(account, kit.ask(provider, Kind.AUTHORIZE))

    found = await account.send(call, kit.keep_nothing, first_send=False)

    assert isinstance(found, Unknown)
    assert found.reason == "earlier_send"
