"""Pictures of what learners report, as SVG that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import polars as pl

from streamproc.errors import InputError, did_you_mean
from streamproc.learning.calibration import CALIBRATION
from streamproc.learning.evaluation import METRICS

FIGURES: Final = ("brier", "log_loss", "auc", "accuracy", "kappa_temporal", "mae", "rmse")
"""Columns of the metrics that can be drawn."""
_COLOURS: Final = ("#1f5fa8", "#c25a17", "#2a7f4f", "#8a4fa0", "#b23b3b", "#6b6b6b", "#a08a12", "#2b8f9e")
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 760, 420, 70, 40, 590, 370


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: its points, in order."""

    name: str
    points: tuple[tuple[float, float], ...]


def metrics_picture(rows: pl.DataFrame, *, figure: str = "brier", delay: str = "label", segment: str = "") -> str:
    """How good each contender was over all labels so far, at each report: rows of a side "metrics" of one task.

    figure  one of `FIGURES`; delay: "label" or "zero"; segment: one of the rows', "" for all rows together

    Raises InputError where nothing can be drawn.
    """
    require_reports(rows, "metrics")
    if figure not in FIGURES:
        raise InputError(f"the metrics have no figure '{figure}'", hint=did_you_mean(figure, FIGURES))
    known = rows["segment"].drop_nulls().unique().sort().to_list()
    if segment and segment not in known:
        raise InputError(f"the metrics have no segment '{segment}'", hint=did_you_mean(segment, known))
    of = pl.col("segment") == segment if segment else pl.col("segment").is_null()
    there = rows.filter(of & (pl.col("delay") == delay) & pl.col(figure).is_not_null()).sort("labels")
    lines = [
        Line(name, tuple(part.select(pl.col("labels").cast(pl.Float64), figure).rows()))
        for (name,), part in there.group_by("contender", maintain_order=True)
    ]
    said = f"{figure}, {'as scored' if delay == 'label' else 'asked again at the label'}"
    return line_chart(lines, title=f"{said}{f', {segment}' if segment else ''}", x="labels", y=figure)


def reliability_picture(rows: pl.DataFrame, *, segment: str = "") -> str:
    """What was true where a chance was said, in tenths, over all labels of the last report: a side "calibration".

    Raises InputError where nothing can be drawn.
    """
    require_reports(rows, "calibration")
    known = rows["segment"].drop_nulls().unique().sort().to_list()
    if segment and segment not in known:
        raise InputError(f"the reports have no segment '{segment}'", hint=did_you_mean(segment, known))
    there = rows.filter(pl.col("segment") == segment if segment else pl.col("segment").is_null())
    last = there.filter(pl.col("labels") == pl.col("labels").max())
    lines = []
    for name, error, counts, said, true in last.select(
        "contender", "ece", "bin_n", "bin_score", "bin_true"
    ).iter_rows():
        points = tuple((x, y) for n, x, y in zip(counts, said, true, strict=True) if n)
        lines.append(Line(f"{name} (ECE {error:.3f})", points))
    title = f"reliability{f', {segment}' if segment else ''}"
    return line_chart(lines, title=title, x="chance that was said", y="share that was true", unit=True)


def line_chart(lines: Sequence[Line], *, title: str, x: str, y: str, unit: bool = False) -> str:
    """An SVG of lines over two axes.

    unit  both axes go from 0 to 1, with the diagonal

    Raises InputError where there is no point.

    >>> line_chart([Line("a", ((0.0, 1.0), (10.0, 2.0)))], title="t", x="n", y="v").count("<polyline")
    1
    """
    every = [point for line in lines for point in line.points if math.isfinite(point[0]) and math.isfinite(point[1])]
    if not every:
        raise InputError("there is nothing to draw", hint="reports come every so many labels: see report= of sp.learn")
    xs, ys = [(0.0, 1.0)] * 2 if unit else [_padded([point[axis] for point in every]) for axis in (0, 1)]

    def across(value: float) -> float:
        return _LEFT + (value - xs[0]) / (xs[1] - xs[0]) * (_RIGHT - _LEFT)

    def down(value: float) -> float:
        return _BOTTOM - (value - ys[0]) / (ys[1] - ys[0]) * (_BOTTOM - _TOP)

    parts = [f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>']
    for tick in _ticks(*xs):
        at = across(tick)
        parts.append(f'<line x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{_BOTTOM}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{at:.1f}" y="{_BOTTOM + 16}" text-anchor="middle">{_number(tick)}</text>')
    for tick in _ticks(*ys):
        at = down(tick)
        parts.append(f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{_RIGHT}" y2="{at:.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    if unit:
        ends = f'x1="{_LEFT}" y1="{_BOTTOM}" x2="{_RIGHT}" y2="{_TOP}"'
        parts.append(f'<line {ends} stroke="#999" stroke-dasharray="4 4"/>')
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn = " ".join(f"{across(a):.1f},{down(b):.1f}" for a, b in line.points if math.isfinite(a + b))
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        for a, b in line.points if len(line.points) <= 50 else line.points[-1:]:
            told = f"<title>{escape(line.name)}: {a:g}, {b:.4g}</title>"
            parts.append(f'<circle cx="{across(a):.1f}" cy="{down(b):.1f}" r="2.5" fill="{colour}">{told}</circle>')
        at = _TOP + 8 + 18 * number
        parts.append(f'<rect x="{_RIGHT + 14}" y="{at - 4}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{_RIGHT + 34}" y="{at + 2}">{escape(line.name)}</text>')
    parts.append(f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 36}" text-anchor="middle">{escape(x)}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 6}">{escape(y)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def require_reports(rows: pl.DataFrame, side: str) -> None:
    """Raises InputError for rows that are no reports of a learner's side, "metrics" or "calibration"."""
    names = METRICS.names if side == "metrics" else CALIBRATION.names
    missing = [name for name in names if name not in rows.columns]
    if missing:
        raise InputError(
            f"these are no reports of a side '{side}': they have no '{missing[0]}'",
            hint=f"a sink with stream.side('{side}'), its topic named here",
        )


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Some five round numbers within."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * times for times in (1, 2, 5, 10) if size * times >= rough)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
