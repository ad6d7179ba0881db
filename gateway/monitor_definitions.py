"""What a monitor is to its merchant: as it is asked for, kept and shown; and an incident that it has found. No IO.

Everybody has the built-in ones (:data:`gateway.monitors.BUILTIN`) without asking: they have a row only where they were tuned or muted. Their
ids follow from whose they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlencode

from gateway.answers import instant
from gateway.events import Event, event
from gateway.ids import MONITOR, MONITOR_INCIDENT, derived_id
from gateway.monitor_books import Found, Standing, Stored
from gateway.monitors import BUILTIN, OWN, Incident, Monitor, Static, Tuning, Untunable, as_dict, of_dict
from gateway.monitors.monitor import Severity
from gateway.monitors.segments import SHAPES
from gateway.rates import DIMENSIONS, METADATA

MONITORS_MAX: Final = 50
"""The monitors that a merchant may make in one mode: each is judged every minute."""
LATE: Final = timedelta(minutes=2)
"""Nothing is judged where payments are counted so much later than they are made: what is missing would look like a drop."""
SILENT: Final = timedelta(minutes=5)
"""A merchant's monitors are looked at every minute; where they were not for so long, that is said."""
BEGINNING: Final = datetime(2026, 1, 1, tzinfo=UTC)
NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "authorization_drop": "Fewer authorizations than usual",
        "authentication_drop": "Fewer shoppers get through authentication than usual",
        "technical_errors": "More technical errors than usual",
        "blocked_share": "More attempts are blocked than usual",
        "no_traffic": "Hardly any payments come in",
    }
)
"""What the built-in monitors are called until somebody calls them something else."""
METRICS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "authorization": "attempt_authorization_rate",
        "authentication": "acceptance_rate",
        "technical": "technical_error_rate",
        "blocked": "acceptance_rate",
        "traffic": "acceptance_rate",
    }
)
"""By rate that is watched, the published one to look at."""
STATIC_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType({"severity": "ticket"})
TUNED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "drop": frozenset(Tuning.__dataclass_fields__),
        "traffic": frozenset(Tuning.__dataclass_fields__) - {"false_pages_per_day", "drop"},
        "static": frozenset({"window", "min_sample", "open_after", "close_after", "severity"}),
    }
)
"""What may be tuned of each kind."""
UNSOUND: Final = (Untunable, ValueError, TypeError, KeyError)
"""What is raised for a monitor that another release has stored and this one cannot judge."""


# --- Monitors ------------------------------------------------------------------------------------------------------------


def builtins(merchant_id: str, *, livemode: bool) -> list[Stored]:
    """The built-in monitors as they come."""
    return [
        Stored(
            id=derived_id(MONITOR, BEGINNING, merchant_id, "live" if livemode else "test", each.id),
            merchant_id=merchant_id,
            livemode=livemode,
            builtin=each.id,
            name=NAMES[each.id],
            kind=each.kind,
            settings={"rate": each.rate, "segment": {}, "tuning": {}},
            created_at=BEGINNING,
            created_by="interlock",
            updated_at=BEGINNING,
            updated_by="interlock",
        )
        for each in BUILTIN
    ]


def all_of(stored: Iterable[Stored], merchant_id: str, *, livemode: bool) -> list[Stored]:
    """Every monitor of a merchant in one mode, the newest first: its own, then the built-in ones as they are now."""
    rows = {each.id: each for each in stored}
    built = {each.id: rows.get(each.id, each) for each in builtins(merchant_id, livemode=livemode)}
    own = [each for each in rows.values() if each.id not in built]
    return [*sorted(own, key=lambda each: each.id, reverse=True), *built.values()]


def judged(monitor: Stored) -> Monitor:
    """A monitor of the kinds drop and traffic, as it is judged. Raises :class:`Untunable` where it cannot be."""
    settings = monitor.settings
    segment = of_dict(settings["segment"])
    if tuple(name for name, _ in segment) not in {(), *SHAPES}:
        known = "; ".join(", ".join(each) for each in SHAPES)
        raise Untunable("segment", f"These dimensions are not watched together. There are: {known}.")
    default = _default(monitor)
    return Monitor(
        monitor.id,
        "traffic" if monitor.kind == "traffic" else "drop",
        settings["rate"],
        segment,
        replace(default, **settings["tuning"]),
        monitor.builtin is not None,
    )


