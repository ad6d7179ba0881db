"""What strategies learn from the outcomes in the books: every process the same, nothing passed over, nothing lost."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from gateway import evidence
from gateway.evidence import BATCH, BEGIN_WITH, Learned, Use
from gateway.metrics.instruments import Instruments
from gateway.sql import Pool, connect
from routing import document as documents
from routing import rules
from routing.decision import Decision
from routing.strategies import make

if TYPE_CHECKING:
    import httpx

    from gateway.embedded import Valkey
    from tests.conftest import Database, Kit, Merchant, Open, Processes, Psps

ACCOUNTS: Final = ("stripe", "adyen")
WORDS: Final = ("approved", "declined_ambiguous", "declined_customer", "declined_provider", "technical")
WEIGHTS: Final = (80, 10, 5, 3, 2)
ADAPTIVE: Final = Use("mer_dev", False, "adaptive", ACCOUNTS)

Json = dict[str, Any]
PoolOn = Callable[[], AbstractAsyncContextManager[Pool]]


@pytest.fixture
def pool_on(database: Database) -> PoolOn:
    """A process's connections."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Pool]:
        pool = await connect(database.url)
        try:
            yield pool
        finally:
            pool.close()

    return opened


# --- Rows as charges leave them ---------------------------------------------------------------------------------------

_PAYMENTS: Final = """INSERT INTO payment (id, merchant_id, livemode, version, status, round, route, amount, currency, capture_method,
    off_session, amount_authorized, amount_capturing, amount_captured, amount_refunding, amount_refunded, cancel_requested, metadata,
    options, created_at, updated_at)
    SELECT 'pay_' || (a->>'id'), 'mer_dev', false, 1, 'failed', 1, '{}', 1000, a->>'currency', 'automatic', false, 0, 0, 0, 0, 0,
    false, '{}', '{}', now(), now() FROM json_array_elements(%(rows)s::json) AS a"""
_ATTEMPTS: Final = """INSERT INTO operation (id, payment_id, kind, seq, round, account, provider, amount, status, final, provider_key,
    holds_card, lease_until, epoch, tries, created_at, updated_at, decision, evidence_word, evidence_at, evidence_xid)
    SELECT 'att_' || (a->>'id'), 'pay_' || (a->>'id'), 'authorize', 1, 1, a->>'account', 'psp', 1000, 'voided', true, a->>'id', false,
    now(), 1, 1, now(), now(), jsonb_build_object('facts', a->'facts'), a->>'word', now(), pg_current_xact_id()
    FROM json_array_elements(%(rows)s::json) AS a"""


def attempts(count: int, *, seed: int = 7, start: int = 0) -> list[dict[str, Any]]:
    """Outcomes by fixed dice, of a few kinds of payments."""
    dice, rows = random.Random(seed), list[dict[str, Any]]()
    for number in range(start, start + count):
        currency, brand = dice.choice(["EUR", "USD"]), dice.choice(["visa", "mastercard", "amex"])
        facts = {
            "payment_id": f"pay_{number:08}",
            "merchant_id": "mer_dev",
            "livemode": False,
            "amount": 1000,
            "currency": currency,
            "at": "2026-11-22T12:00:00+00:00",
            "brand": brand,
            "bin": f"4{dice.randrange(20):05}",
        }
        (word,) = dice.choices(WORDS, WEIGHTS)
        account = dice.choice(ACCOUNTS)
        rows.append({"id": f"{number:08}", "currency": currency, "account": account, "word": word, "facts": facts})
    return rows


def write(connection: psycopg.Connection[Any], rows: list[dict[str, Any]]) -> None:
    """Write them in the transaction that is open."""
    for statement in (_PAYMENTS, _ATTEMPTS):
        connection.execute(statement.encode(), {"rows": json.dumps(rows)})


def happened(database: Database, rows: list[dict[str, Any]], *, at_once: int = 1) -> None:
    """Commit them, ``at_once`` a transaction."""
    with psycopg.connect(database.admin_url) as connection:
        for first in range(0, len(rows), at_once):
            write(connection, rows[first : first + at_once])
            connection.commit()


def state(learned: Learned, use: Use = ADAPTIVE) -> str:
    """All that a process knows, as text: equal to the last bit."""
    (model,) = [each for each in learned.models(use.merchant_id, livemode=use.livemode) if each.use == use]
    return json.dumps([model.folded, model.state()])


