"""The conformance suite itself: every kind of wrong adapter fails at least one of its cases."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from providers.adyen import AdyenProvider
from providers.conformance import FAULTS, ProviderConformance, UnderTest, shows
from providers.contract import (
    Accept,
    Approved,
    Ask,
    Authorize,
    Call,
    Capability,
    Capture,
    Card,
    CardFacts,
    Declined,
    Defend,
    Event,
    Increment,
    Keep,
    Kind,
    NotProcessed,
    Outcome,
    Unknown,
)
from providers.declines import Action, Decline, look_up
from providers.neutral import CAPABILITIES, EVENTS, NeutralProvider
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
    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> str:
        return "nothing is proved"


class BreaksOnABadWebhook(NeutralProvider):
    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> str:
        body.decode()
        return super().verify_webhook(headers, body)


class NamesTheWrongOperation(NeutralProvider):
    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        return [replace(event, operation_id=None, provider_payment_id=None) for event in super().parse_webhook(body)]


# --- Wrong about what is finished after a challenge


def finishes(call: Call) -> bool:
    return "proof" in call.request["body"]


class TakesALostCompletionForADecline(NeutralProvider):
    """The shopper has paid, and is told that the bank said no."""

    async def send(self, call: Call, keep: Keep) -> Outcome:
        outcome = await super().send(call, keep)
        lost = finishes(call) and isinstance(outcome, Unknown)
        return Declined(look_up({}, "timeout")) if lost else outcome


class TakesALostCompletionForNothing(NeutralProvider):
    async def send(self, call: Call, keep: Keep) -> Outcome:
        outcome = await super().send(call, keep)
        return NotProcessed("not_sent") if finishes(call) and isinstance(outcome, Unknown) else outcome


class BelievesAnyCompletion(NeutralProvider):
    """What the shopper of one payment brings back pays for another, and for any amount."""

    async def send(self, call: Call, keep: Keep) -> Outcome:
        outcome = await super().send(call, keep)
        lied = isinstance(outcome, Unknown) and outcome.reason.startswith(("mismatch", "http_422"))
        return Approved("ch_any", call.amount, captured=True) if finishes(call) and lied else outcome


class MakesANewKeyForEachCompletion(NeutralProvider):
    async def send(self, call: Call, keep: Keep) -> Outcome:
        return await super().send(replace(call, key=str(uuid.uuid4())) if finishes(call) else call, keep)


# --- Wrong about what is answered


class BelievesAnyReference(NeutralProvider):
    """An answer about somebody else's payment settles ours."""

    async def send(self, call: Call, keep: Keep) -> Outcome:
        outcome = await super().send(call, keep)
        return Approved("ch_any", call.amount) if outcome == Unknown("mismatch_operation") else outcome


class TakesAnUnknownErrorForARefusal(NeutralProvider):
    """A new word of the PSP sends the payment to a second account."""

    async def send(self, call: Call, keep: Keep) -> Outcome:
        outcome = await super().send(call, keep)
        unknown = isinstance(outcome, Unknown) and outcome.reason in ("http_400", "http_422")
        return NotProcessed("rejected") if unknown else outcome


class TakesAFailedLookupForNothing(NeutralProvider):
    async def lookup(self, call: Call) -> Outcome:
        found = await super().lookup(call)
        failed = isinstance(found, Unknown) and found.reason in ("lookup_failed", "unreadable")
        return NotProcessed("not_sent") if failed else found


class BelievesAnyAmountThatItLooksUp(NeutralProvider):
    async def lookup(self, call: Call) -> Outcome:
        found = await super().lookup(call)
        lied = isinstance(found, Unknown) and found.reason.startswith("mismatch")
        return Approved("ch_any", call.amount) if lied else found


class ForgetsTheAction(NeutralProvider):
    """A stolen card goes from account to account."""

    async def send(self, call: Call, keep: Keep) -> Outcome:
        outcome = await super().send(call, keep)
        if not isinstance(outcome, Declined):
            return outcome
        return replace(outcome, decline=replace(outcome.decline, action=Action.RETRY_OTHER_NOW))


# --- Wrong about what is asked


class NeverLetsTheRestGo(NeutralProvider):
    """The shopper's money stays held, and more of it can be taken."""

    def compose(self, ask: Ask) -> Mapping[str, Any]:
        request = dict(super().compose(ask))
        return request | {"body": {**request["body"], "last": False}} if isinstance(ask, Capture) else request


class NeverAsksTheShopper(NeutralProvider):
    """Authentication is required, and nobody is asked."""

    def compose(self, ask: Ask) -> Mapping[str, Any]:
        request = dict(super().compose(ask))
        return request | {"body": {**request["body"], "ask_shopper": False}} if isinstance(ask, Authorize) else request


