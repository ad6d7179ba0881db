"""Publishing: how a merchant's routing document becomes a version, and a version what is in force.

A version never changes, and the history of publications only grows: what is in force follows from it (``routing.publications``).
Everything here is decided on the history as it was read and written at the end of it, or decided again; so of two who publish at the
same time one comes first, and both are in the history. A rollback reads no document: it works when every one of them is broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

import orjson

from gateway.answers import Answer, instant
from gateway.books import KeyUse, Written
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.events import Event, event
from gateway.ids import PUBLICATION, ROUTING_VERSION, new_id
from gateway.in_force import Owner
from gateway.keys import Decided, written_once
from gateway.rehearsal import check_publishable
from gateway.routing_books import Version
from idempotency.key import Key
from routing.document import Document, Strategy, outcomes, read
from routing.faults import Fault, Faulty
from routing.publications import (
    AUTOMATIC,
    BUCKETS,
    Publication,
    PublicationKind,
    Standing,
    awaited,
    standing,
    taken_back,
)

AWAITED_S: Final = 24 * 3600
"""A publication that nobody approves within a day is not published: what it was asked on is no longer so."""
_TOLD: Final[Mapping[PublicationKind, str]] = {
    PublicationKind.PUBLISH: "routing.version_published",
    PublicationKind.ROLLBACK: "routing.version_published",
    PublicationKind.REQUEST: "routing.approval_requested",
    PublicationKind.WITHDRAW: "routing.publication_withdrawn",
}
"""What each step of the history is called where the merchant is told of it, when it is recorded."""


@dataclass(frozen=True, slots=True)
class Who:
    """A merchant's key in one mode, as the one who does something."""

    merchant_id: str
    livemode: bool
    key_id: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a publication. Without ``starts_at`` it starts at once."""

    reason: str
    percent: int = BUCKETS
    starts_at: datetime | None = None
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Expected:
    """The version that whoever decides has seen in force for all payments, ``None`` where it was none."""

    version: str | None


# --- Objects ----------------------------------------------------------------------------------------------------------


def version_object(version: Version) -> dict[str, Any]:
    """A version as the API shows it. In a list its document is left out."""
    document = {} if version.document is None else {"document": version.document}
    return {
        "id": version.id,
        "object": "routing_config",
        "number": version.number,
        "name": version.name,
        "note": version.note,
        "hash": version.hash,
        "parent": version.parent,
        **document,
        "livemode": version.livemode,
        "created": instant(version.created_at),
        "created_by": version.created_by,
    }


def publication_object(publication: Publication, status: str, *, livemode: bool) -> dict[str, Any]:
    """A step of the history as the API shows it, with what has become of it."""
    return {
        "id": publication.id,
        "object": "routing_publication",
        "sequence": publication.sequence,
        "kind": publication.kind,
        "config": publication.version,
        "percent": publication.percent,
        "shadow": publication.shadow,
        "status": status,
        "starts_at": instant(publication.starts_at),
        "target": publication.target,
        "reason": publication.reason,
        "published_by": publication.published_by,
        "automatic": publication.automatic,
        "approved_by": publication.approved_by,
        "livemode": livemode,
        "created": instant(publication.published_at),
    }


def statuses(history: Sequence[Publication], now: datetime) -> dict[str, str]:
    """What has become of every step of a history: a word of docs/routing.md, by its id."""
    stands = standing(history, now)
    answered = {each.target: each for each in history if each.target is not None}
    waiting = {each.id for each in awaited(history, now, AWAITED_S)}
    named = {each.id: "scheduled" for each in stands.scheduled}
    for each, word in ((stands.base, "in_force"), (stands.staged, "in_force"), (stands.shadow, "shadow")):
        if each is not None:
            named[each.id] = word

    def word_of(each: Publication) -> str:
        answer = answered.get(each.id)
        if answer is not None:
            return "withdrawn" if answer.kind is PublicationKind.WITHDRAW else "approved"
        if each.kind is PublicationKind.REQUEST:
            return "awaiting_approval" if each.id in waiting else "expired"
        if each.kind is PublicationKind.WITHDRAW:
            return "done"
        return named.get(each.id, "superseded")

    return {each.id: word_of(each) for each in history}


def standing_object(
    history: Sequence[Publication],
    version: Version | None,
    watched: Mapping[str, Any] | None,
    now: datetime,
    *,
    livemode: bool,
) -> dict[str, Any]:
    """What is in force at ``now``, what will be, and what a rollback would come to.

    ``version`` is the one in force for all payments, ``watched`` what the shadow has seen so far (``gateway.shadow``).
    """
    stands, words = standing(history, now), statuses(history, now)

    def shown(each: Publication | None) -> dict[str, Any] | None:
        return None if each is None else publication_object(each, words[each.id], livemode=livemode)

    return {
        "object": "routing",
        "in_force": None if version is None else version_object(replace(version, document=None)),
        "publication": shown(stands.base),
        "staged": shown(stands.staged),
        "shadow": shown(stands.shadow),
        "watched": watched,
        "scheduled": [shown(each) for each in stands.scheduled],
        "awaiting_approval": [shown(each) for each in awaited(history, now, AWAITED_S)],
        "rollback_to": stands.before,
        "livemode": livemode,
    }


# --- Versions ---------------------------------------------------------------------------------------------------------


async def readable(document: Mapping[str, Any]) -> Document:
    """The document that was sent. Raises :class:`Problem` (422) with every fault, its place and its fix."""
    try:
        return await asyncio.to_thread(read, document)  # a long one takes a while, and requests are served here
    except Faulty as error:
        raise faulty(error.faults) from None


def faulty(faults: Sequence[Fault]) -> Problem:
    """What is answered to a document that cannot be read: nothing of it is stored."""
    first = faults[0]
    more = "" if len(faults) == 1 else f" There are {len(faults) - 1} more faults."
    detail = f"{first.pointer or 'The document'}: {first.message} {first.fix}{more}"
    told = [{"pointer": each.pointer, "message": each.message, "fix": each.fix} for each in faults]
    return Problem("routing_document_invalid", detail, "document", extra={"errors": told})


async def draft(
    document: Document, name: str | None, note: str | None, who: Who, key: Key, fingerprint: bytes, deps: Deps
) -> Answer:
    """Make a version of ``document``, once a key. Nothing is in force by that."""
    canonical = document.canonical()

    async def decide() -> Decided:
        number = 1 + await deps.routing_books.last_number(who.merchant_id, livemode=who.livemode)
        history = await deps.routing_books.history(who.merchant_id, livemode=who.livemode)
        now = deps.clock()
        version = Version(
            id=new_id(ROUTING_VERSION),
            merchant_id=who.merchant_id,
            livemode=who.livemode,
            number=number,
            name=name or document.name or f"Version {number}",
            document=orjson.loads(canonical),
            hash=sha256(canonical).hexdigest(),
            parent=standing(history, now).version,
            note=note,
            created_at=now,
            created_by=who.key_id,
        )

        async def write(use: KeyUse) -> Written:
            return await deps.routing_books.draft(version, use)

        return Answer(201, orjson.dumps(version_object(version))), write

    return await written_once(key, fingerprint, deps, decide)


# --- Publications -----------------------------------------------------------------------------------------------------

Next = Callable[[Sequence[Publication], Standing, datetime], Awaitable[Publication]]
"""What comes next in a history: decided on the history, what it comes to, and now."""


async def publish(
    version: Version, wanted: Wanted, expected: Expected | None, who: Who, key: Key, fingerprint: bytes, deps: Deps
) -> Answer:
    """Put a version in force, for all payments or a part, at once or at a time; or into the shadow. Once a key.

    Where a second person is asked for, it is requested: 202, and nothing is in force. Raises :class:`Problem`: 422 for a version that
    does not work here or a time that is over, 409 where something else is in force than ``expected``.
    """

    async def next_of(history: Sequence[Publication], stands: Standing, now: datetime) -> Publication:
        _check_expected(stands, expected)
        if wanted.starts_at is not None and wanted.starts_at <= now:
            raise Problem("validation_failed", "starts_at is over; leave it out to start at once.", "starts_at")
        await check_publishable(version, deps)
        kind = PublicationKind.REQUEST if deps.routing_second_person else PublicationKind.PUBLISH
        return _after(
            history, kind, version.id, wanted.percent, wanted.starts_at, wanted.reason, who, now, shadow=wanted.shadow
        )

    return await _recorded(next_of, who, key, fingerprint, deps)


async def rollback(
    reason: str, expected: Expected | None, who: Who, key: Key, fingerprint: bytes, deps: Deps
) -> Answer:
    """Put the version before in force for all payments, at once: what is staged ends, else it is one version back. Once a key.

    It asks for no second person and reads no document. Raises :class:`Problem` (409) where nothing is in force.
    """

    async def next_of(history: Sequence[Publication], stands: Standing, now: datetime) -> Publication:
        _check_expected(stands, expected)
        if stands.staged is None and stands.version is None:
            raise Problem("routing_state", "Nothing is in force that could be rolled back.")
        return _after(history, PublicationKind.ROLLBACK, stands.before, BUCKETS, None, reason, who, now)

    return await _recorded(next_of, who, key, fingerprint, deps)


async def take_back(version: str, losing: Document, reason: str, owner: Owner, deps: Deps) -> Publication | None:
    """Roll ``version`` back by the gateway itself: to the nearest version before it that asks none of its strategies.

    Where there is none, to the order of the configuration. ``losing`` is its document. ``None`` where nothing is done: something else
    was published since, or a person has published it again after the gateway had rolled it back. Done once, whoever else does the same
    and whatever dies when: it is one commit at the end of the history it was decided on.
    """
    (merchant_id, livemode), books = owner, deps.routing_books
    history = await books.history(merchant_id, livemode=livemode)
    now = _now(history, deps)
    stands = standing(history, now)
    if stands.newest != version or version in taken_back(history):
        return None
    lost, to = _strategies(losing), None
    for past in stands.past:
        if await _is_free_of(lost, past, owner, deps):
            to = past
            break
    who = Who(merchant_id, livemode, AUTOMATIC)
    recorded = _after(history, PublicationKind.ROLLBACK, to, BUCKETS, None, reason, who, now)
    _, told = _told(recorded, history, livemode=livemode)
    written = await books.publish(recorded, merchant_id, livemode=livemode, told=told, key=None)
    return recorded if written is Written.DONE else None


async def _is_free_of(lost: AbstractSet[bytes], version_id: str, owner: Owner, deps: Deps) -> bool:
    """Whether a version can be read and asks none of the strategies ``lost``."""
    version = await deps.routing_books.version(version_id, owner[0], livemode=owner[1])
    try:
        document = await asyncio.to_thread(read, (version and version.document) or {})
    except Faulty:
        return False
    return not lost & _strategies(document)


def _strategies(document: Document) -> set[bytes]:
    """What a document's strategies are, each as bytes that are equal where it learns and decides the same."""
    return {
        orjson.dumps([each.strategy, each.accounts, each.all_settings], default=str, option=orjson.OPT_SORT_KEYS)
        for _, _, each in outcomes(document)
        if isinstance(each, Strategy)
    }


