"""A directory of model versions: one sealed file each, named by the version's id. A file that has its name is whole.

Several processes may use one directory. One that dies while it writes leaves a part of a file, under a hidden name of
its own; whoever keeps a version later deletes such parts once they have been untouched for an hour, so that a writer
that is slow has an hour.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from connectors.durable_files import PART_DIGITS, flush, write_file
from streamproc.errors import InputError, StateError
from streamproc.models.version import (
    ID_DIGITS,
    ModelVersion,
    SavedModel,
    read_version,
    saved_model,
    write_version,
)

SUFFIX: Final = ".model"
_HOUR: Final = 3600.0
_PART: Final = re.compile(rf"\.[0-9a-f]{{{ID_DIGITS}}}{re.escape(SUFFIX)}\.[0-9a-f]{{{PART_DIGITS}}}")
"""What `write_file` calls a version's file until it is whole; nothing else is deleted."""


class ModelStore:
    """Versions by id.

    key    what files are signed with, and must be; None: by their plain digest
    clock  seconds since 1970, compared with modification times of parts alone
    """

    def __init__(
        self, directory: Path, *, key: bytes | None = None, clock: Callable[[], float] = time.time
    ) -> None:  # fmt: skip
        self.directory = directory
        self._key = key
        self._clock = clock

    def put(self, version: ModelVersion) -> Path:
        """Keeps a version; one that is there already stays as it is, unless it is damaged or signed otherwise.

        Durable when it returns. Deletes parts of files that writers who died left behind more than an hour ago.
        """
        path = self.directory / f"{version.id}{SUFFIX}"
        try:
            load_version(path, key=self._key, any_river=True)
            flush(self.directory)  # Whoever wrote it may not have come to that.
        except (InputError, StateError):
            write_model_file(path, write_version(version, key=self._key))
        self._sweep()
        return path

    def _sweep(self) -> None:
        for part in self.directory.glob(f".*{SUFFIX}.*"):
            # Another process may give it its name, or sweep it too, between any two of these lines. Neither matters:
            # a writer that is alive has touched its part within the hour.
            with contextlib.suppress(OSError):
                if _PART.fullmatch(part.name) and part.stat().st_mtime < self._clock() - _HOUR:
                    part.unlink()

    def get(self, word: str, *, any_river: bool = False) -> ModelVersion:
        """The version of an id, of the beginning of one, or in a file.

        any_river  see `read_version`
        Raises InputError where there is none or more than one, StateError as `read_version`, naming the file.
        """
        return load_version(self.path_of(word), key=self._key, any_river=any_river)

    def path_of(self, word: str) -> Path:
        """The file of an id, of the beginning of one, or the file itself; raises InputError as `get`."""
        if word.endswith(SUFFIX) or "/" in word or Path(word).is_file():
            return Path(word)
        found = [path for path in self._paths() if path.name.startswith(word)]
        if len(found) != 1:
            said = f"{len(found)} versions begin with '{word}'" if found else f"there is no version '{word}'"
            raise InputError(
                f"{said} in '{self.directory}'",
                hint="name a file, or an id that 'streamproc model list' shows; 'model keep' keeps one of a topology",
            )
        return found[0]

    def versions(self) -> Iterator[tuple[Path, ModelVersion | StateError]]:
        """All of them by id; a file that is not to be believed with the reason."""
        for path in self._paths():
            try:
                yield path, load_version(path, key=self._key, any_river=True)
            except StateError as refused:
                yield path, refused

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob(f"*{SUFFIX}"))


def load_version(path: Path, *, key: bytes | None = None, any_river: bool = False) -> ModelVersion:
    """The version in a file; raises InputError if it cannot be read, StateError as `read_version`, naming the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"the model '{path}' cannot be read: {error.strerror}", hint="name a model file") from None
    try:
        return read_version(data, key=key, any_river=any_river)
    except StateError as refused:
        raise StateError(f"'{path}': {refused.message}", hint=refused.hint) from None


def model_version(path: str | Path, /, *, model: str = "", key: bytes | None = None) -> SavedModel:
    """What a learner had become, to begin another one with: `sp.learn(sp.model_version("risk.model"), inputs=...)`.

    path   a file of `streamproc model export`, or of a model store
    model  of a race which model; by default the one whose score left
    key    the key that the file must be signed with; None asks for the plain digest, which tells damage and not malice

    The model goes on with its parameters and with the texts that it has learned; calibration, rows that waited for
    their label, and metrics begin anew.
    Raises StateError with the reason, before anything of the file is made, for one that is unsigned, damaged, of
    another River, or names a class that is not on the list; InputError for a file that is not there.
    """
    return saved_model(load_version(Path(path), key=key), model)


def write_model_file(path: Path, data: bytes) -> None:
    """Writes a file as a whole or not at all, durably; raises InputError where that fails."""
    try:
        write_file(path, data)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror}", hint="name another place") from None
