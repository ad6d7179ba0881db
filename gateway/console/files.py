"""The console's own files: style, scripts, vendored libraries. Each is served under a name with its hash in it, so it never goes stale.

They are read once and kept in memory, as they are and compressed: the largest has a megabyte.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

AT: Final = "/console/static"
FILES: Final = ("console.css", "console.js", "charts.js", "mark.svg", "vendor/htmx.min.js", "vendor/echarts.min.js")
TYPES: Final[Mapping[str, str]] = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOR_EVER: Final = "public, max-age=31536000, immutable"


@dataclass(slots=True)
class _File:
    content: bytes
    media_type: str
    packed: bytes | None = None
    packing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Files:
    """What browsers are given besides pages."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._names: dict[str, str] = {}
        for name in FILES:
            content = files("gateway.console").joinpath("static", name).read_bytes()
            path = PurePosixPath(name)
            hashed = f"{path.stem}-{sha256(content).hexdigest()[:16]}{path.suffix}"
            self._files[hashed] = _File(content, TYPES[path.suffix])
            self._names[name] = f"{AT}/{hashed}"

    def url(self, name: str) -> str:
        """Where a file is served. ``KeyError`` for one that is not listed."""
        return self._names[name]

    async def serve(self, request: Request) -> Response | None:
        """The file that a request names, or ``None``. It is the same for everybody, so it needs no login."""
        file = self._files.get(request.path_params["name"])
        if file is None:
            return None
        headers = {"Cache-Control": FOR_EVER, "X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(file.content, headers=headers, media_type=file.media_type)
        async with file.packing:
            if file.packed is None:
                file.packed = await asyncio.to_thread(gzip.compress, file.content, 9, mtime=0)
        headers["Content-Encoding"] = "gzip"
        return Response(file.packed, headers=headers, media_type=file.media_type)
