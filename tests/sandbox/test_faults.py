"""Every scripted fault, observed on the socket, with its effect (or none) in the books."""

import json
import socket
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

import pytest

from providers.sandbox.faults import KINDS

HANG_S = 0.3
PSPS = ("stripe", "adyen")

FORM = b"amount=1999&currency=eur&confirm=true&payment_method=pm_card_visa"


class Wire:
    """One charge sent by hand over its own connection, and whatever came back."""

    def __init__(self, sandbox: Any, psp: str, body: bytes, key: str = "k") -> None:
        address = urlsplit(sandbox.url(psp))
        path = "/v1/payment_intents" if psp == "stripe" else "/v72/payments"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nIdempotency-Key: {key}\r\n"
            "Authorization: Bearer sk_test_sandbox\r\nX-API-Key: adyen_test_sandbox\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.received = b""
        self.reads = 0
        self.ending = "closed"
        self.started = time.monotonic()
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.settimeout(HANG_S)
            connection.sendall(head.encode() + body)
            self._read_all(connection)
        self.took_s = time.monotonic() - self.started

    def _read_all(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(65536):
                self.received += data
                self.reads += 1
        except ConnectionResetError:
            self.ending = "reset"
        except TimeoutError:
            self.ending = "hung"

    @property
    def status(self) -> int:
        return int(self.received.split(b" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.received.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def body(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[2]

    @property
    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


@pytest.fixture
def send(sandbox: Any, new_adyen_payment: Any) -> Any:
    def charge(psp: str, key: str = "k") -> Wire:
        body = FORM if psp == "stripe" else json.dumps(new_adyen_payment()).encode()
        return Wire(sandbox, psp, body, key)

    return charge


def charged(sandbox: Any, psp: str) -> int:
    return len(sandbox.books(psp)["authorisations"])


@pytest.mark.parametrize("psp", PSPS)
@pytest.mark.parametrize(
    ("fault", "effects"),
    [
        ("timeout_before_effect", 0),
        ("timeout_after_effect", 1),
        ("reset_before_effect", 0),
        ("reset_after_effect", 1),
    ],
)
def test_a_lost_answer(sandbox: Any, send: Any, psp: str, fault: str, effects: int) -> None:
    ending = "hung" if fault.startswith("timeout") else "reset"
    sandbox.script(psp, fault, "authorize")

    lost = send(psp)

    assert (lost.ending, lost.received) == (ending, b"")
    assert charged(sandbox, psp) == effects
    (entry,) = sandbox.requests(psp)
    assert (entry["fault"], entry["status"]) == (fault, None)
    # The same key finds out: one charge, whether the first request had its effect or not.
    replay = send(psp)
    assert replay.status == 200
    assert charged(sandbox, psp) == 1
    assert sandbox.requests(psp)[1]["replayed"] is (effects == 1)


@pytest.mark.parametrize("psp", PSPS)
@pytest.mark.parametrize("status", [500, 502, 503, 429, 409])
def test_an_error_before_the_effect(sandbox: Any, send: Any, psp: str, status: int) -> None:
    sandbox.script(psp, "status", "authorize", status=status)

    answer = send(psp)

    assert answer.status == status
    assert charged(sandbox, psp) == 0
    assert ("retry-after" in answer.headers) is (status == 503)
    assert answer.headers["content-type"].startswith("text/html" if status == 502 else "application/json")
    if psp == "stripe" and status in (409, 429):
        code = {409: "idempotency_key_in_use", 429: "rate_limit"}[status]
        assert answer.json["error"]["code"] == code
    assert send(psp).status == 200


@pytest.mark.parametrize("psp", PSPS)
def test_an_error_after_the_effect_is_what_the_key_replays(sandbox: Any, send: Any, psp: str) -> None:
    sandbox.script(psp, "error_after_effect", "authorize")

    first, again = send(psp), send(psp)

    assert (first.status, again.status) == (500, 500)
    assert again.body == first.body
    assert charged(sandbox, psp) == 1


@pytest.mark.parametrize("psp", PSPS)
@pytest.mark.parametrize("fault", ["garbage", "empty", "truncated"])
def test_an_unreadable_answer(sandbox: Any, send: Any, psp: str, fault: str) -> None:
    sandbox.script(psp, fault, "authorize")

    answer = send(psp)

    assert (answer.status, answer.ending) == (200, "closed")
    announced = int(answer.headers["content-length"])
    if fault == "truncated":
        assert 0 < len(answer.body) < announced
    else:
        assert len(answer.body) == announced
        assert (announced == 0) is (fault == "empty")
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)
    assert charged(sandbox, psp) == 1
    assert send(psp).json


@pytest.mark.parametrize("psp", PSPS)
def test_a_wrong_amount_or_currency_is_a_lie_on_the_wire_only(sandbox: Any, send: Any, psp: str) -> None:
    sandbox.script(psp, "wrong_amount", "authorize", difference=5)
    sandbox.script(psp, "wrong_currency", "authorize")

    amount_lie, currency_lie, truth = send(psp), send(psp), send(psp)

    if psp == "stripe":
        assert (amount_lie.json["amount"], amount_lie.json["amount_received"]) == (2004, 2004)
        assert currency_lie.json["currency"] == "xts"
        assert (truth.json["amount"], truth.json["currency"]) == (1999, "eur")
    else:
        assert amount_lie.json["amount"] == {"value": 1005, "currency": "EUR"}
        assert currency_lie.json["amount"] == {"value": 1000, "currency": "XTS"}
        assert truth.json["amount"] == {"value": 1000, "currency": "EUR"}
    assert charged(sandbox, psp) == 1


def test_an_answer_may_be_about_another_operation_on_the_wire_only(sandbox: Any, send: Any) -> None:
    sandbox.script("adyen", "wrong_reference", "authorize")
    sandbox.script("adyen", "wrong_reference", "authorize", instead_of="Authorised")

    other, no_word, truth = send("adyen"), send("adyen"), send("adyen")

    ours = truth.json["merchantReference"]
    assert other.json["merchantReference"] == ours[:-1] + ("0" if ours[-1] != "0" else "1")
    assert no_word.json["resultCode"] == "Authorise0"
    assert {**other.json, **no_word.json, "merchantReference": ours, "resultCode": "Authorised"} == truth.json
    assert charged(sandbox, "adyen") == 1


@pytest.mark.parametrize("psp", PSPS)
@pytest.mark.parametrize("fault", ["latency", "slow_answer"])
def test_a_slow_answer(sandbox: Any, send: Any, psp: str, fault: str) -> None:
    sandbox.script(psp, fault, "authorize", latency_ms=150)

    answer = send(psp)

    assert answer.status == 200
    assert answer.took_s >= 0.15


@pytest.mark.parametrize("psp", PSPS)
def test_a_dripping_answer_never_stalls_and_never_ends_soon(sandbox: Any, send: Any, psp: str) -> None:
    sandbox.script(psp, "drip", "authorize", latency_ms=50, chunks=10)

    answer = send(psp)

    assert answer.took_s >= 0.5  # longer than any single read may take
    assert answer.reads >= 10
    assert answer.json


def test_the_psps_own_codes(sandbox: Any, send: Any) -> None:
    sandbox.script("stripe", "lock_timeout")
    sandbox.script("adyen", "adyen_703")
    sandbox.script("adyen", "adyen_704", transient=False)

    locked, store_down, in_progress = send("stripe"), send("adyen"), send("adyen")

    assert (locked.status, locked.json["error"]["code"]) == (429, "lock_timeout")
    assert (store_down.status, store_down.json["errorCode"]) == (503, "703")
    assert store_down.headers["transient-error"] == "true"
    assert (in_progress.status, in_progress.json["errorCode"]) == (422, "704")
    assert in_progress.headers["transient-error"] == "false"


@pytest.mark.parametrize("psp", PSPS)
def test_an_outage_lasts_until_it_is_removed(sandbox: Any, send: Any, psp: str) -> None:
    rule = sandbox.script(psp, "outage", match={"bin": "400000-499999", "currency": "eur"})

    assert [send(psp).status for _ in range(3)] == [503, 503, 503]
    sandbox.http.delete(f"{sandbox.url(psp)}/_sandbox/faults/{rule['id']}")
    assert send(psp).status == 200


@pytest.mark.parametrize("match", [{"bin": "5"}, {"bin": "420000-429999"}, {"currency": "USD"}, {"reference": "none"}])
def test_an_outage_leaves_others_alone(sandbox: Any, match: dict[str, str]) -> None:
    sandbox.script("adyen", "outage", match=match)

    assert sandbox.pay()["resultCode"] == "Authorised"


def test_a_fault_meets_its_operation_only_and_only_so_often(sandbox: Any, send: Any) -> None:
    sandbox.script("stripe", "status", "refund", status=500)
    sandbox.script("stripe", "status", "authorize", status=500, times=2, after=1)

    statuses = [send("stripe", key=str(number)).status for number in range(4)]

    assert statuses == [200, 500, 500, 200]
    state = sandbox.http.get(f"{sandbox.stripe_url}/_sandbox/faults").json()
    assert [rule["operation"] for rule in state["faults"]] == ["refund"]
    assert state["applied"] == {"status": 2}


def test_scripted_declines_carry_their_code(sandbox: Any, send: Any) -> None:
    sandbox.script("stripe", "decline", "authorize", code="do_not_honor")
    sandbox.script("adyen", "decline", "authorize", code="NOT_ENOUGH_BALANCE")

    refused = send("stripe")

    assert (refused.status, refused.json["error"]["decline_code"]) == (402, "do_not_honor")
    assert sandbox.pay()["refusalReasonCode"] == "12"


def test_a_decline_waits_for_a_request_that_is_decided(sandbox: Any, send: Any) -> None:
    sandbox.script("stripe", "reset_before_effect", "authorize")
    sandbox.script("stripe", "decline", "authorize")

    assert send("stripe").ending == "reset"
    assert send("stripe").status == 402


@pytest.mark.parametrize("psp", PSPS)
def test_an_approval_rate_decides_by_its_own_seeded_dice(sandbox: Any, send: Any, psp: str) -> None:
    sandbox.script(psp, "approval_rate", "authorize", rate=0.5, seed=7)

    for number in range(30):
        send(psp, key=str(number))

    books = sandbox.books(psp)
    assert len(books["authorisations"]) + len(books["declines"]) == 30
    assert 5 < len(books["authorisations"]) < 25


NIGHT, DAY, EVENING = "2027-03-01T03:00:00Z", "2027-03-01T09:00:00Z", "2027-03-01T20:00:00Z"


def approved_at(sandbox: Any, now: str, new_charge: Any, **more: Any) -> bool:
    """Whether one charge at the neutral PSP is approved when its clock says ``now``."""
    sandbox.http.post(f"{sandbox.neutral_url}/_sandbox/clock", json={"now": now}).raise_for_status()
    charged = sandbox.ask("/charges", str(uuid.uuid4()), **new_charge(**more))
    assert charged.status_code == 200, charged.text
    return bool(charged.json()["state"] == "settled")


def test_an_approval_rate_holds_in_its_hours(sandbox: Any, new_neutral_charge: Any) -> None:
    window = {"from": "2027-03-01T08:00:00Z", "until": "2027-03-01T10:00:00Z"}
    sandbox.script("neutral", "approval_rate", "authorize", rate=0, **window)

    at = [approved_at(sandbox, now, new_neutral_charge) for now in (NIGHT, DAY, window["until"], EVENING)]

    assert at == [True, False, True, True]


def test_rules_side_by_side_say_who_approves_what_when(sandbox: Any, new_neutral_charge: Any) -> None:
    """Card range x currency x time: the first rule that matches decides, and what no rule names is approved."""
    jpy = {"money": {"value": "500", "currency": "JPY"}}
    other = {"source": {"number": "5555555555554444", "expires": "12/2034"}}
    ours = {"bin": "400000-424299", "currency": "EUR"}
    sandbox.script("neutral", "approval_rate", rate=0, match=ours, **{"from": "2027-03-01T08:00:00Z", "until": EVENING})
    sandbox.script("neutral", "approval_rate", rate=1, match=ours)
    sandbox.script("neutral", "approval_rate", rate=0, match={"currency": "EUR"})

    def at(now: str) -> list[bool]:
        return [approved_at(sandbox, now, new_neutral_charge, **more) for more in ({}, jpy, other)]

    assert at(NIGHT) == [True, True, False]
    assert at(DAY) == [False, True, False]


def test_a_scripted_share_is_approved(sandbox: Any, new_neutral_charge: Any) -> None:
    sandbox.script("neutral", "approval_rate", rate=0.62, seed=3, match={"bin": "4242", "currency": "EUR"})

    for number in range(200):
        sandbox.ask("/charges", str(number), **new_neutral_charge(reference=f"ref-{number}"))

    assert 105 < len(sandbox.books("neutral")["authorisations"]) < 143


@pytest.mark.parametrize(
    ("fault", "effects", "status"),
    [
        ({"fault": "status", "status": 500}, 0, 500),
        ({"fault": "status", "status": 502}, 0, 502),
        ({"fault": "outage"}, 0, 503),
        ({"fault": "error_after_effect"}, 1, 500),
        ({"fault": "garbage"}, 1, 200),
        ({"fault": "empty"}, 1, 200),
    ],
)
def test_the_neutral_psp_fails_when_it_is_told_to(
    sandbox: Any, fault: dict[str, Any], effects: int, status: int, new_neutral_charge: Any
) -> None:
    sandbox.http.post(f"{sandbox.neutral_url}/_sandbox/faults", json={"operation": "authorize", **fault})

    answer = sandbox.ask("/charges", "k", **new_neutral_charge())

    assert answer.status_code == status
    assert charged(sandbox, "neutral") == effects


def test_the_neutral_psp_lies_about_money_on_the_wire_only(sandbox: Any, new_neutral_charge: Any) -> None:
    sandbox.script("neutral", "wrong_amount", "authorize", difference=5)
    sandbox.script("neutral", "wrong_currency", "authorize")

    amount_lie, currency_lie, truth = (sandbox.ask("/charges", "k", **new_neutral_charge()).json() for _ in range(3))

    assert (amount_lie["value"], amount_lie["held"]) == ("20.04", "20.04")
    assert (currency_lie["currency"], truth["currency"], truth["value"]) == ("XTS", "EUR", "19.99")
    assert charged(sandbox, "neutral") == 1


def test_a_modification_may_fail_later(sandbox: Any) -> None:
    payment = sandbox.pay()["pspReference"]
    intent = sandbox.charge()
    for psp in PSPS:
        sandbox.script(psp, "fail_later", "refund")

    sandbox.modify("refund", payment, "r-1", amount={"value": 1, "currency": "EUR"})
    refund = sandbox.stripe.v1.refunds.create({"payment_intent": intent.id})

    assert refund.status == "pending"
    assert sandbox.mailbox.adyen_items("REFUND")[0]["success"] == "false"
    assert sandbox.mailbox.stripe_events("refund.failed")[0]["data"]["object"]["id"] == refund.id


def test_a_lookup_can_fail_too(sandbox: Any) -> None:
    intent = sandbox.charge()
    sandbox.script("stripe", "status", "lookup", status=502)

    answer = sandbox.http.get(f"{sandbox.stripe_url}/v1/payment_intents/{intent.id}", auth=("sk_test_sandbox", ""))

    assert answer.status_code == 502


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ({"operation": "authorize", "fault": "timeout"}, "timeout_before_effect"),
        ({"operation": "charge", "fault": "garbage"}, "authorize"),
        ({"operation": "refund", "fault": "decline"}, "authorize"),
        ({"operation": "any", "fault": "adyen_703"}, "lock_timeout"),
        ({"operation": "any", "fault": "garbage", "tmies": 2}, "times"),
        ({"operation": "any", "fault": "garbage", "times": 0}, "at least 1"),
        ({"operation": "any", "fault": "garbage", "match": {"card": "4"}}, "bin"),
        ({"operation": "any", "fault": "approval_rate", "rate": 80}, "0 to 1"),
        ({"operation": "any", "fault": "approval_rate", "from": "08:00"}, "ISO 8601"),
        ({"operation": "any", "fault": "approval_rate", "until": "2027-03-01T08:00:00"}, "offset"),
        ({"operation": "any", "fault": "approval_rate", "from": 20, "until": 10}, "later"),
        ({"operation": "any", "fault": "garbage", "from": 20}, "times"),
        ({"operation": "any", "fault": "garbage", "match": {"bin": "visa"}}, "4242"),
        ({"operation": "any", "fault": "status", "status": 99}, "HTTP status"),
        (["garbage"], "object"),
    ],
)
def test_a_misspelt_fault_is_refused_with_the_right_names(sandbox: Any, rule: Any, named: str) -> None:
    answer = sandbox.http.post(f"{sandbox.stripe_url}/_sandbox/faults", json=rule)

    assert answer.status_code == 422
    assert named in answer.json()["error"]


def test_clearing_removes_every_rule(sandbox: Any, send: Any) -> None:
    for fault in KINDS:
        if "adyen" in KINDS[fault].psps:
            sandbox.script("adyen", fault, KINDS[fault].operations[0])

    sandbox.http.delete(f"{sandbox.adyen_url}/_sandbox/faults")

    assert send("adyen").status == 200
    state = sandbox.http.get(f"{sandbox.adyen_url}/_sandbox/faults").json()
    assert (state["faults"], state["applied"]) == ([], {})
    assert "lock_timeout" not in state["allowed"]
