"""What can go wrong on the wire, and on which side of the line it lies: each case on a real socket."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest
import uvloop

from providers.transport import BODY_MAX_BYTES, MaybeSent, NotSent, Transport

HEADERS = {"Content-Type": "text/plain"}


async def post(transport: Any, url: Any, body: Any = b"pay", timeout_s: Any = 1.0) -> Any:
    return await transport.request("POST", url, HEADERS, body, timeout_s)


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def test_a_complete_answer_is_handed_over_as_it_came(transport: Any, loopback: Any) -> None:
    loopback.will_answer(201, b"\x00made", {"Idempotent-Replayed": "true", "Set-Cookie": "a=b"})

    reply = await post(transport, loopback.url)
    await post(transport, loopback.url)

    assert (reply.status, reply.body) == (201, b"\x00made")
    assert reply.headers["idempotent-replayed"] == reply.headers["IDEMPOTENT-REPLAYED"] == "true"
    assert [seen.body for seen in loopback.seen] == [b"pay", b"pay"]
    assert "cookie" not in loopback.seen[1].headers
    assert loopback.seen[0].headers["accept-encoding"] == "identity"


async def test_a_redirect_is_an_answer_and_is_not_followed(transport: Any, loopback: Any) -> None:
    loopback.will_answer(307, headers={"Location": loopback.url + "/elsewhere"})

    reply = await post(transport, loopback.url)

    assert reply.status == 307
    assert len(loopback.seen) == 1


async def test_the_proxy_of_the_environment_is_not_used(transport: Any, loopback: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    loopback.will_answer(200)

    assert (await post(transport, loopback.url)).status == 200


async def tls_failure(loopback: Any) -> Any:
    async def greet(reader: Any, writer: Any) -> None:
        writer.write(b"I do not speak TLS\r\n")
        await writer.drain()
        await reader.read(1000)
        writer.close()

    return await asyncio.start_server(greet, "127.0.0.1", 0)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{closed}/",
        "http://nowhere.invalid/",
        "https://127.0.0.1:{silent}/",
        "ftp://127.0.0.1/",
        "http:///nobody",
    ],
)
async def test_a_request_that_never_left_is_not_sent(hasty: Any, loopback: Any, url: Any) -> None:
    async def silent(_line: Any) -> None:
        await asyncio.sleep(5)

    loopback.will(silent)
    port = loopback.address.partition(":")[2]

    with pytest.raises(NotSent):
        await post(hasty, url.format(closed=closed_port(), silent=port))


async def test_a_peer_that_does_not_speak_tls_is_not_sent(transport: Any, loopback: Any) -> None:
    server = await tls_failure(loopback)
    port = server.sockets[0].getsockname()[1]

    with pytest.raises(NotSent):
        await post(transport, f"https://127.0.0.1:{port}/")

    server.close()


async def test_no_free_connection_in_time_is_not_sent(loopback: Any) -> None:
    loopback.will(lambda _line: asyncio.sleep(5))
    narrow = Transport(connections_max=1, connect_timeout_s=0.05)
    first = asyncio.create_task(post(narrow, loopback.url))
    await asyncio.sleep(0.02)

    with pytest.raises(NotSent):
        await post(narrow, loopback.url)

    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert len(loopback.seen) == 1
    await narrow.aclose()


async def test_a_closed_transport_sends_nothing(loopback: Any) -> None:
    transport = Transport()
    await transport.aclose()
    await transport.aclose()

    with pytest.raises(NotSent):
        await post(transport, loopback.url)


async def reset_before(line: Any) -> None:
    line.reset()


async def close_before(line: Any) -> None:
    line.close()


async def reset_in_headers(line: Any) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\nContent-Le")
    await asyncio.sleep(0.01)
    line.reset()


async def close_in_headers(line: Any) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\nContent-Le")
    line.close()


async def truncated(line: Any) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}")
    line.close()


async def truncated_by_reset(line: Any) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}")
    await asyncio.sleep(0.01)
    line.reset()


async def truncated_chunks(line: Any) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
    line.close()


async def not_http(line: Any) -> None:
    await line.say(b"hello\r\n\r\n")
    line.close()


async def too_long(line: Any) -> None:
    with contextlib.suppress(ConnectionError):
        await line.answer(200, b"x" * (BODY_MAX_BYTES + 1))


async def silence(_line: Any) -> None:
    await asyncio.sleep(5)


@pytest.mark.parametrize(
    "behaviour",
    [
        reset_before,
        close_before,
        reset_in_headers,
        close_in_headers,
        truncated,
        truncated_by_reset,
        truncated_chunks,
        not_http,
        too_long,
        silence,
    ],
    ids=lambda behaviour: behaviour.__name__,
)
async def test_what_fails_after_sending_may_have_been_sent_and_is_sent_once(
    transport: Any, loopback: Any, behaviour: Any
) -> None:
    loopback.will(behaviour)

    with pytest.raises(MaybeSent):
        await post(transport, loopback.url, timeout_s=0.1)

    assert len(loopback.seen) == 1


@pytest.mark.parametrize("ending", [reset_before, close_before])
async def test_a_kept_connection_that_died_is_not_sent_again_behind_our_back(
    transport: Any, loopback: Any, ending: Any
) -> None:
    async def fine(line: Any) -> None:
        await line.answer(200)

    loopback.will(fine, ending)
    await post(transport, loopback.url)

    with pytest.raises(MaybeSent):
        await post(transport, loopback.url)

    assert len(loopback.seen) == 2


async def test_a_deadline_and_a_cancellation_of_the_caller_pass_through(transport: Any, loopback: Any) -> None:
    loopback.will(silence)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await post(transport, loopback.url, timeout_s=5)
    task = asyncio.create_task(post(transport, loopback.url, timeout_s=5))
    await asyncio.sleep(0.02)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_message_shows_where_to_or_what(transport: Any, loopback: Any) -> None:
    loopback.will(reset_before)

    with pytest.raises(MaybeSent) as caught:
        await post(transport, loopback.url + "/secret", b"4242424242424242")

    assert str(caught.value) == "ClientOSError"


def test_uvloop_draws_the_line_in_the_same_place() -> None:
    """The production loop has its own sockets; the line may not move with it."""

    async def outcome(transport: Any, behaviour: Any) -> Any:
        async def converse(reader: Any, writer: Any) -> None:
            await reader.readuntil(b"pay")
            await behaviour(writer)
            writer.close()

        server = await asyncio.start_server(converse, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            await post(transport, f"http://127.0.0.1:{port}/", timeout_s=0.1)
        except (NotSent, MaybeSent) as error:
            return type(error)
        finally:
            server.close()

    async def nothing(_writer: Any) -> None:
        pass

    async def cut(writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}")
        await writer.drain()

    async def abort(writer: Any) -> None:
        writer.transport.abort()

    async def main() -> Any:
        transport = Transport()
        found = [await outcome(transport, each) for each in (nothing, cut, abort)]
        for url in (f"http://127.0.0.1:{closed_port()}/", "http://nowhere.invalid/"):
            try:
                await post(transport, url)
            except (NotSent, MaybeSent) as error:
                found.append(type(error))
        await transport.aclose()
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == [MaybeSent, MaybeSent, MaybeSent, NotSent, NotSent]
