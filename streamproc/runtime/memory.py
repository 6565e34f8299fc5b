"""How much memory a worker may take, and what of it is left for rows that are read ahead and worked on.

State is not bounded by this: it is what the topology keeps (`streamproc_state_bytes`). What can be bounded is what a
worker holds only because others write faster than it works: records that came and wait, and the rows of a step. No
result depends on it, for a step may be cut anywhere.
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import Final

from streamproc.errors import InputError
from streamproc.ports import Log, ReadsAhead
from streamproc.runtime.binding import Binding

_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?")
_UNITS: Final = " KMGT"
_LEAST_ROOM: Final = 64 << 20
_AHEAD_SHARE: Final = 8
"""Records wait as they came, once in the client and once as blocks."""
_STEP_SHARE: Final = 8
"""A row of a step is there as record, as columns, in what operators make of it, and as what is written."""


def amount_bytes(text: str) -> int:
    """A number of bytes: "512MB" (millions), "512MiB" or "512Mi" (of 1,048,576), "2G"; raises InputError.

    >>> amount_bytes("512MB"), amount_bytes("1.5Gi")
    (512000000, 1610612736)
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise InputError(f"'{text}' is no amount of memory", hint="write 512MB, 2GB or 512MiB")
    number, unit, binary = found.groups()
    return int(float(number) * (1_024 if binary else 1_000) ** _UNITS.index(unit or " "))


def resident_bytes() -> int:
    """What this process holds in memory now; where the system does not tell, the most that it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1_024


def bounded(binding: Binding, log: Log, memory: int) -> int:
    """Makes a log read ahead only as much as fits, and gives the bytes that a turn's steps may take in.

    memory  what the process may take in all, bytes; called when everything is loaded and nothing is read yet
    Raises InputError if the process is too large already.
    """
    resident = resident_bytes()
    room = memory - resident
    if room < _LEAST_ROOM:
        raise InputError(
            f"memory = {memory >> 20} MiB is too little: the engine itself takes {resident >> 20} MiB here",
            hint=f"give a worker {(resident + 2 * _LEAST_ROOM) >> 20} MiB or more",
        )
    if isinstance(log, ReadsAhead):
        places = {
            channel.place
            for number in range(binding.task_count)
            for stage, index in (binding.task_of(number),)
            for channel in stage.channels(index, binding.partitions)
        }
        log.read_ahead(room // _AHEAD_SHARE, len(places))
    return room // _STEP_SHARE
