"""The simulated Stripe as its official SDK sees it."""

import json
from functools import partial
from importlib.resources import files
from typing import Any

import pytest
import stripe

from providers.sandbox.stripe_account import StripeAccount


def declined(sandbox: Any, **params: Any) -> Any:
    with pytest.raises(stripe.CardError) as caught:
        sandbox.charge(**params)
    return caught.value


def refused(action: Any, *args: Any) -> Any:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        action(*args)
    return caught.value


def test_an_ordinary_card_is_charged_at_once(sandbox: Any) -> None:
    intent = sandbox.charge(expand=["latest_charge"])

    assert (intent.status, intent.amount_received, intent.currency) == ("succeeded", 1999, "eur")
    card = intent.latest_charge.payment_method_details.card
    assert (card.brand, card.last4, card.checks.cvc_check) == ("visa", "4242", "pass")
    assert card.network_transaction_id
    assert intent.last_response.headers["Request-Id"].startswith("req_")


def test_latest_charge_is_an_id_unless_expanded(sandbox: Any) -> None:
    assert sandbox.charge().latest_charge.startswith("ch_")


def test_a_card_number_becomes_a_payment_method(sandbox: Any) -> None:
    card = {"number": "5555555555554444", "exp_month": 12, "exp_year": 2034, "cvc": "123"}
    method = sandbox.stripe.v1.payment_methods.create({"type": "card", "card": card})

    intent = sandbox.charge(payment_method=method.id, expand=["latest_charge"])

    assert (method.card.brand, method.card.last4) == ("mastercard", "4444")
    assert sandbox.stripe.v1.payment_methods.retrieve(method.id).id == method.id
    assert intent.latest_charge.payment_method_details.card.last4 == "4444"


@pytest.mark.parametrize(
    ("card", "code", "param"),
    [
        ({"number": "4242424242424241"}, "incorrect_number", "number"),
        ({"exp_year": 2019}, "invalid_expiry_year", "exp_year"),
        ({"exp_month": 13}, "invalid_expiry_month", "exp_month"),
        ({"cvc": "1"}, "invalid_cvc", "cvc"),
    ],
)
def test_an_impossible_card_is_refused_when_it_is_tokenized(
    sandbox: Any, card: dict[str, Any], code: str, param: str
) -> None:
    good = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2034, "cvc": "123"}

    with pytest.raises(stripe.CardError) as caught:
        sandbox.stripe.v1.payment_methods.create({"type": "card", "card": good | card})

    assert (caught.value.code, caught.value.param) == (code, param)


def test_a_decline_carries_the_whole_story(sandbox: Any) -> None:
    error = declined(sandbox, payment_method="pm_card_visa_chargeDeclinedInsufficientFunds")

    assert error.http_status == 402
    assert error.code == "card_declined"
    assert error.error.decline_code == "insufficient_funds"
    assert error.error.advice_code == "try_again_later"
    assert error.error.charge.startswith("ch_")
    assert error.error.payment_intent.status == "requires_payment_method"
    assert error.error.payment_intent.last_payment_error.decline_code == "insufficient_funds"


@pytest.mark.parametrize(
    ("token", "code", "decline_code"),
    [
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedLostCard", "card_declined", "lost_card"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", None),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", None),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", None),
        ("pm_card_radarBlock", "card_declined", "fraudulent"),
        ("pm_card_chargeCustomerFail", "card_declined", "generic_decline"),
    ],
)
def test_documented_test_cards_decline_as_documented(
    sandbox: Any, token: str, code: str, decline_code: str | None
) -> None:
    error = declined(sandbox, payment_method=token)

    assert (error.code, error.error.decline_code) == (code, decline_code)
    assert sandbox.books("stripe")["authorisations"] == []
    assert len(sandbox.books("stripe")["declines"]) == 1


def test_a_declined_intent_can_be_confirmed_with_another_card(sandbox: Any) -> None:
    error = declined(sandbox, payment_method="pm_card_visa_chargeDeclined")

    intent = sandbox.stripe.v1.payment_intents.confirm(
        error.error.payment_intent.id, {"payment_method": "pm_card_visa"}
    )

    assert intent.status == "succeeded"
    assert intent.last_payment_error is None


