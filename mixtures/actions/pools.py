"""Pools: which steps are normalized by the same statistics, and which must not be.

A norm key names robot, control mode, layout and units, so different units never meet. Two more things divide it here:

1. Actions that are changes per step (`ee_delta`) mean another speed at another rate, so rates that differ by more than
   a fifth are apart. Rates are taken in rising order, each into the last pool as long as it is at most 1.2 times that
   pool's lowest rate, so that the division depends on the set of rates alone. A mixture that resamples has one rate.
2. `normalization: {by: dataset}` gives every dataset its own.

A pool has the norm key's name where nothing divides it, else `norm key@dataset`, `norm key@15hz`, or both.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mixtures.index.tables import CompiledTable
from mixtures.specs.grammar import PoolBy
from pipelines.contract.slots import units_of
from pipelines.contract.units import is_delta

# The largest rate of a pool of deltas over its smallest.
RATE_RATIO = 1.2
_NEARLY = 1e-6


@dataclass(frozen=True, kw_only=True)
class Pool:
    """One pool. control_hz: rates of its steps, ascending. datasets: name/version of its members."""

    name: str
    norm_key: str
    control_hz: tuple[float, ...]
    datasets: tuple[str, ...]
    n_steps: int

    @property
    def units(self) -> str:
        """`metric`, or the adapter entry whose own units these are."""
        return units_of(self.norm_key)


@dataclass(frozen=True, kw_only=True)
class Member:
    """The steps of one table that have one norm key and one control rate."""

    table: int
    dataset: str
    norm_key: str
    control_hz: float
    n_steps: int


@dataclass(frozen=True, kw_only=True)
class Pools:
    """All pools of a mixture, and the pool's name of every member: by table number, norm key and control rate."""

    pools: tuple[Pool, ...]
    names: tuple[Mapping[tuple[str, float], str], ...]

    def of_rows(self, number: int, table: CompiledTable, rows: np.ndarray) -> tuple[str, ...]:
        """The names of the pools that episodes `rows` of a table are in, ascending."""
        keys = table.vocabularies["norm_key"]
        episodes = np.unique(table.episodes[["norm_key", "control_hz"]][rows])
        return tuple(sorted({self.names[number][keys[code], float(hz)] for code, hz in episodes.tolist()}))


def members_of(tables: Iterable[CompiledTable]) -> list[Member]:
    """The members of all tables, table by table."""
    return [member for number, table in enumerate(tables) for member in _members(number, table)]


def dataset_labels(tables: Sequence[CompiledTable]) -> list[str]:
    """What reports call each table's dataset: name/version, and its path where another folder has the same."""
    names = [f"{table.name}/{table.version}" for table in tables]
    paths: dict[str, set[str]] = {}
    for name, table in zip(names, tables, strict=True):
        paths.setdefault(name, set()).add(table.path)
    return [
        name if len(paths[name]) == 1 else f"{name} ({table.path})" for name, table in zip(names, tables, strict=True)
    ]


def _members(number: int, table: CompiledTable) -> list[Member]:
    pairs, inverse = np.unique(table.episodes[["norm_key", "control_hz"]], return_inverse=True)
    steps = np.bincount(inverse.ravel(), table.n_steps_of, len(pairs))
    return [
        Member(
            table=number,
            dataset=f"{table.name}/{table.version}",
            norm_key=table.vocabularies["norm_key"][code],
            control_hz=float(hz),
            n_steps=int(n),
        )
        for (code, hz), n in zip(pairs.tolist(), steps, strict=True)
    ]


def assign_pools(
    members: Sequence[Member],
    by: PoolBy = "norm_key",
    rate_hz: float | None = None,
    frozen: Mapping[str, tuple[float, ...]] | None = None,
) -> Pools:
    """Puts every member into its pool.

    rate_hz: the rate that all actions are resampled to, None for none. frozen: pools of a run whose statistics go
    first, with their rates (none where its file does not state them); members whose norm key and rates fit one of them
    join it.
    """
    bases: dict[str, list[Member]] = {}
    for member in members:
        name = f"{member.norm_key}@{member.dataset.replace('/', '-')}" if by == "dataset" else member.norm_key
        bases.setdefault(name, []).append(member)
    named: dict[str, list[Member]] = {}
    for base, all_members in sorted(bases.items()):
        # A delta of a step is another speed at another rate: pooled, one dataset would be scaled by another's speed.
        # Targets and velocities do not depend on the rate.
        divided = rate_hz is None and is_delta(all_members[0].norm_key.split("/")[1])
        classes = _by_rate(all_members) if divided else [all_members]
        for mine in classes:
            rates = _rates(mine)
            own = f"{base}@{_in_words(rates)}" if len(classes) > 1 else base
            name = _frozen_name(base, own, rates, frozen, divided) if frozen else own
            named.setdefault(name, []).extend(mine)
    names: list[dict[tuple[str, float], str]] = [{} for _ in range(1 + max((m.table for m in members), default=-1))]
    for name, mine in named.items():
        for member in mine:
            names[member.table][member.norm_key, member.control_hz] = name
    pools = (_pool(name, mine, rate_hz) for name, mine in sorted(named.items()))
    return Pools(pools=tuple(pools), names=tuple(names))


def _pool(name: str, members: Sequence[Member], rate_hz: float | None) -> Pool:
    return Pool(
        name=name,
        norm_key=members[0].norm_key,
        control_hz=_rates(members) if rate_hz is None else (rate_hz,),
        datasets=tuple(sorted({member.dataset for member in members})),
        n_steps=sum(member.n_steps for member in members),
    )


def _by_rate(members: Sequence[Member]) -> list[list[Member]]:
    """Members by classes of rates, the lowest first."""
    classes: list[list[Member]] = []
    for member in sorted(members, key=lambda member: member.control_hz):
        # Against the lowest of the class, not the one before: a chain of close rates would else join 5 and 15 Hz.
        if classes and member.control_hz <= classes[-1][0].control_hz * RATE_RATIO + _NEARLY:
            classes[-1].append(member)
        else:
            classes.append([member])
    return classes


def _frozen_name(
    base: str, own: str, rates: Sequence[float], frozen: Mapping[str, tuple[float, ...]], divided: bool
) -> str:
    """The frozen pool that members of these rates belong to, or else a name that no frozen pool has."""
    # A pool of an earlier run goes first: what its policy learned is valid only under the scale it was trained with.
    for name in sorted(frozen):
        if name == base and not (divided and frozen[name]):
            return name
        if (name == base or _is_rate_of(name, base)) and divided and frozen[name]:
            together = (*frozen[name], *rates)
            if max(together) <= min(together) * RATE_RATIO + _NEARLY:
                return name
    return own if own not in frozen else f"{base}@{_in_words(rates)}"


def _is_rate_of(name: str, base: str) -> bool:
    return name.startswith(f"{base}@") and name.endswith("hz")


def _rates(members: Sequence[Member]) -> tuple[float, ...]:
    return tuple(sorted({member.control_hz for member in members}))


def _in_words(rates: Sequence[float]) -> str:
    """
    >>> _in_words((15.0,)), _in_words((5.0, 5.5))
    ('15hz', '5-5.5hz')
    """
    low, high = f"{min(rates):g}", f"{max(rates):g}"
    return f"{low}hz" if low == high else f"{low}-{high}hz"
