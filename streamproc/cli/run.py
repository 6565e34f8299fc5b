"""`run`: one worker, or several processes of them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import click
import orjson

from streamproc.cli.entity_quality import judged_sinks
from streamproc.cli.fates import fates_in, of_sources, read_so_far
from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, progress_bar, seconds_text, watched
from streamproc.cli.run_report import report
from streamproc.cli.stopping import stopping
from streamproc.cli.supervise import CUT_OFF, UNREACHABLE, Supervisor
from streamproc.cli.workspace import load_topology, workspace_options
from streamproc.engine.compiled import SHADOW
from streamproc.entities.quality_curve import QualityAt
from streamproc.errors import LogUnavailable, StreamprocError
from streamproc.event_time import span_us
from streamproc.ports import Log
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.clock import SystemClock
from streamproc.runtime.control import WorkerControl, control_topic, create_control, refuse_held
from streamproc.runtime.first_start import begin, refuse_begun
from streamproc.runtime.future import FutureVerdicts, recorded_verdicts
from streamproc.runtime.memory import amount_bytes, bounded
from streamproc.runtime.offsets import offsets_at, source_places
from streamproc.runtime.replay import source_ends
from streamproc.runtime.telemetry.compiling import beating_while_compiling
from streamproc.runtime.telemetry.gathered import GatheredMetrics, gathered_verdict
from streamproc.runtime.telemetry.metrics import WorkerMetrics
from streamproc.runtime.telemetry.server import UNIX, serving
from streamproc.runtime.telemetry.vital import Vital
from streamproc.runtime.telemetry.worker_telemetry import WorkerTelemetry
from streamproc.runtime.upgrade import refuse_beside_older, refuse_live
from streamproc.runtime.worker import Progress, Worker
from streamproc.runtime.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How a run is looked after: where it answers over HTTP, what time and memory it may take, what it puts up with."""

    http: str | None
    stall_after_s: float
    ready_lag: int | None
    drain_s: float
    crashes: int
    supervised: bool
    accept_divergence: bool
    memory: int | None


