"""Passwords: Argon2id with the second recommended parameters of RFC 9106 (64 MiB, 3 passes, 4 lanes), away from the event loop.

A hash takes some 50 ms of a core, which is its purpose. Two at once a process, and a short queue: whoever tries passwords by the thousand
waits for themselves, and charges never wait for them.
"""

from __future__ import annotations

import asyncio
from secrets import token_urlsafe
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

SHORTEST: Final = 12
LONGEST: Final = 256
AT_ONCE: Final = 2
WAITING_MAX: Final = 20

_HASHER: Final = PasswordHasher()


class Busy(Exception):
    """More passwords wait to be hashed than can be soon. Nothing was decided about this one."""


class Passwords:
    """Hashes and compares passwords, a few at once."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._here = 0

    async def hashed(self, password: str) -> str:
        """The password's hash, with its salt and parameters in it. Raises :class:`Busy`."""
        await self._turn()
        try:
            return await asyncio.to_thread(_HASHER.hash, password)
        finally:
            self._leave()

    async def match(self, known: str | None, password: str) -> bool:
        """Whether ``known`` is the password's hash. Raises :class:`Busy`.

        Without a hash it takes as long and is not: nobody learns who is there.
        """
        if known is None or len(password) > LONGEST:
            await self.hashed(password[:LONGEST])
            return False
        await self._turn()
        try:
            return await asyncio.to_thread(_matches, known, password)
        finally:
            self._leave()

    async def _turn(self) -> None:
        if self._here >= AT_ONCE + WAITING_MAX:
            raise Busy
        self._here += 1
        try:
            await self._turns.acquire()
        except BaseException:  # whoever is cancelled in the queue leaves it
            self._here -= 1
            raise

    def _leave(self) -> None:
        self._here -= 1
        self._turns.release()


def is_weak(known: str) -> bool:
    """Whether a hash was made with weaker parameters than those of now."""
    return _HASHER.check_needs_rehash(known)


def generated() -> str:
    """A password of 120 random bits."""
    return token_urlsafe(15)


def _matches(known: str, password: str) -> bool:
    try:
        return _HASHER.verify(known, password)
    except (VerificationError, InvalidHashError):
        return False
