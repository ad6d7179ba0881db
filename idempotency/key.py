"""An idempotency key as a value: where it applies, and the fingerprint of what it was first used for.

Pure. The header follows draft-ietf-httpapi-idempotency-key-header-07 (a quoted string), and the bare spelling that most SDKs
send means the same key.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any, Final

import orjson

KEY_MAX: Final = 255
FINGERPRINT_VERSION: Final = b"fp_v1"


class KeyMalformed(ValueError):
    """The header is missing or is not a key. The message says what a key is."""


@dataclass(frozen=True, slots=True)
class Key:
    """A merchant's key in one mode. Two merchants, or test and live, may use the same text and never meet."""

    merchant_id: str
    livemode: bool
    text: str

    @property
    def slot(self) -> str:
        """Its name in the gate."""
        return f"idem:{self.merchant_id}:{'live' if self.livemode else 'test'}:{self.text}"


def parse(header: str | None) -> str:
    """The key in an ``Idempotency-Key`` header. Raises :class:`KeyMalformed`."""
    if header is None or not header.strip():
        raise KeyMalformed(
            "Send an Idempotency-Key header: 1 to 255 printable ASCII characters, a new one for every new request."
        )
    key = header.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if not 1 <= len(key) <= KEY_MAX or not (key.isascii() and key.isprintable()):
        raise KeyMalformed("An Idempotency-Key is 1 to 255 printable ASCII characters.")
    return key


def fingerprint(secret: bytes, route: str, path_id: str, body: Any) -> bytes:
    """A keyed hash of what the caller asked: the method and route, the id in the path, and the fields as set.

    The fields are the parsed ones in sorted order, so white space and the order of keys do not matter. It is keyed because
    an unkeyed hash of a body with a card number would be an unkeyed hash of a card number (PCI DSS 4.0.1, 3.5.1.1).
    """
    canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    message = b"\x1f".join((FINGERPRINT_VERSION, route.encode(), path_id.encode(), canonical))
    return hmac.digest(secret, message, "sha256")
