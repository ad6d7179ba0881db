"""What the gateway does without a part that it has lost: one table.

Each row is a part, what was being asked while it was lost, and what stands in. A row with one choice can only hold that one, and
says why. Rows are shown by ``GET /v1/policies``, printed into docs/operations.md, counted in
``dependency_policy_applied_total{dep,op,policy}``, and each has a test that breaks its part for real (tests/flows/test_policies.py).

The variable of a row is ``GATEWAY_ON_`` and its name. This module is pure: what is lost is found out elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from routing.plan import OnUnknown

SETTING: Final = "GATEWAY_ON_"

WORKER_LOST_S: Final = 60
"""A worker reports every 10 s. One that was silent for a minute is lost, and so is an operation that waited for it that long."""
WORKER_GRACE_S: Final = 600
"""How long payments go on being taken while nobody settles: time enough to start a worker again."""
SKEW_MAX_S: Final = 2.0
"""A clock further from the database's is wrong: leases of 6 s and signatures of 5 minutes are measured by it."""


class Stance(StrEnum):
    """The three things that can be done without a part."""

    FAIL_OPEN = "fail_open"
    """Go on without it."""
    FAIL_CLOSED = "fail_closed"
    """Refuse: nothing happens until it is back."""
    DEGRADE = "degrade"
    """Go on with a named substitute."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that a row may be set to. ``counted_as`` are the words it is counted under, where they are not its own name."""

    stance: Stance
    does: str
    caller_sees: str
    counted_as: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """One row. ``dep`` and ``op`` are its labels in the metric, ``fixed`` is why there is no other choice."""

    dep: str
    op: str
    lost: str
    operations: tuple[str, ...]
    default: str
    choices: Mapping[str, Choice]
    fixed: str | None = None

    @property
    def configurable(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.choices) > 1

    def counted(self, choice: str) -> tuple[str, ...]:
        """The words that a choice is counted under."""
        return self.choices[choice].counted_as or (choice,)


def _only(stance: Stance, does: str, caller_sees: str) -> tuple[str, Mapping[str, Choice]]:
    """The default and the choices of a row that can hold one value."""
    return stance, {stance: Choice(stance, does, caller_sees)}


_MONEY: Final = ("create", "confirm", "capture", "cancel", "increment", "refund", "evidence", "accept")

