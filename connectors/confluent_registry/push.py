"""Contracts of a folder into a registry: everything is checked before anything is written.

The subject is the contract's name unless the access says otherwise. Records are found by their id, never by the
subject, and one contract may describe many topics; what a subject decides is which versions must fit each other, and
that is the contract's history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from connectors.confluent_registry.client import RegistryClient
from connectors.confluent_registry.registry import contracts_of, schema_text
from streamproc.contracts.avro_json import load_schema
from streamproc.contracts.evolution import check_evolution
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import fingerprint
from streamproc.errors import ContractError, IncompatibleEvolution, InvalidSchema


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of one contract, or would become of it.

    schema_id  None before it has one
    is_new     whether it was registered now
    mode       the subject's compatibility mode after it, `mode_before` the one set before ("" for none)
    """

    contract: Contract
    subject: str
    schema_id: int | None
    is_new: bool
    mode: str
    mode_before: str


def push_contracts(client: RegistryClient, contracts: Sequence[Contract], *, dry_run: bool = False) -> list[Pushed]:
    """Registers contracts that are not there yet and sets each subject's mode; gives what was done, by name.

    Every contract is held against the history in the registry, by its own mode and by the registry's own check, before
    the first write; `dry_run` stops there. Raises IncompatibleEvolution with everything that does not fit. Somebody who
    writes at the same time is met by the registry's check: then what came before stays registered, and the same push
    again goes on.
    """
    ordered = sorted(contracts, key=lambda contract: (contract.name, contract.version))
    planned: list[Pushed] = []
    problems: list[str] = []
    for name, group in groupby(ordered, key=lambda contract: contract.name):
        steps, found = _plan(client, name, list(group))
        planned += steps
        problems += found
    if problems:
        raise IncompatibleEvolution(
            "nothing was pushed:\n" + "\n".join(f"  - {problem}" for problem in problems),
            hint="give the contract a version that fits, or start a new subject",
        )
    return planned if dry_run else [_push(client, step, planned) for step in planned]


def _plan(client: RegistryClient, name: str, contracts: Sequence[Contract]) -> tuple[list[Pushed], list[str]]:
    subject = client.access.subject_of(name)
    versions = client.history(subject)
    history = contracts_of(name, subject, versions)
    ids = {fingerprint(load_schema(version.text)): version.schema_id for version in reversed(versions)}
    mode = client.mode(subject)
    steps: list[Pushed] = []
    problems: list[str] = []
    asked = False
    for contract in contracts:
        there = history.get(contract.version)
        known = there is not None and fingerprint(there.avro) == fingerprint(contract.avro)
        if known:
            schema_id = client.find(subject, schema_text(contract)) or ids[fingerprint(contract.avro)]
            steps.append(Pushed(contract, subject, schema_id, False, contracts[-1].compatibility, mode))
            continue
        if there is not None:
            problems.append(f"{contract} is registered under '{subject}' already, with another schema")
            continue
        if contract.version < max(history, default=0):
            problems.append(f"{contract} comes after {name}.v{max(history)}, which '{subject}' has already")
            continue
        problems += [str(finding) for finding in check_evolution(contract, list(history.values()))]
        if versions and not asked and mode == contract.compatibility:
            asked = True
            if refused := client.refusal(subject, schema_text(contract)):
                problems.append(f"{contract}: the registry would refuse it: {refused}")
        history[contract.version] = contract
        steps.append(Pushed(contract, subject, None, True, contract.compatibility, mode))
    return steps, problems


def _push(client: RegistryClient, step: Pushed, planned: Sequence[Pushed]) -> Pushed:
    schema_id = step.schema_id
    if schema_id is None:
        # A new version is judged by its own mode; a registry may have nothing yet that the mode could be set for.
        if client.mode(step.subject) != step.mode:
            client.set_mode(step.subject, step.mode)
        try:
            schema_id = client.register(step.subject, schema_text(step.contract))
        except (IncompatibleEvolution, InvalidSchema) as error:
            raise type(error)(f"{step.contract}: {error.message}", hint="what came before it is registered") from None
    if step is [other for other in planned if other.subject == step.subject][-1]:
        _set_mode(client, step)
    return Pushed(step.contract, step.subject, schema_id, step.is_new, step.mode, step.mode_before)


def _set_mode(client: RegistryClient, step: Pushed) -> None:
    now = client.mode(step.subject)
    if now == step.mode:
        return
    if not client.set_mode(step.subject, step.mode) and client.general_mode() != step.mode:
        raise ContractError(
            f"the mode {step.mode} of '{step.subject}' at '{client.access.url}' could not be set",
            hint="look at the registry's own rules",
        )
