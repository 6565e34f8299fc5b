"""Where contracts and schema ids come from: the port, and a registry in memory.

A contract is named "payment.v2", or "payment" for its newest version. A schema id is the number in front of each
encoded record; it stands for what decides how bytes are read (`avro_json.resolution_form`), so versions that differ
only in documentation share one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from streamproc.contracts.approvals import Approval
from streamproc.contracts.avro_json import resolution_form
from streamproc.contracts.evolution import require_evolution
from streamproc.contracts.model import Contract
from streamproc.errors import ContractError, IncompatibleEvolution, UnknownContract, did_you_mean

PROVISIONAL: Final = 1 << 30
"""Ids from here on are derived from the schema; below it they were allocated by `register`."""
_VERSIONED: Final = re.compile(r"(?P<subject>.+)\.v(?P<version>[1-9][0-9]*)\Z")


class Registry(Protocol):
    """What the engine asks of a schema registry."""

    def subjects(self) -> list[str]:
        """Names of all contracts, sorted."""
        ...

    def versions(self, subject: str) -> list[int]:
        """Versions of a contract, oldest first; raises UnknownContract."""
        ...

    def contract(self, name: str) -> Contract:
        """The contract named "payment.v2", or the newest "payment"; raises UnknownContract."""
        ...

    def id_of(self, contract: Contract) -> int:
        """The id to write before records of this contract; raises UnknownContract if it has none."""
        ...

    def schema_of(self, schema_id: int) -> Mapping[str, object]:
        """The schema, as JSON value, that wrote records with this id; raises UnknownContract."""
        ...

    def approvals(self) -> Sequence[Approval]:
        """What owners have let others do with their contracts."""
        ...

    def adopt(self, contract: Contract) -> int:
        """The contract's id, or, for one that nobody registered, one derived from it and known to this object only."""
        ...

    def register(self, contract: Contract, *, mode: str | None = None) -> int:
        """Adds the contract as its subject's next version and gives its id; the same contract again changes nothing.

        Raises IncompatibleEvolution if it breaks the mode or is no later version, ContractError if nothing can be
        registered here.
        """
        ...


def fingerprint(avro: object) -> str:
    """32 hexadecimal digits that stand for how a schema reads bytes: equal if and only if `resolution_form` is.

    >>> fingerprint("long") == fingerprint({"type": "long", "doc": "a number"})
    True
    """
    return hashlib.sha256(resolution_form(avro).encode()).hexdigest()[:32]


def provisional_id(avro: object) -> int:
    """The id of a schema that nobody registered: between 2^30 and 2^31, the same on every machine."""
    return PROVISIONAL + int(fingerprint(avro)[:8], 16) % PROVISIONAL


def split_name(name: str) -> tuple[str, int | None]:
    """Subject and version of a contract's name; the version is None where the newest is meant.

    >>> split_name("payment.v2"), split_name("payment")
    (('payment', 2), ('payment', None))
    """
    match = _VERSIONED.match(name)
    return (match["subject"], int(match["version"])) if match else (name, None)