_ROWS: Final[Mapping[str, Policy]] = {
    "redis_loss": Policy(
        "redis",
        "idempotency_gate",
        "Redis, the idempotency gate",
        _MONEY,
        Stance.FAIL_OPEN,
        {
            Stance.FAIL_OPEN: Choice(
                Stance.FAIL_OPEN, "goes on with the unique key in Postgres, one more read", "the same answers, slower"
            ),
            Stance.FAIL_CLOSED: Choice(
                Stance.FAIL_CLOSED, "refuses until Redis is back", "503 `idempotency_unavailable`; the same key is safe"
            ),
        },
    ),
    "redis_data_loss": Policy(
        "redis",
        "idempotency_data",
        "What Redis held: flushed, or failed over to a copy that is behind",
        _MONEY,
        *_only(Stance.DEGRADE, "finds every used key in Postgres", "the same answers"),
        fixed="Redis is never the truth, so what it forgets decides nothing.",
    ),
    "postgres_loss_opening": Policy(
        "postgres",
        "open",
        "Postgres, before the provider is asked",
        _MONEY,
        *_only(
            Stance.FAIL_CLOSED,
            "refuses, and sends nothing; where it is lost in the middle of the first commit, it is tried again for 5 s",
            "503 `database_unavailable`, or 504 `outcome_in_doubt` after a lost commit; the same key is safe",
        ),
        fixed="What is not committed before it is sent can be charged twice after a crash.",
    ),
    "postgres_loss_recording": Policy(
        "postgres",
        "record",
        "Postgres, after the provider has answered",
        _MONEY,
        *_only(
            Stance.DEGRADE,
            "holds the outcome for 10 s, then leaves it to the worker, which sends the same bytes under the same key",
            "the answer, late; or 202 `processing` (`outcome_unknown`)",
        ),
        fixed="Any other answer would call an outcome failed that may be money taken.",
    ),
    "postgres_loss_reading": Policy(
        "postgres",
        "read",
        "Postgres, for a read",
        ("retrieve", "list"),
        *_only(Stance.FAIL_CLOSED, "answers nothing from memory", "503 `database_unavailable`"),
        fixed="A state of money that may be old is worse than none.",
    ),
    "postgres_loss_webhook": Policy(
        "postgres",
        "webhook",
        "Postgres, for an inbound webhook",
        ("webhook",),
        *_only(
            Stance.FAIL_CLOSED,
            "acknowledges nothing that is not stored; the provider sends it again for days",
            "the provider sees 503 `webhook_not_stored`",
        ),
        fixed="An acknowledged webhook is never sent again.",
    ),
    "postgres_loss_api_key": Policy(
        "postgres",
        "api_key_lookup",
        "Postgres, for the look-up of an API key",
        ("any",),
        *_only(
            Stance.FAIL_CLOSED,
            "lets nobody in that it cannot look up; a key is remembered for 5 s",
            "503 `database_unavailable`",
        ),
        fixed="A key that cannot be looked up may be revoked, or nobody's.",
    ),
    "postgres_loss_routing": Policy(
        "postgres",
        "routing",
        "Postgres, for what is in force of routing",
        ("create", "confirm"),
        *_only(
            Stance.DEGRADE,
            "decides by what each process read last, and by the order of the configuration where it has read nothing yet",
            "the same answers; what was published meanwhile is in force a second after Postgres is back",
        ),
        fixed="An older rule is better than no payment.",
    ),
    "routing_unreadable": Policy(
        "routing_document",
        "authorize",
        "A routing document in force that cannot be read: broken in the database, or of a newer release",
        ("create", "confirm"),
        *_only(
            Stance.DEGRADE,
            "decides by the version that was in force before it, and by the order of the configuration where there is none",
            "the same answers; `GET /v1/payments/{id}/routing` names the version that could not be read",
        ),
        fixed="A mistake in a document must never stop payments.",
    ),
    "shadow_not_decided": Policy(
        "routing_shadow",
        "authorize",
        "A version in the shadow that cannot decide, whatever the cause, or was slow just now",
        ("create", "confirm"),
        *_only(
            Stance.DEGRADE,
            "decides by the version in force, and keeps nothing of the shadow with that payment",
            "the same answers; the decision has no `shadow`",
        ),
        fixed="What only watches must never stop a payment.",
    ),
    "provider_not_reached": Policy(
        "provider",
        "authorize",
        "A provider account: not reachable, or it certainly did nothing",
        ("create", "confirm"),
        Stance.FAIL_OPEN,
        {
            Stance.FAIL_OPEN: Choice(
                Stance.FAIL_OPEN, "asks the next account", "201; `attempt_count` tells of the account before"
            ),
            Stance.FAIL_CLOSED: Choice(
                Stance.FAIL_CLOSED,
                "asks nobody else; the same key starts over",
                "503 `provider_unavailable`; the same key is safe",
            ),
        },
    ),
    "unknown": Policy(
        "provider_outcome",
        "authorize",
        "A provider's answer: it may have charged",
        ("create", "confirm"),
        OnUnknown.HOLD,
        {
            OnUnknown.HOLD: Choice(
                Stance.FAIL_CLOSED,
                "asks nobody else; the worker settles it after 2, 5, 15, 60 s and so on",
                "202 `processing` (`outcome_unknown`); GET tells when it is settled",
            ),
            OnUnknown.VOID_THEN_FAILOVER: Choice(
                Stance.DEGRADE,
                "voids it, and asks the next account once the provider has confirmed the void",
                "201 from the next account, or 202 `processing` until the void is confirmed; the same key drives it on",
            ),
        },
    ),
    "providers_all_down": Policy(
        "providers",
        "authorize",
        "Every provider account that may take the payment",
        ("create", "confirm"),
        *_only(
            Stance.FAIL_CLOSED,
            "parks the payment with nothing open anywhere; the same key starts over, and after 15 minutes it has failed, never sent",
            "503 `provider_unavailable` with the payment, `processing` (`awaiting_retry`)",
        ),
        fixed="There is nobody left to ask.",
    ),
    "follow_up_not_reached": Policy(
        "provider",
        "follow_up",
        "The provider that holds the payment, for a verb on it",
        ("capture", "cancel", "refund", "increment", "evidence", "accept"),
        *_only(
            Stance.DEGRADE,
            "queues it for a day, or less where the provider forgets keys sooner, and sends it again under the same key; "
            "then it fails and its amount is free again",
            "202, the operation `pending`; GET tells when it is settled",
        ),
        fixed="No other account holds that money.",
    ),
    "strategy_not_asked": Policy(
        "strategy",
        "authorize",
        "What a routing strategy has learned: not read yet, by a process that has just started or of what was just published",
        ("create", "confirm"),
        *_only(
            Stance.DEGRADE,
            "asks the accounts of the outcome in the order in which they are listed, until what there is has been read",
            "the same answers; `GET /v1/payments/{id}/routing` says so",
        ),
        fixed="No payment may wait for what a strategy knows.",
    ),
    "log_sink_loss": Policy(
        "log_sink",
        "any",
        "Where the log goes: blocked, closed or full. Metrics are kept in memory until they are asked for",
        ("any",),
        *_only(Stance.FAIL_OPEN, "keeps a thousand lines, then drops and counts them", "the same answers"),
        fixed="No charge may wait for a log line, or fail for one.",
    ),
    "webhook_unconfigured": Policy(
        "webhook_secret",
        "webhook",
        "The secret of a webhook: its account is not known here, or has none",
        ("webhook",),
        *_only(Stance.FAIL_CLOSED, "stores nothing", "401 `webhook_refused`"),
        fixed="Without a secret anybody could tell us that a payment was made.",
    ),
    "webhook_not_authentic": Policy(
        "webhook_signature",
        "webhook",
        "The proof of a webhook: a wrong signature or, where the provider signs the time, one further off than 5 minutes",
        ("webhook",),
        *_only(Stance.FAIL_CLOSED, "stores nothing", "401 `webhook_refused`"),
        fixed="Anybody could tell us that a payment was made, or tell it again.",
    ),
    "vault_loss_card": Policy(
        "vault",
        "stored_card",
        "A key of the vault, for a card that is stored",
        ("create", "confirm"),
        *_only(
            Stance.FAIL_CLOSED,
            "does not charge the card, and logs `card_does_not_open`; tokens and new cards go on",
            "503 `vault_unavailable`; the same key is safe",
        ),
        fixed="A card that does not open cannot be sent.",
    ),
    "vault_loss_follow_up": Policy(
        "vault",
        "follow_up",
        "A key of the vault, for a verb on a payment that is there",
        ("capture", "cancel", "refund", "increment"),
        *_only(Stance.FAIL_OPEN, "goes on by the provider's own reference", "the same answers"),
        fixed="No card is needed for it.",
    ),
    "worker_loss": Policy(
        "worker",
        "create",
        f"The worker: silent for {WORKER_LOST_S} s, and operations wait for it that long",
        ("create", "confirm"),
        Stance.DEGRADE,
        {
            Stance.DEGRADE: Choice(
                Stance.DEGRADE,
                f"goes on for {WORKER_GRACE_S // 60} minutes; then it refuses new charges while more than "
                "`GATEWAY_WORKER_BACKLOG_MAX` operations wait. Replays, reads, captures and refunds go on",
                "the same answers; later 503 `settlement_stalled`",
                counted_as=(Stance.FAIL_OPEN, Stance.FAIL_CLOSED),
            ),
            Stance.FAIL_OPEN: Choice(
                Stance.FAIL_OPEN, "goes on, whatever waits", "the same answers; what is unknown is settled late"
            ),
        },
    ),
    "clock_skew": Policy(
        "clock",
        "readiness",
        f"The right time: this machine's clock is more than {SKEW_MAX_S:g} s from the database's",
        ("any",),
        Stance.FAIL_CLOSED,
        {
            Stance.FAIL_CLOSED: Choice(
                Stance.FAIL_CLOSED,
                "says that it is not ready; leases are on the database's clock anyway",
                "other instances serve; `/readyz` answers 503 with the difference",
            ),
            Stance.FAIL_OPEN: Choice(
                Stance.FAIL_OPEN, "stays ready, and reports the difference", "`/readyz` answers 200 with the difference"
            ),
        },
    ),
}

