"""A dataset of a robot and an entry of one's own: what it stores is enough, the registry file may be gone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import flex_template
from pipelines.contract.embodiments import Robots, get_embodiment
from pipelines.contract.errors import UsageError
from pipelines.contract.registries import use_registries
from pipelines.conversion.contact_sheet import compare_frames
from pipelines.mapping.adapters import get_adapter, load_adapters, restore_adapter
from pipelines.shards.manifest import load_manifest
from tests.support.inputs.native_files import bridge_features, write_rlds
from tests.support.inputs.own_registry import OWN
from tests.support.servers.memory_store import MemoryStore
from trainers.main import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with four episodes and a registry of its own."""
    monkeypatch.chdir(tmp_path)
    write_rlds(tmp_path / "in", {"train": [bridge_features(i) for i in range(4)]})
    (tmp_path / "embodimix.yaml").write_text(OWN)
    yield tmp_path
    use_registries([])


def convert(*options: str) -> int:
    arguments = ["convert", "rlds", "in", "out", "--name", "desk", "--version", "1.0.0", "--workers", "1"]
    return main([*arguments, "--adapter", "desk_logs", *options])


def test_the_manifest_holds_the_entries_and_later_commands_need_no_registry(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert() == 0
    adapter, robot = get_adapter("desk_logs"), get_embodiment("desk_arm")
    (folder / "embodimix.yaml").unlink()
    assert "desk_logs" not in load_adapters()
    manifest = load_manifest(folder / "out/desk/1.0.0")
    assert manifest is not None and restore_adapter(manifest.adapter) == adapter
    assert list(manifest.robots) == ["desk_arm"] and manifest.robots["desk_arm"]["control_hz"] == robot.control_hz == 25
    pairs = compare_frames(folder / "out/desk/1.0.0", n_episodes=1, n_frames=2)
    assert max(pair.mean_difference for pair in pairs) < 4
    assert main(["check", "out/desk/1.0.0"]) in (0, 1)
    assert main(["card", "out/desk/1.0.0"]) == 0
    assert "desk_arm" in (folder / "out/desk/1.0.0/card.md").read_text()
    spec = "schema: embodimix.mixture/v1\nname: desk\ndatasets: [{path: out/desk/1.0.0}]\n"
    (folder / "mixture.yaml").write_text(spec)
    capsys.readouterr()
    assert main(["mix", "plan", "mixture.yaml", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert "desk_arm" in group["name"]


def test_a_run_with_the_same_entries_is_known_and_one_with_another_robot_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert() == 0 and convert() == 0
    assert "already done" in capsys.readouterr().out
    (folder / "embodimix.yaml").write_text(OWN.replace("an arm of", "a small arm of"))
    assert convert() == 0
    assert "already done, by another version of the code" in capsys.readouterr().out
    (folder / "embodimix.yaml").write_text(OWN.replace("control_hz: 25", "control_hz: 30"))
    assert convert() == 2
    expected = "out/desk/1.0.0: expected robot desk_arm as it was then, found another control_hz"
    assert expected in capsys.readouterr().err


def test_new_episodes_under_another_meaning_are_not_appended(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert() == 0
    for key, before, after in (
        ("action", '"action[6]", open: 1, closed: 0', '"action[6]", open: 0, closed: 1'),
        ("control_hz", "    format: rlds", "    control_hz: 10\n    format: rlds"),
        ("shift_before", "    format: rlds", "    shift_before: 2021-07-23\n    format: rlds"),
    ):
        (folder / "embodimix.yaml").write_text(OWN.replace(before, after))
        assert convert("--version", "1.1.0", "--append", "1.0.0") == 2
        expected = f"--append 1.0.0: expected adapter desk_logs as it was then, found another {key}"
        assert expected in capsys.readouterr().err


def test_a_conversion_with_open_questions_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "embodimix.yaml").write_text(OWN.replace("units: metric", 'units: "?"'))
    assert convert() == 2
    assert "embodimix.yaml:15:12: adapter desk_logs: expected an answer" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_registry_may_lie_in_an_object_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MemoryStore.objects.clear()
    MemoryStore.objects["mem://bucket/my.yaml"] = OWN.encode()
    (folder / "embodimix.yaml").unlink()
    assert convert("--registry", "mem://bucket/my.yaml") == 0
    MemoryStore.objects.clear()
    assert convert("--registry", "mem://bucket/my.yaml") == 2
    assert "--registry mem://bucket/my.yaml: expected a registry, found" in capsys.readouterr().err


def test_a_template_takes_registries_as_the_command_does(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MemoryStore.objects.clear()
    MemoryStore.objects["mem://bucket/my.yaml"] = OWN.encode()
    (folder / "embodimix.yaml").unlink()
    template = ["--format=rlds", "--input=in", "--output_root=out", "--name=desk", "--version=1.0.0"]
    template += ["--adapter=desk_logs", "--runner=FnApiRunner"]
    assert flex_template.main([*template, "--registry=mem://bucket/absent.yaml"]) == 2
    assert "--registry mem://bucket/absent.yaml: expected a registry, found" in capsys.readouterr().err
    assert flex_template.main([*template, "--registry=mem://bucket/my.yaml"]) == 0
    assert load_manifest(folder / "out/desk/1.0.0") is not None


def test_a_robot_that_a_job_lacks_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="robot 'desk_arm' is not in the registry"):
        Robots().find("desk_arm")
