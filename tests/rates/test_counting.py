"""What is kept says what the views say: whatever happened in which order, whoever counted, and made again from the rows."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from psycopg import Connection, Cursor, errors
from psycopg import connect as connect_to
from psycopg.types.json import Jsonb

from gateway.payment import OperationStatus
from gateway.rate_books import fold, measure
from gateway.rates import BLOCKS, CLASSES, CUBOIDS, FAULTS, METRICS, UNAUTHENTICATED, Asked, Measured, class_of
from gateway.sql import Pool, connect
from routing.decision import AMOUNT_BANDS, Facts
from tests.fixtures.rows import attempt_row, payment_row

if TYPE_CHECKING:
    from tests.conftest import Commands, Database

START: Final = datetime(2026, 11, 16, tzinfo=UTC)
VIEW_OF: Final = {"attempt": "attempt", "payment": "payment", "group": "payment_group"}
SENT: Final = "class IN ('approved', 'declined', 'technical', 'unknown')"
RATES: Final = {
    "attempt_authorization_rate": ("class = 'approved'", "class IN ('approved', 'declined')"),
    "payment_authorization_rate": ("approved", "reached"),
    "deduplicated_rate": ("approved", "true"),
    "acceptance_rate": ("approved", "requested"),
    "first_attempt_rate": ("first_approved", "reached"),
    "recovered_by_cascade": ("recovered", "stumbled"),
    "technical_error_rate": ("class = 'technical'", SENT),
    "unknown_rate": ("class = 'unknown'", SENT),
}
"""Numerator and denominator of each rate, over the views."""
Answer = dict[tuple[Any, ...], tuple[int, int, int | None, dict[str, tuple[int, int]]]]


@dataclass
class Rows:
    """Writes payments, attempts and their history as the books would, on one connection."""

    connection: Connection[Any]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def pay(self, at: datetime, **changes: Any) -> str:
        payment_id = f"pay_{next(self.numbers):08d}"
        self.insert("payment", payment_row(payment_id, at) | changes)
        return payment_id

    def ask(self, payment_id: str, seq: int, status: str, at: datetime, **changes: Any) -> str:
        row = attempt_row(payment_id, seq, status, at) | changes
        self.insert("operation", row)
        self.tell(payment_id, status, at, row["id"])
        return str(row["id"])

    def settle(self, attempt: str, status: str, at: datetime, code: str | None = None) -> None:
        """A later outcome of an attempt."""
        row = self.run(
            "UPDATE operation SET status = %(status)s, decline = %(decline)s, reason = %(code)s WHERE id = %(id)s RETURNING payment_id",
            status=status,
            decline=self.decline(code),
            code=code,
            id=attempt,
        ).fetchone()
        assert row is not None
        self.tell(row[0], code or status, at, attempt)

    def tell(self, payment_id: str, reason: str, at: datetime, attempt: str | None = None, news: str = "News") -> None:
        """One step of the payment's history."""
        self.run(
            """INSERT INTO change (payment_id, seq, at, source, news, to_status, reason, operation_id)
            SELECT %(id)s, 1 + count(*), %(at)s, 'api', %(news)s, 'processing', %(reason)s, %(attempt)s
            FROM change WHERE payment_id = %(id)s""",
            id=payment_id,
            at=at,
            news=news,
            reason=reason,
            attempt=attempt,
        )

    @staticmethod
    def decline(code: str | None) -> Jsonb | None:
        return None if code is None else Jsonb({"code": code, "type": "soft", "action": "retry_later"})

    def insert(self, table: str, *rows: dict[str, Any]) -> None:
        named = ", ".join(f"%({name})s" for name in rows[0])
        with self.connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES ({named})".encode(), rows)

    def run(self, text: str, **params: Any) -> Cursor[Any]:
        return self.connection.execute(text.encode(), params)


@pytest.fixture
def rows(database: Database) -> Iterator[Rows]:
    with connect_to(database.admin_url, autocommit=True) as connection:
        yield Rows(connection)


