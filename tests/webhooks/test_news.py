"""What providers say beside payments: tokens that change or die, fraud warnings, reviews and reports."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.queries import StoredMethod
from gateway.tokens import token_told
from providers.contract import CardFacts, TokenNews
from providers.sandbox.signatures import adyen_signature

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


def test_a_dead_token_is_removed_and_remembered_and_the_others_stay() -> None:
    after = token_told(method(), "stripe", news(alive=False), NOW)

    assert after is not None
    assert (after.tokens, after.dead_tokens, after.updated_at) == ({"adyen": "T"}, ["cus_1/pm_1"], NOW)


def test_what_is_told_late_of_a_dead_token_brings_nothing_back() -> None:
    dead = method(tokens={}, dead_tokens=["cus_1/pm_1"])

    assert token_told(dead, "stripe", news(card=NEWER), NOW) is None
    assert token_told(dead, "stripe", news(alive=False), NOW) is None


def test_a_replaced_card_is_shown_as_it_is_now() -> None:
    after = token_told(method(), "stripe", news(card=NEWER), NOW)

    assert after is not None
    assert after.card == {**CARD, "exp_month": 2, "exp_year": 2032}
    assert after.tokens == method().tokens


def test_of_another_number_the_first_digits_are_not_known() -> None:
    after = token_told(method(), "stripe", news(card=replace(NEWER, last4="1111")), NOW)

    assert after is not None
    assert (after.card or {})["bin"] is None
    assert (after.card or {})["last4"] == "1111"


def test_the_same_facts_are_no_news_and_a_sealed_card_stays_what_its_holder_brought() -> None:
    same = CardFacts(brand="visa", last4="4242", exp_month=1, exp_year=2027)

    assert token_told(method(), "stripe", news(card=same), NOW) is None
    assert token_told(method(sealed_card=b"card"), "stripe", news(card=NEWER), NOW) is None


def test_a_token_that_was_handed_out_just_now_is_taken() -> None:
    after = token_told(method(tokens={"adyen": "T"}), "stripe", news(), NOW)

    assert after is not None
    assert after.tokens == {"adyen": "T", "stripe": "cus_1/pm_1"}


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

    assert (first, again, revived) == ("applied", "token_not_found", "token_not_found")
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
    assert told(database, "payment_method.updated") == [after]


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
