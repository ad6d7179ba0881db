"""What a strategy is: the words it is spoken to with, and the settings that each one knows.

The protocol is :class:`Policy`. Everything here is values; :func:`faults` is how a routing document's ``settings`` and
``constraints`` are checked before they are published.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

APPROVED: Final = "approved"
DECLINED_PROVIDER: Final = "declined_provider"
DECLINED_CUSTOMER: Final = "declined_customer"
DECLINED_AMBIGUOUS: Final = "declined_ambiguous"
TECHNICAL: Final = "technical"

OUTCOMES: Final[dict[str, str]] = {
    APPROVED: "The account approved the payment.",
    DECLINED_PROVIDER: "Declined for a reason on the account's side: its risk engine, its configuration, its acquirer.",
    DECLINED_CUSTOMER: "Declined for a reason on the customer's or issuer's side (funds, stolen card, wrong code): every account would "
    "have declined it, so it says nothing about this one and is ignored.",
    DECLINED_AMBIGUOUS: "Declined without a usable reason (do not honor): may be either, and counts as a decline.",
    TECHNICAL: "No usable answer: refused connection, timeout, 5xx, rate limit. Moves the technical breaker alone.",
}
"""The words for what became of an attempt, and what each of them does."""

CONTEXT_KEYS: Final[dict[str, str]] = {
    "currency": "ISO 4217, e.g. EUR",
    "brand": "card network, e.g. visa",
    "funding": "credit, debit or prepaid",
    "issuer_country": "ISO 3166-1 alpha-2 of the issuer",
    "bin": "6 to 8 leading digits, never more",
    "initiator": "customer or merchant",
    "amount_band": "any name for a range of amounts",
    "amount": "minor units in decimal digits; least_cost and never_explore_above read it",
}
"""What a context may say of a payment, all of it optional, all of it text. Other keys are ignored unless ``segment_by`` names them."""

SEGMENT_BY: Final = ("currency", "brand", "funding", "issuer_country", "bin", "initiator")
"""The keys that make up a segment unless a setting says otherwise. A segment and an account together are a cell."""


class Ranked(NamedTuple):
    """One account in a ranking. Unpacks as ``(account, score, propensity)``."""

    account: str
    score: float
    """Expected approval, 0..1, of a payment that its customer and issuer do not stop."""
    propensity: float
    """Exact probability with which this account was to come first, given all that was known. Sums to 1 over the candidates."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A ranking with what a decision record says of it."""

    ranking: list[Ranked]
    mode: str
    """``exploit`` (the preferred account), ``explore``, ``probe`` (an open breaker is tried), ``forced`` (a constraint), ``split``."""
    constraint: str | None = None
    """The constraint that moved the probabilities, in words; ``None`` where none did."""
    known: Mapping[str, Explained] = field(default_factory=dict)
    """What :meth:`Policy.explain` says of each candidate, without its ``attempts`` and ``detail``; where it was asked for."""


class Explained(NamedTuple):
    """What a strategy believes of one account for one kind of payment. Rates are 0..1 and leave out the customer's declines."""

    score: float
    low: float
    high: float
    """``low`` to ``high`` is the 95 % credible interval of the approval rate."""
    breaker: str
    """``closed``, ``open`` or ``probing`` (open, and the last probes were approved)."""
    attempts: float = 0.0
    """Outcomes that this rests on in this cell, older ones counting less."""
    detail: str | None = None
    """A sentence of the strategy's own, e.g. the break-even lead of ``least_cost``."""


