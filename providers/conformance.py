"""The suite that every adapter passes: verbs x outcomes x faults x currencies x scrubbing x webhooks.

An adapter is held to the contract by subclassing :class:`ProviderConformance` in a test module and giving it one fixture,
``psp``, that returns an :class:`UnderTest`: an open account at a simulator or at a PSP's test environment, the instruments
that get its outcomes, and, where it is a simulator, hands on its faults and its books. A case that an adapter cannot have,
because a capability is off or because a real PSP cannot be scripted, is skipped with the reason. The cases are coroutines:
``pytest-asyncio`` runs them in its mode ``auto``.

The suite is part of what is installed, so that an adapter outside this repository is held to the same; it is the only module
that needs pytest, and nothing but tests may import it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import iso4217
import pytest
from structlog.testing import capture_logs

from providers.contract import (
    Accept,
    ActionRequired,
    Approved,
    Ask,
    Authorize,
    Call,
    Capability,
    Capture,
    Card,
    Declined,
    Defend,
    DetailsRefused,
    DisputeNews,
    DisputeStatus,
    Document,
    Event,
    Increment,
    Instrument,
    Kind,
    NotProcessed,
    Outcome,
    Pending,
    Refund,
    Token,
    Unknown,
    Void,
    WebhookRefused,
)
from providers.declines import Action
from providers.money import AMOUNT_MAX, Money, exponent
from providers.registry import DEADLINE_S, Account, ConfigError

# --- What an adapter brings -------------------------------------------------------------------------------------------

Situation: TypeAlias = Literal["approved", "declined_soft", "declined_hard", "challenge", "card", "disputed"]
"""What an instrument gets at this PSP. ``card`` is a card number that is approved, ``disputed`` is approved and then disputed;
the others are what is cheapest there."""

Step: TypeAlias = Kind | Literal["completion", "lookup"]
"""What a fault is scripted for: a verb, the request that finishes a challenge, or the question what became of an operation."""

Difference: TypeAlias = Literal["keeps_the_rest", "never_lapses", "authenticates_by_its_own_rules"]
"""What a PSP may do otherwise than most: keep what a final capture left, hold an authorization for ever, ask no shopper that
it was told to ask."""

PREFIXES: Final[Mapping[Kind, str]] = {
    Kind.AUTHORIZE: "att_",
    Kind.CAPTURE: "cap_",
    Kind.VOID: "vd_",
    Kind.REFUND: "re_",
    Kind.INCREMENT: "inc_",
    Kind.DEFEND: "def_",
    Kind.ACCEPT: "acc_",
}
"""How the gateway's operation ids begin; an adapter may tell by it which references are ours."""

BOOKS: Final[Mapping[Kind, str]] = {
    Kind.AUTHORIZE: "authorisations",
    Kind.CAPTURE: "captures",
    Kind.VOID: "voids",
    Kind.REFUND: "refunds",
}
"""The simulators' book in which the effect of a verb is written. A changed amount stands in the authorisation itself."""

EUR: Final = Money(1999, "EUR")
LESS: Final = Money(1200, "EUR")
MORE: Final = Money(2999, "EUR")

BROWSER: Final[Mapping[str, Any]] = {
    "channel": "web",
    "origin": "https://shop.example",
    "browser_info": {
        "accept_header": "*/*",
        "color_depth": 24,
        "java_enabled": False,
        "language": "en-IE",
        "screen_height": 900,
        "screen_width": 1440,
        "time_zone_offset": 0,
        "user_agent": "Mozilla/5.0",
    },
}
"""The ``shopper`` of a payment in a checkout that can show a challenge itself."""

UNHEARD_OF: Final = "zz_unheard_of"
"""A word that no PSP uses."""

_SHORT_S: Final = 0.25
"""The deadline of a call whose answer never comes."""
_REPLAYS_MAX: Final = 8
_REPLAY_PAUSE_S: Final = 0.05
_STEPS_MAX: Final = 4
"""Of a native challenge: a fingerprint and a challenge, and room for two more."""
_FOR_EVER_S: Final = 60 * 24 * 3600
"""No PSP holds an authorization longer."""


