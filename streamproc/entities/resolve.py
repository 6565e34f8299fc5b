"""`resolve`: entity resolution as a step of a stream, one record after the other in meaning, columns at a time in work.

Each record is brought together with those that agree with it in a block; pairs are weighed (Fellegi-Sunter), matching
ones become edges, and the records of the touched component are clustered anew. What changed leaves as events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, DUE, EVENT_TIME, RANK, ROW, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.entities import telling
from streamproc.entities.applying import DELETE, MUST_LINK, RECORD, Operations, apply
from streamproc.entities.block_keys import hash_blocks
from streamproc.entities.capped import CAPPED, capped_rows, capped_type
from streamproc.entities.clustering import COMMANDED, COMPONENT, room
from streamproc.entities.comparisons import RARE_WORDS
from streamproc.entities.entity_ids import namespace_seed
from streamproc.entities.entity_rows import EVENT, REASON_TYPE, event_columns, golden_columns, ordinals, passing_rows
from streamproc.entities.few_rows import FEW, keys_of_few
from streamproc.entities.golden import SURVIVORSHIP
from streamproc.entities.interning import Values, intern_frame
from streamproc.entities.kernel_output import Told, release_blocks, room_for
from streamproc.entities.linkage_model import Floats, LinkageModel, weight_of
from streamproc.entities.links import EDGES_KEPT, REVIEWED
from streamproc.entities.program import Program, program_of
from streamproc.entities.scoring import scorer
from streamproc.entities.stored_columns import StoredColumn, check_column, stored_columns
from streamproc.entities.tables import Tables, tables
from streamproc.entities.telling import Settings
from streamproc.entities.words import rarest
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.graph import Step, Stream
from streamproc.keys import keys_of
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.explode import child_meta
from streamproc.ports import Int64s

Sources = Literal["both", "across", "within"]
_MODES: Final = {"both": 0, "across": 1, "within": 2}
ACTIONS: Final = ("must_link", "cannot_link", "withdraw", "delete")
"""What a command says: `action` on `record` and, but for delete, `other`."""


class Given(NamedTuple):
    """Pairs that were found elsewhere: per record where its pairs begin, the other records' slots, and weights."""

    begins: Int64s
    records: Int64s
    weights: Floats


