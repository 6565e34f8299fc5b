"""Tiles of a window, and which of them a row sees: the kernel under `tiles`.

Time is cut at multiples of the hop; tile k holds events with event time in (k * hop, (k + 1) * hop]. The window of a
row at t begins at the cut at or before t - span and ends with the row: begin = floor((t - span) / hop) * hop.

This kernel decides and computes no aggregate. What aggregates hold is named by numbers, *slots*; the kernel writes down
merges of one slot into another, in order, and the accumulators carry them out, each in one call. So whatever merges can
be tiled, and a tile is no more than a slot.

**The head.** A row in time lies at or after the watermark, so an event before it lies in the window of every later row
that reaches its tile: it is folded into the tile. Events after the watermark wait as slots of their own, in order of
event time, because a row may yet come before them.

**The window** is a queue of two stacks: the *front* tiles each have a slot that holds them and all front tiles after
them; the *back* is one slot for the tiles after the front. A window's begin moves forward along the front; when it
reaches the back, all tiles but the newest become front. So a row costs a few merges, and each tile one more, however
long the window is. A second slot holds the back and all waiting events: it serves a row that comes in order. One that
does not merges the back and those waiting events that are not after it.

Source: two-stack queues as in Tangwongsan, Hirzel and Schneider, "Low-latency sliding-window aggregation in worst-case
constant time" (2017); tiles with an exact head as in Chronon's sawtooth windows.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from streamproc.event_time import MIN_TIME
from streamproc.kernels import inlined, tight
from streamproc.operators.event_records import EVER
from streamproc.ports import Int64s
from streamproc.row_loops import fill

AT: Final = 0
BEFORE: Final = 1
AFTER: Final = 2
FRONT: Final = 3
NODE_WORDS: Final = 4
"""Words of a tile or waiting event, whose number is its slot: its tile or its event time, neighbours, and for a tile of
the front the slot that holds it and the front tiles after it."""

OLDEST: Final = 0
NEWEST: Final = 1
FIRST_WAITING: Final = 2
LAST_WAITING: Final = 3
BACK: Final = 4
WITH_WAITING: Final = 5
FIRST_BACK: Final = 6
LINKS: Final = 7
HELD: Final = 7
STALE: Final = 8
FORGOT: Final = 9
COVERED: Final = 10
KEY_WORDS: Final = 11
"""Words of a key: ends of the chains of tiles and of waiting events; slots of the back without and with waiting events
(-1 for none, which with nothing waiting is as without); the oldest tile of the back; then how many tiles and events are
held, whether back and front must be made anew, whether something was dropped for want of room, and the moment before
which a window must not begin if it is to miss nothing."""

Table = npt.NDArray[np.int64]


class Tiling(NamedTuple):
    """span and hop in µs, and how many tiles and waiting events a key keeps at most."""

    span: int
    hop: int
    at_most: int


class Tiles(NamedTuple):
    """keys int64[key slots, KEY_WORDS]; nodes int64[slots, NODE_WORDS]; free int64[slots], a stack, and its height."""

    keys: Table
    nodes: Table
    free: Int64s
    height: Int64s


class Script(NamedTuple):
    """Merges in order, slots that are free after them, and how many of both.

    into, source  int64[*]
    dead          int64[*]
    length        int64[2]
    """

    into: Int64s
    source: Int64s
    dead: Int64s
    length: Int64s


class Arriving(NamedTuple):
    """Rows: key slot, event time, watermark before the row, the slot that holds it alone, the slot for its result."""

    keys: Int64s
    times: Int64s
    reached: Int64s
    own: Int64s
    result: Int64s


@inlined
def _merge(script: Script, into: int, source: int) -> None:
    at = script.length[0]
    script.into[at], script.source[at] = into, source
    script.length[0] = at + 1


@inlined
def _bury(script: Script, slot: int) -> None:
    script.dead[script.length[1]] = slot
    script.length[1] += 1


@inlined
def _new(tiles: Tiles) -> int:
    tiles.height[0] -= 1
    return int(tiles.free[tiles.height[0]])


@inlined
def tile_of(tiling: Tiling, moment: int) -> int:
    """The tile that holds a moment."""
    return 0 if tiling.hop >= EVER else int((moment - 1) // tiling.hop)


@inlined
def first_tile(tiling: Tiling, moment: int) -> int:
    """The first tile of a window that ends at a moment."""
    return 0 if tiling.hop >= EVER else int((moment - tiling.span) // tiling.hop)


@inlined
def begin_of(tiling: Tiling, moment: int) -> int:
    """Where the window that ends at a moment begins, itself outside."""
    return MIN_TIME if tiling.hop >= EVER else int((moment - tiling.span) // tiling.hop * tiling.hop)


@inlined
def _append(tiles: Tiles, key: int, node: int, oldest: int, newest: int) -> None:
    """Puts a node at the end of a chain."""
    of_key = tiles.keys[key]
    before = of_key[newest]
    tiles.nodes[node, BEFORE], tiles.nodes[node, AFTER] = before, -1
    of_key[newest] = node
    if before >= 0:
        tiles.nodes[before, AFTER] = node
    else:
        of_key[oldest] = node


@inlined
def _take_first(tiles: Tiles, key: int, oldest: int, newest: int) -> int:
    """Takes the first node out of a chain."""
    of_key = tiles.keys[key]
    node = int(of_key[oldest])
    after = tiles.nodes[node, AFTER]
    of_key[oldest] = after
    if after >= 0:
        tiles.nodes[after, BEFORE] = -1
    else:
        of_key[newest] = -1
    return node


@inlined
def _wait(tiles: Tiles, key: int, node: int) -> None:
    """Puts an event among those that wait, after all that are not later."""
    nodes, of_key = tiles.nodes, tiles.keys[key]
    later, earlier = np.int64(-1), of_key[LAST_WAITING]
    while earlier >= 0 and nodes[earlier, AT] > nodes[node, AT]:
        later, earlier = earlier, nodes[earlier, BEFORE]
    nodes[node, BEFORE], nodes[node, AFTER] = earlier, later
    if earlier >= 0:
        nodes[earlier, AFTER] = node
    else:
        of_key[FIRST_WAITING] = node
    if later >= 0:
        nodes[later, BEFORE] = node
    else:
        of_key[LAST_WAITING] = node


@tight
def _fold(tiling: Tiling, tiles: Tiles, script: Script, key: int, reached: int) -> None:
    """Moves events at or before the watermark into their tiles."""
    nodes, of_key = tiles.nodes, tiles.keys[key]
    while of_key[FIRST_WAITING] >= 0 and nodes[of_key[FIRST_WAITING], AT] <= reached:
        node = _take_first(tiles, key, FIRST_WAITING, LAST_WAITING)
        tile = tile_of(tiling, nodes[node, AT])
        if of_key[BACK] < 0:
            of_key[BACK] = _new(tiles)
        _merge(script, of_key[BACK], node)
        newest = of_key[NEWEST]
        if newest >= 0 and nodes[newest, AT] == tile:
            _merge(script, newest, node)
            _bury(script, node)
            of_key[HELD] -= 1
        else:
            nodes[node, AT], nodes[node, FRONT] = tile, -1
            _append(tiles, key, node, OLDEST, NEWEST)
            if of_key[FIRST_BACK] < 0:
                of_key[FIRST_BACK] = node
    if of_key[FIRST_WAITING] < 0 and of_key[WITH_WAITING] >= 0:
        _bury(script, of_key[WITH_WAITING])
        of_key[WITH_WAITING] = -1


@tight
def _drop_tile(tiles: Tiles, script: Script, key: int) -> int:
    """Frees the oldest tile; its number."""
    nodes, of_key = tiles.nodes, tiles.keys[key]
    node = _take_first(tiles, key, OLDEST, NEWEST)
    if nodes[node, FRONT] >= 0:
        _bury(script, nodes[node, FRONT])
    if of_key[FIRST_BACK] == node:
        of_key[FIRST_BACK], of_key[STALE] = of_key[OLDEST], 1
    _bury(script, node)
    of_key[HELD] -= 1
    return int(nodes[node, AT])


@tight
def _keep_the_bound(tiling: Tiling, tiles: Tiles, script: Script, key: int) -> None:
    """Drops the oldest while the key holds more than it may."""
    nodes, of_key = tiles.nodes, tiles.keys[key]
    while of_key[HELD] > tiling.at_most:
        if tiling.hop >= EVER:
            # Nothing leaves a window without a begin; rows before the event see it although they should not.
            last = int(nodes[of_key[FIRST_WAITING], AT])
            _fold(tiling, tiles, script, key, last)
        elif of_key[OLDEST] >= 0:
            last = _drop_tile(tiles, script, key) * tiling.hop + 1
        else:
            node = _take_first(tiles, key, FIRST_WAITING, LAST_WAITING)
            last = int(nodes[node, AT])
            _bury(script, node)
            of_key[HELD] -= 1
            of_key[STALE] = 1
        if not of_key[FORGOT] or last > of_key[COVERED]:
            of_key[FORGOT], of_key[COVERED] = 1, last


@tight
def _make_anew(tiles: Tiles, script: Script, key: int) -> None:
    """Makes all tiles but the newest front, and the back of what is left."""
    nodes, of_key = tiles.nodes, tiles.keys[key]
    newest = of_key[NEWEST]
    held, node = -1, np.int64(-1)
    if newest >= 0:
        node = nodes[newest, BEFORE]
        if nodes[newest, FRONT] >= 0:
            _bury(script, nodes[newest, FRONT])
            nodes[newest, FRONT] = -1
    while node >= 0:
        if nodes[node, FRONT] >= 0:
            _bury(script, nodes[node, FRONT])
        slot = _new(tiles)
        _merge(script, slot, int(node))
        if held >= 0:
            _merge(script, slot, held)
        nodes[node, FRONT] = slot
        held, node = slot, nodes[node, BEFORE]
    for word in (BACK, WITH_WAITING):
        if of_key[word] >= 0:
            _bury(script, of_key[word])
            of_key[word] = -1
    of_key[FIRST_BACK], of_key[STALE] = newest, 0
    if newest >= 0:
        of_key[BACK] = _new(tiles)
        _merge(script, of_key[BACK], newest)
    if of_key[FIRST_WAITING] >= 0:
        of_key[WITH_WAITING] = _new(tiles)
        if newest >= 0:
            _merge(script, of_key[WITH_WAITING], newest)
        node = of_key[FIRST_WAITING]
        while node >= 0:
            _merge(script, of_key[WITH_WAITING], node)
            node = nodes[node, AFTER]


@tight
def _read(tiling: Tiling, tiles: Tiles, script: Script, key: int, t: int, own: int, result: int) -> None:
    """Merges what a row at t sees into its result."""
    nodes, of_key = tiles.nodes, tiles.keys[key]
    first, begin = first_tile(tiling, t), begin_of(tiling, t)
    back = of_key[FIRST_BACK]
    if of_key[STALE] or (back >= 0 and nodes[back, AT] < first and back != of_key[NEWEST]):
        _make_anew(tiles, script, key)
        back = of_key[FIRST_BACK]
    waiting = of_key[FIRST_WAITING]
    if (back >= 0 and nodes[back, AT] < first) or (waiting >= 0 and nodes[waiting, AT] <= begin):
        # The window begins after the newest tile, so within what waits.
        node = of_key[NEWEST]
        while node >= 0 and nodes[node, AT] >= first:
            _merge(script, result, node)
            node = nodes[node, BEFORE]
        node = waiting
        while node >= 0 and nodes[node, AT] <= t:
            if nodes[node, AT] > begin:
                _merge(script, result, node)
            node = nodes[node, AFTER]
        return
    node = of_key[OLDEST]
    while node >= 0 and node != back and nodes[node, AT] < first:
        node = nodes[node, AFTER]
    if node >= 0 and node != back:
        _merge(script, result, nodes[node, FRONT])
    if of_key[LAST_WAITING] == own or waiting < 0:
        slot = of_key[WITH_WAITING] if of_key[WITH_WAITING] >= 0 else of_key[BACK]
        if slot >= 0:
            _merge(script, result, slot)
        return
    if of_key[BACK] >= 0:
        _merge(script, result, of_key[BACK])
    node = waiting
    while node >= 0 and nodes[node, AT] <= t:
        _merge(script, result, node)
        node = nodes[node, AFTER]


@tight
def _enter(tiles: Tiles, script: Script, key: int, node: int) -> None:
    """Takes a new event in, among those that wait."""
    of_key = tiles.keys[key]
    of_key[HELD] += 1
    if of_key[WITH_WAITING] < 0:
        of_key[WITH_WAITING] = _new(tiles)
        if of_key[BACK] >= 0:
            _merge(script, of_key[WITH_WAITING], of_key[BACK])
    _merge(script, of_key[WITH_WAITING], node)
    _wait(tiles, key, node)


@tight
def move_tiles(tiling: Tiling, tiles: Tiles, rows: Arriving, script: Script, covered: Int64s, start: int) -> int:
    """Takes rows in from `start` on; n when done, i if script or free slots may not suffice for row i.

    covered  int64[n]: at or after which moment the row's window must begin (without a begin: end) to miss nothing that
             was dropped
    """
    for i in range(start, rows.keys.size):
        key, t, reached, own = rows.keys[i], rows.times[i], rows.reached[i], rows.own[i]
        of_key = tiles.keys[key]
        most = 8 * of_key[HELD] + 24
        if script.length[0] + most > script.into.size or script.length[1] + most > script.dead.size:
            return i
        if tiles.height[0] < most:
            return i
        _fold(tiling, tiles, script, key, reached)
        tiles.nodes[own, AT] = t
        if t <= reached and of_key[FIRST_WAITING] < 0:
            # As below `ordered`: it need not wait.
            of_key[HELD] += 1
            _wait(tiles, key, own)
            _fold(tiling, tiles, script, key, reached)
        else:
            _enter(tiles, script, key, own)
            _fold(tiling, tiles, script, key, reached)
        oldest = first_tile(tiling, reached)
        while of_key[OLDEST] >= 0 and tiles.nodes[of_key[OLDEST], AT] < oldest:
            _drop_tile(tiles, script, key)
        if of_key[HELD] > tiling.at_most:
            _keep_the_bound(tiling, tiles, script, key)
        if of_key[FORGOT]:
            covered[i] = of_key[COVERED]
        if not of_key[FORGOT] or of_key[COVERED] <= (t if tiling.hop >= EVER else begin_of(tiling, t)):
            _read(tiling, tiles, script, key, t, own, rows.result[i])
    return rows.keys.size


@tight
def drop_tiles(tiles: Tiles, script: Script, keys: Int64s, start: int) -> int:
    """Frees everything of these keys; n when done, i if the script may not suffice for key i."""
    for i in range(start, keys.size):
        of_key = tiles.keys[keys[i]]
        if script.length[1] + 2 * of_key[HELD] + 4 > script.dead.size:
            return i
        while of_key[OLDEST] >= 0:
            _drop_tile(tiles, script, keys[i])
        while of_key[FIRST_WAITING] >= 0:
            _bury(script, _take_first(tiles, keys[i], FIRST_WAITING, LAST_WAITING))
        for word in (BACK, WITH_WAITING):
            if of_key[word] >= 0:
                _bury(script, of_key[word])
        fill(of_key, 0)
        fill(of_key[:LINKS], -1)
    return keys.size
