"""A payment's whole life at Stripe, by the official SDK over real HTTP against the sandbox: from the stored card to the dispute."""

import uuid
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import ClientSession

from providers.contract import (
    ActionRequired,
    Approved,
    Capability,
    Card,
    Declined,
    DisputeStatus,
    Kind,
    Pending,
    Token,
    Unknown,
)
from providers.money import Money

NOTHING = Money(0, "EUR")
REMEMBER = {"setup_future_usage": "off_session"}


class Shop:
    """One account, its asks with new operation ids, and the shopper's browser."""

    def __init__(self, account: Any, sandbox: Any, kit: Any) -> None:
        self.account, self.sandbox, self.kit = account, sandbox, kit
        self.kept: list[Any] = []

    async def ask(self, kind: Any, *, first_send: bool = True, **ask: Any) -> Any:
        """The call and its outcome."""
        ask.setdefault("operation_id", f"op_{uuid.uuid4().hex}")
        call = self.kit.call(self.account, self.kit.ask("stripe", kind, **ask), key=str(uuid.uuid4()))
        self.kept = []
        outcome = await self.account.send(call, self.keep, first_send=first_send)
        last = replace(call, request=self.kept[-1]) if self.kept else call
        return last, outcome

    async def keep(self, request: Any) -> None:
        self.kept.append(request)

    async def shopper(self, action: Any, result: str) -> dict[str, str]:
        """Answer the issuer's page; gives what the return address is visited with."""
        page, answer = action["redirect_to_url"]["url"], {"result": result}
        async with ClientSession() as browser, browser.get(page, params=answer, allow_redirects=False) as back:
            return dict(parse_qsl(urlsplit(back.headers["Location"]).query))

    async def come_back(self, call: Any, waiting: Any, details: dict[str, str]) -> Any:
        call = replace(call, provider_id=waiting.provider_id)
        request = self.account.provider.completion(call, details)
        return await self.account.send(replace(call, request=request), self.keep, first_send=False)

    async def told(self, kind: str, found: Any = None) -> Any:
        """The event of the first webhook of this type."""
        wanted = f'"type":"{kind}"'.encode()
        headers, body = await self.sandbox.webhook(
            "stripe", lambda raw: wanted in raw and (found is None or found.encode() in raw)
        )
        self.account.provider.verify_webhook(headers, body)
        (event,) = self.account.provider.parse_webhook(body)
        return event


@pytest.fixture
def shop(sandbox: Any, open_account: Any, kit: Any) -> Any:
    flexible = (Capability.SEVERAL_CAPTURES, Capability.INCREMENT)
    return Shop(open_account("stripe", sandbox.url("stripe"), enabled=flexible), sandbox, kit)


def card(number: str) -> Card:
    return Card(number, 12, 2034, "123")


# --- Stored cards -------------------------------------------------------------------------------


async def test_a_remembered_card_is_charged_while_the_shopper_is_away(shop: Any) -> None:
    _, first = await shop.ask(Kind.AUTHORIZE, instrument=card("4242424242424242"), **REMEMBER)
    token = Token(first.token)

    _, away = await shop.ask(Kind.AUTHORIZE, instrument=token, off_session=True)
    _, present = await shop.ask(Kind.AUTHORIZE, instrument=token)

    customer, _, method = first.token.partition("/")
    assert (customer[:4], method[:3]) == ("cus_", "pm_")
    assert isinstance(away, Approved)
    assert isinstance(present, Approved)
    assert away.token is None  # nothing new is to be remembered


async def test_a_card_that_was_not_remembered_is_charged_once(shop: Any) -> None:
    call, first = await shop.ask(Kind.AUTHORIZE, instrument=card("4242424242424242"))
    spent = Token(call.request["params"]["payment_method"])

    _, again = await shop.ask(Kind.AUTHORIZE, instrument=spent)

    assert (first.token, again.provider_code) == (None, "payment_method_spent")
    assert len(shop.sandbox.books("stripe")["authorisations"]) == 1


async def test_a_card_that_wants_its_shopper_once_is_free_afterwards(shop: Any) -> None:
    call, waiting = await shop.ask(Kind.AUTHORIZE, instrument=card("4000002500003155"), **REMEMBER)
    details = await shop.shopper(waiting.action, "succeeded")

    first = await shop.come_back(call, waiting, details)
    _, away = await shop.ask(Kind.AUTHORIZE, instrument=Token(first.token), off_session=True)

    assert first.three_d_secure.result == "authenticated"
    assert isinstance(away, Approved)


