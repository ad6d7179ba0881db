"""The values that a routing document is made of: each is checked as it is read, and refused with what to write instead."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Final, Literal
from zoneinfo import available_timezones

import iso4217
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictInt,
    StringConstraints,
)

from providers.money import AMOUNT_MAX, MoneyError, exponent
from routing.faults import near, wrong

VALUES_MAX: Final = 1_000
"""Values of one condition."""
ACCOUNTS_MAX: Final = 50
"""Accounts of one outcome."""

_COUNTRIES: Final = """
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC
CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD
GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH
KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW
MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC
SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY
UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW XK
"""
COUNTRIES: Final = frozenset(_COUNTRIES.split())
"""ISO 3166-1 alpha-2, and XK for Kosovo, which the card networks use."""

_MEANT_COUNTRIES: Final = {
    "UK": "GB",
    "EN": "GB",
    "EL": "GR",
    "SU": "RU",
    "USA": "US",
    "GBR": "GB",
    "DEU": "DE",
    "FRA": "FR",
}


@cache
def _currencies() -> tuple[str, ...]:
    return tuple(sorted(each.code for each in iso4217.Currency if each.exponent is not None))


@cache
def _known_codes() -> frozenset[str]:
    return frozenset(each.code for each in iso4217.Currency)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _currency(code: str) -> str:
    try:
        exponent(code)
    except MoneyError:
        meant = code.upper() if code.upper() in _currencies() else near(code, _currencies())
        meant = None if code in _known_codes() else meant  # gold is no misspelt franc
        raise wrong(
            "This is no ISO 4217 currency that money can be paid in.",
            f"Write {meant!r}." if meant else "Write a code of three capital letters, such as 'EUR'.",
        ) from None
    return code


def _country(code: str) -> str:
    if code in COUNTRIES:
        return code
    meant = _MEANT_COUNTRIES.get(code.upper(), code.upper())
    raise wrong(
        "This is no ISO 3166-1 code of a country.",
        f"Write {meant!r}." if meant in COUNTRIES else "Write a code of two capital letters, such as 'DE'.",
    )


def _word(word: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9_]{0,31}", word):
        return word
    meant = re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_")[:32]
    raise wrong(
        "Such words are in lower case, with '_' for a space.",
        f"Write {meant!r}." if re.match("[a-z]", meant) else "Write a word such as 'visa'.",
    )


def _bins(text: str) -> str:
    low, dash, high = text.partition("-")
    ends = (low, high) if dash else (low,)
    if not all(part.isascii() and part.isdigit() and len(part) <= 8 for part in ends):
        raise wrong(
            "This is neither a prefix of card numbers nor a range of prefixes.",
            "Write 1 to 8 digits such as '4242', or two numbers of the same length such as '400000-499999'.",
        )
    if dash and len(low) != len(high):
        size = max(len(low), len(high))
        raise wrong("The ends of a range differ in length.", f"Write '{low.ljust(size, '0')}-{high.ljust(size, '9')}'.")
    if dash and low > high:
        raise wrong("The range ends before it begins.", f"Write '{high}-{low}'.")
    return text


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong("This is not a percentage.", "Write a number from 0 to 100, without quotes.")
    return value


def _percent(value: float) -> float:
    if round(value, 2) != value:
        raise wrong("A percentage has at most two decimals.", f"Write {round(value, 2):g}.")
    return value


def _written(value: float) -> int | float:
    """60 % is written as 60, whatever it was read from."""
    return int(value) if value == int(value) else value


def _zone(name: str) -> str:
    if name in _zones():
        return name
    cities = {zone.rpartition("/")[2]: zone for zone in sorted(_zones(), reverse=True)}
    city = near(name, cities, 0.8)
    meant = near(name, _zones(), 0.8) or (cities[city] if city else None)
    raise wrong("This is no IANA time zone.", f"Write {meant!r}." if meant else "Write one such as 'Europe/Berlin'.")


def _clock(text: str) -> str:
    if re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00", text):
        return text
    found = re.fullmatch(r"([0-9]|[01][0-9]|2[0-3])(?:[:.h]([0-5][0-9]))?(?::[0-9]{2})?", text)
    meant = f"Write '{int(found[1]):02d}:{found[2] or '00'}'." if found else "Write it as '22:00'."
    raise wrong("This is no time of the day.", meant)


def _day(text: str) -> str:
    if text in DAYS:
        return text
    meant = text.lower()[:3]
    raise wrong(
        "This is no day of the week.", f"Write {meant!r}." if meant in DAYS else f"Write one of {', '.join(DAYS)}."
    )


def _name(text: str) -> str:
    if text != text.strip() or not text.isprintable():
        raise wrong(
            "A name is printable, without spaces around it.", f"Write {re.sub(r'[^ -~]+', ' ', text).strip()!r}."
        )
    return text


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, refused where one stands there twice."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise wrong(f"{value!r} stands here twice.", "Write it once.")
        seen.add(value)
    return values


DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Account = Annotated[
    str, StringConstraints(min_length=1, max_length=64), Field(description="An account's name in the configuration.")
]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_name)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=40)]
Text = Annotated[str, StringConstraints(max_length=500)]
Currency = Annotated[
    str,
    AfterValidator(_currency),
    Field(description="ISO 4217, upper case.", json_schema_extra={"pattern": "^[A-Z]{3}$"}),
]
Country = Annotated[
    str,
    AfterValidator(_country),
    Field(description="ISO 3166-1 alpha-2, upper case.", json_schema_extra={"pattern": "^[A-Z]{2}$"}),
]
Word = Annotated[str, AfterValidator(_word), Field(json_schema_extra={"pattern": "^[a-z][a-z0-9_]{0,31}$"})]
Bins = Annotated[
    str,
    AfterValidator(_bins),
    Field(
        description="A prefix of card numbers, or a range of prefixes of one length: 1 to 8 digits.",
        json_schema_extra={"pattern": "^[0-9]{1,8}(-[0-9]{1,8})?$"},
    ),
]
Zone = Annotated[str, AfterValidator(_zone), Field(description="IANA time zone.", examples=["Europe/Berlin", "UTC"])]
Clock = Annotated[
    str,
    AfterValidator(_clock),
    Field(json_schema_extra={"pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"}, examples=["22:00"]),
]
Day = Annotated[str, AfterValidator(_day), Field(json_schema_extra={"enum": list(DAYS)})]
Minor = Annotated[StrictInt, Field(ge=0, le=AMOUNT_MAX, description="Minor units of the currency.")]
Percent = Annotated[
    float, Field(ge=0, le=100), BeforeValidator(_number), AfterValidator(_percent), PlainSerializer(_written)
]
"""A percentage of at most two decimals."""
HoldoutPercent = Annotated[
    float, Field(ge=0.5, le=10), BeforeValidator(_number), AfterValidator(_percent), PlainSerializer(_written)
]
"""Below half a percent nothing is ever proved by it, and above ten it costs more than it tells."""
Initiator = Literal["customer", "merchant"]
Recurring = Literal["subscription", "unscheduled", "card_on_file"]
ThreeDSecure = Literal["automatic", "required"]

Accounts = Annotated[tuple[Account, ...], Field(min_length=1, max_length=ACCOUNTS_MAX), AfterValidator(unique)]
Shares = Annotated[dict[Account, Percent], Field(min_length=1, max_length=ACCOUNTS_MAX)]


class Part(BaseModel):
    """A part of a document: it does not change, and a key that it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def hundredths(percent: float) -> int:
    """A percentage as a whole number of hundredths of a percent."""
    return round(percent * 100)
