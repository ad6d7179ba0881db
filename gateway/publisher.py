"""``gateway routing publish``: the document in a file is made a version, and put in force, at a running gateway.

It asks what anybody may ask of the API, under the merchant's own key: lint, the second person and the history are the same. What is
wrong with the words is said before anything is sent, and what is wrong with the document before anything is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gateway.answers import instant
from gateway.api import reading
from gateway.api.schemas import RoutingDraft, RoutingPublish
from gateway.draft_file import draft_in
from gateway.errors import Problem
from gateway.remote import NoAnswer, Refused, Remote, post, session
from providers.registry import ConfigError

NONE: Final = "none"
"""What is expected to be in force, where that is no version."""
CONFIGS: Final = "/v1/routing/configs"
_SAID: Final[Mapping[str, str]] = {
    "in_force": "is in force for {percent} % of the payments within two seconds",
    "scheduled": "will be in force for {percent} % of the payments from {starts_at} on",
    "shadow": "watches, and decides nothing",
    "awaiting_approval": "waits until another key of the merchant approves {id}; nothing is in force by it",
}
"""What has become of a publication, by its status."""

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line was asked. ``at`` is the text of a time; ``expected`` is the id of a version, or :data:`NONE`."""

    file: Path
    reason: str
    percent: int = 100
    at: str | None = None
    shadow: bool = False
    name: str | None = None
    note: str | None = None
    expected: str | None = None


async def publish(asked: Asked, there: Remote, say: Say) -> None:
    """Make a version of the file's document and publish it, once; ``say`` what has come of both.

    Raises :class:`ConfigError` for words that cannot be sent and a file that is none, for each fault that the gateway finds, and
    where it does not answer. Called again, another version is made.
    """
    version_of, wanted = _words(asked)
    async with session() as connections:
        try:
            version = await post(there, connections, CONFIGS, version_of)
        except Refused as refused:
            raise ConfigError(f"{asked.file} is refused, and nothing is stored of it:{_faults(refused)}") from None
        except NoAnswer:
            raise ConfigError(f"there is no answer from {there.url}; nothing is in force of {asked.file}") from None
        made = f"version {version['number']}, {version['id']},"
        try:
            published = await post(there, connections, f"{CONFIGS}/{version['id']}/publish", wanted)
        except Refused as refused:
            raise ConfigError(f"{made} is made of {asked.file}, and not published:{_faults(refused)}") from None
        except NoAnswer:
            raise ConfigError(
                f"there is no answer from {there.url}; whether {made} is published, GET /v1/routing says"
            ) from None
    say(f"{made} {_SAID.get(published['status'], 'is {status}').format(**published)}")


def _words(asked: Asked) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is to be sent: of the version, and of its publication. Raises :class:`ConfigError` naming the option that cannot be."""
    if not asked.reason.strip():
        raise ConfigError("--reason: say why, in your words; it stays in the history")
    wanted: dict[str, Any] = {"reason": asked.reason, "percent": asked.percent, "shadow": asked.shadow}
    if asked.at is not None:
        wanted["starts_at"] = instant(_time(asked.at))
    if asked.expected is not None:
        wanted["expected"] = None if asked.expected == NONE else asked.expected
    told = {"name": asked.name, "note": asked.note}
    version_of = {"document": draft_in(asked.file)} | {name: text for name, text in told.items() if text is not None}
    try:
        reading.validate(RoutingDraft, version_of)
        reading.validate(RoutingPublish, wanted)
    except Problem as problem:
        raise ConfigError(f"--{problem.detail}") from None
    return version_of, wanted


def _time(text: str) -> datetime:
    try:
        at = reading.instant(text, "--at")
    except Problem as problem:
        raise ConfigError(problem.detail) from None
    if at <= datetime.now(UTC):
        raise ConfigError("--at is over; leave it out to start at once")
    return at


def _faults(refused: Refused) -> str:
    """Each fault in a line of its own, with its place and its fix; else what the gateway says."""
    faults: Sequence[Mapping[str, Any]] = refused.problem.get("errors") or ()
    if not all("fix" in each for each in faults):
        faults = ()
    lines = [f"{each.get('pointer') or '/'}: {each['message']} {each['fix']}" for each in faults] or [str(refused)]
    return "".join(f"\n  {line}" for line in lines)
