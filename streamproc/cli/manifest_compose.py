"""A compose file: one service whose container supervises the workers."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Final

import yaml

from streamproc.cli.deployment import HOME, PORT, STATE, Deployment

_PROBE: Final = (
    f"import urllib.request as request; request.urlopen('http://127.0.0.1:{PORT}/health', timeout=5).close()"
)
_USER: Final = "10001:10001"


def compose_text(deployment: Deployment) -> str:
    """The file's text."""
    head = (
        f"# Workers of {deployment.topology}, version {deployment.version}: docker compose up -d\n"
        f"# The image runs as user {_USER}; it has streamproc and the project in {HOME}, and owns the folders below\n"
        "# 'volumes', so that new volumes belong to that user.\n"
    )
    text: str = yaml.safe_dump(_compose(deployment), sort_keys=False, width=120)
    return head + text


def _compose(deployment: Deployment) -> dict[str, Any]:
    memory = _megabytes(deployment.memory) * deployment.workers
    service: dict[str, Any] = {
        "image": deployment.image,
        # Members of the group are named after the host: the same name again fences the older one at once.
        "hostname": deployment.name,
        "command": deployment.command(workers=deployment.workers),
        "working_dir": str(HOME),
        "user": _USER,
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "init": True,
        "restart": "on-failure:10",
        "stop_grace_period": f"{deployment.drain_s + 5}s",
        "environment": {
            "NUMBA_CACHE_DIR": f"{deployment.state[0]}/kernels",
            **{name: f"${{{name}:?set the secret {name}}}" for name in deployment.variables},
        },
        "ports": [f"127.0.0.1:{PORT}:{PORT}"],
        "volumes": [
            {"type": "volume", "source": _volume(number), "target": str(folder)}
            for number, folder in enumerate(deployment.state)
        ],
        "healthcheck": {
            "test": ["CMD", "python", "-c", _PROBE],
            "interval": "10s",
            "timeout": "6s",
            "retries": 3,
            "start_period": "10m",
        },
        "deploy": {
            "resources": {
                "limits": {"cpus": f"{_cores(deployment.cpu) * deployment.workers:g}", "memory": f"{memory}M"}
            }
        },
    }
    whole: dict[str, Any] = {
        "name": deployment.name,
        "services": {"workers": service},
        "volumes": {_volume(number): {} for number in range(len(deployment.state))},
    }
    if deployment.binding is not None:
        service["configs"] = [{"source": "binding", "target": str(HOME / deployment.binding[0])}]
        whole["configs"] = {"binding": {"file": f"./{deployment.binding[0].name}"}}
    if deployment.files:
        service["secrets"] = [{"source": _secret(path), "target": str(path)} for path in deployment.files]
        whole["secrets"] = {_secret(path): {"file": f"./secrets/{path.name}"} for path in deployment.files}
    return whole


def _volume(number: int) -> str:
    return STATE if number == 0 else f"{STATE}-{number}"


def _secret(path: PurePosixPath) -> str:
    return path.name.replace(".", "-").lower()


def _cores(amount: str) -> float:
    return float(amount[:-1]) / 1_000 if amount.endswith("m") else float(amount)


def _megabytes(amount: str) -> int:
    """Kubernetes' amount in the compose file's megabytes (both binary), rounded up."""
    units = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    unit = amount.lstrip("0123456789.")
    size = float(amount.removesuffix(unit)) * units.get(unit, 1)
    return int(-(-size // 2**20))