@dataclass(slots=True)
class Sent:
    """One operation that was sent, with what came of it. ``call`` holds the request that was last kept."""

    ask: Ask
    call: Call
    outcome: Outcome
    kept: list[Mapping[str, Any]] = field(default_factory=list)
    """Every request that was handed over to be kept."""

    @property
    def provider_id(self) -> str:
        """What names it at the PSP."""
        named = getattr(self.outcome, "provider_id", None)
        assert isinstance(named, str), f"nothing names it there: {self.outcome}"
        return named


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderTest:
    """One account of the adapter that is held to the contract, and hands on the PSP behind it.

    What is ``None`` cannot be had here, as at a real PSP: the cases that need it are skipped.
    """

    account: Account
    instruments: Mapping[Situation, Instrument]
    reopen: Callable[..., Account]
    """The same account with other fields of its ``AccountConfig``: another key, other webhook secrets."""
    api_key: str = field(repr=False)
    webhook_secret: str = field(default="", repr=False)
    reads: Callable[[Mapping[str, Any]], tuple[Decimal, str]] | None = None
    """What a composed authorization says to this PSP: an amount in major units, and the currency in capitals."""
    decimals: Callable[[str], int] | None = None
    """With how many decimals the PSP's books count a currency."""
    script: Callable[[str, str, Mapping[str, Any]], None] | None = None
    """Script a fault for the next request of an operation: ``script("authorize", "status", {"status": 500})``."""
    operations: Mapping[Step, str] = field(default_factory=dict)
    """What ``script`` calls a step, where it is not the verb's own word, ``lookup``, or of a completion ``authorize``."""
    problem: Callable[[str], str] | None = None
    """The body of an error at this PSP with such a code."""
    keys: Callable[[], Sequence[str | None]] | None = None
    """The idempotency keys of the requests that have arrived there, in their order; ``None`` of one without."""
    books: Callable[[], Mapping[str, Sequence[Mapping[str, Any]]]] | None = None
    """What really happened to money there, in the form of the sandbox's books."""
    webhook: Callable[[Callable[[Event], bool]], Awaitable[tuple[Mapping[str, str], bytes]]] | None = None
    """The headers and body of the first webhook that has such an event; waits for it, raises where none comes."""
    sign: Callable[[bytes], tuple[Mapping[str, str], bytes]] | None = None
    """The headers and the body of a webhook that says this, as the PSP would sign it; what cannot be signed comes back as it is."""
    shopper: Callable[..., Awaitable[Mapping[str, str]]] | None = None
    """``shopper(next_action, passed=…)`` passes or fails a challenge, by redirect or native, and gives what is brought back."""
    advance: Callable[[float], None] | None = None
    """Let so many seconds pass at the PSP at once."""
    defense: Mapping[str, Any] = field(default_factory=dict)
    """What contests a dispute there: ``text``, ``reason`` and ``documents`` of a :class:`Defend`."""
    actions: Mapping[Situation, Action] = field(default_factory=dict)
    """What the declines of ``declined_soft`` and ``declined_hard`` permit, by the PSP's own page."""
    differs: Mapping[Difference, str] = field(default_factory=dict)
    """What this PSP does otherwise, each with its reason: such a case is skipped."""
    return_url: str = "https://gateway.example/v1/return/t"

    # -- what this one can do

    def needs(self, *capabilities: Capability) -> None:
        """Skip the case where the account has not all of these."""
        for missing in capabilities:
            if not self.account.can(missing):
                pytest.skip(f"{self.account.provider.name}: no {missing}")

    def instrument(self, situation: Situation) -> Instrument:
        """The instrument for a situation; skips the case where there is none."""
        if situation not in self.instruments:
            pytest.skip(f"{self.account.provider.name}: no instrument for {situation!r} here")
        return self.instruments[situation]

    def card(self) -> Card:
        """A card number that is approved; skips the case where none is taken."""
        self.needs(Capability.CARD_NUMBERS)
        card = self.instrument("card")
        assert isinstance(card, Card)
        return card

    def does(self, usual: Difference) -> None:
        """Skip the case where this PSP does otherwise."""
        if usual in self.differs:
            pytest.skip(f"{self.account.provider.name}: {self.differs[usual]}")

    def scripted(self, step: Step, fault: str, parameters: Mapping[str, Any]) -> None:
        """Script a fault for the next request of this step; skips the case at a real PSP."""
        if self.script is None or self.books is None:
            pytest.skip(f"{self.account.provider.name}: no faults can be scripted here")
        word = "authorize" if step == "completion" else str(step)
        self.script(self.operations.get(step, word), fault, parameters)

    # -- asking

    def ask(self, kind: Kind, payment: Sent | None = None, *, amount: Money = EUR, **more: Any) -> Ask:
        """An ask of its kind, under a new operation id, about ``payment`` where it follows one."""
        name = PREFIXES[kind] + uuid.uuid4().hex
        if kind is Kind.AUTHORIZE:
            terms = {"capture_method": "manual", "return_url": self.return_url, **more}
            terms.setdefault("instrument", self.instruments["approved"])
            return Authorize(operation_id=name, payment_id=f"pay_{uuid.uuid4().hex}", amount=amount, **terms)
        assert payment is not None
        common: dict[str, Any] = {"operation_id": name, "payment_id": payment.ask.payment_id, "amount": amount}
        if kind is Kind.VOID:
            common |= {"attempt_id": payment.ask.operation_id, "provider_payment_id": payment.provider_id}
        else:
            common["provider_payment_id"] = payment.provider_id
        shapes: Mapping[Kind, Callable[..., Ask]] = {
            Kind.CAPTURE: Capture,
            Kind.VOID: Void,
            Kind.REFUND: Refund,
            Kind.INCREMENT: Increment,
            Kind.DEFEND: Defend,
            Kind.ACCEPT: Accept,
        }
        return shapes[kind](**(common | more))

    def call(self, ask: Ask) -> Call:
        """The call for an ask, as it comes back from a database: its request went through JSON."""
        request = json.loads(json.dumps(self.account.provider.compose(ask)))
        kind = next(kind for kind in Kind if type(ask).__name__.lower() == kind.value)
        return Call(ask.operation_id, kind, request, str(uuid.uuid4()), ask.amount)

    async def send(self, ask: Ask, *, timeout_s: float = DEADLINE_S) -> Sent:
        """Send an ask through the account, as the gateway does."""
        return await self.sent(ask, self.call(ask), timeout_s=timeout_s)

    async def sent(self, ask: Ask, call: Call, *, timeout_s: float = DEADLINE_S, once: bool = False) -> Sent:
        """Send a call; ``once`` leaves out the account's bounded resends."""
        kept = Sent(ask, call, Unknown("not_sent_yet"))

        async def keep(request: Mapping[str, Any]) -> None:
            kept.call = replace(kept.call, request=json.loads(json.dumps(request)))
            kept.kept.append(kept.call.request)

        if once:
            try:
                async with asyncio.timeout(timeout_s):
                    kept.outcome = await self.account.provider.send(call, keep)
            except TimeoutError:
                kept.outcome = Unknown("timeout", resend=True)
        else:
            kept.outcome = await self.account.send(call, keep, first_send=True, timeout_s=timeout_s)
        return kept

    async def do(self, kind: Kind, payment: Sent | None = None, **more: Any) -> Sent:
        """Ask, and send it."""
        return await self.send(self.ask(kind, payment, **more))

    async def authorized(self, **more: Any) -> Sent:
        """A payment that is authorized, without capture unless asked for."""
        sent = await self.do(Kind.AUTHORIZE, **more)
        assert isinstance(sent.outcome, Approved), sent.outcome
        return sent

    async def captured(self, **more: Any) -> Sent:
        """A payment that is captured."""
        return await self.authorized(capture_method="automatic", **more)

    # -- what became of it

    async def settled(self, sent: Sent) -> Outcome:
        """What it came to in the end: a pending one is told by webhook, an unknown one by looking."""
        outcome = sent.outcome
        if isinstance(outcome, Unknown) and self.account.can(Capability.LOOKUP):
            outcome = await self.account.lookup(sent.call)
        if isinstance(outcome, Pending | Unknown) and self.webhook is not None:
            outcome = (await self.told(sent))[0].outcome or outcome
        return outcome

    async def told(self, sent: Sent) -> tuple[Event, Mapping[str, str], bytes]:
        """The event that is about this operation, with the webhook it came in."""
        if self.webhook is None:
            pytest.skip(f"{self.account.provider.name}: webhooks do not come here")
        headers, body = await self.webhook(lambda event: self.concerns(event, sent))
        events = [each for each in self.account.provider.parse_webhook(body) if self.concerns(each, sent)]
        assert events, "the webhook came and names another operation"
        return events[0], headers, body

    def concerns(self, event: Event, sent: Sent) -> bool:
        """Whether an event is about this operation: by our reference, or by what names it or its payment there."""
        if event.kind is not sent.call.kind or event.outcome is None or isinstance(event.outcome, ActionRequired):
            return False  # a challenge is not the end of it
        if event.operation_id is not None:
            return event.operation_id == sent.ask.operation_id
        payment = getattr(sent.ask, "provider_payment_id", None)
        return event.provider_payment_id is not None and event.provider_payment_id == payment

    def effects(self, sent: Sent) -> Sequence[Mapping[str, Any]] | None:
        """What the PSP's books hold of this operation; ``None`` where there are no books to read."""
        if self.books is None:
            return None
        if sent.call.kind is Kind.INCREMENT:
            entries = self.books()["authorisations"]
            payment = getattr(sent.ask, "provider_payment_id", None)
            return [each for each in entries if each["payment"] == payment and self.worth(each) == sent.ask.amount]
        entries = self.books()[BOOKS[sent.call.kind]]
        if sent.call.kind is Kind.AUTHORIZE:
            return [each for each in entries if each["reference"] == sent.ask.operation_id]
        payment = getattr(sent.ask, "provider_payment_id", None)
        named = [each for each in entries if each["reference"] == sent.ask.operation_id]
        return named or [each for each in entries if each["payment"] == payment and each["key"] == sent.call.key]

    def worth(self, entry: Mapping[str, Any]) -> Money:
        """The amount of an entry in a book, in ISO minor units."""
        assert self.decimals is not None, "the books count in units that nobody told"
        major = Decimal(entry["amount"]).scaleb(-self.decimals(entry["currency"]))
        return Money(int(major.scaleb(exponent(entry["currency"]))), entry["currency"])

    def assert_effects(self, sent: Sent, *amounts: Money) -> None:
        """The books hold exactly these amounts of the operation, where there are books."""
        found = self.effects(sent)
        assert found is None or [self.worth(each) for each in found] == list(amounts)

    def assert_refused(self, outcome: Outcome) -> None:
        """It was refused for good. Where nobody tells the end of it, it may still be pending."""
        if isinstance(outcome, Pending) and self.webhook is None:
            pytest.skip(f"{self.account.provider.name}: the refusal comes by webhook, and those do not come here")
        assert isinstance(outcome, Declined), outcome

    def assert_happened(self, outcome: Outcome, amount: Money) -> None:
        """It happened, for this amount. Where nobody tells the end of it, it may still be pending."""
        if isinstance(outcome, Pending) and self.webhook is None:
            return
        assert isinstance(outcome, Approved), outcome
        assert outcome.amount == amount


class _Suite:
    """What every part of the suite is given."""

    @pytest.fixture
    def psp(self) -> UnderTest:
        """The account under test. A subclass says which."""
        raise NotImplementedError("a subclass of the suite has a fixture `psp`")


# --- What goes wrong --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fault:
    """One thing that goes wrong, by the sandbox's name for it."""

    fault: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lies(self) -> bool:
        """Whether the answer is whole, and about something else than was asked."""
        return self.fault.startswith("wrong_")

    @property
    def deadline_s(self) -> float:
        """How long an answer is waited for."""
        return _SHORT_S if self.fault.startswith("timeout") else DEADLINE_S

    def script(self, psp: UnderTest, step: Step, ask: Ask) -> None:
        """Let it happen to the next request of this step, which is about this ask."""
        named = {"instead_of": ask.operation_id} if self.fault == "wrong_reference" else {}
        twice = (
            {"times": 2} if step == "lookup" and self.fault.startswith("reset") else {}
        )  # a read is read again by aiohttp
        psp.scripted(step, self.fault, {**self.parameters, **named, **twice})

    async def meets(self, psp: UnderTest, sent: Sent) -> Sent:
        """Send it into the fault: once, or where nothing answers through the account, whose deadline ends it."""
        once = not self.fault.startswith("timeout")
        met = await psp.sent(sent.ask, sent.call, timeout_s=self.deadline_s, once=once)
        assert once or isinstance(met.outcome, Unknown), f"silence was taken for an answer: {met.outcome}"
        return met


