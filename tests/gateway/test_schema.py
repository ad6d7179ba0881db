"""The database behind the code: what the migrations make is what the tables say, and it refuses what must never be."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final, Protocol

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import errors
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine, make_url
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlmodel import SQLModel

import gateway.monitor_tables
import gateway.rate_tables
import gateway.tables
import idempotency.tables
import webhooks.tables
from gateway.embedded import APP_ROLE, OWNER_ROLE, SUPERUSER, Postgres
from gateway.health import HEAD
from gateway.migrate import LOCK, migrate
from gateway.payment import OPEN
from gateway.settings import Settings
from gateway.tables import OPEN_SQL
from providers.registry import ConfigError
from tests.fixtures.rows import attempt_row, payment_row

ROOMS: Final = (gateway.tables, gateway.monitor_tables, gateway.rate_tables, webhooks.tables, idempotency.tables)
NOW: Final = datetime(2026, 11, 21, tzinfo=UTC)
APPEND_ONLY: Final = "is append-only"

ischema_names["xid8"] = gateway.tables.Xid8  # SQLAlchemy has no name for it, and reflects it as nothing

Connection = psycopg.Connection[tuple[Any, ...]]


class Copies(Protocol):
    """What the ``databases`` fixture gives: copies of one migrated database."""

    server: Postgres
    template: str


def settings(url: str, owner_url: str) -> Settings:
    told = {
        "database_url": url,
        "migrate_database_url": owner_url,
        "redis_url": "redis://unused",
        "secret_key": b"k" * 32,
    }
    return Settings.model_validate(told)


@pytest.fixture(scope="module")
def schema(databases: Copies) -> Iterator[str]:
    """The name of a migrated database that this module may write into."""
    databases.server.create_database("schema_tests", template=databases.template)
    yield "schema_tests"
    databases.server.drop_database("schema_tests")


def connected(server: Postgres, database: str, role: str) -> Connection:
    return psycopg.connect(server.url(database, role=role), autocommit=True)


@pytest.fixture
def application(postgres: Postgres, schema: str) -> Iterator[Connection]:
    """The application's role; what a test wrote is rolled back."""
    with psycopg.connect(postgres.url(schema, role=APP_ROLE)) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def owner(postgres: Postgres, schema: str) -> Iterator[Connection]:
    """The role that owns the tables; what a test wrote is rolled back."""
    with psycopg.connect(postgres.url(schema, role=OWNER_ROLE)) as connection:
        yield connection
        connection.rollback()


def insert(connection: Connection, table: str, values: dict[str, Any]) -> None:
    names, places = ", ".join(values), ", ".join(f"%({name})s" for name in values)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})".encode(), values)


def pay(connection: Connection, payment_id: str = "pay_1", **changes: Any) -> None:
    plain = payment_row(payment_id, NOW) | {"merchant_id": "mer_1", "route": ["a"], "amount": 100}
    insert(connection, "payment", plain | changes)


def ask(connection: Connection, seq: int, status: str, *, kind: str = "authorize", **changes: Any) -> None:
    plain = attempt_row("pay_1", seq, status, NOW) | {"id": f"op_{seq}", "kind": kind, "account": "a", "amount": 100}
    insert(connection, "operation", plain | {"provider_key": f"key_{seq}"} | changes)


def tell(connection: Connection, seq: int = 1) -> None:
    plain = {
        "payment_id": "pay_1",
        "seq": seq,
        "at": NOW,
        "source": "api",
        "news": "Created",
        "to_status": "processing",
    }
    insert(connection, "change", plain | {"reason": "created"})


def version(connection: Connection, number: int = 1) -> None:
    plain: dict[str, Any] = {
        "id": f"rt_{number}",
        "merchant_id": "mer_1",
        "livemode": False,
        "number": number,
        "name": "first",
        "document": Jsonb({}),
        "hash": "h",
        "created_at": NOW,
        "created_by": "key_1",
    }
    insert(connection, "routing_version", plain)


def publication(connection: Connection, sequence: int = 1, **changes: Any) -> None:
    plain: dict[str, Any] = {
        "id": f"rp_{sequence}",
        "merchant_id": "mer_1",
        "livemode": False,
        "sequence": sequence,
        "kind": "publish",
        "version_id": "rt_1",
        "percent": 100,
        "starts_at": NOW,
        "reason": "a reason",
        "published_at": NOW,
        "published_by": "key_1",
    }
    insert(connection, "routing_publication", plain | changes)


# --- The migrations and the tables ------------------------------------------------------------------------------------


