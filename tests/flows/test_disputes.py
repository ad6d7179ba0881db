"""Disputes at both PSPs: heard of by webhook, shown, defended or accepted once, and never moved backwards."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from gateway import news
from gateway.disputes import Dispute
from gateway.queries import Queries
from gateway.sql import Pool
from providers.contract import DisputeNews, DisputeStatus, Event
from providers.money import Money

if TYPE_CHECKING:
    from gateway.deps import Deps
    from tests.conftest import Kit, Merchant, Open, Psps

at_each = pytest.mark.parametrize("psp", ["stripe", "adyen"])
EVIDENCE: Final[dict[str, dict[str, Any]]] = {
    "stripe": {"text": {"uncategorized_text": "winning_evidence"}},
    "adyen": {
        "reason": "SupplyDefenseMaterial",
        "documents": [
            {
                "type": "DefenseMaterial",
                "content_type": "application/pdf",
                "content": base64.b64encode(b"%PDF-1.4 a receipt").decode(),
            }
        ],
    },
}


def contested(psp: str, flow: type[Kit]) -> dict[str, Any]:
    """A card whose holder contests the payment."""
    if psp == "stripe":
        return flow.card("4000000000000259")
    return flow.card("4111111111111111", holder="chargeback:10.4")


async def disputed(
    merchant: Merchant, psp: str, flow: type[Kit], **fields: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A payment that was made and then contested, with its one dispute."""
    payment = await merchant.charged(payment_method_data=contested(psp, flow), **fields)
    found: list[dict[str, Any]] = []

    async def heard() -> bool:
        found[:] = (await merchant.get("/v1/disputes", payment=payment["id"])).json()["data"]
        return bool(found) and found[0]["status"] == "needs_response"

    await flow.eventually(heard, "the dispute was heard of")
    (dispute,) = found
    return payment, dispute


async def reached(merchant: Merchant, dispute_id: str, status: str, flow: type[Kit]) -> dict[str, Any]:
    """The dispute once it has the status, which later news may not take back."""
    shown: dict[str, Any] = {}

    async def there() -> bool:
        shown.update((await merchant.get(f"/v1/disputes/{dispute_id}")).json())
        return bool(shown["status"] == status)

    await flow.eventually(there, f"the dispute is {status}")
    return shown


async def won_untold(merchant: Merchant, psps: Psps, flow: type[Kit]) -> tuple[dict[str, Any], httpx.Response]:
    """A dispute that is won by a defense whose answer we never got, and what the merchant was answered."""
    _, dispute = await disputed(merchant, "stripe", flow)
    psps.fault("stripe", "defend", "garbage")
    answer = await merchant.post(f"/v1/disputes/{dispute['id']}/evidence", EVIDENCE["stripe"], key="defend-1")
    await reached(merchant, dispute["id"], "won", flow)
    return dispute, answer


