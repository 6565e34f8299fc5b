"""Which columns somebody reads: found from the sinks up, so that a source decodes and an edge carries only those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from streamproc.contracts.model import Schema
from streamproc.errors import InvalidSchema, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.graph import Source
from streamproc.planning.carried import carriage
from streamproc.planning.plan import Edge, Node, Port, type_of
from streamproc.planning.sinks import forwarded_source
from streamproc.planning.topology import Sink
from streamproc.planning.walk import Lookup


def needed_columns(
    nodes: list[Node], leaves: Mapping[str, tuple[Sink, Port]], contract: Lookup
) -> tuple[list[Node], dict[Port, frozenset[str]]]:
    """The nodes with `columns` of the sources set, and what is needed of each port.

    Raises UnknownColumn for a step that reads what its input does not have.
    """
    needed: dict[Port, frozenset[str]] = {}

    def add(port: Port, columns: frozenset[str]) -> None:
        needed[port] = needed.get(port, frozenset()) | columns

    for sink, (leaf, port) in leaves.items():
        # A record's own bytes leave without any column of it.
        forwards = forwarded_source(nodes, sink, leaf, port, contract) is not None
        add(port, frozenset(leaf.key or ()) if forwards else frozenset(type_of(nodes, port).schema.names))
    out = list(nodes)
    for node in reversed(nodes):
        rows = needed.get((node.rank, "rows"), frozenset())
        if isinstance(node.origin, Source):
            out[node.rank] = replace(node, columns=rows | {node.origin.event_time, *(node.type.keyed_by or ())})
            continue
        schemas = [type_of(nodes, port).schema for port in node.inputs]
        reads = node.origin.reads(rows, *schemas)
        late = needed.get((node.rank, "late"), frozenset())
        for position, (port, columns) in enumerate(zip(node.inputs, reads, strict=True)):
            wanted = columns | (late if position == 0 else frozenset())
            unknown = wanted - frozenset(schemas[position].names)
            if unknown:
                raise UnknownColumn(
                    f"step '{node.name}' reads {', '.join(map(repr, sorted(unknown)))}",
                    hint=did_you_mean(min(unknown), schemas[position].names),
                )
            # Rows that are only counted need a column too: a frame without one has no height.
            add(port, wanted or frozenset(schemas[position].names[:1]))
    return out, needed


def narrowed(edge: Edge, needed: frozenset[str]) -> Edge:
    """The edge with the columns that somebody below it reads, and its key.

    Raises TypeMismatch for a column that cannot travel.
    """
    kept = needed | frozenset(edge.type.keyed_by or ())
    schema = Schema(tuple(column for column in edge.type.schema if column.name in kept))
    for column in schema:
        try:
            carriage(Schema((column,)))
        except (TypeMismatch, InvalidSchema) as problem:
            raise TypeMismatch(
                f"rows go to other tasks behind step '{edge.name.rpartition('.s')[0]}', and '{column.name}' of type "
                f"{column.dtype} cannot travel",
                hint=f"drop it before, or {problem.hint}",
            ) from None
    return replace(edge, type=replace(edge.type, schema=schema))
