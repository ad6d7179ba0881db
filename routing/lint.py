"""Looks a routing document over before it is published: what cannot be, what will hardly be meant, and what is worth knowing.

:func:`lint` takes whatever somebody has written. A document that cannot be read has its faults as findings; one that can is compared
with itself (which payments can a rule still take after those before it?) and with the accounts that there are.

* **error**: it cannot be published, or can never do what it says;
* **warning**: some of it has no effect or fails for some payments;
* **hint**: it may well be meant.

A rule is a box: of every condition the set of values that it takes. What earlier rules leave of a box is boxes again, so a rule that
nothing can reach is found also where only several earlier rules together cover it. After :data:`BOXES_MAX` parts of one the rule counts
as reachable. What is not comparable (two clocks, a BIN of eight digits against one of six) counts as reachable, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from routing.boxes import Box, box_of, common, described, empty, left_of
from routing.conditions import When, values
from routing.document import Document, Faulty, Priority, Split, Strategy, outcomes, read
from routing.faults import near, pointer_to

BOXES_MAX: Final = 300
"""Parts of a box that are looked at to see what earlier rules leave of it."""
OVERLAPS_MAX: Final = 50
"""Overlaps that are told. More than these nobody reads."""

ERROR: Final = "error"
WARNING: Final = "warning"
HINT: Final = "hint"


CODES: Final[Mapping[str, str]] = {
    "unreadable": "the document cannot be read",
    "unknown_account": "there is no such account",
    "impossible": "no payment fulfils all conditions of a rule",
    "unable_account": "an account can take none of the payments of its rule",
    "unreachable": "rules before it take all payments of a rule",
    "no_effect": "it changes nothing",
    "overlap": "two rules cut across each other and do different things",
    "gap": "accounts take what no rule does",
    "no_choice": "a strategy has one account",
}
"""What may be found, in a word for programs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that lint has found. ``code`` is one of :data:`CODES`, ``pointer`` a JSON pointer into the document."""

    level: str
    code: str
    pointer: str
    message: str
    fix: str

    def record(self) -> dict[str, str]:
        """The finding as JSON values."""
        return {
            "level": self.level,
            "code": self.code,
            "pointer": self.pointer,
            "message": self.message,
            "fix": self.fix,
        }


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What is known of an account: the currencies it takes (``None`` for all) and its capabilities, in the words of the API."""

    currencies: frozenset[str] | None = None
    capabilities: frozenset[str] = frozenset()


NEEDS: Final[Mapping[tuple[str, str], str]] = {
    ("initiator", "merchant"): "merchant_initiated",
    ("three_d_secure", "required"): "three_d_secure_redirect",
}
"""What an account has to be able to do for the payments of a condition."""


def lint(
    document: Document | Mapping[str, Any] | bytes, accounts: Mapping[str, AccountFacts] | None = None
) -> list[Finding]:
    """Everything that is to be said of the document, errors first, each level in the order of the document.

    ``accounts`` are the merchant's; without them nothing is said of accounts. Pure, and takes up to three seconds where 500 rules overlap.
    """
    if not isinstance(document, Document):
        try:
            document = read(document)
        except Faulty as faulty:
            return [Finding(ERROR, "unreadable", fault.pointer, fault.message, fault.fix) for fault in faulty.faults]
    found = [*_reach(document), *_pointless(document)]
    if accounts is not None:
        found += [
            *_unknown_accounts(document, accounts),
            *_unable_accounts(document, accounts),
            *_gaps(document, accounts),
        ]
    return sorted(found, key=lambda finding: (ERROR, WARNING, HINT).index(finding.level))


# --- Rules against each other -----------------------------------------------------------------------------------------


def _reach(document: Document) -> Iterator[Finding]:
    """Rules that nothing reaches, and rules that share payments with a later one that would do something else."""
    boxes = [box_of(rule.when) for rule in document.rules]
    told = 0
    for later, rule in enumerate(document.rules):
        box, pointer = boxes[later], f"/rules/{later}"
        if empty(box):
            yield Finding(
                ERROR,
                "impossible",
                f"{pointer}/when",
                f"No payment fulfils all conditions of rule {rule.name!r}.",
                "Change them, or remove the rule.",
            )
            continue
        touching = [earlier for earlier in range(later) if not empty(common(boxes[earlier], box))]
        alone = next((earlier for earlier in touching if not left_of(box, [boxes[earlier]], BOXES_MAX)), None)
        if alone is not None:
            name = document.rules[alone].name
            yield Finding(
                WARNING,
                "unreachable",
                pointer,
                f"Rule {rule.name!r} never decides: rule {name!r} before it takes all its payments.",
                f"Move it before {name!r}, or remove it.",
            )
            continue
        if len(touching) > 1 and not left_of(box, [boxes[earlier] for earlier in touching], BOXES_MAX):
            names = ", ".join(repr(document.rules[earlier].name) for earlier in touching[:5])
            yield Finding(
                WARNING,
                "unreachable",
                pointer,
                f"Rule {rule.name!r} never decides: rules before it take all its payments together ({names}).",
                "Move it before them, or remove it.",
            )
            continue
        for earlier in touching:
            first = document.rules[earlier]
            # An exception before its rule is how documents are written; only what cuts across is worth a word.
            if told < OVERLAPS_MAX and first.then != rule.then and left_of(boxes[earlier], [box], BOXES_MAX):
                told += 1
                shared = described(common(boxes[earlier], box))
                yield Finding(
                    HINT,
                    "overlap",
                    pointer,
                    f"Rules {first.name!r} and {rule.name!r} share payments ({shared}) and do different things with them: the first decides.",
                    "Leave it if that is meant; else exclude those payments from one of them.",
                )


