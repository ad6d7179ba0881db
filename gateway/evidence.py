"""What every process learns from the outcomes that are in the books, so that all of them route alike.

Each attempt's first outcome stands in its row with one word (``gateway.signals``) and the number of the transaction that wrote it
(``operation.evidence_xid``). Every :data:`FOLD_S` each process reads what has come since, in the order of these numbers and only up to
the oldest transaction that is still open: nothing that commits late is ever passed over, and every process reads the same rows in the
same order (docs/adr/0022-evidence-by-xid8.md). It folds them into a :class:`routing.strategies.Policy` for each strategy that is in
force. What it has heard itself, the breakers are told at once, and again, for good, when it is read.

A model begins at the same row for all processes, and goes on from its newest snapshot. Without Postgres a process keeps what it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

import orjson
import structlog

from gateway import crash
from gateway.metrics.instruments import Instruments
from gateway.payment import Operation, OperationStatus, Payment
from gateway.signals import word_of
from gateway.sql import Pool, Statement
from providers.contract import Kind
from routing import decision
from routing.document import Document, Strategy
from routing.strategies import Policy, make
from routing.strategies.guarded import FORM

FOLD_S: Final = 0.25
"""Seconds between two reads: an account that dies at 50 payments a second gets a dozen more, and the breakers' hints are quicker still."""
START_S: Final = 5.0
"""How long a start waits until all there is has been read. Then strategies are not asked until it has."""
BATCH: Final = 500
SLICE_S: Final = 0.002
"""How long the fold may keep the event loop; then whoever waits has its turn."""
BEGIN_WITH: Final = 50_000
"""Outcomes of its accounts that a model begins with."""
BEGIN_WITHIN: Final = 200_000
"""Outcomes of all accounts that are looked through for them."""
HINT_S: Final = 300.0
"""A hint whose outcome was not read after so long never will be."""
SNAPSHOT_S: Final = 60.0
SNAPSHOT_OLD_S: Final = 600.0
"""A snapshot that nothing was added to is written again after this long: a start need not look through all that was not for it."""
SNAPSHOTS: Final = 3
MEASURE_S: Final = 1.0
"""How often the breakers are measured: with thousands of segments that takes a millisecond."""
MODEL: Final = 1
"""Goes up where the same rows teach something else than before, as the strategies' own ``FORM`` does: then every model begins anew."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Use:
    """A strategy as a document in force names it: what learns. Two that are equal learn the same, and are one model."""

    merchant_id: str
    livemode: bool
    strategy: str
    accounts: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """With the document's constraints under ``constraints``."""

    @cached_property
    def key(self) -> str:
        """Names the model. The version of the document is no part of it: another one with the same strategy goes on with its model."""
        told = [MODEL, FORM, self.merchant_id, self.livemode, self.strategy, self.accounts, self.settings]
        return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


class Position(NamedTuple):
    """A place in the order in which evidence is read: just after the attempt ``id`` of transaction ``xid``."""

    xid: int = 0
    id: str = ""


