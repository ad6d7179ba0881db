"""Monitors: what is watched of a merchant's payments, and the incidents that were found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import Answer, instant
from gateway.api import asking, reading
from gateway.api.asking import Desk
from gateway.api.auth import Authenticator, Principal
from gateway.api.schemas import Body, IncidentAcknowledge, MonitorCreate, MonitorMute, MonitorUpdate
from gateway.books import KeyUse, Written
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.ids import MONITOR, MONITOR_INCIDENT, is_id, new_id
from gateway.keys import Decided, written_once
from gateway.monitor_books import Found, MonitorBooks, Standing, Stored
from gateway.monitor_definitions import MONITORS_MAX, all_of, check, incident_object, monitor_object
from gateway.monitors import Untunable
from idempotency.key import fingerprint

STATUSES: Final = ("open", "closed")
SEVERITIES: Final = ("page", "ticket")
OPEN_MAX: Final = 1_000
"""More open incidents are not counted."""
_OF_KIND: Final[Mapping[str, frozenset[str]]] = {
    "drop": frozenset({"rate"}),
    "traffic": frozenset(),
    "static": frozenset({"metric", "op", "threshold"}),
}
"""What a monitor of each kind is said by, beside its segment and tuning."""


class Monitors(Desk):
    """The routes of monitors and their incidents over one house."""

    def __init__(self, deps: Deps, authenticator: Authenticator, books: MonitorBooks) -> None:
        super().__init__(deps, authenticator)
        self._books = books

    # --- monitors ---

    async def create(self, request: Request) -> Response:
        """``POST /v1/monitors``: one of one's own, judged from the next minute on."""
        who, key, raw = await self._asked(request)
        body = reading.validate(MonitorCreate, raw)

        async def decide() -> Decided:
            now = self._deps.clock()
            monitor = _sound(_made(body, who, now))
            own = [each for each in await self._all(who) if each.builtin is None]
            if len(own) >= MONITORS_MAX:
                said = f"There are {MONITORS_MAX} monitors already. Delete one of them first."
                raise Problem("validation_failed", said)

            async def write(use: KeyUse) -> Written:
                return await self._books.create(monitor, use)

            shown = monitor_object(monitor, await self._standing(who), 0, now)
            return Answer(201, orjson.dumps(shown)), write

        print_ = fingerprint(self._deps.keys.fingerprint, "POST /v1/monitors", "", raw)
        return self._answer("create_monitor", await written_once(key, print_, self._deps, decide))

    async def list(self, request: Request) -> Response:
        """``GET /v1/monitors``: one's own, the newest first, then the built-in ones."""
        who = await self._principal(request)
        cursor, limit = asking.page(request, (), MONITOR)
        monitors, standing = await self._all(who), await self._standing(who)
        open_, now = await self._open(who), self._deps.clock()
        rest = _after(cursor, monitors)[: limit + 1]
        shown = [monitor_object(each, standing, open_[each.id], now) for each in rest]
        return asking.listed(shown, limit)

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/monitors/{id}``, with what was done about it."""
        who = await self._principal(request)
        monitor = await self._monitor(request, who)
        changes = [
            {"at": instant(row["at"]), "by": row["by"], "what": row["what"], "after": row["after"]}
            for row in await self._books.changes(monitor.id)
        ]
        return asking.json({**await self._shown(monitor, who), "changes": changes})

    async def update(self, request: Request) -> Response:
        """``POST /v1/monitors/{id}``: tune it, mute it. Sent again it changes nothing more, so it needs no key."""
        who, raw = await self._asked_plainly(request)
        was = await self._monitor(request, who)
        body = reading.validate(MonitorUpdate, raw)
        monitor = _sound(_changed(was, body, who, self._deps.clock()))
        if _what(monitor) != _what(was):
            written = await self._books.put(monitor, was.updated_at)
            if written is None:
                raise Problem(
                    "request_in_progress", "It is being changed by another request. Look at it and ask again."
                )
            monitor = written
        else:
            monitor = was
        return asking.json(await self._shown(monitor, who))

    async def delete(self, request: Request) -> Response:
        """``DELETE /v1/monitors/{id}``. A built-in one is muted instead."""
        who = await self._principal(request)
        monitor = await self._monitor(request, who)
        if monitor.builtin is not None:
            raise Problem(
                "monitor_builtin",
                'A built-in monitor cannot be deleted. Mute it: POST {"mute": {"reason": "…"}} to its address.',
            )
        await self._books.delete(monitor.id, who.key_id, self._deps.clock())
        return asking.json({"id": monitor.id, "object": "monitor", "deleted": True})

    # --- incidents ---

    async def incidents_of(self, request: Request) -> Response:
        """``GET /v1/monitors/{id}/incidents``, newest first."""
        who = await self._principal(request)
        monitor = await self._monitor(request, who)
        return await self._listed(request, who, monitor=monitor.id)

    async def incidents(self, request: Request) -> Response:
        """``GET /v1/monitor_incidents``, newest first."""
        return await self._listed(request, await self._principal(request))

    async def incident(self, request: Request) -> Response:
        """``GET /v1/monitor_incidents/{id}``."""
        return asking.json(incident_object(await self._incident(request, await self._principal(request))))

    async def acknowledge(self, request: Request) -> Response:
        """``POST /v1/monitor_incidents/{id}/acknowledge``: who was first stays, so it needs no key."""
        who, raw = await self._asked_plainly(request)
        incident = await self._incident(request, who)
        body = reading.validate(IncidentAcknowledge, raw)
        await self._books.acknowledge(incident.id, who.key_id, body.note, self._deps.clock())
        return asking.json(incident_object(await self._incident(request, who)))

    # --- parts ---

    async def _all(self, who: Principal) -> Sequence[Stored]:
        stored = await self._books.monitors(who.merchant_id, livemode=who.livemode)
        return all_of(stored, who.merchant_id, livemode=who.livemode)

    async def _monitor(self, request: Request, who: Principal) -> Stored:
        async def find(wanted: str, merchant_id: str, /, *, livemode: bool) -> Stored | None:
            return next((each for each in await self._all(who) if each.id == wanted), None)

        return await self._named(request, who, MONITOR, "monitor", find)

    async def _incident(self, request: Request, who: Principal) -> Found:
        return await self._named(request, who, MONITOR_INCIDENT, "monitor incident", self._books.incident)

    async def _standing(self, who: Principal) -> Standing:
        return await self._books.standing(who.merchant_id, livemode=who.livemode)

    async def _open(self, who: Principal) -> Counter[str]:
        """How many open incidents each monitor sees."""
        found = await self._books.incidents(who.merchant_id, livemode=who.livemode, limit=OPEN_MAX, open=True)
        return Counter(monitor for each in found for monitor in (each.monitor_id, *each.also))

    async def _shown(self, monitor: Stored, who: Principal) -> dict[str, Any]:
        open_ = await self._open(who)
        return monitor_object(monitor, await self._standing(who), open_[monitor.id], self._deps.clock())

    async def _listed(self, request: Request, who: Principal, monitor: str | None = None) -> Response:
        filters = ("status", "severity") if monitor else ("status", "severity", "monitor")
        before, limit = asking.page(request, filters, MONITOR_INCIDENT)
        query = request.query_params
        for name, words in (("status", STATUSES), ("severity", SEVERITIES)):
            if name in query and query[name] not in words:
                raise Problem("validation_failed", f"{name} must be one of: {', '.join(words)}.", name)
        if "monitor" in query and not is_id(query["monitor"], MONITOR):
            raise Problem("validation_failed", f"monitor must be an id that starts with {MONITOR}_.", "monitor")
        found = await self._books.incidents(
            who.merchant_id,
            livemode=who.livemode,
            limit=limit + 1,
            before=before,
            monitor=monitor or query.get("monitor"),
            severity=query.get("severity"),
            open=None if "status" not in query else query["status"] == "open",
        )
        return asking.listed([incident_object(each) for each in found], limit)


# --- What is asked -------------------------------------------------------------------------------------------------------


def _made(body: MonitorCreate, who: Principal, now: datetime) -> Stored:
    """The monitor that is asked for. Raises :class:`Problem` (422) where what is said does not fit its kind."""
    said = {name: getattr(body, name) for name in ("rate", "metric", "op", "threshold")}
    for name, value in said.items():
        if (value is not None) != (name in _OF_KIND[body.kind]):
            word = "is required for" if value is None else "does not belong to"
            raise Problem("validation_failed", f"{name} {word} a monitor of kind {body.kind}.", name)
    settings = {name: value for name, value in said.items() if value is not None}
    settings |= {"rate": "traffic"} if body.kind == "traffic" else {}
    tuning = {} if body.tuning is None else body.tuning.model_dump(exclude_none=True)
    return Stored(
        id=new_id(MONITOR),
        merchant_id=who.merchant_id,
        livemode=who.livemode,
        builtin=None,
        name=body.name,
        kind=body.kind,
        settings=settings | {"segment": body.segment, "tuning": tuning},
        **_mute(body.mute, now),
        created_at=now,
        created_by=who.key_id,
        updated_at=now,
        updated_by=who.key_id,
    )


def _changed(was: Stored, body: MonitorUpdate, who: Principal, now: datetime) -> Stored:
    """The monitor with what is asked for. Raises :class:`Problem` (422) for what this one does not have."""
    asked = body.model_fields_set
    for name in ("name", "threshold"):
        if name in asked and getattr(body, name) is None:
            raise Problem("validation_failed", f"{name} cannot be null.", name)
    if "threshold" in asked and was.kind != "static":
        raise Problem("validation_failed", f"threshold does not belong to a monitor of kind {was.kind}.", "threshold")
    settings = dict(was.settings)
    if body.threshold is not None:
        settings["threshold"] = body.threshold
    if "tuning" in asked:
        given = {} if body.tuning is None else body.tuning.model_dump(include=body.tuning.model_fields_set)
        tuned = {} if body.tuning is None else settings["tuning"] | given
        settings["tuning"] = {name: value for name, value in tuned.items() if value is not None}
    muted = _mute(body.mute, now) if "mute" in asked else {}
    name = was.name if body.name is None else body.name
    return replace(was, name=name, settings=settings, **muted, updated_at=now, updated_by=who.key_id)


def _after(cursor: str | None, monitors: Sequence[Stored]) -> Sequence[Stored]:
    """What follows a monitor in the list. One that was deleted since stood before those that are older."""
    if cursor is None:
        return monitors
    at = next((at for at, each in enumerate(monitors) if each.id == cursor), None)
    if at is not None:
        return monitors[at + 1 :]
    return [each for each in monitors if each.builtin is not None or each.id < cursor]


def _mute(mute: MonitorMute | None, now: datetime) -> dict[str, Any]:
    """The columns of a mute, or of none. Raises :class:`Problem` (422) for one that is over."""
    if mute is None:
        return {"muted": False, "muted_until": None, "mute_reason": None}
    until = None if mute.until is None else reading.instant(mute.until, "mute.until")
    if until is not None and until <= now:
        raise Problem(
            "validation_failed", "mute.until must be later than now; null is until you unmute it.", "mute.until"
        )
    return {"muted": True, "muted_until": until, "mute_reason": mute.reason}


def _sound(monitor: Stored) -> Stored:
    """The monitor, where it can be judged. Raises :class:`Problem` (422) naming the field."""
    try:
        check(monitor)
    except Untunable as wrong:
        raise Problem("validation_failed", str(wrong), wrong.param) from None
    return monitor


def _what(monitor: Stored) -> tuple[Any, ...]:
    """All that may be changed of it."""
    return monitor.name, monitor.settings, monitor.muted, monitor.muted_until, monitor.mute_reason


BODIES: Final[Mapping[str, type[Body]]] = {
    "create_monitor": MonitorCreate,
    "update_monitor": MonitorUpdate,
    "acknowledge_monitor_incident": IncidentAcknowledge,
}
"""What each verb takes, for the OpenAPI document."""
