"""What the stream costs: samples a second against decoding alone and against a shuffle-buffer loader, and memory.

    python -m benchmarks.stream [--seconds 8] [--rounds 3] [--json FILE]

Generated data: 40 groups in 40 datasets, 32,000 steps with three 224x224 JPEGs of some 24 KB, in the page cache. A
sample is three decoded pictures, state and a chunk of 50. Every loader runs in a process of its own, by turns; the
table gives medians over the rounds. The limit is such pictures decoded from memory, into one buffer that stays in the
processor's cache, by one process a core; `limit, batches` decodes them into batches, as every loader must. Processor
time a sample, and its ratio to the limit's, hardly depend on what else the machine does; samples a second do. Takes
some five minutes on two cores, and 2.4 GB of disk.

The other loaders are written with tf.data as the public ones are: episodes read and parsed in parallel by group, cut
into samples, groups mixed, shuffled in a buffer. `as openpi` drops idle samples and decodes before it mixes and
shuffles, so that the buffer holds decoded pictures; `as Octo` decodes after, and does not resize. Their buffer of 500
samples is a small one: the public defaults are 250,000 and up.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import simplejpeg

BATCH, HORIZON, DATASETS, EPISODES, STEPS, SHARDS = 64, 50, 40, 4, 200, 4
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
BUFFER = 500
LIMITS = {"limit": 1, "limit, batches": 3 * BATCH}  # and how many pictures each decodes before it starts over


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One loader in one round. memory_mb: peak anonymous and shared memory; first_s: until the first batch.

    cpu_ms: processor time a sample, of all threads. pairs: same-episode pairs in a batch.
    """

    name: str
    samples_per_s: float
    cpu_ms: float
    first_s: float
    memory_mb: float
    pairs: float


def main() -> None:
    """Makes the data, runs every loader by turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=sorted(LOADERS), help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(asdict(measure(arguments.worker, arguments.data, arguments.seconds))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        make_data(data)
        os.sync()  # or the first loaders would share the machine with the writing
        rounds = [{name: _run(name, data, arguments.seconds) for name in LOADERS} for _ in range(arguments.rounds)]
    summary = {name: _median([one[name] for one in rounds]) for name in LOADERS}
    _print(summary)
    if arguments.json:
        arguments.json.write_text(json.dumps({name: asdict(value) for name, value in summary.items()}, indent=1))


def make_data(root: Path) -> None:
    """Writes the datasets and a mixture over them."""
    from pipelines.contract.episode import Episode, Reference
    from pipelines.shards.statistics import merge_statistics, save_statistics, summarize_episode
    from pipelines.shards.writer import write_shard

    rng = np.random.default_rng(0)
    jpegs = [jpeg(rng) for _ in range(64)]
    mask = np.arange(18) < 7
    for number in range(DATASETS):
        name = f"d{number:02d}"
        episodes = []
        for i in range(EPISODES):
            motion = (np.cumsum(rng.normal(0, 0.02, (STEPS, 18)), axis=0) * mask).astype(np.float32)
            images = {camera: [jpegs[j] for j in rng.integers(0, len(jpegs), STEPS)] for camera in CAMERAS}
            zeros = np.zeros(STEPS, np.float32)
            episodes.append(
                Episode(
                    reference=Reference(uri=name, key=f"{name}-{i}"),
                    robot=f"r{number}",
                    control_hz=20.0,
                    control_mode="joint_position",
                    state=motion,
                    action=motion,
                    timestamp_s=np.arange(STEPS) / 20,
                    state_mask=mask,
                    action_mask=mask,
                    parts={"arm0": tuple(range(6)), "gripper0": (6,)},
                    images=images,
                    dataset_cameras=CAMERAS,
                    task="task",
                    language=("do the task",),
                    success=1,
                    is_terminal=True,
                    reward=zeros,
                    discount=zeros,
                    is_idle=np.zeros(STEPS, bool),
                )
            )
        folder = root / name / "1.0.0"
        statistics = merge_statistics(
            [{e.norm_key: summarize_episode(e.norm_key, e.state, e.action, mask, mask)} for e in episodes]
        )
        for shard in range(SHARDS):
            write_shard(
                folder,
                name=name,
                split="train",
                shard=shard,
                n_shards=SHARDS,
                episodes=episodes[shard::SHARDS],
                statistics=statistics,
                cameras=CAMERAS,
                converter="benchmark",
                options_hash="0",
                on_reject=_refuse,
            )
        save_statistics(folder / "statistics.json", statistics)
        _write_info(folder, name)
    lines = [f"  - {{path: d{number:02d}/1.0.0}}" for number in range(DATASETS)]
    head = "schema: embodimix.mixture/v1\nname: benchmark\naction: {horizon: 50}\ndatasets:\n"
    (root / "mixture.yaml").write_text(head + "\n".join(lines) + "\n")


def measure(name: str, data: Path, seconds: float) -> Measurement:
    """Runs one loader for some seconds in this process."""
    begin = time.perf_counter()
    batches = LOADERS[name](data)
    if name in LIMITS:
        rate, cpu_ms = _limit(seconds, LIMITS[name])
        return Measurement(name=name, samples_per_s=rate, cpu_ms=cpu_ms, first_s=0.0, memory_mb=0.0, pairs=0.0)
    peak = _Peak()
    pairs = [_same_episode_pairs(next(batches))]
    first_s = time.perf_counter() - begin
    for _ in range(4):
        next(batches)
    count, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        pairs.append(_same_episode_pairs(next(batches)))
        count += BATCH
    rate, cpu_ms = count / (time.perf_counter() - start), 1e3 * (time.process_time() - cpu_start) / count
    return Measurement(
        name=name,
        samples_per_s=rate,
        cpu_ms=cpu_ms,
        first_s=first_s,
        memory_mb=peak.stop(),
        pairs=float(np.mean(pairs)),
    )


def stream_batches(data: Path) -> Iterator[list[str]]:
    """The stream of this project; yields each sample's episode."""
    from mixtures.mixture import open_mixture
    from mixtures.stream.batches import Stream

    mixture = open_mixture(data / "mixture.yaml", cache=data / "cache")
    for batch in Stream(mixture, batch_size=BATCH).batches():
        yield batch.episode_id