def test_the_migrations_make_what_the_tables_say(postgres: Postgres, schema: str) -> None:
    engine = create_engine(make_url(postgres.url(schema, role=OWNER_ROLE)).set(drivername="postgresql+psycopg"))

    def ours(name: str | None, kind: str, parents: object) -> bool:
        return (kind, name) != ("table", "alembic_version")

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "include_name": ours}
        )
        differences = compare_metadata(context, SQLModel.metadata)
    engine.dispose()

    assert differences == []


CONSTRAINTS: Final = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version' ORDER BY 1, 2"""
INDEXES: Final = """
SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1"""
COLUMNS: Final = """
SELECT table_name, column_name, data_type, udt_name, is_nullable, column_default, collation_name, is_identity,
identity_generation FROM information_schema.columns
WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY 1, 2"""


@pytest.mark.parametrize("catalogue", [CONSTRAINTS, INDEXES, COLUMNS], ids=["constraints", "indexes", "columns"])
def test_every_check_index_and_column_is_word_for_word_that_of_the_tables(
    postgres: Postgres, schema: str, catalogue: str
) -> None:
    postgres.create_database("from_the_tables")
    engine = create_engine(
        make_url(postgres.url("from_the_tables", role=OWNER_ROLE)).set(drivername="postgresql+psycopg")
    )
    SQLModel.metadata.create_all(engine)
    engine.dispose()

    with (
        connected(postgres, "from_the_tables", OWNER_ROLE) as made,
        connected(postgres, schema, OWNER_ROLE) as migrated,
    ):
        expected, found = (each.execute(catalogue.encode()).fetchall() for each in (made, migrated))
    postgres.drop_database("from_the_tables")

    assert found == expected


def test_the_index_that_holds_one_open_attempt_means_the_statuses_that_are_open() -> None:
    assert set(re.findall(r"'(\w+)'", OPEN_SQL)) == OPEN


# --- Migrating --------------------------------------------------------------------------------------------------------


def test_the_migrations_run_in_the_order_of_their_numbers() -> None:
    """Whether a process is ready is told by the highest number there is: the last to run has to bear it."""
    revisions = [each.revision for each in ScriptDirectory(str(files("gateway") / "migrations")).walk_revisions()]

    assert revisions == sorted(revisions, reverse=True)
    assert revisions[0] == HEAD


def test_migrating_again_changes_nothing(postgres: Postgres, schema: str) -> None:
    with connected(postgres, schema, OWNER_ROLE) as owner:
        before = owner.execute(COLUMNS.encode()).fetchall()

        revisions = [migrate(settings(postgres.url(schema), postgres.url(schema, role=OWNER_ROLE))) for _ in range(2)]

        assert owner.execute(COLUMNS.encode()).fetchall() == before
    assert len(set(revisions)) == 1


def test_a_role_that_comes_later_is_let_in_by_migrating_again(postgres: Postgres, schema: str) -> None:
    with connected(postgres, schema, SUPERUSER) as admin:
        admin.execute(b"CREATE ROLE late_comer")
        try:
            url = postgres.url(schema).replace("//interlock_app:", "//late_comer:")
            migrate(settings(url, postgres.url(schema, role=OWNER_ROLE)))
            may = admin.execute(
                b"SELECT has_table_privilege('late_comer', 'payment', 'INSERT'), has_table_privilege('late_comer', 'change', 'UPDATE')"
            ).fetchone()
        finally:
            admin.execute(b"DROP OWNED BY late_comer")
            admin.execute(b"DROP ROLE late_comer")

    assert may == (True, False)


def test_a_role_that_does_not_exist_is_named_with_the_way_out(postgres: Postgres, schema: str) -> None:
    url = postgres.url(schema).replace("//interlock_app:", "//nobody_of_that_name:")

    with pytest.raises(ConfigError, match="GATEWAY_DATABASE_URL: there is no role nobody_of_that_name"):
        migrate(settings(url, postgres.url(schema, role=OWNER_ROLE)))


def test_two_migrations_at_once_run_one_after_the_other(postgres: Postgres) -> None:
    url = postgres.create_database("migrated_twice")
    owner_url, results = postgres.url("migrated_twice", role=OWNER_ROLE), list[str | Exception]()
    barrier = threading.Barrier(2)

    def run() -> None:
        barrier.wait()
        try:
            results.append(migrate(settings(url, owner_url)))
        except Exception as error:  # in a thread it would be lost
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with connected(postgres, "migrated_twice", OWNER_ROLE) as owner:
        held = owner.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s", [LOCK]
        ).fetchone()
    postgres.drop_database("migrated_twice")
    assert results == [results[0]] * 2
    assert isinstance(results[0], str)
    assert held == (0,)


