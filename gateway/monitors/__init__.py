"""Monitors: what is out of the usual in the payments, as incidents that say where, since when and what it costs. Pure.

    expected = expect(hour, past, overall)                        # once an hour, from the counts of four weeks
    decision = decide(minute, BUILTIN, seen, expected, state)     # once a minute; keep decision.state for the next
    for incident in decision.opened: print(incident.summary)

Nothing here does IO or reads a clock: the same rows give the same decision. How it is decided stands in docs/monitors.md.
"""

from __future__ import annotations

from gateway.monitors.detection import Decision, State, decide, needed_from
from gateway.monitors.expecting import Expected, Overall, Past, expect, past_hours
from gateway.monitors.incident import Child, CodeShare, Incident, Loss, with_codes
from gateway.monitors.monitor import (
    BUILTIN,
    OWN,
    RATES,
    Monitor,
    Run,
    Static,
    Tuning,
    Untunable,
    Verdict,
    debounce,
    judge,
)
from gateway.monitors.segments import Leaf, Segment, as_dict, of_dict, told
from gateway.monitors.windows import Seen

__all__ = [
    "BUILTIN",
    "OWN",
    "RATES",
    "Child",
    "CodeShare",
    "Decision",
    "Expected",
    "Incident",
    "Leaf",
    "Loss",
    "Monitor",
    "Overall",
    "Past",
    "Run",
    "Seen",
    "Segment",
    "State",
    "Static",
    "Tuning",
    "Untunable",
    "Verdict",
    "as_dict",
    "debounce",
    "decide",
    "expect",
    "judge",
    "needed_from",
    "of_dict",
    "past_hours",
    "told",
    "with_codes",
]
