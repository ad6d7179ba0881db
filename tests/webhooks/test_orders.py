"""Webhooks come in any order, more than once, and before, after or instead of our own answers: the end is always the same.

A life of one payment: it is authorized, a part of it is captured and told, the rest is captured, a part is refunded, the refund fails
after all, and the payment is disputed. Five events about it are held back: the authorization, the last capture, the refund, its
failure and the dispute. They are then delivered in every order.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from aiohttp import web

from gateway import news
from gateway.sweep import sweep
from providers.contract import Approved, Event, Kind
from providers.money import Money
from providers.sandbox.signatures import adyen_signature, stripe_signature

if TYPE_CHECKING:
    from tests.conftest import Checked, Database, Inside, Kit, Open, Processes, Psps

NAMES: Final = ("authorized", "captured", "refunded", "refund_failed", "disputed")
ORDERS: Final = tuple(itertools.permutations(NAMES))
ANSWERS: Final = ("after", "before", "without")
"""When our own answers to the last capture and to the refund come: the events come after them, before them, or without any."""
AT_ONCE: Final = 8
"""So many lives are led at a time: they wait more than they compute."""
SLOW_MS: Final = 4000
PATIENCE_S: Final = 60.0
PSPS: Final = ("stripe", "adyen")
CARDS: Final = {"stripe": "4000000000005126", "adyen": "4111111111111111"}
"""Of the one at the first the refund fails after it succeeded; at the other it is the holder's name that says so."""
OPERATION: Final = re.compile(rb"\b[a-z]{2,3}_[0-9a-f]{32}\b")


# --- What the PSPs have sent --------------------------------------------------------------------------------------------


@dataclass
class Held:
    """Takes every webhook of the sandboxes, and keeps it under each operation of ours that it names."""

    bodies: dict[str, list[bytes]] = field(default_factory=dict)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self.came:
            for name in set(OPERATION.findall(body)):
                self.bodies.setdefault(name.decode(), []).append(body)
            self.came.notify_all()
        return web.Response()

    async def about(self, operation: str, *, word: str, also: str = "") -> bytes:
        """The first webhook about an operation that holds ``word``, and ``also`` that."""
        async with self.came, asyncio.timeout(PATIENCE_S):
            while True:
                for body in self.bodies.get(operation, []):
                    if f'"{word}"'.encode() in body and also.encode() in body:
                        return body
                await self.came.wait()


