"""``GET /v1/return/{token}``: the shopper's browser comes back from a challenge at the issuer or the provider.

The address is signed and good for one attempt. It is opened by a browser, so it asks for no key, says nothing about the payment but
its id, and always sends the shopper on: how the payment ended is what the merchant's server reads.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.complete import complete
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.sql import DATABASE_LOST

_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{margin:0;min-height:100vh;display:grid;place-content:center;text-align:center;font:1.125rem/1.5 system-ui,sans-serif}"
    "main{padding:1.5rem;max-width:28rem}h1{font-size:1.5rem;margin:0 0 .5rem}p{margin:0}"
)
_DONE: Final = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
    "<title>{title}</title><style>" + _STYLE.replace("{", "{{").replace("}", "}}") + "</style>"
    "<main><h1>{title}</h1><p>{text}</p></main></html>"
)

_HEADERS: Final = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
"""What the browser brought must neither be kept nor told to the merchant's page."""

_PAGE_HEADERS: Final = {
    **_HEADERS,
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; "
    f"style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'",
}
"""A page of ours runs no script and loads nothing. It may stand in a frame: that is how some shops show a challenge."""

log = structlog.get_logger()


class Returns:
    """The return address over one house."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def __call__(self, request: Request) -> Response:
        """Complete the attempt with what the browser brought, and send the shopper on to the merchant."""
        attempt_id = self._deps.keys.returning(request.path_params["token"])
        found = None if attempt_id is None else await self._deps.queries.operation(attempt_id)
        if found is None:
            return _page(404, "Not found", "This address is not valid. Please go back to the shop.")
        payment, operation = found
        try:
            await complete(payment, operation, dict(request.query_params), self._deps)
        except DATABASE_LOST as error:  # what was brought is lost, or on its way: the shopper is sent on all the same
            log.error("return_not_passed_on", payment=payment.terms.id, error=type(error).__name__)
        except Problem as problem:  # it came back without what completes it: the challenge goes on waiting
            log.info("return_not_completed", payment=payment.terms.id, operation=operation.id, code=problem.code)
        if payment.terms.return_url is None:
            return _page(200, "Thank you", "You may close this window and go back to the shop.")
        return RedirectResponse(_with(payment.terms.return_url, payment.terms.id), 303, _HEADERS)


def _with(return_url: str, payment_id: str) -> str:
    """The merchant's address with ``payment=pay_…`` in its query, whatever it had there before."""
    parts = urlsplit(return_url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "payment"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("payment", payment_id)])))


def _page(status: int, title: str, text: str) -> HTMLResponse:
    return HTMLResponse(_DONE.format(title=title, text=text), status, _PAGE_HEADERS)
