"""What providers told us: ``/v1/inbound_events``. To see what came, what became of it, what was refused, and to apply it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import asking, reading
from gateway.api.asking import Desk
from gateway.api.auth import Authenticator, Principal
from gateway.api.schemas import Body, InboundReplay, Nothing
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.ids import INBOUND, PAYMENT, REFUSED, is_id, number_of
from gateway.inbound import (
    RESULTS,
    STATUSES,
    InboundLog,
    Wanted,
    inbound_object,
    meaning_object,
    refusal_object,
    replay_object,
)
from gateway.sql import Row
from webhooks.refusals import REASONS

FILTERS: Final = ("account", "type", "result", "status", "payment", "created[gte]", "created[lt]")
REFUSED_FILTERS: Final = ("account", "reason", "created[gte]", "created[lt]")

log = structlog.get_logger()


class InboundEvents(Desk):
    """The routes of what providers told us, over one house."""

    def __init__(self, deps: Deps, authenticator: Authenticator, inbound: InboundLog) -> None:
        super().__init__(deps, authenticator)
        self._log = inbound

    async def list(self, request: Request) -> Response:
        """``GET /v1/inbound_events``, newest first."""
        who = await self._principal(request)
        cursor, limit = asking.page(request, FILTERS, INBOUND)
        wanted = self._wanted(who, request.query_params)
        found = await self._log.page(wanted, limit + 1, _number(cursor, INBOUND))
        return asking.listed([inbound_object(row, livemode=who.livemode) for row in found], limit)

    async def retrieve(self, request: Request) -> Response:
        """``GET /v1/inbound_events/{id}``, with what it meant."""
        who = await self._principal(request)
        row = await self._event(request, who)
        return asking.json({**inbound_object(row, livemode=who.livemode), "meaning": await self._meaning(row)})

    async def replay(self, request: Request) -> Response:
        """``POST /v1/inbound_events/{id}/replay``: the worker applies it again, within seconds. May be asked any number of times."""
        who, raw = await self._asked_plainly(request)
        reading.validate(Nothing, raw)
        row = await self._event(request, who)
        await self._log.replay(Wanted([row["account"]], ids=[row["id"]]), dry_run=False)
        return asking.json(inbound_object(await self._event(request, who), livemode=who.livemode))

    async def replay_many(self, request: Request) -> Response:
        """``POST /v1/inbound_events/replay``: those that a filter names, or what that would be. May be asked any number of times."""
        who, raw = await self._asked_plainly(request)
        body = reading.validate(InboundReplay, raw)
        said = body.model_dump(exclude={"dry_run", "created", "after"})
        said |= {"created[gte]": body.created.gte, "created[lt]": body.created.lt}
        asked = {name: value for name, value in said.items() if value is not None}
        if not asked:
            raise Problem("validation_failed", "Name what to replay, at least by account or created.")
        after = _number(body.after, INBOUND, "after", "the after of an answer")
        replay = await self._log.replay(self._wanted(who, asked), dry_run=body.dry_run, after=after)
        log.info("inbound_replayed", merchant=who.merchant_id, events=replay.events, dry_run=body.dry_run)
        return asking.json(replay_object(replay, dry_run=body.dry_run))

    async def refused(self, request: Request) -> Response:
        """``GET /v1/inbound_events/refused``: how many were not believed, by account, reason and minute, newest first."""
        who = await self._principal(request)
        cursor, limit = asking.page(request, REFUSED_FILTERS, REFUSED)
        query = request.query_params
        found = await self._log.refused(
            self._accounts(who, query),
            limit + 1,
            before=_number(cursor, REFUSED),
            reason=_one_of(query, "reason", REASONS),
            created_gte=asking.instant(query, "created[gte]"),
            created_lt=asking.instant(query, "created[lt]"),
        )
        return asking.listed([refusal_object(row) for row in found], limit)

    async def _event(self, request: Request, who: Principal) -> Row:
        async def find(wanted: str, merchant_id: str, /, *, livemode: bool) -> Row | None:
            return await self._log.event(wanted, self._accounts(who, {}))

        return await self._named(request, who, INBOUND, "inbound event", find)

    async def _meaning(self, row: Row) -> dict[str, Any] | None:
        """What it says; ``None`` where this version cannot read it any more."""
        sealed, position = await self._log.sealed(row)
        account = self._deps.accounts[row["account"]]
        try:
            body = self._deps.keys.sealer.open(sealed, account.name, "webhook")
            return meaning_object(account.provider.parse_webhook(body)[position])
        except Exception as error:  # shown or not, it is what it is: to look must not break
            log.warning("inbound_event_not_read", account=account.name, error=type(error).__name__)
            return None

    def _accounts(self, who: Principal, query: Mapping[str, Any]) -> Sequence[str]:
        """The accounts to look at: the merchant's own in this mode, and of those the one that is asked for."""
        own = [account.name for account in self._deps.accounts_of(who.merchant_id, livemode=who.livemode)]
        return [name for name in own if query.get("account") in {None, name}]

    def _wanted(self, who: Principal, query: Mapping[str, Any]) -> Wanted:
        """The filters of a list. Raises :class:`Problem` (422) naming the parameter."""
        if "payment" in query and not is_id(query["payment"], PAYMENT):
            raise Problem("validation_failed", f"payment must be an id that starts with {PAYMENT}_.", "payment")
        return Wanted(
            accounts=self._accounts(who, query),
            type=query.get("type"),
            result=_one_of(query, "result", RESULTS),
            status=_one_of(query, "status", STATUSES),
            payment=query.get("payment"),
            created_gte=asking.instant(query, "created[gte]"),
            created_lt=asking.instant(query, "created[lt]"),
        )


def _one_of(query: Mapping[str, Any], name: str, words: Mapping[str, Any]) -> str | None:
    word: str | None = query.get(name)
    if word is not None and word not in words:
        raise Problem("validation_failed", f"{name} must be one of: {', '.join(words)}.", name)
    return word


def _number(
    place: str | None, prefix: str, param: str = "cursor", what: str = "a next_cursor of this list"
) -> int | None:
    if place is None:
        return None
    number = number_of(place, prefix)
    if number is None:
        raise Problem("validation_failed", f"{param} must be {what}.", param)
    return number


BODIES: Final[Mapping[str, type[Body]]] = {"replay_inbound_events": InboundReplay, "replay_inbound_event": Nothing}
"""What each verb takes, for the OpenAPI document."""
