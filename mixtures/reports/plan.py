"""The plan of a mixture: what will be drawn, how often, and what looks wrong, before anything is trained."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mixtures.actions.pools import Pool
from mixtures.groups.label_coverage import Labels
from mixtures.groups.shares import Branch, Share
from mixtures.groups.tree import Group
from mixtures.mixture import Mixture
from mixtures.reports.findings import dataset_shares, find_in_mixture
from mixtures.reports.terminal import align
from mixtures.stream.text_shares import LongTexts
from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.slots import CAMERAS
from pipelines.contract.words import counted

SCHEMA = "embodimix.plan/v1"
MANY_EPOCHS = 4.0
FEW_EPOCHS = 0.05
LARGE_SHARE = 0.4
LITTLE_LANGUAGE = 0.5
MOST_ALIKE = 3
HEADER = (
    "group",
    "episodes",
    "steps",
    "hours",
    "raw %",
    "final %",
    "draws",
    "epochs",
    "lang %",
    "segm %",
    "cameras",
    "slots",
    "Hz",
    "held out",
)
LABEL_HEADER = ("texts", "median s", "labels by")
DATASET_HEADER = ("dataset", "raw %", "final %")
POOL_HEADER = ("pool of statistics", "steps", "units", "Hz", "rule", "datasets")
SHARE_TOLERANCE = 1e-9
# Which cell of a group's row a flag is about, by how the flag begins.
FLAG_COLUMNS = {
    "never drawn": "final %",
    "over 4 epochs": "epochs",
    "under 0.05 epochs": "epochs",
    "over 40% of all draws": "final %",
    "unlabelled": "lang %",
    "mixed control rates": "Hz",
}
NO_PROMPTS = (
    "Not checked without a model: prompts that are longer than it reads, whose end is cut. Give --model NAME (and its "
    "--tokenizer)."
)
NO_DRAWS = (
    "Not checked without a number of draws: epochs of each group, repeats, max_epochs. Give --draws N, or `draws:` in "
    "the spec (steps * batch size)."
)


@dataclass(frozen=True, kw_only=True)
class PlannedPool:
    """One pool of statistics as a plan shows it, see `mixtures.actions.pools`. rule: of its scales."""

    name: str
    norm_key: str
    units: str
    control_hz: tuple[float, ...]
    datasets: tuple[str, ...]
    n_steps: int
    rule: str


@dataclass(frozen=True, kw_only=True)
class MixturePlan:
    """A mixture's groups with their shares. draws: samples that training will draw, None unknown.

    is_published: the numbers come from the spec's published sizes or statistics files, not from the datasets' index;
    filters and held-out episodes are then not in them. pools: of statistics. findings: what looks wrong beyond single
    groups. texts: prompts against a model's number of tokens, where one was named.
    """

    name: str
    path: str
    seed: int
    draws: int | None
    tree: Branch
    groups: tuple[Group, ...]
    is_published: bool = False
    stage: str | None = None
    pools: tuple[PlannedPool, ...] = ()
    findings: tuple[str, ...] = ()
    texts: LongTexts | None = None

    @property
    def unchecked(self) -> tuple[str, ...]:
        """What the plan could not check, and what it would take."""
        no_prompts = (NO_PROMPTS,) if self.texts is None and not self.is_published else ()
        return ((NO_DRAWS,) if self.draws is None else ()) + no_prompts

    def flags(self, group: Group) -> tuple[str, ...]:
        """What looks wrong with a group, with the reason."""
        found = []
        if group.probability < SHARE_TOLERANCE:
            found.append("never drawn: the `min_share` of others leave it nothing")
        elif self.draws is not None:
            epochs = group.effective_epochs(self.draws)
            if epochs > MANY_EPOCHS:
                found.append(f"over {MANY_EPOCHS:g} epochs: each step is drawn {epochs:.1f} times")
            if epochs < FEW_EPOCHS:
                found.append(f"under {FEW_EPOCHS:g} epochs: most of it is never seen")
        # Of two groups one always has half; that is no finding.
        if group.probability > LARGE_SHARE and len(self.groups) > 2:
            found.append(f"over {LARGE_SHARE:.0%} of all draws")
        if group.language is not None and group.language < LITTLE_LANGUAGE:
            found.append(f"unlabelled: {1 - group.language:.0%} of the steps have no language")
        # A chunk of 50 steps spans another time at another rate, and the observation does not show which.
        if len(set(group.control_hz)) > 1:
            rates = ", ".join(f"{hz:g}" for hz in group.control_hz)
            found.append(f"mixed control rates: {rates} Hz")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON, schema `embodimix.plan/v1`."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "path": self.path,
            "stage": self.stage,
            "seed": self.seed,
            "draws": self.draws,
            "is_published": self.is_published,
            "n_episodes": sum(group.n_episodes for group in self.groups),
            "n_steps": sum(group.n_steps for group in self.groups),
            "hours": sum(group.hours for group in self.groups),
            "flags": list(self.findings),
            "unchecked": list(self.unchecked),
            "datasets": [
                {"name": name, "raw_share": raw, "share": share}
                for name, (raw, share) in dataset_shares(self.groups).items()
            ],
            "pools": [asdict(pool) for pool in self.pools],
            "texts": None if self.texts is None else asdict(self.texts),
            "groups": [self._group_to_json(group) for group in self.groups],
        }

    def _group_to_json(self, group: Group) -> dict[str, Any]:
        numbers = (
            "name",
            "n_episodes",
            "n_steps",
            "n_validation_episodes",
            "n_validation_steps",
            "hours",
            "raw_share",
            "language",
            "segments",
            "robot",
            "control_hz",
            "norm_keys",
            "datasets",
            "slots",
        )
        return {name: getattr(group, name) for name in numbers} | {
            "share": group.probability,
            "share_before_bounds": group.share.unbounded,
            "multiplier": group.share.leaf.multiplier,
            "expected_draws": None if self.draws is None else group.probability * self.draws,
            "effective_epochs": None if self.draws is None else group.effective_epochs(self.draws),
            "cameras": dict(group.cameras),
            "labels": None if group.labels is None else asdict(group.labels),
            "flags": self.flags(group),
        }


def plan_of(mixture: Mixture, texts: LongTexts | None = None) -> MixturePlan:
    """The plan of an opened mixture. texts: its prompts against a model's number of tokens."""
    spec = mixture.spec
    long_texts = (str(texts),) if texts is not None and texts.n_cut else ()
    return MixturePlan(
        name=spec.name,
        path=str(spec.path),
        seed=spec.seed,
        draws=mixture.draws,
        tree=mixture.tree,
        groups=mixture.groups,
        stage=spec.stage,
        pools=tuple(_planned(mixture, pool) for pool in mixture.pools.pools),
        findings=(*find_in_mixture(mixture), *long_texts),
        texts=texts,
    )


