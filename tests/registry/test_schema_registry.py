"""A real schema registry: what is pushed is found, what does not fit is refused, and who cannot be reached is named."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from connectors.confluent_registry import (
    ConfluentRegistry,
    RegistryAccess,
    RegistryClient,
    SchemaCache,
    push_contracts,
)
from connectors.confluent_registry.binding import registry_access
from connectors.handlers.secret import Secret
from connectors.registry import FolderRegistry
from streamproc.contracts.derive import avsc_text
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import PROVISIONAL, Registry
from streamproc.errors import (
    ContractError,
    IncompatibleEvolution,
    InputError,
    InvalidSchema,
    RegistryUnavailable,
    StreamprocError,
    UnknownContract,
)
from tests.registry.conftest import Make, front
from tests.services.apicurio import ApicurioRegistry, schema_registry
from tests.services.certificates import make_certificates


def folder_of(path: Path, *contracts: Contract) -> FolderRegistry:
    """A folder with these contracts and no ids."""
    path.mkdir(parents=True, exist_ok=True)
    for item in contracts:
        (path / f"{item}.avsc").write_text(avsc_text(item))
    return FolderRegistry([path])


def reading(client: RegistryClient, path: Path, *contracts: Contract) -> ConfluentRegistry:
    """The registry as a run sees it."""
    return ConfluentRegistry(client, folder_of(path / "folder", *contracts), SchemaCache(path / "kept", "here"))


# ── push ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pushed_contracts_have_ids_subjects_and_modes(client: RegistryClient, contract: Make, name: str) -> None:
    done = push_contracts(client, [contract(2, x=["null", "long"]), contract(1)])
    assert [(str(item.contract), item.subject, item.is_new) for item in done] == [
        (f"{name}.v1", name, True),
        (f"{name}.v2", name, True),
    ]
    assert client.versions(name) == [1, 2]
    assert [json.loads(client.schema(item.schema_id or 0) or "") for item in done] == [
        contract(1).avro,
        contract(2, x=["null", "long"]).avro,
    ]
    assert client.mode(name) == "BACKWARD_TRANSITIVE"


def test_a_second_push_changes_nothing(client: RegistryClient, contract: Make, name: str) -> None:
    first = push_contracts(client, [contract(1)])
    second = push_contracts(client, [contract(1)])
    assert [item.schema_id for item in second] == [item.schema_id for item in first]
    assert not second[0].is_new and second[0].mode_before == second[0].mode == "BACKWARD_TRANSITIVE"
    assert client.versions(name) == [1]


def test_other_words_in_a_contract_are_no_new_version(client: RegistryClient, contract: Make, name: str) -> None:
    (first,) = push_contracts(client, [contract(1)])
    (second,) = push_contracts(client, [contract(1, doc="told better")])
    assert (second.is_new, second.schema_id) == (False, first.schema_id)
    assert client.versions(name) == [1]


def test_a_dry_run_writes_nothing(client: RegistryClient, contract: Make, name: str) -> None:
    (done,) = push_contracts(client, [contract(1)], dry_run=True)
    assert done.is_new and done.schema_id is None
    assert client.versions(name) == [] and client.mode(name) == ""


def test_what_does_not_fit_is_refused_before_anything_is_written(
    client: RegistryClient, contract: Make, name: str
) -> None:
    push_contracts(client, [contract(1)])
    other = contract(1, name=f"{name}_other")
    with pytest.raises(IncompatibleEvolution, match=rf"nothing was pushed:\n  - {name}.v2 cannot read {name}.v1 at x"):
        push_contracts(client, [contract(2, x="boolean"), other])
    assert client.versions(name) == [1] and client.versions(other.name) == []


def test_a_version_never_changes_and_none_comes_late(client: RegistryClient, contract: Make, name: str) -> None:
    push_contracts(client, [contract(2)])
    with pytest.raises(IncompatibleEvolution, match=f"{name}.v2 is registered under '{name}' already, with another"):
        push_contracts(client, [contract(2, x="double")])
    with pytest.raises(IncompatibleEvolution, match=f"{name}.v1 comes after {name}.v2"):
        push_contracts(client, [contract(1)])


def test_the_history_in_the_registry_counts_though_the_folder_lacks_it(client: RegistryClient, contract: Make) -> None:
    push_contracts(client, [contract(1, x="string")])
    with pytest.raises(IncompatibleEvolution, match="cannot read"):
        push_contracts(client, [contract(2)])


def test_the_registry_itself_refuses_what_breaks_the_mode_that_was_set(
    client: RegistryClient, contract: Make, name: str
) -> None:
    push_contracts(client, [contract(1)])
    text = json.dumps(contract(2, x="string").avro)
    assert "LONG" in client.refusal(name, text)
    with pytest.raises(IncompatibleEvolution, match=r"refuses it: .*STRING"):
        client.register(name, text)
    with pytest.raises(InvalidSchema, match="refuses it"):
        client.register(name, '{"type": "recor')


def test_each_contract_keeps_its_own_mode_also_none(client: RegistryClient, contract: Make, name: str) -> None:
    push_contracts(client, [contract(1, **{"sp:compatibility": "NONE"})])
    assert client.mode(name) in ("", "NONE")
    push_contracts(client, [contract(2, x="string", **{"sp:compatibility": "NONE"})])
    assert client.versions(name) == [1, 2]
    push_contracts(client, [contract(3, x="string", **{"sp:compatibility": "FULL"})])
    assert client.mode(name) == "FULL"


def test_a_subject_may_be_named_as_other_tools_expect(apicurio: ApicurioRegistry, contract: Make, name: str) -> None:
    client = RegistryClient(RegistryAccess(apicurio.url, subject="{contract}-value"))
    (done,) = push_contracts(client, [contract(1)])
    assert done.subject == f"{name}-value"
    assert f"{name}-value" in client.subjects()
    client.close()


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_and_schemas_are_those_of_the_registry(client: RegistryClient, contract: Make, tmp_path: Path) -> None:
    (done,) = push_contracts(client, [contract(1)])
    registry: Registry = reading(client, tmp_path, contract(1))
    assert registry.adopt(contract(1)) == registry.id_of(contract(1)) == done.schema_id
    assert registry.schema_of(done.schema_id or 0) == contract(1).avro
    with pytest.raises(ContractError, match=r"nothing is registered at .* while a topology runs; run 'streamproc cont"):
        registry.register(contract(2))


def test_an_id_that_the_registry_does_not_know_is_an_unknown_contract(client: RegistryClient, tmp_path: Path) -> None:
    assert client.schema(999_999) is None
    registry = reading(client, tmp_path)
    for _ in range(2):
        with pytest.raises(UnknownContract, match=r"no usable schema has the id 999999 at '.*: it does not know it"):
            registry.schema_of(999_999)


def test_an_id_whose_schema_the_lint_refuses_is_unknown_too(client: RegistryClient, name: str, tmp_path: Path) -> None:
    endless = {"type": "record", "name": name, "fields": [{"name": "next", "type": ["null", name]}]}
    schema_id = client.register(name, json.dumps(endless))
    with pytest.raises(UnknownContract, match=f"no usable schema has the id {schema_id}"):
        reading(client, tmp_path).schema_of(schema_id)


def test_a_contract_that_the_folder_lacks_comes_from_the_registry(
    client: RegistryClient, contract: Make, name: str, tmp_path: Path
) -> None:
    done = push_contracts(client, [contract(1), contract(4, x="double")])
    registry = reading(client, tmp_path)
    assert registry.versions(name) == [1, 4]
    assert str(registry.contract(name)) == f"{name}.v4"
    assert registry.contract(f"{name}.v1").event_time == "at"
    assert registry.adopt(registry.contract(name)) == done[1].schema_id
    assert name in registry.subjects()
    with pytest.raises(UnknownContract, match=r"no version 3 at .*; there are: v1, v4"):
        registry.contract(f"{name}.v3")
    with pytest.raises(UnknownContract, match=r"there is no contract 'nobody', in the folders or at"):
        registry.contract("nobody")


def test_a_contract_of_the_folder_must_be_registered_and_a_derived_one_needs_not(
    client: RegistryClient, contract: Make, name: str, tmp_path: Path
) -> None:
    derived = contract(1, name=f"{name}_daily")
    registry = reading(client, tmp_path, contract(1))
    with pytest.raises(UnknownContract, match=f"{name}.v1 is not registered under '{name}' .*; run 'streamproc contr"):
        registry.adopt(contract(1))
    assert registry.adopt(derived) >= PROVISIONAL
    assert registry.schema_of(registry.adopt(derived)) == derived.avro


def test_other_words_in_the_folder_find_the_id_that_was_registered(
    client: RegistryClient, contract: Make, tmp_path: Path
) -> None:
    (done,) = push_contracts(client, [contract(1)])
    assert reading(client, tmp_path, contract(1, doc="told better")).adopt(contract(1, doc="told better")) == (
        done.schema_id
    )


# ── away ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def nowhere() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_registry_that_is_away_is_said_within_ten_seconds(tmp_path: Path, contract: Make) -> None:
    client = RegistryClient(RegistryAccess(nowhere()))
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable, match=r"the schema registry at 'http.*' does not answer: .*; start it"):
        reading(client, tmp_path, contract()).adopt(contract())
    assert 3 < time.monotonic() - began < 10
    client.close()


def test_a_registry_that_hangs_is_said_within_ten_seconds_and_served_by_what_is_kept(
    contract: Make, tmp_path: Path
) -> None:
    with schema_registry() as own:
        client = RegistryClient(RegistryAccess(own.url))
        (done,) = push_contracts(client, [contract()])
        schema_id = done.schema_id or 0
        before = reading(client, tmp_path, contract())
        assert (before.adopt(contract()), before.schema_of(schema_id)) == (schema_id, contract().avro)
        own.pause()
        began = time.monotonic()
        with pytest.raises(RegistryUnavailable, match="does not answer: ReadTimeout"):
            reading(client, tmp_path / "nothing kept", contract()).schema_of(schema_id)
        assert time.monotonic() - began < 10
        restarted = reading(client, tmp_path, contract())
        began = time.monotonic()
        assert (restarted.adopt(contract()), restarted.schema_of(schema_id)) == (schema_id, contract().avro)
        assert time.monotonic() - began < 10, "it is waited for once, not for each id"
        own.resume()
        assert client.schema(schema_id) is not None
        client.close()


def test_an_id_that_stands_for_another_schema_than_before_stops_all_reading(
    client: RegistryClient, contract: Make, tmp_path: Path
) -> None:
    (done,) = push_contracts(client, [contract()])
    schema_id = done.schema_id or 0
    SchemaCache(tmp_path / "kept", "here").keep_schema(schema_id, '"long"')
    with pytest.raises(ContractError, match=f"the id {schema_id} .* stood for another schema before; the registry was"):
        reading(client, tmp_path, contract()).schema_of(schema_id)


def test_a_damaged_file_of_what_is_kept_is_as_good_as_none(tmp_path: Path) -> None:
    cache = SchemaCache(tmp_path, "here")
    cache.keep_schema(7, '{"type": "long"}')
    (path,) = tmp_path.rglob("7-*")
    path.write_bytes(path.read_bytes().replace(b"long", b"int "))
    assert cache.schema(7) is None
    cache.keep_schema(7, '{"type": "long"}')
    assert cache.schema(7) == '{"type": "long"}'
    assert SchemaCache(tmp_path, "elsewhere").schema(7) is None


@pytest.mark.parametrize("path", ["/", "/apis/registry/v2", "/nonsense"])
def test_what_is_no_registry_is_not_believed_to_know_no_schema(apicurio: ApicurioRegistry, path: str) -> None:
    client = RegistryClient(RegistryAccess(f"http://127.0.0.1:{apicurio.port}{path}"))
    with pytest.raises(InputError, match=r"what answers at .* is no schema registry: .*; url in \[registry\] is"):
        client.schema(1)
    client.close()


# ── access ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tls_and_a_password_let_in_and_nothing_else_does(
    apicurio: ApicurioRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contract: Make
) -> None:
    make_certificates(tmp_path)
    server = front(apicurio, "worker", "a secret", tmp_path / "server.pem")
    url = f"https://127.0.0.1:{server.server_address[1]}/apis/ccompat/v7"
    (tmp_path / "password").write_text("a secret\n")
    monkeypatch.setenv("WRONG", "guessed")
    ca = str(tmp_path / "ca.pem")

    def asked(**others: object) -> list[str]:
        client = RegistryClient(RegistryAccess(url, **others))  # type: ignore[arg-type]
        try:
            return client.subjects()
        finally:
            client.close()

    try:
        table = {"url": url, "user": "worker", "password": {"file": "password"}, "ca": "ca.pem"}
        client = RegistryClient(registry_access(table, tmp_path))
        (done,) = push_contracts(client, [contract()])
        assert done.subject in client.subjects()
        client.close()
        with pytest.raises(InputError, match="refuses the user 'worker' with status 401; mend user and password"):
            asked(user="worker", password=Secret(env="WRONG"), authorities=ca)
        with pytest.raises(InputError, match="refuses requests without a user with status 401"):
            asked(authorities=ca)
        began = time.monotonic()
        for others in ({}, {"authorities": str(tmp_path / "other.pem")}):
            with pytest.raises(InputError, match=r"the certificate of the schema registry at .* is not trusted"):
                asked(**others)
        assert time.monotonic() - began < 3, "waiting does not make a certificate trusted"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"url": "registry.example.com"}, "is no web address; write https://host/path"),
        ({"url": "https://me:secret@r.example.com"}, "has a name or password in it"),
        ({"url": "http://r.example.com", "user": "u", "password": {"env": "P"}}, "would travel unencrypted; use https"),
        ({"url": "https://r.example.com", "user": "u"}, "a user without a password"),
        ({"url": "https://r.example.com", "user": "u", "password": "hunter2"}, "password is no reference; write { env"),
        ({"url": "https://r.example.com", "user": "u", "password": {"vault": "P"}}, "password is no reference"),
        ({"url": "https://r.example.com", "subject": "all"}, "does not hold {contract} once"),
        ({"url": "https://r.example.com", "ca": 7}, "ca is no text"),
        ({"urls": "x"}, "sets 'urls'; did you mean 'url'"),
        ({}, "has no url"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_without_its_secret(
    table: dict[str, object], text: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        registry_access(table, tmp_path)
    assert text in str(refused.value)
    assert "hunter2" not in str(refused.value) and "me:secret" not in str(refused.value)


def test_no_secret_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", "hunter2")
    access = RegistryAccess("http://localhost:1", user="u", password=Secret(env="REGISTRY_PASSWORD"), patience_s=0.1)
    client = RegistryClient(access)
    with pytest.raises(StreamprocError) as away:
        client.subjects()
    assert "hunter2" not in repr(access) + repr(client.__dict__) + str(away.value)
    client.close()


def test_a_registry_that_stumbles_is_asked_again(contract: Make, apicurio: ApicurioRegistry) -> None:
    client = RegistryClient(RegistryAccess(apicurio.url))
    stumbles = iter([httpx.ReadError("gone"), httpx.ReadTimeout("late")])
    ask: Callable[..., httpx.Response] = client._http._transport.handle_request

    def stumbling(request: httpx.Request) -> httpx.Response:
        if (error := next(stumbles, None)) is not None:
            raise error
        return ask(request)

    client._http._transport.handle_request = stumbling  # type: ignore[method-assign]
    assert isinstance(client.subjects(), list)
    assert next(stumbles, None) is None
    client.close()