FAULTS: Final[Mapping[str, _Fault]] = {
    "silence before the effect": _Fault("timeout_before_effect"),
    "silence after the effect": _Fault("timeout_after_effect"),
    "reset before the effect": _Fault("reset_before_effect"),
    "reset after the effect": _Fault("reset_after_effect"),
    "500 before the effect": _Fault("status", {"status": 500}),
    "500 after the effect": _Fault("error_after_effect"),
    "502 before the effect": _Fault("status", {"status": 502}),
    "503 before the effect": _Fault("status", {"status": 503}),
    "409": _Fault("status", {"status": 409}),
    "429": _Fault("status", {"status": 429}),
    "garbage": _Fault("garbage"),
    "an empty answer": _Fault("empty"),
    "half an answer": _Fault("truncated"),
    "another amount": _Fault("wrong_amount"),
    "another currency": _Fault("wrong_currency"),
    "another operation": _Fault("wrong_reference"),
}


def _agrees(psp: UnderTest, sent: Sent) -> None:
    """One outcome beside the books: a yes only where it happened, a no only where it did not."""
    effects = psp.effects(sent) or []
    match sent.outcome:
        case Approved(amount=amount):
            assert (len(effects), amount) == (1, sent.ask.amount)
        case Pending():
            assert len(effects) == 1
        case NotProcessed():
            assert effects == []
        case Unknown():
            pass
        case Declined() | ActionRequired():
            pytest.fail(f"a fault was taken for an answer: {sent.outcome}")


async def _settled(psp: UnderTest, sent: Sent) -> Outcome:
    """By sending the same again; where the PSP keeps its own failure under the key, by looking or by webhook."""
    again = sent
    for _ in range(_REPLAYS_MAX):
        if not isinstance(again.outcome, Unknown):
            return await psp.settled(again)
        again = await psp.sent(sent.ask, again.call, once=True)
        if isinstance(again.outcome, Unknown) and not again.outcome.resend:
            return await psp.settled(again)
        await asyncio.sleep(_REPLAY_PAUSE_S if isinstance(again.outcome, Unknown) else 0)
    return await psp.settled(again)


async def _keys_of(psp: UnderTest, ask: Ask, call: Call) -> Sequence[str | None]:
    """Under which keys the requests of one call travel."""
    if psp.keys is None:
        pytest.skip(f"{psp.account.provider.name}: nobody says which keys arrive there")
    before = len(psp.keys())
    await psp.sent(ask, call, once=True)
    return psp.keys()[before:]


# --- What a webhook may say -------------------------------------------------------------------------------------------

BAD_BODIES: Final[Mapping[str, bytes]] = {
    "empty": b"",
    "garbage": b"<html>hello</html>",
    "a number": b"1111",
    "a list": b"[]",
    "null": b"null",
    "an empty object": b"{}",
    "not utf-8": b"\xff\xfe{}",
    "deep": b"[" * 5000 + b"]" * 5000,
}
_ODD: Final[Sequence[Any]] = (None, True, -1, 10**15, "", UNHEARD_OF, [], {})


def _varied(body: Any) -> Iterator[bytes]:
    """A JSON text with each of its parts left out once, and replaced once by each odd value."""

    def parts(value: Any) -> Iterator[tuple[Any, Any]]:
        for name, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, name
            if isinstance(part, dict | list):
                yield from parts(part)

    for holder, name in parts(body):
        said = holder[name]
        for odd in _ODD:
            holder[name] = odd
            yield json.dumps(body).encode()
        del holder[name]
        yield json.dumps(body).encode()
        if isinstance(holder, list):
            holder.insert(name, said)
        else:
            holder[name] = said


def _signed(psp: UnderTest, body: bytes) -> tuple[Mapping[str, str], bytes]:
    """A webhook that says this, as the PSP would have sent it."""
    if psp.sign is None:
        pytest.skip(f"{psp.account.provider.name}: nobody signs a webhook of ours here")
    return psp.sign(body)


def _kept_or_refused(psp: UnderTest, body: bytes) -> None:
    """It becomes events or is refused by name; whatever else were raised would hold up all that comes behind it."""
    headers, signed = _signed(psp, body)
    try:
        psp.account.provider.verify_webhook(headers, signed)
        events = psp.account.provider.parse_webhook(signed)
    except WebhookRefused:
        return
    assert all(isinstance(each, Event) for each in events)


# --- Authorizing ------------------------------------------------------------------------------------------------------

_SAYS_TOO_MUCH: Final = re.compile(r"stolen|lost|fraud|pick ?up|blocked", re.IGNORECASE)


class Authorizations(_Suite):
    """What can come of asking for money."""

    async def test_an_automatic_payment_is_authorized_and_captured_at_once(self, psp: UnderTest) -> None:
        sent = await psp.captured()

        assert isinstance(sent.outcome, Approved)
        assert (sent.outcome.amount, sent.outcome.captured) == (EUR, True)
        psp.assert_effects(sent, EUR)
        if psp.books is not None:
            assert [each["amount"] for each in psp.books()["captures"] if each["payment"] == sent.provider_id] == [1999]

    async def test_a_manual_payment_is_authorized_and_nothing_is_captured(self, psp: UnderTest) -> None:
        psp.needs(Capability.MANUAL_CAPTURE)

        sent = await psp.authorized()

        assert isinstance(sent.outcome, Approved)
        assert (sent.outcome.amount, sent.outcome.captured) == (EUR, False)
        psp.assert_effects(sent, EUR)
        assert psp.books is None or not [e for e in psp.books()["captures"] if e["payment"] == sent.provider_id]

    async def test_a_card_number_is_charged_and_only_its_ends_come_back(self, psp: UnderTest) -> None:
        card = psp.card()

        sent = await psp.captured(instrument=card)

        assert isinstance(sent.outcome, Approved)
        psp.assert_effects(sent, EUR)
        assert sent.outcome.card is None or sent.outcome.card.last4 in (None, card.number[-4:])
        assert card.number not in repr(sent.outcome)

    @pytest.mark.parametrize("firmness", ["soft", "hard"])
    async def test_a_decline_is_mapped_keeps_its_raw_code_and_tells_no_thief(
        self, firmness: str, psp: UnderTest
    ) -> None:
        situation: Situation = "declined_soft" if firmness == "soft" else "declined_hard"

        sent = await psp.do(Kind.AUTHORIZE, instrument=psp.instrument(situation))

        assert isinstance(sent.outcome, Declined), sent.outcome
        decline = sent.outcome.decline
        assert (decline.type, decline.code != "other") == (firmness, True)
        assert decline.provider_code
        assert not _SAYS_TOO_MUCH.search(decline.message)
        assert decline.action is psp.actions.get(situation, decline.action)
        assert firmness == "soft" or decline.action is not Action.RETRY_OTHER_NOW, "each further try costs, and annoys"
        psp.assert_effects(sent)

    async def test_a_wrong_api_key_reaches_nobody(self, psp: UnderTest) -> None:
        stranger = replace(psp, account=psp.reopen(api_key="sk_test_of_nobody"))

        sent = await stranger.do(Kind.AUTHORIZE)

        assert isinstance(sent.outcome, NotProcessed), sent.outcome
        assert sent.outcome.reason == "credentials"
        psp.assert_effects(sent)

    async def test_a_verification_moves_no_money(self, psp: UnderTest) -> None:
        psp.needs(Capability.VERIFICATION)

        sent = await psp.do(Kind.AUTHORIZE, amount=Money(0, "EUR"), capture_method="automatic")

        assert isinstance(sent.outcome, Approved), sent.outcome
        assert sent.outcome.amount == Money(0, "EUR")
        assert psp.books is None or not [e for e in psp.books()["captures"] if e["payment"] == sent.provider_id]


