"""The frame of every console page: its template, its navigation, and the headers that keep it what it is.

Templates escape what they are given, always. Scripts and styles come from our own files alone; nothing is written into a page that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.console import wording
from gateway.console.files import Files
from gateway.console.users import Visitor

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with "no-referrer" a browser would not say where a form comes from
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
PATH: Final = "/console"
ACCOUNT: Final = f"{PATH}/account"
HSTS: Final = {"Strict-Transport-Security": "max-age=31536000"}
THEMES: Final = ("system", "light", "dark")
THEME_COOKIE: Final = "interlock_theme"


@dataclass(frozen=True, slots=True)
class Section:
    """One entry of the navigation."""

    name: str
    title: str
    path: str


SECTIONS: Final = (
    Section("overview", "Overview", PATH),
    Section("authorization", "Authorization", f"{PATH}/authorization"),
)
"""What there is. Payments, routing, webhooks, reconciliation, ledger and audit are to follow here, a line each."""


@dataclass(frozen=True, slots=True)
class Look:
    """Who looks, at which of their payments: what each page is made for."""

    visitor: Visitor
    livemode: bool
    modes: tuple[bool, ...]
    """The modes in which the merchant has accounts."""
    theme: str
    here: str = PATH
    """The page that is looked at, with its query: where a form comes back to."""

    def link(self, path: str, **query: object) -> str:
        """A path of the console in the same mode, with a query; what is ``None`` is left out."""
        asked = {name: value for name, value in query.items() if value is not None}
        if len(self.modes) > 1 and not self.livemode:
            asked["mode"] = "test"
        text = urlencode(asked, doseq=True, quote_via=quote, safe=":,")
        return f"{path}?{text}" if text else path


class Frame:
    """Makes answers of templates. ``secure`` says that browsers come by https."""

    def __init__(self, files: Files, *, secure: bool) -> None:
        self._headers = dict(HEADERS) | (HSTS if secure else {})
        self._templates = Environment(
            loader=PackageLoader("gateway.console", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {"static": files.url, "sections": SECTIONS, "account": ACCOUNT, "themes": THEMES}
        self._templates.filters |= wording.FILTERS

    def page(self, template: str, look: Look | None = None, status: int = 200, **values: Any) -> HTMLResponse:
        """A page. Without a ``look`` it is one for whoever is not signed in."""
        theme = look.theme if look else "system"
        values = {"look": look, "theme": theme, "section": None, **values}
        return HTMLResponse(self._templates.get_template(template).render(values), status, self._headers)

    def to(self, path: str, request: Request) -> Response:
        """Send a browser elsewhere; a part of a page that was asked for by script sends the whole of it."""
        if request.headers.get("hx-request"):
            return Response(status_code=401, headers=self._headers | {"HX-Redirect": path})
        return RedirectResponse(path, 303, self._headers)

    def data(self, content: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
        """What is no page: data for a chart, or a table as CSV."""
        return Response(content, headers=self._headers | dict(headers or {}), media_type=media_type)


def theme_of(request: Request) -> str:
    """The theme that the browser keeps, or the system's."""
    theme = request.cookies.get(THEME_COOKIE, "")
    return theme if theme in THEMES else "system"


def within(path: str) -> str:
    """A path to go back to, if it is one of the console's, else its first page: nobody is sent elsewhere from here."""
    plain = path.isascii() and path.isprintable() and "\\" not in path
    ours = path == PATH or path.startswith((f"{PATH}/", f"{PATH}?"))
    return path if plain and ours else PATH
