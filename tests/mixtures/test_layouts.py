"""A mixture has one layout: data of another are drawn into it by a declared map, or refused where it names them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mixtures.mixture import Mixture, open_mixture
from mixtures.stream.batches import Batch, Stream
from pipelines.contract.document import SpecError
from pipelines.contract.episode import Episode, Segment
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.segments.tables import Annotation, episode_hash, write_segments
from pipelines.shards.dataset import Dataset
from pipelines.shards.sidecar import read_sidecar
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec

ARM7 = (0, 1, 2, 3, 4, 5, 18)
WIDE = {"arm0": ARM7, "gripper0": (6,), "arm1": (7, 8, 9, 10, 11, 12, 19), "gripper1": (13,), "waist": (20, 21)}
OPENARM = "openarm_dual/joint_position/pi32/v1"


def wide_episode(number: int) -> Episode:
    """An episode of two arms of seven joints: state[t, s] = number + t / 100 + s / 1000."""
    narrow = make_episode(number, robot="openarm_dual")
    mask = np.isin(np.arange(32), [slot for slots in WIDE.values() for slot in slots])
    state = ((number + np.arange(12)[:, None] / 100 + np.arange(32) / 1000) * mask).astype(np.float32)
    vectors = {"state": state, "action": (state + 0.01 * mask).astype(np.float32), "parts": WIDE}
    return replace(narrow, layout="pi32/v1", state_mask=mask, action_mask=mask, **vectors)


def lone_episode(number: int) -> Episode:
    """An episode of one arm of seven joints, whose gripper lies where a second arm would begin."""
    narrow = make_episode(number, robot="franka")
    mask = np.arange(18) < 8
    state = ((number + np.arange(12)[:, None] / 100 + np.arange(18) / 1000) * mask).astype(np.float32)
    parts = {"arm0": (0, 1, 2, 3, 4, 5, 6), "gripper0": (7,)}
    return replace(narrow, state=state, action=state, state_mask=mask, action_mask=mask, parts=parts)


def open_wide(folder: Path, *names: str, rest: str = "") -> Mixture:
    listed = "".join(f"  - {{path: {name}/1.0.0}}\n" for name in names)
    spec = write_spec(folder, f"layout: pi32/v1\ndatasets:\n{listed}{rest}")
    return open_mixture(spec, cache=folder / "cache")


def draw(mixture: Mixture, n: int = 8) -> Batch:
    with Stream(mixture, batch_size=n) as stream:
        return stream.batch_at(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path, "narrow", [make_episode(n) for n in range(4)])
    write_dataset(tmp_path, "lone", [lone_episode(n) for n in range(4)])
    write_dataset(tmp_path, "wide", [wide_episode(n) for n in range(4)])
    return tmp_path


def test_data_of_18_slots_are_drawn_with_the_same_numbers_and_empty_slots_behind(folder: Path) -> None:
    spec = write_spec(folder, "datasets: [{path: narrow/1.0.0}, {path: lone/1.0.0}]\n", "narrow.yaml")
    narrow, wide = draw(open_mixture(spec, cache=folder / "cache")), draw(open_wide(folder, "narrow", "lone"))
    assert narrow.names == wide.names and narrow.norm_key == wide.norm_key
    assert wide.state.shape == (8, 32) and wide.action.shape == (8, 50, 32)
    for name in ("state", "state_physical", "state_mask", "action_mask"):
        np.testing.assert_array_equal(getattr(wide, name)[:, :18], getattr(narrow, name))
        assert not getattr(wide, name)[:, 18:].any()
    np.testing.assert_array_equal(wide.action[..., :18], narrow.action)
    assert not wide.action[..., 18:].any()


def test_both_layouts_stand_in_one_batch(folder: Path) -> None:
    batch = draw(open_wide(folder, "narrow", "wide"), n=32)
    rows = {key: [i for i, other in enumerate(batch.norm_key) if other == key] for key in set(batch.norm_key)}
    assert sorted(rows) == ["arx/joint_position/pi18/v1", OPENARM]
    assert np.flatnonzero(batch.state_mask[rows[OPENARM][0]]).tolist() == [*range(14), 18, 19, 20, 21]
    assert np.flatnonzero(batch.state_mask[rows["arx/joint_position/pi18/v1"][0]]).tolist() == [*range(7)]
    i = rows[OPENARM][0]
    assert batch.state_physical[i, 19] - batch.state_physical[i, 0] == pytest.approx(0.019, abs=1e-6)


def test_a_gripper_stays_one_whatever_its_robot(folder: Path) -> None:
    parts = open_wide(folder, "narrow", "lone", "wide").parts
    assert [parts[key]["gripper0"] for key in sorted(parts)] == [(6,), (7,), (6,)]
    assert parts["franka/joint_position/pi18/v1"]["arm0"] == (0, 1, 2, 3, 4, 5, 6)


def test_data_that_no_map_leads_from_are_refused_by_file_and_line(folder: Path) -> None:
    spec = write_spec(folder, "datasets:\n  - {path: narrow/1.0.0}\n  - {path: wide/1.0.0}\n")
    with pytest.raises(
        SpecError, match=r"mixture.yaml:5:12: .*in layout pi32/v1, the mixture is in pi18/v1.*layout: pi32/v1"
    ):
        open_mixture(spec, cache=folder / "cache")


def test_a_robot_whose_slots_would_mean_something_else_is_refused(tmp_path: Path) -> None:
    """Parts that no rule of the layout gives: nobody can say where they belong in another layout."""
    odd = [replace(make_episode(n), parts={"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (7,)}) for n in range(2)]
    write_dataset(tmp_path, "odd", odd)
    with pytest.raises(SpecError, match=r"mixture.yaml:5:12: .*mean something else there"):
        open_wide(tmp_path, "odd")


def test_an_unknown_layout_is_refused_where_it_stands(folder: Path) -> None:
    spec = write_spec(folder, "layout: pi33/v1\ndatasets: [{path: narrow/1.0.0}]\n")
    with pytest.raises(SpecError, match=r"mixture.yaml:3:9: layout 'pi33/v1' is unknown"):
        open_mixture(spec, cache=folder / "cache")


def test_filters_know_the_slots_of_the_mixture(folder: Path) -> None:
    rest = "filters: [{keep: {state: {20: [2.0, 9.0]}}}]\n"
    mixture = open_wide(folder, "wide", rest=rest)
    assert sum(group.n_steps for group in mixture.groups) == 24
    spec = write_spec(folder, f"datasets: [{{path: narrow/1.0.0}}]\n{rest}")
    with pytest.raises(SpecError, match="expected a slot from 0 to 17"):
        open_mixture(spec, cache=folder / "cache")


def test_segment_tables_of_stored_vectors_fit_in_every_layout(folder: Path) -> None:
    dataset = Dataset.open(folder / "narrow/1.0.0")
    row = read_sidecar(dataset.sidecars("train")[0]).to_pylist()[0]
    vectors = (np.array(row[name], np.float32).reshape(-1, 18) for name in ("state", "action"))
    annotation = Annotation(
        episode_id=row["episode_id"],
        episode_hash=episode_hash(*vectors),
        segment=Segment(start=0, end=12, text="fold all of it", source="human"),
        annotator="anna",
        created="2026-01-01T00:00:00Z",
        tool_version="1",
    )
    write_segments(folder / "human.parquet", [annotation])
    spec = write_spec(
        folder, "layout: pi32/v1\ndatasets: [{path: narrow/1.0.0, segments: [human.parquet]}]\n", "segments.yaml"
    )
    (table,) = open_mixture(spec, cache=folder / "cache").tables
    assert "fold all of it" in table.segment_texts.to_pylist()


def test_a_lock_names_the_layout(folder: Path) -> None:
    mixture = open_wide(folder, "narrow")
    lock = mixture.lock()
    assert lock["layout"] == "pi32/v1"
    mixture.check_lock(lock)
    spec = write_spec(folder, "datasets: [{path: narrow/1.0.0}]\n", "narrow.yaml")
    before = open_mixture(spec, cache=folder / "cache")
    with pytest.raises(FailedWork, match="layout: 'pi32/v1' became 'pi18/v1'"):
        before.check_lock(lock)
    # Locks that were written before there were layouts are of the one that there was.
    before.check_lock({key: value for key, value in before.lock().items() if key != "layout"})


def test_statistics_of_another_layout_are_refused(folder: Path) -> None:
    open_wide(folder, "narrow").save_statistics(folder / "run.json")
    spec = write_spec(folder, "datasets: [{path: narrow/1.0.0}]\n")
    with pytest.raises(UsageError, match="run.json: expected statistics of the 18 slots of pi18/v1.*found 32"):
        open_mixture(spec, cache=folder / "cache", statistics=folder / "run.json")


def test_shards_say_their_layout(folder: Path) -> None:
    """In every episode, in the width of the masks, and in the norm keys; a shard holds one."""
    layouts: dict[str, Sequence[str]] = {}
    for name in ("narrow", "wide"):
        dataset = Dataset.open(folder / name / "1.0.0")
        table = read_sidecar(dataset.sidecars("train")[0])
        assert dataset.layout == table["layout"][0].as_py()
        assert table.schema.field("state_mask").type.list_size == {"narrow": 18, "wide": 32}[name]
        layouts[name] = table["layout"].unique().to_pylist()
    assert layouts == {"narrow": ["pi18/v1"], "wide": ["pi32/v1"]}
    with pytest.raises(FailedWork, match="expected episodes of one layout, found pi18/v1, pi32/v1"):
        write_dataset(folder, "both", [make_episode(0), wide_episode(1)], n_shards=1)


def test_a_compiled_table_keeps_the_words_of_motion(folder: Path) -> None:
    """By them copies of an episode are found, which may lie in datasets of mixtures of either layout."""
    spec = write_spec(folder, "datasets: [{path: narrow/1.0.0}]\n", "narrow.yaml")
    (narrow,) = open_mixture(spec, cache=folder / "cache").tables
    (wide,) = open_wide(folder, "narrow").tables
    assert narrow.motion.tolist() == wide.motion.tolist()
    assert narrow.fingerprint == wide.fingerprint
    assert json.loads(wide.vocabularies["parts"][0]) == json.loads(narrow.vocabularies["parts"][0])


def test_two_robots_of_one_name_are_refused(folder: Path) -> None:
    other = [replace(lone_episode(n), robot="arx") for n in range(4)]
    write_dataset(folder, "other", other)
    spec = write_spec(folder, "datasets: [{path: narrow/1.0.0}, {path: other/1.0.0}]\n", "both.yaml")
    message = r"arx/joint_position/pi18/v1: expected one robot of that name, found arm0 in slots \[0, 1, 2, 3, 4, 5\]"
    with pytest.raises(UsageError, match=message):
        open_mixture(spec, cache=folder / "cache")