@dataclass(slots=True)
class Model:
    """What one strategy in force has learned, and up to where."""

    use: Use
    policy: Policy
    position: Position
    folded: int = 0
    heard: dict[str, dict[str, int]] = field(default_factory=dict)
    """How many outcomes were folded, by account and word."""
    at: float = 0.0
    """When the last outcome was recorded, in seconds; never goes back."""
    ready: bool = False
    """Whether it has read all there was once: before that it ranks nothing."""
    saved: tuple[int, float] = (-1, 0.0)
    """How many outcomes the last snapshot of this process knew, and when it was written by the monotonic clock."""
    hinted: dict[str, tuple[str, Mapping[str, str], str, float]] = field(default_factory=dict)
    """What the breakers were told of ahead, by attempt: account, context, word and when."""

    def pass_by(self, row: Mapping[str, Any]) -> None:
        """Fold one outcome, if it is of an account of this strategy, and stand after it."""
        hint = self.hinted.pop(row["id"], None)
        if hint is not None:
            account, context, word, at = hint
            self.policy.unhint(account, context, word, at)
        self.position = Position(row["evidence_xid"], row["id"])
        if row["account"] not in self.use.accounts or row["after_decline"]:
            return
        self.at = max(self.at, row["at"])
        try:
            self.policy.update(context_of(row), row["account"], row["evidence_word"], self.at)
        except (
            Exception
        ) as error:  # one row that cannot be taken in, by any process, must not keep out those that follow
            log.error("evidence_not_taken", operation=row["id"], strategy=self.use.strategy, error=type(error).__name__)
            return
        counted = self.heard.setdefault(row["account"], {})
        counted[row["evidence_word"]] = counted.get(row["evidence_word"], 0) + 1
        self.folded += 1

    def hint(self, operation_id: str, account: str, context: Mapping[str, str], word: str, now: float) -> None:
        """Tell the breakers of an outcome before it is read."""
        self.hinted[operation_id] = (account, context, word, now)
        self.policy.hint(account, context, word, now)

    def forget_hints(self, now: float) -> None:
        """Take back what was told ahead and never came."""
        while self.hinted:
            first = next(iter(self.hinted))
            account, context, word, at = self.hinted[first]
            if now - at < HINT_S:
                return
            self.policy.unhint(account, context, word, now)
            del self.hinted[first]

    def state(self) -> dict[str, Any]:
        """All that was learned."""
        return {"at": self.at, "heard": self.heard, "policy": self.policy.snapshot()}

    @classmethod
    def restored(cls, use: Use, row: Mapping[str, Any]) -> Model:
        """The model that a snapshot was made of; a fresh one of the row that it begins at.

        Raises ``ValueError``, ``KeyError`` or ``TypeError`` for a snapshot that is none.
        """
        model = cls(use, make(use.strategy, use.accounts, use.settings), Position(row["xid"], row["operation_id"]))
        if row["state"] is not None:
            state = orjson.loads(row["state"])
            model.policy.restore(state["policy"])
            model.at, model.heard, model.folded = state["at"], state["heard"], row["folded"]
        return model


def _context(payment: Payment, attempt: Operation) -> dict[str, str]:
    """The same of an attempt that is at hand."""
    record = attempt.decision or {}
    if "decided_by" in record:
        record = payment.operation(record["decided_by"]).decision or {}
    return context_of({"facts": record.get("facts"), "amount": attempt.amount, "currency": payment.terms.currency})


def context_of(row: Mapping[str, Any]) -> dict[str, str]:
    """What a strategy saw of the attempt when it was routed; of one without a decision, what never changes of its payment."""
    known = row["facts"]
    return decision.context_of({"amount": row["amount"], "currency": row["currency"]} if known is None else known)


def after_decline(payment: Payment, attempt: Operation) -> bool:
    """Whether the attempt follows a decline of the same payment: what one account declined, most others decline, so it is no fair try."""
    return any(
        each.seq < attempt.seq and each.status is OperationStatus.DECLINED and each.kind is Kind.AUTHORIZE
        for each in payment.operations
    )


# The same in SQL: a decline stays one, so it is read alike whenever it is read.
_AFTER_DECLINE: Final = """EXISTS (SELECT FROM operation e WHERE e.payment_id = o.payment_id AND e.kind = 'authorize'
    AND e.seq < o.seq AND e.status = 'declined')"""
