"""What providers say beside payments: tokens that change or die, fraud warnings, reviews and reports."""

from __future__ import annotations

import asyncio
import base64
import copy
import hashlib
import hmac
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from psycopg.types.json import Jsonb

from gateway import news as news_of_events
from gateway.methods import ERASABLE
from gateway.queries import StoredMethod
from gateway.tokens import shows_more, token_told
from providers.contract import (
    Approved,
    CardFacts,
    DisputeNews,
    DisputeStatus,
    Event,
    Kind,
    Notice,
    NoticeKind,
    TokenNews,
)
from providers.money import Money
from providers.sandbox.signatures import adyen_signature
from webhooks.inbox import Applied

if TYPE_CHECKING:
    from tests.conftest import Database, Inside, Kit, Open

NOW: Final = datetime(2026, 11, 22, tzinfo=UTC)
CARD: Final = {"brand": "visa", "bin": "424242", "last4": "4242", "exp_month": 1, "exp_year": 2027}
NEWER: Final = CardFacts(brand="visa", last4="4242", exp_month=2, exp_year=2032)
numbers: Final = itertools.count(1)


# --- One decision -------------------------------------------------------------------------------------------------------


def method(**changes: Any) -> StoredMethod:
    plain = StoredMethod(
        "pm_1", {"stripe": "cus_1/pm_1", "adyen": "T"}, None, None, CARD, reusable=True, type="card", created_at=NOW
    )
    return replace(plain, **changes)


def news(*, alive: bool = True, card: CardFacts | None = None, name: str = "cus_1/pm_1") -> TokenNews:
    return TokenNews((name, name.rpartition("/")[2]), alive, card)


def heard(stored: StoredMethod, said: TokenNews, at: datetime = NOW, *, account: str = "stripe") -> StoredMethod:
    """The method once it was told."""
    return token_told(stored, account, said, at, NOW) or stored


def test_a_dead_token_is_removed_and_remembered_and_the_others_stay() -> None:
    after = heard(method(), news(alive=False))

    assert (after.tokens, after.updated_at) == ({"adyen": "T"}, NOW)
    assert after.dead_tokens == ["cus_1/pm_1", "pm_1"]


def test_what_is_told_late_of_a_dead_token_brings_nothing_back() -> None:
    dead = heard(method(), news(alive=False))

    assert heard(dead, news()) == dead
    assert heard(dead, news(alive=False)) == dead


def test_a_token_that_dies_before_it_was_handed_out_is_never_taken() -> None:
    dead = heard(method(tokens={}), news(alive=False))

    assert (shows_more(method(tokens={}), dead), dead.updated_at) == (False, None)
    assert heard(dead, news()).tokens == {}


def test_a_replaced_card_is_shown_as_it_is_now() -> None:
    after = heard(method(), news(card=NEWER))

    assert after.card == {**CARD, "exp_month": 2, "exp_year": 2032}
    assert (after.tokens, after.card_told_at) == (method().tokens, NOW)


def test_of_another_number_the_first_digits_are_not_known() -> None:
    after = heard(method(), news(card=replace(NEWER, last4="1111")))

    assert (after.card or {})["bin"] is None
    assert (after.card or {})["last4"] == "1111"


def test_the_same_facts_show_nothing_and_what_is_older_than_they_are_does_not_win_later() -> None:
    same = CardFacts(brand="visa", last4="4242", exp_month=1, exp_year=2027)
    after = heard(method(), news(card=same))

    assert not shows_more(method(), after)
    assert after.updated_at is None
    assert heard(after, news(card=NEWER), NOW - timedelta(seconds=1)) == after


def test_a_sealed_card_stays_what_its_holder_brought() -> None:
    assert token_told(method(sealed_card=b"card"), "stripe", news(card=NEWER), NOW, NOW) is None


def test_a_token_that_was_handed_out_just_now_is_taken_where_the_account_has_none() -> None:
    assert heard(method(tokens={"adyen": "T"}), news()).tokens == {"adyen": "T", "stripe": "cus_1/pm_1"}
    assert token_told(method(), "stripe", news(name="cus_1/pm_2", card=NEWER), NOW, NOW) is None