def threshold(monitor: Stored) -> Static:
    """A static monitor as it is judged. Raises :class:`Untunable` where it cannot be."""
    settings = monitor.settings
    for name in settings["segment"]:
        if name not in DIMENSIONS and not (name.startswith(METADATA) and len(name) > len(METADATA)):
            raise Untunable(
                "segment", f"segment has a dimension that is none. There are: {', '.join(DIMENSIONS)}, metadata.KEY."
            )
    tuning = {name: value for name, value in settings["tuning"].items() if name != "severity"}
    return Static(settings["metric"], settings["op"], settings["threshold"], **tuning)


def check(monitor: Stored) -> None:
    """Raise :class:`Untunable`, naming the field and the fix, for a monitor that cannot be judged."""
    if wrong := sorted(monitor.settings["tuning"].keys() - TUNED[monitor.kind]):
        known = ", ".join(sorted(TUNED[monitor.kind]))
        raise Untunable(f"tuning.{wrong[0]}", f"A monitor of kind {monitor.kind} is tuned by: {known}.")
    try:
        if monitor.kind == "static":
            threshold(monitor)
        else:
            judged(monitor)
    except Untunable as error:
        raise Untunable(
            f"tuning.{error.param}" if error.param in TUNED[monitor.kind] else error.param, str(error)
        ) from None
    except ValueError as error:
        raise Untunable("segment", str(error)) from None


def tuning_of(monitor: Stored) -> dict[str, Any]:
    """All that is tuned, with what stands where nothing was said. Of a monitor that this release cannot judge, what was said."""
    try:
        if monitor.kind == "static":
            static = asdict(threshold(monitor))
            shown = {name: static[name] for name in sorted(TUNED["static"] - {"severity"})}
            return shown | {"severity": severity_of(monitor)}
        tuning = asdict(judged(monitor).tuning)
    except UNSOUND:
        return dict(monitor.settings["tuning"])
    return {name: tuning[name] for name in sorted(TUNED[monitor.kind])}


def severity_of(monitor: Stored) -> Severity:
    """The severity of a static monitor's incidents."""
    severity: Severity = (STATIC_DEFAULTS | monitor.settings["tuning"])["severity"]
    return severity


def _default(monitor: Stored) -> Tuning:
    return next((each.tuning for each in BUILTIN if each.id == monitor.builtin), OWN)


def state_of(monitor: Stored, standing: Standing, now: datetime) -> tuple[str, str | None]:
    """How a monitor stands, in a word, and what it waits for where that is ``waiting``."""
    if monitor.is_muted(now):
        return "muted", None
    if not standing.counted.complete:
        return "waiting", "Older payments are still being counted."
    as_of = standing.counted.as_of
    if as_of is None or now - as_of > LATE:
        return "waiting", "Payments are counted too late to judge them: see that a worker runs."
    if standing.looked_at is None:
        return "waiting", "Nothing was judged yet: it begins with the first payment, and takes a minute."
    if now - standing.looked_at > SILENT:
        return "waiting", "The worker has not looked for minutes: see that it runs."
    return standing.verdicts.get(monitor.id, "too_little"), None


def monitor_object(monitor: Stored, standing: Standing, open_incidents: int, now: datetime) -> dict[str, Any]:
    """A monitor as the API shows it."""
    settings = monitor.settings
    word, waits_for = state_of(monitor, standing, now)
    muted = monitor.is_muted(now)
    return {
        "id": monitor.id,
        "object": "monitor",
        "name": monitor.name,
        "builtin": monitor.builtin,
        "kind": monitor.kind,
        "rate": settings.get("rate"),
        "metric": settings.get("metric"),
        "op": settings.get("op"),
        "threshold": settings.get("threshold"),
        "segment": settings["segment"],
        "tuning": tuning_of(monitor),
        "state": word,
        "waiting_for": waits_for,
        "judged_until": instant(standing.until),
        "open_incidents": open_incidents,
        "mute": {"until": instant(monitor.muted_until), "reason": monitor.mute_reason} if muted else None,
        "livemode": monitor.livemode,
        "created": instant(monitor.created_at),
        "created_by": monitor.created_by,
        "updated": instant(monitor.updated_at),
        "updated_by": monitor.updated_by,
    }


# --- Incidents -----------------------------------------------------------------------------------------------------------


def incident_id(merchant_id: str, key: str, opened: datetime, *, livemode: bool) -> str:
    """The id of an incident: the same whoever finds it, however often."""
    return derived_id(MONITOR_INCIDENT, opened, merchant_id, "live" if livemode else "test", key)


def at_minute(minute: int) -> datetime:
    """When a minute (since 1970) begins."""
    return datetime.fromtimestamp(60 * minute, UTC)


