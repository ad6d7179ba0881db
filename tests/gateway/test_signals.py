"""What an attempt's outcome says of its account, in one word."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import Final

import pytest

from gateway.payment import OPEN, Operation, OperationStatus
from gateway.signals import (
    APPROVED,
    DECLINED_AMBIGUOUS,
    DECLINED_CUSTOMER,
    DECLINED_PROVIDER,
    TECHNICAL,
    WORDS,
    word_of,
)
from providers.contract import Kind
from providers.declines import Action, Decline, load

S = OperationStatus
TABLES: Final = sorted(
    file.name.removesuffix(".csv")
    for file in (files("providers") / "data").iterdir()
    if file.name.endswith(("_declines.csv", "_refusals.csv"))
)


def attempt(status: OperationStatus, decline: Decline | None = None, reason: str | None = None) -> Operation:
    plain = Operation("att_1", Kind.AUTHORIZE, 1, 1, "a", "psp", 100, status, "key")
    return replace(plain, decline=decline, reason=reason)


@pytest.mark.parametrize(
    ("code", "evidence", "word"),
    [
        ("insufficient_funds", "0", DECLINED_CUSTOMER),
        ("other", "0", DECLINED_CUSTOMER),
        ("authentication_failed", "0", DECLINED_CUSTOMER),
        ("not_permitted", "0.5", DECLINED_AMBIGUOUS),
        ("issuer_generic", "1", DECLINED_AMBIGUOUS),
        ("issuer_soft", "1", DECLINED_AMBIGUOUS),
        ("issuer_unavailable", "1", DECLINED_AMBIGUOUS),
        ("suspected_fraud", "1", DECLINED_PROVIDER),
        ("suspected_fraud", "0", DECLINED_CUSTOMER),
        ("provider_error", "1", TECHNICAL),
        ("provider_config", "1", TECHNICAL),
    ],
)
def test_a_decline_speaks_by_what_its_code_tells_about_the_account(code: str, evidence: str, word: str) -> None:
    decline = Decline(code, "soft", Action.RETRY_OTHER_NOW, evidence=evidence)

    assert word_of(attempt(S.DECLINED, decline)) == word


@pytest.mark.parametrize("table", TABLES)
def test_every_code_in_the_tables_has_a_word_and_only_that_of_the_shopper_says_nothing_of_the_account(
    table: str,
) -> None:
    words = {decline: word_of(attempt(S.DECLINED, decline)) for decline in load(table).values()}

    assert set(words.values()) <= set(WORDS) - {APPROVED}
    assert {decline.evidence for decline, word in words.items() if word == DECLINED_CUSTOMER} <= {"0"}
    assert {decline.evidence for decline, word in words.items() if word != DECLINED_CUSTOMER} <= {"0.5", "1"}


@pytest.mark.parametrize("status", [S.AUTHORIZED, S.CAPTURED])
def test_an_approval_says_so_captured_or_not(status: OperationStatus) -> None:
    assert word_of(attempt(status)) == APPROVED


@pytest.mark.parametrize("reason", ["not_sent", "rate_limited", "credentials"])
def test_an_account_that_did_nothing_had_a_technical_error(reason: str) -> None:
    assert word_of(attempt(S.NOT_PROCESSED, reason=reason)) == TECHNICAL


def test_a_rejected_request_may_be_its_own_fault_or_the_accounts() -> None:
    assert word_of(attempt(S.NOT_PROCESSED, reason="rejected")) == DECLINED_AMBIGUOUS


def test_what_nobody_knows_is_technical_unless_it_is_our_own_doing() -> None:
    assert word_of(attempt(S.UNKNOWN, reason="timeout")) == TECHNICAL
    assert word_of(attempt(S.UNKNOWN, reason="step_not_kept")) is None


@pytest.mark.parametrize("status", [*sorted(OPEN - {S.UNKNOWN}), S.VOIDED, S.EXPIRED])
def test_what_waits_or_was_ended_without_an_answer_says_nothing(status: OperationStatus) -> None:
    assert word_of(attempt(status)) is None


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.AUTHORIZE])
def test_only_authorizations_speak(kind: Kind) -> None:
    for status in OperationStatus:
        assert word_of(replace(attempt(status), kind=kind)) is None
