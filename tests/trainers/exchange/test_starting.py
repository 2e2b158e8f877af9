"""How a run starts from weights: adapters that they lack, what stays in which type, and on how many devices."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import policy
from model.config import Pi0Config
from model.params import Params, flatten
from model.published.export import export_params
from pipelines.contract.errors import UsageError
from tests.support.checkout import ROOT
from tests.support.inputs.toy_mixture import quick_compilation, settings
from trainers.config import RunConfig, resolve_config
from trainers.mesh import single_device_mesh, with_placement
from trainers.setup import abstract_state, fresh_state
from trainers.step import TrainState

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
ADAPTERS = {"policy__prefix__lora_rank": 2, "policy__expert__lora_rank": 3}
EMBEDDING = "PaliGemma/llm/embedder/input_embedding"
QUERY = "PaliGemma/llm/layers/attn/q_einsum/w"
EIGHT_DEVICES = """
import json, sys, jax, numpy as np, trainers.mesh
from pathlib import Path
from model.params import flatten
from tests.trainers.exchange.test_starting import config_of
from trainers.mesh import build_mesh, with_placement
from trainers.setup import abstract_state, fresh_state
trainers.mesh.MIN_SPLIT_BYTES = 1000  # so that the small model is split as a large one is
pieces = []
place = jax.make_array_from_callback
def placing(shape, sharding, read):
    array = place(shape, sharding, read)
    pieces.append([array.nbytes, max(shard.data.nbytes for shard in array.addressable_shards)])
    return array
jax.make_array_from_callback = placing
config = config_of(Path(sys.argv[1]), weights=sys.argv[2], fsdp=8, batch_size=8)
mesh = build_mesh(8, batch_size=8)
state = fresh_state(config, mesh, with_placement(mesh, abstract_state(config)))
held = {device.id: 0 for device in jax.devices()}
for leaf in jax.tree.leaves(state):
    for shard in leaf.addressable_shards:
        held[shard.device.id] += shard.data.nbytes
kernel = np.asarray(state.trained["action_in_proj"]["kernel"])
print(json.dumps({"pieces": pieces, "held": max(held.values()), "kernel": kernel.tolist(),
                  "whole": sum(leaf.nbytes for leaf in jax.tree.leaves(state))}))
"""


def config_of(folder: Path, **changes: Any) -> RunConfig:
    return resolve_config(
        stage="pretrain",
        mixture=folder / "mixture.yaml",
        horizon=4,
        cameras=("base_0_rgb",),
        overrides=settings(steps=1, **changes),
    )


def start(config: RunConfig) -> TrainState:
    mesh = single_device_mesh()
    return fresh_state(config, mesh, with_placement(mesh, abstract_state(config)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """Weights without adapters in openpi's layout, and what they hold."""
    folder = tmp_path_factory.mktemp("plain")
    config = config_of(folder).policy
    assert isinstance(config, Pi0Config)
    params = jax.jit(lambda: policy.init_params(config, jax.random.key(3)))()
    export_params(config, params, folder / "weights", "openpi")
    return folder / "weights", params


def test_adapters_that_weights_lack_are_drawn_and_the_rest_is_read(
    tmp_path: Path, plain: tuple[Path, Params], capsys: pytest.CaptureFixture[str]
) -> None:
    state = start(config_of(tmp_path, weights=str(plain[0]), **ADAPTERS))
    found, expected = flatten(state.params), flatten(plain[1])
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    adapters = sorted(set(found) - set(expected))
    assert len(adapters) == 20 and all("lora" in name for name in adapters)
    assert np.std(found["PaliGemma/llm/layers/mlp/linear_lora_a"]) == pytest.approx(0.01, rel=0.3)
    report = capsys.readouterr().err
    assert "50 parameters read, 20 drawn, 0 of the file left over" in report
    assert "drawn: PaliGemma/llm/layers/attn/attn_vec_einsum/lora_a" in report


def test_weights_of_products_that_stay_are_stored_in_the_activations_type(
    tmp_path: Path, plain: tuple[Path, Params]
) -> None:
    state = start(config_of(tmp_path, weights=str(plain[0]), policy__dtype="bfloat16", **ADAPTERS))
    frozen = {name: leaf for name, leaf in flatten(state.frozen).items() if leaf is not None}
    assert frozen[QUERY].dtype == jnp.bfloat16
    assert frozen[EMBEDDING].dtype == frozen["PaliGemma/llm/final_norm/scale"].dtype == jnp.float32
    np.testing.assert_array_equal(frozen[QUERY], flatten(plain[1])[QUERY].astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.trained)} == {jnp.dtype(jnp.float32)}


