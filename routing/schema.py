"""The JSON Schema of a routing document, for editors: what may stand where, with the texts of the models.

It is the models' own, made plain; :func:`routing.document.read` refuses more than a schema can say, such as a split that does not sum.
"""

from __future__ import annotations

from typing import Any, Final

from routing.document import Document
from routing.strategies.policy import STRATEGIES, Setting

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12), as JSON values."""
    whole = _plain(Document.model_json_schema(by_alias=True))
    parts = whole.pop("$defs")
    inlined = {name for name in parts if name.startswith("Not_")}
    whole = _inlined(whole, parts, inlined)
    parts = {name: _inlined(part, parts, inlined) for name, part in parts.items() if name not in inlined}
    parts["Strategy"]["allOf"] = [
        {
            "if": {"properties": {"strategy": {"const": name}}, "required": ["strategy"]},
            "then": {"properties": {"settings": _settings(settings)}},
        }
        for name, settings in STRATEGIES.items()
    ]
    return {"$schema": DIALECT, "$id": "routing.schema.json", **whole, "$defs": parts}


def _plain(value: Any) -> Any:
    """Without what is pydantic's way of saying it, not the document's.

    An absent key is no null and has no default that anybody could write, and bounds have the names of JSON Schema.
    """
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {_NAMES.get(key, key): _plain(each) for key, each in value.items() if not _is_no_default(key, each)}
    choices = [each for each in kept.get("anyOf", ()) if each != {"type": "null"}]
    if len(choices) == 1:
        del kept["anyOf"]
        kept = {**choices[0], **kept}
    if kept.get("type") == "array":
        kept["uniqueItems"] = True
    if isinstance(kept.get("description"), str):
        kept["description"] = kept["description"].replace("``", "`")
    return kept


_NAMES: Final = {"ge": "minimum", "le": "maximum"}


def _is_no_default(key: str, value: Any) -> bool:
    return key == "default" and (value is None or value == [] or (isinstance(value, dict) and None in value.values()))


def _inlined(value: Any, parts: dict[str, Any], names: set[str]) -> Any:
    """The small parts, whose names are of no use to anybody, put where they are spoken of."""
    if isinstance(value, list):
        return [_inlined(each, parts, names) for each in value]
    if not isinstance(value, dict):
        return value
    named = value.get("$ref", "").rpartition("/")[2]
    if named in names:
        return {key: each for key, each in parts[named].items() if key != "title"}
    return {key: _inlined(each, parts, names) for key, each in value.items()}


def _settings(settings: tuple[Setting, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {setting.name: _setting(setting) for setting in settings},
    }


def _setting(setting: Setting) -> dict[str, Any]:
    number = {"minimum": setting.low, "maximum": setting.high}
    fee = {
        "type": "object",
        "required": ["fixed", "basis_points"],
        "additionalProperties": False,
        "properties": {"fixed": {"type": "number", **number}, "basis_points": {"type": "number", **number}},
    }
    shapes: dict[str, dict[str, Any]] = {
        "number": {"type": "number", **number},
        "integer": {"type": "integer", **number},
        "keys": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": int(setting.low),
            "maxItems": int(setting.high),
        },
        "weights": {"type": "object", "additionalProperties": {"type": "number", **number}},
        "fees": {"type": "object", "additionalProperties": fee},
    }
    default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
    meaning = f"{setting.meaning[:1].upper()}{setting.meaning[1:]} ({setting.unit})."
    return {"description": meaning, **shapes[setting.kind], "default": default}
