"""`make bench`: what a payment costs in the gateway, against a floor and against no safety at all.

One run, one machine, one simulated PSP, a real Postgres that syncs every commit, a real Valkey.
Each repetition starts every variant afresh, in turn, so that a slow minute of the machine hits all
of them; of the repetitions the best counts, because others' noise only ever adds. With two cores
or more the server has core 0 for itself, and everything else shares the rest.

A run is worth nothing when an answer was not a success, or when the books do not show one payment
and one operation, none open, and one charge at the PSP for every success told. Then it says so and
exits 1.
"""

import argparse
import base64
import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from bench import hooks, strategies
from bench.cpu import cpu_s, others_cpu_s, resident_mb
from bench.report import Findings, Sample, print_tables, write_json
from bench.stage import ROOT, Stage, environment, load, serving, stage
from gateway.embedded import OWNER_ROLE

CONNECTIONS = 16
CONNECTIONS_SLOW_MIN, CONNECTIONS_SLOW_MAX = 64, 400
DELAYS_MS = (0, 100)

GATEWAY_BODY = (
    '{"amount": 1999, "currency": "EUR", "confirm": true, "capture_method": "automatic",'
    ' "payment_method_data": {"type": "token", "tokens": {"stripe": "pm_card_visa"}},'
    ' "reference": "order-1001", "description": "Two coffees", "metadata": {"cart": "77"}}'
)
ADYEN_BODY = (
    '{"amount": 1999, "currency": "EUR", "confirm": true, "capture_method": "automatic", "routing": {"account": "adyen"},'
    ' "payment_method_data": {"type": "card", "card": {"number": "4111111111111111", "exp_month": 3, "exp_year": 2030,'
    ' "cvc": "737"}}, "reference": "order-1001"}'
)
ACCOUNTS = ["stripe", "stripe_2", "stripe_3", "stripe_4"]
LIST = {"default": {"priority": ACCOUNTS}}
ADAPTIVE = {"default": {"strategy": "adaptive", "accounts": ACCOUNTS, "settings": {"segment_by": ["amount"]}}}
KINDS = 200  # of payments to route: segments for a strategy, which are told apart by the amount here
ROUTED_BODY = GATEWAY_BODY.replace('{"stripe": "pm_card_visa"}', json.dumps(dict.fromkeys(ACCOUNTS, "pm_card_visa")))
PLAIN_BODY = '{"amount": 1999, "currency": "EUR", "payment_method": "pm_card_visa", "reference": "order-1001"}'
PSP_FORM = "amount=1999&currency=eur&payment_method=pm_card_visa&expand[0]=latest_charge"

# payments, operations, and what is still open: the same question to the gateway and the floor.
BOOKS = """
select (select count(*) from payment), (select count(*) from operation),
       (select count(*) from payment where status <> 'succeeded') + (select count(*) from operation
        where status in ('created', 'sent', 'requires_action', 'pending', 'unknown'))
"""
PUBLISH = """
WITH version AS (INSERT INTO routing_version
    (id, merchant_id, livemode, number, name, document, hash, created_at, created_by)
    VALUES ('rt_' || %(id)s::text, 'mer_dev', false, %(number)s, 'bench', %(document)s::jsonb, '', now(), 'bench') RETURNING id)
INSERT INTO routing_publication (id, merchant_id, livemode, sequence, kind, version_id, percent, shadow,
    starts_at, reason, published_at, published_by)
SELECT 'rp_' || %(id)s::text, 'mer_dev', false, %(number)s::int, 'publish', id, 100, %(shadow)s::bool, now(), 'bench', now(), 'bench' FROM version
"""
GATEWAY_TOML = """
[accounts.{account}]
merchant = "mer_dev"
provider = "stripe"
api_key_env = "STRIPE_API_KEY"
webhook_secret_env = "STRIPE_WEBHOOK_SECRET"
base_url = "{psp}"
currencies = ["EUR", "USD"]
"""