async def withdraw(publication: Publication, reason: str, who: Who, key: Key, fingerprint: bytes, deps: Deps) -> Answer:
    """Take out what has not started, a shadow, or a request. Once a key. Raises :class:`Problem` (409) for anything else."""

    async def next_of(history: Sequence[Publication], stands: Standing, now: datetime) -> Publication:
        status = statuses(history, now)[publication.id]
        if status not in {"scheduled", "shadow", "awaiting_approval"}:
            raise Problem(
                "routing_state", f"It is {status}: only what is scheduled, a shadow or a request can be withdrawn."
            )
        return _after(
            history,
            PublicationKind.WITHDRAW,
            publication.version,
            publication.percent,
            None,
            reason,
            who,
            now,
            shadow=publication.shadow,
            target=publication.id,
        )

    return await _recorded(next_of, who, key, fingerprint, deps)


async def approve(
    request: Publication,
    version: Version,
    expected: Expected | None,
    who: Who,
    key: Key,
    fingerprint: bytes,
    deps: Deps,
) -> Answer:
    """Publish what another key has requested, once a key. Where its time is over by then, it starts at once.

    Raises :class:`Problem`: 403 for the key that has requested it, 409 where it no longer waits, and what :func:`publish` raises.
    """

    async def next_of(history: Sequence[Publication], stands: Standing, now: datetime) -> Publication:
        status = statuses(history, now)[request.id]
        if status != "awaiting_approval":
            raise Problem("routing_state", f"It is {status}: only what awaits approval can be approved.")
        if who.key_id == request.published_by:
            raise Problem("forbidden", "Another key has to approve it than the one that has asked for it.")
        _check_expected(stands, expected)
        await check_publishable(version, deps)
        starts_at = request.starts_at if request.starts_at > now else None
        asked = replace(who, key_id=request.published_by)
        return _after(
            history,
            PublicationKind.PUBLISH,
            version.id,
            request.percent,
            starts_at,
            request.reason,
            asked,
            now,
            shadow=request.shadow,
            target=request.id,
            approved_by=who.key_id,
        )

    return await _recorded(next_of, who, key, fingerprint, deps)


