"""Rebuilding a version: the history that made it runs again, and what comes of it is compared bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamproc.contracts.registry import Registry
from streamproc.errors import InputError
from streamproc.models.parameters import parameters
from streamproc.models.version import SHOWN, ModelVersion, differences
from streamproc.planning.topology import Topology
from streamproc.ports import CheckpointStore, Log
from streamproc.runtime.binding import bind
from streamproc.runtime.model_replay import REPLAYED, history_of, replayed_versions
from streamproc.runtime.model_versions import chosen_learner, learners_of, recorded_version, rerun_to
from streamproc.runtime.worker import Progress


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A version that was made again.

    steps    recorded steps that ran again, None for a bounded replay
    began    the step of the checkpoint that they began with, 0 for the beginning of the journal
    differs  of them how many wrote something else than they had written
    """

    version: ModelVersion
    steps: int | None = None
    began: int = 0
    differs: int = 0


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """How two versions differ: (path, in A, in B), None where there is nothing.

    bits  names of models whose tables are not the same bytes
    """

    parameters: list[tuple[str, Any, Any]]
    content: list[tuple[str, Any, Any]]
    bits: list[str]

    @property
    def equal(self) -> bool:
        """Whether they are one version."""
        return not (self.content or self.bits)


def rebuild(
    version: ModelVersion, topology: Topology, log: Log, registry: Registry, checkpoints: CheckpointStore | None, *,
    on_commit: Callable[[Progress], None] | None = None,
) -> Rebuilt:  # fmt: skip
    """Makes a version again from the log.

    topology  the code; another build of it is let in, and shows as what it is: another definition

    Raises InputError for another topology, InputGone, InputChanged where the history is not there any more.
    """
    origin = version.origin
    if (topology.name, topology.version) != (origin["topology"], origin["version"]):
        raise InputError(
            f"version {version.id[:SHOWN]} is of '{origin['topology']}' version {origin['version']}, "
            f"not of '{topology.name}' version {topology.version}",
            hint="name the topology that it was made by",
        )
    if origin["made"] == REPLAYED:
        made = replayed_versions(
            topology, origin["learner"], log, registry, history_of(origin), request=origin["request"],
            on_commit=on_commit,
        )  # fmt: skip
        return Rebuilt(made[origin["task"]])
    binding = bind(topology, log, registry, create=False)
    learner = chosen_learner(learners_of(binding), topology.name, origin["learner"])
    number = origin["task"]
    if number not in learner.tasks:
        raise InputError(
            f"version {version.id[:SHOWN]} is of task {number}, which does not run '{learner.name}' here",
            hint="name the build of the topology that it was made by",
        )
    again = rerun_to(binding, number, log, checkpoints, step=origin["step"], journal=origin["journal"])
    made_again = recorded_version(binding, learner, number, log, again.task, origin["offset"], again.start)
    return Rebuilt(made_again, again.steps, again.began, again.differs)


def diff_versions(a: ModelVersion, b: ModelVersion) -> VersionDiff:
    """Where two versions differ.  Cost O(both)."""
    names = [*a.models, *(name for name in b.models if name not in a.models)]
    bits = [name for name in names if a.models.get(name) != b.models.get(name)]
    return VersionDiff(list(differences(_parameters(a), _parameters(b))), list(differences(a.content, b.content)), bits)


def _parameters(version: ModelVersion) -> dict[str, Any]:
    return {
        f"{name}: {path}": value for name in version.models for path, value in parameters(version.table(name)).items()
    }
