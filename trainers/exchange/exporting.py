"""A run as a folder that other programs load: weights in their layout, what normalizes them, and their config.

openpi and LeRobot draw noise in every dim of a model, while a policy that was trained on the masked loss saw none in
the slots that its robot lacks. So the folder of one robot holds that robot's dims alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.config import Pi0Config, config_from_params
from model.params import unflatten
from model.published.export import export_params, merge_lora, read_trained
from model.published.files import Arrays, Layout
from model.published.weights import SLOT_AXES
from pipelines.contract.errors import UsageError
from trainers.config import RunConfig
from trainers.exchange.dims import STATE_ARRAYS, RobotDims, robot_dims
from trainers.exchange.lerobot import check_lerobot_sizes, write_lerobot
from trainers.robots import find_robot, read_robots
from trainers.run import RunDirectory

SCHEMA = "embodimix.exported/v1"
# What openpi adds to a range and to a deviation (transforms.py), so that ours is reproduced to the bit of a float32.
OPENPI_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The options of one export.

    robot: a norm key or its beginning, whose dims alone are kept; None: all slots. any_size: for LeRobot also the sizes
    that it does not build.
    """

    source: Path
    output: Path
    layout: Layout
    step: int | None = None
    robot: str | None = None
    merge_lora: bool = False
    any_size: bool = False


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: the path to hand to the other program, arrays, values, the step, and files beside."""

    target: Path
    arrays: int
    values: int
    step: int | None
    beside: tuple[str, ...]


def export(request: ExportRequest) -> Exported:
    """Writes the folder. UsageError for options that do not fit; FileExistsError if it is there already."""
    step, flat = read_trained(request.source, request.step)
    run = RunDirectory(request.source)
    config = run.read_config() if run.exists() else None
    if request.merge_lora:
        flat = merge_lora(flat)
    dims = None if config is None else _dims_of(run, config, request)
    if request.layout == "lerobot" and dims is None:
        raise UsageError(f"export: layout lerobot needs a run, which says what its robots are; found {request.source}")
    if config is not None and not isinstance(config.policy, Pi0Config):
        raise UsageError(f"export: expected a pi0 policy; {request.source} is {config.model}, which no layout holds")
    if dims is not None and config is not None and request.layout != "hf-paligemma":
        flat = own_dims(flat, dims, keeps_rest=config.loss == "openpi", square=request.layout != "lerobot")
    policy = config_from_params({name: array.shape for name, array in flat.items()}, **_unsaid(config))
    if request.layout == "lerobot" and not request.any_size:
        check_lerobot_sizes(policy)
    target = export_params(policy, unflatten(flat), request.output, request.layout)
    beside = [] if config is None else _write_beside(run, config, policy, dims, request)
    return Exported(
        target=target,
        arrays=len(flat),
        values=sum(array.size for array in flat.values()),
        step=step,
        beside=tuple(beside),
    )


def own_dims(flat: Mapping[str, np.ndarray], dims: RobotDims, *, keeps_rest: bool, square: bool) -> Arrays:
    """Parameters whose k-th dim of state and action is the robot's k-th.

    keeps_rest: the other slots follow; otherwise they are left out, which equals giving them no noise. square: state
    and action get one width, the narrower one by rows of zeros, as openpi and transformers have it.
    """
    n_slots = flat["action_in_proj/kernel"].shape[0]
    chosen = {"state": dims.state_slots, "action": dims.action_slots}
    if keeps_rest:
        chosen = {side: (*own, *(s for s in range(n_slots) if s not in own)) for side, own in chosen.items()}
    width = max(map(len, chosen.values())) if square else None
    out = dict(flat)
    for name, axis in SLOT_AXES.items():
        if name in flat:
            slots = chosen["state" if name in STATE_ARRAYS else "action"]
            picked = np.take(flat[name], slots, axis=axis)
            missing = 0 if width is None else width - len(slots)
            padding = [(0, missing if a == axis else 0) for a in range(picked.ndim)]
            out[name] = np.pad(picked, padding)
    return out


def _dims_of(run: RunDirectory, config: RunConfig, request: ExportRequest) -> RobotDims | None:
    """The robot whose dims are kept; a layout that has room for one robot needs one."""
    if request.robot is None and request.layout != "lerobot":
        return None
    if request.layout not in ("lerobot", "openpi", "hf-pi0"):
        raise UsageError(f"export --robot: layout {request.layout} holds no robot's dims; leave --robot out")
    robot = find_robot(read_robots(run.robots_path), request.robot)
    return robot_dims(run, robot)


def _unsaid(config: RunConfig | None) -> dict[str, Any]:
    """What parameter shapes do not say."""
    if config is None:
        return {}
    return {"horizon": config.policy.horizon, "max_tokens": config.policy.max_tokens}


def _write_beside(
    run: RunDirectory, config: RunConfig, policy: Pi0Config, dims: RobotDims | None, request: ExportRequest
) -> list[str]:
    written = []
    action = run.read_lock()["action"]
    if request.layout == "lerobot":
        assert dims is not None
        written += write_lerobot(request.output, config, policy, dims, action)
    if request.layout == "openpi":
        robots = read_robots(run.robots_path)
        chosen = [dims] if dims is not None else [robot_dims(run, robot) for robot in robots.values()]
        for one in chosen:
            name = one.robot.norm_key.replace("/", "_").replace("@", "_")
            path = request.output / "assets" / name / "norm_stats.json"
            path.parent.mkdir(parents=True)
            width = None if dims is not None else one.robot.n_slots
            path.write_text(json.dumps(openpi_norm_stats(one, width), indent=2) + "\n")
            written.append(str(path.relative_to(request.output)))
    if request.layout in ("big_vision", "hf-paligemma"):
        return written
    about = {
        "schema": SCHEMA,
        "layout": next(iter(read_robots(run.robots_path).values())).layout,
        "robot": None if dims is None else dims.robot.norm_key,
        "state_slots": None if dims is None else dims.state_slots,
        "action_slots": None if dims is None else dims.action_slots,
        "cameras": config.cameras,
        "loss": config.loss,
        "action": action,
        "tokenizer_hash": config.tokenizer_hash,
    }
    (request.output / "embodimix.json").write_text(json.dumps(about, indent=2) + "\n")
    return [*written, "embodimix.json"]


def openpi_norm_stats(dims: RobotDims, width: int | None = None) -> dict[str, Any]:
    """openpi's norm_stats.json, by which openpi maps values as the run did, in either of its two ways.

    The numbers are those of the map and no percentiles: mean is its center, std its half range, q01 and q99 what
    becomes -1 and 1. width: all slots of the layout, those that the robot lacks mapped to themselves; None for its own
    dims.
    """

    def stats(side: str, slots: Sequence[int]) -> dict[str, list[float]]:
        own = dims.affine(side)
        center, half = np.zeros(width or len(slots)), np.ones(width or len(slots))
        rows = list(slots) if width else range(len(slots))
        center[rows], half[rows] = own.center, own.half_range
        low = center - half
        return {
            "mean": center.tolist(),
            "std": (half - OPENPI_EPS).tolist(),
            "q01": low.tolist(),
            "q99": (low + 2 * half - OPENPI_EPS).tolist(),
        }

    return {"norm_stats": {"state": stats("state", dims.state_slots), "actions": stats("action", dims.action_slots)}}
