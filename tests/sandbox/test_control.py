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


@pytest.mark.parametrize("psp", ["stripe", "adyen"])
def test_a_reset_leaves_nothing(sandbox: Any, psp: str) -> None:
    (sandbox.charge if psp == "stripe" else sandbox.pay)()
    sandbox.script(psp, "garbage")

    sandbox.http.post(f"{sandbox.url(psp)}/_sandbox/reset")

    assert all(entries == [] for entries in sandbox.books(psp).values())
    assert sandbox.requests(psp) == []
    assert sandbox.http.get(f"{sandbox.url(psp)}/_sandbox/faults").json()["faults"] == []
