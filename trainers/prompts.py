"""Prompts as a policy reads them: the sentence and, for pi0.5, the robot's state, as token ids.

Training, evaluation, serving and the demo all encode here, so that a policy is asked as it was taught.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.config import Pi0Config, PolicyConfig
from model.tokenizer import Tokenizer, own_tokenizer
from pipelines.contract.errors import UsageError
from trainers.config import RunConfig, tokenizer_hash

REMEMBERED = 65_536


@dataclass(frozen=True, kw_only=True)
class EncodedPrompts:
    """ids: int32 [b, s]. mask: bool [b, s], False on padding. cut: bool [b], whose end did not fit into s tokens."""

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    cut: NDArray[np.bool_]


class PromptEncoder:
    """Encodes sentences, and states where the policy reads them as words, with the run's tokenizer."""

    def __init__(self, config: RunConfig) -> None:
        """UsageError if the tokenizer's file is missing, has changed, or is of another vocabulary than the model's."""
        self._tokenizer = open_tokenizer(config)
        self.max_tokens = config.policy.max_tokens
        self._states_as_words = states_as_words(config.policy)
        self._encode_text = lru_cache(maxsize=REMEMBERED)(self._encode)

    def encode(self, texts: Sequence[str], state: NDArray[np.float32], state_mask: NDArray[np.bool_]) -> EncodedPrompts:
        """state: normalized [b, d]; state_mask: bool [b, d], the slots that the robot measures.

        openpi writes a robot's own dims into the prompt, before it pads them to the model's (`TokenizePrompt` comes
        before `PadStatesAndActions`), so that slots which a robot lacks are no words here either.
        """
        if self._states_as_words:
            rows = [
                self._encode(text, values[measured])
                for text, values, measured in zip(texts, state, state_mask, strict=True)
            ]
        else:
            rows = [self._encode_text(text) for text in texts]
        return EncodedPrompts(
            ids=np.stack([ids for ids, _, _ in rows]),
            mask=np.stack([mask for _, mask, _ in rows]),
            cut=np.array([cut for _, _, cut in rows]),
        )

    def tokens(self, text: str, n_states: int = 0) -> list[int]:
        """All tokens of a prompt, none cut off; n_states: numbers of a state at their widest, three digits each."""
        widest = np.full(n_states, 1.0) if self._states_as_words else None
        return self._tokenizer.whole(text, widest)

    def _encode(self, text: str, state: NDArray[np.float32] | None = None) -> tuple[np.ndarray, np.ndarray, bool]:
        ids, mask = self._tokenizer.encode(text, state)
        return ids, mask, bool(mask.all()) and len(self._tokenizer.whole(text, state)) > self.max_tokens


def states_as_words(policy: PolicyConfig) -> bool:
    """Whether the policy has no other way to its state than the prompt: pi0.5 has no state token."""
    return isinstance(policy, Pi0Config) and policy.pi05


def open_tokenizer(config: RunConfig) -> Tokenizer:
    """The run's tokenizer. UsageError where it does not belong to the model, or is not the one the run began with."""
    if config.tokenizer_hash is not None and config.tokenizer is not None:
        found = tokenizer_hash(config.tokenizer)
        if found != config.tokenizer_hash:
            raise UsageError(
                f"tokenizer: expected the file that the run began with (sha256 {config.tokenizer_hash}); "
                f"{config.tokenizer} is {found}. Restore it: with other ids the policy reads other words"
            )
    try:
        return own_tokenizer(config.policy, config.tokenizer)
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(str(error)) from error
