"""Sinks settled: the contract that each writes, whether records leave as they came, and that its columns fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamproc.contracts.model import Contract, Field, Schema
from streamproc.errors import (
    ContractError,
    DefinitionError,
    DuplicateName,
    InvalidSchema,
    TypeMismatch,
    UnknownColumn,
    did_you_mean,
)
from streamproc.graph import Source
from streamproc.keys import key_kinds
from streamproc.operators.columns import Where
from streamproc.operators.quality.rules import Rules
from streamproc.planning.plan import Node, PlannedSink, Port, type_of
from streamproc.planning.topology import Sink, Topology

Lookup = Callable[[str], Contract]
Derive = Callable[[str, Schema], Contract]


def planned_sink(
    topology: Topology, name: str, leaf: Sink, port: Port, *, nodes: list[Node], contract: Lookup, derive: Derive
) -> PlannedSink:
    """The sink with its contract; raises DefinitionError (UnknownColumn, TypeMismatch) where columns do not fit."""
    kind = type_of(nodes, port)
    # In a table a row that deletes its key leaves as a record without a value, so nothing is left to say of it.
    deletes = kind.schema.deletes if leaf.latest else ""
    written = Schema(tuple(column for column in kind.schema if column.name != deletes))
    source = forwarded_source(nodes, name, leaf, port, contract)
    if source is not None and source.contract is not None:
        settled = source.contract
    elif leaf.contract is None:
        try:
            settled = derive(f"{topology.name}_{name}".replace("-", "_"), written)
        except (TypeMismatch, InvalidSchema) as problem:
            raise type(problem)(f"sink '{name}': {problem.message}", hint=problem.hint) from None
    else:
        settled = _named(name, leaf.contract, contract)
        _check_columns(name, settled, written)
    _check_key(name, leaf.key, kind.schema)
    if leaf.latest and not (leaf.key or (leaf.key is None and kind.keyed_by)):
        raise DefinitionError(
            f"sink '{name}' keeps the newest record of each key, and its records have none",
            hint="give it key=..., or put sp.key_by(...) before it",
        )
    return PlannedSink(
        name,
        port,
        nodes[port[0]].stage,
        leaf.topic or f"{topology.name}.{name}",
        settled,
        leaf.contract is not None,
        source is not None,
        kind,
        leaf.key,
        leaf.identified,
        leaf.latest,
        deletes,
    )


def forwarded_source(nodes: list[Node], sink: str, leaf: Sink, port: Port, contract: Lookup) -> Node | None:
    """The source whose records leave through a sink exactly as they came, or None.

    That is so where only filters lie between, and the sink names the source's contract or none.
    """
    rank, name = port
    while name == "rows":
        node = nodes[rank]
        if node.contract is not None:
            if isinstance(node.origin, Source) and node.origin.table:
                return None
            if leaf.contract is None:
                return node
            return node if _named(sink, leaf.contract, contract).avro == node.contract.avro else None
        if not isinstance(node.origin, Where | Rules) or (isinstance(node.origin, Rules) and node.origin.tag):
            return None
        rank, name = node.inputs[0]
    return None


def check_topics(topology: Topology, nodes: Sequence[Node], sinks: Sequence[PlannedSink]) -> None:
    """Raises DuplicateName for two sinks of one topic, DefinitionError for one that is not theirs to write."""
    topics: dict[str, str] = {}
    read = {node.origin.topic for node in nodes if isinstance(node.origin, Source)}
    for planned in sinks:
        if planned.topic in topics:
            raise DuplicateName(
                f"sinks '{topics[planned.topic]}' and '{planned.name}' both write topic '{planned.topic}'",
                hint="give one of them topic=",
            )
        if planned.topic in read:
            raise DefinitionError(
                f"sink '{planned.name}' writes topic '{planned.topic}', which '{topology.name}' also reads",
                hint="write another topic: topic=...; a loop would never come to an end",
            )
        own = f"{topology.name}.v{topology.version}."
        if planned.topic in (f"{topology.name}.late", f"{topology.name}.dlq") or planned.topic.startswith(own):
            raise DefinitionError(
                f"sink '{planned.name}' writes topic '{planned.topic}', which the engine keeps for itself",
                hint=f"write another topic, such as '{topology.name}.{planned.name}'",
            )
        topics[planned.topic] = planned.name
        _check_truth(topology, planned, read)


def _check_truth(topology: Topology, sink: PlannedSink, read: set[str]) -> None:
    """Raises DefinitionError for a truth about what are no entities, and for one that the topology could look at."""
    truth = topology.sink(sink.name).truth
    if truth is None:
        return
    gone = [name for name in ("event", "entity_id", "records") if name not in sink.contract.schema]
    if gone:
        raise DefinitionError(
            f"sink '{sink.name}' has a truth and no column '{gone[0]}': only events of entities are held to one",
            hint="give it to the sink of sp.entity_rows('events')",
        )
    if truth.known in read:
        raise DefinitionError(
            f"'{topology.name}' reads topic '{truth.known}', which is the truth that sink '{sink.name}' is held to",
            hint="what is judged by a truth must not see it: read another topic",
        )


def _named(name: str, wanted: str | Contract, contract: Lookup) -> Contract:
    if isinstance(wanted, Contract):
        return wanted
    try:
        return contract(wanted)
    except ContractError as problem:
        raise type(problem)(f"sink '{name}': {problem.message}", hint=problem.hint) from None


def _check_key(name: str, key: tuple[str, ...] | None, schema: Schema) -> None:
    for column in key or ():
        if column not in schema:
            raise UnknownColumn(f"sink '{name}' is keyed by '{column}'", hint=did_you_mean(column, schema.names))
    try:
        key_kinds(schema, key or ())
    except TypeMismatch as problem:
        raise TypeMismatch(f"the key of sink '{name}': {problem.message}", hint=problem.hint) from None


def _check_columns(name: str, contract: Contract, schema: Schema) -> None:
    for wanted in contract.schema:
        if wanted.name not in schema:
            if wanted.nullable:
                continue
            raise UnknownColumn(
                f"sink '{name}' must write '{wanted.name}' of contract '{contract}'",
                hint=did_you_mean(wanted.name, schema.names),
            )
        _check_column(name, contract, schema[wanted.name], wanted)
    extra = [column for column in schema.names if column not in contract.schema]
    if extra:
        raise UnknownColumn(
            f"sink '{name}' has columns that contract '{contract}' lacks: {', '.join(extra)}",
            hint=f"end the pipe with sp.select({', '.join(repr(n) for n in contract.schema.names)})",
        )


def _check_column(name: str, contract: Contract, have: Field, wanted: Field) -> None:
    if have.dtype != wanted.dtype:
        raise TypeMismatch(
            f"sink '{name}' writes '{wanted.name}' as {have.dtype}; contract '{contract}' says {wanted.dtype}",
            hint=f"cast it before the sink: sp.with_columns({wanted.name}=pl.col('{wanted.name}').cast(...))",
        )
    if have.nullable and not wanted.nullable:
        raise TypeMismatch(
            f"sink '{name}' writes '{wanted.name}', which may be null; contract '{contract}' says that it never is",
            hint=f"filter before the sink, sp.where(pl.col('{wanted.name}').is_not_null()), "
            f"or fill it: pl.col('{wanted.name}').fill_null(...)",
        )
    if have.unit and wanted.unit and have.unit != wanted.unit:
        raise TypeMismatch(
            f"sink '{name}' writes '{wanted.name}' in {have.unit}; contract '{contract}' says {wanted.unit}",
            hint="convert it, or correct the contract",
        )
