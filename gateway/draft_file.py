"""A routing document in a file, as the command line is given one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from providers.registry import ConfigError

FILE_MAX: Final = 1 << 20
"""A document has at most 256 KiB; with its white space it may be larger."""


def bytes_in(file: Path) -> bytes:
    """What stands in ``file``. Raises :class:`ConfigError` for one that cannot be read, or is larger than any document."""
    try:
        if file.stat().st_size > FILE_MAX:
            raise ConfigError(f"{file} is larger than a routing document may be")
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})") from None


def draft_in(file: Path) -> Mapping[str, Any]:
    """The JSON object in ``file``, whether or not it is a good document. Raises :class:`ConfigError` where there is none."""
    try:
        found = orjson.loads(bytes_in(file))
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file} is no routing document: it is not an object")
    return found
