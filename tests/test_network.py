"""No test leaves this machine, but those that are marked for it."""

import asyncio
import socket

import pytest

ELSEWHERE = ("192.0.2.1", 80)  # an address of nobody: RFC 5737


def test_a_test_cannot_reach_the_network() -> None:
    with pytest.raises(pytest.fail.Exception, match="only tests marked live"):
        socket.create_connection(ELSEWHERE, timeout=0.1)


async def test_neither_can_a_coroutine() -> None:
    with pytest.raises(pytest.fail.Exception, match="only tests marked live"):
        await asyncio.open_connection(*ELSEWHERE)


@pytest.mark.live
def test_one_that_is_marked_may_try() -> None:
    with socket.socket() as line:
        line.settimeout(0.01)
        with pytest.raises(ConnectionRefusedError):
            line.connect(("127.0.0.1", 1))
