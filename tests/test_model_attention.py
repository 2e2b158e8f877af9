"""Masks and positions, typed out."""

import jax.numpy as jnp
import numpy as np

from model.attention import attention_mask, token_positions


def test_a_block_sees_itself_and_the_blocks_before_it() -> None:
    valid = jnp.ones((1, 5), bool)
    starts = jnp.array([0, 0, 1, 1, 0], bool)
    expected = [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
    ]
    np.testing.assert_array_equal(attention_mask(valid, starts)[0].astype(int), expected)


def test_padding_neither_sees_nor_is_seen() -> None:
    valid = jnp.array([[1, 0, 1, 1]], bool)
    starts = jnp.array([0, 0, 1, 1], bool)
    expected = [
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 0, 1, 0],
        [1, 0, 1, 1],
    ]
    np.testing.assert_array_equal(attention_mask(valid, starts)[0].astype(int), expected)


def test_padding_takes_no_position() -> None:
    valid = jnp.array([[1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(token_positions(valid), [[0, 0, 1, 2, 2, 3], [0, 1, 2, 3, 4, 5]])
