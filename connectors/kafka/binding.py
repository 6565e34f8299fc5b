"""The [kafka] table of a binding: where the brokers are, how they are spoken to, and how much memory may be used.

    [kafka]
    brokers = ["a.example:9093", "b.example:9093"]

    [kafka.sasl]
    mechanism = "SCRAM-SHA-512"
    username = "streamproc"
    password = { env = "KAFKA_PASSWORD" }       # or { file = "/run/secrets/kafka" }; never the password itself

    [kafka.tls]
    ca = "/etc/ssl/kafka-ca.pem"                # all three may be left out: the system's authorities then decide
    certificate = "/etc/ssl/worker.pem"
    key = "/etc/ssl/worker.key"

    [kafka.sizes]
    partition_bytes = 8388608                   # read ahead at most so much of each partition
    record_bytes = 100000000                    # pass over larger batches, which then are dead letters
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from connectors.handlers.secret import Secret
from streamproc.errors import InputError, did_you_mean

GroupProtocol = Literal["classic", "consumer"]
LARGEST_RECORD: Final = 16 << 20
"""Bytes of the largest record that is written: a journal entry of a large step takes some megabytes."""
_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_COMPRESSIONS: Final = ("none", "lz4", "zstd", "snappy", "gzip")


@dataclass(frozen=True, slots=True)
class Sasl:
    """A user and where its password is."""

    mechanism: str
    username: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files; an empty `ca` means the system's authorities."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    key_password: Secret | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bounds on memory, in bytes.

    partition_bytes    what is read ahead of each partition, as fetched; as much again may wait as blocks
    fetch_bytes        what one request asks of one partition
    outstanding_bytes  what is on its way to the brokers
    record_bytes       the largest batch of records that is read, as it lies in the log; at least what the engine itself
                       writes, 16 MiB. A larger one is passed over, and told of as a dead letter
    """

    partition_bytes: int = 8 << 20
    fetch_bytes: int = 4 << 20
    outstanding_bytes: int = 128 << 20
    record_bytes: int = 100_000_000


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """What a user may say of Kafka; everything else about clients belongs to the engine (`profile`).

    insecure        lets records and passwords travel in the clear to brokers on other machines
    group_protocol  "classic" works with every broker; "consumer" is that of Kafka 4 (KIP-848)
    direct          batches are fetched and written without librdkafka where that is possible, which takes half the CPU
    """

    brokers: tuple[str, ...]
    sasl: Sasl | None = None
    tls: Tls | None = None
    insecure: bool = False
    group_protocol: GroupProtocol = "classic"
    compression: str = "none"
    direct: bool = True
    sizes: Sizes = field(default_factory=Sizes)

    def __post_init__(self) -> None:
        if not self.brokers or not all(_is_address(broker) for broker in self.brokers):
            raise InputError(f"[kafka] brokers = {list(self.brokers)} is no list of addresses",
                             hint='write brokers = ["host:9092"]')  # fmt: skip
        _one_of("group_protocol", self.group_protocol, get_args(GroupProtocol))
        _one_of("compression", self.compression, _COMPRESSIONS)
        foreign = [broker for broker in self.brokers if not _is_local(broker)]
        if foreign and self.tls is None and not self.insecure:
            raise InputError(
                f"[kafka] would send everything in the clear to {foreign[0]}",
                hint="add a [kafka.tls] table, or insecure = true if the network is trusted",
            )

    def connection(self) -> dict[str, str]:
        """librdkafka's settings for getting to the brokers; reads the secrets."""
        found = {"bootstrap.servers": ",".join(self.brokers)}
        protocol = "SSL" if self.tls is not None else "PLAINTEXT"
        if self.tls is not None:
            for key, path in (
                ("ssl.ca.location", self.tls.ca),
                ("ssl.certificate.location", self.tls.certificate),
                ("ssl.key.location", self.tls.key),
            ):
                if path:
                    if not Path(path).is_file():
                        raise InputError(f"[kafka.tls] names '{path}', and there is no such file")
                    found[key] = path
            if self.tls.key_password is not None:
                found["ssl.key.password"] = self.tls.key_password.reveal()
        if self.sasl is not None:
            protocol = f"SASL_{protocol}"
            found |= {
                "sasl.mechanism": self.sasl.mechanism,
                "sasl.username": self.sasl.username,
                "sasl.password": self.sasl.password.reveal(),
            }
        return found | {"security.protocol": protocol}


