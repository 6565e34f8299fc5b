"""One simulated run: processes with workers, a cluster and a disk, on one clock, in an order that a seed decides.

Everything runs in one thread. A process that stands still inside a request (a pause, a wait) lets the others run from
there, so a commit of one worker may have anything in its middle: its group moving on, its successor finishing its work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from streamproc.errors import Fenced, LogUnavailable, StreamprocError, UnknownOutcome
from streamproc.ports import TopicPartition
from streamproc.runtime.task import Task
from streamproc.runtime.worker import Progress
from streamproc.testing.simulation.faults import Fault
from streamproc.testing.simulation.feeding import Feeder
from streamproc.testing.simulation.process import Crashed, Failure, Process
from streamproc.testing.simulation.reading import Reader
from streamproc.testing.simulation.scene import Scene
from streamproc.testing.simulation.striking import Striker, unreachable
from streamproc.testing.topology_checks import TopologyError, require_conservation

T = TypeVar("T")

_LONGEST_S: Final = 900.0
_MOST_TURNS: Final = 4_000
_DEEPEST: Final = 3


class World:
    """A run of a case under faults.

    fired  the faults that struck, in order
    loud   the error with which a run ended that had lost its input: it must say so
    """

    def __init__(self, scene: Scene, faults: Sequence[Fault]) -> None:
        self.scene = scene
        self.case = scene.case
        self.cluster = scene.cluster
        self.faults = list(faults)
        self.fired: list[Fault] = []
        self.loud: StreamprocError | None = None
        self.processes: list[Process] = []
        self.reader = Reader(scene)
        self._striker = Striker(scene, self)
        self._feeder = Feeder(scene)
        self._finite = not scene.settings.live
        self._standing: list[Process] = []
        self._deep = 0
        self._turns = 0
        self._started = 0
        self._restarts: list[tuple[int, str]] = []

    # ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Runs to the end; raises Failure for anything that must not be."""
        dice, settings = self.scene.dice, self.scene.settings
        names = [f"w{n}" for n in range(settings.workers)]
        if settings.live:
            self._start_all(names)
            while self._feeder.next():
                self.go_on(self.cluster.uptime + dice.randrange(100_000, 900_000))
            self.go_on(self.cluster.uptime + 1_500_000)
        else:
            while self._feeder.next():
                pass
        sources = [self.cluster.partitions[place] for place in self.case.sources]
        while any(partition.open for partition in sources):
            self.go_on(self.cluster.uptime + 100_000)
        self.scene.ends = {partition.place: partition.stable for partition in sources}
        self._finite = True
        self._start_all([name for name in names if not any(p.name == name and p.alive for p in self.processes)])
        self.go_on(None)

    def _start_all(self, names: Sequence[str]) -> None:
        within = 3_000_000 if self.scene.settings.late_starts else 300_000
        for name in names:
            self.start(name, self.scene.dice.randrange(within))

    def go_on(self, until: int | None) -> None:
        """Lets processes run until a moment of uptime, or until none is left; those that stand still stay out."""
        while True:
            self._start_due()
            ready = [p for p in self.processes if p.alive and p not in self._standing]
            coming = [at for at, _ in self._restarts]
            if self.loud is not None or (until is None and not ready and not coming):
                break
            wake = min([*(p.wake for p in ready), *coming]) if ready or coming else None
            if until is not None and (wake is None or wake >= until):
                break
            assert wake is not None
            self.cluster.reach(wake)
            self._start_due()
            due = [p for p in self.processes if p.alive and p not in self._standing and p.wake <= self.cluster.uptime]
            if due:
                self._turn(self.scene.dice.choice(due) if len(due) > 1 else due[0])
        if until is not None:
            self.cluster.reach(until)

    def stand_still(self, process: Process, us: int) -> None:
        """A process stands still for a while and the others go on, if not too many stand still already."""
        process.require_alive()
        until = self.cluster.uptime + us
        # Whoever stands still is in the middle of its turn, so `go_on` leaves it alone.
        if self._deep < _DEEPEST:
            self._deep += 1
            try:
                self.go_on(until)
            finally:
                self._deep -= 1
        else:
            self.cluster.reach(until)
        process.require_alive()

    def _turn(self, process: Process) -> None:
        self._turns += 1
        process.turn_began = self.cluster.uptime
        if self._turns > _MOST_TURNS or self.cluster.uptime > _LONGEST_S * 1e6:
            raise Failure(f"the run does not end: {self._turns} turns, {self.cluster.uptime / 1e6:.0f} s")
        if self._finite and not process.finite:
            self._succeed(process)
            return
        # Who stands still inside a turn is on this stack: a process is never entered twice.
        self._standing.append(process)
        pause: float | None = 0.0
        try:
            pause = process.worker.turn()
        except Crashed:
            self._bury(process)
        except StreamprocError as error:
            self._refused(process, error)
        except OSError as error:
            raise Failure(f"{process.name} died of {error!r}") from error
        finally:
            self._standing.remove(process)
        self.reader.look()
        if not process.alive:
            return
        if pause is None:
            self._close(process)
        else:
            process.wake = (
                self.cluster.uptime
                + int(pause * 1e6 * self.scene.dice.uniform(1.0, 2.5))
                + self.scene.dice.randrange(2_000)
            )

    def _close(self, process: Process) -> None:
        self._standing.append(process)
        try:
            process.worker.close()
        except Crashed:
            pass
        except (Fenced, LogUnavailable, UnknownOutcome):
            self.scene.note(process.name, "did not close in order")
        finally:
            self._standing.remove(process)
        process.alive = False
        self.scene.note(process.name, "ended")

    def _succeed(self, process: Process) -> None:
        """A live worker ends, in order, and one that works to the end of the input takes its place."""
        self._close(process)
        if not any(p.name == process.name and p.alive for p in self.processes):
            self.start(process.name, self.scene.dice.randrange(200_000))

    def _bury(self, process: Process) -> None:
        process.alive = False
        self.scene.note(process.name, "dead")
        if not any(p.name == process.name and p.alive for p in self.processes):
            self.start(process.name, self.scene.dice.choice((10_000, 500_000, 3_000_000, 8_000_000)))

    def _refused(self, process: Process, error: StreamprocError) -> None:
        self.scene.note(process.name, f"raised {type(error).__name__}: {error}")
        if isinstance(error, Fenced):
            self._bury(process)
            return
        if self.scene.input_lost:
            self.loud = error
            return
        raise Failure(f"{process.name} raised {type(error).__name__}: {error}") from error

    def start(self, name: str, us: int) -> None:
        """Starts a process of that name in a while."""
        self._restarts.append((self.cluster.uptime + us, name))

    def _start_due(self) -> None:
        now = self.cluster.uptime
        due = [name for at, name in self._restarts if at <= now]
        if not due:
            return
        self._restarts = [(at, name) for at, name in self._restarts if at > now]
        for name in due:
            self._started += 1
            process = Process(self.scene, self, name, finite=self._finite)
            self.scene.note(name, "started")
            self.processes = [p for p in self.processes if p.alive or p in self._standing]
            self.processes.append(process)

    def step_sizes(self) -> Iterator[int]:
        """How many rows each turn takes at most."""
        most = self.scene.settings.step_rows
        while True:
            yield self.scene.dice.randrange(most // 2, most + 1)

    def committed(self, process: Process, progress: Progress) -> None:
        """After each commit: every row that came in has one fate, and nothing that has rows is called idle."""
        try:
            require_conservation(progress)
        except TopologyError as error:
            raise Failure(str(error)) from error
        for task in process.worker.tasks.values():
            # Feedback stays idle, whatever comes.
            idle = task.state.channel_idle.astype(bool) & ~task.stage.outside(task.channels)
            for c, channel in enumerate(task.channels):
                if idle[c] and self._came_before(channel.place, task, c, process.turn_began):
                    raise Failure(
                        f"{task.name} calls {channel.place.topic}-{channel.place.partition} idle; it has rows"
                    )

    def _came_before(self, place: TopicPartition, task: Task, channel: int, moment: int) -> bool:
        fed = [first for first, at in self.scene.fed_at.get(place, ()) if at < moment]
        return bool(fed) and int(task.state.positions[channel, 0]) <= fed[-1]

    def stranger(self) -> str:
        """A name that no process has."""
        return f"w{self._started}x"

    def is_alone(self, process: Process) -> bool:
        """Whether no other process lives."""
        return not any(p.alive and p is not process for p in self.processes)

    def request(self, process: Process, step: str, act: Callable[[], T]) -> T:
        """One request of a process, with the fault that the plan has for it, if any."""
        process.require_alive()
        number = len(self.scene.requests)
        self.scene.requests.append(step)
        self.cluster.advance(200 + number % 7 * 100)
        self.scene.trace.append((self.cluster.uptime, process.name, step))
        self._striker.before(step)
        if self.scene.settings.preempt and self.scene.dice.random() < self.scene.settings.preempt:
            self.stand_still(process, self.scene.dice.randrange(20_000, 400_000))
        if self.faults and self.faults[0].at <= number:
            for fault in self.faults:
                if fault.at > number:
                    break
                if fault.fits(step):
                    self.faults.remove(fault)
                    self.fired.append(fault)
                    self.scene.note(process.name, f"! {fault.kind} at {step}")
                    return self._striker.strike(process, step, act, fault)
        if process.cut_off_until > self.cluster.uptime and not step.startswith("store."):
            unreachable(step)
        return act()
