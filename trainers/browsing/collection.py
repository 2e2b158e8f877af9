"""What is browsed: every episode of a dataset, or those that a mixture draws from, with findings and segments."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from annotation_tools import filters
from annotation_tools.episodes import Brief, EpisodeStore
from annotation_tools.filters import Findings, count, read_findings
from annotation_tools.merge import read_tables
from mixtures.mixture import Mixture, open_mixture
from mixtures.specs.grammar import Stage
from mixtures.specs.named import names_spec
from pipelines.contract.errors import FailedWork, nearest
from pipelines.contract.words import counted
from pipelines.segments.tables import Annotation
from pipelines.shards.sidecar import ShardName
from pipelines.storage.paths import as_storage_path


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One episode of the list. store: its dataset's number. groups: of the mixture, mostly one. split: of the dataset,
    or of the mixture where there is one. flaws: numbers of the findings that name it.
    """

    key: str
    store: int
    brief: Brief
    groups: tuple[str, ...]
    split: str
    flaws: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Wanted(filters.Wanted):
    """Which episodes to list, of several datasets or a mixture; "" takes all."""

    dataset: str = ""
    group: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Episodes of one or more datasets.

    command: what opens it again. names: of the datasets. lanes: further segments by episode key and annotator.
    """

    title: str
    command: str
    stores: tuple[EpisodeStore, ...]
    names: tuple[str, ...]
    episodes: Mapping[str, Listed]
    findings: Findings
    lanes: Mapping[str, Mapping[str, Sequence[Annotation]]] = field(default_factory=dict)

    def listed(self, key: str) -> Listed:
        """Raises FailedWork that names the nearest ones where there is no such episode; an id alone is enough."""
        if key in self.episodes:
            return self.episodes[key]
        found = [listed for listed in self.episodes.values() if key and listed.brief.episode_id.startswith(key)]
        if len(found) != 1:
            known = [listed.brief.episode_id for listed in self.episodes.values()]
            what = f"{counted(found, 'episode begins', 'episodes begin')} with" if found else "no episode"
            raise FailedWork(f"{self.title}: {what} {key!r}. {nearest(key, known)}")
        return found[0]

    def find(self, wanted: Wanted, offset: int, limit: int) -> tuple[list[Listed], int]:
        """One page of the episodes that are wanted, in the datasets' order, and how many there are."""
        found = [listed for listed in self.episodes.values() if self._takes(wanted, listed)]
        return found[offset : offset + limit], len(found)

    def choices(self) -> dict[str, list[tuple[str, int]]]:
        """By filter, the values that occur and how often, most frequent first; of those that differ at all."""
        every = list(self.episodes.values())
        return {
            "dataset": count(self.names[listed.store] for listed in every),
            "group": count(group for listed in every for group in listed.groups),
            "split": count(listed.split for listed in every),
            **filters.choices((listed.brief, self.kinds(listed)) for listed in every),
        }

    def kinds(self, listed: Listed) -> tuple[str, ...]:
        """The kinds of the findings that name an episode."""
        return self.findings.kinds(listed.flaws)

    def shard(self, listed: Listed) -> tuple[str, int]:
        """The shard that holds an episode, and its record there."""
        brief, dataset = listed.brief, self.stores[listed.store].dataset
        n_shards = len(dataset.splits[brief.split])
        name = ShardName(name=dataset.name, split=brief.split, shard=brief.shard, n_shards=n_shards)
        return str(dataset.path / name.file_name), brief.row

    def _takes(self, wanted: Wanted, listed: Listed) -> bool:
        pairs = ((wanted.dataset, self.names[listed.store]), (wanted.split, listed.split))
        if any(asked and asked != found for asked, found in pairs):
            return False
        if wanted.group and wanted.group not in listed.groups:
            return False
        return wanted.takes(listed.brief, self.kinds(listed))


