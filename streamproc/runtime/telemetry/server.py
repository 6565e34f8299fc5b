"""`/metrics`, `/health` and `/ready` over HTTP, on a TCP port or a Unix socket; in threads beside the worker's loop.

The server only reads what the loop left behind, so a loop that hangs does not keep it from saying so.
"""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from streamproc.errors import InputError
from streamproc.runtime.telemetry.vital import Verdict

UNIX: Final = "unix:"
_SLOW_CLIENT_S: Final = 10.0


class _Answers(BaseHTTPRequestHandler):
    """Three pages, and 404 for all else."""

    server_version = "streamproc"
    sys_version = ""
    timeout = _SLOW_CLIENT_S
    pages: dict[str, Callable[[], tuple[int, str, bytes]]]

    def do_GET(self) -> None:
        """Answers a GET."""
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            status, kind, body = 404, "text/plain; charset=utf-8", b"there are /metrics, /health and /ready\n"
        else:
            status, kind, body = page()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a scrape every few seconds is no news."""

    def address_string(self) -> str:
        """Who asks; over a Unix socket there is no address."""
        return "local"


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class _Tcp6Server(_TcpServer):
    address_family = socket.AF_INET6


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def serving(
    address: str, registry: CollectorRegistry, health: Callable[[], Verdict], ready: Callable[[], Verdict]
) -> Iterator[str]:
    """Serves within; gives the address that was taken.

    address  "PORT" (on 127.0.0.1), "HOST:PORT", "[IPV6]:PORT", or "unix:PATH"; port 0 takes a free one

    Raises InputError for an address that is none, or cannot be had.
    """

    def said(verdict: Verdict) -> tuple[int, str, bytes]:
        body = orjson.dumps({"ok": verdict.ok, "status": verdict.status, **verdict.facts}, default=str) + b"\n"
        return (200 if verdict.ok else 503), "application/json", body

    class Handler(_Answers):
        pages = {  # noqa: RUF012  # a class of this one server
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
            "/health": lambda: said(health()),
            "/ready": lambda: said(ready()),
        }

    server = _server(address, Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield _taken(address, server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        if address.startswith(UNIX):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address.removeprefix(UNIX))


def _server(address: str, handler: type[BaseHTTPRequestHandler]) -> socketserver.TCPServer:
    try:
        if address.startswith(UNIX):
            path = address.removeprefix(UNIX)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # What a killed worker of the same name left.
            return _UnixServer(path, handler)
        host, port = host_and_port(address)
        return (_Tcp6Server if ":" in host else _TcpServer)((host, port), handler)
    except OSError as error:
        raise InputError(
            f"nothing can listen on '{address}': {error.strerror or error}", hint="choose another port; 0 takes a free"
        ) from None


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of a text; raises InputError.

    >>> host_and_port("9464"), host_and_port("0.0.0.0:80"), host_and_port("[::1]:80")
    (('127.0.0.1', 9464), ('0.0.0.0', 80), ('::1', 80))
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise InputError(f"'{address}' is no address to listen on", hint="write PORT or HOST:PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _taken(address: str, server: socketserver.TCPServer) -> str:
    if address.startswith(UNIX):
        return address
    host, port, *_ = server.socket.getsockname()
    return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"
