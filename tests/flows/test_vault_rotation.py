"""The vault's key is rotated while charges go on: none fails, and afterwards the old key is needed for nothing."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from psycopg.types.json import Jsonb

from gateway.ids import PAYMENT_METHOD, new_id
from gateway.rotation import Vault, report
from gateway.vault import Sealer, seal_card
from providers.contract import Card

if TYPE_CHECKING:
    import httpx

    from gateway.app import House
    from tests.conftest import Database, Inside, Kit, Merchant, Open, Processes, Psps, Server

OLD: Final = b"v" * 32
NEW: Final = b"w" * 32
CARDS: Final = 1_500
CLIENTS: Final = 4
STORE_EVERY: Final = 10


def setting(*keys: bytes) -> str:
    return ",".join(base64.b64encode(key).decode() for key in keys)


def key_ids(database: Database) -> Counter[str]:
    """Sealed records by key id, counted by the database and not by our own code."""
    rows = database.rows(
        """SELECT encode(substring(record FROM 2 FOR 4), 'hex') AS key_id FROM (
            SELECT sealed_card AS record FROM payment_method UNION ALL SELECT sealed_cvc FROM payment_method
            UNION ALL SELECT sealed_request FROM operation WHERE holds_card) records WHERE record IS NOT NULL"""
    )
    return Counter(row["key_id"] for row in rows)


def id_of(key: bytes) -> str:
    return Sealer(key).key_id.hex()


def store_cards(database: Database, count: int, key: bytes) -> list[str]:
    """Cards as a gateway with that key would have stored them."""
    sealer, ids = Sealer(key), [new_id(PAYMENT_METHOD) for _ in range(count)]
    with psycopg.connect(database.admin_url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO payment_method (id, merchant_id, livemode, type, tokens, card, sealed_card, reusable, created_at)
            VALUES (%s, 'mer_dev', false, 'card', '{}', %s, %s, true, now())""",
            [
                (
                    each,
                    Jsonb({"last4": "4242"}),
                    seal_card(Card("4242424242424242", 12, 2030), sealer, "mer_dev", each)[0],
                )
                for each in ids
            ],
        )
    return ids


@dataclass
class Load:
    """Clients that charge stored cards without a pause, and store some, at whichever servers are in rotation."""

    methods: list[str]
    live: dict[int, Merchant] = field(default_factory=dict)
    busy: Counter[int] = field(default_factory=Counter)
    answers: list[httpx.Response] = field(default_factory=list)
    turns: itertools.count[int] = field(default_factory=itertools.count)
    over: bool = False

    async def client(self) -> None:
        while not self.over:
            turn = next(self.turns)
            port = list(self.live)[turn % len(self.live)]
            self.busy[port] += 1
            try:
                self.answers.append(await self.charge(self.live[port], turn))
            finally:
                self.busy[port] -= 1
            await asyncio.sleep(0.005)

    async def charge(self, merchant: Merchant, turn: int) -> httpx.Response:
        if turn % STORE_EVERY == 0:
            answer = await merchant.charge(setup_future_usage="off_session")
            self.methods.append(answer.json()["payment_method"])
            return answer
        newest_or_any = self.methods[-1] if turn % STORE_EVERY < 4 else self.methods[turn * 7 % len(self.methods)]
        return await merchant.charge(payment_method_data=None, payment_method=newest_or_any)

    async def take_out(self, server: Server, flow: type[Kit]) -> None:
        """As a balancer does before a process is stopped."""
        del self.live[server.port]
        await flow.eventually(lambda: not self.busy[server.port], "its last request was answered")
        await asyncio.to_thread(server.process.stop)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        clients = [asyncio.create_task(self.client()) for _ in range(CLIENTS)]
        try:
            yield
        finally:
            self.over = True
            await asyncio.gather(*clients)


