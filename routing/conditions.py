"""Conditions of a rule: how they are written, and when they hold.

A condition has a value, a list of values of which one has to be the payment's, or ``{"not": …}`` with a list. What is not known of
a payment is none of the values: a condition on it does not hold, and its ``not`` does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import cached_property
from operator import attrgetter
from typing import Annotated, Any, Final, Generic, TypeVar
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from routing.decision import Facts
from routing.faults import wrong
from routing.values import (
    DAYS,
    VALUES_MAX,
    Bins,
    Clock,
    Country,
    Currency,
    Day,
    Initiator,
    Key,
    Minor,
    Part,
    Recurring,
    Text,
    ThreeDSecure,
    Word,
    Zone,
    unique,
)

CONDITIONS_MAX: Final = 20

Test = Callable[[Facts], bool]

T = TypeVar("T")
N = TypeVar("N")


class Not(Part, Generic[T]):
    """Holds where none of the values is the payment's, also where nothing is known."""

    none_of: Annotated[tuple[T, ...], Field(min_length=1, max_length=VALUES_MAX), AfterValidator(unique)] = Field(
        alias="not"
    )


def _shape(value: object) -> str:
    if isinstance(value, dict | Not):
        return "‹not›"
    return "‹any›" if isinstance(value, list | tuple) else "‹one›"


Condition = Annotated[
    Annotated[T, Tag("‹one›")]
    | Annotated[
        Annotated[tuple[T, ...], Field(min_length=1, max_length=VALUES_MAX), AfterValidator(unique)], Tag("‹any›")
    ]
    | Annotated[N, Tag("‹not›")],
    Discriminator(_shape),
]


def values(condition: Any) -> tuple[Any, ...]:
    """The values that a condition names, whether it wants one of them or none."""
    if isinstance(condition, Not):
        return condition.none_of
    return condition if isinstance(condition, tuple) else (condition,)


class Amount(Part):
    """From ``min`` to ``max`` minor units, both included, of ``currency`` or of the only currency of the rule."""

    min: Minor | None = None
    max: Minor | None = None
    currency: Currency | None = None

    @model_validator(mode="after")
    def _whole(self) -> Amount:
        if self.min is None and self.max is None:
            raise wrong("An amount has 'min', 'max' or both.", "Add 'min' or 'max', in minor units.")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise wrong("'min' is above 'max'.", f"Write min {self.max} and max {self.min}.")
        return self


class Window(Part):
    """A time of the week by the clock of ``timezone``, ``until`` not included. A window over midnight belongs to the day it begins."""

    timezone: Zone
    days: Annotated[tuple[Day, ...], Field(min_length=1, max_length=7), AfterValidator(unique)] | None = None
    from_: Clock | None = Field(default=None, alias="from")
    until: Clock | None = None

    @model_validator(mode="after")
    def _whole(self) -> Window:
        if self.days is None and self.from_ is None and self.until is None:
            raise wrong("A time has 'days', 'from' or 'until'.", "Add one of them.")
        if self.from_ == "24:00":
            raise wrong("No day begins at 24:00.", "Write '00:00'.")
        if self.from_ is not None and self.from_ == self.until:
            raise wrong("The window is empty.", "Leave 'from' and 'until' out for the whole day.")
        return self


