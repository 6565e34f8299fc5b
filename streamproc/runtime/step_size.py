"""How many rows a worker's turn takes: it follows the load, and keeps to the memory that it was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streamproc.runtime.feed import MOST_BYTES

_FIRST_UNITS: Final = 65_536
_MOST_UNITS: Final = 1 << 20
_LEAST_UNITS: Final = 4_096
_LEAST_TURN_UNITS: Final = 65_536
"""Of all tasks together."""
_LEAST_SLOW_UNITS: Final = 256
_SLOW_TURN_S: Final = 2.0


@dataclass(slots=True)
class StepSize:
    """The bound on what one step takes.

    commit_s    the commit interval
    most_bytes  what the rows of one turn may take in memory, over all tasks; None: a fixed bound for each channel
    units       so many units a step takes at most
    """

    commit_s: float
    most_bytes: int | None
    units: int = _FIRST_UNITS

    def shrink(self) -> None:
        """The last turn took longer than a sign of life may: shorter steps may fit."""
        self.units = max(_LEAST_UNITS, self.units // 2)

    def adapt(self, worked: float, *, full: bool, tasks: int, largest: int) -> None:
        """Steps grow while their work takes less than the commit interval, and shrink where it takes five.

        Only where rows wait does their number reach the bound, and then small steps, which cost more a row, would make
        the backlog larger; so a turn may always take some ten thousand rows.  A commit's own time does not count: it is
        the same for few rows and for many.

        worked   seconds that the turn's steps took
        full     whether rows waited that no step took
        largest  units of the largest step
        """
        floor = max(_LEAST_UNITS, _LEAST_TURN_UNITS // max(tasks, 1))
        if full and worked > _SLOW_TURN_S:
            # Rows of which some thousands take seconds cost no more in small steps, and a stop has to wait for a turn.
            self.units = max(_LEAST_SLOW_UNITS, min(self.units, largest) // 2)
        elif full and self.units < floor:
            self.units = min(floor, 2 * self.units) if worked < _SLOW_TURN_S / 2 else self.units
        elif worked > 5 * self.commit_s:
            self.units = min(self.units, max(floor, self.units // 2))
        elif full and worked < self.commit_s:
            self.units = min(_MOST_UNITS, self.units * 2)

    def bytes_of_each(self, channels: int) -> int:
        """What each of so many channels may hold, so that all of them together keep the bound."""
        return MOST_BYTES if self.most_bytes is None else min(MOST_BYTES, self.most_bytes // channels)