class ComposesWhatNobodyPermits(NeutralProvider):
    def compose(self, ask: Ask) -> Mapping[str, Any]:
        return {} if isinstance(ask, Increment | Defend | Accept) else super().compose(ask)


class ClaimsNative(NeutralProvider):
    capabilities = replace(CAPABILITIES, supported=CAPABILITIES.supported | {Capability.NATIVE})


class ClaimsDisputes(NeutralProvider):
    capabilities = replace(CAPABILITIES, supported=CAPABILITIES.supported | {Capability.DISPUTE_ACCEPT})


class SaysTwiceWhatItCan(NeutralProvider):
    """What is on request is there without being enabled."""

    capabilities = replace(CAPABILITIES, on_request=frozenset({Capability.PARTIAL_REFUND}))


# --- Wrong about the card


class KeepsTheCard(NeutralProvider):
    """The card number goes to the database in clear."""

    async def send(self, call: Call, keep: Keep) -> Outcome:
        await keep(call.request)
        return await super().send(call, keep)


class TellsTheCard(NeutralProvider):
    """The card number is in what is told to the merchant."""

    numbers: Final[list[str]] = []

    def compose(self, ask: Ask) -> Mapping[str, Any]:
        if isinstance(ask, Authorize) and isinstance(ask.instrument, Card):
            self.numbers.append(ask.instrument.number)
        return super().compose(ask)

    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        return [
            replace(event, outcome=replace(event.outcome, card=CardFacts(last4=self.numbers[-1])))
            if isinstance(event.outcome, Approved) and self.numbers
            else event
            for event in super().parse_webhook(body)
        ]


# --- Wrong about what is told


class CallsEveryReleaseALapse(NeutralProvider):
    """The merchant's own void is told as an authorization that ran out."""

    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        return [replace(event, lapsed=True) for event in super().parse_webhook(body)]


class BreaksOnAnUnknownEvent(NeutralProvider):
    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        return [replace(event, kind=EVENTS[event.type]) for event in super().parse_webhook(body)]


class BreaksOnAnOddEvent(NeutralProvider):
    """One null where a text was, and every webhook behind it waits."""

    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        json.loads(body)["charge"]["card"]["scheme"].upper()
        return super().parse_webhook(body)


async def fault(suite: ProviderConformance, psp: UnderTest, name: str, kind: Kind = Kind.AUTHORIZE) -> None:
    await suite.test_a_fault_is_never_taken_for_an_answer_and_is_settled_under_the_same_key(kind, FAULTS[name], psp)


async def finish(suite: ProviderConformance, psp: UnderTest, name: str) -> None:
    await suite.test_a_fault_while_a_challenge_is_finished_is_never_taken_for_an_answer(FAULTS[name], psp)


