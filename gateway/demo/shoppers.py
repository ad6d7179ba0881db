"""Who pays, when, with what, and what their issuers say: the world of the back-fill, from one seed.

Pure: the same seed, end and accounts give the same shoppers. The tables are made up, in the proportions of a European web shop. What is
in them on purpose, so that there is something to find: the first account is better with American Express and dollars, the second with
the Netherlands and Germany; the first was away for :data:`OUTAGE` one day; the second slowly loses British cards (:data:`DECAY_DAYS`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import Final

DAYS: Final = 30
FRESH: Final = timedelta(minutes=2)
"""How long before the end the last shopper came: by then all that a quick payment leads to is over."""

HOURS: Final = (5, 3, 2, 1, 1, 2, 4, 9, 15, 20, 24, 27, 30, 29, 27, 26, 28, 31, 35, 38, 36, 29, 19, 10)
"""How busy each hour of a day is, in UTC."""
WEEKDAYS: Final = (100, 96, 98, 104, 118, 124, 92)
"""How busy each day of a week is, Monday first."""

OUTAGE: Final = (11, 17, timedelta(minutes=95))
"""How many days before the end, at which hour (UTC) and for how long the first account was away."""
DECAY_DAYS: Final = 12
DECAY_MAX: Final = 0.22
"""What the second account has lost of British cards by the end, as a share of all of them."""

COUNTRIES: Final[Mapping[str, tuple[int, str]]] = {
    "DE": (26, "EUR"),
    "NL": (17, "EUR"),
    "FR": (14, "EUR"),
    "GB": (18, "GBP"),
    "US": (12, "USD"),
    "SE": (5, "SEK"),
    "CH": (4, "CHF"),
    "JP": (4, "JPY"),
}
"""Of a hundred shoppers, how many come from where, and what they pay in."""
BRANDS: Final[Mapping[str, tuple[int, str, int]]] = {
    "visa": (52, "4", 16),
    "mastercard": (36, "5", 16),
    "amex": (9, "37", 15),
    "maestro": (3, "6759", 16),
}
"""How many of a hundred cards are whose, how their numbers begin, and how long they are."""
ZERO_DECIMALS: Final = frozenset({"JPY"})
FUNDINGS: Final = (("credit", 52), ("debit", 42), ("prepaid", 6))

LEANS: Final[Mapping[tuple[int, str, str], float]] = {
    (0, "brand", "amex"): 0.05,
    (1, "brand", "amex"): -0.16,
    (0, "currency", "USD"): 0.03,
    (1, "currency", "USD"): -0.06,
    (0, "country", "NL"): -0.06,
    (1, "country", "NL"): 0.05,
    (0, "country", "DE"): -0.03,
    (1, "country", "DE"): 0.03,
    (0, "country", "JP"): -0.08,
    (1, "country", "JP"): -0.08,
    (0, "funding", "prepaid"): -0.14,
    (1, "funding", "prepaid"): -0.10,
}
"""What a card loses or gains by going to the first account (0) or the second (1), as a share of all such cards."""
APPROVED: Final = 0.90
"""The share of cards that are approved where nothing speaks for or against it."""
SECOND_LOOK: Final = 0.62
"""Of what the first account's issuer has declined in a way that permits another try, the share that the second would approve."""

DECLINES: Final[Mapping[str, Mapping[str, int]]] = {
    "stripe": {
        "generic_decline": 26,
        "do_not_honor": 14,
        "insufficient_funds": 24,
        "incorrect_cvc": 7,
        "expired_card": 6,
        "transaction_not_allowed": 5,
        "card_velocity_exceeded": 4,
        "lost_card": 3,
        "stolen_card": 2,
        "fraudulent": 3,
        "issuer_not_available": 4,
        "processing_error": 2,
    },
    "adyen": {
        "2": 30,
        "27": 10,
        "12": 24,
        "24": 7,
        "6": 6,
        "23": 5,
        "28": 4,
        "5": 5,
        "20": 3,
        "9": 4,
        "4": 2,
    },
}
"""How often each decline comes, in the provider's own codes."""


@dataclass(frozen=True, slots=True)
class Shopper:
    """One payment to be made. ``number`` belongs to nobody, and is never stored; ``amount`` is in minor units of ``currency``."""

    at: datetime
    ordinal: int
    amount: int
    currency: str
    country: str
    brand: str
    number: str
    funding: str
    exp_month: int
    exp_year: int
    manual: bool
    challenged: bool
    """Whether the issuer wants to see the shopper."""


def shoppers(seed: int, count: int, end: datetime) -> Iterator[Shopper]:
    """``count`` shoppers of the :data:`DAYS` before ``end``, in the order in which they come."""
    dice = Random(f"shoppers {seed}")  # noqa: S311 - shoppers, not secrets
    begin, last = end - timedelta(days=DAYS), end - FRESH
    hours = [begin + timedelta(hours=hour) for hour in range(DAYS * 24)]
    weights = [HOURS[hour.hour] * WEEKDAYS[hour.weekday()] for hour in hours]
    times = sorted(
        min(hour + timedelta(seconds=dice.uniform(0, 3600)), last) for hour in dice.choices(hours, weights, k=count)
    )
    for ordinal, at in enumerate(times, start=1):
        yield _shopper(dice, at, ordinal)


