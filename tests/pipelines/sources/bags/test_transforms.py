"""Pairs of frames of tf: what they are read as is what the same poses are as a topic of their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from pipelines.contract.native import Rejected
from pipelines.mapping.adapters import Adapter
from pipelines.sources import bag
from pipelines.sources.bags.logs.inputs import bag_at, open_bag
from pipelines.sources.bags.transforms import chains_of, with_transforms
from tests.pipelines.sources.test_bag import entry
from tests.support.inputs.bag_writers import MS, WRITERS, Published, rgb, write_mcap

QUATERNION = {"x": 0.0, "y": 0.6, "z": 0.0, "w": 0.8}


def pose(t: float) -> tuple[dict[str, float], dict[str, float]]:
    return {"x": t, "y": 2 * t, "z": 0.5}, QUATERNION


def transform(t_ms: int, parent: str, child: str, offset: float = 0.0) -> dict[str, Any]:
    position, turn = pose(t_ms / 1000 + offset)
    return {
        "frame_id": parent,
        "stamp_ns": t_ms * MS,
        "child_frame_id": child,
        "transform": {"translation": position, "rotation": turn},
    }


def messages() -> Iterator[Published]:
    """Two seconds: the tool in tf among other frames, and as a pose; a goal as a pose; a camera."""
    for t in range(5, 2005, 20):
        frames = [transform(t, "base", "camera", 9.0), transform(t, "/base", "tool0"), transform(t, "map", "base", 3.0)]
        yield Published(
            topic="/tf", type="tf2_msgs/msg/TFMessage", logged_ns=(t + 3) * MS, fields={"transforms": frames}
        )
        yield stamped("/tool", t, 0.0)
    for t in range(10, 2000, 50):
        yield stamped("/goal", t, 0.1)
    for t in range(0, 2000, 100):
        yield rgb("/camera/image_raw", t * MS, np.full((8, 8, 3), t // 20, np.uint8))


def stamped(topic: str, t_ms: int, offset: float) -> Published:
    position, turn = pose(t_ms / 1000 + offset)
    fields = {"pose": {"position": position, "orientation": turn}}
    type = "geometry_msgs/msg/PoseStamped"
    return Published(topic=topic, type=type, logged_ns=(t_ms + 3) * MS, stamp_ns=t_ms * MS, fields=fields)


def poses_of(key: str) -> Adapter:
    arm = {"form": "xyz_quat_xyzw"}
    return entry(
        control_mode="ee_absolute",
        state={"arm0": {"from": key, **arm}},
        action={"arm0": {"from": "/goal", **arm}},
        bag={"stamp": "header"},
    )


@pytest.mark.parametrize("writer", WRITERS)
def test_a_pair_of_frames_is_read_as_its_poses_are_as_a_topic(tmp_path: Path, writer: str) -> None:
    path = WRITERS[writer](tmp_path, messages())
    found = {}
    for key in ("/tf:base>tool0", "/tool"):
        adapter = poses_of(key)
        (located,) = bag.find(str(path), adapter).episodes
        found[key] = bag.read(located, adapter).arrays[key]
    assert len(found["/tool"]) > 30 and np.ptp(found["/tool"][:, 0]) > 1
    np.testing.assert_array_equal(found["/tf:base>tool0"], found["/tool"])


def test_a_pair_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    path, adapter = write_mcap(tmp_path / "a.mcap", messages()), poses_of("/tf:base>hand")
    (located,) = bag.find(str(path), adapter).episodes
    with pytest.raises(Rejected, match="expected transforms base>hand, found base>camera, base>tool0, map>base"):
        bag.read(located, adapter)


def test_a_topic_that_is_none_of_tf_is_refused(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", messages())
    with pytest.raises(Rejected, match="expected a topic of tf2_msgs/TFMessage, found geometry_msgs/msg/PoseStamped"):
        with_transforms(open_bag(bag_at(path, False)), ["/tool:base>tool0"])


def test_steps_may_follow_a_pair_and_pauses_of_it_part_episodes(tmp_path: Path) -> None:
    kept = [m for m in messages() if not 800 < m.logged_ns / MS < 1500]
    path = write_mcap(tmp_path / "a.mcap", kept)
    arm = {"from": "/tf:base>tool0", "form": "xyz_quat_xyzw"}
    cut = {"stamp": "header", "episodes": {"by": "gaps", "gap_s": 0.4}}
    adapter = entry(control_mode="ee_absolute", control_hz=50, state={"arm0": arm}, action={"arm0": arm}, bag=cut)
    first, second = bag.find(str(path), adapter).episodes
    assert 30 < bag.read(first, adapter).n_steps <= 40 and 15 < bag.read(second, adapter).n_steps <= 26


# A chain of four transforms: two that move, at 40 and 25 Hz, one that rests, and a camera mount on another branch.
MOVING = {("base", "lift"): 25, ("lift", "wrist"): 40}
RESTING = {("wrist", "tool0"): ([0.0, 0.02, 0.11], [10.0, 20.0, 30.0]), ("lift", "eye"): ([0.1, 0, 0.3], [0, 45, 0])}


def pose_at(pair: tuple[str, str], t_s: float) -> tuple[np.ndarray[Any, Any], Rotation]:
    """Where the child of a moving pair is at a time: a line, and a turn about a slanted axis."""
    if pair == ("base", "lift"):
        return np.array([0.1, -0.2, 0.5 + 0.3 * t_s]), Rotation.from_rotvec(0.8 * t_s * np.array([0.0, 0.6, 0.8]))
    return np.array([0.4 - 0.1 * t_s, 0.05 * t_s, 0.2]), Rotation.from_rotvec([1.1, 0.5 * t_s, -0.7])


def written(pair: tuple[str, str], t_ms: int, position: Any, turn: Rotation) -> dict[str, Any]:
    return {
        "frame_id": pair[0],
        "stamp_ns": t_ms * MS,
        "child_frame_id": pair[1],
        "transform": {
            "translation": dict(zip("xyz", map(float, position), strict=True)),
            "rotation": dict(zip("xyzw", turn.as_quat().tolist(), strict=True)),
        },
    }


def tf(topic: str, t_ms: int, *transforms: dict[str, Any]) -> Published:
    type, fields = "tf2_msgs/msg/TFMessage", {"transforms": list(transforms)}
    return Published(topic=topic, type=type, logged_ns=(t_ms + 3) * MS, fields=fields)


def chain_messages(static_ms: int = 400) -> list[Published]:
    """Two seconds of goals and pictures; the static transforms are published once, late, as by a latched topic."""
    kept = [message for message in messages() if message.topic not in ("/tf", "/tool")]
    for pair, hz in MOVING.items():
        kept += [tf("/tf", t, written(pair, t, *pose_at(pair, t / 1000))) for t in range(0, 2200, 1000 // hz)]
    static = [written(pair, static_ms, p, Rotation.from_euler("xyz", r, True)) for pair, (p, r) in RESTING.items()]
    return sorted([*kept, tf("/tf_static", static_ms, *static)], key=lambda message: message.logged_ns)


def looked_up(path: list[tuple[str, str]], t_s: float) -> tuple[np.ndarray[Any, Any], Rotation]:
    """What tf2's lookupTransform documents, by SciPy: each transform at the time itself, then multiplied."""
    position, turn = np.zeros(3), Rotation.identity()
    for pair in path:
        if pair in RESTING:
            p, r = np.array(RESTING[pair][0]), Rotation.from_euler("xyz", RESTING[pair][1], True)
        else:
            step = 1 / MOVING[pair]
            before = int(t_s / step + 1e-9) * step
            (p0, r0), (p1, r1) = pose_at(pair, before), pose_at(pair, before + step)
            part = (t_s - before) / step
            p, r = p0 + part * (p1 - p0), Slerp([0, 1], Rotation.concatenate([r0, r1]))(part)
        position, turn = position + turn.apply(p), turn * r
    return position, turn


