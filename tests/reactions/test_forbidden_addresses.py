"""A webhook reaches the public internet and what was named, whatever its URL looks like."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterator

import pytest
from events import event
from serving import WebServer, web_server

from connectors.handlers import Webhook
from connectors.handlers.addresses import is_public
from streamproc.errors import InputError, StreamprocError
from streamproc.reaction import GiveUp, TryLater

HOSTS = [
    # loopback, as people and as attackers write it
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.0x0.0x0.0x1", "0177.0.0.1",
    "017700000001", "127.0.0.1.", "0", "0.0.0.0", "localhost", "LOCALHOST", "localhost.", "lo%63alhost", "127。0。0。1",
    "①②⑦.⓪.⓪.①", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::1%25lo]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::127.0.0.1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    # private networks
    "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254", "192.168.0.1", "192.168.1.254", "0xa000001",
    "[fc00::1]", "[fd12:3456:789a::1]", "[::ffff:10.0.0.1]", "[::ffff:192.168.0.1]", "[2002:a00:1::]", "[fec0::1]",
    # metadata of clouds
    "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "192.0.0.192", "169.254.170.2",
    # link-local, shared, multicast, documentation, benchmarks, reserved
    "169.254.0.1", "[fe80::1]", "[fe80::1%25lo]", "100.64.0.1", "100.127.255.255", "224.0.0.1", "239.255.255.250",
    "[ff02::1]", "192.0.2.1", "198.51.100.1", "203.0.113.1", "[2001:db8::1]", "198.18.0.1", "240.0.0.1",
    "255.255.255.255", "[100::1]", "192.88.99.1",
]  # fmt: skip
URLS = [f"{scheme}://{host}:{{port}}/" for host in HOSTS for scheme in ("https", "http")]
MORE = [
    "http://user@127.0.0.1:{port}/", "http://public.example@127.0.0.1:{port}/", "http://127.0.0.1:{port}#@public.example/",
    "http://127.0.0.1:{port}\\@public.example/", "https://[::ffff:127.0.0.1]:{port}/?x=public.example",
    "//127.0.0.1:{port}/", "file:///etc/passwd", "gopher://127.0.0.1:{port}/_x", "ftp://127.0.0.1:{port}/", "http:///",
    "http://127.0.0.1:{port}/\r\nHost: public.example", "http://127.0.0.1 :{port}/", "unix:///var/run/docker.sock",
]  # fmt: skip


@pytest.fixture(scope="module")
def inside() -> Iterator[tuple[WebServer, WebServer]]:
    """Servers that nothing may reach: one for each family of addresses."""
    with web_server("0.0.0.0") as four, web_server("::1") as six:
        yield four, six


def refused(url: str, **settings: object) -> StreamprocError:
    """What a webhook says instead of asking."""
    with pytest.raises((GiveUp, TryLater, InputError)) as caught:
        asyncio.run(Webhook(url, timeout="3s", **settings)(event()))  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("url", [*URLS, *MORE])
def test_no_url_reaches_a_server_inside(url: str, inside: tuple[WebServer, WebServer]) -> None:
    four, six = inside
    for server in inside:
        error = refused(url.format(port=server.port))
        # Refused by judgement or because no such name exists; never because a connection was tried and failed.
        assert "did not answer" not in str(error), error
    assert four.connections == six.connections == 0


def test_there_are_enough_of_them() -> None:
    assert len(set(URLS + MORE)) >= 60


def test_the_same_servers_are_reached_where_their_network_is_named(inside: tuple[WebServer, WebServer]) -> None:
    with web_server() as server:
        asyncio.run(Webhook(server.url(), allow_networks=("127.0.0.0/8",))(event()))
        assert len(server.requests) == 1
    with web_server("::1") as server:
        asyncio.run(Webhook(f"http://[::1]:{server.port}/", allow_networks=("::1/128",))(event()))
        assert len(server.requests) == 1


def test_a_redirect_to_the_inside_is_not_followed(inside: tuple[WebServer, WebServer]) -> None:
    four, _ = inside
    before = four.connections
    for status in (301, 302, 303, 307, 308):
        with web_server() as server:
            server.reply = lambda request, status=status: (status, {"Location": f"http://127.0.0.2:{four.port}/"}, b"")
            error = refused(server.url(), allow_networks=("127.0.0.1/32",))
            assert isinstance(error, GiveUp)
            assert str(status) in str(error)
    assert four.connections == before


def test_a_name_that_changes_its_answer_is_asked_once(inside: tuple[WebServer, WebServer]) -> None:
    """A second question would get the inside; the connection goes to the address that was judged."""
    four, _ = inside
    before, asked = four.connections, []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    with web_server() as server:
        hook = Webhook(f"http://rebinding.test:{server.port}/", allow_networks=("127.0.0.1/32",), resolver=rebinding)
        asyncio.run(hook(event()))
        assert server.requests[0].headers["host"] == f"rebinding.test:{server.port}"
    assert asked == ["rebinding.test"]
    assert four.connections == before


@pytest.mark.parametrize("addresses", [["93.184.216.34", "10.0.0.1"], ["10.0.0.1", "93.184.216.34"], ["::1"]])
def test_one_address_inside_forbids_the_whole_name(addresses: list[str]) -> None:
    async def mixed(host: str, port: int) -> list[str]:
        return addresses

    error = refused("https://mixed.test/", resolver=mixed)
    assert isinstance(error, GiveUp)
    assert "no public address" in str(error)


def test_http_is_only_for_networks_that_were_named() -> None:
    async def public(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    assert "asked by http" in str(refused("http://public.test/", resolver=public))


def test_a_name_that_nobody_knows_is_asked_for_again_later() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert isinstance(refused("https://nobody.test/", resolver=unknown), TryLater)


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "93.184.216.34", "172.15.255.255", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450:4001::1"]
)
def test_public_addresses_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


def test_a_proxy_of_the_environment_is_not_used(
    monkeypatch: pytest.MonkeyPatch, inside: tuple[WebServer, WebServer]
) -> None:
    four, _ = inside
    before = four.connections
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.2:{four.port}")
    with web_server() as server:
        asyncio.run(Webhook(server.url(), allow_networks=("127.0.0.1/32",))(event()))
        assert len(server.requests) == 1
    assert four.connections == before