def folded(learned: Learned) -> int:
    (model,) = learned.models("mer_dev", livemode=False)
    return model.folded


# --- The same in every process ----------------------------------------------------------------------------------------


async def test_processes_that_read_at_their_own_pace_know_the_same_whether_they_are_asked_or_not(
    pool_on: PoolOn, database: Database
) -> None:
    rows, dice = attempts(600), random.Random(1)
    async with pool_on() as one, pool_on() as other:
        often, seldom = Learned(one, lambda: [ADAPTIVE]), Learned(other, lambda: [ADAPTIVE])
        for first in range(0, len(rows), 50):
            happened(database, rows[first : first + 50], at_once=3)
            await often.fold()
            (model,) = often.models("mer_dev", livemode=False)
            for row in rows[::7]:
                model.policy.rank(row["facts"] | {"funding": str(first)}, ACCOUNTS, dice, 0.0)
        await seldom.fold()

    assert folded(often) == len(rows)
    assert state(often) == state(seldom)


async def test_what_is_learned_is_what_the_strategy_learns_from_the_same_outcomes_in_the_same_order(
    pool_on: PoolOn, database: Database
) -> None:
    rows = attempts(BATCH + 100)
    happened(database, rows, at_once=10)
    alone = make("adaptive", ACCOUNTS)
    with psycopg.connect(database.admin_url) as connection:
        times = connection.execute(
            "SELECT extract(epoch FROM evidence_at)::float8 FROM operation ORDER BY id"
        ).fetchall()
    for row, (at,) in zip(rows, times, strict=True):
        facts = row["facts"]
        context = {name: facts[name] for name in ("currency", "brand", "bin")} | {"initiator": "customer"}
        alone.update(context, row["account"], row["word"], at)

    async with pool_on() as pool:
        learned = Learned(pool, lambda: [ADAPTIVE])
        await learned.fold()

    (model,) = learned.models("mer_dev", livemode=False)
    assert json.dumps(model.policy.snapshot()) == json.dumps(alone.snapshot())


async def test_a_transaction_that_commits_late_is_not_passed_over(pool_on: PoolOn, database: Database) -> None:
    """It wrote first and commits last: whoever reads by time or number alone never sees it."""
    rows = attempts(30)
    async with pool_on() as pool:
        learned = Learned(pool, lambda: [ADAPTIVE])
        with psycopg.connect(database.admin_url) as late:
            happened(database, rows[:10])
            write(late, rows[10:20])
            happened(database, rows[20:])
            await learned.fold()
            meanwhile = folded(learned)
            late.commit()
        await learned.fold()
        (model,) = learned.models("mer_dev", livemode=False)
        fresh = Learned(pool, lambda: [ADAPTIVE])
        await fresh.fold()

    assert meanwhile == 10
    assert model.folded == len(rows)
    assert state(learned) == state(fresh)


async def test_a_transaction_that_is_rolled_back_is_waited_for_and_no_longer(
    pool_on: PoolOn, database: Database
) -> None:
    async with pool_on() as pool:
        learned = Learned(pool, lambda: [ADAPTIVE])
        with psycopg.connect(database.admin_url) as undone:
            write(undone, attempts(5))
            happened(database, attempts(5, start=5))
            await learned.fold()
            meanwhile = folded(learned)
            undone.rollback()
        await learned.fold()

    assert (meanwhile, folded(learned)) == (0, 5)


async def test_an_attempt_after_a_decline_of_the_same_payment_teaches_nothing(
    open_gateway: Open, pool_on: PoolOn, flow: Any
) -> None:
    """What one account has declined, the next one mostly does: it would look worse the more it is fallen back on."""
    async with open_gateway() as inside, pool_on() as pool:
        learned = Learned(pool, lambda: [ADAPTIVE])
        await inside.merchant.charged(payment_method_data=flow.card("4000000000000002"))
        await inside.merchant.charged()
        await learned.fold()

    (model,) = learned.models("mer_dev", livemode=False)
    assert model.heard == {"stripe": {"declined_ambiguous": 1, "approved": 1}}


