"""Writes rows to a file that is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, cast

import polars as pl
import pyarrow.parquet as pq

from connectors.durable_files import flush
from connectors.files.avro_container import ContainerWriter
from connectors.files.formats import Format, format_of
from connectors.files.to_text import json_of, quoted, text_of
from streamproc.contracts.derive import contract_of
from streamproc.contracts.model import Field, Schema
from streamproc.errors import InputError, TypeMismatch, UnknownColumn, did_you_mean

PARTITION: Final = "_partition"
OFFSET: Final = "_offset"
_POSITION: Final = Schema((Field(PARTITION, pl.Int64()), Field(OFFSET, pl.Int64())))
_parquet: Any = pq


class FileSink:
    """A file that frames of one schema are appended to; its format follows from its name, as in `read_file`.

    positions  the frames also have the columns `_partition` and `_offset` (int64): where each row stands in the log
    avro       the schema to write into an Avro container; without one it is derived from the columns
    codec      of Avro: null, deflate or zstandard
    metadata   texts that a Parquet file carries along

    Rows go to a temporary file beside the target; `close` makes it durable and puts it in the target's place, `abort`
    (or leaving a `with` block by an error) leaves no trace. Equal frames give equal bytes.
    What `read_file` reads back is equal to what was written: CSV tells null from an empty text by its quotes.
    """

    __slots__ = ("_closed", "_finish", "_part", "_path", "_schema", "_stream", "_write", "rows")

    def __init__(
        self,
        path: str | Path,
        schema: Schema,
        *,
        positions: bool = False,
        avro: Mapping[str, object] | None = None,
        file_format: str = "",
        codec: str = "null",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._path = Path(path)
        form, zipped = format_of(self._path, named=file_format)
        self._schema = Schema((*_POSITION, *schema)) if positions else schema
        self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        self._closed = False
        self.rows = 0
        self._stream = self._open(zipped)
        try:
            schema_out = _with_position(avro) if positions else avro
            self._write, self._finish = self._writer(form, schema_out, codec, metadata)
        except BaseException:
            self.abort()
            raise

    def _open(self, zipped: bool) -> IO[bytes]:
        try:
            raw = self._part.open("wb")
        except OSError as error:
            raise InputError(
                f"cannot write '{self._path}': {error.strerror}", hint="name a folder that exists and can be written"
            ) from None
        # No time stamp and no name in the gzip header: the same rows give the same bytes.
        return cast(IO[bytes], gzip.GzipFile("", "wb", 6, raw, mtime=0)) if zipped else raw

    def _writer(
        self, form: Format, avro: Mapping[str, object] | None, codec: str, metadata: Mapping[str, str] | None
    ) -> tuple[Callable[[pl.DataFrame], None], Callable[[], None]]:
        if form == "parquet":
            return self._parquet_writer(metadata or {})
        if form == "avro":
            schema = avro or contract_of(self._path.name.partition(".")[0] or "rows", self._schema).avro
            return ContainerWriter(self._stream, schema, codec=codec).write, _nothing
        if form == "jsonl":
            return self._write_json, _nothing
        header = pl.DataFrame(schema=dict.fromkeys(self._schema.names, pl.String()))
        self._stream.write(header.write_csv(separator=self._separator).encode())
        return self._write_csv, _nothing

    def _parquet_writer(self, metadata: Mapping[str, str]) -> tuple[Callable[[pl.DataFrame], None], Callable[[], None]]:
        arrow = _arrow_table(self._schema.empty()).schema.with_metadata(dict(metadata) or None)
        writer = _parquet.ParquetWriter(self._stream, arrow, compression="zstd")

        def write(frame: pl.DataFrame) -> None:
            writer.write_table(_arrow_table(frame).cast(arrow))

        return write, writer.close

    @property
    def _separator(self) -> str:
        return "\t" if ".tsv" in self._path.suffixes else ","

    def _write_csv(self, frame: pl.DataFrame) -> None:
        texts = frame.select(text_of(name, dtype) for name, dtype in frame.schema.items())
        self._stream.write(texts.write_csv(include_header=False, separator=self._separator).encode())

    def _write_json(self, frame: pl.DataFrame) -> None:
        parts: list[pl.Expr] = []
        for place, (name, dtype) in enumerate(frame.schema.items()):
            parts += [pl.lit(("," if place else "{") + quoted(name) + ":"), json_of(name, dtype)]
        lines = frame.select(pl.concat_str(*parts, pl.lit("}")))
        self._stream.write(lines.write_csv(include_header=False, quote_style="never").encode())

    def write(self, frame: pl.DataFrame) -> None:
        """Appends rows; the frame has the sink's columns, in any order.

        Raises UnknownColumn for a column too few or too many, TypeMismatch for another type.
        """
        if self._closed:
            raise InputError(f"'{self._path}' is closed", hint="write before close")
        for name in frame.columns:
            if name not in self._schema:
                hint = did_you_mean(name, self._schema.names)
                raise UnknownColumn(f"the file '{self._path}' has no column '{name}'", hint=hint)
        for column in self._schema:
            if column.name not in frame.columns:
                hint = did_you_mean(column.name, frame.columns)
                raise UnknownColumn(f"the rows for '{self._path}' have no column '{column.name}'", hint=hint)
            if frame.schema[column.name] != column.dtype:
                raise TypeMismatch(
                    f"column '{column.name}' for '{self._path}' is {frame.schema[column.name]}, not {column.dtype}",
                    hint="cast it",
                )
        if frame.height:
            self._write(frame.select(self._schema.names))
            self.rows += frame.height

    def close(self) -> None:
        """Finishes the file and puts it in place, durably. Once is enough; twice does nothing."""
        if self._closed:
            return
        self._finish()
        raw = self._stream.fileobj if isinstance(self._stream, gzip.GzipFile) else self._stream
        self._stream.flush()
        if raw is not self._stream:
            self._stream.close()
        raw.flush()
        os.fsync(raw.fileno())
        raw.close()
        self._part.replace(self._path)
        self._closed = True
        flush(self._path.parent)

    def abort(self) -> None:
        """Gives up what was written; a file that stood there before stays as it was."""
        if self._closed:
            return
        self._closed = True
        raw = self._stream.fileobj if isinstance(self._stream, gzip.GzipFile) else self._stream
        with contextlib.suppress(OSError, ValueError):
            self._stream.close()
        raw.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _nothing() -> None:
    """Nothing is left to do at the end of these formats."""


def _arrow_table(frame: pl.DataFrame) -> Any:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _with_position(avro: Mapping[str, object] | None) -> Mapping[str, object] | None:
    """The schema with the two columns of a row's place in front."""
    if avro is None:
        return None
    fields = cast(list[object], avro["fields"])
    place = [{"name": name, "type": "long"} for name in (PARTITION, OFFSET)]
    return {**avro, "fields": [*place, *fields]}
