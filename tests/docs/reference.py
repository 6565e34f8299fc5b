"""The pages of reference, made from what the code says of itself: docstrings, signatures, options.

    python -m tests.docs.reference      # writes docs/reference-verbs.md and docs/reference-commands.md anew
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import click

import streamproc as sp
from streamproc.cli.app import cli

DOCS: Final = Path(__file__).parents[2] / "docs"
RENEW: Final = "python -m tests.docs.reference"
_WIDE: Final = 100

_GROUPS: Final = (
    ("Topologies, sources and sinks", ("Topology", "Sla", "source", "table", "feedback", "sink", "Sink", "Truth")),
    ("Columns and rows", ("where", "select", "with_columns", "rename", "drop", "explode", "union", "changes")),
    ("Keys, order and repetition", ("key_by", "ordered", "dedupe")),
    ("Windows", ("tumbling", "sliding", "session")),
    ("Joins", ("as_of", "within", "join", "follow")),
    ("Features", ("features", "derived", "together", "contributors", "Coverage")),
    ("Aggregates, of windows and features",
     ("count", "total", "mean", "var", "min", "max", "first", "last", "distinct", "quantile", "top_k", "ewma", "trend",
      "time_since_last")),
    ("One form, one meaning, quality",
     ("harmonise", "canonical", "definitions", "meaning", "require", "rules", "rule")),
    ("Entities", ("resolve", "sharded", "entity_rows", "compare", "block", "LinkageModel")),
    ("Learning and drift",
     ("learn", "outcome", "outcomes", "race", "importance", "retrain", "model_version", "model_costs", "splits",
      "drift")),
    ("Decisions and alerts",
     ("decide", "when", "cheapest", "fallback", "rung", "route", "sample_ratio", "winner", "bandit", "abstain",
      "review", "review_answers", "alert")),
    ("Steps of your own", ("stateless", "custom")),
    ("Reading: subscriptions and features",
     ("subscribe", "Event", "read_features", "FeatureTable", "ServedFeatures")),
    ("Reactions",
     ("Reactions", "Reaction", "Retry", "Breaker", "Answers", "GiveUp", "TryLater", "Webhook", "Email", "Command",
      "JsonLines", "Secret")),
    ("Errors", ("StreamprocError",)),
)  # fmt: skip
_GIVEN: Final = (("Stream", "streamproc.graph"), ("Aggregate", "streamproc.operators.aggregates"))
"""What everybody holds in hand, because verbs give it. `sp.Stream` names it where a function of yours takes one."""
_TABLE: Final = re.compile(r"^[\w*, ]+? {2,}\S|^ ", re.M)
"""A paragraph with columns, or with lines that are set in: code, and tables of arguments."""
_ON_A_LOG: Final = ("--bind", "--insecure", "--log")


def verbs_page() -> str:
    """docs/reference-verbs.md: each public name of `streamproc` with signature, first paragraph and arguments."""
    told = [name for _, names in _GROUPS for name in names] + ["Stream"]
    if sorted(told) != sorted(sp.__all__):
        lacking, foreign = sorted(set(sp.__all__) - set(told)), sorted(set(told) - set(sp.__all__))
        raise AssertionError(f"_GROUPS of {__name__} lacks {lacking}, and names what there is not: {foreign}")
    lines = [
        "# Verbs",
        "",
        f"Made from the docstrings by `{RENEW}`; edit those. `import streamproc as sp` brings every name here.",
        "In Python, `help(sp.ordered)` says the rest: what is raised, what it costs, an example. Spans are written",
        '"10m", "24h", "7d"; columns by name; expressions are those of Polars.',
        "",
    ]
    for title, names in _GROUPS:
        lines += [f"## {title}", ""]
        for name in names:
            lines += _entry(f"sp.{name}", getattr(sp, name))
    lines += ["## What verbs give", ""]
    for name, home in _GIVEN:
        lines += _entry(name, getattr(import_module(home), name), signed=False)
    return "\n".join(lines).rstrip() + "\n"


def commands_page() -> str:
    """docs/reference-commands.md: each command with usage, what it does, and its options."""
    lines = [
        "# Commands",
        "",
        f"Made from the commands by `{RENEW}`; edit those. A TOPOLOGY is `module:name` or",
        "`path/to/file.py:name`; the name may go where the file has one. Exit 0: fine, 1: a finding, 2: misuse,",
        "told with the way out.",
        "",
        "`--bind FILE`, `--insecure` and `--log FILE` say where log, checkpoints and contracts are, see",
        "[`kafka.md`](kafka.md); commands that take them say so in their last line.",
        "",
    ]
    for name, command in _commands(cli, "streamproc"):
        lines += _command(name, command)
    return "\n".join(lines).rstrip() + "\n"


PAGES: Final = {"reference-verbs.md": verbs_page, "reference-commands.md": commands_page}


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _entry(name: str, value: Any, *, signed: bool = True) -> list[str]:
    text = inspect.getdoc(value) or ""
    lines = [f"### {name}", ""]
    if isinstance(value, ModuleType):
        lines += [_first(text), ""]
        for inner in value.__all__:
            if inspect.isfunction(getattr(value, inner)):
                lines += _entry(f"{name}.{inner}", getattr(value, inner))
        return lines
    if signed:
        lines += [f"    {line}" for line in _signature(name, value)] + [""]
    names = {p.name for p in _parameters(value)} if signed else set()
    arguments = _arguments(text, names)
    # Where no argument is told of by itself, the rest of the text tells of them.
    prose = _prose(text)[:1] if arguments or not signed else _prose(text)
    lines += [line for said in prose for line in (said, "")]
    lines += [f"- `{argument}`: {said}" for argument, said in arguments] + ([""] if arguments else [])
    if inspect.isclass(value):
        methods = [f"- `.{of}{call}`: {said}" for of, call, said in _methods(value)]
        lines += methods + ([""] if methods else [])
    return lines


def _parameters(value: Any) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(value).parameters.values() if not p.name.startswith("_") and p.name != "self"]


def _signature(name: str, value: Any) -> list[str]:
    parts: list[str] = []
    star = False
    parameters = _parameters(value)
    for at, parameter in enumerate(parameters):
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            parts.append("*")
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        parts.append(_parameter(parameter))
        after = parameters[at + 1].kind if at + 1 < len(parameters) else None
        if parameter.kind is parameter.POSITIONAL_ONLY and after is not parameter.POSITIONAL_ONLY:
            parts.append("/")
    given = "" if inspect.isclass(value) else _annotation(inspect.signature(value).return_annotation, " -> ")
    whole = f"{name}({', '.join(parts)}){given}"
    return [whole] if len(whole) <= _WIDE else [f"{name}(", *(f"    {part}," for part in parts), f"){given}"]


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}{_annotation(parameter.annotation, ': ')}"
    if parameter.default is parameter.empty:
        return text
    default = parameter.default
    if callable(default):
        shown = getattr(default, "__name__", "...")
    else:
        # A default that is made anew each time has no text of its own.
        shown = "..." if repr(default).startswith("<") else repr(default).replace("'", '"')
    return f"{text} = {shown}"


def _annotation(annotation: Any, before: str) -> str:
    if annotation is inspect.Signature.empty:
        return ""
    told = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return before + told.strip("'").replace("'", '"')


def _prose(text: str) -> list[str]:
    """The paragraphs up to the first example, each in one line; tables and code are left out."""
    paragraphs = re.split(r"\n\s*\n", text.split(">>>", maxsplit=1)[0])
    return [_plain(" ".join(p.split())) for p in paragraphs if p.strip() and not _TABLE.search(p)]


def _first(text: str) -> str:
    return _prose(text)[0]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: outside of code, `<` is no tag and `*` no stress."""
    parts = text.split("`")
    return "`".join(part if at % 2 else re.sub(r"([<*])", r"\\\1", part) for at, part in enumerate(parts))


