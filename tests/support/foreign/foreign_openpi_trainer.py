"""A worked example of docs/torch.md in openpi's own training code, run by a Python that has openpi's `src` on its path.

    python foreign_openpi_trainer.py EXAMPLE.py WORDS.model OUT.npz

Run where mixture.yaml lies. Replaced are only openpi's tables of sizes, the tokenizer's file, which it would download,
and the package `lerobot`, which its own loader imports. OUT: the arrays that its model was given, and the loss.
"""

import importlib.util
import os
import shutil
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np

WIDTH = 64


def main() -> None:
    example, words, out = sys.argv[1:4]
    home = Path(out).parent / "openpi"
    (home / "big_vision").mkdir(parents=True)
    shutil.copy(words, home / "big_vision/paligemma_tokenizer.model")
    os.environ |= {"OPENPI_DATA_HOME": str(home), "JAX_PLATFORMS": "cpu"}
    for name in ("lerobot", "lerobot.common", "lerobot.common.datasets", "lerobot.common.datasets.lerobot_dataset"):
        sys.modules[name] = types.ModuleType(name)
    np.savez(out, **train_step(Path(example).read_text()))


def train_step(code: str) -> dict:
    """As `main` of openpi's scripts/train.py: a train state, and one jitted step of the first batch."""
    import jax
    import openpi
    from openpi.models import siglip
    from openpi.training import config as configs
    from openpi.training import sharding

    sizes = {"width": WIDTH, "depth": 1, "mlp_dim": 128, "num_heads": 4, "patch_size": (14, 14)}
    siglip.decode_variant = lambda variant: sizes
    train = load_module(Path(openpi.__path__[0]).parents[1] / "scripts/train.py")
    config = configs.get_config("debug")
    mesh = sharding.make_mesh(1)
    of_data = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(sharding.DATA_AXIS))
    of_all = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    batch = next(run(code)["batches"]("mixture.yaml", 2, of_data))
    state, of_state = train.init_train_state(config, jax.random.key(0), mesh, resume=False)
    step = jax.jit(
        partial(train.train_step, config),
        in_shardings=(of_all, of_state, of_data),
        out_shardings=(of_state, of_all),
    )
    after, info = step(jax.random.key(1), state, batch)
    observation, actions = batch
    assert int(after.step) == 1
    return {"loss": info["loss"], **given(observation.to_dict(), actions)}


def given(batch: dict, actions: object) -> dict:
    """What a model was given, by the stream's words; numpy arrays."""
    fields = {f"image/{name}": image for name, image in batch["image"].items()}
    fields |= {f"mask/{name}": mask for name, mask in batch["image_mask"].items()}
    fields |= {name: batch[name] for name in ("state", "tokenized_prompt", "tokenized_prompt_mask")}
    return {name: np.asarray(value) for name, value in (fields | {"actions": actions}).items()}


def run(code: str) -> dict:
    names: dict = {}
    exec(compile(code, "docs/torch.md", "exec"), names)
    return names


def load_module(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
