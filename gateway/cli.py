"""The command line: ``gateway dev | serve | worker | migrate | sandbox | verify | top | listen | replay | routing | rates | merchants | keys | users | vault``."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from providers.registry import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI

app = typer.Typer(
    help="Interlock: one payments API in front of Stripe and Adyen.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
merchants = typer.Typer(help="Merchants: who owns payments, accounts and keys.", no_args_is_help=True)
keys = typer.Typer(help="API keys of a merchant.", no_args_is_help=True)
app.add_typer(merchants, name="merchants")
app.add_typer(keys, name="keys")
users = typer.Typer(help="Users of the web console.", no_args_is_help=True)
app.add_typer(users, name="users")
vault = typer.Typer(help="The vault: which key seals its cards, and rotating it.", no_args_is_help=True)
app.add_typer(vault, name="vault")
replay = typer.Typer(help="Say again what was said: by providers to us, or by us to merchants.", no_args_is_help=True)
app.add_typer(replay, name="replay")

routing = typer.Typer(
    help="Routing documents: what is wrong with one, what it would have done, putting it in force; and what strategies and shadows come to.",
    no_args_is_help=True,
)
app.add_typer(routing, name="routing")
rates = typer.Typer(help="What is counted for the rates.", no_args_is_help=True)
app.add_typer(rates, name="rates")

Port = Annotated[
    int,
    typer.Option(
        min=1, max=65532, help="The gateway's port; the sandboxes and the worker's metrics take the next three."
    ),
]


@contextmanager
def _plainly() -> Iterator[None]:
    """A configuration error is a sentence on stderr and exit code 2, not a traceback."""
    try:
        yield
    except ConfigError as error:
        typer.echo(f"gateway: {error}", err=True)
        raise typer.Exit(2) from None


def application() -> FastAPI:
    """The API of one `gateway serve` process, whose log goes to its stderr."""
    from gateway import logs
    from gateway.app import create_app

    logs.to_stderr()
    return create_app(loaded=_keep_what_is_loaded)


def _keep_what_is_loaded() -> None:
    """A full collection walks everything the SDKs have loaded, 54 ms; what is loaded by now stays loaded.

    For the whole process, and so only where the application is all of it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


@app.command()
def dev(
    port: Port = 8080,
    data: Annotated[Path, typer.Option(help="Where its data lives, kept between runs.")] = Path(".gateway"),
    traffic: Annotated[float, typer.Option(min=0, help="Mixed payments a second, to watch it live.")] = 0,
    history: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Payments of the last 30 days that --traffic begins with, once.")
    ] = 20_000,
) -> None:
    """Run everything on this machine: database, gateway, worker and sandbox PSPs, with a demo merchant."""
    from gateway.dev import run

    run(port, data, traffic, history)


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=64, help="API processes; one a core is a good start.")] = 1,
) -> None:
    """Serve the API against GATEWAY_DATABASE_URL and GATEWAY_REDIS_URL."""
    import uvicorn

    from gateway import logs
    from gateway.app import preflight
    from gateway.metrics import exposition
    from gateway.settings import load_settings

    logs.to_stderr()
    with _plainly():
        settings = load_settings()
        asyncio.run(preflight(settings))
    with exposition.shared() if workers > 1 else nullcontext():
        uvicorn.run(
            "gateway.cli:application",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            loop="uvloop",
            http="httptools",
            access_log=False,
            proxy_headers=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            # A process that does not answer its parent in time is killed. On a machine that is overloaded it is only slow.
            timeout_worker_healthcheck=30,
            timeout_graceful_shutdown=2 if settings.dev else 30,
        )


@app.command()
def worker() -> None:
    """Settle what is open, apply what was received, wipe what has served: the work outside requests."""
    from gateway import logs
    from gateway.settings import load_settings
    from gateway.worker import run_worker

    logs.to_stderr()
    with _plainly():
        asyncio.run(run_worker(load_settings()))


