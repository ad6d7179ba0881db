"""The door of the console: who is let in, who is signed in, and who is not believed.

A session lives in a cookie that scripts cannot read and other sites cannot send. Besides that every form is held to come from our own
pages: by what the browser says of where it comes from, and, once somebody is signed in, by a token in the form.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import reading
from gateway.console.frame import ACCOUNT, PATH, THEME_COOKIE, THEMES, Frame, Look, within
from gateway.console.passwords import Busy
from gateway.console.users import ENDS_S, TRIES_S, TooManyTries, Users, Visitor
from providers.registry import ConfigError

FORM_MAX: Final = 8 * 1024
FIELDS_MAX: Final = 20
REFRESHED: Final = "live"
"""The part of a page that asks for itself again by the clock, by its id."""
YEAR_S: Final = 365 * 24 * 3600

log = structlog.get_logger()


class NotBelieved(Exception):
    """A form that does not come from a page of ours, or from another session's."""


class Door:
    """Signing in, staying so, another password, and signing out. ``secure`` says that browsers come by https."""

    def __init__(self, users: Users, frame: Frame, *, secure: bool) -> None:
        self._users = users
        self._frame = frame
        self._secure = secure
        # The prefix makes browsers hold the cookie to https, this host and all of its paths.
        self._cookie = "__Host-interlock_session" if secure else "interlock_session"

    async def visitor(self, request: Request) -> Visitor | None:
        """Who is signed in, or ``None``."""
        token = self._token(request)
        if token is None:
            return None
        return await self._users.visitor(token, looks=request.headers.get("hx-trigger") != REFRESHED)

    def turned_away(self, request: Request) -> Response:
        """The answer to whoever is not signed in: the way to the door, and back."""
        if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
            # Our cookie does not come along from other sites. A page of ours that asks again brings it.
            return self._frame.page("again.html", again=asked(request))
        path = asked(request)
        return self._frame.to("/console/login" if path == PATH else f"/console/login?next={quote(path)}", request)

    async def login_page(self, request: Request) -> Response:
        """``GET /console/login``."""
        then = within(request.query_params.get("next", ""))
        if await self.visitor(request):
            return self._frame.to(then, request)
        return self._frame.page("login.html", then=then, email="", wrong=None)

    async def login(self, request: Request) -> Response:
        """``POST /console/login``. A wrong password, nobody and a disabled user are answered alike, in the same time."""
        form = await self._form(request)
        email, then = form.get("email", ""), within(form.get("next", ""))
        try:
            token = await self._users.login(
                email, form.get("password", ""), address=_address(request), before=self._token(request)
            )
        except (TooManyTries, Busy) as error:
            log.warning("console_login_refused", reason=type(error).__name__)
            return _later(
                self._frame.page("login.html", status=429, then=then, email=email, wrong=_words(error)), error
            )
        if token is None:
            log.warning("console_login_failed")
            wrong = "The email or the password is wrong."
            return self._frame.page("login.html", status=401, then=then, email=email, wrong=wrong)
        return self._let_in(token, then, request)

    async def link_page(self, request: Request) -> Response:
        """``GET /console/link/{token}``: says nothing about the link. Only the button uses it up, so whoever merely looks ahead does not."""
        return self._frame.page("link.html", token=request.path_params["token"], wrong=None)

    async def use_link(self, request: Request) -> Response:
        """``POST /console/link``."""
        form = await self._form(request)
        token = await self._users.use_link(
            form.get("token", ""), address=_address(request), before=self._token(request)
        )
        if token is None:
            wrong = "This link was used already, or is older than 15 minutes."
            return self._frame.page("link.html", status=401, token=None, wrong=wrong)
        return self._let_in(token, PATH, request)

    async def logout(self, request: Request) -> Response:
        """``POST /console/logout``. Again changes nothing."""
        await self._form(request, await self.visitor(request))
        token = self._token(request)
        if token is not None:
            await self._users.logout(token, address=_address(request))
        answer = self._frame.to("/console/login", request)
        answer.delete_cookie(self._cookie, path="/", secure=self._secure, httponly=True, samesite="strict")
        return answer

    async def account(self, request: Request, look: Look) -> Response:
        """``GET /console/account``: who is signed in, and where they change their password."""
        return self._frame.page("account.html", look, wrong=None, changed="changed" in request.query_params)

    async def change_password(self, request: Request, look: Look) -> Response:
        """``POST /console/account``: with the old password; whoever else is signed in as them is signed out."""
        form = await self._form(request, look.visitor)
        try:
            token = await self._users.change_password(
                look.visitor,
                form.get("password", ""),
                form.get("changed", ""),
                address=_address(request),
                before=self._token(request) or "",
            )
        except ConfigError as error:
            wrong = f"{str(error).capitalize()}."
            return self._frame.page("account.html", look, 422, wrong=wrong, changed=False)
        except (TooManyTries, Busy) as error:
            log.warning("console_password_refused", reason=type(error).__name__)
            return _later(self._frame.page("account.html", look, 429, wrong=_words(error), changed=False), error)
        if token is None:
            log.warning("console_password_failed")
            wrong = "The old password is wrong."
            return self._frame.page("account.html", look, 401, wrong=wrong, changed=False)
        return self._let_in(token, look.link(ACCOUNT, changed=""), request)

    async def theme(self, request: Request) -> Response:
        """``POST /console/theme``: kept in the browser."""
        form = await self._form(request, await self.visitor(request))
        theme = form.get("theme", "")
        answer = self._frame.to(within(form.get("next", "")), request)
        answer.set_cookie(
            THEME_COOKIE,
            theme if theme in THEMES else "system",
            max_age=YEAR_S,
            path="/console",
            secure=self._secure,
            httponly=True,
            samesite="lax",
        )
        return answer

    def _let_in(self, token: str, then: str, request: Request) -> Response:
        answer = self._frame.to(then, request)
        answer.set_cookie(
            self._cookie, token, max_age=ENDS_S, path="/", secure=self._secure, httponly=True, samesite="strict"
        )
        return answer

    def _token(self, request: Request) -> str | None:
        token = request.cookies.get(self._cookie)
        return token if token and len(token) <= 64 else None

    async def _form(self, request: Request, visitor: Visitor | None = None) -> Mapping[str, str]:
        """The fields of a form. Raises :class:`NotBelieved`; for one of somebody signed in also where its token is another."""
        if not _from_us(request):
            raise NotBelieved
        raw = await reading.body(request, FORM_MAX)
        try:
            fields = dict(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX))
        except ValueError:
            raise NotBelieved from None
        if visitor is not None and not hmac.compare_digest(fields.get("csrf", "").encode(), visitor.csrf.encode()):
            raise NotBelieved
        return fields


def _from_us(request: Request) -> bool:
    """Whether the browser says that a form comes from a page of ours. One that says nothing is not believed."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")


def asked(request: Request) -> str:
    """The page that a request asks for, with its query."""
    query = request.url.query
    return within(request.url.path + (f"?{query}" if query else ""))


def _words(error: TooManyTries | Busy) -> str:
    if isinstance(error, TooManyTries):
        return f"Too many tries. Wait {TRIES_S // 60} minutes, or ask whoever runs the gateway for a new password."
    return "Too many people sign in at this moment. Try again in a few seconds."


def _later(answer: Response, error: TooManyTries | Busy) -> Response:
    answer.headers["Retry-After"] = str(TRIES_S if isinstance(error, TooManyTries) else 5)
    return answer


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
