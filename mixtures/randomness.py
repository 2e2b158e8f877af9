"""Hashes that decide draws: random-looking 64-bit words that follow from seeds, texts and positions alone."""

from functools import lru_cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

_UNIT = np.uint64

U64 = NDArray[np.uint64]


def mix64(value: U64) -> U64:
    """A bijection of 64-bit words whose output looks random (the finalizer of SplitMix64)."""
    value = value + _UNIT(0x9E3779B97F4A7C15)
    value = (value ^ (value >> _UNIT(30))) * _UNIT(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> _UNIT(27))) * _UNIT(0x94D049BB133111EB)
    return value ^ (value >> _UNIT(31))


def mix64_int(value: int) -> int:
    """`mix64` of one number, taken modulo 2**64."""
    return int(mix64(np.array([value % 2**64], np.uint64))[0])


def position_hash(seed: int, purpose: str, positions: NDArray[np.int64]) -> U64:
    """Random words that depend on seed, purpose and position alone; uint64 [n]."""
    return mix64(positions.astype(np.uint64) + _UNIT(text_key(f"{purpose}/{seed}")))


@lru_cache(maxsize=64)
def text_key(text: str) -> int:
    """Returns 64 bits that follow from a text alone, on every machine and in every process."""
    return int.from_bytes(sha256(text.encode()).digest()[:8], "little")