def test_create_and_confirm_in_two_calls(sandbox: Any) -> None:
    intents = sandbox.stripe.v1.payment_intents
    intent = sandbox.charge(confirm=None, payment_method=None)
    assert intent.status == "requires_payment_method"
    assert sandbox.books("stripe")["authorisations"] == []

    intents.confirm(intent.id, {"payment_method": "pm_card_visa"}, {"idempotency_key": "c-1"})

    entry = sandbox.books("stripe")["authorisations"][0]
    assert intents.retrieve(intent.id).status == "succeeded"
    assert (entry["reference"], entry["key"]) == ("op-1", "c-1")
    error = refused(intents.confirm, intent.id, {"payment_method": "pm_card_visa"})
    assert error.code == "payment_intent_unexpected_state"


def test_a_partial_capture_releases_the_rest(sandbox: Any) -> None:
    intents = sandbox.stripe.v1.payment_intents
    intent = sandbox.charge(capture_method="manual")
    assert (intent.status, intent.amount_capturable) == ("requires_capture", 1999)

    captured = intents.capture(intent.id, {"amount_to_capture": 1500, "metadata": {"operation": "op-2"}})

    assert (captured.status, captured.amount_received) == ("succeeded", 1500)
    assert captured.amount_capturable == 0
    entry = sandbox.books("stripe", reference="op-2")["captures"][0]
    assert (entry["amount"], entry["payment_reference"]) == (1500, "op-1")
    error = refused(intents.capture, intent.id)
    assert error.code == "payment_intent_unexpected_state"
    assert error.error.payment_intent.id == intent.id


def test_no_more_is_captured_than_was_authorised(sandbox: Any) -> None:
    intent = sandbox.charge(capture_method="manual")

    error = refused(sandbox.stripe.v1.payment_intents.capture, intent.id, {"amount_to_capture": 2000})

    assert (error.code, error.param) == ("amount_too_large", "amount_to_capture")
    assert sandbox.books("stripe")["captures"] == []


def test_a_cancelled_authorisation_is_void(sandbox: Any) -> None:
    intents = sandbox.stripe.v1.payment_intents
    intent = sandbox.charge(capture_method="manual")

    canceled = intents.cancel(intent.id, {"cancellation_reason": "requested_by_customer"})

    assert (canceled.status, canceled.cancellation_reason) == ("canceled", "requested_by_customer")
    books = sandbox.books("stripe")
    assert [entry["amount"] for entry in books["voids"]] == [1999]
    assert books["authorisations"][0]["status"] == "voided"
    assert refused(intents.cancel, intent.id).code == "payment_intent_unexpected_state"
    assert refused(intents.capture, intent.id).code == "payment_intent_unexpected_state"


def test_a_captured_payment_cannot_be_cancelled(sandbox: Any) -> None:
    error = refused(sandbox.stripe.v1.payment_intents.cancel, sandbox.charge().id)

    assert "status of succeeded" in str(error.user_message)


def test_refunds_never_exceed_the_charge(sandbox: Any) -> None:
    refunds = sandbox.stripe.v1.refunds
    intent = sandbox.charge()

    first = refunds.create({"payment_intent": intent.id, "amount": 1399, "metadata": {"operation": "op-3"}})

    assert (first.status, first.charge) == ("succeeded", intent.latest_charge)
    error = refused(refunds.create, {"payment_intent": intent.id, "amount": 99_999})
    assert str(error.user_message) == ("Refund amount (€999.99) is greater than unrefunded amount on charge (€6.00)")
    assert refunds.create({"charge": intent.latest_charge}).amount == 600
    error = refused(refunds.create, {"payment_intent": intent.id})
    assert error.code == "charge_already_refunded"
    assert [refund.amount for refund in refunds.list({"payment_intent": intent.id})] == [600, 1399]
    assert refunds.retrieve(first.id).metadata["operation"] == "op-3"


