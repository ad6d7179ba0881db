"""Crash points: real runs pass exactly those that are in the table, nothing writes without one, and only a test may arm one."""

from __future__ import annotations

import ast
import asyncio
import itertools
import signal
from collections.abc import Awaitable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from pydantic import SecretStr

from gateway import crash
from gateway.console.users import Users, csrf_of
from gateway.sql import DatabaseAway, Pool, Statement, connect, is_writing
from gateway.worker import counting_jobs, jobs, outbound_jobs, routing_jobs
from idempotency.store import RedisGate
from providers.registry import AccountConfig, ConfigError
from webhooks.signing import Secrets

if TYPE_CHECKING:
    from tests.conftest import Checked, Configuration, Database, Inside, Kit, Open, Processes, Psps
    from tests.kill.conftest import Letter, Post

ROOT: Final = Path(__file__).parent.parent.parent
SLOW: Final[Mapping[str, Any]] = {"latency_ms": 3500}
"""Longer than a lease goes without being renewed."""
CHALLENGED: Final = {"stripe": "4000000000003220", "adyen": "5454545454545454"}


class Watch:
    """Notes the points that are passed, and lets the next passage of some fail as if Postgres were lost."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.failing: set[str] = set()

    def __call__(self, point: str) -> None:
        self.passed.add(point)
        if point in self.failing:
            self.failing.remove(point)
            raise DatabaseAway


class Run:
    """One gateway inside the test whose points are watched, with everything that a merchant and a PSP do."""

    def __init__(
        self, inside: Inside, watch: Watch, psps: Psps, post: Post, flow: type[Kit], cards: Iterator[str]
    ) -> None:
        self.inside, self.watch, self.psps, self.post, self.flow = inside, watch, psps, post, flow
        self.cards = cards
        self.merchant = inside.merchant
        inbound = jobs(inside.house.deps, inside.house.inbox, inside.house.pool)
        routing = routing_jobs(inside.house.deps, inside.house.pool, inside.database.url)
        counting = counting_jobs(inside.house.deps, inside.house.pool, inside.house.looking)
        self.jobs = {**inbound, **outbound_jobs(inside.house.outbox), **routing, **counting}
        self.keys = (f"key-{number}" for number in itertools.count())

    def card(self) -> str:
        """A card that nobody else has."""
        return next(self.cards)

    def script(self, psp: str, operation: str, number: str, *faults: tuple[str, Mapping[str, Any]]) -> None:
        for fault, parameters in faults:
            self.psps.fault(psp, operation, fault, match={"bin": number}, **parameters)

    def charge(self, number: str, psp: str | None = "stripe", **fields: Any) -> dict[str, Any]:
        routing = {"account": psp} if psp else None
        return self.flow.body(payment_method_data=self.flow.card(number), routing=routing, **fields)

    async def work(self, *names: str) -> None:
        """What the worker does by the clock, after everything that waits has become due."""
        self.inside.database.let_time_pass()
        for name in names:
            await self.jobs[name][1]()

    async def letter(self, text: bytes, payment: Mapping[str, Any]) -> Letter:
        """A webhook with some text in it that speaks of a payment, by an operation of ours or by the PSP's own name for it."""
        operations = {row["id"] for row in self.inside.database.operations(payment["id"])}
        named = str(payment["provider_payment_id"]).encode()
        return await self.post.wait_for(
            lambda it: text in it.body and (named in it.body or bool(it.operations & operations))
        )

    async def bring(self, letter: Letter, *, applied: bool = True) -> None:
        """Bring a webhook; one that is not ``applied`` is stored by a process that fails before it knows."""
        if not applied:
            self.watch.failing.add("webhook.receive.after")
        answer = await self.merchant.http.post(
            f"/v1/webhooks/{letter.account}", content=letter.body, headers=letter.headers
        )
        assert answer.status_code == (200 if applied else 503), answer.text
        if applied:
            await self.flow.eventually(
                lambda: self.inside.database.value("SELECT count(*) FROM webhook_inbox WHERE result IS NULL") == 0,
                "it was applied",
            )


Send = tuple[str, Mapping[str, Any], str]


