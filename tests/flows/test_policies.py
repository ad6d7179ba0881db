"""Every row of the policy table, with its part broken for real: what the caller sees, what is counted, and no money lost or doubled.

A test belongs to the row that its name begins with, ``test_ROW__claim``; the last test finds rows that have none.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from time import thread_time
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from gateway.embedded import Postgres
from gateway.in_force import SHADOW_RESTS
from gateway.logs import AT_ONCE, LINES_MAX
from gateway.migrate import migrate
from gateway.policies import DEFAULTS, POLICIES, WORKER_GRACE_S, Policy, variable_of
from gateway.settings import Settings
from idempotency.once import GatePolicy
from routing.document import Document

if TYPE_CHECKING:
    import httpx

    from gateway.deps import Deps
    from gateway.embedded import Valkey
    from tests.conftest import Checked, Commands, Database, Databases, Inside, Kit, Merchant, Open, Processes, Psps

BROKEN: Final[set[str]] = set()
"""The rows whose part was broken in this run, and which held."""
PER_ROW: Final = re.compile(r"test_(\w+?)__")
SOME_KEY: Final = "d" * 43 + "="
"""A key that has sealed nothing."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table, as a test holds the gateway to it."""

    name: str
    policy: Policy

    def says(self, answer: httpx.Response, choice: str | None = None) -> None:
        """The answer is what the table tells the caller to expect."""
        text = self.policy.choices[choice or self.policy.default].caller_sees
        shown = f"{answer.status_code}"
        if answer.status_code >= 400:
            shown += f" `{answer.json()['code']}`"
            if answer.json()["retryable"]:
                assert answer.headers["Retry-After"]
        assert shown in text or (answer.is_success and text.startswith(("the same answer", "the answer"))), answer.text

    async def counted(self, merchant: Merchant, policy: str | None = None) -> int:
        """How often it stood in: by the API and by the metric, which agree."""
        word = policy or self.policy.default
        shown = counted = -1
        while shown == -1 or shown != counted:  # the log is written behind the answers, so its count may still move
            shown, counted = await self._shown(merchant, word), await self._scraped(merchant, word)
        if counted:
            BROKEN.add(self.name)
        return counted

    async def _shown(self, merchant: Merchant, word: str) -> int:
        (row,) = [row for row in (await merchant.get("/v1/policies")).json()["data"] if row["id"] == self.name]
        return int(row["applied"][word])

    async def _scraped(self, merchant: Merchant, word: str) -> int:
        name = f'dependency_policy_applied_total{{dep="{self.policy.dep}",op="{self.policy.op}",policy="{word}"}} '
        (line,) = [line for line in (await merchant.get("/metrics")).text.splitlines() if line.startswith(name)]
        return int(float(line.removeprefix(name)))


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    found = PER_ROW.match(request.node.name)
    assert found is not None
    return Row(found[1], POLICIES[found[1]])


# --- A Postgres to be broken ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[Databases]:
    """A server of our own, which keeps what it has committed, with a migrated database to copy."""
    with Postgres.start(tmp_path_factory.mktemp("breakable")) as server:
        told = {"database_url": server.app_url, "migrate_database_url": server.owner_url, "redis_url": "redis://unused"}
        migrate(Settings.model_validate({**told, "secret_key": SOME_KEY, "dev": True}))
        yield dataclasses.replace(databases, server=server, template="interlock")


@pytest.fixture
def own(breakable: Databases) -> Iterator[Postgres]:
    """A Postgres to be killed. Whatever a test did to it, the next one finds it alive."""
    yield breakable.server
    if not breakable.server.is_alive():
        breakable.server.restart()


@pytest.fixture
def own_database(own: Postgres, breakable: Databases) -> Iterator[Database]:
    name, fresh = breakable.create()
    yield fresh
    if own.is_alive():
        own.drop_database(name)


OpenOwn = Callable[..., Any]


@pytest.fixture
def open_on_own(open_gateway: Open, own: Postgres, own_database: Database) -> OpenOwn:
    """The gateway inside the test, on the Postgres that may be broken, which is alive again when the gateway closes."""

    @asynccontextmanager
    async def opened(**changes: Any) -> AsyncIterator[Inside]:
        async with open_gateway(database_url=own_database.url, **changes) as inside:
            try:
                yield dataclasses.replace(inside, database=own_database)
            finally:
                if not own.is_alive():
                    own.restart()

    return opened


async def _back(inside: Inside, own: Postgres, flow: type[Kit]) -> None:
    """Postgres is started again, and the gateway has found it."""
    own.restart()

    async def ready() -> bool:
        return (await inside.merchant.http.get("/readyz")).status_code == 200

    await flow.eventually(ready, "the gateway is ready again")


# --- What a strategy has learned ----------------------------------------------------------------------------------------


