"""A payment's whole life at Adyen: the adapter on the official SDK, over real HTTP, against the sandbox and its books."""

import base64
import json
import uuid
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import HTTPRedirectHandler, build_opener

import pytest

from providers.contract import (
    ActionRequired,
    Approved,
    Card,
    Declined,
    DisputeStatus,
    Document,
    Kind,
    NotProcessed,
    Pending,
    ThreeDSecure,
    Token,
    Unknown,
)
from providers.money import Money

ENROLLED = Card("5454545454545454", 3, 2030, "737", "Ada Lovelace")
BROWSER = {
    "accept_header": "*/*",
    "color_depth": 24,
    "java_enabled": False,
    "language": "en",
    "screen_height": 1,
    "screen_width": 2,
    "time_zone_offset": -60,
    "user_agent": "M",
}
IN_BROWSER = {"channel": "web", "origin": "https://shop.example", "browser_info": BROWSER}


class NoRedirect(HTTPRedirectHandler):
    """A browser that only looks where it is sent."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        return None

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        return headers["Location"]


def back_from(url: str, result: str) -> dict[str, str]:
    """What the shopper brings back from the issuer's page."""
    return dict(parse_qsl(urlsplit(build_opener(NoRedirect).open(f"{url}?result={result}")).query))


class Life:
    """One account at the sandbox, what was sent there, and what it told."""

    def __init__(self, account: Any, sandbox: Any, kit: Any) -> None:
        self.account = account
        self.sandbox = sandbox
        self.kit = kit
        self.kept: list[Any] = []

    async def keep(self, request: Any) -> None:
        self.kept.append(request)

    async def ask(self, kind: Any, *, first_send: bool = True, **ask: Any) -> tuple[Any, Any]:
        call = self.kit.call(self.account, self.kit.ask("adyen", kind, **ask), key=str(uuid.uuid4()))
        return call, await self.account.send(call, self.keep, first_send=first_send)

    async def approved(self, **ask: Any) -> Any:
        _, outcome = await self.ask(Kind.AUTHORIZE, **ask)
        assert isinstance(outcome, Approved)
        return outcome

    async def complete(self, call: Any, details: Any) -> Any:
        finishing = replace(call, request=self.account.provider.completion(replace(call, request={}), details))
        return await self.account.send(finishing, self.keep, first_send=True)

    async def told(self, code: str) -> Any:
        """The event of one code, verified and translated."""
        word = f'"eventCode":"{code}"'.encode()
        headers, body = await self.sandbox.webhook("adyen", lambda raw: word in raw)
        self.account.provider.verify_webhook(headers, body)
        (event,) = self.account.provider.parse_webhook(body)
        return event

    def books(self) -> Any:
        return self.sandbox.books("adyen")


@pytest.fixture
def life(sandbox: Any, open_account: Any, kit: Any) -> Life:
    return Life(open_account("adyen", sandbox.url("adyen")), sandbox, kit)


# --- Challenges ---------------------------------------------------------------------------------

ENDS = [
    ("succeeded", Approved, ThreeDSecure("authenticated", "challenge", "2.2.0", "02")),
    ("failed", Declined, None),
]


@pytest.mark.parametrize(("result", "outcome", "facts"), ENDS)
async def test_a_redirect_ends_where_the_shopper_ends_it(result: Any, outcome: Any, facts: Any, life: Life) -> None:
    call, waiting = await life.ask(Kind.AUTHORIZE, instrument=ENROLLED)
    assert isinstance(waiting, ActionRequired)
    assert life.books()["authorisations"] == []

    ended = await life.complete(call, back_from(waiting.action["redirect_to_url"]["url"], result))

    assert type(ended) is outcome
    assert ended.provider_id == waiting.provider_id
    assert len(life.books()["authorisations"]) == (outcome is Approved)
    if isinstance(ended, Approved):
        assert ended.three_d_secure == facts
    if isinstance(ended, Declined):
        assert (ended.decline.code, ended.decline.provider_code) == ("authentication_failed", "11")


@pytest.mark.parametrize(("result", "outcome", "facts"), ENDS)
async def test_a_native_challenge_has_two_steps(result: Any, outcome: Any, facts: Any, life: Life) -> None:
    call, waiting = await life.ask(Kind.AUTHORIZE, instrument=ENROLLED, shopper=IN_BROWSER)
    assert waiting.provider_id is None

    steps = []
    ended: Any = waiting
    while isinstance(ended, ActionRequired):
        action = ended.action["use_adyen_sdk"]
        steps.append(action["subtype"])
        ended = await life.complete(call, back_from(action["url"], result))

    assert steps == ["fingerprint", "challenge"]
    assert type(ended) is outcome
    if isinstance(ended, Approved):
        assert ended.three_d_secure == facts
        assert (await life.told("AUTHORISATION")).operation_id == "att_1"


