"""The control paths, the same on every PSP's port: books, wire log, faults, webhooks, clock, reset.

They are for tests and operators of a sandbox: no credentials, loopback only.
"""

import asyncio
import html
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from providers.sandbox.clock import BadTimeError
from providers.sandbox.desk import Desk
from providers.sandbox.faults import BadFaultError

_WIRE_FILTERS = ("reference", "key", "operation", "path", "method")


class Psp(Protocol):
    """What the control paths need of a simulated PSP."""

    def clear(self) -> None:
        """Forget every object."""

    def lapse(self) -> None:
        """Bring about what the time has brought: authorizations run out, challenges close."""

    def complete_challenge(self, psp_id: str, *, succeeded: bool) -> str | None:
        """Finish a 3-D Secure challenge; gives where to send the shopper."""


@dataclass(frozen=True, slots=True)
class Room:
    """One PSP with its desk."""

    desk: Desk
    psp: Psp

    def reset(self) -> None:
        """Start over: books, objects, keys, faults, clock, wire log and webhooks on their way."""
        self.desk.clock.reset()
        self.desk.books.clear()
        self.desk.wire.clear()
        self.desk.faults.clear()
        self.desk.keys.clear()
        self.desk.postman.clear()
        self.psp.clear()


def application(room: Room, api: list[Route]) -> Starlette:
    """The PSP's API with the control paths; ``app.state.closing`` ends hanging requests."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await room.desk.postman.close()

    app = Starlette(routes=[*_control_routes(room), *api], lifespan=lifespan)
    app.state.closing = room.desk.closing
    return app


def closing_event(app: Starlette) -> asyncio.Event:
    """The event that lets an app's hanging requests go."""
    event: asyncio.Event = app.state.closing
    return event


def _json(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _problem(message: str, status: int = 422) -> Response:
    return _json({"error": message}, status)


def _since(request: Request) -> float | None:
    """Seconds since the epoch; raises HTTPException for anything else."""
    text = request.query_params.get("since")
    try:
        return None if text is None else float(text)
    except ValueError:
        raise HTTPException(422, "since is a number of seconds since the epoch") from None


def _control_routes(room: Room) -> list[Route]:
    desk = room.desk

    async def books(request: Request) -> Response:
        query = request.query_params
        answer = _json(
            desk.books.as_json(
                reference=query.get("reference"),
                payment=query.get("payment"),
                since=_since(request),
            )
        )
        answer.headers["Books-Since"] = f"{desk.books.since:.6f}"
        return answer

    async def requests(request: Request) -> Response:
        query = request.query_params
        filters = {name: query[name] for name in _WIRE_FILTERS if name in query}
        return _json({"requests": desk.wire.as_json(filters, _since(request))})

    async def webhooks(request: Request) -> Response:
        return _json({"webhooks": desk.postman.as_json()})

    async def list_faults(request: Request) -> Response:
        return _json(desk.faults.as_json())

    async def clear_faults(request: Request) -> Response:
        desk.faults.clear()
        return Response(status_code=204)

    async def remove_fault(request: Request) -> Response:
        found = desk.faults.remove(request.path_params["number"])
        return Response(status_code=204) if found else _problem("no such fault", 404)

    async def forget_keys(request: Request) -> Response:
        desk.keys.clear()
        return Response(status_code=204)

    async def clock(request: Request) -> Response:
        return _json(desk.clock.as_json())

    async def reset(request: Request) -> Response:
        room.reset()
        return Response(status_code=204)

    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/_sandbox/books", books),
        ("GET", "/_sandbox/requests", requests),
        ("GET", "/_sandbox/webhooks", webhooks),
        ("GET", "/_sandbox/faults", list_faults),
        ("POST", "/_sandbox/faults", _fault_scripter(desk)),
        ("DELETE", "/_sandbox/faults", clear_faults),
        ("DELETE", "/_sandbox/faults/{number:int}", remove_fault),
        ("DELETE", "/_sandbox/keys", forget_keys),
        ("GET", "/_sandbox/clock", clock),
        ("POST", "/_sandbox/clock", _clock_setter(room)),
        ("POST", "/_sandbox/reset", reset),
        ("GET", "/_sandbox/3ds/{id}", _challenge_page(room)),
    ]
    return [Route(path, endpoint, methods=[method]) for method, path, endpoint in routes]


def _fault_scripter(desk: Desk) -> Callable[[Request], Awaitable[Response]]:
    async def script(request: Request) -> Response:
        try:
            wanted: Any = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            return _problem(f"not JSON: {error}", 400)
        try:
            rule = desk.faults.script(wanted)
        except BadFaultError as error:
            return _problem(str(error))
        return _json(rule.as_json(), 201)

    return script


def _clock_setter(room: Room) -> Callable[[Request], Awaitable[Response]]:
    desk = room.desk

    async def move(request: Request) -> Response:
        try:
            desk.clock.order(orjson.loads(await request.body()))
        except orjson.JSONDecodeError as error:
            return _problem(f"not JSON: {error}", 400)
        except BadTimeError as error:
            return _problem(str(error))
        room.psp.lapse()
        return _json(desk.clock.as_json())

    return move


def _challenge_page(room: Room) -> Callable[[Request], Awaitable[Response]]:
    """The issuer's page: without a result it asks the shopper, with one it sends them back."""

    async def page(request: Request) -> Response:
        psp_id, result = request.path_params["id"], request.query_params.get("result")
        if result is None:
            links = "".join(
                f'<p><a href="{html.escape(request.url.path)}?result={word}">{word}</a></p>'
                for word in ("succeeded", "failed")
            )
            return HTMLResponse(f"<h1>3-D Secure</h1>{links}")
        if result not in ("succeeded", "failed"):
            return _problem("result is succeeded or failed")
        try:
            back = room.psp.complete_challenge(psp_id, succeeded=result == "succeeded")
        except KeyError:
            return _problem("no such payment", 404)
        if back is None:
            return _json({"completed": result})
        return RedirectResponse(back, 302)

    return page
