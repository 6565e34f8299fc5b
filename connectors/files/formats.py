"""Which format a file has, and its bytes."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, Final, Literal, cast

from streamproc.errors import InputError

Format = Literal["csv", "jsonl", "parquet", "avro"]
_SUFFIXES: Final[dict[str, Format]] = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".avro": "avro",
}  # fmt: skip
_FORMATS: Final = ("csv", "jsonl", "parquet", "avro")
BROKEN: Final = (OSError, EOFError, zlib.error)
"""What reading bytes of a damaged or unreadable file raises."""


def format_of(path: Path, *, named: str = "") -> tuple[Format, bool]:
    """The format of a file and whether it is gzipped: from its suffixes, or from the name that a person gave.

    >>> format_of(Path("a.csv.gz")), format_of(Path("export.txt"), named="csv")
    (('csv', True), ('csv', False))
    """
    zipped = path.suffix.lower() == ".gz"
    suffix = Path(path.stem).suffix if zipped else path.suffix
    if named and named not in _FORMATS:
        raise InputError(f"there is no file format '{named}'", hint=f"choose one of {', '.join(_FORMATS)}")
    found = cast(Format, named) if named else _SUFFIXES.get(suffix.lower())
    if found is None:
        raise InputError(
            f"the name of '{path}' does not tell its format",
            hint=f"name the format: {', '.join(_FORMATS)}; known endings: {' '.join(_SUFFIXES)} and .csv.gz, .jsonl.gz",
        )
    if zipped and found in ("parquet", "avro"):
        raise InputError(f"'{path}' is {found} inside gzip", hint=f"unpack it: {found} compresses its own blocks")
    return found, zipped


def open_bytes(path: Path, *, zipped: bool = False) -> IO[bytes]:
    """The file opened for reading; raises InputError for one that is missing, empty, a folder, or not allowed."""
    try:
        if path.stat().st_size == 0:
            raise InputError(f"'{path}' is empty", hint="check how it was made")
        return cast(IO[bytes], gzip.open(path, "rb")) if zipped else path.open("rb")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.iterdir() if p.is_file())[:20] if path.parent.is_dir() else []
        there = f"'{path.parent}' has {', '.join(near)}" if near else f"there is no file in '{path.parent}'"
        raise InputError(f"there is no file '{path}'", hint=there) from None
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: BaseException, *, place: str = "") -> InputError:
    """The error for bytes that cannot be had."""
    if isinstance(error, IsADirectoryError):
        return InputError(f"'{path}' is a folder", hint="name a file in it")
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InputError(f"'{path}' cannot be read{place}: {why}", hint="check that it is whole, and who may read it")