class Challenges(_Suite):
    """3-D Secure by redirect: the shopper leaves, comes back, and the attempt is finished."""

    async def challenged(self, psp: UnderTest) -> Sent:
        psp.needs(Capability.REDIRECT)
        instrument = psp.instrument("challenge")
        forced: Mapping[str, Any] = {"three_d_secure": "required"} if instrument == psp.instruments["approved"] else {}
        sent = await psp.do(Kind.AUTHORIZE, instrument=instrument, **forced)
        assert isinstance(sent.outcome, ActionRequired), sent.outcome
        psp.assert_effects(sent)
        sent.call = replace(sent.call, provider_id=sent.outcome.provider_id)
        return sent

    async def brought(self, psp: UnderTest, sent: Sent, *, passed: bool) -> Mapping[str, str]:
        """What the shopper brings back of a challenge."""
        if psp.shopper is None:
            pytest.skip(f"{psp.account.provider.name}: nobody plays the shopper here")
        assert isinstance(sent.outcome, ActionRequired)
        return await psp.shopper(sent.outcome.action, passed=passed)

    def completion(self, psp: UnderTest, sent: Sent, details: Mapping[str, str]) -> Call:
        request = psp.account.provider.completion(sent.call, details)
        assert request == psp.account.provider.completion(sent.call, details), "the same details give the same request"
        return replace(sent.call, request=json.loads(json.dumps(request)))

    async def finished(self, psp: UnderTest, sent: Sent, *, passed: bool) -> tuple[Call, Sent]:
        call = self.completion(psp, sent, await self.brought(psp, sent, passed=passed))
        return call, await psp.sent(sent.ask, call)

    async def test_a_challenge_asks_for_a_redirect(self, psp: UnderTest) -> None:
        sent = await self.challenged(psp)

        assert isinstance(sent.outcome, ActionRequired)
        assert sent.outcome.action["type"] == "redirect_to_url"
        assert sent.outcome.action["redirect_to_url"]["url"].startswith("http")

    async def test_a_shopper_who_passes_has_paid_once_however_often_it_is_finished(self, psp: UnderTest) -> None:
        sent = await self.challenged(psp)

        call, done = await self.finished(psp, sent, passed=True)
        again = await psp.sent(sent.ask, call)

        psp.assert_happened(done.outcome, EUR)
        psp.assert_happened(again.outcome, EUR)
        psp.assert_effects(sent, EUR)

    async def test_a_shopper_who_fails_is_declined_and_pays_nothing(self, psp: UnderTest) -> None:
        sent = await self.challenged(psp)

        _, done = await self.finished(psp, sent, passed=False)

        assert isinstance(done.outcome, Declined), done.outcome
        assert done.outcome.decline.code.startswith("authentication")
        psp.assert_effects(sent)

    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
    async def test_a_fault_while_a_challenge_is_finished_is_never_taken_for_an_answer(
        self, fault: _Fault, psp: UnderTest
    ) -> None:
        sent = await self.challenged(psp)
        call = self.completion(psp, sent, await self.brought(psp, sent, passed=True))
        fault.script(psp, "completion", sent.ask)

        done = await fault.meets(psp, replace(sent, call=call))
        if fault.fault == "wrong_reference":  # it may be read as: the shopper brought what is another payment's
            assert isinstance(done.outcome, Unknown | NotProcessed), done.outcome
        else:
            _agrees(psp, done)
            assert isinstance(done.outcome, Unknown) or not fault.lies, f"a lie was believed: {done.outcome}"
        if isinstance(done.outcome, NotProcessed):  # the challenge is still open
            done = await psp.sent(sent.ask, call, once=True)
        final = await _settled(psp, done)

        psp.assert_happened(final, EUR)
        psp.assert_effects(sent, EUR)

    async def test_a_lost_answer_to_a_shopper_who_failed_is_found_to_be_a_decline(self, psp: UnderTest) -> None:
        sent = await self.challenged(psp)
        call = self.completion(psp, sent, await self.brought(psp, sent, passed=False))
        psp.scripted("completion", "garbage", {})

        lost = await psp.sent(sent.ask, call, once=True)
        found = await psp.sent(sent.ask, call, once=True)

        assert isinstance(lost.outcome, Unknown), lost.outcome
        assert isinstance(found.outcome, Declined), found.outcome
        psp.assert_effects(sent)

    async def test_a_challenge_is_always_finished_under_the_same_key(self, psp: UnderTest) -> None:
        sent = await self.challenged(psp)
        call = self.completion(psp, sent, await self.brought(psp, sent, passed=True))

        first = await _keys_of(psp, sent.ask, call)

        assert first
        assert await _keys_of(psp, sent.ask, call) == first

    async def test_what_the_shopper_of_another_payment_brought_back_finishes_only_that_one(
        self, psp: UnderTest
    ) -> None:
        ours, theirs = await self.challenged(psp), await self.challenged(psp)
        details = await self.brought(psp, theirs, passed=True)

        try:
            mixed_up = await psp.sent(ours.ask, self.completion(psp, ours, details))
        except DetailsRefused:
            pass
        else:
            assert isinstance(mixed_up.outcome, Unknown | NotProcessed), mixed_up.outcome
        done = await psp.sent(theirs.ask, self.completion(psp, theirs, details))

        psp.assert_effects(ours)
        psp.assert_happened(done.outcome, EUR)
        psp.assert_effects(theirs, EUR)

    async def test_authentication_that_is_required_takes_place(self, psp: UnderTest) -> None:
        psp.needs(Capability.REDIRECT)
        psp.does("authenticates_by_its_own_rules")

        sent = await psp.do(Kind.AUTHORIZE, three_d_secure="required")

        asked = isinstance(sent.outcome, ActionRequired)
        assert asked or (isinstance(sent.outcome, Approved) and sent.outcome.three_d_secure), sent.outcome

    async def native(self, psp: UnderTest, *, passed: bool) -> Sent:
        """Go through all steps of a challenge inside the checkout; what came of the last one."""
        psp.needs(Capability.NATIVE)
        instrument = psp.instrument("challenge")
        sent = await psp.do(Kind.AUTHORIZE, instrument=instrument, three_d_secure="required", shopper=BROWSER)
        assert isinstance(sent.outcome, ActionRequired), sent.outcome
        begun = replace(sent.call, provider_id=sent.outcome.provider_id)
        steps = [replace(sent, call=begun)]
        while isinstance(steps[-1].outcome, ActionRequired) and len(steps) <= _STEPS_MAX:
            assert steps[-1].outcome.action["type"] != "redirect_to_url", "that leads out of the checkout"
            details = await self.brought(psp, steps[-1], passed=passed)
            steps.append(await psp.sent(sent.ask, self.completion(psp, steps[-1], details)))
        return steps[-1]

    async def test_a_shopper_who_passes_inside_the_checkout_has_paid_once(self, psp: UnderTest) -> None:
        done = await self.native(psp, passed=True)

        again = await psp.sent(done.ask, done.call)

        psp.assert_happened(done.outcome, EUR)
        psp.assert_happened(again.outcome, EUR)
        psp.assert_effects(done, EUR)

    async def test_a_shopper_who_fails_inside_the_checkout_pays_nothing(self, psp: UnderTest) -> None:
        done = await self.native(psp, passed=False)

        assert isinstance(done.outcome, Declined), done.outcome
        psp.assert_effects(done)

    async def test_an_attempt_that_waits_for_its_shopper_can_be_ended(self, psp: UnderTest) -> None:
        sent = await self.challenged(psp)

        ended = await psp.do(Kind.VOID, replace(sent, outcome=Pending(sent.call.provider_id or "")), unfinished=True)

        assert isinstance(ended.outcome, Approved | Pending | Unknown), ended.outcome
        psp.assert_effects(sent)

    async def test_coming_back_with_nothing_is_refused_before_any_call(self, psp: UnderTest) -> None:
        psp.needs(Capability.REDIRECT)

        with pytest.raises(DetailsRefused) as refused:
            psp.account.provider.completion(psp.call(psp.ask(Kind.AUTHORIZE)), {"stray": "4242424242424242"})

        assert "4242424242424242" not in str(refused.value)


# --- What follows a payment -------------------------------------------------------------------------------------------


