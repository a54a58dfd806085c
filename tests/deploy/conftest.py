"""The manifests and secrets as a cluster would get them."""

import pytest

from tests.support.manifests import KUBERNETES, Manifests, Secrets, make_secrets, rendered


@pytest.fixture(scope="session")
def manifests() -> Manifests:
    """The base, rendered. Skips where kubectl is not installed."""
    return rendered(KUBERNETES / "base")


@pytest.fixture(scope="session")
def secrets() -> Secrets:
    """One set of Secrets for the whole run."""
    return make_secrets()
