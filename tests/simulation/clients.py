"""Merchants' backends, and the history of what they asked and were told.

A client keeps to the published contract: it sends the same request with the same key until the answer is decided, waits where it is
told to, and may give up or come back much later. What it was told is kept apart from what really happened: a broken connection is
``None``, it may have happened.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from tests.simulation.psp import HOUR
from tests.simulation.world import Reply, Violation, World, token_of

DECIDED: Final = {
    "create": {201, 402},
    "confirm": {200, 402},
    "capture": {200},
    "cancel": {200},
    "refund": {201},
    "resolve": {200},
}
UNDECIDED: Final = frozenset({409, 503, 504})
"""Statuses that say nothing of what the key has come to."""
LATER_S: Final = (HOUR, 22 * HOUR, 30 * HOUR, 8 * 24 * HOUR)
TRIES_MAX: Final = 12


@dataclass
class Asked:
    """One key of one merchant: what was asked with it, and every decided answer that was given."""

    verb: str
    merchant: str
    order: str
    key: str
    path: str
    body: bytes
    answers: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def answer(self) -> tuple[int, bytes] | None:
        return self.answers[0] if self.answers else None

    def heard(self, reply: Reply, *, after_decision: bool) -> None:
        """Note an answer. Raises :class:`Violation` where it contradicts one before it.

        ``after_decision``: it was asked for after a decided answer had been heard; one that was on its way may be older.
        """
        if is_decided(self.verb, reply):
            told = (reply.status, reply.body)
            if self.answers and self.answers[0] != told:
                raise Violation("one key, one answer", self.order, f"{self.answers[0]} and then {told}")
            self.answers.append(told)
        elif after_decision and reply.status not in UNDECIDED:
            raise Violation(
                "a decided answer stays", self.order, f"decided, and then {reply.status} {reply.body[:200]!r}"
            )


def is_decided(verb: str, reply: Reply) -> bool:
    """Whether an answer is the key's answer for ever."""
    if reply.status == 422:
        return bool(orjson.loads(reply.body)["code"] == "provider_refused")
    return reply.status in DECIDED[verb]