class FollowUps(_Suite):
    """Capture, void, refund, and a changed amount."""

    async def test_a_capture_takes_all_that_was_authorized(self, psp: UnderTest) -> None:
        psp.needs(Capability.MANUAL_CAPTURE)
        payment = await psp.authorized()

        capture = await psp.do(Kind.CAPTURE, payment)

        psp.assert_happened(await psp.settled(capture), EUR)
        psp.assert_effects(capture, EUR)

    async def test_a_partial_capture_takes_its_part(self, psp: UnderTest) -> None:
        psp.needs(Capability.MANUAL_CAPTURE, Capability.PARTIAL_CAPTURE)
        payment = await psp.authorized()

        capture = await psp.do(Kind.CAPTURE, payment, amount=LESS)

        psp.assert_happened(await psp.settled(capture), LESS)
        psp.assert_effects(capture, LESS)

    async def test_several_captures_take_their_parts(self, psp: UnderTest) -> None:
        psp.needs(Capability.MANUAL_CAPTURE, Capability.SEVERAL_CAPTURES)
        payment = await psp.authorized(several_captures=True)

        for minor, final in ((500, False), (700, False), (799, True)):
            part = Money(minor, "EUR")
            capture = await psp.do(Kind.CAPTURE, payment, amount=part, final=final)
            psp.assert_happened(await psp.settled(capture), part)
            psp.assert_effects(capture, part)

    @pytest.mark.parametrize("captures", ["one", "several"])
    async def test_after_the_final_capture_the_rest_is_released(self, captures: str, psp: UnderTest) -> None:
        psp.needs(Capability.MANUAL_CAPTURE, Capability.PARTIAL_CAPTURE)
        if captures == "several":
            psp.needs(Capability.SEVERAL_CAPTURES)
        psp.does("keeps_the_rest")
        payment = await psp.authorized(several_captures=captures == "several")

        last = await psp.do(Kind.CAPTURE, payment, amount=LESS, final=True)
        psp.assert_happened(await psp.settled(last), LESS)
        more = await psp.do(Kind.CAPTURE, payment, amount=Money(500, "EUR"))

        refused = await psp.settled(more) if isinstance(more.outcome, Pending) else more.outcome
        if not isinstance(refused, Unknown):
            psp.assert_refused(refused)
        psp.assert_effects(more)

    async def test_more_than_was_authorized_cannot_be_captured(self, psp: UnderTest) -> None:
        psp.needs(Capability.MANUAL_CAPTURE)
        payment = await psp.authorized()

        capture = await psp.do(Kind.CAPTURE, payment, amount=MORE)

        psp.assert_refused(await psp.settled(capture))
        psp.assert_effects(capture)

    async def test_a_void_releases_the_authorization(self, psp: UnderTest) -> None:
        psp.needs(Capability.MANUAL_CAPTURE)
        payment = await psp.authorized()

        void = await psp.do(Kind.VOID, payment)

        psp.assert_happened(await psp.settled(void), EUR)
        psp.assert_effects(void, EUR)

    async def test_a_payment_whose_handle_was_lost_is_voided_by_ours(self, psp: UnderTest) -> None:
        """The PSP gave no id of its own, or it never arrived: the attempt's operation id names it."""
        psp.needs(Capability.MANUAL_CAPTURE)
        payment = await psp.authorized()

        void = await psp.do(Kind.VOID, payment, provider_payment_id=None)

        assert isinstance(void.outcome, Approved | Pending), void.outcome
        if psp.books is not None:
            assert [e["amount"] for e in psp.books()["voids"] if e["payment"] == payment.provider_id] == [1999]

    async def test_what_was_captured_cannot_be_voided(self, psp: UnderTest) -> None:
        payment = await psp.captured()

        void = await psp.do(Kind.VOID, payment)

        psp.assert_refused(await psp.settled(void))
        psp.assert_effects(void)

    async def test_a_refund_gives_all_back(self, psp: UnderTest) -> None:
        payment = await psp.captured()

        refund = await psp.do(Kind.REFUND, payment)

        psp.assert_happened(await psp.settled(refund), EUR)
        psp.assert_effects(refund, EUR)

    async def test_a_partial_refund_gives_its_part_back(self, psp: UnderTest) -> None:
        psp.needs(Capability.PARTIAL_REFUND)
        payment = await psp.captured()

        refund = await psp.do(Kind.REFUND, payment, amount=LESS, reason="requested_by_customer")

        psp.assert_happened(await psp.settled(refund), LESS)
        psp.assert_effects(refund, LESS)

    async def test_several_refunds_give_their_parts_back_and_never_more(self, psp: UnderTest) -> None:
        psp.needs(Capability.PARTIAL_REFUND, Capability.SEVERAL_REFUNDS)
        payment = await psp.captured()

        for minor in (500, 700):
            refund = await psp.do(Kind.REFUND, payment, amount=Money(minor, "EUR"))
            psp.assert_happened(await psp.settled(refund), Money(minor, "EUR"))
        too_much = await psp.do(Kind.REFUND, payment, amount=Money(800, "EUR"))

        psp.assert_refused(await psp.settled(too_much))
        psp.assert_effects(too_much)

    async def test_more_than_was_captured_cannot_be_refunded(self, psp: UnderTest) -> None:
        payment = await psp.captured()

        refund = await psp.do(Kind.REFUND, payment, amount=MORE)

        psp.assert_refused(await psp.settled(refund))
        psp.assert_effects(refund)

    @pytest.mark.parametrize(
        ("capability", "total"), [(Capability.INCREMENT, MORE), (Capability.DECREMENT, LESS)], ids=["up", "down"]
    )
    async def test_an_authorized_amount_is_changed_and_then_captured(
        self, capability: Capability, total: Money, psp: UnderTest
    ) -> None:
        psp.needs(Capability.MANUAL_CAPTURE, capability)
        payment = await psp.authorized(adjustable=True)

        change = await psp.do(Kind.INCREMENT, payment, amount=total)
        psp.assert_happened(await psp.settled(change), total)
        psp.assert_effects(change, total)
        capture = await psp.do(Kind.CAPTURE, payment, amount=total)

        psp.assert_happened(await psp.settled(capture), total)
        psp.assert_effects(capture, total)


class StoredCredentials(_Suite):
    """A card that the account remembers, and later payments with it."""

    async def remembered(self, psp: UnderTest) -> Token:
        first = await psp.captured(setup_future_usage="off_session", customer="shopper-1", recurring="unscheduled")
        assert isinstance(first.outcome, Approved)
        assert first.outcome.token, "asked to remember the card, the account does not say what it calls it"
        return Token(first.outcome.token)

    async def test_a_remembered_card_pays_again_with_the_shopper_there(self, psp: UnderTest) -> None:
        psp.needs(Capability.STORED_CREDENTIALS)
        token = await self.remembered(psp)

        again = await psp.do(Kind.AUTHORIZE, instrument=token, customer="shopper-1", recurring="card_on_file")

        psp.assert_happened(again.outcome, EUR)
        psp.assert_effects(again, EUR)

    async def test_a_remembered_card_pays_while_the_shopper_is_away(self, psp: UnderTest) -> None:
        psp.needs(Capability.STORED_CREDENTIALS, Capability.MERCHANT_INITIATED)
        token = await self.remembered(psp)

        again = await psp.do(
            Kind.AUTHORIZE, instrument=token, customer="shopper-1", off_session=True, recurring="unscheduled"
        )

        psp.assert_happened(again.outcome, EUR)
        psp.assert_effects(again, EUR)

    async def test_a_card_agreed_on_elsewhere_pays_by_its_network_transaction_id(self, psp: UnderTest) -> None:
        psp.needs(Capability.MERCHANT_INITIATED, Capability.NETWORK_TRANSACTION_ID)
        card = replace(psp.card(), cvc=None)

        sent = await psp.do(
            Kind.AUTHORIZE,
            instrument=card,
            customer="shopper-1",
            off_session=True,
            recurring="unscheduled",
            network_transaction_id="MCC123456789012",
        )

        psp.assert_happened(sent.outcome, EUR)


class Disputes(_Suite):
    """A shopper's bank takes the money back: it is told, and then contested or given up."""

    async def disputed(self, psp: UnderTest) -> tuple[Sent, Event, DisputeNews]:
        payment, event, news, _ = await self.told(psp)
        return payment, event, news

    async def told(self, psp: UnderTest) -> tuple[Sent, Event, DisputeNews, bytes]:
        """A disputed payment, the event that says so, and the webhook it came in."""
        instrument = psp.instrument("disputed")
        if psp.webhook is None:
            pytest.skip(f"{psp.account.provider.name}: a dispute is told by webhook, and those do not come here")
        payment = await psp.captured(instrument=instrument)

        def ours(event: Event) -> bool:
            return event.dispute is not None and event.provider_payment_id == payment.provider_id

        headers, body = await psp.webhook(ours)
        psp.account.provider.verify_webhook(headers, body)
        event = next(each for each in psp.account.provider.parse_webhook(body) if ours(each))
        assert event.dispute is not None
        return payment, event, event.dispute, body

    async def answer(self, psp: UnderTest, kind: Kind) -> tuple[Ask, Call]:
        if kind is Kind.ACCEPT:
            psp.needs(Capability.DISPUTE_ACCEPT)
        elif not psp.defense:
            pytest.skip(f"{psp.account.provider.name}: nothing is said that could contest a dispute")
        else:
            psp.needs(Capability.DISPUTE_DOCUMENTS if psp.defense.get("documents") else Capability.DISPUTE_TEXT)
        payment, _, news = await self.disputed(psp)
        said = psp.defense if kind is Kind.DEFEND else {}
        ask = psp.ask(kind, payment, amount=news.amount, dispute_id=news.dispute_id, **said)
        return ask, psp.call(ask)

    async def test_a_dispute_is_told_with_its_payment_and_its_amount(self, psp: UnderTest) -> None:
        _, event, news = await self.disputed(psp)

        assert event.outcome is None
        assert news.dispute_id
        assert news.amount == EUR
        assert news.status in {DisputeStatus.NEEDS_RESPONSE, DisputeStatus.INQUIRY}
        assert news.reason

    async def test_whatever_an_authentic_webhook_of_a_dispute_says_it_is_kept_or_refused(self, psp: UnderTest) -> None:
        _, _, _, body = await self.told(psp)

        for odd in _varied(json.loads(body)):
            _kept_or_refused(psp, odd)

    @pytest.mark.parametrize("kind", [Kind.DEFEND, Kind.ACCEPT], ids=str)
    async def test_a_dispute_is_answered_once_and_a_replay_is_never_refused(self, kind: Kind, psp: UnderTest) -> None:
        ask, call = await self.answer(psp, kind)

        first = await psp.sent(ask, call)
        again = await psp.sent(ask, first.call)

        psp.assert_happened(first.outcome, ask.amount)
        assert isinstance(again.outcome, Approved | Pending | Unknown), again.outcome

    @pytest.mark.parametrize("fault", ["reset_after_effect", "error_after_effect", "garbage", "reset_before_effect"])
    @pytest.mark.parametrize("kind", [Kind.DEFEND, Kind.ACCEPT], ids=str)
    async def test_an_answer_about_a_dispute_that_is_lost_is_never_a_refusal(
        self, kind: Kind, fault: str, psp: UnderTest
    ) -> None:
        ask, call = await self.answer(psp, kind)
        psp.scripted(kind, fault, {})

        sent = await psp.sent(ask, call, once=True)
        again = await psp.sent(ask, sent.call, once=True)

        assert isinstance(sent.outcome, Unknown), sent.outcome
        assert isinstance(again.outcome, Approved | Pending | Unknown), again.outcome

    async def test_a_dispute_that_was_given_up_is_lost(self, psp: UnderTest) -> None:
        ask, call = await self.answer(psp, Kind.ACCEPT)
        assert psp.webhook is not None
        await psp.sent(ask, call)

        def lost(event: Event) -> bool:
            return event.dispute is not None and (event.dispute.dispute_id, event.dispute.status) == (
                getattr(ask, "dispute_id", None),
                DisputeStatus.LOST,
            )

        await psp.webhook(lost)


