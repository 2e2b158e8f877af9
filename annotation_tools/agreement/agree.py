"""Agreement of annotators: boundaries, segments and labels of each pair, all of them together, and drift over time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from annotation_tools.episodes import EpisodeStore
from pipelines.segments.tables import Annotation

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LabelBy = Literal["text", "kind"]
TOLERANCES_S = (0.25, 0.5)
OVERLAPS = (0.10, 0.25, 0.50)
UNCOVERED = "(no segment)"


@dataclass(frozen=True, kw_only=True)
class Marking:
    """One annotator's segments of one episode: starts and ends in s, int64 label numbers, when it was done."""

    starts_s: Floats
    ends_s: Floats
    labels: Ints
    created: str
    duration_s: float

    @property
    def boundaries_s(self) -> Floats:
        """The boundaries inside the episode."""
        edges = np.union1d(self.starts_s, self.ends_s)
        return edges[(edges > 1e-9) & (edges < self.duration_s - 1e-9)]


@dataclass(frozen=True, kw_only=True)
class Markings:
    """Who marked what: per annotator and episode a `Marking`; `labels` are the names of the label numbers."""

    layers: Mapping[str, Mapping[str, Marking]]
    control_hz: Mapping[str, float]
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class IntervalEstimate:
    """A statistic and its 95 % interval from resampling episodes; nan where there is nothing to estimate from."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """How two annotators agree on the episodes that both marked.

    boundary_precision, boundary_recall, boundary_f1: by tolerance in s, precision is the share of b's boundaries that
    a has too. offset_s: mean of b's matched boundaries minus a's. segment_iou: mean overlap of a's and b's segments
    with the best one of the other. segment_f1: by least overlap, of segments matched one to one whatever their label.
    label_agreement: the share of equal labels among segments that overlap by half. kappa: Cohen's, step by step.
    """

    a: str
    b: str
    n_episodes: int
    boundary_precision: Mapping[float, IntervalEstimate]
    boundary_recall: Mapping[float, IntervalEstimate]
    boundary_f1: Mapping[float, IntervalEstimate]
    offset_s: IntervalEstimate
    segment_iou: IntervalEstimate
    segment_f1: Mapping[float, IntervalEstimate]
    label_agreement: IntervalEstimate
    kappa: IntervalEstimate


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How an annotator's agreement with the others changes from the earlier to the later half of what they did.

    f1: boundary F1 at 0.25 s, offset_s: mean signed distance of matched boundaries to the others', per half.
    """

    annotator: str
    f1: tuple[float, float]
    offset_s: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Everything that `embodimix annotate agree` reports. alpha: Krippendorff's, nominal, over all annotators."""

    pairs: tuple[PairAgreement, ...]
    alpha: IntervalEstimate
    drifts: tuple[Drift, ...]


def markings_of(store: EpisodeStore, annotations: Sequence[Annotation], label_by: LabelBy = "text") -> Markings:
    """Sorts segments by annotator and episode. Texts are compared without case, end stop and extra space.

    An annotator with segments of several sources, say a proposal and its correction, is one annotator per source.
    """
    sources: dict[str, set[str]] = {}
    for annotation in annotations:
        sources.setdefault(annotation.annotator, set()).add(annotation.segment.source)

    def who(annotation: Annotation) -> str:
        name, source = annotation.annotator, annotation.segment.source
        # A correction would else be compared together with the proposal that it replaces.
        return name if len(sources[name]) == 1 else f"{name} ({source})"

    names = sorted({_label(a, label_by) for a in annotations} | {UNCOVERED})
    number = {name: i for i, name in enumerate(names)}
    layers: dict[str, dict[str, Marking]] = {}
    ordered = sorted(annotations, key=lambda a: (who(a), a.episode_id, a.segment.start))
    for (annotator, episode_id), group in groupby(ordered, key=lambda a: (who(a), a.episode_id)):
        rows, brief = list(group), store.brief(episode_id)
        layers.setdefault(annotator, {})[episode_id] = Marking(
            starts_s=np.array([a.segment.start for a in rows]) / brief.control_hz,
            ends_s=np.array([a.segment.end for a in rows]) / brief.control_hz,
            labels=np.array([number[_label(a, label_by)] for a in rows]),
            created=max(a.created for a in rows),
            duration_s=brief.duration_s,
        )
    return Markings(
        layers=layers,
        labels=tuple(names),
        control_hz={episode: store.brief(episode).control_hz for layer in layers.values() for episode in layer},
    )


