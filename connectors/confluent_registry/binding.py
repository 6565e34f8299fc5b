"""The [registry] table of a binding: where the schema registry is, and how to get in.

[registry]
url = "https://registry.example.com"        # below which /subjects lies
user = "streamproc"
password = { env = "REGISTRY_PASSWORD" }    # or { file = "/run/secrets/registry" }; never the password itself
ca = "/etc/ssl/registry-ca.pem"             # left out: the system's authorities decide
subject = "{contract}-value"                # left out: the contract's name
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from connectors.confluent_registry.client import RegistryAccess
from connectors.handlers.secret import Secret
from streamproc.errors import InputError, did_you_mean

_TEXTS: Final = ("url", "user", "ca", "subject")
_REFERENCE: Final = 'write { env = "NAME" } or { file = "path" }'


def registry_access(table: Mapping[str, Any], root: Path) -> RegistryAccess:
    """What the table says; paths are relative to `root`. Raises InputError for anything that cannot be used."""
    known = (*_TEXTS, "password")
    for name in sorted(set(table) - set(known)):
        raise InputError(f"[registry] sets '{name}'", hint=did_you_mean(name, known))
    for name in _TEXTS:
        if not isinstance(table.get(name, "-"), str) or not table.get(name, "-"):
            raise InputError(f"[registry] {name} is no text", hint=f'write {name} = "..."')
    if "url" not in table:
        raise InputError("[registry] has no url", hint='write url = "https://host"')
    return RegistryAccess(
        table["url"],
        table.get("user", ""),
        _secret(table["password"], root) if "password" in table else None,
        str(root / table["ca"]) if "ca" in table else "",
        table.get("subject", "{contract}"),
    )


def _secret(value: Any, root: Path) -> Secret:
    if not isinstance(value, Mapping) or len(value) != 1:
        raise InputError("[registry] password is no reference", hint=_REFERENCE)
    ((kind, place),) = value.items()
    if kind not in ("env", "file") or not isinstance(place, str) or not place:
        raise InputError("[registry] password is no reference", hint=_REFERENCE)
    return Secret(env=place) if kind == "env" else Secret(file=str(root / place))