OLD: Final = CardFacts(brand="visa", last4="4242", exp_month=1, exp_year=2027)
REPLACED: Final = replace(NEWER, last4="1111", exp_year=2035)
TOLD: Final = {
    # seconds of the provider's clock, and what it said then
    "stripe": (
        (0, news(card=OLD)),
        (1, news(card=NEWER)),
        (1, news(card=REPLACED)),
        (2, news(card=REPLACED)),
        (3, news(alive=False)),
    ),
    "adyen": ((0, news(name="S/T")), (1, news(name="S/T")), (1, news(name="S/T")), (2, news(name="S/T", alive=False))),
}


@pytest.mark.parametrize("account", TOLD)
def test_whatever_order_is_told_of_a_token_the_same_method_is_left(account: str, proved: Callable[[str], None]) -> None:
    ends, orders = set(), 0
    for order in itertools.permutations(TOLD[account]):
        for said in (order, [*order, *order], [*order, *reversed(order)]):
            stored = method(tokens={"stripe": "cus_1/pm_1"} if account == "stripe" else {})
            for at, each in said:
                stored = heard(stored, each, NOW + timedelta(seconds=at), account=account)
            ends.add(str((stored.tokens, stored.dead_tokens, stored.card, stored.card_told_at)))
            orders += 1

    assert len(ends) == 1, ends
    proved(f"orders of what {account} tells of a token: {orders}, one end")


# --- In the house -------------------------------------------------------------------------------------------------------


def by_stripe(flow: type[Kit], kind: str, obj: Mapping[str, Any], before: Any = None) -> tuple[bytes, dict[str, str]]:
    data = {"object": obj} | ({} if before is None else {"previous_attributes": before})
    body = json.dumps(
        {
            "id": f"evt_{next(numbers)}",
            "object": "event",
            "type": kind,
            "created": 1_780_000_000,
            "livemode": False,
            "data": data,
        }
    ).encode()
    return body, flow.signed(body)


def by_adyen(flow: type[Kit], code: str, extra: Any = None, **changes: Any) -> tuple[bytes, dict[str, str]]:
    item = {
        "eventCode": code,
        "success": "true",
        "pspReference": f"PSP{next(numbers)}",
        "merchantReference": "",
        "merchantAccountCode": flow.MERCHANT_ACCOUNT,
        "amount": {"value": 1999, "currency": "EUR"},
        "eventDate": "2026-11-21T09:30:00+01:00",
    } | changes
    signature = adyen_signature(item, flow.SECRETS["FLOWS_ADYEN_HMAC_KEY"])
    item["additionalData"] = {**(extra or {}), "hmacSignature": signature}
    return json.dumps({"live": "false", "notificationItems": [{"NotificationRequestItem": item}]}).encode(), {}


def of_token(flow: type[Kit], kind: str, token: str, payment: str = "PSP1") -> tuple[bytes, dict[str, str]]:
    shopper, _, stored = token.partition("/")
    data = {"merchantAccount": flow.MERCHANT_ACCOUNT, "storedPaymentMethodId": stored, "shopperReference": shopper}
    body = json.dumps(
        {
            "type": f"recurring.token.{kind}",
            "eventId": payment,
            "environment": "test",
            "createdAt": f"2026-11-21T10:00:{next(numbers) % 60:02}+01:00",
            "data": data | {"type": "visa", "operation": kind},
        }
    ).encode()
    digest = hmac.new(bytes.fromhex(flow.SECRETS["FLOWS_ADYEN_HMAC_KEY"]), body, hashlib.sha256).digest()
    return body, {"HmacSignature": base64.b64encode(digest).decode()}


async def hear(inside: Inside, psp: str, told: tuple[bytes, dict[str, str]]) -> str:
    """Store and apply a webhook of one event, as its endpoint does; what became of it."""
    account = inside.house.deps.accounts[psp]
    (received,) = await inside.house.inbox.receive(account, told[1], told[0])
    return await inside.house.inbox.apply(received)


async def kept(inside: Inside, tokens: Mapping[str, str]) -> dict[str, Any]:
    answer = await inside.merchant.post("/v1/payment_methods", {"type": "token", "tokens": dict(tokens)})
    assert answer.status_code == 201, answer.text
    stored: dict[str, Any] = answer.json()
    return stored


async def shown(inside: Inside, method_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await inside.merchant.get(f"/v1/payment_methods/{method_id}")).json()
    return found


def without(shown: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in shown.items() if name not in names}


