"""What does a shadow come to? The payments that a version has watched, each counted once, and what it would have approved.

A payment that a shadow has watched bears both decisions in the record of its first attempt. It is counted when that attempt has said
something of its account, or when its first round has ended without: whether the shadow would have asked the same account first, and what
the outcome is worth to the estimate (:mod:`routing.estimate`), which is that of a simulation. Nothing is read again when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from gateway.answers import instant
from gateway.deps import Deps
from gateway.routing_books import RoutingBooks, ShadowCount, Watched
from gateway.signals import APPROVED
from gateway.sql import Row
from routing.estimate import Weighed, estimate_of, weigh, wilson
from routing.publications import standing

BATCH: Final = 500
BATCHES: Final = 20
"""What is counted in one run: 10 000 payments every 15 seconds are more than a gateway takes."""

log = structlog.get_logger()


async def count(deps: Deps) -> int:
    """Count what has ended since the last run. Returns how many payments. Two workers may count at once, and one may die at any point."""
    total = 0
    for _ in range(BATCHES):
        ended = await deps.routing_books.ended(BATCH)
        total += await deps.routing_books.watch([_watched(row) for row in ended]) if ended else 0
        if len(ended) < BATCH:
            break
    return total


def _watched(row: Row) -> Watched:
    at: datetime = row["created_at"]
    word = row["evidence_word"]
    weighed = None if word is None else _weighed(row)
    approved = weighed is not None and word == APPROVED
    return Watched(row["id"], at.astimezone(UTC).date(), row["first"] == row["account"], approved, weighed)


def _weighed(row: Row) -> Weighed | None:
    """What its outcome is worth; nothing where the record does not say by which chance it went where it did."""
    try:
        return weigh(row["account"], _chances(row["candidates"]), _chances(row["wanted"]))
    except (ValueError, KeyError, TypeError) as error:
        log.warning("shadow_not_weighed", operation=row["id"], error=type(error).__name__)
        return None


def _chances(candidates: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {each["account"]: float(each["propensity"]) for each in candidates if each.get("propensity")}


# --- What is told -----------------------------------------------------------------------------------------------------


async def so_far(
    version: str | None, merchant_id: str, books: RoutingBooks, *, livemode: bool
) -> dict[str, Any] | None:
    """How much the shadow in force, ``version``, has watched and agreed on; ``None`` where there is none. One look at the sums."""
    if version is None:
        return None
    return watched_object(await books.agreed(version, merchant_id, livemode=livemode))


async def report(
    merchant_id: str, books: RoutingBooks, now: datetime, *, livemode: bool, limit: int, before: str | None = None
) -> list[dict[str, Any]]:
    """Versions that have watched payments, newest first, with what they would have approved, as the API shows them.

    ``limit`` versions at most; ``before`` is the id of the version to go on from.
    """
    versions = await books.shadows(merchant_id, livemode=livemode, limit=limit, before=before)
    counts = await books.shadow_counts(merchant_id, versions, livemode=livemode)
    shadow = standing(await books.history(merchant_id, livemode=livemode), now).shadow
    watches = None if shadow is None else shadow.version
    return [_version(counts[each], watching=each == watches, livemode=livemode) for each in versions if each in counts]


def watched_object(counted: ShadowCount | None) -> dict[str, Any]:
    """How many payments were watched, and the share on which the shadow agrees, with its 95 % interval; nothing where there are none."""
    share = None if counted is None else wilson(counted.same_account / counted.payments, counted.payments)
    return {
        "payments": 0 if counted is None else counted.payments,
        "same_account": 0 if counted is None else counted.same_account,
        "agreement": None if share is None else share.record(),
        "since": None if counted is None else instant(counted.first_at),
        "until": None if counted is None else instant(counted.last_at),
    }


def _version(counted: ShadowCount, *, watching: bool, livemode: bool) -> dict[str, Any]:
    found = estimate_of(counted.sums, counted.gaps)
    share = wilson(counted.same_account / counted.payments, counted.payments)
    return {
        "object": "routing_shadow",
        "config": counted.version_id,
        "watching": watching,
        **watched_object(counted),
        "authorization_rate": found.record(),
        "sentence": f"It has watched {counted.payments:,} payments, and would have sent {counted.same_account:,} of them to the same account "
        f"first: {share.percent()}. {found.sentence}",
        "livemode": livemode,
    }