@dataclass(frozen=True)
class Variant:
    """One of the three programs: how to start it, how to pay, where its books are."""

    name: str
    argv: list[str]
    env: dict[str, str]
    path: str
    body: str
    headers: tuple[str, ...] = ()
    kinds: int = 1
    database_url: str | None = None  # none: it keeps no books
    schema: str = "public"


@dataclass
class Ledger:
    """What a variant told its merchants, and what went wrong meanwhile."""

    succeeded: int = 0
    charges: int = 0
    faults: list[str] = field(default_factory=list)


def gateway(on: Stage) -> Variant:
    """The gateway as in production: `gateway migrate`, then one worker of `gateway serve`."""
    return _gateway(on, "gateway", on.postgres.app_url, on.postgres.owner_url, ["stripe"], GATEWAY_BODY)


def traced(on: Stage) -> Variant:
    """The same with every charge told to a collector, which is the PSP's process, off the server's core."""
    url = on.postgres.create_database("bench_traced")
    owner = on.postgres.url("bench_traced", role=OWNER_ROLE)
    variant = _gateway(on, "traced", url, owner, ["stripe"], GATEWAY_BODY)
    return replace(variant, env=variant.env | {"OTEL_EXPORTER_OTLP_ENDPOINT": on.psp.url})


def unmetered(on: Stage) -> Variant:
    """The same with instruments that count nothing (`bench.unmetered`)."""
    url = on.postgres.create_database("bench_unmetered")
    variant = _gateway(
        on, "unmetered", url, on.postgres.url("bench_unmetered", role=OWNER_ROLE), ["stripe"], GATEWAY_BODY
    )
    return replace(variant, argv=[each.replace("gateway.cli", "bench.unmetered") for each in variant.argv])


def routed(on: Stage, name: str, document: dict[str, Any], shadow: dict[str, Any] | None = None) -> Variant:
    """The same with four accounts that can all take the payment, a routing document that chooses among them, and one that watches."""
    database = f"bench_{name}"
    url = on.postgres.create_database(database)
    owner = on.postgres.url(database, role=OWNER_ROLE)
    variant = _gateway(on, name, url, owner, ACCOUNTS, ROUTED_BODY)
    with psycopg.connect(owner, autocommit=True) as connection:
        for number, each in enumerate((document, shadow), 1):
            if each is not None:
                told = {
                    "id": f"bench_{number}",
                    "number": number,
                    "document": json.dumps(each),
                    "shadow": each is shadow,
                }
                connection.execute(PUBLISH, told)
    return replace(variant, kinds=KINDS)


def _gateway(on: Stage, name: str, url: str, owner_url: str, accounts: list[str], body: str) -> Variant:
    config = on.directory / f"{name}.toml"
    config.write_text("".join(GATEWAY_TOML.format(account=account, psp=on.psp.url) for account in accounts))
    env = {
        "GATEWAY_DATABASE_URL": url,
        "GATEWAY_MIGRATE_DATABASE_URL": owner_url,
        "GATEWAY_REDIS_URL": on.valkey.url,
        "GATEWAY_CONFIG": str(config),
        "GATEWAY_SECRET_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "GATEWAY_VAULT_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "GATEWAY_DEV": "1",  # makes the merchant mer_dev and its key
        "STRIPE_API_KEY": "sk_test_bench",
        "STRIPE_WEBHOOK_SECRET": "whsec_bench",
    }
    program = [sys.executable, "-P", "-m", "gateway.cli"]
    migrate = [*program, "migrate"]
    subprocess.run(migrate, env=environment(env), cwd=ROOT, stdout=sys.stderr, check=True)
    return Variant(
        name=name,
        argv=[*program, "serve", "--workers", "1"],
        env=env,
        path="/v1/payments",
        headers=("Authorization: Bearer sk_test_dev",),
        body=body,
        database_url=owner_url,
    )


def floor(on: Stage) -> Variant:
    """The same durable work and the same call in as little code as possible (`bench.floor`)."""
    on.postgres.create_database("bench_floor")
    url = on.postgres.url("bench_floor", role=OWNER_ROLE)
    return Variant(
        name="floor",
        argv=[sys.executable, "-m", "bench.floor"],
        env={
            "FLOOR_DATABASE_URL": url,
            "FLOOR_REDIS_URL": on.valkey.url,
            "FLOOR_PSP_URL": on.psp.url,
        },
        path="/v1/payments",
        body=GATEWAY_BODY,
        database_url=url,
        schema="floor",
    )


