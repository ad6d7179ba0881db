"""Stripe's error bodies, word for word where the words are known."""

from typing import Any

from providers.sandbox.answers import Answer
from providers.sandbox.desk import RefusedError, json_answer
from providers.sandbox.triggers import StripeTrigger

_DOCS = "https://stripe.com/docs/error-codes/"

# decline_code -> (advice_code, what the network answered)
ADVICE: dict[str, tuple[str, str]] = {
    "generic_decline": ("try_again_later", "01"),
    "do_not_honor": ("try_again_later", "05"),
    "insufficient_funds": ("try_again_later", "51"),
    "card_velocity_exceeded": ("try_again_later", "65"),
    "issuer_not_available": ("try_again_later", "91"),
    "processing_error": ("try_again_later", "96"),
    "try_again_later": ("try_again_later", "19"),
    "reenter_transaction": ("try_again_later", "19"),
    "lost_card": ("do_not_try_again", "41"),
    "stolen_card": ("do_not_try_again", "43"),
    "pickup_card": ("do_not_try_again", "04"),
    "fraudulent": ("do_not_try_again", "59"),
    "stop_payment_order": ("do_not_try_again", "R0"),
    "revocation_of_authorization": ("do_not_try_again", "R1"),
    "expired_card": ("confirm_card_data", "54"),
    "incorrect_cvc": ("confirm_card_data", "N7"),
    "incorrect_number": ("confirm_card_data", "14"),
    "invalid_account": ("confirm_card_data", "14"),
}

# What Mastercard's merchant advice code says beside Stripe's.
MASTERCARD_ADVICE = {"try_again_later": "02", "do_not_try_again": "03", "confirm_card_data": "01"}

# Decline codes that Stripe gives as the error's own code, without card_declined around them.
OWN_CODES = frozenset({"expired_card", "incorrect_cvc", "processing_error", "incorrect_number"})

MESSAGES = {
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "incorrect_number": "Your card number is incorrect.",
    "insufficient_funds": "Your card has insufficient funds.",
    "processing_error": ("An error occurred while processing your card. Try again in a little bit."),
    "authentication_required": "Your card was declined. This transaction requires authentication.",
}
DECLINED = "Your card was declined."

FAILED_AUTHENTICATION = {
    "payment_intent": "payment_intent_authentication_failure",
    "setup_intent": "setup_intent_authentication_failure",
}
"""The error code of a failed challenge, by the kind of intent."""
_FAILED_AUTHENTICATION_MESSAGE = (
    "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new PaymentMethod to "
    "attempt to fulfill this {kind} again."
)


def invalid_request(
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    status: int = 400,
    kept: bool = False,
    **more: Any,
) -> RefusedError:
    """A request that Stripe refuses; ``kept`` for refusals that come after execution began."""
    error: dict[str, Any] = {"type": "invalid_request_error", "message": message}
    if code is not None:
        error |= {"code": code, "doc_url": _DOCS + code.replace("_", "-")}
    if param is not None:
        error["param"] = param
    return RefusedError(json_answer(status, {"error": error | more}), kept=kept)


def missing(param: str) -> RefusedError:
    """A required parameter is not there."""
    return invalid_request(f"Missing required param: {param}.", code="parameter_missing", param=param)


def no_such(kind: str, object_id: str, param: str) -> RefusedError:
    """404: the object named in the path, or 400's sibling for one named in a parameter."""
    return invalid_request(f"No such {kind}: '{object_id}'", code="resource_missing", param=param, status=404)


def unexpected_state(message: str, intent: dict[str, Any]) -> RefusedError:
    """The PaymentIntent is not in a state that allows the verb."""
    return invalid_request(message, code="payment_intent_unexpected_state", kept=True, payment_intent=intent)


def card_error(code: str, message: str, *, param: str | None = None, **more: Any) -> RefusedError:
    """402: the card (or its issuer) says no. Kept, as Stripe keeps its declines."""
    error: dict[str, Any] = {
        "type": "card_error",
        "code": code,
        "doc_url": _DOCS + code.replace("_", "-"),
        "message": message,
    }
    if param is not None:
        error["param"] = param
    return RefusedError(json_answer(402, {"error": error | more}), kept=True)


