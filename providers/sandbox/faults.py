"""Scripted faults: which answers go wrong, how, and how often.

A rule belongs to one of four groups. A request takes at most one rule of each group, when it
reaches that stage: so a decline waits for the next authorisation that is really decided, whatever
happened to the requests before it. Rules with a count go before standing ones, each kind in the
order it was scripted, and the first that matches decides.

An issuer's mood is scripted by rules side by side: a card range, a currency, a time.
``{"fault": "approval_rate", "rate": 0.62, "match": {"bin": "400000-499999", "currency": "EUR"}, "from": …, "until": …}``
approves 62 % of what it matches, by dice of its own that ``seed`` fixes. ``from`` is inside and ``until`` outside the
window; both are ISO 8601 times with an offset, or seconds since the epoch, on this PSP's own clock (``/_sandbox/clock``).
A last rule without ``match`` and window says what holds everywhere else.
"""

import itertools
import math
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, get_args

from providers.sandbox.clock import BadTimeError, moment

Operation = Literal[
    "authorize", "capture", "void", "refund", "increment", "defend", "accept", "lookup", "create", "tokenize", "other"
]
Group = Literal["answer", "latency", "decision", "webhook"]
Psp = Literal["stripe", "adyen", "neutral"]

OPERATIONS: tuple[str, ...] = (*get_args(Operation), "any")
MATCH_FIELDS = ("currency", "bin", "reference")
_STATUSES = range(200, 600)
STANDING = None
"""A rule's count when it holds until it is removed."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One fault that can be scripted: its group, its stage, its parameters with their defaults."""

    group: Group
    before_effect: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)
    operations: tuple[str, ...] = OPERATIONS
    psps: tuple[Psp, ...] = get_args(Psp)
    times: int | None = 1
    windowed: bool = False

    def takes(self) -> dict[str, Any]:
        """All its parameters with their defaults, those of its window included."""
        return self.parameters | ({"from": None, "until": None} if self.windowed else {})


_ISSUERS = ("authorize", "increment", "any")
"""What an issuer decides, and may decline."""

KINDS: dict[str, Kind] = {
    "latency": Kind("latency", before_effect=True, parameters={"latency_ms": 1000}),
    "timeout_before_effect": Kind("answer", before_effect=True),
    "reset_before_effect": Kind("answer", before_effect=True),
    "status": Kind("answer", before_effect=True, parameters={"status": 500, "retry_after_s": None}),
    "outage": Kind(
        "answer",
        before_effect=True,
        parameters={"status": 503, "retry_after_s": 1},
        times=STANDING,
        windowed=True,
    ),
    "lock_timeout": Kind("answer", before_effect=True, psps=("stripe",)),
    "adyen_703": Kind("answer", before_effect=True, parameters={"transient": True}, psps=("adyen",)),
    "adyen_704": Kind("answer", before_effect=True, parameters={"transient": True, "status": 422}, psps=("adyen",)),
    "timeout_after_effect": Kind("answer"),
    "reset_after_effect": Kind("answer"),
    "error_after_effect": Kind("answer", parameters={"status": 500}),
    "slow_answer": Kind("answer", parameters={"latency_ms": 1000}),
    "drip": Kind("answer", parameters={"latency_ms": 100, "chunks": 20}),
    "garbage": Kind("answer", parameters={"status": 200, "body": "<<<not json>>>"}),
    "empty": Kind("answer", parameters={"status": 200}),
    "truncated": Kind("answer"),
    "wrong_amount": Kind("answer", parameters={"difference": 1}),
    "wrong_currency": Kind("answer", parameters={"currency": "XTS"}),
    "wrong_reference": Kind("answer", parameters={"instead_of": None}),  # a text of the answer; the request's reference
    "decline": Kind("decision", parameters={"code": None}, operations=_ISSUERS),
    "approval_rate": Kind(
        "decision",
        parameters={"rate": 1, "code": None, "seed": None},
        operations=_ISSUERS,
        times=STANDING,
        windowed=True,
    ),
    "fail_later": Kind("decision", operations=("capture", "void", "refund", "increment"), psps=("stripe", "adyen")),
    "duplicate_webhook": Kind("webhook", parameters={"copies": 2}),
    "late_webhook": Kind("webhook", parameters={"latency_ms": 5000}),
    "reorder_webhook": Kind("webhook", parameters={"latency_ms": 2000}),
    "drop_webhook": Kind("webhook"),
}