@dataclass(frozen=True, slots=True)
class Resolve:
    """Brings records together as entities, see `resolve`.

    pairs_given  pairs are found elsewhere, see `sharded`: no block is kept
    """

    model: LinkageModel
    record: str
    source: str = ""
    sources: Sources = "both"
    one_per_source: bool = False
    threshold: float = 0.9
    review: float | None = None
    golden: tuple[tuple[str, str], ...] = ()
    source_order: tuple[str, ...] = ()
    block_cap: int = 200
    namespace: str = ""
    pairs_given: bool = field(default=False, metadata={"fingerprint": False})
    stored: tuple[StoredColumn, ...] = field(init=False, repr=False, metadata={"fingerprint": False})
    program: Program = field(init=False, repr=False, compare=False, metadata={"fingerprint": False})
    settings: Settings = field(init=False, repr=False, compare=False, metadata={"fingerprint": False})

    def __post_init__(self) -> None:
        raw = [name for name, _ in self.golden] + ([self.source] if self.source else [])
        blocks = () if self.pairs_given else self.model.blocks
        object.__setattr__(self, "stored", stored_columns(self.model.comparisons, blocks, raw))
        object.__setattr__(self, "program", program_of(self.model, self.stored, blocks))
        least = weight_of(self.threshold)
        settings = Settings(
            np.array([self.block_cap, self.mode, int(self.one_per_source), int(self.pairs_given)], np.int64),
            np.array([least, least if self.review is None else weight_of(self.review)]),
            np.array([self.stored.index(StoredColumn(name, "raw")) for name, _ in self.golden], np.int64),
            np.array([SURVIVORSHIP.index(rule) for _, rule in self.golden], np.int64),
        )
        object.__setattr__(self, "settings", settings)

    @property
    def verb(self) -> str:
        return "resolve"

    @property
    def mode(self) -> int:
        """Which sources are compared, as kernels say it."""
        return _MODES[self.sources]

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns, null but on a record's own event, and those of events and golden records.

        What is told of a record's id is as sensitive as that id; an entity's id stands for a person where any column of
        the records is personal. Weights say how alike two records are, and nothing of either.
        Raises UnknownColumn, TypeMismatch, DuplicateName, and DefinitionError for a stream of several keys.
        """
        stream = inputs[0]
        for kind in inputs:
            if kind.keyed_by != ():
                raise DefinitionError(
                    "step 'resolve' needs all its records in one task",
                    hint="put sp.key_by() before it, and before its commands: one key for all rows",
                )
        for name in (self.record, *([self.source] if self.source else [])):
            if name not in stream.schema:
                raise UnknownColumn(f"step 'resolve' reads '{name}'", hint=did_you_mean(name, stream.schema.names))
            if not isinstance(stream.schema[name].dtype, pl.String):
                raise TypeMismatch(
                    f"step 'resolve' takes '{name}' for an id, and it is {stream.schema[name].dtype}",
                    hint="make it text in a with_columns before",
                )
        for one in self.stored:
            check_column(stream.schema, one)
        if len(inputs) > 1:
            self._check_commands(inputs[1].schema)
        known, person = stream.schema[self.record].pii, "pseudonym" if any(one.pii for one in stream.schema) else ""
        made = [
            Field("event", EVENT), Field("reason", REASON_TYPE),
            Field("entity_id", pl.String(), nullable=True, pii=person),
            Field("other_id", pl.String(), nullable=True, pii=person),
            Field("records", pl.List(pl.String()), pii=known), Field("matched", pl.String(), nullable=True, pii=known),
            Field("weight", pl.Float64(), nullable=True), Field("posterior", pl.Float64(), nullable=True),
            Field("size", pl.Int64()),
        ]  # fmt: skip
        for name, _ in self.golden:
            made.append(replace(stream.schema[name], name=f"golden_{name}", nullable=True))
            made.append(Field(f"golden_{name}_from", pl.String(), nullable=True, pii=known))
        carried = tuple(replace(column, nullable=True) for column in stream.schema)
        for column in made:
            if column.name in stream.schema:
                raise DuplicateName(
                    f"step 'resolve' makes a column '{column.name}', which its input has already",
                    hint="rename the input's column before",
                )
        return StreamType(Schema((*carried, *made)))

    def sides(self, *inputs: StreamType) -> Mapping[str, StreamType]:
        """Where blocks are full, what that costs: `people.side("capped")`."""
        return {CAPPED: capped_type(inputs[0].schema[self.record])}

    def _check_commands(self, schema: Schema) -> None:
        for name in ("action", "record", "other"):
            if name not in schema:
                raise UnknownColumn(
                    f"the commands of step 'resolve' have no column '{name}'",
                    hint="action (must_link, cannot_link, withdraw, delete), record and other",
                )
            if not isinstance(schema[name].dtype, (pl.String, pl.Enum, pl.Categorical)):
                raise TypeMismatch(f"the commands of step 'resolve' have '{name}' as {schema[name].dtype}", hint="text")

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and all columns that are compared, kept or name a record."""
        own = {self.record, *([self.source] if self.source else [])}
        for one in self.stored:
            own |= {one.column, *([one.other] if one.other else [])}
        carried = needed & frozenset(inputs[0].names)
        return (passes_through(carried, sorted(own)), frozenset(("action", "record", "other")))[: len(inputs)]

    def open(self, *inputs: StreamType) -> Tables:
        """No records."""
        return tables(len(self.stored), max(1, self.program.entries), len(self.model.blocks))

    def process(self, state: Tables, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Tables, Output]:
        """Cost a record: what is looked at in its blocks, and its component."""
        rows = inputs[0]
        rejected: list[tuple[str, Batch]] = []
        ids = rows.frame.get_column(self.record)
        if ids.null_count():
            there = ids.is_not_null().to_numpy()
            rejected.append(("record_is_null", rows.filter(~there)))
            rows = rows.filter(there)
        given = Given(np.zeros(len(rows) + 1, np.int64), np.empty(0, np.int64), np.empty(0))
        return state, self.resolved(state, rows, inputs[1:], given, rejected, time)

    def resolved(
        self, state: Tables, rows: Batch, others: tuple[Batch, ...], given: Given,
        rejected: list[tuple[str, Batch]], time: StepTime,
    ) -> Output:  # fmt: skip
        """What these records, and commands, make; `given` are the pairs of each, where they were found elsewhere."""
        commands = None
        if others:
            commands, broken = _usable(others[0])
            rejected = rejected + broken
            time.fates.absorb(np.ascontiguousarray(commands.meta[commands.meta[:, ACCOUNT] >= 0, ACCOUNT]))
        todo, metas, row_of = self._operations(state, rows, commands, given)
        made = Told.nothing(len(self.golden))
        if todo.ops.shape[0]:
            made = self._apply(state, todo, may_command=commands is not None)
        made_columns = event_columns(state, made.events, made.weights, made.moved, namespace_seed(self.namespace))
        made_columns |= golden_columns(state, made.events, made.golden, self.golden, rows.frame.schema)
        frame = passing_rows(rows.frame, made.events, row_of).hstack(
            [column.alias(name) for name, column in made_columns.items()]
        )
        state.kept.release(made.values.astype(np.int64))
        release_blocks(state, made.blocks.astype(np.int64))
        meta = child_meta(metas[made.events[:, telling.OP]], ordinals(made.events[:, telling.OP]))
        capped = capped_rows(state, made.capped, todo.ops, metas, self.model.blocks, self.program, self.block_cap)
        return Output(Batch(frame, meta), rejected=tuple(rejected), sides=((CAPPED, capped),))

    def _operations(
        self, state: Tables, rows: Batch, commands: Batch | None, given: Given
    ) -> tuple[Operations, np.ndarray[tuple[int, int], np.dtype[np.int64]], Int64s]:
        """What is to be done, in order of position; meta and input row of each operation."""
        values = intern_frame(state.kept, rows.frame, self.stored, self.model, self.program)
        n = len(rows)
        ids = rows.frame.get_column(self.record)
        mine = state.keys.intern(keys_of_few(ids.to_list()) if n <= FEW else keys_of(rows.frame, [self.record]))
        ops = np.empty((n, 4), np.int64)
        ops[:, 0], ops[:, 1], ops[:, 2], ops[:, 3] = RECORD, mine, -1, np.arange(n)
        metas = rows.meta
        if commands is not None and len(commands):
            ops, metas = self._with_commands(state, ops, rows, commands)
        state.fit_records()
        source = np.full(n, -1, np.int32)
        rank = np.zeros(n, np.int32)
        if self.source:
            source = np.ascontiguousarray(values[:, self.stored.index(StoredColumn(self.source, "raw"))])
            if self.source_order:
                order = {name: number for number, name in enumerate(self.source_order)}
                ranks = rows.frame[self.source].replace_strict(order, default=len(order), return_dtype=pl.Int32)
                rank = ranks.to_numpy().astype(np.int32)
        blocks = self._blocks(state, values)
        moment = np.ascontiguousarray(rows.meta[:, EVENT_TIME])
        return Operations(ops, values, blocks, source, rank, moment, *given), metas, np.ascontiguousarray(ops[:, 3])

    def _with_commands(
        self, state: Tables, ops: Int64s, rows: Batch, commands: Batch
    ) -> tuple[Int64s, np.ndarray[tuple[int, int], np.dtype[np.int64]]]:
        frame = commands.frame
        more = np.full((len(commands), 4), -1, np.int64)
        codes = {action: MUST_LINK + number for number, action in enumerate(ACTIONS)}
        more[:, 0] = frame["action"].cast(pl.String).replace_strict(codes, return_dtype=pl.Int64).to_numpy()
        text = frame.select(pl.col("record", "other").cast(pl.String))
        more[:, 1] = state.keys.intern(keys_of(text, ["record"]))
        two = np.flatnonzero(more[:, 0] != DELETE)
        if two.size:
            more[two, 2] = state.keys.intern(keys_of(text[two], ["other"]))
        metas = np.concatenate([rows.meta, commands.meta])
        port = np.repeat(np.array([0, 1]), (len(rows), len(commands)))
        order = np.lexsort((port, metas[:, RANK], metas[:, DUE], metas[:, ROW]))
        return np.ascontiguousarray(np.concatenate([ops, more])[order]), metas[order]

    def _blocks(self, state: Tables, values: Values) -> Int64s:
        """The block of each row by each rule, -1 where it has none."""
        n, entries = values.shape[0], self.program.entries
        if self.pairs_given:
            return np.full((n, 1), -1, np.int64)
        hashes, there = np.empty((entries, n), np.int64), np.empty((entries, n), np.bool_)
        hash_blocks(values, self.program.parts, self.program.rare, hashes, there)
        at = 0
        for rule in range(len(self.model.blocks)):
            if self.program.rare[rule] >= 0:
                words = values[:, self.program.rare[rule]].astype(np.int64)
                rare, known = rarest(state.kept.words, words, RARE_WORDS)
                hashes[at : at + RARE_WORDS], there[at : at + RARE_WORDS] = rare.view(np.int64).T, (known == 1).T
            at += RARE_WORDS if self.program.rare[rule] >= 0 else 1
        out = np.full((entries, n), -1, np.int64)
        rules = np.broadcast_to(self.program.entry_rule[:, None], (entries, n))
        out[there] = state.block_table.intern(rules[there], hashes[there])
        state.fit_blocks()
        return np.ascontiguousarray(out.T)

    def _apply(self, state: Tables, todo: Operations, *, may_command: bool) -> Told:
        """Runs the kernel over the operations, as often as it asks for room."""
        told = Told.nothing(len(self.golden))
        done, k = 0, todo.ops.shape[0]
        edges = 2 * EDGES_KEPT + 2
        while done < k:
            left = k - done
            commanded = bool((todo.ops[done:, 0] != RECORD).any())
            wide = 4 * (COMMANDED if commanded else COMPONENT) + 4 * REVIEWED + 16
            state.fit_edges(edges + 2 * left)
            state.fit_retired(2 + 2 * left if commanded else 2)
            made = room_for(
                state, left, wide, golden=len(self.golden), stored=len(self.stored), entries=self.program.entries,
                block_cap=self.block_cap,
            )  # fmt: skip
            done = apply(
                done, todo, self.settings, scorer(self.program, state.kept), state.kept.counts, state.records,
                state.blocks(self.program.entry_rule), state.edges, state.entities, state.counters,
                state.successors if may_command else None, room(), made, edges,
            )  # fmt: skip
            told = told.then(made)
        return told


