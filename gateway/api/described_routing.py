"""What the OpenAPI document says of routing: what may be asked, what may be read, and an example of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.api.strategies import strategy_object
from gateway.evidence import Model, Position, Use
from routing.strategies import make

_CONFIG_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "rt_0193a4c5d6e77f8091a2b3c4d5e6f70f",
    "object": "routing_config",
    "number": 4,
    "name": "Large payments to Adyen",
    "note": None,
    "hash": "9d1c5a64b6f7a1d0a0e3c5f1f6d8b7a29d1c5a64b6f7a1d0a0e3c5f1f6d8b7a2",
    "parent": "rt_0193a4c5d6e77f8091a2b3c4d5e6f70e",
    "document": {
        "rules": [
            {
                "name": "large in euros",
                "when": {"currency": "EUR", "amount": {"min": 50000}},
                "then": {"priority": ["adyen", "stripe"]},
            }
        ],
        "default": {"priority": ["stripe", "adyen"]},
    },
    "livemode": False,
    "created": "2026-11-21T09:30:00.123456Z",
    "created_by": "5ad1f0c2a4e14d1e",
}
_LISTED_CONFIG: Final = {name: value for name, value in _CONFIG_EXAMPLE.items() if name != "document"}
_PUBLICATION_EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "rp_0193a4c5d6e77f8091a2b3c4d5e6f710",
    "object": "routing_publication",
    "sequence": 7,
    "kind": "publish",
    "config": _CONFIG_EXAMPLE["id"],
    "percent": 5,
    "shadow": False,
    "status": "in_force",
    "starts_at": "2026-11-21T09:31:00.123456Z",
    "target": None,
    "reason": "Adyen approves more of the large ones.",
    "published_by": "5ad1f0c2a4e14d1e",
    "automatic": False,
    "approved_by": None,
    "livemode": False,
    "created": "2026-11-21T09:31:00.123456Z",
}
_COMPARED: Final[Mapping[str, Any]] = {
    "strategy": {
        "payments": 38012,
        "approved": 33070,
        "rate": 0.87,
        "amounts": [{"currency": "EUR", "amount": 190060000, "amount_approved": 165350000}],
    },
    "holdout": {
        "payments": 1988,
        "approved": 1690,
        "rate": 0.8501,
        "amounts": [{"currency": "EUR", "amount": 9940000, "amount_approved": 8450000}],
    },
    "difference": 0.0199,
    "interval": [0.0038, 0.036],
    "always_valid_interval": [-0.0052, 0.045],
    "verdict": "open",
    "payments_for_one_point": 189206,
    "sentence": "It is open whether the strategy earns its place: it approves 1.99 points more than the holdout, and the truth lies "
    "between -0.52 and +4.50 points, however often one looks.",
}
_UPLIFT: Final[Mapping[str, Any]] = {
    "object": "routing_uplift",
    "config": _CONFIG_EXAMPLE["id"],
    "in_force": True,
    **_COMPARED,
    "by_strategy": [{"name": "adaptive", **_COMPARED}],
    "since": "2026-11-21T09:31:00.123456Z",
    "until": "2026-11-28T09:31:00.123456Z",
    "livemode": False,
}
_RATE: Final[Mapping[str, Any]] = {
    "payments": 39996,
    "recorded": {"value": 0.8764, "low": 0.8732, "high": 0.8796},
    "draft": {"value": 0.8961, "low": 0.8927, "high": 0.8994},
    "difference": {"value": 0.0197, "low": 0.0178, "high": 0.0216},
    "ahead": {"value": 0.8961, "low": 0.8916, "high": 0.9005},
    "effective_payments": 29493.0,
    "effective_moved": 29493.0,
    "not_covered": 0.0,
    "weight_max": 160.0,
    "strata": 20,
    "refused": None,
    "difference_refused": None,
}
_WATCHED: Final[Mapping[str, Any]] = {
    "payments": 40000,
    "same_account": 20113,
    "agreement": {"value": 0.502825, "low": 0.497924, "high": 0.507725},
    "since": "2026-11-21T09:31:00.123456Z",
    "until": "2026-11-28T09:31:00.123456Z",
}
_SHADOW: Final[Mapping[str, Any]] = {
    "object": "routing_shadow",
    "config": _CONFIG_EXAMPLE["id"],
    "watching": True,
    **_WATCHED,
    "authorization_rate": _RATE,
    "sentence": "It has watched 40,000 payments, and would have sent 20,113 of them to the same account first: 50.28 % (49.79 to 50.77). "
    "Expected authorization rate 89.61 % (89.27 to 89.94), recorded 87.64 %: +1.97 points (+1.78 to +2.16).",
    "livemode": False,
}
_WHY: Final = {"reason": _PUBLICATION_EXAMPLE["reason"]}
ASKED: Final[tuple[tuple[str, str, str, Any, str, Mapping[str, Any]], ...]] = (
    (
        "/v1/routing/configs",
        "create_routing_config",
        "Make a version of your routing document; nothing is decided by it until it is published",
        {"document": _CONFIG_EXAMPLE["document"], "name": _CONFIG_EXAMPLE["name"]},
        "201",
        _CONFIG_EXAMPLE,
    ),
    (
        "/v1/routing/configs/{id}/lint",
        "lint_routing_config",
        "Say what is wrong with a version, or hardly meant",
        {},
        "200",
        {
            "object": "routing_lint",
            "config": _CONFIG_EXAMPLE["id"],
            "publishable": True,
            "findings": [
                {
                    "level": "warning",
                    "code": "unreachable",
                    "pointer": "/rules/1",
                    "message": "Rule 'euros' never decides: rule 'all of it' before it takes all its payments.",
                    "fix": "Move it before 'all of it', or remove it.",
                }
            ],
        },
    ),
    (
        "/v1/routing/configs/{id}/dry-run",
        "dry_run_routing_config",
        "How a version would decide one payment: one that was made, or one in words",
        {"amount": 60000, "currency": "EUR", "brand": "visa"},
        "200",
        {
            "object": "routing_dry_run",
            "config": _CONFIG_EXAMPLE["id"],
            "payment": None,
            "account": "adyen",
            "was": None,
            "decision": {
                "version": _CONFIG_EXAMPLE["id"],
                "rule": "large in euros",
                "kind": "priority",
                "route": ["adyen", "stripe"],
            },
            "sentence": "adyen is asked first: it is the first eligible account in the list of rule 'large in euros'.",
        },
    ),
    (
        "/v1/routing/configs/{id}/publish",
        "publish_routing_config",
        "Put a version in force: for all payments or a part, at once or at a time",
        {**_WHY, "percent": 5},
        "201",
        _PUBLICATION_EXAMPLE,
    ),
    (
        "/v1/routing/rollback",
        "rollback_routing",
        "Put the version before in force, at once",
        {"reason": "Approvals fell."},
        "201",
        {**_PUBLICATION_EXAMPLE, "kind": "rollback", "percent": 100, "reason": "Approvals fell."},
    ),
    (
        "/v1/routing/publications/{id}/approve",
        "approve_publication",
        "Publish what another key has asked for",
        {},
        "201",
        {
            **_PUBLICATION_EXAMPLE,
            "target": "rp_0193a4c5d6e77f8091a2b3c4d5e6f70f",
            "approved_by": "91c0aa51e77b4f02",
        },
    ),
    (
        "/v1/routing/publications/{id}/withdraw",
        "withdraw_publication",
        "Take out what has not started, a shadow, or what waits for approval",
        {"reason": "Not before the sale."},
        "201",
        {
            **_PUBLICATION_EXAMPLE,
            "kind": "withdraw",
            "status": "done",
            "target": "rp_0193a4c5d6e77f8091a2b3c4d5e6f70f",
            "reason": "Not before the sale.",
        },
    ),
)
"""By POST: path, name, summary, example of a request, status and example of the answer."""
_STANDING: Final = {
    "object": "routing",
    "in_force": _LISTED_CONFIG,
    "publication": {**_PUBLICATION_EXAMPLE, "percent": 100},
    "staged": None,
    "shadow": {**_PUBLICATION_EXAMPLE, "percent": 100, "shadow": True, "status": "shadow"},
    "watched": _WATCHED,
    "scheduled": [],
    "awaiting_approval": [],
    "rollback_to": _CONFIG_EXAMPLE["parent"],
    "livemode": False,
}
_DIFF: Final = {
    "object": "routing_diff",
    "config": _CONFIG_EXAMPLE["id"],
    "against": _CONFIG_EXAMPLE["parent"],
    "same": False,
    "changes": [
        {
            "kind": "added",
            "rule": "large in euros",
            "before": None,
            "after": "/rules/0",
            "sentence": "Rule 'large in euros' is added as number 1.",
        }
    ],
}


def _page(example: Mapping[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": [example], "has_more": False, "next_cursor": None}


_CONFIGS: Final = "/v1/routing/configs"
READ: Final[tuple[tuple[str, str, Mapping[str, Any], tuple[str, ...]], ...]] = (
    ("/v1/routing", "What is in force, what will be, and what a rollback comes to", _STANDING, ()),
    (
        "/v1/routing/history",
        "Who did what, when and why, the newest first",
        _page(_PUBLICATION_EXAMPLE),
        ("limit", "cursor"),
    ),
    (
        "/v1/routing/uplift",
        "What strategies earn beside their holdouts, a version each, the newest first",
        _page(_UPLIFT),
        ("limit", "cursor"),
    ),
    (
        "/v1/routing/shadow",
        "What versions would have approved that have watched from the shadow, the newest first",
        _page(_SHADOW),
        ("limit", "cursor"),
    ),
    (_CONFIGS, "List versions, newest first", _page(_LISTED_CONFIG), ("limit", "cursor")),
    (f"{_CONFIGS}/{{id}}", "Retrieve a version with its document", _CONFIG_EXAMPLE, ("id",)),
    (
        f"{_CONFIGS}/{{id}}/diff",
        "What a version says otherwise than another, or than what is in force",
        _DIFF,
        ("id", "against"),
    ),
)
"""By GET: path, summary, example of the answer, parameters."""
STRATEGY: Final = strategy_object(
    Model(
        Use("mer_shop", False, "adaptive", ("stripe", "adyen"), {"constraints": {"explore_max": 2}}),
        make("adaptive", ("stripe", "adyen"), prior={"stripe": 0.92, "adyen": 0.9}),
        Position(),
        folded=4120,
        heard={"stripe": {"approved": 3712, "declined_ambiguous": 241}, "adyen": {"approved": 150, "technical": 17}},
        at=1795253400.0,
        ready=True,
    ),
    lag_s=0.2,
    now=1795253400.0,
)
SIMULATION: Final[Mapping[str, Any]] = {
    "id": "sim_0193a4c5d6e77f8091a2b3c4d5e6f711",
    "object": "routing_simulation",
    "config": "rt_0193a4c5d6e77f8091a2b3c4d5e6f712",
    "status": "succeeded",
    "progress_percent": 100,
    "payments": 31204,
    "from": "2026-10-22T09:30:00.000000Z",
    "until": "2026-11-21T09:30:00.000000Z",
    "result": {
        "sentence": "The draft changes 9,361 of 31,204 decisions (30.0%). Expected authorization rate 88.00 % (87.41 to 88.57), recorded"
        " 85.01 %: +2.99 points (+2.48 to +3.50).",
        "decisions": {
            "changed": 9361,
            "moves": [{"recorded": "adyen", "draft": "stripe", "payments": 9361}],
            "rules": [{"rule": "default", "payments": 31204}],
        },
        "authorization_rate": {
            "payments": 30988,
            "recorded": {"value": 0.850103, "low": 0.846083, "high": 0.854033},
            "draft": {"value": 0.880012, "low": 0.874103, "high": 0.885678},
            "difference": {"value": 0.029909, "low": 0.024801, "high": 0.035017},
            "effective_payments": 22785.3,
            "not_covered": 0.0,
            "refused": None,
        },
    },
    "error": None,
    "livemode": False,
    "created": "2026-11-21T09:30:00.123456Z",
    "updated": "2026-11-21T09:30:09.654321Z",
}