def measure_agreement(markings: Markings, seed: int = 0, n_resamples: int = 1000) -> Agreement:
    """Compares every pair of annotators on the episodes that both marked; intervals resample episodes.

    Raises ValueError where fewer than two annotators have an episode in common.
    """
    pairs = [
        _compare(markings, a, b, seed, n_resamples)
        for a, b in combinations(sorted(markings.layers), 2)
        if markings.layers[a].keys() & markings.layers[b].keys()
    ]
    if not pairs:
        raise ValueError("expected two annotators or more with an episode in common")
    drifts = [_drift(markings, annotator) for annotator in sorted(markings.layers)]
    alpha = _alpha_estimate(markings, seed, n_resamples)
    return Agreement(pairs=tuple(pairs), alpha=alpha, drifts=tuple(d for d in drifts if d is not None))


def match_boundaries(a: Sequence[float] | Floats, b: Sequence[float] | Floats, tolerance_s: float) -> Floats:
    """Matches two sorted lists of times one to one, as many as lie within the tolerance; returns the b - a of each.

    >>> match_boundaries([1.0, 2.0, 3.0], [1.2, 3.1, 9.0], 0.25).round(3)
    array([0.2, 0.1])
    """
    offsets, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        offset = float(b[j]) - float(a[i])
        if abs(offset) <= tolerance_s + 1e-9:
            offsets.append(offset)
            i, j = i + 1, j + 1
        elif offset < 0:
            j += 1
        else:
            i += 1
    return np.array(offsets)


def overlaps(a: Marking, b: Marking) -> Floats:
    """Intersection over union of every segment of a with every one of b, float64 [len(a), len(b)]."""
    low = np.maximum(a.starts_s[:, None], b.starts_s)
    both = np.clip(np.minimum(a.ends_s[:, None], b.ends_s) - low, 0, None)
    lengths = (a.ends_s - a.starts_s)[:, None] + (b.ends_s - b.starts_s)
    return both / np.maximum(lengths - both, 1e-12)


def match_segments(overlap: Floats, least: float) -> list[tuple[int, int]]:
    """Pairs segments one to one, the greatest overlaps first, down to `least`."""
    rows, columns = np.nonzero(overlap >= least)
    pairs: list[tuple[int, int]] = []
    used_a: set[int] = set()
    used_b: set[int] = set()
    for k in np.argsort(-overlap[rows, columns], kind="stable"):
        i, j = int(rows[k]), int(columns[k])
        if i not in used_a and j not in used_b:
            pairs.append((i, j))
            used_a.add(i)
            used_b.add(j)
    return pairs


def cohen_kappa(table: Floats) -> float:
    """Cohen's kappa of a table of counts [label of a, label of b]; nan where chance alone explains everything."""
    total = table.sum()
    if total == 0:
        return float("nan")
    observed = np.trace(table) / total
    # Cohen's chance agreement: each annotator's own label frequencies, multiplied.
    chance = float(table.sum(axis=1) @ table.sum(axis=0)) / total**2
    return float((observed - chance) / (1 - chance)) if chance < 1 else float("nan")