@pytest.mark.parametrize("writer", WRITERS)
def test_a_chain_over_moving_and_static_transforms_is_what_tf2_looks_up(tmp_path: Path, writer: str) -> None:
    path, adapter = WRITERS[writer](tmp_path, chain_messages()), poses_of("/tf:base>tool0")
    (located,) = bag.find(str(path), adapter).episodes
    native = bag.read(located, adapter)
    found = native.arrays["/tf:base>tool0"]
    assert not any("|" in key for key in native.arrays) and len(found) > 30
    # The first goal is at 10 ms, long before the static transforms were heard: they hold at all times.
    assert not native.dropped
    for row, t_s in zip(found, 0.01 + native.timestamp_s, strict=True):
        position, turn = looked_up([("base", "lift"), ("lift", "wrist"), ("wrist", "tool0")], t_s)
        np.testing.assert_allclose(row[:3], position, atol=2e-6)
        assert (Rotation.from_quat(row[3:]).inv() * turn).magnitude() < 2e-6
        assert np.linalg.norm(row[3:]) == pytest.approx(1)


def test_frames_on_two_branches_are_joined_over_the_frame_that_both_are_below(tmp_path: Path) -> None:
    path, adapter = write_mcap(tmp_path / "a.mcap", chain_messages()), poses_of("/tf:eye>tool0")
    (located,) = bag.find(str(path), adapter).episodes
    native = bag.read(located, adapter)
    eye, eye_turn = looked_up([("lift", "eye")], 0.0)
    for row, t_s in zip(native.arrays["/tf:eye>tool0"], 0.01 + native.timestamp_s, strict=True):
        position, turn = looked_up([("lift", "wrist"), ("wrist", "tool0")], t_s)
        np.testing.assert_allclose(row[:3], eye_turn.inv().apply(position - eye), atol=2e-6)
        assert (Rotation.from_quat(row[3:]).inv() * eye_turn.inv() * turn).magnitude() < 2e-6


