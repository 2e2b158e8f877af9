"""Group weights from each group's excess loss, as in DoReMi and Re-Mix: one step."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from mixtures.groups.tree import Group
from mixtures.mixture import Mixture
from pipelines.contract.errors import UsageError

RATE = 1.0
FLOOR = 1e-3


def read_losses(path: str) -> dict[str, float]:
    """The flow loss of each group in an evaluation report (`embodimix eval RUN --json`). Raises UsageError."""
    try:
        groups = json.loads(Path(path).read_text())["groups"]
        losses = {group["name"]: float(group["flow_loss"]) for group in groups}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: expected the JSON report of `embodimix eval`, found: {error!r}") from error
    broken = [name for name, loss in losses.items() if not math.isfinite(loss)]
    if broken:
        raise UsageError(f"{path}: expected finite losses, found others for {', '.join(broken)}")
    return losses


def optimized_factors(
    groups: tuple[Group, ...],
    losses: Mapping[str, float],
    reference: Mapping[str, float],
    rate: float = RATE,
    floor: float = FLOOR,
) -> dict[str, float]:
    """The factor on each group's weight after one step: share * exp(rate * excess), some of it spread evenly.

    The excess is what the run loses more than the reference run, at least 0; a group that lacks a loss has none.
    Shares move only between groups under the same fixed share; `floor` of each such share is spread evenly, so that
    no group dies out. Factors of 1 are left out.
    """
    excess = np.array([max(losses.get(g.name, 0.0) - reference.get(g.name, math.inf), 0.0) for g in groups])
    before = np.array([group.probability for group in groups])
    wanted = before * np.exp(rate * excess)
    for pool in {group.share.pool for group in groups}:
        mine = np.array([group.share.pool == pool for group in groups])
        mass = before[mine].sum()
        wanted[mine] = mass * ((1 - floor) * wanted[mine] / wanted[mine].sum() + floor / mine.sum())
    factors = wanted / before
    return {group.name: float(f) for group, f in zip(groups, factors, strict=True) if abs(f - 1) > 1e-6}


def optimized_spec(mixture: Mixture, factors: Mapping[str, float], why: str) -> str:
    """The text of the spec with the factors; those it had already are multiplied, everything else stays as it is."""
    text = mixture.spec.path.read_text(encoding="utf-8")
    had = {name: factor for name, factor, _ in mixture.spec.group_multipliers}
    merged = {name: had.get(name, 1.0) * factors.get(name, 1.0) for name in {**had, **factors}}
    rows = [f"  {json.dumps(name)}: {factor:.6g}" for name, factor in merged.items()]
    block = "\n".join([f"# {why}", "group_multipliers:", *rows]) + "\n"
    return _without_key(text, "group_multipliers").rstrip() + "\n" + block


def _without_key(text: str, key: str) -> str:
    """The YAML text without the lines of one top-level key and its value."""
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(document, yaml.MappingNode), "the spec was read before"
    lines = text.splitlines(keepends=True)
    for name, value in document.value:
        if name.value == key:
            end = value.end_mark.line + (value.end_mark.column > 0)
            return "".join(lines[: name.start_mark.line] + lines[end:])
    return text
