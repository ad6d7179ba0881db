"""What the OpenAPI document says of the monitors, and the event that is printed of them. As ``gateway.api.described_routing``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from gateway.monitor_books import Found, Standing, Stored
from gateway.monitor_definitions import builtins, incident_object, monitor_object, told
from gateway.rate_books import CountedTo

_NOW: Final = datetime(2026, 11, 21, 9, 30, 12, 123456, UTC)
_MINUTE: Final = _NOW.replace(second=0, microsecond=0)
_BUILTIN: Final = builtins("mer_shop", livemode=True)[0]
_OWN: Final = Stored(
    id="mon_0193a4c5d6e77f8091a2b3c4d5e6f720",
    merchant_id="mer_shop",
    livemode=True,
    builtin=None,
    name="Acceptance at acme_us",
    kind="static",
    settings={
        "metric": "acceptance_rate",
        "op": "below",
        "threshold": 0.8,
        "segment": {"account": "acme_us"},
        "tuning": {"window": 30, "severity": "page"},
    },
    created_at=_NOW,
    created_by="5ad1f0c2a4e14d1e",
    updated_at=_NOW,
    updated_by="5ad1f0c2a4e14d1e",
)
_FOUND: Final = Found(
    id="mi_0193a4c5d6e77f8091a2b3c4d5e6f721",
    merchant_id="mer_shop",
    livemode=True,
    key="issuer_country=FR",
    monitor_id=_BUILTIN.id,
    also=(),
    severity="page",
    segment={"issuer_country": "FR"},
    facts={
        "detector": "window",
        "rate": "authorization",
        "window": {"from": "2026-11-21T09:15:00.000000Z", "to": "2026-11-21T09:30:00.000000Z"},
        "expected_rate": 0.8842,
        "seen_rate": 0.206897,
        "n": 87,
        "expected_n": 91,
        "lost_approvals": 59,
        "loss_per_hour": [{"currency": "EUR", "amount": 1_093_600}],
        "decline_codes": [{"code": "issuer_unavailable", "n": 61, "share": 0.884058, "share_before": 0.0213}],
        "child": {"segment": {"brand": "visa", "issuer_country": "FR"}, "share": 0.92},
    },
    summary="79.3 % of 87 attempts of issuer country FR were declined in 15 minutes, where 11.6 % are usual: about 236 approvals an hour are "
    "lost, worth 10,936.00 EUR.",
    opened_at=_MINUTE,
    noticed_at=_NOW,
    updated_at=_NOW,
    told_at=_NOW,
)
_STANDING: Final = Standing(
    CountedTo(_NOW - timedelta(seconds=2), complete=True), _NOW, _MINUTE, {_BUILTIN.id: "alerting", _OWN.id: "ok"}
)
BUILTIN: Final = monitor_object(_BUILTIN, _STANDING, 1, _NOW)
OWN: Final = monitor_object(_OWN, _STANDING, 0, _NOW)
CHANGES: Final[list[dict[str, Any]]] = [
    {
        "at": OWN["created"],
        "by": _OWN.created_by,
        "what": "created",
        "after": {"name": _OWN.name, "settings": _OWN.settings, "muted": False},
    }
]
INCIDENT: Final = incident_object(_FOUND)
EVENT: Final = told("opened", _FOUND, _NOW)

_ASK: Final = {
    "name": _OWN.name,
    "kind": "static",
    "metric": "acceptance_rate",
    "op": "below",
    "threshold": 0.8,
    "segment": {"account": "acme_us"},
    "tuning": {"window": 30, "severity": "page"},
}
_MUTE: Final = {"mute": {"until": "2026-11-21T12:00:00Z", "reason": "acme_us is in maintenance until noon."}}
_SEEN: Final = {"note": "The issuer's processor is down; case 4711."}
ASKED: Final[tuple[tuple[str, str, str, Any, str, Mapping[str, Any]], ...]] = (
    ("/v1/monitors", "create_monitor", "Watch a part of your payments", _ASK, "201", OWN),
    (
        "/v1/monitors/{id}",
        "update_monitor",
        "Tune a monitor, or mute it; a built-in one, too",
        _MUTE,
        "200",
        {
            **BUILTIN,
            "state": "muted",
            "mute": {"until": "2026-11-21T12:00:00.000000Z", "reason": _MUTE["mute"]["reason"]},
        },
    ),
    (
        "/v1/monitor_incidents/{id}/acknowledge",
        "acknowledge_monitor_incident",
        "Say that you have seen it",
        _SEEN,
        "200",
        {
            **INCIDENT,
            "acknowledged": {"at": "2026-11-21T09:34:00.000000Z", "by": "5ad1f0c2a4e14d1e", "note": _SEEN["note"]},
        },
    ),
)
"""Path, verb, summary, an example of what is sent, the status of success, an example of the answer."""
