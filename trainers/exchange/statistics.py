"""What normalizes a published policy, as openpi and LeRobot write it beside the weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.published.safetensors import read_safetensors
from pipelines.contract.errors import UsageError, nearest
from pipelines.shards.published import PublishedMap
from pipelines.shards.scales import Normalization

Numbers = Mapping[str, NDArray[np.floating]]
# Deviations that a value is taken to reach, where a file states no extremes.
FARTHEST = 5.0
OPENPI_EPS = 1e-6
# Steps of LeRobot's preprocessors that this project does itself: names, batches, prompts, tokens, devices.
LEROBOT_STEPS = {
    "rename_observations_processor",
    "to_batch_processor",
    "pi0_new_line_processor",
    "pi05_prepare_state_tokenizer_processor_step",
    "tokenizer_processor",
    "device_processor",
    "relative_actions_processor",
    "normalizer_processor",
}
LEROBOT_QUANTILES = {"QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90"), "MIN_MAX": ("min", "max")}


@dataclass(frozen=True, kw_only=True)
class PublishedStatistics:
    """The maps of state and action, by dim. source: the file. normalization: what openpi or LeRobot call it."""

    state: PublishedMap
    action: PublishedMap
    normalization: Normalization
    source: Path


def find_openpi_assets(weights: Path) -> dict[str, Path]:
    """The norm_stats.json files of an openpi checkpoint by asset id: PATH/assets/<id>/norm_stats.json."""
    root = weights.parent if weights.name == "params" else weights
    files = sorted((root / "assets").rglob("norm_stats.json"))
    return {str(file.parent.relative_to(root / "assets")): file for file in files}


def read_openpi(weights: Path, asset: str | None, normalization: Normalization) -> PublishedStatistics:
    """UsageError where there is not one file, or none of that asset id."""
    found = find_openpi_assets(weights)
    if asset is None and len(found) == 1:
        asset = next(iter(found))
    if asset is None or asset not in found:
        listed = ", ".join(found) or "none"
        hint = nearest(asset, found) if asset and found else "give --asset ID"
        raise UsageError(f"import: expected norm statistics in {weights}/assets; found {listed}. {hint}")
    stats = json.loads(found[asset].read_text())["norm_stats"]
    maps = {side: _openpi_map(stats[name], normalization) for side, name in (("state", "state"), ("action", "actions"))}
    return PublishedStatistics(normalization=normalization, source=found[asset], **maps)


def _openpi_map(stats: Mapping[str, Any], normalization: Normalization) -> PublishedMap:
    """openpi's `Normalize` (transforms.py) as center and half range."""
    numbers = {name: np.asarray(values, np.float64) for name, values in stats.items() if values is not None}
    if normalization == "quantile":
        if "q01" not in numbers or "q99" not in numbers:
            raise UsageError("import: expected q01 and q99 in norm_stats.json; found mean and deviation alone")
        low, high = numbers["q01"], numbers["q99"]
        half = (high - low + OPENPI_EPS) / 2
        return PublishedMap(center=low + half, half_range=half, low=low, high=high)
    mean, std = numbers["mean"], numbers["std"]
    return PublishedMap(center=mean, half_range=std + OPENPI_EPS, **_extremes(numbers))


def read_lerobot(folder: Path, config: Mapping[str, Any]) -> PublishedStatistics:
    """The normalizer of LeRobot's preprocessor. UsageError names a step or a mode that is not known here."""
    file = folder / "policy_preprocessor.json"
    if not file.is_file():
        raise UsageError(
            f"import: expected {file} with LeRobot's normalization; found none. Checkpoints of before LeRobot 0.4 keep "
            "it inside the weights: load and save them with LeRobot 0.4 or later"
        )
    steps = json.loads(file.read_text())["steps"]
    by_name = {step.get("registry_name", step.get("class", "?")): step for step in steps}
    for name, step in by_name.items():
        if name not in LEROBOT_STEPS:
            raise UsageError(f"import: {file}: step {name!r} is not known here, and what it does would be left out")
        if step.get("config", {}).get("rename_map"):
            raise UsageError(f"import: {file}: renamed observations are not known here; found {step['config']}")
    if "normalizer_processor" not in by_name:
        raise UsageError(f"import: {file}: expected a normalizer_processor; found {', '.join(by_name)}")
    step = by_name["normalizer_processor"]
    stats = read_safetensors(folder / step["state_file"])
    modes, eps = step["config"]["norm_map"], float(step["config"].get("eps", 1e-8))
    maps = {
        side: _lerobot_map(stats, name, modes.get(kind, "IDENTITY"), eps, config, side)
        for side, name, kind in (("state", "observation.state", "STATE"), ("action", "action", "ACTION"))
    }
    normalization: Normalization = "zscore" if modes.get("STATE") == "MEAN_STD" else "quantile"
    return PublishedStatistics(normalization=normalization, source=folder / step["state_file"], **maps)


def _lerobot_map(
    stats: Numbers, name: str, mode: str, eps: float, config: Mapping[str, Any], side: str
) -> PublishedMap:
    """LeRobot's normalization of one feature (normalize_processor.py) as center and half range."""
    numbers = {
        key.removeprefix(f"{name}."): np.asarray(values, np.float64).reshape(-1)
        for key, values in stats.items()
        if key.startswith(f"{name}.")
    }
    if mode == "MEAN_STD" and "mean" in numbers:
        return PublishedMap(center=numbers["mean"], half_range=numbers["std"] + eps, **_extremes(numbers))
    if mode in LEROBOT_QUANTILES and LEROBOT_QUANTILES[mode][0] in numbers:
        low, high = (numbers[key] for key in LEROBOT_QUANTILES[mode])
        # A dim that never moved is divided by eps there.
        half = np.where(high == low, eps, high - low) / 2
        return PublishedMap(center=low + half, half_range=half, low=low, high=high)
    if mode == "IDENTITY":
        features = config["input_features"] | config["output_features"]
        dims = features[name]["shape"][0]
        zeros, ones = np.zeros(dims), np.ones(dims)
        return PublishedMap(center=zeros, half_range=ones, low=-FARTHEST * ones, high=FARTHEST * ones)
    raise UsageError(f"import: {side}: expected numbers for LeRobot's {mode}; found {', '.join(numbers) or 'none'}")


def _extremes(numbers: Numbers) -> dict[str, NDArray[np.floating]]:
    """Where values were: the extremes or percentiles if a file has them, else some deviations around the mean."""
    for low, high in (("min", "max"), ("q01", "q99")):
        if low in numbers and high in numbers:
            return {"low": numbers[low], "high": numbers[high]}
    return {
        "low": numbers["mean"] - FARTHEST * numbers["std"],
        "high": numbers["mean"] + FARTHEST * numbers["std"],
    }
