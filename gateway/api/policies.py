"""``GET /v1/policies``: what is done without each part that may be lost, and how often it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway import logs
from gateway.api import asking
from gateway.api.asking import Desk
from gateway.policies import POLICIES, Policy, variable_of


class Policies(Desk):
    """The policy route over one house."""

    async def list(self, request: Request) -> Response:
        """``GET /v1/policies``, in the order of the table. The same for every merchant; the counts are this process's."""
        await self._principal(request)
        self._deps.instruments.lines_dropped(logs.dropped())
        applied, chosen = self._deps.instruments.applied(), self._deps.policies
        shown = [policy_object(name, row, chosen[name], applied) for name, row in POLICIES.items()]
        return asking.listed(shown, len(shown))


def policy_object(
    name: str, row: Policy, chosen: str, applied: Mapping[tuple[str, str], Mapping[str, int]]
) -> dict[str, Any]:
    """A row of the table as the API shows it, with the choice in force."""
    choice = row.choices[chosen]
    return {
        "id": name,
        "object": "policy",
        "dependency": row.dep,
        "operation": row.op,
        "operations": list(row.operations),
        "lost": row.lost,
        "policy": chosen,
        "stance": choice.stance,
        "does": choice.does,
        "caller_sees": choice.caller_sees,
        "default": row.default,
        "configurable": row.configurable,
        "choices": list(row.choices),
        "setting": variable_of(name),
        "fixed_because": row.fixed,
        "applied": dict(applied[row.dep, row.op]),
    }
