"""A registry in folders: `<subject>.v<version>.avsc` files and their ids in `ids.json`, all in the repository.

Several folders are searched in order, the project's own first; new contracts are written to the first one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from connectors.durable_files import write_file
from streamproc.contracts.approvals import FILE, Approval, parse_approvals
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.derive import avsc_text
from streamproc.contracts.evolution import check_evolution
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import MemoryRegistry, fingerprint, how_to_register, split_name
from streamproc.errors import ContractError, InputError, InvalidSchema, UnknownContract

_IDS: Final = "ids.json"
_OWN: Final = 100_000
"""First id of a project that has other folders behind its own: those ids belong to the packages that ship them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `check_all` found: where, what, and the way out."""

    place: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}; {self.mend}"

    @property
    def is_without_id(self) -> bool:
        """Whether all that is missing is an id of the folder's own."""
        return self.what == _NO_ID


class FolderRegistry:
    """Contracts in folders; see `streamproc.contracts.registry.Registry`.

    Files are read once, at construction. One that cannot be used stops only who asks for it; `check_all` names all.
    A folder that is missing or read-only serves what it has. Raises InputError for an unreadable `ids.json` or
    `approvals.toml`, ContractError if two schemas have one id.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        if not folders:
            raise InputError("a folder registry without a folder", hint="name at least one")
        self._folders = tuple({folder.resolve(): folder for folder in folders}.values())
        self._broken: dict[str, ContractError] = {}
        self._files: dict[str, Path] = {}
        self._shadowed: list[Finding] = []
        contracts: dict[str, Contract] = {}
        ids: dict[str, int] = {}
        for folder in reversed(self._folders):
            ids |= read_ids(folder / _IDS)
        for folder in self._folders:
            for path in sorted(folder.glob("*.avsc")):
                self._load_file(path, contracts)
        approvals = [approval for folder in self._folders for approval in read_approvals(folder / FILE)]
        first_id = _OWN if len(self._folders) > 1 else 1
        self._memory = MemoryRegistry(contracts.values(), ids, first_id=first_id, approvals=approvals)

    def _load_file(self, path: Path, contracts: dict[str, Contract]) -> None:
        name = path.name.removesuffix(".avsc")
        if name in self._files:
            same = name in contracts and contracts[name].avro == _avro_of(path)
            if not same:
                what = f"differs from {self._files[name]}, which hides it"
                self._shadowed.append(Finding(str(path), what, "rename the contract in front of it"))
            return
        self._files[name] = path
        try:
            contract = read_contract(path)
        except ContractError as error:
            self._broken[name] = error
        else:
            contracts[name] = contract

    def subjects(self) -> list[str]:
        """Names of all contracts, sorted."""
        return self._memory.subjects()

    def versions(self, subject: str) -> list[int]:
        """Versions of a contract, oldest first; raises UnknownContract."""
        return self._memory.versions(subject)

    def contract(self, name: str) -> Contract:
        """The contract named "payment.v2", or the newest "payment".

        Raises UnknownContract, or InvalidSchema if the file that would be it cannot be used.
        """
        subject, version = split_name(name)
        file = name
        if version is None:
            files = [(split_name(known)[1] or 0, known) for known in self._files if split_name(known)[0] == subject]
            file = max(files, default=(0, name))[1]
        if file in self._broken:
            raise self._broken[file]
        return self._memory.contract(name)

    def id_of(self, contract: Contract) -> int:
        """The id to write before records of this contract; raises UnknownContract if nobody registered it."""
        return self._memory.id_of(contract)

    def schema_of(self, schema_id: int) -> Mapping[str, object]:
        """The schema, as JSON value, that wrote records with this id; raises UnknownContract."""
        try:
            return self._memory.schema_of(schema_id)
        except UnknownContract as error:
            places = ", ".join(str(folder) for folder in self._folders)
            raise UnknownContract(f"{error.message} in {places}", hint=error.hint) from None

    def approvals(self) -> Sequence[Approval]:
        """What owners have let others do: `approvals.toml` of each folder."""
        return self._memory.approvals()

    def adopt(self, contract: Contract) -> int:
        """The contract's id; one derived from its schema if nobody registered it, remembered by this object."""
        return self._memory.adopt(contract)

    def register(self, contract: Contract, *, mode: str | None = None) -> int:
        """Writes the contract's file (where there is none) and id into the first folder; gives the id.

        The contract is linted by then; its evolution is checked against the versions known. Each file is replaced as a
        whole. Raises IncompatibleEvolution, or InputError if the folder cannot be written.
        """
        self._memory.check(contract, mode=mode)
        folder = self._folders[0]
        path = folder / f"{contract}.avsc"
        try:
            if str(contract) not in self._files:
                write_file(path, avsc_text(contract).encode())
                self._files[str(contract)] = path
            # What another process registered meanwhile is read first: its lines stay and its ids are taken.
            self._memory.learn(own := read_ids(folder / _IDS))
            schema_id = self._memory.register(contract, mode=mode)
            if fingerprint(contract.avro) not in own:
                write_file(folder / _IDS, ids_text(own | {fingerprint(contract.avro): schema_id}).encode())
        except OSError as error:
            raise InputError(
                f"cannot register {contract} in {folder}: {error.strerror}",
                hint=f"{how_to_register(contract)}, where the folder can be written",
            ) from None
        return schema_id

    def register_all(self) -> dict[str, int]:
        """Gives every contract in the folders that has no id one; the new ids by contract name, in name order.

        Raises ContractError with all else that `check_all` finds, before anything is written.
        """
        missing = [name for name in sorted(self._files) if name not in self._broken and not self._has_id(name)]
        problems = [finding for finding in self.check_all() if not finding.is_without_id]
        if problems:
            raise ContractError("the contracts cannot be registered:\n" + "\n".join(f"  - {item}" for item in problems))
        ordered = sorted(missing, key=lambda name: (split_name(name)[0], split_name(name)[1] or 0))
        return {name: self.register(self._memory.contract(name)) for name in ordered}

    def check_all(self) -> list[Finding]:
        """What is wrong in the folders, for CI: unusable and hidden files, broken evolution, contracts without an id.

        In file order, then by subject and version; empty if all is well.
        """
        found = [Finding(str(self._files[name]), error.message, error.hint) for name, error in self._broken.items()]
        found += self._shadowed
        for subject in self._memory.subjects():
            history: list[Contract] = []
            for version in self._memory.versions(subject):
                contract = self._memory.contract(f"{subject}.v{version}")
                place = str(self._files[str(contract)])
                found += [
                    Finding(place, f"{item.path or 'top'}: {item.why} ({item.reader} reads {item.writer})", item.mend)
                    for item in check_evolution(contract, history)
                ]
                history.append(contract)
                if not self._has_id(str(contract)):
                    found.append(Finding(place, _NO_ID, how_to_register(contract)))
        return found

    def _has_id(self, name: str) -> bool:
        return fingerprint(self._memory.contract(name).avro) in self._memory.ids


