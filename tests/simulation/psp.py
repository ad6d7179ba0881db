"""Two simulated PSPs with books of their own, and the adapter that speaks to them over a wire that loses things.

``prompt`` answers everything at once and can be asked what became of an operation. ``later`` takes captures, voids and refunds and
tells their result by webhook, cannot be asked, and obeys whatever amount it is told. Both keep the answer under an idempotency key
for a while and obey the request again after that. They know nothing of the gateway but its requests, and their books are the truth
that the gateway is measured by.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import orjson

from providers.contract import (
    Acknowledgement,
    Approved,
    Ask,
    Authorize,
    Call,
    Capabilities,
    Capability,
    Capture,
    Card,
    Declined,
    Event,
    Keep,
    Kind,
    NotProcessed,
    Outcome,
    Pending,
    Refund,
    Token,
    Unknown,
    Void,
    WebhookRefused,
)
from providers.declines import Action, Decline
from providers.money import Money

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
Style = Literal["prompt", "later"]
HORIZON_S: Final[Mapping[Style, int]] = {"prompt": 20 * 3600, "later": 6 * 24 * 3600}
"""How long the gateway may count on a key."""
MEMORY_S: Final[Mapping[Style, float]] = {"prompt": DAY, "later": 7 * DAY}
"""How long the PSP really remembers it."""
SECRET: Final = "signed-by-the-psp"


REQUEST_FAULTS: Final = (
    "refused",
    "lost_request",
    "lost_answer",
    "late",
    "twice",
    "reset_before",
    "reset_after",
    "garbage",
    "error_rolls_forward",
    "error_clean",
    "rate_limited",
    "slow",
)
"""What may happen to one request to a PSP."""


@dataclass(frozen=True)
class Faults:
    """How often things go wrong: weights for one request each, and per second or per payment where it says so."""

    refused: float = 0.03
    lost_request: float = 0.03
    lost_answer: float = 0.05
    late: float = 0.04
    twice: float = 0.03
    reset_before: float = 0.01
    reset_after: float = 0.03
    garbage: float = 0.02
    error_rolls_forward: float = 0.02
    error_clean: float = 0.01
    rate_limited: float = 0.03
    slow: float = 0.06
    silence_per_payment: float = 0.004
    """Payments whose every answer is garbage and whose webhooks wait, for hours or days."""
    poisoned_per_payment: float = 0.002
    """Payments whose requests are answered 500 under their keys for ever, without any effect."""
    statement: float = 0.004
    redis: float = 0.01
    kill_every: float = 900.0
    """Steps of hosts between two kills."""
    stall_every_s: float = 2.0
    redis_every_s: float = 5.0
    postgres_every_s: float = 6.0
    wire: float = 0.02
    """Requests of clients and webhooks whose answer is lost."""

    @property
    def requests(self) -> Mapping[str, float]:
        """What may happen to one request to a PSP."""
        return {name: getattr(self, name) for name in REQUEST_FAULTS}


NO_FAULTS: Final = Faults(**dict.fromkeys(Faults.__dataclass_fields__, 0.0))


@dataclass
class Charge:
    """One authorization in a PSP's books, and what became of it."""

    psp: str
    id: str
    reference: str
    order: str
    amount: int
    currency: str
    automatic: bool
    at: float
    voided: bool = False
    captures: dict[str, int] = field(default_factory=dict)
    """By the reference of the operation that asked, or ``auto``."""
    refunds: dict[str, int] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    """Captures that were taken and are not carried out yet."""

    @property
    def captured(self) -> int:
        return sum(self.captures.values())

    @property
    def refunded(self) -> int:
        return sum(self.refunds.values())


@dataclass
class Remembered:
    """A key: what was first sent under it, when, and what was answered once that is known."""

    digest: bytes
    at: float
    answer: dict[str, Any] | None = None


@dataclass
class Arrival:
    """One request as it reached a PSP, and when its answer left."""

    at: float
    psp: str
    style: Style
    key: str
    body: Mapping[str, Any]
    digest: bytes
    first_of_key: float
    answered: float | None = None


class Surroundings(Protocol):
    """What a PSP needs of the world it is in."""

    nature: random.Random
    counts: Counter[str]

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""

    def spawn(self, coro: Any) -> None:
        """Run something outside of every host."""

    def note(self, order: str, what: str) -> None:
        """A line for the trace of an order."""

    def arrived(self, arrival: Arrival) -> None:
        """A request has reached a PSP: it is judged before anything is done."""

    def charged(self, charge: Charge) -> None:
        """Money was reserved."""

    def failing(self) -> Faults:
        """The faults of this moment."""


