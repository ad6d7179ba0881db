"""Real payments of every sort, made once by the real gateway at the real sandboxes; each test gets a copy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway import news
from gateway.invariants import Outside
from gateway.verify import Wanted, run
from providers.contract import Approved, Event, Kind
from providers.money import Money

if TYPE_CHECKING:
    from tests.conftest import Configuration, Database, Databases, Inside, Kit, Psps

DECLINED: Final = "4000000000000002"
CHALLENGED: Final = {"stripe": "4000000000003220", "adyen": "5454545454545454"}
SWITCHED_ON: Final = ("several_captures", "incremental_authorization")
TEMPLATE: Final = "template_mixed"


@dataclass
class Made:
    """What was made, once it was."""

    outside: Outside | None = None
    payments: int = 0


@dataclass(frozen=True)
class Mixed:
    """A copy of the database of mixed payments, with what the PSPs had to say when it was made."""

    database: Database
    outside: Outside
    payments: int


@pytest.fixture(scope="session")
def made() -> Made:
    return Made()


@pytest.fixture
async def mixed(request: pytest.FixtureRequest, made: Made, databases: Databases) -> AsyncIterator[Mixed]:
    if made.outside is None:
        await _make(request, made, databases)
    assert made.outside is not None
    name, database = databases.create(TEMPLATE)
    yield Mixed(database, made.outside, made.payments)
    databases.server.drop_database(name)


async def _make(request: pytest.FixtureRequest, made: Made, databases: Databases) -> None:
    psps: Psps = request.getfixturevalue("psps")
    flow: type[Kit] = request.getfixturevalue("flow")
    database: Database = request.getfixturevalue("database")
    async with request.getfixturevalue("open_gateway")(enabled=SWITCHED_ON, listening=True) as inside:
        maker = Maker(inside, psps, flow)
        await maker.everything()
        await maker.settled()
    made.outside = flow.outside(database, psps)
    made.payments = database.value("SELECT count(*) FROM payment")
    databases.server.create_database(TEMPLATE, template=database.value("SELECT current_database()"))


@pytest.fixture
def verified(
    mixed: Mixed, configuration: Configuration, monkeypatch: pytest.MonkeyPatch, flow: type[Kit]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command on the mixed database: its exit code, what it said and what it hinted."""
    environment = configuration.environment(configuration.accounts()) | {"GATEWAY_DATABASE_URL": mixed.database.url}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def verify(**wanted: Any) -> tuple[int, str, str]:
        said: list[str] = []
        hinted: list[str] = []
        return run(Wanted(**wanted), said.append, hinted.append), "\n".join(said), "\n".join(hinted)

    return verify


