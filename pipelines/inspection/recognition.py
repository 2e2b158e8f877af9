"""Which format an input is of: every format's reader tries it and says why not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.contract.errors import UsageError, describe_missing
from pipelines.inspection.description import Description, describe_sample
from pipelines.inspection.sampling import MAX_FOUND, SCAN_S, Misfit, Sample, take_sample
from pipelines.mapping.formats import list_formats
from pipelines.sources.folders import ScanLimit, limited_scan, scan_files, source_root
from pipelines.storage.paths import RemotePath


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """What the readers say of an input.

    understood: the description and the sample of each format that read episodes, the most fitting first. near: format
    -> why not, where files of its kind are there; others: where not even these are. holds: suffix -> files.
    """

    understood: tuple[tuple[Description, Sample], ...]
    near: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    holds: Mapping[str, int] = field(default_factory=dict)


def recognize(source: str, format: str = "") -> Recognition:
    """Has one format, or each, try an input. Raises UsageError where there is nothing at the path."""
    root = source_root(source)
    if not root.exists():
        missing = "" if isinstance(root, RemotePath) else f"; {describe_missing(root)}"
        raise UsageError(f"{source}: expected a folder, a file or a URL, found nothing{missing}")
    understood: list[tuple[Description, Sample]] = []
    near: dict[str, str] = {}
    others: dict[str, str] = {}
    limit = ScanLimit(seconds=SCAN_S, n_found=MAX_FOUND)
    for name in [format] if format else _in_order():
        try:
            sample = take_sample(name, source, limit)
        except Misfit as misfit:
            (near if misfit.near else others)[name] = _without_path(str(misfit), source)
            continue
        understood.append((describe_sample(source, sample), sample))
    holds = {} if understood else _count_files(source)
    return Recognition(understood=tuple(understood), near=near, others=others, holds=holds)


def _in_order() -> Sequence[str]:
    """The formats, those that read files of any content by an entry's keys last."""
    return sorted(list_formats(), key=lambda name: (name == "hdf5", name))


def _without_path(reason: str, source: str) -> str:
    return reason.removeprefix(f"{source}: ").removeprefix(f"{source_root(source)}: ")


def _count_files(source: str) -> dict[str, int]:
    """How many files of which suffix there are, the most frequent first, as far as a short scan sees."""
    root = source_root(source)
    if not isinstance(root, RemotePath) and not root.is_dir():
        return {root.suffix: 1}
    with limited_scan(ScanLimit(seconds=SCAN_S, n_found=MAX_FOUND)):
        found = scan_files(root, "*").found
    return dict(Counter(Path(path.name).suffix or path.name for path in found).most_common(8))
