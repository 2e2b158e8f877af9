"""What the PyTorch adapter costs: samples a second against the stream itself, in one process and in two workers.

    python -m benchmarks.torch_stream [--seconds 8] [--rounds 3] [--json FILE]

The data of `benchmarks.stream`, in the page cache; needs the extra `torch`. Every loader runs in a process of its own,
by turns, and the table gives medians over the rounds. Ratios are taken inside a round, since the machine may do something
else in another. The first batch counts from a loader's first `iter`, workers' start included, with the mixture open;
that of batches of 1 is little else than a worker's start.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.stream import BATCH, make_data
from mixtures.mixture import Mixture, open_mixture
from mixtures.stream.batches import Stream

WARM_UP = 4


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One loader in one round; first_s: until its first batch."""

    name: str
    samples_per_s: float
    first_s: float


def main() -> None:
    """Makes the data, runs every loader by turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, help="data that `benchmarks.stream` made; made again by default")
    parser.add_argument("--worker", choices=LOADERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(asdict(measure(arguments.worker, arguments.data, arguments.seconds))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = arguments.data or Path(scratch)
        if arguments.data is None:
            make_data(data)
        rounds = [{name: _run(name, data, arguments.seconds) for name in LOADERS} for _ in range(arguments.rounds)]
    _print(rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps([[asdict(one) for one in found.values()] for found in rounds], indent=1))


def measure(name: str, data: Path, seconds: float) -> Measurement:
    """Runs one loader for some seconds in this process."""
    mixture = open_mixture(data / "mixture.yaml", cache=data / "cache")
    loader = LOADERS[name].batches(mixture)  # imports PyTorch, which is no part of a loader's start
    begin = time.perf_counter()
    batches = iter(loader)
    next(batches)
    first_s = time.perf_counter() - begin
    for _ in range(WARM_UP):
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        next(batches)
        count += LOADERS[name].batch_size
    return Measurement(name=name, samples_per_s=count / (time.perf_counter() - start), first_s=first_s)


@dataclass(frozen=True, kw_only=True)
class Loader:
    """What is measured; workers: None for the stream itself; threads: of each process, the default ones for None."""

    workers: int | None = None
    threads: int | None = None
    batch_size: int = BATCH

    def batches(self, mixture: Mixture) -> Iterable[object]:
        """Batches without end."""
        if self.workers is None:
            return Stream(mixture, batch_size=self.batch_size, threads=self.threads).batches()
        from torch.utils.data import DataLoader

        from mixtures.torch.datasets import StreamDataset

        dataset = StreamDataset(mixture, batch_size=self.batch_size, threads=self.threads)
        return DataLoader(dataset, batch_size=None, num_workers=self.workers)


LOADERS = {
    "stream": Loader(),
    "torch, no worker": Loader(workers=0),
    "torch, 1 worker": Loader(workers=1),
    "torch, 2 workers": Loader(workers=2),
    "torch, 1 worker of 1 thread": Loader(workers=1, threads=1),
    "torch, 2 workers of 1 thread": Loader(workers=2, threads=1),
    "torch, 1 worker, batches of 1": Loader(workers=1, batch_size=1),
}


def _run(name: str, data: Path, seconds: float) -> Measurement:
    for path in data.glob("d*/1.0.0/*.tfrecord-*"):
        path.read_bytes()
    command = [sys.executable, "-m", "benchmarks.torch_stream", "--worker", name, "--data", str(data)]
    done = subprocess.run([*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True, check=True)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def _print(rounds: list[dict[str, Measurement]]) -> None:
    print("| loader | samples/s | of the stream | first batch s |")
    print("|---|---|---|---|")
    for name in LOADERS:
        rate = median(found[name].samples_per_s for found in rounds)
        ratio = median(found[name].samples_per_s / found["stream"].samples_per_s for found in rounds)
        first_s = median(found[name].first_s for found in rounds)
        print(f"| {name} | {rate:.0f} | {ratio:.2f} | {first_s:.2f} |")


if __name__ == "__main__":
    main()