def _usable(commands: Batch) -> tuple[Batch, list[tuple[str, Batch]]]:
    """The commands that say something, and those that do not, with the rule that they break."""
    frame = commands.frame
    known = frame["action"].cast(pl.String).is_in(list(ACTIONS)).fill_null(False).to_numpy()
    two = frame.select(
        (pl.col("record").is_not_null())
        & ((pl.col("action").cast(pl.String) == "delete").fill_null(False)
           | (pl.col("record").cast(pl.String) != pl.col("other").cast(pl.String)).fill_null(False))
    ).to_series().to_numpy()  # fmt: skip
    broken = [("unknown_action", commands.filter(~known)), ("no_other_record", commands.filter(known & ~two))]
    return commands.filter(known & two), [(rule, rows) for rule, rows in broken if len(rows)]


def resolve(
    model: LinkageModel,
    *,
    record: str,
    source: str = "",
    sources: Sources = "both",
    one_per_source: bool = False,
    threshold: float = 0.9,
    review: float | None = None,
    golden: Mapping[str, str] | None = None,
    source_order: Sequence[str] = (),
    commands: Stream | None = None,
    block_cap: int = 200,
    namespace: str = "",
    name: str = "",
) -> Step:
    """Finds out which records speak of the same entity, while they come: `records | sp.key_by() | sp.resolve(...)`.

    model           a trained linkage (`streamproc train-linkage`, or `LinkageModel.from_json` of its file)
    record          the column of a record's id, text, unique over all sources; a record that comes again is corrected
    source          the column that says which source a record is from
    sources         "both": all pairs; "across": only pairs of different sources; "within": only of the same
    one_per_source  an entity never holds two records of one source
    threshold       the posterior from which a pair is an edge
    review          the posterior from which a pair is asked about (`review` events); an answer is a command
    golden          per column of the golden record its rule: most_recent, most_frequent, source_rank or longest
    source_order    the sources, the most trusted one first, for source_rank
    commands        a stream of `action` (must_link, cannot_link, withdraw, delete), `record`, `other`
    block_cap       of a block, so many records are looked at, the newest; what that costs is counted
    namespace       makes ids of entities differ from those of another resolve over the same records

    Gives one stream of events; `sp.entity_rows(...)` takes one kind out of it. A record's own event is `created`,
    `joined` or `corrected` and carries its columns; `merged` and `split` name the records that go from `other_id` to
    `entity_id`; `removed`, `review`, `golden` and `ignored` (a command that has no effect). Clusters are a function of
    records, commands and model alone while no cap is reached (see docs/entities.md). Where a block is full, the stream
    `.side("capped")` says which record was not compared with how many, and of those that it was how many matched.
    State: some 600 bytes a record beside its distinct values.
    """
    if not 0 < threshold < 1:
        raise DefinitionError(f"step 'resolve' has a threshold of {threshold}", hint="a probability, such as 0.9")
    if review is not None and not 0 < review <= threshold:
        raise DefinitionError(
            f"step 'resolve' asks from {review} on, and its threshold is {threshold}",
            hint="review lies between 0 and the threshold",
        )
    if sources not in _MODES:
        raise DefinitionError(f"step 'resolve' knows no sources='{sources}'", hint="both, across or within")
    if (sources != "both" or one_per_source or source_order) and not source:
        raise DefinitionError("step 'resolve' looks at sources, and nothing says which one a record is from",
                              hint="source='column'")  # fmt: skip
    for column, rule in (golden or {}).items():
        if rule not in SURVIVORSHIP:
            raise DefinitionError(
                f"step 'resolve' knows no rule '{rule}' for '{column}'", hint=did_you_mean(rule, SURVIVORSHIP)
            )
        if rule == "source_rank" and not source_order:
            raise DefinitionError(
                f"'{column}' survives by source_rank, and no order is given", hint="source_order=(..)"
            )
    if block_cap < 1:
        raise DefinitionError(f"step 'resolve' looks at {block_cap} records of a block", hint="at least 1")
    step = Resolve(
        model, record, source, sources, one_per_source, threshold, review, tuple((golden or {}).items()),
        tuple(source_order), block_cap, namespace,
    )  # fmt: skip
    return Step(step, () if commands is None else (commands,), name)
