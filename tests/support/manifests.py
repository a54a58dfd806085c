"""The manifests and secrets as a cluster would get them."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support import needs
from tests.support.folders import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
Secrets = Mapping[str, Mapping[str, str]]
"""The values of Secrets by name and key."""


@dataclass(frozen=True)
class Manifests:
    """The rendered objects of the base."""

    objects: tuple[dict[str, Any], ...]

    def of_kind(self, *kinds: str) -> Mapping[str, Any]:
        """The objects of these kinds by name."""
        return {
            found["metadata"]["name"]: found for found in self.objects if found["kind"] in kinds
        }

    @property
    def workloads(self) -> Mapping[str, Any]:
        """What makes pods."""
        return self.of_kind("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod")

    def pod(self, name: str) -> Any:
        """The pod template of a workload."""
        return self.workloads[name]["spec"]["template"]

    def container(self, name: str) -> Any:
        """The only container of a workload's pods."""
        (container,) = self.pod(name)["spec"]["containers"]
        return container

    @property
    def settings(self) -> dict[str, str]:
        """The data of the ConfigMap that holds the service's settings."""
        (reference,) = self.container("cluster-events-api")["envFrom"]
        return dict(self.of_kind("ConfigMap")[reference["configMapRef"]["name"]]["data"])

    @property
    def valkey_conf(self) -> str:
        """The configuration of the store."""
        (found,) = (
            file
            for map_ in self.of_kind("ConfigMap").values()
            for file in [map_["data"].get("valkey.conf")]
            if file
        )
        return str(found)


def rendered(folder: Path) -> Manifests:
    """What a kustomization renders. Skips where kubectl is not installed."""
    kubectl = needs.program("kubectl", installable=False)
    ran = subprocess.run(
        [kubectl, "kustomize", str(folder)], check=True, capture_output=True, text=True, timeout=30
    )
    return Manifests(tuple(yaml.safe_load_all(ran.stdout)))


def make_secrets() -> Secrets:
    """The Secrets that `make-secrets.sh` prints."""
    script = str(KUBERNETES / "make-secrets.sh")
    printed = subprocess.run([script], check=True, capture_output=True, text=True, timeout=30)
    return {
        secret["metadata"]["name"]: secret["stringData"]
        for secret in yaml.safe_load_all(printed.stdout)
    }