async def test_an_issuer_that_wants_the_absent_shopper_leaves_a_payment_to_go_on_with(shop: Any) -> None:
    call, waiting = await shop.ask(Kind.AUTHORIZE, instrument=card("4000002760003184"), **REMEMBER)
    first = await shop.come_back(call, waiting, await shop.shopper(waiting.action, "succeeded"))

    _, away = await shop.ask(Kind.AUTHORIZE, instrument=Token(first.token), off_session=True)

    assert away.decline.code == "authentication_required"
    assert away.provider_id.startswith("pi_")


# --- Challenges ---------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [Money(1999, "EUR"), NOTHING])
async def test_a_challenge_ends_as_the_shopper_ends_it(amount: Any, shop: Any) -> None:
    ask = {"instrument": Token("pm_card_threeDSecure2Required"), "amount": amount}
    outcomes: dict[str, Any] = {}
    for result in ("succeeded", "failed"):
        call, waiting = await shop.ask(Kind.AUTHORIZE, **ask)
        outcomes[result] = await shop.come_back(call, waiting, await shop.shopper(waiting.action, result))

    told = outcomes["succeeded"].three_d_secure
    assert (told.result, told.flow, told.version, told.eci) == ("authenticated", "challenge", "2.2.0", "05")
    assert outcomes["succeeded"].amount == amount
    assert outcomes["failed"].decline.code == "authentication_failed"


@pytest.mark.parametrize("amount", [Money(1999, "EUR"), NOTHING])
async def test_an_abandoned_challenge_still_waits_until_it_is_ended(amount: Any, shop: Any) -> None:
    ask = {"instrument": Token("pm_card_threeDSecure2Required"), "amount": amount}
    call, waiting = await shop.ask(Kind.AUTHORIZE, **ask)

    still = await shop.come_back(call, waiting, {})
    end = {"amount": amount, "attempt_id": call.operation_id, "unfinished": True}
    _, ended = await shop.ask(Kind.VOID, provider_payment_id=waiting.provider_id, **end)
    over = await shop.come_back(call, waiting, {})

    assert isinstance(still, ActionRequired)
    assert isinstance(ended, Approved)
    assert over.decline.code == "cancelled"


async def test_an_attempt_nobody_has_a_handle_of_is_ended_by_its_name(shop: Any) -> None:
    call, waiting = await shop.ask(Kind.AUTHORIZE, instrument=Token("pm_card_threeDSecure2Required"))

    _, ended = await shop.ask(Kind.VOID, provider_payment_id=None, attempt_id=call.operation_id, unfinished=True)

    assert ended == Approved(waiting.provider_id, Money(1999, "EUR"))


async def test_authentication_is_asked_for_where_it_is_required(shop: Any) -> None:
    ask = {"instrument": Token("pm_card_threeDSecureOptional")}
    _, plain = await shop.ask(Kind.AUTHORIZE, **ask)
    _, required = await shop.ask(Kind.AUTHORIZE, three_d_secure="required", **ask)

    assert isinstance(plain, Approved)
    assert isinstance(required, ActionRequired)


# --- Verifications ------------------------------------------------------------------------------


async def test_a_card_is_verified_and_no_money_moves(shop: Any) -> None:
    _, plain = await shop.ask(Kind.AUTHORIZE, amount=NOTHING, instrument=card("4242424242424242"))
    call, kept = await shop.ask(Kind.AUTHORIZE, amount=NOTHING, instrument=card("5555555555554444"), **REMEMBER)
    _, refused = await shop.ask(Kind.AUTHORIZE, amount=NOTHING, instrument=Token("pm_card_visa_chargeDeclined"))
    event = await shop.told("setup_intent.succeeded", call.operation_id)

    assert (plain.amount, plain.captured, plain.token, plain.cvc) == (NOTHING, False, None, "pass")
    assert kept.card.brand == "mastercard"
    assert (event.kind, event.operation_id, event.outcome.token) == (Kind.AUTHORIZE, call.operation_id, kept.token)
    assert refused.decline.code == "issuer_generic"
    assert refused.provider_id.startswith("seti_")
    assert not any(shop.sandbox.books("stripe").values())
    _, charged = await shop.ask(Kind.AUTHORIZE, instrument=Token(kept.token), off_session=True)
    assert isinstance(charged, Approved)


