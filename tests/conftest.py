"""Shared fixtures: the sample data beside the checkout, which CI must never skip."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("any machine", settings(), deadline=None)
settings.load_profile("any machine")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `shared` where the sample data is absent; in CI they run and fail instead."""
    if SHARED.is_dir() or os.environ.get("CI") == "true":
        return
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(pytest.mark.skip(reason="needs the sample data in ../shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `../shared`: data/ and goldens/."""
    assert SHARED.is_dir(), f"expected the sample data at {SHARED}"
    return SHARED


@pytest.fixture(autouse=True)
def room_for_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of objects stay whatever else fills this machine's disk, so that tests can count transfers."""
    monkeypatch.setattr("pipelines.storage.mirror._spare_bytes", lambda folder: 10**12)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium, driven by selenium; tests that use it are marked `NEEDS_BROWSER`."""
    from tests.support.servers.browser import start_browser

    yield from start_browser()
