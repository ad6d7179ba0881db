"""One routing decision as a value: what was known of the payment, who could take it, who was chosen and why.

A decision is made by :mod:`routing.rules`, stored with the attempt as :meth:`Decision.record`, and read again to explain it
(:attr:`Decision.sentence`), to evaluate a strategy, and to replay it. This module is pure and knows nothing of rules.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

BIN_DIGITS: Final = 8
"""More digits of a card number than this are never part of the facts."""

AMOUNT_BANDS: Final = (
    (1, "0"),
    (1_000, "1-999"),
    (5_000, "1000-4999"),
    (20_000, "5000-19999"),
    (100_000, "20000-99999"),
)
"""Bands of an amount in minor units: each ends before its number. Above them all is ``100000+``."""
_ENDS: Final = tuple(end for end, _ in AMOUNT_BANDS)
_BANDS: Final = (*(name for _, name in AMOUNT_BANDS), "100000+")

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "pinned": "the request named the account",
        "static": "the order of the configuration",
        "priority": "the first eligible account of a list",
        "split": "an arm of a weighted split, by a hash of the payment's id",
        "strategy": "a strategy ranked the accounts",
        "holdout": "the share of payments that is kept from the strategy, to compare with",
    }
)
"""The ways in which a decision is made."""

MODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "exploit": "the account that the strategy expects most of",
        "split": "an account's part of the payments, by the strategy's weights",
        "explore": "another account than the best one, to learn more of it",
        "probe": "a payment that finds out whether an account with an open breaker has recovered",
        "forced": "a constraint, a pinned account or a fallback left no choice",
        "holdout": "kept from the strategy, to compare with",
    }
)
"""What the choice was for, where it was not just the rule's."""

WHY_NOT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ineligible": "it cannot take this payment",
        "not_pinned": "the request named another account",
        "not_listed": "the outcome does not list it",
        "later": "it comes later in the list",
        "other_arm": "the payment's id falls into another arm of the split",
        "lower_score": "another account is expected to approve more",
        "explored": "another account was tried, to learn more of it",
        "probed": "another account was tried, to find out whether it has recovered",
        "breaker_open": "its breaker is open",
        "constraint": "a constraint put another account first",
        "holdout": "the payment belongs to the share that is kept from the strategy",
    }
)
"""Why a candidate is not the first of the route."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a rule or a strategy may look at, of one payment. ``None`` is "not known".

    ``amount`` is in minor units of ``currency``; ``bin`` has six to eight digits, never more; ``initiator`` is ``customer`` or
    ``merchant``; countries are ISO 3166-1 alpha-2, currencies ISO 4217, in upper case; brand, funding, recurring and 3-D Secure
    are the lower-case words of the API. ``at`` has a time zone.
    """

    payment_id: str
    merchant_id: str
    livemode: bool
    amount: int
    currency: str
    at: datetime
    country: str | None = None
    brand: str | None = None
    funding: str | None = None
    bin: str | None = field(default=None, repr=False)
    issuer_country: str | None = None
    initiator: str = "customer"
    recurring: str | None = None
    three_d_secure: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.bin is not None and len(self.bin) > BIN_DIGITS:
            raise ValueError(f"a BIN has at most {BIN_DIGITS} digits; the rest of a card number belongs nowhere")
        if self.at.tzinfo is None:
            raise ValueError("a payment happens at a moment: its time needs a time zone")

    @property
    def amount_band(self) -> str:
        """The band of :data:`AMOUNT_BANDS` that the amount lies in."""
        return band_of(self.amount)

    def context(self) -> dict[str, str]:
        """What a strategy sees: the keys of ``routing.strategies.CONTEXT_KEYS``; one of which nothing is known is absent.

        Metadata and ids are kept from strategies.
        """
        return _context(
            self.currency, self.amount, self.initiator, self.brand, self.funding, self.issuer_country, self.bin
        )

    def record(self) -> dict[str, Any]:
        """These facts as JSON values, without what is not known. :meth:`read` gives the same facts again."""
        return {
            name: value
            for name in _FACTS
            if (value := getattr(self, name)) is not None and name not in {"at", "metadata"}
        } | {"at": self.at.isoformat(), **({"metadata": dict(self.metadata)} if self.metadata else {})}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Facts:
        """The facts of a :meth:`record`, without keys that a newer version has added.

        Raises ``KeyError``, ``TypeError`` or ``ValueError`` where it is none.
        """
        known = {name: record[name] for name in _FACTS if name in record}
        return cls(**known | {"at": datetime.fromisoformat(record["at"])})


def band_of(amount: int) -> str:
    """The band of :data:`AMOUNT_BANDS` that an amount in minor units lies in."""
    return _BANDS[bisect_right(_ENDS, amount)]


def context_of(record: Mapping[str, Any]) -> dict[str, str]:
    """:meth:`Facts.context` of the facts of a :meth:`Facts.record`, without making them. Raises ``KeyError`` or ``TypeError`` where it is none."""
    known = record.get
    return _context(
        record["currency"],
        record["amount"],
        known("initiator", "customer"),
        known("brand"),
        known("funding"),
        known("issuer_country"),
        known("bin"),
    )


def _context(
    currency: str,
    amount: int,
    initiator: str,
    brand: str | None,
    funding: str | None,
    issuer_country: str | None,
    bin_: str | None,
) -> dict[str, str]:
    context = {
        "currency": currency,
        "initiator": initiator,
        "amount_band": band_of(amount),
        "amount": str(amount),
    }
    if brand is not None:
        context["brand"] = brand
    if funding is not None:
        context["funding"] = funding
    if issuer_country is not None:
        context["issuer_country"] = issuer_country
    if bin_ is not None:
        context["bin"] = bin_
    return context


