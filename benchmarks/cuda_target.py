"""An H200 as XLA's CUDA compiler wants it described, so that programs can be compiled for it on any machine."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
from jax._src import xla_bridge
from jax.experimental import topologies

# Numbers of the card, as NVIDIA's data sheet and CUDA's device query state them.
DESCRIPTION = """
gpu_device_info {
  name: "NVIDIA H200"  device_vendor: "NVIDIA Corporation"  device_address_bits: 64
  cuda_compute_capability { major: 9 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  device_memory_size: 151397597184  memory_bandwidth: 4800000000000  l2_cache_size: 52428800
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024  thread_dim_limit_y: 1024  thread_dim_limit_z: 64
  driver_version: "12.9.0"  runtime_version: "12.9.0"  compile_time_toolkit_version: "12.9.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""


def h200_devices(count: int) -> list[Any]:
    """So many devices of one host to compile for. SystemExit where JAX's CUDA plugin is not installed."""
    found = find_spec("jax_plugins")
    libraries = [so for folder in (found.submodule_search_locations or () if found else ()) for so in _plugins(folder)]
    if not libraries:
        raise SystemExit(f'expected JAX\'s CUDA plugin; found none: pip install "jax[cuda12]=={jax.__version__}"')
    # By hand: the plugin's own start looks for a device, and refuses without one.
    if "cuda" not in xla_bridge._topology_factories:
        xla_bridge.register_plugin("cuda", library_path=str(libraries[0]))
    described = topologies.get_topology_desc("", "cuda", target_config=DESCRIPTION, topology=f"1x1x{count}")
    return list(described.devices)


def _plugins(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("xla_cuda*/xla_cuda_plugin.so"))