async def test_the_key_is_rotated_under_load_and_no_charge_fails(
    processes: Processes, psps: Psps, database: Database, flow: type[Kit], open_gateway: Open
) -> None:
    load = Load(store_cards(database, CARDS, OLD))

    async with AsyncExitStack() as stack:

        async def start(*keys: bytes) -> Server:
            server = processes.server(GATEWAY_VAULT_KEY=setting(*keys))
            server.process.start()
            await asyncio.to_thread(server.wait_until_ready)
            load.live[server.port] = await stack.enter_async_context(server.merchant())
            return server

        first, second = await start(OLD), await start(OLD, NEW)
        unknown = await _unknown_charge(load.live[first.port], psps)
        async with load.running():
            await load.take_out(first, flow)  # from here on every process opens both keys, so the new one may seal
            third = await start(NEW, OLD)
            fourth = await start(NEW, OLD)
            await load.take_out(second, flow)
            before = key_ids(database)
            rotation = processes.command("vault", "rotate", GATEWAY_VAULT_KEY=setting(NEW, OLD))
            code = await asyncio.to_thread(rotation.wait)
            after = key_ids(database)
            await start(NEW)
            for server in (third, fourth):
                await load.take_out(server, flow)
            count = len(load.answers)
            await flow.eventually(lambda: len(load.answers) > count + 50, "charges go on under the new key alone")

    assert before[id_of(OLD)] > CARDS
    assert (code, after[id_of(OLD)]) == (0, 0), rotation.printed
    assert (
        rotation.printed.splitlines()[-1] == "all records are sealed under the first key: the others may be taken away"
    )
    assert after[id_of(NEW)] > CARDS
    assert [answer.text for answer in load.answers if answer.status_code != 201] == []
    assert len(load.answers) > 200
    assert len(psps.charges()) == len(load.answers) + 1
    async with open_gateway(vault_key=setting(NEW)) as inside:
        for _ in range(3):
            await inside.work()
        assert (await inside.merchant.payment(unknown["id"]))["status"] == "succeeded"


async def _unknown_charge(merchant: Merchant, psps: Psps) -> dict[str, Any]:
    """A charge whose request stays sealed, card and all, until its outcome is known."""
    psps.fault("adyen", "authorize", "garbage", times=3)
    psps.fault("adyen", "authorize", "drop_webhook")
    payment: dict[str, Any] = (await merchant.charge(routing={"account": "adyen"})).json()
    assert payment["processing_reason"] == "outcome_unknown"
    return payment


# --- One record at a time ---------------------------------------------------------------------------------------------


def vault_of(house: House, *keys: bytes) -> Vault:
    return Vault(Sealer(*keys), house.deps.queries, house.deps.books, house.deps.method_books)


async def charged_with(inside: Inside, method: str) -> int:
    return (await inside.merchant.charge(payment_method_data=None, payment_method=method)).status_code


async def test_a_rotation_that_is_cut_off_goes_on_where_it_was(open_gateway: Open, database: Database) -> None:
    ids, lines = store_cards(database, 300, OLD), list[str]()

    async with open_gateway(vault_key=setting(NEW, OLD)) as inside:
        vault = vault_of(inside.house, NEW, OLD)
        cut_off = asyncio.create_task(vault.rotate(lines.append))
        while not key_ids(database)[id_of(NEW)]:  # noqa: ASYNC110
            await asyncio.sleep(0)  # until the first row is written: there is nothing to wait on
        cut_off.cancel()
        await asyncio.gather(cut_off, return_exceptions=True)
        halfway = key_ids(database)
        charged = [await charged_with(inside, each) for each in (ids[0], ids[-1])]
        finished = report(await vault.rotate(lines.append), vault.sealer, lines.append)

    assert 0 < halfway[id_of(OLD)] < 300
    assert halfway.total() == 300
    assert charged == [201, 201]
    assert finished
    assert key_ids(database) == {id_of(NEW): 300}


async def test_what_a_charge_has_wiped_or_changed_meanwhile_is_not_brought_back(
    open_gateway: Open, database: Database
) -> None:
    (method,) = store_cards(database, 1, OLD)

    async with open_gateway(vault_key=setting(NEW, OLD)) as inside:
        vault = vault_of(inside.house, NEW, OLD)
        (row,) = await inside.house.deps.queries.sealed_methods("", 10)
        await inside.house.deps.method_books.delete(method, inside.house.deps.clock())
        written = await vault._rewrap("method", row)

    assert written is False
    assert database.value("SELECT sealed_card FROM payment_method") is None


