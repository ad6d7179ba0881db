"""The values that a routing document is made of: each is checked as it is read, and refused with what to write instead."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Final, Literal
from zoneinfo import available_timezones

import iso4217
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StringConstraints

from providers.money import AMOUNT_MAX, MoneyError, exponent
from routing.faults import near, wrong

VALUES_MAX: Final = 1_000
ACCOUNTS_MAX: Final = 50

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
"""ISO 3166-1 alpha-2, and XK for Kosovo, which card networks use."""


@cache
def _currencies() -> tuple[str, ...]:
    return tuple(sorted(each.code for each in iso4217.Currency if each.exponent is not None))


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _currency(code: str) -> str:
    try:
        exponent(code)
    except MoneyError:
        meant = code.upper() if code.upper() in _currencies() else near(code, _currencies())
        raise wrong(
            "this is no ISO 4217 currency that money can be paid in",
            f"write {meant!r}" if meant else "write a code of three capital letters, such as 'EUR'",
        ) from None
    return code


def _country(code: str) -> str:
    if code in COUNTRIES:
        return code
    usual = {"UK": "GB", "EL": "GR"}.get(code.upper(), code.upper())
    fix = f"write {usual!r}" if usual in COUNTRIES else "write a code of two capital letters, such as 'DE'"
    raise wrong("this is no ISO 3166-1 country code of two letters", fix)


def _bins(text: str) -> str:
    low, dash, high = text.partition("-")
    if not all(part.isascii() and part.isdigit() and len(part) <= 8 for part in ((low, high) if dash else (low,))):
        raise wrong(
            "this is neither a prefix of a card number nor a range of them",
            "write 1 to 8 digits such as '4242', or two numbers of the same length such as '400000-499999'",
        )
    if dash and len(low) != len(high):
        raise wrong(
            "both ends of a range have the same number of digits", f"write '{low.ljust(len(high), '0')}-{high}'"
        )
    if dash and low > high:
        raise wrong("the range ends before it begins", f"write '{high}-{low}'")
    return text


def _percent(value: float) -> int | float:
    if round(value * 100) / 100 != value:
        raise wrong("a percentage has at most two decimals", f"write {round(value, 2)}")
    return int(value) if value == int(value) else value


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong("this is not a number", "write a number from 0 to 100, without quotes")
    return value


def _zone(name: str) -> str:
    if name not in _zones():
        meant = near(name, _zones())
        raise wrong("this is no IANA time zone", f"write {meant!r}" if meant else "write one such as 'Europe/Berlin'")
    return name


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, refused where one stands there twice."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise wrong(f"{value!r} stands here twice", "write it once")
        seen.add(value)
    return values


Account = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Currency = Annotated[str, AfterValidator(_currency)]
Country = Annotated[str, AfterValidator(_country)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Bins = Annotated[str, AfterValidator(_bins)]
Percent = Annotated[float, Field(ge=0, le=100), BeforeValidator(_number), AfterValidator(_percent)]
Clock = Annotated[str, StringConstraints(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")]
Minor = Annotated[StrictInt, Field(ge=0, le=AMOUNT_MAX)]
Zone = Annotated[str, AfterValidator(_zone)]
Text = Annotated[str, StringConstraints(max_length=500)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


Accounts = Annotated[tuple[Account, ...], Field(min_length=1, max_length=ACCOUNTS_MAX), AfterValidator(unique)]
Shares = Annotated[dict[Account, Percent], Field(min_length=1, max_length=ACCOUNTS_MAX)]


class Part(BaseModel):
    """A part of a document: it does not change, and a key that it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def hundredths(percent: float) -> int:
    """A percentage of two decimals as an integer."""
    return round(percent * 100)