def _shopper(dice: Random, at: datetime, ordinal: int) -> Shopper:
    country = _one_of(dice, {name: share for name, (share, _) in COUNTRIES.items()})
    currency = COUNTRIES[country][1]
    brand = _one_of(dice, {name: share for name, (share, _, _) in BRANDS.items()})
    _, prefix, length = BRANDS[brand]
    whole = max(2, round(dice.lognormvariate(3.6, 0.9)))
    amount = whole * 100 if currency in ZERO_DECIMALS else whole * 100 - dice.choice((1, 5, 10, 50, 100))
    return Shopper(
        at=at,
        ordinal=ordinal,
        amount=min(amount, 250_000),
        currency=currency,
        country=country,
        brand=brand,
        number=_number(dice, prefix, length),
        funding=_one_of(dice, dict(FUNDINGS)),
        exp_month=dice.randint(1, 12),
        exp_year=at.year + dice.randint(1, 4),
        manual=dice.random() < 0.14,
        challenged=dice.random() < (0.02 if country in {"US", "JP"} else 0.11),
    )


def another_card(dice: Random, shopper: Shopper) -> Shopper:
    """The same shopper with another card, whose issuer asks for nothing."""
    brand = _one_of(dice, {name: share for name, (share, _, _) in BRANDS.items()})
    _, prefix, length = BRANDS[brand]
    number, funding = _number(dice, prefix, length), _one_of(dice, dict(FUNDINGS))
    return replace(shopper, brand=brand, number=number, funding=funding, challenged=False)


def _number(dice: Random, prefix: str, length: int) -> str:
    """A number in a range of its brand, of few issuers, with a right check digit."""
    if prefix == "5":
        prefix = f"5{dice.randint(1, 5)}"
    issuer = f"{prefix}{dice.choice(('0002', '1376', '2210', '4242', '7734', '9101'))}"[:8].ljust(8, "0")
    digits = issuer + "".join(str(dice.randint(0, 9)) for _ in range(length - 9))
    total = sum(sum(divmod(int(digit) * (2 - at % 2), 10)) for at, digit in enumerate(reversed(digits)))
    return digits + str(-total % 10)


def _one_of(dice: Random, shares: Mapping[str, int]) -> str:
    (found,) = dice.choices(list(shares), list(shares.values()))
    return found


class World:
    """What accounts and issuers say to shoppers. ``providers`` are those of the accounts, by account, in the order of the configuration.

    An account beyond the second is as the second. Its dice fall in the order in which it is asked.
    """

    def __init__(self, seed: int, end: datetime, providers: Mapping[str, str]) -> None:
        self.dice = Random(f"world {seed}")  # noqa: S311 - issuers, not secrets
        self._end = end
        self._providers = providers
        self._places = {name: min(place, 1) for place, name in enumerate(providers)}

    def away(self, account: str, at: datetime) -> bool:
        """Whether the account was down: the day of the outage."""
        days, hour, lasted = OUTAGE
        began = (self._end - timedelta(days=days)).replace(hour=hour, minute=0, second=0, microsecond=0)
        return self._places[account] == 0 and len(self._places) > 1 and began <= at < began + lasted

    def chance(self, shopper: Shopper, account: str, at: datetime) -> float:
        """The share of such cards that the account approves at that time."""
        place = self._places[account]
        told = (
            ("brand", shopper.brand),
            ("currency", shopper.currency),
            ("country", shopper.country),
            ("funding", shopper.funding),
        )
        chance = APPROVED + sum(LEANS.get((place, name, value), 0.0) for name, value in told)
        if place == 1 and shopper.country == "GB":
            gone = (self._end - at) / timedelta(days=DECAY_DAYS)
            chance -= DECAY_MAX * max(0.0, 1.0 - gone)
        return min(0.98, max(0.05, chance))

    def approves(self, shopper: Shopper, account: str, at: datetime, *, again: bool) -> bool:
        """Whether the card is approved there; ``again`` where another account's issuer has declined it a moment before."""
        return self.dice.random() < self.chance(shopper, account, at) * (SECOND_LOOK if again else 1.0)

    def decline(self, account: str) -> str:
        """Why it is not, in the code of the account's provider."""
        codes = DECLINES.get(self._providers[account], DECLINES["stripe"])
        return _one_of(self.dice, codes)

    def latency(self, account: str) -> timedelta:
        """How long an answer takes."""
        return timedelta(seconds=min(9.0, self.dice.lognormvariate(-1.1 if self._places[account] == 0 else -0.9, 0.45)))

    def between(self, low_s: float, high_s: float) -> timedelta:
        """Some time in between."""
        return timedelta(seconds=self.dice.uniform(low_s, high_s))

    def happens(self, share: float) -> bool:
        """Whether what happens to that share of payments happens to this one."""
        return self.dice.random() < share

    def letters(self, count: int, of: Sequence[str]) -> str:
        """A part of an id that a provider has given."""
        return "".join(self.dice.choices(of, k=count))
