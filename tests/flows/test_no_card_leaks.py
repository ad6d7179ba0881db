"""After a day in the life of a shop, with real processes and everything that goes wrong, no store and no log holds a card number.

The card that is vaulted here makes the journey of one payment method: charged at one PSP, declined there softly, approved at the
other, refunded.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import redis

if TYPE_CHECKING:
    from tests.conftest import Database, Kit, Merchant, Processes, Psps

VAULTED: Final = "4242424242424242"
CHALLENGED: Final = "4000002760003184"
DECLINED: Final = "4000000000009995"
WAITING: Final = "5555555555554444"
MISPLACED: Final = "4111111111111111"
BROKEN: Final = "4000000000000077"
NUMBERS: Final = (VAULTED, CHALLENGED, DECLINED, WAITING, MISPLACED, BROKEN)
CODE: Final = "9173"
"""A security code that is looked for in plain columns, too; four digits so that it is not found by chance."""


def numbers_in(text: str) -> list[str]:
    """The card numbers in a text, however they are grouped, and never a part of a longer number."""
    compact = re.sub(r"(?<=\d)[ -](?=\d)", "", text)
    return [number for number in NUMBERS if re.search(rf"(?<!\d){number}(?!\d)", compact)]


def stored(database: Database) -> dict[str, str]:
    """Every row of every table of the database as text, sealed columns as the bytes they are."""
    tables = database.rows(
        "SELECT table_schema AS schema, table_name AS name FROM information_schema.tables"
        " WHERE table_schema IN ('public', 'procrastinate') AND table_type = 'BASE TABLE'"
    )
    texts = {}
    for table in tables:
        name = f"{table['schema']}.{table['name']}"
        rows = database.rows(f"SELECT to_jsonb(t) AS row FROM {name} AS t")
        plain = json.dumps([row["row"] for row in rows])
        raw = "".join(
            bytes.fromhex(value[2:]).decode("latin-1")
            for row in rows
            for value in row["row"].values()
            if isinstance(value, str) and value.startswith("\\x")
        )
        texts[name] = plain + raw
    return texts


def remembered(url: str) -> str:
    """Every key of the Redis with its value."""
    with redis.Redis.from_url(url) as client:
        return "".join(f"{key!r} {client.get(key)!r} " for key in client.scan_iter())


def printed(folder: Path) -> dict[str, str]:
    """What the processes have written to their logs."""
    return {path.name: path.read_text(errors="replace") for path in folder.rglob("*.log")}


async def shop(merchant: Merchant, flow: type[Kit], psps: Psps) -> dict[str, Any]:
    """A day in the shop. Gives the journey of the vaulted card."""
    vaulted = await merchant.post(
        "/v1/payment_methods", {"type": "card", "card": {**flow.CARD, "number": VAULTED, "cvc": CODE}}
    )
    assert vaulted.status_code == 201, vaulted.text
    method = vaulted.json()["id"]
    first = await merchant.charged(payment_method=method, payment_method_data=None, reference="at the first")
    psps.fault("stripe", "authorize", "decline", code="generic_decline")
    second = await merchant.charged(payment_method=method, payment_method_data=None, reference="at the other")
    refund = await merchant.post("/v1/refunds", {"payment": second["id"]})
    await merchant.charge(payment_method_data=flow.card(DECLINED))
    await merchant.charge(payment_method_data=flow.card(CHALLENGED), return_url="https://shop.example/back")
    waiting = await merchant.charge(payment_method_data=flow.card(WAITING), confirm=False)
    assert waiting.json()["status"] == "requires_confirmation"
    psps.fault("stripe", "authorize", "timeout_after_effect")
    psps.fault("stripe", "tokenize", "status", status=500)
    await merchant.charge(payment_method_data=flow.card(BROKEN))
    for wrong in (
        {"amount": 1, "currency": "EUR", "reference": 7, MISPLACED: "x"},
        {"amount": 1, "currency": MISPLACED},
        flow.body(payment_method_data={"type": "card", "card": {"number": MISPLACED, "exp_month": 13, "exp_year": 1}}),
    ):
        answer = await merchant.post("/v1/payments", wrong)
        assert answer.status_code == 422
        assert numbers_in(answer.text) == []
    unread = await merchant.post("/v1/payments", b'{"number": "' + MISPLACED.encode() + b'", ')
    assert unread.status_code == 400
    return {"first": first, "second": second, "refund": refund}


async def test_no_store_and_no_log_holds_a_card_number(
    processes: Processes, database: Database, psps: Psps, flow: type[Kit], tmp_path: Path
) -> None:
    server = processes.server().start()
    processes.worker()
    async with server.merchant() as merchant:
        journey = await shop(merchant, flow, psps)
        paths = [await merchant.get("/v1/payments"), await merchant.get("/v1/payment_methods")]
        metrics = await merchant.http.get("/metrics")

        async def refunded() -> bool:
            payment = await merchant.payment(journey["second"]["id"])
            return bool(payment["amount_refunded"] == payment["amount"])

        await flow.eventually(refunded, "the refund was settled")
    logs = printed(tmp_path)
    texts = stored(database) | {
        "redis": remembered(processes.configuration.redis_url),
        "answers": "".join(answer.text for answer in paths),
        "metrics": metrics.text,
        **logs,
    }

    assert (journey["first"]["account"], journey["first"]["status"]) == ("stripe", "succeeded")
    assert (journey["second"]["account"], journey["second"]["attempt_count"]) == ("adyen", 2)
    assert journey["second"]["payment_method"] == journey["first"]["payment_method"]
    assert journey["refund"].status_code in {201, 202}
    assert len(logs) >= 2
    assert database.value("SELECT count(*) FROM payment_method WHERE sealed_card IS NOT NULL") == 2
    assert {name: numbers_in(text) for name, text in texts.items() if numbers_in(text)} == {}
    assert [name for name, text in texts.items() if re.search(rf"(?<![0-9a-f]){CODE}(?![0-9a-f])", text)] == []


def test_the_search_finds_a_number_however_it_is_written() -> None:
    assert numbers_in(f'{{"number": "{VAULTED}"}}') == [VAULTED]
    assert numbers_in("4242 4242 4242 4242 and 4242-4242-4242-4242") == [VAULTED]
    assert numbers_in(f"9{VAULTED}9") == []
