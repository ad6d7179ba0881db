"""``POST /v1/webhooks/{account}``: where providers tell us what happened.

The raw bytes are verified, the events stored, and only after that commit the webhook is acknowledged, in the provider's form.
Then they are applied at once, behind the answer; the worker applies what that did not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import orjson
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from providers.contract import WebhookRefused
from providers.registry import Account
from webhooks.inbox import Inbox, Received

BODY_MAX: Final = 256 * 1024

_TRY_AGAIN: Final = 503

log = structlog.get_logger()


class Webhooks:
    """The endpoint. ``counted`` is told account and result of every webhook; unknown accounts are counted as one.

    ``failed`` is told why one could not be stored.
    """

    def __init__(
        self,
        inbox: Inbox,
        accounts: Mapping[str, Account],
        counted: Callable[[str, str], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._inbox = inbox
        self._accounts = accounts
        self._counted = counted
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, request: Request) -> Response:
        """Answer one webhook: 2xx once it is stored, 401 where it is not authentic, 503 where it could not be stored."""
        account = self._accounts.get(request.path_params["account"])
        if account is None:
            self._counted("unknown", "refused")
            return _problem(401, "webhook_refused", "No such account, or its webhooks are not configured.")
        body = await _read(request)
        if body is None:
            self._counted(account.name, "too_large")
            return _problem(413, "body_too_large", f"A webhook has at most {BODY_MAX} bytes.")
        try:
            received = await self._inbox.receive(account, request.headers, body)
        except WebhookRefused as refused:
            self._counted(account.name, "refused")
            log.warning("webhook_refused", account=account.name, reason=str(refused))
            return _problem(401, "webhook_refused", "The signature does not verify this body.")
        except Exception as error:  # whatever kept it from being stored: the provider sends it again
            self._counted(account.name, "not_stored")
            self._failed(error)
            log.error("webhook_not_stored", account=account.name, error=type(error).__name__)
            return _problem(503, "webhook_not_stored", "The webhook could not be stored. Send it again.")
        self._counted(account.name, "stored" if received else "duplicate")
        for item in received:
            task = asyncio.create_task(self._apply(item))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        acknowledgement = account.provider.acknowledgement
        return Response(acknowledgement.body, media_type=acknowledgement.media_type)

    async def _apply(self, received: Received) -> None:
        try:
            await self._inbox.apply(received)
        except Exception as error:  # it is stored and due: the worker takes it from here
            log.warning("webhook_apply_failed", account=received.account, error=type(error).__name__)

    async def drain(self) -> None:
        """Wait for what is being applied."""
        await asyncio.gather(*self._tasks)


async def _read(request: Request) -> bytes | None:
    """The body, or ``None`` past the limit."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_MAX:
                return None
    except ClientDisconnect:
        return b""
    return bytes(body)


def _problem(status: int, code: str, detail: str) -> Response:
    again = status == _TRY_AGAIN
    document = {
        "type": "about:blank",
        "title": detail,
        "status": status,
        "detail": detail,
        "code": code,
        "param": None,
        "retryable": again,
    }
    headers = {"Retry-After": "2"} if again else None
    return Response(orjson.dumps(document), status, headers, media_type="application/problem+json")
