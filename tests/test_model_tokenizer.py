"""Prompt rules and the small tokenizer, typed out."""

from pathlib import Path

import numpy as np
import pytest

from model.config import named_config
from model.tokenizer import SmallTokenizer, clean_prompt, prompt_with_state, state_bins, tokenizer_for

NEWLINE = 4 + 10


def ids_of(text: str, max_tokens: int = 32) -> list[int]:
    ids, mask = SmallTokenizer(max_tokens=max_tokens).encode(text)
    return ids[mask].tolist()


def test_prompts_are_stripped_and_spaces_replace_underscores_and_newlines() -> None:
    assert clean_prompt("  pick_up the\nblock \n") == "pick up the block"


def test_a_prompt_is_begin_text_newline() -> None:
    assert ids_of("the red block") == [2, 261, 626, 465, NEWLINE]


def test_unknown_words_fall_back_to_bytes() -> None:
    space, q, x = 4 + ord(" "), 4 + ord("q"), 4 + ord("x")
    assert ids_of("qx") == [2, space, q, x, NEWLINE]
    assert ids_of("blocks") == [2, 465, 4 + ord("s"), NEWLINE]


def test_a_prompt_is_padded_with_zeros_and_a_false_mask() -> None:
    ids, mask = SmallTokenizer(max_tokens=6).encode("red")
    assert ids.tolist() == [2, 626, NEWLINE, 0, 0, 0] and ids.dtype == np.int32
    assert mask.tolist() == [True, True, True, False, False, False]


def test_a_long_prompt_loses_its_end() -> None:
    assert ids_of("the red block", max_tokens=3) == [2, 261, 626]


@pytest.mark.parametrize("text", ["put the cup on the plate", "Grüße, 7 Würfel!", "a  b"])
def test_decoding_restores_the_text(text: str) -> None:
    tokenizer = SmallTokenizer(max_tokens=64)
    ids, mask = tokenizer.encode(text)
    assert tokenizer.decode(ids[mask]) == text + "\n"


def test_every_id_fits_the_declared_vocabulary() -> None:
    tokenizer = SmallTokenizer(max_tokens=32)
    assert max(tokenizer._ids.values()) < tokenizer.vocab_size == named_config("tiny").vocab_size


def test_a_state_joins_the_prompt_as_bins() -> None:
    state = np.array([-1.0, 0.0, 1.0])
    assert prompt_with_state("pick_up\n", state) == "Task: pick up, State: 0 128 255;\nAction: "
    assert state_bins(np.array([-1.5, -0.999, 0.004, 0.9921, 1.7])).tolist() == [-1, 0, 128, 254, 255]


def test_a_vocabulary_too_large_for_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 300 .* found 1024"):
        tokenizer_for(named_config("tiny", vocab_size=300))


def test_a_missing_sentencepiece_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Download paligemma_tokenizer.model"):
        tokenizer_for(named_config("pi0"), tmp_path / "none.model")