def _planned(mixture: Mixture, pool: Pool) -> PlannedPool:
    rule = mixture.statistics[pool.name].action.rule
    return PlannedPool(**vars(pool), units=pool.units, rule=rule)


def explain_group(plan: MixturePlan, name: str) -> str:
    """How one group's share is computed, step by step. Raises UsageError with the nearest names."""
    by_name = {group.name: group for group in plan.groups}
    if name not in by_name:
        raise UsageError(f"{plan.path}: no group {name!r}. {nearest(name, by_name)}")
    group = by_name[name]
    head = f"{name}, stage {plan.stage}" if plan.stage else name
    return "\n".join([head, *explain_share(group, plan.draws), *(f"  ! {flag}" for flag in plan.flags(group))])


def explain_share(group: Group, draws: int | None) -> list[str]:
    """The arithmetic of one group's share, a line a step. draws: samples that training will draw, None unknown."""
    share, leaf = group.share, group.share.leaf
    alpha = share.levels[-1].alpha
    lines = [
        f"  n = {leaf.count:,.10g}; weight = {leaf.multiplier:g} * n ** {alpha:g} = {share.weight:,.6g}",
    ]
    for level in share.levels:
        reason = "fixed in the spec" if level.fixed else f"by the power rule, alpha {level.alpha:g}"
        lines.append(f"  {level.name}: {level.part:.4%} of the level above, {reason}")
    lines.append(f"  product of these parts: {share.unbounded:.4%}")
    if leaf.lower > 0 or leaf.upper < 1:
        together = f"group {share.pool!r}" if share.pool else "the whole mixture"
        lines.append(f"  bounds: at least {leaf.lower:.4%} (min_share), at most {leaf.upper:.4%} (max_epochs)")
        lines.append(f"  after scaling the groups of {together} so that all bounds hold: {share.final:.4%}")
        lines.append(f"  {_holding_bound(share)}")
    elif abs(share.final - share.unbounded) > 1e-12:
        lines.append(
            f"  others of {share.pool or 'the mixture'} met a bound, so this one is scaled to {share.final:.4%}"
        )
    if draws is not None:
        lines.append(
            f"  in {counted(draws, 'draw')}: {share.final * draws:,.0f} samples, {_epochs(group, draws)} epochs"
        )
    return lines


def _holding_bound(share: Share) -> str:
    """Which of a group's bounds its share meets."""
    if abs(share.final - share.leaf.lower) < SHARE_TOLERANCE:
        return "min_share holds: without it the group would get less"
    if abs(share.final - share.leaf.upper) < SHARE_TOLERANCE:
        return "max_epochs holds: without it the group would get more"
    return "neither bound is met: the share lies between them"


