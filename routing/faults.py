"""Faults of a document: what is wrong, where, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic_core import PydanticCustomError


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: the JSON pointer (RFC 6901) of where, a sentence that says what, and one that says what to write."""

    pointer: str
    message: str
    fix: str


class Faulty(ValueError):
    """A document that cannot be used, with all that is wrong with it."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(" ".join(f"{fault.pointer or '/'}: {fault.message} {fault.fix}" for fault in self.faults))


def wrong(message: str, fix: str) -> PydanticCustomError:
    """What a validator raises, with its own fix."""
    return PydanticCustomError("fault", "{message}", {"message": message, "fix": fix})


def pointer_to(pointer: str, *parts: object) -> str:
    """The JSON pointer of what stands under ``parts`` below ``pointer``."""
    return pointer + "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that was probably meant, or ``None``. ``cutoff`` is how alike they have to be, from 0 to 1."""
    lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower()[:64], lower, n=1, cutoff=cutoff)
    return lower[found[0]] if found else None
