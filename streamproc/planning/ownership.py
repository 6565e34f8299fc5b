"""Owners: every topic and field has one, and nobody writes what is another's without an approval.

A contract names its owner (`sp:owner`), and a field of it may have another one. Whoever names the owner of a topology
says whose writes these are; from then on

    orphan         a topic that it reads or writes must have an owner
    double owner   one topic cannot be read under contracts of several owners, and a contract's next version cannot
                   have another owner than the one before, unless that one has approved
    foreign write  a sink cannot write a contract, or a field, of another owner. A field of another owner may pass as it
                   is, from a source where it is that owner's too: then its values are still the owner's

A topology without an owner may not write what has one. Records that leave as the bytes that they came in are the
owner's own words, whoever carries them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from streamproc.contracts.approvals import FILE, Approval
from streamproc.contracts.model import Contract
from streamproc.errors import NotOwned
from streamproc.graph import Source
from streamproc.planning.column_versions import column_versions
from streamproc.planning.fingerprint import canonical_text, digest
from streamproc.planning.lineage import SinkLineage, plan_lineage
from streamproc.planning.plan import Node, Plan, PlannedSink
from streamproc.planning.uses import DIRECT

Before = Callable[[Contract], Contract | None]
"""Gives the version before a contract's, None where there is none."""
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class _Case:
    """A change that needs an approval: of whose thing, for whom."""

    contract: str
    field: str
    owner: str
    to: str
    change: str

    @property
    def wanted(self) -> str:
        """The approval that would let it pass, as one line of TOML."""
        field = f'field = "{self.field}", ' if self.field else ""
        return (
            f'{{contract = "{self.contract}", {field}owner = "{self.owner}", to = "{self.to}", '
            f'change = "{self.change}"}}'
        )

    def given(self, approvals: Sequence[Approval]) -> bool:
        """Whether the owner has let it happen."""
        return any(self._is_of(one) and one.change == self.change for one in approvals)

    def hint(self, approvals: Sequence[Approval], otherwise: str) -> str:
        """The way out; where an approval is there, for another change, that is said."""
        old = next((one for one in approvals if self._is_of(one)), None)
        if old is not None:
            return (
                f"the approval in {FILE} is for change '{old.change}', this one is '{self.change}': have "
                f"'{self.owner}' approve it anew"
            )
        return f"{otherwise}, or have '{self.owner}' approve it in {FILE}: {self.wanted}"

    def _is_of(self, one: Approval) -> bool:
        return (one.contract, one.field, one.owner, one.to) == (self.contract, self.field, self.owner, self.to)


def check_owners(plan: Plan, approvals: Sequence[Approval], before: Before) -> None:
    """Raises NotOwned for the first finding of `ownership_findings`; the others are counted."""
    found = list(ownership_findings(plan, approvals, before))
    if found:
        more = f" (and {len(found) - 1} more of the kind)" if len(found) > 1 else ""
        raise NotOwned(found[0].message + more, hint=found[0].hint)


def ownership_findings(plan: Plan, approvals: Sequence[Approval], before: Before) -> Iterator[NotOwned]:
    """All that is wrong with owners: double owners, then orphans, then foreign writes, each in the plan's order.

    Cost: that of the plan's lineage where a sink has a field of another owner, else next to nothing.
    """
    yield from _of_one_topic(plan)
    for contract in _contracts(plan):
        yield from _handed_on(contract, before(contract), approvals)
    if plan.topology.owner:
        yield from _orphans(plan)
    for sink in plan.sinks:
        if sink.declared and not sink.forwards:
            yield from _foreign(plan, sink, approvals)


def _of_one_topic(plan: Plan) -> Iterator[NotOwned]:
    seen: dict[str, Contract] = {}
    for topic, contract in _read(plan.sources):
        first = seen.setdefault(topic, contract)
        if first.owner and contract.owner and first.owner != contract.owner:
            yield NotOwned(
                f"topic '{topic}' has two owners: '{first.owner}' by contract '{first}', '{contract.owner}' by "
                f"'{contract}'",
                hint="read it under one contract",
            )


