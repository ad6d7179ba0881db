"""The adapter to copy from: its tables, its words, and what only this PSP does."""

import csv
import json
from importlib.resources import files
from typing import Any

import pytest

from providers.contract import (
    Accept,
    ActionRequired,
    Approved,
    Authorize,
    Call,
    Capture,
    Declined,
    Defend,
    Increment,
    Kind,
    NotProcessed,
    Token,
    Unknown,
    Void,
    WebhookRefused,
)
from providers.declines import Action, Decline
from providers.money import Money
from providers.neutral import DECLINES, ERRORS, EVENTS
from providers.registry import ConfigError
from providers.sandbox.neutral_objects import REFUSALS

EUR = Money(1999, "EUR")
KEY = "6f2d6c1e-3a76-4b4e-9d4f-0d8b1f6b7c55"


def authorize(**more: Any) -> Authorize:
    given: dict[str, Any] = {
        "capture_method": "manual",
        "instrument": Token("ct_ok"),
        "return_url": "https://gateway.example/r",
    }
    return Authorize(operation_id="att_1", payment_id="pay_1", amount=EUR, **(given | more))


def capture(charge: str = "ch_1") -> Capture:
    return Capture("cap_1", "pay_1", EUR, charge)


def void(charge: str | None = "ch_1") -> Void:
    return Void("vd_1", "pay_1", EUR, "att_1", charge)


async def keep_nothing(_request: Any) -> None:
    raise AssertionError("there is only one step, nothing is to be kept")


def call_for(account: Any, ask: Any, *, key: str = KEY, provider_id: str | None = None) -> Call:
    kind = next(kind for kind in Kind if type(ask).__name__.lower() == kind.value)
    return Call(ask.operation_id, kind, account.provider.compose(ask), key, ask.amount, provider_id)


@pytest.fixture
def account(sandbox: Any, open_account: Any) -> Any:
    return open_account("neutral", sandbox.url("neutral"))


async def send(account: Any, ask: Any, **more: Any) -> Any:
    return await account.provider.send(call_for(account, ask, **more), keep_nothing)


# --- Config and capabilities --------------------------------------------------------------------------------------------


def test_an_account_without_an_address_is_refused(open_account: Any) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        open_account("neutral", None)


DISPUTE = ("op_1", "pay_1", EUR, "ch_1", "dp_1")


@pytest.mark.parametrize("ask", [Increment("inc_1", "pay_1", EUR, "ch_1"), Defend(*DISPUTE), Accept(*DISPUTE)])
def test_what_no_capability_permits_is_a_bug_and_no_request(ask: Any, account: Any) -> None:
    with pytest.raises(ValueError, match=type(ask).__name__):
        account.provider.compose(ask)


@pytest.mark.parametrize(
    ("money", "refused"),
    [
        (Money(1, "EUR"), False),
        (Money(0, "EUR"), True),
        (Money(1000, "HUF"), False),
        (Money(1050, "HUF"), True),
        (Money(99_999_999_999, "EUR"), False),
        (Money(100_000_000_000, "EUR"), True),
        (Money(10_000, "CLF"), True),
    ],
)
def test_what_cannot_be_carried_exactly_is_refused(money: Any, refused: Any, account: Any) -> None:
    assert (account.provider.refuses(money) is not None) is refused


# --- Tables -------------------------------------------------------------------------------------------------------------


def test_every_word_of_the_psp_for_a_refusal_has_its_row_and_source() -> None:
    text = (files("providers") / "data" / "neutral_refusals.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))

    assert set(REFUSALS.values()) <= set(DECLINES) == {row["code"] for row in rows}
    assert all(row["source"] and row["meaning"] for row in rows)


@pytest.mark.parametrize(
    ("ask", "status", "code", "outcome"),
    [
        (authorize(), 401, "bad_token", NotProcessed("credentials", "bad_token")),
        (authorize(), 429, "slow_down", NotProcessed("rate_limited", "slow_down")),
        (authorize(), 409, "request_running", Unknown("http_409", resend=True, provider_code="request_running")),
        (authorize(), 409, "", Unknown("http_409")),
        (authorize(), 422, "bad_source", NotProcessed("rejected", "bad_source")),
        (authorize(), 422, "request_id_reused", Unknown("http_422", provider_code="request_id_reused")),
        (authorize(), 422, "a_new_word", Unknown("http_422", provider_code="a_new_word")),
        (authorize(), 503, "broken", Unknown("http_503", provider_code="broken")),
        (capture(), 422, "too_much", Declined(Decline("provider_refused", "hard", Action.DO_NOT_RETRY, "too_much"))),
        (
            void(),
            404,
            "no_such_charge",
            Declined(Decline("provider_refused", "hard", Action.DO_NOT_RETRY, "no_such_charge")),
        ),
        (void(), 404, "", Unknown("http_404")),
    ],
)
async def test_an_error_is_read_by_the_table(
    ask: Any, status: Any, code: Any, outcome: Any, loopback: Any, open_account: Any
) -> None:
    loopback.will_answer(status, {"error": {"code": code, "detail": "no"}} if code else b"<html>")

    assert await send(open_account("neutral", loopback.url), ask) == outcome
    assert len(loopback.seen) == 1


def test_no_row_of_the_table_is_a_success() -> None:
    assert all(status >= 400 for status, _ in ERRORS)


async def test_the_request_says_it_in_major_units_under_the_operations_key(loopback: Any, open_account: Any) -> None:
    loopback.will_answer(500)

    await send(open_account("neutral", loopback.url), authorize())

    (seen,) = loopback.seen
    assert (seen.method, seen.path) == ("POST", "/charges")
    assert seen.headers["authorization"] == "Bearer neutral_test_sandbox"
    assert seen.json["request_id"] == KEY
    assert (seen.json["money"], seen.json["settle"]) == ({"value": "19.99", "currency": "EUR"}, "later")


CHARGE = {
    "charge_id": "ch_1",
    "reference": "att_1",
    "state": "held",
    "currency": "EUR",
    "value": "19.99",
    "settle": "later",
}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"state": "thinking"}, "status"),
        ({"state": "asking_shopper"}, "status"),
        ({"reference": "att_2"}, "mismatch_operation"),
        ({"value": "19.98"}, "mismatch_amount"),
        ({"currency": "USD"}, "mismatch_currency"),
        ({"value": "19.999"}, "unreadable"),
        ({"value": "many"}, "unreadable"),
        ({"value": "1e99999999"}, "unreadable"),
        ({"value": "NaN"}, "unreadable"),
        ({"settle": "perhaps"}, "unreadable"),
        ({"charge_id": None}, "unreadable"),
    ],
)
async def test_a_charge_that_does_not_say_what_was_asked_is_unknown(
    changed: Any, reason: Any, loopback: Any, open_account: Any
) -> None:
    loopback.will_answer(200, CHARGE | changed)

    outcome = await send(open_account("neutral", loopback.url), authorize())

    assert isinstance(outcome, Unknown)
    assert outcome.reason == reason


