"""The conformance suite itself: every kind of wrong adapter fails at least one of its cases."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from providers.conformance import FAULTS, ProviderConformance, UnderTest, shows
from providers.contract import (
    Approved,
    Ask,
    Authorize,
    Call,
    Capability,
    Card,
    Declined,
    Event,
    Keep,
    Kind,
    NotProcessed,
    Outcome,
    Unknown,
)
from providers.declines import Action, Decline, look_up
from providers.neutral import NeutralProvider
from providers.registry import Account

LOST: Final = "reset after the effect"


class TakesALostAnswerForNothing(NeutralProvider):
    """The double charge: the payment would go to another account."""

    async def send(self, call: Call, keep: Keep) -> Outcome:
        outcome = await super().send(call, keep)
        return NotProcessed("not_sent") if isinstance(outcome, Unknown) else outcome


class TakesALostAnswerForADecline(NeutralProvider):
    """The lost sale that was paid: the shopper is told no, and charged."""

    async def send(self, call: Call, keep: Keep) -> Outcome:
        outcome = await super().send(call, keep)
        return Declined(look_up({}, "timeout")) if isinstance(outcome, Unknown) else outcome


class MakesANewKeyForEachSend(NeutralProvider):
    async def send(self, call: Call, keep: Keep) -> Outcome:
        return await super().send(replace(call, key=str(uuid.uuid4())), keep)


class BelievesAnyAmount(NeutralProvider):
    async def send(self, call: Call, keep: Keep) -> Outcome:
        outcome = await super().send(call, keep)
        lied = isinstance(outcome, Unknown) and outcome.reason.startswith("mismatch")
        return Approved("ch_any", call.amount) if lied else outcome


class SaysYesToEverything(NeutralProvider):
    async def send(self, call: Call, keep: Keep) -> Outcome:
        outcome = await super().send(call, keep)
        return Approved("mv_any", call.amount) if isinstance(outcome, Declined) else outcome


class KnowsNoDeclines(NeutralProvider):
    async def send(self, call: Call, keep: Keep) -> Outcome:
        outcome = await super().send(call, keep)
        return Declined(Decline("other", "soft", Action.RETRY_LATER)) if isinstance(outcome, Declined) else outcome


class CountsEveryCurrencyInCents(NeutralProvider):
    def compose(self, ask: Ask) -> Mapping[str, Any]:
        request = dict(super().compose(ask))
        if isinstance(ask, Authorize):
            cents = f"{ask.amount.amount_minor // 100}.{ask.amount.amount_minor % 100:02d}"
            request["body"] = {**request["body"], "money": {"value": cents, "currency": ask.amount.currency}}
        return request


class ComposesAnew(NeutralProvider):
    def compose(self, ask: Ask) -> Mapping[str, Any]:
        return {**super().compose(ask), "nonce": str(uuid.uuid4())}


class TakesAMissForANo(NeutralProvider):
    async def lookup(self, call: Call) -> Outcome:
        found = await super().lookup(call)
        return NotProcessed("not_sent") if isinstance(found, Unknown) else found


class LogsWhatItSends(NeutralProvider):
    async def send(self, call: Call, keep: Keep) -> Outcome:
        logging.getLogger("acme").debug("sending %s", dict(call.request))
        return await super().send(call, keep)


class BelievesEveryWebhook(NeutralProvider):
    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> None:
        """Nothing is proved."""


class BreaksOnABadWebhook(NeutralProvider):
    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> None:
        body.decode()
        super().verify_webhook(headers, body)


class NamesTheWrongOperation(NeutralProvider):
    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        return [replace(event, operation_id=None, provider_payment_id=None) for event in super().parse_webhook(body)]


async def fault(suite: ProviderConformance, psp: UnderTest, name: str, kind: Kind = Kind.AUTHORIZE) -> None:
    await suite.test_a_fault_is_never_taken_for_an_answer_and_is_settled_under_the_same_key(kind, FAULTS[name], psp)


Case = Callable[[ProviderConformance, UnderTest, pytest.LogCaptureFixture], Any]

CAUGHT: Final[list[tuple[type[NeutralProvider], Case]]] = [
    (TakesALostAnswerForNothing, lambda suite, psp, _: fault(suite, psp, LOST)),
    (TakesALostAnswerForNothing, lambda suite, psp, _: fault(suite, psp, "garbage", Kind.CAPTURE)),
    (TakesALostAnswerForADecline, lambda suite, psp, _: fault(suite, psp, LOST)),
    (TakesALostAnswerForADecline, lambda suite, psp, _: fault(suite, psp, "500 before the effect")),
    (MakesANewKeyForEachSend, lambda suite, psp, _: fault(suite, psp, LOST)),
    (
        MakesANewKeyForEachSend,
        lambda suite, psp, _: suite.test_the_same_bytes_under_the_same_key_happen_once_and_answer_the_same(
            Kind.AUTHORIZE, psp
        ),
    ),
    (BelievesAnyAmount, lambda suite, psp, _: fault(suite, psp, "another amount", Kind.REFUND)),
    (SaysYesToEverything, lambda suite, psp, _: suite.test_more_than_was_captured_cannot_be_refunded(psp)),
    (SaysYesToEverything, lambda suite, psp, _: suite.test_what_was_captured_cannot_be_voided(psp)),
    (
        KnowsNoDeclines,
        lambda suite, psp, _: suite.test_a_decline_is_mapped_keeps_its_raw_code_and_tells_no_thief("soft", psp),
    ),
    (
        CountsEveryCurrencyInCents,
        lambda suite, psp, _: suite.test_an_amount_is_refused_with_a_reason_or_the_psp_reads_exactly_it("KWD", psp),
    ),
    (ComposesAnew, lambda suite, psp, _: suite.test_the_same_ask_gives_the_same_request_and_it_is_json(psp)),
    (TakesAMissForANo, lambda suite, psp, _: suite.test_a_miss_is_no_proof(Kind.AUTHORIZE, psp)),
    (
        LogsWhatItSends,
        lambda suite, psp, caplog: suite.test_nothing_that_is_printed_or_logged_holds_the_card_or_a_key(psp, caplog),
    ),
    (
        BelievesEveryWebhook,
        lambda suite, psp, _: suite.test_a_webhook_about_another_operation_than_was_signed_is_refused(psp),
    ),
    (BelievesEveryWebhook, lambda suite, psp, _: suite.test_a_webhook_is_refused_without_its_secret(("x",), psp)),
    (
        BreaksOnABadWebhook,
        lambda suite, psp, _: suite.test_what_is_no_webhook_is_refused_and_nothing_else(b"\xff", psp),
    ),
    (
        NamesTheWrongOperation,
        lambda suite, psp, _: suite.test_the_webhook_of_a_verb_names_its_operation(Kind.VOID, psp),
    ),
]


async def run(case: Case, psp: UnderTest, caplog: pytest.LogCaptureFixture) -> None:
    running = case(ProviderConformance(), psp, caplog)
    if running is not None:
        await running


@pytest.mark.parametrize(
    ("wrong", "case"), CAUGHT, ids=[f"{wrong.__name__}-{n}" for n, (wrong, _) in enumerate(CAUGHT)]
)
async def test_a_wrong_adapter_fails_the_suite(
    wrong: type[NeutralProvider],
    case: Case,
    under_test: Callable[[str], UnderTest],
    kit: Any,
    sandbox: Any,
    transport: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right = under_test("neutral")

    def reopen(**changes: Any) -> Account:
        settings = kit.config("neutral", sandbox.url("neutral"), **changes)
        return Account(settings, wrong(settings, transport))

    await run(case, right, caplog)
    caplog.clear()
    with pytest.raises((AssertionError, UnicodeDecodeError, pytest.fail.Exception)):
        await run(case, replace(right, account=reopen(), reopen=reopen), caplog)


def test_what_cannot_be_had_is_skipped_with_its_reason(under_test: Callable[[str], UnderTest]) -> None:
    with pytest.raises(pytest.skip.Exception, match="neutral: no stored_credentials"):
        under_test("neutral").needs(Capability.LOOKUP, Capability.STORED_CREDENTIALS)


def test_a_real_psp_cannot_be_scripted_and_shows_no_books(under_test: Callable[[str], UnderTest]) -> None:
    live = replace(under_test("neutral"), script=None, books=None, webhook=None)

    with pytest.raises(pytest.skip.Exception, match="no faults can be scripted"):
        live.scripted(Kind.AUTHORIZE, "garbage", {})


def test_a_card_is_told_apart_from_a_part_of_another_number() -> None:
    card = Card("4242424242424242", 3, 2030, "737")

    assert shows(f"card={card.number}&cvc=737", card.number)
    assert shows("cvc=737&x", "737")
    assert not shows("id_17371", "737")
