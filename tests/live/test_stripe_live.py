"""The conformance suite against a Stripe account in test mode.

``INTERLOCK_LIVE_STRIPE_API_KEY`` is a key of test mode (``sk_test_…`` or ``rk_test_…``); ``INTERLOCK_LIVE_STRIPE_ENABLED``
names what Stripe has switched on for the account, ``INTERLOCK_LIVE_STRIPE_CARD_NUMBERS=1`` says that it takes card numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import pytest

from providers.conformance import ProviderConformance, Situation, UnderTest
from providers.contract import Card, Instrument, Token

pytestmark = pytest.mark.live

if not os.environ.get("INTERLOCK_LIVE_STRIPE_API_KEY"):
    pytest.skip("INTERLOCK_LIVE_STRIPE_API_KEY is not set: no test account to speak to", allow_module_level=True)

# https://docs.stripe.com/testing
INSTRUMENTS: Final[dict[Situation, Instrument]] = {
    "approved": Token("pm_card_visa"),
    "declined_soft": Token("pm_card_visa_chargeDeclinedInsufficientFunds"),
    "declined_hard": Token("pm_card_visa_chargeDeclinedStolenCard"),
    "challenge": Token("pm_card_threeDSecure2Required"),
}
if os.environ.get("INTERLOCK_LIVE_STRIPE_CARD_NUMBERS"):
    INSTRUMENTS["card"] = Card("4242424242424242", 3, 2030, "737", "Ada Lovelace")


class TestStripe(ProviderConformance):
    @pytest.fixture
    def psp(self, live_account: Callable[..., UnderTest]) -> UnderTest:
        return live_account("stripe", INSTRUMENTS)
