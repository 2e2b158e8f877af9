"""openpi as another program: loads a folder by its own functions, and writes what it samples and how it normalizes.

    python foreign_openpi.py FOLDER SIZES.json INPUTS.npz OUTPUTS.npz

Run by a Python that has openpi; only its tables of sizes are replaced. INPUTS may hold `values` [t, d] in a robot's own
units, which come back as openpi's Normalize and Unnormalize map them, by deviations and by quantiles.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from openpi import transforms
from openpi.models import gemma, lora, model, siglip
from openpi.models.pi0_config import Pi0Config
from openpi.shared import normalize


def main() -> None:
    folder, sizes_path, inputs, outputs = (Path(argument) for argument in sys.argv[1:5])
    arrays, sizes = dict(np.load(inputs)), json.loads(sizes_path.read_text())
    jax.config.update("jax_default_matmul_precision", "highest")
    resize(sizes)
    params = model.restore_params(folder / "params", restore_type=np.ndarray)
    adapted = "_lora" if sizes["prefix"].get("lora_rank") else ""
    config = Pi0Config(
        dtype="float32",
        paligemma_variant=f"gemma_2b{adapted}",
        action_expert_variant=f"gemma_300m{adapted}",
        action_dim=params["action_in_proj"]["kernel"].shape[0],
        action_horizon=arrays["sample_noise"].shape[1],
        max_token_len=arrays["tokenized_prompt"].shape[1],
        pi05="time_mlp_in" in params,
    )
    policy = config.load(params, remove_extra_params=False)
    found = {"actions": np.asarray(policy.sample_actions(jax.random.key(0), observation(arrays), **noise(arrays)))}
    found["keys"] = np.array(len(jax.tree.leaves(params)))
    stats = sorted((folder / "assets").rglob("norm_stats.json"))
    if stats and "values" in arrays:
        found |= normalized(stats[0].parent, arrays["values"])
    np.savez(outputs, **found)


def resize(sizes: dict) -> None:
    parts = {"gemma_2b": sizes["prefix"], "gemma_300m": sizes["expert"]}

    def get_config(variant: str) -> gemma.Config:
        names, part = ("width", "depth", "mlp_dim", "head_dim"), parts[variant.removesuffix("_lora")]
        rank = part.get("lora_rank", 0)  # alpha is the rank in openpi's own variants
        adapters = {name: lora.LoRAConfig(rank=rank, alpha=float(rank)) for name in ("attn", "ffn") if rank}
        sizes_of_part = {name: part[name] for name in names}
        return gemma.Config(num_heads=8, num_kv_heads=1, **sizes_of_part, lora_configs=adapters)

    gemma.get_config, gemma.PALIGEMMA_VOCAB_SIZE = get_config, sizes["vocab_size"]
    vision = sizes["siglip"]
    named = {name: vision[name] for name in ("width", "depth", "mlp_dim")} | {"num_heads": vision["heads"]}
    siglip.decode_variant = lambda variant: named | {"patch_size": (14, 14)}


def observation(arrays: dict) -> model.Observation:
    names = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    return model.Observation(
        images={n: jnp.asarray(arrays[f"image/{n}"].transpose(0, 2, 3, 1) * 2.0 - 1.0) for n in names},
        image_masks={n: jnp.asarray(arrays[f"image_mask/{n}"]) for n in names},
        state=jnp.asarray(arrays["state"]),
        tokenized_prompt=jnp.asarray(arrays["tokenized_prompt"]),
        tokenized_prompt_mask=jnp.asarray(arrays["tokenized_prompt_mask"]),
    )


def noise(arrays: dict) -> dict:
    return {"noise": jnp.asarray(arrays["sample_noise"]), "num_steps": 10}


def normalized(folder: Path, values: np.ndarray) -> dict:
    stats = normalize.load(folder)
    found = {}
    for name, quantiles in (("z", False), ("q", True)):
        forward = transforms.Normalize(stats, use_quantiles=quantiles)({"state": values, "actions": values})
        back = transforms.Unnormalize(stats, use_quantiles=quantiles)(dict(forward))
        found |= {f"actions_{name}": forward["actions"], f"back_{name}": back["actions"]}
    return found


main()
