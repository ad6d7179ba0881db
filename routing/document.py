"""The routing document: the JSON that a payments team edits, read into a value or refused with every fault at once.

A document is an ordered list of rules, each with conditions (``when``) and an outcome (``then``), and a ``default`` for all other
payments. :func:`read` is the only way in: what it returns can be written as :meth:`Document.canonical` and read again to an equal
document, on any process of the same release. What it means is in :mod:`routing.conditions` and :mod:`routing.rules`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, StrictBool, StringConstraints, Tag, ValidationError, model_validator
from pydantic_core import ErrorDetails

from routing.conditions import Test, When
from routing.faults import Fault, Faulty, wrong
from routing.values import Accounts, Currency, Minor, Name, Part, Percent, Shares, Text, hundredths

SIZE_MAX: Final = 256 * 1024
"""Bytes of a document in its canonical form, and as it is sent."""
RULES_MAX: Final = 500
DEPTH_MAX: Final = 16
_INTEGER_MAX: Final = 2**53

StrategyName = Literal["priority", "weighted", "least_cost", "success_rate_window", "adaptive"]

__all__ = [
    "Document",
    "Fault",
    "Faulty",
    "Holdout",
    "Outcome",
    "Priority",
    "Rule",
    "Split",
    "Strategy",
    "dumped",
    "read",
]

# --- Outcomes ---------------------------------------------------------------------------------------------------------


class Priority(Part):
    """The accounts are asked in this order."""

    priority: Accounts

    @property
    def accounts(self) -> tuple[str, ...]:
        """The accounts that may be asked."""
        return self.priority


class Split(Part):
    """Each account gets its percentage of the payments, by a hash of the payment's id; the others follow, the largest first."""

    split: Shares

    @model_validator(mode="after")
    def _whole(self) -> Split:
        total = sum(hundredths(share) for share in self.split.values())
        if total != 100_00:
            raise wrong(f"the percentages sum up to {total / 100:g}", "let them sum up to 100")
        return self

    @property
    def accounts(self) -> tuple[str, ...]:
        """The accounts that may be asked, the largest share first; equal shares by name, as JSON objects have no order."""
        return tuple(sorted(self.split, key=lambda account: (-self.split[account], account)))


class Limit(Part):
    """An amount of one currency, in minor units."""

    amount: Minor
    currency: Currency


class Constraints(Part):
    """What a strategy has to keep, whatever it has learned. Shares and ``explore_max`` are in percent."""

    min_share: Shares | None = None
    max_share: Shares | None = None
    explore_max: Percent | None = None
    never_explore_above: Limit | None = None


class Strategy(Part):
    """The accounts are ranked by a strategy, which learns from outcomes."""

    strategy: StrategyName
    accounts: Accounts
    settings: dict[str, Any] = Field(default_factory=dict)
    constraints: Constraints = Constraints()


def _sort(value: object) -> str:
    if isinstance(value, Priority | Split | Strategy):
        return f"‹{type(value).__name__.lower()}›"
    keys = value if isinstance(value, dict) else ()
    return next((f"‹{key}›" for key in ("strategy", "split", "priority") if key in keys), "none")


Outcome = Annotated[
    Annotated[Priority, Tag("‹priority›")] | Annotated[Split, Tag("‹split›")] | Annotated[Strategy, Tag("‹strategy›")],
    Discriminator(_sort),
]


# --- The document -----------------------------------------------------------------------------------------------------


class Rule(Part):
    """One rule: the first whose conditions all hold decides."""

    name: Name
    when: When
    then: Outcome
    note: Text | None = None


class Holdout(Part):
    """The share of payments that is kept from strategies, to measure what they are worth.

    It goes by the order of ``accounts``, and then by the order that the outcome lists.
    """

    percent: Annotated[Percent, Field(ge=0.5, le=10)]
    accounts: Accounts | None = None
    rollback: StrictBool = True


class Document(Part):
    """A routing document. Made by :func:`read` alone."""

    schema_: Annotated[str, StringConstraints(max_length=300)] | None = Field(default=None, alias="$schema")
    name: Name | None = None
    rules: Annotated[tuple[Rule, ...], Field(max_length=RULES_MAX)] = ()
    default: Outcome
    holdout: Holdout | None = None

    @cached_property
    def compiled(self) -> tuple[tuple[str, tuple[Test, ...], Priority | Split | Strategy], ...]:
        """Each rule's name, conditions as functions, and outcome: what a decision reads."""
        return tuple((rule.name, rule.when.tests, rule.then) for rule in self.rules)

    def canonical(self) -> bytes:
        """The document as canonical JSON: the same for equal documents, without what was not written. :func:`read` takes it back."""
        return dumped(self.model_dump(mode="json", by_alias=True, exclude_unset=True))


