"""The registry port over a Confluent-compatible registry: contracts from the folder, ids from the registry.

Names mean what the repository says, and only what it does not have is asked for: a contract that somebody registers
meanwhile must not change the plan of a running topology. Ids below 2^30 belong to the registry alone; a folder's own
`ids.json` has no say beside it, for the same number would mean two schemas. Nothing is written to it here.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar, cast

from connectors.confluent_registry.cache import SchemaCache
from connectors.confluent_registry.client import RegisteredSchema, RegistryClient, not_here
from connectors.registry import FolderRegistry
from streamproc.contracts.approvals import Approval
from streamproc.contracts.avro_json import load_schema
from streamproc.contracts.avro_schema import contract_of_avro
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import PROVISIONAL, fingerprint, provisional_id, split_name
from streamproc.errors import ContractError, InvalidSchema, RegistryUnavailable, UnknownContract

logger = logging.getLogger(__name__)

_ASK_AGAIN_S: Final = 10.0
"""An id that nobody knew is asked for again after this; batches come far more often."""
_AWAY_S: Final = 30.0
"""After a registry did not answer, what is kept serves so long before it is asked again."""

T = TypeVar("T")


class ConfluentRegistry:
    """Contracts of a folder with the ids of a registry; see `streamproc.contracts.registry.Registry`.

    cache  what the registry said before, for when it is away

    Every method that asks the registry may raise RegistryUnavailable, after the client's patience.
    """

    def __init__(self, client: RegistryClient, folder: FolderRegistry, cache: SchemaCache) -> None:
        self._client, self._folder, self._cache = client, folder, cache
        self._schemas: dict[int, Mapping[str, object]] = {}
        self._unknown: dict[int, tuple[float, str]] = {}
        self._ids: dict[tuple[str, str], int] = {}
        self._fetched: dict[str, dict[int, Contract]] = {}
        self._away_until = float("-inf")

    def subjects(self) -> list[str]:
        """Names of all contracts, of the folder and of the registry, sorted."""
        theirs = (self._client.access.contract_of(subject) for subject in self._client.subjects())
        return sorted({*self._folder.subjects(), *filter(None, theirs)})

    def versions(self, subject: str) -> list[int]:
        """Versions of a contract, oldest first; raises UnknownContract."""
        try:
            return self._folder.versions(subject)
        except UnknownContract as error:
            return sorted(self._theirs(subject, error))

    def contract(self, name: str) -> Contract:
        """The contract named "payment.v2", or the newest "payment": the folder's, else the registry's.

        A version of the registry is called what its `sp:version` says, else its number there. Raises UnknownContract,
        and InvalidSchema for one that cannot be used.
        """
        try:
            return self._folder.contract(name)
        except UnknownContract as error:
            subject, version = split_name(name)
            theirs = self._theirs(subject, error)
            wanted = max(theirs) if version is None else version
            if wanted not in theirs:
                known = ", ".join(f"v{number}" for number in sorted(theirs))
                raise UnknownContract(
                    f"the contract '{subject}' has no version {version} at '{self._client.access.url}'",
                    hint=f"there are: {known}",
                ) from None
            return theirs[wanted]

    def id_of(self, contract: Contract) -> int:
        """The registry's id of the contract; raises UnknownContract if it is not registered under its subject."""
        key = str(contract), schema_text(contract)
        if key not in self._ids:
            self._ids[key] = self._find_id(contract)
        return self._ids[key]

    def schema_of(self, schema_id: int) -> Mapping[str, object]:
        """The schema, as JSON value, that wrote records with this id.

        Raises UnknownContract if the registry says that there is none, or has one that the lint refuses.
        """
        if schema_id in self._schemas:
            return self._schemas[schema_id]
        if schema_id >= PROVISIONAL:
            return self._folder.schema_of(schema_id)
        asked, why = self._unknown.get(schema_id, (float("-inf"), ""))
        if time.monotonic() - asked >= _ASK_AGAIN_S:
            try:
                self._schemas[schema_id] = self._fetched_schema(schema_id)
                return self._schemas[schema_id]
            except (InvalidSchema, UnknownContract) as error:
                why = error.message
                logger.warning("schema id %d at '%s': %s", schema_id, self._client.access.url, why)
                self._unknown[schema_id] = (time.monotonic(), why)
        raise UnknownContract(
            f"no usable schema has the id {schema_id} at '{self._client.access.url}': {why}",
            hint="register the writer's schema, then 'streamproc dlq replay'",
        )

    def approvals(self) -> Sequence[Approval]:
        """What owners have let others do: the folder's, as no registry has a place for it."""
        return self._folder.approvals()

    def adopt(self, contract: Contract) -> int:
        """The registry's id; for what a plan derived, and for the engine's own records, one derived from the schema.

        Raises UnknownContract for a named contract that is not registered: others could not read its records.
        """
        if self._is_named(contract):
            return self.id_of(contract)
        schema_id = provisional_id(contract.avro)
        self._schemas[schema_id] = contract.avro
        return schema_id

    def register(self, contract: Contract, *, mode: str | None = None) -> int:
        """Raises ContractError: `push_contracts` writes, never a run."""
        raise not_here(self._client.access)

    def _is_named(self, contract: Contract) -> bool:
        """Whether this is the contract that its name means, in the folder or at the registry."""
        try:
            found = self._folder.contract(str(contract))
        except ContractError:
            fetched = self._fetched.get(contract.name, {}).get(contract.version)
            if fetched is None:
                return False
            found = fetched
        return fingerprint(found.avro) == fingerprint(contract.avro)

    def _find_id(self, contract: Contract) -> int:
        subject = self._client.access.subject_of(contract.name)
        text = schema_text(contract)
        found = self._asked(lambda: self._look_up(subject, contract, text), lambda: self._cache.id_of(subject, text))
        if found is None:
            raise UnknownContract(
                f"{contract} is not registered under '{subject}' at '{self._client.access.url}'",
                hint="run 'streamproc contracts push' where contracts are released",
            )
        return found

    def _look_up(self, subject: str, contract: Contract, text: str) -> int | None:
        found = self._client.find(subject, text)
        if found is None:
            # Other words in its documentation make another text of the same contract.
            same = fingerprint(contract.avro)
            history = [(version, _avro(version.text)) for version in self._client.history(subject)]
            ids = [version.schema_id for version, avro in history if avro is not None and fingerprint(avro) == same]
            found = ids[0] if ids else None
        if found is not None:
            self._cache.keep_id(subject, text, found)
        return found

    def _fetched_schema(self, schema_id: int) -> Mapping[str, object]:
        def ask() -> str | None:
            text = self._client.schema(schema_id)
            if text is not None:
                self._cache.keep_schema(schema_id, text)
            return text

        kept = self._cache.schema(schema_id)
        # What was read once must be read again alike, so a schema that was deleted there stays known here.
        text = self._asked(ask, lambda: kept) or kept
        if text is None:
            raise UnknownContract("it does not know it")
        return cast(Mapping[str, object], load_schema(text))

    def _asked(self, ask: Callable[[], T | None], kept: Callable[[], T | None]) -> T | None:
        """The registry's answer, or what it said before while it is away."""
        if time.monotonic() < self._away_until and (known := kept()) is not None:
            return known
        try:
            return ask()
        except RegistryUnavailable as error:
            self._away_until = time.monotonic() + _AWAY_S
            known = kept()
            if known is None:
                raise
            logger.warning("%s; what it said before is used", error.message)
            return known

    def _theirs(self, name: str, missing: UnknownContract) -> dict[int, Contract]:
        if name not in self._fetched:
            subject = self._client.access.subject_of(name)
            self._fetched[name] = contracts_of(name, subject, self._client.history(subject))
        if not self._fetched[name]:
            raise UnknownContract(
                f"{missing.message}, in the folders or at '{self._client.access.url}'", hint=missing.hint
            ) from None
        return self._fetched[name]


