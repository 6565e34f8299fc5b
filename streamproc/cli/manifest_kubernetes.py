"""Kubernetes manifests: a StatefulSet, because the name of a worker must stay when its pod is made anew."""

from __future__ import annotations

from typing import Any, Final

import yaml

from streamproc.cli.deployment import HOME, PORT, STATE, Deployment

_USER: Final = 10_001
_CACHE: Final = "/var/cache/streamproc"


class _Readable(yaml.SafeDumper):  # type: ignore[misc]  # the library has no types
    """Texts of several lines stay several lines: a binding is there to be read."""


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def kubernetes_text(deployment: Deployment) -> str:
    """All manifests, one YAML document each."""
    head = f"# Workers of {deployment.topology}, version {deployment.version}: kubectl apply -f kubernetes.yaml\n"
    if deployment.variables or deployment.files:
        literals = "".join(f" --from-literal={name}=..." for name in deployment.variables)
        literals += "".join(f" --from-file={path.name}=..." for path in deployment.files)
        head += f"# first: kubectl create secret generic {_secret_name(deployment)}{literals}\n"
    text: str = yaml.dump_all(_documents(deployment), Dumper=_Readable, sort_keys=False, width=120)
    return head + text


def _documents(deployment: Deployment) -> list[dict[str, Any]]:
    documents = [_service(deployment), _claim(deployment), _stateful_set(deployment), _budget(deployment)]
    if deployment.binding is not None:
        documents.insert(0, _config(deployment))
    return documents


def _labels(deployment: Deployment) -> dict[str, str]:
    return {"app.kubernetes.io/name": "streamproc", "app.kubernetes.io/instance": deployment.name}


def _meta(deployment: Deployment, name: str = "") -> dict[str, Any]:
    labels = {
        **_labels(deployment),
        "app.kubernetes.io/component": "workers",
        "app.kubernetes.io/version": f"v{deployment.version}",
    }
    return {"name": name or deployment.name, "labels": labels}


def _secret_name(deployment: Deployment) -> str:
    return f"{deployment.name}-secrets"


def _config(deployment: Deployment) -> dict[str, Any]:
    assert deployment.binding is not None
    path, text = deployment.binding
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(deployment), "data": {path.name: text}}


def _service(deployment: Deployment) -> dict[str, Any]:
    """Headless: it gives pods their names, nothing is balanced."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(deployment),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": _labels(deployment),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }


def _claim(deployment: Deployment) -> dict[str, Any]:
    """Checkpoints are shared: a task goes on from its own, whichever pod it moves to."""
    mode = "ReadWriteMany" if _pods(deployment) > 1 else "ReadWriteOnce"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _meta(deployment, f"{deployment.name}-{STATE}"),
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": "20Gi"}}},
    }


def _budget(deployment: Deployment) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _meta(deployment),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _labels(deployment)}},
    }


def _pods(deployment: Deployment) -> int:
    """The embedded log is one file, whose processes share a machine; on Kafka each worker has a pod."""
    return deployment.workers if deployment.on_kafka else 1


def _stateful_set(deployment: Deployment) -> dict[str, Any]:
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": _meta(deployment),
        "spec": {
            "serviceName": deployment.name,
            "replicas": _pods(deployment),
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": _labels(deployment)},
            "template": {
                "metadata": {"labels": _meta(deployment)["labels"], "annotations": annotations},
                "spec": {
                    "automountServiceAccountToken": False,
                    # The worker's own limit ends first, so that its exit code says what happened.
                    "terminationGracePeriodSeconds": deployment.drain_s + 5,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": _USER,
                        "runAsGroup": _USER,
                        "fsGroup": _USER,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [_container(deployment)],
                    "volumes": _volumes(deployment),
                },
            },
        },
    }


def _container(deployment: Deployment) -> dict[str, Any]:
    processes = 1 if deployment.on_kafka else deployment.workers
    command = deployment.command(workers=processes, member="$(POD_NAME)")
    size = {"cpu": _times(deployment.cpu, processes), "memory": _times(deployment.memory, processes)}
    return {
        "name": "worker",
        "image": deployment.image,
        "command": command[:1],
        "args": command[1:],
        "workingDir": str(HOME),
        "env": [
            # A worker's name in its group and in its transactional ids: the same after each restart of the pod.
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NUMBA_CACHE_DIR", "value": _CACHE},
            *(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": _secret_name(deployment), "key": name}}}
                for name in deployment.variables
            ),
        ],
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": _probe("/health", every_s=5, failures=120),
        "livenessProbe": _probe("/health", every_s=10, failures=3),
        "readinessProbe": _probe("/ready", every_s=10, failures=1),
        # No limit on processor time: throttling delays commits, and the requests already share it out.
        "resources": {"requests": size, "limits": {"memory": size["memory"]}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(deployment),
    }


def _probe(path: str, *, every_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": every_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _mounts(deployment: Deployment) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": STATE, "mountPath": str(folder), "subPath": f"{STATE}-{number}"}
        for number, folder in enumerate(deployment.state)
    ]
    mounts += [{"name": STATE, "mountPath": _CACHE, "subPath": "kernels"}, {"name": "tmp", "mountPath": "/tmp"}]
    if deployment.binding is not None:
        path = deployment.binding[0]
        mounts.append({"name": "binding", "mountPath": str(HOME / path), "subPath": path.name, "readOnly": True})
    mounts += [
        {"name": "secrets", "mountPath": str(path), "subPath": path.name, "readOnly": True} for path in deployment.files
    ]
    return mounts


def _volumes(deployment: Deployment) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": STATE, "persistentVolumeClaim": {"claimName": f"{deployment.name}-{STATE}"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if deployment.binding is not None:
        volumes.append({"name": "binding", "configMap": {"name": deployment.name}})
    if deployment.files:
        items = [{"key": path.name, "path": path.name} for path in deployment.files]
        volumes.append({"name": "secrets", "secret": {"secretName": _secret_name(deployment), "items": items}})
    return volumes


def _times(amount: str, count: int) -> str:
    unit = amount.lstrip("0123456789.")
    return f"{float(amount.removesuffix(unit)) * count:g}{unit}"
