"""The floor: a charge's durable work and its PSP call, in as little code as is still safe.

A claim in Valkey and in Postgres, a payment with its operation committed before the call, the
outcome, the change and the answer committed before they are told: two commits, one statement each.
Nothing else: no keys, no routing, no vault, no ledger, no validation beyond types, one error. What
a gateway costs above this is what its features and its readability cost.
"""

import argparse
import asyncio
import gc
import hashlib
import os
import time
from collections import deque
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import hiredis
import msgspec
import uvloop

from bench.wire import ClientConnection, Reply, ServerConnection, answer, connect

SCHEMA = """
create schema if not exists floor;
create table if not exists floor.claim (
    idempotency_key text primary key, fingerprint bytea not null, payment uuid not null,
    answer bytea);
create table if not exists floor.payment (
    id uuid primary key, amount bigint not null, currency text not null, status text not null,
    version int not null, created timestamptz not null default now());
create table if not exists floor.operation (
    id uuid primary key, payment uuid not null, account text not null, request bytea not null,
    status text not null, provider_payment_id text, created timestamptz not null default now());
create index if not exists operation_payment on floor.operation (payment);
create table if not exists floor.change (
    payment uuid not null, version int not null, status text not null,
    created timestamptz not null default now(), primary key (payment, version));
"""
OPEN = """
with claimed as (insert into floor.claim values ($1, $2, $3) returning payment),
opened as (insert into floor.payment
    select payment, $4, $5, 'processing', 1 from claimed returning id),
intended as (insert into floor.operation select $6, id, 'stripe', $7, 'created' from opened)
insert into floor.change select id, 1, 'processing' from opened
"""
RECORD = """
with settled as (update floor.payment set status = $3, version = 2
    where id = $1 and version = 1 returning id),
done as (update floor.operation set status = $4, provider_payment_id = $5
    from settled where operation.id = $2),
answered as (update floor.claim set answer = $6 from settled where idempotency_key = $7)
insert into floor.change select id, 2, $3 from settled
"""
RELEASE = b"if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) end return 0"
CONFLICT = answer(409, b'{"code":"idempotency_key_in_use"}')
UNKNOWN = answer(502, b'{"code":"outcome_unknown"}')
LEASE_MS = 6000
DATABASE_CONNECTIONS = 16


class Token(msgspec.Struct):
    type: str
    tokens: dict[str, str]


class NewPayment(msgspec.Struct):
    amount: int
    currency: str
    confirm: bool
    payment_method_data: Token


class PaymentIntent(msgspec.Struct):
    id: str
    status: str
    amount_received: int


read_payment = msgspec.json.Decoder(NewPayment).decode
read_intent = msgspec.json.Decoder(PaymentIntent).decode


def new_id() -> UUID:
    """A UUID that sorts by time (version 7), so that inserts land on the right edge of an index."""
    milliseconds = int(time.time() * 1000)
    return UUID(bytes=milliseconds.to_bytes(6, "big") + b"\x70" + os.urandom(9))


