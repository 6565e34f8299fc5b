"""Floor 9: what proves a topology, ours and yours: drive it, check its laws, compare with naive twins."""

from streamproc.testing.checks import LAWS, check_operator
from streamproc.testing.drive import Driven, append_frame, drive
from streamproc.testing.memory_log import MemoryLog
from streamproc.testing.runs import LawError
from streamproc.testing.trials import Event

__all__ = ["LAWS", "Driven", "Event", "LawError", "MemoryLog", "append_frame", "check_operator", "drive"]