# --- What an account can do, and what is looked up --------------------------------------------------------------------


_MEANS: Final[Mapping[Capability, Callable[[UnderTest], bool]]] = {
    Capability.CARD_NUMBERS: lambda psp: "card" in psp.instruments,
    Capability.NETWORK_TRANSACTION_ID: lambda psp: "card" in psp.instruments,
    Capability.REDIRECT: lambda psp: "challenge" in psp.instruments and psp.shopper is not None,
    Capability.NATIVE: lambda psp: "challenge" in psp.instruments and psp.shopper is not None,
    Capability.DISPUTE_TEXT: lambda psp: "disputed" in psp.instruments and bool(psp.defense.get("text")),
    Capability.DISPUTE_DOCUMENTS: lambda psp: "disputed" in psp.instruments and bool(psp.defense.get("documents")),
    Capability.DISPUTE_ACCEPT: lambda psp: "disputed" in psp.instruments,
}
"""What has to be brought for a capability to be exercised. The others need nothing."""

_PERMITTED_BY: Final[Mapping[Kind, frozenset[Capability]]] = {
    Kind.INCREMENT: frozenset({Capability.INCREMENT, Capability.DECREMENT}),
    Kind.DEFEND: frozenset({Capability.DISPUTE_TEXT, Capability.DISPUTE_DOCUMENTS}),
    Kind.ACCEPT: frozenset({Capability.DISPUTE_ACCEPT}),
}
_ANY_DISPUTE: Final[Mapping[Kind, Mapping[str, Any]]] = {
    Kind.INCREMENT: {},
    Kind.DEFEND: {"dispute_id": "any"},
    Kind.ACCEPT: {"dispute_id": "any"},
}


class Abilities(_Suite):
    """What is off is refused before any call; what is said to be on may be asked."""

    def test_what_is_claimed_can_be_exercised_here(self, psp: UnderTest) -> None:
        """Nothing is skipped for want of an instrument or a shopper where there is a simulator that could have them."""
        if psp.books is None:
            pytest.skip(f"{psp.account.provider.name}: a real PSP has what it has")

        assert not [claim for claim, has in _MEANS.items() if psp.account.can(claim) and not has(psp)]

    @pytest.mark.parametrize("kind", [Kind.INCREMENT, Kind.DEFEND, Kind.ACCEPT], ids=str)
    def test_what_no_account_there_can_do_is_composed_for_none(self, kind: Kind, psp: UnderTest) -> None:
        able = psp.account.provider.capabilities
        if (able.supported | able.on_request) & _PERMITTED_BY[kind]:
            pytest.skip(f"{psp.account.provider.name}: {kind} is permitted by a capability")
        first = psp.ask(Kind.AUTHORIZE)
        ask = psp.ask(kind, Sent(first, psp.call(first), Pending("any")), **_ANY_DISPUTE[kind])

        with pytest.raises(ValueError, match=r"\w"):
            psp.account.provider.compose(ask)

    @pytest.mark.parametrize(
        ("capability", "said"),
        [
            (Capability.DISPUTE_TEXT, {"text": {"any": "I was there."}}),
            (Capability.DISPUTE_DOCUMENTS, {"documents": (Document("any", "application/pdf", b"%PDF-1.7"),)}),
        ],
        ids=["text", "documents"],
    )
    def test_evidence_that_would_be_lost_is_not_composed(
        self, capability: Capability, said: Mapping[str, Any], psp: UnderTest
    ) -> None:
        able = psp.account.provider.capabilities
        if capability in able.supported | able.on_request:
            pytest.skip(f"{psp.account.provider.name}: takes it")
        first = psp.ask(Kind.AUTHORIZE)
        ask = psp.ask(Kind.DEFEND, Sent(first, psp.call(first), Pending("any")), dispute_id="any", **said)

        with pytest.raises(ValueError, match=r"\w"):
            psp.account.provider.compose(ask)

    def test_what_is_there_on_request_only_is_off_until_it_is_enabled(self, psp: UnderTest) -> None:
        on_request = psp.account.provider.capabilities.on_request
        bare = psp.reopen(enabled=())

        for capability in on_request:
            refusal = bare.eligible(EUR, has_token=True, has_card=False, needs=frozenset({capability}))
            assert refusal == f"no_{capability}"
            assert psp.reopen(enabled=(capability,)).can(capability)

    def test_a_card_number_is_taken_only_where_the_account_takes_them(self, psp: UnderTest) -> None:
        without_token = psp.account.eligible(EUR, has_token=False, has_card=True)

        assert without_token == (None if psp.account.can(Capability.CARD_NUMBERS) else "no_token")
        assert psp.account.eligible(EUR, has_token=False, has_card=False) == "no_token"

    def test_a_capability_is_either_always_there_or_on_request(self, psp: UnderTest) -> None:
        able = psp.account.provider.capabilities

        assert not able.supported & able.on_request
        assert set(able.notes) <= set(Capability)
        assert able.replay_horizon_s > 0

    def test_the_same_ask_gives_the_same_request_and_it_is_json(self, psp: UnderTest) -> None:
        ask = psp.ask(Kind.AUTHORIZE)
        request = psp.account.provider.compose(ask)

        assert psp.account.provider.compose(ask) == request
        assert json.loads(json.dumps(request)) == request


_VERBS: Final = (Kind.AUTHORIZE, Kind.CAPTURE, Kind.VOID, Kind.REFUND)
_CHANGING: Final = (*_VERBS, Kind.INCREMENT)


async def _ready(psp: UnderTest, kind: Kind) -> tuple[Ask, Call]:
    """The ask and call of a verb, with the payment that it needs already there."""
    if kind is Kind.AUTHORIZE:
        ask = psp.ask(kind)
        return ask, psp.call(ask)
    psp.needs(Capability.MANUAL_CAPTURE)
    if kind is Kind.INCREMENT:
        psp.needs(Capability.INCREMENT)
    payment = await (psp.captured() if kind is Kind.REFUND else psp.authorized(adjustable=kind is Kind.INCREMENT))
    ask = psp.ask(kind, payment, amount=MORE if kind is Kind.INCREMENT else EUR)
    return ask, psp.call(ask)


