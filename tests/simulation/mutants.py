"""Deliberate bugs. A simulation that does not find them proves nothing.

Each replaces a piece of the product for one run; where a constraint of the database stands behind that piece, it is dropped for the
run, and the run with the constraint shows that it holds.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import gateway.answers
import gateway.api.asking
import gateway.books
import gateway.charge
import gateway.keys
import gateway.settle
import providers.registry
from gateway import lifecycle
from gateway.answers import Answer
from gateway.books import Written
from gateway.deps import Deps
from gateway.ids import PAYMENT, new_id
from gateway.lifecycle import Change
from gateway.payment import Operation, OperationStatus, Payment, Status
from gateway.queries import UsedKey
from gateway.sql import InDoubt, Statement
from idempotency.key import Key
from providers.contract import Call, Declined, Kind, NotProcessed, Outcome, Unknown
from routing.plan import Plan
from tests.simulation.postgres import Stage
from tests.simulation.psp import _DECLINES, Faults, SimProvider
from tests.simulation.world import World

NATURE: Final = Faults()
MONEY: Final = frozenset(
    {
        "never charged twice",
        "nothing is lost",
        "no phantom",
        "a void is known",
        "amounts agree",
        "never more than there is",
        "told failed, and charged",
        "told canceled, and charged",
    }
)
"""Rules about money itself, found in the PSPs' books."""
SURPRISE: Final = frozenset({"surprise", "no alarm without a cause"})
"""What a bug may stumble over before it costs money: not enough to say that it was found."""


@dataclass(frozen=True)
class Mutant:
    """One bug. ``by`` are the rules that may find it, ``blind`` those that are not asked; ``walls`` are what is dropped for it."""

    name: str
    apply: Callable[[World], Any]
    by: frozenset[str]
    blind: frozenset[str] = SURPRISE
    walls: tuple[str, ...] = ()
    faults: Faults = NATURE


# --- Tools ------------------------------------------------------------------------------------------------------------


@contextmanager
def put(place: Any, name: str, thing: Any) -> Iterator[None]:
    """``thing`` in the place of what is there, and back again."""
    held = place.__dict__[name]
    setattr(place, name, thing)
    try:
        yield
    finally:
        setattr(place, name, held)


@contextmanager
def without(stage: Stage, walls: tuple[str, ...]) -> Iterator[None]:
    """The database without these constraints and indexes."""
    back = []
    for wall in walls:
        found = stage.look(
            """SELECT conrelid::regclass::text AS place, pg_get_constraintdef(oid) AS said FROM pg_constraint
            WHERE conname = $1""",
            wall,
        )
        if found:
            place, said = found[0]["place"], found[0]["said"]
            stage.alter(f"ALTER TABLE {place} DROP CONSTRAINT {wall}")
            back.append(f"ALTER TABLE {place} ADD CONSTRAINT {wall} {said}")
        else:
            (row,) = stage.look("SELECT indexdef FROM pg_indexes WHERE indexname = $1", wall)
            stage.alter(f"DROP INDEX {wall}")
            back.append(row["indexdef"])
    try:
        yield
    finally:
        stage.clear()
        stage.alter(*back)


# --- Who is asked -----------------------------------------------------------------------------------------------------


@contextmanager
def failover_on_unknown(world: World) -> Iterator[None]:
    after = Plan.after

    def careless(self: Plan, outcome: Outcome) -> Plan:
        return after(self, NotProcessed("not_sent") if isinstance(outcome, Unknown) else outcome)

    with put(Plan, "after", careless):
        yield


@contextmanager
def fresh_key_per_send(world: World) -> Iterator[None]:
    call_of = gateway.settle.call_of

    def fresh(payment: Payment, operation: Operation, request: Mapping[str, Any]) -> Call:
        key = str(uuid.UUID(int=world.nature.getrandbits(128)))
        return replace(call_of(payment, operation, request), key=key)

    with put(gateway.settle, "call_of", fresh):
        yield


@contextmanager
def error_read_as_decline(world: World) -> Iterator[None]:
    with put(SimProvider, "read_error", lambda self, answer: Declined(_DECLINES["soft"])):
        yield


@contextmanager
def miss_read_as_not_executed(world: World) -> Iterator[None]:
    with put(SimProvider, "read_miss", lambda self: Declined(_DECLINES["soft"])):
        yield


@contextmanager
def not_processed_believed(world: World) -> Iterator[None]:
    """Nothing happened at the second send, so nothing happened at all."""

    async def once(self: Any) -> Outcome:
        return await self._provider.send(self._call, self._kept)  # type: ignore[no-any-return]

    with put(providers.registry._Sending, "once", once):
        yield