def render(plan: MixturePlan) -> str:
    """The plan as a table for a terminal, with its flags below."""
    rows = [(*row(plan, group), *_labels(group.labels)) for group in plan.groups]
    total = plan.to_json()
    draws = "-" if plan.draws is None else f"{plan.draws:,}"
    rows.append(
        (
            "all",
            f"{total['n_episodes']:,}",
            f"{total['n_steps']:,}",
            hours_of(plan.groups),
            "100.00",
            "100.00",
            draws,
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
        )
    )
    stage = f", stage {plan.stage}" if plan.stage else ""
    lines = [
        f"{plan.name}{stage}: {counted(plan.groups, 'group')}, seed {plan.seed}",
        *align((*HEADER, *LABEL_HEADER), rows),
    ]
    if plan.is_published:
        lines.append("From published sizes and statistics: filters and held-out episodes are not in these numbers.")
    shares = dataset_shares(plan.groups)
    if len(shares) > 1:
        lines += ["", *align(DATASET_HEADER, dataset_rows(plan))]
    if plan.pools:
        lines += ["", *align(POOL_HEADER, pool_rows(plan))]
    if plan.texts is not None and not plan.texts.n_cut:
        lines.append(f"Prompts: {plan.texts}.")
    lines += [f"! {sentence}" for sentence in flag_sentences(plan)]
    return "\n".join([*lines, *plan.unchecked])


def flag_sentences(plan: MixturePlan) -> list[str]:
    """Flags of groups, those of many groups as one line with their number, and last those of the whole mixture.

    The end of a long table is what a reader of a terminal sees.
    """
    flagged: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for group in plan.groups:
        for flag in plan.flags(group):
            flagged[flag.partition(":")[0]].append((group.name, flag))
    found: list[str] = []
    for kind, rows in flagged.items():
        if len(rows) > MOST_ALIKE:
            names = ", ".join(name for name, _ in rows[:MOST_ALIKE])
            found.append(f"{len(rows)} groups: {kind}: {names} and {len(rows) - MOST_ALIKE} more")
        else:
            found += [f"{name}: {flag}" for name, flag in rows]
    return [*found, *plan.findings]


def flag_column(flag: str) -> str:
    """The column of `HEADER` that a flag of a group is about."""
    return next(column for start, column in FLAG_COLUMNS.items() if flag.startswith(start))


def dataset_rows(plan: MixturePlan) -> list[tuple[str, ...]]:
    """Cells under `DATASET_HEADER`, the largest share first."""
    shares = sorted(dataset_shares(plan.groups).items(), key=lambda item: -item[1][1])
    return [(name, f"{100 * raw:.2f}", f"{100 * share:.2f}") for name, (raw, share) in shares]


def pool_rows(plan: MixturePlan) -> list[tuple[str, ...]]:
    """Cells under `POOL_HEADER`."""
    return [
        (
            pool.name,
            f"{pool.n_steps:,}",
            pool.units,
            ", ".join(f"{hz:g}" for hz in pool.control_hz),
            pool.rule,
            ", ".join(pool.datasets),
        )
        for pool in plan.pools
    ]


def row(plan: MixturePlan, group: Group) -> tuple[str, ...]:
    """A group's cells under `HEADER`."""
    return (
        group.name,
        _known(group.n_episodes, ",d"),
        f"{group.n_steps:,}",
        hours_of([group]),
        f"{100 * group.raw_share:.2f}",
        f"{100 * group.probability:.2f}",
        "-" if plan.draws is None else f"{group.probability * plan.draws:,.0f}",
        _epochs(group, plan.draws),
        _percent(group.language),
        _percent(group.segments),
        _cameras(group),
        slots_in_words(group.slots),
        ",".join(f"{hz:g}" for hz in group.control_hz),
        f"{group.n_validation_episodes:,}",
    )


def _labels(labels: Labels | None) -> tuple[str, str, str]:
    """Different sentences of segments, their median length, and who made them."""
    if labels is None:
        return "-", "-", "-"
    median = "-" if labels.median_s is None else f"{labels.median_s:.1f}"
    return f"{labels.sentences:,}", median, parts_in_words(labels.sources)


def parts_in_words(parts: Mapping[str, float]) -> str:
    """Parts of a whole, the largest first: {"human": 0.2, "proposal": 0.8} is `proposal 80 human 20`."""
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    return " ".join(f"{name} {100 * part:.0f}" for name, part in ordered) or "-"


def _epochs(group: Group, draws: int | None) -> str:
    return "-" if draws is None else f"{group.effective_epochs(draws):.3g}"


def hours_of(groups: Sequence[Group]) -> str:
    """The hours of some groups; of small ones two digits, since minutes count there."""
    hours = sum(group.hours for group in groups)
    return _known(hours, ",.1f" if hours >= 10 else ".2g")


def _known(value: float, form: str) -> str:
    """A number that published sizes may lack: 0 is unknown."""
    return format(value, form) if value else "-"


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.0f}"


def _cameras(group: Group) -> str:
    """One letter a camera (base, left, right), capital where every episode has it, a dot where none has."""
    letters = zip("blr", (group.cameras.get(camera, 0.0) for camera in CAMERAS), strict=True)
    return "".join("." if part == 0 else letter.upper() if part == 1 else letter for letter, part in letters)


def slots_in_words(slots: Sequence[int]) -> str:
    """Slots as ranges: (0, 1, 2, 6) is `0-2,6`."""
    runs: list[list[int]] = []
    for slot in slots:
        if runs and slot == runs[-1][1] + 1:
            runs[-1][1] = slot
        else:
            runs.append([slot, slot])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