class MemoryRegistry:
    """Contracts and ids in memory: for tests, and the part of the folder registry that does no I/O.

    contracts   known from the start, without a check of their evolution
    ids         fingerprint to id, as `ids.json` holds them
    first_id    the smallest id to allocate
    approvals   what owners have let others do

    >>> from streamproc.contracts.avro_schema import parse_contract
    >>> registry = MemoryRegistry()
    >>> tick = parse_contract('{"type": "record", "name": "tick", "fields": [{"name": "n", "type": "int"}]}')
    >>> registry.register(tick)
    1
    >>> str(registry.contract("tick"))
    'tick.v1'
    """

    def __init__(
        self,
        contracts: Iterable[Contract] = (),
        ids: Mapping[str, int] | None = None,
        *,
        first_id: int = 1,
        approvals: Sequence[Approval] = (),
    ) -> None:
        self._approvals = tuple(approvals)
        self._contracts: dict[str, dict[int, Contract]] = {}
        self._ids = dict(ids or {})
        self._first_id = first_id
        self._by_id: dict[int, Mapping[str, object]] = {}
        check_ids(self._ids)
        for contract in contracts:
            self._add(contract)

    @property
    def ids(self) -> dict[str, int]:
        """Fingerprint to allocated id."""
        return dict(self._ids)

    def subjects(self) -> list[str]:
        """Names of all contracts, sorted."""
        return sorted(self._contracts)

    def versions(self, subject: str) -> list[int]:
        """Versions of a contract, oldest first; raises UnknownContract."""
        return sorted(self._versions(subject))

    def contract(self, name: str) -> Contract:
        """The contract named "payment.v2", or the newest "payment"; raises UnknownContract."""
        subject, version = split_name(name)
        versions = self._versions(subject)
        if version is None:
            return versions[max(versions)]
        if version not in versions:
            known = ", ".join(f"v{number}" for number in sorted(versions))
            raise UnknownContract(f"the contract '{subject}' has no version {version}", hint=f"there are: {known}")
        return versions[version]

    def id_of(self, contract: Contract) -> int:
        """The id to write before records of this contract; raises UnknownContract if nobody registered it."""
        found = self._ids.get(fingerprint(contract.avro))
        if found is None:
            raise UnknownContract(f"the contract {contract} has no schema id", hint=how_to_register(contract))
        return found

    def schema_of(self, schema_id: int) -> Mapping[str, object]:
        """The schema, as JSON value, that wrote records with this id; raises UnknownContract."""
        if schema_id not in self._by_id:
            gone = schema_id in self._ids.values()
            raise UnknownContract(
                f"no contract has the schema id {schema_id}",
                hint="its .avsc was removed: bring it back" if gone else "bring the writer's .avsc and ids.json here",
            )
        return self._by_id[schema_id]

    def approvals(self) -> Sequence[Approval]:
        """What owners have let others do with their contracts."""
        return self._approvals

    def adopt(self, contract: Contract) -> int:
        """The contract's id; one derived from its schema if nobody registered it, remembered by this object."""
        print_ = fingerprint(contract.avro)
        if print_ in self._ids:
            self._by_id.setdefault(self._ids[print_], contract.avro)
            return self._ids[print_]
        schema_id = provisional_id(contract.avro)
        self._remember(schema_id, contract)
        return schema_id

    def register(self, contract: Contract, *, mode: str | None = None) -> int:
        """Adds the contract as its subject's next version and gives its id; the same contract again changes nothing."""
        self.check(contract, mode=mode)
        self._add(contract)
        schema_id = self._ids.setdefault(fingerprint(contract.avro), self.next_id())
        self._remember(schema_id, contract)
        return schema_id

    def check(self, contract: Contract, *, mode: str | None = None) -> None:
        """Raises IncompatibleEvolution if `register` would refuse the contract."""
        known = self._contracts.get(contract.name, {})
        print_ = fingerprint(contract.avro)
        newest = max(known, default=0)
        if contract.version in known and fingerprint(known[contract.version].avro) != print_:
            raise IncompatibleEvolution(
                f"{contract} is registered already, with another schema",
                hint=f'a version never changes: give this one "sp:version": {newest + 1}',
            )
        if contract.version in known and print_ in self._ids:
            return
        if contract.version not in known and contract.version < newest:
            raise IncompatibleEvolution(
                f"{contract} comes after {contract.name}.v{newest}", hint=f'give it "sp:version": {newest + 1}'
            )
        history = [old for version, old in sorted(known.items()) if version < contract.version]
        require_evolution(contract, history, mode=mode)

    def learn(self, ids: Mapping[str, int]) -> None:
        """Takes ids that were allocated elsewhere; raises ContractError if one stands for another schema here."""
        merged = {**self._ids, **ids}
        check_ids(merged)
        self._ids = merged

    def next_id(self) -> int:
        """The id that the next new schema gets: above every one that was ever allocated."""
        return max((self._first_id - 1, *self._ids.values())) + 1

    def _versions(self, subject: str) -> dict[int, Contract]:
        if subject not in self._contracts:
            raise UnknownContract(f"there is no contract '{subject}'", hint=did_you_mean(subject, self._contracts))
        return self._contracts[subject]

    def _add(self, contract: Contract) -> None:
        self._contracts.setdefault(contract.name, {})[contract.version] = contract
        # Records written before the contract was registered carry the derived id: it stays readable for ever.
        self._remember(provisional_id(contract.avro), contract)
        if (schema_id := self._ids.get(fingerprint(contract.avro))) is not None:
            self._remember(schema_id, contract)

    def _remember(self, schema_id: int, contract: Contract) -> None:
        first = self._by_id.setdefault(schema_id, contract.avro)
        if fingerprint(first) != fingerprint(contract.avro):
            raise ContractError(
                f"{contract} and another schema share the id {schema_id}", hint=how_to_register(contract)
            )


def how_to_register(contract: Contract) -> str:
    """The way out for a contract without an id."""
    return f"run 'streamproc contracts register {contract}' and commit the folder, ids.json with it"


def check_ids(ids: Mapping[str, int]) -> None:
    """Raises ContractError if two schemas have one id, or an id is out of range."""
    owners: dict[int, str] = {}
    for print_, schema_id in sorted(ids.items()):
        if not 0 < schema_id < PROVISIONAL:
            raise ContractError(
                f"the schema id {schema_id} of {print_} is out of range", hint="ids are from 1 to 2^30 - 1"
            )
        if schema_id in owners:
            raise ContractError(
                f"the schemas {owners[schema_id]} and {print_} share the id {schema_id}",
                hint="two branches allocated it: remove the line of the one that wrote no data yet, register it again",
            )
        owners[schema_id] = print_


def version_before(registry: Registry, contract: Contract) -> Contract | None:
    """The newest version of a contract that is older than this one; None where the registry has none.

    Raises what the registry raises for a version that it has and cannot give.
    """
    if contract.version == 1:
        return None
    try:
        older = [version for version in registry.versions(contract.name) if version < contract.version]
    except UnknownContract:
        return None
    return registry.contract(f"{contract.name}.v{older[-1]}") if older else None
