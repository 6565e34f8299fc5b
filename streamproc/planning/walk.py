"""The walk from sinks to sources: every step gets its rank, name and type, and how many changes of key lie above it.

Types are those that a step really reads. Where rows come from another stage (below a change of key, or forwarded
because another input lies deeper) several upstream tasks meet: nothing is known any more of who placed the rows, and
rows that were in order of event time are put in order again by a step that the plan inserts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import polars as pl

from streamproc.contracts.model import Contract, Field, Schema
from streamproc.errors import ContractError, DefinitionError, DuplicateName, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.feature.leaves import OWN
from streamproc.feature.operator import Features
from streamproc.graph import Source, Stream
from streamproc.operator import Operator, StreamType, sides_of
from streamproc.operators.columns import Rename
from streamproc.operators.dedupe import Dedupe
from streamproc.operators.follow import Follow, is_followed
from streamproc.operators.join import DELETED
from streamproc.operators.key_by import KeyBy
from streamproc.operators.ordered import Ordered
from streamproc.operators.outcomes import Outcomes
from streamproc.operators.sessions import Sessions
from streamproc.operators.windows import Windows
from streamproc.planning.classes import classed
from streamproc.planning.plan import Node, Port, type_of
from streamproc.planning.topology import Topology

Lookup = Callable[[str], Contract]
_STEP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Walk:
    """Nodes in order of rank, as they are met."""

    def __init__(self, topology: Topology, contract: Lookup) -> None:
        self.topology = topology
        self.contract = contract
        self.nodes: list[Node] = []
        self._ranks: dict[object, int] = {}
        self._again: dict[tuple[Port, int], int] = {}
        self._names: dict[str, bool] = {}
        self._times: dict[Port, str] = {}
        """How sensitive the event time of the rows at a port is."""

    def visit(self, stream: Stream) -> Port:
        """Plans a stream and all above it; gives its node and port.

        Recipes deeper than Python's stack are planned too, up to 10,000 steps.
        """
        todo = [stream]
        ports: dict[int, Port] = {}
        while todo:
            top = todo[-1]
            missing = [above for above in top.inputs if id(above) not in ports]
            if missing:
                if len(todo) > 10_000:
                    raise DefinitionError(
                        f"topology '{self.topology.name}' is deeper than 10,000 steps",
                        hint="cut it into several topologies",
                    )
                todo.extend(reversed(missing))
                continue
            todo.pop()
            if id(top) not in ports:
                ports[id(top)] = self._node(top, tuple(ports[id(above)] for above in top.inputs))
        return ports[id(stream)]

    def _node(self, stream: Stream, inputs: tuple[Port, ...]) -> Port:
        # A source is known by its value, a step by its operator object and inputs: `stream.late` shares both.
        identity: object = (id(stream.origin), inputs)
        if isinstance(stream.origin, Source):
            contract = stream.origin.contract
            identity = replace(stream.origin, contract=contract if isinstance(contract, str) else f"{id(contract)}")
        if identity not in self._ranks:
            self._ranks[identity] = self._planned(stream, inputs)
        rank, port = self._ranks[identity], stream.port
        if port not in ("rows", "late", *self.nodes[rank].sides):
            there = ", ".join(self.nodes[rank].sides) or "nothing"
            raise DefinitionError(
                f"step '{self.nodes[rank].name}' has no side '{port}'", hint=f"beside its rows it gives {there}"
            )
        return rank, port

    def _planned(self, stream: Stream, inputs: tuple[Port, ...]) -> int:
        if isinstance(stream.origin, Source):
            self.nodes.append(self._source(stream.origin, len(self.nodes)))
            return len(self.nodes) - 1
        name = self._name(stream.name or stream.origin.verb, chosen=bool(stream.name))
        if isinstance(stream.origin, Dedupe) and stream.origin.per == "key":
            self._typed(stream.origin, name, [type_of(self.nodes, port) for port in inputs])
            inputs = self._brought_together(stream.origin, inputs)
        wanted = getattr(stream.origin, "keys_wanted", None)
        if wanted is not None:
            self._typed(stream.origin, name, [type_of(self.nodes, port) for port in inputs])
            inputs = tuple(self._keyed(columns, port) for columns, port in zip(wanted, inputs, strict=True))
        level = max(self._level_below(port) for port in inputs)
        if not isinstance(stream.origin, Ordered):
            inputs = tuple(self._in_order_again(port, level) for port in inputs)
        return self._append(stream.origin, name, inputs, level)

    def _brought_together(self, origin: Dedupe, inputs: tuple[Port, ...]) -> tuple[Port, ...]:
        """Inputs of a dedupe by id: keyed by the id where its rows could lie in several tasks."""
        kind = self._read(inputs[0], self._level_below(inputs[0]))
        together = [columns for columns in (kind.keyed_by, kind.placed_by) if columns is not None]
        if any(set(columns) <= set(origin.columns) for columns in together):
            return inputs
        level = self._level_below(inputs[0])
        inputs = (self._in_order_again(inputs[0], level),)
        return ((self._append(KeyBy(origin.columns), self._name("key_by", chosen=False), inputs, level), "rows"),)

    def _keyed(self, columns: tuple[str, ...], port: Port) -> Port:
        """The port, keyed by these columns: an operator that names `keys_wanted` meets its rows under that key."""
        level = self._level_below(port)
        if self._read(port, level).keyed_by == columns:
            return port
        inputs = (self._in_order_again(port, level),)
        return self._append(KeyBy(columns), self._name("key_by", chosen=False), inputs, level), "rows"

    def _level_below(self, port: Port) -> int:
        """How deep a step lies that reads only this port."""
        above = self.nodes[port[0]]
        return above.level + (1 if above.moves and port[1] == "rows" else 0)

    def _read(self, port: Port, level: int) -> StreamType:
        """What a step at this depth reads from a port."""
        kind = type_of(self.nodes, port)
        crosses = self.nodes[port[0]].level != level
        return replace(kind, ordered=False, placed_by=None) if crosses else kind

    def _in_order_again(self, port: Port, level: int) -> Port:
        """The port; behind a step that puts its rows in order, if they were so in the stage that they come from."""
        if self.nodes[port[0]].level == level or not type_of(self.nodes, port).ordered:
            return port
        if (port, level) not in self._again:
            again = Ordered(self._order_of(port))
            name = self._name("ordered", chosen=False)
            self._again[port, level] = self._append(again, name, (port,), level)
        return self._again[port, level], "rows"

    def _order_of(self, port: Port) -> tuple[str, ...]:
        """The columns that order rows of one event time, under the names that they have at this port."""
        by: tuple[str, ...] = ()
        first: tuple[str, ...] = ()
        last: tuple[str, ...] = ()
        names: list[Rename] = []
        ended: tuple[str, ...] = ()  # Columns of `follow` end at features: behind them no row moves any more.
        node = self.nodes[port[0]]
        while node.inputs:
            match node.origin:
                case Ordered():
                    by = tuple(column for column in node.origin.by if column not in ended)
                    break
                case Windows() | Sessions():
                    break  # Their rows are told apart by coordinates of their own: key and start of the window.
                case Rename():
                    names.append(node.origin)
                case Features():
                    ended = OWN
                case Follow():
                    first, last = node.origin.ordered_around
            node = self.nodes[node.inputs[0][0]]
        for rename in reversed(names):
            new = dict(rename.names)
            by = tuple(new.get(column, column) for column in by)
        by = (*first, *by, *last)
        schema = type_of(self.nodes, port).schema
        gone = [column for column in by if column not in schema]
        if gone:
            raise DefinitionError(
                f"step '{self.nodes[port[0]].name}' moves rows that are in order by '{gone[0]}', which is gone there",
                hint="keep that column until behind the key_by, or put sp.ordered(by=...) of other columns there",
            )
        return by

    def _append(self, operator: Operator, name: str, inputs: tuple[Port, ...], level: int) -> int:
        types = [self._read(port, level) for port in inputs]
        out = self._typed(operator, name, types)
        _refuse_moves(operator, name, types)
        # A key that the rows have already, or that placed them, moves none of them.
        moves = isinstance(operator, KeyBy) and out.keyed_by not in (types[0].keyed_by, types[0].placed_by)
        rank, times, known = len(self.nodes), [self._time_of(port) for port in inputs], {}
        for side, kind in {"rows": out, **sides_of(operator, types)}.items():
            known[side], self._times[rank, side] = classed(operator, types, times, kind, side)
        out = known.pop("rows")
        self.nodes.append(Node(rank, name, operator, inputs, out, level, moves, sides=known))
        return rank

    def _time_of(self, port: Port) -> str:
        """The class of a port's event time; late rows have that of the step's first input."""
        while port[1] == "late":
            port = self.nodes[port[0]].inputs[0]
        return self._times[port]

    def _typed(self, operator: Operator, name: str, types: list[StreamType]) -> StreamType:
        """What the step gives; an operator speaks of itself by its verb, and is then called by the step's name."""
        try:
            return operator.schema(*types)
        except DefinitionError as problem:
            called = f"step '{operator.verb}"
            message = problem.message.replace(called, f"step '{name}", 1)
            if not message.startswith(f"step '{name}") and f"'{name}'" not in message:
                message = f"step '{name}': {message}"
            raise type(problem)(message, hint=problem.hint) from None

    def _source(self, source: Source, rank: int) -> Node:
        contract = self._contract_of(source)
        event_time = source.event_time or contract.event_time
        if not event_time:
            raise DefinitionError(
                f"source '{source.topic}' has no event time: contract '{contract}' marks no field with "
                '"sp:role": "event_time"',
                hint="mark one, or say sp.source(..., event_time='column')",
            )
        if event_time not in contract.schema:
            raise UnknownColumn(
                f"source '{source.topic}' takes event time from '{event_time}', which '{contract}' does not have",
                hint=did_you_mean(event_time, contract.schema.names),
            )
        time_type = contract.schema[event_time].dtype
        if not (time_type.is_integer() or time_type.is_temporal()) or str(time_type).startswith(("Time", "Duration")):
            raise TypeMismatch(
                f"source '{source.topic}' takes event time from '{event_time}', a {time_type}",
                hint="event time is a timestamp, a date, or a long of microseconds since 1970 UTC",
            )
        fields = tuple(replace(f, origins=f.origins or frozenset({f"{contract}.{f.name}"})) for f in contract.schema)
        kind = StreamType(Schema(fields), placed_by=_placed_by(contract))
        if source.table:
            kind = _table_type(source, contract, Schema(fields), event_time)
        self._times[rank, "rows"] = contract.schema[event_time].pii
        return Node(
            rank,
            self._name(source.topic, chosen=False),
            replace(source, event_time=event_time),
            (),
            kind,
            moves=source.table or source.feedback,
            contract=contract,
        )

    def _contract_of(self, source: Source) -> Contract:
        if isinstance(source.contract, Contract):
            return source.contract
        try:
            return self.contract(source.contract)
        except ContractError as problem:
            raise type(problem)(f"source '{source.topic}': {problem.message}", hint=problem.hint) from None

    def _name(self, word: str, *, chosen: bool) -> str:
        if chosen and not _STEP_NAME.fullmatch(word):
            raise DefinitionError(
                f"'{word}' cannot name a step of '{self.topology.name}'",
                hint="use letters, digits, _, - and .: names of steps become names of topics",
            )
        if word in self._names:
            if chosen and self._names[word]:
                raise DuplicateName(
                    f"two steps of '{self.topology.name}' are named '{word}'", hint="give one of them another name"
                )
            number = 2
            while f"{word}_{number}" in self._names:
                number += 1
            word = f"{word}_{number}"
        self._names[word] = chosen
        return word


