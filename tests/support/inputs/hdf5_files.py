"""Small HDF5 files in ALOHA's and robomimic's layouts, as the tools of those projects write them."""

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

T = 4


def write_aloha(path: Path, **changes: Any) -> Path:
    """Writes an episode of four steps; changes: arrays by key, of which None removes one."""
    arrays: dict[str, Any] = {
        "observations/qpos": np.tile(np.arange(14) / 100, (T, 1)),
        "action": np.tile(np.arange(14) / 10, (T, 1)),
        "observations/images/cam_high": np.arange(T, dtype=np.uint8).repeat(8 * 8 * 3).reshape(T, 8, 8, 3),
    } | changes
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            if value is not None:
                file[key] = value
    return path


def write_robomimic(path: Path) -> Path:
    """Writes two demonstrations of four steps, the second of which ends with a reward of 1."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 10}})
        for name in ("demo_0", "demo_1"):
            demo = data.create_group(name)
            demo["actions"] = np.tile([1.0, 0, 0, 0, 0, 0.2, -1.0], (T, 1))
            demo["rewards"] = np.array([0.0, 0, 0, name == "demo_1"])
            demo["obs/robot0_eef_pos"] = np.full((T, 3), 0.1)
            demo["obs/robot0_eef_quat"] = np.tile([0, 0, np.sin(0.1), np.cos(0.1)], (T, 1))
            demo["obs/robot0_gripper_qpos"] = np.tile([0.03, -0.03], (T, 1))
            demo["obs/agentview_image"] = np.zeros((T, 8, 8, 3), np.uint8)
        file["mask/train"], file["mask/valid"] = np.array([b"demo_0"]), np.array([b"demo_1"])
    return path


def write_libero(path: Path, instruction: str = "open the drawer") -> Path:
    """Writes one demonstration as LIBERO's create_dataset.py does: a red stripe at the top, stored at the bottom."""
    upright = np.full((16, 16, 3), 60, np.uint8)
    upright[:4], upright[:, :2] = [220, 30, 30], [30, 30, 220]
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"type": 1, "env_name": "Kitchen", "env_kwargs": {"control_freq": 20}})
        data.attrs["problem_info"] = json.dumps({"language_instruction": f'"{instruction}"'})
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["num_demos"], data.attrs["total"] = 1, T
        demo = data.create_group("demo_0")
        demo.attrs["num_samples"] = T
        demo["actions"] = np.tile([0.4, 0, -1.0, 0, 0, 0.2, -1.0], (T, 1))
        demo["rewards"] = demo["dones"] = np.array([0, 0, 0, 1], np.uint8)
        demo["obs/ee_pos"] = np.tile([0.1, 0.2, 0.3], (T, 1))
        demo["obs/ee_ori"] = np.tile([0, 0, 0.5], (T, 1))
        demo["obs/ee_states"] = np.tile([0.1, 0.2, 0.3, 0, 0, 0.5], (T, 1))
        demo["obs/gripper_states"] = np.tile([0.03, -0.03], (T, 1))
        demo["obs/joint_states"] = np.zeros((T, 7))
        demo["obs/agentview_rgb"] = demo["obs/eye_in_hand_rgb"] = np.tile(upright[::-1], (T, 1, 1, 1))
    return path


def jpeg(pixels: np.ndarray, quality: int = 95) -> bytes:
    """A picture as JPEG by Pillow."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def padded(pictures: list[bytes], width: int) -> np.ndarray:
    """Encoded pictures as rows of one width, padded with zeros, as record_episodes of ALOHA pads them."""
    rows = np.zeros((len(pictures), width), np.uint8)
    for row, picture in zip(rows, pictures, strict=True):
        row[: len(picture)] = np.frombuffer(picture, np.uint8)
    return rows