@contextmanager
def replay_beyond_the_horizon(world: World) -> Iterator[None]:
    begin = SimProvider.__init__

    def for_ever(self: SimProvider, *args: Any) -> None:
        begin(self, *args)
        self.capabilities = replace(self.capabilities, replay_horizon_s=10**8)

    with put(SimProvider, "__init__", for_ever):
        yield


# --- What is written, and when ----------------------------------------------------------------------------------------


@contextmanager
def written_after_the_call(world: World) -> Iterator[None]:
    owed: dict[str, tuple[Callable[[], Awaitable[Written]], str]] = {}
    really, send = gateway.settle.open_certainly, gateway.settle.send

    async def later(write: Callable[[], Awaitable[Written]], payment_id: str, operation_id: str, deps: Deps) -> Written:
        owed[operation_id] = (write, payment_id)
        return Written.DONE

    async def first(
        payment: Payment, operation: Operation, request: Mapping[str, Any], deps: Deps, *, first_send: bool
    ) -> Outcome:
        outcome = await send(payment, operation, request, deps, first_send=first_send)
        if operation.id in owed:
            write, payment_id = owed.pop(operation.id)
            await really(write, payment_id, operation.id, deps)
        return outcome

    with put(gateway.charge, "open_certainly", later), put(gateway.charge, "send", first):
        yield


@contextmanager
def redis_is_the_truth(world: World) -> Iterator[None]:
    """The key's row does not decide: whoever gets through the gate opens a payment."""
    key_values = gateway.books.key_values

    def never_the_same(use: Any, opened_id: str, at: Any) -> dict[str, Any]:
        row = key_values(use, opened_id, at)
        return {**row, "k_key": f"{row['k_key']}-{world.nature.getrandbits(64):016x}"}

    with put(gateway.books, "key_values", never_the_same):
        yield


@contextmanager
def history_outside_the_transaction(world: World) -> Iterator[None]:
    together = gateway.books._statement
    change = Statement(gateway.books._CHANGE.format(source="(SELECT) AS nothing") + " RETURNING seq", writes="change")

    class Apart:
        def __init__(self, statement: Statement) -> None:
            self._statement = statement

        async def row(self, pool: Any, values: Mapping[str, Any]) -> Any:
            row = await self._statement.row(pool, values)
            if row is not None and row["guarded"] and row["claimed"]:
                await change.row(pool, values)
            return row

    @lru_cache(maxsize=64)
    def apart(pieces: frozenset[str], *, guarded: bool, keyed: bool) -> Any:
        statement = together(pieces - {"change"}, guarded=guarded, keyed=keyed)
        return Apart(statement) if "change" in pieces else statement

    with put(gateway.books, "_statement", apart):
        yield


@contextmanager
def lease_without_fencing(world: World) -> Iterator[None]:
    """Whoever held an operation once may settle it, and take it over while somebody else is at work."""
    books, text = gateway.books, gateway.books._TAKE.text
    take = Statement(
        """WITH before AS (SELECT id, status FROM operation WHERE id = :id AND status = ANY(:statuses::text[]) FOR UPDATE)
        UPDATE operation SET lease_until = now() + make_interval(secs => :lease::float8),
        due_at = now() + make_interval(secs => :lease::float8),
        status = CASE operation.status WHEN 'created' THEN 'sent' ELSE operation.status END
        FROM before WHERE operation.id = before.id
        RETURNING operation.epoch, operation.status, before.status AS before, sealed_request, holds_card""",
        writes="take",
    )
    assert "epoch" in text
    books._statement.cache_clear()
    with put(books, "_FENCED", books._GUARD), put(books, "_TAKE", take):
        try:
            yield
        finally:
            books._statement.cache_clear()


@contextmanager
def lost_commit_taken_for_nothing(world: World) -> Iterator[None]:
    """A commit whose answer was lost did not happen, so the charge is begun once more."""
    create = gateway.charge._create

    async def once_more(command: Any, deps: Deps) -> Any:
        try:
            return await create(command, deps)
        except InDoubt:
            again = replace(command.key, text=f"{command.key.text}-again")
            return await create(replace(command, key=again, terms=replace(command.terms, id=new_id(PAYMENT))), deps)

    async def at_once(write: Callable[[], Awaitable[Written]], *_: Any) -> Written:
        return await write()

    with put(gateway.charge, "_create", once_more), put(gateway.charge, "open_certainly", at_once):
        yield


# --- What is decided --------------------------------------------------------------------------------------------------


@contextmanager
def refund_without_reservation(world: World) -> Iterator[None]:
    opened = lifecycle.refund_opened

    def unreserved(payment: Payment, operation: Operation, now: Any) -> Change:
        change = opened(payment, operation, now)
        return replace(change, payment=replace(change.payment, amount_refunding=payment.amount_refunding))

    with put(lifecycle, "refund_opened", unreserved):
        yield