# --- What only this PSP does ----------------------------------------------------------------------------------------------


async def test_a_reference_that_was_released_first_is_never_charged_afterwards(account: Any, sandbox: Any) -> None:
    """The void overtook its own authorization: nothing can come of that one any more."""
    released = await send(account, void(charge=None), key="void")
    late = await send(account, authorize())

    assert released == Approved("att_1", EUR)
    assert late == NotProcessed("rejected", "reference_closed")
    assert sandbox.books("neutral")["authorisations"] == []


async def test_what_was_released_is_held_no_more_although_it_had_been_approved(account: Any) -> None:
    held = await send(account, authorize())
    await send(account, void(held.provider_id), key="void")

    found = await account.lookup(call_for(account, authorize()))

    assert isinstance(found, Declined)
    assert found.decline.code == "cancelled"


async def test_a_challenge_that_was_ended_is_cancelled(account: Any) -> None:
    waiting = await send(account, authorize(instrument=Token("ct_ask_shopper")))
    ended = await send(account, void(charge=None), key="void")

    found = await account.lookup(call_for(account, authorize()))

    assert isinstance(waiting, ActionRequired)
    assert isinstance(ended, Approved)
    assert isinstance(found, Declined)
    assert found.decline.code == "cancelled"


async def test_another_shoppers_proof_finishes_nothing_and_proves_nothing(account: Any) -> None:
    waiting = await send(account, authorize(instrument=Token("ct_ask_shopper")))
    call = call_for(account, authorize(), provider_id=waiting.provider_id)
    request = account.provider.completion(call, {"proof": "pf_of_somebody"})

    outcome = await account.provider.send(Call("att_1", Kind.AUTHORIZE, request, KEY, EUR), keep_nothing)

    assert outcome == Unknown("http_422", provider_code="bad_proof")


# --- Webhooks -------------------------------------------------------------------------------------------------------------


def event(**more: Any) -> bytes:
    told = {"event_id": "ev_1", "event": "charge.held", "at": "2027-01-01T00:00:00Z", "charge": CHARGE, "move": None}
    return json.dumps(told | more).encode()


MOVE = {
    "move_id": "mv_1",
    "charge_id": "ch_1",
    "kind": "settle",
    "reference": "cap_1",
    "value": "19.99",
    "currency": "EUR",
}


@pytest.mark.parametrize(
    "more",
    [
        {"event": "charge.laundered"},
        {"event": "move.settle"},
        {"event": "charge.held", "move": MOVE},
        {"charge": CHARGE | {"state": "thinking"}},
        {"charge": CHARGE | {"value": "many"}},
        {"event": "move.settle", "move": MOVE | {"currency": "XXX"}},
    ],
)
def test_an_event_without_use_for_us_is_kept_and_changes_nothing(more: Any, account: Any) -> None:
    (kept,) = account.provider.parse_webhook(event(**more))

    assert (kept.event_id, kept.kind, kept.outcome) == ("ev_1", None, None)


def test_every_event_of_the_table_is_about_one_verb(account: Any) -> None:
    for name, kind in EVENTS.items():
        (told,) = account.provider.parse_webhook(event(event=name, move=None if kind is Kind.AUTHORIZE else MOVE))

        assert told.kind is kind


def test_a_header_that_is_no_signature_is_refused(account: Any) -> None:
    for header in ("", "x", "\u00e9" * 64, "0" * 64):
        with pytest.raises(WebhookRefused):
            account.provider.verify_webhook({"X-Signature": header}, event())