def test_an_uncaptured_payment_cannot_be_refunded(sandbox: Any) -> None:
    intent = sandbox.charge(capture_method="manual")

    error = refused(sandbox.stripe.v1.refunds.create, {"payment_intent": intent.id})

    assert error.code == "payment_intent_unexpected_state"


def test_a_refund_may_fail_after_it_succeeded(sandbox: Any) -> None:
    intent = sandbox.charge(payment_method="pm_card_refundFail")
    refund = sandbox.stripe.v1.refunds.create({"payment_intent": intent.id})
    assert refund.status == "succeeded"

    sandbox.mailbox.stripe_events("refund.failed")

    refund = sandbox.stripe.v1.refunds.retrieve(refund.id)
    assert (refund.status, refund.failure_reason) == ("failed", "expired_or_canceled_card")
    assert sandbox.books("stripe")["refunds"][0]["status"] == "failed"


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"amount": None}, "parameter_missing", "amount"),
        ({"currency": None}, "parameter_missing", "currency"),
        ({"amount": "ten"}, "parameter_invalid_integer", "amount"),
        ({"amount": 49}, "amount_too_small", "amount"),
        ({"amount": 100_000_000}, "amount_too_large", "amount"),
        ({"amount": 1999, "currency": "kwd"}, "parameter_invalid_integer", "amount"),
        ({"amount": 1999, "currency": "isk"}, "parameter_invalid_integer", "amount"),
        ({"currency": "euro"}, None, "currency"),
        ({"payment_method": "pm_nowhere"}, "resource_missing", "payment_method"),
        ({"payment_method": None}, "payment_intent_unexpected_state", None),
        ({"capture_method": "later"}, None, "capture_method"),
        ({"colour": "red"}, "parameter_unknown", "colour"),
        ({"metadata": "x"}, "parameter_invalid_empty", "metadata"),
        ({"metadata": {"n" * 41: "x"}}, None, f"metadata[{'n' * 41}]"),
    ],
)
def test_wrong_parameters_are_named(sandbox: Any, params: dict[str, Any], code: str | None, param: str | None) -> None:
    error = refused(lambda: sandbox.charge(**params))

    assert (error.http_status, error.code, error.param) == (400, code, param)
    assert sandbox.books("stripe")["authorisations"] == []


@pytest.mark.parametrize(("amount", "currency"), [(2000, "kwd"), (1900, "isk"), (50, "jpy")])
def test_currencies_without_two_decimals_are_charged(sandbox: Any, amount: int, currency: str) -> None:
    assert sandbox.charge(amount=amount, currency=currency).amount_received == amount


def test_unknown_ids_and_wrong_keys(sandbox: Any) -> None:
    error = refused(sandbox.stripe.v1.payment_intents.retrieve, "pi_nowhere")
    assert (error.http_status, error.code) == (404, "resource_missing")

    with pytest.raises(stripe.AuthenticationError):
        sandbox.stripe.v1.payment_intents.retrieve("pi_x", options={"api_key": "sk_test_wrong"})


def test_payments_are_listed_newest_first_by_window_and_cursor(sandbox: Any) -> None:
    ids = [sandbox.charge(key=f"k{number}").id for number in range(5)]
    intents = sandbox.stripe.v1.payment_intents

    page = intents.list({"limit": 2})
    rest = intents.list({"limit": 10, "starting_after": page.data[-1].id})

    assert [intent.id for intent in page.data] == [ids[4], ids[3]]
    assert (page.has_more, rest.has_more) == (True, False)
    assert [intent.id for intent in rest.data] == [ids[2], ids[1], ids[0]]
    newest = intents.retrieve(ids[4]).created
    assert intents.list({"created": {"gte": newest + 1}}).data == []
    assert len(intents.list({"created": {"lte": newest}}).data) == 5
    assert len(list(intents.list({"limit": 2}).auto_paging_iter())) == 5


def test_a_challenge_ends_on_the_issuers_page(sandbox: Any) -> None:
    intent = sandbox.charge(payment_method="pm_card_threeDSecure2Required", return_url="https://shop.example/back")
    assert intent.status == "requires_action"
    page = intent.next_action.redirect_to_url.url
    assert sandbox.books("stripe")["authorisations"] == []

    back = sandbox.http.get(page, params={"result": "succeeded"})

    assert back.status_code == 302
    assert "redirect_status=succeeded" in back.headers["location"]
    assert sandbox.stripe.v1.payment_intents.retrieve(intent.id).status == "succeeded"
    assert "succeeded" in sandbox.http.get(page).text


