"""The circuit breaker: one probe, whoever calls, whatever hangs, whoever restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.runtime.reactions.breaker import BreakerOpen, BreakerState, CircuitBreaker, Permit
from streamproc.runtime.reactions.definition import Breaker

SETTINGS = Breaker(failures=0.5, window=10, at_least=4, wait="10s", longest_wait="35s", probe_timeout="5s", slow="2s")
SECOND = 1_000_000


class World:
    """A clock that a test sets, and a store of states, slow as a log is."""

    def __init__(self) -> None:
        self.now = 1_000 * SECOND
        self.stored: list[BreakerState] = []
        self.fails = False

    def breaker(self, state: BreakerState | None = None, settings: Breaker = SETTINGS) -> CircuitBreaker:
        return CircuitBreaker("till", settings, save=self.save, now_us=lambda: self.now, state=state)

    async def save(self, name: str, state: BreakerState) -> None:
        assert name == "till"
        await asyncio.sleep(0.01)
        if self.fails:
            raise OSError("no disk")
        self.stored.append(state)

    async def calls(self, breaker: CircuitBreaker, *answers: bool) -> None:
        for succeeded in answers:
            await breaker.leave(await breaker.enter(), succeeded=succeeded)


@pytest.fixture
def world() -> World:
    return World()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def refused(breaker: CircuitBreaker) -> int:
    with pytest.raises(BreakerOpen) as caught:
        await breaker.enter()
    return caught.value.until


def test_it_opens_at_the_share_of_failures_and_not_before_enough_calls(world: World) -> None:
    async def scenario() -> None:
        breaker = world.breaker()
        await world.calls(breaker, False, False, False)
        assert breaker.state.state == "closed"
        await world.calls(breaker, True)
        assert breaker.state.state == "open"
        assert await refused(breaker) == breaker.state.until
        assert 9 * SECOND <= breaker.state.until - world.now <= 11 * SECOND
        assert world.stored == [breaker.state]

    run(scenario())


def test_slow_calls_count_as_failures(world: World) -> None:
    async def scenario() -> None:
        breaker = world.breaker()
        for _ in range(4):
            permit = await breaker.enter()
            world.now += 3 * SECOND
            await breaker.leave(permit, succeeded=True)
        assert breaker.state.state == "open"

    run(scenario())


async def opened(world: World) -> CircuitBreaker:
    breaker = world.breaker()
    await world.calls(breaker, False, False, False, False)
    assert breaker.state.state == "open"
    return breaker


def test_of_a_thousand_callers_exactly_one_is_the_probe_and_its_state_is_stored_first(world: World) -> None:
    async def scenario() -> None:
        breaker = await opened(world)
        world.now = breaker.state.until
        probes: list[Permit] = []

        async def call() -> bool:
            try:
                permit = await breaker.enter()
            except BreakerOpen:
                return False
            assert world.stored[-1].state == "half_open"
            probes.append(permit)
            await asyncio.sleep(0.05)
            return True

        answers = await asyncio.gather(*(call() for _ in range(1_000)))
        assert sum(answers) == len(probes) == 1
        assert sum(state.state == "half_open" for state in world.stored) == 1
        await breaker.leave(probes[0], succeeded=True)
        assert breaker.state.state == "closed"
        assert sum(await asyncio.gather(*(call_closed(breaker) for _ in range(1_000)))) == 1_000

    run(scenario())


async def call_closed(breaker: CircuitBreaker) -> bool:
    await breaker.leave(await breaker.enter(), succeeded=True)
    return True


def test_a_probe_that_hangs_has_failed_after_its_time_and_the_next_one_goes_out(world: World) -> None:
    async def scenario() -> None:
        breaker = await opened(world)
        world.now = breaker.state.until
        hung = await breaker.enter()
        world.now += 5 * SECOND - 1
        await refused(breaker)
        assert breaker.state.state == "half_open"
        world.now += 1
        until = await refused(breaker)
        assert breaker.state.state == "open"
        world.now = until
        second = await breaker.enter()
        # The first one answers after all: it neither closes nor opens anything any more.
        await breaker.leave(hung, succeeded=True)
        assert breaker.state.state == "half_open"
        await breaker.leave(second, succeeded=True)
        assert breaker.state.state == "closed"

    run(scenario())


def test_waits_double_up_to_the_longest(world: World) -> None:
    async def scenario() -> None:
        breaker = await opened(world)
        waits = []
        for _ in range(4):
            waits.append((breaker.state.until - world.now) / SECOND)
            world.now = breaker.state.until
            await breaker.leave(await breaker.enter(), succeeded=False)
        for wait, expected in zip(waits, (10, 20, 35, 35), strict=True):
            assert 0.9 * expected <= wait <= 1.1 * expected

    run(scenario())


def test_a_restart_finds_the_state_that_was_stored(world: World) -> None:
    async def scenario() -> None:
        breaker = await opened(world)
        again = world.breaker(world.stored[-1])
        assert await refused(again) == breaker.state.until
        world.now = breaker.state.until
        await again.enter()
        # It dies with the probe out: the next one sends none until that one's time is over.
        third = world.breaker(world.stored[-1])
        await refused(third)
        world.now += 5 * SECOND
        world.now = await refused(third)
        await third.leave(await third.enter(), succeeded=True)
        assert world.breaker(world.stored[-1]).state.state == "closed"

    run(scenario())


def test_no_probe_goes_out_whose_state_was_not_stored(world: World) -> None:
    async def scenario() -> None:
        breaker = await opened(world)
        world.now = breaker.state.until
        world.fails = True
        with pytest.raises(OSError, match="no disk"):
            await breaker.enter()
        world.fails = False
        assert (await breaker.enter()).probe == 1

    run(scenario())


def test_a_clock_that_was_set_back_does_not_hold_it_open(world: World) -> None:
    async def scenario() -> None:
        breaker = await opened(world)
        world.now -= 500 * SECOND
        assert (await breaker.enter()).probe == 1

    run(scenario())


def test_a_call_from_before_it_opened_says_nothing_about_later(world: World) -> None:
    async def scenario() -> None:
        breaker = world.breaker()
        old = [await breaker.enter() for _ in range(4)]
        await world.calls(breaker, False, False, False, False)
        world.now = breaker.state.until
        await breaker.leave(await breaker.enter(), succeeded=True)
        for permit in old:
            await breaker.leave(permit, succeeded=False)
        assert breaker.state.state == "closed"

    run(scenario())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["enter", "fine", "fail", "restart"]), st.integers(0, 12)), max_size=60))
def test_whatever_happens_no_two_probes_are_within_their_time(steps: list[tuple[str, int]]) -> None:
    world = World()
    earliest = 0

    async def scenario() -> None:
        nonlocal earliest
        stored = [BreakerState("open", world.now, world.now + SECOND, 10 * SECOND)]

        async def save(name: str, state: BreakerState) -> None:
            stored.append(state)

        def made() -> CircuitBreaker:
            return CircuitBreaker("till", SETTINGS, save=save, now_us=lambda: world.now, state=stored[-1])

        breaker, out = made(), []
        for step, seconds in steps:
            world.now += seconds * SECOND
            if step == "enter":
                try:
                    out.append(await breaker.enter())
                except BreakerOpen as refusal:
                    assert refusal.until >= world.now or breaker.state.state == "half_open"
                    continue
                if out[-1].probe:
                    assert world.now >= earliest, "an older probe may still be out, or has just failed"
                    earliest = world.now + 5 * SECOND
            elif step == "restart":
                breaker, out = made(), []
            elif out:
                permit, before = out.pop(0), breaker.state
                await breaker.leave(permit, succeeded=step == "fine")
                if permit.probe and breaker.state != before:
                    earliest = 0 if breaker.state.state == "closed" else world.now + 9 * SECOND
            assert breaker.state == stored[-1]

    asyncio.run(scenario())