@asynccontextmanager
async def books(database: Database) -> AsyncIterator[Pool]:
    pool = await connect(database.url)
    try:
        yield pool
    finally:
        pool.close()


def asked(metric: str, *group_by: str, days: float = 7, interval: str | None = None, **filters: Any) -> Asked:
    """A question about the development merchant's payments of the week."""
    return Asked("mer_dev", False, metric, START, START + timedelta(days=days), group_by, interval, filters)


def by_views(database: Database, question: Asked) -> Answer:
    """The answer by the views, in the form of :func:`told`."""
    hits, total = RATES[question.metric]
    own = {name: f"metadata->>'{name.removeprefix('metadata.')}'" for name in question.metadata_keys}
    groups = ["NULL" if question.interval is None else f"date_trunc('{question.interval}', at, 'UTC')"]
    groups += [own.get(name, f"{name}::text") for name in question.group_by]
    filters = [f"coalesce({own.get(name, name)}::text, '') = ANY(%(f{n})s)" for n, name in enumerate(question.filters)]
    metric = METRICS[question.metric]
    extra = "sum(extra_attempts)::int" if metric.costs else "NULL"
    found: Answer = {}
    for row in database.rows(
        f"""SELECT ARRAY[{", ".join(f"({each})::text" for each in groups[1:])}]::text[] AS keys, {groups[0]} AS at, currency, count(*) AS n,
        count(*) FILTER (WHERE {hits}) AS hits, sum(amount)::int8 AS amount_n, {extra} AS extra,
        coalesce(sum(amount) FILTER (WHERE {hits}), 0)::int8 AS amount_hits
        FROM rates.{VIEW_OF[metric.unit]} WHERE {" AND ".join([total, *filters])} AND merchant_id = %(merchant)s AND livemode = %(live)s
        AND at >= %(start)s AND at < %(end)s GROUP BY 1, 2, 3 ORDER BY 3""",
        merchant=question.merchant_id,
        live=question.livemode,
        start=question.start,
        end=question.end,
        **{f"f{n}": list(values) for n, values in enumerate(question.filters.values())},
    ):
        key = (row["at"], *row["keys"])
        n, all_hits, all_extra, amounts = found.get(key, (0, 0, 0 if metric.costs else None, {}))
        amounts[row["currency"]] = (row["amount_n"], row["amount_hits"])
        costs = None if all_extra is None else all_extra + row["extra"]
        found[key] = (n + row["n"], all_hits + row["hits"], costs, amounts)
    return found


def told(answer: Measured) -> Answer:
    """Each cell: n, hits, extra attempts, and the amounts by currency."""
    return {
        (cell.at, *cell.keys.values()): (
            cell.n,
            cell.hits,
            cell.extra_attempts,
            {each.currency: (each.n, each.hits) for each in cell.amounts},
        )
        for cell in answer.cells
    }


def kept(database: Database) -> dict[tuple[Any, ...], tuple[int, int]]:
    """Every count that is kept, by what it is of in words; those of nothing apart."""
    return {
        (
            cuboid.name,
            row["merchant_id"],
            row["livemode"],
            row["of_payment"],
            row["at"],
            str(row["dimensions"]),
            row["what"],
        ): (
            row["n"],
            row["amount"],
        )
        for cuboid in CUBOIDS
        for row in database.rows(
            f"""SELECT o.merchant_id, o.livemode, c.of_payment, c.at, k.dimensions, c.what, c.n, c.amount FROM rate_{cuboid.name} c
            JOIN rate_owner o ON o.id = c.owner JOIN rate_key k ON k.id = c.key AND k.owner = c.owner
            WHERE c.n <> 0 OR c.amount <> 0"""
        )
    }


def made_again(database: Database) -> None:
    """As by `gateway rates rebuild`."""
    database.rows("TRUNCATE rated, rate_key, rate_owner, rate_hour, rate_bin, rate_proof, rate_day")
    database.rows("UPDATE rate_mark SET backfill = ''")


async def counted(database: Database) -> int:
    async with books(database) as pool:
        return await fold(pool)


# --- What became of an attempt ----------------------------------------------------------------------------------------

