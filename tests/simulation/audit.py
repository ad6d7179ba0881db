"""The audit of a world at rest: the PSPs' books against the database, and both against what the clients were told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

import orjson

from gateway.invariants import Arrival, Entry, Outside, check_invariants
from tests.simulation.clients import Asked, Clients
from tests.simulation.postgres import EPOCH
from tests.simulation.psp import HORIZON_S, Charge
from tests.simulation.world import KEYS, LATE_S, OPEN, Violation, World

LIVE: Final = frozenset({"authorized", "captured"})


def open_operations(world: World) -> list[Any]:
    """Operations whose outcome is not known. ``with_a_person``: it, or another one of its payment, is in review."""
    return world.stage.look(
        """SELECT o.id, o.payment_id, o.kind, o.account, o.status, o.review_at, p.reference, p.merchant_id,
        EXISTS (SELECT FROM operation r WHERE r.payment_id = o.payment_id AND r.review_at IS NOT NULL
        AND r.status IN ('unknown', 'pending')) AS with_a_person FROM operation o JOIN payment p ON p.id = o.payment_id
        WHERE o.status IN ('created', 'sent', 'requires_action', 'pending', 'unknown') ORDER BY o.id"""
    )


def audit(world: World, clients: Clients) -> None:
    """Raise the first :class:`Violation` that is found."""
    look = world.stage.look
    payments = {row["id"]: row for row in look("SELECT * FROM payment")}
    operations = {row["id"]: row for row in look("SELECT * FROM operation")}
    _books(world, payments, operations)
    _rows(world, payments, operations)
    _history(world, payments)
    _told(world, clients, payments)


def _books(world: World, payments: dict[str, Any], operations: dict[str, Any]) -> None:
    """Everything in the books is in the database, as it is there, and nothing else."""
    for psp in world.psps.values():
        for charge in psp.charges.values():
            operation = operations.get(charge.reference)
            if operation is None:
                raise Violation("nothing is lost", charge.order, f"{charge.reference} is in the books alone")
            payment = payments[operation["payment_id"]]
            _charge(charge, operation, payment)
    for operation in operations.values():
        if operation["kind"] == "authorize" and operation["status"] in LIVE:
            found = world.psps[operation["account"]].by_reference.get(operation["id"])
            order = payments[operation["payment_id"]]["reference"]
            if found is None or found.amount != operation["amount"] or found.voided:
                raise Violation(
                    "no phantom", order, f"{operation['id']} is {operation['status']}, the books say {found}"
                )


def _charge(charge: Charge, operation: Any, payment: Any) -> None:
    state = f"{operation['status']}, the payment {payment['status']}"
    if charge.voided:
        if operation["status"] in LIVE:
            raise Violation("a void is known", charge.order, f"{charge.id} is voided, the attempt is {state}")
        return
    if operation["status"] not in LIVE or payment["status"] not in {"succeeded", "requires_capture"}:
        raise Violation("nothing is lost", charge.order, f"{charge.id} is charged, the attempt is {state}")
    facts = {
        "captured": (charge.captured, payment["amount_captured"]),
        "refunded": (charge.refunded, payment["amount_refunded"]),
    }
    for what, (theirs, ours) in facts.items():
        if theirs != ours:
            raise Violation("amounts agree", charge.order, f"{what} {theirs} in the books, {ours} in the database")
    if charge.captured > charge.amount or charge.refunded > charge.captured:
        raise Violation("never more than there is", charge.order, f"{charge}")


def _rows(world: World, payments: dict[str, Any], operations: dict[str, Any]) -> None:
    """What the rows say of each other."""
    of: dict[str, list[Any]] = defaultdict(list)
    for row in operations.values():
        of[row["payment_id"]].append(row)
    for row in open_operations(world):
        raise Violation("nothing stays open", row["reference"], f"{row['id']} ({row['kind']}) is {row['status']}")
    for payment in payments.values():
        rows, order = of[payment["id"]], payment["reference"]
        for kind, column in (("capture", "amount_capturing"), ("refund", "amount_refunding")):
            reserved = sum(row["amount"] for row in rows if row["kind"] == kind and row["status"] in OPEN)
            if payment[column] != reserved:
                raise Violation("reserved is what is open", order, f"{column} {payment[column]}, open {reserved}")
        attempts = [row for row in rows if row["kind"] == "authorize"]
        if len([row for row in attempts if row["status"] in LIVE]) > 1:
            raise Violation("one live success", order, payment["id"])


def _history(world: World, payments: dict[str, Any]) -> None:
    """The history tells every step from nothing to now."""
    rows = world.stage.look("SELECT * FROM change ORDER BY payment_id, seq")
    last: dict[str, Any] = {}
    for row in rows:
        before, order = last.get(row["payment_id"]), payments[row["payment_id"]]["reference"]
        due = 1 if before is None else before["seq"] + 1
        came_from = None if before is None else before["to_status"]
        if row["seq"] != due or row["from_status"] != came_from:
            raise Violation("the history is whole", order, f"{row['payment_id']} seq {row['seq']}, due was {due}")
        last[row["payment_id"]] = row
    for payment in payments.values():
        row = last.get(payment["id"])
        told = None if row is None else (row["seq"], row["to_status"])
        if told != (payment["version"], payment["status"]):
            raise Violation("the history is whole", payment["reference"], f"it ends at {told}, {payment['version']}")


def _told(world: World, clients: Clients, payments: dict[str, Any]) -> None:
    """What clients were told holds, and what they asked for once was done once."""
    by_order: dict[str, list[Any]] = defaultdict(list)
    for payment in payments.values():
        by_order[payment["reference"]].append(payment)
    confirmed = {asked.order for asked in clients.asked if asked.verb == "confirm"}
    for asked in clients.asked:
        if asked.verb == "cancel":
            _told_canceled(world, asked, by_order[asked.order])
        if asked.verb not in {"create", "confirm"}:
            continue
        if len(by_order[asked.order]) > 1:
            raise Violation("one key, one payment", asked.order, f"{[each['id'] for each in by_order[asked.order]]}")
        if asked.verb == "confirm" or asked.order not in confirmed:  # a later try may have told otherwise since
            _told_about(world, asked, by_order[asked.order])


def _told_about(world: World, asked: Asked, payments: list[Any]) -> None:
    if asked.answer is None:
        return
    status, body = asked.answer
    told = orjson.loads(body)
    if not payments or payments[0]["id"] != told["id"]:
        raise Violation("nothing is lost", asked.order, f"was told of {told['id']}, which is not there")
    charged = [each for each in world.orders.get(asked.order, []) if not each.voided]
    if status == 402 and charged:
        raise Violation("told failed, and charged", asked.order, f"{charged[0].id} at {charged[0].psp}")
    if status == 402 and payments[0]["status"] in {"succeeded", "requires_capture"}:
        raise Violation("told failed, and charged", asked.order, f"the payment is {payments[0]['status']}")
    if status in {200, 201} and not world.orders.get(asked.order):
        raise Violation("no phantom", asked.order, f"was told {told['status']}, and nobody charged anything")
    if asked.order != told["reference"]:
        raise Violation("an answer to what was asked", asked.order, f"was answered {told['reference']}")


async def verify(world: World) -> None:
    """The same check that ``gateway verify`` makes on a running system, with the books and the wire logs of the PSPs."""
    world.stage.tell(world.clock())
    horizons = {psp.name: HORIZON_S[psp.style] + LATE_S for psp in world.psps.values()}
    outside = Outside(list(_entries(world)), list(_arrivals(world)), world.clock().timestamp(), horizons)
    report = await check_invariants(_Look(world), outside, at_rest=True, keyring=KEYS)
    world.counts["outcomes unknown"] += world.stage.look("SELECT count(*) AS n FROM change WHERE news = 'Unknown'")[0][
        "n"
    ]
    world.counts["rows verified"] += sum(report.rows.values())
    world.counts["book entries verified"] += report.entries
    for violation in report.violations:
        found = world.stage.look("SELECT reference FROM payment WHERE id = $1", violation.payment_id)
        order = found[0]["reference"] if found else ""
        raise Violation(f"invariant {violation.invariant}", order, f"{violation.payment_id}: {violation.detail}")


class _Look:
    """The database as ``gateway verify`` reads it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        return self._world.stage.look(query, *args)