async def test_a_result_made_by_hand_is_as_good_as_the_components(life: Life) -> None:
    call, waiting = await life.ask(Kind.AUTHORIZE, instrument=ENROLLED, shopper=IN_BROWSER)

    def result(action: Any, **content: Any) -> Any:
        content |= {"authorisationToken": action["use_adyen_sdk"]["authorisationToken"]}
        return {"threeDSResult": base64.b64encode(json.dumps(content).encode()).decode()}

    challenge = await life.complete(call, result(waiting.action, threeDSCompInd="Y"))
    ended = await life.complete(call, result(challenge.action, transStatus="Y"))

    assert isinstance(ended, Approved)


async def test_the_answer_to_details_may_be_lost(life: Life) -> None:
    call, waiting = await life.ask(Kind.AUTHORIZE, instrument=ENROLLED)
    details = back_from(waiting.action["redirect_to_url"]["url"], "succeeded")
    life.sandbox.control("adyen", "faults", {"operation": "authorize", "fault": "reset_after_effect"})

    ended = await life.complete(call, details)

    assert isinstance(ended, Approved)
    assert len(life.books()["authorisations"]) == 1


async def test_made_up_details_leave_the_challenge_open(life: Life) -> None:
    call, waiting = await life.ask(Kind.AUTHORIZE, instrument=ENROLLED)

    refused = await life.complete(call, {"redirectResult": "made up"})
    ended = await life.complete(call, back_from(waiting.action["redirect_to_url"]["url"], "succeeded"))

    assert isinstance(refused, NotProcessed)
    assert isinstance(ended, Approved)


async def test_authentication_can_be_required(life: Life, kit: Any) -> None:
    _, plain = await life.ask(Kind.AUTHORIZE, instrument=kit.CARD)
    _, required = await life.ask(Kind.AUTHORIZE, instrument=kit.CARD, three_d_secure="required")

    assert isinstance(plain, Approved)
    assert plain.three_d_secure is None
    assert isinstance(required, ActionRequired)


async def test_an_issuer_may_be_content_without_a_challenge(life: Life) -> None:
    found = await life.approved(instrument=Card("4000200000001014", 3, 2030))

    assert found.three_d_secure == ThreeDSecure("attempted", "frictionless", "2.2.0", "06")


async def test_a_challenge_that_nobody_finished_is_ended(life: Life) -> None:
    await life.ask(Kind.AUTHORIZE, instrument=ENROLLED, shopper=IN_BROWSER)

    _, ended = await life.ask(Kind.VOID, provider_payment_id=None, unfinished=True)

    assert isinstance(ended, Approved)
    assert (life.books()["authorisations"], life.books()["voids"]) == ([], [])


async def test_a_payment_whose_answer_was_lost_is_cancelled_by_our_reference(life: Life) -> None:
    await life.approved(capture_method="manual")

    _, ended = await life.ask(Kind.VOID, provider_payment_id=None)

    assert isinstance(ended, Pending)
    event = await life.told("TECHNICAL_CANCEL")
    assert (event.kind, event.provider_id) == (Kind.VOID, ended.provider_id)
    assert len(life.books()["voids"]) == 1


# --- Verifications and stored cards -------------------------------------------------------------


async def test_a_verified_card_is_charged_later_without_its_shopper(life: Life, kit: Any) -> None:
    verified = await life.approved(instrument=kit.CARD, amount=Money(0, "EUR"), setup_future_usage="off_session")
    assert verified.token
    assert verified.token.startswith("pay_1/")

    charged = await life.approved(instrument=Token(verified.token), off_session=True, recurring="subscription")

    assert (charged.amount, charged.captured) == (kit.EUR, True)
    assert [entry["amount"] for entry in life.books()["captures"]] == [1999]


async def test_a_stored_card_is_its_customers_alone(life: Life, kit: Any) -> None:
    first = await life.approved(instrument=kit.CARD, customer="cus_1", setup_future_usage="on_session")
    shopper, _, stored = first.token.rpartition("/")

    own = await life.approved(instrument=Token(stored), customer="cus_1")
    _, others = await life.ask(Kind.AUTHORIZE, instrument=Token(stored), customer="cus_2")

    assert shopper == "cus_1"
    assert isinstance(own, Approved)
    assert others == NotProcessed("rejected", "803")


async def test_a_later_payment_may_need_its_shopper(life: Life) -> None:
    card = Card("4000200000001030", 3, 2030)
    call, waiting = await life.ask(Kind.AUTHORIZE, instrument=card, setup_future_usage="off_session")
    first = await life.complete(call, back_from(waiting.action["redirect_to_url"]["url"], "succeeded"))
    assert first.token

    _, later = await life.ask(Kind.AUTHORIZE, instrument=Token(first.token), off_session=True)

    assert isinstance(later, Declined)
    assert (later.decline.code, later.decline.action) == ("authentication_required", "step_up_3ds")


