"""LeRobot's files beside weights: the policy's config, and the processors that normalize and tokenize for it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mixtures.actions.normalizer import action_form
from model.config import GemmaConfig, Pi0Config, SiglipConfig, pi0
from model.published.safetensors import write_safetensors
from pipelines.contract.errors import UsageError
from pipelines.contract.slots import IMAGE_SIZE
from trainers.config import RunConfig
from trainers.exchange.dims import RobotDims

EPS = 1e-8
TOKENIZER = "google/paligemma-3b-pt-224"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor", "policy_postprocessor"
# LeRobot's normalization by mean and deviation fits any affine map, for pi0.5 too, which has percentiles by default.
NORM_MAP = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
# The experts that config.json can name. The rest has one size there: the vocabulary, SigLIP, and Gemma 2B, since the
# projector of the pictures is 2048 wide whatever the config says (modeling_pi0.py of LeRobot 0.4 and 0.6).
EXPERTS: Mapping[str, GemmaConfig] = {"gemma_300m": pi0().expert, "gemma_2b": pi0().prefix}
Step = dict[str, Any]


def check_lerobot_sizes(policy: Pi0Config) -> None:
    """UsageError names every size that LeRobot does not build, beside the one that it builds."""
    built = pi0()
    expert = EXPERTS[_expert_variant(policy) or "gemma_300m"]
    pairs: dict[str, tuple[SiglipConfig | GemmaConfig, SiglipConfig | GemmaConfig]] = {
        "siglip": (policy.siglip, built.siglip),
        "prefix": (replace(policy.prefix, lora_rank=0), built.prefix),
        "expert": (replace(policy.expert, lora_rank=0), expert),
    }
    differing = [
        f"{part}.{name} {value} ({asdict(theirs)[name]})"
        for part, (ours, theirs) in pairs.items()
        for name, value in asdict(ours).items()
        if value != asdict(theirs)[name]
    ]
    if policy.vocab_size != built.vocab_size:
        differing.append(f"vocab_size {policy.vocab_size} ({built.vocab_size})")
    if differing:
        raise UsageError(
            "export: LeRobot builds pi0 and pi05 in the published sizes alone; with any other it prints a warning and "
            f"goes on with random weights. Found, with what it builds in brackets: {', '.join(differing)}. Export as "
            "openpi or hf-pi0, or give --any-size for a LeRobot whose tables of sizes are replaced"
        )


def _expert_variant(policy: Pi0Config) -> str | None:
    plain = replace(policy.expert, lora_rank=0)
    return next((name for name, sizes in EXPERTS.items() if sizes == plain), None)


def write_lerobot(
    folder: Path, config: RunConfig, policy: Pi0Config, dims: RobotDims, action: Mapping[str, Any]
) -> list[str]:
    """Writes config.json and both processors, and returns their names.

    LeRobot 0.4 and later read them; actions relative to the state, which 0.4 does not know, need 0.5 or later.
    """
    relative = _relative(dims, action)
    features = {
        **{f"observation.images.{camera}": _feature("VISUAL", 3, IMAGE_SIZE, IMAGE_SIZE) for camera in config.cameras},
        "observation.state": _feature("STATE", len(dims.state_slots)),
        "action": _feature("ACTION", len(dims.action_slots)),
    }
    settings = {
        "type": "pi05" if policy.pi05 else "pi0",
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": _expert_variant(policy) or "gemma_300m",
        "input_features": {name: about for name, about in features.items() if name != "action"},
        "output_features": {"action": features["action"]},
        "normalization_mapping": NORM_MAP,
        "chunk_size": policy.horizon,
        "n_action_steps": policy.horizon,
        "max_state_dim": max(len(dims.state_slots), 1),
        "max_action_dim": policy.action_dim,
        "tokenizer_max_length": policy.max_tokens,
        "image_resolution": [policy.image_size, policy.image_size],
        "dtype": "float32",
        **({"use_relative_actions": True, **relative} if relative else {}),
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    before, after = _steps(policy, features, relative)
    maps = {"observation.state": dims.affine("state"), "action": dims.affine("action")}
    stats = {
        f"{name}.{number}": np.asarray(values, np.float32)
        for name, affine in maps.items()
        for number, values in (("mean", affine.center), ("std", affine.half_range - EPS))
    }
    return [
        "config.json",
        *(_write(folder, name, s, stats) for name, s in ((PREPROCESSOR, before), (POSTPROCESSOR, after))),
    ]


def _relative(dims: RobotDims, action: Mapping[str, Any]) -> dict[str, Any]:
    """LeRobot's settings of relative actions; none where the run's are absolute.

    LeRobot subtracts the state by dim, so that the dims of both must be the same slots, and it leaves out dims by words
    of their names.
    """
    if action["mode"] == "absolute" and action.get("rotation", "euler") == "euler":
        return {}
    robot = dims.robot
    form = action_form(robot.norm_key, robot.parts, robot.n_slots, action["mode"], action.get("rotation", "euler"))
    own = list(dims.action_slots)
    moved = form.relative[own] & np.isin(own, dims.state_slots)
    if form.rotations or (form.angles[own] & moved).any():
        raise UsageError(f"export: LeRobot has no form of relative rotations; {robot.norm_key} was trained on one")
    if not moved.any():
        return {}
    aligned = [slot for slot, is_moved in zip(own, moved, strict=True) if is_moved]
    if [own.index(slot) for slot in aligned] != [dims.state_slots.index(slot) for slot in aligned]:
        raise UsageError(
            "export: LeRobot subtracts the k-th dim of the state from the k-th of the action; those of "
            f"{robot.norm_key} are in other orders"
        )
    names = [f"{'moved' if is_moved else 'kept'}_{slot}" for slot, is_moved in zip(own, moved, strict=True)]
    return {"relative_exclude_joints": ["kept"], "action_feature_names": names}


def _steps(
    policy: Pi0Config, features: Mapping[str, Any], relative: Mapping[str, Any]
) -> tuple[list[Step], list[Step]]:
    """The steps before and after the policy, in the order in which LeRobot makes them for this kind."""
    observed = {name: about for name, about in features.items() if name != "action"}
    normalize = _step(
        "normalizer_processor", eps=EPS, features={**observed, "action": features["action"]}, norm_map=NORM_MAP
    )
    tokenize = _step(
        "tokenizer_processor",
        max_length=policy.max_tokens,
        task_key="task",
        padding_side="right",
        padding="max_length",
        truncation=True,
        tokenizer_name=TOKENIZER,
    )
    start = [_step("rename_observations_processor", rename_map={}), _step("to_batch_processor")]
    device = _step("device_processor", device="cpu", float_dtype=None)
    change = []
    if relative:
        change = [
            _step(
                "relative_actions_processor",
                enabled=True,
                exclude_joints=relative["relative_exclude_joints"],
                action_names=relative["action_feature_names"],
            )
        ]
    if policy.pi05:
        # The state's numbers in the prompt are the normalized ones.
        prompt = _step("pi05_prepare_state_tokenizer_processor_step")
        before = [*start, *change, normalize, prompt, tokenize, device]
    else:
        before = [*start, _step("pi0_new_line_processor"), tokenize, device, *change, normalize]
    after = [_step("unnormalizer_processor", eps=EPS, features={"action": features["action"]}, norm_map=NORM_MAP)]
    after += [_step("absolute_actions_processor", enabled=True)] if relative else []
    return before, [*after, device]


def _write(folder: Path, name: str, steps: list[Step], stats: Mapping[str, np.ndarray]) -> str:
    """Writes one processor with the statistics of its normalizing step."""
    for number, step in enumerate(steps):
        kind = step["registry_name"]
        if kind in ("normalizer_processor", "unnormalizer_processor"):
            step["state_file"] = f"{name}_step_{number}_{kind}.safetensors"
            write_safetensors(folder / step["state_file"], stats)
    (folder / f"{name}.json").write_text(json.dumps({"name": name, "steps": steps}, indent=2) + "\n")
    return f"{name}.json"


def _step(name: str, **config: Any) -> Step:
    return {"registry_name": name, "config": config}


def _feature(kind: str, *shape: int) -> dict[str, Any]:
    return {"type": kind, "shape": list(shape)}
