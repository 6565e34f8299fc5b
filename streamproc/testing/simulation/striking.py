"""Faults at work: what each kind does to the request that it strikes, or to what all processes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn, Protocol, TypeVar

from streamproc.errors import LogUnavailable, StreamprocError, UnknownOutcome
from streamproc.testing.simulation.faults import COMMIT, Fault
from streamproc.testing.simulation.process import LEASE_S, Crashed, Process
from streamproc.testing.simulation.scene import Scene
from streamproc.testing.simulation.trimming import trim_sources

T = TypeVar("T")

_DAY_US: Final = 86_400_000_000


class Schedule(Protocol):
    """Who runs when."""

    def stand_still(self, process: Process, us: int) -> None:
        """Lets a process stand still while others go on."""
        ...

    def start(self, name: str, us: int) -> None:
        """Starts a process of that name in a while."""
        ...

    def stranger(self) -> str:
        """A name that no process has."""
        ...

    def is_alone(self, process: Process) -> bool:
        """Whether no other process lives."""
        ...


class Striker:
    """Carries out faults."""

    def __init__(self, scene: Scene, schedule: Schedule) -> None:
        self._scene = scene
        self._world = schedule
        self._late: list[tuple[int, Process, Callable[[], object]]] = []

    def before(self, step: str) -> None:
        """What was held up and comes right before a request of somebody's next commit."""
        if self._late and step in COMMIT:
            self._late = [(left - 1, process, act) for left, process, act in self._late]
            due = [(process, act) for left, process, act in self._late if left <= 0]
            self._late = [held for held in self._late if held[0] > 0]
            for process, act in due:
                self._ended_late(process, act)

    def strike(self, process: Process, step: str, act: Callable[[], T], fault: Fault) -> T:
        dice = self._scene.dice
        match fault.kind:
            case "crash before":
                self._kill(process)
            case "crash after":
                act()
                self._kill(process)
            case "lost request":
                unreachable(step)
            case "lost reply":
                act()
                unreachable(step)
            case "delayed reply":
                answer = act()
                self._world.stand_still(process, dice.randrange(100_000, 1_500_000))
                return answer
            case "zombie" | "zombie beside its successor" | "zombie in mid-commit":
                if fault.kind == "zombie beside its successor":
                    self._world.start(process.name, dice.randrange(100_000, 2_000_000))
                elif self._world.is_alone(process):
                    self._world.start(self._world.stranger(), dice.randrange(100_000, 2_000_000))
                before = dice.random() < 0.6
                answer_before = None if before else act()
                self._world.stand_still(process, int(dice.uniform(1.1, 2.5) * LEASE_S * 1e6))
                return act() if before else answer_before  # type: ignore[return-value]  # it is what `act` gave
            case "rebalance in mid-commit":
                self._world.start(self._world.stranger(), 0)
                self._world.stand_still(
                    process, dice.randrange(200_000, int(0.8 * self._scene.settings.transaction_s * 1e6))
                )
            case "transaction time-out":
                self._world.stand_still(
                    process, int(dice.uniform(1.05, 1.7) * self._scene.settings.transaction_s * 1e6)
                )
            case "late end":
                # The client gave up on it, perhaps after it sent the same again and that one arrived.
                if dice.random() < 0.6:
                    act()
                if dice.random() < 0.5:
                    self._late.append((dice.randrange(2, 5), process, act))
                else:
                    delay = dice.randrange(1_000, dice.choice((40_000, 400_000)))
                    self._scene.cluster.later(delay, lambda: self._ended_late(process, act))
                raise UnknownOutcome("no answer to the end of a transaction", hint="believe what is committed")
            case "unknown outcome":
                if dice.random() < 0.5:
                    act()
                raise UnknownOutcome("no answer to the end of a transaction", hint="believe what is committed")
            case "slow markers":
                self._scene.slow_markers_until = self._scene.cluster.uptime + 1
                return act()
            case "unreachable":
                process.cut_off_until = self._scene.cluster.uptime + dice.randrange(200_000, 6_000_000)
                unreachable(step)
            case "torn checkpoint":
                act()
                self._kill(process)
            case "disk full":
                self._scene.store.full = True
                self._scene.cluster.later(
                    dice.randrange(100_000, 5_000_000), lambda: setattr(self._scene.store, "full", False)
                )
            case _:
                self._strike_world(fault)
        return act()

    def _strike_world(self, fault: Fault) -> None:
        """What strikes no process but what they share."""
        match fault.kind:
            case "retention":
                trim_sources(self._scene, lost=True)
            case "retention behind checkpoints":
                trim_sources(self._scene, lost=False)
            case "compaction during restore":
                self._scene.store.compact()
                self._scene.cluster.clean()
            case "lost checkpoints":
                scene = self._scene
                scene.input_lost = scene.input_lost or scene.trimmed or scene.settings.trims
                self._scene.store.clear()
            case "damaged block":
                scene = self._scene
                # Two sides stand against one damage; a second one may spoil the other side.
                again = scene.store.spoiled > 0
                scene.input_lost = scene.input_lost or (again and (scene.trimmed or scene.settings.trims))
                self._scene.store.damaged = True
            case "partition unreachable":
                cluster = self._scene.cluster
                some = self._scene.case.sources if self._scene.dice.random() < 0.5 else sorted(cluster.partitions)
                place = self._scene.dice.choice(some)
                cluster.dark.add(place)
                cluster.later(self._scene.dice.randrange(200_000, 6_000_000), lambda: cluster.dark.discard(place))
            case "clock jump":
                self._scene.cluster.now += self._scene.dice.choice((-_DAY_US, _DAY_US, 3_600_000_000))

    def _ended_late(self, process: Process, act: Callable[[], object]) -> None:
        self._scene.note(process.name, "the late end arrives")
        try:
            act()
        except StreamprocError as refused:
            self._scene.note(process.name, f"the late end is refused: {type(refused).__name__}")

    def _kill(self, process: Process) -> None:
        process.alive = False
        raise Crashed(process.name)


def unreachable(step: str) -> NoReturn:
    """What a process gets when no answer comes."""
    if step == "end":
        raise UnknownOutcome("no answer to the end of a transaction", hint="believe what is committed")
    raise LogUnavailable(f"no answer to '{step}'", hint="try again later")
