"""A real Apache Kafka for tests: one or three KRaft nodes on the loopback interface, from the jars of Maven Central.

    with kafka_cluster(brokers=3) as cluster:
        cluster.bootstrap       # where it is
        cluster.client()        # librdkafka settings that reach it as its super user

`python -m tests.services.kafka` starts one broker and keeps it until Ctrl-C. Settings make it quick, not other: few
partitions of the internal topics, short time-outs of brokers, cleaning without delay.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.services.certificates import make_certificates
from tests.services.processes import Server, cache, free_ports, locked, maven, need

VERSION = "4.3.0"
USER, PASSWORD = "admin", "admin-secret"
PROTOCOL = {"none": "PLAINTEXT", "scram": "SASL_PLAINTEXT", "tls": "SSL", "scram-tls": "SASL_SSL"}


def jars() -> Path:
    """The folder with Kafka's jars, fetched once."""
    need("java", "mvn")
    libs = cache() / f"kafka-{VERSION}"
    with locked(cache() / f"kafka-{VERSION}.lock"):
        if not (libs / ".complete").exists():
            maven(
                Path(__file__).with_name("kafka-pom.xml"),
                "dependency:copy-dependencies",
                f"-Dkafka.version={VERSION}",
                f"-DoutputDirectory={libs}",
            )
            (libs / ".complete").touch()
    return libs


def _jaas(module: str, **options: str) -> str:
    quoted = " ".join(f'{key}="{value}"' for key, value in options.items())
    return f"org.apache.kafka.common.security.{module} required {quoted};"


_FORMATTED: dict[bool, bytes] = {}
"""What Kafka's tool writes for a new node, without a user and with one."""


def _new_id() -> str:
    # The fixed first letter: one in 64 ids would begin with "-", which Kafka's tools take for an option.
    return "k" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


