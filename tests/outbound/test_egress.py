"""The way out: no URL and no name leads to an address that is not public, and no answer lasts or grows beyond its bounds."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import ipaddress
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from webhooks import egress
from webhooks.egress import Egress, Refused, Unreached, check_url, excerpt_of, is_public

if TYPE_CHECKING:
    from collections.abc import Callable as Proved

HOST: Final = "127.0.0.1"

# --- The corpus --------------------------------------------------------------------------------------------------------------

ALLOWED: Final = [
    "https://hooks.merchant.example/a/b?c=d&e=%20",
    "https://merchant.example",
    "https://MERCHANT.Example:8443/",
    "https://merchant.example:443/x",
    "https://xn--mnchen-3ya.example/",
    "https://a_b.merchant.example/",
    "https://93.184.215.14/",
    "https://8.8.8.8:8443/hook",
    "https://[2606:4700:4700::1111]/",
    "https://127.0.0.1.merchant.example/",
    "https://1.merchant.example/",
    "https://merchant.example/?url=http://127.0.0.1/",
    "https://merchant.example/a@b",
]
REFUSED: Final[list[tuple[str, str]]] = [
    # no URL of ours
    ("", "not_a_url"), ("merchant.example", "not_a_url"), ("//merchant.example/", "not_a_url"), ("https:merchant.example", "not_a_url"),
    ("https:///hook", "not_a_url"), ("https://", "not_a_url"), ("https://:443/", "not_a_url"), ("https://merchant.example/#part", "not_a_url"), ("https://merchant.example/\\a", "not_a_url"),
    ("https://merchant.example\\@127.0.0.1/", "not_a_url"), ("https://merchant.example%00.evil/", "not_a_url"),
    ("https://127%2e0%2e0%2e1/", "not_a_url"), ("https://[::1/", "not_a_url"), ("https://[::1]x/", "not_a_url"), ("https://a:b:c/", "not_a_url"),
    ("https://merchant.example:/", "not_a_url"), ("https://merchant.example:+443/", "not_a_url"), ("https://merchant.example:4 43/", "characters"),
    ("https://[fe80::1%25eth0]/", "not_a_url"), ("https://[vF.1]/", "not_a_url"), ("https://merchant.example;127.0.0.1/", "not_a_url"),
    (" https://merchant.example/", "characters"), ("https://merchant.example/\r\nHost: a", "characters"), ("https://mer\tchant.example/", "characters"),
    ("https://merchant.example/\x7f", "characters"), ("https://merchant.example/ü", "characters"), ("https://münchen.example/", "characters"),
    ("https://１２７.０.０.１/", "characters"), ("https://127。0。0。1/", "characters"), ("https://ⓛocalhost/", "characters"),
    ("https://merchant.example/" + "a" * 2048, "too_long"),
    # another way than https, on its ports, without a password
    ("http://merchant.example/", "not_https"), ("HTTP://merchant.example/", "not_https"), ("ftp://merchant.example/", "not_https"),
    ("file:///etc/passwd", "not_https"), ("gopher://merchant.example/", "not_https"), ("unix://merchant.example/", "not_https"),
    ("https://merchant.example:80/", "port"), ("https://merchant.example:22/", "port"), ("https://merchant.example:5432/", "port"),
    ("https://merchant.example:65536/", "port"), ("https://merchant.example:0/", "port"), ("https://merchant.example:99999/", "port"),
    ("https://user@merchant.example/", "user_info"), ("https://user:secret@merchant.example/", "user_info"),
    ("https://merchant.example@127.0.0.1/", "user_info"), ("https://@127.0.0.1/", "user_info"),
    # names that are inside
    ("https://localhost/", "inside"), ("https://LOCALHOST:8443/", "inside"), ("https://localhost./", "trailing_dot"),
    ("https://a.localhost/", "inside"), ("https://redis/", "inside"), ("https://metadata/", "inside"), ("https://db.internal/", "inside"),
    ("https://metadata.google.internal/", "inside"), ("https://printer.local/", "inside"), ("https://nas.home.arpa/", "inside"),
    ("https://merchant.example./", "trailing_dot"), ("https://127.0.0.1./", "trailing_dot"), ("https://merchant..example/", "not_a_name"),
    ("https://-a.example/", "not_a_name"), ("https://" + "a" * 64 + ".example/", "not_a_name"), ("https://.example/", "not_a_name"),
    # addresses in other spellings
    ("https://2130706433/", "address_form"), ("https://0x7f000001/", "address_form"), ("https://0x7f.0.0.1/", "address_form"),
    ("https://0177.0.0.1/", "address_form"), ("https://017700000001/", "address_form"), ("https://127.1/", "address_form"),
    ("https://127.0.1/", "address_form"), ("https://127.0.0.01/", "address_form"), ("https://0/", "address_form"), ("https://0x/", "address_form"),
    ("https://1.2.3.4.5/", "address_form"), ("https://256.0.0.1/", "address_form"), ("https://merchant.0x7f/", "address_form"),
    ("https://127.0.0.0x1/", "address_form"), ("https://[127.0.0.1]/", "not_public"), ("https://[:::1]/", "address_form"),
    # addresses that are not public
    ("https://127.0.0.1/", "not_public"), ("https://127.255.255.254/", "not_public"), ("https://0.0.0.0/", "not_public"),
    ("https://10.0.0.1/", "not_public"), ("https://172.16.0.1/", "not_public"), ("https://172.31.255.255/", "not_public"),
    ("https://192.168.1.1/", "not_public"), ("https://169.254.169.254/latest/meta-data/", "not_public"), ("https://100.64.0.1/", "not_public"),
    ("https://100.100.100.200/", "not_public"), ("https://168.63.129.16/", "not_public"), ("https://192.0.0.192/", "not_public"),
    ("https://192.0.2.1/", "not_public"), ("https://198.51.100.1/", "not_public"), ("https://203.0.113.1/", "not_public"),
    ("https://198.18.0.1/", "not_public"), ("https://192.88.99.1/", "not_public"), ("https://224.0.0.1/", "not_public"),
    ("https://239.255.255.250/", "not_public"), ("https://240.0.0.1/", "not_public"), ("https://255.255.255.255/", "not_public"),
    ("https://[::]/", "not_public"), ("https://[::1]/", "not_public"), ("https://[0:0:0:0:0:0:0:1]:8443/", "not_public"),
    ("https://[::ffff:127.0.0.1]/", "not_public"), ("https://[::ffff:8.8.8.8]/", "not_public"), ("https://[::ffff:0:127.0.0.1]/", "not_public"),
    ("https://[::127.0.0.1]/", "not_public"), ("https://[::8.8.8.8]/", "not_public"), ("https://[64:ff9b::7f00:1]/", "not_public"),
    ("https://[64:ff9b::8.8.8.8]/", "not_public"), ("https://[64:ff9b:1::a00:1]/", "not_public"), ("https://[2002:7f00:1::]/", "not_public"),
    ("https://[2002:0808:0808::1]/", "not_public"), ("https://[2001:0:53aa:64c::1]/", "not_public"), ("https://[2001:2::1]/", "not_public"),
    ("https://[2001:db8::1]/", "not_public"), ("https://[3fff::1]/", "not_public"), ("https://[fc00::1]/", "not_public"),
    ("https://[fd00:ec2::254]/", "not_public"), ("https://[fe80::1]/", "not_public"), ("https://[fec0::1]/", "not_public"),
    ("https://[ff02::1]/", "not_public"), ("https://[100::1]/", "not_public"), ("https://[5f00::1]/", "not_public"),
    ("https://[4000::1]/", "not_public"),
]  # fmt: skip


@pytest.mark.parametrize("url", ALLOWED)
def test_a_merchants_own_address_may_be_sent_to(url: str) -> None:
    check_url(url, loopback=False)


@pytest.mark.parametrize(("url", "reason"), REFUSED)
def test_a_url_that_leads_elsewhere_is_refused_for_its_reason(url: str, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        check_url(url, loopback=False)

    assert refused.value.reason == reason
    assert str(refused.value).endswith(".")


def test_the_corpus_is_counted(proved: Proved[[str], None]) -> None:
    assert len({url for url, _ in REFUSED}) == len(REFUSED) >= 60
    proved(f"egress: {len(REFUSED)} URLs refused for their reason, {len(ALLOWED)} allowed")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:3000/hooks",
        "http://localhost:3000",
        "https://[::1]:1/",
        "http://hooks.localhost:8080/",
        "http://127.9.9.9/",
    ],
)
def test_for_development_this_machine_may_be_sent_to(url: str) -> None:
    check_url(url, loopback=True)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://10.0.0.1/", "not_public"), ("http://169.254.169.254/", "not_public"), ("http://0.0.0.0:80/", "not_public"),
        ("http://[::ffff:127.0.0.1]/", "not_public"), ("http://2130706433/", "address_form"), ("http://redis:6379/", "inside"),
        ("http://a@localhost/", "user_info"), ("ftp://localhost/", "not_https"), ("http://localhost:0/", "port"),
    ],
)  # fmt: skip
def test_and_even_then_nothing_else(url: str, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        check_url(url, loopback=True)

    assert refused.value.reason == reason


def test_no_address_is_public_that_the_registries_reserve() -> None:
    """Random addresses of every reserved block, at both of its ends, too."""
    dice = random.Random(1)
    blocks = [ipaddress.ip_network(net) for net in (*map(str, egress._DENIED_4), *map(str, egress._DENIED_6), "::/3", "4000::/2", "8000::/1")]  # fmt: skip
    for net in blocks:
        for offset in (0, net.num_addresses - 1, *(dice.randrange(net.num_addresses) for _ in range(50))):
            assert not is_public(net[offset]), net[offset]


def test_an_address_with_a_zone_is_not_public() -> None:
    assert not is_public("2606:4700::1111%eth0")
    assert is_public("2606:4700::1111")
    with pytest.raises(ValueError, match="does not appear"):
        is_public("merchant.example")


# --- Names -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def listener() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Somebody inside, on loopback: its port, and what it has heard."""
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(b"connected")
        writer.close()

    server = await asyncio.start_server(hear, HOST, 0)
    yield server.sockets[0].getsockname()[1], heard
    server.close()
    await server.wait_closed()


