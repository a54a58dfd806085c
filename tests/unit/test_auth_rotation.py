"""Secrets and public keys that are replaced while the service runs, two valid at once, and settings
that come from files."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service import dev
from service.auth import Authenticator, JwtVerifier, Role, issue, secret_files
from service.errors import AuthenticationFailed, SettingsError
from service.settings import PREFIX, Settings, load
from tests.support.issuer import Issuer, private_key
from tests.support.settings import make_settings

OLD, NEW = "the old secret, of 32 bytes or more", "the new secret, of 32 bytes or more"
LATER = int(time.time()) + 600


def token(key: Any, algorithm: str = "HS256") -> str:
    """A token for reading."""
    return jwt.encode({"exp": LATER}, key, algorithm)


def pem(algorithm: str, number: int = 0) -> str:
    """The public half of a test's key."""
    public = private_key(algorithm, number).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def accepts(authenticator: Authenticator | JwtVerifier, credential: str) -> bool:
    """Whether the token is good."""
    try:
        if isinstance(authenticator, JwtVerifier):
            authenticator.verify(credential)
        else:
            authenticator.authenticate(f"Bearer {credential}", {})
    except AuthenticationFailed:
        return False
    return True


# -- two at once -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [f"{NEW}\n{OLD}", f"\n {NEW} \r\n\r\n{OLD}\r\n"])
def test_two_secrets_are_valid_at_once(text: str) -> None:
    """Of several secrets, one a line, each verifies and the first one signs."""
    settings = make_settings(jwt_secret=text)
    verifier = JwtVerifier(settings)
    assert [
        accepts(verifier, token(secret)) for secret in (OLD, NEW, OLD + NEW, f"{NEW}\n{OLD}")
    ] == [
        True,
        True,
        False,
        False,
    ]
    signed = issue(settings, "me", Role.READ, 60)
    assert accepts(JwtVerifier(make_settings(jwt_secret=NEW)), signed)
    assert not accepts(JwtVerifier(make_settings(jwt_secret=OLD)), signed)


def test_two_public_keys_are_valid_at_once() -> None:
    """Public keys of different kinds stand one after the other, and each verifies what it is
    for."""
    verifier = JwtVerifier(
        make_settings(jwt_secret=None, jwt_public_key=pem("ES256") + "\n" + pem("RS256"))
    )
    assert accepts(verifier, token(private_key("ES256"), "ES256"))
    assert accepts(verifier, token(private_key("RS256"), "RS256"))
    assert not accepts(verifier, token(private_key("RS256"), "PS256"))
    assert not accepts(verifier, token(private_key("ES256", 1), "ES256"))


@pytest.mark.parametrize(
    ("variable", "values"),
    [
        ("JWT_SECRET", {"jwt_secret": f"{NEW}\nshort"}),
        ("JWT_SECRET", {"jwt_secret": "\n".join(f"{number} {NEW}" for number in range(5))}),
        ("JWT_SECRET", {"jwt_secret": " \n "}),
        (
            "JWT_PUBLIC_KEY",
            {
                "jwt_public_key": pem("ES256")
                + "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"
            },
        ),
        ("JWT_PUBLIC_KEY", {"jwt_public_key": pem("ES256") + "and a word"}),
        (
            "JWT_ALGORITHMS",
            {"jwt_public_key": pem("ES256") + pem("RS256"), "jwt_algorithms": "ES256"},
        ),
    ],
)
def test_every_one_of_several_must_be_fit(variable: str, values: dict[str, str]) -> None:
    """One unfit secret or key among several stops the start."""
    with pytest.raises(SettingsError) as caught:
        Authenticator(make_settings(**{"jwt_secret": None, **values}))
    assert f"{PREFIX}{variable}" in str(caught.value)
    assert NEW not in str(caught.value)


