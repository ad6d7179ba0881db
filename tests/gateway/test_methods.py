"""How a payment method is shown while, and after, it is verified."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from gateway.books import Method
from gateway.methods import method_object, stored, verified_answer
from gateway.payment import Payment, Reason, Status, Terms
from gateway.vault import Keyring
from providers.contract import CardFacts
from providers.declines import Action, Decline

KEYS: Final = Keyring.derive(b"s" * 32)
NOW: Final = datetime(2026, 11, 21, tzinfo=UTC)
TERMS: Final = Terms(
    id="pay_1",
    merchant_id="mer_1",
    livemode=False,
    amount=0,
    currency="EUR",
    capture_method="automatic",
    off_session=False,
    created_at=NOW,
)
METHOD: Final = Method(
    "pm_1",
    "card",
    {"eu": "secret-token"},
    {"brand": "visa", "bin": "424242", "last4": "4242"},
    b"sealed",
    None,
    reusable=True,
    wipe_at=None,
    fingerprint="f" * 32,
)
LOST: Final = Decline("card_lost", "hard", Action.DO_NOT_RETRY, "lost_card")
NOT_SENT: Final = Decline("not_sent", "soft", Action.RETRY_LATER)
REDIRECT: Final = {"type": "redirect_to_url", "redirect_to_url": {"url": "https://psp.example/3ds"}}


def verifying(status: Status, **changes: Any) -> Payment:
    plain = Payment(
        TERMS, status, updated_at=NOW + timedelta(seconds=1), version=1, payment_method="pm_1", account="eu"
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("payment", "code", "said", "decided"),
    [
        (verifying(Status.SUCCEEDED), 201, "succeeded", True),
        (verifying(Status.REQUIRES_ACTION, next_action=REDIRECT), 201, "requires_action", False),
        (verifying(Status.PROCESSING, processing_reason=Reason.OUTCOME_UNKNOWN), 202, "processing", False),
        (verifying(Status.REQUIRES_PAYMENT_METHOD, decline=LOST), 402, "failed", True),
        (verifying(Status.FAILED, decline=LOST), 402, "failed", True),
        (verifying(Status.FAILED, decline=NOT_SENT), 402, "not_processed", True),
        (verifying(Status.CANCELED), 402, "canceled", True),
    ],
    ids=lambda value: value.status if isinstance(value, Payment) else None,
)
def test_a_verification_is_answered_by_what_became_of_its_payment(
    payment: Payment, code: int, said: str, *, decided: bool
) -> None:
    answer = verified_answer(METHOD, payment, None, KEYS, 201)

    shown = json.loads(answer.body)
    assert (answer.status, shown["verification"]["status"], answer.decided) == (code, said, decided)
    assert shown["object"] == "payment_method"
    assert shown["verification"]["payment"] == "pay_1"
    assert shown["verification"]["next_action"] == payment.next_action
    assert (shown["verification"]["decline"] or {}).get("code") == (payment.decline.code if payment.decline else None)
    assert answer.headers.get("Location") == ("/v1/payment_methods/pm_1" if code == 202 else None)


def test_every_status_of_a_payment_has_its_word_for_a_verification() -> None:
    for status in Status:
        assert method_object(stored(METHOD, livemode=False, at=NOW), verifying(status))["verification"]["status"]


def test_a_verification_that_reached_nobody_is_sent_again_under_the_same_key() -> None:
    answer = verified_answer(
        METHOD, verifying(Status.PROCESSING, processing_reason=Reason.AWAITING_RETRY), None, KEYS, 201
    )

    assert answer.problem is not None
    assert (answer.problem.code, answer.decided) == ("provider_unavailable", False)


def test_a_replay_names_the_method_that_was_stored_and_not_the_one_it_brought_itself() -> None:
    mine = verified_answer(METHOD, verifying(Status.SUCCEEDED), None, KEYS, 201)
    again = verified_answer(replace(METHOD, id="pm_2"), verifying(Status.SUCCEEDED), None, KEYS, 201)

    assert again.body == mine.body


def test_what_the_provider_has_said_of_the_card_is_shown_with_what_was_known() -> None:
    told = verifying(
        Status.SUCCEEDED, card=CardFacts(brand="visa", funding="debit", country="DE"), network_transaction_id="NTI-1"
    )

    shown = json.loads(verified_answer(METHOD, told, None, KEYS, 201).body)

    assert (shown["card"]["last4"], shown["card"]["funding"], shown["card"]["exp_year"]) == ("4242", "debit", None)
    assert shown["network_transaction_id"] == "NTI-1"
    assert shown["updated"] == "2026-11-21T00:00:01.000000Z"


def test_a_token_is_never_shown_nor_a_sealed_card() -> None:
    shown = method_object(stored(METHOD, livemode=False, at=NOW), None)

    assert shown["tokens"] == ["eu"]
    assert "secret-token" not in str(shown)
    assert "sealed" not in str(shown)