async def _recorded(next_of: Next, who: Who, key: Key, fingerprint: bytes, deps: Deps) -> Answer:
    """Decide on the history and write what comes next with its event, once a key."""

    async def decide() -> Decided:
        history = await deps.routing_books.history(who.merchant_id, livemode=who.livemode)
        now = _now(history, deps)
        recorded = await next_of(history, standing(history, now), now)
        shown, told = _told(recorded, history, livemode=who.livemode)

        async def write(use: KeyUse) -> Written:
            return await deps.routing_books.publish(
                recorded, who.merchant_id, livemode=who.livemode, told=told, key=use
            )

        status = 202 if recorded.kind is PublicationKind.REQUEST else 201
        return Answer(status, orjson.dumps(shown)), write

    return await written_once(key, fingerprint, deps, decide)


def _told(recorded: Publication, history: Sequence[Publication], *, livemode: bool) -> tuple[dict[str, Any], Event]:
    status = statuses([*history, recorded], recorded.published_at)[recorded.id]
    shown = publication_object(recorded, status, livemode=livemode)
    return shown, event(_TOLD[recorded.kind], shown, recorded.published_at, livemode=livemode)


def _now(history: Sequence[Publication], deps: Deps) -> datetime:
    """Now, and never before the last step: whoever records it may have a faster clock than ours."""
    return max(deps.clock(), *(each.published_at for each in history[-1:])) if history else deps.clock()


def _after(
    history: Sequence[Publication],
    kind: PublicationKind,
    version: str | None,
    percent: int,
    starts_at: datetime | None,
    reason: str,
    who: Who,
    now: datetime,
    *,
    shadow: bool = False,
    target: str | None = None,
    approved_by: str | None = None,
) -> Publication:
    return Publication(
        id=new_id(PUBLICATION),
        sequence=1 + (history[-1].sequence if history else 0),
        kind=kind,
        version=version,
        percent=percent,
        starts_at=starts_at or now,
        published_at=now,
        published_by=who.key_id,
        reason=reason,
        shadow=shadow,
        target=target,
        approved_by=approved_by,
    )


def _check_expected(stands: Standing, expected: Expected | None) -> None:
    if expected is not None and expected.version != stands.version:
        raise Problem(
            "routing_changed",
            "Another version is in force for all payments than you expected; look at GET /v1/routing and decide again.",
            "expected",
            extra={"in_force": stands.version},
        )
