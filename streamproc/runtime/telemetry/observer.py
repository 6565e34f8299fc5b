"""What a worker tells while it works: once a turn, a step or a commit, never once a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamproc.errors import LogError
from streamproc.runtime.control import Request
from streamproc.runtime.task import TakenStep, Task


class Observer:
    """Listens to a worker; this one does nothing with what it hears.

    All is called in the worker's own thread, between its own calls of the log.
    """

    def restoring(self, number: int, owned: int) -> None:
        """A task is about to be restored; `owned` tasks are this worker's, restored or not."""

    def restored_step(self) -> None:
        """One recorded step of the task that is being restored ran again."""

    def restored(self, task: Task, steps: int, seconds: float) -> None:
        """A task stands where its journal ends; so many recorded steps ran again."""

    def waiting(self, error: LogError) -> None:
        """A task could not be restored now; those that stand go on, and it is tried again."""

    def stepped(self, task: Task, seconds: float) -> None:
        """A step of a task took so long; it is not committed yet."""

    def committed(self, steps: Sequence[tuple[Task, TakenStep]], seconds: float) -> None:
        """A commit holds, and took so long; `steps` may be empty: then tasks only said where they stand."""

    def turned(self, tasks: Mapping[int, Task], *, idle: bool, request: Request | None) -> None:
        """A turn came to its end, and every task stands; `idle`: nothing was to do. `request` is what is in force."""

    def troubled(self, error: LogError) -> None:
        """A turn failed; the worker begins again from what is committed."""