@contextmanager
def webhook_moves_backwards(world: World) -> Iterator[None]:
    s = OperationStatus
    steps = lifecycle.TRANSITIONS[Kind.AUTHORIZE]
    back = {**steps, s.VOIDED: frozenset({s.AUTHORIZED, s.CAPTURED}), s.CAPTURED: frozenset({s.AUTHORIZED})}
    held = dict(lifecycle.TRANSITIONS)
    with put(lifecycle, "TRANSITIONS", {**held, Kind.AUTHORIZE: back}):
        yield


@contextmanager
def unknown_canceled_at_once(world: World) -> Iterator[None]:
    opened = lifecycle.cancel_opened

    def at_once(payment: Payment, operation: Operation | None, reason: str | None, now: Any) -> Change:
        change = opened(payment, operation, reason, now)
        if payment.status is not Status.PROCESSING:
            return change
        ended = replace(change.payment, status=Status.CANCELED, processing_reason=None, cancel_requested=False)
        return replace(change, payment=ended)

    with put(lifecycle, "cancel_opened", at_once):
        yield


# --- What is answered -------------------------------------------------------------------------------------------------


@contextmanager
def undecided_stored_as_final(world: World) -> Iterator[None]:
    answer = gateway.answers.charge_answer

    def final(payment: Payment, keys: Any, *, ok: int) -> Answer:
        told = answer(payment, keys, ok=ok)
        return replace(told, decided=True) if told.status == 202 else told

    with put(gateway.charge, "charge_answer", final):
        yield


@contextmanager
def tenant_missing_from_the_key(world: World) -> Iterator[None]:
    with put(gateway.api.asking, "Key", lambda merchant, livemode, text: Key("mer_everyone", livemode, text)):
        yield


@contextmanager
def fingerprint_not_compared(world: World) -> Iterator[None]:
    stored = gateway.keys.stored_answer

    def whatever(key: Key, fingerprint: bytes, used: UsedKey, deps: Deps) -> Answer | None:
        return stored(key, used.fingerprint, used, deps)

    with put(gateway.charge, "stored_answer", whatever):
        yield


ONE_KEY: Final = frozenset({"one operation, one key, the same bytes"})
ONE_OPEN: Final = "operation_one_open_authorize"
ONE_LIVE: Final = "operation_one_live_success"
NOBODY_ELSE: Final = frozenset({"nobody else is asked"})

MUTANTS: Final = (
    Mutant("failover on unknown", failover_on_unknown, MONEY, SURPRISE | NOBODY_ELSE, (ONE_OPEN, ONE_LIVE)),
    Mutant("a fresh provider key per send", fresh_key_per_send, MONEY, SURPRISE | ONE_KEY),
    Mutant("5xx read as a decline", error_read_as_decline, MONEY),
    Mutant(
        "an attempt written after the call",
        written_after_the_call,
        MONEY,
        SURPRISE | {"intent before action", "a decided answer stays"},
    ),
    Mutant("Redis as the truth", redis_is_the_truth, MONEY, SURPRISE | {"one key, one answer"}),
    Mutant("a lookup's miss read as not executed", miss_read_as_not_executed, MONEY),
    Mutant(
        "a refund without reservation",
        refund_without_reservation,
        MONEY,
        SURPRISE,
        ("payment_refunded", "payment_refunded_positive"),
    ),
    Mutant("history outside the transaction", history_outside_the_transaction, frozenset({"the history is whole"})),
    Mutant(
        "the tenant missing from the key",
        tenant_missing_from_the_key,
        MONEY | {"a create is never refused", "an answer to what was asked", "one key, one answer"},
    ),
    Mutant(
        "replay beyond the horizon",
        replay_beyond_the_horizon,
        MONEY | {"invariant within_horizon"},
        SURPRISE | {"no replay beyond the horizon"},
        faults=replace(NATURE, silence_per_payment=0.03),
    ),
    Mutant("a late webhook moves a payment backwards", webhook_moves_backwards, MONEY),
    Mutant(
        "202 stored as the final answer",
        undecided_stored_as_final,
        frozenset({"an answer is there in the end", "a decided answer stays"}),
    ),
    Mutant("NotProcessed believed on a second send", not_processed_believed, MONEY),
    Mutant("a lease without fencing", lease_without_fencing, MONEY | ONE_KEY),
    Mutant(
        "a lost commit taken for nothing", lost_commit_taken_for_nothing, MONEY, faults=replace(NATURE, statement=0.03)
    ),
    Mutant(
        "a cancel of an unknown outcome answered as canceled",
        unknown_canceled_at_once,
        MONEY | {"one key, one answer"},
    ),
    Mutant(
        "another body under the same key answered",
        fingerprint_not_compared,
        frozenset({"another body under the same key"}),
    ),
)
