"""The closing of a conversion: manifest, rejects, statistics and card, then the metadata that makes it a dataset."""

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.contract.errors import FailedWork
from pipelines.contract.native import Reject
from pipelines.conversion.code_hash import code_hash
from pipelines.conversion.measure import Measured
from pipelines.conversion.plan import Job
from pipelines.conversion.results import ShardResult
from pipelines.shards.schema import write_metadata
from pipelines.shards.statistics import save_statistics
from pipelines.storage.files import atomic_file, sweep_leftovers, write_atomically
from pipelines.storage.paths import RemotePath, StoragePath

SCHEMA = "embodimix.manifest/v1"


def finish_dataset(
    job: Job, n_planned: int, measured: Measured, results: Sequence[ShardResult], scan_rejects: Sequence[Reject]
) -> dict[str, Any]:
    """Writes everything beside the shards, the TFDS metadata last, removes the work folder; returns the counts.

    n_planned: the episodes of the input, as the plan counted them. scan_rejects: those lost before any work began.
    Raises FailedWork when every episode was rejected; rejects.parquet is then written, the metadata is not.
    """
    directory = job.place
    # All shards are whole: whoever still writes one is a task that a cluster gave to others, and must not end it.
    sweep_leftovers(directory, wanted=False)
    rejects = sorted(
        [*scan_rejects, *(reject for result in results for reject in result.rejects)],
        key=lambda reject: (reject.split, reject.source_key, reject.start, reject.reason),
    )
    write_rejects(directory / "rejects.parquet", rejects)
    counts = count_all(n_planned, measured, results, rejects)
    if not counts["episodes_out"]:
        raise FailedWork(_all_rejected(job, rejects))
    save_statistics(directory / "statistics.json", measured.statistics)
    manifest = make_manifest(job, counts, results, rejects)
    write_atomically(directory / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    write_atomically(directory / "card.md", make_card(job, measured, counts).encode())
    shard_lengths: dict[str, list[int]] = defaultdict(list)
    shard_bytes: Counter[str] = Counter()
    for result in sorted(results, key=lambda result: result.shard):
        shard_lengths[result.shard.split].append(result.n_episodes)
        shard_bytes[result.shard.split] += result.n_bytes
    write_metadata(
        directory,
        name=job.name,
        version=job.version,
        cameras=measured.dataset_cameras,
        shard_lengths=shard_lengths,
        shard_bytes=shard_bytes,
        description=job.adapter.title,
    )
    remove_tree(job.work)
    return counts


def remove_tree(place: StoragePath) -> None:
    """Removes a folder and all below it, if it is there; late writers find it gone at once, not piece by piece."""
    if not isinstance(place, RemotePath):
        gone = trash_path(place)
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.rename(place, gone)
        shutil.rmtree(gone, ignore_errors=True)
        return
    for item in place.rglob("*"):
        item.unlink(missing_ok=True)


def trash_path(place: StoragePath) -> StoragePath:
    """Where a folder lies while it is removed."""
    return place.parent / f"{place.name}.gone"


def count_all(
    n_planned: int, measured: Measured, results: Sequence[ShardResult], rejects: Sequence[Reject]
) -> dict[str, Any]:
    """Returns what went in, what came out, and what was left out by reason; episodes_in is always out + rejected."""
    whole = [reject for reject in rejects if reject.level == "episode"]
    missing: Counter[str] = Counter()
    for result in results:
        for kept in result.kept:
            missing.update(kept.missing_cameras)
    n_out = sum(result.n_episodes for result in results)
    return {
        "episodes_in": n_planned,
        "episodes_out": n_out,
        "episodes_rejected": len(whole),
        "steps_out": sum(result.n_steps for result in results),
        "steps_dropped": sum(reject.end - reject.start for reject in rejects if reject.level == "steps"),
        "bytes_out": sum(result.n_bytes for result in results),
        "rejects": dict(sorted(Counter(reject.reason for reject in rejects).items())),
        "cameras": {
            camera: {"present": n_out - missing[camera], "missing": missing[camera]}
            for camera in measured.dataset_cameras
        },
    }


def make_manifest(
    job: Job, counts: Mapping[str, Any], results: Sequence[ShardResult], rejects: Sequence[Reject]
) -> dict[str, Any]:
    """Returns the manifest: options, code, counts, shards, and for every source reference where it went."""
    ordered = sorted(results, key=lambda result: result.shard)
    return {
        "schema": SCHEMA,
        "name": job.name,
        "version": job.version,
        "converter": job.converter,
        "options_hash": job.options_hash,
        "code_hash": code_hash(job.adapter, job.robot),
        "adapter": json.loads(_to_json(job.adapter)),
        "robot": job.robot or None,
        "task": job.task or None,
        "partial": job.partial,
        "appended_to": job.appended_to or None,
        "counts": dict(counts),
        "shards": [
            {
                **asdict(result.shard),
                "n_episodes": result.n_episodes,
                "n_steps": result.n_steps,
                "n_bytes": result.n_bytes,
                "sha256": result.sha256,
            }
            for result in ordered
        ],
        "episodes": [
            {
                "source_uri": kept.source_uri,
                "source_key": kept.source_key,
                "record_key": kept.record_key,
                "split": result.shard.split,
                "place": list(kept.place),
                "shard": result.shard.shard,
                "record": record,
                "n_steps": kept.n_steps,
                "missing_cameras": list(kept.missing_cameras),
                "notes": dict(kept.notes),
            }
            for result in ordered
            for record, kept in enumerate(result.kept)
        ],
        "rejected": [
            {
                "source_uri": reject.source_uri,
                "source_key": reject.source_key,
                "split": reject.split,
                "reason": reject.reason,
            }
            for reject in rejects
            if reject.level == "episode"
        ],
    }


def write_rejects(path: StoragePath, rejects: Sequence[Reject]) -> None:
    """Writes rejects.parquet, one row per episode or stretch of steps that was left out."""
    schema = pa.schema(
        [(field.name, pa.int32() if field.name in ("start", "end") else pa.string()) for field in fields(Reject)]
    )
    table = pa.Table.from_pylist([asdict(reject) for reject in rejects], schema=schema)
    with atomic_file(path) as file:
        pq.write_table(table, file)


def make_card(job: Job, measured: Measured, counts: Mapping[str, Any]) -> str:
    """Returns the data card in Markdown: what is in the dataset, where it is from, what was left out."""
    lines = [
        f"# {job.name} {job.version}",
        "",
        f"{job.adapter.title}.",
        "",
        f"- Episodes: {counts['episodes_out']} of {counts['episodes_in']}; steps: {counts['steps_out']}; "
        f"{counts['bytes_out'] / 1e6:.1f} MB",
        f"- Adapter: `{job.adapter.name}` (format {job.adapter.format}); converter: {job.converter}, "
        f"options `{job.options_hash}`",
        f"- Steps left out by the adapter: {counts['steps_dropped']}",
        *_partial_line(job, counts),
        "",
        "## Robots and control modes",
        "",
        "| norm key | episodes | steps |",
        "|---|---|---|",
    ]
    lines += [f"| {key} | {s.n_episodes} | {s.n_steps} |" for key, s in sorted(measured.statistics.items())]
    lines += ["", "## Cameras", "", "| camera | episodes with it | without |", "|---|---|---|"]
    lines += [f"| {camera} | {n['present']} | {n['missing']} |" for camera, n in counts["cameras"].items()]
    lines += ["", "## Left out", "", "| reason | rows in rejects.parquet |", "|---|---|"]
    lines += [f"| {reason} | {n} |" for reason, n in counts["rejects"].items()] or ["| nothing | 0 |"]
    return "\n".join(lines) + "\n"


def _partial_line(job: Job, counts: Mapping[str, Any]) -> list[str]:
    if not job.partial:
        return []
    n = counts["rejects"].get("promised_missing", 0)
    return [f"- A part of its source, taken on purpose (`--partial`): {n} promised episodes were not there"]


def _all_rejected(job: Job, rejects: Sequence[Reject]) -> str:
    reasons = Counter(reject.reason for reject in rejects if reject.level == "episode")
    first = next(reject for reject in rejects if reject.level == "episode")
    listed = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
    return (
        f"every episode was rejected ({listed}); {job.directory} is no dataset, its rejects.parquet names each. "
        f"The first: {first.source_key}: {first.detail}"
    )


def _to_json(adapter: Any) -> str:
    return json.dumps(asdict(adapter), sort_keys=True)
