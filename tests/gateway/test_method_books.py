"""What a payment's outcome teaches about its method is written with it, and never brings back what was deleted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from psycopg.types.json import Jsonb

from gateway.brands import RANGES, brand_of
from gateway.method_books import SETTLED, settled_values
from gateway.sql import Statement, connect
from providers.contract import Approved, CardFacts, Declined, Outcome
from providers.declines import Action, Decline
from providers.money import Money

if TYPE_CHECKING:
    from tests.conftest import Database

NOW: Final = datetime(2026, 11, 21, tzinfo=UTC)
LATER: Final = NOW + timedelta(days=30)
CARD: Final = {"brand": "maestro", "bin": "424242", "last4": "4242", "exp_month": 12, "exp_year": 2030, "funding": None}
FACTS: Final = CardFacts(brand="visa", bin="424242", last4="1111", funding="debit", country="DE")
PIECE: Final = Statement(
    f"WITH source AS (SELECT 'pay_1' AS id), written AS ({SETTLED.format(source='source')} RETURNING payment_method.id)"
    " SELECT count(*) AS written FROM written",
    writes="settle",
)


def approved(**told: Any) -> Approved:
    return Approved("psp_1", Money(0, "EUR"), **told)


def store(database: Database, **changes: Any) -> None:
    plain = {
        "id": "pm_1",
        "merchant_id": "mer_1",
        "livemode": False,
        "type": "card",
        "tokens": {"first": "tok_1"},
        "card": CARD,
        "sealed_card": b"card",
        "sealed_cvc": b"code",
        "wipe_at": NOW,
        "reusable": True,
        "created_at": NOW,
    }
    row = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in (plain | changes).items()}
    names, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    database.rows(f"INSERT INTO payment_method ({names}) VALUES ({places})", **row)


async def settle(database: Database, outcome: Outcome | None, *, spent_at: datetime | None = None) -> dict[str, Any]:
    """The row once the piece was run in a commit of its own."""
    pool = await connect(database.url)
    try:
        await PIECE.row(pool, settled_values("pm_1", "second", outcome, spent_at=spent_at) | {"p_updated_at": LATER})
    finally:
        pool.close()
    (row,) = database.rows("SELECT * FROM payment_method")
    return row


async def test_a_token_is_added_beside_those_of_other_accounts(database: Database) -> None:
    store(database)

    row = await settle(database, approved(token="tok_2"))

    assert row["tokens"] == {"first": "tok_1", "second": "tok_2"}
    assert (row["sealed_card"], row["sealed_cvc"], row["updated_at"]) == (b"card", b"code", LATER)


async def test_what_was_known_of_the_card_stays_and_what_was_empty_is_filled(database: Database) -> None:
    store(database)

    row = await settle(database, approved(card=FACTS, network_transaction_id="NTI-1"))
    again = await settle(database, approved(network_transaction_id="NTI-2"))

    assert row["card"] == {
        "brand": "visa",  # it was only read off the number before
        "bin": "424242",
        "last4": "4242",
        "exp_month": 12,
        "exp_year": 2030,
        "funding": "debit",
        "country": "DE",
    }
    assert again["card"] == row["card"]
    assert (row["network_transaction_id"], again["network_transaction_id"]) == ("NTI-1", "NTI-1")


async def test_a_token_alone_learns_its_card(database: Database) -> None:
    store(database, type="token", card=None, sealed_card=None, sealed_cvc=None)

    nothing = await settle(database, approved())
    row = await settle(database, approved(card=FACTS))

    assert nothing["card"] is None
    assert (row["card"]["brand"], row["card"]["last4"]) == ("visa", "1111")


@pytest.mark.parametrize("reusable", [True, False])
async def test_what_was_known_already_writes_nothing(database: Database, *, reusable: bool) -> None:
    store(database, reusable=reusable, tokens={"second": "tok_2"}, network_transaction_id="NTI-1", card=CARD)
    before = database.rows("SELECT * FROM payment_method")
    known = CardFacts(brand="maestro", last4="4242", exp_year=2031)

    row = await settle(database, approved(token="tok_2", network_transaction_id="NTI-2", card=known))

    assert [row] == before


async def test_a_card_for_one_payment_learns_nothing_for_another(database: Database) -> None:
    store(database, reusable=False)
    before = database.rows("SELECT * FROM payment_method")

    row = await settle(database, approved(token="tok_2", network_transaction_id="NTI-2", card=FACTS))

    assert [row] == before


async def test_a_decline_teaches_the_card_and_no_token(database: Database) -> None:
    store(database)

    row = await settle(database, Declined(Decline("lost_card", "hard", Action.DO_NOT_RETRY), card=FACTS))

    assert (row["tokens"], row["card"]["funding"]) == ({"first": "tok_1"}, "debit")


async def test_the_end_of_its_own_payment_wipes_the_code_and_keeps_what_may_be_charged_again(
    database: Database,
) -> None:
    store(database)

    row = await settle(database, approved(token="tok_2"), spent_at=NOW)

    assert (row["sealed_card"], row["sealed_cvc"], row["wipe_at"]) == (b"card", None, None)
    assert row["tokens"]["second"] == "tok_2"


async def test_the_end_of_another_payment_wipes_nothing(database: Database) -> None:
    store(database)

    row = await settle(database, None, spent_at=LATER)

    assert (row["sealed_card"], row["sealed_cvc"], row["wipe_at"]) == (b"card", b"code", NOW)


async def test_a_card_for_one_payment_is_wiped_and_remembers_no_token(database: Database) -> None:
    store(database, reusable=False)

    row = await settle(database, approved(token="tok_2"), spent_at=NOW)

    assert (row["sealed_card"], row["sealed_cvc"], row["tokens"]) == (None, None, {"first": "tok_1"})


async def test_a_deleted_method_learns_nothing_any_more(database: Database) -> None:
    store(database, tokens={}, sealed_card=None, sealed_cvc=None, deleted_at=NOW)
    before = database.rows("SELECT * FROM payment_method")

    row = await settle(database, approved(token="tok_2", network_transaction_id="NTI-1"), spent_at=NOW)

    assert [row] == before


# --- Indexes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def planner(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.url) as connection:
        connection.execute(b"SET enable_seqscan = off")
        yield connection


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ("AND customer = 'c'", "payment_method_by_customer"),
        ("AND fingerprint = 'f'", "payment_method_by_fingerprint"),
        ("", "payment_method_by_merchant"),
    ],
)
def test_each_filter_of_the_list_has_its_index(planner: psycopg.Connection[Any], condition: str, index: str) -> None:
    plan = planner.execute(
        f"""EXPLAIN SELECT id FROM payment_method WHERE merchant_id = 'm' AND livemode = false AND reusable
        AND deleted_at IS NULL {condition} ORDER BY id DESC LIMIT 20""".encode()
    ).fetchall()

    assert index in str(plan)


# --- Brands -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "brand"),
    [
        ("4242424242424242", "visa"),
        ("5555555555554444", "mastercard"),
        ("2223003122003222", "mastercard"),
        ("378282246310005", "amex"),
        ("6011111111111117", "discover"),
        ("6500000000000002", "discover"),
        ("3566002020360505", "jcb"),
        ("30569309025904", "diners"),
        ("36227206271667", "diners"),
        ("6200000000000005", "unionpay"),
        ("6759649826438453", "maestro"),
        ("9999999999999995", None),
    ],
)
def test_the_brand_is_read_off_the_number(number: str, brand: str | None) -> None:
    assert brand_of(number) == brand


def test_no_number_is_of_two_brands() -> None:
    for number in range(100_000):
        prefix = f"{number:05d}"
        assert len([brand for brand, first, last in RANGES if first <= prefix[: len(first)] <= last]) <= 1, prefix