def test_a_failed_challenge_declines(sandbox: Any) -> None:
    intent = sandbox.charge(payment_method="pm_card_threeDSecure2Required", return_url="https://shop.example/back")

    sandbox.http.get(intent.next_action.redirect_to_url.url, params={"result": "failed"})

    intent = sandbox.stripe.v1.payment_intents.retrieve(intent.id)
    assert intent.status == "requires_payment_method"
    assert intent.last_payment_error.code == "payment_intent_authentication_failure"


def test_off_session_a_challenge_is_a_decline(sandbox: Any) -> None:
    error = declined(sandbox, payment_method="pm_card_threeDSecure2Required", off_session=True)

    assert (error.code, error.error.decline_code) == (
        "authentication_required",
        "authentication_required",
    )


def test_without_a_return_url_the_browser_sdk_is_meant(sandbox: Any) -> None:
    intent = sandbox.charge(payment_method="pm_card_threeDSecure2Required")

    assert intent.next_action.type == "use_stripe_sdk"


def test_a_card_can_be_kept_for_a_customer(sandbox: Any) -> None:
    api = sandbox.stripe.v1
    customer = api.customers.create({"email": "ada@example.com"})
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2034}
    method = api.payment_methods.create({"type": "card", "card": card})

    attached = api.payment_methods.attach(method.id, {"customer": customer.id})

    assert attached.customer == customer.id
    intent = sandbox.charge(payment_method=method.id, customer=customer.id, off_session=True)
    assert (intent.status, intent.customer) == ("succeeded", customer.id)
    assert api.payment_methods.detach(method.id).customer is None


ADJUSTABLE = {"card": {"request_incremental_authorization": "if_available"}}
SEVERAL = {"card": {"request_multicapture": "if_available"}}


def test_an_authorisation_can_be_incremented(sandbox: Any) -> None:
    intents = sandbox.stripe.v1.payment_intents
    intent = sandbox.charge(capture_method="manual", payment_method_options=ADJUSTABLE)
    raised = intents.increment_authorization(intent.id, {"amount": 2500})
    sandbox.script("stripe", "decline", "increment")

    with pytest.raises(stripe.CardError):
        intents.increment_authorization(intent.id, {"amount": 3000})

    assert (raised.amount, raised.amount_capturable) == (2500, 2500)
    assert [entry["amount"] for entry in sandbox.books("stripe")["authorisations"]] == [2500]
    assert refused(intents.increment_authorization, intent.id, {"amount": 100}).param == "amount"
    assert intents.capture(intent.id).amount_received == 2500


def test_only_what_was_authorised_for_it_is_incremented(sandbox: Any) -> None:
    intents = sandbox.stripe.v1.payment_intents
    intent = sandbox.charge(capture_method="manual", expand=["latest_charge"])

    error = refused(intents.increment_authorization, intent.id, {"amount": 2500})

    assert "not eligible for incremental authorization" in str(error.user_message)
    assert intent.latest_charge.payment_method_details.card.incremental_authorization.status == "unavailable"


def test_an_authorisation_is_captured_in_parts_where_that_was_requested(sandbox: Any) -> None:
    intents = sandbox.stripe.v1.payment_intents
    intent = sandbox.charge(capture_method="manual", payment_method_options=SEVERAL, expand=["latest_charge"])
    assert intent.latest_charge.payment_method_details.card.multicapture.status == "available"

    first = intents.capture(intent.id, {"amount_to_capture": 1000, "final_capture": False})
    last = intents.capture(intent.id, {"amount_to_capture": 500})

    assert (first.status, first.amount_received, first.amount_capturable) == ("requires_capture", 1000, 999)
    assert (last.status, last.amount_received, last.amount_capturable) == ("succeeded", 1500, 0)
    assert [entry["amount"] for entry in sandbox.books("stripe")["captures"]] == [1000, 500]
    sandbox.mailbox.stripe_events("charge.captured", 2)


