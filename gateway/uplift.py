"""Is a strategy worth it? Its payments beside those of its holdout, counted once each, and what follows from them.

A payment belongs to the arm of its first attempt's decision, ``strategy`` or ``holdout``, whatever became of it then: both arms are
drawn by the payments' ids, so they differ in nothing else. It is counted when its first round has ended, as approved where any attempt
of that round was. What only ends later is in neither arm until then, and a round that a shopper begins with another card is nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import structlog

from gateway import publishing
from gateway.answers import instant
from gateway.deps import Deps
from gateway.routing_books import ArmCount, RoutingBooks
from routing.publications import standing
from routing.uplift import Arm, Uplift, Verdict, payments_needed, told, uplift

BATCH: Final = 500
BATCHES: Final = 20
"""What is counted in one run: 10 000 payments every 15 seconds are more than a gateway takes."""
STRATEGY: Final = "strategy"
HOLDOUT: Final = "holdout"

log = structlog.get_logger()


async def count(deps: Deps) -> int:
    """Count what has ended since the last run. Returns how many payments. Two workers may count at once, and one may die at any point."""
    total = 0
    for _ in range(BATCHES):
        counted = await deps.books.compare(BATCH)
        total += counted
        if counted < BATCH:
            break
    return total


async def take_back(deps: Deps) -> int:
    """Roll back versions whose holdout is proved to do better, where their documents say so. Returns how many were.

    Only what was put in force last: where somebody has published something since, that stands. Once a version, whoever else does it.
    """
    done = 0
    for owner, version, document in list(deps.in_force.leading(deps.clock())):
        if document.holdout is None or not document.holdout.rollback:
            continue
        merchant_id, livemode = owner
        said = said_of(await deps.routing_books.arms(merchant_id, [version], livemode=livemode))
        if said.verdict is not Verdict.HOLDOUT_WINS:
            continue
        recorded = await publishing.take_back(version, document, f"Rolled back by itself. {told(said)}", owner, deps)
        if recorded is not None:
            done += 1
            log.warning("routing_rolled_back", merchant=merchant_id, version=version, to=recorded.version)
    return done


async def watch(deps: Deps) -> None:
    """What the worker does by the clock: count what has ended, then roll back what costs approvals."""
    await count(deps)
    await take_back(deps)


async def report(
    merchant_id: str, books: RoutingBooks, now: datetime, *, livemode: bool, limit: int, before: str | None = None
) -> list[dict[str, Any]]:
    """Versions that payments were counted of, newest first, with both arms and what they say, as the API shows them.

    ``limit`` versions at most; ``before`` is the id of the version to go on from.
    """
    versions = await books.compared(merchant_id, livemode=livemode, limit=limit, before=before)
    counts = await books.arms(merchant_id, versions, livemode=livemode)
    stands = standing(await books.history(merchant_id, livemode=livemode), now)
    in_force = {stands.version, None if stands.staged is None else stands.staged.version}
    return [
        _version(version, list(rows), in_force=version in in_force, livemode=livemode)
        for version, rows in groupby(counts, lambda each: each.version_id)
    ]


def said_of(counts: Iterable[ArmCount]) -> Uplift:
    """What both arms say together."""
    counts = list(counts)
    return uplift(_arm(counts, STRATEGY), _arm(counts, HOLDOUT))


def _arm(counts: Iterable[ArmCount], name: str) -> Arm:
    of_arm = [each for each in counts if each.arm == name]
    return Arm(sum(each.payments for each in of_arm), sum(each.approved for each in of_arm))


def _version(version: str, counts: list[ArmCount], *, in_force: bool, livemode: bool) -> dict[str, Any]:
    by_strategy = groupby(sorted(counts, key=lambda each: each.strategy), lambda each: each.strategy)
    return {
        "object": "routing_uplift",
        "config": version,
        "in_force": in_force,
        **_compared(counts),
        "by_strategy": [{"name": name, **_compared(list(rows))} for name, rows in by_strategy],
        "since": instant(min(each.first_at for each in counts)),
        "until": instant(max(each.last_at for each in counts)),
        "livemode": livemode,
    }


def _compared(counts: list[ArmCount]) -> dict[str, Any]:
    said = said_of(counts)
    return {
        "strategy": _arm_object(said.strategy, counts, STRATEGY),
        "holdout": _arm_object(said.holdout, counts, HOLDOUT),
        "difference": said.difference,
        "interval": _pair(said.low, said.high),
        "always_valid_interval": _pair(said.always_low, said.always_high),
        "verdict": said.verdict,
        "payments_for_one_point": payments_needed(said.strategy, said.holdout),
        "sentence": told(said),
    }


def _pair(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]


def _arm_object(arm: Arm, counts: list[ArmCount], name: str) -> dict[str, Any]:
    """One arm: payments of all currencies, and the amounts of each."""
    amounts: dict[str, dict[str, int]] = {}
    for each in counts:
        if each.arm == name:
            of_currency = amounts.setdefault(each.currency, {"amount": 0, "amount_approved": 0})
            of_currency["amount"] += each.amount
            of_currency["amount_approved"] += each.amount_approved
    return {
        "payments": arm.payments,
        "approved": arm.approved,
        "rate": arm.rate,
        "amounts": [{"currency": currency, **amounts[currency]} for currency in sorted(amounts)],
    }
