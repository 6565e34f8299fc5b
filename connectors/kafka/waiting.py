"""What came of a partition and waits until the engine asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from connectors.kafka.fetching import Address
from streamproc.ports import Block


@dataclass(slots=True)
class Waiting:
    """Blocks from `position` on; `reached`: the log's end when all before it had come.

    leader        the broker that is asked directly, None where librdkafka reads from `topic` into `queue`
    fetched       up to where batches have come directly
    direct_at     when it may be fetched directly again
    asked         when the engine asked last
    record_bytes  what a record of the last messages took, by which the next ones' buffer is made
    kept          what was handed out last and lies behind what was asked for
    broken        where reading cannot go on, and why
    """

    position: int
    leader: Address | None = None
    fetched: int = 0
    direct_at: float = 0.0
    topic: int = 0
    queue: int = 0
    blocks: list[Block] = field(default_factory=list)
    reached: int = -1
    asked: float = 0.0
    record_bytes: float = 128.0
    kept: tuple[int, Block] | None = None
    broken: tuple[int, str] | None = None

    @property
    def newest(self) -> int:
        """One past the last record here."""
        return int(self.blocks[-1].offsets[-1]) + 1 if self.blocks else self.position

    def passed(self, offset: int) -> int:
        """Up to where all has come, and no record from the offset on; the offset itself where one waits."""
        known = not self.blocks and self.broken is None and offset >= self.position
        return max(offset, self.reached) if known else offset

    @property
    def held(self) -> int:
        """Bytes of what waits."""
        return sum(block.buffer.size for block in self.blocks)