class Valkey(asyncio.Protocol):
    """A pipelined connection: commands of one turn of the loop leave in one write."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.reader = hiredis.Reader()
        self.waiting: deque[asyncio.Future[Any]] = deque()
        self.unsent: list[bytes] = []
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one, uninherited

    def connection_lost(self, exc: Exception | None) -> None:
        for waiter in self.waiting:
            waiter.set_exception(exc or ConnectionResetError("Valkey closed the connection"))

    def call(self, *command: str | bytes | int) -> asyncio.Future[Any]:
        if not self.unsent:
            self.loop.call_soon(self.flush)
        self.unsent.append(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub: 1-tuple
        waiter = self.loop.create_future()
        self.waiting.append(waiter)
        return waiter

    def flush(self) -> None:
        self.transport.write(b"".join(self.unsent))
        self.unsent.clear()

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (reply := self.reader.gets()) is not False:
            self.waiting.popleft().set_result(reply)


class Floor:
    """Charges, and owns the connections to Postgres, Valkey and the PSP."""

    def __init__(self, valkey: Valkey, release: bytes, psp: tuple[str, int]) -> None:
        self.valkey, self.release, self.psp = valkey, release, psp
        self.databases: asyncio.LifoQueue[tuple[Any, Any]] = asyncio.LifoQueue()
        self.idle: list[ClientConnection] = []

    async def charge(self, key: str, body: bytes) -> bytes:
        """Charge once per key: a key that was ever used before is refused."""
        asked = read_payment(body)
        payment, operation = new_id(), new_id()
        if await self.valkey.call("SET", key, payment.bytes, "NX", "PX", LEASE_MS) is None:
            return CONFLICT
        request = b"amount=%d&currency=%s&confirm=true&payment_method=%s" % (
            asked.amount,
            asked.currency.lower().encode(),
            asked.payment_method_data.tokens["stripe"].encode(),
        )
        request += b"&metadata[operation]=%s&expand[0]=latest_charge" % str(operation).encode()
        fingerprint = hashlib.sha256(body).digest()
        sums = asked.amount, asked.currency
        try:
            await self.write(0, key, fingerprint, payment, *sums, operation, request)
        except asyncpg.UniqueViolationError:
            return CONFLICT
        status, raw = await self.call_psp(operation, request)
        if status != 200:  # it may have happened: a gateway would find out, the floor cannot
            return UNKNOWN
        intent = read_intent(raw)
        told = b'{"id":"pay_%s","object":"payment","status":"%s","amount":%d,"currency":"%s"}' % (
            payment.hex.encode(),
            intent.status.encode(),
            asked.amount,
            asked.currency.encode(),
        )
        outcome = (intent.status, "captured", intent.id, told)
        await self.write(1, payment, operation, *outcome, key)
        self.valkey.call("EVALSHA", self.release, 1, key, payment.bytes)
        return answer(201, told)

    async def write(self, which: int, *values: object) -> None:
        """Run a prepared statement on a free connection; it is committed when this returns."""
        statements = await self.databases.get()
        try:
            await statements[which].fetch(*values)
        finally:
            self.databases.put_nowait(statements)

    async def call_psp(self, operation: UUID, form: bytes) -> Reply:
        connection = self.idle.pop() if self.idle else await connect(*self.psp)
        arrived: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        connection.send(
            b"POST /v1/payment_intents HTTP/1.1\r\nHost: psp\r\nAuthorization: Bearer sk_test_bench"
            b"\r\nContent-Type: application/x-www-form-urlencoded\r\nIdempotency-Key: %s"
            b"\r\nContent-Length: %d\r\n\r\n%s" % (operation.hex.encode(), len(form), form),
            arrived.set_result,
        )
        reply = await arrived
        if reply[0]:
            self.idle.append(connection)
        return reply


class MerchantConnection(ServerConnection):
    """One connection of a merchant."""

    def __init__(self, floor: Floor) -> None:
        super().__init__()
        self.floor, self.key = floor, ""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"Idempotency-Key":
            self.key = value.decode()

    def handle(self) -> None:
        task = asyncio.ensure_future(self.floor.charge(self.key, self.body))
        task.add_done_callback(lambda done: self.respond(done.result()))


async def connect_valkey(url: str) -> Valkey:
    at, loop = urlsplit(url), asyncio.get_running_loop()
    if at.scheme == "unix":
        _, valkey = await loop.create_unix_connection(Valkey, at.path)
    else:
        _, valkey = await loop.create_connection(Valkey, at.hostname or "", at.port or 6379)
    if at.password:
        await valkey.call("AUTH", at.username or "default", at.password)
    return valkey


async def serve(port: int, database: str, valkey_url: str, psp: str) -> None:
    """Create the tables, open all connections, serve until the process is ended."""
    valkey = await connect_valkey(valkey_url)
    at = urlsplit(psp)
    floor = Floor(valkey, await valkey.call("SCRIPT", "LOAD", RELEASE), (at.hostname or "", at.port or 80))
    for n in range(DATABASE_CONNECTIONS):
        connection = await asyncpg.connect(database)
        if n == 0:
            await connection.execute(SCHEMA)
        prepared = await connection.prepare(OPEN), await connection.prepare(RECORD)
        floor.databases.put_nowait(prepared)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: MerchantConnection(floor), "127.0.0.1", port)
    gc.collect()
    gc.freeze()  # as the gateway does: what lives as long as the process is not scanned again
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    env = os.environ
    urls = env["FLOOR_DATABASE_URL"], env["FLOOR_REDIS_URL"], env["FLOOR_PSP_URL"]
    uvloop.run(serve(options.port, *urls))


if __name__ == "__main__":
    main()