def told(database: Database, type_: str) -> list[dict[str, Any]]:
    rows = database.rows("SELECT body FROM event WHERE type = %(type)s ORDER BY id", type=type_)
    return [json.loads(row["body"])["data"] for row in rows]


DETACHED: Final = {"id": "pm_1", "object": "payment_method", "customer": None}


async def test_a_detached_method_is_charged_at_that_account_no_more(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        both = await kept(inside, {"stripe": "cus_1/pm_1", "adyen": "shopper/T1"})
        bare = await kept(inside, {"stripe": "pm_1"})
        other = await kept(inside, {"stripe": "cus_1/pm_2"})
        said = by_stripe(flow, "payment_method.detached", DETACHED, {"customer": "cus_1"})
        first = await hear(inside, "stripe", said)
        again = await hear(
            inside, "stripe", by_stripe(flow, "payment_method.detached", DETACHED, {"customer": "cus_1"})
        )
        late = by_stripe(
            flow, "payment_method.attached", {"id": "pm_1", "object": "payment_method", "customer": "cus_1"}
        )
        revived = await hear(inside, "stripe", late)
        after = [await shown(inside, each["id"]) for each in (both, bare, other)]

    assert (first, again, revived) == ("applied", "no_news", "no_news")
    assert [each["tokens"] for each in after] == [["adyen"], [], ["stripe"]]
    assert sorted(each["id"] for each in told(database, "payment_method.updated")) == sorted([both["id"], bare["id"]])
    assert told(database, "payment_method.updated")[0]["updated"] == after[0]["updated"] == after[1]["updated"]


async def test_a_dead_token_that_is_not_known_yet_dies_when_it_is(open_gateway: Open, flow: type[Kit]) -> None:
    """The answer that hands it out may be slower than the news of its end."""
    async with open_gateway() as inside:
        early = await hear(inside, "adyen", of_token(flow, "disabled", "shopper/T1"))
        method = await kept(inside, {"adyen": "shopper/T1"})
        await inside.work()
        after = await shown(inside, method["id"])

    assert (early, after["tokens"]) == ("token_not_found", [])


async def test_the_network_replaces_a_card(open_gateway: Open, database: Database, flow: type[Kit]) -> None:
    obj = {
        "id": "pm_1",
        "object": "payment_method",
        "customer": "cus_1",
        "card": {"brand": "visa", "last4": "1111", "exp_year": 2033},
    }
    async with open_gateway() as inside:
        method = await kept(inside, {"stripe": "cus_1/pm_1"})
        results = [
            await hear(inside, "stripe", by_stripe(flow, "payment_method.automatically_updated", obj)) for _ in range(2)
        ]
        after = await shown(inside, method["id"])

    assert results == ["applied", "no_news"]
    assert (after["card"]["last4"], after["card"]["exp_year"], after["tokens"]) == ("1111", 2033, ["stripe"])
    assert told(database, "payment_method.updated") == [without(after, *ERASABLE)]


async def test_a_token_that_the_answer_did_not_show_is_learned_from_its_webhook_and_never_after_its_end(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway(("adyen",)) as inside:
        stored = (await inside.merchant.post("/v1/payment_methods", flow.card())).json()
        charge = {"payment_method": stored["id"], "payment_method_data": None, "setup_future_usage": "off_session"}
        payment = await inside.merchant.charged(**charge)
        database.rows("UPDATE payment_method SET tokens = '{}'")
        psp = payment["provider_payment_id"]
        created = await hear(inside, "adyen", of_token(flow, "created", "shopper/T7", psp))
        learned = await shown(inside, stored["id"])
        disabled = await hear(inside, "adyen", of_token(flow, "disabled", "shopper/T7", psp))
        late = await hear(inside, "adyen", of_token(flow, "created", "shopper/T7", psp))
        after = await shown(inside, stored["id"])

    assert (created, disabled, late) == ("applied", "applied", "no_news")
    assert (learned["tokens"], after["tokens"]) == (["adyen"], [])


@pytest.mark.parametrize("psp", TOLD)
async def test_whatever_order_tokens_are_told_of_in_the_house_the_same_method_is_left(
    psp: str, open_gateway: Open, database: Database, flow: type[Kit], proved: Callable[[str], None]
) -> None:
    async with open_gateway((psp,)) as inside:
        deps = inside.house.deps
        stored = (await inside.merchant.post("/v1/payment_methods", flow.card())).json()
        charge = {"payment_method": stored["id"], "payment_method_data": None, "setup_future_usage": "off_session"}
        there = (await inside.merchant.charged(**charge))["provider_payment_id"]
        database.rows("UPDATE payment_method SET sealed_card = NULL, sealed_cvc = NULL")
        tokens = {"stripe": "cus_1/pm_1"} if psp == "stripe" else {}
        orders, ends = list(itertools.permutations(TOLD[psp][:1] + TOLD[psp][-3:])), set()
        for order in orders:
            database.rows(
                "UPDATE payment_method SET tokens = %(tokens)s, card = %(card)s, dead_tokens = NULL, card_told_at = NULL",
                tokens=Jsonb(tokens),
                card=Jsonb(CARD),
            )
            for at, said in [*order, *order]:
                event = Event(
                    "evt", "X", provider_payment_id=there, occurred_at=NOW + timedelta(seconds=at), token=said
                )
                applied = await news_of_events.apply(psp, event, deps)
                assert applied.result in {"applied", "no_news"}
            ends.add(str(database.rows("SELECT tokens, dead_tokens, card, card_told_at FROM payment_method")))

    assert len(ends) == 1, ends
    proved(f"orders of what {psp} tells of a token, in the house: {len(orders)}, one end")


async def test_erasing_a_customer_leaves_no_name_in_what_was_told(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    secrets = {"name": "Ada Lovelace", "email": "ada@example.com"}
    async with open_gateway() as inside:
        merchant = inside.merchant
        customer = (await merchant.post("/v1/customers", {"name": secrets["name"]})).json()
        fields = {"customer": customer["id"], "billing_details": secrets, "metadata": {"ring": "ada's bell"}}
        answer = await merchant.post(
            "/v1/payment_methods", {"type": "token", "tokens": {"stripe": "cus_1/pm_1"}} | fields
        )
        obj = {"id": "pm_1", "object": "payment_method", "customer": "cus_1", "card": {"brand": "visa", "last4": "1"}}
        heard_of = await hear(inside, "stripe", by_stripe(flow, "payment_method.updated", obj))
        await merchant.delete(f"/v1/customers/{customer['id']}")

    assert (answer.status_code, heard_of) == (201, "applied"), answer.text
    assert answer.json()["billing_details"]["name"] == secrets["name"]
    (event,) = told(database, "payment_method.updated")
    assert event.keys() == answer.json().keys() - set(ERASABLE)
    rows = b"".join(bytes(row["body"]) for row in database.rows("SELECT body FROM event"))
    assert not [word for word in (*secrets.values(), "ada's bell") if word.encode() in rows]


async def test_another_merchants_methods_and_deleted_ones_are_left_alone(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        theirs = await kept(inside, {"stripe": "cus_1/pm_1"})
        gone = await kept(inside, {"stripe": "cus_1/pm_1"})
        database.rows("UPDATE payment_method SET merchant_id = 'mer_other' WHERE id = %(id)s", id=theirs["id"])
        await inside.merchant.delete(f"/v1/payment_methods/{gone['id']}")
        result = await hear(
            inside, "stripe", by_stripe(flow, "payment_method.detached", DETACHED, {"customer": "cus_1"})
        )

    assert result == "token_not_found"
    assert database.value("SELECT tokens FROM payment_method WHERE id = %(id)s", id=theirs["id"]) == {
        "stripe": "cus_1/pm_1"
    }
    assert told(database, "payment_method.updated") == []


WARNED: Final = [
    ("stripe", "payment.fraud_warning"),
    ("adyen", "payment.fraud_warning"),
    ("adyen", "payment.review_closed"),
]


@pytest.mark.parametrize(("psp", "type_"), WARNED)
async def test_what_is_told_about_a_payment_is_kept_and_told_once(
    psp: str, type_: str, open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        payment = await inside.merchant.charged(routing={"account": psp})
        at_psp = payment["provider_payment_id"]

        def said() -> tuple[bytes, dict[str, str]]:
            if psp == "stripe":
                warning = {
                    "id": "issfr_1",
                    "object": "radar.early_fraud_warning",
                    "charge": "ch_1",
                    "fraud_type": "misc",
                }
                return by_stripe(flow, "radar.early_fraud_warning.created", warning | {"payment_intent": at_psp})
            code = "NOTIFICATION_OF_FRAUD" if type_ == "payment.fraud_warning" else "MANUAL_REVIEW_REJECT"
            return by_adyen(
                flow,
                code,
                originalReference=at_psp,
                pspReference="NOTICE1",
                reason="misc",
                eventDate=f"2026-11-21T09:30:{next(numbers) % 60:02}+01:00",
            )

        results = [await hear(inside, psp, said()) for _ in range(3)]
        after = await inside.merchant.payment(payment["id"])

    assert results == ["applied", "no_news", "no_news"]
    assert after == payment
    (event,) = told(database, type_)
    assert (event["object"], event["payment"], event["account"]) == ("notice", payment["id"], psp)
    assert event["reason"] == ("rejected" if type_ == "payment.review_closed" else "misc")
    assert database.value("SELECT count(*) FROM notice") == 1


async def test_a_review_is_told_when_it_opens_and_when_it_closes(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        payment = await inside.merchant.charged(routing={"account": "stripe"})
        review = {"id": "prv_1", "object": "review", "reason": "rule", "payment_intent": payment["provider_payment_id"]}
        for kind, closed in (("closed", "approved"), ("opened", None)):  # in whatever order
            await hear(inside, "stripe", by_stripe(flow, f"review.{kind}", review | {"closed_reason": closed}))

    assert [each["reason"] for each in told(database, "payment.review_opened")] == ["rule"]
    assert [each["reason"] for each in told(database, "payment.review_closed")] == ["approved"]


async def test_a_warning_about_a_payment_that_is_not_known_waits_for_it(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    async with open_gateway() as inside:
        early = await hear(inside, "adyen", by_adyen(flow, "NOTIFICATION_OF_FRAUD", originalReference="NOBODY"))

    assert early == "operation_not_found"
    assert database.value("SELECT due_at IS NOT NULL FROM webhook_inbox")
    assert (database.value("SELECT count(*) FROM notice"), told(database, "payment.fraud_warning")) == (0, [])


async def test_an_account_that_was_given_to_another_merchant_tells_it_nothing_of_what_was_before(
    open_gateway: Open, database: Database
) -> None:
    """Old payments of the account stay their own merchant's, and so does what becomes of them."""
    async with open_gateway(("stripe",)) as inside:
        payment = await inside.merchant.charged(capture_method="manual")
        at, deps = payment["provider_payment_id"], inside.house.deps
        account = copy.copy(deps.accounts["stripe"])
        account.merchant = "mer_other"
        given = replace(deps, accounts={"stripe": account})
        about: list[dict[str, Any]] = [
            {"notice": Notice(NoticeKind.FRAUD_WARNING, "issfr_1", reason="fraud")},
            {"dispute": DisputeNews("du_1", DisputeStatus.NEEDS_RESPONSE, Money(1999, "EUR"))},
            {"kind": Kind.VOID, "outcome": Approved(at, Money(1999, "EUR")), "provider_id": at},
        ]
        results = [
            await news_of_events.apply("stripe", Event(f"e{n}", "told", provider_payment_id=at, **said), given)
            for n, said in enumerate(about)
        ]
        after = await inside.merchant.payment(payment["id"])

    assert results == [Applied("operation_not_found")] * 3, "it waits for nothing: that payment will never be there"
    assert after["status"] == "requires_capture"
    assert database.value("SELECT count(*) FROM event WHERE merchant_id = 'mer_other'") == 0


async def test_a_report_is_kept_with_where_it_lies(open_gateway: Open, database: Database, flow: type[Kit]) -> None:
    url = "https://ca-test.adyen.com/reports/download/MerchantAccount/x/settlement_detail_report_batch_1.csv"
    report = {"pspReference": "settlement_detail_report_batch_1.csv", "reason": url}
    async with open_gateway() as inside:
        results = await asyncio.gather(
            *(
                hear(
                    inside,
                    "adyen",
                    by_adyen(flow, "REPORT_AVAILABLE", eventDate=f"2026-11-21T09:3{n}:00+01:00", **report),
                )
                for n in range(8)
            )
        )

    assert sorted(results) == ["applied", *["no_news"] * 7]
    (event,) = told(database, "report.available")
    assert (event["provider_notice_id"], event["report_url"], event["payment"]) == (report["pspReference"], url, None)
    assert database.value("SELECT count(*) FROM notice") == 1
