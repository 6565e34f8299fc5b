"""Paths in a binding's [kafka] table are relative to its file, wherever a command is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamproc.runtime.workspace import workspace_of

BINDING = """
[kafka]
brokers = ["a.example:9093"]

[kafka.sasl]
username = "streamproc"
password = {{ file = "{password}" }}

[kafka.tls]
ca = "pki/ca.pem"
certificate = "/etc/ssl/worker.pem"
key = "/etc/ssl/worker.key"
"""


@pytest.mark.parametrize("password", ["pki/password", "/run/secrets/kafka"])
def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "kafka.toml").write_text(BINDING.format(password=password))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    kafka = workspace_of(Path("../deploy/kafka.toml")).kafka
    assert kafka is not None and kafka.tls is not None and kafka.sasl is not None
    assert kafka.tls.ca == "../deploy/pki/ca.pem"
    assert (kafka.tls.certificate, kafka.tls.key) == ("/etc/ssl/worker.pem", "/etc/ssl/worker.key")
    assert kafka.sasl.password.file == str(Path("../deploy") / password)
