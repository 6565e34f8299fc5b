"""A connection to one broker of our own: TLS, and the proof of who we are, as the binding says.

Source: Kafka's protocol guide, "SASL Authentication Sequence"; KIP-152, KIP-368.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from typing import Any, Final, NamedTuple

import scramp

from connectors.kafka.binding import KafkaSettings, Sasl, Tls

_HANDSHAKE, _AUTHENTICATE = 17, 36
_VERSION: Final = 1
_CLIENT: Final = b"streamproc.reader"
_LARGEST: Final = 1 << 20
_SHORTER: Final = 0.8
"""A session is renewed after so much of its time."""


class Refused(Exception):
    """The broker does not take us, or does not speak as brokers do."""


class Connected(NamedTuple):
    """A connection, and until when (monotonic seconds) the broker takes requests on it without a new proof."""

    socket: socket.socket
    until: float


def connect(address: tuple[str, int], settings: KafkaSettings, timeout_s: float) -> Connected:
    """Opens a connection that takes requests; waits for each step of it at most so long.

    Raises OSError (ssl.SSLError is one) or Refused, and InputError for a secret that cannot be read.
    """
    made = socket.create_connection(address, timeout=timeout_s)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if settings.tls is not None:
            made = _context(settings.tls).wrap_socket(made, server_hostname=address[0])
        until = float("inf") if settings.sasl is None else _proved(made, settings.sasl)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return Connected(made, until)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca or None)
    if tls.certificate:
        password = None if tls.key_password is None else tls.key_password.reveal()
        context.load_cert_chain(tls.certificate, tls.key, password)
    return context


def _proved(broker: socket.socket, sasl: Sasl) -> float:
    """Proves who we are; gives until when that holds."""
    answer = _asked(broker, _HANDSHAKE, 1, struct.pack(">h", len(sasl.mechanism)) + sasl.mechanism.encode())
    (error,) = struct.unpack_from(">h", answer)
    if error:
        raise Refused(f"the broker does not know {sasl.mechanism} (error {error})")
    began = time.monotonic()
    password = sasl.password.reveal()
    if sasl.mechanism == "PLAIN":
        _, lifetime_ms = _authenticated(broker, 2, b"\0" + sasl.username.encode() + b"\0" + password.encode())
    else:
        try:
            client: Any = scramp.ScramClient([sasl.mechanism], sasl.username, password)
            said, _ = _authenticated(broker, 2, client.get_client_first().encode())
            client.set_server_first(said.decode())
            said, lifetime_ms = _authenticated(broker, 3, client.get_client_final().encode())
            client.set_server_final(said.decode())
        except (scramp.ScramException, UnicodeDecodeError) as wrong:
            raise Refused(str(wrong)) from wrong
    return began + _SHORTER * lifetime_ms / 1e3 if lifetime_ms > 0 else float("inf")


def _authenticated(broker: socket.socket, number: int, proof: bytes) -> tuple[bytes, int]:
    """What the broker says to a proof, and for how many milliseconds it holds, 0 for ever."""
    answer = _asked(broker, _AUTHENTICATE, number, struct.pack(">i", len(proof)) + proof)
    error, size = struct.unpack_from(">hh", answer)
    at = 4 + max(0, size)
    if error:
        raise Refused(answer[4:at].decode(errors="replace"))
    (size,) = struct.unpack_from(">i", answer, at)
    said = answer[at + 4 : at + 4 + max(0, size)]
    (lifetime_ms,) = struct.unpack_from(">q", answer, at + 4 + max(0, size))
    return said, lifetime_ms


def _asked(broker: socket.socket, kind: int, number: int, body: bytes) -> bytes:
    """One request and the answer to it, behind its number."""
    request = struct.pack(">hhih", kind, _VERSION, number, len(_CLIENT)) + _CLIENT + body
    broker.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _exactly(broker, 4))
    if not 4 <= size <= _LARGEST:
        raise Refused(f"an answer of {size} bytes")
    answer = _exactly(broker, size)
    if struct.unpack_from(">i", answer) != (number,):
        raise Refused("the answer to another question")
    return answer[4:]


def _exactly(broker: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = broker.recv(size - len(found))
        if not more:
            raise Refused("the broker closed the connection")
        found += more
    return found
