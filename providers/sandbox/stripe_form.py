"""Stripe's request encoding: ``a[b][]=c`` in a form body or a query string."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

_PART = re.compile(r"\[([^\]]*)\]")


def decode_form(text: str) -> dict[str, Any]:
    """Nested dicts of strings; lists become dicts with their positions as keys.

    Raises ValueError for a key that is used both as a value and as a parent.
    """
    root: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        head, bracket, _ = name.partition("[")
        path = [head, *_PART.findall(name)] if bracket else [name]
        _place(root, path, value)
    return root


def _place(root: dict[str, Any], path: list[str], value: str) -> None:
    node = root
    for part in path[:-1]:
        child = node.setdefault(part or str(len(node)), {})
        if not isinstance(child, dict):
            raise ValueError(part)  # noqa: TRY004 - the text is wrong, not a type
        node = child
    node[path[-1] or str(len(node))] = value


def listed(value: object) -> list[str]:
    """The values of a decoded list, whichever way its positions were spelled."""
    if isinstance(value, dict):
        return [str(each) for each in value.values()]
    return [] if value in (None, "") else [str(value)]


def expanded(params: Mapping[str, Any]) -> frozenset[str]:
    """The objects that ``expand`` names, by their first word."""
    return frozenset(path.partition(".")[0] for path in listed(params.get("expand")))
