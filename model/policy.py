"""The policy that a config names: one set of functions for every architecture."""

from __future__ import annotations

from model.params import Params, param_count
from model.pi0 import init_params, loss_elements, sample_actions, velocity

__all__ = ["Params", "init_params", "loss_elements", "param_count", "sample_actions", "velocity"]