def krippendorff_alpha(counts: Floats, weights: Floats) -> float:
    """Krippendorff's alpha for nominal labels.

    counts: [unit, label], how many annotators gave the unit this label; weights: [unit], how often the unit occurs.
    Units with fewer than two labels do not count; nan where only one label occurs.
    """
    voters = counts.sum(axis=1)
    counts, weights, voters = counts[voters > 1], weights[voters > 1], voters[voters > 1]
    per_unit = weights / (voters - 1)
    agreeing = float(per_unit @ (counts * (counts - 1)).sum(axis=1))
    totals = weights @ counts
    n = totals.sum()
    expected = n * (n - 1) - float((totals * (totals - 1)).sum())
    return 1 - (n - 1) * (n - agreeing) / expected if n > 1 and expected > 0 else float("nan")


def _label(annotation: Annotation, label_by: LabelBy) -> str:
    if label_by == "kind":
        return annotation.segment.kind
    return " ".join(annotation.segment.text.lower().rstrip(" .").split())


def _compare(markings: Markings, a: str, b: str, seed: int, n_resamples: int) -> PairAgreement:
    shared = sorted(markings.layers[a].keys() & markings.layers[b].keys())
    pairs = [(markings.layers[a][episode], markings.layers[b][episode]) for episode in shared]
    sizes = np.array([[len(x.boundaries_s), len(y.boundaries_s)] for x, y in pairs], float)
    resample = _Resample(len(pairs), seed, n_resamples)
    precision, recall, f1 = {}, {}, {}
    for tolerance in TOLERANCES_S:
        hits = np.array([len(match_boundaries(x.boundaries_s, y.boundaries_s, tolerance)) for x, y in pairs], float)
        precision[tolerance] = resample.ratio(hits, sizes[:, 1])
        recall[tolerance] = resample.ratio(hits, sizes[:, 0])
        f1[tolerance] = resample.ratio(2 * hits, sizes.sum(axis=1))
    offsets = [match_boundaries(x.boundaries_s, y.boundaries_s, TOLERANCES_S[-1]) for x, y in pairs]
    tables = [overlaps(x, y) for x, y in pairs]
    counts = np.array([sum(table.shape) for table in tables], float)
    best = np.array([table.max(axis=1).sum() + table.max(axis=0).sum() for table in tables])
    halves = [match_segments(table, 0.5) for table in tables]
    equal = [sum(x.labels[i] == y.labels[j] for i, j in half) for (x, y), half in zip(pairs, halves, strict=True)]
    return PairAgreement(
        a=a,
        b=b,
        n_episodes=len(pairs),
        boundary_precision=precision,
        boundary_recall=recall,
        boundary_f1=f1,
        offset_s=resample.ratio(np.array([o.sum() for o in offsets]), np.array([len(o) for o in offsets], float)),
        segment_iou=resample.ratio(best, counts),
        segment_f1={
            k: resample.ratio(np.array([2.0 * len(match_segments(t, k)) for t in tables]), counts) for k in OVERLAPS
        },
        label_agreement=resample.ratio(np.array(equal, float), np.array([len(half) for half in halves], float)),
        kappa=_kappa_estimate(markings, shared, a, b, resample),
    )


