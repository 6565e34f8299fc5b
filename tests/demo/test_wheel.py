"""The wheel has all that the demo needs: it works in any directory, away from the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel brings, to be put before everything else on the path."""
    built = tmp_path_factory.mktemp("wheel")
    # Building leaves its traces in a copy.
    source = built / "source"
    source.mkdir()
    for name in ("streamproc", "connectors", "topologies", "schemas_avro"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(built), str(source)], check=True)
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(built / "installed")
    return built / "installed"


def streamproc(installed: Path, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the wheel in a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-m", "streamproc", *args],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_brings_contracts_data_and_command(installed: Path) -> None:
    there = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    wanted = {f"schemas_avro/{path.name}" for path in (ROOT / "schemas_avro").iterdir() if path.is_file()}
    wanted |= {f"topologies/refunds/data/{name}" for name in ("online_retail_slice.parquet", "README.md")}
    story = ("febrl4.parquet", "ecb_rates.parquet", "linkage.json", "README.md", "LICENSE")
    wanted |= {f"topologies/retail/data/{name}" for name in story}
    assert wanted | {"streamproc/py.typed"} <= there
    assert not any(name.startswith(("tests/", "benchmarks/", ".ci/", "docs/")) for name in there)
    entry = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "streamproc = streamproc.cli:main" in entry


def test_the_wheel_plans_the_shipped_topology_in_any_directory(installed: Path, tmp_path: Path) -> None:
    checked = streamproc(installed, tmp_path, "check", "topologies.retail", "--json")
    assert checked.returncode == 0, checked.stderr
    answer = json.loads(checked.stdout)
    assert (answer["ok"], answer["topology"], answer["derived_contracts"]) == (True, "retail", [])


@pytest.mark.long
def test_the_demo_of_the_wheel_runs_in_any_directory(installed: Path, tmp_path: Path) -> None:
    ran = streamproc(installed, tmp_path, "demo", "--json")
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["replay_equal"] is True
    assert answer["compile_seconds"] > 1
    assert ran.stderr.count("compiling kernels, first run only") == 1
