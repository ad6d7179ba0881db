"""The log never keeps anybody waiting: what cannot be written is dropped and counted."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import orjson
import pytest

from gateway.logs import AT_ONCE, LINES_MAX, Sink, _Handler, _Logger

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


def test_what_a_library_logs_is_a_line_without_a_traceback(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        sink = Sink(file.fileno())
        logger = logging.Logger("library")  # noqa: LOG001 - one of its own, so that pytest's handlers stay out
        logger.addHandler(_Handler(sink))
        try:
            int("4242 4242 4242 4242")
        except ValueError:
            logger.exception("it broke at %s", "noon")
        logger.warning("%d", "one")
        sink.close(PATIENCE_S)

    broke, unreadable = [orjson.loads(line) for line in log.read_bytes().splitlines()]
    assert (broke["event"], broke["level"], broke["error"]) == ("it broke at noon", "error", "ValueError")
    assert unreadable["event"] == "unreadable: TypeError"
    assert b"4242" not in log.read_bytes()
