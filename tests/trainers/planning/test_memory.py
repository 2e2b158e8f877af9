"""A model that does not fit into a device's memory is refused before anything is allocated."""

from pathlib import Path

import pytest

from pipelines.contract.errors import FailedWork
from trainers.config import resolve_config
from trainers.planning import memory


def config_of(model: str, tmp_path: Path, **overrides: object):
    return resolve_config(
        stage="pretrain",
        mixture=tmp_path / "m.yaml",
        horizon=50,
        cameras=("base_0_rgb",),
        overrides={"model": model, **overrides},
    )


def test_full_size_pi0_does_not_fit_into_22_gib(tmp_path: Path) -> None:
    with pytest.raises(FailedWork, match=r"pi0: expected a device with at least (\d+)\.\d GiB .* found 22\.0 GiB"):
        memory.check_memory(config_of("pi0", tmp_path), limit_gib=22)


def test_tiny_fits(tmp_path: Path) -> None:
    memory.check_memory(config_of("tiny", tmp_path), limit_gib=1)


def test_a_container_limit_counts_and_a_missing_one_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{3 << 30}\n")
    monkeypatch.setattr(memory, "_CONTAINER_LIMITS", (tmp_path / "absent", tmp_path / "memory.max"))
    assert memory.device_limit_gib() == pytest.approx(3.0)
    (tmp_path / "memory.max").write_text("max\n")
    assert (memory.device_limit_gib() or 0) > 3.0
