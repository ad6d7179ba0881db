"""What a webhook costs: providers tell, the gateway takes it, acknowledges it and applies it.

The usual case: the payment is there and was told by the answer to the call, so the event says nothing new. It is proved, stored,
acknowledged, matched with its payment and noted. Each event is another one, signed as its provider signs, and of the usual size.
"""

import itertools
import json
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from bench.cpu import cpu_s
from bench.psp import payment_intent
from bench.stage import ROOT, STOP_TIMEOUT_S, Stage, environment, load, serving
from gateway.embedded import spawn
from providers.sandbox.signatures import adyen_signature, stripe_signature

MERCHANT_ACCOUNT = "BenchECOM"
STRIPE_SECRET, ADYEN_KEY = "whsec_bench", "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
PAYMENTS = 200
EVENTS_PER_SECOND_MAX = 4_000
"""More than any core takes: so many are signed beforehand."""
CONNECTIONS = 16
SETTLE_S = 60.0
ADYEN_TOML = f"""
[accounts.adyen]
merchant = "mer_dev"
provider = "adyen"
api_key_env = "ADYEN_API_KEY"
hmac_key_env = "ADYEN_HMAC_KEY"
merchant_account = "{MERCHANT_ACCOUNT}"
base_url = "{{psp}}"
"""
ENVIRONMENT = {"ADYEN_API_KEY": "adyen_bench", "ADYEN_HMAC_KEY": ADYEN_KEY}

LEFT = "SELECT count(*) FROM webhook_inbox WHERE due_at IS NOT NULL"
RESULTS = "SELECT coalesce(result, 'not_looked_at'), count(*) FROM webhook_inbox GROUP BY 1"


@dataclass(frozen=True)
class Figures:
    """What one provider's webhooks cost. CPU is of the server and of the worker, microseconds a webhook."""

    webhooks: int
    cpu_us: float
    postgres_us: float
    per_second: float
    busy: float
    half_load: float
    p50_ms: float
    p99_ms: float
    bytes_each: int

    def __str__(self) -> str:
        return (
            f"{self.cpu_us:6.0f} us CPU  {self.per_second:6.0f}/s  core {self.busy:4.0%} busy  "
            f"half load {self.p50_ms:6.1f}/{self.p99_ms:6.1f} ms"
        )


