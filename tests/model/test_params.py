"""Drawing parameters."""

import zlib

import jax
import numpy as np

from model.params import ParameterSpec, draw, fan_in, flatten, normal, ones, zeros

SPECS = {
    "a/kernel": ParameterSpec(shape=(3, 5), init=normal(2.0)),
    "a/bias": ParameterSpec(shape=(5,), init=zeros),
    "b/kernel": ParameterSpec(shape=(7,), init=fan_in(4)),
    "b/scale": ParameterSpec(shape=(2,), init=ones),
    "large": ParameterSpec(shape=(300, 300), init=normal(0.1)),
}


def test_drawn_together_equals_drawn_alone() -> None:
    key = jax.random.key(3)
    drawn = flatten(jax.jit(lambda key: draw(SPECS, key))(key))
    assert set(drawn) == set(SPECS)
    for name, spec in SPECS.items():
        alone = spec.init(jax.random.fold_in(key, zlib.crc32(name.encode())), spec.shape)
        np.testing.assert_allclose(drawn[name], alone, rtol=1e-6, atol=1e-7, err_msg=name)


def test_another_parameter_moves_none_of_the_others() -> None:
    key = jax.random.key(3)
    fewer = {name: spec for name, spec in SPECS.items() if name != "b/kernel"}
    more, less = flatten(draw(SPECS, key)), flatten(draw(fewer, key))
    for name in less:
        np.testing.assert_array_equal(more[name], less[name], err_msg=name)


def test_kernels_keep_the_size_of_what_passes_through() -> None:
    wide = flatten(draw({"w": ParameterSpec(shape=(400, 400), init=fan_in(400))}, jax.random.key(0)))["w"]
    np.testing.assert_allclose([wide.mean(), wide.std()], [0.0, 0.05], atol=5e-4)
