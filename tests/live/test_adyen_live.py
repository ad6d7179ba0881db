"""The conformance suite against an Adyen test account.

``INTERLOCK_LIVE_ADYEN_API_KEY`` and ``INTERLOCK_LIVE_ADYEN_MERCHANT_ACCOUNT`` name it; ``INTERLOCK_LIVE_ADYEN_ENABLED`` names
what Adyen has switched on for it, ``INTERLOCK_LIVE_ADYEN_CARD_NUMBERS=1`` says that it takes card numbers. Refusals are asked
for by the holder's name, which needs card numbers too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import pytest

from providers.conformance import ProviderConformance, Situation, UnderTest
from providers.contract import Card, Instrument, Token

pytestmark = pytest.mark.live

NEEDED: Final = ("INTERLOCK_LIVE_ADYEN_API_KEY", "INTERLOCK_LIVE_ADYEN_MERCHANT_ACCOUNT")
if missing := [name for name in NEEDED if not os.environ.get(name)]:
    pytest.skip(f"{' and '.join(missing)} is not set: no test account to speak to", allow_module_level=True)

# https://docs.adyen.com/development-resources/testing
INSTRUMENTS: Final[dict[Situation, Instrument]] = {
    "approved": Token("test_4111111111111111"),
    "challenge": Token("test_4111111111111111"),
}
if os.environ.get("INTERLOCK_LIVE_ADYEN_CARD_NUMBERS"):
    INSTRUMENTS["declined_soft"] = Card("4111111111111111", 3, 2030, "737", "NOT_ENOUGH_BALANCE")
    INSTRUMENTS["declined_hard"] = Card("4111111111111111", 3, 2030, "737", "CARD_EXPIRED")
    INSTRUMENTS["card"] = Card("4111111111111111", 3, 2030, "737", "Ada Lovelace")


class TestAdyen(ProviderConformance):
    @pytest.fixture
    def psp(self, live_account: Callable[..., UnderTest]) -> UnderTest:
        return live_account("adyen", INSTRUMENTS, merchant_account=os.environ[NEEDED[1]])
