"""The command `streamproc`: verbs, loaded when they are used, and one way to fail.

Exit 0: fine. Exit 1: a finding (a replay that diverges, a difference, a failed check). Exit 2: misuse, or something
that cannot be used. Answers go to stdout, everything else to stderr. A user's mistake never shows a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

_VERBS: Final = {
    "anonymity": ("streamproc.cli.anonymity:anonymity", "Count how few persons share what topics say of them."),
    "audit-features": ("streamproc.cli.audit_features:audit_features_command", "Try whether features look ahead."),
    "check": ("streamproc.cli.check:check", "Plan a topology and say what is wrong with it; runs nothing."),
    "contracts": ("streamproc.cli.contracts:contracts", "List, register and check contracts."),
    "demo": ("streamproc.cli.demo:demo", "Run the retail story, score it by the truth, replay it, prove both equal."),
    "describe": ("streamproc.cli.check:describe", "Show stages, steps, schemas and topics of a topology."),
    "diff": ("streamproc.cli.diff:diff", "Compare two topics or files, row by row."),
    "dlq": ("streamproc.cli.dlq:dlq", "List, show and replay dead letters."),
    "drain": ("streamproc.cli.control:drain", "End a version of a topology at one place, with nothing half done."),
    "explain": ("streamproc.cli.explain:explain", "Make a decision again from its log, and say why it is so."),
    "explain-match": ("streamproc.cli.linkage:explain_match", "Say why two records match, weight by weight."),
    "freshness": ("streamproc.cli.freshness:freshness", "Say how late rows came, against what contracts promise."),
    "judge-linkage": ("streamproc.cli.linkage:judge_linkage", "Hold entities against a known truth."),
    "lineage": ("streamproc.cli.lineage:lineage", "Say which source columns each written column is made of."),
    "manifest": ("streamproc.cli.manifest:manifest", "Write a compose file and Kubernetes manifests."),
    "model": ("streamproc.cli.model:model", "Keep, compare, rebuild, export and retrain models."),
    "pause": ("streamproc.cli.control:pause", "Let the workers of a topology rest."),
    "plot": ("streamproc.cli.plot:plot", "Draw what learners are worth, and how reliable their chances are."),
    "produce": ("streamproc.cli.produce:produce", "Write a file's rows to a topic."),
    "react": ("streamproc.cli.react:react", "Run handlers on topics of decisions and alerts."),
    "replay": ("streamproc.cli.replay:replay", "Run history again: as recorded, or afresh by event time."),
    "rescale": ("streamproc.cli.upgrade:rescale", "Let a new version go on after the sources' partitions changed."),
    "resume": ("streamproc.cli.control:resume", "Let the workers of a topology go on."),
    "review": ("streamproc.cli.review:review", "Show, claim and answer cases that wait for a person."),
    "run": ("streamproc.cli.run:run", "Run a topology as a worker."),
    "scope": ("streamproc.cli.scope:scope", "Hold what a topology reads, writes and does against what was locked."),
    "simulate": ("streamproc.cli.simulate:simulate", "Run a topology under random faults; results must be exact."),
    "subscribe": ("streamproc.cli.subscribe:subscribe", "Print a topic's rows as JSON lines."),
    "topics": ("streamproc.cli.topics:topics", "List the topics of the log."),
    "training-set": (
        "streamproc.cli.training_set:training_set_command",
        "Replay features and join them with labels.",
    ),
    "train-linkage": ("streamproc.cli.linkage:train_linkage", "Learn from records which ones speak of the same."),
    "upgrade": ("streamproc.cli.upgrade:upgrade", "Let a new version take over where an older one was drained."),
    "verify": ("streamproc.cli.verify:verify", "Hold the log against the journal."),
    "why": ("streamproc.cli.why:why", "Name the source records behind one record of a sink."),
}


class _Verbs(click.Group):
    """Knows its commands by name and loads one when it is called: `--help` must not import an engine."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, _, name = _VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            from streamproc.errors import did_you_mean

            raise click.UsageError(f"there is no command '{args[0]}'; {did_you_mean(args[0], _VERBS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of a pipe has gone: what it wanted, it has. Python would complain once more when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_VERBS.items())])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="streamproc", prog_name="streamproc")
def cli() -> None:
    """Event processing over durable logs: exact, replayable, one topology for live and history.

    Begin with 'streamproc demo'. A TOPOLOGY is module:name or path/to/file.py:name; the name may be left out where the
    file has one topology.
    """


def run(args: Sequence[str]) -> int:
    """Runs one command line, without the program's name; gives the exit code."""
    from streamproc.errors import StreamprocError, VerificationError

    try:
        code: object = cli.main(args=list(args), prog_name="streamproc", standalone_mode=False)
    except click.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as misuse:
        misuse.show()
        return 2
    except StreamprocError as refused:
        click.echo(f"{type(refused).__name__}: {refused}", err=True)
        return 1 if isinstance(refused, VerificationError) else 2
    # Outside its standalone mode, click gives back the code of ctx.exit() and of --help; commands give nothing back.
    return code if isinstance(code, int) else 0


def main() -> None:
    """Runs the command line of this process; gives it its exit code."""
    # One worker is one core: more workers share the tasks. Polars' pool of threads costs more than it gives on frames
    # of some ten thousand rows (measured: 1.4 times the time). It must be said before anything imports Polars.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    sys.exit(run(sys.argv[1:]))
