"""A month of payments that were never made, on which every promise holds, and the stream of such as are made."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.demo.backfill import Filled, backfill
from gateway.demo.lives import House, Life
from gateway.demo.shoppers import World, shoppers
from gateway.demo.stream import MOODS, Stream
from gateway.settings import load_settings
from gateway.vault import Keyring
from gateway.verify import Wanted, run
from providers.registry import ConfigError

if TYPE_CHECKING:
    from tests.conftest import Configuration, Database, Kit, Open, Psps

PAYMENTS: Final = 1_200
NOW: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
ACCOUNTS: Final = {"stripe": "stripe", "adyen": "adyen"}


@pytest.fixture
def fill(configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Filled]:
    """Back-fills the test's database under development settings, or under such as are told."""

    def filled(**changes: str) -> Filled:
        told = configuration.environment(configuration.accounts()) | {"GATEWAY_DEV": "1"} | changes
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        return asyncio.run(backfill(load_settings(), os.environ, lambda _done, _of: None, payments=PAYMENTS))

    return filled


def test_every_promise_holds_on_a_month_that_was_never_lived_and_it_is_written_once(
    fill: Callable[..., Filled], database: Database
) -> None:
    first, said = fill(), list[str]()
    counts = database.row_counts()
    again = fill()

    assert (first.payments, counts["payment"]) == (PAYMENTS, PAYMENTS)
    assert again == Filled()
    assert database.row_counts() == counts
    assert run(Wanted(at_rest=True), said.append, said.append) == 0, "\n".join(said)


def test_it_has_all_that_there_is_to_see(fill: Callable[..., Filled], database: Database) -> None:
    fill()

    def several(query: str) -> set[Any]:
        return {value for row in database.rows(query) for value in row.values()}

    assert several("SELECT DISTINCT account FROM operation WHERE round = 1 AND seq = 1") == set(ACCOUNTS)
    assert several("SELECT DISTINCT evidence_word FROM operation") >= {
        "approved",
        "declined_customer",
        "declined_ambiguous",
        "technical",
    }
    assert several("SELECT DISTINCT news FROM change") >= {
        "Approved", "Declined", "Unknown", "ActionRequired", "Returned", "Abandoned", "Lapsed", "CaptureRequested",
        "RefundRequested", "CancelRequested", "Released",
    }  # fmt: skip
    assert several("SELECT DISTINCT kind FROM operation") == {"authorize", "capture", "void", "refund"}
    recovered = """SELECT count(*) FROM operation a JOIN operation b USING (payment_id, round) WHERE a.status = 'declined'
        AND b.seq > a.seq AND b.account <> a.account AND b.status IN ('authorized', 'captured')"""
    assert database.value(recovered) > 0
    assert several("SELECT DISTINCT country FROM (SELECT card->>'country' AS country FROM payment) AS p") >= {
        "DE",
        "GB",
        "US",
    }
    assert database.value("SELECT max(created_at) - min(created_at) > interval '29 days' FROM payment")


def test_strategies_learn_from_it(fill: Callable[..., Filled], open_gateway: Open, database: Database) -> None:
    fill()
    database.publish({"default": {"strategy": "adaptive", "accounts": list(ACCOUNTS)}})

    async def learned() -> list[dict[str, Any]]:
        async with open_gateway() as inside:
            answer = await inside.merchant.get("/v1/routing/strategies")
            models: list[dict[str, Any]] = answer.json()["data"]
            return models

    (strategy,) = asyncio.run(learned())

    heard = {each["account"]: sum(each["outcomes"].values()) for each in strategy["accounts"]}
    assert set(heard) == set(ACCOUNTS)
    assert min(heard.values()) > PAYMENTS / 4


def test_the_same_seed_gives_the_same_month_and_another_one_another() -> None:
    def month(seed: int) -> list[Any]:
        house = House("mer_dev", ACCOUNTS, Keyring.derive(b"k" * 32), seed, NOW)
        world = World(seed, NOW, ACCOUNTS)
        return [Life(shopper, world, house).payment for shopper in shoppers(seed, 60, NOW)]

    assert month(7) == month(7)
    assert month(7) != month(8)


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"GATEWAY_DEV": "0"}, "for development alone"), ({"GATEWAY_CONFIG": ""}, "GATEWAY_CONFIG")],
)
def test_nothing_is_made_up_outside_development(
    changes: dict[str, str], why: str, fill: Callable[..., Filled], database: Database
) -> None:
    with pytest.raises(ConfigError, match=why):
        fill(**changes)

    assert database.value("SELECT count(*) FROM payment") == 0


async def test_the_stream_pays_at_sandboxes_that_have_moods(
    open_gateway: Open, psps: Psps, api_port: int, database: Database, flow: type[Kit]
) -> None:
    stream = Stream(f"http://127.0.0.1:{api_port}", "sk_test_dev", psps.urls, payments_per_s=25)
    async with open_gateway(listening=True):
        task = asyncio.create_task(stream.run())
        await flow.eventually(lambda: stream.seen["succeeded"] >= 25, "shoppers have paid")
        stream.stopping.set()
        await task

    assert stream.seen.keys().isdisjoint({"refused", "unreachable"}), stream.seen
    assert database.value("SELECT count(DISTINCT currency) FROM payment") > 1
    for psp, moods in MOODS.items():
        scripted = psps.http.get(f"{psps.urls[psp]}/_sandbox/faults").json()["faults"]
        assert [rule["rate"] for rule in scripted if rule["fault"] == "approval_rate"] == [
            mood["rate"] for mood in moods
        ]
