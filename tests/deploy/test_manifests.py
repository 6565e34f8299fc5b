"""What `streamproc manifest` writes: files that their platforms read, and command lines that this program takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from streamproc.cli.app import cli, run

KAFKA = """
[kafka]
brokers = ["kafka-0.example:9093", "kafka-1.example:9093"]
[kafka.sasl]
mechanism = "SCRAM-SHA-512"
username = "streamproc"
password = { env = "KAFKA_PASSWORD" }
[kafka.tls]
ca = "/etc/ssl/kafka-ca.pem"
[checkpoints]
path = "data/checkpoints"
"""


def written(project: Path, *words: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The compose file, and the Kubernetes documents by kind."""
    assert run(["manifest", "card_risk.py", "--out", "deploy", *words]) == 0
    documents = list(yaml.safe_load_all((project / "deploy" / "kubernetes.yaml").read_text()))
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return yaml.safe_load((project / "deploy" / "compose.yaml").read_text()), by_kind


def takes(line: list[str]) -> dict[str, Any]:
    """What `streamproc` understands of a command line; fails if it does not take it."""
    assert line[0] == "streamproc"
    command = cli.get_command(click.Context(cli), line[1])
    assert command is not None
    params: dict[str, Any] = command.make_context(line[1], line[2:]).params
    return params


@pytest.fixture
def on_kafka(project: Path) -> Path:
    """The project with a binding to Kafka."""
    (project / "prod.toml").write_text(KAFKA)
    return project


def test_on_kafka_each_worker_is_a_pod_whose_name_is_its_member_name(on_kafka: Path) -> None:
    _, documents = written(on_kafka, "--bind", "prod.toml", "--workers", "3", "--drain-timeout", "45s")
    spec = documents["StatefulSet"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    params = takes([*container["command"], *container["args"]])
    assert 1.2 * params["memory"] <= 2 << 30, "a worker may go a fifth beyond its bound, and the pod must not be killed"
    assert params["memory"] > 1 << 30
    assert (params["topology"], params["http"], params["drain_timeout"]) == ("card_risk.py", "0.0.0.0:9464", 45.0)
    assert params["member"] == "$(POD_NAME)"
    assert {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}} in container["env"]
    assert spec["replicas"] == 3
    assert spec["serviceName"] == documents["Service"]["metadata"]["name"]
    assert pod["terminationGracePeriodSeconds"] == 50
    assert documents["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_on_one_file_the_workers_are_processes_of_one_pod(project: Path) -> None:
    compose, documents = written(project, "--workers", "3", "--memory", "1Gi", "--cpu", "500m")
    (container,) = documents["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert documents["StatefulSet"]["spec"]["replicas"] == 1
    assert takes([*container["command"], *container["args"]])["workers"] == 3
    assert container["resources"] == {
        "requests": {"cpu": "1500m", "memory": "3Gi"}, "limits": {"memory": "3Gi"},
    }  # fmt: skip
    assert documents["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert compose["services"]["workers"]["deploy"]["resources"]["limits"] == {"cpus": "1.5", "memory": "3072M"}
    assert "ConfigMap" not in documents


def test_selectors_probes_ports_and_volumes_point_at_what_is_there(on_kafka: Path) -> None:
    _, documents = written(on_kafka, "--bind", "prod.toml")
    template = documents["StatefulSet"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    for selector in (
        documents["Service"]["spec"]["selector"],
        documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        documents["StatefulSet"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["http"] == int(template["metadata"]["annotations"]["prometheus.io/port"])
    for probe, path in (("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")):
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    claims = [
        v["persistentVolumeClaim"]["claimName"] for v in template["spec"]["volumes"] if "persistentVolumeClaim" in v
    ]
    assert claims == [documents["PersistentVolumeClaim"]["metadata"]["name"]]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert "/app/data" in mounts
    assert "/app/prod.toml" in mounts
    assert len(set(mounts)) == len(mounts)


def test_nothing_runs_as_root_or_may_write_beside_its_volumes(on_kafka: Path) -> None:
    compose, documents = written(on_kafka, "--bind", "prod.toml")
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    service = compose["services"]["workers"]
    assert service["user"].split(":")[0] not in ("0", "root")
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


def test_the_compose_file_runs_a_supervisor_with_the_binding_and_asks_for_its_health(on_kafka: Path) -> None:
    compose, _ = written(on_kafka, "--bind", "prod.toml", "--workers", "3")
    service = compose["services"]["workers"]
    params = takes(service["command"])
    assert (params["workers"], params["http"]) == (3, "0.0.0.0:9464")
    assert service["stop_grace_period"] == "35s"
    assert "/health" in service["healthcheck"]["test"][-1]
    compile(service["healthcheck"]["test"][-1], "probe", "exec")
    assert service["configs"] == [{"source": "binding", "target": "/app/prod.toml"}]
    assert (on_kafka / "deploy" / compose["configs"]["binding"]["file"]).read_text() == KAFKA
    assert {volume["source"] for volume in service["volumes"]} == set(compose["volumes"])


def test_secrets_are_names_and_the_binding_goes_in_as_it_is(on_kafka: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "hunter2")
    compose, documents = written(on_kafka, "--bind", "prod.toml")
    assert documents["ConfigMap"]["data"] == {"prod.toml": KAFKA}
    (container,) = documents["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    reference = {"name": "card-risk-v1-secrets", "key": "KAFKA_PASSWORD"}
    assert {"name": "KAFKA_PASSWORD", "valueFrom": {"secretKeyRef": reference}} in container["env"]
    assert compose["services"]["workers"]["environment"]["KAFKA_PASSWORD"].startswith("${KAFKA_PASSWORD:?")
    assert "/etc/ssl/kafka-ca.pem" in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert all("hunter2" not in path.read_text() for path in (on_kafka / "deploy").iterdir())


def test_a_binding_with_a_secret_in_it_is_refused(on_kafka: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (on_kafka / "prod.toml").write_text(
        '[registry]\nurl = "https://ann:hunter2@registry.example"\n[checkpoints]\npath = "data/c"\n'
    )
    assert run(["manifest", "card_risk.py", "--bind", "prod.toml", "--out", "deploy"]) == 2
    err = capsys.readouterr().err
    assert "hunter2" not in err
    assert not (on_kafka / "deploy").exists()


def test_state_in_the_projects_own_folder_is_refused_with_the_way_out(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "local.toml").write_text('[log]\npath = "log.db"\n')
    assert run(["manifest", "card_risk.py", "--bind", "local.toml", "--out", "deploy"]) == 2
    assert 'path = "data/log.db"' in capsys.readouterr().err


def test_the_format_says_which_files_are_written(on_kafka: Path) -> None:
    words = ["manifest", "card_risk.py", "--bind", "prod.toml", "--format"]
    assert run([*words, "compose", "--out", "one"]) == 0
    assert run([*words, "kubernetes", "--out", "two"]) == 0
    assert sorted(path.name for path in (on_kafka / "one").iterdir()) == ["compose.yaml", "prod.toml"]
    assert sorted(path.name for path in (on_kafka / "two").iterdir()) == ["kubernetes.yaml"]