@app.command()
def migrate() -> None:
    """Bring the database to the schema of this version, as the role in GATEWAY_MIGRATE_DATABASE_URL."""
    from gateway.migrate import migrate as upgrade
    from gateway.settings import load_settings

    with _plainly():
        typer.echo(f"database is at revision {upgrade(load_settings())}")


@app.command()
def sandbox(
    stripe_port: Annotated[int, typer.Option(min=1, max=65535)] = 8081,
    adyen_port: Annotated[int, typer.Option(min=1, max=65535)] = 8082,
    neutral_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Also run a third, of a PSP that does not exist.")
    ] = None,
) -> None:
    """Run the simulated PSPs alone. Webhooks go where GATEWAY_SANDBOX_STRIPE_WEBHOOK_URL, …_ADYEN_… and …_NEUTRAL_… say."""
    from providers.sandbox import SandboxConfig, run

    given = {
        "stripe_api_key": os.environ.get("STRIPE_API_KEY"),
        "stripe_webhook_url": os.environ.get("GATEWAY_SANDBOX_STRIPE_WEBHOOK_URL"),
        "stripe_webhook_secret": os.environ.get("STRIPE_WEBHOOK_SECRET"),
        "adyen_api_key": os.environ.get("ADYEN_API_KEY"),
        "adyen_merchant_account": os.environ.get("ADYEN_MERCHANT_ACCOUNT"),
        "adyen_webhook_url": os.environ.get("GATEWAY_SANDBOX_ADYEN_WEBHOOK_URL"),
        "adyen_hmac_key": os.environ.get("ADYEN_HMAC_KEY"),
        "neutral_token": os.environ.get("NEUTRAL_API_KEY"),
        "neutral_webhook_url": os.environ.get("GATEWAY_SANDBOX_NEUTRAL_WEBHOOK_URL"),
        "neutral_webhook_secret": os.environ.get("NEUTRAL_WEBHOOK_SECRET"),
    }
    chosen = {name: value for name, value in given.items() if value}
    ports = {"stripe_port": stripe_port, "adyen_port": adyen_port, "neutral_port": neutral_port}
    run(SandboxConfig(**ports, **chosen))  # type: ignore[arg-type]  # the ports are numbers, the rest is text


@app.command()
def verify(
    books: Annotated[
        list[str] | None,
        typer.Option(
            help="A sandbox's address, or a file with an entry a line. Else: the sandboxes among the accounts."
        ),
    ] = None,
    *,
    account: Annotated[
        list[str] | None,
        typer.Option(help="Whose books they are, where they do not say it. May be given several times."),
    ] = None,
    books_as_of: Annotated[
        str | None, typer.Option(help="When the files were taken, if not when they were written: 2h or a time.")
    ] = None,
    at_rest: Annotated[bool, typer.Option("--at-rest", help="Nothing is at work: nothing may be open either.")] = False,
    grace: Annotated[float, typer.Option(min=0, help="Seconds in which books and database may differ.")] = 120,
    since: Annotated[str | None, typer.Option(help="Only payments since then: 90m, 24h, 7d or a date.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Violations to print; all are counted.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for a program.")] = False,
) -> None:
    """Check every promise about payments, reading only, while charges go on. Exit code 1 where one is broken."""
    from gateway.verify import Wanted, run

    wanted = Wanted(tuple(books or ()), at_rest, grace, since, as_json, limit, tuple(account or ()), books_as_of)
    with _plainly():
        code = run(wanted, typer.echo, lambda text: typer.echo(text, err=True))
    raise typer.Exit(code)


@app.command()
def top(
    *,
    merchant: Annotated[str | None, typer.Option(help="Only this merchant's accounts.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Only live payments, not those of test mode.")] = False,
    interval: Annotated[float, typer.Option(min=0.5, max=3600, help="Seconds between two looks.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look once. Exit code 1 where the database cannot be read.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a look, for a program.")] = False,
) -> None:
    """Show how it goes: rates, breakers, unknown outcomes, what waits, the worker. Reads the database alone. Ctrl-C ends it."""
    from gateway import logs
    from gateway.top import Wanted, run

    logs.to_stderr()
    with _plainly():
        code = run(Wanted(merchant, live, interval, once, as_json), lambda text: typer.echo(text, err=True))
    raise typer.Exit(code)


