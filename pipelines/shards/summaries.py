"""The mergeable summary of one slot's values: exact moments and extremes, and a sketch of the quantiles.

Merging does not depend on the order, bit for bit: moments are exact integers (a float32 is an integer times a power of
two), quantiles come from integer counts of logarithmic buckets (the construction of DDSketch, Masson et al. 2019) with
a relative error of at most 0.25 %.
"""

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

RELATIVE_ERROR = 0.0025

_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_SMALLEST = 1e-9  # Below this a value counts as zero.
_KEY_SHIFT = 20_000  # Makes the key of every float32 above _SMALLEST positive, so that its sign can carry the value's.
_UNIT_EXPONENT = 149  # Every float32 is an integer times 2**-149.


@dataclass(frozen=True, kw_only=True)
class SlotSummary:
    """Mergeable summary of the values of one slot; `total` and `total_squares` are in units of 2**-149 and 2**-298.

    buckets: sorted (key, count); key 0 holds values near zero, a negative key negative values.
    """

    count: int = 0
    total: int = 0
    total_squares: int = 0
    low: float = 0.0
    high: float = 0.0
    keys: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def merge(self, other: "SlotSummary") -> "SlotSummary":
        """Returns the summary of both sets of values."""
        if not self.count or not other.count:
            return self if self.count else other
        keys, counts = _merge_counts(self.keys, self.counts, other.keys, other.counts)
        return SlotSummary(
            count=self.count + other.count,
            total=self.total + other.total,
            total_squares=self.total_squares + other.total_squares,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            keys=keys,
            counts=counts,
        )

    @property
    def mean(self) -> float:
        return float(Fraction(self.total, self.count << _UNIT_EXPONENT)) if self.count else 0.0

    @property
    def m2(self) -> float:
        """The sum of squared distances from the mean."""
        if not self.count:
            return 0.0
        numerator = self.total_squares * self.count - self.total * self.total
        return float(Fraction(numerator, self.count << 2 * _UNIT_EXPONENT))

    def quantile(self, fraction: float) -> float:
        """The value at rank floor(fraction * (count - 1)), within 0.25 % of itself."""
        if not self.count:
            return 0.0
        return self.at_rank(int(fraction * (self.count - 1)))

    def at_rank(self, rank: int) -> float:
        """The value that so many others are below or equal to, within 0.25 % of itself; count must be above rank."""
        key = int(self.keys[np.searchsorted(np.cumsum(self.counts), rank, side="right")])
        return float(np.clip(_bucket_value(key), self.low, self.high))

    def histogram(self, edges: NDArray[np.float64]) -> NDArray[np.int64]:
        """How many values fall between every two edges, each taken at the middle of its bucket."""
        values = np.clip([_bucket_value(int(key)) for key in self.keys], self.low, self.high)
        return np.histogram(values, edges, weights=self.counts)[0].astype(np.int64)


def summarize_slot(values: NDArray[np.float32]) -> SlotSummary:
    """Returns the summary of finite float32 [t] values."""
    if not len(values):
        return SlotSummary()
    total, total_squares = _exact_sums(values)
    keys, counts = np.unique(_bucket_keys(values), return_counts=True)
    return SlotSummary(
        count=len(values),
        total=total,
        total_squares=total_squares,
        low=float(values.min()),
        high=float(values.max()),
        keys=keys.astype(np.int32),
        counts=counts.astype(np.int64),
    )


def summary_of_moments(mean: float, std: float, low: float, high: float) -> SlotSummary:
    """The summary of two values with this mean and deviation, to the last digit of a float64, and these extremes."""
    unit = 1 << _UNIT_EXPONENT
    middle, square = Fraction(mean), Fraction(std) ** 2 + Fraction(mean) ** 2
    ends = summarize_slot(np.array([low, high], np.float32))
    return replace(
        ends,
        total=round(2 * middle * unit),
        total_squares=round(2 * square * unit * unit),
        low=float(low),
        high=float(high),
    )


def _bucket_keys(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Bucket k holds magnitudes in (gamma**(k-1), gamma**k]; the key is k shifted to be positive, times the sign."""
    magnitude = np.abs(values.astype(np.float64))
    exponents = np.ceil(np.log(np.maximum(magnitude, _SMALLEST)) / np.log(_GAMMA)).astype(np.int64)
    return np.where(magnitude < _SMALLEST, 0, np.sign(values).astype(np.int64) * (exponents + _KEY_SHIFT))


def _bucket_value(key: int) -> float:
    """The value that is within the relative error of everything in the bucket."""
    if key == 0:
        return 0.0
    return float(np.sign(key) * 2 * _GAMMA ** (abs(key) - _KEY_SHIFT) / (_GAMMA + 1))


def _exact_sums(values: NDArray[np.float32]) -> tuple[int, int]:
    """Sums of float32 values and of their squares as exact integers, in units of 2**-149 and 2**-298.

    Mantissas are added per exponent; halves of 12 bits keep every sum of squares below 2**53, where float64 is exact.
    """
    fractions, exponents = np.frexp(values.astype(np.float64))
    mantissas = np.ldexp(fractions, 24)  # Integers below 2**24; value = mantissa * 2**(exponent - 24).
    shifts = exponents.astype(np.int64) - 24 + _UNIT_EXPONENT
    lowest = int(shifts.min())
    bins = shifts - lowest
    high = np.floor(np.abs(mantissas) / 4096)
    low = np.abs(mantissas) - high * 4096
    sums = np.bincount(bins, mantissas)
    squares = [np.bincount(bins, part) for part in (low * low, 2 * high * low, high * high)]
    total = sum(_shift(int(s), lowest + i) for i, s in enumerate(sums) if s)
    total_squares = sum(
        _shift(int(s), 2 * (lowest + i) + 12 * power)
        for power, part in enumerate(squares)
        for i, s in enumerate(part)
        if s
    )
    return total, total_squares


def _shift(value: int, bits: int) -> int:
    """value * 2**bits, exact: float32 below 2**-126 have trailing zeros in their 24-bit mantissa."""
    return value << bits if bits >= 0 else value >> -bits


def _merge_counts(
    keys_a: NDArray[np.int32], counts_a: NDArray[np.int64], keys_b: NDArray[np.int32], counts_b: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    keys, where = np.unique(np.concatenate([keys_a, keys_b]), return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, where, np.concatenate([counts_a, counts_b]))
    return keys, counts
