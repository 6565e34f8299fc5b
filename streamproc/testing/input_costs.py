"""`input_costs`: what each input of a model costs a row, from the feature to the model, measured by leaving out half.

To leave out one input at a time changes a run by a few hundredths, which is what noise does. Here each run leaves out
about half of the inputs, chosen so that each input is there in half of the runs whatever the others are (a Hadamard
design and its mirror image), and every run speaks of every input: for ten inputs and the same number of runs the
error is less than half of what it would be, its variance a fifth. What inputs share is spread over them, so that the
costs of several add up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
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

    build   the topology whose model has these inputs: it is built with all of them, and without about half
    frames  what its sources hold; costs are for a row of the first one. Some ten thousand rows as they will come
    rounds  of each topology the median counts; they take turns, so that all of them meet what else the machine does

    An input that does not cost more than the noise has 0. Where inputs share work (two windows over one column) each
    has its part of it, measured where about half of the others are there.  Cost: two to four runs for each input and
    round, and one round that compiles.  Raises InputError below 100 rows, or for a single input.
    """
    rows = next(iter(frames.values())).height if frames else 0
    if rows < 100:
        raise InputError(f"{rows} rows do not show what an input costs", hint="some ten thousand, as they will come")
    there = halves(len(inputs))
    if there.shape[0] <= len(inputs):
        raise InputError("what the only input costs is what the whole topology costs", hint="two inputs or more")
    built = [build(tuple(name for name, kept in zip(inputs, row, strict=True) if kept)) for row in there.tolist()]
    spent: list[list[float]] = [[] for _ in built]
    for number in range(rounds + 1):
        for run, topology in zip(spent, built, strict=True):
            began = time.process_time()
            drive(topology, frames, contracts=contracts)
            if number:  # the first one compiles
                run.append(1e6 * (time.process_time() - began) / rows)
    runs = np.array([statistics.median(run) for run in spent])
    return {name: max(float(cost), 0.0) for name, cost in zip(inputs, costs_read(there, runs), strict=True)}


def costs_read(there: npt.NDArray[np.bool_], runs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64[inputs]: what each input adds to a run, by least squares; there as of `halves`, runs float64[runs]."""
    return np.asarray(np.linalg.lstsq(np.column_stack((np.ones(runs.size), there)), runs)[0][1:])


def halves(inputs: int) -> npt.NDArray[np.bool_]:
    """bool[runs, inputs]: which inputs are there in which run; never none of them.

    >>> halves(2).tolist()
    [[True, True], [True, False], [False, True]]
    """
    size = 1
    while size <= inputs:
        size *= 2
    number, column = np.arange(size)[:, None], np.arange(1, inputs + 1)[None, :]
    there = np.bitwise_count(number & column) % 2 == 0
    whole = np.unique(np.concatenate((there, ~there)), axis=0)[::-1]
    return np.asarray(whole[whole.any(axis=1)])