async def test_a_card_and_its_waiting_code_are_wrapped_anew_together(open_gateway: Open, database: Database) -> None:
    async with open_gateway(vault_key=setting(OLD)) as inside:
        payment = (await inside.merchant.charge(confirm=False)).json()
    async with open_gateway(vault_key=setting(NEW, OLD)) as inside:
        vault = vault_of(inside.house, NEW, OLD)
        await vault.rotate(lambda _: None)
        rotated = key_ids(database)
    async with open_gateway(vault_key=setting(NEW)) as inside:
        confirmed = await inside.merchant.post(f"/v1/payments/{payment['id']}/confirm")

    assert rotated == {id_of(NEW): 2}
    assert (confirmed.status_code, confirmed.json()["status"]) == (200, "succeeded")


async def test_a_key_that_was_taken_away_too_early_charges_nothing_and_loses_no_answer(
    open_gateway: Open, database: Database, psps: Psps
) -> None:
    (method,) = store_cards(database, 1, OLD)
    fields = {"payment_method_data": None, "payment_method": method, "key": "order-1"}

    async with open_gateway(vault_key=setting(OLD)) as inside:
        first = await inside.merchant.charge(**fields)
    async with open_gateway(vault_key=setting(NEW)) as inside:
        replayed = await inside.merchant.charge(**fields)
        refused = await inside.merchant.charge(**fields | {"key": "order-2"})
    async with open_gateway(vault_key=setting(NEW, OLD)) as inside:
        again = await inside.merchant.charge(**fields | {"key": "order-2"})

    assert replayed.content == first.content
    assert (refused.status_code, refused.json()["code"]) == (503, "vault_unavailable")
    assert again.status_code == 201
    assert len(psps.charges()) == 2


async def test_a_record_that_does_not_open_is_named_left_alone_and_keeps_the_old_key_needed(
    processes: Processes, database: Database
) -> None:
    good, strange, moved = [
        *store_cards(database, 1, OLD),
        *store_cards(database, 1, b"x" * 32),
        *store_cards(database, 1, OLD),
    ]
    swap = "UPDATE payment_method SET sealed_card = (SELECT sealed_card FROM payment_method WHERE id = %(of)s) WHERE id = %(id)s"
    database.rows(swap, of=good, id=moved)
    before = database.rows("SELECT id, sealed_card FROM payment_method WHERE id <> %(id)s ORDER BY id", id=good)

    code, printed = processes.run("vault", "rotate", GATEWAY_VAULT_KEY=setting(NEW, OLD))
    status, told = processes.run("vault", "status", GATEWAY_VAULT_KEY=setting(NEW, OLD))

    assert (code, status) == (1, 1)
    assert f"{strange} does not open" in printed
    assert f"{moved} does not open" in printed
    assert f"key {id_of(NEW)}  seals  1 records" in told
    assert f"key {id_of(OLD)}  opens only  1 records" in told
    assert f"key {id_of(b'x' * 32)}  not configured  1 records" in told
    assert "2 records are not sealed under the first key" in told
    assert database.rows("SELECT id, sealed_card FROM payment_method WHERE id <> %(id)s ORDER BY id", id=good) == before


MOVES: Final = {
    "from another row": ("mer_dev", "other", "card"),
    "from another merchant": ("mer_other", "mine", "card"),
    "from another purpose": ("mer_dev", "mine", "request"),
}


@pytest.mark.parametrize(("merchant_id", "row", "purpose"), MOVES.values(), ids=MOVES.keys())
async def test_a_ciphertext_that_was_moved_is_never_charged(
    merchant_id: str, row: str, purpose: str, open_gateway: Open, database: Database, psps: Psps
) -> None:
    mine, other = store_cards(database, 2, OLD)
    plain = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2030, "holder_name": None}
    moved = Sealer(OLD).seal_json(plain, merchant_id, mine if row == "mine" else other, purpose)
    database.rows("UPDATE payment_method SET sealed_card = %(moved)s WHERE id = %(mine)s", moved=moved, mine=mine)

    async with open_gateway() as inside:
        answer = await inside.merchant.charge(payment_method_data=None, payment_method=mine)
        status = await charged_with(inside, other)

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert status == 201
    assert len(psps.charges()) == 1
    assert database.value("SELECT count(*) FROM payment") == 1
