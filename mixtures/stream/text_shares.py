"""Every text that a mixture draws with its share of the draws, from the index, and the texts that are too long."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixtures.index.compiling import FROM_PROPOSAL
from mixtures.index.tables import CompiledTable
from mixtures.mixture import Mixture
from mixtures.specs.spec import LanguageRule
from pipelines.contract.words import counted


@dataclass(frozen=True, kw_only=True)
class LongTexts:
    """Texts against a model's number of tokens. share: of all draws, of those that are cut. alike: cut texts the
    model cannot distinguish from others. longest: tokens of the longest text. example: the most drawn cut one."""

    n_texts: int
    n_cut: int
    n_alike: int
    share: float
    longest: int
    max_tokens: int
    example: str

    def __str__(self) -> str:
        longest = counted(self.longest, "token")
        found = f"{counted(self.n_texts, 'text')}, the longest of {longest}; the model reads {self.max_tokens}"
        if not self.n_cut:
            return found
        return (
            f"{found}. In {self.share:.1%} of the draws {counted(self.n_cut, 'text loses its', 'texts lose their')} "
            f"end, and {self.n_alike:,} of them become the same as another one. Shorten them, or give the model "
            f"{self.longest} tokens. Such as: "
            f"{self.example[:200]!r}"
        )


def count_long_texts(shares: Mapping[str, float], encode: Callable[[str], Sequence[int]], max_tokens: int) -> LongTexts:
    """Counts the texts that a model cuts. encode: all tokens of a text, none cut off."""
    tokens = {text: tuple(encode(text)) for text in shares}
    cut = [text for text in shares if len(tokens[text]) > max_tokens]
    heads: dict[tuple[int, ...], int] = defaultdict(int)
    for text in cut:
        heads[tokens[text][:max_tokens]] += 1
    return LongTexts(
        n_texts=len(shares),
        n_cut=len(cut),
        n_alike=sum(n for n in heads.values() if n > 1),
        share=sum(shares[text] for text in cut),
        longest=max(map(len, tokens.values()), default=0),
        max_tokens=max_tokens,
        example=max(cut, key=lambda text: shares[text], default=""),
    )


def text_shares(mixture: Mixture, split: str = "train") -> dict[str, float]:
    """The share of all draws that each text gets, as `choose_language` draws them; they add up to 1."""
    index, shares = mixture.splits[split], defaultdict[str, float](float)
    for number, group in enumerate(mixture.groups):
        first, end = index.group_edges[number : number + 2]
        weight = group.probability / max(int(index.sizes[number]), 1)
        for table in np.unique(index.table[first:end]).tolist():
            for episode in (first + np.flatnonzero(index.table[first:end] == table)).tolist():
                a, b = index.edges[episode : episode + 2]
                steps = np.arange(b - a) if index.steps is None else index.steps[a:b]
                _add(shares, mixture.tables[table], int(index.row[episode]), steps, weight, mixture.spec.language)
    total = sum(shares.values())
    return {text: share / total for text, share in sorted(shares.items())}


def _add(
    shares: dict[str, float],
    table: CompiledTable,
    row: int,
    steps: NDArray[Any],
    weight: float,
    rule: LanguageRule,
) -> None:
    """Adds what the usable steps of one episode draw, `weight` each."""
    segment = table.segment[table.first_step[row] + steps]
    is_drawn = segment >= 0
    if not rule.proposals:
        is_drawn &= np.append(table.segments["source"], FROM_PROPOSAL)[segment] != FROM_PROPOSAL
    # The same cases as `choose_language`, taken as shares instead of drawn: a test compares the two.
    part = rule.segment / (rule.segment + rule.task)
    left = np.full(len(steps), weight)
    for number, count in zip(*np.unique(segment[is_drawn], return_counts=True), strict=True):
        if text := table.segment_text_at[number]:
            shares[text] += part * weight * count
            left[segment == number] *= 1 - part
    for text, share in _task_shares(table, row, steps, left):
        shares[text] += share


def _task_shares(
    table: CompiledTable, row: int, steps: NDArray[Any], left: NDArray[np.float64]
) -> list[tuple[str, float]]:
    """What is left of the steps' shares, by instruction; see `gather._task_text`."""
    of_steps = table.source_texts(row)
    instructions = [text for text in table.languages_at[row] if text and text not in of_steps]
    if instructions:
        return [(text, float(left.sum()) / len(instructions)) for text in instructions]
    task = table.vocabularies["task"][table.codes("task")[row]]
    if not of_steps:
        return [(task, float(left.sum()))]
    start, otherwise = int(table.first_step[row]), "" if task in of_steps else task
    own = (table.source_text_at(start + step) for step in steps.tolist())
    return [(text or otherwise, share) for text, share in zip(own, left.tolist(), strict=True)]
