"""openpi's loader of DROID as another program, with its own code unchanged.

    python foreign_openpi_droid.py CHECKOUTS DATA_ROOT NAME VERSION SPACE FILTER.json|- OUT.pickle

CHECKOUTS: a folder with openpi and dlimp. SPACE: JOINT_POSITION or JOINT_VELOCITY. Its loader repeats without end: this
takes frames until every step that the filter leaves was seen with both exterior cameras.
"""

import importlib.util
import pickle
import sys
import types
from pathlib import Path

MOST_FRAMES = 20_000


def main() -> None:
    checkouts, root, name, version, space, filter_path, out = sys.argv[1:8]
    sys.path.insert(0, f"{checkouts}/dlimp")
    droid = load_module(Path(checkouts) / "openpi/src/openpi/training/droid_rlds_dataset.py")
    dataset = droid.DroidRldsDataset(
        data_dir=root,
        batch_size=16,
        datasets=[droid.RLDSDataset(name, version, 1.0, None if filter_path == "-" else filter_path)],
        shuffle=False,
        action_chunk_size=4,
        action_space=droid.DroidActionSpace[space],
        # Every buffer holds whole frames; the sample has few.
        shuffle_buffer_size=1,
    )
    Path(out).write_bytes(pickle.dumps(take_frames(dataset)))


def take_frames(dataset) -> dict:
    """The frames by step and exterior picture, and every prompt of each step."""
    frames: dict = {}
    prompts: dict = {}
    since_new = 0
    for number, batch in enumerate(dataset):
        for i, step_id in enumerate(batch["step_id"]):
            frame = {name: value[i] for name, value in batch.items() if name != "observation"}
            frame["observation"] = {name: value[i] for name, value in batch["observation"].items()}
            key = step_id.decode(), hash(frame["observation"]["image"].tobytes())
            since_new = 0 if key not in frames else since_new + 1
            prompts.setdefault(key[0], set()).add(frame["prompt"].decode())
            frames.setdefault(key, frame)
        if since_new > 3000 or number > MOST_FRAMES:
            break
    return {"frames": frames, "prompts": prompts}


def load_module(path: Path):
    """Loads one file of openpi; the module that downloads its lists of steps is replaced by one for local files."""
    for package in ("openpi", "openpi.shared", "openpi.shared.download"):
        sys.modules[package] = types.ModuleType(package)
    sys.modules["openpi"].shared = sys.modules["openpi.shared"]
    sys.modules["openpi.shared"].download = sys.modules["openpi.shared.download"]
    sys.modules["openpi.shared.download"].maybe_download = lambda name: name
    spec = importlib.util.spec_from_file_location("droid_rlds_dataset", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["droid_rlds_dataset"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
