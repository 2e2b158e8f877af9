"""Masks and positions, typed out; and the kernels, as far as they can be held against each other without a GPU."""

import dataclasses
import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from model import policy
from model.attention import attend, attention_mask, takes_cudnn, token_positions
from model.config import GemmaConfig, Pi0Config, SiglipConfig, named_config
from model.inputs import CAMERAS, Observation
from model.packing import Packing


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


def random_heads(heads: tuple[int, int], seed: int, rows: int = 5) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = [(2, rows, heads[0], 8), (2, 6, heads[1], 8), (2, 6, heads[1], 8)]
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.fixture
def cudnn_by_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be asked of cuDNN is asked of the same function's plain implementation."""
    call = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *arrays, implementation, **options: call(*arrays, **options)
    )


def test_a_mask_is_understood_alike(cudnn_by_xla: None) -> None:
    query, key, value = random_heads((4, 1), 0)
    mask = np.random.default_rng(1).random((2, 5, 6)) < 0.5
    mask[:, :, 0] = True
    for seen in (None, mask, mask[:, :1]):
        np.testing.assert_allclose(
            attend(query, key, value, seen, "cudnn"), attend(query, key, value, seen, "plain"), atol=2e-6
        )


@pytest.mark.parametrize("kernel", ["plain", "cudnn"])
def test_lengths_say_what_a_mask_says(cudnn_by_xla: None, kernel: str) -> None:
    query, key, value = random_heads((4, 1), 0, rows=6)
    lengths = jnp.array([6, 4])
    valid = jnp.arange(6) < lengths[:, None]
    by_length = attend(query, key, value, None, kernel, lengths)
    by_mask = attend(query, key, value, attention_mask(valid, jnp.zeros(6, bool)), "plain")
    np.testing.assert_allclose(by_length[valid], by_mask[valid], atol=2e-6)
    assert np.isfinite(by_length).all()


SIZES = GemmaConfig(width=16, depth=2, mlp_dim=24, heads=2, kv_heads=1, head_dim=8)
SMALL = Pi0Config(
    siglip=SiglipConfig(width=16, depth=1, mlp_dim=24, heads=2, patch_size=8, image_size=16),
    prefix=SIZES,
    expert=SIZES,
    vocab_size=20,
    action_dim=4,
    horizon=4,
    max_tokens=6,
)


def test_the_whole_policy_asks_cudnn_for_the_same(cudnn_by_xla: None) -> None:
    rng = np.random.default_rng(0)
    there = np.array([[0, 1], [1, 1], [1, 0]], bool)
    seen = Observation(
        images={name: rng.integers(0, 255, (2, 16, 16, 3), np.uint8) for name in CAMERAS},
        image_masks=dict(zip(CAMERAS, there, strict=True)),
        tokenized_prompt=rng.integers(1, 20, (2, 6)),
        tokenized_prompt_mask=np.arange(6) < np.array([[4], [2]]),
        state=rng.normal(size=(2, 4)).astype(np.float32),
    )
    params = jax.jit(policy.init_params, static_argnums=0)(SMALL, jax.random.key(0))
    noisy, time = rng.normal(size=(2, 4, 4)).astype(np.float32), np.array([0.3, 0.9], np.float32)
    velocity = jax.jit(policy.velocity, static_argnums=0)
    plain = velocity(SMALL, params, seen, noisy, time)
    config = dataclasses.replace(SMALL, attention="cudnn")
    for packing in (None, Packing(slots=4)):
        found = velocity(config, params, seen.replace(packing=packing), noisy, time)
        np.testing.assert_allclose(found, plain, atol=3e-6)


@pytest.fixture
def a_hopper_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets cuDNN's calls be lowered on a machine without it, as if for an H100."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)


LOGITS = re.compile(r"tensor<2x(?:1x)?8x(?:816|51)x\d+xf32>")  # of all heads at once, as the plain kernel has them
FULL_SIZE = named_config("pi0", attention="cudnn")
NUMBERS = jax.ShapeDtypeStruct((2, 50, 18), jnp.float32)


