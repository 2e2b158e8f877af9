"""Prompts as token ids: the prompt rules, a small built-in tokenizer, PaliGemma's and BERT's from local files."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from model.config import PolicyConfig
from model.vocabulary import WORDS

PAD, EOS, BOS, UNKNOWN = 0, 1, 2, 3
FIRST_BYTE = 4
FIRST_WORD = FIRST_BYTE + 256
SMALL_VOCAB_SIZE = 1024
STATE_BINS = 256


class Tokenizer(Protocol):
    """Turns a prompt into `max_tokens` ids and a mask that is False on padding."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    def encode(self, text: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns int32 ids [s] and bool mask [s]. With `state` [d] in [-1, 1], the prompt holds the state
        (pi05). Prompts longer than `max_tokens` lose their end; see `whole`."""
        ...

    def whole(self, text: str, state: np.ndarray | None = None) -> list[int]:
        """All ids of the prompt, none cut off."""
        ...


def tokenizer_for(config: PolicyConfig, path: str | Path | None = None) -> Tokenizer:
    """A tokenizer whose ids a policy config can embed: the built-in one without a path, BERT's with a `vocab.txt`,
    else PaliGemma's SentencePiece model.

    Raises ValueError when the vocabulary is larger than the config's embedding table; see `own_tokenizer` as well.
    """
    if path is None:
        tokenizer: Tokenizer = SmallTokenizer(max_tokens=config.max_tokens)
    elif Path(path).suffix == ".txt":
        tokenizer = WordpieceTokenizer(path=Path(path), max_tokens=config.max_tokens)
    else:
        tokenizer = PaligemmaTokenizer(path=Path(path), max_tokens=config.max_tokens)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"tokenizer: expected a vocabulary of at most {config.vocab_size} (the config's vocab_size); "
            f"found {tokenizer.vocab_size}"
        )
    return tokenizer


def own_tokenizer(config: PolicyConfig, path: str | Path | None = None) -> Tokenizer:
    """The tokenizer that a policy's vocabulary was made for, as training and serving must have it.

    Raises ValueError unless the vocabulary has the size of the embedding table. A smaller one fits as well, but a model
    with published weights would read every word as another one, and nothing would show it.
    """
    tokenizer = tokenizer_for(config, path)
    if tokenizer.vocab_size != config.vocab_size:
        found = "the built-in one" if path is None else str(path)
        raise ValueError(
            f"tokenizer: expected the vocabulary of {config.vocab_size} pieces that the model's embeddings were made "
            f"for; found {found}, of {tokenizer.vocab_size}. Give the model's own file with --tokenizer (PaliGemma's "
            f"SentencePiece model, or a vocab.txt), or set policy.vocab_size for a model that starts from nothing"
        )
    return tokenizer


def clean_prompt(text: str) -> str:
    """Strips, and turns underscores and newlines into spaces."""
    return text.strip().replace("_", " ").replace("\n", " ")


def prompt_with_state(text: str, state: np.ndarray) -> str:
    """pi05's prompt: the state, normalized to [-1, 1], as 256 bins. [-1, 0, 1] becomes '0 128 255'."""
    bins = " ".join(str(value) for value in state_bins(state))
    return f"Task: {clean_prompt(text)}, State: {bins};\nAction: "


def state_bins(state: np.ndarray) -> np.ndarray:
    """Bin of each value among 256 equal ones over [-1, 1]; -1 below that range, 255 above it."""
    # openpi's discretization, to the bin: published pi0.5 weights read these numbers.
    edges = np.linspace(-1.0, 1.0, STATE_BINS + 1)[:-1]
    return np.digitize(state, edges) - 1