class Lookups(_Suite):
    """Asking what became of an operation."""

    @pytest.mark.parametrize("kind", _VERBS, ids=str)
    async def test_a_lookup_finds_what_happened_and_changes_nothing(self, kind: Kind, psp: UnderTest) -> None:
        ask, call = await _ready(psp, kind)
        sent = await psp.sent(ask, call)
        before = psp.books and psp.books()

        named = replace(sent.call, provider_id=getattr(sent.outcome, "provider_id", None))
        found = await psp.account.lookup(named)

        assert (psp.books and psp.books()) == before
        if not psp.account.can(Capability.LOOKUP):
            assert isinstance(found, Unknown), found
            pytest.skip(f"{psp.account.provider.name}: no {Capability.LOOKUP}, and it says so")
        psp.assert_happened(found, EUR)

    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
    @pytest.mark.parametrize("kind", _VERBS, ids=str)
    async def test_a_lookup_that_fails_or_lies_proves_nothing(self, kind: Kind, fault: _Fault, psp: UnderTest) -> None:
        psp.needs(Capability.LOOKUP)
        ask, call = await _ready(psp, kind)
        sent = await psp.sent(ask, call)
        fault.script(psp, "lookup", ask)

        named = replace(sent.call, provider_id=getattr(sent.outcome, "provider_id", None))
        found = await psp.account.lookup(named, timeout_s=fault.deadline_s)

        released = (
            fault.lies and kind is Kind.VOID and isinstance(found, Approved)
        )  # as a whole: what lied says no less
        assert isinstance(found, Unknown) or released, found

    @pytest.mark.parametrize("kind", _VERBS, ids=str)
    async def test_a_miss_is_no_proof(self, kind: Kind, psp: UnderTest) -> None:
        _, call = await _ready(psp, kind)

        found = await psp.account.lookup(call)

        assert isinstance(found, Unknown), found


# --- Once, whatever happens -------------------------------------------------------------------------------------------


class Replays(_Suite):
    """The same bytes under the same key."""

    @pytest.mark.parametrize("kind", _CHANGING, ids=str)
    async def test_the_same_bytes_under_the_same_key_happen_once_and_answer_the_same(
        self, kind: Kind, psp: UnderTest
    ) -> None:
        ask, call = await _ready(psp, kind)

        first = await psp.sent(ask, call)
        again = await psp.sent(ask, first.call)

        assert isinstance(first.outcome, Approved | Pending), first.outcome
        assert again.outcome == first.outcome
        psp.assert_effects(first, ask.amount)

    @pytest.mark.parametrize("kind", _CHANGING, ids=str)
    async def test_the_same_call_always_travels_under_the_same_keys(self, kind: Kind, psp: UnderTest) -> None:
        ask, call = await _ready(psp, kind)

        first = await _keys_of(psp, ask, call)

        assert call.key in first
        assert await _keys_of(psp, ask, call) == first

    async def test_to_the_end_of_the_replay_horizon_the_key_is_remembered(self, psp: UnderTest) -> None:
        if psp.advance is None:
            pytest.skip(f"{psp.account.provider.name}: time passes here as it does everywhere")
        sent = await psp.captured()

        psp.advance(psp.account.provider.capabilities.replay_horizon_s)
        again = await psp.sent(sent.ask, sent.call)

        assert again.outcome == sent.outcome
        psp.assert_effects(sent, EUR)


class Faults(_Suite):
    """Whatever goes wrong, nothing is believed that the books do not hold, and it is found out in the end."""

    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
    @pytest.mark.parametrize("kind", _CHANGING, ids=str)
    async def test_a_fault_is_never_taken_for_an_answer_and_is_settled_under_the_same_key(
        self, kind: Kind, fault: _Fault, psp: UnderTest
    ) -> None:
        ask, call = await _ready(psp, kind)
        fault.script(psp, kind, ask)

        sent = await fault.meets(psp, Sent(ask, call, Unknown("not_sent_yet")))
        _agrees(psp, sent)
        if fault.lies and kind is not Kind.VOID:  # an authorization is released as a whole, whoever asks
            assert isinstance(sent.outcome, Unknown), f"an answer about something else was believed: {sent.outcome}"
        if isinstance(sent.outcome, NotProcessed):
            return  # and the books agree: another account may be asked
        final = await _settled(psp, sent)

        psp.assert_happened(final, ask.amount)
        psp.assert_effects(sent, ask.amount)

    @pytest.mark.parametrize("kind", _CHANGING[1:], ids=str)
    async def test_an_answer_about_another_payment_is_not_believed(self, kind: Kind, psp: UnderTest) -> None:
        ask, call = await _ready(psp, kind)
        psp.scripted(kind, "wrong_reference", {"instead_of": getattr(ask, "provider_payment_id", None)})

        sent = await psp.sent(ask, call, once=True)

        assert isinstance(sent.outcome, Unknown), sent.outcome

    @pytest.mark.parametrize("status", [400, 422])
    @pytest.mark.parametrize("kind", _CHANGING, ids=str)
    async def test_an_error_that_nobody_documented_is_never_a_refusal(
        self, kind: Kind, status: int, psp: UnderTest
    ) -> None:
        if psp.problem is None:
            pytest.skip(f"{psp.account.provider.name}: nobody says how this PSP words an error")
        ask, call = await _ready(psp, kind)
        psp.scripted(kind, "garbage", {"status": status, "body": psp.problem(UNHEARD_OF)})

        sent = await psp.sent(ask, call, once=True)

        assert isinstance(sent.outcome, Unknown), sent.outcome


# --- Money ------------------------------------------------------------------------------------------------------------

CURRENCIES: Final = sorted(each.code for each in iso4217.Currency if each.exponent is not None)
AMOUNTS: Final = (1, 5, 10, 50, 99, 100, 101, 500, 999, 1000, 1005, 1010, 1050, 12_345, 99_999, 100_000, 1_000_001)
LARGE_AMOUNTS: Final = (99_999_999, 123_456_789, 9_999_999_999, AMOUNT_MAX)
ODD_CURRENCIES: Final = tuple("BHD CLP CVE EUR HUF IDR ISK JPY KRW KWD MGA TND TWD UGX VND".split())  # noqa: SIM905
_MAJOR: Final = 50_000
"""Units of every odd currency: above every PSP's smallest amount, and below its largest."""


class Currencies(_Suite):
    """Every currency of ISO 4217: an amount arrives exactly, or is refused before the call."""

    @pytest.mark.parametrize("currency", CURRENCIES)
    def test_an_amount_is_refused_with_a_reason_or_the_psp_reads_exactly_it(
        self, currency: str, psp: UnderTest
    ) -> None:
        if psp.reads is None:
            pytest.skip(f"{psp.account.provider.name}: nobody says how this PSP reads an amount")
        for minor in (*AMOUNTS, *LARGE_AMOUNTS):
            money = Money(minor, currency)
            why = psp.account.provider.refuses(money)
            if why is not None:
                assert why
                eligible = psp.account.eligible(money, has_token=True, has_card=False)
                assert eligible in ("amount_not_representable", "currency_not_configured")
                continue
            request = psp.account.provider.compose(psp.ask(Kind.AUTHORIZE, amount=money))
            assert psp.reads(request) == (Decimal(minor).scaleb(-exponent(currency)), currency)

    @pytest.mark.parametrize("odd_minor", [0, 1], ids=["whole", "with_decimals"])
    @pytest.mark.parametrize("currency", ODD_CURRENCIES)
    async def test_an_amount_arrives_in_the_books_as_it_was_asked(
        self, currency: str, odd_minor: int, psp: UnderTest
    ) -> None:
        money = Money(_MAJOR * 10 ** exponent(currency) + odd_minor, currency)
        if why := psp.account.eligible(money, has_token=True, has_card=False):
            pytest.skip(f"{psp.account.provider.name}: {psp.account.provider.refuses(money) or why}")

        sent = await psp.captured(amount=money)

        assert isinstance(sent.outcome, Approved)
        assert sent.outcome.amount == money
        psp.assert_effects(sent, money)


# --- Secrets ----------------------------------------------------------------------------------------------------------


def shows(text: str, secret: str) -> bool:
    """Whether a text holds a secret; a short one, such as a CVC, counts only where it stands alone."""
    return re.search(rf"(?<![0-9A-Za-z]){re.escape(secret)}(?![0-9A-Za-z])", text) is not None