EVERY_CODE: Final = (
    None,
    "insufficient_funds",
    "authentication_required",
    "cancelled",
    *sorted(BLOCKS | FAULTS | UNAUTHENTICATED),
)
AUTHORIZATIONS: Final = sorted(set(OperationStatus) - {OperationStatus.SUCCEEDED, OperationStatus.FAILED})


def test_an_attempt_has_the_same_class_in_sql_and_here_whatever_its_row_says(database: Database, rows: Rows) -> None:
    """Every status, code and challenge, with a reason and without, with an approval in its history and without."""
    expected = {}
    payments, attempts, changes = [], [], []
    cases = itertools.product(AUTHORIZATIONS, EVERY_CODE, (None, "timeout"), (False, True), (False, True))
    payment = payment_row("", START)
    for number, (status, code, reason, challenged, approved) in enumerate(cases):
        payment_id = f"pay_{number:08d}"
        payments.append(payment | {"id": payment_id})
        attempt = attempt_row(payment_id, 1, status, START) | {"challenged": challenged, "reason": reason}
        attempts.append(attempt | {"decline": Rows.decline(code)})
        step = {
            "payment_id": payment_id,
            "seq": 1,
            "at": START,
            "source": "api",
            "news": "News",
            "to_status": "processing",
        }
        changes.append(step | {"reason": "captured" if approved else "sent", "operation_id": attempt["id"]})
        expected[payment_id] = class_of(status, reason, code, challenged=challenged, approved_before=approved)
    rows.insert("payment", *payments)
    rows.insert("operation", *attempts)
    rows.insert("change", *changes)

    found = {row["payment_id"]: row["class"] for row in database.rows("SELECT payment_id, class FROM rates.attempt")}

    assert found == expected
    assert set(expected.values()) == set(CLASSES)


def test_an_amount_has_the_same_band_as_for_routing(database: Database, rows: Rows) -> None:
    amounts = sorted({amount + step for amount, _ in AMOUNT_BANDS for step in (-1, 0, 1)} - {0})
    for amount in amounts:
        rows.ask(rows.pay(START, amount=amount), 1, "captured", START, amount=amount)

    found = database.rows("SELECT amount, amount_band FROM rates.attempt ORDER BY amount")

    assert [(row["amount"], row["amount_band"]) for row in found] == [
        (amount, Facts("pay_1", "mer_1", False, amount, "EUR", START).amount_band) for amount in amounts
    ]


def test_whoever_reads_the_views_is_told_what_they_mean_and_needs_no_more_than_them(database: Database) -> None:
    told_ = database.rows(
        """SELECT c.relname AS name, obj_description(c.oid) AS said FROM pg_class c
        WHERE c.relnamespace = 'rates'::regnamespace AND c.relkind = 'v'"""
    )
    database.rows("CREATE ROLE analyst")
    try:
        database.rows("GRANT USAGE ON SCHEMA rates TO analyst; GRANT SELECT ON ALL TABLES IN SCHEMA rates TO analyst")
        for view in told_:
            database.rows(f"SET ROLE analyst; SELECT count(*) FROM rates.{view['name']}")
        with pytest.raises(errors.InsufficientPrivilege):
            database.rows("SET ROLE analyst; SELECT count(*) FROM payment")
    finally:
        database.rows("DROP OWNED BY analyst; DROP ROLE analyst")

    assert {view["name"] for view in told_} == {"attempt", "payment", "payment_group", *METRICS}
    assert all(view["said"] for view in told_)
    assert {view["name"]: view["said"] for view in told_ if view["name"] in METRICS}.keys() == METRICS.keys()


# --- In whatever order ------------------------------------------------------------------------------------------------

