"""From a topology to its plan: checked, typed, cut into stages, ranked and fingerprinted."""

from __future__ import annotations

from dataclasses import replace

from streamproc.contracts.model import Contract
from streamproc.graph import Source
from streamproc.planning.cut import cut, stages_of
from streamproc.planning.fingerprint import canonical_text, digest
from streamproc.planning.needs import narrowed, needed_columns
from streamproc.planning.plan import Node, Plan, PlannedSink
from streamproc.planning.sinks import Derive, Lookup, check_topics, planned_sink
from streamproc.planning.topology import Topology
from streamproc.planning.walk import Walk


def build_plan(topology: Topology, contract: Lookup, derive: Derive) -> Plan:
    """Checks, types, cuts and fingerprints a topology.

    contract  gives the contract of a name ("payment", "payment.v2")
    derive    makes the contract of a sink that names none, from its columns

    Raises DefinitionError (UnknownColumn, TypeMismatch, DuplicateName, NotElementWise) naming the step, and
    ContractError.
    """
    walk = Walk(topology, contract)
    leaves = {name: (topology.sink(name), walk.visit(topology.sink(name).stream)) for name in sorted(topology.sinks)}
    nodes, needed = needed_columns(walk.nodes, leaves, contract)
    nodes, edges = cut(nodes)
    edges = [narrowed(edge, needed.get(edge.port, frozenset())) for edge in edges]
    nodes = _fingerprinted(nodes)
    sinks = [
        planned_sink(topology, name, leaf, port, nodes=nodes, contract=contract, derive=derive)
        for name, (leaf, port) in leaves.items()
    ]
    check_topics(topology, nodes, sinks)
    logic = _logic(topology, nodes, sinks)
    return Plan(topology, tuple(nodes), stages_of(nodes, edges, sinks), logic)


def _fingerprinted(nodes: list[Node]) -> list[Node]:
    out: list[Node] = []
    for node in nodes:
        above = [(out[rank].logic, port) for rank, port in node.inputs]
        meant = [(out[rank].meaning, port) for rank, port in node.inputs]
        if isinstance(node.origin, Source):
            source = node.origin
            times = (source.lateness_us, source.max_future_skew_us, source.idle_after_us, source.event_time)
            table = ("table",) if source.table else ()
            back = ("feedback",) if source.feedback else ()
            own = canonical_text((source.topic, *times, *table, *back, _contract_text(node.contract)))
        else:
            own = canonical_text(node.origin)
        types = ",".join(f"{f.name}:{f.dtype}:{f.nullable}{':deletes' * f.deletes}" for f in node.type.schema)
        state = digest(f"{type(node.origin).__name__} {own} {node.type.keyed_by} {types}")
        logic, meaning = digest(f"{node.name} {state} {above}"), digest(f"{state} {meant}")
        out.append(replace(node, state=state, logic=logic, meaning=meaning))
    return out


def _logic(topology: Topology, nodes: list[Node], sinks: list[PlannedSink]) -> str:
    """The fingerprint of everything that shapes what is written."""
    leaves = [(s.name, s.topic, s.key, nodes[s.port[0]].logic, s.port[1], _contract_text(s.contract)) for s in sinks]
    return digest(
        canonical_text((topology.name, topology.version, topology.late, [node.logic for node in nodes], leaves))
    )


def _contract_text(contract: Contract | None) -> str:
    return "" if contract is None else f"{contract} {canonical_text(contract.avro)}"
