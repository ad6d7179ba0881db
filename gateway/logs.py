"""The log: one JSON object a line on stderr, written by a thread of its own, so that nobody ever waits for whoever reads it.

A pipe that nobody empties blocks its writer for ever, and a full disk or a reader that has gone makes each write fail. Neither may
stall or fail a charge: lines wait in a bounded queue, and what does not fit or cannot be written is dropped and counted.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import select
import sys
import threading
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any, Final

import orjson
import structlog

from gateway import tracing

LINES_MAX: Final = 1_000
"""Lines that may wait: seconds of an outage's talk, and less than a megabyte."""
AT_ONCE: Final = 100
"""Lines in one write."""
FLUSH_S: Final = 1.0
"""How long the end of the process waits for its last lines."""


class Sink:
    """Takes lines from any thread, and writes them to a file descriptor, which it never closes. ``None`` drops them all."""

    def __init__(self, descriptor: int | None, lines_max: int = LINES_MAX) -> None:
        self._descriptor = descriptor
        self._lines_max = lines_max
        self._queue: SimpleQueue[bytes | threading.Event | None] = SimpleQueue()
        self._dropped = 0
        self._counting = threading.Lock()
        self._writer = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._writer.start()

    @property
    def dropped(self) -> int:
        """Lines that were never written."""
        return self._dropped

    def write(self, line: bytes) -> None:
        """Take one line. Never blocks and never raises."""
        if self._queue.qsize() >= self._lines_max:
            self._drop(1)
        else:
            self._queue.put(line)

    def flush(self, timeout_s: float) -> None:
        """Wait until what has been taken is written or dropped, or until the time is over. May be called again and again."""
        reached = threading.Event()
        self._queue.put(reached)
        reached.wait(timeout_s)

    def close(self, timeout_s: float = FLUSH_S) -> None:
        """Write what waits, as far as that goes in time. May be called twice; lines that come later may be lost."""
        self._queue.put(None)
        self._writer.join(timeout_s)

    def _drop(self, lines: int) -> None:
        with self._counting:
            self._dropped += lines

    def _write_all(self) -> None:
        while True:
            *lines, last = self._next()
            lines += [last] if isinstance(last, bytes) else []
            if lines:
                try:
                    self._write(b"".join(b"%b\n" % line for line in lines))
                except OSError:  # a reader that has gone, or a full disk: perhaps the next lines find room
                    self._drop(len(lines))
            if isinstance(last, threading.Event):
                last.set()
            if last is None:
                return

    def _next(self) -> list[Any]:
        """Lines for one write, at least one; or fewer, and then what came behind them that is no line."""
        taken = [self._queue.get()]
        while isinstance(taken[-1], bytes) and len(taken) < AT_ONCE:
            try:
                taken.append(self._queue.get_nowait())
            except Empty:
                break
        return taken

    def _write(self, text: bytes) -> None:
        if self._descriptor is None:
            raise BrokenPipeError
        left = memoryview(text)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # whoever shares the pipe has made it non-blocking
                ready = select.poll()
                ready.register(self._descriptor, select.POLLOUT)
                ready.poll()


class _Logger:
    """What structlog hands its rendered lines to."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def msg(self, line: bytes) -> None:
        """Take one line, of whatever level."""
        self._sink.write(line)

    debug = info = warning = error = critical = msg


_SHOWN: Final = re.compile(r"(?<=Exception in callback) .*|\n.*", re.DOTALL)
"""Where asyncio shows a task or a callback that failed, with its exception and its arguments: those could hold what was sent."""


class _Handler(logging.Handler):
    """What libraries log, by the same way. Class names instead of tracebacks: those could hold what was sent."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record. Never raises."""
        try:
            said = _SHOWN.sub("", record.getMessage())
        except Exception as error:  # its arguments do not fit its words
            said = f"unreadable: {type(error).__name__}"
        line: dict[str, Any] = {
            "event": said,
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        self._sink.write(_rendered(tracing.in_line(None, "", line)))


def _rendered(line: dict[str, Any], **options: Any) -> bytes:
    """A line as JSON. Never raises: of one that JSON cannot hold, such as half a character, its event is left."""
    try:
        return orjson.dumps(line, **options)
    except Exception as error:  # a logged value may be anything, and a charge does not fail for it
        plain = {name: str(line.get(name)).encode(errors="backslashreplace").decode() for name in _ALWAYS}
        return orjson.dumps(plain | {"unreadable": type(error).__name__})


_ALWAYS: Final = ("event", "level", "timestamp")
"""What every line has, and what is never what was sent."""


_sinks: Final[list[Sink]] = []
"""The sink of this process, once there is one."""


def to_stderr() -> None:
    """Send everything that is logged in this process to stderr. May be called twice."""
    if _sinks:
        return
    sink = Sink(_stderr())
    _sinks.append(sink)
    atexit.register(sink.close)
    structlog.configure(
        processors=[
            tracing.in_line,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=_rendered),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _Logger(sink),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Handler(sink)], force=True)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # it would complain on stderr, and wait for it


def flush() -> None:
    """Wait until this process has written its lines, for :data:`FLUSH_S` at most. It blocks; may be called again and again."""
    for sink in _sinks:
        sink.flush(FLUSH_S)


def dropped() -> int:
    """How many lines this process has dropped."""
    return sum(sink.dropped for sink in _sinks)


def _stderr() -> int | None:
    """A descriptor of our own for stderr, or ``None`` where the process was started without one.

    Then its number is given to the null device: else the next connection would get it, and whatever writes to stderr with it.
    """
    if sys.stderr is not None:
        return os.dup(2)
    try:
        os.fstat(2)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != 2:
            os.dup2(null, 2)
            os.close(null)
    return None