def _contracts(plan: Plan) -> list[Contract]:
    found = {str(contract): contract for _, contract in _read(plan.sources)}
    return list((found | {str(sink.contract): sink.contract for sink in plan.sinks if sink.declared}).values())


def _read(sources: Sequence[Node]) -> Iterator[tuple[str, Contract]]:
    for node in sources:
        if isinstance(node.origin, Source) and node.contract is not None:
            yield node.origin.topic, node.contract


def _handed_on(new: Contract, old: Contract | None, approvals: Sequence[Approval]) -> Iterator[NotOwned]:
    """Owners that a version changes: of the topic, and of fields that were there before."""
    if old is None:
        return
    change = digest(canonical_text(new.avro))[:_SHOWN]
    pairs = [("", old.owner, new.owner)]
    if old.owner == new.owner:
        pairs = [(f.name, old.owner_of(f.name), new.owner_of(f.name)) for f in new.schema if f.name in old.schema]
    for field, was, now in pairs:
        case = _Case(str(new), field, was, now, change)
        if was and was != now and not case.given(approvals):
            what = f"field '{field}' of '{new.name}'" if field else f"'{new.name}'"
            yield NotOwned(
                f"{what} has two owners: '{was}' by '{old}', "
                f"'{now}' by '{new}'",
                hint=case.hint(approvals, "keep the owner"),
            )


def _orphans(plan: Plan) -> Iterator[NotOwned]:
    for topic, contract in _read(plan.sources):
        if not contract.owner:
            yield NotOwned(
                f"topic '{topic}' has no owner: contract '{contract}' names none",
                hint='add "sp:owner" to the contract',
            )
    for sink in plan.sinks:
        if sink.declared and not sink.contract.owner:
            yield NotOwned(
                f"topic '{sink.topic}' of sink '{sink.name}' has no owner: contract '{sink.contract}' names none",
                hint=f'add "sp:owner" to the contract: "{plan.topology.owner}", if it is theirs',
            )


def _foreign(plan: Plan, sink: PlannedSink, approvals: Sequence[Approval]) -> Iterator[NotOwned]:
    writer, contract = plan.topology.owner, sink.contract
    who = f"'{writer}', who owns '{plan.topology.name}'" if writer else f"'{plan.topology.name}', which names no owner"
    if not writer:
        for owner in sorted({contract.owner_of(name) for name in contract.schema.names} - {""}):
            yield NotOwned(
                f"sink '{sink.name}' writes contract '{contract}', which '{owner}' owns, for {who}",
                hint=f"say whose it is: sp.Topology(..., owner='{owner}')",
            )
        return
    if contract.owner and contract.owner != writer:
        change = digest(canonical_text(column_versions(plan, sink)))[:_SHOWN]
        case = _Case(str(contract), "", contract.owner, writer, change)
        if not case.given(approvals):
            yield NotOwned(
                f"sink '{sink.name}' writes contract '{contract}', which '{contract.owner}' owns, for {who}",
                hint=case.hint(approvals, "write a contract of your own"),
            )
        return
    fields = [column for column in contract.schema if column.owner and column.owner != writer]
    lineage = plan_lineage(plan)[sink.name] if fields else None
    for field in fields:
        if lineage is None or field.name not in lineage.columns or _passes(plan, lineage, field.name, field.owner):
            continue
        case = _Case(str(contract), field.name, field.owner, writer, lineage.versions[field.name])
        if not case.given(approvals):
            yield NotOwned(
                f"sink '{sink.name}' writes '{field.name}' of contract '{contract}', which '{field.owner}' owns, "
                f"for {who}",
                hint=case.hint(approvals, "pass the owner's column as it is"),
            )


def _passes(plan: Plan, lineage: SinkLineage, column: str, owner: str) -> bool:
    """Whether a column is, as it stands, a field that its owner wrote."""
    made = [part for part in lineage.columns[column] if part.direct]
    owners = {(topic, name): contract.owner_of(name) for topic, contract in _read(plan.sources)
              for name in contract.schema.names}  # fmt: skip
    return bool(made) and all(
        {kind for kind in part.how if kind in DIRECT} == {"IDENTITY"} and owners.get((part.topic, part.column)) == owner
        for part in made
    )
