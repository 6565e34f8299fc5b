"""A seed run and judged: what must hold at the end of every simulated run, and the fewest faults that break it."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from streamproc.errors import StreamprocError
from streamproc.runtime.verify import verify
from streamproc.testing.simulation.case import Case, payloads
from streamproc.testing.simulation.faults import Fault, chosen
from streamproc.testing.simulation.log import SimulatedLog
from streamproc.testing.simulation.process import Failure
from streamproc.testing.simulation.scene import Scene
from streamproc.testing.simulation.world import World

VARIANTS: Final = 12
"""So many different inputs are shared out over the seeds."""
_USUAL_CALLS: Final = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed.

    finding  what was wrong, None for nothing
    fired    kinds of the faults that struck, and what was wrong with the input
    loud     the error with which the run stopped because its input was gone: that is as it must be
    digest   a hash of all that happened
    """

    seed: int
    faults: tuple[Fault, ...]
    finding: str | None
    fired: frozenset[str]
    loud: str | None
    digest: str
    requests: tuple[str, ...]
    trace: tuple[tuple[int, str, str], ...]


def simulate(case: Case, seed: int, faults: Sequence[Fault] | None = None) -> Outcome:
    """Runs one seed of a case; the faults are the seed's own unless others are given."""
    variant = case.variant(seed % VARIANTS)
    if faults is None:
        faults = chosen(random.Random(seed ^ 0x5EED), _USUAL_CALLS)
    scene = Scene(case, variant, seed)
    world = World(scene, faults)
    finding: str | None = None
    try:
        world.run()
        finding = verdict(world)
    except Failure as failure:
        finding = str(failure)
    except StreamprocError as error:
        finding = f"{type(error).__name__}: {error}"
    fired = frozenset(fault.kind for fault in world.fired) | variant.inputs.flags
    return Outcome(
        seed,
        tuple(faults),
        finding,
        fired,
        None if world.loud is None else str(world.loud),
        scene.digest(),
        tuple(scene.requests),
        tuple(scene.trace),
    )


def verdict(world: World) -> str | None:
    """What is wrong at the end of a run, None for nothing."""
    case, log = world.case, SimulatedLog(world.cluster)
    world.cluster.advance(10_000_000)
    world.reader.look()
    unstable = world.reader.finding()
    if unstable is not None:
        return unstable
    found = payloads(log, case.compared, case.binding.names.dead_letters)
    for topic in case.compared:
        then, now = world.scene.variant.payloads[topic], found[topic]
        more = now - then
        less = then - now
        if more or (less and world.loud is None):
            return f"'{topic}': {more.total()} rows too many, {less.total()} are missing, of {then.total()}"
    if world.loud is not None:
        return None
    for stage, count in zip(case.binding.stages, case.binding.tasks, strict=True):
        committed = log.committed(case.binding.names.group(stage.stage.index))
        for index in range(count):
            for channel in stage.channels(index, case.binding.partitions):
                place = channel.place
                if place in world.scene.ends and world.cluster.partitions[place].has_record(committed.get(place, 0)):
                    return f"{place.topic}-{place.partition} is committed up to {committed.get(place)} and has more"
    for told in verify(case.binding, log).findings:
        if not ((world.scene.trimmed or world.scene.input_lost) and "gone" in told.what):
            return f"verify: {told.place}: {told.what}"
    return None


def shrunk(case: Case, outcome: Outcome) -> Outcome:
    """The same seed with the fewest faults that still fail: each is left out if the run fails without it."""
    best = outcome
    left = list(outcome.faults)
    for fault in outcome.faults:
        fewer = [other for other in left if other is not fault]
        tried = simulate(case, outcome.seed, fewer)
        if tried.finding is not None:
            left, best = fewer, tried
    return best


def told(outcome: Outcome, *, last: int = 25) -> str:
    """A failure in words: seed, faults, finding, the last requests before the end."""
    lines = [f"seed {outcome.seed}: {outcome.finding}", f"faults: {', '.join(map(str, outcome.faults)) or 'none'}"]
    lines += [f"{at / 1e6:10.3f} s  {who:8} {what}" for at, who, what in outcome.trace[-last:]]
    return "\n".join(lines)


@contextmanager
def quick() -> Iterator[None]:
    """Turns the cyclic collector off around many runs: what each leaves is collected between them, what was there
    before is not looked at."""
    collecting = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
