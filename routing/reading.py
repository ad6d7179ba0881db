"""Reads JSON that people have written: whole or with every fault, each with its pointer and what to write instead.

:func:`parsed` takes text apart, :func:`unwritable` finds what could not be stored and read again, :func:`told` puts pydantic's errors
into words. Nothing here knows what a routing document is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from routing.faults import Fault, Faulty, near, pointer_to

SIZE_MAX: Final = 256 * 1024
"""Bytes of a document, both as it is sent and in its canonical form."""
DEPTH_MAX: Final = 16
INTEGER_MAX: Final = 2**53
"""Beyond it, not every reader of JSON keeps an integer as it is."""

TOO_LARGE: Final = Fault(
    "",
    f"A document has at most {SIZE_MAX // 1024} KiB.",
    "Merge rules, and write ranges of card numbers for lists of them.",
)
TOO_DEEP: Final = "The document is nested too deep."
TAG: Final = "‹"
"""Begins the names of the variants of a value, which pydantic puts into its locations and which are no keys."""

ELSEWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "action": "then",
        "outcome": "then",
        "if": "when",
        "conditions": "when",
        "condition": "when",
        "match": "when",
        "fallback": "default",
        "else": "default",
        "otherwise": "default",
        "description": "note",
        "comment": "note",
        "weights": "split",
        "percentages": "split",
        "volume_split": "split",
        "algorithm": "strategy",
        "network": "brand",
        "scheme": "brand",
        "card_brand": "brand",
        "card_type": "funding",
        "iin": "bin",
        "issuer": "issuer_country",
        "card_country": "issuer_country",
        "billing_country": "country",
        "off_session": "initiator",
        "3ds": "three_d_secure",
        "threeds": "three_d_secure",
        "tz": "timezone",
        "to": "until",
        "start": "from",
        "end": "until",
        "weekdays": "days",
        "gte": "min",
        "lte": "max",
        "none_of": "not",
        "exclude": "not",
        "share": "percent",
    }
)
"""What other gateways call it → what it is called here."""


# --- Text -------------------------------------------------------------------------------------------------------------


def dumped(value: object) -> bytes:
    """JSON with sorted keys and no spaces, in UTF-8. Equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class _Pairs(dict[str, Any]):
    """A JSON object that knows which of its keys stood there twice."""

    twice: tuple[str, ...] = ()


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    found = _Pairs(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        found.twice = tuple(name for name in found if names.count(name) > 1)
    return found


def parsed(text: bytes) -> Any:
    """What the text says. Raises :class:`Faulty` where it is too large, or no JSON in UTF-8."""
    if len(text) > SIZE_MAX:
        raise Faulty([TOO_LARGE])
    try:
        return json.loads(text.decode(), object_pairs_hook=_pairs)
    except UnicodeDecodeError:
        raise Faulty([Fault("", "The document is not UTF-8.", "Save it as UTF-8.")]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        message = f"The document is not JSON: {error.msg} at {where}."
        raise Faulty([Fault("", message, f"Correct {where}; an editor with the JSON Schema shows it.")]) from None
    except RecursionError:
        raise Faulty([_too_deep("")]) from None
    except ValueError:  # an integer of more digits than Python reads
        raise Faulty([_too_long("")]) from None


# --- What cannot be stored --------------------------------------------------------------------------------------------


def unwritable(value: object, pointer: str = "", depth: int = 0) -> Iterator[Fault]:
    """What of ``value`` is no JSON, or could not be stored as JSON and read again as it was."""
    if not isinstance(value, Mapping | list | tuple):
        yield from _unwritable_scalar(value, pointer)
        return
    if depth >= DEPTH_MAX:
        yield _too_deep(pointer)
        return
    for name in getattr(value, "twice", ()):
        yield Fault(pointer_to(pointer, name), "The key stands here twice.", "Write it once.")
    for name, each in value.items() if isinstance(value, Mapping) else enumerate(value):
        if isinstance(name, int) and not isinstance(value, Mapping):
            yield from unwritable(each, pointer_to(pointer, name), depth + 1)
        elif not isinstance(name, str) or not _storable(name):
            yield Fault(pointer, "A key has a character that cannot be stored.", "Write the key as printable text.")
        else:
            yield from unwritable(each, pointer_to(pointer, name), depth + 1)


def _unwritable_scalar(value: object, pointer: str) -> Iterator[Fault]:
    match value:
        case None:
            yield Fault(pointer, "null says nothing here.", "Leave the key out.")
        case str() if not _storable(value):
            yield Fault(
                pointer,
                "The text has a character that cannot be stored.",
                "Leave \\u0000 and halves of surrogate pairs out.",
            )
        case bool():
            return
        case int() if abs(value) > INTEGER_MAX:
            yield _too_long(pointer)
        case float() if not math.isfinite(value):
            yield Fault(pointer, "The number is not finite.", "Write a number.")
        case str() | int() | float():
            return
        case _:
            yield Fault(pointer, "This is no JSON value.", "Write text, a number, true, false, a list or an object.")


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


def _too_deep(pointer: str) -> Fault:
    return Fault(pointer, TOO_DEEP, f"Use at most {DEPTH_MAX} levels.")


def _too_long(pointer: str) -> Fault:
    return Fault(pointer, "The number is too large.", f"Write a number of at most {INTEGER_MAX}.")


# --- Pydantic's errors ------------------------------------------------------------------------------------------------


def told(error: ValidationError, parts: Mapping[str, type[BaseModel]]) -> list[Fault]:
    """Pydantic's errors as faults. ``parts`` says which model stands under a key, so that a misspelt key can be told."""
    faults, spelt = [], set()
    for each in error.errors(include_url=False):
        if each["type"] == "too_short" and len(each["input"]) >= each["ctx"]["min_length"]:
            continue  # there were enough, and those that are wrong have their own faults
        if each["type"] == "extra_forbidden":
            fault, meant = _unknown_key(each, parts)
            spelt.add(meant)
        else:
            fault = _fault(each)
        faults.append(fault)
    return [fault for fault in faults if fault.pointer not in spelt]


def keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The keys that a model takes, as they are written."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _fault(error: ErrorDetails) -> Fault:
    path = [part for part in error["loc"] if part != "[key]" and not _is_tag(part)]
    pointer, context = pointer_to("", *path), error.get("ctx", {})
    if error["type"] == "fault":
        return Fault(pointer, context["message"], context["fix"])
    if error["type"] == "missing":
        return Fault(pointer, "The key is missing.", f"Add {str(path[-1])!r}.")
    if error["type"] == "literal_error":
        return _unknown_word(pointer, error["input"], context["expected"])
    message, fix = _SAYS.get(error["type"], _OTHERWISE)(context)
    return Fault(pointer, message, fix)


def _is_tag(part: object) -> bool:
    return isinstance(part, str) and part.startswith(TAG)


def _model_at(location: Sequence[int | str], parts: Mapping[str, type[BaseModel]]) -> type[BaseModel]:
    """The model that stands at a location: that of the last part which names one."""
    return next((parts[part] for part in reversed(location) if isinstance(part, str) and part in parts), parts[""])


def _unknown_key(error: ErrorDetails, parts: Mapping[str, type[BaseModel]]) -> tuple[Fault, str | None]:
    """The fault, and the pointer of the key that was meant."""
    *place, key = [part for part in error["loc"] if not _is_tag(part)]
    known = keys_of(_model_at(error["loc"][:-1], parts))
    meant = near(str(key), known) or (usual if (usual := ELSEWHERE.get(str(key).lower())) in known else None)
    fix = f"Write {meant!r}." if meant else f"Leave it out; what may stand here is {listed(known)}."
    return Fault(pointer_to("", *place, key), "There is no such key.", fix), meant and pointer_to("", *place, meant)


def listed(words: Iterable[object]) -> str:
    """Words as an English list, each in quotes."""
    quoted = [repr(str(word)) for word in words]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else "".join(quoted)


Says = Callable[[Mapping[str, Any]], tuple[str, str]]


def _of_kind(kind: str, example: str) -> Says:
    return lambda context: (f"This is not {kind}.", f"Write {kind}, such as {example}.")


def _unknown_word(pointer: str, word: object, expected: str) -> Fault:
    known = [each.strip("'") for each in expected.replace(" or ", ", ").split(", ")]
    meant = near(word, known) if isinstance(word, str) else None
    return Fault(
        pointer, "This word is not known here.", f"Write {meant!r}." if meant else f"Write one of {listed(known)}."
    )


def _too_few(context: Mapping[str, Any]) -> tuple[str, str]:
    least = context["min_length"]
    return f"This needs at least {least}.", "Name one." if least == 1 else f"Name {least}."


def _too_many(context: Mapping[str, Any]) -> tuple[str, str]:
    return f"This holds at most {context['max_length']}.", "Take some out, or spread them over several rules."


def _too_short(context: Mapping[str, Any]) -> tuple[str, str]:
    return "The text is empty.", "Write something, or leave the key out."


def _text_too_long(context: Mapping[str, Any]) -> tuple[str, str]:
    return f"The text has more than {context['max_length']} characters.", "Shorten it."


def _low(context: Mapping[str, Any]) -> tuple[str, str]:
    return "The number is too small.", f"Write at least {context['ge']:.12g}."


def _high(context: Mapping[str, Any]) -> tuple[str, str]:
    return "The number is too large.", f"Write at most {context['le']:.12g}."


_OTHERWISE: Final = _of_kind("what stands here", "the JSON Schema says")
_SAYS: Final[Mapping[str, Says]] = MappingProxyType(
    {
        "string_type": _of_kind("text", '"name"'),
        "int_type": _of_kind("a whole number", "1999: amounts are in minor units"),
        "bool_type": _of_kind("true or false", "true"),
        "tuple_type": _of_kind("a list", '["name"]'),
        "dict_type": _of_kind("an object", '{"key": …}'),
        "model_type": _of_kind("an object", '{"key": …}'),
        "model_attributes_type": _of_kind("an object", '{"key": …}'),
        "too_short": _too_few,
        "too_long": _too_many,
        "string_too_short": _too_short,
        "string_too_long": _text_too_long,
        "greater_than_equal": _low,
        "less_than_equal": _high,
    }
)