def plain(on: Stage) -> Variant:
    """FastAPI and the official SDK, no record, no safety (`bench.plain`)."""
    return Variant(
        name="plain",
        argv=[sys.executable, "-m", "bench.plain"],
        env={"STRIPE_API_BASE": on.psp.url},
        path="/payments",
        body=PLAIN_BODY,
    )


VARIANTS: dict[str, Callable[[Stage], Variant]] = {
    "gateway": gateway,
    "traced": traced,
    "unmetered": unmetered,
    "floor": floor,
    "plain": plain,
    "priority": partial(routed, name="priority", document=LIST),
    "adaptive": partial(routed, name="adaptive", document=ADAPTIVE),
    "shadow_list": partial(routed, name="shadow_list", document=LIST, shadow={"default": {"priority": ACCOUNTS[::-1]}}),
    "shadow": partial(routed, name="shadow", document=LIST, shadow=ADAPTIVE),
}


def measure(on: Stage, variant: Variant, ledger: Ledger, seconds: float) -> list[Sample]:
    """Start the variant and take one sample for each delay of the PSP."""
    charges_before = on.psp.set_delay(0)
    samples: list[Sample] = []
    with serving(variant.name, variant.argv, variant.env, on.directory, own_core=True) as server:
        pid, url = server
        connections = CONNECTIONS
        pay(variant, url, ledger, connections=connections, seconds=seconds / 4)  # warm-up
        analyze(variant)
        for delay_ms in DELAYS_MS:
            on.psp.set_delay(delay_ms)
            if delay_ms:
                # CPU per payment compares at saturation only (an idle loop spends more on each
                # payment), so there are as many merchants as keep the server as busy as before.
                wanted = CONNECTIONS + int(samples[-1].per_second * delay_ms / 1000)
                connections = min(max(wanted, CONNECTIONS_SLOW_MIN), CONNECTIONS_SLOW_MAX)
                pay(variant, url, ledger, connections=connections, seconds=seconds / 4)
            pay_at = partial(pay, variant, url, ledger, connections=connections, seconds=seconds)
            sample = take_sample(on, delay_ms, pid, pay_at)
            samples.append(sample)
            say(f"{variant.name:8} {sample}")
    ledger.charges += on.psp.set_delay(0) - charges_before
    return samples


def take_sample(on: Stage, delay_ms: int, pid: int, pay_at: Callable[..., dict[str, Any]]) -> Sample:
    """CPU and throughput at saturation, then latencies at half of that throughput."""

    def spent() -> tuple[float, float, float]:
        return cpu_s(pid), cpu_s(on.postgres.pid), others_cpu_s(on.processes())

    before = spent()
    full = pay_at()
    server_s, postgres_s, others_s = (after - earlier for after, earlier in zip(spent(), before, strict=True))
    calm = pay_at(rate=max(1.0, full["per_second"] / 2))
    answered = max(1, full["answered"])
    return Sample(
        delay_ms=delay_ms,
        connections=full["connections"],
        cpu_us=server_s / answered * 1e6,
        postgres_us=postgres_s / answered * 1e6,
        per_second=full["per_second"],
        busy=server_s / full["seconds"],
        p50_ms=calm["p50_ms"],
        p99_ms=calm["p99_ms"],
        resident_mb=resident_mb(pid),
        others=others_s / full["seconds"],
    )


def pay(
    variant: Variant,
    url: str,
    ledger: Ledger,
    *,
    connections: int,
    seconds: float,
    rate: float = 0.0,
) -> dict[str, Any]:
    """Run the load generator once and enter what it was told into the ledger."""
    options = ["--connections", connections, "--seconds", seconds, "--rate", rate, "--kinds", variant.kinds]
    for line in variant.headers:
        options += ["--header", line]
    result = load(url + variant.path, variant.body, *map(str, options))
    ledger.succeeded += result["succeeded"]
    if result["refusal"]:
        ledger.faults.append(f"answers {result['statuses']}; the first: {result['refusal']}")
    if result["unanswered"]:
        ledger.faults.append(f"{result['unanswered']} payments were never answered")
    return result


