"""Prompt rules and the small tokenizer, typed out."""

from pathlib import Path

import numpy as np
import pytest

from model.config import named_config
from model.tokenizer import (
    PaligemmaTokenizer,
    SmallTokenizer,
    WordpieceTokenizer,
    clean_prompt,
    own_tokenizer,
    prompt_with_state,
    split_words,
    state_bins,
    tokenizer_for,
)

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


@pytest.mark.parametrize("model, size", [("tiny", 300), ("pi0", 257_152), ("pi0-small", 30_522)])
def test_a_vocabulary_of_another_size_than_the_models_is_refused(model: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"vocabulary of {size} pieces .* found the built-in one, of 1024|at most 300"):
        own_tokenizer(named_config(model, vocab_size=size))


def test_the_whole_of_a_prompt_is_there_where_its_end_does_not_fit() -> None:
    short = SmallTokenizer(max_tokens=3)
    assert short.whole("the red block") == [2, 261, 626, 465, NEWLINE]
    assert short.encode("the red block")[0].tolist() == [2, 261, 626]
    assert len(short.whole("x", np.array([0.0]))) == len(short.whole("x", np.array([0.5]))) > 20


def test_a_missing_sentencepiece_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Download paligemma_tokenizer.model"):
        tokenizer_for(named_config("pi0"), tmp_path / "none.model")


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentencepiece")
    from tests.support.small_sentencepiece import write_small_sentencepiece

    return write_small_sentencepiece(tmp_path_factory.mktemp("sentencepiece") / "small.model")


def test_paligemmas_prompt_is_begin_text_and_a_newline_of_its_own(sentencepiece_model: Path) -> None:
    size = PaligemmaTokenizer(path=sentencepiece_model, max_tokens=48).vocab_size
    tokenizer = tokenizer_for(named_config("pi0", vocab_size=size), sentencepiece_model)
    assert isinstance(tokenizer, PaligemmaTokenizer)
    ids, mask = tokenizer.encode(" pick_up the\nred block")
    model = tokenizer._model
    expected = [2, *model.encode("pick up the red block"), *model.encode("\n")]
    assert ids[mask].tolist() == expected and len(ids) == 48
    assert model.decode(ids[mask].tolist()) == "pick up the red block\n"


def test_paligemmas_prompt_with_state_ends_in_action(sentencepiece_model: Path) -> None:
    tokenizer = PaligemmaTokenizer(path=sentencepiece_model, max_tokens=200)
    ids, mask = tokenizer.encode("open", np.array([0.0]))
    text = "Task: open, State: 128;\nAction: "
    assert ids[mask].tolist() == [2, *tokenizer._model.encode(text)]


def test_berts_words_are_plain_and_punctuation_stands_alone() -> None:
    assert split_words("Öffne  the drawer, now!") == ["offne", "the", "drawer", ",", "now", "!"]


def test_berts_longest_pieces_win_and_unknown_words_are_one(tmp_path: Path) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "pick", "block", "##s", "##ing", "the", "b", "##lock"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = tokenizer_for(named_config("pi0-small", vocab_size=11), tmp_path / "vocab.txt")
    assert isinstance(tokenizer, WordpieceTokenizer)
    ids, mask = tokenizer.encode("Picking the blocks, the bz")
    #               CLS pick ##ing the block ##s , the bz SEP
    assert ids[mask].tolist() == [2, 4, 7, 8, 5, 6, 1, 8, 1, 3]
    short = WordpieceTokenizer(path=tmp_path / "vocab.txt", max_tokens=4).encode("pick the block")
    assert short[0].tolist() == [2, 4, 8, 3]
    assert tokenizer.whole("pick the block") == [2, 4, 8, 5, 3]