@app.command()
def listen(
    url: Annotated[str, typer.Option(help="The gateway.")] = "http://127.0.0.1:8080",
    key: Annotated[
        str, typer.Option(envvar="GATEWAY_API_KEY", help="A secret key; that of `gateway dev` if none.")
    ] = "sk_test_dev",
    forward_to: Annotated[str | None, typer.Option(help="A program of yours that events are sent to, signed.")] = None,
    events: Annotated[
        list[str] | None, typer.Option(help="Types, or families such as payment.*; several times.")
    ] = None,
) -> None:
    """Print events as they come, and forward them to a program on this machine. Ctrl-C ends it."""
    from gateway.listen import listen as until_stopped
    from gateway.listen import wanted_of

    with _plainly():
        asyncio.run(until_stopped(wanted_of(url, key, forward_to, events or ()), typer.echo))


@replay.command("events")
def replay_events(
    *,
    endpoint: Annotated[str, typer.Option(help="The endpoint's id, we_…")],
    since: Annotated[str, typer.Option(help="From then on: 90m, 24h, 7d ago, or a time.")],
    until: Annotated[str | None, typer.Option(help="Up to then; now if not given.")] = None,
    type_: Annotated[list[str] | None, typer.Option("--type", help="Types or families; several times.")] = None,
    failed: Annotated[bool, typer.Option("--failed/--all", help="What it has not got, or also what it has.")] = True,
    apply: Annotated[bool, typer.Option("--apply/--dry-run", help="Send them, or only say how many.")] = False,
) -> None:
    """Send an endpoint the events of a time again, as POST /v1/webhook_endpoints/{id}/replay does."""
    from gateway.admin import replay_events as again

    with _plainly():
        typer.echo(asyncio.run(again(endpoint, since, until, type_, everything=not failed, dry_run=not apply)))


@merchants.command("create")
def create_merchant(
    merchant_id: Annotated[str, typer.Argument(help="mer_ and a word, as in the accounts file.")],
    name: Annotated[str, typer.Option(help="What people call it.")] = "",
) -> None:
    """Create a merchant. Creating it again changes nothing."""
    from gateway.admin import create_merchant as create

    with _plainly():
        typer.echo(asyncio.run(create(merchant_id, name or merchant_id)))


@keys.command("create")
def create_key(
    merchant_id: Annotated[str, typer.Argument()],
    *,
    kind: Annotated[Literal["secret", "publishable"], typer.Option()] = "secret",
    live: Annotated[bool, typer.Option("--live", help="A key for live accounts.")] = False,
) -> None:
    """Create an API key. It is shown once and stored only as a hash."""
    from gateway.admin import create_key as create

    with _plainly():
        typer.echo(asyncio.run(create(merchant_id, kind, livemode=live)))


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="The id from `gateway keys list`.")]) -> None:
    """Revoke an API key: it is refused everywhere within five seconds."""
    from gateway.admin import revoke_key as revoke

    with _plainly():
        typer.echo(asyncio.run(revoke(key_id)))


@keys.command("list")
def list_keys(merchant_id: Annotated[str, typer.Argument()]) -> None:
    """List a merchant's API keys, never their secrets."""
    from gateway.admin import list_keys as listed

    with _plainly():
        for line in asyncio.run(listed(merchant_id)):
            typer.echo(line)


Email = Annotated[str, typer.Argument(help="The user's email.")]
Generate = Annotated[
    bool, typer.Option("--generate", help="Make a password and show it once, instead of asking for one.")
]


def _password(*, generate: bool) -> str | None:
    return None if generate else typer.prompt("Password", hide_input=True, confirmation_prompt=True)


