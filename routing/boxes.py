"""Rules as sets of payments: of every condition the set of values that it takes, and what rules leave of each other.

A :class:`Box` is all payments whose every fact lies in the box's set for it. Boxes are closed under intersection, and what one leaves
of another is a list of boxes. Sets err on the side of being larger: what is found covered is covered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from providers.money import AMOUNT_MAX
from routing.conditions import Not, When, Window, minutes, spans, values
from routing.values import DAYS

Spans = tuple[tuple[int, int], ...]
ALL_AMOUNTS: Final[Spans] = ((0, AMOUNT_MAX),)
_INITIATORS: Final = frozenset({"customer", "merchant"})
"""One of them is known of every payment."""
_WEEK: Final = (1 << (7 * 1440)) - 1


@dataclass(frozen=True, slots=True)
class Words:
    """These words, or all but these; "not known" is one of all the others."""

    named: frozenset[str]
    others: bool = False

    def common(self, other: Words) -> Words:
        """What is in both."""
        if self.others and other.others:
            return Words(self.named | other.named, True)
        if self.others:
            return Words(other.named - self.named)
        return Words(self.named - other.named) if other.others else Words(self.named & other.named)

    def without(self, other: Words) -> Words:
        """What is in this one alone."""
        return self.common(Words(other.named, not other.others))

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return not self.others and not self.named

    @property
    def text(self) -> str:
        """In words."""
        return ("not " if self.others else "") + " or ".join(sorted(self.named))


@dataclass(frozen=True, slots=True)
class Money:
    """Spans of amounts by currency, and whether every other currency is in it with all its amounts."""

    spans: Mapping[str, Spans]
    others: bool = False

    def of(self, currency: str) -> Spans:
        """The amounts of one currency."""
        return self.spans.get(currency, ALL_AMOUNTS if self.others else ())

    def only(self) -> frozenset[str] | None:
        """The currencies in it, or ``None`` for all but some."""
        return None if self.others else frozenset(currency for currency, each in self.spans.items() if each)

    def common(self, other: Money) -> Money:
        """What is in both."""
        named = {each: _common(self.of(each), other.of(each)) for each in {*self.spans, *other.spans}}
        return Money(named, self.others and other.others)

    def without(self, other: Money) -> Money:
        """What is in this one alone."""
        named = {each: _without(self.of(each), other.of(each)) for each in {*self.spans, *other.spans}}
        return Money(named, self.others and not other.others)

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return not self.others and not any(self.spans.values())

    @property
    def text(self) -> str:
        """In words."""
        parts = [f"{name}{_amounts(each)}" for name, each in sorted(self.spans.items()) if each]
        left_out = [name for name, each in sorted(self.spans.items()) if not each]
        return " or ".join(parts) or f"not {' or '.join(left_out)}"


@dataclass(frozen=True, slots=True)
class Clock:
    """Minutes of a week by one clock, as bits."""

    minutes: int

    def common(self, other: Clock) -> Clock:
        """What is in both."""
        return Clock(self.minutes & other.minutes)

    def without(self, other: Clock) -> Clock:
        """What is in this one alone."""
        return Clock(self.minutes & ~other.minutes)

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return self.minutes == 0

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.minutes.bit_count()} minutes of the week"


@dataclass(frozen=True, slots=True)
class Bins:
    """First digits of card numbers as spans of eight digits, or all but these.

    ``whole`` says that every end lies between numbers of six digits: only then a BIN of six digits is in spans or out of them, and
    what two of them cover together is what each of them covers.
    """

    spans: Spans
    others: bool = False
    whole: bool = True

    def common(self, other: Bins) -> Bins:
        """What is in both."""
        whole = self.whole and other.whole
        if self.others and other.others:
            return Bins(_joined((*self.spans, *other.spans)), True, True) if whole else self
        if not self.others and not other.others:
            return Bins(_common(self.spans, other.spans), False, whole)
        within, outside = (other, self) if self.others else (self, other)
        left = _without(within.spans, outside.spans)
        return Bins(left, False, whole) if whole or not left else within

    def without(self, other: Bins) -> Bins:
        """What is in this one alone; all of it, where that cannot be told and it is not simply inside the other."""
        left = self.common(Bins(other.spans, not other.others, other.whole))
        return left if left.empty or left.whole else self

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return not self.others and not self.spans

    @property
    def text(self) -> str:
        """In words."""
        parts = [f"{low:08}-{high:08}" for low, high in self.spans[:3]]
        more = ["…"] if len(self.spans) > 3 else []
        return ("not " if self.others else "") + "bin " + " or ".join([*parts, *more])


@dataclass(frozen=True, slots=True)
class Box:
    """A set of payments: ``money``, and for every other fact that matters the values it may have."""

    money: Money
    sides: Mapping[str, Any]
    """Fact → :class:`Words`, :class:`Clock` or :class:`Bins`."""


_EVERY_MONEY: Final = Money({}, True)


def box_of(when: When) -> Box:
    """The payments that fulfil the conditions."""
    sides: dict[str, Any] = {}
    for name in ("country", "brand", "funding", "issuer_country", "initiator", "recurring", "three_d_secure"):
        given = getattr(when, name)
        if given is not None:
            sides[name] = Words(frozenset(values(given)), isinstance(given, Not))
    initiator = sides.get("initiator")
    if initiator is not None and initiator.others:  # it is one of two, and always known
        sides["initiator"] = Words(_INITIATORS - initiator.named)
    for key, given in (when.metadata or {}).items():
        sides[f"metadata {key}"] = Words(frozenset(values(given)), isinstance(given, Not))
    if when.bin is not None:
        merged = tuple(spans(values(when.bin)))
        whole = all(low % 100 == 0 and high % 100 == 99 for low, high in merged)
        sides["bin"] = Bins(merged, isinstance(when.bin, Not), whole)
    if when.time is not None:
        sides[f"time in {when.time.timezone}"] = Clock(_week(when.time))
    return Box(_money(when), sides)


def _money(when: When) -> Money:
    money = _EVERY_MONEY
    if when.currency is not None:
        wanted = not isinstance(when.currency, Not)
        money = Money(dict.fromkeys(values(when.currency), ALL_AMOUNTS if wanted else ()), not wanted)
    if when.amount is not None:
        currency = when.amount.currency or when.only_currency
        low, high = when.amount.min or 0, AMOUNT_MAX if when.amount.max is None else when.amount.max
        money = money.common(Money({} if currency is None else {currency: ((low, high),)}))
    return money


def _week(window: Window) -> int:
    begin, end = minutes(window.from_ or "00:00"), minutes(window.until or "24:00")
    length = end - begin if begin < end else 1440 - begin + end
    bits = 0
    for day in window.days or DAYS:
        start = DAYS.index(day) * 1440 + begin
        bits |= ((1 << length) - 1) << start
    return (bits & _WEEK) | (bits >> (7 * 1440))


def empty(box: Box) -> bool:
    """Whether no payment is in the box."""
    return box.money.empty or any(side.empty for side in box.sides.values())


def common(first: Box, second: Box) -> Box:
    """The payments that are in both."""
    sides = dict(first.sides)
    for name, side in second.sides.items():
        sides[name] = side if name not in sides else sides[name].common(side)
    return Box(first.money.common(second.money), sides)


def left_of(box: Box, others: Sequence[Box], most: int) -> list[Box]:
    """What the others leave of a box. Gives up after looking at ``most`` parts, with some that may be covered."""
    left, looked = [box], 0
    for other in others:
        looked += len(left)
        left = [part for each in left for part in _minus(each, other)]
        if not left or looked > most:
            break
    return left


def _minus(box: Box, other: Box) -> Iterable[Box]:
    """The parts of a box that are outside the other: one for each side, cut where the sides before it are inside."""
    if empty(common(box, other)):
        return [box]
    parts, inside = [], box
    for name, side in other.sides.items():
        mine = inside.sides.get(name)
        outside = _complement(name, side) if mine is None else mine.without(side)
        if not outside.empty:
            parts.append(replace(inside, sides={**inside.sides, name: outside}))
        inside = replace(inside, sides={**inside.sides, name: side if mine is None else mine.common(side)})
    money = inside.money.without(other.money)
    if not money.empty:
        parts.append(replace(inside, money=money))
    return parts


def _complement(name: str, side: Words | Clock | Bins) -> Any:
    if isinstance(side, Clock):
        return Clock(_WEEK & ~side.minutes)
    if isinstance(side, Bins):
        return Bins(side.spans, not side.others, side.whole)
    return Words(_INITIATORS - side.named) if name == "initiator" else Words(side.named, not side.others)


def described(box: Box) -> str:
    """A box in words."""
    parts = [] if box.money == _EVERY_MONEY else [box.money.text]
    parts += [side.text if name == "bin" else f"{name} {side.text}" for name, side in box.sides.items()]
    return ", ".join(parts)


# --- Spans ------------------------------------------------------------------------------------------------------------


def _common(first: Spans, second: Spans) -> Spans:
    return tuple(
        (max(low, other_low), min(high, other_high))
        for low, high in first
        for other_low, other_high in second
        if max(low, other_low) <= min(high, other_high)
    )


def _without(first: Spans, second: Spans) -> Spans:
    left = list(first)
    for cut_low, cut_high in second:
        parts = []
        for low, high in left:
            if cut_high < low or cut_low > high:
                parts.append((low, high))
                continue
            if low < cut_low:
                parts.append((low, cut_low - 1))
            if high > cut_high:
                parts.append((cut_high + 1, high))
        left = parts
    return tuple(left)


def _joined(given: Spans) -> Spans:
    joined: list[tuple[int, int]] = []
    for low, high in sorted(given):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return tuple(joined)


def _amounts(given: Spans) -> str:
    if given == ALL_AMOUNTS:
        return ""
    texts = []
    for low, high in given:
        if high == AMOUNT_MAX:
            texts.append(f"from {low}")
        else:
            texts.append(f"up to {high}" if low == 0 else f"from {low} to {high}")
    return f" {' and '.join(texts)}"
