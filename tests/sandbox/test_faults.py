"""Every scripted fault, observed on the socket, with its effect (or none) in the books."""

import json
import socket
import time
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
