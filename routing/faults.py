"""Faults of a document: what is wrong, where, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic_core import PydanticCustomError


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. ``pointer`` is the JSON pointer (RFC 6901) of where; ``fix`` says what to write instead."""

    pointer: str
    message: str
    fix: str


class Faulty(ValueError):
    """A document that cannot be used, with all that is wrong with it, in the order of the document."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.pointer or '/'}: {fault.message}" for fault in self.faults))


def wrong(message: str, fix: str) -> PydanticCustomError:
    """An error that carries its own fix."""
    return PydanticCustomError("fault", "{message}", {"message": message, "fix": fix})


def near(word: str, known: Iterable[str]) -> str | None:
    """The word that was probably meant, or ``None``."""
    lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower()[:64], lower, n=1, cutoff=0.6)
    return lower[found[0]] if found else None


def instead(word: str, known: Sequence[str]) -> str:
    """What to write instead of ``word``: the nearest word, else all of them."""
    meant = near(word, known)
    return f"write {meant!r}" if meant else f"write one of {', '.join(known)}"
