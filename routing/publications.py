"""What is in force: which version of a merchant's routing document decides a payment, read from the history of its publications.

Pure: the history is append-only, and what is in force at a moment follows from it alone. Nothing has to happen for a scheduled
publication to start, and every process that has read the same history says the same.

* A publication has **started** at its ``starts_at``; one that was to start when it was recorded has started for everybody who can read
  it, whatever their clock says.
* **In force** is the newest publication that has started: the one that started last, of two of one instant the one that was recorded last.
  One that was withdrawn counts for nothing, and neither does a request that nobody has approved.
* Where its ``percent`` is less than 100, the payment's bucket (:func:`bucket`, of its id alone) decides between its version and what
  was in force for all payments before. A payment that has the new version at 5 % has it at 25 %.
* A **rollback** ends what is staged and names the version that is in force for all payments from then on: the one before. A second
  rollback goes one further back. Before the first publication nothing is in force (``None``): the order of the configuration decides.
* A **shadow** publication decides nothing. What its version would have decided is recorded beside what was done; the newest one counts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Final

BUCKETS: Final = 100
AUTOMATIC: Final = "gateway"
"""Who has published what nobody did: the gateway itself, when a holdout does better."""
_PURPOSE: Final = b"publication"
"""Rules split payments by their ids, too. With dice of its own, a version's 5 % are no special 5 % of any split."""


class PublicationKind(StrEnum):
    """What a row of the history does."""

    REQUEST = "request"
    """Asks for a publication that a second person has to approve; puts nothing in force."""
    PUBLISH = "publish"
    ROLLBACK = "rollback"
    WITHDRAW = "withdraw"
    """Takes its target out: a scheduled publication, a request, or a shadow."""


@dataclass(frozen=True, slots=True)
class Publication:
    """One row of the history. ``sequence`` orders a merchant's rows in one mode; ``version`` is ``None`` in a rollback to nothing.

    ``published_by`` and ``approved_by`` are ids of API keys. ``target`` is what is withdrawn, or the request that was approved.
    """

    id: str
    sequence: int
    kind: PublicationKind
    version: str | None
    percent: int
    starts_at: datetime
    published_at: datetime
    published_by: str
    reason: str
    shadow: bool = False
    target: str | None = None
    approved_by: str | None = None

    @property
    def automatic(self) -> bool:
        """Whether no person has done it."""
        return self.published_by == AUTOMATIC

    def started(self, now: datetime) -> bool:
        """Whether its time has come."""
        return self.starts_at <= max(now, self.published_at)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a history comes to at one moment.

    ``settled`` are the versions that were in force for all payments and can be gone back to, the present one last; empty where the
    configuration decides. ``base`` is the publication or rollback that put it in force for all payments, ``staged`` the newer one for a
    part of them, ``shadow`` the one that only watches. ``scheduled`` have not started, the next one first.
    """

    settled: tuple[str, ...] = ()
    base: Publication | None = None
    staged: Publication | None = None
    shadow: Publication | None = None
    scheduled: tuple[Publication, ...] = ()

    @property
    def version(self) -> str | None:
        """The version in force for all payments, or for all but those of what is staged."""
        return self.settled[-1] if self.settled else None

    @property
    def newest(self) -> str | None:
        """The version that was put in force last, for a part of the payments or for all."""
        return self.version if self.staged is None else self.staged.version

    @property
    def past(self) -> tuple[str, ...]:
        """The versions that a rollback of the newest may go to, the nearest first."""
        return (self.settled if self.staged is not None else self.settled[:-1])[::-1]

    @property
    def before(self) -> str | None:
        """The version that a rollback would put in force for all payments."""
        return next(iter(self.past), None)

    def versions(self, payment_id: str) -> tuple[str, ...]:
        """The versions to be asked for a payment, the one in force first, then what was in force before it, to fall back on.

        A version that cannot be read does not stop payments: the next one decides, and after the last the configuration.
        """
        staged = _version_of(self.staged, payment_id)
        line = ((staged,) if staged is not None else ()) + self.settled[::-1]
        return tuple(dict.fromkeys(line))


def standing(publications: Sequence[Publication], now: datetime) -> Standing:
    """What ``publications``, one merchant's in one mode in any order, come to at ``now``."""
    withdrawn = {each.target for each in publications if each.kind is PublicationKind.WITHDRAW}
    counted = [
        each
        for each in publications
        if each.kind in {PublicationKind.PUBLISH, PublicationKind.ROLLBACK} and each.id not in withdrawn
    ]
    started = sorted((each for each in counted if each.started(now)), key=lambda each: (each.starts_at, each.sequence))
    settled: tuple[str, ...] = ()
    base = staged = shadow = None
    for each in started:
        if each.shadow:
            shadow = each
        elif each.percent < BUCKETS:
            staged = each
        else:
            base, staged, settled = each, None, _settle(settled, each)
    waiting = sorted(
        (each for each in counted if not each.started(now)), key=lambda each: (each.starts_at, each.sequence)
    )
    return Standing(settled, base, staged, shadow, tuple(waiting))


def _settle(settled: tuple[str, ...], publication: Publication) -> tuple[str, ...]:
    """The versions to go back to once ``publication`` is in force for all payments."""
    version = publication.version
    if version is None:
        return ()
    if publication.kind is PublicationKind.ROLLBACK and version in settled:
        return settled[: len(settled) - settled[::-1].index(version)]
    return settled if settled[-1:] == (version,) else (*settled, version)


def in_force(publications: Sequence[Publication], payment_id: str, now: datetime) -> str | None:
    """The version that decides a payment, ``None`` where the order of the configuration does.

    The same history, payment and moment always give the same version.
    """
    return next(iter(standing(publications, now).versions(payment_id)), None)


def in_shadow(publications: Sequence[Publication], payment_id: str, now: datetime) -> str | None:
    """The version whose decision on a payment is recorded and not acted on, if there is one."""
    return _version_of(standing(publications, now).shadow, payment_id)


def taken_back(publications: Sequence[Publication]) -> set[str | None]:
    """The versions that the gateway itself has rolled back. Where a person publishes one again, that is their decision."""
    history = sorted(publications, key=lambda each: each.sequence)
    return {standing(history[:at], each.published_at).newest for at, each in enumerate(history) if each.automatic}


def bucket(payment_id: str) -> int:
    """The payment's place among a hundred, 0 to 99. It never changes, and has nothing to do with the arms of a split."""
    digest = blake2b(payment_id.encode(), digest_size=8, person=_PURPOSE).digest()
    return int.from_bytes(digest) % BUCKETS


def _version_of(publication: Publication | None, payment_id: str) -> str | None:
    return publication.version if publication is not None and bucket(payment_id) < publication.percent else None


def awaited(publications: Collection[Publication], now: datetime, valid_s: float) -> list[Publication]:
    """The requests that may still be approved, the oldest first: not approved, not withdrawn, not older than ``valid_s`` seconds."""
    answered = {each.target for each in publications if each.target is not None}
    return sorted(
        (
            each
            for each in publications
            if each.kind is PublicationKind.REQUEST
            and each.id not in answered
            and (now - each.published_at).total_seconds() < valid_s
        ),
        key=lambda each: each.sequence,
    )
