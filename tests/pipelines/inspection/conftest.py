"""Looks at inputs are limited in seconds; on a busy machine tests would see less of them than they expect."""

import pytest

from pipelines.inspection import recognition, sampling


@pytest.fixture(autouse=True)
def without_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "READ_S", 600.0)
    monkeypatch.setattr(recognition, "SCAN_S", 600.0)
