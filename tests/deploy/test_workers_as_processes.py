"""Workers as processes under a supervisor: what crashes comes back, what must stop stops, and exit codes say which."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from deployed import answer_of, deployed, within, write_payments

from connectors.embedded import EmbeddedLog
from streamproc.cli.app import run
from streamproc.cli.supervise import pause_before


@pytest.mark.long
def test_a_crash_loop_is_given_up_with_exit_code_1(with_function: Callable[[str], None]) -> None:
    with_function("os.kill(os.getpid(), signal.SIGKILL)")
    with deployed("--workers", "2", "--crashes", "2") as there:
        assert there.ended() == 1
        assert "killed by signal 9, starts again in" in there.said
        assert "killed by signal 9: 2 crashes within 10 min 0 s, giving up" in there.said


def test_a_worker_that_is_used_wrongly_is_not_started_again(filled: Path) -> None:
    assert run(["run", "card_risk.py", "--until-end"]) == 0
    text = (filled / "card_risk.py").read_text()
    (filled / "card_risk.py").write_text(text.replace("> 500", "> 400"))
    with deployed("--workers", "2") as there:
        assert there.ended() == 2
        assert "ForeignFingerprint" in there.said
        assert "starts again" not in there.said
        assert there.said.count("cannot work as it was started") >= 1


@pytest.mark.usefixtures("filled")
def test_a_worker_that_does_not_stop_in_time_is_killed_and_the_exit_code_says_so() -> None:
    with deployed("--workers", "2", "--http", "0", "--drain-timeout", "1s") as there:
        there.is_ready()
        stopped = there.children()[0]
        stopped.suspend()
        began = time.monotonic()
        assert there.stop() == 124
        assert time.monotonic() - began < 60
        assert "was not done after 1.0 s and was killed" in there.said
        assert not stopped.is_running()


def test_one_worker_alone_is_cut_off_too(with_function: Callable[[str], None]) -> None:
    with_function("time.sleep(3_600)")
    with deployed("--http", "0", "--stall-after", "2s", "--drain-timeout", "1s") as there:
        status, told = within(60, "503", lambda: (got := there.facts("/health"))[0] == 503 and got)
        assert (status, told["status"]) == (503, "stalled")
        assert there.facts("/ready")[0] == 503
        assert there.stop() == 124
        assert "not done after 1.0 s: cut off" in there.said


@pytest.mark.long
@pytest.mark.usefixtures("filled")
def test_workers_of_a_supervisor_that_is_killed_drain_and_go() -> None:
    with deployed("--workers", "2", "--http", "0") as there:
        there.is_ready()
        workers = there.children()
        there.process.kill()
        _, alive = psutil.wait_procs(workers, timeout=120)
        assert alive == []
    with deployed("--until-end") as again:
        assert again.ended() == 0, again.said


@pytest.mark.long
@pytest.mark.usefixtures("filled")
def test_a_finite_run_that_loses_a_worker_still_reads_everything(capsys: pytest.CaptureFixture[str]) -> None:
    write_payments(200, 20_000)
    with deployed("--workers", "2", "--until-end", "--close") as there:
        (victim, *_) = within(60, "two workers", lambda: len(c := there.children()) == 2 and c)
        with EmbeddedLog(Path(".streamproc/log.db")) as log:
            within(60, "its first commit", log.groups)
        victim.send_signal(signal.SIGKILL)
        assert there.ended() == 0, there.said
    told = answer_of(capsys, "run", "card_risk.py", "--until-end", "--close")
    assert told["rows"] == 0
    assert told["sources"]["payments"]["in"] == 20_200
    assert run(["replay", "card_risk.py", "--by-event-time", "--must-equal"]) == 0


def test_pauses_double_up_to_half_a_minute_and_differ() -> None:
    least = [min(pause_before(n) for _ in range(50)) for n in range(1, 12)]
    most = [max(pause_before(n) for _ in range(50)) for n in range(1, 12)]
    assert all(0.375 * 2 ** (n) <= low for n, low in enumerate(least[:6]))
    assert all(high <= 0.625 * 2 ** (n) for n, high in enumerate(most[:6]))
    assert all(22.5 <= low < high <= 37.5 for low, high in zip(least[7:], most[7:], strict=True))
