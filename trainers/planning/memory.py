"""Whether a run's state fits into its devices' memory, found out before anything is allocated."""

import os
from pathlib import Path

import jax

from pipelines.contract.errors import FailedWork
from trainers.config import RunConfig
from trainers.planning.plan import device_gib
from trainers.setup import abstract_state

# Limits of a container: the second version of control groups, then the first.
_CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def check_memory(config: RunConfig, limit_gib: float | None = None) -> None:
    """Raises FailedWork where state and gradients alone exceed what one device has.

    A machine that runs out of memory kills the process without a word, or slows to a halt before. limit_gib: of one
    device; looked up by default.
    """
    limit = device_limit_gib() if limit_gib is None else limit_gib
    held = device_gib(config, abstract_state(config))
    if limit is None or sum(held.values()) <= limit:
        return
    parts = ", ".join(f"{name.replace('_', ' ')} {size:.1f}" for name, size in held.items())
    raise FailedWork(
        f"{config.model}: expected a device with at least {sum(held.values()):.1f} GiB ({parts}; activations on top), "
        f"found {limit:.1f} GiB. Take more devices with --fsdp, a LoRA model or --freeze, --ema-decay 0, or a smaller "
        "--model; --plan shows what each takes"
    )


def device_limit_gib() -> float | None:
    """The memory of one device of this process; None where its backend does not say."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats["bytes_limit"] / 2**30 if "bytes_limit" in stats else None
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_container_limits()]) / jax.local_device_count() / 2**30


def _container_limits() -> list[int]:
    found = []
    for path in _CONTAINER_LIMITS:
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return found
