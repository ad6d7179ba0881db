"""Reading a request: bounded bytes, strict JSON, and errors that name the field and never repeat its value."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import jiter
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from gateway.errors import Problem

BODY_MAX: Final = 64 * 1024
EVIDENCE_MAX: Final = 5 * 1024 * 1024
"""A dispute's evidence holds documents."""
DEPTH_MAX: Final = 32

Model = TypeVar("Model", bound=BaseModel)

FIELD: Final = re.compile(r"[A-Za-z][A-Za-z_]{0,39}[0-9]?")
"""What may be a field's name. A key that is none is not repeated: it could be a card number in the wrong place."""

_MESSAGES: Final = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this request",
    "union_tag_invalid": "must have a type of card or token",
    "union_tag_not_found": "needs a type: card or token",
}


async def body(request: Request, most: int = BODY_MAX) -> bytes:
    """The raw body. Raises :class:`Problem` (413) past ``most`` bytes, as soon as that is known."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(most)
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > most:
            raise _too_large(most)
    return bytes(received)


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``. Raises :class:`Problem` (400) for what is not strict JSON: NaN, duplicate keys, depth over 32."""
    if not raw:
        return {}
    try:
        value = jiter.from_json(raw, catch_duplicate_keys=True, allow_inf_nan=False, partial_mode=False)
    except ValueError as error:
        raise Problem("malformed_json", _jiter_reason(str(error))) from None
    if not isinstance(value, dict):
        raise Problem("malformed_json", "The body must be a JSON object.")
    if raw.count(b"{") + raw.count(b"[") > DEPTH_MAX and _depth(value) > DEPTH_MAX:
        raise Problem("malformed_json", f"The body is nested more than {DEPTH_MAX} levels deep.")
    if b"\\u0000" in raw and _holds_null(value):
        raise Problem("malformed_json", "The body holds a null character (\\u0000), which no field can hold.")
    return value


def _jiter_reason(message: str) -> str:
    if "duplicate" in message.lower():
        return "The body has the same key twice in one object."
    if "recursion" in message.lower():
        return f"The body is nested more than {DEPTH_MAX} levels deep."
    return "The body is not valid JSON."


def _depth(value: Any) -> int:
    """Nesting of a parsed value; the parser has bounded it already, so recursion is safe."""
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _holds_null(value: Any) -> bool:
    """Whether a text of a parsed value holds U+0000: Postgres stores none, in text or in JSON."""
    if isinstance(value, dict):
        return any(map(_holds_null, [*value, *value.values()]))
    if isinstance(value, list):
        return any(map(_holds_null, value))
    return isinstance(value, str) and "\0" in value


def validate(model: type[Model], value: dict[str, Any]) -> Model:
    """The request as ``model``. Raises :class:`Problem` (422) with the first wrong field in ``param`` and all in ``errors``."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = [
            {"param": _path(item["loc"]), "message": _sentence(item["type"], item["msg"])}
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
    first = errors[0]
    param, sentence = first["param"] or None, first["message"]
    detail = sentence[:1].upper() + sentence[1:] if param is None else f"{param} {sentence}"
    raise Problem("validation_failed", f"{detail}.", param, extra={"errors": errors})


def instant(text: str, param: str) -> datetime:
    """A time with its zone, in UTC. Raises :class:`Problem` (422) naming ``param`` for anything else."""
    at: datetime | None
    try:
        at = datetime.fromisoformat(text)
        at = None if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # no time at all, or one that only a zone's offset puts before the year 1
        at = None
    if at is None:
        raise Problem("validation_failed", f"{param} must be an RFC 3339 time such as 2026-11-01T00:00:00Z.", param)
    return at


def _path(location: tuple[int | str, ...]) -> str:
    """The path of a field as the caller wrote it: without the names of the union's branches, and never a caller's own key."""
    branch = 1 if location[:1] == ("payment_method_data",) else None
    parts = [part for index, part in enumerate(location) if index != branch]
    if parts[:1] in (["metadata"], ["tokens"]):
        return str(parts[0])
    if parts[1:2] == ["tokens"]:
        return "payment_method_data.tokens"
    return ".".join(str(part) if isinstance(part, int) or FIELD.fullmatch(part) else "?" for part in parts)


def _sentence(kind: str, message: str) -> str:
    known = _MESSAGES.get(kind)
    if known is not None:
        return known
    text = message.removeprefix("Input ").removeprefix("Value error, ").rstrip(".")
    return text[:1].lower() + text[1:]


def _too_large(most: int) -> Problem:
    return Problem("body_too_large", f"A body has at most {most} bytes.")
