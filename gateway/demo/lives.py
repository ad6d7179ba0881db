"""One payment's life, from the first request to the last refund, lived in an instant by the rules that real payments live by.

Pure but for the seals, which are never the same twice. Each step is decided by ``gateway.lifecycle`` and each account chosen by
``routing.rules``; what a step leaves in the tables is what ``gateway.books`` would have written, in the same words. Only what was
received by webhook has no row of its own in the inbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from gateway import lifecycle
from gateway.answers import Answer, charge_answer, follow_up_answer
from gateway.attempts import Step, attempt
from gateway.books import ABANDONED_S, KeyUse, change_values, due_after, key_values, method_values
from gateway.demo.shoppers import Shopper, World, another_card
from gateway.events import told
from gateway.ids import ATTEMPT, PAYMENT, PAYMENT_METHOD, derived_id
from gateway.keys import sealed
from gateway.lifecycle import Change, NoChange
from gateway.limits import declined_values
from gateway.methods import card_method
from gateway.modify import PREFIX, follow_up
from gateway.payment import Operation, OperationStatus, Payment, Reason, Status, Terms
from gateway.routes import Routed, cascade, facts
from gateway.rows import card_json, operation_values, payment_values
from gateway.signals import word_of
from gateway.vault import Keyring, Wallet
from idempotency.key import Key, fingerprint
from providers.contract import (
    ActionRequired,
    Approved,
    Card,
    CardFacts,
    Declined,
    Kind,
    NotProcessed,
    Outcome,
    Pending,
    ThreeDSecure,
    Unknown,
)
from providers.declines import Decline, load, look_up
from providers.money import Money
from routing import rules
from routing.document import Document
from routing.plan import Verdict
from routing.retries import DEFAULTS, Rule

PARKED: Final = timedelta(minutes=15, seconds=5)
"""How long a payment waits for its key to be sent again, and a moment of the worker's."""
AUTHORIZED_DAYS: Final = 7
"""How long an authorization holds."""
UNKNOWN: Final = 0.004
"""The share of requests of which nobody hears at once what became."""
ABANDONED: Final = 0.14
UNAUTHENTICATED: Final = 0.07
"""Of the shoppers whom their issuers want to see, those who never come back, and those who fail."""
ANOTHER_CARD: Final = 0.3
"""Of the shoppers who were declined, those who try another card."""
REFUNDED: Final = 0.045
CAPTURED, CANCELED = 0.9, 0.05
"""Of the payments that are captured later, those that are, and those that are canceled; what is left of them runs out."""
EVENTUALLY: Final = timedelta(hours=1)
"""How long before the end a payment must have begun for what takes longer than a moment to have been over by then."""

_TABLES: Final[Mapping[str, Mapping[str, Decline]]] = {
    "stripe": load("stripe_declines"),
    "adyen": load("adyen_refusals"),
}
_NOT_AUTHENTICATED: Final = {"stripe": "payment_intent_authentication_failure", "adyen": "11"}
_SIGNS: Final = "0123456789ABCDEFGHJKLMNPQRSTVWXYZ"

Rows = dict[str, list[dict[str, Any]]]
"""Rows by table, each by its columns."""


@dataclass(frozen=True, slots=True)
class House:
    """Whose payments they are, and what they live under. ``accounts`` are providers by account, in the order of the configuration.

    ``document`` is the routing document in force as ``version``; without one the order decides. Nothing happens after ``end``.
    """

    merchant: str
    accounts: Mapping[str, str]
    keys: Keyring
    seed: int
    end: datetime
    version: str | None = None
    document: Document | None = None


@dataclass(slots=True)
class _Track:
    """What an operation's row holds beside its value."""

    updated_at: datetime
    due: datetime | None = None
    tries: int = 0
    word: str | None = None
    word_at: datetime | None = None


@dataclass(slots=True)
class _Request:
    """A key while its request is being answered."""

    key: Key
    fingerprint: bytes
    operation_id: str
    at: datetime
    answer: Answer | None = None


