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
from providers.registry import Account, place
from webhooks.inbox import Inbox, Received
from webhooks.refusals import REASONS, UNKNOWN, Refusals

BODY_MAX: Final = 256 * 1024
BODY_S: Final = 10.0
"""A provider has its body ready before it calls, and gives us about this long to answer: who is slower is none, or is better heard anew."""
AT_ONCE_MAX: Final = 8
"""Events that are applied at the same time behind the answers: half of the database's connections are left to payments."""
BEHIND_MAX: Final = 1_000
"""More than this do not wait here to be applied: they are stored and due, and the worker takes them."""

_TRY_AGAIN: Final = 503
_RESULTS: Final = {"too_large": "too_large", "unreadable": "unreadable", "encoded": "encoded", "too_slow": "too_slow"}
"""The result that is counted for a reason; every other one is ``refused``: not authentic."""

log = structlog.get_logger()


class Webhooks:
    """The endpoint. ``counted`` is told account and result of every webhook; unknown accounts are counted as one.

    ``failed`` is told why one could not be stored, ``refusals`` what was not believed.
    """

    def __init__(
        self,
        inbox: Inbox,
        accounts: Mapping[str, Account],
        refusals: Refusals,
        counted: Callable[[str, str], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._inbox = inbox
        self._accounts = accounts
        self._refusals = refusals
        self._counted = counted
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(AT_ONCE_MAX)

    async def __call__(self, request: Request) -> Response:
        """Answer one webhook: 2xx once it is stored, 4xx where it is not believed, 503 where it could not be stored."""
        account = self._accounts.get(request.path_params["account"])
        if account is None:
            return self._refused(UNKNOWN, "unknown_account")
        if request.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
            return self._refused(account.name, "encoded")
        try:
            async with asyncio.timeout(BODY_S):
                body = await _read(request)
        except TimeoutError:
            return self._refused(account.name, "too_slow")
        except ClientDisconnect:
            self._counted(account.name, "cut_off")
            return Response(status_code=400)  # nobody hears it
        if body is None:
            return self._refused(account.name, "too_large")
        return await self._taken(account, request.headers, body)

    async def _taken(self, account: Account, headers: Mapping[str, str], body: bytes) -> Response:
        try:
            received = await self._inbox.receive(account, headers, body)
        except WebhookRefused as refused:
            log.warning("webhook_refused", account=account.name, reason=refused.reason)
            return self._refused(account.name, refused.reason)
        except Exception as error:  # whatever kept it from being stored: the provider sends it again
            self._counted(account.name, "not_stored")
            self._failed(error)
            log.error("webhook_not_stored", account=account.name, error=type(error).__name__, where=place(error))
            return _problem(_TRY_AGAIN, "webhook_not_stored", "The webhook could not be stored. Send it again.")
        self._counted(account.name, "stored" if received else "duplicate")
        for item in received:
            if len(self._tasks) >= BEHIND_MAX:
                break
            task = asyncio.create_task(self._apply(item))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        acknowledgement = account.provider.acknowledgement
        return Response(acknowledgement.body, media_type=acknowledgement.media_type)

    def _refused(self, account: str, reason: str) -> Response:
        self._counted(account, _RESULTS.get(reason, "refused"))
        self._refusals.note(account, reason)
        said = REASONS[reason]
        return _problem(said.status, said.code, said.detail)

    async def _apply(self, received: Received) -> None:
        try:
            async with self._at_once:
                await self._inbox.apply(received)
        except Exception as error:  # it is stored and due: the worker takes it from here
            log.warning(
                "webhook_apply_failed",
                inbox_id=received.id,
                account=received.account,
                type=received.event.type,
                error=type(error).__name__,
                where=place(error),
            )

    async def drain(self) -> None:
        """Wait for what is being applied, and write what was counted."""
        await asyncio.gather(*self._tasks)
        await self._refusals.drain()


async def _read(request: Request) -> bytes | None:
    """The body, or ``None`` past the limit: as soon as it is announced, and before more of it is kept."""
    announced = request.headers.get("content-length", "0")
    if announced.isascii() and announced.isdigit() and (len(announced) > 9 or int(announced) > BODY_MAX):
        return None
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > BODY_MAX:
            return None
        body += chunk
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
