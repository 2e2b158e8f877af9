"""Shares of a mixture's groups from their sizes: pure functions over a tree of numbers.

The rules, in the order in which they apply:

1. A group of n (steps, episodes or hours) with multiplier m weighs w = m * n ** alpha.
2. A node with a fixed `share` gets that part of its parent's draws, whatever it holds.
3. What the fixed shares leave over is divided among the other groups in proportion to their weights. A node without
   a share weighs its multiplier times the sum of its groups' weights under its *parent's* alpha; what it gets is then
   divided inside it by its own rule. With one rule throughout, nesting changes nothing.
4. `min_share` and `max_epochs` (an upper share of max_epochs * n / draws) bound groups. What a bound adds or takes is
   made up by the other groups under the same fixed share, all scaled by one factor (water filling).

So the shares add up to 1, do not depend on the order of the file, and grow with n when nothing else changes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import UsageError

TOLERANCE = 1e-12


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One group. `count` is its n; `lower` and `upper` bound its share of all draws."""

    name: str
    count: float
    multiplier: float = 1.0
    lower: float = 0.0
    upper: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A node: `share` is its fixed share of its parent (None: the rule decides), `alpha` the rule's power below it."""

    name: str
    alpha: float
    children: tuple["Branch | Leaf", ...]
    share: float | None = None
    multiplier: float = 1.0

    def leaves(self) -> Iterator[Leaf]:
        """The groups below this node, in order."""
        for child in self.children:
            if isinstance(child, Leaf):
                yield child
            else:
                yield from child.leaves()


@dataclass(frozen=True, kw_only=True)
class Level:
    """One step down the tree: `part` of what the level above has goes to `name`, `fixed` in the spec or by the rule."""

    name: str
    part: float
    fixed: bool
    alpha: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """How a group's share of all draws is computed.

    weight: m * n ** alpha with the alpha of its own level. levels: the way down to it; their parts multiply to
    `unbounded`, its share before bounds. pool: the path of the node whose fixed share (or the whole, "") it takes part
    in; bounds move draws only inside a pool. final: its share after them.
    """

    leaf: Leaf
    weight: float
    pool: str
    levels: tuple[Level, ...]
    unbounded: float
    final: float

    @property
    def name(self) -> str:
        return self.leaf.name


def power_weight(count: float, alpha: float, multiplier: float = 1.0) -> float:
    """The weight of a group under the power rule, multiplier * count ** alpha; count is above 0."""
    return multiplier * count**alpha


def bounded_shares(
    shares: NDArray[np.float64], lower: NDArray[np.float64], upper: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scales all shares by one factor and clips each to its bounds so that their sum stays.

    shares, lower, upper: [g], shares above 0. Raises ValueError where the bounds leave no solution.

    >>> bounded_shares(np.array([0.7, 0.2, 0.1]), np.zeros(3), np.array([0.4, 1.0, 1.0])).round(6).tolist()
    [0.4, 0.4, 0.2]
    """
    total = float(shares.sum())
    if (lower > upper).any():
        raise ValueError(f"a smallest share of {lower[lower > upper][0]:.4g} is over the largest of the same group")
    if lower.sum() > total + TOLERANCE:
        raise ValueError(f"the smallest shares add up to {lower.sum():.4g}, more than the {total:.4g} to give")
    if upper.sum() < total - TOLERANCE:
        raise ValueError(f"the largest shares add up to {upper.sum():.4g}, less than the {total:.4g} to give")
    # Clipping and scaling again by turns needs not end, and depends on the order of groups; this is exact in one go.
    # The sum grows piecewise linearly with the factor; its corners are where a group meets a bound.
    corners = np.unique(np.concatenate([lower / shares, upper / shares]))
    sums = np.array([np.clip(corner * shares, lower, upper).sum() for corner in corners])
    factor = float(np.interp(total, sums, corners))
    return np.clip(factor * shares, lower, upper)


def resolve_shares(root: Branch) -> tuple[Share, ...]:
    """The share of every group of a mixture, in the order of the tree; `final` adds up to 1.

    Raises UsageError where `min_share` and `max_epochs` cannot be met.
    """
    shares = list(_unbounded(root, 1.0, "", ()))
    final = np.array([share.unbounded for share in shares])
    for pool in dict.fromkeys(share.pool for share in shares):
        rows = [i for i, share in enumerate(shares) if share.pool == pool]
        lower = np.array([shares[i].leaf.lower for i in rows])
        upper = np.array([shares[i].leaf.upper for i in rows])
        if not lower.any() and (upper >= final[rows]).all():
            continue
        try:
            final[rows] = bounded_shares(final[rows], lower, upper)
        except ValueError as error:
            raise UsageError(_infeasible(pool, str(error))) from error
    return tuple(replace(share, final=float(value)) for share, value in zip(shares, final, strict=True))


def with_alpha(root: Branch, alpha: float) -> Branch:
    """The same tree with one alpha throughout; fixed shares, multipliers and bounds stay."""
    children = tuple(c if isinstance(c, Leaf) else with_alpha(c, alpha) for c in root.children)
    return replace(root, alpha=alpha, children=children)


def _unbounded(branch: Branch, mass: float, pool: str, above: tuple[Level, ...]) -> Iterator[Share]:
    """Divides `mass` among the groups below a node by rules 1 to 3."""
    weights = [_weight(child, branch.alpha) for child in branch.children]
    fixed = [child.share if isinstance(child, Branch) else None for child in branch.children]
    # fsum, so that shares do not depend on the order of the file.
    left = max(1.0 - math.fsum(share for share in fixed if share is not None), 0.0)
    free_weight = math.fsum(weight for weight, share in zip(weights, fixed, strict=True) if share is None)
    for child, weight, share in zip(branch.children, weights, fixed, strict=True):
        part = left * weight / free_weight if share is None else share
        level = Level(name=child.name, part=part, fixed=share is not None, alpha=branch.alpha)
        levels = (*above, level)
        if isinstance(child, Leaf):
            value = mass * part
            yield Share(leaf=child, weight=weight, pool=pool, levels=levels, unbounded=value, final=value)
        else:
            # A fixed share is a promise: bounds inside it may move draws among its groups, not beyond them.
            inner = "/".join(level.name for level in levels) if share is not None else pool
            yield from _unbounded(child, mass * part, inner, levels)


def _weight(child: Branch | Leaf, alpha: float) -> float:
    """The weight of a group, or of a node: its multiplier times the sum of its groups' weights, all under `alpha`."""
    if isinstance(child, Leaf):
        return power_weight(child.count, alpha, child.multiplier)
    return child.multiplier * math.fsum(_weight(inner, alpha) for inner in child.children)


def _infeasible(pool: str, reason: str) -> str:
    together = f"group {pool!r}" if pool else "the mixture"
    return f"the bounds of {together} cannot be met: {reason}; lower min_share, raise max_epochs, or draw less"