async def test_strategy_not_asked__the_listed_order_decides_until_what_there_is_has_been_read(
    row: Row, open_gateway: Open, psps: Psps, flow: type[Kit], database: Database
) -> None:
    """What was learned before cannot be read: the process starts all the same, and asks the strategy once it can."""
    database.publish({"default": {"strategy": "adaptive", "accounts": ["adyen", "stripe"]}})
    database.rows("REVOKE SELECT ON routing_snapshot FROM interlock_app")
    async with open_gateway() as inside:
        answer = await inside.merchant.charge()
        counted = await row.counted(inside.merchant)
        database.rows("GRANT SELECT ON routing_snapshot TO interlock_app")

        async def ready() -> bool:
            known = (await inside.merchant.get("/v1/routing/strategies")).json()["data"]
            return [each["ready"] for each in known] == [True]

        await flow.eventually(ready, "what there is has been read")
        later = await inside.merchant.charge()
        again = await row.counted(inside.merchant)
        (explained,) = (await inside.merchant.get(f"/v1/payments/{answer.json()['id']}/routing")).json()["attempts"]

    row.says(answer)
    assert (counted, again) == (1, 1)
    assert (answer.json()["account"], later.status_code) == ("adyen", 201)
    assert "is not available" in explained["sentence"]
    assert len(psps.charges()) == 2


# --- Redis ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "paused"])
@pytest.mark.parametrize("policy", GatePolicy)
async def test_redis_loss__a_key_makes_one_charge_with_postgres_alone_or_none_at_all(
    row: Row,
    policy: GatePolicy,
    how: str,
    open_gateway: Open,
    psps: Psps,
    valkey: Valkey,
    database: Database,
    checked: Checked,
) -> None:
    async with open_gateway(on_redis_loss=policy) as inside:
        valkey.kill() if how == "killed" else valkey.pause()
        first = await inside.merchant.charge(key="order-1")
        again = await inside.merchant.charge(key="order-1")
        counted = await row.counted(inside.merchant, policy)
        valkey.restart() if how == "killed" else valkey.resume()
        later = await inside.merchant.retried(lambda: inside.merchant.charge(key="order-1"))

    row.says(first, policy)
    row.says(again, policy)
    assert counted == 2
    assert later.status_code == 201
    assert policy is GatePolicy.FAIL_CLOSED or first.content == again.content == later.content
    assert len(psps.charges()) == 1
    await checked(database, psps)


@pytest.mark.parametrize("how", ["flushed", "failed over to an empty copy"])
async def test_redis_data_loss__a_key_that_redis_forgot_is_found_in_postgres(
    row: Row,
    how: str,
    open_gateway: Open,
    psps: Psps,
    valkey: Valkey,
    flow: type[Kit],
    database: Database,
    checked: Checked,
) -> None:
    async with open_gateway() as inside:
        first = await inside.merchant.charge(key="order-1")
        if how == "flushed":
            flow.flush(valkey)
        else:
            valkey.kill()
            shutil.rmtree(valkey.data_dir / "appendonlydir")
            valkey.restart()
        again = await inside.merchant.charge(key="order-1")

        async def noticed() -> bool:
            return await row.counted(inside.merchant) == 1

        await flow.eventually(noticed, "the loss was noticed")

    row.says(again)
    assert again.content == first.content
    assert len(psps.charges()) == 1
    await checked(database, psps)


# --- Postgres ---------------------------------------------------------------------------------------------------------


async def test_postgres_loss_opening__nothing_is_sent_and_the_same_key_is_safe(
    row: Row, open_on_own: OpenOwn, own: Postgres, psps: Psps, flow: type[Kit], own_database: Database, checked: Checked
) -> None:
    async with open_on_own() as inside:
        paid = await inside.merchant.charged()
        asked = {psp: len(psps.requests(psp)) for psp in psps.REAL}
        own.kill()
        sends: list[Callable[[], Awaitable[httpx.Response]]] = [
            lambda: inside.merchant.charge(key="order-1"),
            lambda: inside.merchant.post("/v1/refunds", {"payment": paid["id"]}, key="refund-1"),
        ]
        refused = [await send() for send in sends]
        reached = {psp: len(psps.requests(psp)) for psp in psps.REAL}
        counted = await row.counted(inside.merchant)
        await _back(inside, own, flow)
        later = [await inside.merchant.retried(send) for send in sends]

    for answer in refused:
        row.says(answer)
    assert (reached, counted) == (asked, 2)
    assert [answer.status_code for answer in later] == [201, 201]
    assert (len(psps.charges()), len(psps.books("stripe", "refunds"))) == (2, 1)
    await checked(own_database, psps)


