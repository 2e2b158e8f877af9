"""How well proposals find known boundaries, beside a public change-point library; lengths on the sample datasets.

python tests/annotation_scores.py ../shared
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import ruptures
import zarr
from scipy.spatial.transform import Rotation

from annotation_tools.agreement.agree import match_boundaries
from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import Episode, Reference
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.segments.motion import smooth
from pipelines.segments.propose import propose_segments
from pipelines.sources import bridge, droid, rlds
from pipelines.sources import zarr as inhouse
from tests.support.inputs.annotation_episodes import ONE_ARM, TWO_ARMS, random_episode

TOLERANCE_S = 0.25
RATES_HZ = (5, 10, 20, 50)
MODES = ("ee_absolute", "ee_delta", "joint_position")
Find = Callable[[Episode, int], list[float]]


def find_with_proposals(episode: Episode, _: int) -> list[float]:
    """The boundaries that are proposed, in s; their number is not told."""
    return [segment.start / episode.control_hz for segment in propose_segments(episode)[1:]]


def find_with_ruptures(episode: Episode, n_boundaries: int) -> list[float]:
    """The boundaries of the library's kernel search over velocities, in s; it is told how many there are.

    Of its kernels and of positions, velocities and speeds this did best, and better than with any penalty.
    """
    hz = episode.control_hz
    columns = [slot for slots in episode.parts.values() for slot in slots]
    signal = np.gradient(smooth(episode.state[:, columns].astype(float), round(0.3 * hz)), axis=0)
    search = ruptures.KernelCPD(kernel="linear", min_size=max(2, round(0.4 * hz)))
    steps = search.fit(signal / (signal.std(axis=0) + 1e-9)).predict(n_bkps=n_boundaries)
    return [step / hz for step in steps[:-1]]


def boundary_f1(find: Find, control_hz: float, control_mode: str, two_arms: bool, n_episodes: int) -> float:
    """F1 of the boundaries found within `TOLERANCE_S` of the true ones, over generated episodes."""
    hits = total = 0
    for seed in range(n_episodes):
        episode, truth = random_episode(seed, control_hz, two_arms=two_arms, control_mode=control_mode)
        found = find(episode, len(truth))
        hits += len(match_boundaries(truth, found, TOLERANCE_S))
        total += len(truth) + len(found)
    return 2 * hits / total


def sample_episodes(shared: Path) -> dict[str, list[Episode]]:
    """Every sample dataset that fits the 18 slots, as episodes without pictures."""
    data = shared / "data"
    found = {
        "bridge_rlds": _read(rlds, "bridge_orig", data / "real/bridge_rlds"),
        "bridge_raw": _read(bridge, "bridge_raw", data / "sim/bridge_raw", "ur5e"),
        "droid_raw": _read(droid, "droid_raw", data / "sim/droid_raw"),
        "aloha_hdf5": list(_aloha(data / "sim/aloha_hdf5")),
        "dp_zarr": list(_diffusion_policy(data / "sim/dp_zarr")),
    }
    for episode in _read(inhouse, "inhouse_log", data / "sim/inhouse_zarr"):
        found.setdefault(f"inhouse_zarr {episode.robot}", []).append(episode)
    return found


def _read(reader: object, name: str, path: Path, robot: str = "") -> list[Episode]:
    adapter = get_adapter(name)
    episodes = []
    for located in reader.find(str(path), adapter).episodes:  # type: ignore[attr-defined]
        native = reader.read(located, adapter)  # type: ignore[attr-defined]
        embodiment = get_embodiment(robot or native.robot or adapter.robot)
        episodes.append(to_episode(native, adapter, embodiment, ()))
    return episodes


def _aloha(folder: Path) -> Iterator[Episode]:
    for path in sorted(folder.glob("*.hdf5")):
        with h5py.File(path) as file:
            vectors = [file[name][:].astype(float) for name in ("observations/qpos", "action")]
        for vector in vectors:
            vector[:, [6, 13]] = 1 - vector[:, [6, 13]]
        yield _episode(path.name, 50.0, "joint_position", vectors[0], vectors[1], TWO_ARMS)


def _diffusion_policy(folder: Path) -> Iterator[Episode]:
    for path in sorted(folder.glob("*.zarr")):
        group = zarr.open_group(path, mode="r")
        vectors = [np.array(group[name][:], float) for name in ("data/state", "data/action")]
        for vector in vectors:
            vector[:, 3:6] = Rotation.from_rotvec(vector[:, 3:6]).as_euler("xyz")
        ends = group["meta/episode_ends"][:].tolist()
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            yield _episode(f"{start}", 10.0, "ee_absolute", vectors[0][start:end], vectors[1][start:end], ONE_ARM)


def _episode(
    key: str, control_hz: float, mode: str, state: np.ndarray, action: np.ndarray, parts: dict[str, tuple[int, ...]]
) -> Episode:
    t, mask = len(state), np.zeros(18, bool)
    mask[[slot for slots in parts.values() for slot in slots]] = True
    slotted = np.zeros((2, t, 18), np.float32)
    slotted[0][:, mask], slotted[1][:, mask] = state, action
    return Episode(
        reference=Reference(uri="sample", key=key),
        robot="sample",
        control_mode=mode,
        control_hz=control_hz,
        state=slotted[0],
        action=slotted[1],
        timestamp_s=np.arange(t) / control_hz,
        state_mask=mask,
        action_mask=mask,
        parts=parts,
        images={},
        dataset_cameras=(),
        task="",
        language=(),
        success=-1,
        is_terminal=True,
        reward=np.zeros(t, np.float32),
        discount=np.ones(t, np.float32),
        is_idle=np.zeros(t, bool),
    )


def print_tables(shared: Path) -> None:
    """Prints both tables as Markdown."""
    print("| Hz | control mode | arms | proposals | ruptures, told the number |\n|---|---|---|---|---|")
    for hz in RATES_HZ:
        for mode in MODES:
            for two_arms in (False, True):
                scores = [boundary_f1(f, hz, mode, two_arms, 30) for f in (find_with_proposals, find_with_ruptures)]
                print(f"| {hz} | {mode} | {1 + two_arms} | {scores[0]:.3f} | {scores[1]:.3f} |")
    print("\n| dataset | episodes | Hz | segments | median s | shortest s | longest s | idle |")
    print("|---|---|---|---|---|---|---|---|")
    for name, episodes in sample_episodes(shared).items():
        segments = [(s, e.control_hz) for e in episodes for s in propose_segments(e)]
        lengths = np.array([(s.end - s.start) / hz for s, hz in segments])
        idle = sum(s.kind == "idle" for s, _ in segments)
        print(
            f"| {name} | {len(episodes)} | {episodes[0].control_hz:g} | {len(segments)} | {np.median(lengths):.2f} | "
            f"{lengths.min():.2f} | {lengths.max():.2f} | {idle} |"
        )


if __name__ == "__main__":
    print_tables(Path(sys.argv[1]))
