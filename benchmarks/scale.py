"""A large run on paper: bytes, reads, memory, time and cost, and how often slow reads would hold up a step.

    python -m benchmarks.scale [--hosts 64] [--steps 700000] [--batch-size 2048] [--device-tflops 400] [--json]

Arithmetic from the model that is traced, the index's formats and the numbers named in `Plan`; the waiting comes from a
simulation that draws the latency of every read of every host. Trains nothing; a quarter of a minute.
"""

import argparse
import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixtures.index.compiling import episode_type, step_type
from model.config import named_config
from pipelines.contract.layouts import get_layout
from pipelines.contract.slots import LAYOUT
from trainers.planning.work import forward_flops

PARAMETERS = 3_238_005_506
MOMENTS = 2  # of AdamW
PICTURE_BYTES = 224 * 224 * 3
SIMULATED_STEPS = 2000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is assumed. device_tflops: attained, not the peak.

    mixture_steps: 903 M in-house and 52.6 M open ones (`mix plan --published`). picture_bytes: a JPEG of 224 x 224 at
    quality 95. decoded_per_core: pictures a second and core. Latency of a read: log-normal with this median and 99th
    percentile; one in slow_every takes slow_s and more. network_bytes_s: of each device, to other hosts. Prices in
    dollars: read_price for 10,000 reads, month_price for 1 GB stored.
    """

    hosts: int = 64
    devices_per_host: int = 8
    steps: int = 700_000
    batch_size: int = 2048
    cameras: int = 3
    device_tflops: float = 400.0
    mixture_steps: int = 955_600_881
    episodes: int = 3_000_000
    picture_bytes: int = 24_000
    decoded_per_core: float = 4189.0
    latency_median_s: float = 0.030
    latency_p99_s: float = 0.150
    slow_every: int = 100_000
    slow_s: float = 2.0
    reads_in_flight: int = 256
    batches_ahead: int = 64
    network_bytes_s: float = 50e9
    device_hour: float = 2.50
    read_price: float = 0.004
    month_price: float = 0.020


def main() -> None:
    """Prints the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Plan):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    parser.add_argument("--json", action="store_true")
    arguments = vars(parser.parse_args())
    as_json = arguments.pop("json")
    plan = Plan(**arguments)
    numbers = on_paper(plan) | waiting(plan)
    print(json.dumps(numbers, indent=1) if as_json else render(numbers))


def on_paper(plan: Plan) -> dict[str, float]:
    """The arithmetic."""
    devices = plan.hosts * plan.devices_per_host
    samples = plan.steps * plan.batch_size
    sample_flops = 4 * forward_flops(named_config("pi0"), plan.cameras)  # the backward pass computes the layers again
    step_s = plan.batch_size * sample_flops / (devices * plan.device_tflops * 1e12)
    hours = plan.steps * step_s / 3600
    samples_s = plan.batch_size / step_s
    sample_bytes = plan.cameras * plan.picture_bytes
    stored = plan.mixture_steps * sample_bytes
    shard = 4 * PARAMETERS / plan.devices_per_host
    slots = get_layout(LAYOUT).n_slots
    step_bytes = step_type(slots).itemsize + 4 * slots + 1  # with the action, and whether the step is idle
    return {
        "samples, millions": samples / 1e6,
        "epochs of the mixture": samples / plan.mixture_steps,
        "step, s": step_s,
        "samples a second": samples_s,
        "hours": hours,
        "device hours": hours * devices,
        "pictures stored, TB": stored / 1e12,
        "pictures read, TB": samples * sample_bytes / 1e12,
        "read of every host, MB/s": samples_s * sample_bytes / plan.hosts / 1e6,
        "reads of every host a second": samples_s * plan.cameras / plan.hosts,
        "cores a host decodes with": samples_s * plan.cameras / plan.hosts / plan.decoded_per_core,
        "index of every host on disk, GB": plan.mixture_steps * step_bytes / 1e9,
        "its tables in memory, GB": plan.episodes * episode_type(slots).itemsize / 1e9,
        "batches ahead of a host in memory, GB": (
            plan.batches_ahead * plan.batch_size / plan.hosts * plan.cameras * PICTURE_BYTES / 1e9
        ),
        "parameters, moments, average and gradients of a device, GB": (1 + MOMENTS + 1 + 1) * shard / 1e9,
        "saved activations of a device, GB": 0.110 * plan.batch_size / devices,
        "gradients to other hosts, s a step": 2 * shard / plan.network_bytes_s,
        "checkpoint, GB": (1 + MOMENTS + 1) * 4 * PARAMETERS / 1e9,
        "devices, $": hours * devices * plan.device_hour,
        "reads, $": samples * plan.cameras / 10_000 * plan.read_price,
        "storage of a month, $": stored / 1e9 * plan.month_price,
    }


def waiting(plan: Plan) -> dict[str, float]:
    """Simulates the reads: part of the time that devices wait for the slowest host's batch.

    A host reads the batches ahead with a bounded number of reads in flight; a batch is there when its slowest read is,
    and the step begins when every host has its batch. Tried with few batches ahead as well as with those planned.
    """
    step_s = on_paper(plan)["step, s"]
    random = np.random.default_rng(0)
    reads = max(plan.batch_size * plan.cameras // plan.hosts, 1)
    sigma = np.log(plan.latency_p99_s / plan.latency_median_s) / 2.326
    slowest = np.empty((SIMULATED_STEPS, plan.hosts))
    for step in range(SIMULATED_STEPS):
        latency = plan.latency_median_s * np.exp(sigma * random.standard_normal((plan.hosts, reads)))
        slow = random.random((plan.hosts, reads)) < 1 / plan.slow_every
        latency[slow] += plan.slow_s * random.exponential(1.0, slow.sum()) + plan.slow_s
        # One batch's reads go out in waves of what may be in flight, shared by the batches being read.
        waves = reads * latency.mean(axis=1) / plan.reads_in_flight
        slowest[step] = np.maximum(latency.max(axis=1), waves)
    return {
        f"waiting with {ahead} batches ahead, %": 100 * _share(slowest, step_s, ahead)
        for ahead in (2, 8, plan.batches_ahead)
    }


def _share(duration: np.ndarray, step_s: float, ahead: int) -> float:
    """Part of the time spent waiting, given how long each batch of each host takes from its first read."""
    ends = np.zeros(len(duration) + 1)
    waited = 0.0
    for step, batch_s in enumerate(duration):
        begun = ends[max(step - ahead, 0)]  # a slot in the queue was free
        ready = (begun + batch_s).max()
        waited += max(ready - ends[step], 0.0) if step >= ahead else 0.0
        ends[step + 1] = max(ends[step], ready) + step_s
    return waited / ends[-1]


def render(numbers: dict[str, Any]) -> str:
    """One number a line."""
    return "\n".join(f"{name:<60} {value:>14,.3f}" for name, value in numbers.items())


if __name__ == "__main__":
    main()