@dataclass(slots=True)
class Life:
    """A payment that lives when it is made. :meth:`rows` are what it has left."""

    shopper: Shopper
    world: World
    house: House
    payment: Payment = field(init=False)
    _card: Card = field(init=False, repr=False)
    _methods: list[dict[str, Any]] = field(init=False, default_factory=list)
    _changes: list[dict[str, Any]] = field(init=False, default_factory=list)
    _events: list[dict[str, Any]] = field(init=False, default_factory=list)
    _requests: list[_Request] = field(init=False, default_factory=list)
    _declined: list[dict[str, Any]] = field(init=False, default_factory=list)
    _tracks: dict[str, _Track] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._begin()
        if self.payment.status is Status.REQUIRES_PAYMENT_METHOD and self._slow and self.world.happens(ANOTHER_CARD):
            at = self.payment.updated_at + self.world.between(25, 240)
            self._confirm(another_card(self.world.dice, self.shopper), at)
        if self.payment.status is Status.REQUIRES_CAPTURE:
            self._capture_or_not()
        if self.payment.status is Status.SUCCEEDED and self.world.happens(REFUNDED):
            self._refund()
        self._lapse()

    # --- The charge ---

    @property
    def _slow(self) -> bool:
        """Whether there is time for what takes longer than a moment."""
        return self.shopper.at < self.house.end - EVENTUALLY

    def _begin(self) -> None:
        shopper, house = self.shopper, self.house
        terms = Terms(
            id=self._id(PAYMENT, shopper.at),
            merchant_id=house.merchant,
            livemode=False,
            amount=shopper.amount,
            currency=shopper.currency,
            capture_method="manual" if shopper.manual else "automatic",
            off_session=False,
            created_at=shopper.at,
            reference=f"order-{house.seed}-{shopper.ordinal:05}",
            return_url="https://shop.example/back",
            billing_details={"address": {"country": shopper.country}},
        )
        self.payment = Payment(terms, Status.REQUIRES_CONFIRMATION, updated_at=shopper.at)
        self._confirm(shopper, shopper.at)

    def _confirm(self, shopper: Shopper, at: datetime) -> None:
        """A round with one card: the accounts are asked, one after the other, until one ends it."""
        house, terms = self.house, self.payment.terms
        self.shopper = shopper
        card = Card(shopper.number, shopper.exp_month, shopper.exp_year)
        method_id = self._id(PAYMENT_METHOD, at)
        method = replace(card_method(card, house.keys, house.merchant, method_id, keeps=False), reusable=False)
        self._methods.append(method_values(method, house.merchant, livemode=False, at=at))
        shown = CardFacts(**method.card or {})
        decision = rules.decide(
            house.document,
            house.version,
            facts(terms, Wallet(card=card), shown, at),
            dict.fromkeys(house.accounts),
            tuple(house.accounts),
            lambda _: None,
            at.timestamp(),
        )
        payment = replace(self.payment, card=shown, payment_method=method_id)
        rule = Rule.CONFIRMED if payment.attempts else Rule.FIRST
        step = Step(decision.route[0], payment.round + 1, rule, Routed(decision).record())
        operation = self._attempt(payment, step, at)
        verb = "" if payment.version == 0 else f"/{terms.id}/confirm"
        request = self._ask(f"POST /v1/payments{verb}", operation.id, at)
        self._write(lifecycle.confirmed(payment, operation, decision.route, at), "api")
        self._ask_accounts(operation, at)
        answer = charge_answer(self.payment, house.keys, ok=200 if verb else 201)
        request.answer = answer if answer.decided else None
        self._wait_for_end(operation)

    def _ask_accounts(self, operation: Operation, at: datetime) -> None:
        following: Operation | None = operation
        while following is not None:  # bounded by the plan: every round of it asks an account that was not asked before
            operation, at = following, at + self.world.latency(following.account)
            outcome = self._answer(operation, at)
            plan = self.payment.plan({operation.id: outcome}, budget=DEFAULTS.budget(off_session=False))
            following = None
            if plan.verdict is Verdict.ASK and plan.account is not None:
                step = Step(plan.account, self.payment.round, plan.rule, cascade(self.payment, operation, outcome))
                following = self._attempt(self.payment, step, at)
            else:
                plan = plan.held()
            change = lifecycle.decide(self.payment, operation.id, outcome, plan, driven=following is not None, now=at)
            changed = _changed(change)
            changed = changed if following is None else lifecycle.followed_by(changed, following)
            self._write(changed, "call", operation.id)

    def _answer(self, operation: Operation, at: datetime) -> Outcome:
        """What the account says."""
        world, shopper, account = self.world, self.shopper, operation.account
        if world.away(account, at):
            return Unknown("timeout") if world.happens(0.08) else NotProcessed("not_sent")
        if self._slow and world.happens(UNKNOWN):
            return Unknown("timeout")
        before = [each for each in self.payment.attempts if each.round == operation.round and each.id != operation.id]
        if self._slow and shopper.challenged and not before:
            there = self._provider_id(operation)
            url = f"https://issuer.example/challenge/{operation.id}"
            return ActionRequired(there, {"type": "redirect_to_url", "redirect_to_url": {"url": url}})
        again = any(each.status is OperationStatus.DECLINED for each in before)
        return self._issuer_says(operation, approved=world.approves(shopper, account, at, again=again), at=at)

    def _issuer_says(self, operation: Operation, *, approved: bool, at: datetime) -> Outcome:
        shopper = self.shopper
        there = operation.provider_id or self._provider_id(operation)
        card = CardFacts(
            shopper.brand,
            shopper.number[:6],
            shopper.number[-4:],
            shopper.exp_month,
            shopper.exp_year,
            shopper.funding,
            shopper.country,
        )
        if not approved:
            return Declined(self._decline(operation, self.world.decline(operation.account)), there, card=card)
        manual = self.payment.terms.capture_method == "manual"
        seen = ThreeDSecure("authenticated", "challenge", "2.2.0", "05") if operation.challenged else None
        return Approved(
            there,
            Money(operation.amount, self.payment.terms.currency),
            captured=not manual,
            network_transaction_id=self.world.letters(15, "0123456789"),
            auth_code=self.world.letters(6, "0123456789"),
            cvc="match",
            card=card,
            three_d_secure=seen,
            capture_before=at + timedelta(days=AUTHORIZED_DAYS) if manual else None,
        )

    def _wait_for_end(self, operation: Operation) -> None:
        """What becomes of an attempt that has no end yet."""
        attempt_ = self.payment.open_attempt
        if attempt_ is None:
            return
        at = self.payment.updated_at
        if attempt_.status is OperationStatus.UNKNOWN:
            at += self.world.between(2.5, 70) if self._slow else self.world.between(2, 3)
            approved = self.world.approves(self.shopper, attempt_.account, at, again=False)
            self._hear(attempt_, self._issuer_says(attempt_, approved=approved, at=at), "sweep", at)
        elif self.world.happens(ABANDONED):
            at += timedelta(seconds=ABANDONED_S) + self.world.between(0.2, 5)
            void = self._follow_up(Kind.VOID, self.payment.terms.amount, at)
            self._write(lifecycle.abandoned(self.payment, void, at), "sweep")
            self._end_follow_up(void, "sweep", at)
        else:
            at += self.world.between(12, 150)
            self._write(lifecycle.returned(self.payment, attempt_, at), "return")
            attempt_ = self.payment.operation(attempt_.id)
            at += self.world.latency(attempt_.account)
            outcome = self._issuer_says(attempt_, approved=True, at=at)
            if self.world.happens(UNAUTHENTICATED):
                code = _NOT_AUTHENTICATED[attempt_.provider]
                outcome = Declined(self._decline(attempt_, code), attempt_.provider_id)
            elif not self.world.approves(self.shopper, attempt_.account, at, again=False):
                outcome = self._issuer_says(attempt_, approved=False, at=at)
            self._hear(attempt_, outcome, "return", at)
        if self.payment.processing_reason is Reason.AWAITING_RETRY:  # nobody drives it on
            budget = DEFAULTS.budget(off_session=False)
            self._write(_changed(lifecycle.given_up(self.payment, at + PARKED, budget=budget)), "sweep")

    def _hear(self, operation: Operation, outcome: Outcome, source: str, at: datetime) -> None:
        """News of an attempt that nobody is waiting for any more."""
        plan = self.payment.plan({operation.id: outcome}, budget=DEFAULTS.budget(off_session=False))
        if operation.challenged:
            plan = plan.held()
        change = lifecycle.decide(self.payment, operation.id, outcome, plan, driven=False, now=at)
        self._write(_changed(change), source, operation.id)
        first = self._methods[0]
        if self.payment.status is not Status.PROCESSING and first["m_created_at"] == self.payment.terms.created_at:
            known = {name: value for name, value in (card_json(self.payment.card) or {}).items() if value is not None}
            first |= {"m_card": known, "m_updated_at": at}

    def _decline(self, operation: Operation, code: str) -> Decline:
        return look_up(_TABLES.get(operation.provider, {}), code)

    # --- What follows ---

    def _capture_or_not(self) -> None:
        fate, authorized = self.world.dice.random(), self.payment.amount_authorized
        at = self.payment.updated_at + self.world.between(1800, 40 * 3600)
        if fate < CAPTURED and at < self.house.end - EVENTUALLY:
            part = (
                authorized if self.world.happens(0.85) else max(1, authorized * self.world.dice.randint(30, 90) // 100)
            )
            self._verb("capture", lifecycle.capture_opened, self._follow_up(Kind.CAPTURE, part, at), at)
        elif CAPTURED <= fate < CAPTURED + CANCELED and at < self.house.end - EVENTUALLY:
            void = self._follow_up(Kind.VOID, authorized, at)
            opened: Callable[..., Change] = lambda payment, op, now: lifecycle.cancel_opened(payment, op, None, now)  # noqa: E731
            self._verb("cancel", opened, void, at)
        elif (before := self.payment.capture_before) is not None and before < self.house.end:
            change = lifecycle.released(self.payment, self.payment.attempts[-1], lapsed=True, now=before)
            self._write(_changed(change), "webhook")

    def _refund(self) -> None:
        at = self.payment.updated_at + self.world.between(3600, 9 * 86_400)
        if at > self.house.end - EVENTUALLY:
            return
        whole = self.payment.amount_refundable
        part = whole if self.world.happens(0.6) else max(1, whole * self.world.dice.randint(20, 80) // 100)
        self._verb("refund", lifecycle.refund_opened, self._follow_up(Kind.REFUND, part, at), at)

    def _verb(self, verb: str, opened: Callable[..., Change], operation: Operation, at: datetime) -> None:
        """A merchant's request about the payment, and what its account makes of it: at once, or told later."""
        route = "POST /v1/refunds" if verb == "refund" else f"POST /v1/payments/{self.payment.terms.id}/{verb}"
        request = self._ask(route, operation.id, at)
        self._write(opened(self.payment, operation, at), "api")
        at += self.world.latency(operation.account)
        if operation.provider == "adyen":  # its end comes by webhook
            self._news(operation, Pending(self._provider_id(operation)), "call", at)
            answer = follow_up_answer(self.payment, self.payment.operation(operation.id), self.house.keys)
            self._end_follow_up(operation, "webhook", at + self.world.between(4, 1200))
        else:
            self._end_follow_up(operation, "call", at)
            answer = follow_up_answer(self.payment, self.payment.operation(operation.id), self.house.keys)
        request.answer = answer if answer.decided else None

    def _end_follow_up(self, operation: Operation, source: str, at: datetime) -> None:
        there = self.payment.operation(operation.id).provider_id or self._provider_id(operation)
        self._news(operation, Approved(there, Money(operation.amount, self.payment.terms.currency)), source, at)

    def _news(self, operation: Operation, outcome: Outcome, source: str, at: datetime) -> None:
        plan = self.payment.plan(budget=DEFAULTS.budget(off_session=False))
        change = lifecycle.decide(self.payment, operation.id, outcome, plan, driven=source == "call", now=at)
        self._write(_changed(change), source, operation.id)

    def _lapse(self) -> None:
        """A decline that nobody followed with another try is final a day later; then nothing is due any more."""
        for each in self.payment.attempts:
            track = self._tracks[each.id]
            if track.due is None or track.due > self.house.end:
                continue
            change = lifecycle.lapsed(self.payment, each, track.due)
            if isinstance(change, Change):
                self._write(change, "sweep")
            track.due = None

    # --- What it leaves ---

    def _ask(self, route: str, operation_id: str, at: datetime) -> _Request:
        key = Key(self.house.merchant, False, key_of(self.house.seed, self.shopper.ordinal, len(self._requests)))
        print_ = fingerprint(self.house.keys.fingerprint, route, "", {"reference": self.payment.terms.reference})
        self._requests.append(_Request(key, print_, operation_id, at))
        return self._requests[-1]

    def _write(self, change: Change, source: str, settled: str | None = None) -> None:
        """What the books write of a change: its step, what is told of it, and what is due from then on."""
        before, after = self.payment, change.payment
        at, terms = after.updated_at, after.terms
        self._changes.append(change_values(change, source))
        known = {operation.id: operation for operation in before.operations}
        for operation in after.operations:
            if known.get(operation.id) == operation:
                continue
            track = self._tracks.setdefault(operation.id, _Track(at))
            wait_s = due_after(operation, at)
            track.updated_at, track.due = at, None if wait_s is None else at + timedelta(seconds=wait_s)
            word = word_of(operation)
            if track.word is None and word is not None:
                track.word, track.word_at = word, at
        if settled is not None:
            self._tracks[settled].tries += 1
            row = declined_values(before, after, after.operation(settled))
            if row is not None:
                self._declined.append(row | {"y_card": self._methods[-1]["m_fingerprint"]})
        self.payment = after
        if before.version:
            self._events += [
                {
                    "id": event.id,
                    "merchant_id": terms.merchant_id,
                    "livemode": False,
                    "type": event.type,
                    "payment_id": terms.id,
                    "sequence": after.version,
                    "body": event.body,
                    "created_at": at,
                }
                for event in told(before, after)
            ]

    def rows(self, xid: int) -> Rows:
        """The rows of every table, as of :attr:`House.end`. ``xid`` is the number of the transaction that writes them."""
        return {
            "payment_method": [_columns(each) for each in self._methods],
            "payment": [_columns(payment_values(self.payment))],
            "operation": [self._operation_row(each, xid) for each in self.payment.operations],
            "change": [_columns(each) for each in self._changes],
            "event": self._events,
            "declined_card": [
                _columns({name: value for name, value in each.items() if name != "y_payment_method"})
                for each in self._declined
            ],
            "idempotency_key": [self._key_row(each) for each in self._requests],
        }

    def _operation_row(self, operation: Operation, xid: int) -> dict[str, Any]:
        track = self._tracks[operation.id]
        return _columns(operation_values(operation, self.payment)) | {
            "updated_at": track.updated_at,
            "sealed_request": None,
            "holds_card": False,
            "lease_until": track.updated_at,
            "tries": track.tries,
            "due_at": track.due,
            "review_at": None,
            "evidence": None,
            "evidence_word": track.word,
            "evidence_at": track.word_at,
            "evidence_xid": None if track.word is None else xid,
        }

    def _key_row(self, request: _Request) -> dict[str, Any]:
        answer = request.answer
        decided = None if answer is None else (answer.status, sealed(answer, request.key, self.house.keys))
        use = KeyUse(request.key, request.fingerprint, request.operation_id, decided)
        return _columns(key_values(use, self.payment.terms.id, request.at))

    # --- Parts ---

    def _attempt(self, payment: Payment, step: Step, at: datetime) -> Operation:
        provider, seq = self.house.accounts[step.account], len(payment.operations) + 1
        return attempt(payment, step, self._id(ATTEMPT, at, seq), provider, self.house.keys, at)

    def _follow_up(self, kind: Kind, amount: int, at: datetime) -> Operation:
        operation_id = self._id(PREFIX[kind], at, len(self.payment.operations) + 1)
        return follow_up(self.payment, kind, amount, operation_id, self.house.keys, at)

    def _id(self, prefix: str, at: datetime, *parts: int) -> str:
        return derived_id(prefix, at, "demo", *map(str, (self.house.seed, self.shopper.ordinal, *parts)))

    def _provider_id(self, operation: Operation) -> str:
        if operation.provider != "stripe":
            return self.world.letters(16, _SIGNS)
        prefix = {Kind.REFUND: "re", Kind.CAPTURE: "ch"}.get(operation.kind, "pi")
        return f"{prefix}_3{self.world.letters(23, _SIGNS)}"


def key_of(seed: int, ordinal: int, request: int = 0) -> str:
    """The idempotency key of a payment of the back-fill, or of a later ``request`` about it."""
    return f"backfill-{seed}-{ordinal}" + (f"-{request}" if request else "")


def _changed(change: Change | NoChange) -> Change:
    """The change that a step of a life always is."""
    match change:
        case Change():
            return change
        case NoChange(reason=reason):
            raise AssertionError(f"nothing has come of a step: {reason}")


def _columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row by its columns, from parameters named ``x_`` + column."""
    return {name.partition("_")[2]: value for name, value in values.items()}
