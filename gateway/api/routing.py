"""Routing: versions of a merchant's routing document, what puts them in force, and what they would do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway import publishing, rehearsal, shadow, uplift
from gateway.api import asking, reading
from gateway.api.asking import Desk
from gateway.api.auth import Principal
from gateway.api.schemas import (
    Body,
    Nothing,
    RoutingApprove,
    RoutingDraft,
    RoutingDryRun,
    RoutingPublish,
    RoutingRollback,
    RoutingWithdraw,
)
from gateway.errors import Problem
from gateway.ids import PAYMENT, PUBLICATION, ROUTING_VERSION, is_id, new_id
from gateway.publishing import Expected, Wanted, Who, publication_object, version_object
from gateway.routing_books import Version
from idempotency.key import fingerprint
from routing.decision import Facts
from routing.publications import Publication, standing
from routing.reading import SIZE_MAX

CONFIGS: Final = "/v1/routing/configs"
DRAFT_MAX: Final = SIZE_MAX + 8 * 1024
"""A document with its name and note."""


class Routing(Desk):
    """The routing routes over one house."""

    # --- versions ---

    async def create(self, request: Request) -> Response:
        """``POST /v1/routing/configs``: a version, not in force. A document with faults is refused with all of them."""
        who, key, raw = await self._asked(request, DRAFT_MAX)
        body = reading.validate(RoutingDraft, raw)
        document = await publishing.readable(body.document)
        print_ = fingerprint(self._deps.keys.fingerprint, f"POST {CONFIGS}", "", raw)
        answer = await publishing.draft(document, body.name, body.note, _who(who), key, print_, self._deps)
        return self._answer("create_routing_config", answer)

    async def list(self, request: Request) -> Response:
        """``GET /v1/routing/configs``: versions without their documents, newest first."""
        who = await self._principal(request)
        before, limit = asking.page(request, (), ROUTING_VERSION)
        found = await self._deps.routing_books.versions(
            who.merchant_id, livemode=who.livemode, limit=limit + 1, before=before
        )
        return asking.listed([version_object(version) for version in found], limit)

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/routing/configs/{id}``, with its document."""
        return asking.json(version_object(await self._version(request, await self._principal(request))))

    # --- what one would do ---

    async def lint(self, request: Request) -> Response:
        """``POST /v1/routing/configs/{id}/lint``: what is wrong with it, or hardly meant, with the accounts as they are now."""
        who, raw = await self._asked_plainly(request)
        version = await self._version(request, who)
        reading.validate(Nothing, raw)
        return asking.json(rehearsal.lint_object(version, await rehearsal.findings(version, self._deps)))

    async def diff(self, request: Request) -> Response:
        """``GET /v1/routing/configs/{id}/diff``: rule by rule, against another version or what is in force for all payments."""
        who = await self._principal(request)
        version = await self._version(request, who)
        if set(request.query_params) - {"against"}:
            raise Problem("validation_failed", "A diff is asked for with against, or without anything.")
        against = request.query_params.get("against")
        books = self._deps.routing_books
        if against is None:
            history = await books.history(who.merchant_id, livemode=who.livemode)
            against = standing(history, self._deps.clock()).version
        elif not is_id(against, ROUTING_VERSION):
            raise Problem("validation_failed", "against must be the id of a routing config.", "against")
        other = None if against is None else await books.version(against, who.merchant_id, livemode=who.livemode)
        if against is not None and other is None:
            raise Problem("validation_failed", "There is no such routing config.", "against")
        return asking.json(await rehearsal.diff_object(version, other))

    async def dry_run(self, request: Request) -> Response:
        """``POST /v1/routing/configs/{id}/dry-run``: how it would decide one payment; nobody is asked and nothing is written."""
        who, raw = await self._asked_plainly(request)
        version = await self._version(request, who)
        body = reading.validate(RoutingDryRun, raw)
        if body.payment is not None:
            if body.model_fields_set != {"payment"}:
                raise Problem("validation_failed", "Send payment alone, or describe one.", "payment")
            payment = await self._deps.queries.payment_of(body.payment, who.merchant_id, livemode=who.livemode)
            if payment is None:
                raise Problem("validation_failed", "There is no such payment.", "payment")
            return asking.json(await rehearsal.recorded_run(version, payment, self._deps))
        for name in ("amount", "currency"):
            if getattr(body, name) is None:
                raise Problem("validation_failed", f"{name} is required where no payment is named.", name)
        shown = await rehearsal.described_run(
            version, self._described(body, who), self._deps, capture_method=body.capture_method, tokens=body.tokens
        )
        return asking.json(shown)

    # --- what is in force ---

    async def overview(self, request: Request) -> Response:
        """``GET /v1/routing``: what is in force now, what will be, what waits, and what a rollback would come to."""
        who = await self._principal(request)
        books, now = self._deps.routing_books, self._deps.clock()
        history = await books.history(who.merchant_id, livemode=who.livemode)
        stands = standing(history, now)
        in_force, watches = stands.version, None if stands.shadow is None else stands.shadow.version
        version = None if in_force is None else await books.version(in_force, who.merchant_id, livemode=who.livemode)
        watched = await shadow.so_far(watches, who.merchant_id, books, livemode=who.livemode)
        return asking.json(publishing.standing_object(history, version, watched, now, livemode=who.livemode))

    async def history(self, request: Request) -> Response:
        """``GET /v1/routing/history``: who did what, when and why, the newest first."""
        who = await self._principal(request)
        before, limit = asking.page(request, (), PUBLICATION)
        history = await self._deps.routing_books.history(who.merchant_id, livemode=who.livemode)
        words = publishing.statuses(history, self._deps.clock())
        past = next((at for at, each in enumerate(history) if each.id == before), 0 if before else len(history))
        shown = [publication_object(each, words[each.id], livemode=who.livemode) for each in history[:past][::-1]]
        return asking.listed(shown[: limit + 1], limit)

    async def uplift(self, request: Request) -> Response:
        """``GET /v1/routing/uplift``: strategies beside their holdouts, a version each, the newest first."""
        who = await self._principal(request)
        before, limit = asking.page(request, (), ROUTING_VERSION)
        books, now = self._deps.routing_books, self._deps.clock()
        shown = await uplift.report(who.merchant_id, books, now, livemode=who.livemode, limit=limit + 1, before=before)
        return asking.listed(shown, limit, cursor="config")

    async def shadow(self, request: Request) -> Response:
        """``GET /v1/routing/shadow``: what versions would have approved that have only watched, each once, the newest first."""
        who = await self._principal(request)
        before, limit = asking.page(request, (), ROUTING_VERSION)
        books, now = self._deps.routing_books, self._deps.clock()
        shown = await shadow.report(who.merchant_id, books, now, livemode=who.livemode, limit=limit + 1, before=before)
        return asking.listed(shown, limit, cursor="config")

    async def publish(self, request: Request) -> Response:
        """``POST /v1/routing/configs/{id}/publish``: 201, or 202 where another key has to approve it."""
        who, key, raw = await self._asked(request)
        version = await self._version(request, who)
        body = reading.validate(RoutingPublish, raw)
        starts_at = None if body.starts_at is None else reading.instant(body.starts_at, "starts_at")
        wanted = Wanted(body.reason, body.percent, starts_at, body.shadow)
        print_ = fingerprint(self._deps.keys.fingerprint, f"POST {CONFIGS}/publish", version.id, raw)
        answer = await publishing.publish(version, wanted, _expected(body), _who(who), key, print_, self._deps)
        return self._answer("publish_routing_config", answer)

    async def rollback(self, request: Request) -> Response:
        """``POST /v1/routing/rollback``: the version before is in force for all payments, at once."""
        who, key, raw = await self._asked(request)
        body = reading.validate(RoutingRollback, raw)
        print_ = fingerprint(self._deps.keys.fingerprint, "POST /v1/routing/rollback", "", raw)
        answer = await publishing.rollback(body.reason, _expected(body), _who(who), key, print_, self._deps)
        return self._answer("rollback_routing", answer)

    async def approve(self, request: Request) -> Response:
        """``POST /v1/routing/publications/{id}/approve``, by another key than the one that has asked for it."""
        who, key, raw = await self._asked(request)
        asked = await self._publication(request, who)
        version = await self._deps.routing_books.version(asked.version or "", who.merchant_id, livemode=who.livemode)
        body = reading.validate(RoutingApprove, raw)
        if version is None:  # a rollback to nothing: it waits for nobody
            raise Problem("routing_state", "Only what awaits approval can be approved.")
        print_ = fingerprint(self._deps.keys.fingerprint, "POST /v1/routing/publications/approve", asked.id, raw)
        answer = await publishing.approve(asked, version, _expected(body), _who(who), key, print_, self._deps)
        return self._answer("approve_publication", answer)

    async def withdraw(self, request: Request) -> Response:
        """``POST /v1/routing/publications/{id}/withdraw``: what has not started, a shadow, or a request."""
        who, key, raw = await self._asked(request)
        publication = await self._publication(request, who)
        body = reading.validate(RoutingWithdraw, raw)
        print_ = fingerprint(self._deps.keys.fingerprint, "POST /v1/routing/publications/withdraw", publication.id, raw)
        answer = await publishing.withdraw(publication, body.reason, _who(who), key, print_, self._deps)
        return self._answer("withdraw_publication", answer)

    # --- parts ---

    def _described(self, body: RoutingDryRun, who: Principal) -> Facts:
        """A payment in words: what rules may look at."""
        words = body.model_dump(exclude={"payment", "at", "payment_id", "capture_method", "tokens"})
        return Facts(
            payment_id=body.payment_id or new_id(PAYMENT),
            merchant_id=who.merchant_id,
            livemode=who.livemode,
            at=self._deps.clock() if body.at is None else reading.instant(body.at, "at"),
            **words,
        )

    async def _version(self, request: Request, who: Principal) -> Version:
        return await self._named(request, who, ROUTING_VERSION, "routing config", self._deps.routing_books.version)

    async def _publication(self, request: Request, who: Principal) -> Publication:
        async def find(wanted: str, merchant_id: str, /, *, livemode: bool) -> Publication | None:
            history = await self._deps.routing_books.history(merchant_id, livemode=livemode)
            return next((each for each in history if each.id == wanted), None)

        return await self._named(request, who, PUBLICATION, "publication", find)


def _who(who: Principal) -> Who:
    return Who(who.merchant_id, who.livemode, who.key_id)


def _expected(body: RoutingPublish | RoutingRollback | RoutingApprove) -> Expected | None:
    return Expected(body.expected) if "expected" in body.model_fields_set else None


BODIES: Final[Mapping[str, type[Body]]] = {
    "create_routing_config": RoutingDraft,
    "lint_routing_config": Nothing,
    "dry_run_routing_config": RoutingDryRun,
    "publish_routing_config": RoutingPublish,
    "rollback_routing": RoutingRollback,
    "approve_publication": RoutingApprove,
    "withdraw_publication": RoutingWithdraw,
}
"""What each verb takes, for the OpenAPI document."""