async def look(suite: ProviderConformance, psp: UnderTest, name: str, kind: Kind) -> None:
    await suite.test_a_lookup_that_fails_or_lies_proves_nothing(kind, FAULTS[name], psp)


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
    (TakesALostCompletionForADecline, lambda suite, psp, _: finish(suite, psp, LOST)),
    (TakesALostCompletionForADecline, lambda suite, psp, _: finish(suite, psp, "garbage")),
    (TakesALostCompletionForADecline, lambda suite, psp, _: finish(suite, psp, "503 before the effect")),
    (TakesALostCompletionForNothing, lambda suite, psp, _: finish(suite, psp, "500 after the effect")),
    (BelievesAnyCompletion, lambda suite, psp, _: finish(suite, psp, "another amount")),
    (BelievesAnyCompletion, lambda suite, psp, _: finish(suite, psp, "another currency")),
    (BelievesAnyCompletion, lambda suite, psp, _: finish(suite, psp, "another operation")),
    (
        BelievesAnyCompletion,
        lambda suite, psp, _: suite.test_what_the_shopper_of_another_payment_brought_back_finishes_only_that_one(psp),
    ),
    (
        MakesANewKeyForEachCompletion,
        lambda suite, psp, _: suite.test_a_challenge_is_always_finished_under_the_same_key(psp),
    ),
    (
        MakesANewKeyForEachSend,
        lambda suite, psp, _: suite.test_the_same_call_always_travels_under_the_same_keys(Kind.REFUND, psp),
    ),
    (BelievesAnyReference, lambda suite, psp, _: fault(suite, psp, "another operation")),
    (BelievesAnyReference, lambda suite, psp, _: fault(suite, psp, "another operation", Kind.CAPTURE)),
    (
        BelievesAnyReference,
        lambda suite, psp, _: suite.test_an_answer_about_another_payment_is_not_believed(Kind.VOID, psp),
    ),
    (
        TakesAnUnknownErrorForARefusal,
        lambda suite, psp, _: suite.test_an_error_that_nobody_documented_is_never_a_refusal(Kind.AUTHORIZE, 422, psp),
    ),
    (
        TakesAnUnknownErrorForARefusal,
        lambda suite, psp, _: suite.test_an_error_that_nobody_documented_is_never_a_refusal(Kind.REFUND, 400, psp),
    ),
    (TakesAFailedLookupForNothing, lambda suite, psp, _: look(suite, psp, "503 before the effect", Kind.AUTHORIZE)),
    (TakesAFailedLookupForNothing, lambda suite, psp, _: look(suite, psp, LOST, Kind.CAPTURE)),
    (TakesAFailedLookupForNothing, lambda suite, psp, _: look(suite, psp, "garbage", Kind.REFUND)),
    (BelievesAnyAmountThatItLooksUp, lambda suite, psp, _: look(suite, psp, "another amount", Kind.AUTHORIZE)),
    (BelievesAnyAmountThatItLooksUp, lambda suite, psp, _: look(suite, psp, "another currency", Kind.REFUND)),
    *(
        (
            ForgetsTheAction,
            lambda suite, psp, _, firmness=firmness: (
                suite.test_a_decline_is_mapped_keeps_its_raw_code_and_tells_no_thief(firmness, psp)
            ),
        )
        for firmness in ("soft", "hard")
    ),
    *(
        (
            NeverLetsTheRestGo,
            lambda suite, psp, _, captures=captures: suite.test_after_the_final_capture_the_rest_is_released(
                captures, psp
            ),
        )
        for captures in ("one", "several")
    ),
    (NeverAsksTheShopper, lambda suite, psp, _: suite.test_authentication_that_is_required_takes_place(psp)),
    *(
        (
            ComposesWhatNobodyPermits,
            lambda suite, psp, _, kind=kind: suite.test_what_no_account_there_can_do_is_composed_for_none(kind, psp),
        )
        for kind in (Kind.INCREMENT, Kind.DEFEND, Kind.ACCEPT)
    ),
    (ClaimsDisputes, lambda suite, psp, _: suite.test_what_is_claimed_can_be_exercised_here(psp)),
    (
        SaysTwiceWhatItCan,
        lambda suite, psp, _: suite.test_what_is_there_on_request_only_is_off_until_it_is_enabled(psp),
    ),
    (
        KeepsTheCard,
        lambda suite, psp, caplog: suite.test_nothing_that_is_printed_or_logged_holds_the_card_or_a_key(psp, caplog),
    ),
    (TellsTheCard, lambda suite, psp, _: suite.test_what_is_told_of_a_payment_by_card_holds_no_card(psp)),
    (
        CallsEveryReleaseALapse,
        lambda suite, psp, _: suite.test_the_webhook_of_a_verb_names_its_operation(Kind.VOID, psp),
    ),
    (
        BreaksOnAnUnknownEvent,
        lambda suite, psp, _: suite.test_an_event_of_a_type_that_nobody_knows_is_kept_and_changes_nothing(psp),
    ),
    (
        BreaksOnAnOddEvent,
        lambda suite, psp, _: suite.test_whatever_an_authentic_webhook_says_it_is_kept_or_refused(Kind.REFUND, psp),
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
    with pytest.raises((AssertionError, UnicodeDecodeError, LookupError, TypeError, pytest.fail.Exception)):
        await run(case, replace(right, account=reopen(), reopen=reopen), caplog)


async def test_an_adapter_that_claims_native_authentication_without_it_fails_the_suite(
    under_test: Callable[[str], UnderTest], kit: Any, sandbox: Any, transport: Any
) -> None:
    settings = kit.config("neutral", sandbox.url("neutral"))
    wrong = replace(under_test("neutral"), account=Account(settings, ClaimsNative(settings, transport)))

    with pytest.raises(AssertionError, match="out of the checkout"):
        await ProviderConformance().test_a_shopper_who_passes_inside_the_checkout_has_paid_once(wrong)


async def test_an_adapter_that_never_tells_a_lapse_fails_the_suite(
    under_test: Callable[[str], UnderTest], kit: Any, sandbox: Any, transport: Any
) -> None:
    """At a PSP where authorizations run out."""

    class TellsNoLapse(AdyenProvider):
        def parse_webhook(self, body: bytes) -> Sequence[Event]:
            return [replace(event, lapsed=False) for event in super().parse_webhook(body)]

    settings = kit.config("adyen", sandbox.url("adyen"))
    wrong = replace(under_test("adyen"), account=Account(settings, TellsNoLapse(settings, transport)))

    with pytest.raises(AssertionError):
        await ProviderConformance().test_an_authorization_that_runs_out_is_told_as_a_release_that_nobody_asked_for(
            wrong
        )


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
