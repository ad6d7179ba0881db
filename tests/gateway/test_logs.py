"""The log never keeps anybody waiting: what cannot be written is dropped and counted."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
import structlog
import uvloop

from gateway.logs import AT_ONCE, LINES_MAX, Sink, _Handler, _Logger, _rendered

PATIENCE_S: Final = 60.0
LINE: Final = b"x" * 1000


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        for descriptor in (reader, writer):
            try:
                os.close(descriptor)
            except OSError:  # the test has closed it
                continue


def test_lines_are_written_in_their_order_before_the_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        sink = Sink(file.fileno(), lines_max=10 * AT_ONCE)
        for number in range(5 * AT_ONCE):
            sink.write(b"%d" % number)
        sink.close(PATIENCE_S)

    assert log.read_bytes() == b"".join(b"%d\n" % number for number in range(5 * AT_ONCE))
    assert sink.dropped == 0


def test_lines_can_be_waited_for_and_more_may_come() -> None:
    with pipe() as (reader, writer):
        sink = Sink(writer)
        for line in (b"one", b"two"):
            sink.write(line)
            sink.flush(PATIENCE_S)
            assert os.read(reader, 4096) == line + b"\n"
        sink.close(PATIENCE_S)


def test_a_pipe_that_nobody_reads_costs_lines_and_no_time() -> None:
    with pipe() as (reader, writer):
        sink = Sink(writer)
        for _ in range(3 * LINES_MAX):  # far more than the pipe and the queue hold together
            sink.write(LINE)
        lost = sink.dropped
        emptied = threading.Thread(target=_drain, args=[reader])
        emptied.start()
        sink.close(PATIENCE_S)
        os.close(writer)
        emptied.join(PATIENCE_S)

    assert LINES_MAX // 2 < lost < 3 * LINES_MAX
    assert sink.dropped == lost  # what had found room was written once somebody read


def _drain(reader: int) -> None:
    while os.read(reader, 65536):
        pass


def test_a_reader_that_has_gone_costs_lines_and_nothing_else() -> None:
    with pipe() as (reader, writer):
        sink = Sink(writer)
        os.close(reader)
        for _ in range(10):
            sink.write(LINE)
        sink.close(PATIENCE_S)

    assert sink.dropped == 10


def test_a_process_without_stderr_logs_nowhere() -> None:
    sink = Sink(None)
    sink.write(LINE)
    sink.close(PATIENCE_S)

    assert sink.dropped == 1


def test_a_pipe_that_its_other_owner_made_non_blocking_loses_nothing() -> None:
    with pipe() as (reader, writer):
        os.set_blocking(writer, False)
        sink, received = Sink(writer), bytearray()
        for _ in range(500):
            sink.write(LINE)
        while len(received) < 500 * (len(LINE) + 1):
            received += os.read(reader, 4096)
        sink.close(PATIENCE_S)

    assert bytes(received) == (LINE + b"\n") * 500
    assert sink.dropped == 0


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_every_level_of_ours_ends_in_the_sink(level: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        sink = Sink(file.fileno())
        getattr(_Logger(sink), level)(b"a line")
        sink.close(PATIENCE_S)

    assert log.read_bytes() == b"a line\n"


class Library:
    """A library's logger, whose lines are handled as ours are."""

    def __init__(self, log: Path, logger: logging.Logger | None = None) -> None:
        self._log = log
        self._file = log.open("wb")
        self._sink = Sink(self._file.fileno())
        self.logger = logger or logging.Logger("library")  # noqa: LOG001 - of its own: pytest's handlers stay out
        self._handler = _Handler(self._sink)
        self.logger.addHandler(self._handler)

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged, to its end: without any card."""
        self.logger.removeHandler(self._handler)
        self._sink.close(PATIENCE_S)
        self._file.close()
        assert b"4242" not in self._log.read_bytes()
        return [orjson.loads(line) for line in self._log.read_bytes().splitlines()]


def test_what_a_library_logs_is_a_line_without_a_traceback(tmp_path: Path) -> None:
    library = Library(tmp_path / "log")
    try:
        int("4242 4242 4242 4242")
    except ValueError:
        library.logger.exception("it broke at %s", "noon")
    library.logger.warning("%d", "one")

    broke, unreadable = library.lines()
    assert (broke["event"], broke["level"], broke["error"]) == ("it broke at noon", "error", "ValueError")
    assert unreadable["event"] == "unreadable: TypeError"


CARD: Final = "4242424242424242"


def _fail(said: str) -> None:
    raise ValueError(said)


async def _lose() -> None:
    """A task, a future and two callbacks fail with a card in what they say, and nobody listens."""
    loop = asyncio.get_running_loop()
    loop.create_future().set_exception(ValueError(CARD))
    lost = loop.create_task(asyncio.to_thread(_fail, CARD))
    await asyncio.wait([lost])
    del lost
    loop.call_soon(_fail, CARD)
    loop.call_soon(functools.partial(_fail, CARD))
    await asyncio.sleep(0)
    gc.collect()


@pytest.mark.parametrize("loops", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_what_asyncio_says_of_a_lost_task_is_without_what_the_task_said(
    loops: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = Library(tmp_path / "log", logging.getLogger("asyncio"))

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(_lose())

    told, said = library.lines(), [record.getMessage() for record in caplog.records]
    assert sum(CARD in each for each in said) >= 3
    assert sorted(line["event"] for line in told) == [
        "Exception in callback",
        "Exception in callback",
        "Future exception was never retrieved",
        "Task exception was never retrieved",
    ]


@pytest.mark.parametrize("value", ["\ud800", 2**64, [object()]], ids=["half a character", "too large", "an object"])
def test_a_line_that_json_cannot_hold_keeps_its_event(value: object, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        sink = Sink(file.fileno())
        ours = structlog.wrap_logger(
            _Logger(sink),
            processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer(serializer=_rendered)],
        )
        ours.warning("it_broke", value=value)
        sink.close(PATIENCE_S)

    (line,) = [orjson.loads(line) for line in log.read_bytes().splitlines()]
    assert (line["event"], line["level"]) == ("it_broke", "warning")
    assert ("unreadable" in line) is (not isinstance(value, list))  # an object is shown by its name


def test_what_a_library_says_with_half_a_character_is_a_line(tmp_path: Path) -> None:
    library = Library(tmp_path / "log")
    library.logger.warning("no such file: %s", "\ud800")

    (line,) = library.lines()
    assert (line["event"], line["level"], line["unreadable"]) == ("no such file: \\ud800", "warning", "TypeError")