async def test_an_attempt_after_an_account_that_was_not_reached_teaches_like_any(
    open_gateway: Open, pool_on: PoolOn
) -> None:
    async with open_gateway(unreachable=["stripe"]) as inside, pool_on() as pool:
        learned = Learned(pool, lambda: [ADAPTIVE])
        await inside.merchant.charged()
        await learned.fold()

    (model,) = learned.models("mer_dev", livemode=False)
    assert model.heard == {"stripe": {"technical": 1}, "adyen": {"approved": 1}}


# --- Beginning and going on -------------------------------------------------------------------------------------------


async def test_a_process_that_died_goes_on_from_the_snapshot_and_knows_what_one_knows_that_never_did(
    pool_on: PoolOn, database: Database
) -> None:
    rows = attempts(900)
    async with pool_on() as one, pool_on() as other:
        steady, dies = Learned(one, lambda: [ADAPTIVE]), Learned(other, lambda: [ADAPTIVE])
        happened(database, rows[:500], at_once=7)
        await steady.fold()
        await dies.fold()
        await dies.save()
        happened(database, rows[500:], at_once=7)
        await steady.fold()
        restarted = Learned(other, lambda: [ADAPTIVE])
        await restarted.fold()

    kept = database.rows("SELECT folded FROM routing_snapshot WHERE state IS NOT NULL")
    assert [row["folded"] for row in kept] == [500]
    assert folded(restarted) == len(rows)
    assert state(restarted) == state(steady)


async def test_the_last_few_snapshots_are_kept_and_one_that_cannot_be_read_costs_only_time(
    pool_on: PoolOn, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "SNAPSHOT_S", 0.0)
    rows = attempts(60)
    async with pool_on() as pool:
        learned = Learned(pool, lambda: [ADAPTIVE])
        for first in range(0, len(rows), 10):
            happened(database, rows[first : first + 10])
            await learned.fold()
            await learned.save()
        kept = [row["folded"] for row in database.rows("SELECT folded FROM routing_snapshot ORDER BY folded")]
        database.rows("""UPDATE routing_snapshot SET state = '{"at": 0}' WHERE state IS NOT NULL""")
        restarted = Learned(pool, lambda: [ADAPTIVE])
        await restarted.fold()

    assert kept == [0, 40, 50, 60]
    assert state(restarted) == state(learned)


