"""The shapes that the signatures state, checked while a small policy runs."""

import subprocess
import sys

RUN = """
from jaxtyping import install_import_hook
with install_import_hook("model", "beartype.beartype"):
    from model import policy
    from model.config import EncoderConfig, GemmaConfig, Pi0Config, Pi0SmallConfig, SiglipConfig
    from model.inputs import CAMERAS, Observation
    from model.packing import Packing
import jax
import jax.numpy as jnp

gemma = GemmaConfig(width=8, depth=2, mlp_dim=12, heads=2, kv_heads=1, head_dim=4)
plain = EncoderConfig(width=8, depth=1, mlp_dim=12, heads=2)
vit = SiglipConfig(width=8, depth=1, mlp_dim=12, heads=2, patch_size=8, image_size=16)
sizes = dict(vocab_size=9, action_dim=4, horizon=5, max_tokens=6)
pi0 = Pi0Config(siglip=vit, prefix=gemma, expert=gemma, **sizes)
pi05 = Pi0Config(siglip=vit, prefix=gemma, expert=gemma, pi05=True, **sizes)
small = Pi0SmallConfig(text=plain, vit=vit, encoder=plain, expert=plain, **sizes)
seen = Observation(
    images={name: jnp.zeros((2, 16, 16, 3)) for name in CAMERAS},
    image_masks={name: jnp.ones(2, bool) for name in CAMERAS},
    tokenized_prompt=jnp.ones((2, 6), jnp.int32),
    tokenized_prompt_mask=jnp.ones((2, 6), bool),
    state=jnp.zeros((2, 4)),
)
for config in (pi0, pi05, small):
    params = jax.eval_shape(lambda key: policy.init_params(config, key), jax.random.key(0))
    actions, time = jnp.zeros((2, 5, 4)), jnp.ones(2)
    loss = jax.eval_shape(lambda p: policy.loss_elements(config, p, seen, actions, actions, time), params)
    sampled = jax.eval_shape(lambda p: policy.sample_actions(config, p, seen, actions), params)
    packed = seen.replace(packing=Packing(slots=2, groups=2))
    again = jax.eval_shape(lambda p: policy.loss_elements(config, p, packed, actions, actions, time), params)
    print(type(config).__name__, loss.shape, sampled.shape, again.shape)
"""


def test_every_array_has_the_shape_that_its_type_states() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    shapes = "(2, 5, 4) (2, 5, 4) (2, 5, 4)"
    assert done.stdout.splitlines() == [f"{name} {shapes}" for name in ("Pi0Config", "Pi0Config", "Pi0SmallConfig")]
