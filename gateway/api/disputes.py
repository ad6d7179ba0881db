"""Disputes: what providers say of them, and the merchant's answer."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import dispute_object
from gateway.api import asking, reading
from gateway.api.asking import Desk
from gateway.api.auth import Principal
from gateway.api.schemas import Body, DisputeAccept, DisputeEvidence
from gateway.disputes import Dispute
from gateway.errors import Problem
from gateway.ids import DISPUTE, PAYMENT, is_id
from gateway.modify import Evidence, FollowUp, modify
from idempotency.key import Key, fingerprint
from providers.contract import DisputeStatus, Document, Kind


class Disputes(Desk):
    """The dispute routes over one house."""

    async def list(self, request: Request) -> Response:
        """``GET /v1/disputes``, newest first."""
        who = await self._principal(request)
        before, limit = asking.page(request, ("status", "payment"), DISPUTE)
        found = await self._deps.queries.disputes(
            who.merchant_id, livemode=who.livemode, limit=limit + 1, before=before, **_filters(request.query_params)
        )
        return asking.listed([dispute_object(dispute) for dispute in found], limit)

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/disputes/{id}``."""
        who = await self._principal(request)
        return asking.json(dispute_object(await self._dispute(request, who)))

    async def evidence(self, request: Request) -> Response:
        """``POST /v1/disputes/{id}/evidence``: contest it. What is sent is submitted at once."""
        who, key, raw = await self._asked(request, reading.EVIDENCE_MAX)
        dispute = await self._dispute(request, who)
        body = reading.validate(DisputeEvidence, raw)
        documents = tuple(Document(each.type, each.content_type, b64decode(each.content)) for each in body.documents)
        evidence = Evidence(body.text, body.reason, documents)
        return await self._answered(Kind.DEFEND, key, dispute, raw, evidence)

    async def accept(self, request: Request) -> Response:
        """``POST /v1/disputes/{id}/accept``: give it up."""
        who, key, raw = await self._asked(request)
        dispute = await self._dispute(request, who)
        reading.validate(DisputeAccept, raw)
        return await self._answered(Kind.ACCEPT, key, dispute, raw, None)

    async def _answered(
        self, kind: Kind, key: Key, dispute: Dispute, raw: Mapping[str, Any], evidence: Evidence | None
    ) -> Response:
        route = f"POST /v1/disputes/{{id}}/{'evidence' if kind is Kind.DEFEND else 'accept'}"
        print_ = fingerprint(self._deps.keys.fingerprint, route, dispute.id, raw)
        command = FollowUp(key, print_, dispute.payment_id, kind, dispute=dispute, evidence=evidence)
        answer = await modify(command, self._deps)
        return self._answer(kind, answer)

    async def _dispute(self, request: Request, who: Principal) -> Dispute:
        return await self._named(request, who, DISPUTE, "dispute", self._deps.queries.dispute_of)


def _filters(query: Mapping[str, str]) -> dict[str, str | None]:
    """The filters of a list. Raises :class:`Problem` (422) naming the parameter."""
    if "payment" in query and not is_id(query["payment"], PAYMENT):
        raise Problem("validation_failed", f"payment must be an id that starts with {PAYMENT}_.", "payment")
    if "status" in query and query["status"] not in set(DisputeStatus):
        raise Problem("validation_failed", f"status must be one of: {', '.join(DisputeStatus)}.", "status")
    return {"status": query.get("status"), "payment": query.get("payment")}


BODIES: Final[Mapping[str, type[Body]]] = {"evidence": DisputeEvidence, "accept": DisputeAccept}
"""What each verb takes, for the OpenAPI document."""
