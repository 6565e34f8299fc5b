"""What every command needs: the log, the contracts, the checkpoints and the topology that its options name."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from connectors.checkpoints import DirectoryCheckpoints
from connectors.registry import FolderRegistry
from streamproc.contracts.derive import avsc_text
from streamproc.contracts.registry import Registry
from streamproc.errors import InputError, StreamprocError, did_you_mean
from streamproc.planning.plan import Plan
from streamproc.planning.topology import Topology
from streamproc.ports import Log

if TYPE_CHECKING:
    from connectors.confluent_registry import RegistryAccess
    from connectors.kafka.binding import KafkaSettings

DEFAULT: Final = ".streamproc"
"""Where a project keeps its embedded log and checkpoints if no binding says otherwise."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Workspace:
    """A binding, settled: which log, and the paths of checkpoints and contract folders.

    log_path  the embedded log; with Kafka only the place beside which derived contracts lie
    kafka     the cluster, instead of the embedded log
    access    the schema registry whose ids records carry; without one they carry the folders' own
    """

    log_path: Path
    checkpoints_path: Path
    contracts: tuple[Path, ...]
    shipped: Path
    options: tuple[str, ...] = ()
    """The options that say all this again to another process."""
    kafka: KafkaSettings | None = None
    access: RegistryAccess | None = None

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

    def checkpoints(self) -> DirectoryCheckpoints:
        """The checkpoint directory."""
        self.checkpoints_path.mkdir(parents=True, exist_ok=True)
        return DirectoryCheckpoints(self.checkpoints_path)

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
        click.get_current_context().call_on_close(client.close)
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

    def _derived(self) -> Path:
        return self.log_path.parent / f"{self.log_path.stem}.contracts"


def workspace_options(command: F) -> F:
    """Adds --bind and --log, and hands the command a `workspace`."""

    def settled(bind: Path | None, log: Path | None, insecure: bool, **others: Any) -> Any:
        return command(workspace=_workspace(bind, log, insecure=insecure), **others)

    settled.__name__, settled.__doc__ = command.__name__, command.__doc__
    if hasattr(command, "__click_params__"):
        settled.__click_params__ = command.__click_params__  # type: ignore[attr-defined]  # click keeps options there
    path = click.Path(path_type=Path)
    wrapped = click.option("--log", type=path, metavar="FILE", help=f"The embedded log.  [default: {DEFAULT}/log.db]")(
        settled
    )
    wrapped = click.option(
        "--insecure",
        is_flag=True,
        help="With Kafka: speak in the clear to brokers on other machines.  [default: refused]",
    )(wrapped)
    return click.option(
        "--bind",
        type=path,
        metavar="FILE",
        help="A TOML file that says where log (or Kafka), checkpoints and contracts are.  [default: none]",
    )(wrapped)  # type: ignore[return-value]  # click changes the signature


def _workspace(bind: Path | None, log: Path | None, *, insecure: bool = False) -> Workspace:
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
        known = {"log", "kafka", "checkpoints", "contracts", "registry"}
        for name in sorted(set(settings) - known):
            raise InputError(f"the binding '{bind}' sets '{name}'", hint=did_you_mean(name, known))
    log_section = _section(settings, "log", bind, {"path"})
    checkpoints = _section(settings, "checkpoints", bind, {"path"})
    contracts = _section(settings, "contracts", bind, {"folders"})
    for name, section in (("log", log_section), ("checkpoints", checkpoints)):
        if not isinstance(section.get("path", ""), str):
            raise InputError(f"[{name}] path in the binding '{bind}' is no text", hint='write path = "data/..."')
    named = contracts.get("folders", ["schemas_avro"])
    if not isinstance(named, list) or not named or not all(isinstance(folder, str) for folder in named):
        raise InputError(
            f"[contracts] folders in the binding '{bind}' is no list of texts", hint='write folders = ["schemas_avro"]'
        )
    kafka = None
    if "kafka" in settings:
        if log is not None or "log" in settings:
            raise InputError(
                f"the binding '{bind}' names Kafka, and an embedded log is named too", hint="take one of them out"
            )
        from connectors.kafka.binding import kafka_settings

        table = _section(settings, "kafka", bind, None)
        kafka = kafka_settings({**table, **({"insecure": True} if insecure else {})})
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


def load_topology(text: str) -> Topology:
    """The topology that `module:name` or `path/to/file.py:name` names; the name is optional where there is only one.

    Raises InputError that says what was looked for and what is there.
    """
    return load_value(text, Topology, "topology", 'name = sp.Topology("name", sinks={...})')


V = TypeVar("V")


def load_value(text: str, kind: type[V], noun: str, example: str) -> V:
    """The value of a kind that `module:name` or `path/to/file.py:name` names; see `load_topology`."""
    place, _, name = text.partition(":")
    if not all(part.isidentifier() for part in place.split(".")) and not place.endswith(".py"):
        raise InputError(f"'{text}' names no {noun}", hint="write module:name or path/to/file.py:name")
    module = _module_of(place)
    found = {key: value for key, value in vars(module).items() if isinstance(value, kind)}
    if name:
        if name not in vars(module):
            raise InputError(f"'{place}' has no name '{name}'", hint=did_you_mean(name, found))
        value = vars(module)[name]
        if not isinstance(value, kind):
            raise InputError(
                f"'{text}' is a {type(value).__name__}, not a {noun}", hint=did_you_mean(name, found)
            )
        return value
    distinct = {id(value): value for value in found.values()}
    if not distinct:
        raise InputError(f"'{place}' defines no {noun}", hint=f"give it one: {example}")
    if len(distinct) > 1:
        raise InputError(
            f"'{place}' has {len(distinct)} {noun if noun.endswith('s') else noun[:-1] + 'ies'}",
            hint="write " + " or ".join(f"{place}:{n}" for n in sorted(found)),
        )
    return next(iter(distinct.values()))


def _module_of(place: str) -> Any:
    for folder in (os.path.dirname(os.path.abspath(place)) if place.endswith(".py") else "", os.getcwd()):
        if folder and folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        if place.endswith(".py"):
            path = Path(place)
            if not path.exists():
                raise InputError(
                    f"there is no file '{place}'", hint="name a Python file or a module that defines a topology"
                )
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None:
                raise InputError(f"'{place}' cannot be loaded", hint="name a Python file")
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)
            spec.loader.exec_module(module)
            return module
        return importlib.import_module(place)
    except ModuleNotFoundError as missing:
        if missing.name is not None and (place == missing.name or place.startswith(missing.name + ".")):
            raise InputError(
                f"there is no module '{place}'",
                hint="write module:name or path/to/file.py:name, from the project's folder",
            ) from None
        raise InputError(
            f"'{place}' needs the module '{missing.name}', which is not installed", hint="install it"
        ) from None
    except SyntaxError as error:
        where = place if error.filename == os.path.abspath(place) or not error.filename else error.filename
        raise InputError(f"'{where}' line {error.lineno}: {error.msg}", hint="mend the file") from None
    except StreamprocError:
        raise
    except Exception as error:
        line = _line_of(error, place)
        raise InputError(
            f"'{place}'{line} fails when it is loaded: {type(error).__name__}: {error}", hint="mend the file"
        ) from None


def _line_of(error: BaseException, place: str) -> str:
    trace = error.__traceback__
    line = ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith(
            place.replace(".", "/") + ".py"
        ) or trace.tb_frame.f_code.co_filename.endswith(place):
            line = f" line {trace.tb_lineno}"
        trace = trace.tb_next
    return line
