"""`input_costs`: what each input of a model costs a row, from the feature to the model, measured by leaving it out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import polars as pl

from streamproc.contracts.model import Contract
from streamproc.errors import InputError
from streamproc.planning.topology import Topology
from streamproc.testing.drive import drive


def input_costs(
    build: Callable[[tuple[str, ...]], Topology],
    inputs: tuple[str, ...],
    frames: Mapping[str, pl.DataFrame],
    /,
    *,
    contracts: tuple[Contract, ...] = (),
    rounds: int = 3,
) -> dict[str, float]:
    """Microseconds of CPU that each input costs a row, for `costs_us=` of `sp.importance`.

    build   the topology whose model has these inputs: it is built with all of them, and without each
    frames  what its sources hold; costs are for a row of the first one. Some ten thousand rows as they will come
    rounds  of each the fastest counts; they take turns, so that all of them meet what else the machine does

    An input that does not cost more than the noise has 0. Inputs that share work (two windows over one column) cost
    less when both are there: dropping both saves more than the sum.  Cost: (1 + inputs) * rounds runs, and one that
    compiles.  Raises InputError below 100 rows.
    """
    rows = next(iter(frames.values())).height if frames else 0
    if rows < 100:
        raise InputError(f"{rows} rows do not show what an input costs", hint="some ten thousand, as they will come")
    built = {"": build(inputs), **{name: build(tuple(one for one in inputs if one != name)) for name in inputs}}
    least = dict.fromkeys(built, float("inf"))
    for number in range(rounds + 1):
        for name, topology in built.items():
            began = time.process_time()
            drive(topology, frames, contracts=contracts)
            if number:  # the first one compiles
                least[name] = min(least[name], time.process_time() - began)
    return {name: max(1e6 * (least[""] - least[name]) / rows, 0.0) for name in inputs}
