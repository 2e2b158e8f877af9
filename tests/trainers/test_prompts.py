"""Prompts as tokens: cut ones are counted, states join pi0.5's, and a tokenizer that changed is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.tokenizer import SmallTokenizer
from pipelines.contract.errors import UsageError
from trainers.config import RunConfig, resolve
from trainers.planning.prompt_counts import count_texts, mixture_texts
from trainers.prompts import PromptEncoder, open_tokenizer

LONG = (
    "first open the upper drawer of the white cabinet with the left hand and then take the small red block from the "
    "table next to the blue bowl and put it carefully into the drawer on the "
)


def config(**overrides: Any) -> RunConfig:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return resolve(stage="pretrain", mixture=Path("m.yaml"), horizon=4, cameras=("base_0_rgb",), overrides=named)


def test_sentences_that_do_not_fit_and_those_that_become_the_same_are_counted() -> None:
    counts = count_texts([LONG + "left side", LONG + "right side", "lift it", "lift it"], PromptEncoder(config()))
    assert (counts.distinct, counts.cut, counts.alike, counts.max_tokens) == (3, 2, 2, 32)
    assert counts.longest == SmallTokenizer(max_tokens=32).length(LONG + "right side") > 32
    assert "2 lose their end, and 2 become the same as another one: set policy.max_tokens=" in str(counts)
    assert count_texts(["lift it"], PromptEncoder(config())).cut == 0


def test_a_states_words_count_in_pi05s_prompts() -> None:
    few = config(policy__pi05=True, policy__max_tokens=40)
    assert count_texts(["lift it"], PromptEncoder(few)).cut == 0
    assert count_texts(["lift it"], PromptEncoder(few), n_states=7).cut == 1


def test_segment_texts_count_where_the_mixture_draws_them() -> None:
    table = SimpleNamespace(languages=pa.array([["lift it", None], []]), segment_texts=pa.array(["reach", None]))
    for share, expected in ((0.0, {"lift it", ""}), (0.2, {"lift it", "", "reach"})):
        mixture: Any = SimpleNamespace(tables=[table], spec=SimpleNamespace(language=SimpleNamespace(segment=share)))
        assert mixture_texts(mixture) == expected


def test_an_encoded_prompt_says_whether_it_was_cut() -> None:
    state, mask = np.zeros((2, 18), np.float32), np.ones((2, 18), bool)
    encoded = PromptEncoder(config()).encode(["lift it", LONG], state, mask)
    assert encoded.cut.tolist() == [False, True] and encoded.ids.shape == (2, 32)


def test_pi05s_prompt_holds_the_measured_slots_alone() -> None:
    encoder = PromptEncoder(config(policy__pi05=True, policy__max_tokens=64))
    state, mask = np.full((1, 18), 0.5, np.float32), np.isin(np.arange(18), [0, 6])[None]
    state[0, 6] = -1.0
    encoded = encoder.encode(["lift_it"], state, mask)
    text = SmallTokenizer(max_tokens=64).decode(encoded.ids[encoded.mask])
    assert text == "Task: lift it, State: 192 0;\nAction: "


def test_a_tokenizer_that_changed_since_the_run_began_is_refused(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nlift\nit\n")
    run = config(tokenizer=str(vocabulary), policy__vocab_size=6)
    assert open_tokenizer(run).vocab_size == 6
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nit\nlift\n")
    with pytest.raises(UsageError, match="expected the file that the run began with"):
        open_tokenizer(run)


def test_full_size_weights_are_not_read_with_the_toy_vocabulary() -> None:
    with pytest.raises(UsageError, match="Give the model's own file with --tokenizer"):
        open_tokenizer(config(model="pi0"))
