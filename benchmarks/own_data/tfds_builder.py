"""A set of one's own by a TFDS builder, in the form of the field's template for RLDS sets; a script as users run one.

python benchmarks/own_data/tfds_builder.py TRUTH.npz FOLDER
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

_CAMERAS = {"image": "base_0_rgb", "wrist_image": "left_wrist_0_rgb"}


class DeskSet(tfds.core.GeneratorBasedBuilder):
    """Poses of a gripper and their changes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(64, 64, 3), dtype=np.uint8, encoding_format="png")
        flags = {key: tfds.features.Scalar(dtype=np.bool_) for key in ("is_first", "is_last", "is_terminal")}
        numbers = {key: tfds.features.Scalar(dtype=np.float32) for key in ("discount", "reward")}
        step = {
            "observation": {
                "state": tfds.features.Tensor(shape=(7,), dtype=np.float32, doc="Robot state: xyz, rpy, gripper."),
                **dict.fromkeys(_CAMERAS, image),
            },
            "action": tfds.features.Tensor(shape=(7,), dtype=np.float32, doc="Robot action."),
            "language_instruction": tfds.features.Text(),
            **flags,
            **numbers,
        }
        meta = {"file_path": tfds.features.Text()}
        features = tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step), "episode_metadata": meta})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        truth = np.load(sys.argv[1])
        for number, task in enumerate(truth["tasks"]):
            steps = list(_steps(truth, number, str(task)))
            yield f"demo_{number}", {"steps": steps, "episode_metadata": {"file_path": f"/logs/demo_{number}.pkl"}}


def _steps(truth: Any, number: int, task: str) -> Iterator[dict[str, Any]]:
    state, action = (_own(truth[f"{side}/{number}"]) for side in ("state", "action"))
    films = {key: truth[f"{camera}/{number}"] for key, camera in _CAMERAS.items()}
    for i in range(len(state)):
        yield {
            "observation": {"state": state[i], **{key: film[i] for key, film in films.items()}},
            "action": action[i],
            "language_instruction": task,
            "is_first": i == 0,
            "is_last": i == len(state) - 1,
            "is_terminal": i == len(state) - 1,
            "discount": 1.0,
            "reward": float(i == len(state) - 1),
        }


def _own(rows: Any) -> Any:
    """Six numbers of the arm and a gripper that is 1 when open."""
    return np.concatenate([rows[:, :6], 1 - rows[:, 6:7]], axis=1).astype(np.float32)


if __name__ == "__main__":
    DeskSet(data_dir=sys.argv[2]).download_and_prepare()
