"""A secret by reference: where it is, never what it is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from streamproc.errors import InputError


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret that lies in an environment variable or in a file; exactly one of them is named.

    It is read each time that it is needed, so a file can be replaced while a process runs. Nothing prints its value.

    >>> Secret(env="PAGER_SECRET")
    Secret(env='PAGER_SECRET', file='')
    """

    env: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        if bool(self.env) == bool(self.file):
            raise InputError("a secret is in one place", hint='write Secret(env="NAME") or Secret(file="path")')

    def reveal(self) -> str:
        """The value, without a line break at its end; raises InputError where there is none."""
        if self.env:
            value = os.environ.get(self.env, "")
            place = f"the environment variable '{self.env}'"
        else:
            place = f"the file '{self.file}'"
            try:
                value = Path(self.file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                raise InputError(f"the secret in {place} cannot be read: {why}", hint="name a readable file") from None
        value = value.rstrip("\r\n")
        if not value:
            raise InputError(f"there is no secret in {place}", hint="put it there before the process starts")
        return value