POLICIES: Final[Mapping[str, Policy]] = MappingProxyType(_ROWS)
"""The table. Names are stable: they are in the API, in variables and in the docs."""
DEFAULTS: Final[Mapping[str, str]] = MappingProxyType({name: row.default for name, row in _ROWS.items()})
"""The policies in force where nothing was chosen."""


def field_of(name: str) -> str:
    """What the settings call the choice of a row that is configurable."""
    return f"on_{name}"


def variable_of(name: str) -> str:
    """The environment variable of a row."""
    return SETTING + name.upper()


def refusals(environ: Mapping[str, str]) -> list[str]:
    """What is wrong with the policy variables in ``environ`` that no setting reads, a sentence each.

    A row that can hold one value and is told another, or a name that is no row's: silence would be a policy nobody has chosen.
    """
    wrong = []
    rows = {variable_of(name): row for name, row in POLICIES.items()}
    for variable in sorted(name for name in environ if name.startswith(SETTING)):
        row = rows.get(variable)
        if row is None:
            wrong.append(f"{variable}: there is no such policy; known are {', '.join(sorted(rows))}")
        elif not row.configurable and environ[variable] != row.default:
            wrong.append(f"{variable}: can only be {row.default}. {row.fixed}")
    return wrong


@dataclass(slots=True)
class Standing:
    """What a process knows of the parts around it, as of its last look at them (``gateway.watch``).

    A look never happens on the way of a request. Before the first one everything is well.
    """

    skew_s: float = 0.0
    """How far this machine's clock certainly is from the database's; positive where ours is ahead."""
    worker_silent_s: float = 0.0
    """Since when no worker has reported, in seconds; infinite where none ever has, or the last one has left."""
    overdue: int = 0
    """Operations that wait for the worker longer than :data:`WORKER_LOST_S`."""
    overdue_s: float = 0.0
    """How long the first of them has been waiting."""

    @property
    def clock_wrong(self) -> bool:
        """Whether the clocks are certainly too far apart."""
        return abs(self.skew_s) > SKEW_MAX_S

    @property
    def worker_lost(self) -> bool:
        """Whether nobody settles what waits. Without anything that waits, nobody is missed."""
        return self.worker_silent_s >= WORKER_LOST_S and self.overdue > 0

    def stalled(self, backlog_max: int) -> bool:
        """Whether the worker has been lost for so long, and so much waits, that nothing new should be added."""
        return self.worker_lost and self.overdue_s >= WORKER_GRACE_S and self.overdue > backlog_max