def test_nothing_random_is_ever_frozen(tmp_path: Path, plain: tuple[Path, Params]) -> None:
    lacking = tmp_path / "no_adapters"
    config = config_of(tmp_path, weights=str(plain[0]), freeze=["*lora_a"], **ADAPTERS)
    with pytest.raises(UsageError, match=r"attn_vec_einsum/lora_a, .*_1/lora_a, .* and 7 more would stay as drawn"):
        start(config)
    with pytest.raises(UsageError, match=r"freeze: PaliGemma/img/Transformer/.* a run from the start does not have"):
        start(config_of(tmp_path, freeze=["*/img/*"]))
    assert isinstance(config.policy, Pi0Config)
    export_params(config.policy, plain[1], lacking, "hf-paligemma")
    with pytest.raises(UsageError, match=r"freeze: .*kv_einsum_1/w and 5 more would stay as drawn"):
        start(config_of(tmp_path, weights=str(lacking), **ADAPTERS))


def test_slots_that_weights_lack_are_random_too(tmp_path: Path, plain: tuple[Path, Params]) -> None:
    fresh = [*range(17), -1]
    state = start(config_of(tmp_path, weights=str(plain[0]), slot_map=fresh))
    expected = flatten(plain[1])["action_in_proj/kernel"]
    np.testing.assert_array_equal(flatten(state.params)["action_in_proj/kernel"][:17], expected[:17])
    with pytest.raises(UsageError, match="freeze: action_in_proj/kernel would stay as drawn"):
        start(config_of(tmp_path, weights=str(plain[0]), slot_map=fresh, freeze=["action_in_proj/kernel"]))


def test_what_lies_beside_weights_is_found_and_named(
    tmp_path: Path, plain: tuple[Path, Params], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(plain[0], folder)
    asset = folder / "assets/trossen/norm_stats.json"
    asset.parent.mkdir(parents=True)
    asset.write_text("{}")
    words = ["[CLS]", "[SEP]", "[UNK]", *map(str, range(1021))]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = config_of(tmp_path, weights=str(folder))
    assert config.tokenizer == str(folder / "vocab.txt") and config.tokenizer_hash is not None
    start(config)
    report = capsys.readouterr().err
    assert f"tokenizer: {folder}/vocab.txt" in report
    assert "norm statistics beside it, not used here (trossen): embodimix import keeps them" in report


def test_openpis_32_dims_meet_18_slots_by_its_own_order(
    tmp_path: Path, plain: tuple[Path, Params], capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path).policy
    assert isinstance(config, Pi0Config)
    wide = dataclasses.replace(config, action_dim=32)
    params = jax.jit(lambda: policy.init_params(wide, jax.random.key(4)))()
    export_params(wide, params, tmp_path / "openpi", "openpi")
    state = start(config_of(tmp_path, weights=str(tmp_path / "openpi")))
    found, expected = (np.asarray(flatten(t)["action_out_proj/kernel"]) for t in (state.params, params))
    np.testing.assert_array_equal(found[:, :16], expected[:, :16])
    assert not np.isin(found[:, 16:], expected).any()
    assert "action_out_proj/bias: dims [16, 17, 18, 19, 20" in capsys.readouterr().err


def test_another_layout_than_the_named_one_is_refused(tmp_path: Path, plain: tuple[Path, Params]) -> None:
    with pytest.raises(UsageError, match="--weights: .*expected layout lerobot; found openpi"):
        start(config_of(tmp_path, weights=str(plain[0]), weights_layout="lerobot"))


def test_no_device_holds_the_whole_state(tmp_path: Path, plain: tuple[Path, Params]) -> None:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", EIGHT_DEVICES, str(tmp_path), str(plain[0])]
    done = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found["pieces"]) == 50
    assert sum(piece for _, piece in found["pieces"]) < 0.2 * sum(whole for whole, _ in found["pieces"])
    assert found["held"] < 0.2 * found["whole"]
    np.testing.assert_array_equal(found["kernel"], flatten(plain[1])["action_in_proj/kernel"])


def test_a_run_without_adapters_starts_one_with_them(tmp_path: Path) -> None:
    from trainers.exchange.starting import adopted_params

    before = start(config_of(tmp_path))
    config = dataclasses.replace(config_of(tmp_path, **ADAPTERS), init="runs/before")
    like = with_placement(single_device_mesh(), abstract_state(config))
    found, expected = flatten(adopted_params(config, like, before.params)), flatten(before.params)
    assert len(found) == len(expected) + 20
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    back = dataclasses.replace(config_of(tmp_path), init="runs/adapters")
    like = with_placement(single_device_mesh(), abstract_state(back))
    with pytest.raises(UsageError, match=r"attn_vec_einsum/lora_a: expected nothing.*--merge-lora"):
        adopted_params(back, like, found_tree(found))


def found_tree(flat: dict[str, Any]) -> Params:
    from model.params import unflatten

    return unflatten(flat)
