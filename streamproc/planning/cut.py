"""Cutting the graph into stages: what is connected without a change of key runs together."""

from __future__ import annotations

from dataclasses import replace

from streamproc.graph import Source
from streamproc.planning.plan import Edge, Node, PlannedSink, Port, Stage, StageInput, type_of


def cut(nodes: list[Node]) -> tuple[list[Node], list[Edge]]:
    """The nodes with their stages, and the edges between stages.

    Nodes of one level that are connected are one stage. Rows cross an edge below a change of key, and where a step
    reads a stream that lies at another level.
    """
    parent = list(range(len(nodes)))

    def find(rank: int) -> int:
        while parent[rank] != rank:
            rank = parent[rank]
        return rank

    crossing: list[tuple[Port, int]] = []
    for node in nodes:
        for port in node.inputs:
            # Below a change of key a node lies deeper, so that this is a crossing too.
            if nodes[port[0]].level != node.level:
                crossing.append((port, node.rank))
            else:
                a, b = find(port[0]), find(node.rank)
                parent[max(a, b)] = min(a, b)
    # A key_by whose rows only leave through a sink is not cut: the sink's key does the same.
    roots = sorted({find(node.rank) for node in nodes}, key=lambda root: (nodes[root].level, root))
    index = {root: number for number, root in enumerate(roots)}
    staged = [replace(node, stage=index[find(node.rank)]) for node in nodes]
    edges: dict[tuple[Port, int], Edge] = {}
    for port, reader in crossing:
        above, to_stage = staged[port[0]], staged[reader].stage
        # Several upstream tasks meet below: neither order nor the place of a row survives.
        kind = replace(type_of(nodes, port), ordered=False, placed_by=None)
        name = f"{above.name}{'' if port[1] == 'rows' else '.late'}.s{to_stage}"
        # Rows with a key go where their key's bytes say, also where their key stays: stages may differ in tasks.
        rekeyed = kind.keyed_by is not None
        edges.setdefault((port, to_stage), Edge(name, port, above.stage, to_stage, kind, rekeyed))
    return staged, list(edges.values())


def stages_of(nodes: list[Node], edges: list[Edge], sinks: list[PlannedSink]) -> tuple[Stage, ...]:
    """The stages with all that enters and leaves them, upstream stages first."""
    out = []
    back: list[bool] = []  # Of each stage, whether all that it reads is feedback.
    for index in range(max(node.stage for node in nodes) + 1):
        members = tuple(node for node in nodes if node.stage == index)
        inputs: list[StageInput] = []
        for node in members:
            if isinstance(node.origin, Source):
                inputs.append(StageInput(node.name, (node.rank, "rows"), None, node, node.type))
        incoming = [edge for edge in edges if edge.to_stage == index]
        inputs += [StageInput(edge.name, edge.port, edge, None, edge.type) for edge in incoming]
        fed = [_is_feedback(inlet, back) for inlet in inputs]
        back.append(all(fed))
        if not all(fed):
            inputs = [replace(inlet, outside=known) for inlet, known in zip(inputs, fed, strict=True)]
        out.append(
            Stage(
                index,
                tuple(inputs),
                members,
                tuple(s for s in sinks if s.stage == index),
                tuple(edge for edge in edges if edge.from_stage == index),
                single=any(edge.type.keyed_by == () for edge in incoming),
            )
        )
    return tuple(out)


def _is_feedback(inlet: StageInput, back: list[bool]) -> bool:
    if inlet.edge is not None:
        return back[inlet.edge.from_stage]
    return inlet.source is not None and isinstance(inlet.source.origin, Source) and inlet.source.origin.feedback
