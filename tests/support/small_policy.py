"""A policy with every part and next to no size, and its parameters, for tests that need no recorded numbers."""

import jax

from model import policy
from model.config import GemmaConfig, Pi0Config, SiglipConfig

GEMMA = GemmaConfig(width=16, depth=2, mlp_dim=24, heads=2, kv_heads=1, head_dim=8)
CONFIG = Pi0Config(
    siglip=SiglipConfig(width=16, depth=1, mlp_dim=24, heads=2, patch_size=8, image_size=16),
    prefix=GEMMA,
    expert=GEMMA,
    vocab_size=20,
    action_dim=4,
    horizon=5,
    max_tokens=6,
)
PARAMS = jax.jit(policy.init_params, static_argnums=0)(CONFIG, jax.random.key(0))
