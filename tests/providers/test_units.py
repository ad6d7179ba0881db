"""Money at the border: each PSP counts in its own decimals, and nothing is lost on the way."""

from typing import Any

import iso4217
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.adyen.tables import UNITS as ADYEN_UNITS
from providers.money import AMOUNT_MAX, Money, MoneyError, exponent, from_provider, to_provider
from providers.stripe.asks import UNITS as STRIPE_UNITS

TABLES = {"stripe": STRIPE_UNITS, "adyen": ADYEN_UNITS}
CURRENCIES = sorted(each.code for each in iso4217.Currency if each.exponent is not None)

# currency, ISO minor units, at Stripe, at Adyen; None where it cannot be sent exactly
# https://docs.stripe.com/currencies, https://docs.adyen.com/development-resources/currency-codes
DOCUMENTED = [
    ("EUR", 1999, 1999, 1999),
    ("JPY", 500, 500, 500),
    ("KRW", 1000, 1000, 1000),
    ("CLP", 1000, 1000, 100_000),
    ("ISK", 5, 500, 500),
    ("UGX", 5, 500, 5),
    ("KWD", 12340, 12340, 12340),
    ("KWD", 12345, None, 12345),
    ("MGA", 500, 5, 500),
    ("MGA", 501, None, 501),
    ("IDR", 500_000, 500_000, 5000),
    ("IDR", 500_050, 500_050, None),
    ("CVE", 500, 500, 5),
    ("CVE", 501, 501, None),
]


@pytest.mark.parametrize(("currency", "minor", "at_stripe", "at_adyen"), DOCUMENTED)
def test_documented_amounts_convert_both_ways(currency: Any, minor: Any, at_stripe: Any, at_adyen: Any) -> None:
    for table, sent in ((STRIPE_UNITS, at_stripe), (ADYEN_UNITS, at_adyen)):
        money = Money(minor, currency)
        if sent is None:
            with pytest.raises(MoneyError):
                to_provider(money, table)
            continue
        assert to_provider(money, table) == sent
        assert from_provider(sent, currency.lower(), table) == money


@given(
    table=st.sampled_from(sorted(TABLES)),
    currency=st.sampled_from(CURRENCIES),
    minor=st.integers(0, AMOUNT_MAX),
)
def test_what_can_be_sent_comes_back_the_same(table: Any, currency: Any, minor: Any) -> None:
    money = Money(minor, currency)
    try:
        sent = to_provider(money, TABLES[table])
    except MoneyError:
        return

    assert from_provider(sent, currency, TABLES[table]) == money


@given(
    table=st.sampled_from(sorted(TABLES)),
    currency=st.sampled_from(CURRENCIES),
    major=st.integers(1, 10**6),
)
def test_a_whole_number_of_major_units_can_always_be_sent(table: Any, currency: Any, major: Any) -> None:
    to_provider(Money(major * 10 ** exponent(currency), currency), TABLES[table])


@pytest.mark.parametrize("provider", ["stripe", "adyen"])
def test_a_currency_of_unusual_decimals_that_the_psp_does_not_list_is_refused(provider: Any, open_account: Any) -> None:
    adapter = open_account(provider, "http://127.0.0.1:1").provider
    unlisted = {"stripe": "LYD", "adyen": "BIF"}[provider]

    assert adapter.refuses(Money(1000, unlisted)) is not None
    assert adapter.refuses(Money(1000, "EUR")) is None
    assert (adapter.refuses(Money(1, "KWD")) is None) is (provider == "adyen")