async def doubtful(run: Run, latency_ms: int = SLOW["latency_ms"]) -> list[Send]:
    """One request of every kind, each answered slowly and with garbage, twice."""
    sends: list[Send] = []

    def add(path: str, fields: Mapping[str, Any], psp: str, operation: str, number: str) -> None:
        run.script(psp, operation, number, ("latency", {"latency_ms": latency_ms}), ("garbage", {"times": 2}))
        sends.append((path, fields, next(run.keys)))

    number = run.card()
    add("/v1/payments", run.charge(number), "stripe", "authorize", number)
    number = run.card()
    created = await run.merchant.charge(**run.charge(number, confirm=False))
    add(f"/v1/payments/{created.json()['id']}/confirm", {}, "stripe", "authorize", number)
    number = run.card()
    method = {**run.flow.card(number), "verify": True, "currency": "EUR", "routing": {"account": "stripe"}}
    add("/v1/payment_methods", method, "stripe", "authorize", number)
    for verb, operation, fields in (
        ("capture", "capture", {"amount": 700}),
        ("cancel", "void", {}),
        ("increment", "increment", {"amount": 2500}),
    ):
        number, adjustable = run.card(), verb == "increment"
        held = run.charge(number, capture_method="manual", incremental_authorization=adjustable)
        payment = await run.merchant.charged(**held)
        add(f"/v1/payments/{payment['id']}/{verb}", fields, "stripe", operation, number)
    number = run.card()
    payment = await run.merchant.charged(**run.charge(number))
    add("/v1/refunds", {"payment": payment["id"]}, "stripe", "refund", number)
    return sends


async def test_real_runs_pass_exactly_the_points_in_the_table(
    open_gateway: Open, psps: Psps, post: Post, flow: type[Kit], cards: Iterator[str]
) -> None:
    watch = Watch()
    async with open_gateway(passed=watch, enabled=["incremental_authorization"]) as inside:
        run = Run(inside, watch, psps, post, flow, cards)
        await _looked_up(run)
        number = run.card()  # the sweep asks again, and only then is it told
        run.script("adyen", "authorize", number, ("garbage", {"times": 3}))
        patient: Send = ("/v1/payments", run.charge(number, "adyen"), next(run.keys))
        sends = [*await doubtful(run), await _contested(run), patient]
        psps.fault("stripe", "lookup", "status", status=500, times=None)
        for round_ in range(2):
            answers = await asyncio.gather(
                *(run.merchant.post(path, dict(fields), key=key) for path, fields, key in sends)
            )
            assert {answer.status_code for answer in answers} == {202}, (round_, [each.text for each in answers])
            assert (await run.merchant.get(f"/v1/payments/{answers[0].json()['id']}")).status_code == 200
            inside.database.let_time_pass()
        for psp in psps.REAL:
            psps.clear_faults(psp)
        slow = sends[0][1]["payment_method_data"]["card"]["number"]
        run.script("stripe", "authorize", slow, ("latency", SLOW), ("garbage", {}))
        run.script("adyen", "authorize", number, ("garbage", {}))
        for _ in range(3):
            await run.work("settle")
        for path, fields, key in sends:
            answer = await run.merchant.post(path, dict(fields), key=key)
            assert answer.status_code in {200, 201}, (path, answer.text)
        for scene in (
            _cascades, _a_step_that_was_not_kept, _stored, _shoppers, _told_by_webhook, _not_believed, _accepted, _cancels, _abandoned,
            _ended, _told, _routed, _learned, _simulated, _looked_at, _monitored,
        ):  # fmt: skip
            await scene(run)
        await _in_review(run)
        await _sent(run)
        await run.work(*run.jobs)
        number = run.card()
        run.script("stripe", "authorize", number, ("status", {"status": 500, "times": None}))
        assert (await run.merchant.charge(**run.charge(number, None))).status_code == 202
    async with open_gateway(passed=watch, on_unknown="void_then_failover") as inside:
        await _voided_first(Run(inside, watch, psps, post, flow, cards))
    async with open_gateway(passed=watch, card_limits_in_test_mode=True) as inside:
        await _limited(Run(inside, watch, psps, post, flow, cards))
    async with open_gateway(passed=watch, off_session_gap_s=0) as inside:
        await _tried_again(Run(inside, watch, psps, post, flow, cards))

    table = crash.points()
    assert {point for point in watch.passed if point not in table} == set()
    assert {point for point in table if point not in watch.passed} == set()


async def _dispute(run: Run, number: str) -> str:
    """A payment that its shopper contests; the dispute's id."""
    payment = await run.merchant.charged(
        **run.flow.body(
            payment_method_data=run.flow.card(number, holder="chargeback:10.4"), routing={"account": "adyen"}
        )
    )
    for word in (b"NOTIFICATION_OF_CHARGEBACK", b'"CHARGEBACK"'):
        await run.bring(await run.letter(word, payment))
    (dispute,) = (await run.merchant.get("/v1/disputes", payment=payment["id"])).json()["data"]
    return str(dispute["id"])


async def _contested(run: Run) -> Send:
    """An answer to a dispute in two steps, of which the second is kept before it is sent."""
    number = run.card()
    dispute = await _dispute(run, number)
    run.script("adyen", "defend", number, ("status", {"status": 500, "times": 2}))
    document = {"type": "DefenseMaterial", "content_type": "application/pdf", "content": "JVBERi0xLjQgYQ=="}
    evidence = {"reason": "SupplyDefenseMaterial", "documents": [document]}
    return f"/v1/disputes/{dispute}/evidence", evidence, next(run.keys)


