"""The routing document: the JSON that a payments team edits, read into a value or refused with every fault at once.

A document is an ordered list of rules, each with conditions (``when``) and an outcome (``then``), and a ``default`` for all other
payments. :func:`read` is the only way in: what it returns can be written as :meth:`Document.canonical` and read again to an equal
document. What the conditions mean is in :mod:`routing.conditions`, what is decided by them in :mod:`routing.rules`.

The models are the JSON Schema (:mod:`routing.schema`), too: their texts are what an editor shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from routing.conditions import Amount, Not, Test, When, Window
from routing.faults import Fault, Faulty, near, pointer_to, wrong
from routing.reading import SIZE_MAX, TOO_DEEP, TOO_LARGE, dumped, listed, parsed, told, unwritable
from routing.strategies.policy import COMMITMENT_MAX, STRATEGIES, instant_of
from routing.strategies.policy import faults as strategy_faults
from routing.values import (
    Account,
    Accounts,
    Currency,
    HoldoutPercent,
    Minor,
    Name,
    Part,
    Percent,
    Shares,
    Text,
    hundredths,
)

__all__ = [
    "RULES_MAX",
    "Commitment",
    "Constraints",
    "Document",
    "Fault",
    "Faulty",
    "Holdout",
    "Limit",
    "Outcome",
    "Priority",
    "Rule",
    "Split",
    "Strategy",
    "outcomes",
    "read",
]

RULES_MAX: Final = 500

StrategyName = Literal["priority", "weighted", "least_cost", "success_rate_window", "adaptive"]


class Priority(Part):
    """The accounts are asked in this order."""

    model_config = ConfigDict(
        title="Priority list", json_schema_extra={"examples": [{"priority": ["acme_eu", "acme_us"]}]}
    )

    priority: Accounts = Field(description="Accounts in the order in which they are asked.")

    @property
    def accounts(self) -> tuple[str, ...]:
        """The accounts that may be asked, in order."""
        return self.priority


class Split(Part):
    """Each account gets its percentage of the payments, chosen by the payment's id. The other accounts follow, the largest first."""

    model_config = ConfigDict(
        title="Weighted split", json_schema_extra={"examples": [{"split": {"acme_eu": 70, "acme_us": 30}}]}
    )

    split: Shares = Field(description="Account → percentage of the payments. The percentages sum up to 100.")

    @model_validator(mode="after")
    def _whole(self) -> Split:
        missing = 100_00 - sum(hundredths(share) for share in self.split.values())
        if missing:
            total = f"{(100_00 - missing) / 100:g}"
            change = f"Add {missing / 100:g}" if missing > 0 else f"Take {-missing / 100:g} away"
            raise wrong(f"The percentages sum up to {total}, not to 100.", f"{change}.")
        return self

    @cached_property
    def accounts(self) -> tuple[str, ...]:
        """The accounts that may be asked, the largest share first; equal shares by name, as JSON objects have no order."""
        return tuple(sorted(self.split, key=lambda account: (-self.split[account], account)))

    @cached_property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Each account with the hundredths of a percent at which its part ends, in the order of the names.

        That order does not change with the shares: so moving them a little moves few payments.
        """
        end, parts = 0, []
        for account in sorted(self.split):
            end += hundredths(self.split[account])
            parts.append((account, end))
        return tuple(parts)


class Limit(Part):
    """An amount of one currency."""

    amount: Minor
    currency: Currency


def _instant(text: str) -> str:
    if instant_of(text) is None:
        raise wrong("This is no time with its offset.", "Write it as '2026-12-01T00:00:00Z'.")
    return text


def _whole(value: object) -> object:
    if type(value) is not int:
        raise wrong("This is not a whole number.", "Write a whole number, such as 10000.")
    return value


Instant = Annotated[
    str,
    AfterValidator(_instant),
    Field(
        description="A time with its offset (RFC 3339).",
        examples=["2026-12-01T00:00:00Z"],
        json_schema_extra={"format": "date-time"},
    ),
]


class Commitment(Part):
    """What was promised to an account: so many attempts at least, from one instant until just before another."""

    attempts: Annotated[int, BeforeValidator(_whole)] = Field(
        ge=1, le=COMMITMENT_MAX, description="Attempts that it gets at least."
    )
    starts_at: Instant
    ends_at: Instant


class Constraints(Part):
    """What a strategy has to keep, whatever it has learned."""

    min_share: Shares | None = Field(
        default=None, description="Account → percentage of the payments that it gets at least."
    )
    max_share: Shares | None = Field(
        default=None, description="Account → percentage of the payments that it gets at most."
    )
    commitments: dict[Account, Commitment] | None = Field(
        default=None,
        description="Account → attempts that were promised to it for a time. They are spread evenly over the payments that are expected.",
    )
    explore_max: Percent | None = Field(
        default=None, description="Percentage of the payments that may go to another account than the best, to learn."
    )
    never_explore_above: Limit | None = Field(
        default=None, description="Payments above this amount always go to the best account."
    )


class Strategy(Part):
    """A strategy ranks the accounts by what has become of earlier payments."""

    model_config = ConfigDict(
        title="Strategy",
        json_schema_extra={
            "examples": [
                {
                    "strategy": "adaptive",
                    "accounts": ["acme_eu", "acme_us"],
                    "constraints": {"explore_max": 2, "min_share": {"acme_us": 5}},
                }
            ]
        },
    )

    strategy: StrategyName
    accounts: Accounts = Field(
        description="The accounts it ranks. While it knows nothing, and where it cannot be used, this is the order."
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings of the strategy.")
    constraints: Constraints = Constraints()

    @property
    def all_settings(self) -> dict[str, Any]:
        """Settings with the constraints among them, as :func:`routing.strategies.make` takes them."""
        constraints = self.constraints.model_dump(exclude_unset=True)
        return {**self.settings, "constraints": constraints} if constraints else dict(self.settings)


_SORTS: Final[Mapping[str, type[BaseModel]]] = {"priority": Priority, "split": Split, "strategy": Strategy}


def _one_sort(value: object) -> object:
    """Refuses an outcome that is none, or several at once."""
    if not isinstance(value, dict):
        raise wrong(
            "An outcome is an object.", f"Write one with {listed(_SORTS)}, such as {{'priority': ['acme_eu']}}."
        )
    found = [sort for sort in _SORTS if sort in value]
    if len(found) > 1:
        raise wrong(f"The outcome is {listed(found)} at once.", "Keep one of them.")
    if not found:
        meant = next((near(key, _SORTS) for key in value if isinstance(key, str) and near(key, _SORTS)), None)
        one_of = "'priority', 'split' or 'strategy'"
        raise wrong(f"An outcome has {one_of}.", f"Write {meant!r}." if meant else f"Add {one_of}.")
    return value


def _sort(value: Any) -> str:
    if isinstance(value, BaseModel):  # as it is written again
        return f"‹{type(value).__name__.lower()}›"
    return f"‹{next(sort for sort in _SORTS if sort in value)}›"


Outcome = Annotated[
    Annotated[Priority, Tag("‹priority›")] | Annotated[Split, Tag("‹split›")] | Annotated[Strategy, Tag("‹strategy›")],
    Discriminator(_sort),
    BeforeValidator(_one_sort),
]


class Rule(Part):
    """The first rule whose conditions all hold decides."""

    name: Name = Field(description="Says in decisions which rule it was. Each rule has a name of its own.")
    when: When
    then: Outcome = Field(description="What happens to the payments that it takes.")
    note: Text | None = Field(default=None, description="For people; it changes nothing.")


class Holdout(Part):
    """The share of the payments that no strategy ranks, so that one can tell what strategies are worth.

    They are asked in the order of ``accounts``, then in the order that the outcome lists.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"percent": 5}]})

    percent: HoldoutPercent = Field(description="Percentage of the payments, 0.5 to 10.")
    accounts: Accounts | None = Field(
        default=None, description="The order to compare with, among those the outcome lists."
    )
    rollback: StrictBool = Field(
        default=True, description="Whether the version is rolled back when the holdout is proved to do better."
    )


