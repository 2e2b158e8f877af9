"""Prompts of a mixture against the tokens of a model: how many do not fit, and which become the same."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mixtures.mixture import Mixture
from trainers.prompts import PromptEncoder


@dataclass(frozen=True, kw_only=True)
class PromptCounts:
    """distinct: different sentences of the mixture. cut: those that lose their end. alike: those that the model then
    cannot distinguish from another one. longest: tokens of the longest, of max_tokens. example: one that is cut, or
    ''."""

    distinct: int
    cut: int
    alike: int
    longest: int
    max_tokens: int
    example: str

    def __str__(self) -> str:
        text = f"prompts: {self.distinct:,} sentences, the longest of {self.longest} tokens; the model reads"
        if not self.cut:
            return f"{text} {self.max_tokens}"
        return (
            f"{text} {self.max_tokens}. {self.cut:,} lose their end, and {self.alike:,} become the same as another "
            f"one: set policy.max_tokens={self.longest}. Such as: {self.example}"
        )


def count_prompts(mixture: Mixture, encoder: PromptEncoder) -> PromptCounts:
    """Counts all sentences that the mixture can draw; states in a prompt count at their widest."""
    widest = max((int(table.state_mask.sum(axis=1).max(initial=0)) for table in mixture.tables), default=0)
    return count_texts(mixture_texts(mixture), encoder, widest)


def mixture_texts(mixture: Mixture) -> set[str]:
    """The instructions of all episodes, and of all segments if the mixture asks for those."""
    texts = {text for table in mixture.tables for text in table.languages.values.to_pylist()}
    if mixture.spec.language.segment > 0:
        texts |= {text for table in mixture.tables for text in table.segment_texts.to_pylist()}
    return {text or "" for text in texts}


def count_texts(texts: Iterable[str], encoder: PromptEncoder, n_states: int = 0) -> PromptCounts:
    """Counts sentences by the rules of `PromptCounts`. n_states: numbers of a state that come with each (pi0.5)."""
    distinct = sorted(set(texts))
    lengths = {text: encoder.length(text, n_states) for text in distinct}
    cut = [text for text in distinct if lengths[text] > encoder.max_tokens]
    # A cut sentence can only be taken for another cut one: all that fit end in their own last token.
    state, mask = np.zeros((len(cut), n_states), np.float32), np.ones((len(cut), n_states), np.bool_)
    seen = Counter(ids.tobytes() for ids in encoder.encode(cut, state, mask).ids) if cut else Counter()
    return PromptCounts(
        distinct=len(distinct),
        cut=len(cut),
        alike=sum(number for number in seen.values() if number > 1),
        longest=max(lengths.values(), default=0),
        max_tokens=encoder.max_tokens,
        example=max(cut, key=lambda text: lengths[text], default="")[:200],
    )