@pytest.mark.parametrize("away", ["for a moment", "longer than it is held"])
async def test_postgres_loss_recording__an_outcome_is_held_or_asked_for_again(
    row: Row,
    away: str,
    open_on_own: OpenOwn,
    own: Postgres,
    psps: Psps,
    flow: type[Kit],
    own_database: Database,
    checked: Checked,
) -> None:
    psps.fault("stripe", "authorize", "latency", latency_ms=1500)
    psps.fault("stripe", "authorize", "drop_webhook", times=None)

    async with open_on_own() as inside:
        charging = asyncio.create_task(inside.merchant.charge(key="order-1"))
        await flow.eventually(lambda: bool(psps.requests("stripe", "authorize")), "the PSP has its request")
        own.kill()
        if away == "for a moment":

            async def held() -> bool:
                return await row.counted(inside.merchant) == 1

            await flow.eventually(held, "the outcome is held")
            own.restart()
        answer = await charging
        counted = await row.counted(inside.merchant)
        await _back(inside, own, flow)
        await inside.work()
        payment = await inside.merchant.payment(answer.json()["id"])

    row.says(answer)
    assert answer.status_code == (201 if away == "for a moment" else 202)
    assert counted == 1
    assert (payment["status"], payment["amount_received"]) == ("succeeded", 1999)
    assert len(psps.charges()) == 1
    assert len({request["key"] for request in psps.requests("stripe", "authorize")}) == 1
    await checked(own_database, psps)


async def test_postgres_loss_reading__no_state_is_told_from_memory(
    row: Row, open_on_own: OpenOwn, own: Postgres, flow: type[Kit]
) -> None:
    async with open_on_own() as inside:
        paid = await inside.merchant.charged()
        own.kill()
        reads = [await inside.merchant.get(path) for path in (f"/v1/payments/{paid['id']}", "/v1/payments")]
        counted = await row.counted(inside.merchant)
        await _back(inside, own, flow)
        later = await inside.merchant.payment(paid["id"])

    for read in reads:
        row.says(read)
    assert counted == 2
    assert later["status"] == "succeeded"


@pytest.mark.parametrize("how", ["lost", "too slow at the start"])
async def test_postgres_loss_routing__what_was_read_last_decides_and_nothing_waits(
    row: Row, how: str, open_on_own: OpenOwn, own: Postgres, psps: Psps, flow: type[Kit], own_database: Database
) -> None:
    """A start does not wait for it without end; then the configuration decides until it is read."""
    own_database.publish({"default": {"priority": ["adyen"]}})
    slow = how != "lost"

    with psycopg.connect(own_database.admin_url) as holder:
        if slow:
            holder.execute("LOCK TABLE routing_publication IN ACCESS EXCLUSIVE MODE")
        async with open_on_own() as inside:
            if slow:
                first = await inside.merchant.charge()
                counted = await row.counted(inside.merchant)
                holder.rollback()
            else:
                own.kill()

                async def noticed() -> bool:
                    return await row.counted(inside.merchant) > 0

                await flow.eventually(noticed, "the loss was noticed")
                counted = await row.counted(inside.merchant)
                await _back(inside, own, flow)
                first = await inside.merchant.charge()

            async def by_the_document() -> bool:
                return bool((await inside.merchant.charge()).json()["account"] == "adyen")

            await flow.eventually(by_the_document, "what was published is read")

    row.says(first)
    assert counted > 0
    assert (first.status_code, first.json()["account"]) == (201, "stripe" if slow else "adyen")
    assert len(psps.books("stripe", "authorisations")) >= slow