def _refuse_moves(operator: Operator, name: str, types: list[StreamType]) -> None:
    """Raises DefinitionError where a step that remembers would take a row that only moves for one that happened."""
    moving = any(is_followed(kind.schema) for kind in types) and not isinstance(operator, (Ordered, Features, Outcomes))
    if moving and operator.open(*types) is not None:
        raise DefinitionError(
            f"step '{name}' takes rows once each, and those of sp.follow come again where their leaf moves",
            hint="put sp.features or sp.outcomes there; where nothing looks back, sp.as_of(links) instead of sp.follow "
            "gives each row its entity",
        )


def _table_type(source: Source, contract: Contract, columns: Schema, event_time: str) -> StreamType:
    """The columns of a table's changes, keyed by the contract's key; raises DefinitionError where it has none."""
    if not contract.key:
        raise DefinitionError(
            f"table '{source.topic}' has no key: contract '{contract}' marks no field with \"sp:role\": \"key\"",
            hint="mark the fields that the record's key is made of",
        )
    stay = (*contract.key, event_time, columns.deletes)
    fields = tuple(column if column.name in stay else replace(column, nullable=True) for column in columns)
    if not columns.deletes:
        if DELETED in columns:
            raise DuplicateName(
                f"table '{source.topic}' has a column '{DELETED}' of contract '{contract}' already",
                hint='if it tells deletes, mark it with "sp:role": "deleted"',
            )
        fields += (Field(DELETED, pl.Boolean(), deletes=True),)
    return StreamType(Schema(fields), contract.key)


def _placed_by(contract: Contract) -> tuple[str, ...] | None:
    """The columns by which a topic's producers chose partitions as the engine would; None where that is not certain.

    A `key_by` of these columns needs to move nothing. Rows with a null key are placed anywhere, so no field may
    be null.
    """
    sure = contract.partitioner == "murmur2" and not any(contract.schema[name].nullable for name in contract.key)
    return contract.key if sure and contract.key else None