class Scrubbing(_Suite):
    """Neither the card nor a key is in anything that is printed, logged or raised."""

    def assert_scrubbed(self, psp: UnderTest, card: Card, *shown: object) -> None:
        for each in shown:
            text = f"{each!r} {each}"
            for secret in (card.number, card.cvc, psp.api_key, psp.webhook_secret):
                assert not secret or not shows(text, secret)

    async def test_nothing_that_is_printed_or_logged_holds_the_card_or_a_key(
        self, psp: UnderTest, caplog: pytest.LogCaptureFixture
    ) -> None:
        card = psp.card()
        caplog.set_level(logging.DEBUG)

        with capture_logs() as logged:
            sent = await psp.captured(instrument=card)
            found = await psp.account.lookup(replace(sent.call, provider_id=sent.provider_id))

        self.assert_scrubbed(psp, card, sent.ask, sent.call, sent.outcome, found, logged, caplog.text)
        self.assert_scrubbed(psp, card, sent.kept)
        self.assert_scrubbed(psp, card, psp.account, vars(psp.account), psp.account.provider, card)

    async def test_what_is_kept_of_a_card_that_is_to_be_remembered_holds_no_card(self, psp: UnderTest) -> None:
        psp.needs(Capability.STORED_CREDENTIALS)
        card = psp.card()

        sent = await psp.captured(instrument=card, setup_future_usage="off_session", customer="shopper-1")

        self.assert_scrubbed(psp, card, sent.kept, sent.outcome)

    async def test_what_is_told_of_a_payment_by_card_holds_no_card(self, psp: UnderTest) -> None:
        card = psp.card()

        event, _, body = await psp.told(await psp.captured(instrument=card))

        self.assert_scrubbed(psp, card, event, psp.account.provider.parse_webhook(body))

    async def test_a_bug_in_the_adapter_is_logged_without_the_card_or_a_key(
        self, psp: UnderTest, caplog: pytest.LogCaptureFixture
    ) -> None:
        card = psp.card()
        caplog.set_level(logging.DEBUG)
        ask = psp.ask(Kind.AUTHORIZE, instrument=card)
        call = psp.call(ask)
        broken = replace(call, request={name: [part] for name, part in call.request.items()})

        with capture_logs() as logged:
            sent = await psp.sent(ask, broken)

        assert isinstance(sent.outcome, Unknown | NotProcessed), sent.outcome
        self.assert_scrubbed(psp, card, sent.outcome, logged, caplog.text)

    @pytest.mark.parametrize("fault", ["garbage", "error_after_effect", "reset_before_effect", "truncated"])
    async def test_a_failed_call_is_told_without_the_card_or_a_key(
        self, fault: str, psp: UnderTest, caplog: pytest.LogCaptureFixture
    ) -> None:
        card = psp.card()
        caplog.set_level(logging.DEBUG)
        psp.scripted(Kind.AUTHORIZE, fault, {})
        ask = psp.ask(Kind.AUTHORIZE, instrument=card)

        with capture_logs() as logged:
            sent = await psp.sent(ask, psp.call(ask), once=True)

        self.assert_scrubbed(psp, card, sent.ask, sent.call, sent.outcome, sent.kept, logged, caplog.text)

    def test_a_wrong_configuration_is_refused_without_its_secrets(self, psp: UnderTest) -> None:
        able = psp.account.provider.capabilities
        never = sorted(set(Capability) - able.supported - able.on_request)
        if not never:
            pytest.skip(f"{psp.account.provider.name}: there is nothing that it never can")

        with pytest.raises(ConfigError) as refused:
            psp.reopen(api_key="sk_test_of_nobody", enabled=tuple(never))

        assert psp.account.name in str(refused.value)
        assert all(each in str(refused.value) for each in never)
        assert not shows(f"{refused.value!r} {refused.value}", "sk_test_of_nobody")


# --- Webhooks ---------------------------------------------------------------------------------------------------------


class Webhooks(_Suite):
    """What the PSP tells is believed where it is signed, and understood the same way every time."""

    @pytest.mark.parametrize("kind", _CHANGING, ids=str)
    async def test_the_webhook_of_a_verb_names_its_operation(self, kind: Kind, psp: UnderTest) -> None:
        ask, call = await _ready(psp, kind)
        sent = await psp.sent(ask, call)

        event, headers, body = await psp.told(sent)

        psp.account.provider.verify_webhook(headers, body)
        assert isinstance(event.outcome, Approved), event
        assert event.outcome.amount == ask.amount
        payment = getattr(ask, "provider_payment_id", None) or sent.provider_id
        assert event.provider_payment_id == payment
        assert event.event_id
        assert event.occurred_at is not None
        assert event.occurred_at.tzinfo is not None
        assert not event.lapsed, "somebody asked for it"

    async def test_an_authorization_that_runs_out_is_told_as_a_release_that_nobody_asked_for(
        self, psp: UnderTest
    ) -> None:
        psp.needs(Capability.MANUAL_CAPTURE)
        psp.does("never_lapses")
        if psp.advance is None or psp.webhook is None:
            pytest.skip(f"{psp.account.provider.name}: time passes here as it does everywhere")
        payment = await psp.authorized()

        def released(event: Event) -> bool:
            return (event.kind, event.provider_payment_id) == (Kind.VOID, payment.provider_id)

        psp.advance(_FOR_EVER_S)
        headers, body = await psp.webhook(released)

        psp.account.provider.verify_webhook(headers, body)
        event = next(each for each in psp.account.provider.parse_webhook(body) if released(each))
        assert isinstance(event.outcome, Approved), event
        assert (event.outcome.amount, event.lapsed) == (EUR, True)

    async def test_an_event_of_a_type_that_nobody_knows_is_kept_and_changes_nothing(self, psp: UnderTest) -> None:
        event, _, body = await psp.told(await psp.captured())
        headers, unknown = _signed(psp, body.replace(event.type.encode(), UNHEARD_OF.encode()))

        psp.account.provider.verify_webhook(headers, unknown)
        kept = psp.account.provider.parse_webhook(unknown)

        assert [(each.type, each.outcome, each.dispute) for each in kept] == [(UNHEARD_OF, None, None)]
        assert all(each.event_id for each in kept)

    @pytest.mark.parametrize("kind", _CHANGING, ids=str)
    async def test_whatever_an_authentic_webhook_says_it_is_kept_or_refused(self, kind: Kind, psp: UnderTest) -> None:
        """Each part of a real one left out, or replaced by something odd."""
        ask, call = await _ready(psp, kind)
        _, _, body = await psp.told(await psp.sent(ask, call))

        for odd in (*_varied(json.loads(body)), *BAD_BODIES.values()):
            _kept_or_refused(psp, odd)

    async def test_the_same_body_always_gives_the_same_events(self, psp: UnderTest) -> None:
        _, _, body = await psp.told(await psp.captured())

        assert psp.account.provider.parse_webhook(body) == psp.account.provider.parse_webhook(body)

    async def test_the_webhook_of_a_decline_is_that_decline(self, psp: UnderTest) -> None:
        sent = await psp.do(Kind.AUTHORIZE, instrument=psp.instrument("declined_soft"))

        event, _, _ = await psp.told(sent)

        assert isinstance(sent.outcome, Declined)
        assert isinstance(event.outcome, Declined)
        assert event.outcome.decline.code == sent.outcome.decline.code

    async def test_a_webhook_about_another_operation_than_was_signed_is_refused(self, psp: UnderTest) -> None:
        sent = await psp.captured()
        _, headers, body = await psp.told(sent)
        ours = sent.ask.operation_id.encode()
        assert ours in body

        with pytest.raises(WebhookRefused):
            psp.account.provider.verify_webhook(headers, body.replace(ours, ours[:-1] + b"x"))

    @pytest.mark.parametrize("cut", [1, 2, 3])
    async def test_a_part_of_a_webhook_is_refused(self, cut: int, psp: UnderTest) -> None:
        _, headers, body = await psp.told(await psp.captured())

        with pytest.raises(WebhookRefused):
            psp.account.provider.verify_webhook(headers, body[: len(body) * cut // 4])

    @pytest.mark.parametrize("bad", BAD_BODIES.values(), ids=BAD_BODIES)
    async def test_what_is_no_webhook_is_refused_and_nothing_else(self, bad: bytes, psp: UnderTest) -> None:
        _, headers, _ = await psp.told(await psp.captured())

        with pytest.raises(WebhookRefused):
            psp.account.provider.verify_webhook(headers, bad)

    @pytest.mark.parametrize("secrets", [(), ("another",), ("44" * 32,)], ids=["none", "another", "hexadecimal"])
    async def test_a_webhook_is_refused_without_its_secret(self, secrets: tuple[str, ...], psp: UnderTest) -> None:
        _, headers, body = await psp.told(await psp.captured())

        with pytest.raises(WebhookRefused) as refused:
            psp.reopen(webhook_secrets=secrets).provider.verify_webhook(headers, body)

        assert not any(shows(str(refused.value), secret) for secret in (*secrets, psp.webhook_secret))

    async def test_during_a_rotation_either_secret_will_do(self, psp: UnderTest) -> None:
        _, headers, body = await psp.told(await psp.captured())
        ours = psp.webhook_secret

        for secrets in ((ours, "44" * 32), ("44" * 32, ours)):
            psp.reopen(webhook_secrets=secrets).provider.verify_webhook(headers, body)


# --- The whole suite --------------------------------------------------------------------------------------------------


class ProviderConformance(
    Authorizations,
    Challenges,
    FollowUps,
    StoredCredentials,
    Disputes,
    Abilities,
    Lookups,
    Replays,
    Faults,
    Currencies,
    Scrubbing,
    Webhooks,
):
    """All of it. Subclass it as ``TestAcme`` and override the fixture ``psp``."""