def test_a_static_transform_that_is_set_anew_holds_from_then_on(tmp_path: Path) -> None:
    """tf2 keeps the last that it heard; between the two nothing passes through values that never were."""
    moved = tf("/tf_static", 1000, written(("wrist", "tool0"), 1000, [0.0, 0.0, 0.5], Rotation.identity()))
    path, adapter = write_mcap(tmp_path / "a.mcap", [*chain_messages(), moved]), poses_of("/tf_static:wrist>tool0")
    (located,) = bag.find(str(path), adapter).episodes
    native = bag.read(located, adapter)
    (found,) = (values for key, values in native.arrays.items() if key.startswith("/tf_static"))
    late = 0.01 + native.timestamp_s >= 1.0
    np.testing.assert_allclose(found[~late, :3], [RESTING["wrist", "tool0"][0]] * (~late).sum())
    np.testing.assert_allclose(found[late, :3], [[0.0, 0.0, 0.5]] * late.sum())


def test_an_episode_within_a_bag_has_the_static_transforms_from_before_it(tmp_path: Path) -> None:
    kept = [m for m in chain_messages(20) if m.topic != "/goal" or not 800 < m.logged_ns / MS < 1500]
    cut = {"stamp": "header", "episodes": {"by": "gaps", "gap_s": 0.4, "topic": "/goal"}}
    arm = {"form": "xyz_quat_xyzw"}
    adapter = entry(
        control_mode="ee_absolute",
        state={"arm0": {"from": "/tf:base>tool0", **arm}},
        action={"arm0": {"from": "/goal", **arm}},
        bag=cut,
    )
    _, second = bag.find(str(write_mcap(tmp_path / "a.mcap", kept)), adapter).episodes
    native = bag.read(second, adapter)
    position, _ = looked_up([("base", "lift"), ("lift", "wrist"), ("wrist", "tool0")], 1.51)
    np.testing.assert_allclose(native.arrays["/tf:base>tool0"][0, :3], position, atol=2e-6)


def read_chain(tmp_path: Path, key: str, *more: Published) -> None:
    path, adapter = write_mcap(tmp_path / "a.mcap", [*chain_messages(), *more]), poses_of(key)
    (located,) = bag.find(str(path), adapter).episodes
    bag.read(located, adapter)


def test_frames_that_nothing_joins_are_refused_with_where_each_hangs(tmp_path: Path) -> None:
    odd = tf("/tf", 30, written(("map", "marker"), 30, [0, 0, 0], Rotation.identity()))
    with pytest.raises(Rejected, match="join base and marker; found base below base and marker below map"):
        read_chain(tmp_path, "/tf:base>marker", odd)


def test_a_loop_of_frames_is_refused_by_its_frames(tmp_path: Path) -> None:
    loop = [tf("/tf", 1, written(pair, 1, [0, 0, 0], Rotation.identity())) for pair in (("a", "b"), ("b", "a"))]
    with pytest.raises(Rejected, match="found the loop (a>b>a|b>a>b)"):
        read_chain(tmp_path, "/tf:a>tool0", *loop)


def test_a_frame_of_a_chain_with_two_parents_is_refused(tmp_path: Path) -> None:
    second = tf("/tf", 1500, written(("map", "wrist"), 1500, [0, 0, 0], Rotation.identity()))
    with pytest.raises(Rejected, match="expected one parent of each frame, found wrist in lift and map"):
        read_chain(tmp_path, "/tf:base>tool0", second)


def test_a_chain_that_ends_leaves_no_step_behind_its_end(tmp_path: Path) -> None:
    """A link that is silent for longer than a gap rejects the episode, as any state."""
    kept = [m for m in chain_messages() if m.topic != "/tf" or not 600 < m.logged_ns / MS < 1400]
    path, adapter = write_mcap(tmp_path / "a.mcap", kept), poses_of("/tf:base>tool0")
    (located,) = bag.find(str(path), adapter).episodes
    with pytest.raises(Rejected, match="expected states"):
        bag.read(located, adapter)


def test_a_chain_gives_no_clock(tmp_path: Path) -> None:
    arm = {"from": "/tf:base>tool0", "form": "xyz_quat_xyzw"}
    adapter = entry(control_mode="ee_absolute", state={"arm0": arm}, action={"arm0": arm}, bag={"stamp": "header"})
    path = write_mcap(tmp_path / "a.mcap", chain_messages())
    (located,) = bag.find(str(path), adapter).episodes
    with pytest.raises(Rejected, match="expected a `clock` of `bag`"):
        bag.read(located, adapter)


def test_a_pair_that_is_published_is_no_chain(tmp_path: Path) -> None:
    log = open_bag(bag_at(write_mcap(tmp_path / "a.mcap", messages()), False))
    assert not chains_of(with_transforms(log, ["/tf:base>tool0"]))