class BadFaultError(ValueError):
    """A script that names what does not exist; the message says what does."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a rule can match on, known of a request before it is decided."""

    operation: str
    currency: str | None = None
    bin: str | None = None
    reference: str | None = None


@dataclass(slots=True)
class Rule:
    """One scripted fault with what is left of it."""

    number: int
    operation: str
    fault: str
    kind: Kind
    parameters: dict[str, Any]
    match: dict[str, str]
    times_left: int | None
    skip_left: int
    window: tuple[float, float]
    """From when until when it holds, on the PSP's clock."""
    applied: int = 0
    rng: random.Random | None = None

    def matches(self, subject: Subject, now: float) -> bool:
        """Whether this request is one the rule is about."""
        if not self.window[0] <= now < self.window[1]:
            return False
        if self.operation not in ("any", subject.operation):
            return False
        if subject.operation not in _ISSUERS and self.kind.operations == _ISSUERS:
            return False
        if "currency" in self.match and self.match["currency"] != (subject.currency or "").upper():
            return False
        if "reference" in self.match and self.match["reference"] != subject.reference:
            return False
        return "bin" not in self.match or _in_bin_range(subject.bin, self.match["bin"])

    def as_json(self) -> dict[str, Any]:
        """The rule as the control API shows it."""
        return {
            "id": self.number,
            "operation": self.operation,
            "fault": self.fault,
            "times_left": self.times_left,
            "after": self.skip_left,
            "match": self.match,
            "applied": self.applied,
            **self.parameters,
        }


def _in_bin_range(card_bin: str | None, wanted: str) -> bool:
    """``wanted`` is a prefix ("4242") or a range of prefixes of one length ("400000-499999")."""
    if card_bin is None:
        return False
    low, dash, high = wanted.partition("-")
    if not dash:
        return card_bin.startswith(low)
    return low <= card_bin[: len(low)] and card_bin[: len(high)] <= high


class Faults:
    """The script of one PSP."""

    def __init__(self, psp: Psp) -> None:
        self._psp = psp
        self._rules: list[Rule] = []
        self._applied: Counter[str] = Counter()
        self._numbers = itertools.count(1)

    def script(self, wanted: object) -> Rule:
        """Add one rule, or raise BadFaultError with the names that would have been right."""
        rule = parse_rule(wanted, self._psp, next(self._numbers))
        self._rules.append(rule)
        # A stable sort keeps the scripted order within the counted and within the standing rules.
        self._rules.sort(key=lambda each: each.times_left is STANDING)
        return rule

    def take(self, group: Group, subject: Subject, now: float) -> Rule | None:
        """The rule of this group that applies to this request now, used up by one."""
        for rule in self._rules:
            if rule.kind.group != group or not rule.matches(subject, now):
                continue
            if rule.skip_left > 0:
                rule.skip_left -= 1
                continue
            if rule.times_left is not STANDING:
                rule.times_left -= 1
                if rule.times_left == 0:
                    self._rules.remove(rule)
            if rule.rng is not None and rule.rng.random() < rule.parameters["rate"]:
                return None
            rule.applied += 1
            self._applied[rule.fault] += 1
            return rule
        return None

    def remove(self, number: int) -> bool:
        """Remove one rule; False when it is not there (any more)."""
        before = len(self._rules)
        self._rules = [rule for rule in self._rules if rule.number != number]
        return len(self._rules) < before

    def clear(self) -> None:
        """Remove all rules and forget what was applied."""
        self._rules.clear()
        self._applied.clear()

    def as_json(self) -> dict[str, Any]:
        """What is still scripted, and how often each fault was applied since the last clearing."""
        return {
            "faults": [rule.as_json() for rule in self._rules],
            "applied": dict(self._applied),
            "allowed": {name: kind.takes() for name, kind in KINDS.items() if self._psp in kind.psps},
        }


