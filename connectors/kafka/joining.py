"""Several blocks of one partition as one, of what waits as much as is asked for, and back what was not used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from connectors.kafka.kernels import shift_bounds
from streamproc.ports import Block, HeaderColumn, Int64s

_LARGE: Final = 256 << 10
"""A block whose buffer is larger may be a slice, and a join copies buffers: it is asked which part it needs."""


def joined(blocks: Sequence[Block]) -> Block:
    """The records of all blocks, in order; one block is given back as it is, more are copied."""
    if len(blocks) == 1:
        return blocks[0]
    blocks = [_close(block) if block.buffer.size > _LARGE else block for block in blocks]
    bases = np.cumsum([0, *(block.buffer.size for block in blocks[:-1])])
    stops = np.cumsum([len(block) for block in blocks])

    def moved(parts: Sequence[Int64s]) -> Int64s:
        whole = np.concatenate(parts)
        shift_bounds(whole, stops, bases)
        return whole

    def column(name: str) -> HeaderColumn:
        parts = []
        for block in blocks:
            found = next((header for header in block.headers if header.name == name), None)
            none = np.full(len(block), -1, np.int64)
            parts.append((none, none) if found is None else (found.starts, found.ends))
        return HeaderColumn(name, moved([start for start, _ in parts]), moved([end for _, end in parts]))

    names = sorted({header.name for block in blocks for header in block.headers})
    return Block(
        blocks[0].topic,
        blocks[0].partition,
        np.concatenate([block.offsets for block in blocks]),
        np.concatenate([block.timestamps for block in blocks]),
        np.concatenate([block.buffer for block in blocks]),
        moved([block.value_starts for block in blocks]),
        moved([block.value_ends for block in blocks]),
        moved([block.key_starts for block in blocks]),
        moved([block.key_ends for block in blocks]),
        tuple(column(name) for name in names),
        tuple(
            (int(stop) - len(block) + row, why)
            for stop, block in zip(stops, blocks, strict=True)
            for row, why in block.unreadable
        ),
    )


def _close(block: Block) -> Block:
    """The same records over as little of the buffer as holds them: a slice has all of it, which joins would pile up."""
    starts = [block.value_starts, block.key_starts, *(header.starts for header in block.headers)]
    ends = [block.value_ends, block.key_ends, *(header.ends for header in block.headers)]
    first = min((int(part.min(initial=block.buffer.size, where=part >= 0)) for part in starts), default=0)
    last = max((int(part.max(initial=first)) for part in ends), default=first)
    if last - first == block.buffer.size:
        return block

    def moved(bounds: Int64s) -> Int64s:
        return np.where(bounds < 0, bounds, bounds - first)

    return replace(
        block,
        buffer=block.buffer[first:last],
        value_starts=moved(block.value_starts),
        value_ends=moved(block.value_ends),
        key_starts=moved(block.key_starts),
        key_ends=moved(block.key_ends),
        headers=tuple(replace(each, starts=moved(each.starts), ends=moved(each.ends)) for each in block.headers),
    )


def cut(waiting: list[Block], most: int, most_bytes: int) -> Block:
    """Takes as many of the waiting records as the bounds allow, at least one, away from the list."""
    taken: list[Block] = []
    while waiting and most > 0:
        block = waiting[0]
        if len(block) <= most and block.buffer.size <= most_bytes:
            taken.append(waiting.pop(0))
            most, most_bytes = most - len(block), most_bytes - block.buffer.size
            continue
        lengths = (
            block.value_ends - block.value_starts + block.key_ends - block.key_starts
            + sum((header.ends - header.starts for header in block.headers), np.int64(0))
        )  # fmt: skip
        fits = int(np.searchsorted(np.cumsum(lengths), most_bytes, side="right"))
        count = min(len(block), most, fits)
        if count == 0:
            if taken:
                break
            count = 1
        taken.append(block.slice(0, count))
        most -= count
        most_bytes -= int(lengths[:count].sum())
        waiting[:1] = [block.slice(count, len(block))] if count < len(block) else []
        if count < len(block):
            break
    return joined(taken)


def beyond(block: Block, offset: int, most: int) -> tuple[int, Block] | None:
    """What of an answer lies behind the range of so many offsets that was asked for, as a copy, and where that ends.

    Who reads a range asks for as many records as it has offsets. Where marks lie between them, some that come lie
    behind the range, and are the first of the next one: a partition need not be begun anew for them.
    """
    end = offset + most
    if int(block.offsets[-1]) < end:
        return None
    rest = _close(block.slice(int(np.searchsorted(block.offsets, end)), len(block)))
    return end, replace(rest, buffer=rest.buffer.copy())


def unused(kept: tuple[int, Block] | None, offset: int) -> Block | None:
    """Of what `beyond` kept, the records from an offset on; None for one that lies elsewhere.

    Who asks for an offset of the range itself again asks what is there now.
    """
    if kept is None or not kept[0] <= offset <= kept[1].offsets[-1]:
        return None
    return kept[1].slice(int(np.searchsorted(kept[1].offsets, offset)), len(kept[1]))
