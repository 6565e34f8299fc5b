"""Kernels compiled before a first run, in several processes: Numba compiles one at a time in each.

Each process puts one row of a plan's own types through its share of the steps, and throws away what comes out: kernels
are then on disk for the run. Nothing depends on it: a step that cannot take such a row compiles when it is met.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click
import numpy as np
import polars as pl

from connectors.registry import FolderRegistry
from streamproc.batch import ACCOUNT, C1, EVENT_TIME, ROW, WIDTH, Batch
from streamproc.cli.compile_engine import compile_engine
from streamproc.cli.workspace import load_topology
from streamproc.contracts.model import Schema
from streamproc.entities.applying import apply
from streamproc.keys import keys_of
from streamproc.operator import StepTime, StreamType
from streamproc.operators.custom import Custom
from streamproc.operators.event_lists import look_back
from streamproc.planning.plan import Node, Plan
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.workspace import shipped_contracts

_COSTS: Final = {
    "features": 17.0, "resolve": 15.0, "learn": 5.0, "drift": 3.0, "within": 1.6, "as_of": 1.4, "tumbling": 1.4,
    "outcomes": 1.2, "follow": 0.9, "rule_verdicts": 0.7, "harmonise": 0.6, "alert": 0.4, "dedupe": 0.4,
}  # fmt: skip
"""Seconds, of the steps whose kernels take longest; `_OTHER` of any other."""
_OTHER: Final = 0.1
_ENGINE: Final = 8.0
"""Seconds that `compile_engine` takes, which the last process does."""
_SLOWEST: Final[tuple[Any, ...]] = (apply, look_back)
_LATER: Final = 10**16
"""Microseconds: a watermark beyond all that a step waits for, so that it lets go of what it kept."""
_FEW: Final = 2
"""Processes, at most: more would wait for the slowest kernel all the same."""


def compile_ahead(reference: str) -> Callable[[], None]:
    """Begins to compile what a shipped topology's steps need, on all cores; gives what waits until that is done.

    Where it was done before, nothing is begun.

    reference  `module:name` of the topology, which each process loads anew
    """
    count = min(_FEW, os.cpu_count() or 1)
    if count == 1 or all(map(_is_cached, _SLOWEST)):
        return lambda: None
    click.echo(f"compiling kernels in {count} processes, first run only: this may take a minute", err=True)
    module = [sys.executable, "-m", "streamproc.cli.compile_ahead", reference]
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    children = [subprocess.Popen([*module, str(number), str(count)], **quiet) for number in range(count)]

    def wait() -> None:
        for child in children:
            child.wait()

    return wait


def shares(nodes: Sequence[Node], count: int) -> list[list[Node]]:
    """Steps shared out so that each process has about as much to compile, steps of one kind together.

    The last process has the engine too.
    """
    kinds: dict[str, list[Node]] = {}
    for node in nodes:
        kinds.setdefault(node.operator.verb, []).append(node)
    out: list[list[Node]] = [[] for _ in range(count)]
    loads = [0.0] * (count - 1) + [_ENGINE]
    for verb in sorted(kinds, key=lambda verb: (-_COSTS.get(verb, _OTHER), verb)):
        least = loads.index(min(loads))
        out[least] += kinds[verb]
        loads[least] += _COSTS.get(verb, _OTHER)
    return out


def exercise(plan: Plan, nodes: Sequence[Node]) -> list[str]:
    """Puts a row through each of these steps, alone, and one when all is over; gives the names of those that failed."""
    types = {(node.rank, "rows"): node.type for node in plan.nodes}
    types |= {(node.rank, side): kind for node in plan.nodes for side, kind in node.sides.items()}
    types |= {(node.rank, "late"): node.type for node in plan.nodes}
    failed = []
    for node in nodes:
        kinds = tuple(types[port] for port in node.inputs)
        try:
            state = node.operator.open(*kinds)
            for moment in (0, _LATER):
                batches = tuple(_one_row(kind) for kind in kinds)
                state, _ = node.operator.process(state, batches, StepTime(np.full(1, moment), node.rank))
        except Exception:  # Whatever a made-up row breaks: the run will say what is wrong, if anything is.
            failed.append(node.name)
    return failed


def _compile_share(reference: str, number: int, count: int) -> None:
    # Compiling makes a million objects of which most live on: looking through them often takes a twentieth of the time.
    gc.set_threshold(100_000, 20, 100)
    registry = FolderRegistry((shipped_contracts(),))
    plan = plan_topology(load_topology(reference), registry)
    steps = [node for node in plan.nodes if node.inputs and not isinstance(node.origin, Custom)]
    mine = shares(steps, count)[number]
    exercise(plan, mine)
    if number == count - 1:
        compile_engine(registry)


def _one_row(kind: StreamType) -> Batch:
    frame = pl.DataFrame([_one_value(kind.schema, name) for name in kind.schema.names])
    meta = np.zeros((1, WIDTH), np.int64)
    meta[:, ROW] = 1
    meta[:, [ACCOUNT, C1, EVENT_TIME]] = 0
    batch = Batch(frame, meta)
    return batch if kind.keyed_by is None else batch.with_keys(keys_of(frame, kind.keyed_by))


def _one_value(schema: Schema, name: str) -> pl.Series:
    dtype = schema[name].dtype
    value: Any = [] if isinstance(dtype, pl.List) else "a" if isinstance(dtype, pl.String) else 1
    if isinstance(dtype, pl.Enum):
        value = dtype.categories[0]
    try:
        return pl.Series(name, [value], dtype=dtype)
    except Exception:  # A nested or binary column: null will do.
        return pl.Series(name, [None], dtype=dtype)


def _is_cached(kernel: Any) -> bool:
    """Whether Numba's cache has machine code of this kernel, made from this very file."""
    index = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
    try:
        return index is not None and bool(index._load_index())
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    _compile_share(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