Deliver = Callable[[str, bytes], Any]


class Psp:
    """One PSP's side: its keys, its books, and the webhooks it owes."""

    def __init__(self, name: str, style: Style, world: Surroundings, deliver: Deliver) -> None:
        self.name = name
        self.style: Style = style
        self.charges: dict[str, Charge] = {}
        self.by_reference: dict[str, Charge] = {}
        self.stubborn: dict[str, float] = {}
        """Orders that are answered garbage until then."""
        self.poisoned: set[str] = set()
        self.named: dict[str, str] = {}
        """The order of each attempt: what a void without the PSP's own name for a payment is about."""
        self.wire: list[Arrival] = []
        self.owed = 0
        """Webhooks and effects that are still to come."""
        self.deliver = deliver
        self._world = world
        self._keys: dict[str, Remembered] = {}
        self._moves: dict[str, dict[str, Any]] = {}

    @property
    def now(self) -> float:
        return self._world.now

    def remembers(self, key: str) -> Remembered | None:
        known = self._keys.get(key)
        if known is not None and self.now - known.at > MEMORY_S[self.style]:
            return None
        return known

    # --- requests ---

    def fate(self, order: str) -> None:
        """Decide, once an order, whether it is one of those that nobody gets an answer about."""
        faults, nature = self._world.failing(), self._world.nature
        if order in self.stubborn or order in self.poisoned:
            return
        draw = nature.random()
        if draw < faults.silence_per_payment:
            self.stubborn[order] = self.now + nature.choice((2 * HOUR, 18 * HOUR, 30 * HOUR, 8 * DAY)) * (
                0.5 + nature.random()
            )
            self._world.counts["long silences"] += 1
        elif draw < faults.silence_per_payment + faults.poisoned_per_payment:
            self.poisoned.add(order)
        else:
            self.stubborn[order] = 0.0

    async def request(self, body: Mapping[str, Any], key: str) -> dict[str, Any]:
        """One request, obeyed once a key."""
        self._world.counts["requests to PSPs"] += 1
        digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
        known = self._keys.get(key)
        first = self.now if known is None else known.at
        arrival = Arrival(self.now, self.name, self.style, key, body, digest, first)
        self.wire.append(arrival)
        self._world.arrived(arrival)
        answer = await self._served(body, key, digest)
        arrival.answered = self.now
        return answer

    async def _served(self, body: Mapping[str, Any], key: str, digest: bytes) -> dict[str, Any]:
        known = self.remembers(key)
        if known is not None:
            if known.digest != digest:
                return {"is": "error", "status": 409, "code": "other_request"}
            return known.answer or {"is": "error", "status": 409, "code": "in_flight"}
        known = self._keys[key] = Remembered(digest, self.now)
        if body["order"] in self.poisoned:
            known.answer = {"is": "error", "status": 500}
            return known.answer
        await asyncio.sleep(0.02 + self._world.nature.random() * 0.3)
        known.answer = self.obey(body)
        return known.answer

    async def roll_forward(self, body: Mapping[str, Any], key: str, delay_s: float) -> dict[str, Any]:
        """Answer 500, now and under that key ever after, and carry the request out all the same."""
        known = self.remembers(key)
        if known is not None:
            return await self.request(body, key)
        digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
        arrival = Arrival(self.now, self.name, self.style, key, body, digest, self.now, self.now)
        self.wire.append(arrival)
        self._world.arrived(arrival)
        self._keys[key] = Remembered(digest, self.now, {"is": "error", "status": 500})
        self.owe(delay_s, lambda: self.obey(body))
        return {"is": "error", "status": 500}

    def obey(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked, write it into the books, and owe the webhook for it."""
        match body["verb"]:
            case "authorize":
                answer = self._authorize(body)
            case "capture":
                answer = self._capture(body)
            case "void":
                answer = self._void(body)
            case "refund":
                answer = self._refund(body)
            case other:
                raise AssertionError(other)
        self._world.note(
            body["order"], f"{self.name} {body['verb']} {body['reference'][-6:]}: {answer['is']} {answer.get('id')}"
        )
        if answer["is"] != "pending":
            self._tell(body, answer)
        return answer

    def _authorize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        nature = self._world.nature
        draw = nature.random()
        if draw < 0.2:
            word = "soft" if draw < 0.12 else "hard"
            return {"is": "declined", "id": self._new_id("no"), "decline": word}
        charge = Charge(
            self.name,
            self._new_id("ch"),
            body["reference"],
            body["order"],
            body["amount"],
            body["currency"],
            body["automatic"],
            self.now,
        )
        if charge.automatic:
            charge.captures["auto"] = charge.amount
        self.charges[charge.id] = self.by_reference[charge.reference] = charge
        self._world.charged(charge)
        says_captured = charge.automatic and self.style == "prompt"
        return self._approved(charge.id, body, captured=says_captured)

    def _capture(self, body: Mapping[str, Any]) -> dict[str, Any]:
        charge = self.charges[body["payment"]]
        too_much = self.style == "prompt" and charge.captured + body["amount"] > charge.amount
        if charge.voided or too_much:
            return {"is": "declined", "id": self._new_id("no"), "decline": "refused"}
        id_ = self._new_id("ca")
        if self.style == "prompt":
            charge.captures[body["reference"]] = body["amount"]
            return self._approved(id_, body)
        charge.taken.add(body["reference"])

        def carry_out() -> None:
            charge.taken.discard(body["reference"])
            fails = self._world.nature.random() < 0.03
            if not fails:
                charge.captures[body["reference"]] = body["amount"]
            self._tell(
                body, {"is": "declined", "id": id_, "decline": "refused"} if fails else self._approved(id_, body)
            )

        self.owe(self._while(), carry_out)
        return {"is": "pending", "id": id_}

    def _void(self, body: Mapping[str, Any]) -> dict[str, Any]:
        id_ = self._new_id("vo")

        def carried_out() -> dict[str, Any]:
            charge = self.charges.get(body["payment"] or "") or self.by_reference.get(body["attempt"])
            if charge is None or charge.captures or charge.taken:  # what is not there yet may still come
                return {"is": "declined", "id": id_, "decline": "refused"}
            charge.voided = True
            return self._approved(id_, body)

        if self.style == "prompt":
            return carried_out()
        self.owe(self._while(), lambda: self._tell(body, carried_out()))
        return {"is": "pending", "id": id_}

    def _refund(self, body: Mapping[str, Any]) -> dict[str, Any]:
        charge = self.charges[body["payment"]]
        too_much = self.style == "prompt" and charge.refunded + body["amount"] > charge.captured
        if charge.voided or too_much:
            return {"is": "declined", "id": self._new_id("no"), "decline": "refused"}
        id_ = self._new_id("re")
        if self.style == "prompt":
            charge.refunds[body["reference"]] = body["amount"]
            return self._approved(id_, body)

        def carry_out() -> None:
            fails = self._world.nature.random() < 0.03
            if not fails:
                charge.refunds[body["reference"]] = body["amount"]
            self._tell(
                body, {"is": "declined", "id": id_, "decline": "refused"} if fails else self._approved(id_, body)
            )

        self.owe(self._while(), carry_out)
        return {"is": "pending", "id": id_}

    def look_up(self, reference: str, kind: str) -> dict[str, Any]:
        """What the books say about an operation."""
        charge = self.by_reference.get(reference)
        if charge is not None:
            body = {"amount": charge.amount, "currency": charge.currency}
            if charge.voided:
                return {"is": "declined", "id": charge.id, "decline": "hard"}
            return self._approved(charge.id, body, captured=charge.captured > 0)
        return self._moves.get(reference) or {"is": "error", "status": 404}

    def _while(self) -> float:
        nature = self._world.nature
        return nature.random() * nature.choice((0.5, 5.0, 60.0, 600.0))

    def _approved(self, id_: str, body: Mapping[str, Any], *, captured: bool = False) -> dict[str, Any]:
        answer = {
            "is": "approved",
            "id": id_,
            "amount": body["amount"],
            "currency": body["currency"],
            "captured": captured,
        }
        if "reference" in body and body["verb"] != "authorize":
            self._moves[body["reference"]] = answer
        return answer

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{self.name}_{self._world.nature.getrandbits(64):016x}"

    # --- what it owes ---

    def owe(self, delay_s: float, what: Callable[[], Any]) -> None:
        """Do something later, whatever becomes of who asked for it."""
        self.owed += 1

        async def pay() -> None:
            try:
                await asyncio.sleep(delay_s)
                what()
            finally:
                self.owed -= 1

        self._world.spawn(pay())

    def _tell(self, body: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Owe a webhook: at least once, at any time, in any order."""
        nature = self._world.nature
        event = {
            "id": f"ev_{nature.getrandbits(64):016x}",
            "verb": body["verb"],
            "reference": body["reference"],
            "payment": answer["id"] if body["verb"] == "authorize" else body.get("payment"),
            "answer": dict(answer),
        }
        raw = orjson.dumps(event)
        copies = 2 if nature.random() < 0.1 else 1
        for _ in range(copies):
            delay = nature.random() * nature.choice((0.1, 1.0, 10.0, 10.0, 120.0, 1800.0))
            silent_until = self.stubborn.get(body["order"], 0.0)
            self.owed += 1
            self._world.spawn(self._deliver(raw, body["order"], max(delay, silent_until - self.now)))

    async def _deliver(self, raw: bytes, order: str, delay_s: float) -> None:
        nature = self._world.nature
        try:
            await asyncio.sleep(delay_s)
            for wait in (5.0, 30.0, 120.0, 600.0, *([HOUR] * 48)):
                self._world.counts["webhooks"] += 1
                status = await self.deliver(self.name, raw)
                if status is not None and status < 300:
                    return
                await asyncio.sleep(wait * (0.5 + nature.random()))
            raise AssertionError("a webhook was never taken")
        finally:
            self.owed -= 1


# --- The adapter ------------------------------------------------------------------------------------------------------

_DECLINES: Final = {
    "soft": Decline("do_not_honor", "soft", Action.RETRY_OTHER_NOW, "05"),
    "hard": Decline("card_stolen", "hard", Action.DO_NOT_RETRY, "43"),
    "refused": Decline("provider_refused", "hard", Action.DO_NOT_RETRY, "refused"),
}
_NEVER_THERE: Final[Mapping[str, Outcome]] = {
    "refused": NotProcessed("not_sent"),
    "rate_limited": NotProcessed("rate_limited"),
    "reset_before": Unknown("reset", resend=True),
    "error_clean": Unknown("server_error", resend=True),
}
"""Faults of requests that never reach the PSP's books, and how the adapter has to read them."""
SILENT_S: Final = 60.0
"""A connection without an answer: longer than anybody waits."""
_KINDS: Final = {"authorize": Kind.AUTHORIZE, "capture": Kind.CAPTURE, "void": Kind.VOID, "refund": Kind.REFUND}


class SimProvider:
    """The adapter of a simulated PSP, on a wire that loses, delays and doubles requests."""

    acknowledgement = Acknowledgement(b"ok", "text/plain")

    def __init__(self, psp: Psp, world: Surroundings) -> None:
        self.name = psp.name
        supported = set(Capability) - {Capability.NETWORK_TRANSACTION_ID}
        if psp.style == "later":
            supported -= {Capability.LOOKUP}
        self.capabilities = Capabilities(frozenset(supported), HORIZON_S[psp.style])
        self._psp = psp
        self._world = world

    def refuses(self, money: Money) -> str | None:
        return None

    def compose(self, ask: Ask) -> Mapping[str, Any]:
        shared = {
            "reference": ask.operation_id,
            "amount": ask.amount.amount_minor,
            "currency": ask.amount.currency,
        }
        match ask:
            case Authorize(instrument=Card(number=number)):
                means: dict[str, Any] = {"card": number}
            case Authorize(instrument=Token(value=value)):
                means = {"token": value}
            case _:
                means = {}
        match ask:
            case Authorize():
                self._psp.named[ask.operation_id] = ask.reference or ""
                return {
                    **shared,
                    **means,
                    "verb": "authorize",
                    "order": ask.reference,
                    "automatic": ask.capture_method == "automatic",
                }
            case Capture() | Refund():
                verb = "capture" if isinstance(ask, Capture) else "refund"
                charge = self._psp.charges[ask.provider_payment_id]
                return {**shared, "verb": verb, "payment": charge.id, "order": charge.order}
            case Void():
                return {
                    **shared,
                    "verb": "void",
                    "payment": ask.provider_payment_id,
                    "attempt": ask.attempt_id,
                    "order": self._psp.named[ask.attempt_id],
                }
            case _:
                raise AssertionError(ask)

    def completion(self, call: Call, details: Mapping[str, str]) -> Mapping[str, Any]:
        raise AssertionError("nobody is challenged here")

    async def send(self, call: Call, keep: Keep) -> Outcome:
        request = dict(call.request)
        if "card" in request and self._psp.style == "prompt":  # in two steps: first a token, which is kept
            await asyncio.sleep(self._world.nature.random() * 0.2)
            token = f"tok_{self._world.nature.getrandbits(64):016x}"
            request = {**{name: value for name, value in request.items() if name != "card"}, "token": token}
            await keep(request)
        self._psp.fate(request["order"])
        fault = self._draw()
        if fault != "none":
            self._world.note(request["order"], f"{self.name} {request['verb']} {call.operation_id[-6:]}: {fault}")
            self._world.counts["faults on the wire"] += 1
        outcome = await self._over(fault, request, call)
        if self._psp.stubborn.get(request["order"], 0.0) > self._psp.now and not isinstance(outcome, NotProcessed):
            return Unknown("unreadable")
        return outcome

    def _draw(self) -> str:
        draw = self._world.nature.random()
        for name, weight in self._world.failing().requests.items():
            draw -= weight
            if draw < 0:
                return name
        return "none"

    async def _over(self, fault: str, request: Mapping[str, Any], call: Call) -> Outcome:
        """One request over the wire, with what goes wrong there."""
        nature, psp = self._world.nature, self._psp
        if (certain := _NEVER_THERE.get(fault)) is not None:
            await asyncio.sleep(nature.random() * 8 if fault == "rate_limited" else 0)
            return certain
        match fault:
            case "lost_request":
                await asyncio.sleep(SILENT_S)
            case "lost_answer":
                self._world.spawn(psp.request(request, call.key))
                await asyncio.sleep(SILENT_S)
            case "late":
                self._again(request, call, nature.random() * 90)
                await asyncio.sleep(SILENT_S)
            case "error_rolls_forward":
                delay = nature.random() * nature.choice((10.0, HOUR))
                return self._read(await self._exchange(psp.roll_forward(request, call.key, delay)), call)
            case "slow":
                await asyncio.sleep(nature.random() * 14)
            case "twice":
                self._again(request, call, nature.random() * 30)
            case _:
                pass
        answer = await self._exchange(psp.request(request, call.key))
        if fault == "reset_after":
            return Unknown("reset", resend=True)
        if fault == "garbage":
            return Unknown("unreadable")
        return self._read(answer, call)

    def _again(self, request: Mapping[str, Any], call: Call, delay_s: float) -> None:
        """The request arrives, or arrives once more, when nobody expects it any longer."""
        self._psp.owe(delay_s, lambda: self._world.spawn(self._psp.request(request, call.key)))

    async def _exchange(self, served: Any) -> dict[str, Any]:
        """The PSP serves the request whatever becomes of who asked."""
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        async def serve() -> None:
            result = await served
            if not answer.done():
                answer.set_result(result)

        self._world.spawn(serve())
        return await answer

    def _read(self, answer: Mapping[str, Any], call: Call) -> Outcome:
        match answer["is"]:
            case "error":
                return self.read_error(answer)
            case _:
                outcome = _outcome(answer)
        if isinstance(outcome, Approved) and outcome.amount != call.amount:
            return Unknown("another_amount")
        return outcome

    def read_error(self, answer: Mapping[str, Any]) -> Outcome:
        """What an error means: nobody knows."""
        if answer.get("code") == "in_flight":
            return Unknown("in_flight", resend=True)
        return Unknown("server_error", resend=answer["status"] >= 500)

    async def lookup(self, call: Call) -> Outcome:
        await asyncio.sleep(self._world.nature.random() * 0.3)
        order = call.request.get("order", "")
        stubborn = self._psp.stubborn.get(order, 0.0)
        known = self._psp.by_reference.get(call.operation_id)
        if known is not None:
            stubborn = self._psp.stubborn.get(known.order, 0.0)
        if stubborn > self._psp.now or self._draw() != "none":
            return Unknown("unreadable")
        answer = self._psp.look_up(call.operation_id, call.kind)
        if answer["is"] == "error":
            return self.read_miss()
        return self._read(answer, call)

    def read_miss(self) -> Outcome:
        """What it means that the PSP knows nothing of it: that the request may still be on its way."""
        return Unknown("not_found")

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> str:
        if headers.get("signature") != SECRET:
            raise WebhookRefused("not signed")
        return "simulated"

    def parse_webhook(self, body: bytes) -> Sequence[Event]:
        told = orjson.loads(body)
        kind = _KINDS[told["verb"]]
        return [
            Event(
                told["id"],
                f"{told['verb']}.{told['answer']['is']}",
                kind,
                operation_id=told["reference"],
                provider_id=told["answer"]["id"],
                provider_payment_id=told["payment"],
                outcome=_outcome(told["answer"]),
            )
        ]


def _outcome(answer: Mapping[str, Any]) -> Outcome:
    match answer["is"]:
        case "approved":
            money = Money(answer["amount"], answer["currency"])
            return Approved(answer["id"], money, captured=answer["captured"])
        case "declined":
            return Declined(_DECLINES[answer["decline"]], answer["id"])
        case "pending":
            return Pending(answer["id"])
        case other:
            raise AssertionError(other)