async def test_a_card_is_charged_on_the_strength_of_a_payment_made_elsewhere(life: Life) -> None:
    found = await life.approved(
        instrument=ENROLLED, off_session=True, recurring="unscheduled", network_transaction_id="011122223333444"
    )

    assert found.network_transaction_id


# --- What the networks advise -------------------------------------------------------------------

MASTERCARD = "5555444433331111"
ADVISED = [
    ("4111111111111111", "DECLINED", "retry_other_now", "05", None),
    ("4111111111111111", "DECLINED:46", "do_not_retry", "46", "do_not_try_again"),
    ("4111111111111111", "NOT_ENOUGH_BALANCE", "retry_later", "51", "try_again_later"),
    (MASTERCARD, "DECLINED:03", "do_not_retry", "05", "do_not_try_again"),
    (MASTERCARD, "NOT_ENOUGH_BALANCE:25", "retry_later", "51", "wait"),
]


@pytest.mark.parametrize(("number", "holder", "action", "code", "advice"), ADVISED)
async def test_a_refusal_says_what_the_network_advises(
    number: Any, holder: Any, action: Any, code: Any, advice: Any, life: Life
) -> None:
    _, found = await life.ask(Kind.AUTHORIZE, instrument=Card(number, 3, 2030, "737", holder))

    assert (found.decline.action, found.decline.network_code, found.decline.network_advice) == (action, code, advice)


# --- Changed amounts ----------------------------------------------------------------------------


@pytest.mark.parametrize("total", [2500, 1000])
async def test_an_authorized_amount_is_changed_and_told_by_webhook(total: Any, life: Life) -> None:
    payment = await life.approved(capture_method="manual", adjustable=True)

    _, found = await life.ask(Kind.INCREMENT, provider_payment_id=payment.provider_id, amount=Money(total, "EUR"))

    assert isinstance(found, Pending)
    event = await life.told("AUTHORISATION_ADJUSTMENT")
    assert (event.kind, event.operation_id, event.provider_id) == (Kind.INCREMENT, "inc_1", found.provider_id)
    assert event.outcome.amount == Money(total, "EUR")
    assert [entry["amount"] for entry in life.books()["authorisations"]] == [total]


@pytest.mark.parametrize("adjustable", [True, False])
async def test_a_changed_amount_may_be_refused(adjustable: Any, life: Life) -> None:
    payment = await life.approved(capture_method="manual", adjustable=adjustable)
    fault = {"operation": "increment", "fault": "decline", "code": "NOT_ENOUGH_BALANCE"}
    if adjustable:
        life.sandbox.control("adyen", "faults", fault)

    await life.ask(Kind.INCREMENT, provider_payment_id=payment.provider_id, amount=Money(2500, "EUR"))

    event = await life.told("AUTHORISATION_ADJUSTMENT")
    assert event.outcome.decline.code == ("insufficient_funds" if adjustable else "provider_refused")
    assert [entry["amount"] for entry in life.books()["authorisations"]] == [1999]


async def test_a_changed_amount_is_changed_once(life: Life) -> None:
    payment = await life.approved(capture_method="manual", adjustable=True)
    life.sandbox.control("adyen", "faults", {"operation": "increment", "fault": "reset_after_effect"})

    _, found = await life.ask(Kind.INCREMENT, provider_payment_id=payment.provider_id, amount=Money(2500, "EUR"))

    assert isinstance(found, Pending)
    assert len(life.sandbox.control("adyen", "webhooks", method="GET")["webhooks"]) == 2


# --- Failures that come later -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holder", "kind"),
    [
        ("CAPTURE_FAILED", Kind.CAPTURE),
        ("REFUND_FAILED", Kind.REFUND),
        ("REFUNDED_REVERSED", Kind.REFUND),
    ],
)
async def test_what_had_worked_may_fail_after_all(holder: Any, kind: Any, life: Life, kit: Any) -> None:
    method = "manual" if kind is Kind.CAPTURE else "automatic"
    card = replace(kit.CARD, holder_name=holder)
    payment = await life.approved(instrument=card, capture_method=method)

    await life.ask(kind, provider_payment_id=payment.provider_id)

    before, after = await life.told(kind.value.upper()), await life.told(holder)
    assert isinstance(before.outcome, Approved)
    assert isinstance(after.outcome, Declined)
    assert before.operation_id == after.operation_id == kit.ask("adyen", kind).operation_id
    assert before.provider_id == after.provider_id


# --- Disputes -----------------------------------------------------------------------------------

