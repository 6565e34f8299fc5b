"""What became of rows: each task's journal says it, whoever ran the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from streamproc.cli.render import put_table
from streamproc.planning.plan import Plan
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.replay import source_ends
from streamproc.runtime.restore import last_entry, settled_end

FATES: Final = ("in", "emitted", "held", "filtered", "late", "dead_lettered")

Counts = dict[str, int]


def fates_in(binding: Binding, log: Log) -> dict[str, Counts]:
    """Rows by fate of every input, over all tasks, since the topology's beginning: sources first, then what stages hand
    on."""
    last = []
    for number in range(binding.task_count):
        place = TopicPartition(binding.names.tasks, number)
        settled_end(log, place)  # Kafka answers a commit a moment before the last entry can be read.
        entry = last_entry(log, place)
        last += [entry.fates] if entry is not None else []
    return _added(last, source_names(binding.plan))


def added_fates(fates: Mapping[str, Mapping[str, Mapping[str, int]]], plan: Plan) -> dict[str, Counts]:
    """The same from what a run reports of each of its tasks."""
    return _added([fates[task] for task in sorted(fates)], source_names(plan))


def of_sources(fates: Mapping[str, Counts], plan: Plan) -> dict[str, Counts]:
    """Only the sources."""
    return {name: fates[name] for name in source_names(plan) if name in fates}


def rows_read(fates: Mapping[str, Mapping[str, Mapping[str, int]]], sources: Sequence[str]) -> int:
    """Rows of the sources that a run's tasks took in, of a run that began at the beginning."""
    return sum(inputs[name]["in"] for inputs in fates.values() for name in sources if name in inputs)


def source_names(plan: Plan) -> list[str]:
    """Inputs of the first stages, as the ledger calls them, sorted."""
    return sorted(node.name for node in plan.sources)


def read_so_far(binding: Binding, log: Log) -> tuple[int, int]:
    """How many records of the sources are read and committed, and how many there are."""
    ends = source_ends(binding, log)
    read: dict[object, int] = {}
    for stage in binding.stages:
        for place, offset in log.committed(binding.names.group(stage.stage.index)).items():
            if place in ends:
                read[place] = offset
    return sum(read.values()), sum(ends.values())


def put_fates(title: str, fates: Mapping[str, Counts]) -> None:
    """A table of inputs and what became of their rows."""
    put_table(title, ("input", *FATES), [(name, *(row[fate] for fate in FATES)) for name, row in fates.items()])


def _added(tasks: Sequence[Mapping[str, Mapping[str, int]]], sources: Sequence[str]) -> dict[str, Counts]:
    total: dict[str, Counts] = {}
    for inputs in tasks:
        for name, row in inputs.items():
            sums = total.setdefault(name, dict.fromkeys(FATES, 0))
            for fate in FATES:
                sums[fate] += row[fate]
    inner = [name for name in total if name not in sources]
    return {name: total[name] for name in (*(name for name in sources if name in total), *sorted(inner))}