async def test_routing_unreadable__the_version_before_decides_and_then_the_configuration(
    row: Row, open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    database.publish({"default": {"nobody": []}})
    async with open_gateway() as inside:
        static = await inside.merchant.charge()
    database.publish({"default": {"priority": ["adyen"]}})
    database.publish({"default": {"nobody": []}})
    async with open_gateway() as inside:
        before = await inside.merchant.charge()
        counted = await row.counted(inside.merchant)

    for answer in (static, before):
        row.says(answer)
    assert [answer.json()["account"] for answer in (static, before)] == ["stripe", "adyen"]
    assert counted == 1
    assert len(psps.charges()) == 2
    await checked(database, psps)


async def test_shadow_not_decided__a_slow_one_rests_and_payments_go_on(
    row: Row, open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    class Slow(Document):
        """Thinks for 20 ms about each payment. No document can be so large: it stands for whatever defect there may be."""

        def __getattribute__(self, name: str) -> Any:
            if name == "default":
                began = thread_time()
                while thread_time() - began < 0.02:
                    pass
            return super().__getattribute__(name)

    database.publish({"default": {"priority": ["adyen"]}})
    watching = database.publish({"default": {"priority": ["stripe"]}}, shadow=True)
    async with open_gateway() as inside:
        serving: Any = inside.merchant.http._transport
        desk = next(each for each in serving.app.router.routes if each.path == "/v1/routing").endpoint.__self__
        deps: Deps = desk._deps
        documents: Any = deps.in_force._known["mer_dev", False].documents
        documents[watching] = Slow.model_validate({"default": {"priority": ["stripe"]}})
        first = await inside.merchant.charge()
        chance = deps.in_force._resting.get(watching)
        second = await inside.merchant.charge()
        before, rests = await row.counted(inside.merchant), deps.in_force._resting.get(watching)
        deps.in_force._resting[watching] = deps.clock() + timedelta(hours=1)  # however slow the machine is
        alone = await inside.merchant.charge()
        counted = await row.counted(inside.merchant)
        deps.in_force._resting[watching] = deps.clock()
        again = await inside.merchant.charge()

    row.says(alone)
    decided = datetime.fromisoformat(second.json()["created"])
    assert chance is None
    assert rests is not None
    assert rests > decided + timedelta(seconds=0.02 * SHADOW_RESTS)
    assert {answer.json()["account"] for answer in (first, second, alone, again)} == {"adyen"}
    assert (before, counted) == (0, 1)
    records = [each["decision"] for each in database.rows("SELECT decision FROM operation ORDER BY id")]
    assert [record.get("shadow", {}).get("version") for record in records] == [watching, watching, None, watching]
    assert len(psps.charges()) == 4
    await checked(database, psps)


async def test_shadow_not_decided__the_version_in_force_decides_alone(
    row: Row, open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    database.publish({"default": {"priority": ["adyen"]}})
    watching = database.publish({"default": {"priority": ["stripe"]}}, shadow=True)
    async with open_gateway() as inside:
        watched = await inside.merchant.charge()
        before = await row.counted(inside.merchant)
        serving: Any = inside.merchant.http._transport
        desk = next(each for each in serving.app.router.routes if each.path == "/v1/routing").endpoint.__self__
        # No document does this, however it is written: it stands for whatever defect there may be.
        desk._deps.in_force._known["mer_dev", False].documents[watching] = object()
        alone = await inside.merchant.charge()
        counted = await row.counted(inside.merchant)

    row.says(alone)
    assert [answer.json()["account"] for answer in (watched, alone)] == ["adyen", "adyen"]
    assert (before, counted) == (0, 1)
    records = [each["decision"] for each in database.rows("SELECT decision FROM operation ORDER BY id")]
    assert [record.get("shadow", {}).get("version") for record in records] == [watching, None]
    assert len(psps.charges()) == 2
    await checked(database, psps)


def _event(operation_id: str, flow: type[Kit], **how: Any) -> dict[str, Any]:
    """A webhook that says that an operation was approved, to be posted; signed as ``how`` says."""
    body = flow.stripe_event(operation_id, number=operation_id)
    return {"content": body, "headers": flow.signed(body, **how)}


def _unsigned(operation_id: str, flow: type[Kit]) -> dict[str, Any]:
    """A webhook of the other PSP that says the same, and that nobody has signed."""
    item = {
        "eventCode": "AUTHORISATION",
        "success": "true",
        "pspReference": "P1",
        "merchantReference": operation_id,
        "merchantAccountCode": flow.MERCHANT_ACCOUNT,
        "amount": {"value": 1999, "currency": "EUR"},
    }
    return {"live": "false", "notificationItems": [{"NotificationRequestItem": item}]}


def _unknown(psps: Psps) -> None:
    """The next charge at the first account is made, and nobody can read what became of it."""
    psps.fault("stripe", "authorize", "garbage")
    psps.fault("stripe", "authorize", "drop_webhook", times=None)


async def test_postgres_loss_webhook__what_is_not_stored_is_not_acknowledged_and_comes_again(
    row: Row, open_on_own: OpenOwn, own: Postgres, psps: Psps, flow: type[Kit], own_database: Database, checked: Checked
) -> None:
    _unknown(psps)

    async with open_on_own() as inside:
        payment = (await inside.merchant.charge()).json()
        (operation,) = inside.database.operations(payment["id"])
        webhook = _event(operation["id"], flow)
        own.kill()
        refused = await inside.merchant.http.post("/v1/webhooks/stripe", **webhook)
        counted = await row.counted(inside.merchant)
        await _back(inside, own, flow)
        taken = await inside.merchant.http.post("/v1/webhooks/stripe", **webhook)

        async def settled() -> bool:
            shown = await inside.merchant.payment(payment["id"])
            return bool(shown["status"] == "succeeded")

        await flow.eventually(settled, "the webhook was applied")
        stored = inside.database.value(
            "SELECT count(*) FROM webhook_inbox WHERE event_id = %(id)s", id=f"evt_{operation['id']}"
        )

    row.says(refused)
    assert (counted, taken.status_code, stored) == (1, 200, 1)
    assert len(psps.charges()) == 1
    await checked(own_database, psps)


async def test_postgres_loss_api_key__nobody_is_let_in_who_cannot_be_looked_up(
    row: Row,
    open_on_own: OpenOwn,
    own: Postgres,
    own_database: Database,
    psps: Psps,
    commands: Commands,
    flow: type[Kit],
    checked: Checked,
) -> None:
    good, revoked = (commands(own_database, "keys", "create", "mer_dev") for _ in range(2))
    commands(own_database, "keys", "revoke", revoked.split("_")[2])

    async with open_on_own() as inside:
        mine, theirs = (dataclasses.replace(inside.merchant, api_key=key) for key in (good, revoked))
        own.kill()
        refused = [await who.charge(key="order-1") for who in (mine, theirs)] + [await mine.get("/v1/accounts")]
        counted = await row.counted(inside.merchant)
        await _back(inside, own, flow)
        later, never = await mine.charge(key="order-1"), await theirs.charge(key="order-1")

    for answer in refused:
        row.says(answer)
    assert counted == 3
    assert (later.status_code, never.status_code) == (201, 401)
    assert len(psps.charges()) == 1
    await checked(own_database, psps)


# --- Providers --------------------------------------------------------------------------------------------------------


async def test_provider_not_reached__the_next_account_is_asked(
    row: Row, open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    async with open_gateway(unreachable=("stripe",)) as inside:
        answer = await inside.merchant.charge(key="order-1")
        again = await inside.merchant.charge(key="order-1")
        counted = await row.counted(inside.merchant)

    row.says(answer)
    assert (answer.json()["account"], answer.json()["attempt_count"]) == ("adyen", 2)
    assert (again.content, counted) == (answer.content, 1)
    assert len(psps.charges()) == 1
    await checked(database, psps)


async def test_provider_not_reached__nobody_else_is_asked_where_that_was_chosen(
    row: Row, open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    async with open_gateway(unreachable=("stripe",), on_provider_not_reached="fail_closed") as inside:
        refused = await inside.merchant.charge(key="order-1")
        counted = await row.counted(inside.merchant, "fail_closed")
        asked = not psps.nobody_was_asked()
    async with open_gateway(on_provider_not_reached="fail_closed") as inside:
        later = await inside.merchant.charge(key="order-1")

    row.says(refused, "fail_closed")
    assert (counted, asked) == (1, False)
    assert (later.status_code, later.json()["account"], later.json()["id"]) == (
        201,
        "stripe",
        refused.json()["payment"]["id"],
    )
    assert len(psps.charges()) == 1
    await checked(database, psps)


async def test_unknown__nobody_else_is_asked_until_it_is_settled(
    row: Row, open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    _unknown(psps)

    async with open_gateway() as inside:
        answer = await inside.merchant.charge(key="order-1")
        counted = await row.counted(inside.merchant)
        others = psps.requests("adyen")
        await inside.work()
        payment = await inside.merchant.payment(answer.json()["id"])

    row.says(answer)
    assert answer.json()["processing_reason"] == "outcome_unknown"
    assert (counted, others) == (1, [])
    assert (payment["status"], payment["account"]) == ("succeeded", "stripe")
    assert len(psps.charges()) == 1
    await checked(database, psps)


async def test_unknown__the_next_account_is_asked_once_the_void_is_confirmed_where_that_was_chosen(
    row: Row, open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    _unknown(psps)

    async with open_gateway(on_unknown="void_then_failover") as inside:
        answer = await inside.merchant.charge(key="order-1", capture_method="manual")
        again = await inside.merchant.charge(key="order-1", capture_method="manual")
        counted = await row.counted(inside.merchant, "void_then_failover")

    row.says(answer, "void_then_failover")
    assert (answer.status_code, answer.json()["account"], again.content) == (201, "adyen", answer.content)
    assert counted == 1
    assert [charge["status"] for charge in psps.charges()] == ["voided", "authorised"]
    await checked(database, psps)


async def test_providers_all_down__the_payment_is_parked_and_the_same_key_starts_over(
    row: Row, open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    async with open_gateway(unreachable=psps.REAL) as inside:
        refused = await inside.merchant.charge(key="order-1")
        counted = await row.counted(inside.merchant)
        shown = await inside.merchant.payment(refused.json()["payment"]["id"])
    async with open_gateway() as inside:
        later = await inside.merchant.charge(key="order-1")

    row.says(refused)
    assert (shown["status"], shown["processing_reason"], counted) == ("processing", "awaiting_retry", 1)
    assert (later.status_code, later.json()["id"]) == (201, shown["id"])
    assert (len(psps.charges()), database.value("SELECT count(*) FROM payment")) == (1, 1)
    await checked(database, psps)


async def test_follow_up_not_reached__it_is_queued_and_done_once_when_the_provider_is_back(
    row: Row, open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    async with open_gateway() as inside:
        paid = await inside.merchant.charged()
        held = [await inside.merchant.charged(capture_method="manual") for _ in range(2)]
        sends = [
            ("/v1/refunds", {"payment": paid["id"]}),
            (f"/v1/payments/{held[0]['id']}/capture", {}),
            (f"/v1/payments/{held[1]['id']}/cancel", {}),
        ]
    async with open_gateway(unreachable=("stripe",)) as inside:
        queued = [await inside.merchant.post(path, fields, key=path) for path, fields in sends]
        counted = await row.counted(inside.merchant)
    async with open_gateway() as inside:
        await inside.work()
        done = [await inside.merchant.post(path, fields, key=path) for path, fields in sends]

    for answer in queued:
        row.says(answer)
    assert [answer.status_code for answer in done] == [201, 200, 200]
    assert counted == 3
    assert [len(psps.books("stripe", book)) for book in ("refunds", "captures")] == [1, 2]
    assert [answer.json()["status"] for answer in done] == ["succeeded", "succeeded", "canceled"]
    await checked(database, psps)


# --- Who looks on -----------------------------------------------------------------------------------------------------

STDERR: Final = {
    "a pipe that nobody reads": "r, w = os.pipe(); fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 4096); os.set_inheritable(r, True); os.dup2(w, 2)",
    "a pipe whose reader has gone": "r, w = os.pipe(); os.dup2(w, 2); os.close(r); os.close(w)",
    "closed": "os.close(2)",
}
FORGED: Final = b"POST /v1/webhooks/stripe HTTP/1.1\r\nHost: gateway\r\nContent-Length: 2\r\n\r\n{}"
"""A webhook that is refused with a line in the log."""
TOO_MANY: Final = LINES_MAX + AT_ONCE + 300
"""More lines than the queue, one write and the pipe hold together."""


STUCK_S: Final = 120.0


async def _forge(port: int, count: int) -> None:
    """So many forged webhooks on one connection, each of them refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(FORGED * count)
        async with asyncio.timeout(STUCK_S):
            for _ in range(count):
                await reader.readuntil(b"HTTP/1.1 401 ")
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("broken", STDERR)
async def test_log_sink_loss__charges_go_on_whoever_reads_the_log(
    row: Row, broken: str, processes: Processes, psps: Psps, flow: type[Kit]
) -> None:
    server = processes.server()
    serve = ["-P", *server.process._argv]
    server.process._argv = [
        "-c",
        f"import fcntl, os, sys; {STDERR[broken]}; os.execv(sys.executable, [sys.executable, *{serve!r}])",
    ]
    server.start()

    async with server.merchant() as merchant:
        await _forge(server.port, TOO_MANY if broken == "a pipe that nobody reads" else 50)
        declined = await merchant.charge(payment_method_data=flow.card("4000000000009987"))
        paid = [await merchant.charged() for _ in range(5)]

        async def dropped() -> bool:
            return await row.counted(merchant) >= (100 if broken == "a pipe that nobody reads" else 51)

        await flow.eventually(dropped, "what was dropped is counted")
        refund = await merchant.post("/v1/refunds", {"payment": paid[0]["id"]})
    server.process._running.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
    ended = await asyncio.to_thread(server.process.wait)

    row.says(refund)
    assert (declined.status_code, refund.status_code) == (402, 201)
    assert len(psps.charges()) == 5
    assert ended in {0, -signal.SIGTERM}  # it ends, whatever it could not write


async def test_log_sink_loss__a_scraper_that_never_reads_its_metrics_stops_nothing(
    row: Row, processes: Processes, psps: Psps
) -> None:
    server = processes.server().start()

    async with server.merchant() as merchant:
        writers = []
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: gateway\r\n\r\n" * 200)
            writers.append(writer)
        paid = [await merchant.charge() for _ in range(5)]
        for writer in writers:
            writer.transport.abort()

    for answer in paid:
        row.says(answer)
    assert len(psps.charges()) == 5


# --- Webhooks ---------------------------------------------------------------------------------------------------------


async def test_webhook_unconfigured__without_a_secret_nothing_is_believed(
    row: Row, open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    mute = f"""[accounts.mute]
        merchant = "mer_dev"
        provider = "stripe"
        base_url = "{psps.urls["stripe"]}"
        api_key_env = "FLOWS_STRIPE_API_KEY"
    """

    async with open_gateway(more=mute) as inside:
        post = inside.merchant.http.post
        refused = [await post(f"/v1/webhooks/{name}", **_event("att_1", flow)) for name in ("mute", "nobody")]
        refused.append(await post("/v1/webhooks/mute", **_event("att_1", flow, secret="x")))
        counted = await row.counted(inside.merchant)

    for answer in refused:
        row.says(answer)
    assert counted == 3
    assert database.value("SELECT count(*) FROM webhook_inbox") == 0


async def test_webhook_not_authentic__a_wrong_signature_or_time_changes_nothing(
    row: Row, open_gateway: Open, psps: Psps, database: Database, flow: type[Kit]
) -> None:
    _unknown(psps)

    async with open_gateway() as inside:
        payment = (await inside.merchant.charge()).json()
        (operation,) = database.operations(payment["id"])
        forged = [
            _event(operation["id"], flow, secret="whsec_wrong"),
            _event(operation["id"], flow, age_s=400),
            _event(operation["id"], flow, age_s=-400),
            _event(operation["id"], flow) | {"headers": {}},
        ]
        refused = [await inside.merchant.http.post("/v1/webhooks/stripe", **webhook) for webhook in forged]
        refused.append(await inside.merchant.http.post("/v1/webhooks/adyen", json=_unsigned(operation["id"], flow)))
        counted = await row.counted(inside.merchant)
        shown = await inside.merchant.payment(payment["id"])

    for answer in refused:
        row.says(answer)
    assert counted == 5
    assert shown["status"] == "processing"
    assert database.value("SELECT count(*) FROM webhook_inbox") == 0


# --- The vault --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instead", [SOME_KEY, None], ids=["another key", "no key"])
async def test_vault_loss_card__a_card_that_does_not_open_is_not_charged_and_the_same_key_is_safe(
    row: Row, instead: str | None, open_gateway: Open, psps: Psps, flow: type[Kit], database: Database, checked: Checked
) -> None:
    async with open_gateway() as inside:
        stored = (await inside.merchant.post("/v1/payment_methods", flow.card())).json()["id"]
    fields = {"payment_method_data": None, "payment_method": stored, "key": "order-1"}
    async with open_gateway(vault_key=instead) as inside:
        refused = await inside.merchant.charge(**fields)
        counted = await row.counted(inside.merchant)
        fresh = await inside.merchant.charge(key="order-2")
    async with open_gateway() as inside:
        later = await inside.merchant.charge(**fields)

    row.says(refused)
    assert counted == 1
    assert fresh.status_code == (422 if instead is None else 201)  # without any key, cards are not accepted at all
    assert later.status_code == 201
    assert len(psps.charges()) == (1 if instead is None else 2)
    await checked(database, psps)


async def test_vault_loss_follow_up__captures_refunds_and_cancels_go_on(
    row: Row, open_gateway: Open, psps: Psps, database: Database, checked: Checked
) -> None:
    async with open_gateway() as inside:
        kept = {"setup_future_usage": "off_session", "capture_method": "manual"}
        held = [await inside.merchant.charged(**kept) for _ in range(2)]
    async with open_gateway(vault_key=None) as inside:
        captured = await inside.merchant.post(f"/v1/payments/{held[0]['id']}/capture")
        refunded = await inside.merchant.post("/v1/refunds", {"payment": held[0]["id"]})
        canceled = await inside.merchant.post(f"/v1/payments/{held[1]['id']}/cancel")
        assert await row.counted(inside.merchant) == 0  # the vault is never asked, so nothing stands in for it
    BROKEN.add(row.name)

    for answer in (captured, refunded, canceled):
        row.says(answer)
    assert [answer.json()["status"] for answer in (captured, refunded, canceled)] == [
        "succeeded",
        "succeeded",
        "canceled",
    ]
    assert [len(psps.books("stripe", book)) for book in ("captures", "refunds")] == [1, 1]
    await checked(database, psps)


# --- The worker -------------------------------------------------------------------------------------------------------


def _age(database: Database, seconds: int) -> None:
    """What so many seconds without a worker leave behind."""
    ago = f"now() - interval '{seconds} seconds'"
    database.rows(
        f"UPDATE operation SET due_at = {ago}, lease_until = {ago} WHERE due_at IS NOT NULL AND status = 'unknown'"
    )
    database.rows(f"UPDATE procrastinate.procrastinate_workers SET last_heartbeat = {ago}")


async def _gauge(merchant: Merchant, name: str) -> float:
    (line,) = [line for line in (await merchant.get("/metrics")).text.splitlines() if line.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize("policy", POLICIES["worker_loss"].choices)
async def test_worker_loss__charges_go_on_for_ten_minutes_and_then_nothing_new_is_added_to_the_backlog(
    row: Row, policy: str, processes: Processes, psps: Psps, database: Database, flow: type[Kit], checked: Checked
) -> None:
    server = processes.server(GATEWAY_WORKER_BACKLOG_MAX="0", GATEWAY_ON_WORKER_LOSS=policy).start()
    worker = processes.worker()
    alive = "SELECT count(*) FROM procrastinate.procrastinate_workers"
    await flow.eventually(lambda: database.value(alive) == 1, "the worker reports")

    async with server.merchant() as merchant:

        async def seen(name: str, least: float) -> None:
            async def there() -> bool:
                return least <= await _gauge(merchant, f"interlock_{name}") < least + 500

            await flow.eventually(there, f"{name} was seen")

        worker.kill()
        held = await merchant.charged(capture_method="manual")
        _unknown(psps)
        unknown = (await merchant.charge(key="order-1")).json()
        _age(database, 90)
        await seen("operations_overdue", 1)
        await seen("operations_overdue_seconds", 90)
        await seen("worker_silent_seconds", 90)
        soon = await merchant.charge(key="order-2")
        _age(database, WORKER_GRACE_S + 30)
        await seen("operations_overdue_seconds", WORKER_GRACE_S)
        late = await merchant.charge(key="order-3")
        replayed, captured = (
            await merchant.charge(key="order-2"),
            await merchant.post(f"/v1/payments/{held['id']}/capture"),
        )
        counted = [await row.counted(merchant, word) for word in ("fail_open", "fail_closed")]
        processes.worker()

        async def settled() -> bool:
            return bool((await merchant.payment(unknown["id"]))["status"] == "succeeded")

        await flow.eventually(settled, "the new worker has settled it")
        await seen("operations_overdue", 0)
        again = await merchant.retried(lambda: merchant.charge(key="order-3"))

    row.says(soon, policy)
    row.says(late, policy)
    bounded = policy == "degrade"
    assert (soon.status_code, late.status_code) == (201, 503 if bounded else 201)
    assert counted == ([1, 1] if bounded else [2, 0])
    assert (replayed.content, captured.status_code, again.status_code) == (soon.content, 200, 201)
    assert len(psps.charges()) == 4
    await checked(database, psps)


# --- The clock --------------------------------------------------------------------------------------------------------


def _another_clock(database: Database, told: str) -> None:
    """From now on this database tells new sessions another time: our sessions find a clock of ours before Postgres's own."""
    database.rows("CREATE SCHEMA another; GRANT USAGE ON SCHEMA another TO interlock_app")
    database.rows(f"CREATE FUNCTION another.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ {told} $$")
    name = database.value("SELECT current_database()")
    database.rows(f"ALTER ROLE interlock_app IN DATABASE {name} SET search_path = another, pg_catalog, public")


@pytest.mark.parametrize("policy", POLICIES["clock_skew"].choices)
@pytest.mark.parametrize(("skew_s", "direction"), [(60, "behind"), (-60, "ahead of")])
async def test_clock_skew__an_instance_with_a_wrong_clock_is_not_ready_and_still_charges_once(
    row: Row,
    skew_s: int,
    direction: str,
    policy: str,
    open_gateway: Open,
    psps: Psps,
    database: Database,
    flow: type[Kit],
) -> None:
    _another_clock(database, f"BEGIN RETURN pg_catalog.clock_timestamp() + interval '{skew_s} seconds'; END")

    async with open_gateway(on_clock_skew=policy) as inside:
        wrong = await inside.merchant.http.get("/readyz")
        first, again = await inside.merchant.charge(key="order-1"), await inside.merchant.charge(key="order-1")
        counted = await row.counted(inside.merchant, policy)
        skew = await _gauge(inside.merchant, "interlock_clock_skew_seconds")
        database.rows("DROP FUNCTION another.clock_timestamp()")

        async def right() -> bool:
            ready = await inside.merchant.http.get("/readyz")
            return bool(ready.status_code == 200 and ready.json()["clock"] == "ok")

        await flow.eventually(right, "the clocks agree again")

    assert f"`/readyz` answers {wrong.status_code} with the difference" in row.policy.choices[policy].caller_sees
    told = re.fullmatch(rf"(\d+\.\d) s {direction} the database's", wrong.json()["clock"])
    assert told is not None, wrong.text
    assert 2 < float(told[1]) <= 60
    assert counted == 1
    assert skew * skew_s < 0
    assert (first.status_code, again.content) == (201, first.content)
    assert len(psps.charges()) == 1


@pytest.mark.parametrize(
    "late",
    [
        "BEGIN PERFORM pg_sleep(3); RETURN pg_catalog.clock_timestamp(); END",
        "DECLARE told timestamptz := pg_catalog.clock_timestamp(); BEGIN PERFORM pg_sleep(3); RETURN told; END",
    ],
    ids=["before it looks at its clock", "after it"],
)
async def test_clock_skew__a_database_that_answers_late_is_no_wrong_clock(
    row: Row, late: str, open_gateway: Open, database: Database
) -> None:
    _another_clock(database, late)

    async with open_gateway() as inside:
        ready = await inside.merchant.http.get("/readyz")
        counted = await row.counted(inside.merchant)

    assert (ready.status_code, ready.json()["clock"], counted) == (200, "ok", 0)


# --- The table itself -------------------------------------------------------------------------------------------------


async def test_the_table_is_shown_with_what_is_in_force(open_gateway: Open) -> None:
    async with open_gateway(on_redis_loss=GatePolicy.FAIL_CLOSED, on_clock_skew="fail_open") as inside:
        shown = (await inside.merchant.get("/v1/policies")).json()
        stranger = await inside.merchant.http.get("/v1/policies")
        shop = await dataclasses.replace(inside.merchant, api_key="pk_test_dev").get("/v1/policies")

    rows = {row["id"]: row for row in shown["data"]}
    assert (shown["object"], shown["has_more"], list(rows)) == ("list", False, list(POLICIES))
    assert {name: row["policy"] for name, row in rows.items()} == {
        **DEFAULTS,
        "redis_loss": "fail_closed",
        "clock_skew": "fail_open",
    }
    for name, row in rows.items():
        policy = POLICIES[name]
        assert (row["default"], row["setting"]) == (policy.default, variable_of(name))
        assert (row["configurable"], row["choices"]) == (policy.configurable, list(policy.choices))
        assert row["caller_sees"] == policy.choices[row["policy"]].caller_sees
    assert (stranger.status_code, shop.status_code) == (401, 403)


def test_every_row_has_a_test_that_breaks_its_part(proved: Callable[[str], None]) -> None:
    """The last one, so that it can say what the others have found."""
    tested = {found[1] for name in globals() if (found := PER_ROW.match(name))}

    assert tested == POLICIES.keys()
    if POLICIES.keys() == BROKEN:
        proved(f"policy table: {len(POLICIES)} rows, each broken for real")