QUESTIONS: Final[tuple[tuple[tuple[str, ...], str | None, dict[str, tuple[str, ...]]], ...]] = (
    ((), None, {}),
    (("account",), "hour", {}),
    (("brand", "decline_code"), "day", {}),
    (("bin",), None, {"account": ("one",)}),
    (("bin", "class"), "week", {}),
    (("metadata.shop",), None, {"currency": ("EUR", "GBP")}),
    (("ordinal", "initiator"), "month", {"brand": ("visa", "")}),
    (("avs", "three_d_secure"), None, {}),
    (("bin", "initiator", "avs", "metadata.shop"), "day", {"bin": ("42424242", ""), "metadata.shop": ("north", "")}),
)
CODES: Final = ("insufficient_funds", "suspected_fraud", "authentication_failed", "provider_error", "cancelled")
STEPS: Final = {
    "sent": ("authorized", "captured", "declined", "unknown", "requires_action", "pending", "not_processed"),
    "unknown": ("captured", "declined", "voided", "pending"),
    "requires_action": ("captured", "declined", "expired", "voided", "unknown"),
    "pending": ("captured", "declined", "voided"),
    "authorized": ("captured", "voided", "expired"),
}


class Life:
    """Payments to which anything happens that may, drawn by a seed."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self.rows, self.dice = rows, random.Random(seed)
        self.attempts: dict[str, str] = {}
        self.tried: dict[str, int] = {}

    def at(self) -> datetime:
        return START + timedelta(minutes=self.dice.randrange(3 * 24 * 6) * 10)

    def step(self) -> None:
        draw = self.dice.random()
        going = [attempt for attempt, status in self.attempts.items() if status in STEPS]
        if going and draw < 0.5:
            attempt = self.dice.choice(going)
            status = self.dice.choice(STEPS[self.attempts[attempt]])
            code = None
            if status in {"declined", "expired"} and self.attempts[attempt] != "authorized":
                code = "authentication_expired" if status == "expired" else self.dice.choice(CODES)
            elif status in {"unknown", "not_processed"} or (status, self.attempts[attempt]) == ("voided", "unknown"):
                code = "timeout"
            self.rows.settle(attempt, status, START, code)
            self.attempts[attempt] = status
        elif draw < 0.7 and (ended := [each for each in self.tried if self.last(each) not in {*STEPS, "captured"}]):
            payment = self.dice.choice(ended)
            self.tried[payment] += 1
            seq = self.tried[payment]
            self.attempts[self.rows.ask(payment, seq, "sent", self.at(), round=self.dice.choice((1, 1, 2)))] = "sent"
        elif self.tried and draw < 0.73:
            payment = self.dice.choice(list(self.tried))
            self.rows.run("UPDATE payment SET card = %(card)s WHERE id = %(id)s", card=Jsonb(self.card()), id=payment)
            self.rows.tell(payment, "facts_learned", START)
        elif self.tried and draw < 0.75:
            self.rows.tell(self.dice.choice(list(self.tried)), "card_never_30d", self.at(), news="Limited")
        else:
            self.pay()

    def last(self, payment: str) -> str:
        return self.attempts[f"att_{payment}_{self.tried[payment]}"]

    def pay(self) -> None:
        at, dice = self.at(), self.dice
        payment = self.rows.pay(
            at,
            livemode=dice.random() < 0.1,
            merchant_id="mer_dev" if dice.random() < 0.9 else "mer_other",
            currency=dice.choice(("EUR", "EUR", "GBP")),
            off_session=dice.random() < 0.3,
            reference=dice.choice((None, "order-1", "order-2")),
            card=dice.choice((None, Jsonb(self.card()))),
            metadata=Jsonb(dice.choice(({}, {"shop": "north"}, {"shop": "south"}))),
            checks=dice.choice((None, Jsonb({"avs": "pass", "cvc": "pass"}))),
        )
        self.tried[payment] = 1
        self.attempts[self.rows.ask(payment, 1, "sent", at, challenged=dice.random() < 0.2)] = "sent"

    def card(self) -> dict[str, Any]:
        brand, bin_ = self.dice.choice((("visa", "42424242"), ("mastercard", "55555555")))
        return {"brand": brand, "bin": bin_, "last4": "4242", "exp_month": 12, "exp_year": 2030, "funding": "credit"}


@pytest.mark.parametrize("seed", range(3))
async def test_in_whatever_order_things_happen_and_are_counted_the_kept_counts_say_what_the_views_say(
    database: Database, rows: Rows, seed: int
) -> None:
    life = Life(rows, seed)

    async with books(database) as pool:
        for _ in range(25):
            for _ in range(life.dice.randrange(1, 14)):
                life.step()
            if life.dice.random() < 0.8:
                await asyncio.gather(*(fold(pool) for _ in range(life.dice.choice((1, 1, 3)))))
        await fold(pool)
        again = await fold(pool)
        by_step = kept(database)
        answers = {
            (metric, group_by): (told(await measure(pool, question)), by_views(database, question))
            for metric in METRICS
            for group_by, interval, filters in QUESTIONS
            for question in (asked(metric, *group_by, days=2.3, interval=interval, **filters),)
        }
        made_again(database)
        await fold(pool)

    assert again == 0
    assert {name: told_ for name, (told_, _) in answers.items()} == {name: seen for name, (_, seen) in answers.items()}
    assert by_step == kept(database)
    assert len(by_step) > 100


async def test_a_rebuild_makes_the_same_counts_again_and_may_widen_the_window(
    database: Database, rows: Rows, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times the same purchase, 20 and then 40 minutes apart."""
    card = Jsonb({"brand": "visa", "bin": "42424242", "last4": "4242", "exp_month": 12, "exp_year": 2030})
    for minutes, status in ((0, "declined"), (20, "declined"), (60, "captured")):
        at = START + timedelta(minutes=minutes)
        rows.ask(rows.pay(at, reference="order-1", card=card), 1, status, at)
    monkeypatch.setenv("GATEWAY_MIGRATE_DATABASE_URL", database.owner_url)
    groups = asked("deduplicated_rate", interval="hour")

    async with books(database) as pool:
        await fold(pool)
        before, counts = told(await measure(pool, groups)), kept(database)
        said = await asyncio.to_thread(commands, database, "rates", "rebuild")
        again, same = told(await measure(pool, groups)), kept(database)
        await asyncio.to_thread(commands, database, "rates", "rebuild", "--window-minutes", "45")
        wider = told(await measure(pool, groups))

    assert said == "3 payments counted; the rates are complete"
    assert {key: cell[:2] for key, cell in before.items()} == {(START,): (1, 0), (START + timedelta(hours=1),): (1, 1)}
    assert (again, same) == (before, counts)
    assert {key: cell[:2] for key, cell in wider.items()} == {(START + timedelta(hours=1),): (1, 1)}
    assert wider == by_views(database, groups)


