"""A binding, settled: which log, contracts and checkpoints a command or a program works on."""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from connectors.checkpoints import DirectoryCheckpoints
from connectors.registry import FolderRegistry
from streamproc.contracts.derive import avsc_text
from streamproc.contracts.registry import Registry
from streamproc.errors import InputError, did_you_mean
from streamproc.planning.plan import Plan
from streamproc.ports import CheckpointStore, Log
from streamproc.runtime.memory import amount_bytes

if TYPE_CHECKING:
    from connectors.confluent_registry import RegistryAccess
    from connectors.kafka.binding import KafkaSettings

DEFAULT: Final = ".streamproc"
"""Where a project keeps its embedded log and checkpoints if no binding says otherwise."""

_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class Workspace:
    """A binding, settled: which log, and the paths of checkpoints and contract folders.

    log_path          the embedded log; with Kafka only the place beside which derived contracts lie
    kafka             the cluster, instead of the embedded log
    access            the schema registry whose ids records carry; without one they carry the folders' own
    checkpoint_topic  the topic that holds the checkpoints, instead of the directory; "" for none
    memory            bytes that one worker may take, state aside; None: it reads ahead as it likes
    models            the directory of model versions; None: beside the log
    """

    log_path: Path
    checkpoints_path: Path
    contracts: tuple[Path, ...]
    shipped: Path
    options: tuple[str, ...] = ()
    """The options that say all this again to another process."""
    kafka: KafkaSettings | None = None
    access: RegistryAccess | None = None
    checkpoint_topic: str = ""
    memory: int | None = None
    models: Path | None = None
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, compare=False)

    @property
    def models_path(self) -> Path:
        """Where versions of models lie."""
        return self.models or self.log_path.parent / f"{self.log_path.stem}.models"

    @property
    def log_name(self) -> str:
        """What messages call the log."""
        return str(self.log_path) if self.kafka is None else f"Kafka at {','.join(self.kafka.brokers)}"

    @property
    def has_log(self) -> bool:
        """Whether there is a log to look at."""
        return self.kafka is not None or self.log_path.exists()

    @contextlib.contextmanager
    def log(self, *, create: bool = False) -> Iterator[Log]:
        """The log, open; raises InputError where there is none and it is not to be created."""
        if self.kafka is not None:
            from connectors.kafka import open_kafka_log

            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            cluster = open_kafka_log(self.kafka)
            try:
                yield cluster
            finally:
                cluster.close()
            return
        if not create and not self.log_path.exists():
            raise InputError(
                f"there is no log at '{self.log_path}'",
                hint="write to one with 'streamproc produce FILE TOPIC', or name another with --log or --bind",
            )
        if create:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
        from connectors.embedded import EmbeddedLog

        log = EmbeddedLog(self.log_path, create=create)
        try:
            yield log
        finally:
            log.close()

    @contextlib.contextmanager
    def checkpoints(self, log: Log, member: str) -> Iterator[CheckpointStore]:
        """The checkpoint store: a directory, or a topic of the log, which `member` alone writes under its name."""
        if not self.checkpoint_topic:
            self.checkpoints_path.mkdir(parents=True, exist_ok=True)
            yield DirectoryCheckpoints(self.checkpoints_path)
            return
        from connectors.checkpoint_topic import TopicCheckpoints

        store = TopicCheckpoints(log, self.checkpoint_topic, member)
        try:
            yield store
        finally:
            store.close()

    def folders(self) -> FolderRegistry:
        """Contracts of the project, then those that ship with the package, with the folders' own ids."""
        return FolderRegistry((*self.contracts, self.shipped))

    def registry(self) -> Registry:
        """The same, with the ids of the registry that the binding names."""
        return self._with_ids(self.folders())

    def reading_registry(self) -> Registry:
        """The same, then contracts that runs on this log derived for their sinks: whoever has the log can read it."""
        return self._with_ids(FolderRegistry((*self.contracts, self.shipped, self._derived())))

    def _with_ids(self, folders: FolderRegistry) -> Registry:
        if self.access is None:
            return folders
        from connectors.confluent_registry import ConfluentRegistry, RegistryClient, SchemaCache

        kept = SchemaCache(self.log_path.parent / f"{self.log_path.stem}.schemas", self.access.url)
        client = RegistryClient(self.access)
        self.closing.callback(client.close)
        return ConfluentRegistry(client, folders, kept)

    def keep_derived(self, plan: Plan) -> None:
        """Leaves the contracts that a plan derived for its sinks beside the log."""
        for sink in plan.sinks:
            if sink.declared or sink.forwards:
                continue
            path = self._derived() / f"{sink.contract}.avsc"
            text = avsc_text(sink.contract)
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                partly = path.with_suffix(f".{os.getpid()}")
                partly.write_text(text, encoding="utf-8")
                partly.replace(path)

    def close(self) -> None:
        """Lets go of what its registry asks; logs are closed by whoever opened them."""
        self.closing.close()

    def _derived(self) -> Path:
        return self.log_path.parent / f"{self.log_path.stem}.contracts"


