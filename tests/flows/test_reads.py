"""Reading: a list shows every payment once, a filter what it names, and a read moves no money."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conftest import Database, Kit, Merchant, Open, Psps


async def _walked(merchant: Merchant, **query: Any) -> list[list[dict[str, Any]]]:
    """All pages of a list."""
    pages: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await merchant.get("/v1/payments", **query, **cursor)).json()
        pages.append(page["data"])
        if not page["has_more"]:
            assert page["next_cursor"] is None
            return pages
        cursor = {"cursor": page["next_cursor"]}


async def test_walking_the_list_by_its_cursor_shows_every_payment_once_newest_first(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        made = [
            (await inside.merchant.charged(confirm=False, reference=f"order-{number}"))["id"] for number in range(11)
        ]
        pages = await _walked(inside.merchant, limit=3)
        whole = (await inside.merchant.get("/v1/payments")).json()
        exact = (await inside.merchant.get("/v1/payments", limit=11)).json()

    assert [len(page) for page in pages] == [3, 3, 3, 2]
    assert [payment["id"] for page in pages for payment in page] == made[::-1]
    assert [payment["id"] for payment in whole["data"]] == made[::-1]
    assert (whole["object"], whole["has_more"], exact["has_more"], exact["next_cursor"]) == ("list", False, False, None)


async def test_a_payment_made_while_the_list_is_walked_does_not_move_the_others(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        made = [(await inside.merchant.charged(confirm=False))["id"] for _ in range(4)]
        first = (await inside.merchant.get("/v1/payments", limit=2)).json()
        await inside.merchant.charged(confirm=False)
        second = (await inside.merchant.get("/v1/payments", limit=2, cursor=first["next_cursor"])).json()

    assert [payment["id"] for payment in first["data"] + second["data"]] == made[::-1]


async def test_filters_show_what_they_name(open_gateway: Open, flow: type[Kit]) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        paid = await merchant.charged(reference="order-1", customer="cus_1")
        held = await merchant.charged(reference="order-2", capture_method="manual", currency="USD")
        declined = (await merchant.charge(payment_method_data=flow.card("4000000000009987"), customer="cus_1")).json()

        async def found(**query: str) -> list[str]:
            answer = await merchant.get("/v1/payments", **query)
            assert answer.status_code == 200, answer.text
            return [payment["id"] for payment in answer.json()["data"]]

        assert await found(status="succeeded") == [paid["id"]]
        assert await found(status="requires_capture") == [held["id"]]
        assert await found(status="canceled") == []
        assert await found(reference="order-2") == [held["id"]]
        assert await found(customer="cus_1") == [declined["id"], paid["id"]]
        assert await found(customer="cus_1", status="succeeded") == [paid["id"]]
        assert await found(currency="USD") == [held["id"]]
        assert await found(**{"created[gte]": held["created"]}) == [declined["id"], held["id"]]
        assert await found(**{"created[lt]": held["created"]}) == [paid["id"]]
        assert await found(**{"created[gte]": "2999-01-01T00:00:00Z"}) == []


async def test_expanding_shows_attempts_and_refunds_and_nothing_secret(open_gateway: Open, flow: type[Kit]) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        payment = await merchant.charged(payment_method_data=flow.card("4000000000000002"))
        refund = (await merchant.post("/v1/refunds", {"payment": payment["id"], "amount": 500})).json()
        plain = await merchant.payment(payment["id"])
        query = "expand[]=attempts&expand[]=refunds"
        headers = {"Authorization": "Bearer sk_test_dev"}
        answer = await merchant.http.get(f"/v1/payments/{payment['id']}", params=query, headers=headers)
        listed = (await merchant.http.get("/v1/payments", params=query, headers=headers)).json()["data"][0]

    expanded = answer.json()
    assert expanded == listed
    assert {name: expanded[name] for name in plain} == plain
    assert [attempt["status"] for attempt in expanded["attempts"]] == ["declined", "captured"]
    assert expanded["attempts"][0]["decline"]["advice"] == "retry_other_now"
    assert expanded["refunds"] == [refund]
    for never in ("4000000000000002", "provider_key", "sealed", "lease"):
        assert never not in answer.text


async def test_reading_an_unknown_payment_makes_it_due_and_asks_no_psp(
    open_gateway: Open, psps: Psps, database: Database
) -> None:
    psps.fault("stripe", "authorize", "garbage")
    psps.fault("stripe", "authorize", "drop_webhook")

    async with open_gateway() as inside:
        payment = (await inside.merchant.charge()).json()
        database.rows(
            "UPDATE operation SET due_at = now() + interval '1 hour', updated_at = now() - interval '3 seconds'"
        )
        before = len(psps.requests("stripe"))
        shown = await inside.merchant.payment(payment["id"])
        due = database.value("SELECT due_at <= now() FROM operation")

    assert (shown["status"], due) == ("processing", True)
    assert len(psps.requests("stripe")) == before


async def test_a_payment_reads_back_as_it_was_answered(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        answer = await inside.merchant.charge(
            reference="order-1",
            description="Two books",
            metadata={"cart": "77", "ünï": "cödé"},
            customer="cus_1",
            statement_descriptor="BOOKS",
            return_url="https://shop.example/back",
            billing_details={"name": "Ada Lovelace", "address": {"country": "GB", "postal_code": "SW1"}},
            shopper={"email": "ada@example.com", "ip": "192.0.2.1"},
        )
        shown = await inside.merchant.get(f"/v1/payments/{answer.json()['id']}")

    assert shown.content == answer.content
    assert "ada@example.com" not in answer.text


async def test_a_filter_that_is_none_is_refused_and_not_repeated(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        named = await inside.merchant.get("/v1/payments", colour="red")
        number = await inside.merchant.get("/v1/payments", **{"4242424242424242": "1"})

    assert (named.status_code, named.json()["param"]) == (422, "colour")
    assert (number.status_code, number.json()["param"]) == (422, None)
    assert "4242" not in number.text