def _arguments(text: str, names: set[str]) -> list[tuple[str, str]]:
    """The lines of a docstring that tell of arguments: a name of the signature, blanks, what it is."""
    found: list[tuple[str, str]] = []
    telling = False
    for line in text.splitlines():
        start = re.match(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*)( +)(\S.*)", line)
        known = start is not None and {part.strip("*") for part in start[1].split(", ")} <= names
        if start is not None and known and (telling or len(start[2]) > 1):
            found.append((start[1], start[3].strip()))
            telling = True
        elif telling and line.startswith("  "):
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
        else:
            telling = False
    return [(argument, _plain(said)) for argument, said in found]


def _methods(value: type) -> Iterator[tuple[str, str, str]]:
    for name, member in sorted(vars(value).items()):
        wrapped = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_") or not (inspect.isfunction(wrapped) or isinstance(wrapped, property)):
            continue
        text = inspect.getdoc(wrapped)
        if text:
            if isinstance(wrapped, property):
                yield name, "", _first(text)
            else:
                passed = [p for p in _parameters(wrapped) if p.name != "cls"]
                yield name, f"({', '.join(p.name for p in passed)})", _first(text)


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")


def _command(name: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=name)
    lines = [f"## {name}", "", f"    {name} {' '.join(command.collect_usage_pieces(context))}", ""]
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "")):
        lines += [_plain(" ".join(paragraph.split())), ""]
    own, shared = [], []
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record is None or "--help" in option.opts:
            continue
        if option.opts[0] in _ON_A_LOG:
            shared.append(f"`{option.opts[0]}`")
        else:
            words, said = (" ".join(part.split()).replace("|", "\\|") for part in record)
            own.append(f"| `{words}` | {_plain(said)} |")
    if own:
        lines += ["| option | |", "|---|---|", *own, ""]
    if shared:
        lines += [f"Also {', '.join(shared)}.", ""]
    return lines


if __name__ == "__main__":
    for page, made in PAGES.items():
        (DOCS / page).write_text(made(), encoding="utf-8")