def rows(*addresses: str) -> Sequence[tuple[Any, ...]]:
    return [
        (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (each, 0))
        for each in addresses
    ]


class Names:
    """A name server that answers each question as it was told, the last answer for ever."""

    def __init__(self, *answers: Sequence[tuple[Any, ...]]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[tuple[Any, ...]]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@asynccontextmanager
async def out(**options: Any) -> AsyncIterator[Egress]:
    way = Egress(**options)
    try:
        yield way
    finally:
        await way.aclose()


async def refusal(way: Egress, url: str) -> str:
    with pytest.raises(Unreached) as unreached:
        await way.post(url, {}, b"{}")
    return unreached.value.reason


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("::1",), ("8.8.8.8", "127.0.0.1"), ("127.0.0.1", "8.8.8.8"), ("2606:4700::1111", "::ffff:127.0.0.1"),
     ("169.254.169.254",), ("64:ff9b::7f00:1",), ("10.1.2.3",), ("fe80::1",)],
)  # fmt: skip
async def test_a_name_with_any_address_inside_is_refused_as_a_whole(
    addresses: tuple[str, ...], listener: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, heard = listener
    monkeypatch.setattr(egress, "PORTS", {port})
    async with out(look_up=Names(rows(*addresses))) as way:
        assert await refusal(way, f"https://hooks.merchant.example:{port}/") == "not_public"

    assert heard == []


async def test_a_name_that_is_public_at_the_check_and_inside_at_the_connect_reaches_nobody(
    listener: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding, at every turn: each connect looks up once, and connects to what that look-up said or to nothing."""
    port, heard = listener
    connected: list[str] = []
    monkeypatch.setattr(egress, "PORTS", {port})
    monkeypatch.setattr(egress, "CONNECT_S", 1.0)

    async def no_route(self: Any, sock: socket.socket, address: tuple[Any, ...]) -> None:
        connected.append(address[0])
        if address[0] == HOST:
            return await connects(self, sock, address)
        raise ConnectionRefusedError

    connects = asyncio.selector_events.BaseSelectorEventLoop.sock_connect
    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", no_route)
    names = Names(rows("93.184.215.14"), rows(HOST))
    async with out(look_up=names) as way:
        url = f"https://rebind.merchant.example:{port}/"
        reasons = [await refusal(way, url) for _ in range(3)]

    assert reasons == ["not_connected", "not_public", "not_public"]
    assert names.asked == ["rebind.merchant.example."] * 3
    assert connected == ["93.184.215.14"]
    assert heard == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "localhost"])
async def test_no_address_in_the_url_itself_gets_past_the_check(
    host: str, listener: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor past the last door: with the check of the URL gone, and with names that nobody looked up, there is no socket for it."""
    port, heard = listener
    monkeypatch.setattr(egress, "PORTS", {port})
    async with out() as way:
        assert await refusal(way, f"https://{host}:{port}/") in {"not_public", "address_form", "inside"}
        monkeypatch.setattr(egress, "check_url", lambda url, *, loopback: None)
        assert await refusal(way, f"https://{host}:{port}/") in {
            "not_public",
            "failed",
            "not_connected",
            "no_such_name",
        }

    assert heard == []


async def test_a_name_that_is_not_there_is_told_in_a_word() -> None:
    def nobody(host: str, port: int) -> Sequence[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    async with out(look_up=nobody) as way:
        assert await refusal(way, "https://nobody.example/") == "no_such_name"
    async with out(look_up=Names([])) as way:
        assert await refusal(way, "https://nothing.example/") == "no_such_name"


async def test_a_name_server_that_never_answers_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    late = threading.Event()
    monkeypatch.setattr(egress, "CONNECT_S", 3.0)  # enough for the quick one on a machine that is busy with other tests

    def slow(host: str, port: int) -> Sequence[tuple[Any, ...]]:
        asked.append(host)
        if host.startswith("slow"):
            late.wait(60.0)
        return rows("10.0.0.1")

    async with out(look_up=slow) as way:
        waits = [asyncio.create_task(refusal(way, "https://slow.example/")) for _ in range(100)]
        assert await refusal(way, "https://quick.example/") == "not_public"
        assert set(await asyncio.gather(*waits)) == {"connect_timeout"}
        assert sorted(asked) == ["quick.example.", "slow.example."], "a hundred questions are one"
        late.set()  # the thread's answer comes late, and to nobody
        await asyncio.sleep(0.2)


# --- Answers -----------------------------------------------------------------------------------------------------------------

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK: Final = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def speaking(speak: Speak, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that says what it likes."""
    running: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await speak(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            writer.close()
            running.discard(task)

    server = await asyncio.start_server(serve, HOST, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()


async def says(speak: Speak) -> egress.Reply:
    async with speaking(speak) as port, out(loopback=True) as way:
        return await way.post(f"http://{HOST}:{port}/", {"webhook-id": "evt_1"}, b"{}")


async def test_an_answer_is_its_status_and_a_clean_excerpt() -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b"<b>\x00Thanks\r\n\x1b[31m</b> 4242 4242 4242 4242 whsec_abc sk_test_x Basic abc="
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    reply = await says(speak)

    assert reply.status == 200
    assert reply.excerpt == "<b> Thanks [31m</b> [removed] [removed] [removed] [removed]"
    assert len(excerpt_of(b"a" * 5000)) == 200
    assert excerpt_of("Grüße \ud83d".encode("utf-8", "surrogatepass")).startswith("Grüße")


async def test_an_endless_body_is_cut_off_after_four_kilobytes() -> None:
    sent = [0]

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"\r\n")
        while sent[0] < 1 << 30:
            writer.write(b"a" * 65536)
            await writer.drain()
            sent[0] += 65536

    reply = await says(speak)

    assert (reply.status, reply.excerpt) == (200, "a" * 200)
    assert sent[0] < 1 << 26


async def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(10_000_000))

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb)
        await writer.drain()

    reply = await says(speak)
    assert (reply.status, reply.excerpt) == (200, "")


async def test_a_slow_drip_is_not_waited_for_once_the_status_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "BODY_S", 0.3)

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.05)

    reply = await says(speak)

    assert reply.status == 200


async def test_a_slow_drip_of_headers_ends_at_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "TOTAL_S", 0.5)

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        while True:
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.1)

    with pytest.raises(Unreached, match="timeout"):
        await says(speak)


@pytest.mark.parametrize(
    "head",
    [
        OK + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
        OK + b"".join(b"X-%d: a\r\n" % number for number in range(10_000)) + b"\r\n",
        b"HTTP/1.1 200 " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
    ],
    ids=["one long header", "many headers", "a long status line", "garbage", "two lengths"],
)
async def test_a_flood_of_headers_or_garbage_is_no_answer(head: bytes) -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()
        await asyncio.sleep(30)

    with pytest.raises(Unreached, match="bad_answer"):
        await says(speak)


async def test_an_endless_row_of_provisional_answers_ends_at_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "TOTAL_S", 0.5)

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    with pytest.raises(Unreached, match="timeout"):
        await says(speak)


async def test_hanging_up_is_told_in_a_word() -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with pytest.raises(Unreached, match="disconnected"):
        await says(speak)


async def test_a_redirect_to_this_machine_is_an_answer_and_no_way(listener: tuple[int, list[bytes]]) -> None:
    port, heard = listener

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % port)
        await writer.drain()

    assert (await says(speak)).status == 307
    assert heard == []


async def test_no_cookie_is_kept_and_no_proxy_is_taken_from_the_environment(
    listener: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, heard = listener
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:{proxy}")
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK + b"Set-Cookie: a=b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}/"
    async with out(loopback=True) as way:
        for _ in range(2):
            await way.post(url, {"webhook-id": "evt_1"}, b"{}")
    server.close()
    await server.wait_closed()

    assert len(requests) == 2
    assert b"cookie" not in b"".join(requests).lower()
    assert heard == []


# --- TLS ---------------------------------------------------------------------------------------------------------------------


def certificate(name: str, folder: Path) -> Path:
    """A key and a certificate of ``name`` that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


async def test_tls_and_host_keep_the_name_and_names_share_no_connection(tmp_path: Path) -> None:
    names, hosts = list[str | None](), list[bytes]()
    ours = certificate("hooks.merchant.example", tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(ours)
    server_side.sni_callback = lambda _, name, __: names.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                hosts.append(head.split(b"Host: ")[1].split(b"\r\n")[0])
                await reader.readexactly(2)
                writer.write(OK + b"Content-Length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    trusted = ssl.create_default_context(cafile=str(ours))
    async with out(loopback=True, look_up=Names(rows(HOST)), tls=trusted) as way:
        for _ in range(2):
            await way.post(f"https://hooks.merchant.example:{port}/", {}, b"{}")
        wrong = await refusal(way, f"https://other.merchant.example:{port}/")
    async with out(loopback=True, look_up=Names(rows(HOST))) as way:
        untrusted = await refusal(way, f"https://hooks.merchant.example:{port}/")
    server.close()
    await server.wait_closed()

    assert hosts == [f"hooks.merchant.example:{port}".encode()] * 2
    assert names[:2] == ["hooks.merchant.example", "other.merchant.example"], (
        "two posts, one connection; then another name"
    )
    assert (wrong, untrusted) == ("certificate", "certificate")


async def test_a_port_that_does_not_speak_tls_is_told_in_a_word(listener: tuple[int, list[bytes]]) -> None:
    port, _ = listener
    async with out(loopback=True) as way:
        assert await refusal(way, f"https://{HOST}:{port}/") in {"tls", "not_connected", "disconnected"}