class Policy(Protocol):
    """A strategy. Pure: it does no IO, starts no thread, reads no clock; the same calls in the same order give the same answers.

    ``now`` is seconds on any clock that does not run backwards by much; only ``hint`` measures with it. Nothing is thread-safe.
    """

    def rank(
        self, context: Mapping[str, str], candidates: Sequence[str], rng: random.Random, now: float
    ) -> list[tuple[str, float, float]]:
        """``candidates`` best first as (account, score, propensity). Draws from ``rng`` once; changes nothing but lazily made cells.

        An empty list of candidates gives an empty ranking. Names not given at construction are accounts without evidence.
        """
        ...

    def choose(
        self,
        context: Mapping[str, str],
        candidates: Sequence[str],
        draw: float,
        now: float,
        *,
        explain: bool = False,
    ) -> Chosen:
        """As :meth:`rank`, for dice that fell on ``draw`` (0 to 1), with the mode and the constraint that applied.

        Also, if asked, with what is believed of each candidate.
        """
        ...

    def update(self, context: Mapping[str, str], account: str, outcome: str, now: float) -> None:
        """Learn what became of one attempt. Once for each attempt. ``ValueError`` for an outcome not in :data:`OUTCOMES`."""
        ...

    def instead(self, asked: str | None, chosen: str | None) -> None:
        """Count the attempt at ``asked`` that was learned last for ``chosen`` in the shares; ``None`` is an account of nobody here.

        For replays, where another account was asked than this policy chose: else it would keep its shares by what others did.
        """
        ...

    def hint(self, account: str, context: Mapping[str, str], outcome: str, now: float) -> None:
        """Let the breakers know of an outcome before it comes by :meth:`update`, which must follow an :meth:`unhint` of it.

        A hint never taken back is forgotten after ``hint_s`` seconds.
        """
        ...

    def unhint(self, account: str, context: Mapping[str, str], outcome: str, now: float) -> None:
        """Take the oldest such hint back. Does nothing where there is none, so it may be called for every attempt that is folded."""
        ...

    def explain(self, context: Mapping[str, str], account: str, now: float) -> Explained:
        """What is believed of ``account`` for such payments. Changes nothing."""
        ...

    def opened(self, account: str) -> list[str]:
        """The segments whose own breaker at ``account`` is open, as the values of ``segment_by`` joined by ``|``. Hints are left out."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """All that was learned, as JSON-able values; hints are not in it."""
        ...

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot of a policy of the same strategy. ``ValueError`` where it is of another form."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a strategy, with its default, unit and bounds."""

    name: str
    kind: str
    """``number``, ``integer``, ``keys`` (list of text), ``weights`` (account → number) or ``fees`` (account →
    ``{"fixed": minor units, "basis_points": number}``). The bounds hold for the number, for each of them, or for the list's length."""
    default: Any
    unit: str
    meaning: str
    low: float = 0.0
    high: float = 0.0


GUARD: Final = (
    Setting("segment_by", "keys", SEGMENT_BY, "context keys", "what makes two payments of one kind", 1, 8),
    Setting(
        "cells_max",
        "integer",
        10_000,
        "cells",
        "segments times accounts kept; the one used longest ago is forgotten first",
        16,
        1_000_000,
    ),
    Setting("breaker_threshold", "number", 8.5, "nats", "evidence of an outage that opens a breaker", 3, 30),
    Setting(
        "breaker_drop", "number", 0.6, "of the expected rate", "the approval rate that counts as an outage", 0.1, 0.9
    ),
    Setting("breaker_close", "number", 2.0, "nats", "evidence of recovery that closes it", 1, 30),
    Setting("technical_threshold", "number", 5.0, "nats", "the same for technical errors", 2, 30),
    Setting(
        "probe_share",
        "number",
        1.0,
        "percent of payments",
        "how often an account with an open breaker is tried",
        0.05,
        10,
    ),
    Setting("hint_s", "number", 30.0, "seconds", "how long a hint counts if it is not taken back", 1, 600),
    Setting("share_window", "integer", 10_000, "attempts", "over how many attempts shares are held", 100, 10_000_000),
)
"""Settings of every strategy: those of the breakers and constraints around it."""

STRATEGIES: Final[dict[str, tuple[Setting, ...]]] = {
    "priority": GUARD,
    "weighted": (
        Setting(
            "weights",
            "weights",
            {},
            "parts",
            "each account's part of the traffic; all equal where left out",
            0,
            1_000_000,
        ),
        *GUARD,
    ),
    "least_cost": (
        Setting(
            "fees",
            "fees",
            {},
            "minor units, basis points",
            "what each account takes of an approved payment",
            0,
            1_000_000,
        ),
        *GUARD,
    ),
    "success_rate_window": (
        Setting(
            "window", "integer", 125, "outcomes", "latest outcomes of a cell that its rate is taken of", 10, 10_000
        ),
        Setting(
            "hedge",
            "number",
            5.0,
            "percent of payments",
            "share sent to other accounts to keep their windows fresh",
            0,
            50,
        ),
        *GUARD,
    ),
    "adaptive": (*GUARD,),
}
"""Every strategy by name, with its settings. A document's ``settings`` may hold these names and no others."""

COMMITMENT_MAX: Final = 1_000_000_000
"""Attempts that can be promised to an account."""
CONSTRAINTS: Final[dict[str, str]] = {
    "min_share": "account → percent of the attempts that it gets at least, while its breaker is closed",
    "max_share": "account → percent of the attempts that it gets at most, while another can take them",
    "commitments": 'account → {"attempts": number, "starts_at", "ends_at"}: attempts that it gets at least between two instants',
    "explore_max": "percent of payments that may go to another than the preferred account to learn",
    "never_explore_above": '{"amount": minor units, "currency"}: larger payments never explore and never probe',
}
"""What ``settings["constraints"]`` may hold: a document's ``constraints`` are put there."""


