"""`simulate`: a topology under crashes, pauses, lost answers and trimmed input, in a cluster that does not exist."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from typing import Any

import click

from streamproc.cli.render import counted, progress_bar, put_json
from streamproc.cli.workspace import load_topology, workspace_options
from streamproc.runtime.workspace import Workspace


@click.command()
@click.argument("topology")
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, help="How many runs.")
@click.option("--seed", "first", type=click.IntRange(0), default=0, show_default=True, help="The first of them.")
@click.option("--partitions", type=click.IntRange(1, 8), default=1, show_default=True, help="Of each source.")
@click.option("--rows", type=click.IntRange(1, 10_000), default=60, show_default=True, help="At most, of each source.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def simulate(
    topology: str, seeds: int, first: int, partitions: int, rows: int, as_json: bool, workspace: Workspace
) -> None:
    """Run TOPOLOGY on random rows of its contracts under random faults, and require exact results.

    Each seed is one run of one to three workers on one simulated clock: the same seed gives the same run. What comes
    out has to be what an undisturbed run gives, wherever that does not depend on how rows were cut into steps, and
    the journal has to account for every row. Needs no log. Exit 1 with the seed and the fewest faults that show it.
    """
    from streamproc.testing.simulation.case import Case
    from streamproc.testing.simulation.run import quick, shrunk, told
    from streamproc.testing.simulation.run import simulate as run_seed

    logging.disable(logging.WARNING)  # Workers that begin again are the point here, and no news.
    try:
        case = Case(load_topology(topology), workspace.registry(), partitions=partitions, rows=rows)
        struck: Counter[str] = Counter()
        failed = None
        with quick(), progress_bar("seeds", seeds) as show:
            for done in range(seeds):
                outcome = run_seed(case, first + done)
                struck.update(outcome.fired)
                if outcome.finding is not None:
                    failed = shrunk(case, outcome)
                    break
                if done % 50 == 49:
                    gc.collect()
                show(done + 1)
    finally:
        logging.disable(logging.NOTSET)
    compared = [topic for topic in case.compared if topic != case.binding.names.dead_letters]
    if as_json:
        answer: dict[str, Any] = {"ok": failed is None, "seeds": seeds, "first": first, "compared": compared}
        answer["struck"] = dict(sorted(struck.items()))
        if failed is not None:
            answer["seed"], answer["finding"] = failed.seed, failed.finding
            answer["faults"] = [{"kind": fault.kind, "at": fault.at} for fault in failed.faults]
        put_json(answer)
    elif failed is not None:
        click.echo(told(failed))
    else:
        click.echo(
            f"{counted(seeds, 'seed')} from {first} on: nothing lost, nothing doubled; compared row by row: "
            f"{', '.join(compared) or 'nothing, for each sink rests on the order of arrival'}"
        )
    if failed is not None:
        raise click.exceptions.Exit(1)