# -- how long a token may live ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"exp": LATER + 85_000}, True),
        ({"exp": LATER + 86_400}, False),
        ({"iat": LATER - 600, "exp": LATER - 600 + 86_400}, True),
        ({"iat": LATER - 600, "exp": LATER - 600 + 86_402}, False),
        ({"iat": LATER - 86_400, "exp": LATER}, True),
        ({"iat": LATER - 86_401, "exp": LATER}, False),
        ({"iat": LATER + 10**6, "exp": LATER + 10**6 + 60}, False),
        ({"iat": 1e300, "exp": LATER}, True),
        ({"iat": -1e300, "exp": LATER}, False),
        ({"iat": "now", "exp": LATER}, False),
        ({"iat": True, "exp": LATER}, False),
        ({"iat": [1], "exp": LATER}, False),
        ({"iat": LATER - 600.5, "exp": LATER}, True),
    ],
)
def test_tokens_live_for_a_day_at_most(claims: Mapping[str, Any], accepted: bool) -> None:
    """From its issue, or from now if that is earlier or not told, a token is valid for a day at
    most."""
    text = Issuer("").signed(OLD, "HS256", **{"aud": None, "iss": None, "iat": None, **claims})
    assert accepts(JwtVerifier(make_settings(jwt_secret=OLD)), text) is accepted


def test_longest_life_is_a_setting() -> None:
    """Who wants longer tokens, or shorter ones, says so; what the service would refuse it does not
    sign."""
    settings = make_settings(jwt_secret=OLD, jwt_max_lifetime="30d")
    assert accepts(JwtVerifier(settings), issue(settings, "me", Role.READ, 30 * 86_400))
    with pytest.raises(SettingsError, match=f"{PREFIX}JWT_MAX_LIFETIME"):
        issue(settings, "me", Role.READ, 31 * 86_400)


# -- files -----------------------------------------------------------------------------------------


def replace_file(file: Path, text: str) -> None:
    """Puts another file in its place, as mounted secrets change."""
    other = file.with_name("next")
    other.write_text(text)
    other.replace(file)


def from_files(**environ: str) -> Settings:
    """Settings of an environment that looks at its files often."""
    return load(
        {f"{PREFIX}{name}": value for name, value in environ.items()}
        | {f"{PREFIX}SECRETS_REFRESH": "20ms"}
    )


async def becomes(authenticator: Authenticator, credential: str, expected: bool) -> None:
    """Waits until the token is good, or no longer."""
    deadline = time.monotonic() + 3
    while accepts(authenticator, credential) is not expected:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files settle quickly."""
    monkeypatch.setattr(secret_files, "_SETTLE_S", 0.02)


@pytest.mark.parametrize("place", ["JWT_SECRET_FILE", "SECRETS_DIR"])
async def test_new_secret_is_taken_without_a_restart(tmp_path: Path, place: str) -> None:
    """A secret is added, then the old one taken away: each takes effect, remembered tokens
    included."""
    file = tmp_path / "jwt-secret"
    file.write_text(OLD)
    authenticator = Authenticator(
        from_files(**{place: str(file if place.endswith("FILE") else tmp_path)})
    )
    old, new = token(OLD), token(NEW)
    async with authenticator.running():
        assert (accepts(authenticator, old), accepts(authenticator, new)) == (True, False)
        generation = authenticator.generation
        replace_file(file, f"{NEW}\n{OLD}")
        await becomes(authenticator, new, True)
        assert accepts(authenticator, old)
        assert authenticator.generation is not generation
        replace_file(file, NEW)
        await becomes(authenticator, old, False)
        assert accepts(authenticator, new)


async def test_new_public_key_is_taken_without_a_restart(tmp_path: Path) -> None:
    """A public key in a file is replaced like a secret, also by one of another kind."""
    file = tmp_path / "key.pem"
    file.write_text(pem("ES256"))
    authenticator = Authenticator(from_files(JWT_PUBLIC_KEY_FILE=str(file)))
    async with authenticator.running():
        replace_file(file, pem("RS256"))
        await becomes(authenticator, token(private_key("RS256"), "RS256"), True)
        assert not accepts(authenticator, token(private_key("ES256"), "ES256"))


@pytest.mark.parametrize(
    "text",
    ["too short", "", None, b"\xff" * 64, "-----BEGIN PUBLIC KEY-----"],
    ids=["short", "empty", "gone", "no text", "begun"],
)
async def test_unfit_new_secret_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | bytes | None
) -> None:
    """A new secret that is unfit, or a file that is gone, is logged once without what it says, and
    the old one stays."""
    file = tmp_path / "jwt_secret"
    file.write_text(OLD)
    authenticator = Authenticator(from_files(JWT_SECRET_FILE=str(file)))
    async with authenticator.running():
        generation = authenticator.generation
        if text is None:
            file.unlink()
        else:
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
        deadline = time.monotonic() + 3
        while not caplog.records:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert accepts(authenticator, token(OLD))
        assert authenticator.generation is generation
        assert len(caplog.records) == 1
        line = vars(caplog.records[0])
        assert f"{PREFIX}JWT_SECRET" in line["problems"]
        assert "too short" not in repr(line)
        assert OLD not in repr(line)
        replace_file(file, NEW)
        await becomes(authenticator, token(NEW), True)


async def test_file_that_is_being_written_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret that changes again within a moment is half a secret: only what stays is taken."""
    monkeypatch.setattr(secret_files, "_SETTLE_S", 0.15)
    file = tmp_path / "jwt_secret"
    file.write_text(OLD)
    authenticator = Authenticator(from_files(JWT_SECRET_FILE=str(file)))
    halves = [NEW + " and more" * number for number in range(8)]
    async with authenticator.running():
        for half in halves:
            file.write_text(half)
            await asyncio.sleep(0.05)
            assert accepts(authenticator, token(OLD))
        await becomes(authenticator, token(halves[-1]), True)


