"""Dirty files: each bad row costs only itself, and says where and why."""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.files.sink import FileSink
from connectors.files.source import read_file
from streamproc.contracts.avro_schema import parse_contract
from streamproc.errors import InputError, TypeMismatch, UnknownColumn

DATA = Path(__file__).parent / "data"
ORDER = parse_contract("""{"type": "record", "name": "order", "fields": [
  {"name": "id", "type": "long", "sp:role": "key"},
  {"name": "text", "type": "string"},
  {"name": "price", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2}]},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"},
  {"name": "status", "type": {"type": "enum", "name": "status", "symbols": ["NEW", "PAID"]}, "default": "NEW"}]}""")
HEAD = "id,text,price,at,status\n"
GOOD_LINE = "1,a,2.50,2011-01-04T10:00:00Z,PAID\n"


def read(path: Path, **options: object) -> tuple[pl.DataFrame, list[tuple[int, str, bytes]]]:
    pieces = list(read_file(path, contract=ORDER, **options))  # type: ignore[arg-type]  # options of each test's choice
    frames = [piece.frame for piece in pieces]
    return pl.concat([ORDER.schema.empty(), *frames]), [row for piece in pieces for row in piece.bad.rows()]


def written(folder: Path, text: str | bytes, name: str = "orders.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x,a,2.50,2011-01-04,PAID", "column 'id': 'x' is not a value of the type Int64"),
        (
            "9223372036854775808,a,,2011-01-04,PAID",
            "column 'id': '9223372036854775808' is not a value of the type Int64",
        ),
        (",a,2.50,2011-01-04,PAID", "column 'id' has no value, and 'order.v1' wants one"),
        ("1,a,2.505,2011-01-04,PAID", "column 'price': '2.505' is not a value of the type Decimal(8, 2)"),
        ("1,a,2.50,2011-02-30,PAID", "column 'at': '2011-02-30' is not a moment"),
        ("1,a,2.50,2011-01-04,SOLD", "column 'status': 'SOLD' is not one of NEW, PAID"),
        ("1,a,2.50,2011-01-04", "4 cells, and the header has 5"),
        ("1,a,2.50,2011-01-04,PAID,", "6 cells, and the header has 5"),
        ('1,"a"b,2.50,2011-01-04,PAID', "text after a closing quote"),
    ],
)
def test_a_bad_line_of_csv_is_reported_with_its_place_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    frame, bad = read(written(tmp_path, HEAD + GOOD_LINE + line + "\n" + GOOD_LINE))
    assert bad == [(3, reason, line.encode())]
    assert frame["id"].to_list() == [1, 1]


def test_an_open_quote_costs_its_line_and_not_the_rest_of_the_file(tmp_path: Path) -> None:
    frame, bad = read(written(tmp_path, HEAD + '7,"open,2.50,2011-01-04,PAID\n' + GOOD_LINE * 3))
    assert [row[:2] for row in bad] == [(2, "a quote that is never closed")]
    assert frame.height == 3


def test_bytes_that_are_not_utf8_cost_their_line(tmp_path: Path) -> None:
    frame, bad = read(written(tmp_path, HEAD.encode() + b"1,caf\xe9,2,2011-01-04,PAID\n" + GOOD_LINE.encode()))
    assert bad == [(2, "not UTF-8 text", b"1,caf\xe9,2,2011-01-04,PAID")]
    assert frame.height == 1


def test_a_huge_line_costs_itself_and_bounded_memory(tmp_path: Path) -> None:
    huge = "1," + "x" * 5_000_000 + ",2.50,2011-01-04,PAID\n"
    frame, bad = read(written(tmp_path, HEAD + huge + GOOD_LINE), max_record=1000)
    assert [row[:2] for row in bad] == [(2, "longer than a record may be (only its beginning is kept)")]
    assert len(bad[0][2]) == 1000
    assert frame.height == 1