_READ: Final = Statement(
    f"""WITH known AS MATERIALIZED
        (SELECT coalesce(:horizon::xid8, pg_snapshot_xmin(pg_current_snapshot())) AS horizon)
    SELECT known.horizon, found.* FROM known LEFT JOIN LATERAL (
        SELECT o.id, o.evidence_xid, o.evidence_word, extract(epoch FROM o.evidence_at)::float8 AS at, o.account,
        coalesce(o.decision->'facts', (SELECT d.decision->'facts' FROM operation d WHERE d.id = o.decision->>'decided_by')) AS facts,
        {_AFTER_DECLINE} AS after_decline, o.amount, p.currency
        FROM operation o JOIN payment p ON p.id = o.payment_id
        WHERE (o.evidence_xid, o.id) > (:xid::xid8, :id::text) AND o.evidence_xid < known.horizon
        AND o.account = ANY(:accounts::text[]) ORDER BY o.evidence_xid, o.id LIMIT :limit::int) AS found ON true"""
)
_NEWEST: Final = Statement(
    """SELECT xid, operation_id, folded, state FROM routing_snapshot
    WHERE model = :model AND xid <= pg_snapshot_xmin(pg_current_snapshot()) AND (state IS NULL OR NOT :anew::bool)
    ORDER BY xid DESC, operation_id DESC, state IS NULL LIMIT 1"""
)
_BEGIN: Final = Statement(
    """WITH recent AS MATERIALIZED (SELECT evidence_xid, id, account FROM operation WHERE evidence_xid IS NOT NULL
        ORDER BY evidence_xid DESC, id DESC LIMIT :within::int),
    begins AS (
        (SELECT 1 AS rank, evidence_xid, id FROM recent WHERE account = ANY(:accounts::text[])
            ORDER BY evidence_xid DESC, id DESC OFFSET :with::int LIMIT 1)
        UNION ALL (SELECT 2, evidence_xid, id FROM recent ORDER BY evidence_xid DESC, id DESC OFFSET :within::int - 1 LIMIT 1)
        UNION ALL SELECT 3, '0'::xid8, '')
    INSERT INTO routing_snapshot (model, xid, operation_id, merchant_id, livemode, strategy, folded, state, created_at)
    SELECT :model, evidence_xid, id, :merchant_id, :livemode::bool, :strategy, 0, NULL, now() FROM begins ORDER BY rank LIMIT 1
    ON CONFLICT (model) WHERE state IS NULL DO UPDATE SET xid = excluded.xid, operation_id = excluded.operation_id
    WHERE routing_snapshot.xid > pg_snapshot_xmin(pg_current_snapshot())""",
    writes="begin",
)
_SAVE: Final = Statement(
    """WITH dropped AS (DELETE FROM routing_snapshot
        WHERE (model = :model AND state IS NOT NULL AND xid <= (SELECT xid FROM routing_snapshot
            WHERE model = :model AND state IS NOT NULL ORDER BY xid DESC OFFSET :kept::int LIMIT 1))
        OR (model <> ALL(:models::text[]) AND created_at < now() - interval '30 days'))
    INSERT INTO routing_snapshot (model, xid, operation_id, merchant_id, livemode, strategy, folded, state, created_at)
    SELECT :model, :xid::xid8, :id, :merchant_id, :livemode::bool, :strategy, :folded::bigint, :state::text::json, now()
    ON CONFLICT DO NOTHING""",
    writes="snapshot",
)


def use_of(merchant_id: str, outcome: Strategy, *, livemode: bool) -> Use:
    """What learns for an outcome of a merchant's document."""
    return Use(merchant_id, livemode, outcome.strategy, tuple(outcome.accounts), outcome.all_settings)


def uses_of(documents: Iterable[tuple[tuple[str, bool], Document]]) -> Iterator[Use]:
    """Everything that learns for these documents, each with its merchant and mode."""
    for (merchant_id, livemode), document in documents:
        for outcome in (*(rule.then for rule in document.rules), document.default):
            if isinstance(outcome, Strategy):
                yield use_of(merchant_id, outcome, livemode=livemode)