def full_size_inputs(packing: Packing | None) -> tuple[policy.Params, Observation]:
    params = jax.eval_shape(partial(policy.init_params, FULL_SIZE), jax.random.key(0))
    tokens = (2, FULL_SIZE.max_tokens)
    seen = Observation(
        images={name: jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8) for name in CAMERAS},
        image_masks={name: jax.ShapeDtypeStruct((2,), bool) for name in CAMERAS},
        tokenized_prompt=jax.ShapeDtypeStruct(tokens, jnp.int32),
        tokenized_prompt_mask=jax.ShapeDtypeStruct(tokens, bool),
        state=jax.ShapeDtypeStruct((2, 18), jnp.float32),
        packing=packing,
    )
    return params, seen


def test_full_size_sampling_lowers_for_a_gpu(a_hopper_gpu: None) -> None:
    sample = jax.jit(partial(policy.sample_actions, FULL_SIZE))
    text = sample.trace(*full_size_inputs(None), NUMBERS).lower(lowering_platforms=("cuda",)).as_text()
    assert "PADDING" in text and "@__cudnn$fmhaScaleBiasSoftmax(" in text and "Backward" not in text
    assert not LOGITS.findall(text)


@pytest.mark.parametrize("packing", [None, Packing(slots=5)], ids=str)
def test_the_full_size_lowers_for_a_gpu_without_logits_in_memory(a_hopper_gpu: None, packing: Packing | None) -> None:
    def loss(params: policy.Params, *inputs: jax.Array) -> jax.Array:
        return policy.loss_elements(FULL_SIZE, params, *inputs).mean()

    time = jax.ShapeDtypeStruct((2,), jnp.float32)
    traced = jax.jit(jax.grad(loss)).trace(*full_size_inputs(packing), NUMBERS, NUMBERS, time)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = {
        name: text.count(f"@__cudnn$fmha{name}(")
        for name in ("Softmax", "SoftmaxBackward", "ScaleBiasSoftmax", "ScaleBiasSoftmaxBackward")
    }
    assert calls["SoftmaxBackward"] == 2  # image encoder and prefix: no bias, so that none gets a gradient
    assert calls["ScaleBiasSoftmaxBackward"] == 1  # the suffix
    assert calls["Softmax"] >= 2 and calls["ScaleBiasSoftmax"] >= 1
    assert "PADDING" in text
    assert not LOGITS.findall(text)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the first device, of the capability that a test gives it."""
    device = SimpleNamespace(compute_capability="9.0")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda *_: [device])
    return device


@pytest.mark.parametrize(
    "capability, dtype, head_dim, taken",
    [
        ("9.0", "bfloat16", 256, True),  # as configs name their dtype
        ("9.0", jnp.bfloat16, 256, True),
        ("9.0", np.dtype(jnp.float16), 256, True),
        ("9.0", "float32", 256, False),
        ("8.0", "bfloat16", 256, False),
        ("8.0", "bfloat16", 128, True),
        ("gfx942", "bfloat16", 128, False),  # ROCm's devices have no CUDA capability
    ],
)
def test_auto_takes_cudnn_where_it_can(
    gpu: SimpleNamespace, capability: str, dtype: Any, head_dim: int, taken: bool
) -> None:
    gpu.compute_capability = capability
    assert takes_cudnn("auto", dtype, head_dim) is taken


def test_auto_finds_the_lengths_form_on_a_gpu(gpu: SimpleNamespace, a_hopper_gpu: None) -> None:
    config = dataclasses.replace(FULL_SIZE, attention="auto")
    traced = jax.jit(partial(policy.sample_actions, config)).trace(*full_size_inputs(None), NUMBERS)
    assert "PADDING" in traced.lower(lowering_platforms=("cuda",)).as_text()