class Fault(NamedTuple):
    """What is wrong with settings: where (a JSON pointer below them), what, and what to do."""

    pointer: str
    message: str
    fix: str


def faults(name: str, accounts: Sequence[str], settings: Mapping[str, Any]) -> list[Fault]:
    """Everything that is wrong with ``settings`` for the strategy ``name`` over ``accounts``; empty where :func:`make` takes them."""
    if name not in STRATEGIES:
        return [Fault("", f"there is no strategy {name!r}", f"use one of {', '.join(STRATEGIES)}")]
    known = {setting.name: setting for setting in STRATEGIES[name]}
    found: list[Fault] = []
    if not accounts or len(set(accounts)) != len(accounts):
        found.append(
            Fault("", "a strategy needs accounts, each named once", "name the accounts in order of preference")
        )
    for key, value in settings.items():
        if key == "constraints":
            found += _constraint_faults(accounts, value)
        elif key not in known:
            found.append(
                Fault(f"/{key}", f"{name} has no setting {key!r}", f"use one of {', '.join(known)}, or leave it out")
            )
        else:
            found += _value_faults(known[key], value, accounts, f"/{key}")
    return found


def checked(name: str, accounts: Sequence[str], settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """``settings`` if nothing is wrong with them; raises ``ValueError`` with everything that is."""
    settings = dict(settings or {})
    found = faults(name, accounts, settings)
    if found:
        raise ValueError("; ".join(f"{fault.pointer or '/'}: {fault.message}: {fault.fix}" for fault in found))
    return settings


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _value_faults(setting: Setting, value: Any, accounts: Sequence[str], pointer: str) -> list[Fault]:
    low, high = setting.low, setting.high
    if setting.kind in {"number", "integer"}:
        whole = setting.kind == "integer"
        fits = _number(value) and low <= value <= high and not (whole and value != int(value))
        sort = "a whole number" if whole else "a number"
        return (
            []
            if fits
            else [Fault(pointer, f"not {sort} in range", f"give {sort} from {low:g} to {high:g} ({setting.unit})")]
        )
    if setting.kind == "keys":
        fits = (
            isinstance(value, list | tuple)
            and low <= len(value) <= high
            and all(isinstance(key, str) and key for key in value)
        )
        return (
            []
            if fits
            else [
                Fault(pointer, "not a list of context keys", f"list {low:g} to {high:g} of {', '.join(CONTEXT_KEYS)}")
            ]
        )
    if not isinstance(value, Mapping):
        return [Fault(pointer, "not an object by account", "give an object with an account's name for each key")]
    found = [
        Fault(f"{pointer}/{name}", "not an account of this strategy", f"use {', '.join(accounts)}")
        for name in value
        if name not in accounts
    ]
    for name, part in value.items():
        parts = [part] if setting.kind == "weights" else _fee_parts(part)
        if not parts or not all(_number(number) and low <= number <= high for number in parts):
            form = "a number" if setting.kind == "weights" else '{"fixed": minor units, "basis_points": number}, both'
            found.append(
                Fault(f"{pointer}/{name}", f"not {setting.unit} in range", f"give {form} from {low:g} to {high:g}")
            )
    if setting.kind == "weights" and value and not found and sum(value.values()) <= 0:
        found.append(Fault(pointer, "no account has any weight", "give at least one account a weight above 0"))
    return found


def _fee_parts(fee: Any) -> list[Any]:
    return (
        [fee["fixed"], fee["basis_points"]]
        if isinstance(fee, Mapping) and set(fee) == {"fixed", "basis_points"}
        else []
    )


def _constraint_faults(accounts: Sequence[str], constraints: Any) -> list[Fault]:
    if not isinstance(constraints, Mapping):
        return [Fault("/constraints", "not an object", f"give an object with any of {', '.join(CONSTRAINTS)}")]
    found: list[Fault] = []
    for key, value in constraints.items():
        pointer = f"/constraints/{key}"
        if key in {"min_share", "max_share"}:
            shares = Setting(key, "weights", {}, "percent", CONSTRAINTS[key], 0, 100)
            # An account may be held at 0 %: that no account has any share is no fault here.
            found += [
                fault
                for fault in _value_faults(shares, value, accounts, pointer)
                if fault.pointer != pointer or not isinstance(value, Mapping)
            ]
        elif key == "commitments":
            found += _commitment_faults(accounts, value, pointer)
        elif key == "explore_max":
            found += _value_faults(
                Setting(key, "number", 0, "percent", CONSTRAINTS[key], 0, 100), value, accounts, pointer
            )
        elif key == "never_explore_above":
            fits = (
                isinstance(value, Mapping)
                and set(value) == {"amount", "currency"}
                and _number(value["amount"])
                and value["amount"] >= 0
            )
            if not fits or not isinstance(value["currency"], str):
                found.append(Fault(pointer, "not an amount", 'give {"amount": minor units, "currency": "EUR"}'))
        else:
            found.append(Fault(pointer, f"there is no constraint {key!r}", f"use one of {', '.join(CONSTRAINTS)}"))
    return found or _sum_faults(accounts, constraints)


def _commitment_faults(accounts: Sequence[str], commitments: Any, pointer: str) -> list[Fault]:
    if not isinstance(commitments, Mapping):
        return [Fault(pointer, "not an object by account", "give an object with an account's name for each key")]
    found: list[Fault] = []
    for name, value in commitments.items():
        below = f"{pointer}/{name}"
        if name not in accounts:
            found.append(Fault(below, "not an account of this strategy", f"use {', '.join(accounts)}"))
        elif not isinstance(value, Mapping) or set(value) != {"attempts", "starts_at", "ends_at"}:
            form = '{"attempts": number, "starts_at": "2026-12-01T00:00:00Z", "ends_at": "2027-01-01T00:00:00Z"}, all three'
            found.append(Fault(below, "not a commitment", f"give {form}"))
        else:
            found += _commitment_value_faults(value, below)
    return found


def _commitment_value_faults(value: Mapping[str, Any], pointer: str) -> list[Fault]:
    attempts = Setting("attempts", "integer", 1, "attempts", "what was promised", 1, COMMITMENT_MAX)
    found = _value_faults(attempts, value["attempts"], (), f"{pointer}/attempts")
    ends = {key: instant_of(value[key]) for key in ("starts_at", "ends_at")}
    found += [
        Fault(f"{pointer}/{key}", "not an instant", "give a time with its offset, such as 2026-12-01T00:00:00Z")
        for key, at in ends.items()
        if at is None
    ]
    starts_at, ends_at = ends["starts_at"], ends["ends_at"]
    if starts_at is not None and ends_at is not None and ends_at <= starts_at:
        found.append(Fault(f"{pointer}/ends_at", "not after starts_at", "give a later time"))
    return found


def instant_of(value: Any) -> float | None:
    """Seconds of a time as RFC 3339 writes it, with its offset; ``None`` for anything else."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return None if at.tzinfo is None else at.timestamp()


def _sum_faults(accounts: Sequence[str], constraints: Mapping[str, Any]) -> list[Fault]:
    least: Mapping[str, float] = constraints.get("min_share", {})
    most: Mapping[str, float] = constraints.get("max_share", {})
    found = [
        Fault(f"/constraints/min_share/{name}", "more than its max_share", "lower it, or raise the max_share")
        for name, share in least.items()
        if share > most.get(name, 100)
    ]
    if sum(least.values()) > 100:
        found.append(Fault("/constraints/min_share", "the least shares come to more than 100 percent", "lower them"))
    if sum(most.get(name, 100) for name in accounts) < 100:
        found.append(Fault("/constraints/max_share", "the greatest shares come to less than 100 percent", "raise them"))
    return found


def _seconds(told: str) -> float:
    return datetime.fromisoformat(told).timestamp()


class Commitment(NamedTuple):
    """So many attempts at least, between two instants (seconds; the end is outside)."""

    attempts: int
    starts_at: float
    ends_at: float


@dataclass(frozen=True, slots=True)
class Constraints:
    """A document's constraints, read: shares from 0 to 1."""

    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)
    explore_max: float | None = None
    never_above: tuple[int, str] | None = None
    commitments: Mapping[str, Commitment] = field(default_factory=dict)

    @classmethod
    def read(cls, constraints: Mapping[str, Any]) -> Constraints:
        """Of a mapping that :func:`faults` finds nothing wrong with."""
        above, explore = constraints.get("never_explore_above"), constraints.get("explore_max")
        return cls(
            {name: share / 100 for name, share in constraints.get("min_share", {}).items()},
            {name: share / 100 for name, share in constraints.get("max_share", {}).items()},
            None if explore is None else explore / 100,
            None if above is None else (int(above["amount"]), above["currency"]),
            {
                name: Commitment(int(value["attempts"]), _seconds(value["starts_at"]), _seconds(value["ends_at"]))
                for name, value in constraints.get("commitments", {}).items()
            },
        )

    def may_explore(self, context: Mapping[str, str]) -> bool:
        """Whether this payment may be used to learn. Without an amount in the context it may not, where there is a limit."""
        if self.never_above is None:
            return True
        limit, currency = self.never_above
        if context.get("currency") != currency:
            return True
        amount = context.get("amount", "")
        return amount.isdecimal() and int(amount) <= limit