class Clients:
    """All clients of one world."""

    def __init__(self, world: World, payments: int, spread_s: float) -> None:
        self.world = world
        self.asked: list[Asked] = []
        self.by_order: dict[str, Asked] = {}
        self._payments = payments
        self._spread_s = spread_s

    async def live(self) -> None:
        """Every client's life, to its end."""
        ends: list[asyncio.Future[None]] = []
        for number in range(self._payments):
            end: asyncio.Future[None] = self.world.loop.create_future()
            ends.append(end)
            self.world.spawn(self._life(number, end))
        for end in ends:
            await end

    async def _life(self, number: int, end: asyncio.Future[None]) -> None:
        rng = random.Random(f"client {self.world.seed} {number}")
        try:
            await asyncio.sleep(rng.random() * self._spread_s)
            await self._shop(number, rng)
        finally:
            if not end.done():
                end.set_result(None)

    # --- one shopper's payment ---

    async def _shop(self, number: int, rng: random.Random) -> None:
        world = self.world
        merchant = ("mer_one", "mer_two")[number % 2]
        order = f"{merchant}:{number}"
        self.world.counts["payments"] += 1
        manual = rng.random() < 0.4
        one, other = f"prompt_{merchant[4:]}", f"later_{merchant[4:]}"
        method: dict[str, Any] = {"type": "token", "tokens": {one: f"tok_{number}", other: f"tok_{number}"}}
        if rng.random() < 0.25:
            card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2030, "cvc": "737"}
            method = {"type": "card", "card": card}
        body: dict[str, Any] = {
            "amount": rng.randrange(100, 100_000),
            "currency": "EUR",
            "confirm": True,
            "capture_method": "manual" if manual else "automatic",
            "reference": order,
            "payment_method_data": method,
        }
        asked = Asked("create", merchant, order, f"order-{number // 2}", "/v1/payments", orjson.dumps(body))
        self.asked.append(asked)
        self.by_order[order] = asked
        draw = rng.random()
        if draw < 0.08:  # two workers of the shop send the same request at once
            replies = await asyncio.gather(self._send(asked), self._send(asked), self._until_decided(asked, rng))
            reply = replies[2]
        elif draw < 0.16:  # it gives up after its first try, and only the gateway knows
            await self._send(asked)
            reply = None
        else:
            reply = await self._until_decided(asked, rng)
        if rng.random() < 0.05 and asked.answers:
            await self._misused(asked, body)
        if reply is None and rng.random() < 0.5:
            await asyncio.sleep(rng.choice(LATER_S) * (0.9 + 0.3 * rng.random()))
            world.stir(20)
            reply = await self._until_decided(asked, rng)
        if reply is not None and reply.status == 402 and rng.random() < 0.4:
            reply = await self._another_try(asked, method, orjson.loads(reply.body), rng)
        if reply is not None and reply.status in {200, 201, 202}:
            await self._after(asked, orjson.loads(reply.body), body["amount"], rng)
        if rng.random() < 0.3:
            await self._until_decided(asked, rng)

    async def _another_try(
        self, asked: Asked, method: dict[str, Any], payment: dict[str, Any], rng: random.Random
    ) -> Reply | None:
        """After a decline the shopper tries once more: a confirm under a key of its own."""
        await asyncio.sleep(rng.random() * rng.choice((1.0, 30.0)))
        path, body = f"/v1/payments/{payment['id']}/confirm", orjson.dumps({"payment_method_data": method})
        confirm = Asked("confirm", asked.merchant, asked.order, f"{asked.key}-confirm", path, body)
        self.asked.append(confirm)
        self.world.counts["follow-ups"] += 1
        return await self._until_decided(confirm, rng)

    async def _after(self, asked: Asked, payment: dict[str, Any], amount: int, rng: random.Random) -> None:
        """What a merchant does with a payment."""
        id_, order = payment["id"], asked.order
        if payment["reference"] != order or payment["amount"] != amount:
            raise Violation(
                "an answer to what was asked", order, f"was answered {payment['reference']} {payment['amount']}"
            )
        await asyncio.sleep(rng.random() * rng.choice((0.5, 10.0, 60.0)))
        if payment["status"] == "processing" or (payment["status"] == "requires_capture" and rng.random() < 0.25):
            if rng.random() < 0.4:
                await self._do(asked, "cancel", f"/v1/payments/{id_}/cancel", {}, rng)
            return
        if payment["status"] == "requires_capture" and rng.random() < 0.85:
            part = amount if rng.random() < 0.7 else rng.randrange(1, amount)
            captures = [self._do(asked, "capture", f"/v1/payments/{id_}/capture", {"amount": part}, rng)]
            if rng.random() < 0.15:
                more = {"amount": rng.randrange(1, amount)}
                captures.append(self._do(asked, "capture", f"/v1/payments/{id_}/capture", more, rng, "again"))
            if rng.random() < 0.1:
                captures.append(self._do(asked, "cancel", f"/v1/payments/{id_}/cancel", {}, rng))
            await asyncio.gather(*captures)
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() * rng.choice((1.0, 60.0, 900.0)))
            self.world.stir(5)
            part = amount if rng.random() < 0.5 else rng.randrange(1, amount)
            refunds = [self._do(asked, "refund", "/v1/refunds", {"payment": id_, "amount": part}, rng)]
            if rng.random() < 0.35:
                more = {"payment": id_, "amount": rng.randrange(1, amount + 1)}
                refunds.append(self._do(asked, "refund", "/v1/refunds", more, rng, "again"))
            await asyncio.gather(*refunds)
        if rng.random() < 0.2:
            await self._read(asked, id_)

    async def _do(
        self, about: Asked, verb: str, path: str, body: dict[str, Any], rng: random.Random, which: str = ""
    ) -> None:
        key = f"{about.key}-{verb}{which}"
        asked = Asked(verb, about.merchant, about.order, key, path, orjson.dumps(body))
        self.asked.append(asked)
        self.world.counts["follow-ups"] += 1
        await self._until_decided(asked, rng)

    async def _misused(self, asked: Asked, body: dict[str, Any]) -> None:
        """The same key with another body: refused, and nothing comes of it."""
        other = orjson.dumps(body | {"amount": body["amount"] + 1})
        reply = await self._ask(asked, other)
        if reply is None or reply.status in UNDECIDED or reply.status >= 500:
            return
        if reply.status != 422 or orjson.loads(reply.body)["code"] != "idempotency_key_reused":
            raise Violation("another body under the same key", asked.order, f"was answered {reply.status}")
        self.world.counts["misused keys refused"] += 1

    async def _read(self, asked: Asked, id_: str) -> None:
        headers = {"authorization": f"Bearer {token_of(asked.merchant)}"}
        reply = await self.world.ask("GET", f"/v1/payments/{id_}", headers, b"")
        if reply is not None and reply.status == 200 and orjson.loads(reply.body)["reference"] != asked.order:
            raise Violation("an answer to what was asked", asked.order, "another payment was read")

    # --- asking ---

    async def _until_decided(self, asked: Asked, rng: random.Random) -> Reply | None:
        """Send until the answer is decided; the last answer that said how the payment stands, or ``None``."""
        last: Reply | None = None
        wait = 0.5
        for _ in range(rng.choice((2, 4, TRIES_MAX))):
            reply = await self._send(asked)
            if reply is not None:
                if is_decided(asked.verb, reply):
                    return reply
                if reply.status in {400, 401, 404, 422} or (
                    reply.status == 409 and _code(reply) != "request_in_progress"
                ):
                    if asked.verb == "create" and _code(reply) != "payment_changed":
                        raise Violation("a create is never refused", asked.order, reply.body.decode())
                    return None
                last = reply if reply.status in {200, 202} else last
            await asyncio.sleep(wait * (0.5 + rng.random()))
            wait = min(wait * 2, 60.0)
            self.world.stir(5)
        return last

    async def _send(self, asked: Asked) -> Reply | None:
        self.world.note(asked.order, f"client asks {asked.verb} under {asked.key}")
        decided = asked.answer is not None
        reply = await self._ask(asked, asked.body)
        said = "the connection broke" if reply is None else f"{reply.status} {_status_of(reply)}"
        self.world.note(asked.order, f"client is told about {asked.key}: {said}")
        if reply is None:
            self.world.counts["connections broken"] += 1
        else:
            self.world.counts[f"answered {reply.status}"] += 1
            asked.heard(reply, after_decision=decided)
        return reply

    async def _ask(self, asked: Asked, body: bytes) -> Reply | None:
        headers = {
            "authorization": f"Bearer {token_of(asked.merchant)}",
            "idempotency-key": asked.key,
            "content-type": "application/json",
        }
        return await self.world.ask("POST", asked.path, headers, body)

    async def resolve(self, row: Any) -> None:
        """A person looks into the PSP's books, and says what became of an operation that was put before them."""
        charges = self.world.psps[row["account"]].charges.values()
        mine = [each for each in charges if each.order == row["reference"]]
        match row["kind"]:
            case "authorize":
                found = [each for each in mine if each.reference == row["id"] and not each.voided]
            case "void":
                found = [each for each in mine if each.voided]
            case "capture":
                found = [each for each in mine if row["id"] in each.captures]
            case _:
                found = [each for each in mine if row["id"] in each.refunds]
        body: dict[str, Any] = {
            "operation": row["id"],
            "outcome": "succeeded" if found else "failed",
            "reason": "found_in_books",
            "evidence": "the books of the PSP",
        }
        if found:
            body["provider_id"] = found[0].id
        path, order = f"/v1/payments/{row['payment_id']}/resolve", row["reference"]
        asked = Asked("resolve", row["merchant_id"], order, f"resolve-{row['id']}", path, orjson.dumps(body))
        reply = await self.ask_again(asked)
        self.world.counts["resolved by a person"] += 1
        if reply.status not in {200, 409}:  # 409: the account has just told by itself
            raise Violation("a person is heard", order, reply.body.decode())

    async def ask_again(self, asked: Asked) -> Reply:
        """One more time, when everything is at rest: there is an answer now."""
        for _ in range(50):
            reply = await self._send(asked)
            if reply is not None and not (reply.status in {503, 504} or _code(reply) == "request_in_progress"):
                return reply
            await asyncio.sleep(7)
        raise Violation("an answer is there in the end", asked.order, f"{asked.key} is never answered")


def _code(reply: Reply) -> str:
    return str(orjson.loads(reply.body).get("code", "")) if reply.status >= 400 else ""


def _status_of(reply: Reply) -> str:
    said = orjson.loads(reply.body)
    if "code" in said:
        return str(said["code"])
    return f"{said.get('object')} {said.get('status')} {said.get('processing_reason') or ''}"