async def test_where_a_dump_was_loaded_into_another_cluster_a_rebuild_counts_on(
    database: Database, rows: Rows, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place up to which all is counted is a number of a cluster that is far ahead."""
    monkeypatch.setenv("GATEWAY_MIGRATE_DATABASE_URL", database.owner_url)
    question = asked("payment_authorization_rate")

    async with books(database) as pool:
        await fold(pool)
        rows.run("UPDATE rate_mark SET position = '999999999999'")
        rows.ask(rows.pay(START), 1, "captured", START)
        lost = await fold(pool), await measure(pool, question)
        await asyncio.to_thread(commands, database, "rates", "rebuild")
        found = await measure(pool, question)
        rows.ask(rows.pay(START), 1, "captured", START)
        later = await fold(pool), await measure(pool, question)

    assert (lost[0], lost[1].cells) == (0, ())
    assert [cell.n for cell in found.cells] == [1]
    assert (later[0], [cell.n for cell in later[1].cells]) == (1, [2])


async def test_what_commits_late_is_counted_and_what_comes_after_it_waits(database: Database, rows: Rows) -> None:
    payment = rows.pay(START)
    async with books(database) as pool:
        await fold(pool)
        with connect_to(database.admin_url) as late:
            Rows(late).ask(payment, 1, "captured", START)  # its transaction is open
            rows.ask(rows.pay(START), 1, "captured", START)
            waiting = await fold(pool)
            late.commit()
        counted = await fold(pool)
        answer = await measure(pool, asked("payment_authorization_rate"))

    assert (waiting, counted) == (0, 2)
    assert [(cell.hits, cell.n) for cell in answer.cells] == [(2, 2)]
