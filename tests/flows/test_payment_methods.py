"""Payment methods and customers of their own: stored once, charged again, recognised, verified, and deleted for good."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.ids import CUSTOMER, PAYMENT_METHOD, is_id

if TYPE_CHECKING:
    import httpx

    from tests.conftest import Database, Merchant, Open, Psps

NUMBER: Final = "4242424242424242"
MASTERCARD: Final = "5555555555554444"
BILLING: Final = {"name": "Ada Lovelace", "address": {"country": "GB", "postal_code": "N1 9GU"}}


def card(number: str = NUMBER, **fields: Any) -> dict[str, Any]:
    """The body that stores a card."""
    plain = {"type": "card", "card": {"number": number, "exp_month": 12, "exp_year": 2030, "cvc": "737"}}
    return plain | fields


async def stored(merchant: Merchant, **fields: Any) -> dict[str, Any]:
    """A card that must be stored."""
    answer = await merchant.post("/v1/payment_methods", card(**fields))
    assert answer.status_code == 201, answer.text
    method: dict[str, Any] = answer.json()
    return method


async def customer_of(merchant: Merchant, **fields: Any) -> dict[str, Any]:
    answer = await merchant.post("/v1/customers", fields)
    assert answer.status_code == 201, answer.text
    customer: dict[str, Any] = answer.json()
    return customer


async def charge_with(merchant: Merchant, method: dict[str, Any], **fields: Any) -> httpx.Response:
    return await merchant.charge(payment_method_data=None, payment_method=method["id"], **fields)


def problem(answer: httpx.Response) -> tuple[int, str, str | None]:
    return answer.status_code, answer.json()["code"], answer.json()["param"]


# --- Storing and charging ---------------------------------------------------------------------------------------------


async def test_a_stored_card_is_shown_without_its_number_and_charged_at_either_account(
    open_gateway: Open, psps: Psps, database: Database
) -> None:
    async with open_gateway() as inside:
        method = await stored(inside.merchant, billing_details=BILLING, metadata={"tier": "gold"})
        nobody_asked = psps.nobody_was_asked()
        shown = (await inside.merchant.get(f"/v1/payment_methods/{method['id']}")).json()
        payments = [(await charge_with(inside.merchant, method, routing={"account": psp})).json() for psp in psps.REAL]

    assert nobody_asked
    assert is_id(method["id"], PAYMENT_METHOD)
    assert (method["object"], method["type"], method["reusable"], method["deleted"]) == (
        "payment_method",
        "card",
        True,
        False,
    )
    assert method["card"] | {"fingerprint": None} == {
        "brand": "visa",
        "bin": "424242",
        "last4": "4242",
        "exp_month": 12,
        "exp_year": 2030,
        "funding": None,
        "country": None,
        "fingerprint": None,
    }
    assert (method["billing_details"], method["metadata"], method["tokens"]) == (BILLING, {"tier": "gold"}, [])
    assert NUMBER not in json.dumps(method)
    assert shown == method
    assert [payment["status"] for payment in payments] == ["succeeded"] * 2
    assert {payment["payment_method"] for payment in payments} == {method["id"]}
    assert len(psps.charges()) == 2
    assert database.value("SELECT sealed_cvc FROM payment_method") is None


async def test_the_same_key_stores_one_method_whatever_happens_to_the_answer(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        first = await merchant.post("/v1/payment_methods", card(), key="method-1")
        again = await merchant.post("/v1/payment_methods", card(), key="method-1")
        other = await merchant.post("/v1/payment_methods", card(MASTERCARD), key="method-1")
        payment = await merchant.charge(key="method-1")
        at_once = await asyncio.gather(
            *(merchant.retried(lambda: merchant.post("/v1/payment_methods", card(), key="method-2")) for _ in range(20))
        )

    assert (first.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert problem(other) == problem(payment) == (422, "idempotency_key_reused", None)
    assert len({answer.content for answer in at_once}) == 1
    assert database.value("SELECT count(*) FROM payment_method") == 2
    assert database.value("SELECT count(*) FROM payment") == 0


async def test_tokens_are_stored_charged_at_their_account_alone_and_never_shown(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("adyen", "stripe")) as inside:
        body = {"type": "token", "tokens": {"stripe": "pm_card_visa"}}
        method = (await inside.merchant.post("/v1/payment_methods", body)).json()
        payment = (await charge_with(inside.merchant, method)).json()
        added = await inside.merchant.post(f"/v1/payment_methods/{method['id']}", {"tokens": {"adyen": "tok-adyen"}})
        wrong = await inside.merchant.post("/v1/payment_methods", body | {"tokens": {"nobody": "pm_card_visa"}})
        worse = await inside.merchant.post(f"/v1/payment_methods/{method['id']}", {"tokens": {NUMBER: "x"}})

    assert (method["tokens"], method["card"]) == (["stripe"], None)
    assert (payment["status"], payment["account"]) == ("succeeded", "stripe")
    assert psps.requests("adyen") == []
    assert added.json()["tokens"] == ["adyen", "stripe"]
    assert "tok-adyen" not in added.text
    assert problem(wrong) == problem(worse) == (422, "validation_failed", "tokens")
    assert "nobody" in wrong.json()["detail"]
    assert NUMBER not in worse.text


async def test_the_same_card_is_recognised_for_one_merchant(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        one, again, other = [await stored(merchant, number=number) for number in (NUMBER, NUMBER, MASTERCARD)]
        paid = await merchant.charged(setup_future_usage="off_session")
        await merchant.charged()
        print_ = one["card"]["fingerprint"]
        found = (await merchant.get("/v1/payment_methods", fingerprint=print_)).json()["data"]

    assert again["card"]["fingerprint"] == print_ != other["card"]["fingerprint"]
    assert len(print_) == 32
    assert other["card"]["brand"] == "mastercard"
    assert [method["id"] for method in found] == [paid["payment_method"], again["id"], one["id"]]


async def test_a_list_shows_what_may_be_charged_again_a_page_at_a_time(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        kept = [(await stored(merchant))["id"] for _ in range(3)]
        gone = await stored(merchant)
        await merchant.delete(f"/v1/payment_methods/{gone['id']}")
        await merchant.charged()  # a card for one payment
        first = (await merchant.get("/v1/payment_methods", limit=2)).json()
        second = (await merchant.get("/v1/payment_methods", limit=2, cursor=first["next_cursor"])).json()

    assert [method["id"] for method in [*first["data"], *second["data"]]] == kept[::-1]
    assert (first["has_more"], second["has_more"], second["next_cursor"]) == (True, False, None)


async def test_a_stored_cards_network_transaction_id_goes_with_a_payment_made_without_the_shopper(
    open_gateway: Open, database: Database, psps: Psps
) -> None:
    async with open_gateway(("adyen",)) as inside:
        method = await stored(inside.merchant, network_transaction_id="NTI-OF-THE-METHOD")
        sent = []
        for fields in (
            {"off_session": True},
            {"off_session": True, "network_transaction_id": "NTI-OF-THE-PAYMENT"},
            {},
        ):
            psps.fault("adyen", "authorize", "garbage", times=3)  # stays unknown, so its request is kept
            payment = (await charge_with(inside.merchant, method, **fields)).json()
            (operation,) = database.operations(payment["id"])
            request = inside.house.deps.keys.open_request(
                operation["sealed_request"], "mer_dev", operation["id"], holds_card=True
            )
            sent.append(str(request))

    assert "NTI-OF-THE-METHOD" in sent[0]
    assert "NTI-OF-THE-PAYMENT" in sent[1]
    assert "NTI-OF-THE-METHOD" not in sent[1] + sent[2]


async def test_the_openapi_examples_have_the_fields_that_are_answered(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        paths = (await inside.merchant.http.get("/openapi.json")).json()["paths"]
        answered = {
            "/v1/payment_methods/{id}": await stored(inside.merchant),
            "/v1/customers/{id}": await customer_of(inside.merchant),
        }

    for path, shown in answered.items():
        example = paths[path]["get"]["responses"]["200"]["content"]["application/json"]["example"]
        assert example.keys() == shown.keys()


# --- Deleting ---------------------------------------------------------------------------------------------------------


async def test_a_deleted_method_holds_nothing_that_could_be_charged_and_says_so(
    open_gateway: Open, psps: Psps, database: Database
) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        method = await stored(merchant, billing_details=BILLING, customer="shopper-7")
        paid = await charge_with(merchant, method, key="order-1")
        waits = (await charge_with(merchant, method, confirm=None)).json()
        path = f"/v1/payment_methods/{method['id']}"
        deleted, again = await merchant.delete(path), await merchant.delete(path)
        shown = await merchant.get(path)
        charged = await charge_with(merchant, method)
        confirmed = await merchant.post(f"/v1/payments/{waits['id']}/confirm")
        changed = await merchant.post(path, {"tokens": {"stripe": "pm_card_visa"}})
        replayed = await charge_with(merchant, method, key="order-1")
        found = (await merchant.get("/v1/payment_methods", customer="shopper-7")).json()["data"]

    (row,) = database.rows("SELECT * FROM payment_method")
    assert (row["sealed_card"], row["sealed_cvc"], row["tokens"], row["personal"]) == (None, None, {}, None)
    assert [answer.status_code for answer in (deleted, again, shown)] == [200] * 3
    assert deleted.json() == again.json() == shown.json()
    assert (shown.json()["deleted"], shown.json()["reusable"], shown.json()["billing_details"]) == (True, False, None)
    assert (shown.json()["card"]["last4"], shown.json()["card"]["fingerprint"]) == ("4242", None)
    assert problem(charged) == problem(confirmed) == (422, "validation_failed", "payment_method")
    assert problem(changed) == (422, "validation_failed", None)
    assert (replayed.content, found) == (paid.content, [])
    assert len(psps.charges()) == 1


async def test_a_card_that_waits_for_its_confirm_and_is_deleted_is_not_charged(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway() as inside:
        payment = (await inside.merchant.charge(confirm=False)).json()
        await inside.merchant.delete(f"/v1/payment_methods/{payment['payment_method']}")
        confirmed = await inside.merchant.post(f"/v1/payments/{payment['id']}/confirm")

    assert problem(confirmed) == (422, "validation_failed", "payment_method")
    assert psps.nobody_was_asked()


# --- Customers --------------------------------------------------------------------------------------------------------

PERSON: Final = {"name": "Ada Lovelace", "email": "ada@example.com", "phone": "+44 20 7946 0000"}


async def test_a_customer_is_stored_once_and_found_by_its_reference(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        body = {"reference": "c-77", "metadata": {"since": "2026"}, **PERSON}
        first = await merchant.post("/v1/customers", body, key="customer-1")
        again = await merchant.post("/v1/customers", body, key="customer-1")
        other = await customer_of(merchant)
        shown = (await merchant.get(f"/v1/customers/{first.json()['id']}")).json()
        found = (await merchant.get("/v1/customers", reference="c-77")).json()["data"]
        page = (await merchant.get("/v1/customers", limit=1)).json()

    customer = first.json()
    assert is_id(customer["id"], CUSTOMER)
    assert again.content == first.content
    assert {name: customer[name] for name in body} == body
    assert shown == customer
    assert found == [customer]
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([other["id"]], True)


async def test_a_customers_method_is_charged_for_that_customer_alone(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("adyen",)) as inside:
        merchant = inside.merchant
        ours, others = await customer_of(merchant), await customer_of(merchant)
        method = await stored(merchant, customer=ours["id"])
        named = await charge_with(merchant, method, customer=ours["id"])
        silent = await charge_with(merchant, method)
        stranger = await charge_with(merchant, method, customer=others["id"])
        waits = (await merchant.charge(payment_method_data=None, confirm=None)).json()
        confirmed = await merchant.post(f"/v1/payments/{waits['id']}/confirm", {"payment_method": method["id"]})
        shown = await merchant.payment(waits["id"])
        moved = await merchant.post(f"/v1/payment_methods/{method['id']}", {"customer": others["id"]})

    assert (named.status_code, silent.status_code, confirmed.status_code) == (201, 201, 200)
    assert [each["customer"] for each in (named.json(), silent.json(), shown)] == [ours["id"]] * 3
    assert problem(stranger) == problem(moved) == (422, "validation_failed", "customer")
    assert len(psps.charges()) == 3


async def test_a_method_is_attached_to_a_customer_once(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        customer, method = await customer_of(merchant), await stored(merchant)
        path = f"/v1/payment_methods/{method['id']}"
        attached = [await merchant.post(path, {"customer": customer["id"]}) for _ in range(2)]
        nobody = await merchant.post(path, {"customer": "cus_" + "0" * 32})
        listed = (await merchant.get("/v1/payment_methods", customer=customer["id"])).json()["data"]
        kept = await merchant.charged(customer=customer["id"], setup_future_usage="off_session")
        once = await merchant.charged(customer=customer["id"])
        after = (await merchant.get("/v1/payment_methods", customer=customer["id"])).json()["data"]
        of_one_payment = await merchant.post(f"/v1/payment_methods/{once['payment_method']}", {"customer": "c-1"})

    assert [answer.json()["customer"] for answer in attached] == [customer["id"]] * 2
    assert problem(nobody) == (422, "validation_failed", "customer")
    assert [each["id"] for each in listed] == [method["id"]]
    assert [each["id"] for each in after] == [kept["payment_method"], method["id"]]
    assert problem(of_one_payment) == (422, "validation_failed", None)


async def test_a_customer_of_ours_must_be_there_and_any_other_text_is_the_merchants_own(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        missing = "cus_" + "0" * 32
        refused = [
            await merchant.charge(customer=missing),
            await merchant.charge(customer=missing, confirm=False),
            await merchant.post("/v1/payment_methods", card(customer=missing)),
        ]
        taken = [await merchant.charge(customer=text) for text in ("shopper-7", "cus_7", "cus_stripe")]

    assert {problem(answer) for answer in refused} == {(422, "validation_failed", "customer")}
    assert [answer.status_code for answer in taken] == [201] * 3


async def test_a_deleted_customer_leaves_no_personal_data_and_no_method_behind(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        customer = await customer_of(merchant, reference="c-77", metadata={"note": "calls on Mondays"}, **PERSON)
        method = await stored(merchant, customer=customer["id"], billing_details=BILLING)
        spare = await stored(merchant)
        paid = await charge_with(merchant, method, key="order-1")
        path = f"/v1/customers/{customer['id']}"
        deleted, again, shown = await merchant.delete(path), await merchant.delete(path), await merchant.get(path)
        charged = await charge_with(merchant, method)
        named = await merchant.charge(customer=customer["id"])
        replayed = await charge_with(merchant, method, key="order-1")
        listed = (await merchant.get("/v1/customers")).json()["data"]
        others = (await merchant.get("/v1/payment_methods")).json()["data"]

    rows = json.dumps(database.rows("SELECT * FROM customer"), default=str)
    methods = json.dumps(database.rows("SELECT * FROM payment_method"), default=str)
    assert [answer.json() for answer in (deleted, again)] == [shown.json()] * 2
    assert shown.json()["deleted"] is True
    assert [shown.json()[name] for name in (*PERSON, "reference", "metadata")] == [None, None, None, "c-77", {}]
    assert [text for text in (*PERSON.values(), "Mondays") if text in rows + methods] == []
    assert problem(charged) == (422, "validation_failed", "payment_method")
    assert problem(named) == (422, "validation_failed", "customer")
    assert replayed.content == paid.content
    assert (listed, [each["id"] for each in others]) == ([], [spare["id"]])


# --- Verifying --------------------------------------------------------------------------------------------------------


at_each = pytest.mark.parametrize("psp", ["stripe", "adyen"])
LOST: Final = {"stripe": {"number": "4000000000009987"}, "adyen": {"holder": "BLOCK_CARD"}}
CHALLENGED: Final = {"stripe": "4000000000003220", "adyen": "5454545454545454"}


def verify(psp: str, number: str = NUMBER, holder: str | None = None, **fields: Any) -> dict[str, Any]:
    body = card(number, verify=True, currency="EUR", routing={"account": psp}, **fields)
    return body | {"card": body["card"] | ({"holder_name": holder} if holder else {})}


@at_each
async def test_a_verified_card_is_stored_and_no_money_moves(
    psp: str, open_gateway: Open, psps: Psps, database: Database
) -> None:
    async with open_gateway() as inside:
        merchant = inside.merchant
        body = verify(psp, customer="shopper-7")
        answer = await merchant.post("/v1/payment_methods", body, key="method-1")
        again = await merchant.post("/v1/payment_methods", body, key="method-1")
        method = answer.json()
        shown = (await merchant.get(f"/v1/payment_methods/{method['id']}")).json()
        (listed,) = (await merchant.get("/v1/payment_methods")).json()["data"]
        payment = await merchant.payment(method["verification"]["payment"])
        payments = (await merchant.get("/v1/payments")).json()["data"]
        refund = await merchant.post("/v1/refunds", {"payment": payment["id"]})
        confirm = await merchant.post(f"/v1/payments/{payment['id']}/confirm")
        moved = [entry["amount"] for entry in psps.charges() if entry["amount"]]
        later = await charge_with(merchant, method, off_session=True, customer="shopper-7", routing={"account": psp})

    assert (answer.status_code, method["verification"]["status"]) == (201, "succeeded"), answer.text
    assert method["verification"] == {
        "payment": payment["id"],
        "status": "succeeded",
        "account": psp,
        "next_action": None,
        "decline": None,
    }
    assert (again.content, again.headers["Idempotent-Replayed"]) == (answer.content, "true")
    assert shown["verification"] == listed["verification"] == method["verification"]
    assert shown == method
    assert (shown["tokens"], shown["card"]["funding"]) == ([psp], "credit")
    assert (payment["amount"], payment["status"], payment["payment_method"]) == (0, "succeeded", method["id"])
    assert (payments, moved) == ([], [])
    assert problem(refund) == problem(confirm) == (409, "payment_state", None)
    assert later.json()["status"] == "succeeded"
    (row,) = database.rows("SELECT sealed_card IS NOT NULL AS card, sealed_cvc FROM payment_method")
    assert row == {"card": True, "sealed_cvc": None}


@at_each
async def test_a_declined_verification_says_why_and_the_card_stays_stored(psp: str, open_gateway: Open) -> None:
    async with open_gateway() as inside:
        body = verify(psp, **LOST[psp])
        answer = await inside.merchant.post("/v1/payment_methods", body, key="method-1")
        again = await inside.merchant.post("/v1/payment_methods", body, key="method-1")
        shown = (await inside.merchant.get(f"/v1/payment_methods/{answer.json()['id']}")).json()

    assert (answer.status_code, answer.json()["object"]) == (402, "payment_method"), answer.text
    assert answer.json()["verification"]["status"] == "failed"
    assert answer.json()["verification"]["decline"]["type"] == "hard"
    assert again.content == answer.content
    assert (shown["verification"]["status"], shown["reusable"]) == ("failed", True)


@at_each
async def test_a_verification_whose_answer_is_lost_is_settled_under_its_key_with_one_method(
    psp: str, open_gateway: Open, psps: Psps, database: Database
) -> None:
    psps.fault(psp, "authorize", "garbage", times=3)

    async with open_gateway() as inside:
        first = await inside.merchant.post("/v1/payment_methods", verify(psp), key="method-1")
        for _ in range(3):
            await inside.work()
        again = await inside.merchant.post("/v1/payment_methods", verify(psp), key="method-1")
        replayed = await inside.merchant.post("/v1/payment_methods", verify(psp), key="method-1")

    assert (first.status_code, first.json()["verification"]["status"]) == (202, "processing"), first.text
    assert first.headers["Location"] == f"/v1/payment_methods/{first.json()['id']}"
    assert (again.status_code, again.json()["verification"]["status"]) == (201, "succeeded")
    assert again.json()["id"] == first.json()["id"]
    assert replayed.content == again.content
    assert database.value("SELECT count(*) FROM payment_method") == 1


@at_each
async def test_a_verification_that_the_bank_wants_to_see_the_shopper_for_ends_when_they_come_back(
    psp: str, open_gateway: Open, psps: Psps
) -> None:
    body = verify(psp, CHALLENGED[psp], return_url="https://shop.example/back")

    async with open_gateway() as inside:
        merchant = inside.merchant
        answer = await merchant.post("/v1/payment_methods", body, key="method-1")
        returned = await merchant.come_back(await psps.visit(answer.json()["verification"], "succeeded"))
        again = await merchant.post("/v1/payment_methods", body, key="method-1")

    assert (answer.status_code, answer.json()["verification"]["status"]) == (201, "requires_action"), answer.text
    assert returned.status_code == 303, returned.text
    assert (again.status_code, again.json()["id"]) == (201, answer.json()["id"])
    assert (again.json()["verification"]["status"], again.json()["verification"]["next_action"]) == ("succeeded", None)


async def test_a_verification_that_no_account_can_make_stores_nothing(
    open_gateway: Open, database: Database, psps: Psps
) -> None:
    async with open_gateway() as inside:
        answer = await inside.merchant.post("/v1/payment_methods", verify("nobody"))

    assert problem(answer) == (422, "no_eligible_account", "routing.account")
    assert set(database.row_counts().values()) == {0}
    assert psps.nobody_was_asked()


async def test_without_a_vault_key_no_card_is_stored(open_gateway: Open) -> None:
    async with open_gateway(vault_key=None) as inside:
        answer = await inside.merchant.post("/v1/payment_methods", card())
        token = await inside.merchant.post(
            "/v1/payment_methods", {"type": "token", "tokens": {"stripe": "pm_card_visa"}}
        )

    assert problem(answer) == (422, "card_not_accepted", "card.number")
    assert token.status_code == 201
