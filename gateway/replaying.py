"""Reads a merchant's attempts from Postgres and replays a draft over them. It only reads.

Pages of payments by id, each a statement of its own: no snapshot is held open that would keep the database from tidying up, and what is
made meanwhile has later ids. While one page is replayed, the next is on its way. Of a decision's record only what the replay needs is
decoded, and what many attempts share, once.

The worker runs this as a process of its own (:func:`main`), so that an hour of arithmetic keeps no payment waiting. What is asked comes
as one line of JSON on its input; on its output are lines of JSON: how far it is, and at the end the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from gateway.ids import PAYMENT, first_id
from gateway.read_only import LOST, Unreachable, read_only
from routing.backtest import Attempt, Replay, Result
from routing.decision import Facts
from routing.document import Faulty, read

PAGE: Final = 2000
"""Payments read at a time: a hundredth of a second for Postgres, and a few megabytes here."""
SAY_S: Final = 0.5
OFFERS_MAX: Final = 10_000
"""Different lists of candidates that are kept decoded."""
NICE: Final = 10
"""How far the process stands back behind those that serve payments."""

_OWN: Final = "merchant_id = $1 AND livemode = $2 AND id > $3 AND id < $4 AND amount > 0"
_COUNT: Final = f"SELECT count(*) FROM payment WHERE {_OWN}"
# Verifications have no amount and are no payments. The order is that in which payments were made. One that nobody was asked for
# has a row without an attempt: a page is empty only where the past has ended.
_PAGE: Final = f"""SELECT p.id, o.account, o.evidence_word, extract(epoch FROM coalesce(o.evidence_at, o.created_at))::float8,
    o.decision::text, o.round, o.status = 'declined', p.off_session
    FROM (SELECT id, off_session FROM payment WHERE {_OWN} ORDER BY id LIMIT $5) AS p
    LEFT JOIN operation o ON o.payment_id = p.id AND o.kind = 'authorize' ORDER BY p.id, o.seq"""

Tell = Callable[[int, int], None]
"""Told how many of how many payments are done."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which payments a draft is replayed over: those that a merchant made from ``start`` to before ``end``.

    ``order`` is the merchant's accounts in the order of the configuration. ``document`` is the draft, not read yet.
    """

    merchant_id: str
    livemode: bool
    start: datetime
    end: datetime
    order: Sequence[str]
    document: Mapping[str, Any]

    @property
    def bounds(self) -> tuple[str, bool, str, str]:
        """The parameters that all statements share."""
        return self.merchant_id, self.livemode, first_id(PAYMENT, self.start), first_id(PAYMENT, self.end)


class Unreadable(Exception):
    """The past could not be read, or the draft; what it says may be shown."""


class _Candidate(msgspec.Struct):
    account: str
    ineligible: str | None = None
    propensity: float | None = None


class _Decision(msgspec.Struct):
    """What the replay needs of a decision's record."""

    facts: Facts
    candidates: msgspec.Raw
    kind: str


@dataclass(slots=True)
class Reading:
    """Makes attempts of rows. Rows of one payment come together, in the order of its attempts."""

    _offers: dict[bytes, tuple[dict[str, str | None], dict[str, float]]] = field(default_factory=dict)
    _decode: msgspec.json.Decoder[_Decision] = field(default_factory=lambda: msgspec.json.Decoder(_Decision))
    _decode_candidates: msgspec.json.Decoder[list[_Candidate]] = field(
        default_factory=lambda: msgspec.json.Decoder(list[_Candidate])
    )
    _payment: str = ""
    _facts: Facts | None = None
    _declined: list[int] = field(default_factory=list)

    def attempts(self, rows: Sequence[Any]) -> Iterator[Attempt | None]:
        """An attempt for each row; ``None`` where it bears no record of its decision that can be read."""
        for payment, account, word, known_at, record, round_, declined, off_session in rows:
            first = payment != self._payment
            if first:
                self._payment, self._facts, self._declined = payment, None, []
            attempt = self._attempt(account, word, known_at, record, first=first)
            if attempt is not None and self._declined and (off_session or round_ in self._declined):
                attempt = attempt._replace(fair=False)
            if declined:
                self._declined.append(round_)
            yield attempt

    def _attempt(
        self, account: str, word: str | None, known_at: float, record: str | None, *, first: bool
    ) -> Attempt | None:
        if not first:
            facts = self._facts
            return None if facts is None else Attempt(facts, account, {}, {}, word, known_at, first=False)
        try:
            decision = self._decode.decode(record or "null")
            raw = bytes(decision.candidates)
            offer = self._offers.get(raw)
            if offer is None:
                offer = self._offer(raw)
        except (msgspec.MsgspecError, ValueError):
            return None
        facts = self._facts = decision.facts
        return Attempt(facts, account, offer[1], offer[0], word, known_at, pinned=decision.kind == "pinned")

    def _offer(self, raw: bytes) -> tuple[dict[str, str | None], dict[str, float]]:
        """Who could take the payment, and each account's chance. Decisions without a strategy share a few of them."""
        candidates = self._decode_candidates.decode(raw)
        offer = (
            {each.account: each.ineligible for each in candidates},
            {each.account: each.propensity for each in candidates if each.propensity},
        )
        if len(self._offers) >= OFFERS_MAX:
            self._offers.clear()
        self._offers[raw] = offer
        return offer