@dataclass
class Maker:
    """A merchant that does everything."""

    inside: Inside
    psps: Psps
    flow: type[Kit]
    made: list[str] = field(default_factory=list)

    async def everything(self) -> None:
        merchant, flow = self.inside.merchant, self.flow
        for psp in self.psps.REAL:
            await self._captured_and_refunded(psp)
            await self._released(psp)
            await self._lapsed(psp)
            await self._challenged(psp)
            await self._unknown(psp)
            await merchant.charge(payment_method_data=flow.card(DECLINED), routing={"account": psp})
        cascaded = await merchant.charged(payment_method_data=flow.card(DECLINED))
        assert (cascaded["account"], cascaded["attempt_count"]) == ("adyen", 2), cascaded
        await self._second_round()
        await self._disputed()
        stored = await merchant.post("/v1/payment_methods", {**flow.card(), "verify": True, "currency": "EUR"})
        assert stored.status_code == 201, stored.text
        customer = await merchant.post("/v1/customers", {"reference": "shopper-7"})
        assert customer.status_code == 201, customer.text
        hook = {"url": "https://shop.example/hooks", "events": ["report.available"]}
        kept, gone = [await merchant.post("/v1/webhook_endpoints", hook) for _ in range(2)]
        assert (kept.status_code, gone.status_code) == (201, 201), gone.text
        await merchant.delete(f"/v1/webhook_endpoints/{gone.json()['id']}")
        await self._other_keys()

    async def _other_keys(self) -> None:
        """All else that a request with a key makes."""
        merchant, order = self.inside.merchant, {"default": {"priority": ["stripe", "adyen"]}}
        version = await merchant.post("/v1/routing/configs", {"document": order})
        assert version.status_code == 201, version.text
        published = await merchant.post(f"/v1/routing/configs/{version.json()['id']}/publish", {"reason": "as it was"})
        assert published.status_code == 201, published.text
        watch = {"name": "approvals", "kind": "static", "metric": "acceptance_rate", "op": "below", "threshold": 0.5}
        monitor = await merchant.post("/v1/monitors", watch)
        assert monitor.status_code == 201, monitor.text
        await merchant.delete(f"/v1/monitors/{monitor.json()['id']}")

    async def settled(self) -> None:
        """Wait until nothing is on its way any more."""
        database = self.inside.database
        waiting = """SELECT (SELECT count(*) FROM operation WHERE status IN ('created', 'sent', 'pending', 'unknown'))
            + (SELECT count(*) FROM webhook_inbox WHERE applied_at IS NULL)"""

        async def rested() -> bool:
            if database.value(waiting) == 0:
                return True
            await self.inside.work()
            return False

        await self.flow.eventually(rested, "everything came to rest")
        # The sandboxes tell of refunds and disputes a moment later: what they tell must not come after the copy.
        for _ in range(2):
            await asyncio.sleep(0.5)
            await self.flow.eventually(rested, "everything came to rest again")
        # The worker's rounds made every challenge due at once; their shoppers have half an hour.
        database.rows("UPDATE operation SET due_at = now() + interval '30 minutes' WHERE status = 'requires_action'")

    async def _verb(self, path: str, fields: dict[str, Any]) -> None:
        answer = await self.inside.merchant.post(path, fields)
        assert answer.status_code in {200, 201, 202}, answer.text
        await self._none_pending()

    async def _none_pending(self) -> None:
        pending = "SELECT count(*) FROM operation WHERE status = 'pending'"
        await self.flow.eventually(lambda: self.inside.database.value(pending) == 0, "the verb was settled")

    async def _captured_and_refunded(self, psp: str) -> None:
        merchant = self.inside.merchant
        whole = await merchant.charged(routing={"account": psp})
        await self._verb("/v1/refunds", {"payment": whole["id"], "amount": 500})
        await self._verb("/v1/refunds", {"payment": whole["id"], "amount": 300})
        held = await merchant.charged(
            capture_method="manual", incremental_authorization=True, routing={"account": psp}, reference=f"parts-{psp}"
        )
        await self._verb(f"/v1/payments/{held['id']}/increment", {"amount": 2500})
        await self._verb(f"/v1/payments/{held['id']}/capture", {"amount": 700, "final": False})
        await self._verb(f"/v1/payments/{held['id']}/capture", {"amount": 800})

    async def _released(self, psp: str) -> None:
        merchant = self.inside.merchant
        await merchant.charged(capture_method="manual", routing={"account": psp}, reference=f"held-{psp}")
        held = await merchant.charged(capture_method="manual", routing={"account": psp})
        await self._verb(f"/v1/payments/{held['id']}/cancel", {})

    async def _lapsed(self, psp: str) -> None:
        """A part was captured, and the rest ran out."""
        merchant, deps = self.inside.merchant, self.inside.house.deps
        held = await merchant.charged(capture_method="manual", routing={"account": psp})
        await self._verb(f"/v1/payments/{held['id']}/capture", {"amount": 700, "final": False})
        there = held["provider_payment_id"]
        gone = Event(
            "gone-1",
            "EXPIRE",
            Kind.VOID,
            lapsed=True,
            provider_payment_id=there,
            outcome=Approved(there, Money(1299, "EUR")),
        )
        applied = await news.apply(psp, gone, deps)
        after = await merchant.payment(held["id"])
        assert (applied.result, after["status"], after["amount_received"]) == ("applied", "succeeded", 700)

    async def _challenged(self, psp: str) -> None:
        merchant = self.inside.merchant
        for result in ("succeeded", "failed", None):
            answer = await merchant.charge(
                payment_method_data=self.flow.card(CHALLENGED[psp]),
                return_url="https://shop.example/back",
                three_d_secure="required",
                routing={"account": psp},
            )
            assert answer.json()["status"] == "requires_action", answer.text
            if result is not None:
                await merchant.come_back(await self.psps.visit(answer.json(), result))

    async def _unknown(self, psp: str) -> None:
        self.psps.fault(psp, "authorize", "garbage", times=3)
        self.psps.fault(psp, "authorize", "drop_webhook", times=1)
        answer = await self.inside.merchant.charge(routing={"account": psp})
        assert answer.status_code == 202, answer.text

        async def known() -> bool:
            await self.inside.work()
            return bool((await self.inside.merchant.payment(answer.json()["id"]))["status"] == "succeeded")

        await self.flow.eventually(known, "the unknown outcome was settled")

    async def _second_round(self) -> None:
        merchant, flow = self.inside.merchant, self.flow
        first = await merchant.charge(
            payment_method_data=flow.card(DECLINED), routing={"account": "stripe"}, reference="second-round"
        )
        assert first.status_code == 402, first.text
        path = f"/v1/payments/{first.json()['id']}/confirm"
        assert (await merchant.post(path, {"payment_method_data": flow.card()})).status_code == 200
        waiting = await merchant.charged(confirm=False)
        assert (await merchant.post(f"/v1/payments/{waiting['id']}/cancel", {})).status_code == 200

    async def _disputed(self) -> None:
        await self.inside.merchant.charged(payment_method_data=self.flow.card("4000000000000259"))
        await self.flow.eventually(
            lambda: self.inside.database.value("SELECT count(*) FROM dispute") == 1, "the dispute was heard of"
        )
