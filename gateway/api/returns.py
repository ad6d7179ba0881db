"""``GET /v1/return/{token}``: the shopper's browser comes back from a challenge at the issuer or the provider.

The address is signed and good for one attempt. It is opened by a browser, so it asks for no key, says nothing about the payment but
its id, and always sends the shopper on: how the payment ended is what the merchant's server reads.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.complete import complete
from gateway.deps import Deps
from gateway.errors import Problem
from gateway.sql import DATABASE_LOST

_HEADERS: Final = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
"""What the browser brought must neither be kept nor told to the merchant's page."""

_DONE: Final = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<title>{title}</title><p>{text}</p></html>"
)

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
    return HTMLResponse(_DONE.format(title=title, text=text), status, _HEADERS)
