"""What the pages of docs/ show runs, from top to bottom.

A page runs in a folder of its own. A block whose fence names a file (```python card_risk.py) is written there, Python
without a name runs, `sh` lines are commands, and a `text` block holds lines that the commands before it print. Where a
line of `sh` ends in `# exit 1`, the command ends so.
"""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from connectors.kafka.binding import KafkaSettings, Sasl, Sizes, Tls
from streamproc.cli import app
from streamproc.runtime.workspace import Workspace, workspace_of

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md") if not page.name.startswith("reference-"))
GIVEN = {"people.linkage.json": DOCS.parent / "topologies" / "people" / "data" / "linkage.json"}
"""What pages take to be there: `streamproc train-linkage` made it."""
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```", re.S | re.M)
_EXIT = re.compile(r"# exit (\d+)$")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project's folder: modules in it are found, and forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # Another test may have had a module of the same name in a folder of its own.
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path.parent)):
            monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page: str, folder: Path) -> None:
    blocks = _BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    assert blocks
    for file, source in GIVEN.items():
        (folder / file).write_bytes(source.read_bytes())
    names: dict[str, object] = {"__name__": "page"}
    printed = ""
    for kind, file, text in blocks:
        if file:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text, encoding="utf-8")
        elif kind == "python":
            exec(compile(text, page, "exec"), names)
        elif kind == "sh":
            printed = "".join(_ran(line, page) for line in text.splitlines())
        else:
            assert kind == "text", f"{page}: a block of {kind} that nobody runs"
            _printed(text, printed, page)


def _ran(line: str, page: str) -> str:
    wanted = int(found[1]) if (found := _EXIT.search(line)) else 0
    program, *words = shlex.split(line, comments=True)
    assert program == "streamproc", f"{page}: {line}"
    # As `main` runs it, within this process.
    def called() -> None:
        sys.exit(app.run(words))

    answer = CliRunner().invoke(click.Command("streamproc", callback=called), [])
    assert answer.exit_code == wanted, f"{page}: {line}\n{answer.output}\n{answer.exception!r}"
    return answer.output


def _printed(text: str, printed: str, page: str) -> None:
    """Each line of the block is one of what was printed; `...` stands for what differs or does not matter."""
    there = [" ".join(line.split()) for line in printed.splitlines()]
    for line in text.splitlines():
        wanted = re.compile(".*".join(re.escape(part) for part in " ".join(line.split()).split("...")))
        assert any(wanted.fullmatch(each) for each in there), f"{page}: nobody prints\n{line}\n\n{printed}"


COMMANDS = re.compile(r"^\s*(?:\$ )?(?:\S+/)?streamproc +([a-z].*?)\s*$", re.M)


@pytest.mark.parametrize("page", [*PAGES, "../README.md"])
def test_every_command_of_a_page_exists_with_its_options(page: str) -> None:
    """Also of commands that are not run here, because they need a cluster or a person."""
    for line in COMMANDS.findall((DOCS / page).read_text(encoding="utf-8").replace("\\\n", " ")):
        words = shlex.split(line.split("&&")[0], comments=True)
        command: click.Command = app.cli
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, f"{page}: there is no command in '{line}'"
            command = found
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - known
        assert not unknown, f"{page}: '{line}' has options that do not exist: {unknown}"


def test_the_page_on_kafka_names_every_setting(folder: Path) -> None:
    blocks = _BLOCK.findall((DOCS / "kafka.md").read_text(encoding="utf-8"))
    said = next(tomllib.loads(text) for _, file, text in blocks if file == "every-setting.toml")
    kafka = said["kafka"]
    for table, kind in ((kafka, KafkaSettings), (kafka["sasl"], Sasl), (kafka["tls"], Tls), (kafka["sizes"], Sizes)):
        assert set(table) == {field.name for field in fields(kind)}
    for each in fields(KafkaSettings):
        if each.name not in ("brokers", "sasl", "tls", "sizes"):
            assert kafka[each.name] == each.default, f"the page shows another default of {each.name}"
    assert kafka["sizes"] == {each.name: each.default for each in fields(Sizes)}


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_named_in_the_readme(page: str) -> None:
    assert f"(docs/{page})" in (DOCS.parent / "README.md").read_text(encoding="utf-8")


def test_bindings_on_the_pages_can_be_used(folder: Path) -> None:
    for page in PAGES:
        for kind, file, text in _BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
            if kind == "toml":
                (folder / file).write_text(text, encoding="utf-8")
                assert isinstance(workspace_of(folder / file), Workspace)
