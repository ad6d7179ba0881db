"""The Prometheus instruments of a worker: how it does, and what its looks into the database found.

An API process has none of these, so that a sum over processes counts nothing twice. Several workers tell the same: take the largest.
"""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary

from gateway.invariants import INVARIANTS

SEVERITIES = ("page", "ticket")
QUEUES = ("operations", "inbound", "outbound")
"""What waits for a worker: operations to be settled, events of providers to be applied, events to be told to merchants."""


class WorkInstruments:
    """What a worker alone tells: how it does, and what it sees."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry)
        self.heartbeat = gauge(
            "interlock_worker_heartbeat_timestamp_seconds",
            "When the worker last looked into the database, in seconds since 1970.",
        )
        self.task_succeeded = gauge(
            "interlock_worker_task_success_timestamp_seconds",
            "When a task was last done without an error, in seconds since 1970.",
            ["task"],
        )
        self.task_seconds = Summary(
            "interlock_worker_task_seconds", "Runs of a task, and the seconds they took.", ["task"], registry=registry
        )
        self.task_failures = Counter(
            "interlock_worker_task_failures", "Runs of a task that ended in an error.", ["task"], registry=registry
        )
        self.unknown = gauge(
            "interlock_unknown_operations",
            "Operations whose outcome is not known, by account, with those that a person looks at.",
            ["account"],
        )
        self.unknown_oldest_seconds = gauge(
            "interlock_unknown_oldest_seconds", "How long ago the oldest of them was opened."
        )
        self.queue_depth = gauge(
            "interlock_queue_depth",
            "What is due and waits for the worker: operations, inbound events, and deliveries of events; 10000 each are counted at most.",
            ["queue"],
        )
        self.inbound_overdue_seconds = gauge(
            "interlock_inbound_events_overdue_seconds",
            "How long the first event of a provider that is due has been waiting to be applied.",
        )
        self.deliveries_pending = gauge(
            "interlock_webhook_deliveries_pending",
            "Deliveries of events that have not ended; of new ones and of such that are tried again 10000 each are counted at most.",
        )
        self.deliveries_overdue_seconds = gauge(
            "interlock_webhook_deliveries_overdue_seconds",
            "How long the first new delivery to an endpoint that works has been waiting.",
        )
        self.incidents_open = gauge(
            "interlock_incidents_open", "Incidents that nobody has closed; 10000 are counted at most."
        )
        self.monitor_incidents_open = gauge(
            "interlock_monitor_incidents_open",
            "Incidents of monitors that are open, by severity, without those that are muted; 10000 are counted at most.",
            ["severity"],
        )
        self._invariants(registry)

    def _invariants(self, registry: CollectorRegistry) -> None:
        self.violations = Gauge(
            "interlock_invariant_violations",
            "How often each promise about payments was found broken, in the last check of what was made lately.",
            ["invariant"],
            registry=registry,
        )
        for each in INVARIANTS:
            self.violations.labels(each.name).set(0)
        self.checked_at = Gauge(
            "interlock_invariant_last_run_timestamp_seconds",
            "When that check was last made to its end, in seconds since 1970; 0 before the first.",
            registry=registry,
        )
        self.check_seconds = Gauge("interlock_invariant_run_seconds", "How long that took.", registry=registry)
