"""LeRobot as another program: loads a folder as its users do and writes what it computes. Run by LeRobot's own Python.

    python foreign_lerobot.py FOLDER SIZES.json INPUTS.npz OUTPUTS.npz [SAVED]

LeRobot builds Gemma 2B and 300M only. SIZES.json replaces these sizes, and nothing else, before `from_pretrained`
runs. SAVED: a folder to save the policy and its processors to, as its training does.
"""

import copy
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import torch


def main() -> None:
    # Several of these run beside each other on few cores.
    torch.set_num_threads(1)
    folder, sizes, inputs, outputs = (Path(argument) for argument in sys.argv[1:5])
    kind = json.loads((folder / "config.json").read_text())["type"]
    modeling = importlib.import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    resize(modeling, json.loads(sizes.read_text()))
    policy_class = getattr(modeling, f"{kind.upper()}Policy")
    policy = policy_class.from_pretrained(folder, strict=True)
    state = policy.state_dict()
    arrays = dict(np.load(inputs))
    found = {"keys": np.array(sorted(state)), "loaded": loaded(policy, folder)}
    processors = load_processors(folder, policy)
    if "state_physical" in arrays:
        found |= through_processors(policy, *processors, arrays)
    if "sample_noise" in arrays:
        found["actions"] = sample(policy, arrays)
    np.savez(outputs, **found)
    if len(sys.argv) > 5:
        policy.save_pretrained(sys.argv[5])
        for processor in processors:
            processor.save_pretrained(sys.argv[5])


def loaded(policy, folder: Path) -> np.ndarray:
    """Names whose values in the policy are those of the file, to show that `from_pretrained` kept nothing random."""
    from safetensors.torch import load_file

    file, state = load_file(folder / "model.safetensors"), policy.state_dict()
    return np.array(sorted(name for name in state if name in file and torch.equal(state[name], file[name])))


def resize(modeling, sizes: dict) -> None:
    """Puts other sizes in the place of LeRobot's fixed ones, and a small vocabulary."""
    gemma = {"gemma_2b": sizes["prefix"], "gemma_300m": sizes["expert"]}
    original = modeling.get_gemma_config

    def get_gemma_config(variant: str):
        config = copy.copy(original(variant))
        for name in ("width", "depth", "mlp_dim", "head_dim"):
            setattr(config, name, gemma[variant][name])
        return config

    modeling.get_gemma_config = get_gemma_config
    for name in ("PaliGemmaForConditionalGenerationWithPiGemma", "PaliGemmaForConditionalGeneration"):
        if hasattr(modeling, name):
            setattr(modeling, name, resized_paligemma(getattr(modeling, name), sizes))
    for name in ("PiGemmaForCausalLM", "GemmaForCausalLM"):
        if hasattr(modeling, name):
            setattr(modeling, name, resized_expert(getattr(modeling, name), sizes))


def resized_paligemma(original, sizes: dict):
    def build(config):
        vision, siglip = config.vision_config, sizes["siglip"]
        vision.hidden_size, vision.num_hidden_layers = siglip["width"], siglip["depth"]
        vision.intermediate_size, vision.num_attention_heads = siglip["mlp_dim"], siglip["heads"]
        vision.projection_dim = sizes["prefix"]["width"]
        config.text_config.vocab_size = sizes["vocab_size"]
        config.image_token_index = sizes["vocab_size"] - 1
        return original(config=config)

    return build


def resized_expert(original, sizes: dict):
    def build(config):
        config.vocab_size = sizes["vocab_size"]
        return original(config=config)

    return build


def load_processors(folder: Path, policy):
    """The pre- and postprocessor as LeRobot's factory loads them, without the tokenizer, which is on its hub."""
    from lerobot.processor import PolicyProcessorPipeline, ProcessorStepRegistry, TokenizerProcessorStep
    from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action

    class NoTokenizer(TokenizerProcessorStep):
        def __post_init__(self):
            self.input_tokenizer = None

        def observation(self, observation):
            return observation

        def __call__(self, transition):
            return transition

    if not (folder / "policy_preprocessor.json").exists():
        return ()
    ProcessorStepRegistry._registry["tokenizer_processor"] = NoTokenizer
    pre = PolicyProcessorPipeline.from_pretrained(folder, config_filename="policy_preprocessor.json")
    post = PolicyProcessorPipeline.from_pretrained(
        folder,
        config_filename="policy_postprocessor.json",
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return pre, post


def through_processors(policy, pre, post, arrays: dict) -> dict:
    """The normalized state, the prompts and the action chunk in the robot's own units."""
    tensor = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "prompts"}
    observation = {key: tensor[f"image/{key.rpartition('.')[2]}"] for key in policy.config.image_features} | {
        "observation.state": tensor["state_physical"]
    }
    observation["task"] = [str(text) for text in arrays["prompts"]]
    batch = pre(observation)
    batch["observation.language.tokens"] = tensor["tokenized_prompt"].long()
    batch["observation.language.attention_mask"] = tensor["tokenized_prompt_mask"].bool()
    policy.model.sample_noise = lambda shape, device: tensor["noise"]
    chunk = policy.predict_action_chunk(batch)
    return {
        "normalized_state": batch["observation.state"].numpy(),
        "task": np.array(batch.get("task", [])),
        "physical": post(chunk).numpy(),
    }


def sample(policy, arrays: dict) -> np.ndarray:
    """Actions of LeRobot's own network from recorded noise, images, tokens and state, 10 Euler steps."""
    tensor = {name: torch.from_numpy(array) for name, array in arrays.items()}
    keys = [key.rpartition(".")[2] for key in policy.config.image_features]
    images = [tensor[f"image/{key}"] * 2.0 - 1.0 for key in keys]
    masks = [tensor[f"image_mask/{key}"] for key in keys]
    tokens, mask = tensor["tokenized_prompt"].long(), tensor["tokenized_prompt_mask"].bool()
    state = () if policy.config.type == "pi05" else (tensor["state"],)
    policy.eval()
    with torch.no_grad():
        return policy.model.sample_actions(
            images, masks, tokens, mask, *state, noise=tensor["sample_noise"], num_steps=10
        ).numpy()


main()