def stripe_bodies(operations: list[tuple[str, str]], run: str) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Events without end, signed as they are asked for."""
    for number in itertools.count():
        operation, named = operations[number % len(operations)]
        form = f"amount=1999&currency=eur&metadata[operation]={operation}&expand[0]=latest_charge"
        intent = json.loads(payment_intent(number, form.encode())) | {"id": named}
        event = {
            "id": f"evt_{run}{number}",
            "object": "event",
            "type": "payment_intent.succeeded",
            "api_version": "2026-05-27.dahlia",
            "created": int(time.time()),
            "livemode": False,
            "data": {"object": intent},
        }
        body = json.dumps(event).encode()
        yield body, {"Stripe-Signature": stripe_signature(body, STRIPE_SECRET, int(time.time()))}


def adyen_bodies(operations: list[tuple[str, str]], run: str) -> Iterator[tuple[bytes, dict[str, str]]]:
    """The same of Adyen: one item each, as it sends them."""
    for number in itertools.count():
        operation, named = operations[number % len(operations)]
        item: dict[str, Any] = {
            "eventCode": "AUTHORISATION",
            "success": "true",
            "pspReference": named,
            "merchantReference": operation,
            "merchantAccountCode": MERCHANT_ACCOUNT,
            "amount": {"value": 1999, "currency": "EUR"},
            "eventDate": f"{run}{number}",  # it makes each another event; the gateway reads no time in it
            "paymentMethod": "visa",
            "reason": "123456:4242:12/2030",
        }
        item["additionalData"] = {
            "hmacSignature": adyen_signature(item, ADYEN_KEY),
            "authCode": "123456",
            "cardSummary": "4242",
            "expiryDate": "12/2030",
            "cardBin": "424242",
            "metadata.capture_method": "automatic",
            "networkTxReference": "104101001234567",
        }
        yield json.dumps({"live": "false", "notificationItems": [{"NotificationRequestItem": item}]}).encode(), {}


BODIES = {"stripe": stripe_bodies, "adyen": adyen_bodies}


def letters(path: Path, url: str, psp: str, operations: list[tuple[str, str]], count: int) -> int:
    """Write so many whole requests for `bench.load`, a length before each. Returns the size of a body."""
    run = os.urandom(5).hex()
    host = url.removeprefix("http://")
    bodies, size = BODIES[psp](operations, run), 0
    with path.open("wb") as file:
        for _ in range(count):
            body, headers = next(bodies)
            lines = [f"POST /v1/webhooks/{psp} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
            file.write(struct.pack(">I", len(request)) + request)
            size = len(body)
    return size


def told(database_url: str) -> int:
    """Wait until every event is applied. Returns how many are not."""
    deadline = time.monotonic() + SETTLE_S
    with psycopg.connect(database_url, autocommit=True) as connection:
        while True:
            (left,) = connection.execute(LEFT).fetchone() or (0,)
            if not left or time.monotonic() > deadline:
                return int(left)
            time.sleep(0.1)


def measure(
    on: Stage, url: str, pids: tuple[int, int], psp: str, database_url: str, seconds: float
) -> tuple[Figures, list[str]]:
    """CPU and throughput at saturation until all is applied, then the time to the acknowledgement at half load.

    That is half of what one core accepts and applies. More is accepted for a while, and the rest is applied behind it; half of that
    peak would be most of what can go on for ever.
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT id, provider_id FROM operation WHERE account = %s AND provider_id IS NOT NULL", [psp]
        ).fetchall()
        connection.execute("ANALYZE")
    faults = [] if len(rows) >= PAYMENTS else [f"only {len(rows)} payments to tell of"]
    path = on.directory / f"{psp}.letters"
    write = partial(letters, path, url, psp, rows)

    def spent() -> tuple[float, float]:
        return sum(map(cpu_s, pids)), cpu_s(on.postgres.pid)

    def send(*, connections: int, seconds: float, rate: float = 0.0) -> dict[str, Any]:
        options = ["--connections", connections, "--seconds", seconds, "--rate", rate, "--letters", path]
        result = load(url, "", *map(str, options))
        if result["refusal"] or result["unanswered"]:
            faults.append(f"answers {result['statuses']}, {result['unanswered']} missing; first: {result['refusal']}")
        return result

    write(int(EVENTS_PER_SECOND_MAX * seconds / 4))
    send(connections=CONNECTIONS, seconds=seconds / 4)  # warm-up
    told(database_url)
    size = write(int(EVENTS_PER_SECOND_MAX * seconds))
    before = spent()
    full = send(connections=CONNECTIONS, seconds=seconds)
    left = told(database_url)
    ours_s, postgres_s = (after - earlier for after, earlier in zip(spent(), before, strict=True))
    answered = max(1, full["answered"])
    rate = max(1.0, answered / ours_s / 2)
    write(int(rate * seconds * 2) + 100)
    calm = send(connections=CONNECTIONS, seconds=seconds, rate=rate)
    left += told(database_url)
    if left:
        faults.append(f"{left} events were not applied")
    figures = Figures(
        webhooks=full["answered"] + calm["answered"],
        cpu_us=ours_s / answered * 1e6,
        postgres_us=postgres_s / answered * 1e6,
        per_second=full["per_second"],
        busy=ours_s / full["seconds"],
        half_load=rate,
        p50_ms=calm["p50_ms"],
        p99_ms=calm["p99_ms"],
        bytes_each=size,
    )
    path.unlink()
    return figures, faults


@contextmanager
def working(on: Stage, program: list[str], env: dict[str, str]) -> Iterator[int]:
    """A `gateway worker` beside the server, off its core, until the block ends: its pid."""
    process = spawn(
        [*program, "worker"],
        log=on.directory / "hooks-worker.log",
        death_signal=signal.SIGKILL,
        env=environment(env),
        cwd=ROOT,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


def run(
    on: Stage, argv: list[str], env: dict[str, str], bodies: dict[str, str], database_url: str, seconds: float
) -> tuple[dict[str, Figures], list[str]]:
    """Both providers' webhooks against one server and one worker."""
    found: dict[str, Figures] = {}
    faults: list[str] = []
    config = Path(env["GATEWAY_CONFIG"])
    config.write_text(config.read_text() + ADYEN_TOML.format(psp=on.psp.url))
    env = env | ENVIRONMENT
    on.psp.set_delay(0)
    with (
        serving("hooks", argv, env, on.directory, own_core=True) as (pid, url),
        working(on, argv[:4], env) as worker,
    ):
        for psp in BODIES:
            options = ["--connections", "4", "--rate", "100", "--seconds", "3"]
            paid = load(f"{url}/v1/payments", bodies[psp], *options, "--header", "Authorization: Bearer sk_test_dev")
            if paid["refusal"]:
                faults.append(f"{psp}: a payment was answered {paid['refusal']}")
            found[psp], wrong = measure(on, url, (pid, worker), psp, database_url, seconds)
            faults += [f"{psp}: {each}" for each in wrong]
    with psycopg.connect(database_url, autocommit=True) as connection:
        results: dict[str, int] = dict(connection.execute(RESULTS).fetchall())
    if set(results) - {"no_news", "applied"}:
        faults.append(f"events became {results}")
    return found, faults
