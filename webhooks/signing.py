"""Signing what merchants are told: Standard Webhooks 1.0.0, symmetric signatures (``v1``).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md. What is signed is
``id.timestamp.body``: the id is the event's and stays the same over all tries, the timestamp is the try's. Everything here is
computed from what is handed in, but for :func:`new_secret`, which draws one.
"""

from __future__ import annotations

import hmac
import secrets as entropy
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
"""The specification asks for 24 to 64 random bytes."""
KEEP_S: Final = 24 * 3600
"""How long a secret goes on signing after it was replaced, so that a receiver can change over without losing an event."""
SECRETS_MAX: Final = 5
"""More are not kept, however often somebody rotates within a day: each of them is a signature in every request."""


def new_secret() -> str:
    """A new secret, ``whsec_`` and 32 random bytes in base64. Another one with every call."""
    return PREFIX + b64encode(entropy.token_bytes(SECRET_BYTES)).decode()


def fingerprint(secret: str) -> str:
    """What a secret may be called in an answer or a log: the first 8 hexadecimal digits of its SHA-256."""
    return sha256(secret.encode()).hexdigest()[:8]


def sign(event_id: str, timestamp_s: int, body: bytes, secrets: Iterable[str]) -> str:
    """The signatures of one try, one a secret in their order, separated by spaces.

    ``ValueError`` for an id with a full stop, which would make what is signed ambiguous, and where there is no secret: an event
    without a signature is one that nobody may believe.
    """
    if "." in event_id:
        raise ValueError("an event's id has no full stop: it separates what is signed")
    signed = f"{event_id}.{timestamp_s}.".encode() + body
    signatures = [
        "v1," + b64encode(hmac.digest(b64decode(secret.removeprefix(PREFIX), validate=True), signed, "sha256")).decode()
        for secret in secrets
    ]
    if not signatures:
        raise ValueError("there is no secret to sign with")
    return " ".join(signatures)


def headers(event_id: str, timestamp_s: int, body: bytes, secrets: Iterable[str]) -> dict[str, str]:
    """The three headers of one try. Raises what :func:`sign` raises."""
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": sign(event_id, timestamp_s, body, secrets),
    }


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret; ``until`` is when it signs no more, in unix seconds, ``None`` for the one that is in use."""

    secret: str = field(repr=False)
    until: float | None = None

    @property
    def fingerprint(self) -> str:
        """What it may be called."""
        return fingerprint(self.secret)


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets of one endpoint, the newest first. Stored sealed, as :meth:`to_json` has them."""

    kept: tuple[Secret, ...]

    @classmethod
    def new(cls) -> Secrets:
        """Those of a new endpoint: one."""
        return cls((Secret(new_secret()),))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Secrets:
        """What :meth:`to_json` gave. ``KeyError`` or ``TypeError`` for anything else."""
        return cls(tuple(Secret(each["secret"], each["until"]) for each in value["secrets"]))

    def to_json(self) -> dict[str, list[dict[str, str | float | None]]]:
        """To be sealed: ``{"secrets": [{"secret": "whsec_…", "until": null}, …]}``."""
        return {"secrets": [{"secret": each.secret, "until": each.until} for each in self.kept]}

    @property
    def newest(self) -> Secret:
        """The one in use."""
        return self.kept[0]

    def live(self, now: float) -> Sequence[str]:
        """The secrets that sign at ``now``, in unix seconds; the newest first."""
        return [each.secret for each in self.kept if each.until is None or now < each.until]

    def rotated(self, now: float, keep_s: float = KEEP_S) -> Secrets:
        """A new secret in front; those before it sign for ``keep_s`` more, or until their own end where that is sooner."""
        end = now + keep_s
        older = [
            Secret(each.secret, end if each.until is None else min(each.until, end))
            for each in self.kept
            if each.until is None or now < each.until
        ]
        return Secrets((Secret(new_secret()), *older[: SECRETS_MAX - 1]))

    def revoked_old(self) -> Secrets:
        """Only the newest: what it has replaced signs no more, from the next try on. Safe to repeat."""
        return Secrets(self.kept[:1])