# --- Several captures and changed amounts -------------------------------------------------------


async def held(shop: Any) -> Any:
    _, outcome = await shop.ask(Kind.AUTHORIZE, capture_method="manual", several_captures=True, adjustable=True)
    assert outcome.capture_before is not None
    return outcome.provider_id


async def test_each_of_several_captures_is_known_by_its_own_name(shop: Any) -> None:
    payment = await held(shop)
    some, rest = Money(1200, "EUR"), Money(300, "EUR")
    first, taken = await shop.ask(Kind.CAPTURE, provider_payment_id=payment, amount=some, final=False)
    found_first = await shop.account.lookup(first)
    last, final = await shop.ask(Kind.CAPTURE, provider_payment_id=payment, amount=rest)

    replayed = await shop.account.send(first, shop.keep, first_send=False)

    assert [taken.amount, final.amount, replayed.amount] == [some, rest, some]
    assert found_first == taken
    assert await shop.account.lookup(last) == final
    assert isinstance(await shop.account.lookup(first), Unknown)  # the newer one's name stands there now
    assert [entry["amount"] for entry in shop.sandbox.books("stripe")["captures"]] == [1200, 300]
    for kind, call, amount in (("amount_capturable_updated", first, some), ("succeeded", last, rest)):
        event = await shop.told(f"payment_intent.{kind}", call.operation_id)
        assert (event.kind, event.operation_id, event.outcome.amount) == (Kind.CAPTURE, call.operation_id, amount)


async def test_more_captures_are_refused_where_they_were_not_asked_for(shop: Any) -> None:
    _, payment = await shop.ask(Kind.AUTHORIZE, capture_method="manual")
    ask = {"provider_payment_id": payment.provider_id, "amount": Money(5, "EUR"), "final": False}

    call, outcome = await shop.ask(Kind.CAPTURE, **ask)
    found = await shop.account.lookup(call)

    assert isinstance(outcome, Unknown)
    assert found.decline.provider_code == "multicapture_unavailable"


async def test_an_authorization_is_raised_to_a_new_total(shop: Any) -> None:
    payment, total = await held(shop), Money(2500, "EUR")

    call, raised = await shop.ask(Kind.INCREMENT, provider_payment_id=payment, amount=total)
    event = await shop.told("payment_intent.amount_capturable_updated", call.operation_id)
    _, captured = await shop.ask(Kind.CAPTURE, provider_payment_id=payment, amount=total)

    assert (raised.amount, event.kind, event.operation_id) == (total, Kind.INCREMENT, call.operation_id)
    assert event.outcome.amount == total
    assert isinstance(captured, Approved)
    assert await shop.account.lookup(call) == raised


async def test_a_declined_raise_leaves_the_old_amount(shop: Any) -> None:
    payment = await held(shop)
    fault = {"operation": "increment", "fault": "decline", "code": "insufficient_funds"}
    shop.sandbox.control("stripe", "faults", fault)

    _, declined = await shop.ask(Kind.INCREMENT, provider_payment_id=payment, amount=Money(2500, "EUR"))
    _, captured = await shop.ask(Kind.CAPTURE, provider_payment_id=payment)

    assert (declined.decline.code, declined.provider_id) == ("insufficient_funds", payment)
    assert captured.amount == Money(1999, "EUR")


async def test_a_raise_of_what_cannot_be_raised_is_settled_by_reading(shop: Any) -> None:
    _, payment = await shop.ask(Kind.AUTHORIZE, capture_method="manual")

    call, outcome = await shop.ask(Kind.INCREMENT, provider_payment_id=payment.provider_id, amount=Money(2500, "EUR"))

    assert outcome == Unknown("http_400")
    assert (await shop.account.lookup(call)).decline.provider_code == "incremental_authorization_unavailable"


async def test_a_lost_raise_happened_once(shop: Any) -> None:
    payment = await held(shop)
    shop.sandbox.control("stripe", "faults", {"operation": "increment", "fault": "error_after_effect"})

    call, outcome = await shop.ask(Kind.INCREMENT, provider_payment_id=payment, amount=Money(2500, "EUR"))

    assert outcome == Unknown("http_500")
    assert isinstance(await shop.account.lookup(call), Approved)


