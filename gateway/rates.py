"""Rates: what each of them counts, by which dimensions, and what a count of so many may say. Pure: no IO, no clock.

An attempt has one class (:data:`CLASSES`, :func:`class_of`), a payment some marks (:class:`Mark`), and every rate of :data:`METRICS` is
one set of them in another. The SQL views of the schema ``rates`` say the same in SQL; a test holds the two together. What is published
about them stands in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntFlag
from math import sqrt
from types import MappingProxyType
from typing import Final, Literal

from gateway.payment import OperationStatus as S

# --- What became of an attempt -----------------------------------------------------------------------------------------

APPROVED: Final = "approved"
DECLINED: Final = "declined"
TECHNICAL: Final = "technical"
UNKNOWN: Final = "unknown"
BLOCKED: Final = "blocked"
AUTHENTICATION_FAILED: Final = "authentication_failed"
CANCELED: Final = "canceled"
PENDING: Final = "pending"

CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        APPROVED: "the issuer approved it, whatever became of the money since: captured, voided, lapsed or refunded",
        DECLINED: "the issuer, or the provider for it, said no to this card and amount",
        TECHNICAL: "nothing was decided: it was not processed, the provider failed or was set up wrongly, or it was unknown until it was voided",
        UNKNOWN: "nobody knows yet what came of it",
        BLOCKED: "a risk engine or a limit stopped it before the issuer was asked: the provider's, or our own of the card",
        AUTHENTICATION_FAILED: "the shopper did not authenticate: failed, gave up, or never came back",
        CANCELED: "it was withdrawn before it had an outcome",
        PENDING: "it has no outcome yet: on its way, waiting for the shopper, or for the provider's word",
    }
)
"""Every class of an attempt, and what it means. Each attempt has exactly one at any time; a late result moves it to another."""

BLOCKS: Final = frozenset({"suspected_fraud", "merchant_blocked", "compliance_block", "retry_limit_reached"})
"""Declines that are the word of a risk engine or a limit."""
FAULTS: Final = frozenset({"provider_error", "provider_config", "provider_rejected", "not_sent", "test_card"})
"""Declines that decide nothing about the card: something was broken or set up wrongly."""
UNAUTHENTICATED: Final = frozenset({"authentication_failed", "authentication_expired"})
WITHDRAWN: Final = "cancelled"
_OPEN: Final = frozenset({S.CREATED, S.SENT, S.REQUIRES_ACTION, S.PENDING})
_ENDS: Final = frozenset({S.VOIDED, S.EXPIRED})


def class_of(
    status: str, reason: str | None, code: str | None, *, challenged: bool, approved_before: bool = False
) -> str:
    """The class of an attempt from its row: its status, its reason, the code of its decline, and whether its shopper was challenged.

    ``approved_before``: whether the payment's history has an approval of it. What was authorized and then voided says nothing of that
    in its row.
    """
    if status in {S.AUTHORIZED, S.CAPTURED} or (status in _ENDS and approved_before):
        return APPROVED
    if status in _OPEN:
        return PENDING
    if status == S.UNKNOWN:
        return UNKNOWN
    if status == S.NOT_PROCESSED or (status == S.VOIDED and reason is not None):  # only what is unknown has a reason
        return TECHNICAL
    if status == S.VOIDED or code == WITHDRAWN:
        return AUTHENTICATION_FAILED if challenged else CANCELED
    return _class_of_code(code)


def _class_of_code(code: str | None) -> str:
    if code in UNAUTHENTICATED:
        return AUTHENTICATION_FAILED
    if code in BLOCKS:
        return BLOCKED
    return TECHNICAL if code in FAULTS else DECLINED


CLASS_BIT: Final[Mapping[str, int]] = MappingProxyType({name: 1 << at for at, name in enumerate(CLASSES)})
"""How a class stands in a count: one bit each, so that a set of classes is one number."""


class Mark(IntFlag):
    """What became of a payment, one bit each."""

    REACHED = 1
    """An attempt of it reached a provider and was answered: approved, declined, blocked there, or not authenticated."""
    APPROVED = 2
    """An attempt of it was approved."""
    FIRST = 4
    """Its first attempt was approved."""
    STUMBLED = 8
    """Its first attempt ended without an approval."""
    RECOVERED = 16
    """The approved attempt was not the first of its round: another account was asked, and said yes."""
    LAST = 32
    """No later payment tries the same again within the window, or it was approved: the last try of its group."""
    REQUESTED = 64
    """It is decided: approved, or no attempt of it is pending or unknown, and it was not withdrawn."""


MARKS: Final[Mapping[str, Mark]] = MappingProxyType(
    {
        "reached": Mark.REACHED,
        "approved": Mark.APPROVED,
        "first_approved": Mark.FIRST,
        "stumbled": Mark.STUMBLED,
        "recovered": Mark.RECOVERED,
        "requested": Mark.REQUESTED,
    }
)
"""The marks by their columns in the view ``rates.payment``; whether a payment is the last of its group follows from its neighbours."""
EXTRA: Final = 256
"""Stands where a payment's marks would: a count of the attempts that a cascade has added."""


