"""Floor 9: what proves a topology, ours and yours: drive it, check its laws, compare with naive twins."""

from streamproc.testing.drive import Driven, append_frame, drive
from streamproc.testing.memory_log import MemoryLog

__all__ = ["Driven", "MemoryLog", "append_frame", "drive"]