@pytest.fixture
async def held(api_port: int) -> AsyncIterator[Held]:
    ours = Held()
    app = web.Application()
    app.router.add_post("/v1/webhooks/{account}", ours.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", api_port).start()
        yield ours
    finally:
        await runner.cleanup()


class Stripe:
    """How one PSP's webhooks are told apart, told once more, and made."""

    WORDS: Final = {
        "authorized": "payment_intent.amount_capturable_updated",
        "captured": "payment_intent.succeeded",
        "refunded": "refund.created",
        "refund_failed": "refund.failed",
    }
    part: Final = "charge.captured"

    def __init__(self, flow: type[Kit]) -> None:
        self._secret = flow.SECRETS["FLOWS_STRIPE_WEBHOOK_SECRET"]
        self._numbers = itertools.count(1)

    def headers(self, body: bytes) -> dict[str, str]:
        return {"Stripe-Signature": stripe_signature(body, self._secret, int(time.time()))}

    def again(self, body: bytes) -> bytes:
        """The same news as another event."""
        return json.dumps(json.loads(body) | {"id": f"evt_again_{next(self._numbers)}"}).encode()

    def dispute(self, authorized: bytes) -> bytes:
        event = json.loads(authorized)
        number = next(self._numbers)
        event["data"] = {
            "object": {
                "id": f"dp_{number}",
                "object": "dispute",
                "amount": 1999,
                "currency": "eur",
                "status": "needs_response",
                "reason": "fraudulent",
                "payment_intent": event["data"]["object"]["id"],
            }
        }
        return json.dumps(event | {"id": f"evt_dispute_{number}", "type": "charge.dispute.created"}).encode()


class Adyen:
    """The same of the other."""

    WORDS: Final = {
        "authorized": "AUTHORISATION",
        "captured": "CAPTURE",
        "refunded": "REFUND",
        "refund_failed": "REFUND_FAILED",
    }
    part: Final = "CAPTURE"

    def __init__(self, flow: type[Kit]) -> None:
        self._key = flow.SECRETS["FLOWS_ADYEN_HMAC_KEY"]
        self._numbers = itertools.count(1)

    def headers(self, body: bytes) -> dict[str, str]:
        return {}

    def _changed(self, body: bytes, **changes: Any) -> bytes:
        webhook = json.loads(body)
        item = webhook["notificationItems"][0]["NotificationRequestItem"] | changes
        extra = {name: value for name, value in item.pop("additionalData").items() if name != "hmacSignature"}
        item["additionalData"] = extra | {"hmacSignature": adyen_signature(item, self._key)}
        return json.dumps(webhook | {"notificationItems": [{"NotificationRequestItem": item}]}).encode()

    def again(self, body: bytes) -> bytes:
        """The same news with another date, which makes it another event."""
        return self._changed(body, eventDate=f"2026-11-21T09:30:{next(self._numbers) % 60:02}+01:00")

    def dispute(self, authorized: bytes) -> bytes:
        item = json.loads(authorized)["notificationItems"][0]["NotificationRequestItem"]
        return self._changed(
            authorized,
            eventCode="NOTIFICATION_OF_CHARGEBACK",
            originalReference=item["pspReference"],
            pspReference=f"DISPUTE{next(self._numbers)}",
        )


MAIL: Final = {"stripe": Stripe, "adyen": Adyen}


# --- One life -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How one life is led."""

    psp: str
    answers: str
    order: tuple[str, ...]
    repeated: bool


@dataclass
class Life:
    """One payment, as it is led by a plan."""

    plan: Plan
    inside: Inside
    held: Held
    mail: Any
    flow: type[Kit]
    payment: dict[str, Any] = field(default_factory=dict)
    sent: list[asyncio.Task[Any]] = field(default_factory=list)
    events: dict[str, bytes] = field(default_factory=dict)

    async def begin(self) -> None:
        """Authorize, and capture a first part that is told."""
        merchant, psp = self.inside.merchant, self.plan.psp
        holder = "REFUND_FAILED" if psp == "adyen" else None
        method = self.flow.card(CARDS[psp], holder=holder)
        self.payment = await merchant.charged(
            capture_method="manual", payment_method_data=method, routing={"account": psp}
        )
        self.events["authorized"] = await self.held.about(self._operation(0)["id"], word=self.mail.WORDS["authorized"])
        self.events["disputed"] = self.mail.dispute(self.events["authorized"])
        part = await merchant.post(f"/v1/payments/{self.payment['id']}/capture", {"amount": 1000, "final": False})
        assert part.status_code in {200, 202}, part.text
        told = await self.held.about(self._operation(1)["id"], word=self.mail.part)
        if part.status_code == 202:
            await self.deliver(told)

    async def ask(self) -> None:
        """Ask for the rest and for a refund. Nobody waits for the answers yet."""
        merchant, payment = self.inside.merchant, self.payment["id"]
        for path, fields in (
            (f"/v1/payments/{payment}/capture", {"amount": 999}),
            ("/v1/refunds", {"payment": payment, "amount": 500}),
        ):
            self.sent.append(asyncio.create_task(merchant.post(path, fields)))
            await self.flow.eventually(
                lambda: len(self.inside.database.operations(payment)) == 2 + len(self.sent), "it is open"
            )
        if self.plan.answers != "before":
            await asyncio.gather(*self.sent)
        capture, refund = self._operation(2)["id"], self._operation(3)["id"]
        for name, operation in (("captured", capture), ("refunded", refund), ("refund_failed", refund)):
            self.events[name] = await self.held.about(operation, word=self.mail.WORDS[name])

    async def hear(self) -> None:
        """Deliver the five in the order of the plan, each and in the end all of them once more if it says so."""
        for name in self.plan.order:
            await self.deliver(self.events[name])
            if self.plan.repeated:
                await self.deliver(self.events[name])
                await self.deliver(self.mail.again(self.events[name]))
        if self.plan.repeated:
            for name in self.plan.order:
                await self.deliver(self.mail.again(self.events[name]))
        answers = await asyncio.gather(*self.sent)
        assert {answer.status_code for answer in answers} <= {200, 201, 202, 422}, [each.text for each in answers]

    async def deliver(self, body: bytes) -> None:
        """What the endpoint does with an authentic webhook, and no sooner the next one."""
        account = self.inside.house.deps.accounts[self.plan.psp]
        for received in await self.inside.house.inbox.receive(account, self.mail.headers(body), body):
            await self.inside.house.inbox.apply(received)

    def _operation(self, at: int) -> dict[str, Any]:
        return self.inside.database.operations(self.payment["id"])[at]


OURS: Final = {"id", "version", "created_at", "updated_at", "payment_method_id", "provider_payment_id", "options"}
PSPS_OWN: Final = {"network_transaction_id", "auth_code", "capture_before"}


def ended(database: Database, payment_id: str) -> dict[str, Any]:
    """How a payment ended, without what is its own: ids and times."""
    (payment,) = database.rows("SELECT * FROM payment WHERE id = %(id)s", id=payment_id)
    operations = database.operations(payment_id)
    disputes = database.rows(
        "SELECT status, amount, currency, reason, account FROM dispute WHERE payment_id = %(id)s", id=payment_id
    )
    shown = ("kind", "seq", "round", "account", "amount", "status", "final", "reason", "decline", "challenged")
    return {
        "payment": {name: value for name, value in payment.items() if name not in OURS | PSPS_OWN}
        | {name: bool(payment[name]) for name in PSPS_OWN},
        "operations": [{name: op[name] for name in shown} | {"named": bool(op["provider_id"])} for op in operations],
        "disputes": disputes,
    }


def told(database: Database, payment_id: str) -> list[tuple[str, str, str]]:
    """What the merchant was told of a payment since its second capture was asked for: type, object and status, in order."""
    names = {op["id"]: f"{op['kind']} {op['seq']}" for op in database.operations(payment_id)} | {payment_id: "payment"}
    rows = database.rows("SELECT type, body FROM event WHERE payment_id = %(id)s ORDER BY sequence, id", id=payment_id)
    events = [(row["type"], json.loads(row["body"])["data"]) for row in rows]
    return [(type_, names.get(data["id"], data["object"]), data["status"]) for type_, data in events]


WAITS: Final = (".pending", ".unknown")
OVERTAKEN: Final = "refund.succeeded"
"""Where the failure of the refund is heard first, nobody is told any more that it succeeded."""


def lasting(events: Sequence[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
    """What stays true of what was told."""
    return {each for each in events if not each[0].endswith(WAITS) and each[0] != OVERTAKEN}


# --- All lives ----------------------------------------------------------------------------------------------------------


def faults(answers: str) -> tuple[str, Mapping[str, Any]] | None:
    """What happens to our own answers."""
    return {
        "after": None,
        "before": ("slow_answer", {"latency_ms": SLOW_MS, "times": None}),
        "without": ("garbage", {"times": None}),
    }[answers]


async def led(plans: Sequence[Plan], open_gateway: Open, psps: Psps, held: Held, flow: type[Kit]) -> list[Life]:
    """Lead lives, some at a time. Those of one PSP whose answers come alike are led together."""
    lives: list[Life] = []
    async with open_gateway(PSPS, enabled=["several_captures"]) as inside:
        mail = {psp: MAIL[psp](flow) for psp in PSPS}
        for (psp, answers), alike in itertools.groupby(plans, lambda plan: (plan.psp, plan.answers)):
            for batch in _batches(list(alike)):
                group = [Life(plan, inside, held, mail[psp], flow) for plan in batch]
                await asyncio.gather(*(life.begin() for life in group))
                fault = faults(answers)
                for operation in ("capture", "refund") if fault else ():
                    psps.fault(psp, operation, fault[0], **fault[1])  # type: ignore[index]  # there is one
                await asyncio.gather(*(life.ask() for life in group))
                psps.clear_faults(psp)
                await asyncio.gather(*(life.hear() for life in group))
                lives += group
        inside.database.let_time_pass()
        await sweep(inside.house.deps)
        await inside.house.inbox.apply_due(inside.house.deps.accounts, 100)
    return lives


def _batches(plans: list[Plan]) -> Iterator[list[Plan]]:
    for at in range(0, len(plans), AT_ONCE):
        yield plans[at : at + AT_ONCE]


def _judge(lives: Sequence[Life], database: Database) -> Counter[str]:
    """One end for all of them, and what was told of it fits."""
    counts: Counter[str] = Counter()
    for psp in PSPS:
        ends: dict[str, Plan] = {}
        said: dict[frozenset[tuple[str, str, str]], Plan] = {}
        for life in (life for life in lives if life.plan.psp == psp):
            payment_id = life.payment["id"]
            ends.setdefault(json.dumps(ended(database, payment_id), sort_keys=True, default=str), life.plan)
            events = told(database, payment_id)
            assert len(events) == len(set(events)), (life.plan, events)
            last = {thing: status for _, thing, status in events}
            assert last["refund 4"] == "failed", (life.plan, events)
            said.setdefault(frozenset(lasting(events)), life.plan)
            counts["events overtaken by a later one"] += not any(each[0] == OVERTAKEN for each in events)
        assert len(ends) == 1, ends
        assert len(said) == 1, said
        counts[f"ends at {psp}"] += len(ends)
    return counts


async def _proof(
    plans: Sequence[Plan],
    open_gateway: Open,
    psps: Psps,
    database: Database,
    held: Held,
    flow: type[Kit],
    checked: Checked,
) -> Counter[str]:
    lives = await led(plans, open_gateway, psps, held, flow)
    counts = _judge(lives, database)
    counts["deliveries"] = database.value("SELECT count(*) FROM webhook_inbox")
    (before,) = database.rows(
        """SELECT count(*) FROM operation o WHERE o.kind = 'refund' AND
        (SELECT source FROM change WHERE operation_id = o.id AND reason IN ('refund_succeeded', 'refund_failed') ORDER BY seq LIMIT 1)
        = 'webhook'"""
    )
    counts["told first by webhook"] = before["count"]
    assert database.value("SELECT count(*) FROM incident") == 0, "what is only late is no incident"
    await checked(database, psps)
    return counts


def _said(plans: Sequence[Plan], counts: Counter[str]) -> str:
    return (
        f"orders of webhooks: {len({plan.order for plan in plans})} orders of 5 events, {len(plans)} payments at {len(PSPS)} PSPs, "
        f"{counts['deliveries']} events, one end at each PSP; {counts['told first by webhook']} refunds told before our own answer, "
        f"{counts['events overtaken by a later one']} successes overtaken by their failure"
    )


async def test_five_events_end_alike_in_every_order(
    open_gateway: Open,
    psps: Psps,
    database: Database,
    held: Held,
    flow: type[Kit],
    checked: Checked,
    proved: Callable[[str], None],
) -> None:
    """Every order once: at one PSP or the other, with answers that come after, before or never, once and repeated."""
    plans = [
        Plan(PSPS[at % 2], ANSWERS[at // 2 % 3], order, repeated=at // 6 % 2 == 1) for at, order in enumerate(ORDERS)
    ]
    plans.sort(key=lambda plan: (plan.psp, plan.answers))

    counts = await _proof(plans, open_gateway, psps, database, held, flow, checked)

    assert len(plans) == 120
    assert counts["told first by webhook"] > 0
    proved(_said(plans, counts))


@pytest.mark.nightly
@pytest.mark.parametrize("answers", ANSWERS)
async def test_five_events_end_alike_in_every_order_whatever_becomes_of_our_answers(
    answers: str,
    open_gateway: Open,
    psps: Psps,
    database: Database,
    held: Held,
    flow: type[Kit],
    checked: Checked,
    proved: Callable[[str], None],
) -> None:
    """The whole product: 120 orders, both PSPs, once and repeated, for each way in which our answers may come."""
    plans = [Plan(psp, answers, order, repeated) for psp in PSPS for order in ORDERS for repeated in (False, True)]

    counts = await _proof(plans, open_gateway, psps, database, held, flow, checked)

    assert len(plans) == 480
    proved(f"{_said(plans, counts)}; our answers: {answers}")


async def test_a_release_that_is_heard_before_the_authorization_is_not_forgotten(
    open_gateway: Open, flow: type[Kit]
) -> None:
    """It ran out, or somebody canceled it at the provider; and the provider had told both, in whatever order they came."""
    async with open_gateway(("stripe",)) as inside:
        merchant, deps = inside.merchant, inside.house.deps
        waiting = await merchant.charge(
            capture_method="manual",
            payment_method_data=flow.card("4000000000003220"),
            return_url="https://shop.example",
        )
        payment = waiting.json()
        (attempt,) = inside.database.operations(payment["id"])
        there = payment["provider_payment_id"]
        release = Event("evt_2", "X", Kind.VOID, None, there, there, Approved(there, Money(1999, "EUR")), lapsed=True)
        authorized = Event(
            "evt_1", "X", Kind.AUTHORIZE, attempt["id"], there, there, Approved(there, Money(1999, "EUR"))
        )
        early = await news.apply("stripe", release, deps)
        held = await news.apply("stripe", authorized, deps)
        again = await news.apply("stripe", release, deps)
        after = await merchant.payment(payment["id"])

    assert payment["status"] == "requires_action"
    assert (early.result, early.again) == ("waits_for_attempt", True)
    assert (held.result, again.result) == ("applied", "applied")
    assert (after["status"], after["cancellation_reason"]) == ("canceled", "authorization_expired")


# --- At the same moment -------------------------------------------------------------------------------------------------

PAYMENTS: Final = 100
CLIENTS: Final = 10
LATENCIES_MS: Final = (40, 80, 160, 320, 640)
"""How long answers are on their way. The webhooks leave the sandbox 50 ms after it has decided."""


@dataclass
class Relay:
    """Takes every webhook of the sandboxes and brings it to a gateway at once, together with the same news as another event."""

    mail: Mapping[str, Any]
    http: httpx.AsyncClient
    brought: list[asyncio.Task[int]] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        psp, body = request.match_info["account"], await request.read()
        self.brought += [asyncio.create_task(self._bring(psp, each)) for each in (body, self.mail[psp].again(body))]
        return web.Response()

    async def _bring(self, psp: str, body: bytes) -> int:
        answer = await self.http.post(f"/v1/webhooks/{psp}", content=body, headers=self.mail[psp].headers(body))
        return answer.status_code


async def test_two_events_and_the_answer_at_the_same_moment_are_one_payment(
    processes: Processes,
    api_port: int,
    psps: Psps,
    database: Database,
    flow: type[Kit],
    checked: Checked,
    proved: Callable[[str], None],
) -> None:
    """Real processes: what hears the webhooks is not what waits for the answer."""
    processes.api_port = free_port()
    server = processes.server().start()
    hearing = processes.server().start()
    processes.worker()
    for psp, latency_ms in itertools.product(PSPS, LATENCIES_MS):
        psps.fault(psp, "authorize", "slow_answer", latency_ms=latency_ms, times=PAYMENTS // 2 // len(LATENCIES_MS))
    app = web.Application()
    async with httpx.AsyncClient(base_url=hearing.url, timeout=60) as http, server.merchant() as merchant:
        relay = Relay({psp: MAIL[psp](flow) for psp in PSPS}, http)
        app.router.add_post("/v1/webhooks/{account}", relay.receive)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", api_port).start()
            turns = asyncio.Semaphore(CLIENTS)

            async def pay(number: int) -> int:
                async with turns:
                    answer = await merchant.charge(key=f"order-{number}", routing={"account": PSPS[number % 2]})
                    return answer.status_code

            answers = await asyncio.gather(*(pay(number) for number in range(PAYMENTS)))
            await flow.eventually(lambda: len(relay.brought) == 2 * PAYMENTS, "every webhook came")
            acknowledged = await asyncio.gather(*relay.brought)
        finally:
            await runner.cleanup()
    await flow.eventually(
        lambda: database.value("SELECT count(*) FROM webhook_inbox WHERE applied_at IS NULL") == 0,
        "every event is applied",
    )

    assert Counter(answers) == {201: PAYMENTS}
    assert Counter(acknowledged) == {200: 2 * PAYMENTS}
    results = Counter(row["result"] for row in database.rows("SELECT result FROM webhook_inbox"))
    assert results.total() == 2 * PAYMENTS
    assert results.keys() <= {"applied", "no_news"}
    (right,) = database.rows(
        "SELECT count(*) AS n FROM payment WHERE status = 'succeeded' AND amount_captured = amount AND amount = 1999"
    )
    assert right["n"] == PAYMENTS
    assert database.value("SELECT count(*) FROM event WHERE type = 'payment.succeeded'") == PAYMENTS
    assert database.value("SELECT count(*) FROM incident") == 0
    first = Counter(
        row["source"]
        for row in database.rows(
            "SELECT source FROM change WHERE from_status = 'processing' AND to_status = 'succeeded'"
        )
    )
    await checked(database, psps)
    proved(
        f"at the same moment: {PAYMENTS} payments, {2 * PAYMENTS} events in another process than the call, {right['n']} right, 0 lost; "
        f"{first['call']} settled by the answer first, {first['webhook']} by a webhook"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
