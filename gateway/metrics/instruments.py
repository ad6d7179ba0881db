"""Prometheus instruments, in one place so that their names and labels can be read together.

Labels are bounded by configuration (accounts) or by code (kinds, outcomes, policies, the brands and currencies that are told apart);
nothing else that a caller sends becomes a label. These are the instruments of every process; what a look into the database tells is told
by the worker alone (``gateway.metrics.work``).

A gauge that several API processes of one ``gateway serve`` have is merged when it is read, as its ``multiprocess_mode`` says;
counters and histograms are added up (``gateway.metrics.exposition``).
"""

from __future__ import annotations

from functools import cache, partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from gateway.metrics.decisions import BAD, CLASSES, GOOD, Asked, class_of
from gateway.policies import POLICIES

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)

OURS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bounds of what the gateway adds itself: 20 and 150 ms are its service level."""

AGES = (2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0)

WAITS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)


class Instruments:
    """The counters, gauges and histograms of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests(registry)
        self._charges(registry)
        self._dependencies(registry)
        self._unsettled(registry)
        self._inbound(registry)
        self._outbound(registry)
        self._learned(registry)
        for each in vars(self).values():
            # the library's own look-up of a child was two fifths of what the metrics cost a charge
            if isinstance(each, MetricWrapperBase):
                each.labels = cache(each.labels)  # type: ignore[method-assign]

    def _requests(self, registry: CollectorRegistry) -> None:
        """What is asked of this process, and how it is served."""
        histogram = partial(Histogram, registry=registry)
        self.decisions = Counter(
            "interlock_decisions",
            "Requests by what was asked and what they became; the classes stand in gateway/metrics/decisions.py.",
            ["verb", "class"],
            registry=registry,
        )
        self.answer_seconds = histogram(
            "interlock_answer_seconds",
            "Seconds from a request to its answer, of those that were good or bad.",
            ["verb"],
            buckets=SECONDS,
        )
        self.added_seconds = histogram(
            "interlock_added_seconds",
            "The same without the time spent waiting for providers, and for the caller to send the request: what is ours.",
            ["verb"],
            buckets=OURS,
        )
        for verb in ("create", "confirm"):  # from the start, so that the first bad one is a rise
            for each in CLASSES:
                self.decisions.labels(verb, each)

    def _charges(self, registry: CollectorRegistry) -> None:
        """What merchants ask for and what providers answer."""
        counter = partial(Counter, registry=registry)
        self.outcomes = counter(
            "interlock_operation_outcomes",
            "Outcomes of calls to providers, by account, kind and outcome.",
            ["account", "kind", "outcome"],
        )
        self.provider_seconds = Histogram(
            "interlock_provider_call_seconds",
            "Time a provider took to answer, in seconds.",
            ["account", "kind"],
            buckets=SECONDS,
            registry=registry,
        )
        self.first_attempts = counter(
            "interlock_first_attempts",
            "First attempts of payments, by what came of them: approved over approved and declined is the authorization rate.",
            ["account", "brand", "currency", "result"],
        )
        self.answers = counter(
            "interlock_answers", "Answers to money-moving requests, by HTTP status.", ["verb", "status"]
        )
        self.retries = counter(
            "interlock_retries",
            "Rulings on one more attempt of a charge, by the rule that decided.",
            ["rule", "ruling"],
        )
        self.scheduled = counter(
            "interlock_scheduled_retries",
            "Payments without their shopper that are tried again by themselves: scheduled, put off, and what came of each retry.",
            ["result"],
        )
        self.replays = counter("interlock_idempotent_replays", "Stored answers given once more.")

    def _dependencies(self, registry: CollectorRegistry) -> None:
        """What we stand on, and what stood in for it."""
        self.policies = Counter(
            "dependency_policy_applied",
            "How often a policy stood in for a lost dependency.",
            ["dep", "op", "policy"],
            registry=registry,
        )
        for row in POLICIES.values():  # all of them from the start, so that an alert has something to compare with
            for choice in row.choices:
                for policy in row.counted(choice):
                    self.policies.labels(row.dep, row.op, policy)
        self._lines_dropped = 0
        self.spans = Counter(
            "interlock_trace_spans",
            "Spans of traces by what became of them: exported, not_taken by the collector, queue_full, broken. Only where traces are on.",
            ["result"],
            registry=registry,
        )
        self.clock_skew = Gauge(
            "interlock_clock_skew_seconds",
            "How far this machine's clock certainly is from the database's; positive where it is ahead.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.worker_silent = Gauge(
            "interlock_worker_silent_seconds",
            "Since when no worker has reported; +Inf where none is registered. Told by API processes.",
            multiprocess_mode="livemax",
            registry=registry,
        )

    def _unsettled(self, registry: CollectorRegistry) -> None:
        """Operations whose end is not known, and what a person has to look at."""
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, multiprocess_mode="livemax", registry=registry)
        self.overdue = gauge(
            "interlock_operations_overdue",
            "Operations that have waited for the worker for more than a minute. Told by API processes, each the same.",
        )
        self.overdue_seconds = gauge(
            "interlock_operations_overdue_seconds",
            "How long the first of them has been waiting. Told by API processes.",
        )
        self.unknown_settled_seconds = Histogram(
            "interlock_unknown_settled_seconds",
            "Seconds from opening an operation whose outcome was unknown to knowing it.",
            buckets=AGES,
            registry=registry,
        )
        self.swept = counter(
            "interlock_swept_operations", "Operations the worker looked at, by what became of them.", ["result"]
        )
        self.reviews = counter(
            "interlock_operations_put_in_review",
            "Operations whose outcome nobody could tell in time, by account and kind: a person has to find out.",
            ["account", "kind"],
        )
        self.contradictions = counter(
            "interlock_contradictions",
            "Approvals that deny what was recorded, of an ended attempt or of a void after the capture: a person has to look.",
            ["account"],
        )
        self.incidents = counter(
            "interlock_incidents",
            "What a provider said and was not believed, by account and kind: a person has to look.",
            ["account", "kind"],
        )

    def _inbound(self, registry: CollectorRegistry) -> None:
        """What providers tell us."""
        counter = partial(Counter, registry=registry)
        self.webhooks = counter(
            "interlock_webhooks", "Inbound webhook events, by account and result.", ["account", "result"]
        )
        self.inbound_events = counter(
            "interlock_inbound_events",
            "Events of providers that were looked at, by what became of them.",
            ["result"],
        )
        self.no_news = counter(
            "interlock_news_without_change",
            "News about an operation that changed nothing (duplicates and latecomers).",
            ["source"],
        )

    def _outbound(self, registry: CollectorRegistry) -> None:
        """What merchants are told."""
        self.deliveries = Counter(
            "interlock_webhook_deliveries",
            "Tries to tell a merchant of an event, by what came of them.",
            ["result"],
            registry=registry,
        )
        self.delivery_wait_seconds = Histogram(
            "interlock_webhook_first_try_seconds",
            "Seconds from an event, or from asking for it once more, to its first try at an endpoint.",
            buckets=WAITS,
            registry=registry,
        )

    def _learned(self, registry: CollectorRegistry) -> None:
        """What routing strategies learn from outcomes."""
        self.fold_lag_seconds = Gauge(
            "interlock_routing_fold_lag_seconds",
            "Since when outcomes may be in the books that this process has not learned from: Postgres is away, or a transaction open.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.breakers = Gauge(
            "interlock_routing_breaker",
            "Breakers, by account and strategy: 0 closed, 1 open for some segments, 2 open for all payments. Of several models the worst.",
            ["account", "strategy"],
            multiprocess_mode="livemax",
            registry=registry,
        )

    def answered(self, asked: Asked) -> None:
        """Count one request, once it is over."""
        verb = asked.verb
        if verb is None:
            return
        became = class_of(asked.status)
        self.decisions.labels(verb, became).inc()
        if became in {GOOD, BAD}:
            took_s = asked.took_s
            self.answer_seconds.labels(verb).observe(took_s)
            self.added_seconds.labels(verb).observe(took_s - asked.waited_s)

    def stood_in(self, name: str, policy: str | None = None, times: int = 1) -> None:
        """Count that a row of the policy table stood in, as ``policy`` where that is not the row's default."""
        row = POLICIES[name]
        self.policies.labels(row.dep, row.op, policy or row.default).inc(times)

    def lines_dropped(self, total: int) -> None:
        """Count the log lines that were dropped since the last call; ``total`` is all that this process ever dropped."""
        self.stood_in("log_sink_loss", times=total - self._lines_dropped)
        self._lines_dropped = total

    def applied(self) -> dict[tuple[str, str], dict[str, int]]:
        """How often each row stood in, by its dependency and operation, and then by policy."""
        counts: dict[tuple[str, str], dict[str, int]] = {}
        for metric in self.policies.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    labels = sample.labels
                    counts.setdefault((labels["dep"], labels["op"]), {})[labels["policy"]] = int(sample.value)
        return counts
