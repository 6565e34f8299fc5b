"""Names, versions and ids in a registry, whatever holds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from avro_strategies import records
from hypothesis import given, settings

from connectors.registry import FolderRegistry
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import PROVISIONAL, MemoryRegistry, Registry, fingerprint, provisional_id, split_name
from streamproc.errors import ContractError, IncompatibleEvolution, InputError, InvalidSchema, UnknownContract


def pay(number: int, kind: Any = "int", **attributes: Any) -> Contract:
    fields = [{"name": "x", "type": kind}]
    return parse_contract(
        json.dumps({"type": "record", "name": "pay", "sp:version": number, "fields": fields, **attributes})
    )


def tick(number: int = 1) -> Contract:
    return parse_contract(
        json.dumps({"type": "record", "name": "tick", "sp:version": number, "fields": [{"name": "n", "type": "int"}]})
    )


@pytest.fixture(params=["memory", "folder"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Registry]:
    """Opens an empty registry; of the folder kind, each call opens the same folder again."""
    memory = MemoryRegistry()
    return (lambda: memory) if request.param == "memory" else (lambda: FolderRegistry([tmp_path / "schemas"]))


def test_a_name_means_its_version_or_the_newest(fresh: Callable[[], Registry]) -> None:
    registry = fresh()
    for contract in (pay(1), pay(2, "long"), pay(11, "double"), tick()):
        registry.register(contract)
    for known in (registry, fresh()):
        assert known.subjects() == ["pay", "tick"]
        assert known.versions("pay") == [1, 2, 11]
        assert str(known.contract("pay")) == "pay.v11"
        assert known.contract("pay.v2") == pay(2, "long")


def test_ids_are_allocated_in_order_and_stay(fresh: Callable[[], Registry]) -> None:
    registry = fresh()
    ids = [registry.register(contract) for contract in (pay(1), tick(), pay(2, "long"))]
    assert ids == [1, 2, 3]
    again = fresh()
    assert [again.id_of(contract) for contract in (pay(1), tick(), pay(2, "long"))] == ids
    assert [again.schema_of(schema_id) for schema_id in ids] == [pay(1).avro, tick().avro, pay(2, "long").avro]
    assert again.register(pay(3, "double")) == 4


def test_registering_twice_changes_nothing(fresh: Callable[[], Registry]) -> None:
    registry = fresh()
    assert registry.register(pay(1)) == registry.register(pay(1)) == fresh().register(pay(1))
    assert fresh().versions("pay") == [1]


def test_versions_that_read_bytes_alike_share_an_id_and_others_do_not(fresh: Callable[[], Registry]) -> None:
    registry = fresh()
    assert registry.register(pay(1)) == registry.register(pay(2, doc="now with words"))
    micros, millis = ({"type": "long", "logicalType": f"timestamp-{unit}"} for unit in ("micros", "millis"))
    assert fingerprint(pay(1, micros).avro) != fingerprint(pay(1, millis).avro)


@pytest.mark.parametrize(
    ("name", "text"),
    [("pya", "did you mean 'pay'"), ("pay.v3", r"no version 3; there are: v1, v2"), ("pay.v01", "did you mean 'pay'")],
)
def test_an_unknown_name_is_answered_with_the_known_ones(fresh: Callable[[], Registry], name: str, text: str) -> None:
    registry = fresh()
    registry.register(pay(1))
    registry.register(pay(2, "long"))
    with pytest.raises(UnknownContract, match=text):
        registry.contract(name)


def test_a_version_never_changes_and_never_comes_late(fresh: Callable[[], Registry]) -> None:
    registry = fresh()
    registry.register(pay(2))
    with pytest.raises(IncompatibleEvolution, match='give this one "sp:version": 3'):
        registry.register(pay(2, "long"))
    with pytest.raises(IncompatibleEvolution, match=r"pay\.v1 comes after pay\.v2"):
        registry.register(pay(1))
    assert fresh().contract("pay") == pay(2)


def test_a_version_that_cannot_read_the_old_ones_is_refused_and_leaves_no_trace(fresh: Callable[[], Registry]) -> None:
    registry = fresh()
    registry.register(pay(1))
    with pytest.raises(IncompatibleEvolution, match="int cannot be read as string"):
        registry.register(pay(2, "string"))
    assert registry.versions("pay") == fresh().versions("pay") == [1]
    assert registry.register(pay(2, "string"), mode="NONE") == 2


def test_an_unregistered_contract_has_no_id_and_the_message_names_the_command(fresh: Callable[[], Registry]) -> None:
    with pytest.raises(UnknownContract, match=r"run 'streamproc contracts register pay\.v1'"):
        fresh().id_of(pay(1))
    with pytest.raises(UnknownContract, match="no contract has the schema id 9"):
        fresh().schema_of(9)


def test_an_adopted_contract_has_an_id_that_stays_readable_after_registration(fresh: Callable[[], Registry]) -> None:
    registry = fresh()
    adopted = registry.adopt(pay(1))
    assert adopted == provisional_id(pay(1).avro) >= PROVISIONAL
    assert registry.schema_of(adopted) == pay(1).avro
    assert registry.subjects() == []
    registered = registry.register(pay(1))
    assert registry.adopt(pay(1)) == registered < PROVISIONAL
    for known in (registry, fresh()):
        assert known.schema_of(adopted) == known.schema_of(registered) == pay(1).avro


def test_a_removed_schema_leaves_its_id_unused() -> None:
    registry = MemoryRegistry(ids={fingerprint(pay(1).avro): 41})
    with pytest.raises(UnknownContract, match=r"its \.avsc was removed"):
        registry.schema_of(41)
    assert registry.register(tick()) == 42


def test_one_id_for_two_schemas_is_refused() -> None:
    with pytest.raises(ContractError, match="two branches allocated it"):
        MemoryRegistry(ids={"a": 1, "b": 1})
    with pytest.raises(ContractError, match="out of range"):
        MemoryRegistry(ids={"a": PROVISIONAL})


@settings(deadline=None, max_examples=50)
@given(records())
def test_provisional_ids_are_in_their_range_and_depend_on_the_schema_alone(schema: Any) -> None:
    assert PROVISIONAL <= provisional_id(schema) < 2 * PROVISIONAL
    assert provisional_id({**schema, "doc": "x", "sp:version": 9}) == provisional_id(json.loads(json.dumps(schema)))


def test_a_name_is_split_at_its_version() -> None:
    assert split_name("eu.payment.v12") == ("eu.payment", 12)
    assert split_name("eu.v2x") == ("eu.v2x", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    FolderRegistry([tmp_path]).register(pay(1))
    return tmp_path


def test_the_folder_is_readable_and_sorted(folder: Path) -> None:
    FolderRegistry([folder]).register(tick())
    assert sorted(path.name for path in folder.iterdir()) == ["ids.json", "pay.v1.avsc", "tick.v1.avsc"]
    text = (folder / "ids.json").read_text(encoding="utf-8")
    ids = json.loads(text)
    assert list(ids) == sorted(ids)
    assert len(text.splitlines()) == len(ids) + 2
    assert FolderRegistry([folder]).check_all() == []


def test_a_bad_file_stops_only_who_asks_for_it_and_is_named(folder: Path) -> None:
    (folder / "pay.v2.avsc").write_text("{", encoding="utf-8")
    (folder / "other.v1.avsc").write_text((folder / "pay.v1.avsc").read_text(encoding="utf-8"), encoding="utf-8")
    registry = FolderRegistry([folder])
    assert str(registry.contract("pay.v1")) == "pay.v1"
    for name in ("pay", "pay.v2"):
        with pytest.raises(InvalidSchema, match=r"pay\.v2\.avsc: the schema text is not JSON"):
            registry.contract(name)
    assert [Path(finding.place).name for finding in registry.check_all()] == ["other.v1.avsc", "pay.v2.avsc"]
    assert "rename it to pay.v1.avsc" in registry.check_all()[0].mend


def test_check_all_finds_broken_evolution_and_missing_ids(folder: Path) -> None:
    (folder / "pay.v2.avsc").write_text(json.dumps(dict(pay(2, "string").avro)), encoding="utf-8")
    registry = FolderRegistry([folder])
    findings = [str(finding).partition(": ")[2] for finding in registry.check_all()]
    assert findings[0].startswith("x: int cannot be read as string (pay.v2 reads pay.v1)")
    assert findings[1].startswith("it has no schema id; run 'streamproc contracts register pay.v2'")
    with pytest.raises(ContractError, match="int cannot be read as string"):
        registry.register_all()
    with pytest.raises(IncompatibleEvolution):
        registry.register(registry.contract("pay"))


def test_register_all_gives_ids_in_name_and_version_order(folder: Path) -> None:
    for contract in (tick(), pay(10, "double"), pay(2, "long")):
        (folder / f"{contract}.avsc").write_text(json.dumps(dict(contract.avro)), encoding="utf-8")
    before = (folder / "tick.v1.avsc").read_text(encoding="utf-8")
    assert FolderRegistry([folder]).register_all() == {"pay.v2": 2, "pay.v10": 3, "tick.v1": 4}
    assert FolderRegistry([folder]).check_all() == []
    assert FolderRegistry([folder]).register_all() == {}
    assert (folder / "tick.v1.avsc").read_text(encoding="utf-8") == before


def test_the_first_folder_hides_the_others_and_has_ids_of_its_own(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "project"
    registry = FolderRegistry([own, folder])
    assert registry.contract("pay").version == 1
    assert registry.register(tick()) == 100_000
    assert (own / "tick.v1.avsc").exists()
    assert not (folder / "tick.v1.avsc").exists()
    assert FolderRegistry([own, folder]).id_of(pay(1)) == 1
    assert FolderRegistry([own, folder, own]).check_all() == []
    (own / "pay.v1.avsc").write_text(json.dumps(dict(pay(1, "string").avro)), encoding="utf-8")
    hidden = FolderRegistry([own, folder]).check_all()
    assert any("which hides it" in finding.what for finding in hidden)


def test_two_processes_never_allocate_the_same_id(folder: Path) -> None:
    first, second = FolderRegistry([folder]), FolderRegistry([folder])
    assert (first.register(tick()), second.register(pay(2, "long"))) == (2, 3)
    assert FolderRegistry([folder]).check_all() == []


def test_a_folder_that_cannot_be_written_serves_and_says_so(tmp_path: Path) -> None:
    registry = FolderRegistry([tmp_path / "schemas"])
    (tmp_path / "schemas").write_text("a file where the folder would be", encoding="utf-8")
    assert registry.subjects() == []
    assert registry.adopt(pay(1)) >= PROVISIONAL
    with pytest.raises(InputError, match=r"cannot register pay\.v1 in .*where the folder can be written"):
        registry.register(pay(1))


def test_damaged_ids_are_refused_with_the_file(folder: Path) -> None:
    for text in ("[1]", "{", '{"a": "1"}'):
        (folder / "ids.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"ids\.json.*restore it from the repository"):
            FolderRegistry([folder])
