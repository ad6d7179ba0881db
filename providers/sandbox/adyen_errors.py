"""Adyen's ServiceError bodies."""

from typing import Any

from providers.sandbox.answers import Answer
from providers.sandbox.desk import RefusedError, json_answer


def service_error(
    status: int,
    code: str,
    message: str,
    error_type: str,
    *,
    psp_reference: str | None = None,
    transient: bool | None = None,
) -> Answer:
    """One ServiceError; ``transient`` adds the header that allows sending the same key again."""
    body: dict[str, Any] = {
        "status": status,
        "errorCode": code,
        "message": message,
        "errorType": error_type,
    }
    if psp_reference is not None:
        body["pspReference"] = psp_reference
    headers = {} if transient is None else {"transient-error": "true" if transient else "false"}
    return json_answer(status, body, headers)


def invalid(code: str, message: str, psp_reference: str | None = None) -> RefusedError:
    """422: the request is well formed and not acceptable. No effect, and no key remembers it."""
    answer = service_error(422, code, message, "validation", psp_reference=psp_reference)
    return RefusedError(answer, kept=False)


def malformed(message: str) -> RefusedError:
    """400: this is not the JSON object it should be."""
    return RefusedError(service_error(400, "702", message, "validation"), kept=False)


def unauthorized() -> Answer:
    """401: no or a wrong API key."""
    return service_error(401, "000", "HTTP Status Response - Unauthorized", "security")


def wrong_merchant_account(psp_reference: str) -> Answer:
    """403: a merchant account this credential does not have."""
    return service_error(403, "901", "Invalid Merchant Account", "security", psp_reference=psp_reference)


def in_progress(*, status: int = 422, transient: bool = True) -> Answer:
    """704: the first request under this key is still running."""
    message = "request already processed or in progress"
    return service_error(status, "704", message, "validation", transient=transient)


def store_unavailable(*, transient: bool) -> Answer:
    """703: Adyen cannot reach what remembers the keys."""
    message = "required resource temporarily unavailable"
    return service_error(503, "703", message, "internal", transient=transient)


def internal(status: int) -> Answer:
    """5xx and the like, as a ServiceError."""
    return service_error(status, "000", "Internal error", "internal")