class KafkaCluster:
    """Brokers that can be killed, paused and started again.

    A client that bootstraps at `proxied_bootstrap` is sent to the advertised ports only: a fault proxy listens there
    and passes on to `proxy_targets`.
    """

    def __init__(self, folder: Path, *, brokers: int, security: str, heap: str, settings: Mapping[str, object]) -> None:
        self.folder, self.security, self.heap = folder, security, heap
        self.libs = jars()
        self.id = _new_id()
        ports = free_ports(4 * brokers)
        names = ("client", "controller", "proxied", "advertised")
        self.ports = [dict(zip(names, ports[4 * n : 4 * n + 4], strict=True)) for n in range(brokers)]
        self.settings = dict(settings)
        self.classes = f"-XX:SharedArchiveFile={_archive()}"
        self.servers: dict[int, Server] = {}
        if security.endswith("tls"):
            make_certificates(folder / "tls")

    @property
    def bootstrap(self) -> str:
        """The brokers' addresses."""
        return ",".join(f"127.0.0.1:{ports['client']}" for ports in self.ports)

    @property
    def proxied_bootstrap(self) -> str:
        """The addresses at which a proxy is to listen."""
        return ",".join(f"127.0.0.1:{ports['advertised']}" for ports in self.ports)

    @property
    def proxy_targets(self) -> dict[int, int]:
        """Where each advertised port's proxy passes on to."""
        return {ports["advertised"]: ports["proxied"] for ports in self.ports}

    def client(self, *, user: str = USER, password: str = PASSWORD) -> dict[str, str]:
        """librdkafka settings that reach the cluster."""
        settings = {"bootstrap.servers": self.bootstrap, "security.protocol": PROTOCOL[self.security]}
        if self.security.startswith("scram"):
            settings |= {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": user, "sasl.password": password}
        if self.security.endswith("tls"):
            settings |= {"ssl.ca.location": str(self.folder / "tls" / "ca.pem")}
        return settings

    def start(self, *nodes: int) -> None:
        """Starts nodes (all of them by default) and waits until they serve."""
        chosen = nodes or tuple(range(1, len(self.ports) + 1))
        seen = {}
        for node in chosen:
            log = self.folder / f"node-{node}.log"
            seen[node] = log.stat().st_size if log.exists() else 0
            self._launch(node, log)
        for node in chosen:
            server = self.servers[node]
            server.wait_until(
                lambda server=server, node=node: b"Kafka Server started" in server.log.read_bytes()[seen[node] :],
                90,
            )

    def kill(self, node: int) -> None:
        """Ends a node as a power cut does."""
        self.servers[node].stop(grace=0)

    def restart(self, node: int) -> None:
        """Ends a node politely and starts it again on its data."""
        self.shut_down(node)
        self.start(node)

    def shut_down(self, node: int, *, grace: float = 15.0) -> None:
        """Ends a node politely."""
        self.servers[node].stop(grace=grace)

    def pause(self, node: int) -> None:
        """Freezes a node."""
        self.servers[node].signal(signal.SIGSTOP)

    def resume(self, node: int) -> None:
        """Lets a frozen node go on."""
        self.servers[node].signal(signal.SIGCONT)

    def tool(self, *arguments: str) -> None:
        """Runs one of Kafka's own command classes."""
        subprocess.run(self._java(*arguments), check=True, capture_output=True)

    def stop(self) -> None:
        """Ends all nodes; the last ones have lost their quorum and would wait for it."""
        for server in self.servers.values():
            server.stop(grace=0)

    def _java(self, *arguments: str) -> list[str]:
        return [
            "java", self.classes, f"-Xmx{self.heap}", f"-Xms{self.heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
            "-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", f"{self.libs}/*", *arguments,
        ]  # fmt: skip

    def _launch(self, node: int, log: Path) -> None:
        properties = self.folder / f"node-{node}.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties(node).items()))
        if not (self.folder / f"node-{node}" / "meta.properties").exists():
            self._format(node, properties)
        self.servers[node] = Server(self._java("kafka.Kafka", str(properties)), log)

    def _format(self, node: int, properties: Path) -> None:
        """Makes a node's folder by Kafka's own tool, which takes a second; from the second one on as it made the first.

        What it writes depends on whether there is a user; ids stand in a text file.
        """
        scram, folder = self.security.startswith("scram"), self.folder / f"node-{node}"
        if scram not in _FORMATTED:
            user = ["--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"] if scram else []
            self.tool("kafka.tools.StorageTool", "format", "-t", self.id, "-c", str(properties), *user)
            assert sorted(path.name for path in folder.iterdir()) == ["bootstrap.checkpoint", "meta.properties"]
            _FORMATTED[scram] = (folder / "bootstrap.checkpoint").read_bytes()
            return
        folder.mkdir()
        (folder / "bootstrap.checkpoint").write_bytes(_FORMATTED[scram])
        ids = {"node.id": node, "directory.id": _new_id(), "version": 1, "cluster.id": self.id}
        (folder / "meta.properties").write_text("".join(f"{key}={value}\n" for key, value in ids.items()))

    def _properties(self, node: int) -> dict[str, object]:
        ports, count = self.ports[node - 1], len(self.ports)
        protocol, scram = PROTOCOL[self.security], self.security.startswith("scram")
        replicas, least = min(3, count), 2 if count >= 3 else 1
        voters = ",".join(f"{n}@127.0.0.1:{at['controller']}" for n, at in enumerate(self.ports, 1))
        found: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": node,
            "controller.quorum.voters": voters,
            "listeners": f"CLIENT://127.0.0.1:{ports['client']},PROXIED://127.0.0.1:{ports['proxied']},"
            f"CONTROLLER://127.0.0.1:{ports['controller']}",
            "advertised.listeners": f"CLIENT://127.0.0.1:{ports['client']},PROXIED://127.0.0.1:{ports['advertised']}",
            "listener.security.protocol.map": f"CLIENT:{protocol},PROXIED:{protocol},"
            f"CONTROLLER:{'SASL_PLAINTEXT' if scram else 'PLAINTEXT'}",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.folder / f"node-{node}",
            "default.replication.factor": replicas,
            "min.insync.replicas": least,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": least,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": least,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.num.partitions": 4,
            "broker.session.timeout.ms": 4_000,
            "broker.heartbeat.interval.ms": 500,
            "group.consumer.min.heartbeat.interval.ms": 500,
            "group.consumer.heartbeat.interval.ms": 500,
            "group.min.session.timeout.ms": 1_000,
            "group.consumer.min.session.timeout.ms": 1_000,
            # The client does not say: the shortest session that a worker of the other protocol may ask for.
            "group.consumer.session.timeout.ms": 6_000,
            "group.initial.rebalance.delay.ms": 0,
            "auto.create.topics.enable": "false",
            "log.cleaner.dedupe.buffer.size": 8 << 20,
            "log.initial.task.delay.ms": 500,
            "log.retention.check.interval.ms": 500,
            "log.segment.delete.delay.ms": 0,
            "log.cleaner.backoff.ms": 250,
            "log.cleaner.min.cleanable.ratio": 0.01,
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1_000,
            "num.network.threads": 2,
            "num.io.threads": 4,
        }
        if scram:
            found |= {
                "sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
                "sasl.mechanism.controller.protocol": "PLAIN",
                "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.controller.plain.sasl.jaas.config": _jaas(
                    "plain.PlainLoginModule", username=USER, password=PASSWORD, **{f"user_{USER}": PASSWORD}
                ),
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": f"User:{USER}",
            }
            for listener in ("client", "proxied"):
                found[f"listener.name.{listener}.scram-sha-512.sasl.jaas.config"] = _jaas(
                    "scram.ScramLoginModule", username=USER, password=PASSWORD
                )
        if self.security.endswith("tls"):
            tls = self.folder / "tls"
            found |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": tls / "server.pem",
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": tls / "ca.pem",
            }
        return found | self.settings


def _archive() -> Path:
    return cache() / f"kafka-{VERSION}.jsa"


def keep_classes() -> None:
    """Has a broker write down its loaded classes when it ends, once: with them one starts in two thirds of the time.

    A JVM that they are not of leaves them alone.
    """
    with locked(cache() / f"kafka-{VERSION}.jsa.lock"):
        if _archive().exists():
            return
        with tempfile.TemporaryDirectory(prefix="streamproc-kafka-") as folder:
            made = Path(folder) / "classes"
            cluster = KafkaCluster(Path(folder), brokers=1, security="none", heap="160m", settings={})
            cluster.classes = f"-XX:ArchiveClassesAtExit={made}"
            try:
                cluster.start()
                cluster.shut_down(1, grace=60)
            finally:
                cluster.stop()
            if made.exists():  # Else the next cluster tries it again; without them brokers start as well.
                shutil.move(made, _archive().with_suffix(".new"))
                _archive().with_suffix(".new").rename(_archive())


@contextlib.contextmanager
def kafka_cluster(
    *, brokers: int = 1, security: str = "none", heap: str = "160m", settings: Mapping[str, object] | None = None
) -> Iterator[KafkaCluster]:
    """A cluster that serves; its data is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="streamproc-kafka-"))
    cluster = None
    try:
        keep_classes()
        cluster = KafkaCluster(folder, brokers=brokers, security=security, heap=heap, settings=settings or {})
        cluster.start()
        yield cluster
    finally:
        if cluster is not None:
            cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    import sys

    with kafka_cluster(brokers=int(sys.argv[1]) if len(sys.argv) > 1 else 1) as running:
        print(running.bootstrap, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