async def test_every_process_begins_at_the_same_row_however_late_it_comes(
    pool_on: PoolOn, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a long history a model takes the end. Where that begins is written down by the first process."""
    monkeypatch.setattr(evidence, "BEGIN_WITH", 200)
    happened(database, attempts(500), at_once=50)
    async with pool_on() as pool:
        first = Learned(pool, lambda: [ADAPTIVE])
        await first.fold()
        begun = folded(first)
        happened(database, attempts(100, start=500), at_once=50)
        late = Learned(pool, lambda: [ADAPTIVE])
        await first.fold()
        await late.fold()

    assert begun == 200
    assert state(first) == state(late)


async def test_another_document_with_the_same_strategy_goes_on_with_its_model(
    pool_on: PoolOn, database: Database
) -> None:
    happened(database, attempts(50))
    in_force = [ADAPTIVE]
    async with pool_on() as pool:
        learned = Learned(pool, lambda: in_force)
        await learned.fold()
        (before,) = learned.models("mer_dev", livemode=False)
        in_force = [Use("mer_dev", False, "adaptive", ACCOUNTS, {}), Use("mer_dev", False, "priority", ACCOUNTS)]
        await learned.fold()
        same, other = learned.models("mer_dev", livemode=False)
        in_force = []
        await learned.fold()

    assert same is before
    assert other.folded == 50
    assert learned.models("mer_dev", livemode=False) == []


def test_a_model_is_named_by_all_that_decides_what_it_learns() -> None:
    uses = [
        ADAPTIVE,
        Use("mer_other", False, "adaptive", ACCOUNTS),
        Use("mer_dev", True, "adaptive", ACCOUNTS),
        Use("mer_dev", False, "priority", ACCOUNTS),
        Use("mer_dev", False, "adaptive", ACCOUNTS[::-1]),
        Use("mer_dev", False, "adaptive", ACCOUNTS, {"cells_max": 100}),
        Use("mer_dev", False, "adaptive", ACCOUNTS, {"constraints": {"explore_max": 1}}),
    ]

    assert len({use.key for use in uses}) == len(uses)
    assert Use("mer_dev", False, "adaptive", ACCOUNTS, {}).key == ADAPTIVE.key


def test_a_strategy_that_is_only_rehearsed_is_counted_and_kept_nowhere() -> None:
    """No payment is decided by a dry run of a draft: nobody is to be woken for it, and a thousand of them leave nothing behind."""
    counts = CollectorRegistry()
    learned = Learned(instruments=Instruments(counts))
    labels = {"dep": "strategy", "op": "authorize", "policy": "degrade"}

    def asked(ask: Callable[..., object]) -> tuple[object, float | None, bool]:
        """What is known, how often that was counted, and whether the draft is kept."""
        outcome = documents.read({"default": {"strategy": "adaptive", "accounts": list(ACCOUNTS)}}).default
        assert isinstance(outcome, documents.Strategy)
        known, kept = ask("mer_dev", outcome, livemode=False), weakref.ref(outcome)
        del outcome
        gc.collect()
        return known, counts.get_sample_value("dependency_policy_applied_total", labels), kept() is not None

    assert asked(learned.rehearsed) == (None, 0, False)
    assert asked(learned.policy) == (None, 1, True)


# --- What is not there ------------------------------------------------------------------------------------------------


async def test_without_postgres_a_process_keeps_what_it_knows_and_says_since_when(
    pool_on: PoolOn, database: Database
) -> None:
    happened(database, attempts(20))
    async with pool_on() as pool:
        learned = Learned(pool, lambda: [ADAPTIVE])
        await learned.fold()
        known = state(learned)
    await learned.fold()  # the pool is closed

    assert state(learned) == known
    assert learned.lag_s > 0


async def test_a_database_whose_transactions_are_numbered_lower_is_read_anew(
    pool_on: PoolOn, database: Database
) -> None:
    """Another cluster, or a copy that was behind when it took over."""
    happened(database, attempts(20))
    async with pool_on() as pool:
        learned = Learned(pool, lambda: [ADAPTIVE])
        await learned.fold()
        database.rows("UPDATE routing_snapshot SET xid = (xid::text::numeric + 1000000)::text::xid8")
        (model,) = learned.models("mer_dev", livemode=False)
        model.position = evidence.Position(model.position.xid + 1_000_000)
        await learned.fold()
        await learned.fold()
        (again,) = learned.models("mer_dev", livemode=False)

    assert again is not model
    assert again.folded == 20


async def test_what_this_process_has_heard_moves_its_breakers_before_it_is_read(
    open_gateway: Open, pool_on: PoolOn, database: Database
) -> None:
    """And it counts once: when it is read, what was told ahead is taken back."""
    rows = attempts(300)
    happened(database, [row | {"word": "approved"} for row in rows], at_once=20)
    context = {"currency": "EUR", "initiator": "customer"}
    async with pool_on() as pool:
        learned = Learned(pool, lambda: [ADAPTIVE], clock=lambda: 0.0)
        await learned.fold()
        (model,) = learned.models("mer_dev", livemode=False)
        before = model.policy.explain(context, "stripe", 0.0).breaker
        for row in (lost := [row | {"account": "stripe", "word": "technical"} for row in attempts(8, start=300)]):
            model.hint(f"att_{row['id']}", "stripe", context, "technical", 0.0)
        ahead = model.policy.explain(context, "stripe", 0.0).breaker
        happened(database, lost)
        await learned.fold()
        fresh = Learned(pool, lambda: [ADAPTIVE])
        await fresh.fold()

    assert (before, ahead) == ("closed", "open")
    assert model.hinted == {}
    assert state(learned) == state(fresh)


def test_a_beginning_reaches_far_enough_back_for_the_longest_memory_of_a_strategy() -> None:
    assert BEGIN_WITH >= 30_000


# --- In the charge path -----------------------------------------------------------------------------------------------

PROBING: Final[Json] = {"probe_share": 10}
"""More probes than usual, so that a recovery is found within the patience of a test."""


def by_strategy(name: str = "adaptive", accounts: Sequence[str] = ACCOUNTS, **outcome: Any) -> Json:
    """A routing document whose every payment goes by a strategy."""
    return {"default": {"strategy": name, "accounts": list(accounts), **outcome}}


def long_known(database: Database, good: str = "stripe", count: int = 1500) -> None:
    """A past in which one account approved more than the other."""
    dice, rates = random.Random(5), {account: 0.94 if account == good else 0.86 for account in ACCOUNTS}
    rows = []
    for row in attempts(count):
        approved = dice.random() < rates[row["account"]]
        facts = {name: value for name, value in row["facts"].items() if name != "bin"} | {"currency": "EUR"}
        rows.append(row | {"word": "approved" if approved else "declined_provider", "currency": "EUR", "facts": facts})
    happened(database, rows, at_once=100)


async def known_by(merchant: Merchant) -> Json:
    """The one strategy in force, as the API shows it."""
    (shown,) = (await merchant.get("/v1/routing/strategies")).json()["data"]
    strategy: Json = shown
    return strategy


def is_open(account: Json) -> bool:
    """Whether a breaker is open for an account, or for the kind of payments that there are."""
    return account["breaker"] != "closed" or bool(account["segments_open"])


async def traffic(merchant: Merchant, count: int, per_s: float = 50.0) -> list[str]:
    """Charges at up to ``per_s``, with as many at once as there are where the providers answer in tens of milliseconds."""
    at_once, begun = asyncio.Semaphore(4), time.monotonic()

    async def one(number: int) -> httpx.Response:
        await asyncio.sleep(begun + number / per_s - time.monotonic())
        async with at_once:
            return await merchant.charge()

    answers = await asyncio.gather(*(one(number) for number in range(count)))
    assert {answer.status_code for answer in answers} <= {201, 402}, [answer.text for answer in answers]
    return [answer.json()["id"] for answer in answers]


def first_asked(database: Database) -> Counter[str]:
    """Which accounts the payments of this test were sent to first; those of the past are of another provider."""
    found = database.rows("""SELECT account, count(*) AS times FROM operation
        WHERE kind = 'authorize' AND seq = 1 AND provider <> 'psp' GROUP BY account""")
    return Counter({row["account"]: row["times"] for row in found})


async def test_a_strategy_decides_and_its_record_explains_and_repeats_it(
    open_gateway: Open, pool_on: PoolOn, database: Database
) -> None:
    long_known(database)
    document = by_strategy()
    version, read = database.publish(document), documents.read(document)
    async with open_gateway() as inside, pool_on() as pool:
        elsewhere = Learned(pool, lambda: [ADAPTIVE])
        await elsewhere.fold()
        payments = [await inside.merchant.charged() for _ in range(12)]
        (explained,) = (await inside.merchant.get(f"/v1/payments/{payments[0]['id']}/routing")).json()["attempts"]

    assert "strategy adaptive of the document's default ranked it first with 9" in explained["sentence"]
    for payment in payments:
        (attempt,) = database.operations(payment["id"])
        decision = Decision.read(attempt["decision"])
        first, other = decision.candidates
        assert (decision.version, decision.kind, decision.strategy) == (version, "strategy", "adaptive")
        assert decision.seed == rules.seed_of(payment["id"])
        assert (first.account, first.why_not) == (payment["account"], None)
        assert first.propensity is not None
        assert other.propensity is not None
        assert first.propensity + other.propensity == pytest.approx(1)
        assert {each.breaker for each in decision.candidates} == {"closed"}
        for each in decision.candidates:
            assert each.low is not None
            assert each.high is not None
            assert each.score is not None
            assert each.low < each.score < each.high
        assert rules.replayed(decision, read) == decision
    fresh = Decision.read(database.operations(payments[0]["id"])[0]["decision"])
    (model,) = elsewhere.models("mer_dev", livemode=False)
    able = {each.account: each.ineligible for each in fresh.candidates}
    at = fresh.facts.at.timestamp()
    assert rules.decide(read, version, fresh.facts, able, ACCOUNTS, lambda _: model.policy, at) == fresh


OUTAGES: Final[dict[str, tuple[str, Json, int]]] = {
    "it declines everything": ("approval_rate", {"rate": 0, "seed": 1}, 20),
    "it takes nothing": ("status", {"status": 429, "times": None}, 12),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_account_that_fails_under_traffic_gets_few_payments_more_and_nobody_is_refused(
    outage: str, open_gateway: Open, database: Database, psps: Psps
) -> None:
    """What this process has seen moves its breakers before it is read from the books, a quarter of a second later."""
    fault, parameters, lost_max = OUTAGES[outage]
    long_known(database)
    database.publish(by_strategy())
    async with open_gateway() as inside:
        await traffic(inside.merchant, 20)
        before = first_asked(database)
        psps.fault("stripe", "authorize", fault, **parameters)
        paid = await traffic(inside.merchant, 100)
        during = first_asked(database) - before
        shown = await known_by(inside.merchant)
        metrics = (await inside.merchant.get("/metrics")).text

    assert before["stripe"] >= 18
    assert during["stripe"] <= lost_max
    assert len(paid) == during.total() == 100
    assert [is_open(account) for account in shown["accounts"]] == [True, False]
    assert 'interlock_routing_breaker{account="adyen",strategy="adaptive"} 0.0' in metrics
    assert 'interlock_routing_breaker{account="stripe",strategy="adaptive"} 0.0' not in metrics
    assert database.value("SELECT count(*) FROM payment WHERE status = 'succeeded'") == 120


async def test_an_account_that_recovers_is_found_by_probes(
    open_gateway: Open, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    long_known(database)
    database.publish(by_strategy(settings=PROBING))
    async with open_gateway() as inside:
        await traffic(inside.merchant, 20)
        psps.fault("stripe", "authorize", "approval_rate", rate=0, seed=1)
        await traffic(inside.merchant, 40)
        stripe, _ = (await known_by(inside.merchant))["accounts"]
        psps.clear_faults("stripe")

        async def recovered() -> bool:
            await traffic(inside.merchant, 20)
            stripe, _ = (await known_by(inside.merchant))["accounts"]
            return not is_open(stripe)

        await flow.eventually(recovered, "the probes have found the account alive")

    modes = database.rows(
        "SELECT DISTINCT decision->>'mode' AS mode FROM operation WHERE provider <> 'psp' AND seq = 1"
    )
    assert is_open(stripe)
    assert {"exploit", "probe"} <= {row["mode"] for row in modes}


async def test_redis_lost_in_the_middle_loses_no_payment_and_no_evidence(
    open_gateway: Open, database: Database, valkey: Valkey, flow: type[Kit]
) -> None:
    database.publish(by_strategy())
    async with open_gateway() as inside:
        first = await traffic(inside.merchant, 20)
        valkey.kill()
        rest = await traffic(inside.merchant, 20)

        async def read() -> bool:
            return bool((await known_by(inside.merchant))["outcomes"] == 40)

        await flow.eventually(read, "all outcomes were learned from")
        shown = await known_by(inside.merchant)

    told = database.rows("SELECT evidence_word, count(*) AS times FROM operation GROUP BY evidence_word")
    assert len({*first, *rest}) == 40
    assert told == [{"evidence_word": "approved", "times": 40}]
    assert sum(account["outcomes"]["approved"] for account in shown["accounts"] if account["outcomes"]) == 40


async def test_two_processes_agree_within_two_seconds_and_one_that_was_killed_comes_back_knowing_the_same(
    processes: Processes, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    long_known(database, count=400)
    database.publish(by_strategy())
    psps.fault("stripe", "authorize", "approval_rate", rate=0.7, seed=3)
    one, other = processes.server().start(), processes.server().start()
    async with one.merchant() as at_one, other.merchant() as at_other:

        async def known(merchant: Merchant) -> Json:
            return {name: value for name, value in (await known_by(merchant)).items() if name != "lag_s"}

        async def agreed(wanted: int) -> Json:
            until = time.monotonic() + 2.0
            while True:
                here, there = await known(at_one), await known(at_other)
                if here["outcomes"] == there["outcomes"] == wanted:
                    assert here == there
                    return here
                assert time.monotonic() < until, (wanted, here["outcomes"], there["outcomes"])
                await asyncio.sleep(0.05)

        async def fair() -> int:
            """Outcomes that teach: those that follow a decline do not."""
            found: int = database.value("SELECT count(*) FROM operation WHERE evidence_word IS NOT NULL AND seq = 1")
            return found

        await asyncio.gather(traffic(at_one, 20, 20), traffic(at_other, 20, 20))
        both = await agreed(await fair())
        other.process.kill()
        await traffic(at_one, 20)
        other.start()
        again = await agreed(await fair())

    assert (both["outcomes"], again["outcomes"]) == (440, 460)
    assert again["ready"] is True
