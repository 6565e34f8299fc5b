"""The menu of faults: what may go wrong, at which requests, and which of it a seed chooses."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

COMMIT: Final = ("produce", "add_offsets", "end")
STORE_WRITES: Final = ("store.put_blocks", "store.put_manifest")
STORE_READS: Final = ("store.manifests", "store.get_block")

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "crash before": (),
    "crash after": (),
    "lost request": (),
    "lost reply": (),
    "delayed reply": (),
    "zombie": (),
    "zombie beside its successor": (),
    "zombie in mid-commit": ("begin", *COMMIT),
    "rebalance in mid-commit": COMMIT,
    "transaction time-out": COMMIT,
    "late end": ("end",),
    "unknown outcome": ("end",),
    "slow markers": ("end",),
    "unreachable": (),
    "partition unreachable": (),
    "retention": (),
    "retention behind checkpoints": (),
    "compaction during restore": STORE_READS,
    "disk full": STORE_WRITES,
    "torn checkpoint": STORE_WRITES,
    "lost checkpoints": (),
    "damaged block": ("store.get_block",),
    "clock jump": (),
}
"""Each fault and the requests that it can strike; none named: any."""

INPUTS: Final = ("late", "duplicates", "future", "hot key", "poison", "ahead")
"""What may be wrong with the rows that come in; "ahead": a producer's clock, and the records' own timestamps."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: at the first request of a fitting kind whose number is at least `at`."""

    kind: str
    at: int

    def fits(self, step: str) -> bool:
        """Whether the fault can strike a request."""
        if step.startswith("store.") and self.kind in _LOG_ONLY:
            return False
        steps = KINDS[self.kind]
        return not steps or step in steps

    def __str__(self) -> str:
        return f"{self.kind} @{self.at}"


_LOG_ONLY: Final = ("lost request", "lost reply", "unreachable")


def chosen(random_: random.Random, calls: int) -> tuple[Fault, ...]:
    """Faults of a seed: one to six, each of any kind, anywhere in a run of about so many requests."""
    count = random_.choice((1, 3, 4, 4, 5, 6))
    kinds = list(KINDS)
    faults = [Fault(random_.choice(kinds), random_.randrange(max(1, int(calls * 0.8)))) for _ in range(count)]
    # Few restores read checkpoints: what strikes there waits from early on.
    faults = [Fault(f.kind, f.at // 6) if KINDS[f.kind] == STORE_READS else f for f in faults]
    return tuple(sorted(faults, key=lambda fault: (fault.at, fault.kind)))