def kafka_settings(table: Mapping[str, object], root: Path = Path()) -> KafkaSettings:
    """The settings in a binding's [kafka] table; raises InputError naming what is wrong there.

    root  the folder to which paths are relative

    >>> kafka_settings({"brokers": "localhost:9092"}).brokers
    ('localhost:9092',)
    """
    _known("kafka", table, KafkaSettings)
    found: dict[str, Any] = dict(table)
    brokers = found.get("brokers", ())
    listed = brokers.split(",") if isinstance(brokers, str) else brokers
    if not isinstance(listed, list | tuple):
        raise InputError("[kafka] brokers is no list of addresses", hint='write brokers = ["host:9092"]')
    found["brokers"] = tuple(str(broker).strip() for broker in listed)
    for key in ("insecure", "direct"):
        if not isinstance(found.get(key, False), bool):
            raise InputError(f"[kafka] {key} is true or false")
    if "sasl" in found:
        found["sasl"] = _sasl(_table("kafka.sasl", found["sasl"], Sasl), root)
    if "tls" in found:
        found["tls"] = _tls({} if found["tls"] is True else _table("kafka.tls", found["tls"], Tls), root)
    if "sizes" in found:
        found["sizes"] = _sizes(_table("kafka.sizes", found["sizes"], Sizes))
    return KafkaSettings(**found)


def _known(name: str, table: Mapping[str, object], kind: Any) -> None:
    known = [each.name for each in fields(kind)]
    for key in table:
        if key in known:
            continue
        if "." in key or key.startswith(("enable_", "auto_", "isolation", "transaction", "acks")):
            raise InputError(f"[{name}] sets '{key}', which the engine decides itself",
                             hint=f"take it out; there are: {', '.join(known)}")  # fmt: skip
        raise InputError(f"[{name}] has no '{key}'", hint=did_you_mean(key, known))


def _table(name: str, value: object, kind: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"[{name}] is no table")
    _known(name, value, kind)
    return cast(Mapping[str, Any], value)


def _sasl(table: Mapping[str, Any], root: Path) -> Sasl:
    mechanism = table.get("mechanism", "SCRAM-SHA-512")
    _one_of("sasl.mechanism", mechanism, _MECHANISMS)
    username = table.get("username", "")
    if not isinstance(username, str) or not username:
        raise InputError("[kafka.sasl] has no username")
    return Sasl(mechanism, username, _secret("kafka.sasl", "password", table.get("password"), root))


def _tls(table: Mapping[str, Any], root: Path) -> Tls:
    paths = {key: table.get(key, "") for key in ("ca", "certificate", "key")}
    for key, path in paths.items():
        if not isinstance(path, str):
            raise InputError(f"[kafka.tls] {key} is a path")
    if bool(paths["certificate"]) != bool(paths["key"]):
        raise InputError("[kafka.tls] has a certificate without its key, or a key without its certificate")
    password = table.get("key_password")
    found = {key: str(root / path) if path else "" for key, path in paths.items()}
    return Tls(**found, key_password=None if password is None else _secret("kafka.tls", "key_password", password, root))


def _sizes(table: Mapping[str, Any]) -> Sizes:
    for key, value in table.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 1_024 <= value <= 1 << 30:
            raise InputError(f"[kafka.sizes] {key} is a number of bytes from 1 KiB to 1 GiB")
    if table.get("record_bytes", LARGEST_RECORD) < LARGEST_RECORD:
        raise InputError(
            f"[kafka.sizes] record_bytes = {table['record_bytes']} is less than the engine's own records may take",
            hint=f"write {LARGEST_RECORD} or more",
        )
    return Sizes(**table)


def _secret(name: str, key: str, value: object, root: Path) -> Secret:
    if not isinstance(value, Mapping) or not set(value) <= {"env", "file"}:
        raise InputError(
            f"[{name}] {key} says where the secret is, never what it is",
            hint=f'write {key} = {{ env = "NAME" }} or {key} = {{ file = "path" }}',
        )
    return Secret(**{where: str(root / str(what)) if where == "file" else str(what) for where, what in value.items()})


def _one_of(key: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"[kafka] {key} = {value!r} is unknown", hint=did_you_mean(str(value), known))


def _is_address(broker: str) -> bool:
    host, _, port = broker.rpartition(":")
    return bool(host) and port.isdigit()


def _is_local(broker: str) -> bool:
    host = broker.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