def padded(ids: Sequence[int], max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts or fills with 0 to `max_tokens`: [2, 7] to 4 gives [2 7 0 0] and [1 1 0 0]."""
    kept = list(ids[:max_tokens])
    filled = np.array(kept + [PAD] * (max_tokens - len(kept)), np.int32)
    return filled, np.arange(max_tokens) < len(kept)


@dataclass(frozen=True, kw_only=True)
class SmallTokenizer:
    """Known words (with the space before them) as one token each, anything else byte by byte.

    Ids: 0 padding, 1 end, 2 begin, 3 unused, 4-259 bytes, 260 and up `WORDS`. The longest known piece wins,
    so ' blocks' is ' block' and 's'. Needs no file, never changes, and `decode` restores the text.
    """

    max_tokens: int
    vocab_size: int = field(default=SMALL_VOCAB_SIZE, init=False)

    def encode(self, text: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.encode`."""
        return padded(self.whole(text, state), self.max_tokens)

    def whole(self, text: str, state: np.ndarray | None = None) -> list[int]:
        """See `Tokenizer.whole`."""
        if state is not None:
            return [BOS, *self.pieces(prompt_with_state(text, state))]
        # Begin, text, newline, as PaliGemma's prompts.
        return [BOS, *self.pieces(clean_prompt(text)), *self.pieces("\n")[1:]]

    def pieces(self, text: str) -> list[int]:
        """Ids of the text with a space put before it."""
        data, ids, start = f" {text}".encode(), [], 0
        while start < len(data):
            end = next((e for e in self._ends(start, len(data)) if data[start:e] in self._ids), None)
            ids.append(FIRST_BYTE + data[start] if end is None else self._ids[data[start:end]])
            start = start + 1 if end is None else end
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special ones and the leading space."""
        words = {number: piece for piece, number in self._ids.items()}
        data = b"".join(
            words[i] if i >= FIRST_WORD else bytes([i - FIRST_BYTE]) for i in map(int, ids) if i >= FIRST_BYTE
        )
        return data.decode(errors="replace").removeprefix(" ")

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        unique = dict.fromkeys(WORDS.split())
        return {f" {word}".encode(): FIRST_WORD + number for number, word in enumerate(unique)}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids))

    def _ends(self, start: int, length: int) -> range:
        return range(min(start + self._longest, length), start, -1)


@dataclass(frozen=True, kw_only=True)
class WordpieceTokenizer:
    """Uncased BERT's word pieces, as DistilBERT reads them, from a local `vocab.txt` (one piece per line).

    Lower case, no accents, punctuation on its own; each word by its longest pieces, those inside a word
    marked `##`. The prompt stands between [CLS] and [SEP].
    """

    path: Path
    max_tokens: int

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def encode(self, text: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.encode`."""
        *pieces, end = self.whole(text, state)
        return padded([*pieces[: self.max_tokens - 1], end], self.max_tokens)

    def whole(self, text: str, state: np.ndarray | None = None) -> list[int]:
        """See `Tokenizer.whole`."""
        prompt = clean_prompt(text) if state is None else prompt_with_state(text, state)
        pieces = [piece for word in split_words(prompt) for piece in self.pieces(word)]
        return [self._ids[name] for name in ("[CLS]", *pieces, "[SEP]")]

    def pieces(self, word: str) -> list[str]:
        """The longest pieces from the left; a word with a part that no piece matches is [UNK] as a whole."""
        found, start = [], 0
        while start < len(word):
            marked = ("##" if start else "") + word[start:]
            stop = next((end for end in range(len(marked), 2 if start else 0, -1) if marked[:end] in self._ids), None)
            if stop is None:
                return ["[UNK]"]
            found.append(marked[:stop])
            start += stop - (2 if start else 0)
        return found

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.path.read_text().splitlines())}


def split_words(text: str) -> list[str]:
    """Words in lower case without accents, each punctuation mark a word: 'Öffne it!' gives offne, it, !."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    spaced = "".join(f" {c} " if not (c.isalnum() or c.isspace()) else c for c in plain)
    return spaced.split()


@dataclass(frozen=True, kw_only=True)
class PaligemmaTokenizer:
    """PaliGemma's SentencePiece model (`paligemma_tokenizer.model`), read from a local file.

    Raises FileNotFoundError without the file and ImportError without the sentencepiece package.
    """

    path: Path
    max_tokens: int

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size()

    def encode(self, text: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.encode`."""
        return padded(self.whole(text, state), self.max_tokens)

    def whole(self, text: str, state: np.ndarray | None = None) -> list[int]:
        """See `Tokenizer.whole`."""
        if state is not None:
            return self._model.encode(prompt_with_state(text, state), add_bos=True)
        # The newline is encoded by itself, as openpi does.
        return self._model.encode(clean_prompt(text), add_bos=True) + self._model.encode("\n")

    @cached_property
    def _model(self) -> Any:
        if not self.path.is_file():
            raise FileNotFoundError(
                f"tokenizer: expected PaliGemma's SentencePiece model at {self.path}; found no such file. "
                "Download paligemma_tokenizer.model and pass its path"
            )
        try:
            import sentencepiece
        except ImportError as error:
            raise ImportError(
                "tokenizer: reading a SentencePiece model needs the sentencepiece package; "
                "run: pip install sentencepiece"
            ) from error
        return sentencepiece.SentencePieceProcessor(model_file=str(self.path))