def contracts_of(name: str, subject: str, history: list[RegisteredSchema]) -> dict[int, Contract]:
    """The contracts that a subject's history holds, by version.

    Raises InvalidSchema for a schema that is no contract, ContractError if two of another meaning claim one version.
    """
    found: dict[int, Contract] = {}
    for version in history:
        place = f"version {version.version} of '{subject}'"
        try:
            avro = cast(Mapping[str, object], load_schema(version.text))
            declared = avro.get("sp:version", version.version) if isinstance(avro, dict) else version.version
            contract = contract_of_avro({**avro, "sp:subject": name, "sp:version": declared})
        except (ContractError, TypeError) as error:
            why = error.message if isinstance(error, ContractError) else "its top level is no record"
            raise InvalidSchema(f"{place} cannot be used: {why}", hint="keep it out of this subject") from None
        first = found.setdefault(contract.version, contract)
        if fingerprint(first.avro) != fingerprint(contract.avro):
            raise ContractError(
                f"{place} says that it is {contract}, and so does another one", hint='mend "sp:version" in one of them'
            )
    return found


def schema_text(contract: Contract) -> str:
    """The text under which a contract is registered: its schema as compact JSON, in its own order."""
    return json.dumps(contract.avro, separators=(",", ":"), ensure_ascii=False)


def _avro(text: str) -> object | None:
    try:
        return load_schema(text)
    except ContractError:
        return None
