"""The services file is reloaded when it has changed: a pod gets no SIGHUP."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.errors import SettingsError
from service.monitor import reload
from service.monitor.reload import ServicesFile
from service.monitor.services import services
from service.settings import Settings
from tests.support.services import certificate
from tests.support.settings import make_settings
from tests.support.waiting import until
from tests.support.world import MakeWorld


class Watched:
    """A services file in a folder as Kubernetes mounts it, and what was taken into use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "services.toml"
        self.used: list[str] = []
        self.write("[api]\nurl = 'http://127.0.0.1/1'\n")
        self.file.symlink_to(folder / "..data" / "services.toml")
        self.settings = make_settings(services_file=str(self.file))
        self.services_file = ServicesFile(self.settings, self.use)

    def write(self, text: str) -> None:
        """Replace the content, as Kubernetes does: by switching a symbolic link."""
        version = self.folder / f"..{len(list(self.folder.iterdir()))}"
        version.mkdir()
        (version / "services.toml").write_text(text)
        following = self.folder / "..following"
        following.symlink_to(version)
        following.replace(self.folder / "..data")

    def use(self, settings: Settings) -> None:
        """Take services into use. Raises `SettingsError`."""
        self.used.append(services(settings)["api"].url)


@pytest.fixture
async def watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Watched:
    """A file that is watched without pauses."""
    caplog.set_level(logging.INFO, "service.monitor.reload")
    return Watched(tmp_path)


Step = Callable[[], Awaitable[None]]


async def looked(watched: Watched, monkeypatch: pytest.MonkeyPatch, times: int = 3) -> None:
    """Look at the files some times."""
    looks = 0
    contents = reload.contents

    def counted(settings: Settings) -> object:
        nonlocal looks
        looks += 1
        return contents(settings)

    with monkeypatch.context() as patched:
        patched.setattr(reload, "contents", counted)
        task = asyncio.create_task(watched.services_file.watch(0.0, 0.0))
        await until(lambda: looks >= 3 * times or task.done())
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), "the watching has ended"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged since the last call, without paths."""
    found = [line.getMessage().partition(": CLUSTER")[0] for line in caplog.records]
    caplog.clear()
    return found


async def test_changed_file_is_reloaded_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A new content is taken into use once; an invalid one is logged once and changes nothing."""
    await looked(watched, monkeypatch)
    assert (watched.used, lines(caplog)) == ([], [])
    watched.write("[api]\nurl = 'http://127.0.0.1/2'\n")
    await looked(watched, monkeypatch)
    assert watched.used == ["http://127.0.0.1/2"]
    assert lines(caplog) == ["reloaded the services file"]
    watched.write("[api]\nurl = 'gopher://127.0.0.1/3'\n")
    await looked(watched, monkeypatch)
    watched.write("[api\n")
    await looked(watched, monkeypatch)
    assert len(watched.used) == 1
    assert lines(caplog) == ["ignored invalid services file"] * 2
    watched.write("[api]\nurl = 'http://127.0.0.1/2'\n")
    await looked(watched, monkeypatch)
    assert lines(caplog) == ["reloaded the services file"]


UNFIT = {
    "a path with a null character": '[api]\nca_file = "a\\u0000b"\n',
    "arrays nested too deeply": "a = " + "[" * 50_000,
}


@pytest.mark.parametrize("content", UNFIT.values(), ids=UNFIT)
async def test_no_content_ends_the_watching(
    content: str,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What Python cannot even open or parse is logged once, and the next content is used."""
    watched.write(content)
    await looked(watched, monkeypatch)
    assert (watched.used, lines(caplog)) == ([], ["ignored invalid services file"])
    watched.services_file.reload()
    assert lines(caplog) == ["ignored invalid services file"]
    watched.write("[api]\nurl = 'http://127.0.0.1/6'\n")
    await looked(watched, monkeypatch)
    assert watched.used == ["http://127.0.0.1/6"]


async def test_certificate_that_disappears_while_it_is_read(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that is no certificate, and is gone when the reason is looked for, is a problem."""
    file = tmp_path / "ca.crt"
    file.write_text("no certificate")
    watched.write(f"[api]\nurl = 'https://127.0.0.1/7'\nca_file = '{file}'\n")

    read_bytes = Path.read_bytes

    def gone(path: Path) -> bytes:
        if path == file:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", gone)
    with pytest.raises(SettingsError) as caught:
        services(watched.settings)
    assert "ca_file: cannot be read: No such file or directory" in str(caught.value)


async def test_file_that_disappears(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is gone is logged once, and the services stay."""
    watched.file.unlink()
    await looked(watched, monkeypatch)
    assert (watched.used, lines(caplog)) == ([], ["ignored invalid services file"])


async def test_file_that_is_being_written(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that differs between two reads is not used: it is looked at again."""
    number = 0
    contents = reload.contents

    def written(settings: Settings) -> object:
        nonlocal number
        number += 1
        if number <= 6:
            watched.write(f"[api]\nurl = 'http://127.0.0.1/part-{number}'\n")
        return contents(settings)

    with monkeypatch.context() as patched:
        patched.setattr(reload, "contents", written)
        task = asyncio.create_task(watched.services_file.watch(0.0, 0.0))
        await until(lambda: watched.used)
        task.cancel()
        await asyncio.wait([task])
    assert watched.used == ["http://127.0.0.1/part-6"]
    assert lines(caplog) == ["reloaded the services file"]


async def test_certificate_that_is_rotated(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A new certificate in a file that the services file names is taken into use."""
    folder = tmp_path / "tls"
    folder.mkdir()
    _, cert = certificate(folder, "localhost")
    watched.write(f"[api]\nurl = 'https://127.0.0.1/4'\nca_file = '{cert}'\n")
    await looked(watched, monkeypatch)
    certificate(folder, "localhost")
    await looked(watched, monkeypatch)
    assert watched.used == ["https://127.0.0.1/4"] * 2


async def test_reload_by_hand_is_no_change(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What SIGHUP has reloaded is not reloaded again."""
    watched.write("[api]\nurl = 'http://127.0.0.1/5'\n")
    watched.services_file.reload()
    await looked(watched, monkeypatch)
    assert len(watched.used) == 1


async def test_monitor_watches_its_file(
    make_world: MakeWorld, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running monitor checks by the changed file, without a signal."""
    from service.monitor.process import monitoring  # noqa: PLC0415

    monkeypatch.setattr(ServicesFile.watch, "__defaults__", (0.01, 0.01))
    world = await make_world("old", "new")
    file = tmp_path / "services.toml"
    file.write_text(f"[api]\nurl = 'http://127.0.0.1:{world.services['old'].port}/'\n")
    settings = make_settings(
        redis_url=valkey, services_file=str(file), check_interval="200ms", check_timeout="200ms"
    )
    async with monitoring(settings):
        await until(lambda: world.services["old"].asked)
        file.write_text(f"[api]\nurl = 'http://127.0.0.1:{world.services['new'].port}/'\n")
        await until(lambda: world.services["new"].asked)


def test_only_what_can_be_read_is_compared(tmp_path: Path) -> None:
    """Files that do not exist, and a file that is no TOML, are contents as well."""
    file = tmp_path / "services.toml"
    settings = None
    file.write_text("[api]\nurl = 'https://127.0.0.1/'\n")
    settings = make_settings(services_file=str(file))
    for text in ("\udcff", "[api]\nca_file = '/nowhere/ca.crt'\n", "ca_file = 1\n"):
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        assert reload.contents(settings)[file] == file.read_bytes()
    with pytest.raises(SettingsError):
        services(settings)
