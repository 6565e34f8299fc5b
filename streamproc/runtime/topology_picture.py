"""A topology as a picture: sources, stages and topics from left to right, and how many rows went along each line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Final

from streamproc.planning.plan import Plan, Stage

_WIDE, _HIGH, _GAP, _SIDE = 190, 34, 10, 60
_FILL: Final = {"source": "#e7eef7", "stage": "#f3efe2", "sink": "#e6f2ea"}
_STEPS_NAMED: Final = 12
_QUIET: Final = frozenset(
    {"select", "where", "with_columns", "rename", "drop", "union", "key_by", "explode", "ordered"}
)
"""Steps that a stage is not named after, if it has others."""


@dataclass(frozen=True, slots=True)
class _Box:
    kind: str
    title: str
    below: str
    told: str


@dataclass(frozen=True, slots=True)
class _Line:
    start: str
    end: str
    rows: int | None
    told: str


def topology_picture(plan: Plan, rows: Mapping[str, int], *, seconds: float = 0.0, title: str = "") -> str:
    """An SVG of a plan, which needs nothing beside itself.

    rows   how many rows came in by each source and each edge, by name, and how many lie in each sink's topic; what is
           not there is drawn without a number
    seconds  how long that took: lines then say rows a second too
    """
    boxes, lines, columns = _boxes(plan, rows)
    tallest = max(len(column) for column in columns)
    height = 60 + tallest * (_HIGH + _GAP)
    width = len(columns) * (_WIDE + _SIDE) - _SIDE + 40
    places: dict[str, tuple[float, float]] = {}
    for number, column in enumerate(columns):
        free = height - 50 - len(column) * (_HIGH + _GAP)
        for row, name in enumerate(column):
            places[name] = (20.0 + number * (_WIDE + _SIDE), 40.0 + free / 2 + row * (_HIGH + _GAP))
    parts = [f'<text x="20" y="22" font-size="15">{escape(title or plan.topology.name)}</text>']
    parts += [_drawn_line(line, places, seconds) for line in lines]
    parts += [_drawn_box(boxes[name], *places[name]) for column in columns for name in column]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def _boxes(plan: Plan, rows: Mapping[str, int]) -> tuple[dict[str, _Box], list[_Line], list[list[str]]]:
    depth = _depths(plan.stages)
    boxes: dict[str, _Box] = {}
    lines: list[_Line] = []
    columns: list[list[str]] = [[] for _ in range(max(depth.values()) + 3)]
    for node in plan.sources:
        key = f"source {node.name}"
        boxes[key] = _Box("source", node.name, _counted(rows.get(node.name)), f"source {node.name}")
        columns[0].append(key)
    for stage in plan.stages:
        key = f"stage {stage.index}"
        steps = [node.name for node in stage.nodes if node.inputs]
        shown = ", ".join(steps[:_STEPS_NAMED]) + (", ..." if len(steps) > _STEPS_NAMED else "")
        telling = [node.name for node in stage.nodes if node.inputs and node.operator.verb not in _QUIET]
        boxes[key] = _Box(
            "stage", f"stage {stage.index}" + (f": {telling[0]}" if telling else ""), f"{len(steps)} steps",
            f"stage {stage.index}: {shown}",
        )  # fmt: skip
        columns[1 + depth[stage.index]].append(key)
        for one in stage.inputs:
            start = f"stage {one.edge.from_stage}" if one.edge is not None else f"source {one.name}"
            lines.append(_Line(start, key, rows.get(one.name), one.name))
        for sink in stage.sinks:
            boxes[f"sink {sink.name}"] = _Box("sink", sink.topic, _counted(rows.get(sink.topic)), f"topic {sink.topic}")
            columns[-1].append(f"sink {sink.name}")
            lines.append(_Line(key, f"sink {sink.name}", rows.get(sink.topic), sink.topic))
    return boxes, [line for line in lines if line.start in boxes], [column for column in columns if column]


def _depths(stages: Sequence[Stage]) -> dict[int, int]:
    """How many changes of key lie before each stage, by the longest way."""
    depth: dict[int, int] = {}
    for stage in stages:
        before = [depth[one.edge.from_stage] + 1 for one in stage.inputs if one.edge is not None]
        depth[stage.index] = max(before, default=0)
    return depth


def _drawn_box(box: _Box, x: float, y: float) -> str:
    name = box.title if len(box.title) <= 28 else box.title[:27] + "…"
    return (
        f'<g><title>{escape(box.told)}</title><rect x="{x:.0f}" y="{y:.1f}" width="{_WIDE}" height="{_HIGH}" rx="4" '
        f'fill="{_FILL[box.kind]}" stroke="#8a8a8a"/><text x="{x + 8:.0f}" y="{y + 14:.1f}">{escape(name)}</text>'
        f'<text x="{x + 8:.0f}" y="{y + 28:.1f}" fill="#555">{escape(box.below)}</text></g>'
    )


def _drawn_line(line: _Line, places: Mapping[str, tuple[float, float]], seconds: float) -> str:
    (x, y), (to_x, to_y) = places[line.start], places[line.end]
    x, y, to_y = x + _WIDE, y + _HIGH / 2, to_y + _HIGH / 2
    thick = 1.0 if not line.rows else 0.8 + 0.6 * log10(1 + line.rows)
    middle = (x + to_x) / 2
    told = line.told
    if line.rows is not None:
        told += f": {_counted(line.rows)}" + (f", {line.rows / seconds:,.0f} a second" if seconds else "")
    return (
        f'<path d="M{x:.0f},{y:.1f} C{middle:.0f},{y:.1f} {middle:.0f},{to_y:.1f} {to_x:.0f},{to_y:.1f}" fill="none" '
        f'stroke="#8aa0b8" stroke-opacity="0.7" stroke-width="{thick:.1f}"><title>{escape(told)}</title></path>'
    )


def _counted(rows: int | None) -> str:
    return "" if rows is None else f"{rows:,} rows"