async def _accepted(run: Run) -> None:
    """A dispute that is accepted, slowly."""
    number = run.card()
    dispute = await _dispute(run, number)
    run.script("adyen", "accept", number, ("slow_answer", SLOW))
    assert (await run.merchant.post(f"/v1/disputes/{dispute}/accept")).status_code == 200


async def _cascades(run: Run) -> None:
    """The first account declines, the second one approves: for everything that is a charge."""
    for kind in ("charge", "confirm", "method"):
        number = run.card()
        run.script("stripe", "authorize", number, ("decline", {"code": "generic_decline", "times": None}))
        if kind == "method":
            body = {**run.flow.card(number), "verify": True, "currency": "EUR"}
            answer = await run.merchant.post("/v1/payment_methods", body)
        elif kind == "confirm":
            created = await run.merchant.charge(**run.charge(number, None, confirm=False))
            answer = await run.merchant.post(f"/v1/payments/{created.json()['id']}/confirm")
        else:
            answer = await run.merchant.charge(**run.charge(number, None))
        assert answer.status_code in {200, 201}, answer.text


async def _limited(run: Run) -> None:
    """A card that rests, since its issuer has said that it will never be approved."""
    number = run.card()
    run.script("stripe", "authorize", number, ("decline", {"code": "stolen_card"}))
    declined = (await run.merchant.charge(**run.charge(number))).json()
    method = {"payment_method_data": run.flow.card(number)}
    again = await run.merchant.post(f"/v1/payments/{declined['id']}/confirm", method)
    assert again.json()["decline"]["code"] == "retry_limit_reached", again.text


async def _tried_again(run: Run) -> None:
    """Two payments without their shopper that are tried again by themselves: slowly at both accounts, and not at all, since the card is gone."""
    until = (datetime.now(UTC) + timedelta(days=7)).isoformat()
    for gone in (False, True):
        number = run.card()
        method = (await run.merchant.post("/v1/payment_methods", run.flow.card(number))).json()
        run.script("stripe", "authorize", number, ("decline", {"code": "insufficient_funds"}))
        away = {
            "payment_method": method["id"],
            "payment_method_data": None,
            "off_session": True,
            "recurring": "unscheduled",
        }
        waiting = (await run.merchant.charge(**away, retry={"until": until})).json()
        assert waiting["processing_reason"] == "retry_scheduled", waiting
        if gone:
            await run.merchant.delete(f"/v1/payment_methods/{method['id']}")
        else:
            run.script("stripe", "authorize", number, ("latency", SLOW), ("decline", {"code": "generic_decline"}))
        run.inside.database.rows("UPDATE payment SET retry_at = now() WHERE retry_at IS NOT NULL")
        await run.work("retries")
        ended = await run.merchant.payment(waiting["id"])
        assert (ended["status"], ended["account"]) == (("failed", "stripe") if gone else ("succeeded", "adyen"))


async def _a_step_that_was_not_kept(run: Run) -> None:
    """What the first step at the PSP has made could not be kept; the sweep makes it once more."""
    run.watch.failing.add("charge.reseal.before")
    answer = await run.merchant.charge(**run.charge(run.card()))
    assert answer.status_code == 202, answer.text
    await run.work("settle")


async def _stored(run: Run) -> None:
    """Payment methods and customers."""
    method = (await run.merchant.post("/v1/payment_methods", run.flow.card(run.card()))).json()
    await run.merchant.post(f"/v1/payment_methods/{method['id']}", {"tokens": {"adyen": "T1"}})
    await run.merchant.delete(f"/v1/payment_methods/{method['id']}")
    customer = (await run.merchant.post("/v1/customers", {"name": "A. Shopper"})).json()
    await run.merchant.delete(f"/v1/customers/{customer['id']}")
    run.watch.failing.add("customer.store.before")
    assert (await run.merchant.post("/v1/customers", {"name": "A. Shopper"})).status_code == 503


async def _monitored(run: Run) -> None:
    """A monitor that is made, tuned and deleted, and an incident that somebody has seen."""
    made = await run.merchant.post("/v1/monitors", {"name": "ours", "kind": "drop", "rate": "technical"})
    path = f"/v1/monitors/{made.json()['id']}"
    assert (await run.merchant.post(path, {"name": "ours, still"})).status_code == 200
    run.inside.database.rows(
        "INSERT INTO monitor_incident (id, merchant_id, livemode, key, monitor_id, also, severity, segment, facts, summary, opened_at,"
        " noticed_at, updated_at) VALUES (%(id)s, 'mer_dev', false, 'k', 'mon_1', '{}', 'page', '{}', '{\"rate\": \"technical\"}', 's',"
        " now(), now(), now())",
        id=f"mi_{'0' * 32}",
    )
    assert (await run.merchant.post(f"/v1/monitor_incidents/mi_{'0' * 32}/acknowledge")).status_code == 200
    assert (await run.merchant.delete(path)).status_code == 200
    run.watch.failing.add("monitor.store.before")
    again = await run.merchant.post("/v1/monitors", {"name": "ours", "kind": "drop", "rate": "technical"})
    assert again.status_code == 503


