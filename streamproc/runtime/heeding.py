"""A worker obeys the control topic: it rests while it is paused, and ends where a drain says."""

from __future__ import annotations

from streamproc.ports import Log
from streamproc.runtime.binding import Binding
from streamproc.runtime.control import Request, WorkerControl
from streamproc.runtime.ending import Ending
from streamproc.runtime.task import Task


class Heed:
    """What is in force for one worker.

    control  None obeys nobody
    ending   where the run ends by itself, if it does
    request  what is in force, None for nothing
    """

    def __init__(self, binding: Binding, log: Log, control: WorkerControl | None, ending: Ending | None) -> None:
        self.request: Request | None = None
        self.ending = ending
        self._own_ending = ending
        self._binding, self._log, self._control = binding, log, control

    @property
    def paused(self) -> bool:
        """Whether no task may take a step."""
        return self.request is not None and self.request.deed == "pause"

    def look(self, tasks: dict[int, Task]) -> None:
        """Reads the control topic and answers; tasks that now end elsewhere are replaced by such as do.

        Called between two turns: every task stands where its last commit put it.
        """
        if self._control is None:
            return
        before, self.request = self.request, self._control.in_force()
        if self.request != before:
            drain = self.request is not None and self.request.deed == "drain"
            if drain and self.request is not None:
                self.ending = Ending(self._binding, self._log, self.request.offsets, close=False)
            elif before is not None and before.deed == "drain":
                self.ending = self._own_ending
            if drain or (before is not None and before.deed == "drain"):
                for number, task in tasks.items():
                    tasks[number] = self._again(task)
        if self.request is None or self.paused:
            self._control.answer("paused" if self.paused else "running", tasks)
        else:
            self._control.answer("draining", tasks)

    def drained(self, tasks: dict[int, Task]) -> None:
        """Says that the drain is done, its checkpoints are written, and the worker goes."""
        if self._control is not None and self.request is not None and self.request.deed == "drain":
            self._control.answer("drained", tasks)

    def _again(self, task: Task) -> Task:
        """The task with the run's ends of now. What it had read ahead may lie behind them: it is read again."""
        stops = None if self.ending is None else self.ending.until
        again = Task(self._binding, task.number, self._log, state=task.state, stops=stops)
        again.head, again.note = task.head, task.note
        again.delivered, again.future = task.delivered, task.future
        return again