async def replayed(url: str, wanted: Wanted, tell: Tell) -> Result:
    """Replay the draft over what is wanted, and ``tell`` how far it is. May be called again, and is then done again from the start.

    Raises :class:`Unreadable` where the database or the draft cannot be read. Memory does not grow with the past.
    """
    try:
        document = read(wanted.document)
    except Faulty as faulty:
        fault = faulty.faults[0]
        raise Unreadable(f"the draft cannot be read: {fault.pointer or '/'}: {fault.message}; {fault.fix}") from None
    try:
        async with read_only(url, "interlock simulate") as connection:
            total = await connection.fetchval(_COUNT, *wanted.bounds)
            replay = Replay(document, wanted.order, total)
            await _feed(replay, connection, wanted, total, tell)
    except Unreachable as error:
        raise Unreadable(str(error)) from None
    except LOST as error:
        raise Unreadable(f"the database could not be read ({type(error).__name__})") from None
    return replay.result()


async def _feed(replay: Replay, connection: Any, wanted: Wanted, total: int, tell: Tell) -> None:
    merchant_id, livemode, after, end = wanted.bounds
    rows, payments, said, reader = [], 0, 0.0, Reading()
    page = await connection.prepare(_PAGE)
    coming = asyncio.ensure_future(page.fetch(merchant_id, livemode, after, end, PAGE))
    try:
        while rows := await coming:
            coming = asyncio.ensure_future(page.fetch(merchant_id, livemode, rows[-1][0], end, PAGE))
            await asyncio.sleep(0)  # the question leaves now, and Postgres works while we do
            payments += _replay(replay, reader, rows)
            if time.monotonic() - said >= SAY_S:
                tell(min(payments, total), total)
                said = time.monotonic()
    finally:
        coming.cancel()
        with contextlib.suppress(asyncio.CancelledError, *LOST):
            await coming
    tell(total, total)


def _replay(replay: Replay, reader: Reading, rows: Sequence[Any]) -> int:
    """Replay a page. How many payments it had."""
    asked, last = [row for row in rows if row[1] is not None], None
    for row, attempt in zip(asked, reader.attempts(asked), strict=True):
        first, last = row[0] != last, row[0]
        if attempt is None:
            replay.pass_over(first=first)
        else:
            replay.feed(attempt)
    return len({row[0] for row in rows})


# --- A process of its own -----------------------------------------------------------------------------------------------


def main() -> int:
    """Replay what one line of input asks for, and say it in lines of JSON. It ends when nobody listens any more."""
    os.nice(NICE)
    asked = msgspec.json.decode(sys.stdin.buffer.readline())
    wanted = msgspec.convert(asked["wanted"], Wanted)

    def say(line: Mapping[str, Any]) -> None:
        try:
            sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # whoever asked is gone, and so is the reason to go on
            os._exit(1)

    try:
        result = asyncio.run(replayed(asked["url"], wanted, lambda done, total: say({"done": done, "total": total})))
        say({"result": result.record()})
    except Unreadable as error:
        say({"error": str(error)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
