"""Approvals: what an owner lets others do with a topic or a field, in `approvals.toml` beside the contracts.

    [[approval]]
    contract = "payment.v1"    # the contract, with its version
    field = "risk"             # one field of it; left out, the whole topic
    owner = "payments"         # who owns it, and gives the approval
    to = "fraud"               # whose topology writes it, or who owns it from this version on
    change = "4f1c20aa91be"    # what is approved, as `streamproc check` prints it
    by = "a.person@example.org"
    reason = "fraud computes the risk from now on"

It holds for one change: whoever computes the column in another way, or hands on another version, asks again. That the
owner has said so is a matter of who may change the file, so have its owner review it (`CODEOWNERS`).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from typing import Final

from streamproc.errors import InputError, did_you_mean

FILE: Final = "approvals.toml"
"""Its name in a folder of contracts."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One change that an owner has let happen; `field` is "" for a whole topic."""

    contract: str
    owner: str
    to: str
    change: str
    by: str
    reason: str
    field: str = ""


_NAMES: Final = tuple(one.name for one in fields(Approval))


def parse_approvals(text: str, place: str) -> tuple[Approval, ...]:
    """The approvals of a file, in its order; `place` names it in errors.

    Raises InputError for what is not TOML, an unknown or missing entry, and one that is no text.

    >>> parse_approvals("", "approvals.toml")
    ()
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{place} is not TOML: {error}", hint="see 'Owners' in docs/governance.md") from None
    for name in content:
        if name != "approval":
            raise InputError(f"{place} has an entry '{name}'", hint="it holds [[approval]] entries only")
    given = content.get("approval", [])
    if not isinstance(given, list):
        raise InputError(f"{place}: 'approval' is no list", hint="write [[approval]], with two brackets")
    return tuple(_approval(one, f"{place}, approval {number}") for number, one in enumerate(given, 1))


def _approval(one: dict[str, object], place: str) -> Approval:
    for name, value in one.items():
        if name not in _NAMES:
            raise InputError(f"{place} has an entry '{name}'", hint=did_you_mean(name, _NAMES))
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{place}: '{name}' is {value!r}", hint="write a text")
    missing = [name for name in _NAMES if name not in one and name != "field"]
    if missing:
        raise InputError(f"{place} does not say '{missing[0]}'", hint=f"an approval has {', '.join(_NAMES)}")
    return Approval(**{name: str(value) for name, value in one.items()})
