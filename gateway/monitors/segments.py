"""Segments: the parts of a merchant's payments that are watched, and how they lie in each other. Pure.

The smallest part is a :class:`Leaf`. A :data:`Segment` is all leaves that agree in some of its dimensions; those that are watched have
one of the :data:`SHAPES`, and each but the widest has a parent that it is measured by where it is too small itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple


class Leaf(NamedTuple):
    """What is told apart of a first attempt. ``None`` is a value that is not known."""

    account: str | None
    brand: str | None
    currency: str | None
    issuer_country: str | None


Segment = tuple[tuple[str, str | None], ...]
"""Values by dimension, in the order of a leaf's: ``()`` is everything, ``(("account", "acme_us"), ("currency", "EUR"))`` a part of it."""

DIMENSIONS: Final = Leaf._fields
EVERYTHING: Final[Segment] = ()

SHAPES: Final[Mapping[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        ("account",): (),
        ("brand",): (),
        ("currency",): (),
        ("issuer_country",): (),
        ("account", "brand"): ("account",),
        ("account", "currency"): ("account",),
        ("account", "issuer_country"): ("account",),
        ("account", "brand", "currency"): ("account", "brand"),
        ("account", "brand", "currency", "issuer_country"): ("account", "brand", "currency"),
    }
)
"""The dimensions of every segment that is watched beside everything, and those of its parent; a parent stands before its children.

An account is the chain that a provider's troubles follow. A brand, a currency and an issuer country stand alone as well: the troubles of
an issuer or a network show at all accounts at once.
"""
SHOPPERS: Final = frozenset({(), ("brand",), ("currency",), ("issuer_country",)})
"""The shapes that routing does not decide: an account without traffic may just not be asked."""
WIDE: Final = frozenset({(), ("account",)})
_PLACE: Final = {name: at for at, name in enumerate(DIMENSIONS)}


def shape(segment: Segment) -> tuple[str, ...]:
    """The dimensions that it names."""
    return tuple(name for name, _ in segment)


def part(leaf: Leaf, dimensions: tuple[str, ...]) -> Segment:
    """The segment of these dimensions that the leaf lies in."""
    return tuple((name, leaf[_PLACE[name]]) for name in dimensions)


@lru_cache(maxsize=1 << 16)
def segments_of(leaf: Leaf) -> tuple[Segment, ...]:
    """Every watched segment that the leaf lies in, a parent before its children; the last is the leaf itself."""
    return (EVERYTHING, *(part(leaf, dimensions) for dimensions in SHAPES))


def parent(segment: Segment) -> Segment:
    """The segment it is measured by. ``segment`` must have a shape of :data:`SHAPES`."""
    kept = SHAPES[shape(segment)]
    return tuple(pair for pair in segment if pair[0] in kept)


def holds(segment: Segment, leaf: Leaf) -> bool:
    """Whether the leaf lies in it."""
    return all(leaf[_PLACE[name]] == value for name, value in segment)


def within(inner: Segment, outer: Segment) -> bool:
    """Whether all of ``inner`` lies in ``outer``, or they are the same."""
    return set(outer) <= set(inner)


def nested(one: Segment, other: Segment) -> bool:
    """Whether one of them lies in the other."""
    return within(one, other) or within(other, one)


def crossing(one: Segment, other: Segment) -> bool:
    """Whether they may have payments in common: no dimension has two values."""
    return all(dict(other).get(name, value) == value for name, value in one)


def as_dict(segment: Segment) -> dict[str, str | None]:
    """As JSON has it; of everything it is empty."""
    return dict(segment)


def of_dict(dimensions: Mapping[str, str | None]) -> Segment:
    """The segment of these values. Raises ``ValueError`` naming a dimension that no segment has."""
    for name in dimensions:
        if name not in _PLACE:
            raise ValueError(f"A segment has no dimension {name!r}. There are: {', '.join(DIMENSIONS)}.")
    return tuple((name, dimensions[name]) for name in DIMENSIONS if name in dimensions)


def told(segment: Segment) -> str:
    """In words: ``account acme_us, currency EUR``; ``all payments`` of everything."""
    words = (f"{name.replace('_', ' ')} {'not known' if value is None else value}" for name, value in segment)
    return ", ".join(words) or "all payments"