async def _sent(run: Run) -> None:
    """Events on their way: to an endpoint that takes its time, and to one that is gone; and one that has failed for days."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/slow" in head:
            await asyncio.sleep(SLOW["latency_ms"] / 1000)
        status = b"410 Gone" if b"/gone" in head else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    url, sealer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", run.flow.keyring().sealer
    for name in ("slow", "gone"):
        run.inside.database.rows(
            "INSERT INTO webhook_endpoint (id, merchant_id, livemode, url, status, sealed_secrets, failed_events, notices, created_at,"
            " updated_at) VALUES (%(id)s, 'mer_dev', false, %(url)s, 'enabled', %(sealed)s, 0, 0, now(), now())",
            id=f"we_{name}",
            url=f"{url}/{name}",
            sealed=sealer.seal_json(Secrets.new().to_json(), f"we_{name}", "webhook_endpoint"),
        )
    refused = await run.merchant.charge(**run.charge(run.card(), confirm=False))
    assert (await run.merchant.post(f"/v1/payments/{refused.json()['id']}/cancel")).status_code == 200
    running = asyncio.ensure_future(crash.on_path("outbox", run.inside.house.outbox.run)())
    await run.flow.eventually(
        lambda: run.inside.database.value("SELECT count(*) FROM delivery WHERE due_at IS NOT NULL") == 0, "all was sent"
    )
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    server.close()
    await server.wait_closed()
    run.inside.database.rows(
        "UPDATE webhook_endpoint SET failing_since = now() - interval '2 days' WHERE id = 'we_slow'"
    )
    await run.work("notify")


async def _learned(run: Run) -> None:
    """A strategy is published; what it learns is kept by the worker."""
    run.inside.database.publish({"default": {"strategy": "adaptive", "accounts": ["stripe", "adyen"]}})
    deps = run.inside.house.deps
    await deps.in_force.read(deps.clock())
    await run.merchant.charged(**run.charge(run.card()))
    await deps.learned.fold()
    await run.work("learn")
    run.inside.database.publish({"default": {"priority": ["stripe", "adyen"]}})  # nobody throws dice in what follows
    await deps.in_force.read(deps.clock())


async def _told(run: Run) -> None:
    """A webhook endpoint, and everything that is done with it."""
    paid = await run.merchant.charged(**run.charge(run.card()))
    endpoint = (await run.merchant.post("/v1/webhook_endpoints", {"url": "http://127.0.0.1:1/"})).json()
    path = f"/v1/webhook_endpoints/{endpoint['id']}"
    (event, *_) = (await run.merchant.get("/v1/events", payment=paid["id"])).json()["data"]
    day = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "dry_run": False, "status": "all"}
    for verb, fields in (("", {"description": "x"}), ("/rotate_secret", {}), ("/test", {}), ("/replay", day)):
        answer = await run.merchant.post(path + verb, fields)
        assert answer.status_code == 200, answer.text
    assert (await run.merchant.post(f"/v1/events/{event['id']}/redeliver")).status_code == 200
    await run.merchant.delete(path)
    run.watch.failing.add("endpoint.store.before")
    assert (await run.merchant.post("/v1/webhook_endpoints", {"url": "http://127.0.0.1:1/"})).status_code == 503


async def _routed(run: Run) -> None:
    """A version of routing that is published, and rolled back."""
    draft = {"document": {"default": {"priority": ["stripe", "adyen"]}}}
    version = (await run.merchant.post("/v1/routing/configs", draft)).json()
    for path in (f"configs/{version['id']}/publish", "rollback"):
        answer = await run.merchant.post(f"/v1/routing/{path}", {"reason": "a test"})
        assert answer.status_code == 201, answer.text
    run.watch.failing.add("routing.publish.before")
    answer = await run.merchant.post(f"/v1/routing/configs/{version['id']}/publish", {"reason": "a test"})
    assert answer.status_code == 503


async def _looked_at(run: Run) -> None:
    """Somebody signs in to the console by a password and by a link, looks, still does later, changes their password, and signs out."""
    pool = await connect(run.inside.database.url)  # users are made on the command line, where no points are watched
    users = Users(pool, b"k")
    await users.create("ada@example.com", "mer_dev", "a long password")
    link = await users.link("ada@example.com")
    pool.close()
    http, form = run.merchant.http, {"Sec-Fetch-Site": "same-origin"}
    for path, fields in (
        ("login", {"email": "ada@example.com", "password": "a long password"}),
        ("link", {"token": link}),
    ):
        assert (await http.post(f"/console/{path}", data=fields, headers=form)).status_code == 303
    run.inside.database.rows("UPDATE console_session SET seen_at = now() - interval '5 minutes'")
    assert (await http.get("/console")).status_code == 200
    for path, fields in (("account", {"password": "a long password", "changed": "another password"}), ("logout", {})):
        bears = {"csrf": csrf_of(http.cookies["interlock_session"])}
        assert (await http.post(f"/console/{path}", data=fields | bears, headers=form)).status_code == 303


async def _simulated(run: Run) -> None:
    """What a routing document would have done with the payments so far."""
    draft = {"document": {"default": {"priority": ["stripe"]}}}
    version = (await run.merchant.post("/v1/routing/configs", draft)).json()
    run.inside.database.publish(draft["document"], shadow=True)
    serving: Any = run.merchant.http._transport
    desk = next(each for each in serving.app.router.routes if each.path == "/v1/routing").endpoint.__self__
    await desk._deps.in_force.read(desk._deps.clock())
    await run.merchant.charged(payment_method_data=run.flow.card(run.card()))  # who names an account is not watched
    await run.work("shadow")
    answer = await run.merchant.post(f"/v1/routing/configs/{version['id']}/simulate")
    assert answer.status_code == 202, answer.text
    await run.work("simulations", "discard")
    found = await run.merchant.get(f"/v1/routing/simulations/{answer.json()['id']}")
    assert found.json()["status"] == "succeeded", found.text
    losing = run.inside.database.publish(
        {"default": {"strategy": "adaptive", "accounts": ["stripe", "adyen"]}, "holdout": {"percent": 5}}
    )
    for arm, approved in (("strategy", 100), ("holdout", 900)):
        run.inside.database.rows(
            "INSERT INTO routing_arm VALUES ('mer_dev', false, %(version)s, 'adaptive', %(arm)s, 'EUR', 1000, %(approved)s, 1, 1, now(), now())",
            version=losing,
            arm=arm,
            approved=approved,
        )
    await run.inside.house.deps.in_force.read(run.inside.house.deps.clock())
    await run.work("uplift", "rates")
    await run.inside.house.deps.in_force.read(run.inside.house.deps.clock())


async def _overtaken(run: Run, work: Awaitable[object]) -> None:
    """Do slow work, and let the sweep do the same meanwhile, as if the one who began it had been given up."""
    sent = run.inside.database.value("SELECT count(*) FROM operation WHERE status = 'sent'")
    slow = asyncio.ensure_future(work)
    await run.flow.eventually(
        lambda: run.inside.database.value("SELECT count(*) FROM operation WHERE status = 'sent'") > sent,
        "it was opened",
    )
    await run.work("settle")
    await slow


async def _shoppers(run: Run) -> None:
    """Shoppers come back from a challenge: quickly at one PSP, slowly at the other."""
    for psp in ("stripe", "adyen"):
        waiting = (await run.merchant.charge(**run.charge(CHALLENGED[psp], psp))).json()
        address = await run.psps.visit(waiting, "succeeded")
        if psp == "adyen":
            run.script(psp, "any", CHALLENGED[psp], ("slow_answer", SLOW))
            await _overtaken(run, run.merchant.come_back(address))
        else:
            await run.merchant.come_back(address)


async def _told_by_webhook(run: Run) -> None:
    """A charge that is unknown, a hold that somebody releases at the PSP itself, a dispute: applied at once, and by the worker."""
    for applied in (True, False):
        number = run.card()
        run.script("adyen", "authorize", number, ("garbage", {}))
        unknown = (await run.merchant.charge(**run.charge(number, "adyen"))).json()
        await run.bring(await run.letter(b'"AUTHORISATION"', unknown), applied=applied)

        held = await run.merchant.charged(**run.charge(run.card(), capture_method="manual"))
        url = f"{run.psps.urls['stripe']}/v1/payment_intents/{held['provider_payment_id']}/cancel"
        secret = {"Authorization": f"Bearer {run.flow.SECRETS['FLOWS_STRIPE_API_KEY']}"}
        (await asyncio.to_thread(run.psps.http.post, url, headers=secret)).raise_for_status()
        await run.bring(await run.letter(b"payment_intent.canceled", held), applied=applied)

        warned = await run.merchant.charged(**run.charge("4000000000005423"))
        await run.bring(await run.letter(b"radar.early_fraud_warning.created", warned), applied=applied)
        await _detached(run, applied=applied)

    contested = await run.merchant.charged(**run.charge("4000000000000259"))
    await run.bring(await run.letter(b"charge.dispute.created", contested), applied=False)
    await run.work("inbound")

    assert (await run.merchant.http.post("/v1/webhooks/stripe", content=b"{}")).status_code == 401
    refused = "SELECT count(*) FROM webhook_refusal"
    await run.flow.eventually(lambda: run.inside.database.value(refused) == 1, "the forgery was counted")
    newest = (await run.merchant.get("/v1/inbound_events", limit=1)).json()["data"][0]
    assert (await run.merchant.post(f"/v1/inbound_events/{newest['id']}/replay")).status_code == 200
    await run.work("inbound")


async def _detached(run: Run, *, applied: bool) -> None:
    """A kept card that somebody detaches at the PSP itself."""
    kept = (await run.merchant.post("/v1/payment_methods", run.flow.card(run.card()))).json()
    await run.merchant.charged(
        payment_method=kept["id"],
        payment_method_data=None,
        setup_future_usage="off_session",
        routing={"account": "stripe"},
    )
    tokens = run.inside.database.value("SELECT tokens FROM payment_method WHERE id = %(id)s", id=kept["id"])
    method = tokens["stripe"].rpartition("/")[2]
    url = f"{run.psps.urls['stripe']}/v1/payment_methods/{method}/detach"
    secret = {"Authorization": f"Bearer {run.flow.SECRETS['FLOWS_STRIPE_API_KEY']}"}
    (await asyncio.to_thread(run.psps.http.post, url, headers=secret)).raise_for_status()
    word = method.encode()
    letter = await run.post.wait_for(lambda it: b"payment_method.detached" in it.body and word in it.body)
    await run.bring(letter, applied=applied)


async def _not_believed(run: Run) -> None:
    """A success over another amount, and a person who has looked."""
    number = run.card()
    run.script("stripe", "authorize", number, ("garbage", {}))
    unknown = (await run.merchant.charge(**run.charge(number))).json()
    (operation,) = run.inside.database.operations(unknown["id"])
    body = run.flow.stripe_event(operation["id"], amount=1, number=number)
    answer = await run.merchant.http.post("/v1/webhooks/stripe", content=body, headers=run.flow.signed(body))
    assert answer.status_code == 200, answer.text
    await run.flow.eventually(
        lambda: run.inside.database.value("SELECT count(*) FROM incident WHERE kind = 'amount_mismatch'") == 1,
        "it is noticed",
    )
    await run.work("settle")
    (incident,) = (await run.merchant.get("/v1/incidents", kind="amount_mismatch")).json()["data"]
    closed = await run.merchant.post(f"/v1/incidents/{incident['id']}/close", {"reason": "a test"})
    assert closed.status_code == 200, closed.text


async def _cancels(run: Run) -> None:
    """Cancels that were asked for while the charge was unknown: of one that waits for its shopper, and of one that is approved."""
    unconfirmed = await run.merchant.charge(**run.charge(run.card(), confirm=False))
    assert (await run.merchant.post(f"/v1/payments/{unconfirmed.json()['id']}/cancel")).status_code == 200
    for number in (CHALLENGED["stripe"], run.card()):
        run.script("stripe", "authorize", number, ("garbage", {}))
        unknown = (await run.merchant.charge(**run.charge(number, capture_method="manual"))).json()
        assert (await run.merchant.post(f"/v1/payments/{unknown['id']}/cancel")).status_code == 202
        await run.work("settle")
        run.script("stripe", "void", number, ("slow_answer", SLOW))
        await _overtaken(run, run.jobs["cancels"][1]())


async def _abandoned(run: Run) -> None:
    """A challenge that nobody finishes."""
    number = CHALLENGED["stripe"]
    await run.merchant.charge(**run.charge(number))
    run.script("stripe", "void", number, ("slow_answer", SLOW))
    run.inside.database.let_time_pass()
    await _overtaken(run, run.jobs["abandoned"][1]())


async def _ended(run: Run) -> None:
    """A declined payment that nobody tries again, and one that has reached nobody."""
    number = run.card()
    run.script("stripe", "authorize", number, ("decline", {"code": "lost_card"}))
    await run.merchant.charge(**run.charge(number))
    number = run.card()
    run.script("stripe", "authorize", number, ("status", {"status": 403, "times": None}))
    parked = await run.merchant.charge(**run.charge(number))
    assert parked.status_code == 503, parked.text
    run.inside.database.rows(
        "UPDATE payment SET updated_at = now() - interval '1 hour' WHERE processing_reason = 'awaiting_retry'"
    )
    await run.work("lapsed", "parked")


async def _looked_up(run: Run) -> None:
    """The same requests, when the client asks again so late that the account may have forgotten the key: it is only asked."""
    payment = await run.merchant.charged(**run.charge("4000000000000259"))
    await run.bring(await run.letter(b"charge.dispute.created", payment))
    (dispute,) = (await run.merchant.get("/v1/disputes", payment=payment["id"])).json()["data"]
    run.psps.fault("stripe", "defend", "garbage")
    defense = {"text": {"uncategorized_text": "A receipt."}}
    sends = [*await doubtful(run, 0), (f"/v1/disputes/{dispute['id']}/evidence", defense, next(run.keys))]
    for status in ({202}, {200, 201, 202}):  # what it says of an increment may be nothing
        answers = await asyncio.gather(*(run.merchant.post(path, dict(fields), key=key) for path, fields, key in sends))
        assert {answer.status_code for answer in answers} <= status, [each.text for each in answers]
        run.inside.database.rows(
            "UPDATE operation SET created_at = created_at - interval '2 days', lease_until = now() WHERE status = 'unknown'"
        )


async def _in_review(run: Run) -> None:
    """A person settles what nobody could tell for a day; the second time the account tells just then."""
    for told in (False, True):
        number = run.card()
        run.script("stripe", "authorize", number, ("garbage", {}))
        run.psps.fault("stripe", "lookup", "status", status=500, times=None)
        unknown = (await run.merchant.charge(**run.charge(number))).json()
        run.inside.database.rows(
            "UPDATE operation SET created_at = now() - interval '2 days' WHERE payment_id = %(id)s", id=unknown["id"]
        )
        await run.work("settle")
        run.inside.database.let_time_pass()
        if told:
            run.psps.clear_faults("stripe")
        found = {"outcome": "failed", "reason": "Nothing there.", "evidence": "Their support, by mail."}
        path = f"/v1/payments/{unknown['id']}/resolve"
        answer = await run.merchant.post(path, found)
        assert answer.status_code == (409 if told else 200), answer.text


async def _voided_first(run: Run) -> None:
    """By policy, an unknown attempt is voided before another account is asked: by the charge itself, or by the sweep."""
    for kind in ("charge", "confirm", "method"):
        number = run.card()
        run.script("stripe", "authorize", number, ("garbage", {}))
        run.script("stripe", "void", number, ("garbage", {}))
        path, fields = "/v1/payments", run.charge(number, None)
        if kind == "method":
            path, fields = "/v1/payment_methods", {**run.flow.card(number), "verify": True, "currency": "EUR"}
        if kind == "confirm":
            created = await run.merchant.charge(**run.charge(number, None, confirm=False))
            path, fields = f"/v1/payments/{created.json()['id']}/confirm", {}
        for _ in range(2):
            answer = await run.merchant.post(path, fields, key=f"voided-first-{kind}")
            assert answer.status_code == 202, answer.text
    await run.work("settle")


# --- Nothing can be forgotten -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO payment (id) VALUES (:id)",
        "WITH a AS (UPDATE payment SET id = :id) SELECT 1",
        "UPDATE payment p SET id = :id",
        "UPDATE payment AS p\nSET id = :id",
        "UPDATE public.payment SET id = :id",
        'UPDATE "public"."payment" AS "p" SET id = :id',
        "UPDATE ONLY payment SET id = :id",
        "UPDATE ONLY payment * AS p SET id = :id",
        "delete from payment",
    ],
)
def test_a_statement_that_writes_says_what_it_writes(text: str) -> None:
    with pytest.raises(ValueError, match="a statement that writes"):
        Statement(text)


@pytest.mark.parametrize(
    "text", ["SELECT id FROM payment FOR UPDATE", "SELECT id FROM payment FOR NO KEY UPDATE OF payment SKIP LOCKED"]
)
def test_a_statement_that_reads_says_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="a statement that writes"):
        Statement(text, writes="open")


def test_every_text_in_the_rooms_that_writes_is_a_named_statement() -> None:
    """Whatever looks like a writing statement stands in a ``Statement`` that is named, in a piece of one, or in a table of the webhooks'."""
    found = {}
    for room in ("gateway", "webhooks", "idempotency", "routing"):
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith(("gateway/migrations/", "gateway/migrate.py", "gateway/sql.py", "gateway/invariants/")):
                continue  # how tables are made, what a writing statement looks like, and a file of the checker's own
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign | ast.AnnAssign | ast.Return | ast.Expr) and is_writing(_texts_in(node)):
                    found[f"{name}: {_subject(node)}"] = _is_named(node)

    assert len(found) > 30
    assert {where for where, named in found.items() if not named} == PIECES


