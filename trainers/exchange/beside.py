"""What lies beside published weights: the slot map that they need, norm statistics, and the tokenizer."""

from collections.abc import Sequence
from pathlib import Path

from model.config import Pi0Config
from model.published.files import FAMILIES, Layout, open_weights
from model.published.weights import SLOTS_FROM_OPENPI
from trainers.config import RunConfig
from trainers.exchange.statistics import find_openpi_assets

OPENPI_DIMS = 32


def layouts_of(family: str | None) -> Sequence[Layout]:
    """The layouts that a name of `--weights` stands for; none where the content decides."""
    return () if family is None else FAMILIES[family]


def find_slot_map(config: RunConfig) -> Sequence[int] | None:
    """The run's own slot map, or openpi's for the 18 slots; None where the file's dims are the model's.

    In pi32/v1 slot i is openpi's dim i: 0 to 15 by meaning, and the others take its padding, which it trained on zeros.
    """
    assert config.weights is not None
    if config.slot_map:
        return config.slot_map
    if not isinstance(config.policy, Pi0Config):
        return None
    arrays = open_weights(Path(config.weights), config.policy).arrays
    if "action_in_proj/kernel" not in arrays:
        return None
    dims = arrays["action_in_proj/kernel"]().shape[0]
    is_openpis = dims == OPENPI_DIMS and config.policy.action_dim == len(SLOTS_FROM_OPENPI)
    return SLOTS_FROM_OPENPI if is_openpis else None


def find_norm_statistics(weights: Path) -> list[str]:
    """Norm statistics in the folder of weights: openpi's asset ids, and LeRobot's preprocessor."""
    folder = weights if weights.is_dir() else weights.parent
    assets = list(find_openpi_assets(folder))
    return assets + [file.name for file in folder.glob("policy_preprocessor.json")]
