"""`gateway routing publish`: from a file to what is in force, once, with what is wrong with it in words that help."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from aiohttp import web

from gateway import remote
from gateway.publisher import Asked, publish
from gateway.remote import Remote
from providers.registry import ConfigError

if TYPE_CHECKING:
    from tests.conftest import Database, Processes

STRIPE: Final[Mapping[str, Any]] = {"default": {"priority": ["stripe", "adyen"]}}
NOBODY: Final = Remote("http://127.0.0.1:1", "sk_test_dev")


def written(folder: Path, text: str, name: str = "other.json") -> Path:
    file = folder / name
    file.write_text(text)
    return file


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(written(tmp_path, json.dumps(STRIPE), "routing.json"), "Approvals are better there.")


@asynccontextmanager
async def losing(url: str, answers: Callable[[str], bool]) -> AsyncIterator[str]:
    """A line to the gateway on which the gateway hears everything, and those answers are lost."""
    async with aiohttp.ClientSession() as connections:

        async def carry(request: web.Request) -> web.StreamResponse:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
            sent = await request.read()
            async with connections.request(
                request.method, f"{url}{request.path}", data=sent, headers=headers
            ) as answer:
                said = await answer.read()
            if answers(request.path) and request.transport is not None:
                request.transport.abort()
            return web.Response(status=answer.status, body=said)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", carry)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def history(database: Database) -> list[dict[str, Any]]:
    return database.rows(
        """SELECT p.kind, p.percent, p.shadow, p.reason, p.published_by, p.starts_at > p.published_at AS later, v.name, v.note
        FROM routing_publication p JOIN routing_version v ON v.id = p.version_id ORDER BY sequence"""
    )


async def told(asked: Asked, there: Remote) -> str:
    said: list[str] = []
    await publish(asked, there, said.append)
    (line,) = said
    return line


async def refused(asked: Asked, there: Remote) -> str:
    with pytest.raises(ConfigError) as error:
        await told(asked, there)
    return str(error.value)


async def test_a_file_is_put_in_force_as_asked_and_faults_are_told_with_their_place_and_fix(
    processes: Processes, database: Database, asked: Asked, tmp_path: Path
) -> None:
    server = processes.server().start()
    there = Remote(server.url, "sk_test_dev")
    code, printed = processes.run(
        "routing", "publish", str(asked.file), "--reason", "By hand.", "--percent", "25", "--name", "Stripe first", "--note", "A try.",
        "--expected", "none", "--url", server.url,
    )  # fmt: skip
    later = await told(replace(asked, at="2999-01-01T00:00:00+01:00"), there)
    watched = await told(replace(asked, shadow=True), there)
    whole = await told(asked, there)
    in_force = database.value("SELECT version_id FROM routing_publication ORDER BY sequence DESC LIMIT 1")
    changed = await refused(replace(asked, expected="none"), there)
    versions = database.value("SELECT count(*) FROM routing_version")

    unknown_account = written(tmp_path, '{"default": {"priority": ["acme"]}, "rules": []}')
    unknown = await refused(replace(asked, file=unknown_account), there)
    no_document = written(tmp_path, '{"default": {"priority": []}, "rules": 7}')
    faulty = await refused(replace(asked, file=no_document), there)
    stranger = await refused(asked, Remote(server.url, "sk_test_nobody"))
    elsewhere = await refused(asked, Remote(f"{server.url}/healthz", "sk_test_dev"))

    assert (code, "is in force for 25 % of the payments" in printed, "version 1, rt_" in printed) == (0, True, True), (
        printed
    )
    assert "will be in force for 100 % of the payments from 2998-12-31T23:00:00" in later
    assert "watches, and decides nothing" in watched
    assert "is in force for 100 % of the payments" in whole
    assert in_force in whole
    assert [(each["percent"], each["shadow"], each["later"]) for each in history(database)] == [
        (25, False, False), (100, False, True), (100, True, False), (100, False, False),
    ]  # fmt: skip
    first, *_ = history(database)
    assert (first["name"], first["note"], first["reason"]) == ("Stripe first", "A try.", "By hand.")
    assert {each["published_by"] for each in history(database)} == {"sk_test_dev"}
    assert "Another version is in force" in changed
    assert "is made of" in unknown
    assert "\n  /default/priority/0: " in unknown
    assert {line.split(":")[0].strip() for line in faulty.splitlines()[1:]} == {"/default/priority", "/rules"}
    assert database.value("SELECT count(*) FROM routing_version") == versions + 1
    assert stranger.startswith("--key: ")
    assert elsewhere.startswith("--url: ")


async def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice(
    processes: Processes, database: Database, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, lost = processes.server().start(), set[str]()

    def each_once(path: str) -> bool:
        before = path in lost
        lost.add(path)
        return not before

    async with losing(server.url, each_once) as line:
        said = await told(asked, Remote(line, "sk_test_dev"))
    monkeypatch.setattr(remote, "AGAIN_S", 0.0)
    async with losing(server.url, lambda path: path.endswith("publish")) as line:
        unknown = await refused(asked, Remote(line, "sk_test_dev"))

    assert "version 1, " in said
    assert len(lost) == 2
    assert "whether version 2, rt_" in unknown
    assert database.value("SELECT count(*) FROM routing_version") == 2
    assert len(history(database)) == 2


async def test_what_cannot_be_asked_is_told_before_anybody_is(asked: Asked, tmp_path: Path) -> None:
    for words, option in (
        ({"reason": " "}, "--reason: "),
        ({"reason": "why " * 1000}, "--reason string should have at most"),
        ({"name": ""}, "--name string should have at least"),
        ({"percent": 0}, "--percent should be greater than or equal to 1"),
        ({"expected": "rt_4"}, "--expected "),
        ({"at": "tomorrow"}, "--at must be an RFC 3339 time"),
        ({"at": "2026-11-27T06:00:00"}, "--at must be an RFC 3339 time"),
        ({"at": "9999-12-31T23:59:59-12:00"}, "--at must be an RFC 3339 time"),
        ({"at": "2020-11-27T06:00:00Z"}, "--at is over"),
        ({"file": tmp_path / "none.json"}, f"{tmp_path / 'none.json'} cannot be read"),
        ({"file": written(tmp_path, "{")}, f"{tmp_path / 'other.json'} is not JSON"),
    ):
        assert (await refused(replace(asked, **words), NOBODY)).startswith(option)


async def test_a_gateway_that_is_not_there_is_told_after_some_tries(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "AGAIN_S", 0.0)

    assert await refused(asked, NOBODY) == f"there is no answer from {NOBODY.url}; nothing is in force of {asked.file}"