def test_more_captures_are_refused_where_they_were_not_requested(sandbox: Any) -> None:
    intent = sandbox.charge(capture_method="manual")

    error = refused(
        sandbox.stripe.v1.payment_intents.capture, intent.id, {"amount_to_capture": 1, "final_capture": False}
    )

    assert error.param == "final_capture"
    assert sandbox.books("stripe")["captures"] == []


def test_a_cancel_after_a_capture_releases_the_rest(sandbox: Any) -> None:
    intents = sandbox.stripe.v1.payment_intents
    intent = sandbox.charge(capture_method="manual", payment_method_options=SEVERAL)
    intents.capture(intent.id, {"amount_to_capture": 1000, "final_capture": False})
    assert refused(intents.capture, intent.id, {"amount_to_capture": 1000}).code == "amount_too_large"

    canceled = intents.cancel(intent.id)

    assert (canceled.status, canceled.amount_received) == ("canceled", 1000)
    assert [entry["amount"] for entry in sandbox.books("stripe")["voids"]] == [999]
    assert sandbox.stripe.v1.refunds.create({"payment_intent": intent.id}).amount == 1000


def test_an_authorisation_lapses_after_seven_days(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    intents = sandbox.stripe.v1.payment_intents
    intent = sandbox.charge(capture_method="manual", expand=["latest_charge"])
    lapses = intent.latest_charge.payment_method_details.card.capture_before

    monkeypatch.setattr(StripeAccount, "now", lambda _account: lapses - 1)
    assert intents.retrieve(intent.id).status == "requires_capture"
    monkeypatch.setattr(StripeAccount, "now", lambda _account: lapses)

    assert [each.status for each in intents.list()] == ["canceled"]
    assert refused(intents.capture, intent.id).code == "payment_intent_unexpected_state"
    (event,) = sandbox.mailbox.stripe_events("payment_intent.canceled")
    assert event["data"]["object"]["cancellation_reason"] == "automatic"
    assert sandbox.books("stripe")["authorisations"][0]["status"] == "expired"


# --- Cards that are used again ------------------------------------------------------------------


def new_card(sandbox: Any, number: str = "4242424242424242") -> str:
    card = {"number": number, "exp_month": 12, "exp_year": 2034, "cvc": "123"}
    method: str = sandbox.stripe.v1.payment_methods.create({"type": "card", "card": card}).id
    return method


def test_a_card_without_a_customer_is_charged_once(sandbox: Any) -> None:
    method = new_card(sandbox)
    customer = sandbox.stripe.v1.customers.create({}).id
    sandbox.charge(key="1", payment_method=method)

    again = refused(lambda: sandbox.charge(key="2", payment_method=method))
    kept = refused(sandbox.stripe.v1.payment_methods.attach, method, {"customer": customer})

    assert "may not be used again" in str(again.user_message)
    assert again.code is None
    assert "may not be used again" in str(kept.user_message)


def test_a_remembered_card_belongs_to_its_customer(sandbox: Any) -> None:
    method, customer = new_card(sandbox), sandbox.stripe.v1.customers.create({}).id
    saved = sandbox.charge(key="1", payment_method=method, customer=customer, setup_future_usage="off_session")

    again = sandbox.charge(key="2", payment_method=method, customer=customer, off_session=True)

    assert (saved.setup_future_usage, again.status) == ("off_session", "succeeded")
    assert sandbox.stripe.v1.payment_methods.retrieve(method).customer == customer
    assert refused(lambda: sandbox.charge(key="3", payment_method=method)).param == "payment_method"
    assert refused(lambda: sandbox.charge(key="4", customer="cus_nowhere")).code == "resource_missing"


def test_a_deleted_customer_takes_the_cards_along(sandbox: Any) -> None:
    api = sandbox.stripe.v1
    customer, method = api.customers.create({"name": "Ada"}).id, new_card(sandbox)
    api.payment_methods.attach(method, {"customer": customer})
    assert api.customers.update(customer, {"name": "Ada L.", "metadata": {"a": "b"}}).name == "Ada L."
    assert [each.id for each in api.customers.payment_methods.list(customer)] == [method]

    assert api.customers.delete(customer).deleted

    assert api.customers.retrieve(customer).deleted
    assert refused(lambda: sandbox.charge(payment_method=method)).code is None
    assert refused(lambda: sandbox.charge(customer=customer)).code == "resource_missing"


def succeed_challenge(sandbox: Any, intent: Any) -> None:
    sandbox.http.get(intent.next_action.redirect_to_url.url, params={"result": "succeeded"})


OFF_SESSION = [
    # card, what follows without the shopper before it was set up, and after
    ("4000002500003155", "authentication_required", "succeeded"),
    ("4000002760003184", "authentication_required", "authentication_required"),
    ("4000003800000446", "succeeded", "succeeded"),
]


@pytest.mark.parametrize(("number", "before", "after"), OFF_SESSION)
def test_a_card_that_was_set_up_is_charged_as_its_issuer_likes(
    sandbox: Any, number: str, before: str, after: str
) -> None:
    api = sandbox.stripe.v1
    method, customer = new_card(sandbox, number), api.customers.create({}).id
    api.payment_methods.attach(method, {"customer": customer})

    def while_away(key: str) -> str:
        try:
            intent = sandbox.charge(key=key, payment_method=method, customer=customer, off_session=True)
        except stripe.CardError as error:
            return str(error.code)
        return str(intent.status)

    first = while_away("1")
    setup = api.setup_intents.create(
        {"payment_method": method, "customer": customer, "confirm": True, "return_url": "https://shop.example/back"}
    )
    assert setup.status == "requires_action"
    succeed_challenge(sandbox, setup)

    assert api.setup_intents.retrieve(setup.id).status == "succeeded"
    assert (first, while_away("2")) == (before, after)


@pytest.mark.parametrize(
    ("token", "status"), [("pm_card_threeDSecureOptional", "requires_action"), ("pm_card_visa", "succeeded")]
)
def test_authentication_happens_on_request_where_the_card_can(sandbox: Any, token: str, status: str) -> None:
    plain = sandbox.charge(key="1", payment_method=token)
    asked = sandbox.charge(
        key="2",
        payment_method=token,
        payment_method_options={"card": {"request_three_d_secure": "any"}},
        return_url="https://shop.example/back",
        expand=["latest_charge"],
    )

    assert (plain.status, asked.status) == ("succeeded", status)
    if status == "succeeded":
        told = asked.latest_charge.payment_method_details.card.three_d_secure
        assert (told.result, told.electronic_commerce_indicator) == ("attempt_acknowledged", "06")


# --- SetupIntents -------------------------------------------------------------------------------


def set_up(sandbox: Any, token: str = "pm_card_visa", **more: Any) -> Any:
    params = {"payment_method": token, "confirm": True, "return_url": "https://shop.example/back?a=b", **more}
    return sandbox.stripe.v1.setup_intents.create(params)


def test_a_card_is_verified_without_a_payment(sandbox: Any) -> None:
    setup = set_up(sandbox, metadata={"operation": "op-1"}, usage="on_session", expand=["payment_method"])

    assert (setup.status, setup.payment_method.card.last4) == ("succeeded", "4242")
    assert [each.id for each in sandbox.stripe.v1.setup_intents.list()] == [setup.id]
    assert not any(sandbox.books("stripe").values())
    (event,) = sandbox.mailbox.stripe_events("setup_intent.succeeded")
    assert event["data"]["object"]["metadata"] == {"operation": "op-1"}


def test_a_setup_can_be_declined_and_tried_again(sandbox: Any) -> None:
    def told(action: Any) -> Any:
        with pytest.raises(stripe.CardError) as caught:
            action()
        return caught.value.error

    confirm = partial(sandbox.stripe.v1.setup_intents.confirm, params={"payment_method": "pm_card_visa"})
    failed = told(lambda: set_up(sandbox, "pm_card_visa_chargeDeclinedStolenCard")).setup_intent
    sandbox.script("stripe", "decline", "authorize", code="insufficient_funds")
    again = told(lambda: confirm(failed.id))

    setup = confirm(failed.id)

    assert failed.last_setup_error.decline_code == "stolen_card"
    assert again.decline_code == "insufficient_funds"
    assert (setup.status, setup.last_setup_error) == ("succeeded", None)
    assert refused(sandbox.stripe.v1.setup_intents.cancel, setup.id).code == "setup_intent_unexpected_state"
    sandbox.mailbox.stripe_events("setup_intent.setup_failed", 2)


def test_a_challenge_of_a_setup_may_fail(sandbox: Any) -> None:
    setup = set_up(sandbox, "pm_card_threeDSecure2Required")
    page = setup.next_action.redirect_to_url.url

    back = sandbox.http.get(page, params={"result": "failed"}).headers["location"]

    assert back.startswith("https://shop.example/back?a=b&setup_intent=seti_")
    assert back.endswith("redirect_status=failed")
    found = sandbox.stripe.v1.setup_intents.retrieve(setup.id)
    assert found.last_setup_error.code == "setup_intent_authentication_failure"
    assert sandbox.stripe.v1.setup_intents.cancel(setup.id).status == "canceled"


# --- Disputes -----------------------------------------------------------------------------------


def disputed(sandbox: Any, token: str = "pm_card_createDispute") -> Any:
    intent = sandbox.charge(payment_method=token)
    (event,) = sandbox.mailbox.stripe_events("charge.dispute.created")
    assert event["data"]["object"]["payment_intent"] == intent.id
    return sandbox.stripe.v1.disputes.retrieve(event["data"]["object"]["id"])


@pytest.mark.parametrize(
    ("evidence", "status", "events"),
    [
        ("winning_evidence", "won", ["charge.dispute.closed", "charge.dispute.funds_reinstated"]),
        ("losing_evidence", "lost", ["charge.dispute.closed"]),
        ("my own words", "under_review", ["charge.dispute.updated"]),
    ],
)
def test_the_evidence_decides_a_dispute(sandbox: Any, evidence: str, status: str, events: list[str]) -> None:
    disputes = sandbox.stripe.v1.disputes
    dispute = disputed(sandbox)
    sandbox.mailbox.stripe_events("charge.dispute.funds_withdrawn")
    assert (dispute.status, dispute.reason, dispute.amount) == ("needs_response", "fraudulent", 1999)
    error = refused(sandbox.stripe.v1.refunds.create, {"payment_intent": dispute.payment_intent})
    assert error.code == "charge_disputed"

    staged = disputes.update(dispute.id, {"evidence": {"customer_name": "Ada"}, "submit": False})
    sent = disputes.update(dispute.id, {"evidence": {"uncategorized_text": evidence}})

    assert (staged.status, staged.evidence_details.submission_count) == ("needs_response", 0)
    assert (sent.status, sent.evidence.customer_name) == ("under_review", "Ada")
    for kind in events:
        sandbox.mailbox.stripe_events(kind)
    assert disputes.retrieve(dispute.id).status == status
    assert refused(disputes.close, dispute.id).code is None
    assert [each.id for each in disputes.list({"payment_intent": dispute.payment_intent})] == [dispute.id]


def test_a_dispute_can_be_given_up(sandbox: Any) -> None:
    dispute = disputed(sandbox, "pm_card_createDisputeProductNotReceived")

    closed = sandbox.stripe.v1.disputes.close(dispute.id)

    assert (dispute.reason, closed.status) == ("product_not_received", "lost")
    sandbox.mailbox.stripe_events("charge.dispute.closed")
    assert refused(sandbox.stripe.v1.disputes.update, dispute.id, {"evidence": {"nonsense": "x"}}).code


def test_an_inquiry_takes_no_money_until_it_escalates(sandbox: Any) -> None:
    dispute = disputed(sandbox, "pm_card_createDisputeInquiry")
    assert (dispute.status, dispute.balance_transactions) == ("warning_needs_response", [])

    sandbox.stripe.v1.disputes.update(dispute.id, {"evidence": {"uncategorized_text": "escalate_inquiry_evidence"}})

    sandbox.mailbox.stripe_events("charge.dispute.funds_withdrawn")
    assert sandbox.stripe.v1.disputes.retrieve(dispute.id).status == "needs_response"


def test_an_inquiry_may_be_refunded(sandbox: Any) -> None:
    dispute = disputed(sandbox, "pm_card_createDisputeInquiry")

    refund = sandbox.stripe.v1.refunds.create({"payment_intent": dispute.payment_intent})

    assert refund.status == "succeeded"
    assert sandbox.stripe.v1.disputes.close(dispute.id).status == "warning_closed"


def test_a_network_may_warn_of_fraud(sandbox: Any) -> None:
    intent = sandbox.charge(payment_method="pm_card_createIssuerFraudRecord")

    (event,) = sandbox.mailbox.stripe_events("radar.early_fraud_warning.created")

    assert event["data"]["object"]["charge"] == intent.latest_charge


def test_a_refund_may_take_its_time(sandbox: Any) -> None:
    intent = sandbox.charge(payment_method="pm_card_pendingRefund")
    refund = sandbox.stripe.v1.refunds.create({"payment_intent": intent.id})
    assert refund.status == "pending"

    (event,) = sandbox.mailbox.stripe_events("charge.refund.updated")

    assert event["data"]["object"]["status"] == "succeeded"
    assert sandbox.stripe.v1.refunds.retrieve(refund.id).status == "succeeded"


# --- Every documented trigger -------------------------------------------------------------------

DOCUMENTED = json.loads(files("providers.sandbox").joinpath("test_triggers.json").read_text("utf-8"))["stripe"]["cards"]
CHARGED = (
    "succeeded_then_",
    "succeeded_available",
    "succeeded_cvc",
    "refund_",
)


def what_comes_of(sandbox: Any, method: str) -> tuple[str, str | None, str | None]:
    """The status, and where it is a decline its codes; a challenge is passed first."""
    try:
        intent = sandbox.charge(payment_method=method, return_url="https://shop.example/back")
    except stripe.CardError as caught:
        told: Any = caught.error
        return "declined", told.code, told.decline_code
    if intent.status != "requires_action":
        return str(intent.status), None, None
    succeed_challenge(sandbox, intent)
    found = sandbox.stripe.v1.payment_intents.retrieve(intent.id)
    error = found.last_payment_error
    return f"challenged, {found.status}", error and error.code, getattr(error, "decline_code", None)


@pytest.mark.parametrize("row", DOCUMENTED, ids=[row["number"] for row in DOCUMENTED])
def test_every_documented_card_does_what_is_documented(sandbox: Any, row: dict[str, Any]) -> None:
    expected = {
        "succeeded": ("succeeded", None, None),
        "declined": ("declined", row["code"], row["decline_code"]),
        "declined_on_charge_only": ("declined", row["code"], row["decline_code"]),
        "blocked": ("declined", row["code"], row["decline_code"]),
        "requires_action": ("challenged, succeeded", None, None),
        "requires_action_then_declined": ("challenged, requires_payment_method", row["code"], row["decline_code"]),
        "succeeded_off_session": ("challenged, succeeded", None, None),
    }
    if row["outcome"] == "declined_on_create":
        with pytest.raises(stripe.CardError) as caught:
            new_card(sandbox, row["number"])
        assert caught.value.code == row["code"]
        return
    outcome = "succeeded" if row["outcome"].startswith(CHARGED) else row["outcome"]

    assert what_comes_of(sandbox, new_card(sandbox, row["number"])) == expected[outcome]


TOKENS = [token for row in DOCUMENTED for token in row["tokens"] if token.startswith("pm_")]


@pytest.mark.parametrize("token", TOKENS)
def test_every_documented_token_is_its_card(sandbox: Any, token: str) -> None:
    row = next(row for row in DOCUMENTED if token in row["tokens"])
    try:
        intent = sandbox.charge(payment_method=token, expand=["payment_method"])
        card = intent.payment_method.card
    except stripe.CardError as caught:
        told: Any = caught.error
        card = told.payment_method.card

    assert card.last4 == row["number"][-4:]