# --- Found again --------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [Money(1999, "EUR"), NOTHING])
async def test_an_attempt_whose_answer_was_lost_is_found_by_its_name(amount: Any, shop: Any) -> None:
    shop.sandbox.control("stripe", "faults", {"operation": "authorize", "fault": "error_after_effect"})
    call, outcome = await shop.ask(Kind.AUTHORIZE, amount=amount)
    for _ in range(3):
        await shop.ask(Kind.AUTHORIZE, amount=amount)

    found = await shop.account.lookup(call)

    assert outcome == Unknown("http_500")
    assert isinstance(found, Approved)
    assert isinstance(await shop.account.lookup(replace(call, operation_id="op_never")), Unknown)


# --- Refunds that take their time ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "at_once", "later"),
    [("pm_card_pendingRefund", Pending, Approved), ("pm_card_refundFail", Approved, Declined)],
)
async def test_a_refund_may_turn_out_later(token: Any, at_once: Any, later: Any, shop: Any) -> None:
    _, payment = await shop.ask(Kind.AUTHORIZE, instrument=Token(token))

    call, outcome = await shop.ask(Kind.REFUND, provider_payment_id=payment.provider_id)
    event = await shop.told("charge.refund.updated", call.operation_id)

    assert (type(outcome), type(event.outcome)) == (at_once, later)
    assert (event.kind, event.operation_id) == (Kind.REFUND, call.operation_id)
    assert type(await shop.account.lookup(call)) is later


# --- Disputes -----------------------------------------------------------------------------------


async def disputed(shop: Any, token: str) -> Any:
    _, payment = await shop.ask(Kind.AUTHORIZE, instrument=Token(token))
    event = await shop.told("charge.dispute.created")
    assert event.provider_payment_id == payment.provider_id
    return {"provider_payment_id": payment.provider_id, "dispute_id": event.dispute.dispute_id}, event.dispute


@pytest.mark.parametrize(
    ("evidence", "status"), [("winning_evidence", DisputeStatus.WON), ("losing_evidence", DisputeStatus.LOST)]
)
async def test_a_dispute_is_defended(evidence: Any, status: Any, shop: Any) -> None:
    named, news = await disputed(shop, "pm_card_createDispute")

    call, sent = await shop.ask(Kind.DEFEND, text={"uncategorized_text": evidence}, **named)
    closed = await shop.told("charge.dispute.closed")

    assert (news.status, news.amount) == (DisputeStatus.NEEDS_RESPONSE, Money(1999, "EUR"))
    assert (news.reason, news.network_reason_code) == ("fraudulent", "10.4")
    assert news.respond_by is not None
    assert sent == Approved(named["dispute_id"], Money(1999, "EUR"))
    assert closed.dispute.status is status
    assert await shop.account.lookup(call) == sent
    _, too_late = await shop.ask(Kind.ACCEPT, **named)
    assert isinstance(too_late, Unknown)


async def test_a_dispute_is_given_up(shop: Any) -> None:
    named, news = await disputed(shop, "pm_card_createDisputeProductNotReceived")

    call, closed = await shop.ask(Kind.ACCEPT, **named)

    assert news.reason == "product_not_received"
    assert closed == Approved(named["dispute_id"], Money(1999, "EUR"))
    assert await shop.account.lookup(call) == closed
    assert (await shop.told("charge.dispute.closed")).dispute.status is DisputeStatus.LOST


async def test_an_inquiry_is_answered_before_it_is_a_dispute(shop: Any) -> None:
    named, news = await disputed(shop, "pm_card_createDisputeInquiry")

    _, sent = await shop.ask(Kind.DEFEND, text={"uncategorized_text": "winning_evidence"}, **named)

    assert news.status is DisputeStatus.INQUIRY
    assert isinstance(sent, Approved)
    assert (await shop.told("charge.dispute.closed")).dispute.status is DisputeStatus.CLOSED


async def test_evidence_in_a_field_that_stripe_does_not_have_is_refused(shop: Any) -> None:
    named, _ = await disputed(shop, "pm_card_createDispute")

    _, refused = await shop.ask(Kind.DEFEND, text={"poem": "Roses are red"}, **named)

    assert (refused.decline.code, refused.decline.provider_code) == ("provider_refused", "parameter_unknown")
