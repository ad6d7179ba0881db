"""Prometheus instruments, in one place so that their names and labels can be read together.

Labels are bounded by configuration (accounts) or by code (kinds, outcomes, policies); nothing a caller sends becomes a label.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)


class Instruments:
    """The counters and histograms of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.outcomes = Counter(
            "interlock_operation_outcomes",
            "Outcomes of calls to providers, by account, kind and outcome.",
            ["account", "kind", "outcome"],
            registry=registry,
        )
        self.provider_seconds = Histogram(
            "interlock_provider_call_seconds",
            "Time a provider took to answer, in seconds.",
            ["account", "kind"],
            buckets=SECONDS,
            registry=registry,
        )
        self.answers = Counter(
            "interlock_answers",
            "Answers to money-moving requests, by HTTP status.",
            ["verb", "status"],
            registry=registry,
        )
        self.replays = Counter("interlock_idempotent_replays", "Stored answers given once more.", registry=registry)
        self.policies = Counter(
            "dependency_policy_applied",
            "How often a policy stood in for a lost dependency.",
            ["dep", "op", "policy"],
            registry=registry,
        )
        self.webhooks = Counter(
            "interlock_webhooks",
            "Inbound webhook events, by account and result.",
            ["account", "result"],
            registry=registry,
        )
        self.no_news = Counter(
            "interlock_news_without_change",
            "News about an operation that changed nothing (duplicates and latecomers).",
            ["source"],
            registry=registry,
        )
        self.contradictions = Counter(
            "interlock_contradictions",
            "Approvals that deny what was recorded, of an ended attempt or of a void after the capture: a person has to look.",
            ["account"],
            registry=registry,
        )
        self.reviews = Counter(
            "interlock_operations_put_in_review",
            "Operations whose outcome nobody could tell in time, by account and kind: a person has to find out.",
            ["account", "kind"],
            registry=registry,
        )
        self.swept = Counter(
            "interlock_swept_operations",
            "Operations the worker looked at, by what became of them.",
            ["result"],
            registry=registry,
        )