def dumped(value: object) -> bytes:
    """JSON with sorted keys and no spaces, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def read(value: Mapping[str, Any] | bytes) -> Document:
    """The document that ``value`` is: JSON in UTF-8, or what such JSON was parsed to. Raises :class:`Faulty` with every fault."""
    parsed = _parsed(value) if isinstance(value, bytes) else value
    faults = list(_unwritable(parsed, ""))
    if not faults and len(dumped(parsed)) > SIZE_MAX:
        faults.append(_TOO_LARGE)
    try:
        document = Document.model_validate(parsed)
    except ValidationError as error:
        known = {fault.pointer for fault in faults}
        faults += [fault for fault in map(_fault, error.errors(include_url=False)) if fault.pointer not in known]
    else:
        faults += _names(document)
        if not faults:
            _ = document.compiled  # here, as it loads time zones from files
            return document
    raise Faulty(faults)


_TOO_LARGE: Final = Fault(
    "", f"a document has at most {SIZE_MAX // 1024} KiB", "merge rules, or use prefixes for ranges"
)
_NO_JSON: Final = "check it with the JSON Schema in an editor"


class _Pairs(dict[str, Any]):
    """A JSON object that knows which of its keys stood there twice."""

    twice: tuple[str, ...] = ()


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    found = _Pairs(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        found.twice = tuple(name for name in found if names.count(name) > 1)
    return found


def _parsed(text: bytes) -> Any:
    if len(text) > SIZE_MAX:
        raise Faulty([_TOO_LARGE])
    try:
        return json.loads(text.decode(), object_pairs_hook=_pairs)
    except UnicodeDecodeError:
        raise Faulty([Fault("", "the document is not UTF-8", "save it as UTF-8")]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Faulty([Fault("", f"the document is not JSON: {error.msg} at {where}", _NO_JSON)]) from None
    except (RecursionError, ValueError):
        raise Faulty([Fault("", "the document is not JSON that can be read", _NO_JSON)]) from None


def _unwritable(value: object, pointer: str, depth: int = 0) -> Iterator[Fault]:
    """What could not be stored as JSON and read again."""
    if isinstance(value, Mapping | list | tuple):
        if depth >= DEPTH_MAX:
            yield Fault(pointer, "the document is nested too deep", f"use at most {DEPTH_MAX} levels")
            return
        for name in getattr(value, "twice", ()):
            yield Fault(f"{pointer}/{_escaped(name)}", "the key stands here twice", "write it once")
        for name, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            if not isinstance(name, int) and not (isinstance(name, str) and _storable(name)):
                yield Fault(pointer, "a key has a character that cannot be stored", "rename the key")
            else:
                yield from _unwritable(each, f"{pointer}/{_escaped(name)}", depth + 1)
    else:
        wrong = _scalar(value)
        if wrong is not None:
            yield Fault(pointer, *wrong)


def _scalar(value: object) -> tuple[str, str] | None:
    """What is wrong with a value that holds no others, and its fix."""
    match value:
        case None:
            return "null says nothing here", "leave the key out"
        case bool():
            return None
        case str() if not _storable(value):
            return "the text has a character that cannot be stored", "leave \\u0000 and lone surrogates out"
        case int() if abs(value) > _INTEGER_MAX:
            return "the number is too large", f"write at most {_INTEGER_MAX}"
        case float() if not math.isfinite(value):
            return "the number is not finite", "write a number"
        case str() | int() | float():
            return None
        case _:
            return "this is no JSON value", "write text, a number, true, false, a list or an object"


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


def _names(document: Document) -> Iterator[Fault]:
    """Rules that have a name which an earlier one or the default has."""
    taken = {"default"}
    for index, rule in enumerate(document.rules):
        if rule.name in taken:
            yield Fault(f"/rules/{index}/name", f"the name {rule.name!r} is taken", "give each rule a name of its own")
        taken.add(rule.name)


# --- Faults -----------------------------------------------------------------------------------------------------------


def _escaped(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _fault(error: ErrorDetails) -> Fault:
    """What pydantic found, with its JSON pointer and a fix."""
    parts = [part for part in error["loc"] if not (isinstance(part, str) and re.fullmatch("‹.*›", part))]
    pointer = "".join(f"/{_escaped(part)}" for part in parts if part != "[key]")
    context = error.get("ctx", {})
    if error["type"] == "fault":
        return Fault(pointer, context["message"], context["fix"])
    return Fault(pointer, error["msg"], "see the JSON Schema of routing documents")