def facts_of(incident: Incident) -> dict[str, Any]:
    """The figures of an incident, as they are kept and shown."""
    return {
        "detector": incident.detector,
        "rate": incident.rate,
        "window": {
            "from": instant(at_minute(incident.since)),
            "to": instant(at_minute(incident.since + incident.minutes)),
        },
        "expected_rate": round(incident.expected_rate, 6),
        "seen_rate": round(incident.seen_rate, 6),
        "n": incident.n,
        "expected_n": round(incident.expected_n),
        "lost_approvals": round(incident.lost),
        "loss_per_hour": [{"currency": each.currency, "amount": each.amount} for each in incident.loss_per_hour],
        "decline_codes": [
            {
                "code": each.code,
                "n": each.n,
                "share": round(each.share, 6),
                "share_before": None if each.share_before is None else round(each.share_before, 6),
            }
            for each in incident.codes
        ],
        "child": None
        if incident.child is None
        else {"segment": as_dict(incident.child.segment), "share": round(incident.child.share, 6)},
    }


def found_of(
    incident: Incident,
    was: Found | None,
    merchant_id: str,
    now: datetime,
    *,
    livemode: bool,
    summary: str,
) -> Found:
    """An incident as it is stored, from what was found, its sentence, and what was stored of it before."""
    opened = at_minute(incident.opened) if was is None else was.opened_at
    closed = None if incident.closed is None else at_minute(incident.closed)
    return Found(
        id=incident_id(merchant_id, incident.key, opened, livemode=livemode) if was is None else was.id,
        merchant_id=merchant_id,
        livemode=livemode,
        key=incident.key,
        monitor_id=incident.monitor,
        also=tuple(incident.also),
        severity=incident.severity,
        segment=as_dict(incident.segment),
        facts=facts_of(incident),
        summary=summary,
        opened_at=opened,
        noticed_at=now if was is None else was.noticed_at,
        updated_at=now,
        told_at=None if was is None else was.told_at,
        closed_at=closed,
        closed_reason=incident.closed_reason,
        acknowledged_at=None if was is None else was.acknowledged_at,
        acknowledged_by=None if was is None else was.acknowledged_by,
        note=None if was is None else was.note,
    )


def incident_object(found: Found) -> dict[str, Any]:
    """An incident as the API and the events show it."""
    return {
        "id": found.id,
        "object": "monitor_incident",
        "monitor": found.monitor_id,
        "also": list(found.also),
        "status": "open" if found.closed_at is None else "closed",
        "severity": found.severity,
        "summary": found.summary,
        "segment": dict(found.segment),
        **found.facts,
        "look": look_of(found),
        "opened": instant(found.opened_at),
        "noticed": instant(found.noticed_at),
        "told": instant(found.told_at),
        "closed": instant(found.closed_at),
        "closed_reason": found.closed_reason,
        "acknowledged": None
        if found.acknowledged_at is None
        else {"at": instant(found.acknowledged_at), "by": found.acknowledged_by, "note": found.note},
        "livemode": found.livemode,
    }


def look_of(found: Found) -> dict[str, str]:
    """Where to look: the same rate of the same segment, at the API and on the page, by what it lies in most."""
    rate = found.facts["rate"]
    metric = METRICS.get(rate, rate)
    filters = [("filter", f"{name}:{value or ''}") for name, value in found.segment.items()]
    child = found.facts.get("child")
    by = next((name for name in (child or {"segment": {}})["segment"] if name not in found.segment), "account")
    by = by if by not in found.segment else "decline_code"
    start = found.opened_at - timedelta(hours=2)
    asked = [("group_by", by), ("from", instant(start) or ""), *filters]
    shown = [
        ("metric", metric),
        ("period", "24h"),
        ("by", by),
        ("mode", "live" if found.livemode else "test"),
        *filters,
    ]
    return {
        "metrics": f"/v1/metrics/{metric}?{urlencode(asked)}",
        "console": f"/console/authorization?{urlencode(shown)}",
    }


def told(type_: str, found: Found, at: datetime) -> Event:
    """The event of an incident, ``opened``, ``escalated`` or ``closed``."""
    return event(f"monitor.incident_{type_}", incident_object(found), at, livemode=found.livemode)


def is_told(found: Found, monitors: Mapping[str, Stored], now: datetime) -> bool:
    """Whether the merchant wants to hear of it: not where all monitors that see it are muted."""
    seeing: Sequence[Stored] = [monitors[each] for each in (found.monitor_id, *found.also) if each in monitors]
    return any(not each.is_muted(now) for each in seeing)
