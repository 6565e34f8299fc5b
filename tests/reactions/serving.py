"""Servers of the outside world for tests: they answer what a test tells them and keep what they were sent."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson


@dataclass
class Request:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> dict[str, object]:
        value: dict[str, object] = orjson.loads(self.body)
        return value


Reply = tuple[int, dict[str, str], bytes]


@dataclass
class WebServer:
    """A web server in a thread; `reply` decides the answer to each request."""

    port: int
    requests: list[Request] = field(default_factory=list)
    reply: Callable[[Request], Reply] = lambda request: (204, {}, b"")
    connections: int = 0

    def url(self, path: str = "/", scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"


@contextlib.contextmanager
def web_server(host: str = "127.0.0.1", *, certificate: tuple[Path, Path] | None = None) -> Iterator[WebServer]:
    """A real server on a free port."""
    told = WebServer(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            size = int(self.headers.get("content-length", "0"))
            body = self.rfile.read(size)
            if len(body) < size:
                return  # Who sent it died over it.
            request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body, time.monotonic())
            told.requests.append(request)
            status, headers, answer = told.reply(request)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
                self.wfile.write(answer)

        do_GET = do_POST  # noqa: N815 - the name is the standard library's

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True
        request_queue_size = 256

        def process_request(self, request: object, client_address: object) -> None:
            told.connections += 1
            super().process_request(request, client_address)  # type: ignore[arg-type]

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server((host, 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    told.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Mail:
    """One message that a mail server took."""

    sender: str
    to: list[str]
    text: str


@dataclass
class MailServer:
    """A mail server in a thread; `codes` are its answers to each RCPT, 250 when they are spent."""

    port: int
    mails: list[Mail] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)


@contextlib.contextmanager
def mail_server() -> Iterator[MailServer]:
    """Speaks as much SMTP (RFC 5321) as a client needs to hand over a message."""
    listener = socket.create_server(("127.0.0.1", 0))
    told = MailServer(listener.getsockname()[1])

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb", buffering=0) as stream:
            mail = Mail("", [], "")
            stream.write(b"220 ready\r\n")
            for line in stream:
                verb = line[:4].upper().strip()
                if verb in (b"EHLO", b"HELO", b"RSET", b"NOOP"):
                    answer = b"250 fine"
                elif verb == b"MAIL":
                    mail, answer = Mail(line.decode().strip(), [], ""), b"250 fine"
                elif verb == b"RCPT":
                    code = told.codes.pop(0) if told.codes else 250
                    answer = f"{code} so".encode()
                    if code == 250:
                        mail.to.append(line.decode().strip())
                elif verb == b"DATA":
                    stream.write(b"354 go on\r\n")
                    lines: list[bytes] = []
                    while (part := stream.readline()) not in (b".\r\n", b""):
                        lines.append(part)
                    mail.text = b"".join(lines).decode()
                    told.mails.append(mail)
                    answer = b"250 taken"
                elif verb == b"QUIT":
                    stream.write(b"221 bye\r\n")
                    return
                else:
                    answer = b"502 unknown"
                stream.write(answer + b"\r\n")

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
