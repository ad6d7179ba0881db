"""The command line: what it offers, and that a wrong configuration is a sentence and not a traceback."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from typing import Final

import pytest
from typer.testing import CliRunner

from gateway.cli import app

NOBODY: Final = "127.0.0.1:1"
"""Where nobody listens."""
ENVIRONMENT: Final = {
    "GATEWAY_DATABASE_URL": f"postgresql://app:hunter2@{NOBODY}/interlock",
    "GATEWAY_MIGRATE_DATABASE_URL": f"postgresql://owner:hunter2@{NOBODY}/interlock",
    "GATEWAY_REDIS_URL": f"redis://{NOBODY}/0",
    "GATEWAY_SECRET_KEY": base64.b64encode(b"k" * 32).decode(),
}
OFFERS: Final[dict[str, tuple[str, ...]]] = {
    "": (
        "dev",
        "serve",
        "worker",
        "migrate",
        "sandbox",
        "verify",
        "listen",
        "replay",
        "routing",
        "merchants",
        "keys",
        "users",
        "vault",
    ),
    "dev": ("--port", "--data", "--traffic", "--history"),
    "serve": ("--port", "--host", "--workers", "GATEWAY_DATABASE_URL", "GATEWAY_REDIS_URL"),
    "worker": ("--help",),
    "migrate": ("GATEWAY_MIGRATE_DATABASE_URL",),
    "sandbox": ("--stripe-port", "--adyen-port", "--neutral-port"),
    "top": ("--merchant", "--live", "--interval", "--once", "--json"),
    "verify": ("--books", "--account", "--books-as-of", "--at-rest", "--grace", "--since", "--limit", "--json"),
    "merchants": ("create",),
    "merchants create": ("merchant_id", "--name"),
    "keys": ("create", "revoke", "list"),
    "keys create": ("merchant_id", "--kind", "--live"),
    "keys revoke": ("key_id",),
    "keys list": ("merchant_id",),
    "users": ("create", "list", "reset", "disable", "link"),
    "users create": ("email", "--merchant", "--generate", "Argon2id"),
    "users list": ("console",),
    "users reset": ("email", "--generate"),
    "users disable": ("email",),
    "users link": ("email", "GATEWAY_DEV=1"),
    "listen": ("--url", "--key", "--forward-to", "--events", "GATEWAY_API_KEY"),
    "replay": ("events", "inbound"),
    "replay events": ("--endpoint", "--since", "--until", "--type", "--failed", "--apply", "--dry-run"),
    "replay inbound": ("--account", "--since", "--until", "--type", "--result", "--status", "--apply", "--dry-run"),
    "routing": ("lint", "publish", "simulate", "uplift", "shadow"),
    "routing lint": ("file",),
    "routing publish": (
        *(
            "file",
            "--reason",
            "--percent",
            "--at",
            "--shadow",
            "--name",
            "--note",
            "--expected",
            "--url",
            "--key",
            "GATEWAY_API_KEY",
        ),
    ),
    "routing simulate": ("file", "--merchant", "--days", "--live", "--json"),
    "routing uplift": ("--merchant", "--live"),
    "routing shadow": ("--merchant", "--live"),
    "rates": ("rebuild",),
    "rates rebuild": ("--window-minutes",),
    "vault": ("rotate", "status"),
    "vault rotate": ("GATEWAY_VAULT_KEY",),
    "vault status": ("key",),
}


def run(words: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """`gateway words`, as a process of its own, with nothing of our own environment's GATEWAY_ variables."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    told = ENVIRONMENT | environment
    env = ours | {name: value for name, value in told.items() if value is not None} | {"PYTHONSAFEPATH": "1"}
    argv = [sys.executable, "-m", "gateway.cli", *words.split()]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", OFFERS)
def test_every_command_explains_itself(words: str) -> None:
    result = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "200", "TERM": "dumb"})

    assert result.exit_code == 0
    assert [offer for offer in OFFERS[words] if offer not in result.output] == []