@users.command("create")
def create_user(
    email: Email,
    merchant: Annotated[str, typer.Option(help="Whose payments the user may look at.")],
    *,
    generate: Generate = False,
) -> None:
    """Create a user of the console. The password has 12 characters or more and is stored only as an Argon2id hash."""
    from gateway.console.commands import create

    with _plainly():
        for line in asyncio.run(create(email, merchant, _password(generate=generate))):
            typer.echo(line)


@users.command("list")
def list_users() -> None:
    """List the users of the console."""
    from gateway.console.commands import listed

    with _plainly():
        for line in asyncio.run(listed()):
            typer.echo(line)


@users.command("reset")
def reset_user(email: Email, *, generate: Generate = False) -> None:
    """Give a user a new password and sign them out everywhere. Lets a disabled user in again."""
    from gateway.console.commands import reset

    with _plainly():
        for line in asyncio.run(reset(email, _password(generate=generate))):
            typer.echo(line)


@users.command("disable")
def disable_user(email: Email) -> None:
    """Let a user in no more, and sign them out everywhere, at once."""
    from gateway.console.commands import disable

    with _plainly():
        typer.echo(asyncio.run(disable(email)))


@users.command("link")
def link_user(email: Email) -> None:
    """Print an address that signs a user in once, within 15 minutes. Only for development (GATEWAY_DEV=1)."""
    from gateway.console.commands import link

    with _plainly():
        for line in asyncio.run(link(email)):
            typer.echo(line)


@routing.command("simulate")
def simulate_routing(
    file: Annotated[Path, typer.Argument(help="A routing document, in JSON. It is stored nowhere.")],
    *,
    merchant: Annotated[str, typer.Option(help="Whose payments.")],
    days: Annotated[int, typer.Option(min=1, max=400, help="The payments of so many days until now.")] = 30,
    live: Annotated[bool, typer.Option("--live", help="Live payments, not those of test mode.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for a program.")] = False,
) -> None:
    """Replay a routing document over a merchant's payments: what it would have decided, approved and cost. It only reads."""
    from gateway.hindsight import Asked, look_back

    with _plainly():
        look_back(Asked(file, merchant, days, live, as_json), typer.echo)


@vault.command("status")
def vault_status() -> None:
    """Count the sealed cards by the key that has sealed them. Exit code 1 while an older key is needed."""
    from gateway.rotation import status

    with _plainly():
        all_new = asyncio.run(status(typer.echo))
    raise typer.Exit(0 if all_new else 1)


@vault.command("rotate")
def vault_rotate() -> None:
    """Wrap every sealed card anew under the first of the keys in GATEWAY_VAULT_KEY, while charges go on.

    May be cut off and run again. Exit code 1 where a record is left that an older key has sealed.
    """
    from gateway.rotation import rotate

    with _plainly():
        all_new = asyncio.run(rotate(typer.echo))
    raise typer.Exit(0 if all_new else 1)


@replay.command("inbound")
def replay_inbound(
    account: Annotated[list[str], typer.Option(help="Events of this account. May be given several times.")],
    since: Annotated[str, typer.Option(help="Events received since then: 90m, 24h, 7d or a date.")],
    *,
    until: Annotated[str | None, typer.Option(help="Events received before then.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only this type, in the provider's word.")] = None,
    result: Annotated[str | None, typer.Option(help="Only events with this result, such as failed.")] = None,
    status: Annotated[str | None, typer.Option(help="Only these: applied, waiting, kept or failed.")] = None,
    apply: Annotated[bool, typer.Option("--apply/--dry-run", help="Do it, or only say what would be done.")] = False,
) -> None:
    """Make events that providers have sent due again: the worker applies them. What is known already changes nothing."""
    from gateway.admin import replay_inbound as replayed

    with _plainly():
        filters = {"until": until, "type": type_, "result": result, "status": status}
        asyncio.run(replayed(account, since, filters, typer.echo, dry_run=not apply))