@pytest.fixture
def first_version(postgres: Postgres) -> Iterator[str]:
    """The name of a database as the first migration leaves it."""
    name = "of_the_first_version"
    postgres.create_database(name)
    upgrade_to(postgres, name, "0001")
    yield name
    postgres.drop_database(name)


def upgrade_to(postgres: Postgres, name: str, revision: str) -> None:
    """Run the migrations up to ``revision``, as the owner."""
    config = Config()
    config.set_main_option("script_location", str(files("gateway") / "migrations"))
    config.set_main_option("path_separator", "os")
    engine = create_engine(make_url(postgres.url(name, role=OWNER_ROLE)).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    engine.dispose()


KEPT: Final = ("payment", "operation", "change")
METHOD_OF_0001: Final = {
    "id": "pm_1",
    "merchant_id": "mer_1",
    "livemode": False,
    "type": "card",
    "tokens": Jsonb({"a": "tok_1"}),
    "card": Jsonb({"last4": "4242"}),
    "sealed_card": b"sealed",
    "reusable": True,
    "created_at": NOW,
}


def columns_of(connection: Connection, table: str) -> str:
    query = b"SELECT string_agg(column_name, ', ') FROM information_schema.columns WHERE table_name = %s"
    (names,) = connection.execute(query, (table,)).fetchone() or ("",)
    return str(names)


def test_a_database_with_payments_of_the_first_version_is_upgraded_and_loses_nothing(
    postgres: Postgres, first_version: str
) -> None:
    with connected(postgres, first_version, OWNER_ROLE) as owner:
        pay(owner)
        ask(owner, 1, "sent")
        tell(owner)
        insert(owner, "payment_method", METHOD_OF_0001)
        queries = {table: f"SELECT {columns_of(owner, table)} FROM {table}".encode() for table in KEPT}
        before = {table: owner.execute(query).fetchall() for table, query in queries.items()}

        for _ in range(2):
            migrate(settings(postgres.url(first_version), postgres.url(first_version, role=OWNER_ROLE)))

        names = ", ".join(METHOD_OF_0001)
        kept = owner.execute(f"SELECT {names} FROM payment_method".encode()).fetchone()
        after = {table: owner.execute(query).fetchall() for table, query in queries.items()}
        added = owner.execute(b"SELECT customer, fingerprint, metadata, deleted_at FROM payment_method").fetchone()

    assert after == before
    assert kept == tuple(getattr(value, "obj", value) for value in METHOD_OF_0001.values())
    assert added == (None, None, None, None)


def test_a_process_of_the_first_version_goes_on_writing_while_the_new_one_is_rolled_out(
    postgres: Postgres, first_version: str
) -> None:
    migrate(settings(postgres.url(first_version), postgres.url(first_version, role=OWNER_ROLE)))

    with connected(postgres, first_version, APP_ROLE) as old:
        pay(old)
        insert(old, "payment_method", METHOD_OF_0001)


def test_migrations_follow_each_other_in_the_order_of_their_numbers() -> None:
    """Whoever asks whether a database is new enough compares numbers."""
    chain = ScriptDirectory(str(files("gateway") / "migrations")).walk_revisions()
    numbers = [script.revision for script in chain]

    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == HEAD


def test_a_migration_that_was_cut_off_halfway_is_finished_by_running_it_again(
    postgres: Postgres, first_version: str
) -> None:
    """Its statements commit one by one, and the revision comes last."""
    script = ScriptDirectory(str(files("gateway") / "migrations")).get_revision("0002").module
    with connected(postgres, first_version, OWNER_ROLE) as owner:
        for statement in script.STATEMENTS[: len(script.STATEMENTS) // 2]:
            owner.execute(statement.encode())

        revision = migrate(settings(postgres.url(first_version), postgres.url(first_version, role=OWNER_ROLE)))

        valid = owner.execute(b"SELECT convalidated FROM pg_constraint WHERE conname = 'payment_amount'").fetchone()
    assert revision >= "0002"
    assert valid == (True,)


# --- What must never be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", sorted(OPEN))
@pytest.mark.parametrize("second", ["created", "sent"])
def test_a_payment_has_one_open_attempt(application: Connection, first: str, second: str) -> None:
    pay(application)
    ask(application, 1, first)

    with pytest.raises(errors.UniqueViolation, match="operation_one_open_authorize"):
        ask(application, 2, second)


@pytest.mark.parametrize("first", ["authorized", "captured"])
@pytest.mark.parametrize("second", ["authorized", "captured"])
def test_a_payment_is_charged_once(application: Connection, first: str, second: str) -> None:
    pay(application)
    ask(application, 1, first)

    with pytest.raises(errors.UniqueViolation, match="operation_one_live_success"):
        ask(application, 2, second)


@pytest.mark.parametrize("ended", ["declined", "not_processed", "voided", "expired"])
def test_an_attempt_that_ended_makes_room_for_the_next(application: Connection, ended: str) -> None:
    pay(application)
    ask(application, 1, ended)
    ask(application, 2, ended)

    ask(application, 3, "sent")


def test_captures_and_refunds_may_be_open_beside_each_other(application: Connection) -> None:
    pay(application, amount_authorized=100)
    ask(application, 1, "authorized")

    for seq, kind in enumerate(("capture", "capture", "refund", "refund"), start=2):
        ask(application, seq, "sent", kind=kind)


@pytest.mark.parametrize(
    ("seq", "key", "constraint"), [(1, "key_2", "operation_seq"), (2, "key_1", "operation_provider_key")]
)
def test_an_operation_has_its_own_number_and_its_own_provider_key(
    application: Connection, seq: int, key: str, constraint: str
) -> None:
    pay(application)
    ask(application, 1, "declined")

    with pytest.raises(errors.UniqueViolation, match=constraint):
        ask(application, seq, "declined", id="op_2", provider_key=key)


@pytest.mark.parametrize(
    ("amounts", "constraint"),
    [
        ({"amount": -1}, "payment_amount"),
        ({"amount": 10**12}, "payment_amount"),
        ({"amount_authorized": 101}, "payment_authorized"),
        ({"amount_authorized": -1}, "payment_authorized"),
        ({"amount_authorized": 100, "amount_captured": 101}, "payment_captured"),
        ({"amount_authorized": 100, "amount_capturing": 60, "amount_captured": 41}, "payment_captured"),
        ({"amount_authorized": 100, "amount_capturing": -1}, "payment_captured_positive"),
        ({"amount_authorized": 100, "amount_captured": 50, "amount_refunded": 51}, "payment_refunded"),
        (
            {"amount_authorized": 100, "amount_captured": 50, "amount_refunding": 26, "amount_refunded": 25},
            "payment_refunded",
        ),
        ({"amount_authorized": 100, "amount_captured": 50, "amount_refunding": -1}, "payment_refunded_positive"),
    ],
)
def test_the_database_itself_refuses_amounts_that_do_not_add_up(
    application: Connection, amounts: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(errors.CheckViolation, match=f'"{constraint}"'):
        pay(application, **amounts)


def test_a_payment_of_nothing_is_written_because_a_verification_is_one(application: Connection) -> None:
    pay(application, amount=0)


def test_two_captures_that_race_cannot_reserve_more_than_was_authorized(application: Connection) -> None:
    pay(application, amount_authorized=100)
    reserve = b"UPDATE payment SET amount_capturing = amount_capturing + 60 WHERE id = 'pay_1'"
    application.execute(reserve)

    with pytest.raises(errors.CheckViolation, match="payment_captured"):
        application.execute(reserve)


def test_an_operation_asks_one_of_four_things(application: Connection) -> None:
    pay(application)

    with pytest.raises(errors.CheckViolation, match="operation_kind"):
        ask(application, 1, "sent", kind="borrow")


@pytest.mark.parametrize("key", ["", "k" * 256, "é" * 128])
def test_a_key_that_is_too_long_or_empty_is_no_key_for_the_database_either(application: Connection, key: str) -> None:
    use = {"merchant_id": "m", "livemode": False, "key": key, "fingerprint": b"f", "payment_id": "p", "created_at": NOW}

    with pytest.raises(errors.CheckViolation, match="idempotency_key_length"):
        insert(application, "idempotency_key", use)


def test_a_key_opens_one_thing_once_a_merchant_and_mode(application: Connection) -> None:
    use = {"merchant_id": "m", "livemode": False, "key": "k", "fingerprint": b"f", "payment_id": "p", "created_at": NOW}
    insert(application, "idempotency_key", use)
    insert(application, "idempotency_key", use | {"livemode": True})
    insert(application, "idempotency_key", use | {"merchant_id": "other"})

    with pytest.raises(errors.UniqueViolation):
        insert(application, "idempotency_key", use | {"payment_id": "p2"})


def test_an_event_of_a_provider_is_stored_once(application: Connection) -> None:
    event = {
        "account": "a",
        "event_id": "e",
        "type": "t",
        "sealed_body": b"s",
        "position": 0,
        "received_at": NOW,
        "tries": 0,
    }
    insert(application, "webhook_inbox", event)

    with pytest.raises(errors.UniqueViolation, match="webhook_inbox_once"):
        insert(application, "webhook_inbox", event)


# --- History ----------------------------------------------------------------------------------------------------------

HISTORIES: Final = {"change": "reason", "routing_publication": "reason", "routing_version": "name"}
"""What nobody rewrites, and a column that somebody might like to."""
REWRITES: Final = tuple(
    rewrite.encode()
    for table, column in HISTORIES.items()
    for rewrite in (f"UPDATE {table} SET {column} = 'other'", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE")
)


@pytest.mark.parametrize("rewrite", REWRITES)
def test_the_application_may_not_rewrite_history(application: Connection, rewrite: bytes) -> None:
    pay(application)
    tell(application)
    version(application)
    publication(application)

    with pytest.raises(errors.InsufficientPrivilege):
        application.execute(rewrite)


@pytest.mark.parametrize("rewrite", REWRITES)
def test_not_even_the_owner_rewrites_history(owner: Connection, rewrite: bytes) -> None:
    pay(owner)
    tell(owner)
    version(owner)
    publication(owner)

    with pytest.raises(errors.RaiseException, match=APPEND_ONLY):
        owner.execute(rewrite)


def test_a_step_of_the_history_is_written_once(application: Connection) -> None:
    pay(application)
    tell(application)

    with pytest.raises(errors.UniqueViolation):
        tell(application)


@pytest.mark.parametrize(
    ("changes", "refused_by"),
    [
        ({"kind": "force"}, "routing_publication_kind"),
        ({"percent": 0}, "routing_publication_percent"),
        ({"percent": 101}, "routing_publication_percent"),
        ({"reason": ""}, "routing_publication_reason"),
        ({"version_id": None}, "routing_publication_version"),
        ({"approved_by": "key_2"}, "routing_publication_target"),
        ({"kind": "withdraw"}, "routing_publication_target"),
        ({"target": "rp_1", "approved_by": "key_1"}, "routing_publication_two_persons"),
    ],
)
def test_a_publication_that_says_too_little_is_refused_by_the_database_itself(
    application: Connection, changes: dict[str, Any], refused_by: str
) -> None:
    version(application)
    publication(application)

    with pytest.raises(errors.CheckViolation, match=refused_by):
        publication(application, 2, **changes)


@pytest.mark.parametrize("other", [{"merchant_id": "mer_2"}, {"livemode": True}])
def test_what_is_anothers_or_of_the_other_mode_is_not_published(application: Connection, other: dict[str, Any]) -> None:
    version(application)

    with pytest.raises(errors.ForeignKeyViolation):
        publication(application, 1, **other)


def test_two_publications_never_have_the_same_place_in_the_history(application: Connection) -> None:
    version(application)
    publication(application)

    with pytest.raises(errors.UniqueViolation, match="routing_publication_sequence"):
        publication(application, 1, id="rp_other")


KEPT_FOR_A_TIME: Final = frozenset(
    {
        "event",
        "delivery",
        "delivery_attempt",
        "webhook_refusal",
        "routing_snapshot",
        "declined_card",
        "routing_simulation",
        "console_session",
        "console_link",
    }
)
"""What merchants were told, and how much was refused, is kept for 30 days. What it told of is kept for good.

Of what a strategy has learned the last few snapshots are kept: it is folded from the operations, and can be again. No limit of a card
looks further back than 30 days. What came of a simulation can be asked for again. A session
and a link of the console end with what they let in for."""


def test_what_merchants_were_told_is_never_changed(application: Connection) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        application.execute("UPDATE event SET body = ''")


@pytest.mark.parametrize("table", sorted(SQLModel.metadata.tables))
def test_the_application_deletes_no_history_and_owns_nothing(application: Connection, table: str) -> None:
    statements = [f"TRUNCATE {table}", f"DROP TABLE {table}", f"ALTER TABLE {table} ADD x int"]
    if table not in KEPT_FOR_A_TIME:
        statements.append(f"DELETE FROM {table}")
    for statement in statements:
        with pytest.raises(errors.InsufficientPrivilege):
            application.execute(statement.encode())
        application.rollback()


def test_ids_sort_by_their_bytes_whatever_the_locale(postgres: Postgres, schema: str) -> None:
    with connected(postgres, schema, SUPERUSER) as connection:
        found = connection.execute(
            "SELECT collation_name FROM information_schema.columns WHERE table_schema = 'public' AND column_name = 'id'"
            " AND table_name IN ('payment', 'operation', 'payment_method', 'customer', 'merchant', 'api_key')"
        ).fetchall()

    assert found == [("C",)] * 6