class Learned:
    """The models of one process. :meth:`policy` is asked for each payment; :meth:`run` keeps them learning.

    ``uses`` tells what is in force. Without a pool nothing is ever learned, and no strategy is asked.
    """

    def __init__(
        self,
        pool: Pool | None = None,
        uses: Callable[[], Iterable[Use]] = tuple,
        instruments: Instruments | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pool = pool
        self._uses = uses
        self._instruments = instruments
        self._clock = clock
        self._models: dict[str, Model] = {}
        self._keys: dict[int, tuple[Strategy, str]] = {}
        self._read_at = time.monotonic()
        self._blind = False
        self._folding = asyncio.Lock()
        self._measured_at = -MEASURE_S

    # --- What the charge path asks and tells ---

    def policy(self, merchant_id: str, outcome: Strategy, *, livemode: bool) -> Policy | None:
        """The strategy of an outcome with what it has learned. ``None`` where it has not read what there is yet: that is counted.

        Reads nothing and never raises.
        """
        policy = self._ready(self._key(merchant_id, outcome, livemode=livemode))
        if policy is None and self._instruments is not None:
            self._instruments.stood_in("strategy_not_asked")
        return policy

    def rehearsed(self, merchant_id: str, outcome: Strategy, *, livemode: bool) -> Policy | None:
        """The same for a document that need not be in force: no payment waits for it, so nothing is counted, and nothing kept of it."""
        return self._ready(use_of(merchant_id, outcome, livemode=livemode).key)

    def _ready(self, key: str) -> Policy | None:
        model = self._models.get(key)
        return model.policy if model is not None and model.ready else None

    def _key(self, merchant_id: str, outcome: Strategy, *, livemode: bool) -> str:
        known = self._keys.get(id(outcome))
        if known is not None and known[0] is outcome:
            return known[1]
        key = use_of(merchant_id, outcome, livemode=livemode).key
        self._keys[id(outcome)] = (outcome, key)
        return key

    def hint(self, payment: Payment, before: Operation, settled: Operation) -> None:
        """Tell the breakers at once of an outcome that this process has just written; the rest waits until it is read like anybody's.

        Never raises.
        """
        if not self._models:
            return
        word = word_of(settled)
        if word is None or word_of(before) is not None or after_decline(payment, settled):
            return
        now, terms = self._clock(), payment.terms
        try:
            context = _context(payment, settled)
        except (KeyError, TypeError, ValueError):  # a record of another release: it is read as it will be read by all
            return
        for model in self._models.values():
            use = model.use
            if settled.account in use.accounts and (use.merchant_id, use.livemode) == (
                terms.merchant_id,
                terms.livemode,
            ):
                model.hint(settled.id, settled.account, context, word, now)

    # --- Reading ---

    async def start(self) -> None:
        """The first fold, which a start waits for; not longer than :data:`START_S`. Never raises."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.fold(), START_S)

    async def run(self) -> None:
        """Read and fold until cancelled."""
        while True:
            await asyncio.sleep(FOLD_S)
            await self.fold()

    async def fold(self) -> None:
        """Read and fold what there is. Never raises: what cannot be read now leaves what was learned so far."""
        try:
            async with self._folding:
                await self._fold()
        except Rewound as error:
            log.error("evidence_rewound", why=str(error))
            self._models.clear()
        except Exception as error:  # whatever it is, payments go on with what is known
            if not self._blind:
                log.error("evidence_not_read", error=type(error).__name__)
            self._blind = True
        else:
            self._blind = False
            self._read_at = time.monotonic()
        self._measure()

    async def _fold(self) -> None:
        if self._pool is None:
            return
        wanted = {use.key: use for use in self._uses()}
        for key in self._models.keys() - wanted.keys():
            del self._models[key]
        self._keys = {at: known for at, known in self._keys.items() if known[1] in wanted}
        for key, use in wanted.items():
            if key not in self._models:
                self._models[key] = await _begun(use, self._pool)
        horizon: int | None = None
        for position in sorted({model.position for model in self._models.values()}):
            group = [model for model in self._models.values() if model.position == position]
            horizon = await _read(group, horizon, self._pool)
        now = self._clock()
        for model in self._models.values():
            model.ready = True
            model.forget_hints(now)

    # --- Snapshots ---

    async def save(self) -> None:
        """Write a snapshot of each model that has learned something, and drop those that are not needed any more. The worker's."""
        if self._pool is None:
            return
        now = time.monotonic()
        for model in [each for each in self._models.values() if each.ready]:
            folded, at = model.saved
            if now - at < (SNAPSHOT_S if folded != model.folded else SNAPSHOT_OLD_S):
                continue
            model.saved = (model.folded, now)
            await _SAVE.rows(self._pool, _snapshot_values(model, list(self._models)))

    # --- What is known ---

    def models(self, merchant_id: str, *, livemode: bool) -> list[Model]:
        """The models of a merchant in one mode."""
        return [
            model
            for model in self._models.values()
            if (model.use.merchant_id, model.use.livemode) == (merchant_id, livemode)
        ]

    @property
    def lag_s(self) -> float:
        """Since when something may be in the books that was not read: a failed read, or a transaction that was left open."""
        waiting = [next(iter(model.hinted.values()))[3] for model in self._models.values() if model.hinted]
        return max([time.monotonic() - self._read_at, *(self._clock() - at for at in waiting)])

    def _measure(self) -> None:
        if self._instruments is None:
            return
        self._instruments.fold_lag_seconds.set(self.lag_s if self._models else 0.0)
        if time.monotonic() - self._measured_at < MEASURE_S:
            return
        self._measured_at, now, worst = time.monotonic(), self._clock(), dict[tuple[str, str], int]()
        for model in self._models.values():
            for account in model.use.accounts:
                at = (account, model.use.strategy)
                worst[at] = max(worst.get(at, 0), _breaker(model.policy, account, now))
        for (account, strategy), state in worst.items():
            self._instruments.breakers.labels(account, strategy).set(state)


def _breaker(policy: Policy, account: str, now: float) -> int:
    """0 closed, 1 open for some segments, 2 open for all payments."""
    if policy.explain({}, account, now).breaker != "closed":
        return 2
    return 1 if policy.opened(account) else 0


class Rewound(Exception):
    """The database's transactions are numbered lower than before: it is another cluster, or one that has lost its last ones."""


async def saved(use: Use, pool: Pool) -> Model | None:
    """A model as its newest snapshot has it, for whoever only looks; ``None`` where there is none that can be read."""
    row = await _NEWEST.row(pool, {"model": use.key, "anew": False})
    try:
        return None if row is None or row["state"] is None else Model.restored(use, row)
    except (ValueError, KeyError, TypeError):
        return None


async def _begun(use: Use, pool: Pool) -> Model:
    """A model as its newest snapshot has it, or at the row that it begins at, which is the same for all processes."""
    row = await _NEWEST.row(pool, {"model": use.key, "anew": False})
    if row is None:
        about = {"model": use.key, "merchant_id": use.merchant_id, "livemode": use.livemode, "strategy": use.strategy}
        bounds = {"accounts": list(use.accounts), "with": BEGIN_WITH, "within": BEGIN_WITHIN}
        with crash.aside("learn"):
            await _BEGIN.rows(pool, about | bounds)
        row = await _NEWEST.row(pool, {"model": use.key, "anew": False})
    if row is None:
        raise AssertionError("a model has a beginning")
    try:
        return Model.restored(use, row)
    except (ValueError, KeyError, TypeError) as error:
        log.error("snapshot_unreadable", model=use.key, error=type(error).__name__)
    row = await _NEWEST.row(pool, {"model": use.key, "anew": True})
    if row is None:
        raise AssertionError("a model has a beginning")
    return Model.restored(use, row)


async def _read(models: Sequence[Model], horizon: int | None, pool: Pool) -> int:
    """Fold what came since the position that ``models`` share up to ``horizon``, and stand there; without one, as far as can be.

    Returns the horizon. Raises :class:`Rewound`.
    """
    accounts = sorted({account for model in models for account in model.use.accounts})
    while True:
        at = models[0].position
        asked = {"horizon": horizon, "xid": at.xid, "id": at.id, "accounts": accounts, "limit": BATCH}
        rows = await _READ.rows(pool, asked)
        reached: int = rows[0]["horizon"]
        if reached < at.xid:
            raise Rewound(f"it was read up to {at.xid}, and the database is at {reached}")
        horizon = reached
        found = [row for row in rows if row["id"] is not None]
        await _learn(models, found)
        if len(found) < BATCH:
            break
    for model in models:
        model.position = Position(horizon)
    return horizon


async def _learn(models: Sequence[Model], rows: Sequence[Mapping[str, Any]]) -> None:
    """Fold rows, and let others have the event loop now and then."""
    until = time.perf_counter() + SLICE_S
    for row in rows:
        for model in models:
            model.pass_by(row)
        if time.perf_counter() > until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE_S


def _snapshot_values(model: Model, models: list[str]) -> dict[str, Any]:
    use = model.use
    return {
        "model": use.key,
        "models": models,
        "kept": SNAPSHOTS - 1,
        "xid": model.position.xid,
        "id": model.position.id,
        "merchant_id": use.merchant_id,
        "livemode": use.livemode,
        "strategy": use.strategy,
        "folded": model.folded,
        "state": orjson.dumps(model.state()).decode(),
    }