def test_line_numbers_count_quoted_newlines(tmp_path: Path) -> None:
    frame, bad = read(written(tmp_path, HEAD + '1,"two\nlines",,2011-01-04,PAID\n\nx,a,,2011-01-04,PAID\n'))
    assert frame["text"].to_list() == ["two\nlines"]
    assert [row[0] for row in bad] == [5]


def test_a_byte_order_mark_gzip_and_windows_line_ends_do_not_show(tmp_path: Path) -> None:
    text = (HEAD + GOOD_LINE).replace("\n", "\r\n").encode("utf-8-sig")
    plain, none = read(written(tmp_path, text))
    path = tmp_path / "orders.csv.gz"
    path.write_bytes(gzip.compress(text))
    assert none == []
    assert read(path)[0].equals(plain)
    assert plain.row(0, named=True)["text"] == "a"


def test_an_empty_cell_is_null_or_the_empty_text_as_the_contract_allows(tmp_path: Path) -> None:
    frame, bad = read(written(tmp_path, HEAD + '1,,"",2011-01-04,PAID\n'))
    assert bad == []
    assert frame.select("text", "price").row(0) == ("", None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": 1, "text": "a"', "not one JSON object"),
        ("[1]", "not one JSON object"),
        ('{"id": 01, "text": "a"}', "not one JSON object"),
        ('{"id": 1, "id": 2, "text": "a", "at": "2011-01-04"}', "a JSON key that stands twice"),
        ('{"id": 1, "text": "a"}', "column 'at' has no value, and 'order.v1' wants one"),
        ('{"id": 1.5, "text": "a", "at": "2011-01-04"}', "column 'id': '1.5' is not a value of the type Int64"),
        (
            '{"id": 1, "text": {"": 1}, "at": "2011-01-04"}',
            "column 'text': '{\"\": 1}' is not a value of the type String",
        ),
        ('{"id": 1, "text": null, "at": "2011-01-04"}', "column 'text' has no value, and 'order.v1' wants one"),
    ],
)
def test_a_bad_line_of_json_is_reported_with_its_place_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    good = '{"id": 2, "text": "b", "at": "2011-01-04", "price": 2.50}\n'
    frame, bad = read(written(tmp_path, good + "\n" + line + "\n" + good, "orders.jsonl"))
    assert bad == [(3, reason, line.encode())]
    assert frame["id"].to_list() == [2, 2]
    assert frame["status"].to_list() == ["NEW", "NEW"]


def test_numbers_of_json_keep_every_digit(tmp_path: Path) -> None:
    line = '{"id": 9007199254740993, "text": "a", "at": "2011-01-04", "price": 123456.78}\n'
    frame, bad = read(written(tmp_path, line, "orders.jsonl"))
    assert bad == []
    assert frame["id"].to_list() == [9007199254740993]
    assert str(frame["price"][0]) == "123456.78"


def test_columns_are_mapped_and_times_read_in_their_form_and_zone(tmp_path: Path) -> None:
    path = written(tmp_path, "No;What;When;Extra\n1;a;04/07/2011 10:00;x\n")
    frame, bad = read(
        path, mapping={"No": "id", "What": "text"}, event_time="When", separator=";", formats={"at": "%d/%m/%Y %H:%M"},
        zone="Europe/London",
    )  # fmt: skip
    assert bad == []
    assert frame["at"].cast(pl.String).to_list() == ["2011-07-04 09:00:00.000000+00:00"]
    assert frame.select("price", "status").row(0) == (None, "NEW")


def test_numbers_since_1970_are_moments_where_that_is_declared(tmp_path: Path) -> None:
    path = written(tmp_path, "id,text,at\n1,a,1294135200\n2,b,99999999999999\n")
    frame, bad = read(path, formats={"at": "epoch_s"})
    assert frame["at"].cast(pl.Int64).to_list() == [1294135200000000]
    assert [row[1] for row in bad] == ["column 'at': '99999999999999' is not a moment like epoch_s"]


