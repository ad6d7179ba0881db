"""3-D Secure at the simulated Adyen: who is authenticated, how, and what the shopper brings back.

A card that the schemes' directory knows (``test_triggers.json``) is authenticated unless the merchant starts the payment, and any
card is where ``attemptAuthentication`` is ``always``. It happens in the checkout where the merchant prefers that and tells of a
browser, else by a redirect.

The shopper is played at ``GET /_sandbox/3ds/{pspReference}?result=succeeded`` (or ``failed``): it leads back to the ``returnUrl``
with ``redirectResult``, or of a native step with ``threeDSResult``. The latter can also be made by hand: it is the Base64 of
``{"transStatus": "Y", "authorisationToken": …}`` (``N`` fails), before a challenge of ``{"threeDSCompInd": "Y",
"authorisationToken": …}``, with the token of the action.
"""

import base64
import binascii
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from providers.sandbox import adyen_errors as errors
from providers.sandbox.adyen_objects import Payment, Step, encoded
from providers.sandbox.adyen_requests import as_dict, merchant_initiated, text
from providers.sandbox.triggers import adyen_authentication, adyen_refusal

NOT_AUTHENTICATED = "11"


def begin(payment: Payment, params: Mapping[str, Any]) -> None:
    """Ask the directory, if anything is to be asked, and note what the shopper has to do."""
    asked = as_dict(params.get("authenticationData"))
    enrolled = adyen_authentication(payment.card.number)
    if (
        params.get("shopperInteraction") == "ContAuth"
        and enrolled
        and enrolled.off_session
        and merchant_initiated(params)
    ):
        payment.refusal = payment.refusal or adyen_refusal(enrolled.off_session)
    if not _wanted(asked.get("attemptAuthentication"), params, enrolled=enrolled is not None):
        return
    payment.directory = enrolled.directory if enrolled else "C"
    native = as_dict(asked.get("threeDSRequestData")).get("nativeThreeDS") == "preferred"
    in_browser = params.get("channel") == "Web" and params.get("origin") and params.get("browserInfo")
    if native and in_browser:
        payment.step = "fingerprint"
    elif payment.directory == "C":
        payment.step = "redirect"
    else:
        _conclude(payment, payment.directory)


def _wanted(attempt: object, params: Mapping[str, Any], *, enrolled: bool) -> bool:
    if attempt == "never" or merchant_initiated(params):
        return False
    return attempt == "always" or (enrolled and params.get("shopperInteraction") != "ContAuth")


def _conclude(payment: Payment, letter: str) -> None:
    payment.step, payment.authentication = None, letter
    if letter == "N":
        payment.refusal = adyen_refusal(NOT_AUTHENTICATED)


@dataclass(slots=True)
class Challenges:
    """What shoppers brought back, and the payments that wait for one."""

    waiting: dict[str, Payment] = field(default_factory=dict)
    """By the token of the step they are at."""
    redirect_results: dict[str, tuple[Payment, bool]] = field(default_factory=dict)

    def opened(self, payment: Payment) -> None:
        """Note that a payment waits for its shopper."""
        self.waiting[payment.step_token] = payment

    def payment_of(self, details: Mapping[str, Any]) -> Payment | None:
        """The payment that details are about; None for details that name none."""
        redirected = self.redirect_results.get(text(details.get("redirectResult")) or "")
        if redirected is not None:
            return redirected[0]
        return self.waiting.get(text(_decoded(details).get("authorisationToken")) or "")

    def answered(self, payment: Payment, step: Step, *, succeeded: bool) -> str:
        """Play the shopper at a step: the query string to bring back."""
        if step == "redirect":
            result = secrets.token_urlsafe(24)
            self.redirect_results[result] = (payment, succeeded)
            return f"redirectResult={result}"
        word = "transStatus" if step == "challenge" else "threeDSCompInd"
        content = {word: "Y" if succeeded else "N", "authorisationToken": payment.step_token}
        return f"threeDSResult={encoded(content)}"

    def advance(self, payment: Payment, details: Mapping[str, Any]) -> bool:
        """Take one step with what was brought back; gives whether the authentication is over now."""
        match payment.step:
            case "redirect":
                _, succeeded = self.redirect_results.get(text(details.get("redirectResult")) or "", (payment, False))
                _conclude(payment, "Y" if succeeded else "N")
            case "fingerprint" if payment.directory == "C":
                payment.step, payment.step_token = "challenge", secrets.token_urlsafe(32)
                self.opened(payment)
                return False
            case "fingerprint":
                _conclude(payment, payment.directory or "N")
            case _:
                status = _decoded(details).get("transStatus")
                if status is None:
                    raise errors.invalid("702", "transStatus is missing in threeDSResult")
                _conclude(payment, "Y" if status == "Y" else "N")
        return True


def _decoded(details: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return as_dict(json.loads(base64.b64decode(text(details.get("threeDSResult")) or "", validate=True)))
    except (binascii.Error, ValueError):
        return {}