def analyze(variant: Variant) -> None:
    """Let Postgres see that the tables are no longer empty.

    Plans made on empty, never analysed tables cost it several times as much, until autovacuum's
    first round a minute later: past the end of a short run.
    """
    if variant.database_url is not None:
        with psycopg.connect(variant.database_url, autocommit=True) as connection:
            connection.execute("analyze")


def audit(variant: Variant, ledger: Ledger) -> list[str]:
    """What makes a variant's figures worthless: bad answers, or books that tell another story."""
    counts = {"charges at the PSP": ledger.charges}
    still_open = 0
    if variant.database_url is not None:
        options = f"-c search_path={variant.schema}"
        with psycopg.connect(variant.database_url, options=options) as connection:
            row = connection.execute(BOOKS).fetchone()
        assert row is not None
        counts["payments"], counts["operations"], still_open = row
    wrong = [
        f"{count} {what} for {ledger.succeeded} successes told"
        for what, count in counts.items()
        if count != ledger.succeeded
    ]
    if still_open:
        wrong.append(f"{still_open} payments or operations left open")
    return ledger.faults + wrong


def psp_latency_ms(on: Stage, delay_ms: int) -> float:
    """The PSP's own median latency, asked directly: what no variant is to blame for."""
    on.psp.set_delay(delay_ms)
    form = "Content-Type: application/x-www-form-urlencoded"
    options = ["--header", form, "--rate", "200", "--seconds", "1"]
    return float(load(f"{on.psp.url}/v1/payment_intents", PSP_FORM, *options)["p50_ms"])


def run(on: Stage, names: list[str], seconds: float, repetitions: int) -> Findings:
    """Measure the named variants in turn, `repetitions` times, and audit their books."""
    findings = Findings(seconds, {ms: psp_latency_ms(on, ms) for ms in DELAYS_MS})
    variants = [VARIANTS[name](on) for name in names if name in VARIANTS]
    ledgers = {variant.name: Ledger() for variant in variants}
    for repetition in range(repetitions):
        say(f"repetition {repetition + 1} of {repetitions}")
        for variant in variants:
            samples = measure(on, variant, ledgers[variant.name], seconds)
            findings.samples.setdefault(variant.name, []).extend(samples)
    for variant in variants:
        findings.payments[variant.name] = ledgers[variant.name].succeeded
        findings.faults[variant.name] = audit(variant, ledgers[variant.name])
    return findings


def webhooks(on: Stage, findings: Findings, seconds: float) -> None:
    """Measure what a webhook costs, against a gateway of its own on a database of its own."""
    variant = gateway(on)
    assert variant.database_url is not None
    bodies = {"stripe": GATEWAY_BODY, "adyen": ADYEN_BODY}
    findings.webhooks, findings.faults["webhooks"] = hooks.run(
        on, variant.argv, variant.env, bodies, variant.database_url, seconds
    )
    for name, figures in findings.webhooks.items():
        say(f"{name:8} {figures}")


def say(line: str) -> None:
    """Progress, apart from the tables on stdout."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="What a payment costs.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one repetition of 2 s, for a look")
    parts = [*VARIANTS, "webhooks", "strategies"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    seconds, repetitions = options.seconds, options.repetitions
    if options.quick:
        seconds, repetitions = 2.0, 1
    if "strategies" in options.only:  # in-process: it needs nothing of the stage
        strategies.print_table()
        if options.only == ["strategies"]:
            return 0
    with (
        tempfile.TemporaryDirectory(prefix="interlock-bench-") as directory,
        stage(Path(directory)) as on,
    ):
        findings = run(on, options.only, seconds, repetitions)
        if "webhooks" in options.only:
            webhooks(on, findings, seconds)
    print_tables(findings)
    if options.json:
        write_json(findings, options.json)
    return 0 if findings.valid() else 1


if __name__ == "__main__":
    sys.exit(main())
