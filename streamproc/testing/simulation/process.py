"""One life of a worker in a simulated run: its clock, its link to the cluster, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeVar

from streamproc.runtime.future import FutureVerdicts
from streamproc.runtime.worker import Progress, Worker
from streamproc.testing.simulation.log import SimulatedLog
from streamproc.testing.simulation.scene import Scene
from streamproc.testing.simulation.store import SimulatedCheckpoints

T = TypeVar("T")

LEASE_S: Final = 4.0


class Crashed(BaseException):
    """A process is gone. No `except` of the engine stops it, and nothing that it does afterwards has an effect."""


class Failure(AssertionError):
    """The run did something that must not be."""


class Around(Protocol):
    """What carries and schedules a process."""

    def request(self, process: Process, step: str, act: Callable[[], T]) -> T:
        """Carries one request, with what goes wrong."""
        ...

    def stand_still(self, process: Process, us: int) -> None:
        """Lets the process stand still while others go on."""
        ...

    def step_sizes(self) -> Iterator[int]:
        """How many rows each turn takes at most."""
        ...

    def committed(self, process: Process, progress: Progress) -> None:
        """Looks at what a process committed."""
        ...


class Process:
    """One life of a worker: from its start to its end or its death."""

    def __init__(self, scene: Scene, world: Around, name: str, *, finite: bool) -> None:
        self._scene = scene
        self._world = world
        self.name = name
        self.finite = finite
        self.alive = True
        self.wake = scene.cluster.uptime
        self.cut_off_until = 0
        self.turn_began = 0
        self.log = SimulatedLog(scene.cluster, self)
        self.worker = Worker(
            scene.case.binding,
            self.log,
            checkpoints=SimulatedCheckpoints(scene.store, self),
            member=name,
            until_end=dict(scene.ends) if finite else None,
            close=finite,
            lease_s=LEASE_S,
            checkpoint_every_s=scene.settings.checkpoint_every_s,
            steps=world.step_sizes(),
            clock=self,
            future=FutureVerdicts(self.now_us),
            on_commit=lambda progress: world.committed(self, progress),
        )

    # ── the clock ────────────────────────────────────────────────────────────────────────────────────────────────────

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return self._scene.cluster.uptime / 1e6

    def now_us(self) -> int:
        """The moment, µs since 1970 UTC."""
        return self._scene.cluster.now

    def sleep(self, seconds: float) -> None:
        """Lets time pass; others go on."""
        self._world.stand_still(self, int(seconds * 1e6))

    # ── the link ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def call(self, step: str, act: Callable[[], T]) -> T:
        """One request, with what the plan of faults does to it."""
        return self._world.request(self, step, act)

    def end(self, act: Callable[[], bool]) -> bool:
        """The request that ends a transaction."""
        return self._world.request(self, "end", act)

    def pause(self, us: int) -> None:
        """Waits for the cluster; others go on."""
        self._world.stand_still(self, us)

    def require_alive(self) -> None:
        """Raises Crashed in a process that is dead."""
        if not self.alive:
            raise Crashed(self.name)
