"""Ids: a prefix that says what a thing is, and a UUIDv7 body (RFC 9562), so that they sort by time."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime
from hashlib import blake2b
from typing import Final

PAYMENT: Final = "pay"
ATTEMPT: Final = "att"
CAPTURE: Final = "cap"
VOID: Final = "vd"
REFUND: Final = "re"
INCREMENT: Final = "inc"
DEFENSE: Final = "df"
ACCEPTANCE: Final = "ac"
DISPUTE: Final = "dp"
PAYMENT_METHOD: Final = "pm"
CUSTOMER: Final = "cus"
REQUEST: Final = "req"
EVENT: Final = "evt"
ENDPOINT: Final = "we"
INBOUND: Final = "iev"
REFUSED: Final = "rfs"
INCIDENT: Final = "in"
NOTICE: Final = "nt"
SIMULATION: Final = "sim"
ROUTING_VERSION: Final = "rt"
PUBLICATION: Final = "rp"
MONITOR: Final = "mon"
MONITOR_INCIDENT: Final = "mi"
CONSOLE_USER: Final = "usr"
CONSOLE_EVENT: Final = "ce"

_VERSION_7: Final = 7 << 76
_VERSION_MASK: Final = ~(0xF << 76)
_VARIANT: Final = 2 << 62
_VARIANT_MASK: Final = ~(3 << 62)
_SHAPE: Final = re.compile(r"[a-z]{2,3}_[0-9a-f]{32}")


def new_id(prefix: str) -> str:
    """A new id: 48 bits of milliseconds, then 74 random bits. Unguessable enough for a path, never a secret."""
    return _id(prefix, time.time_ns() // 1_000_000, os.urandom(10))


def derived_id(prefix: str, at: datetime, *parts: str) -> str:
    """The id of what happened at ``at`` and is named by ``parts``: the same whenever it is asked for."""
    return _id(prefix, int(at.timestamp() * 1000), blake2b("\0".join(parts).encode(), digest_size=10).digest())


def first_id(prefix: str, at: datetime, *, past: bool = False) -> str:
    """The least id of anything at ``at`` or later; with ``past``, of anything later than its millisecond.

    For reading a range of time by an index of ids.
    """
    return _id(prefix, max(0, int(at.timestamp() * 1000) + past), bytes(10))


def _id(prefix: str, at_ms: int, rest: bytes) -> str:
    value = at_ms << 80 | int.from_bytes(rest)
    value = value & _VERSION_MASK | _VERSION_7
    value = value & _VARIANT_MASK | _VARIANT
    return f"{prefix}_{value:032x}"


def numbered_id(prefix: str, number: int) -> str:
    """The id of a row that the database has numbered. Such ids sort as they came."""
    return f"{prefix}_{number:032x}"


def number_of(text: str, prefix: str) -> int | None:
    """The row's number in an id of :func:`numbered_id`, or ``None`` where it is none: a row's number has 63 bits."""
    number = int(text.removeprefix(f"{prefix}_"), 16) if is_id(text, prefix) else None
    return number if number is not None and number < 1 << 63 else None


def is_id(text: str, prefix: str) -> bool:
    """Whether ``text`` has the shape of an id of that prefix. Anything else needs no look-up."""
    return text.startswith(prefix + "_") and _SHAPE.fullmatch(text) is not None