PIECES: Final = {
    *(f"gateway/books.py: _{piece}" for piece in ("METHOD", "CUSTOMER", "PAYMENT", "STATE", "OPERATION", "SETTLE", "ENDED", "RETURNED", "REVIEWED", "DISPUTE", "CHANGE", "ENDPOINT", "ANSWER", "DRIVE")),
    *(f"gateway/endpoint_books.py: _{piece}" for piece in ("CANCELED", "AGAIN")),
    *(f"gateway/telling.py: {piece}" for piece in ("EVENTS", "DELIVERIES")),
    *(f"gateway/rate_books.py: _{piece}" for piece in ("MAKE", "COUNTED", "STORED")),
    "gateway/limits.py: DECLINED",
    "gateway/books.py: KEY",
    "gateway/method_books.py: SETTLED",
    "gateway/routing_books.py: _PUBLICATION",
    "gateway/monitor_books.py: _CHANGE",
    *(f"gateway/monitor_books.py: _{piece}" for piece in ("LOOKED", "WRITTEN")),
    "gateway/news_books.py: _METHOD",
    *(f"webhooks/inbox.py: _{statement}" for statement in ("STORE", "DONE", "DUE")),
    *(f"webhooks/outbox.py: _{statement}" for statement in ("CLAIM", "RENEW", "TRIED", "NOTIFY", "CANCEL", "PRUNE")),
    "webhooks/refusals.py: _COUNT",
    "gateway/console/users.py: _BEGIN",
}  # fmt: skip
"""Parts of a commit, which is named as a whole, and the webhooks' statements, which their tables name."""


