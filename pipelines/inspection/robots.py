"""Which robot of the registry an input is of, by the name that its source states, and an entry where it is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.contract.embodiments import load_embodiments
from pipelines.contract.errors import UsageError
from pipelines.contract.layouts import get_layout
from pipelines.contract.slots import LAYOUT, is_joint_mode
from pipelines.inspection.description import Description
from pipelines.inspection.proposal import PartDraft, Proposal
from pipelines.mapping.dim_names import words_of

# What sources call a robot -> its name in the registry.
_NAMES = {
    "so100": "so100",
    "so101": "so100",
    "koch": "koch",
    "franka": "franka",
    "panda": "franka",
    "fr3": "franka",
    "ur5": "ur5e",
    "ur5e": "ur5e",
    "widowx": "widowx",
    "wx250": "widowx",
    "wx250s": "widowx",
    "xarm": "xarm",
    "xarm7": "xarm",
    "jaco": "jaco",
    "kinova": "kinova",
    "sawyer": "sawyer",
    "iiwa": "kuka_iiwa",
    "aloha": "trossen_dual",
    "trossen": "trossen_dual",
    "viperx": "trossen_dual",
    "vx300s": "trossen_dual",
    "agilex": "arx_dual",
    "cobot": "arx_dual",
    "piper": "arx_dual",
    "arx": "arx_dual",
}


@dataclass(frozen=True, kw_only=True)
class RobotDraft:
    """A robot: of the registry, or one whose entry is drafted.

    slots: of a new one, by family of modes (`joint`, `ee`) and side, part -> slots such as 0-5; None for a known one.
    """

    name: str
    why: str
    slots: Mapping[str, Mapping[str, Mapping[str, str]]] | None = None
    base: str = "none"
    layout: str = LAYOUT


def choose_robot(description: Description, proposal: Proposal, name: str) -> RobotDraft:
    """The registered robot that the source names, where the proposal fits it; else a new one under `name`."""
    stated = list(dict.fromkeys(known for robot in description.robots for known in registered_names(robot)))
    for known in stated:
        if _fits(known, proposal):
            return RobotDraft(name=known, why=f"the source calls it {', '.join(description.robots)}")
    n_base = proposal.action["base"].width if "base" in proposal.action else 0
    said = f"the source calls it {', '.join(description.robots)}" if description.robots else "the source names no robot"
    why = f"{said}; a robot of the registry shares its statistics"
    if stated:
        why = f"{said}; {stated[0]} of the registry has other parts"
    mode = str(proposal.control_mode.value)
    families = ("joint", "ee") if proposal.control_mode.is_open else ("joint" if is_joint_mode(mode) else "ee",)
    base = {2: "nonholonomic", 3: "holonomic"}.get(n_base, "none")
    slots = {family: _slots(proposal, family) for family in families}
    return RobotDraft(name=name, why=why, slots=slots, base=base, layout=proposal.layout)


def registered_names(robot: str) -> list[str]:
    """The names of the registry that a source's word for its robot stands for."""
    words = words_of(robot.replace("_", " "))
    joined = [*words, *("".join(pair) for pair in zip(words, words[1:], strict=False))]
    registry = load_embodiments()
    return [name for name in [robot.lower(), *(_NAMES.get(word, "") for word in joined)] if name in registry]


def _fits(robot: str, proposal: Proposal) -> bool:
    embodiment = load_embodiments()[robot]
    modes = ["joint_position", "ee_absolute"] if proposal.control_mode.is_open else [str(proposal.control_mode.value)]
    for mode in modes:
        try:
            vectors = embodiment.vectors(mode)
        except UsageError:
            return False
        if vectors.layout != proposal.layout:
            return False
        for parts, slots in ((proposal.state, vectors.state), (proposal.action, vectors.action)):
            if any(
                part not in slots or _is_other_width(part, draft, len(slots[part])) for part, draft in parts.items()
            ):
                return False
        if is_joint_mode(mode) and set(vectors.action) - set(proposal.action):
            return False
    return True


def _is_other_width(part: str, draft: PartDraft, n_slots: int) -> bool:
    is_pose = "form" in draft.guesses
    return not part.startswith("gripper") and not is_pose and draft.width != n_slots


def _slots(proposal: Proposal, family: str) -> dict[str, dict[str, str]]:
    """Side -> part -> slots, as the layout has them; a pose has six dims, whatever its form."""
    sides = {"state": proposal.state, "action": proposal.action}
    n_dims: dict[str, int] = {}
    for parts in sides.values():
        for part, draft in parts.items():
            n = 1 if part.startswith("gripper") else draft.width
            n_dims[part] = max(n_dims.get(part, 0), 6 if part.startswith("arm") and family == "ee" else n)
    fitted = get_layout(proposal.layout).fit(n_dims) or {}
    return {side: {part: _runs(fitted[part]) for part in parts if part in fitted} for side, parts in sides.items()}


def _runs(slots: Sequence[int]) -> str:
    """Slots as entries write them.

    >>> _runs((0, 1, 2, 3, 4, 5, 18)), _runs((6,))
    ('0-5+18', '6')
    """
    runs: list[list[int]] = []
    for slot in slots:
        if runs and slot == runs[-1][1] + 1:
            runs[-1][1] = slot
        else:
            runs.append([slot, slot])
    return "+".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
