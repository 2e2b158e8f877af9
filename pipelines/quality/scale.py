"""How far the state moves for what the action commands: the ratio of every arm slot, measured.

Both sides are taken as paths: an absolute action is one, deltas and velocities are summed up. The changes of both from
one block of some 0.4 s to the next are compared, at the delay at which they fit best. Sums and block means are why a
jittering command, a lag of a few steps and the noise of encoders do not look like another unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.units import is_absolute, is_velocity
from pipelines.quality.findings import Finding, finding
from pipelines.shards.stored_episodes import StoredEpisode

Floats = NDArray[np.float64]

DEGREES = 180 / np.pi
BLOCK_S = 0.4
MAX_DELAY_S = 0.6
# Block changes of the state below these are encoder noise and settling, not motion: a parked arm moves 0.2 degrees.
LEAST_MOTION = {"rad": 0.01, "m": 0.002}
_NOISE_FACTOR = 4.0
_FEWEST_EPISODES, _FEWEST_SAMPLES = 3, 8
# A controller that aims ahead of the arm moves it at 0.4 of what is commanded (DROID), softer ones at 0.2; none
# overshoots by half. Beyond these, no controller in metres and rad is known; between the two pairs one is doubtful.
LIKELY_LOW, LIKELY_HIGH = 0.2, 1.5
POSSIBLE_LOW, POSSIBLE_HIGH = 0.1, 2.0
# Commands of a normalized controller lie in -1..1; what exceeds that by a tenth is in a unit.
NORMALIZED_PEAK = 1.1
FULL_TURN_RAD = 7.0  # A little over 2 pi. Wrists may turn more than once, so alone it proves nothing.
MOST_TURNS_RAD = 8 * np.pi
FAST_RAD_S = 12.0
# The longest arms of public data reach 1.3 m, and hands seldom pass 1.5 m/s: far beyond both, positions are no metres,
# though state and action agree on them.
FAR_M, FAST_M_S = 2.5, 3.0


@dataclass(frozen=True, kw_only=True)
class Moves:
    """What one episode shows of the ratio, per slot [d]; sums are over blocks in which the state really moved.

    commanded, both, done: sums of squares of the command's changes, of the products, of squares of the state's.
    samples: how many blocks. peaks: [2] greatest magnitude of state and action. speeds: [2] 95th percentile of the
    speed over blocks, per s. levels: [3] mean squares of action - state: as they are, with the action read as degrees,
    and with the state so; where the action is no target, of action - state, of the state, and NaN. slots: the units of
    the arm slots that both sides have.
    """

    where: str
    control_mode: str
    control_hz: float
    is_metric: bool
    delay_s: float
    commanded: Floats
    both: Floats
    done: Floats
    samples: Floats
    peaks: Floats
    speeds: Floats
    levels: Floats
    slots: dict[int, str]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """State's change per commanded change of one slot, in the dataset's units: 1 where the arm does what is commanded.

    low, high: what the data allow at 95 %, episodes taken as independent and noise on either side allowed for: the
    slope of the state on the command is too small when the command is noisy, its inverse too large when the state is
    (Frisch 1934), so the interval reaches from the lower end of the one to the upper end of the other.
    """

    slot: int
    unit: str
    value: float
    low: float
    high: float
    n_episodes: int

    def __str__(self) -> str:
        """
        >>> str(Ratio(slot=0, unit="m", value=0.0503, low=0.0489, high=0.0521, n_episodes=9))
        '0.0503 (0.0489 to 0.0521)'
        """
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


def measure_moves(episode: StoredEpisode) -> Moves | None:
    """Returns what the episode shows of the ratio; None without arms, vectors, or three blocks of steps."""
    block = max(2, round(BLOCK_S * episode.control_hz))
    if not episode.has_vectors or not len(episode.arm_slots) or episode.n_steps < 3 * block:
        return None
    units = episode.units("state")
    slots = {int(slot): units[int(slot)] for slot in episode.arm_slots}
    state, command = paths_of(episode)
    delay, x, y = _best_delay(command, state, block, round(MAX_DELAY_S * episode.control_hz))
    moved = np.abs(y) > _least_motion(state, slots, block)
    steps_s = block / episode.control_hz
    action = episode.action.astype(np.float64)
    return Moves(
        where=episode.where,
        control_mode=episode.control_mode,
        control_hz=episode.control_hz,
        is_metric=is_metric(episode.norm_key),
        delay_s=delay / episode.control_hz,
        commanded=(x * x * moved).sum(0),
        both=(x * y * moved).sum(0),
        done=(y * y * moved).sum(0),
        samples=moved.sum(0).astype(np.float64),
        peaks=np.abs(np.stack([episode.state.astype(np.float64), action])).max(1),
        speeds=np.stack([np.quantile(np.abs(v), 0.95, axis=0) for v in (y, x)]) / steps_s,
        levels=_levels(episode.state.astype(np.float64), action, episode.control_mode),
        slots=slots,
    )


def measure_ratios(found: Sequence[Moves]) -> list[Ratio]:
    """Returns the ratio of every arm slot that enough episodes move, with its interval."""
    ratios = (_ratio(found, slot) for slot in (found[0].slots if found else {}))
    return [ratio for ratio in ratios if ratio is not None]


def conclude_units(scope: str, found: Sequence[Moves]) -> list[Finding]:
    """Metres and rad on both sides, where a dataset says that it is metric: an error only where nothing else fits."""
    if not found[0].is_metric or is_mislabelled(found):
        return []
    ratios = {ratio.slot: ratio for ratio in measure_ratios(found)}
    states = _degrees_in(found, ratios, 0)
    degrees = states, _degrees_in(found, ratios, 1, states)
    findings: list[Finding] = []
    for side, name in ((0, "state"), (1, "action")):
        if slots := degrees[side]:
            listed = "; ".join(f"slot {slot}: {why}" for slot, why in slots.items())
            advice = f"Set `degrees: true` for these dims of the {name} in the adapter, and convert again."
            where = [m.where for m in found]
            findings.append(finding("degrees", "error", scope, f"{name} in degrees: {listed}", advice, where))
    if not findings:
        findings += _turns(scope, found)
    explained = {*degrees[0], *degrees[1]}
    rest = [ratio for slot, ratio in ratios.items() if slot not in explained]
    return (
        findings
        + _reaches(scope, found)
        + (_rates(scope, found, rest) if is_velocity(found[0].control_mode) else _scales(scope, found, rest))
    )


def is_metric(norm_key: str) -> bool:
    """Says whether vectors of this norm key are stated to be in m, rad and s; native units have a fifth part.

    >>> is_metric("franka/ee_delta/pi18/v1"), is_metric("franka/ee_delta/pi18/v1/viola")
    (True, False)
    """
    return norm_key.count("/") == 3


def is_mislabelled(found: Sequence[Moves]) -> bool:
    """Says whether most actions are absolute where deltas are declared; their sums then say nothing about units."""
    if is_absolute(found[0].control_mode):
        return False
    copies = [_lies_at_the_state(moves) for moves in found]
    return float(np.mean(copies)) > 0.5


def paths_of(episode: StoredEpisode) -> tuple[Floats, Floats]:
    """Returns where the arm is and where it is commanded to be, float64 [t, d] each, the latter up to a constant."""
    state, action = episode.state.astype(np.float64), episode.action.astype(np.float64)
    angles = [slot for slot, unit in episode.units("state").items() if unit == "rad"]
    if is_absolute(episode.control_mode):
        command = unwrap(action, angles)
    else:
        per_step = action / episode.control_hz if is_velocity(episode.control_mode) else action
        # The state of a step is what all actions before it have led to.
        command = np.concatenate([np.zeros((1, action.shape[1])), np.cumsum(per_step, axis=0)[:-1]])
    return unwrap(state, angles), command


def unwrap(values: Floats, angles: Sequence[int]) -> Floats:
    """Returns the values with jumps of a full turn taken out of the angle slots.

    Only a jump between -pi and pi, or 0 and 2 pi, counts: numbers beyond a full turn may be degrees, whose steps of
    6.28 are motion.
    """
    turning = values[:, angles]
    jumps = np.diff(turning, axis=0)
    is_turn = np.abs(np.abs(jumps) - 2 * np.pi) < 0.5
    is_turn &= np.maximum(np.abs(turning[1:]), np.abs(turning[:-1])) < 2 * np.pi + 0.1
    turns = np.where(is_turn, -np.sign(jumps) * 2 * np.pi, 0.0)
    unwrapped = values.copy()
    unwrapped[1:, angles] += np.cumsum(turns, axis=0)
    return unwrapped


def _best_delay(command: Floats, state: Floats, block: int, most: int) -> tuple[int, Floats, Floats]:
    """The delay in steps at which the changes between blocks correlate best, and both changes [n, d] at it."""
    best, chosen = -2.0, (0, *_changes(command, state, block, 0))
    for delay in sorted({round(part * most / 6) for part in range(7)}):
        if len(state) - delay < 3 * block:
            break
        x, y = _changes(command, state, block, delay)
        product = np.sqrt((x * x).sum(0) * (y * y).sum(0))
        seen = product > 0
        fit = float(((x * y).sum(0)[seen] / product[seen]).mean()) if seen.any() else 0.0
        if fit > best:
            best, chosen = fit, (delay, x, y)
    return chosen


def _changes(command: Floats, state: Floats, block: int, delay: int) -> tuple[Floats, Floats]:
    n = (len(state) - delay) // block
    means = (v[: n * block].reshape(n, block, -1).mean(1) for v in (command, state[delay:]))
    x, y = (np.diff(mean, axis=0) for mean in means)
    return x, y


def _least_motion(state: Floats, slots: dict[int, str], block: int) -> Floats:
    """What a block's mean must change by to be motion, [d]: several times what the sensor's own noise makes of it."""
    wobble = np.abs(np.diff(state, n=2, axis=0))
    # A second difference of white noise of deviation s has deviation s * sqrt(6), and median magnitude 0.67 of that.
    noise = np.median(wobble, axis=0) / (0.6745 * np.sqrt(6))
    least = np.full(state.shape[1], np.inf)
    for slot, unit in slots.items():
        least[slot] = max(LEAST_MOTION[unit], _NOISE_FACTOR * noise[slot] * np.sqrt(2 / block))
    return least


def _levels(state: Floats, action: Floats, mode: str) -> Floats:
    if not is_absolute(mode):
        reach = np.full(state.shape[1], np.nan)
        return np.stack([((action - state) ** 2).mean(0), (state**2).mean(0), reach])
    apart = action - state
    small = (np.abs(action) < 2 * np.pi + 0.1) & (np.abs(state) < 2 * np.pi + 0.1)
    apart = np.where(small, (apart + np.pi) % (2 * np.pi) - np.pi, apart)
    readings = (apart, state - action / DEGREES, state / DEGREES - action)
    return np.stack([(reading**2).mean(0) for reading in readings])


def _lies_at_the_state(moves: Moves) -> bool:
    lengths = [slot for slot, unit in moves.slots.items() if unit == "m"]
    slots = lengths or list(moves.slots)
    offset, reach = moves.levels[0, slots].mean(), moves.levels[1, slots].mean()
    return bool(reach > 0.02**2 and offset < 0.25 * reach)


def _ratio(found: Sequence[Moves], slot: int) -> Ratio | None:
    moving = [m for m in found if m.samples[slot] >= 2 and m.commanded[slot] > 0]
    if len(moving) < _FEWEST_EPISODES or sum(m.samples[slot] for m in moving) < _FEWEST_SAMPLES:
        return None
    xx, xy, yy = (np.array([getattr(m, name)[slot] for m in moving]) for name in ("commanded", "both", "done"))
    sign = 1.0 if xy.sum() > 0 else -1.0
    low, _ = _slope_interval(xx, sign * xy)
    least_inverse, _ = _slope_interval(yy, sign * xy)
    high = 1 / least_inverse if least_inverse > 0 else float("inf")
    ends = sorted((sign * low, sign * high))
    return Ratio(
        slot=slot,
        unit=found[0].slots[slot],
        value=float(sign * np.sqrt(yy.sum() / xx.sum())),
        low=ends[0],
        high=ends[1],
        n_episodes=len(moving),
    )


def _slope_interval(xx: Floats, xy: Floats) -> tuple[float, float]:
    """The 95 % interval of the slope sum(xy) / sum(xx), its standard error clustered by episode."""
    n, slope = len(xx), xy.sum() / xx.sum()
    error = np.sqrt(((xy - slope * xx) ** 2).sum() * n / (n - 1)) / xx.sum()
    df = n - 1
    # The 97.5 % point of Student's t by the expansion of Fisher and Cornish; within 3 % of it from two degrees on.
    t = 1.96 + 2.372 / df + 2.822 / df**2 + 2.556 / df**3
    return float(slope - t * error), float(slope + t * error)


def _degrees_in(
    found: Sequence[Moves], ratios: dict[int, Ratio], side: int, states: Mapping[int, str] = MappingProxyType({})
) -> dict[int, str]:
    """The angle slots of the state (0) or the action (1) whose numbers only make sense as degrees, and why.

    states: those of the state, where the action is asked about.
    """
    slots: dict[int, str] = {}
    is_rate = side == 1 and not is_absolute(found[0].control_mode)
    for slot, unit in found[0].slots.items():
        if unit != "rad":
            continue
        peak = float(np.median([m.peaks[side, slot] for m in found]))
        speed = float(np.median([m.speeds[side, slot] for m in found]))
        ratio = ratios.get(slot)
        turns = ratio is not None and _is_degrees(found, ratio, side)
        # A normalized controller's full command, 1 in every step, would be a fast turn, too.
        is_far = peak > (NORMALIZED_PEAK if is_rate else FULL_TURN_RAD)
        if not is_rate and peak > MOST_TURNS_RAD:
            slots[slot] = f"reaches {peak:.3g}"
        elif speed > FAST_RAD_S and is_far and (not is_rate or ratio is None or turns or slot in states):
            slots[slot] = f"moves at {speed:.3g} per s"
        elif ratio is not None and turns:
            of_what = f"1/{1 / ratio.value:.0f} of" if side else f"{ratio.value:.0f} times"
            slots[slot] = f"the state turns {of_what} what is commanded"
    return slots


def _is_degrees(found: Sequence[Moves], ratio: Ratio, side: int) -> bool:
    """Whether the interval is about 1/57 (action in degrees) or 57 (state in degrees), and nothing else explains it."""
    as_rad = (ratio.low * DEGREES, ratio.high * DEGREES) if side else (ratio.low / DEGREES, ratio.high / DEGREES)
    if not (LIKELY_LOW < as_rad[0] and as_rad[1] < LIKELY_HIGH):
        return False
    if is_absolute(found[0].control_mode):
        # Degrees have their zero where rad have it; percent of a range, or ticks, do not.
        as_is, action_read, state_read = np.median([m.levels[:, ratio.slot] for m in found], axis=0)
        read = action_read if side else state_read
        return bool(read < 0.3**2 and read < as_is)
    if side == 0 and is_velocity(found[0].control_mode) and ratio.low <= LIKELY_HIGH * found[0].control_hz:
        # Velocities in rad a step at tens of Hz have such a ratio, too.
        return False
    return side == 0 or max(m.peaks[1, ratio.slot] for m in found) > NORMALIZED_PEAK


def _turns(scope: str, found: Sequence[Moves]) -> list[Finding]:
    """A joint or pose beyond a full turn: degrees, or a joint of several turns; the numbers do not show which."""
    sides = (0, 1) if is_absolute(found[0].control_mode) else (0,)
    angles = [slot for slot, unit in found[0].slots.items() if unit == "rad"]
    far = [m for m in found if any(m.peaks[side, slot] > FULL_TURN_RAD for side in sides for slot in angles)]
    if len(far) <= len(found) / 2:
        return []
    peak = max(float(m.peaks[side, slot]) for m in far for side in sides for slot in angles)
    evidence = f"angles reach {peak:.3g}: degrees, or a joint that turns more than once"
    advice = "Compare with the robot's joint limits; `degrees: true` in the adapter only where they say so."
    return [finding("degrees", "warning", scope, evidence, advice, [m.where for m in far])]


def _reaches(scope: str, found: Sequence[Moves]) -> list[Finding]:
    """A hand that is farther out, or faster, than arms are: another unit on both sides, which no ratio shows."""
    slots = [slot for slot, unit in found[0].slots.items() if unit == "m"]
    if not slots:
        return []
    reach = float(np.median([m.peaks[0, slots].max() for m in found]))
    speed = float(np.median([m.speeds[0, slots].max() for m in found]))
    if reach <= FAR_M and speed <= FAST_M_S:
        return []
    evidence = f"in half of the episodes the hand is {reach:.3g} m out and more, or has {speed:.3g} m/s"
    advice = "Positions may be in mm, cm or dm: give state and action their `scale` in the entry."
    return [finding("workspace", "warning", scope, evidence, advice, [m.where for m in found])]


def _scales(scope: str, found: Sequence[Moves], ratios: Sequence[Ratio]) -> list[Finding]:
    """Slots whose state moves by another amount than is commanded, whatever the controller."""
    findings: list[Finding] = []
    for severity, low, high in (("error", POSSIBLE_LOW, POSSIBLE_HIGH), ("warning", LIKELY_LOW, LIKELY_HIGH)):
        off = [r for r in ratios if r.low > high or (r.high < low and r.low > 0)]
        if off and not findings:
            listed = ", ".join(f"slot {r.slot} ({r.unit}) {r}" for r in off)
            evidence = f"the state moves by another amount than is commanded: {listed} of it; {_guess(off)}"
            middle = float(np.median([r.value for r in off]))
            advice = (
                f"Give the action `scale: {middle:.3g}` in the entry if its documentation agrees, or say "
                "`units: native`, so that its statistics stay apart."
            )
            findings.append(finding("scale", severity, scope, evidence, advice, [m.where for m in found]))  # type: ignore[arg-type]
    against = [r for r in ratios if r.high < -LIKELY_LOW]
    if against:
        listed = ", ".join(f"slot {r.slot} ({r.unit}) {r}" for r in against)
        evidence = f"the state moves against the command: {listed} of it"
        advice = "Look at signs and frames in the entry: the action may be in the tool's or the camera's frame."
        findings.append(finding("scale", "warning", scope, evidence, advice, [m.where for m in found]))
    return findings


def _rates(scope: str, found: Sequence[Moves], ratios: Sequence[Ratio]) -> list[Finding]:
    """Joints that are commanded in rad/s move by that much in a second."""
    off = [r for r in ratios if r.low > LIKELY_HIGH or (r.high < LIKELY_LOW and r.low > 0)]
    if not off:
        return []
    gain, hz = float(np.median([r.value for r in off])), found[0].control_hz
    low, high = min(r.low for r in off), max(r.high for r in off)
    evidence = f"joints move {gain:.2f} ({low:.2f} to {high:.2f}) times as fast as commanded, taken at {hz:g} Hz"
    advice = f"The control rate may be {hz / gain:.3g} Hz, or the velocities are not in rad/s: look at the adapter."
    if LIKELY_LOW * hz < gain < LIKELY_HIGH * hz:
        advice = "The velocities may be in rad a step: give the action a `scale` of the control rate in the adapter."
    return [finding("control_rate", "error", scope, evidence, advice, [m.where for m in found])]


_KNOWN = {
    "m": {"the action in mm": 0.001, "the action in cm": 0.01, "the state in cm": 100.0, "the state in mm": 1000.0},
    "rad": {"the action in degrees": 1 / DEGREES, "the state in degrees": DEGREES},
}


def _guess(ratios: Sequence[Ratio]) -> str:
    """What could explain the ratios: every known unit that an interval allows, and a controller's scale."""
    names = [
        name
        for unit, known in _KNOWN.items()
        for name, nominal in known.items()
        if any(r.unit == unit and r.low < LIKELY_HIGH * nominal and r.high > LIKELY_LOW * nominal for r in ratios)
    ]
    if any(r.high < 1 for r in ratios):
        names.append("a controller whose commands are parts of its largest step")
    return f"that fits {' or '.join(names)}" if names else "no known unit fits"
