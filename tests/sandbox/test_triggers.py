"""The trigger data is complete, and equal to the documented facts."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from providers.sandbox import triggers
from providers.sandbox.cards import Card, luhn_valid
from providers.sandbox.stripe_form import decode_form, listed

DATA: dict[str, Any] = json.loads(files("providers.sandbox").joinpath("test_triggers.json").read_text("utf-8"))


def test_the_data_equals_the_documented_facts(specs: Path) -> None:
    facts = json.loads((specs / "provider.test-triggers.json").read_text())

    assert DATA["stripe"]["cards"] == facts["stripe"]["cards"]
    assert DATA["stripe"]["decline_codes"] == facts["stripe"]["decline_codes"]
    assert [
        (int(row["code"]), row["holder_name"], row["result_code"], row["reason"]) for row in DATA["adyen"]["refusals"]
    ] == [
        (
            row["requestedTestAcquirerResponseCode"],
            row["holderName"],
            row["resultCode"],
            row["refusalReason"],
        )
        for row in facts["adyen"]["refusals"]
    ]


def test_every_adyen_row_is_found_by_code_and_by_name() -> None:
    for row in DATA["adyen"]["refusals"]:
        by_name = triggers.adyen_refusal(row["holder_name"])
        assert by_name is not None
        assert by_name == triggers.adyen_refusal(row["code"])
        assert by_name.approved is (row["holder_name"] == "APPROVED")


def test_every_refusing_card_number_is_a_possible_one() -> None:
    for row in DATA["adyen"]["cards"]:
        refusal = triggers.adyen_refusal_by_card(row["number"])
        assert luhn_valid(row["number"])
        assert refusal is not None
        assert refusal.code == row["code"]


def test_the_enrolled_cards_are_adyens(specs: Path) -> None:
    groups = json.loads((specs / "adyen.test-cards.json").read_text())["groups"]
    cards = [card for group in groups for card in group["items"] if card.get("secure3DS")]
    own = [row["number"] for row in DATA["adyen"]["three_d_secure"] if row["number"].startswith("40002000")]

    assert {card["cardnumber"].replace(" ", "") for card in cards} | set(own) == {
        row["number"] for row in DATA["adyen"]["three_d_secure"]
    }
    assert all(map(luhn_valid, own))


def test_every_row_about_a_refusal_names_one() -> None:
    for row in DATA["adyen"]["raw_responses"]:
        assert triggers.adyen_refusal(row["code"]) is not None
    assert triggers.adyen_raw_response("12") == "51 : Insufficient funds"
    assert triggers.adyen_raw_response("20") is None
    assert triggers.adyen_merchant_advice("03") == "03 : Do not try again"
    assert triggers.adyen_merchant_advice("99") is None


def test_a_dispute_is_asked_for_by_name_and_reason() -> None:
    asked = triggers.adyen_dispute("Chargeback:13.1", "visa")
    plain = triggers.adyen_dispute("CHARGEBACK", "mc")

    assert asked is not None
    assert plain is not None
    assert (asked.reason_code, plain.reason_code) == ("13.1", "4837")
    assert asked.events == ("NOTIFICATION_OF_CHARGEBACK", "CHARGEBACK")
    assert triggers.adyen_dispute("Ada Lovelace", "visa") is None
    assert triggers.adyen_later_failure("REFUND_FAILED", "refunds") == "REFUND_FAILED"
    assert triggers.adyen_later_failure("REFUND_FAILED", "captures") is None


@pytest.mark.parametrize(
    ("number", "valid"),
    [("4242424242424242", True), ("4242424242424241", False), ("42", False), ("4٤42", False)],
)
def test_check_digits(number: str, *, valid: bool) -> None:
    assert luhn_valid(number) is valid


def test_a_card_shows_no_number() -> None:
    card = Card("378282246310005", 12, 2034)

    assert (card.brand, card.masked) == ("amex", "378282*****0005")


def test_form_bodies_nest() -> None:
    form = decode_form("a[b][c]=1&expand[]=x&expand[]=y&list[0]=p&list[1]=q&plain=%E2%82%AC&e=")

    assert form["a"] == {"b": {"c": "1"}}
    assert listed(form["expand"]) == ["x", "y"]
    assert listed(form["list"]) == ["p", "q"]
    assert (form["plain"], form["e"]) == ("€", "")
    with pytest.raises(ValueError, match="a"):
        decode_form("a=1&a[b]=2")


@pytest.mark.parametrize("by", ["holder_name", "response_code"])
def test_every_documented_row_of_adyens_does_what_it_says(sandbox: Any, specs: Path, by: str) -> None:
    rows = json.loads((specs / "provider.test-triggers.json").read_text())["adyen"]["refusals"]

    for row in rows:
        if by == "holder_name":
            asked = {"holder": row["holderName"]}
        else:
            asked = {"additionalData": {"RequestedTestAcquirerResponseCode": row["requestedTestAcquirerResponseCode"]}}
        answer = sandbox.pay(key=f"{by} {row['holderName']}", **asked)

        assert answer["resultCode"] == row["resultCode"]
        if row["resultCode"] != "Authorised":
            assert (answer["refusalReason"], answer["refusalReasonCode"]) == (
                row["refusalReason"],
                row["refusalReasonCode"],
            )
