"""One schema registry for all tests of this folder; each test has subjects of its own."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from connectors.confluent_registry import RegistryAccess, RegistryClient
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract
from tests.cli.command_line import CommandLine
from tests.services.apicurio import ApicurioRegistry, schema_registry


@pytest.fixture(scope="session")
def apicurio() -> Iterator[ApicurioRegistry]:
    """A registry that runs."""
    with schema_registry() as running:
        yield running


@pytest.fixture
def client(apicurio: ApicurioRegistry) -> Iterator[RegistryClient]:
    made = RegistryClient(RegistryAccess(apicurio.url))
    yield made
    made.close()


@pytest.fixture
def name() -> str:
    """A contract's name that no other test has."""
    return f"pay_{uuid.uuid4().hex[:10]}"


Make = Callable[..., Contract]


@pytest.fixture
def contract(name: str) -> Make:
    """Makes versions of one contract."""

    def make(version: int = 1, *, x: Any = "long", **attributes: Any) -> Contract:
        fields = [
            {"name": "x", "type": x},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"},
        ]
        value = {"type": "record", "name": name, "sp:version": version, "fields": fields, **attributes}
        return parse_contract(json.dumps(value))

    return make


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apicurio: ApicurioRegistry) -> Path:
    """An empty project bound to the registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "schemas_avro").mkdir()
    (tmp_path / "local.toml").write_text(f'[registry]\nurl = "{apicurio.url}"\n')
    return tmp_path


def front(target: ApicurioRegistry, user: str, password: str, certificate: Path) -> ThreadingHTTPServer:
    """A server before the registry that speaks TLS and asks for a password, as operators put one there."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Front(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("authorization") != expected:
                status, answer, kind = 401, b"who are you", "text/plain"
            else:
                connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
                connection.request(self.command, self.path, body, {"content-type": self.headers["content-type"]})
                response = connection.getresponse()
                status, answer, kind = response.status, response.read(), response.headers["content-type"]
                connection.close()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = answer  # noqa: N815 -- the standard library calls them so

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
