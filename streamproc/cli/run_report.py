"""What a run says of itself at its end."""

from __future__ import annotations

import click

from streamproc.cli.entity_quality import put_quality, quality_json
from streamproc.cli.fates import Counts, fates_in, of_sources, put_fates
from streamproc.cli.render import counted, put_json, put_table, seconds_text
from streamproc.entities.quality_curve import QualityAt
from streamproc.ports import Log
from streamproc.runtime.binding import Binding
from streamproc.runtime.worker import Progress


def report(
    binding: Binding, log: Log, before: dict[str, Counts], progress: Progress, quality: dict[str, list[QualityAt]], *,
    as_json: bool,
) -> None:  # fmt: skip
    """What a run did, and how good its entities are where that can be known."""
    everything = fates_in(binding, log)
    sources = of_sources(everything, binding.plan)
    rows = sum(row["in"] for row in sources.values()) - sum(row["in"] for row in before.values())
    rate = rows / progress.seconds if progress.seconds else 0.0
    name = f"{binding.names.topology} version {binding.names.version}{', shadow' if binding.names.run else ''}"
    if as_json:
        put_json(
            {
                "topology": binding.names.topology,
                "version": binding.names.version,
                "rows": rows,
                "steps": progress.steps,
                "seconds": round(progress.seconds, 3),
                "rows_per_second": round(rate),
                "restored_steps": progress.restored_steps,
                "written": progress.written,
                "sources": sources,
                "inputs": everything,
                **({"quality": quality_json(quality)} if quality else {}),
            }
        )
        return
    if not progress.steps:
        click.echo(f"{name}: nothing new to read")
    elif not rows:
        click.echo(f"{name}: no new rows, what still waited was taken on in {counted(progress.steps, 'step')}")
    else:
        click.echo(
            f"{name}: {counted(rows, 'row')} read in {seconds_text(progress.seconds)}, {rate:,.0f} rows/s, "
            f"{counted(progress.steps, 'step')}"
        )
    if progress.restored_steps:
        click.echo(f"restored first: {counted(progress.restored_steps, 'recorded step')} run again")
    if everything:
        put_fates("\nrows by fate since the topology's beginning (in = all others added)", everything)
    written = sorted((topic, rows) for topic, rows in progress.written.items() if ".edge." not in topic)
    if written:
        put_table("written by this run", ("topic", "rows"), written)
    for topic, told in quality.items():
        put_quality(f"entities of {topic} against the truth, when so much of the stream had come", told)