DOCUMENTS = (Document("DefenseMaterial", "application/pdf", b"%PDF-1.7"),)
DEFENCE: dict[str, Any] = {"reason": "SupplyDefenseMaterial", "documents": DOCUMENTS}


async def disputed(life: Life, holder: str = "chargeback:13.1") -> tuple[Any, Any]:
    """A captured payment, and the news that it is disputed."""
    card = replace(life.kit.CARD, holder_name=holder)
    payment = await life.approved(instrument=card)
    event = await life.told("REQUEST_FOR_INFORMATION" if "request" in holder else "CHARGEBACK")
    return payment, event


async def test_a_chargeback_is_news_of_its_payment(life: Life, kit: Any) -> None:
    payment, event = await disputed(life)

    assert (event.kind, event.outcome) == (None, None)
    assert event.provider_payment_id == payment.provider_id != event.dispute.dispute_id
    news = event.dispute
    assert (news.status, news.amount) == (DisputeStatus.NEEDS_RESPONSE, kit.EUR)
    assert (news.reason, news.network_reason_code) == ("product_not_received", "13.1")
    assert news.respond_by is not None


async def test_a_dispute_is_defended_and_won(life: Life, kit: Any) -> None:
    _, event = await disputed(life)
    dispute = event.dispute.dispute_id

    _, found = await life.ask(Kind.DEFEND, dispute_id=dispute, **DEFENCE)

    assert found == Approved(dispute, kit.EUR)
    supplied = await life.told("INFORMATION_SUPPLIED")
    won = await life.told("CHARGEBACK_REVERSED")
    assert (supplied.dispute.status, won.dispute.status) == (DisputeStatus.UNDER_REVIEW, DisputeStatus.WON)
    assert supplied.dispute.dispute_id == won.dispute.dispute_id == dispute


async def test_a_dispute_may_be_defended_in_vain(life: Life) -> None:
    _, event = await disputed(life, "chargeback defended in vain")

    await life.ask(Kind.DEFEND, dispute_id=event.dispute.dispute_id, **DEFENCE)

    assert (await life.told("SECOND_CHARGEBACK")).dispute.status is DisputeStatus.LOST


async def test_an_inquiry_is_answered(life: Life) -> None:
    _, event = await disputed(life, "request for information")
    assert event.dispute.status is DisputeStatus.INQUIRY

    _, found = await life.ask(Kind.DEFEND, dispute_id=event.dispute.dispute_id, **DEFENCE)

    assert isinstance(found, Approved)
    assert (await life.told("INFORMATION_SUPPLIED")).dispute.status is DisputeStatus.UNDER_REVIEW


async def test_a_dispute_is_given_up(life: Life, kit: Any) -> None:
    _, event = await disputed(life)

    _, found = await life.ask(Kind.ACCEPT, dispute_id=event.dispute.dispute_id)

    assert found == Approved(event.dispute.dispute_id, kit.EUR)
    assert (await life.told("DISPUTE_DEFENSE_PERIOD_ENDED")).dispute.status is DisputeStatus.LOST


async def test_a_defence_without_what_it_needs_is_refused(life: Life) -> None:
    _, event = await disputed(life)

    _, found = await life.ask(Kind.DEFEND, dispute_id=event.dispute.dispute_id, reason="SupplyDefenseMaterial")

    assert (found.decline.code, found.decline.provider_code) == (
        "provider_refused",
        "Required defense documents are missing",
    )


async def lost_answer(life: Life, kind: Any, fault: str) -> tuple[Any, Any]:
    """The call that answers a new dispute, and its outcome where Adyen obeys it and its own answer is lost."""
    _, event = await disputed(life)
    life.sandbox.control("adyen", "faults", {"operation": kind.value, "fault": fault})
    ask = DEFENCE if kind is Kind.DEFEND else {}
    return await life.ask(kind, dispute_id=event.dispute.dispute_id, **ask)


@pytest.mark.parametrize("kind", [Kind.DEFEND, Kind.ACCEPT])
async def test_a_lost_answer_about_a_dispute_is_found_under_its_key(kind: Any, life: Life) -> None:
    _, found = await lost_answer(life, kind, "reset_after_effect")

    assert isinstance(found, Approved)


@pytest.mark.parametrize("kind", [Kind.DEFEND, Kind.ACCEPT])
async def test_a_lost_answer_whose_key_is_forgotten_stays_unknown(kind: Any, life: Life) -> None:
    """Adyen refuses the second request because it obeyed the first: that is no refusal of ours."""
    call, first = await lost_answer(life, kind, "error_after_effect")
    life.sandbox.control("adyen", "keys", method="DELETE")

    again = await life.account.send(replace(call, request=life.kept[-1]), life.keep, first_send=False)

    assert first == Unknown("http_500", provider_code="000")
    assert isinstance(again, Unknown)
    assert again.reason == "earlier_send"