class Document(Part):
    """Which account a payment goes to: the first rule that holds decides, and the default where none does.

    Whatever is decided, an account that cannot take a payment is not asked for it.
    """

    model_config = ConfigDict(
        title="Routing document",
        json_schema_extra={
            "examples": [
                {
                    "rules": [
                        {
                            "name": "large amounts",
                            "when": {"currency": "EUR", "amount": {"min": 50000}},
                            "then": {"priority": ["acme_eu", "acme_us"]},
                        }
                    ],
                    "default": {"split": {"acme_eu": 70, "acme_us": 30}},
                }
            ]
        },
    )

    schema_: Annotated[str, StringConstraints(max_length=300)] | None = Field(
        default=None, alias="$schema", description="Where an editor finds the JSON Schema."
    )
    name: Name | None = Field(default=None, description="For people.")
    note: Text | None = Field(default=None, description="For people; it changes nothing.")
    rules: Annotated[tuple[Rule, ...], Field(max_length=RULES_MAX)] = Field(
        default=(), description="Rules in order: the first that holds decides."
    )
    default: Outcome = Field(description="What happens to the payments that no rule takes.")
    holdout: Holdout | None = Field(default=None)

    @cached_property
    def compiled(self) -> tuple[tuple[str, tuple[Test, ...], Priority | Split | Strategy], ...]:
        """Each rule's name, conditions as functions, and outcome: what a decision reads."""
        return tuple((rule.name, rule.when.tests, rule.then) for rule in self.rules)

    def canonical(self) -> bytes:
        """The document as JSON in its canonical form: keys sorted, and nothing that was not written. :func:`read` takes it back."""
        return dumped(self.plain())

    def plain(self) -> dict[str, Any]:
        """The document as JSON values, as it was written."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def outcomes(document: Document) -> Iterator[tuple[str, str, Priority | Split | Strategy]]:
    """Every outcome with its JSON pointer and the name of its rule, ``default`` last."""
    for index, rule in enumerate(document.rules):
        yield f"/rules/{index}/then", rule.name, rule.then
    yield "/default", "default", document.default


# --- Reading ----------------------------------------------------------------------------------------------------------

_PARTS: Final[Mapping[str, type[BaseModel]]] = {
    "": Document,
    "rules": Rule,
    "when": When,
    "amount": Amount,
    "time": Window,
    "‹not›": Not,
    "holdout": Holdout,
    "constraints": Constraints,
    "never_explore_above": Limit,
    "commitments": Commitment,
    **{f"‹{name}›": model for name, model in _SORTS.items()},
}
"""Which model stands under a key."""


def read(value: Mapping[str, Any] | bytes) -> Document:
    """The document that ``value`` is: JSON in UTF-8, or what such JSON was parsed to.

    Raises :class:`Faulty` with every fault, in the order of the document. Loads the time zones that the document names.
    """
    plain = parsed(value) if isinstance(value, bytes) else value
    faults = list(unwritable(plain))
    if any(fault.message is TOO_DEEP for fault in faults):
        raise Faulty(faults)
    if not faults and len(dumped(plain)) > SIZE_MAX:
        faults.append(TOO_LARGE)
    document = None
    try:
        document = Document.model_validate(plain)
    except ValidationError as error:
        faults += told(error, _PARTS)
    faults += _of_strategies(plain, {fault.pointer for fault in faults})
    faults += _of_names(plain)
    if document is not None and not faults:
        _ = document.compiled  # here, as it reads the files of time zones
        return document
    raise Faulty(_in_order({fault.pointer: fault for fault in reversed(faults)}.values(), plain))


def _rules(plain: Any) -> list[Any]:
    rules = plain.get("rules") if isinstance(plain, dict) else None
    return rules if isinstance(rules, list) else []


def _of_names(plain: Any) -> Iterator[Fault]:
    """Rules with a name that an earlier one or the default has."""
    taken = {"default": "/default"}
    for index, rule in enumerate(_rules(plain)):
        name = rule.get("name") if isinstance(rule, dict) else None
        if not isinstance(name, str):
            continue
        if name in taken:
            yield Fault(
                f"/rules/{index}/name", f"The name {name!r} is that of {taken[name]}.", "Give the rule its own."
            )
        else:
            taken[name] = f"/rules/{index}"


def _of_strategies(plain: Any, known: set[str]) -> Iterator[Fault]:
    """What the strategies themselves find wrong with their settings and constraints."""
    if not isinstance(plain, dict):
        return
    places = [
        (f"/rules/{index}/then", rule.get("then")) for index, rule in enumerate(_rules(plain)) if isinstance(rule, dict)
    ]
    for pointer, outcome in [*places, ("/default", plain.get("default"))]:
        if isinstance(outcome, dict) and outcome.get("strategy") in tuple(STRATEGIES):
            sound = not any(fault.startswith(f"{pointer}/constraints") for fault in known)
            yield from _of_strategy(pointer, outcome, constraints=sound)


def _of_strategy(pointer: str, outcome: dict[str, Any], *, constraints: bool) -> Iterator[Fault]:
    name, accounts, settings = outcome["strategy"], outcome.get("accounts"), outcome.get("settings", {})
    if not isinstance(settings, dict) or not isinstance(accounts, list):
        return
    known = tuple(setting.name for setting in STRATEGIES[name])
    for key in [key for key in settings if key not in known]:
        meant = near(str(key), known)
        fix = (
            "Write them beside the settings." if key == "constraints" else f"Leave it out; {name} has {listed(known)}."
        )
        yield Fault(
            pointer_to(pointer, "settings", key), f"{name} has no such setting.", f"Write {meant!r}." if meant else fix
        )
    asked = {key: each for key, each in settings.items() if key in known}
    if constraints and "constraints" in outcome:
        asked["constraints"] = outcome["constraints"]
    named = [account for account in accounts if isinstance(account, str)]
    for fault in strategy_faults(name, list(dict.fromkeys(named)) or [""], asked):
        if not fault.pointer:
            continue
        below = fault.pointer if fault.pointer.startswith("/constraints") else f"/settings{fault.pointer}"
        account = below.rpartition("/")[2].replace("~1", "/").replace("~0", "~")
        meant = near(account, named) if account not in named and "not an account" in fault.message else None
        yield Fault(pointer + below, _sentence(fault.message), f"Write {meant!r}." if meant else _sentence(fault.fix))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."


def _in_order(faults: Any, plain: Any) -> list[Fault]:
    """The faults in the order in which their places stand in the document; a missing key comes first where it is missing."""

    def place(fault: Fault) -> list[int]:
        at, value = [], plain
        for part in fault.pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict):
                keys = list(value)
                at.append(keys.index(key) + 1 if key in keys else 0)
                value = value.get(key)
            elif isinstance(value, list | tuple) and key.isdigit() and int(key) < len(value):
                at.append(int(key))
                value = value[int(key)]
        return at

    return sorted(faults, key=place)