def _pointless(document: Document) -> Iterator[Finding]:
    """What has no effect."""
    learning = [outcome for _, _, outcome in outcomes(document) if isinstance(outcome, Strategy)]
    if document.holdout is not None and not learning:
        yield Finding(
            WARNING,
            "no_effect",
            "/holdout",
            "The holdout is kept from strategies, and there is none.",
            "Remove it, or use a strategy.",
        )
    if document.holdout is not None and document.holdout.accounts is not None:
        named = {account for outcome in learning for account in outcome.accounts}
        for index, account in enumerate(document.holdout.accounts):
            if learning and account not in named:
                yield Finding(
                    WARNING,
                    "no_effect",
                    f"/holdout/accounts/{index}",
                    f"No strategy ranks {account!r}, so the holdout does not ask it.",
                    "Remove it, or add it to the accounts of a strategy.",
                )
    for pointer, name, outcome in outcomes(document):
        if isinstance(outcome, Strategy) and len(outcome.accounts) == 1:
            yield Finding(
                HINT,
                "no_choice",
                f"{pointer}/accounts",
                f"The strategy of {name!r} has one account and nothing to choose.",
                "Add an account, or write a 'priority'.",
            )
    if document.rules and document.rules[-1].then == document.default:
        last = len(document.rules) - 1
        name = document.rules[last].name
        yield Finding(
            HINT, "no_effect", f"/rules/{last}", f"The last rule, {name!r}, does what the default does.", "Remove it."
        )


# --- Rules against accounts -------------------------------------------------------------------------------------------


def _named(pointer: str, outcome: Priority | Split | Strategy) -> Iterator[tuple[str, str]]:
    """Every account that an outcome names for itself, with its pointer."""
    if isinstance(outcome, Split):
        yield from ((account, pointer_to(pointer, "split", account)) for account in outcome.split)
    else:
        key = "priority" if isinstance(outcome, Priority) else "accounts"
        yield from ((account, pointer_to(pointer, key, index)) for index, account in enumerate(outcome.accounts))


def _unknown_accounts(document: Document, accounts: Mapping[str, AccountFacts]) -> Iterator[Finding]:
    places = [place for pointer, _, outcome in outcomes(document) for place in _named(pointer, outcome)]
    if document.holdout is not None:
        places += [
            (account, f"/holdout/accounts/{index}") for index, account in enumerate(document.holdout.accounts or ())
        ]
    known = ", ".join(sorted(accounts)) or "none"
    for account, pointer in places:
        if account not in accounts:
            meant = near(account, accounts)
            fix = f"Write {meant!r}." if meant else f"Write one of the accounts there are: {known}."
            yield Finding(ERROR, "unknown_account", pointer, f"There is no account {account!r}.", fix)


def _unable_accounts(document: Document, accounts: Mapping[str, AccountFacts]) -> Iterator[Finding]:
    """Accounts that cannot take any payment of their rule."""
    for index, rule in enumerate(document.rules):
        box = box_of(rule.when)
        reasons = {
            account: reason
            for account in rule.then.accounts
            if account in accounts and (reason := _unable(rule.when, box, accounts[account]))
        }
        nobody = bool(reasons) and len(reasons) == len([each for each in rule.then.accounts if each in accounts])
        for account, pointer in _named(f"/rules/{index}/then", rule.then):
            if account in reasons:
                yield Finding(
                    ERROR if nobody else WARNING,
                    "unable_account",
                    pointer,
                    f"{account!r} takes none of the payments of rule {rule.name!r}: {reasons[account]}."
                    + (" Nor does any other account of the rule." if nobody else ""),
                    "Name another account, or change the conditions.",
                )


def _unable(when: When, box: Box, account: AccountFacts) -> str | None:
    if account.currencies is not None:
        missing = box.money.only()
        if missing and not missing & account.currencies:
            return f"it does not take {', '.join(sorted(missing))}"
    for (condition, word), capability in NEEDS.items():
        given = getattr(when, condition)
        if (
            given is not None
            and not hasattr(given, "none_of")
            and values(given) == (word,)
            and capability not in account.capabilities
        ):
            return f"it has not the capability {capability}"
    return None


def _gaps(document: Document, accounts: Mapping[str, AccountFacts]) -> Iterator[Finding]:
    """Currencies that accounts take and no rule asks for, and amounts between rules."""
    boxes = [box_of(rule.when) for rule in document.rules]
    if not any(box.money.only() is not None for box in boxes):
        return  # no rule looks at the currency: then none is forgotten
    taken = {currency for account in accounts.values() for currency in account.currencies or ()}
    for currency in sorted(taken):
        spans = [span for box in boxes for span in box.money.of(currency)]
        if not spans:
            able = ", ".join(sorted(name for name, each in accounts.items() if currency in (each.currencies or ())))
            yield Finding(
                HINT,
                "gap",
                "/rules",
                f"No rule takes {currency}, which {able} can take: the default decides.",
                "Leave it if that is meant; else add a rule.",
            )
            continue
        for low, high in _holes(spans):
            yield Finding(
                HINT,
                "gap",
                "/rules",
                f"No rule takes {currency} from {low} to {high} minor units, while rules take less and more: the default decides.",
                "Leave it if that is meant; else move a limit.",
            )


def _holes(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What lies between spans."""
    end = None
    for low, high in sorted(spans):
        if end is not None and low > end + 1:
            yield end + 1, low - 1
        end = high if end is None else max(end, high)