def test_every_command_is_in_the_table_above() -> None:
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    nested = {
        f"{name} {command.name}" for name, group in groups.items() if group for command in group.registered_commands
    }

    assert {*names, *groups, *nested, ""} == set(OFFERS)


def test_the_program_starts_and_explains_itself() -> None:
    done = run("--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert "one payments API" in done.stdout


@pytest.mark.parametrize(
    ("words", "environment", "says"),
    [
        ("serve", {"GATEWAY_DATABASE_URL": None}, "GATEWAY_DATABASE_URL: is not set"),
        ("serve", {"GATEWAY_CONFIG": "/nowhere.toml"}, "GATEWAY_CONFIG: there is no file /nowhere.toml"),
        (
            "serve",
            {"GATEWAY_ON_UNKNOWN": "guess"},
            "GATEWAY_ON_UNKNOWN: Input should be 'hold' or 'void_then_failover'",
        ),
        (
            "serve",
            {"GATEWAY_ON_POSTGRES_LOSS_OPENING": "fail_open"},
            "GATEWAY_ON_POSTGRES_LOSS_OPENING: can only be fail_closed. What is not committed",
        ),
        (
            "worker",
            {"GATEWAY_ON_REDIS": "fail_open"},
            "GATEWAY_ON_REDIS: there is no such policy; known are GATEWAY_ON_",
        ),
        ("worker", {"GATEWAY_REDIS_URL": None}, "GATEWAY_REDIS_URL: is not set"),
        ("migrate", {"GATEWAY_MIGRATE_DATABASE_URL": None}, "GATEWAY_MIGRATE_DATABASE_URL is not set"),
        ("migrate", {}, "GATEWAY_MIGRATE_DATABASE_URL: the database cannot be reached"),
        ("merchants create Acme", {}, "'Acme' is not a merchant id"),
        ("merchants create mer_acme", {}, "GATEWAY_DATABASE_URL: the database cannot be reached"),
        ("vault status", {}, "GATEWAY_VAULT_KEY is not set"),
        ("vault rotate", {"GATEWAY_VAULT_KEY": "x"}, "GATEWAY_VAULT_KEY: must be"),
        ("listen --url ftp://here", {}, "--url: must be a URL that starts with http:// or https://"),
        ("listen --events invoice.paid", {}, "--events: 'invoice.paid' is no type of event and no family"),
        ("replay events --endpoint we_1 --since yesterday", {}, "--since: "),
        ("replay events --endpoint we_1 --since 1h --until 2h", {}, "--until: must be later than --since"),
        ("replay events --endpoint we_1 --since 1h --type invoice.*", {}, "--type: 'invoice.*' is no type of event"),
        ("replay events --endpoint we_1 --since 1h", {}, "GATEWAY_DATABASE_URL: the database cannot be reached"),
        ("keys create mer_acme", {"GATEWAY_SECRET_KEY": None}, "GATEWAY_SECRET_KEY: is not set"),
    ],
)
def test_a_wrong_configuration_is_one_sentence_on_stderr_and_exit_2(
    words: str, environment: dict[str, str | None], says: str
) -> None:
    done = run(words, **environment)

    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"gateway: {says}")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr + done.stdout


@pytest.mark.parametrize("words", ["serve --port 18999", "worker"])
def test_a_database_that_is_not_there_is_a_sentence_too(words: str) -> None:
    done = run(words)

    assert done.returncode != 0
    assert "GATEWAY_DATABASE_URL: the database cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", ["dev --port 0", "dev --port 65534", "serve --workers 0", "keys create mer_a --kind root"]
)
def test_an_option_outside_its_range_is_refused(words: str) -> None:
    result = CliRunner().invoke(app, words.split())

    assert result.exit_code == 2


@pytest.mark.parametrize("words", ["", "merchants", "keys", "vault"])
def test_a_command_without_its_verb_shows_what_there_is(words: str) -> None:
    result = CliRunner().invoke(app, words.split())

    assert "Commands" in result.output
