"""The parts of telemetry without a process: signs of life, sizes, gathered answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamproc.keys import keys_of
from streamproc.runtime.telemetry.gathered import GatheredMetrics, gathered_verdict
from streamproc.runtime.telemetry.server import UNIX, serving
from streamproc.runtime.telemetry.sizes import state_bytes
from streamproc.runtime.telemetry.vital import Verdict, Vital
from streamproc.state import KeyTable


class Watch:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_progress_for_so_long_a_worker_is_stalled_and_any_progress_mends_it() -> None:
    watch = Watch()
    vital = Vital(stall_after_s=60, monotonic=watch)
    vital.tell("")
    watch.now = 59.9
    assert vital.health().ok
    assert vital.ready().ok
    watch.now = 60.0
    assert vital.health().status == vital.ready().status == "stalled"
    vital.beat()
    assert vital.health().ok


def test_a_log_that_answers_nothing_is_no_progress_and_the_answer_says_why() -> None:
    watch = Watch()
    vital = Vital(stall_after_s=60, monotonic=watch)
    watch.now = 30.0
    vital.troubled("no broker answers")
    assert vital.health().ok
    assert vital.health().status == "troubled"
    watch.now = 60.0
    assert not vital.health().ok
    assert vital.health().facts["trouble"] == "no broker answers"
    vital.beat()
    assert "trouble" not in vital.health().facts


def test_what_a_worker_waits_for_is_why_it_is_not_ready() -> None:
    vital = Vital()
    assert vital.ready() == Verdict(False, "its first turn", vital.ready().facts)
    vital.tell("paused", by="ann", why="broker work")
    assert (vital.ready().status, vital.ready().facts["by"]) == ("paused", "ann")
    assert vital.health().ok


def test_state_is_measured_by_its_arrays_and_shared_ones_count_once() -> None:
    column = np.zeros(1_000, np.float64)
    assert state_bytes({"a": column, "b": (column, column[:10])}) == 8_000
    table = KeyTable()
    few = state_bytes(table)
    table.intern(keys_of(pl.DataFrame({"card": [f"card-{n}" for n in range(10_000)]}), ["card"]))
    assert state_bytes(table) - few > 10_000 * len("card-1234")
    assert state_bytes([None, 1, True, 2.5, "abc"]) == 3


@pytest.fixture
def two_sockets(tmp_path: Path) -> dict[str, str]:
    """Paths of two workers' sockets."""
    return {name: str(tmp_path / f"{name}.sock") for name in ("w-0", "w-1")}


def test_metrics_of_several_workers_are_one_page_with_a_label(two_sockets: dict[str, str]) -> None:
    registries = [CollectorRegistry() for _ in two_sockets]
    for number, registry in enumerate(registries):
        Counter("steps_total", "Steps", ("stage",), registry=registry).labels('a"b\\n').inc(number + 1)
    healthy = Vital().health
    first, second = two_sockets.values()
    with (
        serving(UNIX + first, registries[0], healthy, healthy),
        serving(UNIX + second, registries[1], healthy, healthy),
    ):
        whole = CollectorRegistry()
        whole.register(GatheredMetrics(two_sockets))
        (family,) = [f for f in text_string_to_metric_families(generate_latest(whole).decode()) if f.name == "steps"]
    values = {(s.labels["worker"], s.labels["stage"]): s.value for s in family.samples if s.name == "steps_total"}
    assert values == {("w-0", 'a"b\\n'): 1.0, ("w-1", 'a"b\\n'): 2.0}


def test_one_bad_answer_is_the_answer_of_all_but_a_worker_in_good_hands_is_not_unhealthy(
    two_sockets: dict[str, str],
) -> None:
    def asked(page: str, *, away: dict[str, str], age: float) -> Verdict:
        return gathered_verdict(page, two_sockets, lambda: away, lambda: dict.fromkeys(two_sockets, age), 60.0)

    registry, vital = CollectorRegistry(), Vital()
    vital.tell("")
    with serving(UNIX + two_sockets["w-0"], registry, vital.health, vital.ready):
        assert asked("/health", away={"w-1": "crashed, waits for its restart"}, age=100).ok
        assert not asked("/ready", away={"w-1": "crashed, waits for its restart"}, age=100).ok
        assert asked("/health", away={}, age=5).ok  # w-1 does not listen yet: it is starting.
        assert not asked("/ready", away={}, age=5).ok
        late = asked("/health", away={}, age=61)
        assert (late.ok, late.status) == (False, "w-1: does not answer")