def parse_rule(wanted: object, psp: Psp, number: int) -> Rule:
    """Check a script line strictly: a typo must not become a fault that never happens."""
    if not isinstance(wanted, dict):
        raise BadFaultError("a fault is an object with operation and fault")
    operation, fault = wanted.get("operation", "any"), wanted.get("fault")
    allowed = [name for name, kind in KINDS.items() if psp in kind.psps]
    if fault not in allowed:
        raise BadFaultError(f"unknown fault {fault!r}; allowed: {', '.join(allowed)}")
    kind = KINDS[fault]
    if operation not in kind.operations:
        raise BadFaultError(f"unknown operation {operation!r} for {fault}; allowed: {', '.join(kind.operations)}")
    known = {"operation", "fault", "times", "after", "match", *kind.takes()}
    if unknown := set(wanted) - known:
        raise BadFaultError(f"unknown parameters {sorted(unknown)} for {fault}; allowed: {sorted(known)}")
    parameters = {name: wanted.get(name, default) for name, default in kind.takes().items()}
    _check_parameters(parameters)
    rated = fault == "approval_rate"
    return Rule(
        number=number,
        operation=operation,
        fault=fault,
        kind=kind,
        parameters=parameters,
        match=_match(wanted.get("match", {})),
        times_left=_count(wanted.get("times", kind.times), "times", least=1),
        skip_left=_count(wanted.get("after", 0), "after", least=0) or 0,
        window=_window(parameters),
        rng=random.Random(parameters["seed"]) if rated else None,
    )


def _window(parameters: dict[str, Any]) -> tuple[float, float]:
    """The time a rule holds; a side that is not given is open."""
    try:
        start, end = (
            default if parameters.get(name) is None else moment(parameters[name], name)
            for name, default in (("from", -math.inf), ("until", math.inf))
        )
    except BadTimeError as error:
        raise BadFaultError(str(error)) from None
    if start >= end:
        raise BadFaultError("until is later than from")
    return start, end


def _match(wanted: object) -> dict[str, str]:
    if not isinstance(wanted, dict) or set(wanted) - set(MATCH_FIELDS):
        raise BadFaultError(f"match is an object of {', '.join(MATCH_FIELDS)}")
    match = {name: str(value) for name, value in wanted.items()}
    if "currency" in match:
        match["currency"] = match["currency"].upper()
    if not re.fullmatch("[0-9]+(-[0-9]+)?", match.get("bin", "0")):
        raise BadFaultError('bin is a prefix ("4242") or a range of prefixes ("400000-499999")')
    return match


def _count(value: object, name: str, *, least: int) -> int | None:
    if value is None and name == "times":
        return STANDING
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadFaultError(f"{name} is a whole number of at least {least}")
    return value


def _check_parameters(parameters: dict[str, Any]) -> None:
    for name in ("latency_ms", "copies", "chunks", "difference"):
        value = parameters.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadFaultError(f"{name} is a whole number")
    status = parameters.get("status", 500)
    if not isinstance(status, int) or status not in _STATUSES:
        raise BadFaultError("status is an HTTP status")
    rate = parameters.get("rate", 1)
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate <= 1:
        raise BadFaultError("rate is a number from 0 to 1")


def retry_after(rule: Rule) -> dict[str, str]:
    """The Retry-After header of a failure; a 503 always has one."""
    seconds = rule.parameters.get("retry_after_s")
    if seconds is None and rule.parameters.get("status") == HTTPStatus.SERVICE_UNAVAILABLE:
        seconds = 1
    return {} if seconds is None else {"Retry-After": str(seconds)}