def _entries(world: World) -> Iterator[Entry]:
    epoch = EPOCH.timestamp()
    for psp in world.psps.values():
        for charge in psp.charges.values():
            status = "voided" if charge.voided else "captured" if charge.captures else "authorised"
            about = (charge.currency, status, None, epoch + charge.at)
            yield Entry(
                psp.name, "authorisations", charge.id, charge.reference, charge.reference, charge.amount, *about
            )
            for book, moved in (("captures", charge.captures), ("refunds", charge.refunds)):
                for reference, amount in moved.items():
                    cause = charge.reference if reference == "auto" else reference
                    about = (charge.currency, "succeeded", None, epoch + charge.at)
                    yield Entry(psp.name, book, charge.id, cause, charge.reference, amount, *about)


def _arrivals(world: World) -> Iterator[Arrival]:
    epoch = EPOCH.timestamp()
    for psp in world.psps.values():
        for at in psp.wire:
            verb, answered = at.body["verb"], None if at.answered is None else epoch + at.answered
            digest = at.digest.hex()
            yield Arrival(psp.name, verb, at.body["reference"], at.key, f"/{verb}", digest, epoch + at.at, answered)


def _told_canceled(world: World, asked: Asked, payments: list[Any]) -> None:
    if asked.answer is None or asked.answer[0] != 200 or orjson.loads(asked.answer[1])["status"] != "canceled":
        return
    charged = [each for each in world.orders.get(asked.order, []) if not each.voided]
    if charged or [each["status"] for each in payments] != ["canceled"]:
        raise Violation("told canceled, and charged", asked.order, f"{charged}")
