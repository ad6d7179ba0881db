"""Asking: what every route does before its own work. Who asks, under which key, for what, and which page of a list."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Protocol, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import JSON, Answer
from gateway.api import reading
from gateway.api.auth import Authenticator, Principal
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.ids import is_id
from gateway.settings import VERSIONS
from idempotency.key import Key, KeyMalformed
from idempotency.key import parse as parse_key

LIST_DEFAULT: Final = 20
LIST_MAX: Final = 100

T_co = TypeVar("T_co", covariant=True)


class Find(Protocol[T_co]):
    """Reads the object of an id where it belongs to the merchant and the mode, else nothing."""

    async def __call__(self, wanted: str, merchant_id: str, /, *, livemode: bool) -> T_co | None:
        """``None`` also where it is somebody else's."""


class Desk:
    """The routes of one kind of object over one house: what they share."""

    def __init__(self, deps: Deps, authenticator: Authenticator) -> None:
        self._deps = deps
        self._authenticator = authenticator

    async def _principal(self, request: Request) -> Principal:
        who = await self._authenticator.principal(request.headers.get("authorization"))
        if who.kind != "secret":
            raise Problem("forbidden", "A publishable key may not do that; use a secret key on your server.")
        version = request.headers.get("gateway-version")
        if version is not None and version not in VERSIONS:
            raise Problem("unknown_version", f"Gateway-Version must be one of: {', '.join(VERSIONS)}.")
        return who

    async def _asked_plainly(self, request: Request) -> tuple[Principal, dict[str, Any]]:
        """Who asks and for what, where it moves no money and may be asked again: it needs no key."""
        who = await self._principal(request)
        return who, reading.parse(await reading.body(request))

    async def _asked(self, request: Request, most: int = reading.BODY_MAX) -> tuple[Principal, Key, dict[str, Any]]:
        """Who asks, under which key, for what: in that order, so that a stranger learns nothing."""
        who = await self._principal(request)
        raw = reading.parse(await reading.body(request, most))
        try:
            text = parse_key(request.headers.get("idempotency-key"))
        except KeyMalformed as error:
            missing = not request.headers.get("idempotency-key", "").strip()
            raise Problem("idempotency_key_missing" if missing else "idempotency_key_malformed", str(error)) from None
        return who, Key(who.merchant_id, who.livemode, text), raw

    async def _named(self, request: Request, who: Principal, prefix: str, what: str, find: Find[T_co]) -> T_co:
        """The object that the route names. Raises :class:`Problem` (404) alike where it is not there and where it is not theirs."""
        wanted = request.path_params["id"]
        found = await find(wanted, who.merchant_id, livemode=who.livemode) if is_id(wanted, prefix) else None
        if found is None:
            raise Problem("not_found", f"There is no such {what}.")
        return found

    def _answer(self, verb: str, answer: Answer) -> Response:
        self._deps.instruments.answers.labels(verb, str(answer.status)).inc()
        if answer.problem is not None:
            if answer.problem.code == "provider_unavailable":
                self._deps.instruments.stood_in("providers_all_down")
            raise answer.problem
        return Response(answer.body, answer.status, dict(answer.headers), answer.media_type)


def json(value: Any) -> Response:
    """An answer that is decided by what is there, and not stored."""
    return Response(orjson.dumps(value), media_type=JSON)


def page(request: Request, filters: Collection[str], prefix: str) -> tuple[str | None, int]:
    """The cursor and the limit of a list that is filtered by ``filters``. Raises :class:`Problem` (422) naming the parameter.

    ``prefix`` is that of the ids in the list: a cursor is the id to go on from.
    """
    query, known = request.query_params, {"limit", "cursor", *filters}
    if unknown := set(query) - known:
        param = next((name for name in sorted(unknown) if reading.FIELD.fullmatch(name)), None)
        raise Problem("validation_failed", f"This list is filtered by: {', '.join(sorted(known))}.", param)
    if unprintable := [name for name, value in query.items() if "\0" in value]:
        raise Problem("validation_failed", f"{unprintable[0]} holds a null character.", unprintable[0])
    limit = query.get("limit", str(LIST_DEFAULT))
    if len(limit) > 3 or not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= LIST_MAX:
        raise Problem("validation_failed", f"limit must be 1 to {LIST_MAX}.", "limit")
    cursor = query.get("cursor")
    if cursor is not None and not is_id(cursor, prefix):
        raise Problem("validation_failed", "cursor must be a next_cursor of this list.", "cursor")
    return cursor, int(limit)


def listed(shown: list[dict[str, Any]], limit: int, *, cursor: str = "id") -> Response:
    """A page of a list, from one object more than it shows, if there is one more. ``cursor`` is the field to go on from."""
    more = len(shown) > limit
    data = shown[:limit]
    return json({"object": "list", "data": data, "has_more": more, "next_cursor": data[-1][cursor] if more else None})


def listed_whole(shown: list[dict[str, Any]]) -> Response:
    """A list that is one page."""
    return json({"object": "list", "data": shown, "has_more": False, "next_cursor": None})