class Candidate(NamedTuple):
    """One account as it stood in a decision."""

    account: str
    ineligible: str | None = None
    """Why it cannot take the payment, a word of the hard eligibility; ``None`` where it can."""
    score: float | None = None
    """Expected share of approvals, 0 to 1, with the ends of its 95 % interval."""
    low: float | None = None
    high: float | None = None
    propensity: float | None = None
    """Probability with which it came first, known before the dice fell."""
    breaker: str | None = None
    """``closed``, ``open`` or ``probing``."""
    why_not: str | None = None
    """Why it is not first: a word of :data:`WHY_NOT`."""

    def record(self) -> dict[str, Any]:
        """The candidate as JSON values, without what is ``None``."""
        return {name: value for name, value in zip(self._fields, self, strict=True) if value is not None}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Candidate:
        """The candidate of a :meth:`record`. Raises as :meth:`Facts.read`."""
        return cls(**{name: record[name] for name in cls._fields if name in record})


@dataclass(frozen=True, slots=True)
class Decision:
    """Which accounts are asked, in which order, and all that explains it.

    ``candidates`` holds every account of the merchant and every account that the outcome names: those of the route first, in its
    order, then the others. ``route`` is empty where no account can take the payment.
    """

    version: str | None
    """Id of the version in force; ``None`` where no document was."""
    rule: str | None
    """Name of the matched rule, or ``default``; ``None`` where no document was asked."""
    kind: str
    """A word of :data:`KINDS`."""
    strategy: str | None
    facts: Facts
    candidates: tuple[Candidate, ...]
    route: tuple[str, ...]
    seed: int | None = None
    """Of the dice of a split, a holdout or a strategy: follows from the payment's id."""
    constraint: str | None = None
    """What limited the choice, in words: a constraint of the outcome, or a fallback and its cause."""
    mode: str | None = None
    """A word of :data:`MODES`."""

    def record(self) -> dict[str, Any]:
        """The decision as JSON values, without what is ``None``. :meth:`read` gives an equal decision."""
        plain = {name: value for name in _PLAIN if (value := getattr(self, name)) is not None}
        return plain | {
            "facts": self.facts.record(),
            "candidates": [candidate.record() for candidate in self.candidates],
            "route": list(self.route),
        }

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Decision:
        """The decision of a :meth:`record`. Keys that a newer version has added are left out. Raises as :meth:`Facts.read`."""
        return cls(
            **{name: record.get(name) for name in _PLAIN if name != "kind"},
            kind=record["kind"],
            facts=Facts.read(record["facts"]),
            candidates=tuple(map(Candidate.read, record["candidates"])),
            route=tuple(record["route"]),
        )

    @property
    def sentence(self) -> str:
        """Why the first account of the route came first: one plain English sentence, which may change between releases."""
        if not self.route:
            reasons = "; ".join(f"{each.account}: {each.ineligible or each.why_not}" for each in self.candidates)
            return f"No account can take this payment ({reasons or 'there is none'})."
        first = self._candidate(self.route[0])
        told = _TOLD[self.kind](self, first)
        passed = [f"{each.account} ({each.ineligible})" for each in self.candidates if each.ineligible]
        parts = [told]
        if self.constraint is not None:
            parts.append(self.constraint)
        if passed:
            parts.append(f"not able to take it: {', '.join(passed)}")
        return f"{first.account} is asked first: {'; '.join(parts)}."

    def _candidate(self, account: str) -> Candidate:
        return next((each for each in self.candidates if each.account == account), Candidate(account))

    def by(self) -> str:
        """What the outcome belongs to, in words."""
        return "the document's default" if self.rule == "default" else f"rule {self.rule!r}"


def _static(decision: Decision, first: Candidate) -> str:
    cause = (
        "no routing document is in force"
        if decision.version is None
        else "no account that the document offers can take it"
    )
    return f"it is the first eligible account in the order of the configuration, as {cause}"


def _split(decision: Decision, first: Candidate) -> str:
    share = "" if first.propensity is None else f" ({100 * first.propensity:.4g} % of the payments)"
    return f"the payment falls into its arm{share} of the split of {decision.by()}"


def _strategy(decision: Decision, first: Candidate) -> str:
    expected = _expected(first)
    others = [each for each in decision.candidates if each.account in decision.route and each is not first]
    against = ", ".join(f"{each.account} {_expected(each)}" for each in others if each.score is not None)
    purpose = {"explore": ", tried to learn more of it", "probe": ", probed for recovery"}.get(decision.mode or "", "")
    figures = f" with {expected} expected approvals" if expected else ""
    versus = f" against {against}" if figures and against else ""
    return f"strategy {decision.strategy} of {decision.by()} ranked it first{figures}{versus}{purpose}"


def _expected(candidate: Candidate) -> str:
    if candidate.score is None:
        return ""
    interval = ""
    if candidate.low is not None and candidate.high is not None:
        interval = f" ({100 * candidate.low:.1f} to {100 * candidate.high:.1f})"
    return f"{100 * candidate.score:.1f} %{interval}"


_TOLD: Final[Mapping[str, Callable[[Decision, Candidate], str]]] = MappingProxyType(
    {
        "pinned": lambda decision, first: "the request names it",
        "static": _static,
        "priority": lambda decision, first: f"it is the first eligible account in the list of {decision.by()}",
        "split": _split,
        "strategy": _strategy,
        "holdout": lambda decision, first: (
            f"the payment belongs to the holdout, which strategy {decision.strategy} of {decision.by()} does not rank"
        ),
    }
)
_FACTS: Final = tuple(each.name for each in fields(Facts))
_PLAIN: Final = tuple(each.name for each in fields(Decision) if each.name not in {"facts", "candidates", "route"})