def test_an_hour_that_the_clock_skips_is_no_moment(tmp_path: Path) -> None:
    path = written(tmp_path, "id,text,at\n1,a,2011-03-27 01:30\n2,b,2011-10-30 01:30\n")
    frame, bad = read(path, zone="Europe/London")
    assert frame["at"].cast(pl.String).to_list() == ["2011-10-30 00:30:00.000000+00:00"]
    assert [row[0] for row in bad] == [2]


def test_bad_rows_of_typed_files_are_reported_by_number(tmp_path: Path) -> None:
    path = tmp_path / "orders.parquet"
    pl.DataFrame({"id": [1.0, 2.5, 3.0], "text": ["a", "b", None], "at": ["2011-01-04"] * 3}).write_parquet(path)
    frame, bad = read(path, rows=2)
    assert frame["id"].to_list() == [1]
    assert bad == [
        (2, "column 'id': '2.5' is not a value of the type Int64", b'{"id": 2.5, "text": "b", "at": "2011-01-04"}'),
        (3, "column 'text' has no value, and 'order.v1' wants one", b'{"id": 3.0, "text": null, "at": "2011-01-04"}'),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("orders.csv", "", "'{path}' is empty; check how it was made"),
        ("orders.txt", "x", "the name of '{path}' does not tell its format; name the format"),
        ("orders.parquet.gz", "x", "'{path}' is parquet inside gzip; unpack it"),
        ("orders.csv", "id,id\n", "line 1 of '{path}' has two columns 'id'"),
        ("orders.csv", "\n1,2\n", "line 1 of '{path}' names no column"),
        (
            "orders.csv",
            "id,tekst,at\n",
            "'{path}' has no column for 'text' of 'order.v1', which needs a value; map one to it; did you mean 'tekst'",
        ),
        ("orders.csv", b"\xff\xfei\0d\0", "'{path}' is UTF-16 text; save it as UTF-8"),
        ("orders.csv.gz", "id,text\n", "'{path}' cannot be read after line 1: Not a gzipped file"),
        ("orders.jsonl", "\n\n", "'{path}' has no line"),
        ("orders.jsonl", '{"tekst": 1}\n', "'{path}' has no column for 'id' of 'order.v1'"),
        ("orders.parquet", "PAR0", "'{path}' is not a Parquet file"),
        ("orders.avro", "Obj", "'{path}' is not an Avro container file"),
        ("orders.avro", b"Obj\x01\x02", "the header of '{path}' is damaged; check that the file is whole"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_way_out(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    path = written(tmp_path, text, name)
    with pytest.raises(InputError) as caught:
        read_file(path, contract=ORDER)
    assert str(caught.value).startswith(message.format(path=path))


def test_a_missing_file_a_folder_and_wrong_names_are_told_apart(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + GOOD_LINE)
    cases: list[tuple[Path, dict[str, object], str]] = [
        (tmp_path / "order.csv", {}, f"there is no file '{tmp_path}/order.csv'; '{tmp_path}' has orders.csv"),
        (tmp_path, {"file_format": "csv"}, f"'{tmp_path}' is a folder"),
        (path, {"mapping": {"ids": "id"}}, f"'{path}' has no column 'ids'; did you mean 'id'?"),
        (path, {"mapping": {"id": "ids"}}, "'order.v1' has no field 'ids' for the column 'id'; did you mean 'id'?"),
        (path, {"mapping": {"id": "text", "price": "text"}}, "the columns 'id' and 'price' are both mapped to 'text'"),
        (path, {"formats": {"text": "%Y"}}, "'text' of 'order.v1' is String, not a date or time"),
        (path, {"formats": {"at": "yyyy"}}, "'yyyy' is not a time format for 'at'"),
        (path, {"zone": "Mars/Base"}, "there is no time zone 'Mars/Base'"),
        (path, {"separator": '"'}, "'\"' cannot separate cells"),
        (path, {"file_format": "xls"}, "there is no file format 'xls'; choose one of csv, jsonl, parquet, avro"),
    ]
    for file, options, message in cases:
        with pytest.raises(InputError) as caught:
            read(file, **options)
        assert str(caught.value).startswith(message)


def test_a_column_of_a_type_that_never_fits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "orders.parquet"
    pl.DataFrame({"id": [[1]], "text": ["a"], "at": ["2011-01-04"]}).write_parquet(path)
    with pytest.raises(InputError, match=r"column 'id' of '.*' is List\(Int64\), and 'id' of 'order.v1' is Int64"):
        read(path)


def test_a_truncated_gzip_tells_how_far_it_was_read(tmp_path: Path) -> None:
    packed = gzip.compress((HEAD + GOOD_LINE * 50_000).encode(), 0)
    path = tmp_path / "orders.csv.gz"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match="cannot be read after line 1: Compressed file ended"):
        read(path)


@pytest.mark.parametrize("codec", ["", "-deflate", "-snappy", "-zstd", "-sorted"])
def test_the_reference_containers_of_avro_are_read(codec: str) -> None:
    weather = parse_contract("""{"type": "record", "name": "weather", "fields": [
      {"name": "station", "type": "string"}, {"name": "time", "type": "long"}, {"name": "temp", "type": "int"}]}""")
    rows = [row for piece in read_file(DATA / f"weather{codec}.avro", contract=weather) for row in piece.frame.rows()]
    expected = [
        ("011990-99999", -619524000000, 0), ("011990-99999", -619506000000, 22), ("011990-99999", -619484400000, -11),
        ("012650-99999", -655531200000, 111), ("012650-99999", -655509600000, 78),
    ]  # fmt: skip
    assert sorted(rows) == sorted(expected)


def test_a_damaged_block_of_avro_is_told_from_a_block_of_other_records(tmp_path: Path) -> None:
    good = (DATA / "weather.avro").read_bytes()
    weather = parse_contract("""{"type": "record", "name": "weather", "fields": [{"name": "temp", "type": "int"}]}""")
    cut = written(tmp_path, good[:-20], "cut.avro")
    with pytest.raises(InputError, match=r"block 1 of '.*cut.avro' is damaged: it ends too early"):
        list(read_file(cut, contract=weather))
    other = written(tmp_path, good.replace(b"012650-99999", b"\xff" * 12, 1), "text.avro")
    station = parse_contract('{"type": "record", "name": "w", "fields": [{"name": "station", "type": "string"}]}')
    pieces = list(read_file(other, contract=station))
    assert [line for piece in pieces for line in piece.lines] == [1, 2, 3, 5]
    assert [row[:2] for piece in pieces for row in piece.bad.rows()] == [(4, "bad UTF-8")]
    other = written(tmp_path, good.replace(b"\x18012650-99999", b"\x7f012650-99999"), "other.avro")
    (piece,) = read_file(other, contract=weather)
    assert piece.frame.height == 0
    assert piece.bad["reason"][0] == "rows 1 to 5: a block that does not hold 5 records of its schema"


def test_a_sink_leaves_the_old_file_alone_until_it_is_closed(tmp_path: Path) -> None:
    path = written(tmp_path, "old", "out.csv")
    sink = FileSink(path, ORDER.schema)
    assert path.read_text() == "old"
    sink.abort()
    assert path.read_text() == "old"
    with pytest.raises(UnknownColumn, match="has no column 'ids'"), FileSink(path, ORDER.schema) as broken:
        broken.write(pl.DataFrame({"ids": [1]}))
    text_ids = r"column 'id' for .* is String, not Int64"
    with pytest.raises(TypeMismatch, match=text_ids), FileSink(path, ORDER.schema) as broken:
        broken.write(ORDER.schema.empty().with_columns(pl.col("id").cast(pl.String)))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def test_a_sink_that_cannot_write_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        FileSink(tmp_path / "nowhere" / "out.csv", ORDER.schema)
    with pytest.raises(InputError, match="there is no codec 'lzo' to write"):
        FileSink(tmp_path / "out.avro", ORDER.schema, codec="lzo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "avro"])
def test_lake_files_keep_partition_and_offset(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"lake.{ending}"
    rows = pl.DataFrame({"_partition": [0, 1], "_offset": [7, 9], "a": ["x", "y"]})
    contract = parse_contract("""{"type": "record", "name": "a", "fields": [{"name": "a", "type": "string"}]}""")
    with FileSink(path, contract.schema, positions=True, avro=contract.avro) as sink:
        sink.write(rows)
    placed = parse_contract("""{"type": "record", "name": "a", "fields": [
      {"name": "_partition", "type": "long"}, {"name": "_offset", "type": "long"}, {"name": "a", "type": "string"}]}""")
    (piece,) = read_file(path, contract=placed)
    assert piece.frame.equals(rows)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "from connectors.files.source import read_file\n"
        "from streamproc.contracts.avro_schema import parse_contract\n"
        "c = parse_contract(sys.argv[2])\n"
        "print(sum(p.frame.height for p in read_file(sys.argv[1], contract=c, rows=2000)))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for lines in (5_000, 35_000):
        path = tmp_path / f"{lines}.csv.gz"
        with gzip.open(path, "wb", 1) as file:
            file.write(b"a\n")
            for _ in range(lines // 1000):
                file.write((b"x" * 1500 + b"\n") * 1000)
        contract = '{"type": "record", "name": "r", "fields": [{"name": "a", "type": "string"}]}'
        command = [sys.executable, "-c", script, str(path), contract]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        count, peak = done.stdout.split()
        assert int(count) == lines
        peaks.append(int(peak) * 1024)
    assert peaks[1] - peaks[0] < 25 << 20  # of 45 MB more text


def test_text_that_is_not_utf8_in_parquet_costs_its_row(tmp_path: Path) -> None:
    path = tmp_path / "orders.parquet"
    pl.DataFrame({"id": [1, 2, 3], "text": ["a", "MARKED", "c"], "at": ["2011-01-04"] * 3}).write_parquet(
        path, compression="uncompressed", statistics=False, use_pyarrow=True, pyarrow_options={"use_dictionary": False}
    )
    path.write_bytes(path.read_bytes().replace(b"MARKED", b"\xff\xfe\xfd\xfc\xfb\xfa"))
    pieces = list(read_file(path, contract=ORDER))
    assert [line for piece in pieces for line in piece.lines] == [1, 3]
    assert [row for piece in pieces for row in piece.bad.rows()] == [
        (2, "column 'text' is not UTF-8 text", b"\xff\xfe\xfd\xfc\xfb\xfa")
    ]


@settings(deadline=None, max_examples=60)
@given(
    ending=st.sampled_from(["csv", "jsonl", "avro", "parquet", "csv.gz"]),
    place=st.integers(0, 2**20),
    patch=st.binary(max_size=4),
    gone=st.integers(0, 9),
)
def test_a_damaged_file_gives_rows_and_bad_rows_or_says_what_is_wrong(
    ending: str, place: int, patch: bytes, gone: int
) -> None:
    rows = pl.DataFrame({"id": range(9), "text": ["é"] * 9, "price": [None] * 9, "at": range(9), "status": ["NEW"] * 9})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"orders.{ending}"
        with FileSink(path, ORDER.schema, avro=ORDER.avro) as sink:
            sink.write(rows.cast(dict(ORDER.schema.polars())))  # type: ignore[arg-type]  # a schema is a mapping
        whole = path.read_bytes()
        at = place % len(whole)
        path.write_bytes(whole[:at] + patch + whole[at + gone :])
        try:
            pieces = list(read_file(path, contract=ORDER))
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert all(piece.frame.schema == ORDER.schema.polars() for piece in pieces)
            assert all(len(piece.lines) == piece.frame.height for piece in pieces)
