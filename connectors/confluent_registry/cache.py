"""What a registry once said, kept on the disk: ids never change, so a restart needs no registry for what it knows.

    <folder>/<registry>/<id>-<seal>        the text of the schema with this id
    <folder>/<registry>/<key>.id-<id>      empty: the id of a schema under a subject, both of them in the key

The seal is the XXH3-128 of the text; a file that does not match it is as good as none.
"""

from __future__ import annotations

from pathlib import Path

from connectors.durable_files import write_file
from streamproc.errors import ContractError, InputError
from streamproc.hashing import content_id


class SchemaCache:
    """Answers of one registry in a folder that several processes may share.

    Raises InputError if the folder cannot be written, ContractError for an id that now stands for another schema.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._url = url
        self._folder = folder / content_id(url.rstrip("/").encode())[:16]

    def schema(self, schema_id: int) -> str | None:
        """The text of a schema, None if it was never kept."""
        for path in sorted(self._folder.glob(f"{schema_id}-*")):
            try:
                data = path.read_bytes()
            except OSError:
                continue
            if content_id(data) == path.name.partition("-")[2]:
                return data.decode()
        return None

    def keep_schema(self, schema_id: int, text: str) -> None:
        """Keeps a text for an id; ContractError if another one was kept: then records would change their meaning."""
        known = self.schema(schema_id)
        if known is None:
            self._write(self._folder / f"{schema_id}-{content_id(text.encode())}", text)
        elif known != text:
            raise ContractError(
                f"the id {schema_id} of the schema registry at '{self._url}' stood for another schema before",
                hint=f"the registry was made anew: records written before cannot be read with it. Restore it, or begin "
                f"with a new log; then delete '{self._folder}'",
            )

    def id_of(self, subject: str, text: str) -> int | None:
        """The id of a schema under a subject, None if it was never kept."""
        found = sorted(self._folder.glob(f"{_key(subject, text)}.id-*"))
        number = found[0].name.rpartition("-")[2] if found else ""
        return int(number) if number.isdecimal() else None

    def keep_id(self, subject: str, text: str, schema_id: int) -> None:
        """Keeps the id of a schema under a subject."""
        path = self._folder / f"{_key(subject, text)}.id-{schema_id}"
        if not path.exists():
            self._write(path, "")

    def _write(self, path: Path, text: str) -> None:
        try:
            write_file(path, text.encode())
        except OSError as error:
            raise InputError(
                f"schemas cannot be kept in '{self._folder}': {error.strerror}", hint="make the folder writable"
            ) from None


def _key(subject: str, text: str) -> str:
    return content_id(f"{subject}\n{text}".encode())
