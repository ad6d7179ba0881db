"""A merchant's key sees that merchant, in one mode, and nothing of anybody else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from gateway import rate_books, shadow, uplift

if TYPE_CHECKING:
    from tests.conftest import Commands, Database, Databases, Inside, Kit, Merchant, Open, Psps

NO_SUCH = "0" * 32


def other_accounts(psps: Psps) -> str:
    return (
        '[accounts.other_stripe]\nmerchant = "mer_other"\nprovider = "stripe"\n'
        f'base_url = "{psps.urls["stripe"]}"\napi_key_env = "FLOWS_STRIPE_API_KEY"\n'
        'webhook_secret_env = "FLOWS_STRIPE_WEBHOOK_SECRET"\n'
    )


@dataclasses.dataclass(frozen=True)
class Two:
    """A migrated database with a second merchant, made by the command line once for all tests of this file."""

    template: str
    other_key: str


@pytest.fixture(scope="module")
def two(databases: Databases, commands: Commands) -> Two:
    name, made = databases.create()
    commands(made, "merchants", "create", "mer_other")
    return Two(name, commands(made, "keys", "create", "mer_other"))


@pytest.fixture
def database(databases: Databases, two: Two) -> Iterator[Database]:
    name, fresh = databases.create(template=two.template)
    yield fresh
    databases.server.drop_database(name)


@pytest.fixture
def other_key(two: Two) -> str:
    """The secret key of the second merchant."""
    return two.other_key


def as_merchant(inside: Inside, key: str) -> Merchant:
    return dataclasses.replace(inside.merchant, api_key=key)


async def _walk(
    merchant: Merchant, payment_id: str, refund_id: str, method_id: str, customer_id: str, flow: type[Kit]
) -> list[tuple[int, Any]]:
    """Every route with these ids; of a problem all but the id of its request."""
    answers = [
        await merchant.get(f"/v1/payments/{payment_id}"),
        await merchant.get(f"/v1/payments/{payment_id}", **{"expand[]": "attempts"}),
        await merchant.get(f"/v1/payments/{payment_id}/routing"),
        await merchant.post(f"/v1/payments/{payment_id}/confirm", {"payment_method_data": flow.card()}),
        await merchant.post(f"/v1/payments/{payment_id}/confirm"),
        await merchant.post(f"/v1/payments/{payment_id}/capture"),
        await merchant.post(f"/v1/payments/{payment_id}/cancel"),
        await merchant.post("/v1/refunds", {"payment": payment_id}),
        await merchant.get(f"/v1/refunds/{refund_id}"),
        await merchant.charge(payment_method=method_id, payment_method_data=None),
        await merchant.charge(customer=customer_id),
        await merchant.post("/v1/payment_methods", flow.card() | {"customer": customer_id}),
        await merchant.get(f"/v1/payment_methods/{method_id}"),
        await merchant.post(f"/v1/payment_methods/{method_id}", {"customer": "ours"}),
        await merchant.delete(f"/v1/payment_methods/{method_id}"),
        await merchant.get(f"/v1/customers/{customer_id}"),
        await merchant.delete(f"/v1/customers/{customer_id}"),
    ]
    return [(answer.status_code, answer.json() | {"request_id": None}) for answer in answers]


async def test_another_merchants_ids_are_answered_like_ids_that_do_not_exist(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit], other_key: str
) -> None:
    async with open_gateway(more=other_accounts(psps)) as inside:
        other = as_merchant(inside, other_key)
        customer = (await inside.merchant.post("/v1/customers", {"reference": "shared", "name": "Ada"})).json()
        payment = await inside.merchant.charged(
            reference="shared", setup_future_usage="off_session", customer=customer["id"]
        )
        (method,) = (await inside.merchant.get("/v1/payment_methods")).json()["data"]
        refund = (await inside.merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 1})).json()
        held = await inside.merchant.charged(capture_method="manual")
        before = (database.row_counts(), len(psps.requests("stripe")))
        nothing = await _walk(other, f"pay_{NO_SUCH}", f"re_{NO_SUCH}", f"pm_{NO_SUCH}", f"cus_{NO_SUCH}", flow)
        theirs = [
            await _walk(other, each["id"], refund["id"], method["id"], customer["id"], flow) for each in (payment, held)
        ]
        lists = [
            (await other.get("/v1/customers")).json(),
            (await other.get("/v1/customers", reference="shared")).json(),
            (await other.get("/v1/payment_methods", customer=customer["id"])).json(),
            (await other.get("/v1/payment_methods", fingerprint=method["card"]["fingerprint"])).json(),
            (await other.get("/v1/payment_methods", cursor=method["id"])).json(),
        ]
        listed = (await other.get("/v1/payments", reference="shared")).json()
        paged = (await other.get("/v1/payments", cursor=payment["id"])).json()
        untouched = await inside.merchant.payment(held["id"])
        after = (database.row_counts(), len(psps.requests("stripe")))

    assert [status for status, _ in nothing] == [404] * 9 + [422] * 3 + [404] * 5
    assert [page["data"] for page in lists] == [[]] * 5
    assert theirs == [nothing, nothing]
    assert (listed["data"], paged["data"]) == ([], [])
    assert untouched == held
    assert before == after


async def test_what_a_merchants_strategies_have_learned_is_its_own(
    open_gateway: Open, psps: Psps, database: Database, flow: type[Kit], other_key: str
) -> None:
    database.publish({"default": {"strategy": "adaptive", "accounts": ["stripe", "adyen"]}})
    async with open_gateway(more=other_accounts(psps)) as inside:
        other = as_merchant(inside, other_key)
        await inside.merchant.charged()
        await other.charged()

        async def learned() -> bool:
            (strategy,) = (await inside.merchant.get("/v1/routing/strategies")).json()["data"]
            return bool(strategy["outcomes"] == 1)

        await flow.eventually(learned, "our own outcome was learned from")
        theirs = (await other.get("/v1/routing/strategies")).json()["data"]
        (ours,) = (await inside.merchant.get("/v1/routing/strategies")).json()["data"]

    assert theirs == []
    assert [account["account"] for account in ours["accounts"]] == ["stripe", "adyen"]
    assert ours["outcomes"] == 1


async def test_the_same_card_of_two_merchants_cannot_be_told_to_be_the_same(
    open_gateway: Open, psps: Psps, flow: type[Kit], other_key: str
) -> None:
    async with open_gateway(more=other_accounts(psps)) as inside:
        answers = [
            await merchant.post("/v1/payment_methods", flow.card(), key="method-1")
            for merchant in (inside.merchant, as_merchant(inside, other_key))
        ]
        token = await as_merchant(inside, other_key).post(
            "/v1/payment_methods", {"type": "token", "tokens": {"stripe": "pm_card_visa"}}
        )

    assert [answer.status_code for answer in answers] == [201, 201]
    assert len({answer.json()["card"]["fingerprint"] for answer in answers}) == 2
    assert len({answer.json()["id"] for answer in answers}) == 2
    assert (token.status_code, token.json()["param"]) == (422, "tokens")


async def test_the_same_key_text_of_two_merchants_is_two_keys(
    open_gateway: Open, psps: Psps, flow: type[Kit], other_key: str
) -> None:
    async with open_gateway(more=other_accounts(psps)) as inside:
        other = as_merchant(inside, other_key)
        ours = await inside.merchant.charge(key="order-1")
        theirs = await other.charge(key="order-1", amount=500)
        ours_again, theirs_again = (
            await inside.merchant.charge(key="order-1"),
            await other.charge(key="order-1", amount=500),
        )
        listed = (await other.get("/v1/payments")).json()["data"]
        pinned = await other.charge(routing={"account": "stripe"})

    assert (ours.status_code, theirs.status_code) == (201, 201)
    assert (ours.json()["account"], theirs.json()["account"]) == ("stripe", "other_stripe")
    assert (ours_again.content, theirs_again.content) == (ours.content, theirs.content)
    assert [payment["id"] for payment in listed] == [theirs.json()["id"]]
    assert (pinned.status_code, pinned.json()["code"]) == (422, "no_eligible_account")
    assert len(psps.charges()) == 2


async def test_a_revoked_key_is_refused_and_the_merchants_other_key_goes_on(
    open_gateway: Open, psps: Psps, commands: Commands, database: Database, flow: type[Kit], other_key: str
) -> None:
    second = commands(database, "keys", "create", "mer_other")
    listed = commands(database, "keys", "list", "mer_other")

    async with open_gateway(more=other_accounts(psps)) as inside:
        first, other = as_merchant(inside, other_key), as_merchant(inside, second)
        before = await first.get("/v1/payments")
        commands(database, "keys", "revoke", other_key.split("_")[2])

        async def refused() -> bool:
            return (await first.get("/v1/payments")).status_code == 401

        await flow.eventually(refused, "the key was refused")
        charge, alive = await first.charge(), await other.get("/v1/payments")

    assert (before.status_code, charge.status_code, alive.status_code) == (200, 401, 200)
    assert len(listed.splitlines()) == 2
    for key in (other_key, second):
        assert key.split("_")[2] in listed
        assert key.split("_")[3] not in listed
    assert psps.nobody_was_asked()


async def test_a_publishable_key_may_do_nothing_of_a_secret_one(
    open_gateway: Open, psps: Psps, commands: Commands, database: Database, flow: type[Kit], other_key: str
) -> None:
    publishable = commands(database, "keys", "create", "mer_other", "--kind", "publishable")

    async with open_gateway(more=other_accounts(psps)) as inside:
        payment = (await as_merchant(inside, other_key).charge(confirm=False)).json()
        shop = as_merchant(inside, publishable)
        answers = [
            await shop.charge(),
            await shop.get("/v1/payments"),
            await shop.get(f"/v1/payments/{payment['id']}"),
            await shop.post(f"/v1/payments/{payment['id']}/cancel"),
            await shop.post("/v1/refunds", {"payment": payment["id"]}),
            await shop.post("/v1/payment_methods", {"type": "token", "tokens": {"other_stripe": "pm_card_visa"}}),
            await shop.get("/v1/payment_methods"),
            await shop.post("/v1/customers"),
            await shop.get("/v1/customers"),
        ]

    assert publishable.startswith("pk_test_")
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(403, "forbidden")}
    assert psps.nobody_was_asked()


async def test_a_live_key_does_not_see_test_payments_nor_reach_test_accounts(
    open_gateway: Open, psps: Psps, commands: Commands, database: Database, other_key: str
) -> None:
    live_key = commands(database, "keys", "create", "mer_other", "--live")

    async with open_gateway(more=other_accounts(psps)) as inside:
        payment = (await as_merchant(inside, other_key).charge(confirm=False)).json()
        live = as_merchant(inside, live_key)
        shown, listed, charged = (
            await live.get(f"/v1/payments/{payment['id']}"),
            await live.get("/v1/payments"),
            await live.charge(),
        )
        (monitor, *_) = (await as_merchant(inside, other_key).get("/v1/monitors")).json()["data"]
        watched = await live.get(f"/v1/monitors/{monitor['id']}")

    assert live_key.startswith("sk_live_")
    assert (shown.status_code, listed.json()["data"], watched.status_code) == (404, [], 404)
    assert (charged.status_code, charged.json()["code"]) == (422, "no_eligible_account")
    assert psps.nobody_was_asked()


async def test_a_key_with_one_character_changed_is_refused(open_gateway: Open, psps: Psps, other_key: str) -> None:
    prefix, mode, key_id, secret, checksum = other_key.split("_")
    changed = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    forged = [
        f"{prefix}_{mode}_{key_id}_{changed}_{checksum}",
        "_".join((prefix, mode, "0" * 16, secret, checksum)),
        f"pk_{mode}_{key_id}_{secret}_{checksum}",
        f"{prefix}_live_{key_id}_{secret}_{checksum}",
        other_key[:-1],
        other_key.upper(),
    ]

    async with open_gateway(more=other_accounts(psps)) as inside:
        answers = [await as_merchant(inside, key).get("/v1/payments") for key in [*forged, other_key]]

    assert [answer.status_code for answer in answers] == [401] * len(forged) + [200]


async def test_what_strategies_and_shadows_come_to_is_told_to_their_own_merchant(
    open_gateway: Open, psps: Psps, database: Database, other_key: str
) -> None:
    database.publish({"default": {"strategy": "weighted", "accounts": ["stripe"]}})
    database.publish({"default": {"priority": ["adyen"]}}, shadow=True)

    async with open_gateway(more=other_accounts(psps)) as inside:
        await inside.merchant.charged()
        for count in (uplift.count, shadow.count):
            await count(inside.house.deps)
        told = {
            path: [
                (await merchant.get(f"/v1/routing/{path}")).json()["data"]
                for merchant in (inside.merchant, as_merchant(inside, other_key))
            ]
            for path in ("uplift", "shadow")
        }
        overview = (await as_merchant(inside, other_key).get("/v1/routing")).json()

    assert {path: [len(data) for data in both] for path, both in told.items()} == {"uplift": [1, 0], "shadow": [1, 0]}
    assert (overview["shadow"], overview["watched"]) == (None, None)


async def test_rates_are_of_ones_own_payments_alone(
    open_gateway: Open, psps: Psps, database: Database, other_key: str
) -> None:
    async with open_gateway(more=other_accounts(psps)) as inside:
        await inside.merchant.charged(reference="ours")
        await rate_books.fold(inside.house.pool)
        asked = ("/v1/metrics/acceptance_rate", {"group_by": "account,metadata.shop"})
        own = (await inside.merchant.get(asked[0], **asked[1])).json()
        theirs = (await as_merchant(inside, other_key).get(asked[0], **asked[1])).json()

    assert [cell["n"] for cell in own["data"]] == [1]
    assert theirs["data"] == []


async def test_monitors_and_what_they_find_are_ones_own(
    open_gateway: Open, psps: Psps, database: Database, other_key: str
) -> None:
    async with open_gateway(more=other_accounts(psps)) as inside:
        other = as_merchant(inside, other_key)
        wanted = {"name": "ours", "kind": "drop", "rate": "technical"}
        ours = (await inside.merchant.post("/v1/monitors", wanted)).json()
        found = f"mi_{NO_SUCH}"
        database.rows(
            """INSERT INTO monitor_incident (id, merchant_id, livemode, key, monitor_id, also, severity, segment, facts, summary, opened_at,
            noticed_at, updated_at) VALUES (%(id)s, 'mer_dev', false, 'k', %(monitor)s, '{}', 'page', '{}', '{"rate": "technical"}', 's',
            now(), now(), now())""",
            id=found,
            monitor=ours["id"],
        )
        own = (await inside.merchant.get(f"/v1/monitors/{ours['id']}/incidents")).json()["data"]
        at_monitor, at_incident = f"/v1/monitors/{ours['id']}", f"/v1/monitor_incidents/{found}"
        theirs = [
            await other.get(at_monitor),
            await other.post(at_monitor, {"name": "theirs"}),
            await other.delete(at_monitor),
            await other.get(f"{at_monitor}/incidents"),
            await other.get(at_incident),
            await other.post(f"{at_incident}/acknowledge"),
        ]
        lists = [(await other.get(path)).json()["data"] for path in ("/v1/monitor_incidents", "/v1/monitors")]
        builtin = [each["id"] for each in (await inside.merchant.get("/v1/monitors")).json()["data"] if each["builtin"]]
        after = (await inside.merchant.get(at_monitor)).json()

    assert [each["id"] for each in own] == [found]
    assert [answer.status_code for answer in theirs] == [404] * 6
    assert (lists[0], [each["builtin"] is None for each in lists[1]]) == ([], [False] * len(builtin))
    assert not {each["id"] for each in lists[1]} & set(builtin)
    assert (after["name"], [each["what"] for each in after["changes"]]) == ("ours", ["created"])
