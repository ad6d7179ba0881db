"""The simulated Stripe as its official SDK sees it."""

from typing import Any

import pytest
import stripe


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


def test_an_authorisation_can_be_incremented(sandbox: Any) -> None:
    intents = sandbox.stripe.v1.payment_intents
    intent = sandbox.charge(capture_method="manual")
    raised = intents.increment_authorization(intent.id, {"amount": 2500})
    sandbox.script("stripe", "decline", "authorize")

    with pytest.raises(stripe.CardError):
        intents.increment_authorization(intent.id, {"amount": 3000})

    assert (raised.amount, raised.amount_capturable) == (2500, 2500)
    assert [entry["amount"] for entry in sandbox.books("stripe")["authorisations"]] == [2500]
    assert refused(intents.increment_authorization, intent.id, {"amount": 100}).param == "amount"
    assert intents.capture(intent.id).amount_received == 2500
