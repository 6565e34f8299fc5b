"""Ids of entities: opaque texts that are never given to another entity, and always lead somewhere.

An id is made of the id of the founding record, how often that record had been deleted before, and a namespace: equal in
every run, on any number of partitions, whatever the order of arrival. So an id belongs to one founding record for good.
It rests while the record's entity carries an older id, and comes back if the record founds an entity again.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from streamproc.entities.interning import spread
from streamproc.entities.tables import RETIRED, Tables
from streamproc.hashing import frozen, hash_bytes, mix_pair, wyhash
from streamproc.kernels import kernel
from streamproc.ports import Bytes, Int64s

_arrow: Any = pa
LENGTH: Final = 33
"""Letters of an id: an `e` and 128 bits in hex."""


def namespace_seed(namespace: str) -> int:
    """What a namespace adds to the hashes of its ids."""
    raw = np.frombuffer(namespace.encode(), np.uint8)
    return int(hash_bytes(raw, np.array([0]), np.array([raw.size]))[0]) >> 1 if raw.size else 0


@kernel
def _id_words(
    buffer: Bytes, start: int, end: int, generation: np.uint64, seed: np.uint64
) -> tuple[np.uint64, np.uint64]:  # fmt: skip
    """The 128 bits of an id: of a record's id, its generation and the namespace."""
    one = mix_pair(wyhash(buffer, start, end, seed ^ np.uint64(1)), generation)
    two = mix_pair(wyhash(buffer, start, end, seed ^ np.uint64(2)), generation)
    return mix_pair(one, np.uint64(1)), mix_pair(two, np.uint64(2))


@kernel
def _write_ids(buffer: Bytes, starts: Int64s, ends: Int64s, generations: Int64s, seed: np.uint64, out: Bytes) -> None:
    """Writes the letters of ids, one after the other."""
    for i in range(starts.size):
        at = i * LENGTH
        out[at] = 0x65
        words = _id_words(buffer, starts[i], ends[i], np.uint64(generations[i]), seed)
        for number in range(2):
            for letter in range(16):
                digit = np.uint8((words[number] >> np.uint64(60 - 4 * letter)) & np.uint64(15))
                out[at + 16 * number + 1 + letter] = digit + np.uint8(48 if digit < 10 else 87)


def id_text(tables: Tables, claim: int, generation: int, seed: int) -> str | None:
    """One id, None for -1."""
    if claim < 0:
        return None
    raw = np.frombuffer(tables.keys.key(claim), np.uint8)
    first, second = _id_words(raw, 0, raw.size, np.uint64(generation), np.uint64(seed))
    return f"e{int(first):016x}{int(second):016x}"


def id_texts(tables: Tables, claims: Int64s, generations: Int64s, seed: int) -> pl.Series:
    """The ids of these claims, null for -1."""
    there = claims >= 0
    if not there.any():
        return pl.Series("id", [None] * there.size, dtype=pl.String)
    keys = tables.keys.key_bytes(claims[there])
    letters = np.empty(keys.starts.size * LENGTH, np.uint8)
    generations = frozen(generations[there])
    _write_ids(frozen(keys.buffer), frozen(keys.starts), frozen(keys.ends), generations, np.uint64(seed), letters)
    bounds = np.arange(keys.starts.size + 1, dtype=np.int64) * LENGTH
    made = _arrow.LargeStringArray.from_buffers(bounds.size - 1, _arrow.py_buffer(bounds), _arrow.py_buffer(letters))
    return spread(pl.Series("id", made, dtype=pl.String), there)


def current_ids(tables: Tables, ids: list[str], seed: int) -> list[str | None]:
    """What ids that were issued at any time stand for now: the id of an entity, or None where its records are gone.

    Raises KeyError for an id that was never issued.  Cost O(records).
    """
    slots = tables.keys.slots()
    slots = slots[tables.claim[slots] >= 0]
    generations = tables.generation[slots].astype(np.int64)
    # Every generation of a record that was inserted once may have been an id; the last one only if the record is there.
    counts = generations + tables.alive[slots]
    owners = np.repeat(slots, counts)
    of = np.arange(owners.size) - np.repeat(np.cumsum(counts) - counts, counts)
    texts = id_texts(tables, owners, of, seed).to_list()
    known = {text: (int(slot), int(generation)) for text, slot, generation in zip(texts, owners, of, strict=True)}
    gone = tables.successors[: int(tables.counters[RETIRED])].tolist()
    successors = {(record, generation): (heir, of_heir) for record, generation, heir, of_heir in gone}
    carried = {
        (int(tables.claim[slot]), int(tables.claim_generation[slot])): int(slot)
        for slot in slots[tables.alive[slots] == 1]
    }
    out: list[str | None] = []
    for one in ids:
        claim = known[one]
        while claim in successors:
            claim = successors[claim]
        if claim not in carried:
            out.append(None)
            continue
        record = carried[claim]
        founder = int(tables.entity_founder[tables.entity[record]])
        out.append(id_text(tables, int(tables.claim[founder]), int(tables.claim_generation[founder]), seed))
    return out