def wrong_api_key(shown: str) -> Answer:
    """401; of the key only its kind is repeated."""
    masked = shown[:8] + "*" * max(4, len(shown) - 12)
    message = (
        f"Invalid API Key provided: {masked}"
        if shown
        else "You did not provide an API key. You need to provide your API key in the "
        "Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY')."
    )
    return json_answer(
        401,
        {"error": {"type": "invalid_request_error", "message": message}},
        {"WWW-Authenticate": 'Bearer realm="Stripe"'},
    )


def key_in_use() -> Answer:
    """409: the first request under this key is still running."""
    message = (
        "There is currently another in-progress request using this Idempotent Key (that probably "
        "means you submitted twice, and the other request is still going through). Please try "
        "again later."
    )
    return json_answer(
        409,
        {
            "error": {
                "type": "idempotency_error",
                "code": "idempotency_key_in_use",
                "doc_url": _DOCS + "idempotency-key-in-use",
                "message": message,
            }
        },
    )


def key_mismatch(key: str) -> Answer:
    """400: the key was used for another request."""
    message = (
        "Keys for idempotent requests can only be used with the same parameters they were first "
        f"used with. Try using a key other than '{key}' if you meant to execute a different "
        "request."
    )
    return json_answer(400, {"error": {"type": "idempotency_error", "message": message}})


def limited(code: str) -> Answer:
    """429: too many requests, or the object is locked by another one."""
    messages = {
        "rate_limit": "Request rate limit exceeded. Learn more about rate limits here "
        "https://stripe.com/docs/rate-limits.",
        "lock_timeout": "This object cannot be accessed right now because another API request or "
        "Stripe process is currently accessing it. If you see this error intermittently, retry "
        "the request.",
    }
    return json_answer(
        429,
        {
            "error": {
                "type": "invalid_request_error",
                "code": code,
                "doc_url": _DOCS + code.replace("_", "-"),
                "message": messages[code],
            }
        },
    )


def api_error(status: int) -> Answer:
    """5xx as Stripe words it."""
    message = (
        "Sorry! There was an error while processing your request. We've already been notified of "
        "the problem, but please contact support@stripe.com with any questions you may have."
    )
    return json_answer(status, {"error": {"type": "api_error", "message": message}})


def missing_object(kind: str, object_id: str, param: str) -> RefusedError:
    """An object named by a parameter is missing: 400, where one in the path would be 404."""
    return invalid_request(f"No such {kind}: '{object_id}'", code="resource_missing", param=param)


def one_of(param: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if value not in allowed:
        choices = ", ".join(allowed[:-1]) + f", or {allowed[-1]}"
        raise invalid_request(f"Invalid {param}: must be one of {choices}", param=param)


def spent_method() -> RefusedError:
    """A PaymentMethod that was used once without a Customer: Stripe gives no code for that."""
    return invalid_request(
        "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment, shared with a "
        "connected account without Customer attachment, or was detached from a Customer. It may not be used again. To use a "
        "PaymentMethod multiple times, you must attach it to a Customer first."
    )


def decline(reason: str, trigger: StripeTrigger | None, brand: str) -> dict[str, Any]:
    """The error object of a decline, without the objects that go with it."""
    if reason in FAILED_AUTHENTICATION.values():
        kind = "PaymentIntent" if reason.startswith("payment") else "SetupIntent"
        message = _FAILED_AUTHENTICATION_MESSAGE.format(kind=kind)
        return {"type": "card_error", "code": reason, "doc_url": _DOCS + reason.replace("_", "-"), "message": message}
    if reason in OWN_CODES or reason == "authentication_required":
        code = reason
        decline_code = reason if reason == "authentication_required" else None
    else:
        code, decline_code = "card_declined", reason
    error = {
        "type": "card_error",
        "code": code,
        "doc_url": _DOCS + code.replace("_", "-"),
        "message": (trigger.message if trigger else None) or MESSAGES.get(reason, DECLINED),
    }
    if decline_code is not None:
        error["decline_code"] = decline_code
    if reason in ADVICE:
        error["advice_code"], error["network_decline_code"] = ADVICE[reason]
        if brand == "mastercard":
            error["network_advice_code"] = MASTERCARD_ADVICE[error["advice_code"]]
    return error
