"""The component that lets the monitor look at Kubernetes' objects: it gives what the code asks for,
and no more."""

import os
from pathlib import Path

import pytest

from service.monitor.kubernetes.assess import Rules
from service.monitor.kubernetes.checker import workload_checker
from service.monitor.services import Workload
from tests.support.cluster import Cluster, container, credentials, pod, workload
from tests.support.manifests import KUBERNETES, Manifests, rendered

MONITOR = "cluster-events-monitor"


@pytest.fixture(scope="module")
def with_resources(tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    """The base with the component, as a kustomization of an operator's own."""
    folder = tmp_path_factory.mktemp("overlay")
    base, component = (
        os.path.relpath(KUBERNETES / part, folder.resolve()) for part in ("base", "resources")
    )
    text = f"namespace: platform\nresources: [{base}]\ncomponents: [{component}]\n"
    (folder / "kustomization.yaml").write_text(text)
    return rendered(folder)


def test_only_the_monitor_gets_an_account(with_resources: Manifests) -> None:
    """The monitor's pods get their account's token, and nobody else's do."""
    specs = {name: with_resources.pod(name)["spec"] for name in with_resources.workloads}
    assert [name for name, spec in specs.items() if spec["automountServiceAccountToken"]] == [
        MONITOR
    ]
    assert specs[MONITOR]["serviceAccountName"] == MONITOR
    values = {one["name"]: one.get("value") for one in with_resources.container(MONITOR)["env"]}
    assert values["CLUSTER_EVENTS_MONITOR_RESOURCES"] == "on"
    assert "CLUSTER_EVENTS_REDIS_URL_FILE" in values


def test_the_role_is_bound_to_that_account(with_resources: Manifests) -> None:
    """A Role of the namespace, never one of the cluster, bound to the one account."""
    assert not with_resources.of_kind("ClusterRole", "ClusterRoleBinding")
    binding = with_resources.of_kind("RoleBinding")[MONITOR]
    assert binding["roleRef"]["name"] in with_resources.of_kind("Role")
    (subject,) = binding["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": MONITOR, "namespace": "platform"}


async def test_the_role_allows_what_the_code_asks_for_and_no_more(
    with_resources: Manifests, tmp_path: Path
) -> None:
    """Every request of the monitor, with names and with labels, is covered by the Role, and each
    rule by a request."""
    failing = pod("a", "Running", container(waiting=("CrashLoopBackOff", "")))
    kinds = ("Deployment", "StatefulSet", "DaemonSet")
    cluster = Cluster([workload(kind, available=2) for kind in kinds], [failing])
    async with (
        cluster.serving(),
        workload_checker(cluster.url, credentials(tmp_path / "account"), Rules(), 0.0) as client,
    ):
        for kind in map(str.lower, kinds):
            await client.check(Workload(kind, "api-server"), 2.0)
            await client.check(Workload(kind, selector="app=api-server"), 2.0)
    asked = set()
    for path, _ in cluster.asked:
        before, _, after = path.partition("/namespaces/platform/")
        resource, _, name = after.partition("/")
        asked.add(
            (
                "apps" if before.startswith("/apis/apps/") else "",
                resource,
                "get" if name else "list",
            )
        )
    rules = with_resources.of_kind("Role")[MONITOR]["rules"]
    allowed = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert asked == allowed


def test_workloads_elsewhere(with_resources: Manifests, tmp_path: Path) -> None:
    """In another namespace the same rules are bound to the monitor's account in its own."""
    base = os.path.relpath(KUBERNETES / "resources-elsewhere", tmp_path.resolve())
    text = f"namespace: shop\nresources: [{base}]\n"
    (tmp_path / "kustomization.yaml").write_text(text)
    elsewhere = rendered(tmp_path)
    assert {one["metadata"]["namespace"] for one in elsewhere.objects} == {"shop"}
    roles = [one.of_kind("Role")[MONITOR]["rules"] for one in (with_resources, elsewhere)]
    assert roles[0] == roles[1]
    binding = elsewhere.of_kind("RoleBinding")[MONITOR]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": MONITOR, "namespace": "platform"}
    ]


def test_the_api_server_can_be_reached(with_resources: Manifests) -> None:
    """The policies let the monitor, and it alone, reach the API server's usual ports."""
    policy = with_resources.of_kind("NetworkPolicy")["cluster-events-monitor-to-kubernetes"]["spec"]
    assert policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "monitor"
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {443, 6443}
