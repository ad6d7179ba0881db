"""Migrations: brings the database to the schema of this code, as the owner role, once at a time."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from importlib.resources import files
from typing import Final

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError, ProgrammingError

from gateway.api.auth import DEV_MERCHANT
from gateway.settings import Settings
from providers.registry import ConfigError
from webhooks.catalog import EVENTS

GRANTS: Final = """
GRANT USAGE ON SCHEMA public, procrastinate, rates TO {role};
GRANT SELECT ON alembic_version TO {role};
GRANT SELECT, INSERT, UPDATE ON merchant, api_key, customer, payment_method, payment, operation, dispute,
    idempotency_key, webhook_inbox, webhook_refusal, webhook_endpoint, delivery, incident, routing_arm,
    routing_shadow, routing_shadow_gap, console_user, monitor, monitor_state, monitor_incident,
    rate_mark, rate_owner, rate_key, rated, rate_hour, rate_bin, rate_proof, rate_day TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA rates TO {role};
GRANT SELECT, INSERT ON change, notice, routing_version, routing_publication, console_event, monitor_change TO {role};
GRANT SELECT, INSERT, DELETE ON event, delivery_attempt, routing_snapshot, declined_card TO {role};
GRANT UPDATE ON routing_snapshot TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON routing_simulation, console_session, console_link TO {role};
GRANT DELETE ON delivery, webhook_refusal TO {role};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA procrastinate TO {role};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA procrastinate TO {role};
"""
"""What the application's role may do: everything but rewrite the history, delete what is no event, or change the schema."""
ADOPT: Final = "UPDATE operation SET due_at = now() WHERE status = 'pending' AND due_at IS NULL"
"""Every time, too: a process of a version before 0004 accepts what nobody would ask about, until the last of them has gone."""
FAMILIES: Final = """UPDATE webhook_endpoint SET events = meant.types FROM (
    SELECT w.id, array_agg(t.type ORDER BY t.type) AS types FROM webhook_endpoint w JOIN unnest(CAST(:types AS text[])) AS t(type)
    ON t.type = ANY(w.wanted) OR split_part(t.type, '.', 1) || '.*' = ANY(w.wanted) GROUP BY w.id) AS meant
    WHERE meant.id = webhook_endpoint.id AND webhook_endpoint.events IS DISTINCT FROM meant.types
    AND webhook_endpoint.events IS NOT NULL"""
"""Every time, too: who wants a family of events gets those of its types that this version has added."""
TURN_S: Final = 0.2
LOCK: Final = 0x17E6_10C4
"""The advisory lock under which migrations run: two that start together run one after the other."""


def migrate(settings: Settings) -> str:
    """Upgrade to the newest schema and return its revision. May be called any number of times.

    Raises :class:`ConfigError` where the owner's URL is missing or the database cannot be reached.
    """
    if settings.migrate_database_url is None:
        raise ConfigError("GATEWAY_MIGRATE_DATABASE_URL is not set: migrations run as the role that owns the tables")
    owner = make_url(settings.migrate_database_url.get_secret_value()).set(drivername="postgresql+psycopg")
    application_role = make_url(settings.database_url.get_secret_value()).username
    engine = create_engine(owner)
    try:
        with engine.connect() as connection:
            _wait_for_turn(connection)
            try:
                return _upgrade(connection, application_role if application_role != owner.username else None, settings)
            finally:
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
                connection.commit()
    except OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise ConfigError(
                "a table is in use and could not be changed in time; run: gateway migrate again"
            ) from None
        raise ConfigError(
            f"GATEWAY_MIGRATE_DATABASE_URL: the database cannot be reached ({type(error.orig).__name__})"
        ) from None
    finally:
        engine.dispose()


EMPTY_RATES: Final = "TRUNCATE rated, rate_key, rate_owner, rate_hour, rate_bin, rate_proof, rate_day"
FROM_THE_BEGINNING: Final = """UPDATE rate_mark SET backfill = '', position = pg_snapshot_xmin(pg_current_snapshot()), payment_id = '',
    as_of = NULL, window_s = coalesce(:window_s, window_s)"""
"""What is committed by now is counted by its payment, what is not yet by its transaction: also where a dump was loaded into another cluster,
whose transactions have other numbers."""


def forget_rates(settings: Settings, window_s: int | None = None) -> None:
    """Empty what is counted for the rates, and begin anew, with another window where one is given. Nothing else is touched.

    The worker counts all payments again, the oldest first, beside what is new. May be called any number of times. Raises
    :class:`ConfigError` as :func:`migrate` does.
    """
    if settings.migrate_database_url is None:
        raise ConfigError("GATEWAY_MIGRATE_DATABASE_URL is not set: only the role that owns the tables may empty them")
    owner = make_url(settings.migrate_database_url.get_secret_value()).set(drivername="postgresql+psycopg")
    engine = create_engine(owner)
    try:
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            connection.execute(text(FROM_THE_BEGINNING), {"window_s": window_s})
            connection.execute(text(EMPTY_RATES))
    except OperationalError as error:
        raise ConfigError(f"the rates could not be emptied ({type(error.orig).__name__}); run it again") from None
    finally:
        engine.dispose()


def _wait_for_turn(connection: Connection) -> None:
    """Take the lock, asking for it again and again: to wait in Postgres holds a snapshot, which an index built concurrently waits for."""
    while not connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}).scalar_one():
        connection.commit()
        time.sleep(TURN_S)
    connection.commit()


def _upgrade(connection: Connection, role: str | None, settings: Settings) -> str:
    config = Config()
    config.set_main_option("script_location", str(files("gateway") / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    if role is not None:  # every time: the role may be another than last time
        _grant(connection, role)
    connection.execute(text(ADOPT))
    connection.execute(text(FAMILIES), {"types": sorted(EVENTS)})
    connection.commit()
    if settings.dev:
        connection.execute(
            text("INSERT INTO merchant (id, name, created_at) VALUES (:id, :name, :now) ON CONFLICT DO NOTHING"),
            {"id": DEV_MERCHANT, "name": "Development merchant", "now": datetime.now(UTC)},
        )
        connection.commit()
    revision: str = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    return revision


def _grant(connection: Connection, role: str) -> None:
    try:
        connection.execute(text(GRANTS.format(role=_quoted(connection, role))))
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.UndefinedObject):
            raise
        raise ConfigError(f"GATEWAY_DATABASE_URL: there is no role {role} in the database; create it first") from None


def _quoted(connection: Connection, role: str) -> str:
    return connection.dialect.identifier_preparer.quote(role)