_NO_ID: Final = "it has no schema id"


def read_contract(path: Path) -> Contract:
    """The contract in a `<subject>.v<version>.avsc` file; raises InvalidSchema, naming the file.

    The file's name must be the contract's: what a directory shows is what the file holds.
    """
    try:
        contract = parse_contract(path.read_text(encoding="utf-8"))
    except ContractError as error:
        raise InvalidSchema(f"{path}: {error.message}", hint=error.hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSchema(f"{path} cannot be read: {error}", hint="it must be UTF-8 text") from None
    if path.name != f"{contract}.avsc":
        raise InvalidSchema(
            f"{path} declares {contract}", hint=f"rename it to {contract}.avsc, or mend name and sp:version"
        )
    return contract


def read_approvals(path: Path) -> tuple[Approval, ...]:
    """The approvals of a folder, none without a file; raises InputError."""
    try:
        return parse_approvals(path.read_text("utf-8"), str(path))
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read: {error}", hint="it is a TOML file in UTF-8") from None


def read_ids(path: Path) -> dict[str, int]:
    """Fingerprint to id of an `ids.json`; empty where there is none; raises InputError for anything else."""
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read: {error}", hint="restore it from the repository: ids never change"
        ) from None
    if not isinstance(ids, dict) or not all(type(schema_id) is int for schema_id in ids.values()):
        raise InputError(f"{path} is no map of fingerprints to ids", hint="restore it from the repository")
    return ids


def ids_text(ids: Mapping[str, int]) -> str:
    """`ids.json`: one line a schema, sorted by fingerprint, so that branches which add ids merge."""
    return json.dumps(dict(sorted(ids.items())), indent=0) + "\n"


def _avro_of(path: Path) -> object:
    try:
        return read_contract(path).avro
    except ContractError:
        return None
