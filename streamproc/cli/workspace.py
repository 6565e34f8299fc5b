"""What every command needs: options that name log, contracts and checkpoints, and the topology that a word names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from streamproc.errors import InputError, StreamprocError, did_you_mean
from streamproc.planning.topology import Topology
from streamproc.runtime.workspace import DEFAULT, Workspace, workspace_of

__all__ = ("Workspace", "load_topology", "load_value", "workspace_options")

F = TypeVar("F", bound=Callable[..., Any])


def workspace_options(command: F) -> F:
    """Adds --bind and --log, and hands the command a `workspace`."""

    def settled(bind: Path | None, log: Path | None, insecure: bool, **others: Any) -> Any:
        workspace = workspace_of(bind, log, insecure=insecure)
        click.get_current_context().call_on_close(workspace.close)
        return command(workspace=workspace, **others)

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
                f"'{text}' is a {type(value).__name__}, not a {kind.__name__ if noun.endswith('s') else noun}",
                hint=did_you_mean(name, found),
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
