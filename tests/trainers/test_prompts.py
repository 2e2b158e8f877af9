"""Prompts as tokens: cut ones are counted, states join pi0.5's, and a tokenizer that changed is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.tokenizer import SmallTokenizer
from pipelines.contract.errors import UsageError
from trainers.config import RunConfig, resolve_config
from trainers.planning import plan
from trainers.prompts import PromptEncoder, open_tokenizer

LONG = (
    "first open the upper drawer of the white cabinet with the left hand and then take the small red block from the "
    "table next to the blue bowl and put it carefully into the drawer on the "
)


def config(**overrides: Any) -> RunConfig:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return resolve_config(stage="pretrain", mixture=Path("m.yaml"), horizon=4, cameras=("base_0_rgb",), overrides=named)


def test_all_tokens_of_a_prompt_are_counted_with_a_states_words() -> None:
    encoder = PromptEncoder(config())
    assert len(encoder.tokens(LONG)) > 32 and encoder.tokens(LONG) == SmallTokenizer(max_tokens=200).whole(LONG)
    assert encoder.tokens("lift it", n_states=7) == encoder.tokens("lift it")  # pi0 has a state token
    words = PromptEncoder(config(policy__pi05=True))
    assert len(words.tokens("lift it", n_states=7)) - len(words.tokens("lift it")) == 7 * 3 + 6  # "255 " each


def test_a_plan_counts_the_sentences_that_a_run_would_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {LONG + "left side": 0.2, LONG + "right side": 0.3, "lift it": 0.5}
    monkeypatch.setattr(plan, "text_shares", lambda mixture: shares)
    mixture: Any = SimpleNamespace(tables=[SimpleNamespace(state_mask=np.ones((2, 7), bool))])
    found = plan.count_prompts(mixture, PromptEncoder(config()))
    assert (found.n_texts, found.n_cut, found.n_alike, found.share) == (3, 2, 2, 0.5)
    few = config(policy__pi05=True, policy__max_tokens=40)
    assert plan.count_prompts(mixture, PromptEncoder(few)).n_cut == 3  # with seven states even the short one


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