async def test_same_file_again_changes_nothing(tmp_path: Path) -> None:
    """A file that is written anew with the same secret lets remembered tokens be."""
    file = tmp_path / "jwt_secret"
    file.write_text(OLD)
    authenticator = Authenticator(from_files(JWT_SECRET_FILE=str(file)))
    async with authenticator.running():
        generation = authenticator.generation
        replace_file(file, OLD + "\n")
        await asyncio.sleep(0.15)
        assert authenticator.generation is generation


@pytest.mark.parametrize("name", ["jwt_secret", "jwt-secret", "JWT_SECRET"])
def test_secrets_come_from_a_folder(tmp_path: Path, name: str) -> None:
    """A file named like a secret is that secret; other files, and folders, are none."""
    (tmp_path / name).write_text(f"{OLD}\n")
    (tmp_path / "port").write_text("99")
    (tmp_path / "..data").mkdir()
    settings = from_files(SECRETS_DIR=str(tmp_path))
    assert settings.jwt_secrets == (OLD,)
    assert settings.port == 8080
    assert OLD not in repr(settings)


@pytest.mark.parametrize("text", [f"{OLD}\r\n", f"\ufeff{OLD}", f" \ufeff{OLD}\ufeff "])
def test_secret_that_dev_keeps_is_what_it_says(tmp_path: Path, text: str) -> None:
    """What an editor leaves around the secret that `dev` keeps with its data is no part of it."""
    (tmp_path / "jwt_secret").write_text(text, encoding="utf-8", newline="")
    assert dev._secret(tmp_path) == OLD


def test_what_is_set_directly_wins_over_the_folder(tmp_path: Path) -> None:
    """A secret of the environment, or a file of its own, is not replaced by one of the folder."""
    (tmp_path / "jwt_secret").write_text(OLD)
    other = tmp_path / "other"
    other.write_text(NEW)
    assert from_files(SECRETS_DIR=str(tmp_path), JWT_SECRET=NEW).jwt_secrets == (NEW,)
    assert from_files(SECRETS_DIR=str(tmp_path), JWT_SECRET_FILE=str(other)).jwt_secrets == (NEW,)


@pytest.mark.parametrize(
    "fault", ["no folder", "empty file", "folder instead of a file", "no text"]
)
def test_folder_that_cannot_be_read_is_named(tmp_path: Path, fault: str) -> None:
    """A folder or a file in it that gives no secret stops the start."""
    folder, file = tmp_path, tmp_path / "jwt_secret"
    match fault:
        case "no folder":
            folder = tmp_path / "nowhere"
        case "empty file":
            file.write_text(" \n")
        case "folder instead of a file":
            file.mkdir()
        case _:
            file.write_bytes(b"\xff" * 40)
    with pytest.raises(SettingsError, match=f"{PREFIX}SECRETS_DIR"):
        from_files(SECRETS_DIR=str(folder))
