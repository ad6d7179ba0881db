"""Disputes: what providers say of them, and the merchant's answer."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import JSON, dispute_object
from gateway.api import reading
from gateway.api.asking import Asker
from gateway.api.auth import Principal
from gateway.api.schemas import Body, DisputeAccept, DisputeEvidence
from gateway.deps import Deps
from gateway.disputes import ANSWERABLE, Dispute
from gateway.errors import Problem
from gateway.ids import DISPUTE, PAYMENT, is_id
from gateway.modify import Evidence, FollowUp, modify
from idempotency.key import Key, fingerprint
from providers.contract import DisputeStatus, Document, Kind

LIST_MAX: Final = 100
LIST_DEFAULT: Final = "20"


class Disputes:
    """The dispute routes over one house."""

    def __init__(self, deps: Deps, asker: Asker) -> None:
        self._deps = deps
        self._asker = asker

    async def list(self, request: Request) -> Response:
        """``GET /v1/disputes``, newest first."""
        who = await self._asker.principal(request)
        filters, limit = _filters(request.query_params)
        page = await self._deps.queries.disputes(who.merchant_id, livemode=who.livemode, limit=limit + 1, **filters)
        shown, more = page[:limit], len(page) > limit
        return _json(
            {
                "object": "list",
                "data": [dispute_object(dispute) for dispute in shown],
                "has_more": more,
                "next_cursor": shown[-1].id if more else None,
            }
        )

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/disputes/{id}``."""
        who = await self._asker.principal(request)
        return _json(dispute_object(await self._dispute(request, who)))

    async def evidence(self, request: Request) -> Response:
        """``POST /v1/disputes/{id}/evidence``: contest it. What is sent is submitted at once."""
        who, key, raw = await self._asker.asked(request, reading.EVIDENCE_MAX)
        dispute = await self._dispute(request, who)
        body = reading.validate(DisputeEvidence, raw)
        documents = tuple(Document(each.type, each.content_type, b64decode(each.content)) for each in body.documents)
        evidence = Evidence(body.text, body.reason, documents)
        return await self._answered(Kind.DEFEND, key, dispute, raw, evidence)

    async def accept(self, request: Request) -> Response:
        """``POST /v1/disputes/{id}/accept``: give it up."""
        who, key, raw = await self._asker.asked(request)
        dispute = await self._dispute(request, who)
        reading.validate(DisputeAccept, raw)
        return await self._answered(Kind.ACCEPT, key, dispute, raw, None)

    async def _answered(
        self, kind: Kind, key: Key, dispute: Dispute, raw: Mapping[str, Any], evidence: Evidence | None
    ) -> Response:
        route = f"POST /v1/disputes/{{id}}/{'evidence' if kind is Kind.DEFEND else 'accept'}"
        print_ = fingerprint(self._deps.keys.fingerprint, route, dispute.id, raw)
        used = await self._deps.queries.used_key(key)
        if used is None and dispute.status not in ANSWERABLE:
            raise Problem("payment_state", f"A dispute that is {dispute.status} cannot be answered any more.")
        command = FollowUp(key, print_, dispute.payment_id, kind, dispute=dispute, evidence=evidence)
        answer = await modify(command, self._deps)
        self._deps.instruments.answers.labels(kind, str(answer.status)).inc()
        return Response(answer.body, answer.status, dict(answer.headers), answer.media_type)

    async def _dispute(self, request: Request, who: Principal) -> Dispute:
        dispute_id = request.path_params["id"]
        found = None
        if is_id(dispute_id, DISPUTE):
            found = await self._deps.queries.dispute_of(dispute_id, who.merchant_id, livemode=who.livemode)
        if found is None:
            raise Problem("not_found", "There is no such dispute.")
        return found[1]


def _filters(query: Mapping[str, str]) -> tuple[dict[str, str | None], int]:
    """The filters and the limit of a list. Raises :class:`Problem` (422) naming the parameter."""
    known = {"limit", "cursor", "status", "payment"}
    if unknown := set(query) - known:
        param = next((name for name in sorted(unknown) if reading.FIELD.fullmatch(name)), None)
        raise Problem("validation_failed", f"This list is filtered by: {', '.join(sorted(known))}.", param)
    limit = query.get("limit", LIST_DEFAULT)
    if len(limit) > 3 or not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= LIST_MAX:
        raise Problem("validation_failed", f"limit must be 1 to {LIST_MAX}.", "limit")
    for name, prefix in (("cursor", DISPUTE), ("payment", PAYMENT)):
        if name in query and not is_id(query[name], prefix):
            raise Problem("validation_failed", f"{name} must be an id that starts with {prefix}_.", name)
    if "status" in query and query["status"] not in set(DisputeStatus):
        raise Problem("validation_failed", f"status must be one of: {', '.join(DisputeStatus)}.", "status")
    return {"before": query.get("cursor"), "status": query.get("status"), "payment": query.get("payment")}, int(limit)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=JSON)


BODIES: Final[Mapping[str, type[Body]]] = {"evidence": DisputeEvidence, "accept": DisputeAccept}
"""What each verb takes, for the OpenAPI document."""