def _bytes(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    return None if value is None else amount_bytes(value)


def _seconds(_: click.Context, __: click.Parameter, value: str) -> float:
    return span_us(value) / 1e6


@click.command()
@click.argument("topology")
@click.option(
    "--until-end",
    is_flag=True,
    help="Stop when everything that is in the sources now has been read.  [default: run until stopped]",
)
@click.option(
    "--close",
    is_flag=True,
    help="With --until-end: end time: open windows are released, later rows are late.  [default: leave them open]",
)
@click.option(
    "--from",
    "begin_at",
    metavar="WHERE",
    help="Of a first start: earliest, latest, a moment (2026-11-01T09:30:00Z, as records are stamped), or offsets of "
    "all partitions (payments:0=120,payments:1=99).  [default: earliest]",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the tasks."
)
@click.option("--member", default="", help="The worker's name in its group.  [default: host and number]")
@click.option(
    "--shadow",
    is_flag=True,
    help="Run beside an older version, before the take-over: what it writes goes to <sink>.v<N>, and 'streamproc "
    "upgrade' goes on with its state.  [default: live]",
)
@click.option(
    "--accept-divergence",
    is_flag=True,
    help="Where a step that ran on another processor or with other libraries gives other bytes now: record both "
    "digests and go on.  [default: stop]",
)
@click.option(
    "--no-create", is_flag=True, help="Only check that the topics exist.  [default: create those that it writes]"
)
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    help="Serve /metrics (Prometheus), /health and /ready there; without HOST on 127.0.0.1; port 0 takes a free one "
    "and says which.  [default: off]",
)
@click.option(
    "--stall-after",
    default="60s",
    show_default=True,
    metavar="SPAN",
    callback=_seconds,
    help="/health answers 503 when no turn was completed for so long.",
)
@click.option(
    "--ready-lag",
    type=click.IntRange(0),
    metavar="ROWS",
    help="/ready answers 200 only once the lag was this small.  [default: after the first commit]",
)
@click.option(
    "--drain-timeout",
    default="30s",
    show_default=True,
    metavar="SPAN",
    callback=_seconds,
    help="After SIGTERM a commit and the checkpoints may take so long; then the run is cut off with exit code 124.",
)
@click.option(
    "--crashes",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="With --workers: a worker that crashes so often within ten minutes ends the run with exit code 1.",
)
@click.option(
    "--memory",
    metavar="BYTES",
    callback=_bytes,
    help="One worker may take so much (512MB, 1GiB), state aside: it then reads ahead, and takes into a step, what "
    "fits.  [default: as the binding says, else no bound]",
)
@click.option("--supervised", is_flag=True, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.  [default: text]")
@workspace_options
def run(
    topology: str,
    until_end: bool,
    close: bool,
    begin_at: str | None,
    workers: int,
    member: str,
    shadow: bool,
    accept_divergence: bool,
    no_create: bool,
    http: str | None,
    stall_after: float,
    ready_lag: int | None,
    drain_timeout: float,
    crashes: int,
    memory: int | None,
    supervised: bool,
    as_json: bool,
    workspace: Workspace,
) -> None:
    """Run TOPOLOGY on the log. Ctrl-C or SIGTERM stop it after the current commit; the next run goes on there.

    With --workers N, N processes share the tasks; one that crashes is started again. 'streamproc pause', 'resume' and
    'drain' reach running workers. Where a sink of entity events has a truth, --until-end says how good entities were.
    """
    if close and not until_end:
        raise click.UsageError("--close needs --until-end: a live run never ends time")
    if shadow and close:
        raise click.UsageError("--close ends time: a shadow that takes over must go on")
    if member and workers > 1:
        raise click.UsageError("--member names one worker; with --workers each gets a number")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    upkeep = Upkeep(
        http, stall_after, ready_lag, drain_timeout, crashes, supervised, accept_divergence, memory or workspace.memory
    )
    try:
        code = _run(
            topology, workspace, upkeep, until_end=until_end, close=close, begin_at=begin_at, workers=workers,
            member=member or f"{socket.gethostname()}-0", shadow=shadow, no_create=no_create, as_json=as_json,
        )  # fmt: skip
    except LogUnavailable as error:
        if not supervised:
            raise
        click.echo(f"{type(error).__name__}: {error}", err=True)
        code = UNREACHABLE
    raise click.exceptions.Exit(code)


def _run(
    topology: str,
    workspace: Workspace,
    upkeep: Upkeep,
    *,
    until_end: bool,
    close: bool,
    begin_at: str | None,
    workers: int,
    member: str,
    shadow: bool,
    no_create: bool,
    as_json: bool,
) -> int:
    vital, metrics = Vital(stall_after_s=upkeep.stall_after_s), WorkerMetrics()
    with contextlib.ExitStack() as stack:
        if workers == 1 and upkeep.http is not None:
            # From the beginning: to plan, to compile and to restore is progress too, and may hang.
            stack.enter_context(beating_while_compiling(vital))
            address = stack.enter_context(serving(upkeep.http, metrics.registry, vital.health, vital.ready))
            _tell_address(address)
        stack.enter_context(compiling())
        value = load_topology(topology)
        log = stack.enter_context(workspace.log())
        if shadow:
            refuse_live(value, log)
        elif begin_at is None:
            refuse_beside_older(value, log)
        binding = bind(value, log, workspace.registry(), create=not no_create, run=SHADOW if shadow else "")
        workspace.keep_derived(binding.plan)
        if begin_at is not None:
            refuse_begun(binding, log)
            starts = offsets_at(log, source_places(binding.plan, log), begin_at)
            begin(binding, log, starts, heads={n: {"from": begin_at} for n in range(binding.task_count)})
        control = _control(binding, log, member, create=not no_create and not until_end)
        if control is not None and until_end and not upkeep.supervised:
            refuse_held(control.in_force(), binding.names)
        before = of_sources(fates_in(binding, log), binding.plan)
        if workers > 1:
            said = {
                "--until-end": until_end, "--close": close, "--shadow": shadow, "--no-create": no_create,
                "--accept-divergence": upkeep.accept_divergence,
            }  # fmt: skip
            flags = [flag for flag, on in said.items() if on]
            progress, stopped, code = _processes(workers, topology, [*flags, *workspace.options], upkeep)
        else:
            checkpoints = stack.enter_context(workspace.checkpoints(log, f"{binding.names.prefix}.{member}"))
            ends = source_ends(binding, log) if until_end else None
            done, _ = read_so_far(binding, log)
            total = None if ends is None else sum(ends.values()) - done
            with progress_bar(f"running {binding.names.topology}", total) as update:
                worker = Worker(
                    binding,
                    log,
                    checkpoints=checkpoints,
                    member=member,
                    until_end=ends,
                    close=close,
                    on_commit=(lambda _: update(read_so_far(binding, log)[0] - done)) if watched() else None,
                    observer=WorkerTelemetry(binding, log, checkpoints, vital, metrics, ready_lag=upkeep.ready_lag),
                    control=control,
                    accept_divergence=upkeep.accept_divergence,
                    future=_future(binding, log, everything=shadow or begin_at is not None),
                    most_bytes=None if upkeep.memory is None else bounded(binding, log, upkeep.memory),
                )
                progress, stopped = _work(worker, upkeep)
            code = 0
        ended = until_end and not stopped and not code and not upkeep.supervised and not shadow
        quality = _quality(binding, log) if ended else {}
        report(binding, log, before, progress, quality, as_json=as_json)
        if stopped:
            done, there = read_so_far(binding, log)
            click.echo(
                f"stopped after a commit: {done:,} of {counted(there, 'record')} of its sources are read; "
                f"'streamproc run {topology}{' --shadow' if shadow else ''}' goes on there",
                err=True,
            )
            # A live run ends only so; a run that should have read everything has not.
            return code or (130 if until_end else 0)
        request = control.in_force() if control is not None else None
        if request is not None and request.deed == "drain" and not code:
            click.echo(f"drained, as {request.who} asked for; 'streamproc resume {topology}' takes that back", err=True)
        return code


def _quality(binding: Binding, log: Log) -> dict[str, list[QualityAt]]:
    """How good entities are; a truth that cannot be read takes nothing from a run that is done."""
    try:
        return judged_sinks(binding, log)
    except StreamprocError as error:
        click.echo(f"entities were not held to the truth: {type(error).__name__}: {error}", err=True)
        return {}


def _control(binding: Binding, log: Log, member: str, *, create: bool) -> WorkerControl | None:
    """The worker's side of the control topic; None where there is none and it is not to be made."""
    if create:
        create_control(log, binding.names)
    elif control_topic(binding.names) not in log.topics():
        return None
    return WorkerControl(log, binding.names, member)


def _future(binding: Binding, log: Log, *, everything: bool) -> FutureVerdicts:
    """Who says which records are from the future: this machine's clock, and for a run over history what others said."""
    clock = SystemClock().now_us
    return recorded_verdicts(binding.names.topology, log, clock) if everything else FutureVerdicts(clock)


def _work(worker: Worker, upkeep: Upkeep) -> tuple[Progress, bool]:
    """Runs the worker in this process; a stop that takes too long ends the process."""

    def cut_off() -> None:
        click.echo(
            f"not done after {seconds_text(upkeep.drain_s)}: cut off; the next run does the rest again", err=True
        )
        # The loop hangs, or it would be done: nothing in this process can be waited for. A kill does no harm.
        os._exit(CUT_OFF)

    watchdog = threading.Timer(upkeep.drain_s, cut_off)
    watchdog.daemon = True

    def stop() -> None:
        worker.stop()
        with contextlib.suppress(RuntimeError):  # It runs already: asked twice.
            watchdog.start()

    with _until_orphaned(upkeep.supervised), stopping(stop) as stopped:
        try:
            progress = worker.run()
        finally:
            watchdog.cancel()
    return progress, stopped.asked


@contextlib.contextmanager
def _until_orphaned(supervised: bool) -> Iterator[None]:
    """A supervised worker holds a pipe that nobody writes to: its end means that the supervisor is gone."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1_024):
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    if supervised:
        threading.Thread(target=watch, daemon=True).start()
    yield


def _tell_address(address: str) -> None:
    if not address.startswith(UNIX):
        click.echo(f"metrics, health and readiness on {address}", err=True)


def _processes(workers: int, topology: str, flags: list[str], upkeep: Upkeep) -> tuple[Progress, bool, int]:
    """Runs the workers as processes of their own; gives what they did together, whether they were stopped, the code."""
    names = [f"{socket.gethostname()}-{number}" for number in range(workers)]
    command = [sys.executable, "-m", "streamproc", "run", topology, "--json", "--supervised", *flags]
    command += ["--drain-timeout", f"{upkeep.drain_s:g}s", "--stall-after", f"{upkeep.stall_after_s:g}s"]
    command += [] if upkeep.ready_lag is None else ["--ready-lag", str(upkeep.ready_lag)]
    command += [] if upkeep.memory is None else ["--memory", str(upkeep.memory)]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="streamproc-"))
        sockets = {name: os.path.join(folder, f"{number}.sock") for number, name in enumerate(names)}
        supervisor = Supervisor(
            {name: [*command, "--member", name, "--http", f"{UNIX}{path}"] for name, path in sockets.items()},
            crashes=upkeep.crashes,
            drain_s=upkeep.drain_s,
        )
        if upkeep.http is not None:
            supervisor.registry.register(GatheredMetrics(sockets))
            health, ready = (
                partial(gathered_verdict, page, sockets, supervisor.not_running, supervisor.ages, upkeep.stall_after_s)
                for page in ("/health", "/ready")
            )
            _tell_address(stack.enter_context(serving(upkeep.http, supervisor.registry, health, ready)))
        with stopping(supervisor.stop):
            outcome = supervisor.run()
    together = Progress()
    for answer in outcome.answers:
        if not answer.strip():
            continue
        did = orjson.loads(answer)
        together.steps += did["steps"]
        together.seconds = max(together.seconds, did["seconds"])
        together.restored_steps += did["restored_steps"]
        for topic, rows in did["written"].items():
            together.written[topic] = together.written.get(topic, 0) + rows
    return together, outcome.asked, outcome.code
