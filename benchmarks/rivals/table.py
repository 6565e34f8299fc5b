"""The figures of a run as tables in Markdown, one for each workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.rivals.contenders import CONTENDERS
from benchmarks.rivals.workloads import WORKLOADS

_HEAD = (
    "| | records | records/s | CPU s per million | of streamproc's | peak MB | exactly once | sums |\n"
    "|---|---|---|---|---|---|---|---|"
)


def markdown(results: Mapping[str, Any]) -> str:
    """A table for each workload that was measured, and below it what became of its goals."""
    return "\n\n".join(_workload(name, results[name]) for name in WORKLOADS if name in results)


def _workload(name: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    ours = [rows[mine]["cpu_s_per_million"] for mine in ("streamproc", "ordered") if _measured(rows.get(mine))]
    lines = [f"**{WORKLOADS[name].title}**\n\n{_HEAD}"]
    for key, contender in CONTENDERS.items():
        row = rows.get(key)
        if row is None:
            continue
        if not _measured(row):
            why = str(row["failed"]).splitlines()[0]
            lines.append(
                f"| {contender.title} | {row.get('records', 0):,} | failed: {why} | | | | {contender.exactly_once} | |"
            )
            continue
        of_ours = f"{row['cpu_s_per_million'] / ours[0]:.1f}x" if ours else ""
        sums = "equal" if row["sums"] == "equal" else "**not equal**"
        lines.append(
            f"| {contender.title} | {row['records']:,} | {row['records_per_second']:,.0f} "
            f"| {row['cpu_s_per_million']:.2f} | {of_ours} | {row['peak_mb']:,.0f} | {contender.exactly_once} "
            f"| {sums} |"
        )
    return "\n".join([*lines, *_verdicts(name, rows)])


def _verdicts(name: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The goals: CPU of the best peer, and of the best in Python, against streamproc's."""
    workload, lines = WORKLOADS[name], []
    peers = {
        key: row["cpu_s_per_million"]
        for key, row in rows.items()
        if key not in ("streamproc", "ordered") and _measured(row) and row["sums"] == "equal"
    }
    for mine in ("streamproc", "ordered"):
        if not _measured(rows.get(mine)):
            continue
        for what, goal, of in (
            ("the best peer", workload.goal, peers),
            ("the best in Python", workload.python_goal, {key: peers[key] for key in peers if CONTENDERS[key].python}),
        ):
            if of:
                best = sorted(of, key=of.__getitem__)[0]
                factor = of[best] / rows[mine]["cpu_s_per_million"]
                verdict = "reached" if factor >= goal else "**not reached**"
                lines.append(
                    f"- {what}, {CONTENDERS[best].title}, needs {factor:.1f}x the CPU of {CONTENDERS[mine].title} "
                    f"(goal {goal:g}x: {verdict})"
                )
    return ["", *lines] if lines else []


def _measured(row: Mapping[str, Any] | None) -> bool:
    return row is not None and "failed" not in row