# --- The rates -----------------------------------------------------------------------------------------------------------

Unit = Literal["attempt", "payment", "group"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One rate. ``hits`` and ``total`` are sets of classes for attempts (any of them), of marks for payments (all of them)."""

    name: str
    unit: Unit
    numerator: str
    denominator: str
    leaves_out: str
    hits: int
    total: int
    costs: bool = False
    """Whether the attempts that were added are told beside it."""

    @property
    def sentence(self) -> str:
        """What is published of it, in one sentence."""
        return f"{self.numerator} / {self.denominator}, per {self.unit}; {self.leaves_out}."

    @property
    def of_payments(self) -> bool:
        """Whether payments are counted, at the time of their first attempt; else attempts, each at its own."""
        return self.unit != "attempt"


def _classes(*names: str) -> int:
    return sum(CLASS_BIT[name] for name in names)


_SENT: Final = _classes(APPROVED, DECLINED, TECHNICAL, UNKNOWN)
_NOT_SENT: Final = "blocked, not authenticated, canceled and pending attempts are left out"
METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        each.name: each
        for each in (
            Metric(
                "attempt_authorization_rate",
                "attempt",
                "approved",
                "approved + declined",
                "technical, unknown, blocked, not authenticated, canceled and pending attempts are left out",
                _classes(APPROVED),
                _classes(APPROVED, DECLINED),
            ),
            Metric(
                "payment_authorization_rate",
                "payment",
                "payments with an approved attempt",
                "payments with an attempt that reached a provider",
                "payments whose attempts were all technical, unknown, canceled, pending or stopped by our own limits are left out",
                Mark.REACHED | Mark.APPROVED,
                Mark.REACHED,
            ),
            Metric(
                "deduplicated_rate",
                "group",
                "groups with an approved payment",
                "groups of payments that reached a provider and try the same again within the window",
                "what payment_authorization_rate leaves out is left out here; a payment without a reference is a group of its own",
                Mark.REACHED | Mark.LAST | Mark.APPROVED,
                Mark.REACHED | Mark.LAST,
            ),
            Metric(
                "acceptance_rate",
                "payment",
                "approved payments",
                "decided payments",
                "technical failures, blocks and challenges that were not passed count against it; only payments that are not decided yet, "
                "or were withdrawn, are left out",
                Mark.REQUESTED | Mark.APPROVED,
                Mark.REQUESTED,
            ),
            Metric(
                "first_attempt_rate",
                "payment",
                "payments whose first attempt was approved",
                "payments with an attempt that reached a provider",
                "what payment_authorization_rate leaves out is left out here, so that the two may be compared",
                Mark.REACHED | Mark.FIRST,
                Mark.REACHED,
            ),
            Metric(
                "recovered_by_cascade",
                "payment",
                "payments that another account approved in the same round, after an attempt that was not approved",
                "payments whose first attempt ended without an approval",
                "payments whose first attempt is pending, unknown or canceled are left out",
                Mark.STUMBLED | Mark.RECOVERED,
                Mark.STUMBLED,
                costs=True,
            ),
            Metric(
                "technical_error_rate",
                "attempt",
                "technical",
                "approved + declined + technical + unknown",
                _NOT_SENT,
                _classes(TECHNICAL),
                _SENT,
            ),
            Metric(
                "unknown_rate",
                "attempt",
                "unknown",
                "approved + declined + technical + unknown",
                f"{_NOT_SENT}; an outcome that becomes known is counted as what it is from then on",
                _classes(UNKNOWN),
                _SENT,
            ),
        )
    }
)
"""Every rate there is, by name."""


# --- Dimensions ----------------------------------------------------------------------------------------------------------

METADATA: Final = "metadata."
"""``metadata.KEY`` is a dimension, too: what the merchant has put there."""
DIMENSIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "account": "the account that was asked, by its name in the configuration",
        "provider": "the provider of that account",
        "brand": "the card's brand",
        "funding": "credit, debit or prepaid",
        "bin": "the first six to eight digits of the card",
        "issuer_country": "where the card was issued, ISO 3166-1 alpha-2",
        "country": "the country of the billing address",
        "currency": "ISO 4217",
        "amount_band": "the amount in minor units: 1-999, 1000-4999, 5000-19999, 20000-99999, 100000+",
        "initiator": "customer, or merchant where the shopper was away",
        "recurring": "what the merchant said of a series of payments, such as subscription",
        "capture_method": "automatic or manual",
        "class": "what became of the attempt",
        "decline_code": "the decline in our words, such as insufficient_funds",
        "decline_type": "soft, or hard where the same card will not work again",
        "decline_action": "what the decline permits, such as retry_later",
        "raw_code": "the provider's own code of the decline",
        "network_code": "the issuer's own response code, where the provider passes it on",
        "network_advice": "what the card network advises after the decline",
        "routing": "how the account was chosen: pinned, static, priority, split, strategy or holdout",
        "rule": "the routing rule that decided",
        "version": "the version of the routing document",
        "strategy": "the strategy that ranked the accounts",
        "mode": "what the choice was for: exploit, explore, probe, split, forced or holdout",
        "ordinal": "the number of the attempt in its payment, from 1",
        "round": "the number of the confirmation, from 1",
        "allowed_by": "the rule that allowed an attempt after the first",
        "three_d_secure": "how the shopper was authenticated: authenticated, attempted, exempted, not_supported, failed, challenged or none",
        "three_d_secure_flow": "frictionless or challenge",
        "three_d_secure_version": "the version of the protocol",
        "eci": "the electronic commerce indicator",
        "avs": "the result of the address check",
        "cvc": "the result of the check of the security code",
    }
)
"""Every dimension that we hold, and what its values are. A value that is not known is ``null``.

Of a payment, and of a group, they are those of its first attempt; a group is its last payment's."""


@dataclass(frozen=True, slots=True)
class Cuboid:
    """Counts that are kept ready: for each combination of ``dimensions`` that occurs, in each hour or day (UTC)."""

    name: str
    grain: Literal["hour", "day"]
    dimensions: frozenset[str]


_ACCOUNT: Final = frozenset({"account", "provider", "brand", "currency"})
_PROOF: Final = frozenset({"three_d_secure_flow", "three_d_secure_version", "eci", "avs", "cvc"})
CUBOIDS: Final = (
    Cuboid("hour", "hour", _ACCOUNT),
    Cuboid("bin", "day", _ACCOUNT | {"bin", "funding", "issuer_country", "class", "decline_code", "decline_type"}),
    Cuboid("proof", "day", _ACCOUNT | _PROOF | {"three_d_secure"}),
    Cuboid("day", "day", frozenset(DIMENSIONS) - _PROOF - {"bin"}),
)
"""The smallest first. What none of them covers is counted from the attempts themselves."""


# --- A question, and its answer ------------------------------------------------------------------------------------------

INTERVALS: Final = ("hour", "day", "week", "month")
"""The steps of a series, in UTC; a week begins on Monday."""
GROUPS_MAX: Final = 4
FILTERS_MAX: Final = 10
VALUES_MAX: Final = 50
RANGE_MAX: Final = timedelta(days=400)
SINGLE_MAX: Final = timedelta(days=31)
"""How far a question may reach that no kept counts can answer."""
CELLS_MAX: Final = 10_000
"""A table of more is for nobody to read: ask for less, or for it in parts."""
TOO_FEW: Final = 100
"""Below so many a rate is shown, and marked: it should not be compared."""
Z_95: Final = 1.959963984540054


class Unanswerable(Exception):
    """A question that has no answer here. ``param`` is the part of it that is wrong; the message says what to ask instead."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: one rate of one merchant in one mode, from ``start`` to before ``end``, for each combination of ``group_by``.

    With ``interval`` there is a cell for each step of it. ``filters`` keeps what has one of the values of each dimension; the empty text
    is a value that is not known.
    """

    merchant_id: str
    livemode: bool
    metric: str
    start: datetime
    end: datetime
    group_by: tuple[str, ...] = ()
    interval: str | None = None
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Every dimension that is grouped or filtered by, each once."""
        return tuple(dict.fromkeys((*self.group_by, *self.filters)))

    @property
    def metadata_keys(self) -> tuple[str, ...]:
        """Those of them that are the merchant's own."""
        return tuple(each for each in self.dimensions if each.startswith(METADATA))


@dataclass(frozen=True, slots=True)
class Amount:
    """The same counted in money, in minor units of one currency. ``rate`` is ``None`` where there is nothing to divide by."""

    currency: str
    n: int
    hits: int

    @property
    def rate(self) -> float | None:
        """Share of the amount."""
        return self.hits / self.n if self.n else None


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of an answer: ``hits`` of ``n``, with the ends of the Wilson 95 % interval of their rate.

    ``at`` is the beginning of its step, ``keys`` the value of each dimension that was grouped by. ``amounts`` has an entry a currency.
    ``extra_attempts`` is what a cascade has cost.
    """

    keys: Mapping[str, str | None]
    at: datetime | None
    n: int
    hits: int
    amounts: tuple[Amount, ...] = ()
    extra_attempts: int | None = None

    @property
    def rate(self) -> float | None:
        """Share of the count; ``None`` where there is nothing to divide by."""
        return self.hits / self.n if self.n else None

    @property
    def low(self) -> float | None:
        """The lower end of the interval."""
        return wilson(self.hits, self.n)[0] if self.n else None

    @property
    def high(self) -> float | None:
        """The upper end of the interval."""
        return wilson(self.hits, self.n)[1] if self.n else None

    @property
    def too_few(self) -> bool:
        """Whether it rests on too little to be compared."""
        return self.n < TOO_FEW


@dataclass(frozen=True, slots=True)
class Measured:
    """An answer: its cells in the order of time, then of ``n``, the largest first.

    All that was recorded by ``as_of`` is counted; ``None`` is nothing yet. ``complete`` is false while older payments are being counted.
    """

    cells: tuple[Cell, ...]
    as_of: datetime | None
    complete: bool = True


def wilson(hits: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """The Wilson score interval of ``hits`` of ``n``, which must be more than nothing: both ends within 0 and 1, also for few or none."""
    share, square = hits / n, z * z / n
    middle = (share + square / 2) / (1 + square)
    half = z * sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


def check(asked: Asked) -> Metric:
    """The metric that is asked for. Raises :class:`Unanswerable` naming what is wrong with the question."""
    metric = METRICS.get(asked.metric)
    if metric is None:
        raise Unanswerable("metric", f"There is no such metric. There are: {', '.join(METRICS)}.")
    _check_dimensions(asked)
    if asked.interval is not None and asked.interval not in INTERVALS:
        raise Unanswerable("interval", f"interval must be one of: {', '.join(INTERVALS)}.")
    if asked.start >= asked.end:
        raise Unanswerable("to", "to must be later than from.")
    if asked.end - asked.start > RANGE_MAX:
        raise Unanswerable("from", f"from and to may be {RANGE_MAX.days} days apart at most.")
    if asked.end - asked.start > SINGLE_MAX and source(asked) is None:
        raise Unanswerable(
            "group_by",
            f"These dimensions are not counted together ahead: ask for {SINGLE_MAX.days} days at most, or with fewer of them.",
        )
    return metric


def _check_dimensions(asked: Asked) -> None:
    for param, names in (("group_by", asked.group_by), ("filter", tuple(asked.filters))):
        for name in names:
            if name not in DIMENSIONS and not (name.startswith(METADATA) and len(name) > len(METADATA)):
                raise Unanswerable(
                    param, f"{param} has a dimension that is none. There are: {', '.join(DIMENSIONS)}, metadata.KEY."
                )
    if len(set(asked.group_by)) != len(asked.group_by):
        raise Unanswerable("group_by", "group_by has a dimension twice.")
    if len(asked.group_by) > GROUPS_MAX:
        raise Unanswerable("group_by", f"group_by takes {GROUPS_MAX} dimensions at most.")
    if len(asked.filters) > FILTERS_MAX:
        raise Unanswerable("filter", f"filter takes {FILTERS_MAX} dimensions at most.")
    if any(len(values) > VALUES_MAX for values in asked.filters.values()):
        raise Unanswerable("filter", f"filter takes {VALUES_MAX} values of a dimension at most.")


def source(asked: Asked) -> Cuboid | None:
    """The kept counts that can answer, the smallest there are; ``None`` where only the attempts themselves can."""
    wanted = set(asked.dimensions)
    for cuboid in CUBOIDS:
        if wanted <= cuboid.dimensions and (cuboid.grain == "hour" or asked.interval != "hour"):
            return cuboid
    return None


def whole(asked: Asked, grain: Literal["hour", "day"]) -> tuple[datetime, datetime]:
    """The whole hours or days within the question's time; where there is none, both ends are the end of it."""
    step = timedelta(hours=1) if grain == "hour" else timedelta(days=1)
    first, last = _floor(asked.start, step), _floor(asked.end, step)
    if first < asked.start:
        first += step
    return (first, last) if first < last else (asked.end, asked.end)


def _floor(at: datetime, step: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return at.astimezone(UTC) - (at - epoch) % step