def open_collection(
    source: str,
    *,
    root: str | None = None,
    stage: Stage | None = None,
    findings: Path | None = None,
) -> Collection:
    """Opens a dataset (folder or URL) or a mixture spec (YAML).

    findings: what `embodimix check --json` printed of the dataset; without it, the findings in the manifests, which
    name some of the episodes. Raises FailedWork where a dataset is missing or incomplete, UsageError on a spec's
    mistakes.
    """
    if names_spec(source):
        mixture = open_mixture(source, root=root, stage=stage)
        return _of_mixture(source, mixture, findings)
    store = EpisodeStore(as_storage_path(source))
    named = f"{store.dataset.name} {store.dataset.version}"
    whole = [(0, brief, "", brief.split) for brief in store.briefs.values()]
    known = read_findings([store], findings)
    return Collection(
        title=named,
        command=f"embodimix browse {source}",
        stores=(store,),
        names=(named,),
        episodes={listed.key: listed for listed in _listed(whole, known)},
        findings=known,
    )


def _of_mixture(source: str, mixture: Mixture, findings: Path | None) -> Collection:
    numbers: dict[str, int] = {}
    for table in mixture.tables:
        numbers.setdefault(table.path, len(numbers))
    stores = [EpisodeStore(as_storage_path(path)) for path in numbers]
    names = tuple(f"{store.dataset.name} {store.dataset.version}" for store in stores)
    known = read_findings(stores, findings)
    episodes: dict[str, Listed] = {}
    for listed in _listed(_drawn(mixture, stores, numbers), known):
        # A spec may name a dataset twice, with other filters or shares.
        earlier = episodes.get(listed.key, listed)
        episodes[listed.key] = replace(earlier, groups=tuple(dict.fromkeys((*earlier.groups, *listed.groups))))
    return Collection(
        title=mixture.spec.name,
        command=f"embodimix browse {source}",
        stores=tuple(stores),
        names=names,
        episodes=episodes,
        findings=known,
        lanes=_lanes(mixture, stores, numbers, episodes),
    )


def _drawn(
    mixture: Mixture, stores: Sequence[EpisodeStore], numbers: Mapping[str, int]
) -> Iterator[tuple[int, Brief, str, str]]:
    """Dataset, episode, group and split of everything that the mixture draws from or validates on."""
    by_row = [{(brief.split, brief.shard, brief.row): brief for brief in store.briefs.values()} for store in stores]
    rows_by_table = [_rows_in_shards(stores[numbers[table.path]], table.split) for table in mixture.tables]
    for split, index in mixture.splits.items():
        for number, group in enumerate(mixture.groups):
            for place in range(int(index.group_edges[number]), int(index.group_edges[number + 1])):
                table_number = int(index.table[place])
                table = mixture.tables[table_number]
                store = numbers[table.path]
                shard, row = rows_by_table[table_number][int(index.row[place])]
                yield store, by_row[store][table.split, shard, row], group.name, split


def _rows_in_shards(store: EpisodeStore, split: str) -> list[tuple[int, int]]:
    """For every row of a compiled split, the shard and the row inside its sidecar: the compiled order is the stored."""
    rows = [(brief.shard, brief.row) for brief in store.briefs.values() if brief.split == split]
    return sorted(rows)


def _lanes(
    mixture: Mixture, stores: Sequence[EpisodeStore], numbers: Mapping[str, int], episodes: Mapping[str, Listed]
) -> dict[str, dict[str, list[Annotation]]]:
    """The segments that the spec lays over a dataset's own."""
    lanes: dict[str, dict[str, list[Annotation]]] = {}
    overlays = {(entry.path, path) for entry in mixture.spec.root.all_entries() for path in entry.segments}
    for dataset, path in sorted(overlays):
        number = numbers[dataset]
        for table in read_tables(stores[number], [as_storage_path(path)]):
            for annotation in table:
                key = f"{number}-{annotation.episode_id}"
                if key in episodes:
                    lanes.setdefault(key, {}).setdefault(annotation.annotator, []).append(annotation)
    return lanes


def _listed(episodes: Iterable[tuple[int, Brief, str, str]], findings: Findings) -> Iterator[Listed]:
    for store, brief, group, split in episodes:
        yield Listed(
            key=f"{store}-{brief.episode_id}",
            store=store,
            brief=brief,
            groups=(group,) if group else (),
            split=split,
            flaws=findings.of(store, brief),
        )
