"""What a source states about itself as a whole, beside its episodes: the optional `describe` of a format's reader."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class StatedFeature:
    """What a source's metadata says of one native key.

    dtype: as it is stored. names: of its columns. low, high: of each column in the whole source, where its statistics
    say so. about: its own words for the key, which may name units.
    """

    dtype: str = ""
    shape: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class StatedCamera:
    """What a source's metadata says of one native camera. size: height and width. why_left_out: "" where it is read."""

    size: tuple[int, int] | None = None
    codec: str = ""
    rate_hz: float | None = None
    why_left_out: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """What a source states as a whole; whatever it does not state is empty or None.

    dialect: the format's version and layout, as a person would say it. n_episodes, n_steps: of the whole source.
    rate_known: how `control_hz` is known, where the source does not state it. units: native key -> the unit that the
    source states. notes: sentences about oddities of the whole source. repeats: keys and cameras that hold again what
    others hold. entry: keys that an adapter entry of the format needs besides, as YAML, and why.
    """

    dialect: str = ""
    robot: str = ""
    n_episodes: int | None = None
    n_steps: int | None = None
    control_hz: float | None = None
    rate_known: str = ""
    features: Mapping[str, StatedFeature] = field(default_factory=dict)
    cameras: Mapping[str, StatedCamera] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    repeats: frozenset[str] = frozenset()
    entry: Mapping[str, tuple[str, str]] = field(default_factory=dict)