def octo_batches(data: Path) -> Iterator[list[str]]:
    """Groups mixed, shuffled while their pictures are compressed, then decoded."""
    tf = _tensorflow()
    mixed = _mix(tf, [_tf_group(tf, folder) for folder in sorted(data.glob("d*/1.0.0"))])
    decoded = mixed.shuffle(BUFFER).map(lambda sample: _decoded(tf, sample), num_parallel_calls=tf.data.AUTOTUNE)
    yield from _named_batches(tf, decoded)


def openpi_batches(data: Path) -> Iterator[list[str]]:
    """Groups without their idle samples, decoded, mixed, and shuffled with decoded pictures."""
    tf = _tensorflow()

    def moves(sample: Any) -> Any:
        return tf.reduce_any(tf.abs(sample["action"][: HORIZON // 2] - sample["action"][:1]) > 1e-3)

    groups = [
        _tf_group(tf, folder)
        .filter(moves)
        .map(lambda sample: _decoded(tf, sample), num_parallel_calls=tf.data.AUTOTUNE)
        for folder in sorted(data.glob("d*/1.0.0"))
    ]
    yield from _named_batches(tf, _mix(tf, groups).shuffle(BUFFER))


def _tensorflow() -> Any:
    os.environ["CUDA_VISIBLE_DEVICES"], os.environ["TF_CPP_MIN_LOG_LEVEL"] = "", "3"
    import tensorflow as tf

    return tf


def _mix(tf: Any, groups: list[Any]) -> Any:
    return tf.data.Dataset.sample_from_datasets(groups, [1 / len(groups)] * len(groups), seed=0)


def _decoded(tf: Any, sample: Any) -> Any:
    return {
        key: tf.io.decode_image(value, expand_animations=False, dtype=tf.uint8) if key in CAMERAS else value
        for key, value in sample.items()
    }


def _named_batches(tf: Any, samples: Any) -> Iterator[list[str]]:
    options = tf.data.Options()
    options.autotune.ram_budget = 2**30
    for batch in samples.batch(BATCH).with_options(options).as_numpy_iterator():
        yield [text.decode() for text in batch["episode"]]


def _tf_group(tf: Any, folder: Path) -> Any:
    """Steps of one dataset, forever, their pictures still encoded."""
    lists = tf.io.RaggedFeature
    features = {f"steps/observation/{camera}": lists(tf.string) for camera in CAMERAS}
    features |= {"steps/action": lists(tf.float32), "steps/observation/state": lists(tf.float32)}
    features |= {"steps/language_instruction": lists(tf.string)}
    features |= {"episode_metadata/episode_id": tf.io.FixedLenFeature([], tf.string)}

    def episode(record: Any) -> Any:
        found = tf.io.parse_single_example(record, features)
        action = tf.reshape(found["steps/action"], [-1, 18])
        n = tf.shape(action)[0]
        ahead = tf.minimum(tf.range(n)[:, None] + tf.range(HORIZON), n - 1)
        pictures = {camera: found[f"steps/observation/{camera}"] for camera in CAMERAS}
        vectors = {"action": tf.gather(action, ahead), "state": tf.reshape(found["steps/observation/state"], [-1, 18])}
        texts = {"prompt": found["steps/language_instruction"]}
        return pictures | vectors | texts | {"episode": tf.fill([n], found["episode_metadata/episode_id"])}

    files = tf.data.Dataset.from_tensor_slices([str(path) for path in sorted(folder.glob("*.tfrecord-*"))])
    records = files.shuffle(SHARDS).interleave(
        tf.data.TFRecordDataset, cycle_length=16, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
    )
    episodes = records.repeat().map(episode, num_parallel_calls=tf.data.AUTOTUNE)
    return episodes.interleave(tf.data.Dataset.from_tensor_slices, num_parallel_calls=tf.data.AUTOTUNE)


LOADERS: dict[str, Callable[[Path], Iterator[list[str]]]] = {
    **{name: lambda data: iter(()) for name in LIMITS},
    "stream": stream_batches,
    "as openpi": openpi_batches,
    "as Octo": octo_batches,
}


def _limit(seconds: float, n_images: int) -> tuple[float, float]:
    """Samples a second, and processor ms a sample, of one process a core that only decodes preloaded bytes."""
    cores = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    with context.Pool(cores) as pool:
        found = pool.starmap(_decode_forever, [(seconds, i, n_images) for i in range(cores)])
    return sum(rate for rate, _ in found), sum(cpu_ms for _, cpu_ms in found) / cores


def _decode_forever(seconds: float, seed: int, n_images: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    pictures = [jpeg(rng) for _ in range(64)]
    images = itertools.cycle(np.empty((n_images, 224, 224, 3), np.uint8))
    count, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        for picture in pictures[:60]:
            simplejpeg.decode_jpeg(picture, "RGB", buffer=next(images))
        count += 20
    return count / (time.perf_counter() - start), 1e3 * (time.process_time() - cpu_start) / count


def jpeg(rng: np.random.Generator) -> bytes:
    """A picture with the bytes of a real one at quality 95, some 24 KB: shapes and some noise."""
    coarse = rng.integers(0, 255, (14, 14, 3)).repeat(16, 0).repeat(16, 1)
    noisy = np.clip(coarse + rng.normal(0, 8, coarse.shape), 0, 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(noisy, quality=95, colorsubsampling="420")


def _same_episode_pairs(episodes: list[str]) -> float:
    """Pairs of samples of one batch that come from one episode."""
    _, counts = np.unique(episodes, return_counts=True)
    return float((counts * (counts - 1) // 2).sum())


class _Peak:
    """Watches the anonymous and shared memory of this process."""

    def __init__(self) -> None:
        self.base = self.peak = memory_mb()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ends.wait(0.05):
            self.peak = max(self.peak, memory_mb())

    def stop(self) -> float:
        self._ends.set()
        self._thread.join()
        return self.peak


def memory_mb() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(status[key].split()[0]) for key in ("RssAnon", "RssShmem")) / 1024


def _run(name: str, data: Path, seconds: float) -> Measurement:
    _read_into_cache(data)
    command = [sys.executable, "-m", "benchmarks.stream", "--worker", name, "--data", str(data)]
    done = subprocess.run([*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True, check=True)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def _read_into_cache(data: Path) -> None:
    """Before every loader: systems that save memory drop what was not read for a few minutes."""
    for path in data.glob("d*/1.0.0/*.tfrecord-*"):
        path.read_bytes()


def _median(found: list[Measurement]) -> Measurement:
    numbers = ("samples_per_s", "cpu_ms", "first_s", "memory_mb", "pairs")
    return Measurement(name=found[0].name, **{key: median(getattr(one, key) for one in found) for key in numbers})


def _print(summary: dict[str, Measurement]) -> None:
    limit, stream = summary["limit"], summary["stream"]
    expected = BATCH * (BATCH - 1) / 2 / (DATASETS * EPISODES)
    print("| loader | samples/s | of the limit | cpu ms a sample | of the limit | first batch s | memory MB | pairs |")
    print("|---|---|---|---|---|---|---|---|")
    for name, one in summary.items():
        cells = [
            f"{one.samples_per_s:.0f}",
            f"{one.samples_per_s / limit.samples_per_s:.2f}",
            f"{one.cpu_ms:.3f}",
            f"{limit.cpu_ms / one.cpu_ms:.2f}",
        ]
        cells += [f"{one.first_s:.2f}", f"{one.memory_mb:.0f}", f"{one.pairs:.1f}"] if name not in LIMITS else [""] * 3
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"\nPairs of one episode in a batch of {BATCH}; independent draws would have {expected:.1f}.")
    for name in ("as openpi", "as Octo"):
        other = summary[name]
        times, bound = (one.samples_per_s / other.samples_per_s for one in (stream, limit))
        cost, part = other.cpu_ms / stream.cpu_ms, stream.memory_mb / other.memory_mb
        print(f"Stream against {name}, buffer of {BUFFER}: {times:.2f} times the samples a second, of the limit's")
        print(f"{bound:.2f}; {cost:.2f} times the samples for the same processor time, {part:.2f} of the memory.")


def _write_info(folder: Path, name: str) -> None:
    step = {"observation": {"featuresDict": {"features": {camera: {"image": {}} for camera in CAMERAS}}}}
    features = {"steps": {"sequence": {"feature": {"featuresDict": {"features": step}}}}}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    info = {
        "name": name,
        "version": "1.0.0",
        "splits": [{"name": "train", "shardLengths": [str(EPISODES // SHARDS)] * SHARDS}],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))


def _refuse(reference: Any, reason: str, detail: str) -> None:
    raise AssertionError(f"{reference.key} was rejected: {reason}: {detail}")


if __name__ == "__main__":
    main()