def workspace_of(bind: Path | None, log: Path | None = None, *, insecure: bool = False) -> Workspace:
    """What a binding file, or the file of an embedded log, or neither of them, settles.

    Raises InputError for a binding that cannot be read, says what nobody understands, or contradicts itself.
    """
    settings: dict[str, Any] = {}
    home = Path(DEFAULT)
    root = Path()
    if bind is not None:
        try:
            settings = tomllib.loads(bind.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"the binding '{bind}' cannot be read: {error.strerror}", hint="name a TOML file"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"the binding '{bind}' is not TOML: {error}", hint="see 'bindings' in the README"
            ) from None
        root = bind.parent
        known = {"log", "kafka", "checkpoints", "contracts", "registry", "memory", "models"}
        for name in sorted(set(settings) - known):
            raise InputError(f"the binding '{bind}' sets '{name}'", hint=did_you_mean(name, known))
    log_section = _section(settings, "log", bind, {"path"})
    checkpoints = _section(settings, "checkpoints", bind, {"path", "topic"})
    contracts = _section(settings, "contracts", bind, {"folders"})
    models = _section(settings, "models", bind, {"path"})
    for name, section in (("log", log_section), ("checkpoints", checkpoints), ("models", models)):
        if not isinstance(section.get("path", ""), str):
            raise InputError(f"[{name}] path in the binding '{bind}' is no text", hint='write path = "data/..."')
    topic = checkpoints.get("topic", "")
    if not isinstance(topic, str) or ("topic" in checkpoints and not _TOPIC.fullmatch(topic)):
        raise InputError(
            f"[checkpoints] topic in the binding '{bind}' is no name of a topic",
            hint='write topic = "streamproc.checkpoints": letters, digits, dots, dashes and underscores',
        )
    if "topic" in checkpoints and "path" in checkpoints:
        raise InputError(f"[checkpoints] in the binding '{bind}' names a path and a topic", hint="take one of them out")
    named = contracts.get("folders", ["schemas_avro"])
    if not isinstance(named, list) or not named or not all(isinstance(folder, str) for folder in named):
        raise InputError(
            f"[contracts] folders in the binding '{bind}' is no list of texts", hint='write folders = ["schemas_avro"]'
        )
    memory = settings.get("memory")
    if memory is not None and not isinstance(memory, str):
        raise InputError(f"memory in the binding '{bind}' is no text", hint='write memory = "1GB"')
    kafka = None
    if "kafka" in settings:
        if log is not None or "log" in settings:
            raise InputError(
                f"the binding '{bind}' names Kafka, and an embedded log is named too", hint="take one of them out"
            )
        from connectors.kafka.binding import kafka_settings

        table = _section(settings, "kafka", bind, None)
        kafka = kafka_settings({**table, **({"insecure": True} if insecure else {})}, root)
    access = None
    if "registry" in settings:
        from connectors.confluent_registry.binding import registry_access

        access = registry_access(_section(settings, "registry", bind, None), root)
    log_path = log if log is not None else (root / log_section["path"] if "path" in log_section else home / "log.db")
    return Workspace(
        log_path,
        root / checkpoints["path"] if "path" in checkpoints else log_path.parent / f"{log_path.stem}.checkpoints",
        tuple(root / folder for folder in named),
        shipped_contracts(),
        (
            *(("--bind", str(bind)) if bind is not None else ()),
            *(("--log", str(log)) if log is not None else ()),
            *(("--insecure",) if insecure else ()),
        ),
        kafka,
        access,
        topic,
        None if memory is None else amount_bytes(memory),
        root / models["path"] if "path" in models else None,
    )


def shipped_contracts() -> Path:
    """The folder of contracts that ships with the package."""
    return Path(str(files("schemas_avro")))


def _section(settings: dict[str, Any], name: str, bind: Path | None, known: set[str] | None) -> dict[str, Any]:
    section = settings.get(name, {})
    if not isinstance(section, dict):
        raise InputError(f"'{name}' in the binding '{bind}' is not a table", hint=f"write [{name}]")
    if known is None:
        return section
    for key in sorted(set(section) - known):
        raise InputError(f"[{name}] in the binding '{bind}' sets '{key}'", hint=did_you_mean(key, known))
    return section
