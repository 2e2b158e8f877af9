"""Transformers' own pi0 as another program, run by a Python that has it: loads a folder, samples, saves it again.

    python foreign_transformers.py FOLDER INPUTS.npz OUTPUTS.npz [SAVED]

Its images are those of the cameras that are there, one sample at a time: it knows no masked camera in the middle.
"""

import sys

import numpy as np
import torch
from transformers import PI0ForConditionalGeneration

IMAGE_TOKENS = 256


def main() -> None:
    folder, inputs, outputs = sys.argv[1:4]
    policy, report = PI0ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    arrays = dict(np.load(inputs))
    actions = [sample(policy.eval(), arrays, row) for row in range(len(arrays["state"]))]
    np.savez(
        outputs,
        actions=np.concatenate(actions),
        missing=np.array(sorted(report["missing_keys"])),
        unexpected=np.array(sorted(report["unexpected_keys"])),
    )
    if len(sys.argv) > 4:
        policy.save_pretrained(sys.argv[4])


def sample(policy, arrays: dict, row: int) -> np.ndarray:
    names = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    there = [name for name in names if arrays[f"image_mask/{name}"][row]]
    images = np.stack([arrays[f"image/{name}"][row] * 2.0 - 1.0 for name in there])
    valid = arrays["tokenized_prompt_mask"][row].astype(bool)
    text = arrays["tokenized_prompt"][row][valid].astype(np.int64)
    ids = np.concatenate([np.full(IMAGE_TOKENS * len(there), policy.config.vlm_config.image_token_id), text])
    return policy.sample_actions(
        state=torch.from_numpy(arrays["state"][row : row + 1]),
        input_ids=torch.from_numpy(ids)[None],
        pixel_values=torch.from_numpy(images.astype(np.float32))[None],
        pixel_attention_mask=torch.ones((1, len(there)), dtype=torch.bool),
        attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
        noise=torch.from_numpy(arrays["sample_noise"][row : row + 1]),
        num_steps=10,
    ).numpy()


main()