@routing.command("lint")
def lint_routing(
    file: Annotated[Path, typer.Argument(help="A routing document, JSON in UTF-8.")],
    *,
    account: Annotated[
        list[str] | None,
        typer.Option(help="An account that there is; several times. None: accounts are not looked at."),
    ] = None,
) -> None:
    """Say what is wrong with a routing document, each with its JSON pointer and its fix. Needs no gateway. Exit code 1 for an error."""
    from gateway.draft_file import bytes_in
    from routing.lint import ERROR, AccountFacts, lint

    with _plainly():
        document = bytes_in(file)
    found = lint(document, {name: AccountFacts() for name in account} if account else None)
    for each in found:
        typer.echo(f"{each.level} {each.pointer or '/'} {each.message} {each.fix}")
    errors = sum(each.level == ERROR for each in found)
    typer.echo(f"{errors} errors, {len(found) - errors} warnings and hints", err=True)
    raise typer.Exit(1 if errors else 0)


@routing.command("publish")
def publish_routing(
    file: Annotated[Path, typer.Argument(help="A routing document, in JSON. It becomes a new version.")],
    *,
    reason: Annotated[str, typer.Option(help="Why, in your words: it stays in the history.")],
    percent: Annotated[int, typer.Option(min=1, max=100, help="The share of the payments that it decides.")] = 100,
    at: Annotated[
        str | None, typer.Option(help="From then on: a time such as 2026-11-27T06:00:00Z. Else at once.")
    ] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Only record what it would decide.")] = False,
    name: Annotated[str | None, typer.Option(help="Of the version. Else the document's own, or its number.")] = None,
    note: Annotated[str | None, typer.Option(help="What the version is for, in your words.")] = None,
    expected: Annotated[
        str | None,
        typer.Option(
            help="The version that you have seen in force for all payments, or none; refused where it is another."
        ),
    ] = None,
    url: Annotated[str, typer.Option(help="The gateway.")] = "http://127.0.0.1:8080",
    key: Annotated[
        str, typer.Option(envvar="GATEWAY_API_KEY", help="A secret key; that of `gateway dev` if none.")
    ] = "sk_test_dev",
) -> None:
    """Make a version of a routing document and put it in force, at a running gateway, as the owner of an API key."""
    from gateway.publisher import Asked, publish
    from gateway.remote import remote_of

    asked = Asked(file, reason, percent, at, shadow, name, note, expected)
    with _plainly():
        asyncio.run(publish(asked, remote_of(url, key), typer.echo))


@routing.command("uplift")
def routing_uplift(
    *,
    merchant: Annotated[str, typer.Option(help="Whose payments.")],
    live: Annotated[bool, typer.Option("--live", help="Of live payments.")] = False,
) -> None:
    """Say of each version that strategies decide by what it earns beside its holdout, newest first."""
    from gateway.admin import uplifts

    with _plainly():
        for line in asyncio.run(uplifts(merchant, livemode=live)):
            typer.echo(line)


@routing.command("shadow")
def routing_shadow(
    *,
    merchant: Annotated[str, typer.Option(help="Whose payments.")],
    live: Annotated[bool, typer.Option("--live", help="Of live payments.")] = False,
) -> None:
    """Say of each version that has watched from the shadow what it would have approved, newest first."""
    from gateway.admin import shadows

    with _plainly():
        for line in asyncio.run(shadows(merchant, livemode=live)):
            typer.echo(line)


@rates.command("rebuild")
def rates_rebuild(
    *,
    window_minutes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1440,
            help="How long after a try another one belongs to the same group. It stays as it is without.",
        ),
    ] = None,
) -> None:
    """Count all payments for the rates again. Until it is done, the rates are of a part of them, and say so."""
    from gateway.admin import count_rates
    from gateway.migrate import forget_rates
    from gateway.settings import load_settings

    with _plainly():
        forget_rates(load_settings(), None if window_minutes is None else window_minutes * 60)
        asyncio.run(count_rates(typer.echo))


if __name__ == "__main__":
    app()