class _Resample:
    """Draws of episodes with replacement, as how often each one occurs in each draw: [draws, episodes]."""

    def __init__(self, n_episodes: int, seed: int, n_resamples: int) -> None:
        chances = np.full(n_episodes, 1 / max(1, n_episodes))
        # Whole episodes are drawn, since boundaries within one are alike: resampling boundaries gives intervals too
        # narrow.
        self.times = np.random.default_rng(seed).multinomial(n_episodes, chances, size=n_resamples)

    def ratio(self, above: Floats, below: Floats) -> IntervalEstimate:
        """A ratio of two sums over episodes."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return _estimate(float(above.sum() / below.sum()), (self.times @ above) / (self.times @ below))

    def of(self, statistic: Callable[[Floats], float]) -> IntervalEstimate:
        """Any statistic of how often each episode counts."""
        n_episodes = self.times.shape[1]
        return _estimate(statistic(np.ones(n_episodes)), np.array([statistic(t) for t in self.times[:200]]))


def _estimate(value: float, draws: Floats) -> IntervalEstimate:
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (float("nan"), float("nan"))
    return IntervalEstimate(value=value, low=float(low), high=float(high))


def _kappa_estimate(markings: Markings, shared: Sequence[str], a: str, b: str, resample: _Resample) -> IntervalEstimate:
    pieces = [_pieces(markings, episode, (a, b)) for episode in shared]
    owner = np.repeat(np.arange(len(pieces)), [len(steps) for _, steps in pieces])
    labels = np.concatenate([labels for labels, _ in pieces])
    steps = np.concatenate([steps for _, steps in pieces])
    n = len(markings.labels)
    code = labels[:, 0] * n + labels[:, 1]

    def kappa(times: Floats) -> float:
        table = np.bincount(code, steps * times[owner], n * n).astype(np.float64)
        return cohen_kappa(table.reshape(n, n))

    return resample.of(kappa)


def _alpha_estimate(markings: Markings, seed: int, n_resamples: int) -> IntervalEstimate:
    episodes = sorted({episode for layer in markings.layers.values() for episode in layer})
    names = sorted(markings.layers)
    counts, weights, owner = [], [], []
    for number, episode in enumerate(episodes):
        # Pieces between changes of any label stand for all their steps: the same kappa and alpha as step by step.
        labels, steps = _pieces(markings, episode, [n for n in names if episode in markings.layers[n]])
        for row, weight in zip(labels, steps, strict=True):
            counts.append(np.bincount(row, minlength=len(markings.labels)))
            weights.append(weight)
            owner.append(number)
    table, lengths, episode_of = np.array(counts, float), np.array(weights, float), np.array(owner)
    resample = _Resample(len(episodes), seed, n_resamples)
    return resample.of(lambda times: krippendorff_alpha(table, lengths * times[episode_of]))


def _pieces(markings: Markings, episode: str, annotators: Sequence[str]) -> tuple[Ints, Floats]:
    """Cuts an episode where anyone's label changes: labels int64 [piece, annotator], and steps in each piece."""
    chosen = [markings.layers[name][episode] for name in annotators]
    hz, duration_s = markings.control_hz[episode], chosen[0].duration_s
    edges = np.unique(np.concatenate([[0.0, duration_s], *(m.starts_s for m in chosen), *(m.ends_s for m in chosen)]))
    middles, lengths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    uncovered = markings.labels.index(UNCOVERED)
    labels = np.full((len(middles), len(chosen)), uncovered, np.int64)
    for column, marking in enumerate(chosen):
        segment = np.searchsorted(marking.starts_s, middles, side="right") - 1
        inside = (segment >= 0) & (middles < marking.ends_s[np.maximum(segment, 0)])
        labels[inside, column] = marking.labels[segment[inside]]
    return labels, np.round(lengths * hz)


def _drift(markings: Markings, annotator: str) -> Drift | None:
    """None where the annotator shares fewer than four episodes with others."""
    mine = markings.layers[annotator]
    others = [layer for name, layer in markings.layers.items() if name != annotator]
    shared = sorted((e for e in mine if any(e in layer for layer in others)), key=lambda e: (mine[e].created, e))
    if len(shared) < 4:
        return None
    halves = (shared[: len(shared) // 2], shared[len(shared) // 2 :])
    scores, means = [], []
    for half in halves:
        hits = total = 0
        offsets: list[float] = []
        for episode in half:
            for other in (layer[episode] for layer in others if episode in layer):
                close = match_boundaries(other.boundaries_s, mine[episode].boundaries_s, TOLERANCES_S[0])
                hits, total = hits + len(close), total + len(other.boundaries_s) + len(mine[episode].boundaries_s)
                wide = match_boundaries(other.boundaries_s, mine[episode].boundaries_s, TOLERANCES_S[1])
                offsets += wide.tolist()
        scores.append(2 * hits / total if total else float("nan"))
        means.append(float(np.mean(offsets)) if offsets else float("nan"))
    return Drift(annotator=annotator, f1=(scores[0], scores[1]), offset_s=(means[0], means[1]))