class When(Part):
    """Conditions that all hold, and at least one.

    A condition is a value, a list of values of which one has to be the payment's, or `{"not": [values]}`.
    """

    model_config = ConfigDict(
        title="Conditions",
        json_schema_extra={
            "minProperties": 1,
            "examples": [{"currency": "EUR", "brand": ["visa", "mastercard"], "country": {"not": ["FR"]}}],
        },
    )

    currency: Condition[Currency, Not[Currency]] | None = Field(default=None, description="Currency of the payment.")
    amount: Amount | None = None
    country: Condition[Country, Not[Country]] | None = Field(
        default=None, description="Country of the billing address."
    )
    brand: Condition[Word, Not[Word]] | None = Field(
        default=None, description="Card network, such as visa or mastercard."
    )
    funding: Condition[Word, Not[Word]] | None = Field(default=None, description="credit, debit or prepaid.")
    bin: Condition[Bins, Not[Bins]] | None = Field(
        default=None, description="First digits of the card number: prefixes, or ranges of prefixes."
    )
    issuer_country: Condition[Country, Not[Country]] | None = Field(
        default=None, description="Country of the bank that issued the card."
    )
    initiator: Condition[Initiator, Not[Initiator]] | None = Field(
        default=None, description="merchant where the shopper is away, else customer."
    )
    recurring: Condition[Recurring, Not[Recurring]] | None = Field(
        default=None, description="What the payment is part of."
    )
    three_d_secure: Condition[ThreeDSecure, Not[ThreeDSecure]] | None = Field(
        default=None, description="What the request asks for."
    )
    time: Window | None = Field(default=None)
    metadata: Annotated[dict[Key, Condition[Text, Not[Text]]], Field(min_length=1)] | None = Field(
        default=None, description="Key of the payment's metadata → condition on its value."
    )

    @model_validator(mode="after")
    def _sensible(self) -> When:
        count = len(self.model_fields_set - {"metadata"}) + len(self.metadata or ())
        if count == 0:
            raise wrong(
                "A rule without conditions would take every payment.", "Add a condition, or make it the 'default'."
            )
        if count > CONDITIONS_MAX:
            raise wrong(
                f"A rule has at most {CONDITIONS_MAX} conditions.", "Leave some out: a list of values is one condition."
            )
        amount = self.amount
        if amount is not None and amount.currency is None and self.only_currency is None:
            raise wrong(
                "Minor units mean nothing without a currency.",
                "Add 'currency' to the amount, or exactly one currency to the rule.",
            )
        named, own = self.currency, None if amount is None else amount.currency
        if own is not None and named is not None and (own in values(named)) is isinstance(named, Not):
            raise wrong(
                "The amount is in a currency that the rule leaves out.",
                f"Add {own!r} to the currency of the rule, or take it from the amount.",
            )
        return self

    @property
    def only_currency(self) -> str | None:
        """The currency, where the rule names exactly one."""
        named = self.currency
        return None if named is None or isinstance(named, Not) or len(values(named)) != 1 else values(named)[0]

    @cached_property
    def tests(self) -> tuple[Test, ...]:
        """The conditions as functions of the facts, the cheapest first. Each is pure."""
        tests = [_among(name, given) for name in _SIMPLE if (given := getattr(self, name)) is not None]
        if self.amount is not None:
            tests.append(_amount(self.amount, self.amount.currency or self.only_currency))
        tests += [_metadata(key, given) for key, given in (self.metadata or {}).items()]
        if self.bin is not None:
            tests.append(_bin(self.bin))
        if self.time is not None:
            tests.append(_window(self.time))
        return tuple(tests)


_SIMPLE: Final = (
    "currency",
    "country",
    "brand",
    "funding",
    "issuer_country",
    "initiator",
    "recurring",
    "three_d_secure",
)
"""Conditions that compare one fact with a set."""
_FACTS: Final = {name: attrgetter(name) for name in _SIMPLE}


def _among(name: str, condition: Any) -> Test:
    fact, named = _FACTS[name], frozenset(values(condition))
    if isinstance(condition, Not):
        return lambda facts: fact(facts) not in named
    return lambda facts: fact(facts) in named


def _metadata(key: str, condition: Any) -> Test:
    named = frozenset(values(condition))
    if isinstance(condition, Not):
        return lambda facts: facts.metadata.get(key) not in named
    return lambda facts: facts.metadata.get(key) in named


def _amount(amount: Amount, currency: str | None) -> Test:
    low = 0 if amount.min is None else amount.min
    if amount.max is None:
        return lambda facts: facts.currency == currency and facts.amount >= low
    high = amount.max
    return lambda facts: facts.currency == currency and low <= facts.amount <= high


def spans(bins: Iterable[str]) -> list[tuple[int, int]]:
    """Prefixes and ranges of card numbers as spans of their first eight digits, sorted and merged."""
    ends = []
    for text in bins:
        low, dash, high = text.partition("-")
        ends.append((int(low.ljust(8, "0")), int((high if dash else low).ljust(8, "9"))))
    merged: list[tuple[int, int]] = []
    for low_end, high_end in sorted(ends):
        if merged and low_end <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high_end))
        else:
            merged.append((low_end, high_end))
    return merged


def _bin(condition: Any) -> Test:
    """A BIN of six digits lies in a span only as a whole: of what its next two digits would say nothing is known."""
    merged = spans(values(condition))
    lows, highs = [low for low, _ in merged], [high for _, high in merged]
    wanted = not isinstance(condition, Not)

    def holds(facts: Facts) -> bool:
        if facts.bin is None or not facts.bin.isdecimal():  # whatever a provider tells stops no payment
            return not wanted
        at = bisect_right(lows, int(facts.bin.ljust(8, "0"))) - 1
        return (at >= 0 and int(facts.bin.ljust(8, "9")) <= highs[at]) is wanted

    return holds


def minutes(clock: str) -> int:
    """Minutes since midnight."""
    return int(clock[:2]) * 60 + int(clock[3:])


def _window(window: Window) -> Test:
    """The zone is loaded here, once: that reads a file, which no decision may do."""
    zone = ZoneInfo(window.timezone)
    begin, end = minutes(window.from_ or "00:00"), minutes(window.until or "24:00")
    days = frozenset(DAYS.index(day) for day in window.days or DAYS)

    def holds(facts: Facts) -> bool:
        local = facts.at.astimezone(zone)
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if begin < end:
            return begin <= minute < end and day in days
        # Over midnight: the evening of a day that is named, or the morning after one.
        return (minute >= begin and day in days) or (minute < end and (day - 1) % 7 in days)

    return holds
