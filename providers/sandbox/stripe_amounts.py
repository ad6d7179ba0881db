"""Amounts as Stripe takes them: minimums, its own exponents, and money written in messages."""

import re

from providers.sandbox.stripe_errors import invalid_request

ZERO_DECIMAL = frozenset(
    "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split()  # noqa: SIM905 - a list of codes reads better
)
THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
TWO_DECIMALS_MUST_BE_00 = frozenset({"isk", "ugx"})
AMOUNT_MAX = 99_999_999
# docs.stripe.com/currencies#minimum-and-maximum-charge-amounts, in minor units.
MINIMUMS = {
    "usd": 50, "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500,
    "dkk": 250, "eur": 50, "gbp": 30, "hkd": 400, "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000,
    "myr": 200, "nok": 300, "nzd": 50, "pln": 200, "ron": 200, "sek": 300, "sgd": 50, "thb": 1000,
}  # fmt: skip
_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}


def parse_amount(text: object, param: str) -> int:
    """A positive integer of minor units."""
    try:
        amount = int(str(text))
    except ValueError:
        raise invalid_request(f"Invalid integer: {text}", code="parameter_invalid_integer", param=param) from None
    if amount < 1:
        raise invalid_request(
            "This value must be greater than or equal to 1.",
            code="parameter_invalid_integer",
            param=param,
        )
    return amount


def check_currency(currency: str) -> None:
    """Three letters; which ones exist is not this simulator's business."""
    if re.fullmatch("[a-z]{3}", currency) is None:
        raise invalid_request(f"Invalid currency: {currency}", param="currency")


def check_charge_amount(amount: int, currency: str, param: str = "amount") -> None:
    """The rules for an amount to be charged."""
    if amount > AMOUNT_MAX:
        raise invalid_request(
            f"Amount must be no more than {money(AMOUNT_MAX, currency)} {currency}",
            code="amount_too_large",
            param=param,
        )
    least = MINIMUMS.get(currency, 1)
    if amount < least:
        raise invalid_request(
            f"Amount must be at least {money(least, currency)} {currency}",
            code="amount_too_small",
            param=param,
        )
    check_step(amount, currency, param)


def check_step(amount: int, currency: str, param: str = "amount") -> None:
    """Currencies whose last digits must be zero at Stripe."""
    if currency in THREE_DECIMAL and amount % 10:
        raise invalid_request(
            f"Invalid amount. The least-significant digit of a {currency} amount must be 0.",
            code="parameter_invalid_integer",
            param=param,
        )
    if currency in TWO_DECIMALS_MUST_BE_00 and amount % 100:
        raise invalid_request(
            f"Invalid amount. A {currency} amount must be evenly divisible by 100.",
            code="parameter_invalid_integer",
            param=param,
        )


def money(amount: int, currency: str) -> str:
    """An amount as Stripe writes it in a message: "€6.00"."""
    exponent = 0 if currency in ZERO_DECIMAL else 3 if currency in THREE_DECIMAL else 2
    symbol = _SYMBOLS.get(currency, f"{currency.upper()} ")
    if exponent == 0:
        return f"{symbol}{amount:,}"
    whole, part = divmod(amount, 10**exponent)
    return f"{symbol}{whole:,}.{part:0{exponent}d}"
