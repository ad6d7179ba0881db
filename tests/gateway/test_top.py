"""What a first responder sees on a shell: the same as the rows say, and that the database is away while it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from gateway.rate_books import fold
from gateway.top import Seen, Wanted, run, watch

if TYPE_CHECKING:
    from tests.conftest import Database, Kit, Open, Psps

DECLINED = "4000000000000002"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, database: Database) -> pytest.MonkeyPatch:
    """The one setting of a shell anywhere."""
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", database.url)
    return monkeypatch


async def test_one_look_tells_what_the_rows_tell(
    open_gateway: Open,
    psps: Psps,
    database: Database,
    flow: type[Kit],
    settings: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database.publish({"default": {"strategy": "adaptive", "accounts": ["stripe", "adyen"]}})
    async with open_gateway() as inside:
        merchant, learned = inside.merchant, inside.house.deps.learned
        await merchant.charged(routing={"account": "stripe"})
        await merchant.charge(payment_method_data=flow.card(DECLINED), routing={"account": "stripe"})
        await merchant.charged(routing={"account": "adyen"})
        psps.fault("adyen", "authorize", "garbage", times=3)
        await merchant.charge(routing={"account": "adyen"})
        await fold(inside.house.pool)
        await inside.house.deps.in_force.start(datetime.now(UTC))
        await learned.fold()
        await learned.save()
        code = await asyncio.to_thread(run, Wanted(once=True, as_json=True), print)
        (line,) = (
            each for each in capsys.readouterr().out.splitlines() if each.startswith("{")
        )  # else: the gateway's log
        told = json.loads(line)
        drawn = await asyncio.to_thread(run, Wanted(once=True), print)
        page = capsys.readouterr().out

    assert (code, drawn) == (0, 0)
    accounts: dict[str, Any] = {each["account"]: each for each in told["accounts"]}
    assert accounts["stripe"]["rates"]["first"]["5m"] == {"rate": 0.5, "n": 2}
    assert accounts["adyen"]["rates"]["final"]["24h"] == {"rate": 1.0, "n": 1}
    assert {each["breaker"] for each in accounts.values()} == {"closed"}
    assert (accounts["adyen"]["unknown"], accounts["stripe"]["unknown"], told["unknown"]) == (1, 0, 1)
    assert told["worker_lost"] is True
    assert told["waiting"].keys() == {"operations", "inbound", "outbound"}
    for words in ("worker LOST: never seen", "50.0 % of 2", "unknown outcomes 1", "stripe (mer_dev, test)", "closed"):
        assert words in page


def test_a_database_that_is_away_is_said_to_be(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("GATEWAY_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    said: list[str] = []

    assert run(Wanted(once=True), said.append) == 1
    assert said == ["gateway: the database cannot be reached (ConnectionRefusedError)"]


async def test_it_goes_on_once_the_database_is_back(database: Database, flow: type[Kit]) -> None:
    class Screen:
        def __init__(self) -> None:
            self.told: list[str] = []

        def show(self, _seen: Seen) -> None:
            self.told.append("seen")

        def away(self, why: str, _since: datetime) -> None:
            self.told.append(why)

    screen = Screen()
    watching = asyncio.create_task(watch(database.url, Wanted(interval_s=0.05), screen))
    await flow.eventually(lambda: "seen" in screen.told, "it has looked")
    # Between two looks, or in the middle of one: either way the connection is gone.
    database.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'interlock top'")
    await flow.eventually(lambda: any(each != "seen" for each in screen.told), "it says so")
    lost = next(at for at, each in enumerate(screen.told) if each != "seen")
    await flow.eventually(lambda: "seen" in screen.told[lost:], "it goes on")
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching

    assert screen.told[lost].startswith("the database cannot be read (")
