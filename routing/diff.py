"""What has changed from one routing document to another: rule by rule, with a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from routing.document import Document, Rule
from routing.reading import dumped


@dataclass(frozen=True, slots=True)
class Change:
    """One change. ``kind`` is ``added``, ``removed``, ``renamed``, ``moved`` or ``changed``.

    ``rule`` is the name of the rule, ``None`` for the rest of the document; ``before`` and ``after`` are the JSON pointers in the two
    documents, ``None`` where there is nothing.
    """

    kind: str
    rule: str | None
    before: str | None
    after: str | None
    sentence: str

    def record(self) -> dict[str, str | None]:
        """The change as JSON values."""
        return {
            "kind": self.kind,
            "rule": self.rule,
            "before": self.before,
            "after": self.after,
            "sentence": self.sentence,
        }


def diff(before: Document, after: Document) -> list[Change]:
    """Every change, rules first, in the order of the document after. Empty where both say the same. Pure."""
    old = {rule.name: (place, rule) for place, rule in enumerate(before.rules)}
    new = {rule.name: (place, rule) for place, rule in enumerate(after.rules)}
    renamed = _renamed(old, new)
    back = {name: former for former, name in renamed.items()}
    kept = [renamed.get(name, name) for name in old if renamed.get(name, name) in new]
    moved = _moved(kept, [name for name in new if back.get(name, name) in old])
    changes = [
        Change("removed", name, f"/rules/{place}", None, f"Rule {name!r} is removed.")
        for name, (place, _) in old.items()
        if name not in renamed and name not in new
    ]
    for name, (place, rule) in new.items():
        former = back.get(name, name)
        if former not in old:
            changes.append(
                Change("added", name, None, f"/rules/{place}", f"Rule {name!r} is added as number {place + 1}.")
            )
            continue
        was, rule_before = old[former]
        pointers = f"/rules/{was}", f"/rules/{place}"
        if former != name:
            changes.append(Change("renamed", name, *pointers, f"Rule {former!r} is called {name!r}."))
        if name in moved:
            changes.append(
                Change("moved", name, *pointers, f"Rule {name!r} is moved from number {was + 1} to {place + 1}.")
            )
        changes += _inside(name, f"Rule {name!r}", _parts(rule_before), _parts(rule), pointers)
    return [*changes, *_inside(None, "The document", _whole(before), _whole(after), ("", ""))]


def _renamed(old: Mapping[str, tuple[int, Rule]], new: Mapping[str, tuple[int, Rule]]) -> dict[str, str]:
    """Rules that only have another name: the former name → the new one."""
    fresh = [(name, rule) for name, (_, rule) in new.items() if name not in old]
    renamed: dict[str, str] = {}
    for name, (_, rule) in old.items():
        if name not in new:
            same = [
                each
                for each, other in fresh
                if (other.when, other.then) == (rule.when, rule.then) and each not in renamed.values()
            ]
            if same:
                renamed[name] = same[0]
    return renamed


def _moved(before: Sequence[str], after: Sequence[str]) -> set[str]:
    """The rules that have left the longest run of rules which kept their order."""
    stayed: set[str] = set()
    for block in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        stayed.update(before[block.a : block.a + block.size])
    return set(after) - stayed


def _parts(rule: Rule) -> dict[str, Any]:
    plain = rule.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {key: each for key, each in plain.items() if key != "name"}


def _whole(document: Document) -> dict[str, Any]:
    return {key: each for key, each in document.plain().items() if key != "rules"}


def _inside(
    rule: str | None, subject: str, before: Any, after: Any, pointers: tuple[str, str], keys: tuple[str, ...] = ()
) -> Iterator[Change]:
    """What differs between two values, as deep as both are objects of one sort."""
    if isinstance(before, dict) and isinstance(after, dict) and _alike(before, after):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from _inside(
                rule, subject, before.get(key, _NOTHING), after.get(key, _NOTHING), pointers, (*keys, key)
            )
        return
    if before is after or (before is not _NOTHING and after is not _NOTHING and before == after):
        return
    below = "".join(f"/{key.replace('~', '~0').replace('/', '~1')}" for key in keys)
    where = " ".join(keys)
    if before is _NOTHING:
        text = f"{subject}: {where} is new: {_text(after)}."
    elif after is _NOTHING:
        text = f"{subject}: {where} is gone; it was {_text(before)}."
    else:
        text = f"{subject}: {where} was {_text(before)} and is {_text(after)}."
    yield Change(
        "changed",
        rule,
        None if before is _NOTHING else pointers[0] + below,
        None if after is _NOTHING else pointers[1] + below,
        text,
    )


_NOTHING: Any = object()


def _alike(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether it is of use to compare key by key: not where a list has become a split, or a value its exclusion."""
    return not before or not after or bool(before.keys() & after.keys())


def _text(value: Any) -> str:
    """A value in words."""
    match value:
        case {"priority": list(accounts), **rest} if not rest:
            return f"the list {', '.join(accounts)}"
        case {"split": dict(shares), **rest} if not rest:
            return "the split " + ", ".join(f"{account} {share:g} %" for account, share in sorted(shares.items()))
        case {"strategy": str(name), "accounts": list(accounts), **rest}:
            more = f" with {dumped(rest).decode()}" if rest else ""
            return f"strategy {name} over {', '.join(accounts)}{more}"
        case {"not": list(named), **rest} if not rest:
            return f"not {' or '.join(map(str, named))}"
        case list():
            return (
                " or ".join(map(str, value)) if all(isinstance(each, str) for each in value) else dumped(value).decode()
            )
        case str():
            return value if value.isalnum() else repr(value)
        case _:
            return dumped(value).decode()