def _texts_in(node: ast.AST) -> str:
    return " ".join(
        each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)
    )


def _subject(node: ast.stmt) -> str:
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.target)
    return ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else f"line {node.lineno}"


def _is_named(node: ast.stmt) -> bool:
    """Whether the texts of a statement are handed to a ``Statement`` that says what it writes."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call) and ast.unparse(each.func) == "Statement"]
    return bool(calls) and all(any(keyword.arg == "writes" for keyword in call.keywords) for call in calls)


async def test_a_statement_without_a_name_is_refused_where_points_are_watched(open_gateway: Open) -> None:
    async with open_gateway(passed=Watch()) as inside:
        with pytest.raises(AssertionError, match="has no name"):
            await inside.house.pool.fetch("DELETE FROM webhook_inbox")


async def test_every_request_that_may_write_is_on_a_path(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        app: Any = inside.merchant.http._transport
        routes = [
            (method, route.path.replace("{", "").replace("}", ""))
            for route in app.app.router.routes
            for method in getattr(route, "methods", ())
            if method in {"POST", "DELETE", "PUT", "PATCH"}
        ]

    assert len(routes) > 10
    assert [route for route in routes if crash.path_of(*route) == crash.NO_PATH] == []


# --- Arming -------------------------------------------------------------------------------------------------------------


async def test_without_the_setting_nothing_is_watched_and_a_point_costs_nothing(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        account = inside.house.deps.accounts["adyen"]
        seams = [type(inside.house.pool), type(inside.house.gate), type(inside.house.deps.once._gate)]

    assert seams == [Pool, RedisGate, RedisGate]
    assert "Watched" not in repr(vars(account.provider))


@pytest.mark.parametrize(
    ("asked", "dev", "says"),
    [
        ("charge.open.after:1", False, "refused unless GATEWAY_DEV=1"),
        ("charge.nowhere.after:1", True, "there is no crash point 'charge.nowhere.after'"),
        ("charge.open.after:0", True, "a whole number from 1"),
        ("charge.open.after:", True, "a whole number from 1"),
        ("charge.open.after:x", True, "a whole number from 1"),
    ],
)
def test_a_crash_point_that_cannot_be_armed_is_refused_with_the_reason(
    asked: str, says: str, configuration: Configuration, *, dev: bool
) -> None:
    settings = configuration.settings(configuration.accounts(), crash_at=asked, dev=dev)

    with pytest.raises(ConfigError, match=says):
        crash.armed(settings, [])


def test_a_crash_point_is_refused_where_real_money_moves(configuration: Configuration) -> None:
    settings = configuration.settings(configuration.accounts(), crash_at="charge.open.after:1")
    live = AccountConfig(
        name="acme", merchant="mer_acme", provider="neutral", api_key=SecretStr("key"), environment="live"
    )

    with pytest.raises(ConfigError, match=r"refused with a live account \(acme\)"):
        crash.armed(settings, [live])


def test_a_process_that_is_not_for_tests_says_so_and_does_not_start(processes: Processes) -> None:
    code, printed = processes.run("serve", GATEWAY_CRASH_AT="charge.open.after:1", GATEWAY_DEV="0")

    assert code != 0
    assert "GATEWAY_CRASH_AT: crash points are for tests" in printed


async def test_a_real_process_dies_at_its_point_and_at_the_passage_that_was_asked_for(
    processes: Processes, psps: Psps, database: Database, checked: Checked
) -> None:
    server = processes.server(GATEWAY_CRASH_AT="charge.open.after:2").start()

    async with server.merchant() as merchant:
        await merchant.charged()
        with pytest.raises(httpx.TransportError):
            await merchant.charge(key="order-2")

    assert server.process.wait() == -signal.SIGKILL
    assert "crash point charge.open.after\n" in server.process.printed
    assert len(psps.charges()) == 1
    await checked(database, psps, at_rest=False)