@at_each
async def test_a_dispute_is_heard_of_shown_and_stands_in_the_history(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        payment, dispute = await disputed(merchant, psp, flow)
        expanded = (await merchant.get(f"/v1/payments/{payment['id']}", **{"expand[]": "history"})).json()
        others = (await merchant.get("/v1/disputes", status="won")).json()

    assert (dispute["object"], dispute["payment"], dispute["account"]) == ("dispute", payment["id"], psp)
    assert (dispute["amount"], dispute["currency"]) == (1999, "EUR")
    assert dispute["reason"] == "fraudulent"
    assert "dispute_needs_response" in [event["reason"] for event in expanded["history"]]
    assert (expanded["status"], expanded["amount_received"], expanded["amount_refunded"]) == ("succeeded", 1999, 0)
    assert others["data"] == []


@at_each
async def test_a_dispute_is_defended_once_and_may_be_won(
    psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        _, dispute = await disputed(merchant, psp, flow)
        path = f"/v1/disputes/{dispute['id']}/evidence"
        answers = [await merchant.post(path, EVIDENCE[psp], key="defend-1") for _ in range(2)]
        other = await merchant.post(path, {"text": {"product_description": "A chair."}}, key="defend-1")
        won = await reached(merchant, dispute["id"], "won", flow)
        late = await merchant.post(path, EVIDENCE[psp])

    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    assert answers[0].content == answers[1].content
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert answers[0].json()["status"] == "under_review"
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert won["id"] == dispute["id"]
    assert (late.status_code, late.json()["code"]) == (409, "payment_state")


@at_each
async def test_a_dispute_that_is_accepted_is_lost(psp: str, open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway((psp,), listening=True) as inside:
        merchant = inside.merchant
        _, dispute = await disputed(merchant, psp, flow)
        answer = await merchant.post(f"/v1/disputes/{dispute['id']}/accept")
        lost = await reached(merchant, dispute["id"], "lost", flow)

    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "lost"
    assert lost["status"] == "lost"


async def test_a_won_dispute_stays_won_although_the_answer_to_its_defense_was_lost(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",), listening=True) as inside:
        merchant = inside.merchant
        dispute, answer = await won_untold(merchant, psps, flow)
        await inside.work()
        after = (await merchant.get(f"/v1/disputes/{dispute['id']}")).json()
        replay = await merchant.post(f"/v1/disputes/{dispute['id']}/evidence", EVIDENCE["stripe"], key="defend-1")

    assert (answer.status_code, answer.json()["status"]) == (202, "needs_response")
    assert after["status"] == "won"
    assert replay.status_code == 200


async def test_what_a_dispute_says_of_an_unknown_answer_is_not_lost_with_the_process_that_heard_it(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    """The dispute's new status is written; the process dies before it can write what that says about our answer."""
    async with open_gateway(("stripe",), listening=True) as inside:
        merchant = inside.merchant
        await won_untold(merchant, psps, flow)
        open_again = "UPDATE operation SET status = 'unknown', due_at = now() + interval '1 day' WHERE kind = 'defend'"
        inside.database.rows(open_again)
        inside.database.rows("UPDATE webhook_inbox SET due_at = now()")
        await inside.house.inbox.apply_due(inside.house.deps.accounts, 100)
        status = inside.database.value("SELECT status FROM operation WHERE kind = 'defend'")
        told = inside.database.rows("SELECT result FROM webhook_inbox WHERE starts_with(type, 'charge.dispute.')")

    assert {row["result"] for row in told} == {"no_news"}
    assert status == "succeeded"


async def test_what_is_accepted_is_lost_only_once_the_provider_has_taken_it_and_late_news_does_not_reopen_it(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("adyen",), listening=True) as inside:
        merchant, deps = inside.merchant, inside.house.deps
        _, dispute = await disputed(merchant, "adyen", flow)
        psps.fault("adyen", "accept", "status", status=500)
        unknown = await merchant.post(f"/v1/disputes/{dispute['id']}/accept", key="accept-1")
        await inside.work()
        lost = await reached(merchant, dispute["id"], "lost", flow)
        known = await deps.queries.dispute(dispute["id"])
        assert known is not None
        event = Event(
            "late-1",
            "CHARGEBACK",
            occurred_at=known.news_at + timedelta(seconds=1),
            dispute=DisputeNews(known.provider_dispute_id, DisputeStatus.NEEDS_RESPONSE, Money(1999, "EUR")),
        )
        late = await news.apply("adyen", event, deps)
        after = (await merchant.get(f"/v1/disputes/{dispute['id']}")).json()

    assert (unknown.status_code, unknown.json()["status"]) == (202, "needs_response")
    assert late.result == "no_news"
    assert after["status"] == lost["status"] == "lost"


class Interrupted(Queries):
    """The reader, between whose first look at a dispute and the next something else happens."""

    def __init__(self, pool: Pool, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__(pool)
        self._meanwhile = [meanwhile]

    async def dispute_at(self, account: str, provider_dispute_id: str) -> Dispute | None:
        found = await super().dispute_at(account, provider_dispute_id)
        while self._meanwhile:
            await self._meanwhile.pop()()
        return found


@pytest.mark.parametrize("known", [False, True])
async def test_two_tellings_of_a_dispute_at_once_are_one_dispute_that_never_moves_backwards(
    open_gateway: Open, *, known: bool
) -> None:
    async with open_gateway(("adyen",)) as inside:
        payment = await inside.merchant.charged()
        began, deps = datetime.now(UTC), inside.house.deps

        def telling(status: DisputeStatus, after_s: int) -> Event:
            said = DisputeNews("D1", status, Money(1999, "EUR"))
            at, there = began + timedelta(seconds=after_s), payment["provider_payment_id"]
            return Event(status, "CHARGEBACK", provider_payment_id=there, occurred_at=at, dispute=said)

        if known:
            await news.apply("adyen", telling(DisputeStatus.NEEDS_RESPONSE, 1), deps)

        async def newer() -> None:
            await news.apply("adyen", telling(DisputeStatus.LOST, 9), deps)

        interrupted = dataclasses.replace(deps, queries=Interrupted(inside.house.pool, newer))
        result = await news.apply("adyen", telling(DisputeStatus.UNDER_REVIEW, 5), interrupted)
        (dispute,) = (await inside.merchant.get("/v1/disputes")).json()["data"]
        told = (await inside.merchant.get("/v1/events", type="dispute.*", payment=payment["id"])).json()["data"]

    assert (result.result, dispute["status"]) == ("no_news", "lost")
    assert {event["data"]["id"] for event in told} == {dispute["id"]}
    # Heard of first when it is lost, it begins and ends in one change.
    assert sorted(event["type"] for event in told) == ["dispute.closed", "dispute.created"]


async def test_what_was_heard_meanwhile_and_shows_nothing_counts_all_the_same(open_gateway: Open) -> None:
    """It moves no version of the payment: whoever has read the dispute before it must read again."""
    async with open_gateway(("adyen",)) as inside:
        payment = await inside.merchant.charged()
        began, deps = datetime.now(UTC), inside.house.deps

        async def tell(status: DisputeStatus, after_s: int, by: Deps = deps) -> str:
            said = DisputeNews("D1", status, Money(1999, "EUR"))
            at, there = began + timedelta(seconds=after_s), payment["provider_payment_id"]
            event = Event(status, "CHARGEBACK", provider_payment_id=there, occurred_at=at, dispute=said)
            return (await news.apply("adyen", event, by)).result

        await tell(DisputeStatus.NEEDS_RESPONSE, 1)

        async def again() -> None:
            assert await tell(DisputeStatus.NEEDS_RESPONSE, 9) == "no_news"

        late = dataclasses.replace(deps, queries=Interrupted(inside.house.pool, again))
        result = await tell(DisputeStatus.UNDER_REVIEW, 5, late)
        (dispute,) = (await inside.merchant.get("/v1/disputes")).json()["data"]

    assert (result, dispute["status"]) == ("no_news", "needs_response")


async def test_an_answer_that_stays_unknown_does_not_use_up_the_time_to_answer(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("adyen",), listening=True) as inside:
        merchant = inside.merchant
        _, dispute = await disputed(merchant, "adyen", flow)
        path = f"/v1/disputes/{dispute['id']}"
        psps.fault("adyen", "defend", "status", status=500)
        first = await merchant.post(f"{path}/evidence", {"reason": "Nonsense"})
        await inside.work()
        early = await merchant.post(f"{path}/evidence", EVIDENCE["adyen"])
        inside.database.rows("UPDATE operation SET created_at = created_at - interval '2 hours' WHERE kind = 'defend'")
        second = await merchant.post(f"{path}/evidence", EVIDENCE["adyen"])

    assert (first.status_code, early.status_code) == (202, 409)
    assert second.status_code == 200, second.text


async def test_evidence_that_the_account_cannot_take_is_refused_before_it_is_asked(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(listening=True) as inside:
        merchant, refused = inside.merchant, {}
        for psp, other in (("stripe", "adyen"), ("adyen", "stripe")):
            _, dispute = await disputed(merchant, psp, flow, routing={"account": psp})
            answer = await merchant.post(f"/v1/disputes/{dispute['id']}/evidence", EVIDENCE[other])
            problem = answer.json()
            refused[psp] = (answer.status_code, problem["code"], problem["account"], problem["capability"])

    assert refused == {
        "stripe": (422, "capability_missing", "stripe", "dispute_documents"),
        "adyen": (422, "capability_missing", "adyen", "dispute_text"),
    }
    assert [request for psp in psps.REAL for request in psps.requests(psp, "defend")] == []


async def test_another_merchants_dispute_is_not_there_and_wrong_evidence_names_its_field(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    async with open_gateway(("stripe",), listening=True) as inside:
        merchant = inside.merchant
        _, dispute = await disputed(merchant, "stripe", flow)
        path = f"/v1/disputes/{dispute['id']}"
        nothing = await merchant.post(f"{path}/evidence", {})
        garbage = await merchant.post(
            f"{path}/evidence",
            {"documents": [{"type": "x", "content_type": "application/pdf", "content": "not base64!"}]},
        )
        huge = await merchant.post(f"{path}/evidence", {"text": {"a": "x" * 20_001}})
        unknown = await merchant.get(f"/v1/disputes/dp_{'0' * 32}")
        filtered = await merchant.get("/v1/disputes", status="angry")

    assert (nothing.status_code, nothing.json()["code"]) == (422, "validation_failed")
    assert (garbage.status_code, garbage.json()["param"]) == (422, "documents.0.content")
    assert huge.status_code == 422
    assert unknown.status_code == 404
    assert (filtered.status_code, filtered.json()["param"]) == (422, "status")
