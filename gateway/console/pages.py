"""The console's routes: who is signed in looks at one merchant's payments; nobody else sees that there is anything.

The console reads, a few statements at once (:mod:`gateway.console.asker`): however many people look, and however long a question takes,
charges find a connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.console import door
from gateway.console.asker import Asker
from gateway.console.door import Door, NotBelieved
from gateway.console.explorer import EXPLORER, Explorer
from gateway.console.files import AT, Files
from gateway.console.frame import ACCOUNT, PATH, Frame, Look, theme_of
from gateway.console.overview import Overview
from gateway.console.users import Users
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.monitor_books import MonitorBooks
from gateway.rates import Unanswerable
from gateway.sql import DATABASE_LOST, Pool
from providers.registry import place

Answered = Callable[[Request], Awaitable[Response]]
Page = Callable[[Request, Look], Awaitable[Response]]

log = structlog.get_logger()


class Console:
    """The console of one process. ``secure`` says that browsers come by https."""

    def __init__(self, deps: Deps, pool: Pool, looking: Pool, *, secure: bool) -> None:
        self._deps = deps
        self._files = Files()
        self._frame = Frame(self._files, secure=secure)
        self._door = Door(Users(pool, deps.keys.console), self._frame, secure=secure)
        asker = Asker(pool, looking)
        self._overview = Overview(deps, asker, self._frame, MonitorBooks(pool))
        self._explorer = Explorer(deps, asker, self._frame)

    def routes(self) -> list[Route]:
        """Every route of the console. What is none of them, under its path, asks for a login like all others."""
        at_door = self._door
        return [
            Route(f"{AT}/{{name}}", self._open(self._static), methods=["GET"]),
            Route(f"{PATH}/login", self._open(at_door.login_page), methods=["GET"]),
            Route(f"{PATH}/login", self._open(at_door.login), methods=["POST"]),
            Route(f"{PATH}/link/{{token}}", self._open(at_door.link_page), methods=["GET"]),
            Route(f"{PATH}/link", self._open(at_door.use_link), methods=["POST"]),
            Route(f"{PATH}/logout", self._open(at_door.logout), methods=["POST"]),
            Route(f"{PATH}/theme", self._open(at_door.theme), methods=["POST"]),
            Route(ACCOUNT, self._signed_in(at_door.account), methods=["GET"]),
            Route(ACCOUNT, self._signed_in(at_door.change_password), methods=["POST"]),
            Route(PATH, self._signed_in(self._overview.page), methods=["GET"]),
            Route(EXPLORER, self._signed_in(self._explorer.page), methods=["GET"]),
            Route(f"{EXPLORER}.csv", self._signed_in(self._explorer.table), methods=["GET"]),
            Route(f"{PATH}/{{path:path}}", self._signed_in(self._nothing), methods=["GET"]),
        ]

    async def _static(self, request: Request) -> Response:
        return await self._files.serve(request) or self._sorry(NOT_FOUND)

    async def _nothing(self, request: Request, look: Look) -> Response:
        return self._sorry(NOT_FOUND, look)

    def _sorry(self, sorry: Sorry, look: Look | None = None) -> Response:
        return self._frame.page("error.html", look, sorry.status, sorry=sorry)

    def _signed_in(self, page: Page) -> Answered:
        """A page for whoever is signed in; for everybody else the way to the door."""

        async def answered(request: Request) -> Response:
            visitor = await self._door.visitor(request)
            if visitor is None:
                return self._door.turned_away(request)
            modes = tuple(
                livemode for livemode in (True, False) if self._deps.accounts_of(visitor.merchant_id, livemode=livemode)
            ) or (False,)
            livemode = modes[0] and request.query_params.get("mode") != "test"
            look = Look(visitor, livemode, modes, theme_of(request), door.asked(request))
            return await page(request, look)

        return self._open(answered)

    def _open(self, answer: Answered) -> Answered:
        """An answer whose every failure is a page that says what to do, and nothing that it should not."""

        async def answered(request: Request) -> Response:
            try:
                return await answer(request)
            except NotBelieved:
                return self._sorry(NOT_BELIEVED)
            except Unanswerable as wrong:
                return self._sorry(Sorry(422, "That cannot be answered", str(wrong)))
            except Problem as problem:
                return self._sorry(Sorry(problem.sort.status, problem.sort.title, problem.detail))
            except DATABASE_LOST as error:
                log.error("database_lost", path=PATH, error=type(error).__name__)
                self._deps.instruments.stood_in("postgres_loss_reading")
                return self._sorry(DATABASE_AWAY)
            except Exception as error:
                log.error("console_failed", error=type(error).__name__, where=place(error))
                return self._sorry(BROKEN)

        return answered


@dataclass(frozen=True, slots=True)
class Sorry:
    """Why there is no page, and what to do."""

    status: int
    title: str
    detail: str


NOT_FOUND: Final = Sorry(404, "There is no such page", "The address may be old, or mistyped.")
NOT_BELIEVED: Final = Sorry(
    403,
    "This form was not believed",
    "It did not come from a page of this console, or it is from a session that has ended. Load the page again, and send it once more.",
)
DATABASE_AWAY: Final = Sorry(503, "The database cannot be reached", "Nothing is lost. Try again in a moment.")
BROKEN: Final = Sorry(
    500,
    "Something broke on our side",
    "No payment was changed: of those the console only reads. The gateway's log says console_failed, with the place.",
)
