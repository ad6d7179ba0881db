"""The books, the wire log and the reset, as a checker uses them."""

import hashlib
import time
from typing import Any

import pytest

PAN = "4242424242424242"


def test_books_name_operation_key_money_and_time(sandbox: Any) -> None:
    before = time.time()
    intent = sandbox.charge(key="key-7")

    entry = sandbox.books("stripe")["authorisations"][0]

    assert entry["payment"] == intent.id
    assert (entry["reference"], entry["key"]) == ("op-1", "key-7")
    assert (entry["amount"], entry["currency"], entry["status"]) == (1999, "EUR", "captured")
    assert before <= entry["time"] <= time.time()


def test_books_can_be_filtered(sandbox: Any) -> None:
    first = sandbox.pay(key="1", reference="a")
    middle = time.time()
    sandbox.pay(key="2", reference="b")

    def references(**query: str) -> list[str]:
        return [entry["reference"] for entry in sandbox.books("adyen", **query)["captures"]]

    assert references() == ["a", "b"]
    assert references(reference="b") == ["b"]
    assert references(payment=first["pspReference"]) == ["a"]
    assert references(since=str(middle)) == ["b"]


def test_the_wire_log_knows_every_request_and_no_card(sandbox: Any) -> None:
    body = (f"type=card&card[number]={PAN}&card[exp_month]=12&card[exp_year]=2034&card[cvc]=987").encode()
    sandbox.http.post(f"{sandbox.stripe_url}/v1/payment_methods", content=body, auth=("sk_test_sandbox", ""))
    sandbox.pay(number=PAN, key="key-3")

    (tokenized,) = sandbox.requests("stripe")
    (paid,) = sandbox.requests("adyen", key="key-3")
    assert (tokenized["method"], tokenized["path"]) == ("POST", "/v1/payment_methods")
    assert tokenized["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert (paid["operation"], paid["reference"], paid["status"]) == ("authorize", "ref-1", 200)
    assert paid["arrived"] <= paid["answered"]
    for psp in ("stripe", "adyen"):
        for path in ("requests", "books", "webhooks"):
            shown = sandbox.http.get(f"{sandbox.url(psp)}/_sandbox/{path}").text
            assert PAN not in shown
            assert "987" not in [part.strip('"') for part in shown.split(",")]
    assert tokenized["card"] == "424242******4242"


def test_refused_requests_are_logged_too(sandbox: Any) -> None:
    sandbox.http.post(f"{sandbox.adyen_url}/v72/payments", content=b"{")
    sandbox.http.post(f"{sandbox.adyen_url}/v72/payments", json={})
    sandbox.http.get(f"{sandbox.stripe_url}/v1/nowhere", auth=("sk_test_sandbox", ""))

    assert [entry["status"] for entry in sandbox.requests("adyen")] == [400, 401]
    assert [entry["status"] for entry in sandbox.requests("stripe")] == [404]


def clock(sandbox: Any, psp: str, order: Any = None) -> Any:
    url = f"{sandbox.url(psp)}/_sandbox/clock"
    return sandbox.http.get(url) if order is None else sandbox.http.post(url, json=order)


@pytest.mark.parametrize("psp", ["stripe", "adyen", "neutral"])
def test_a_day_passes_when_it_is_asked_for_and_a_reset_takes_it_back(sandbox: Any, psp: str) -> None:
    moved = clock(sandbox, psp, {"advance_s": 86_400}).json()

    assert moved["ahead_s"] == 86_400
    assert abs(clock(sandbox, psp).json()["seconds"] - time.time() - 86_400) < 60
    sandbox.http.post(f"{sandbox.url(psp)}/_sandbox/reset")
    assert clock(sandbox, psp).json()["ahead_s"] == 0


def test_a_clock_set_to_a_time_runs_on_from_there_at_that_psp_only(sandbox: Any) -> None:
    clock(sandbox, "adyen", {"now": "2027-03-01T08:00:00+01:00"})

    assert clock(sandbox, "adyen").json()["now"].startswith("2027-03-01T07:0")
    assert clock(sandbox, "stripe").json()["ahead_s"] == 0


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"advance_s": -1},
        {"advance_s": "60"},
        {"advance_s": True},
        {"now": "2027-03-01T08:00:00"},
        {"now": "noon"},
        {"now": None},
        {"advance_s": 1, "now": 1},
        ["now"],
    ],
)
def test_a_clock_that_is_told_nonsense_says_what_it_takes_and_stays(sandbox: Any, order: Any) -> None:
    answer = clock(sandbox, "stripe", order)

    assert answer.status_code == 422
    assert any(word in answer.json()["error"] for word in ("advance_s", "now"))
    assert clock(sandbox, "stripe").json()["ahead_s"] == 0


@pytest.mark.parametrize("psp", ["stripe", "adyen"])
def test_a_reset_leaves_nothing(sandbox: Any, psp: str) -> None:
    (sandbox.charge if psp == "stripe" else sandbox.pay)()
    sandbox.script(psp, "garbage")

    sandbox.http.post(f"{sandbox.url(psp)}/_sandbox/reset")

    assert all(entries == [] for entries in sandbox.books(psp).values())
    assert sandbox.requests(psp) == []
    assert sandbox.http.get(f"{sandbox.url(psp)}/_sandbox/faults").json()["faults"] == []
