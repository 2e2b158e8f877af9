"""What a mixture spec may hold: the keys of `embodimix.mixture/v1`, their kinds, ranges and meanings."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pipelines.contract.document import AnyOf, Fields, Flag, Kind, ListOf, MapOf, Named, Number, TextKind
from pipelines.contract.document import json_schema as document_schema
from pipelines.contract.episode import SegmentKind, SegmentSource
from pipelines.contract.slots import CAMERAS

SCHEMA = "embodimix.mixture/v1"
GroupKey = Literal["task", "robot", "dataset", "control_mode"]
Count = Literal["steps", "episodes", "hours"]
Predicate = Literal["idle", "recovery", "segment", "success", "failure", "language"]
Stage = Literal["pretrain", "posttrain"]
ActionMode = Literal["absolute", "relative_to_first_state"]
Normalization = Literal["quantile", "zscore"]
RotationForm = Literal["euler", "relative_rotvec"]
PoolBy = Literal["norm_key", "dataset"]
GROUP_KEYS: tuple[str, ...] = get_args(GroupKey)
COUNTS: tuple[str, ...] = get_args(Count)
PREDICATES: tuple[str, ...] = get_args(Predicate)
STAGES: tuple[str, ...] = get_args(Stage)
ACTION_MODES: tuple[str, ...] = get_args(ActionMode)
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)
ROTATIONS: tuple[str, ...] = get_args(RotationForm)
POOLS: tuple[str, ...] = get_args(PoolBy)
STEP_PREDICATES = ("idle", "recovery", "segment")
# What else a filter's mapping may test: episodes, a step's position and segment, and physical values of slots.
EPISODE_LIMITS = {
    "min_steps": "fewest steps of an episode",
    "max_steps": "most steps of an episode",
    "min_s": "shortest duration of an episode in seconds",
    "max_s": "longest duration of an episode in seconds",
    "min_hz": "lowest control rate",
    "max_hz": "highest control rate",
    "max_idle": "largest part of an episode's steps that are idle, 0 to 1",
    "min_labelled": "smallest part of an episode's steps that are in a segment, 0 to 1",
}
STEP_LIMITS = {
    "from_step": "first step of an episode that matches",
    "before_step": "first step of an episode that matches no more",
    "last_steps": "how many steps at an episode's end match",
    "min_confidence": "lowest confidence of the step's segment, 0 to 1",
}
SLOT_ARRAYS = ("state", "action")
CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "cameras": ("camera slots, all of which the episode must have", CAMERAS),
    "kind": ("kinds of the step's segment", get_args(SegmentKind)),
    "source": ("who made the step's segment", get_args(SegmentSource)),
}
STEP_KEYS = ("kind", "source", *STEP_LIMITS, *SLOT_ARRAYS)

ABOUT_FILTER = "what to match: " + ", ".join(PREDICATES) + ", or a mapping such as {robot: [ur5e], min_steps: 20}"
_NAMES = ListOf(about="a list of names", item=TextKind(about="a name"))


def _names_of(about: str, choices: tuple[str, ...]) -> ListOf:
    return ListOf(about=f"a list of {about}: {', '.join(choices)}", item=TextKind(about=about, choices=choices))


def _slot_ranges(array: str) -> MapOf:
    bounds = ListOf(about="the lowest and the highest value, for example [0, 1.5]", item=Number(about="a number"))
    return MapOf(about=f"ranges of physical {array}s by slot, for example {{6: [0, 1]}}", value=bounds)


_MATCH = AnyOf(
    about=ABOUT_FILTER,
    kinds=(
        TextKind(about=ABOUT_FILTER, choices=PREDICATES),
        Fields(
            about="attributes that must all match",
            fields={key: _NAMES for key in GROUP_KEYS}
            | {key: _names_of(about, choices) for key, (about, choices) in CHOICES.items()}
            | {key: Number(about=about, at_least=0) for key, about in EPISODE_LIMITS.items()}
            | {key: Number(about=about, at_least=0) for key, about in STEP_LIMITS.items()}
            | {key: _slot_ranges(key) for key in SLOT_ARRAYS}
            | {"list": TextKind(about="a file that lists episodes, or steps of them, by the keys of their source")},
        ),
    ),
)
_FILTERS = ListOf(
    about="a list of filters, for example [{drop: idle}, {keep: success}]",
    item=Fields(about="a filter, {drop: ...} or {keep: ...}", fields={"drop": _MATCH, "keep": _MATCH}),
    may_be_empty=True,
)
_WEIGHTING = Fields(
    about="the weighting rule",
    fields={
        "rule": TextKind(about="the rule: power (a group of n weighs n ** alpha)", choices=("power",)),
        "alpha": Number(about="the power: 0 uniform, 1 in proportion to the count", at_least=0, at_most=1),
        "temperature": Number(about="another form of alpha, which is 1 / temperature", at_least=1),
        "group_by": ListOf(
            about="what makes a group, of " + ", ".join(GROUP_KEYS),
            item=TextKind(about="one of " + ", ".join(GROUP_KEYS), choices=GROUP_KEYS),
        ),
        "count": TextKind(about="what n counts: " + ", ".join(COUNTS), choices=COUNTS),
    },
)
_ROOT = TextKind(about="the folder or URI that relative dataset paths start from; the file's own folder by default")
_SHARE = Number(about="fixed share of the draws of the level above; else by the rule", above=0, at_most=1)
_MULTIPLIER = Number(about="factor on the weight that the rule gives", above=0)
_MAX_EPOCHS = Number(about="most times that a step of a group may be drawn on average", above=0)
_MIN_SHARE = Number(about="smallest share of all draws that each group here gets", at_least=0, at_most=1)
_ENTRY = Fields(
    about="a dataset",
    required=("path",),
    fields={
        "path": TextKind(
            about="the dataset's folder, <name>/<version>: relative to this file, absolute, or gs:// or s3://"
        ),
        "split": TextKind(about="the split to draw from; train by default"),
        "multiplier": _MULTIPLIER,
        "cap_steps": Number(about="most steps used, as whole episodes in a fixed order", integer=True, at_least=1),
        "max_epochs": _MAX_EPOCHS,
        "min_share": _MIN_SHARE,
        "task": TextKind(about="one task name for every episode of this dataset; replaces its own"),
        "robot": TextKind(about="the robot, for a plan from published sizes"),
        "filters": _FILTERS,
        "segments": ListOf(
            about="segment tables that overlay the dataset's own segments, relative to this file",
            item=TextKind(about="a segment table (Parquet)"),
        ),
        "sizes": Fields(
            about="published sizes, for a plan without the dataset",
            required=("steps",),
            fields={
                "steps": Number(about="steps", integer=True, at_least=1),
                "episodes": Number(about="episodes", integer=True, at_least=0),
                "control_hz": Number(about="control rate in Hz", at_least=0),
            },
        ),
    },
)
_DATASETS = ListOf(about="a list of datasets", item=Named(name="dataset"))
_GROUPS = ListOf(about="a list of groups", item=Named(name="group"))
_GROUP = Fields(
    about="a group",
    required=("name",),
    fields={
        "name": TextKind(about="the group's name"),
        "share": _SHARE,
        "multiplier": _MULTIPLIER,
        "max_epochs": _MAX_EPOCHS,
        "min_share": _MIN_SHARE,
        "weighting": _WEIGHTING,
        "filters": _FILTERS,
        "root": _ROOT,
        "include": TextKind(about="another mixture spec, relative to this file, or embodimix:NAME"),
        "datasets": _DATASETS,
        "groups": _GROUPS,
    },
)
_SEED = Number(about="the seed of the order of samples", integer=True, at_least=0, at_most=2**63 - 1)
_DRAWS = Number(about="samples that training will draw, which max_epochs needs", integer=True, at_least=1)
_LANGUAGE = Fields(
    about="how often a text is the segment's or the task's",
    fields={
        "segment": Number(about="weight of segment texts", at_least=0),
        "task": Number(about="weight of task texts", at_least=0),
        "proposals": Flag(about="whether motion phrases of proposals are texts of segments; false by default"),
    },
)
_GROUP_MULTIPLIERS = MapOf(
    about="factors on the weights of single groups, by the names that `mix plan` shows",
    value=Number(about="factor on the group's weight", above=0),
)
_CORRUPT_IMAGES = TextKind(
    about="what a picture that cannot be decoded does: fail, or black (masked, named and counted)",
    choices=("fail", "black"),
)
_KINDS = Fields(
    about="how often steps of each kind are drawn; 1 by default",
    fields={
        "subtask": Number(about="weight of subtask segments", at_least=0, at_most=100),
        "recovery": Number(about="weight of recovery segments", at_least=0, at_most=100),
        "idle": Number(about="weight of idle segments and idle steps", at_least=0, at_most=100),
    },
)
_STAGE = Fields(
    about="what a stage changes",
    fields={
        "seed": _SEED,
        "draws": _DRAWS,
        "weighting": _WEIGHTING,
        "filters": _FILTERS,
        "language": _LANGUAGE,
        "kinds": _KINDS,
        "corrupt_images": _CORRUPT_IMAGES,
        "group_multipliers": _GROUP_MULTIPLIERS,
        "leave_out": ListOf(about="groups that the stage does not draw from, by path", item=TextKind(about="a path")),
        "groups": MapOf(
            about="what the stage changes in single groups of the spec, by path",
            value=Fields(
                about="what a stage changes in a group",
                fields={
                    "share": _SHARE,
                    "multiplier": _MULTIPLIER,
                    "max_epochs": _MAX_EPOCHS,
                    "min_share": _MIN_SHARE,
                    "weighting": _WEIGHTING,
                    "filters": _FILTERS,
                },
            ),
        ),
    },
)
MIXTURE = Fields(
    about="a mixture spec",
    required=("schema", "name"),
    fields={
        "schema": TextKind(about="the schema", choices=(SCHEMA,)),
        "name": TextKind(about="the mixture's name"),
        "seed": _SEED,
        "draws": _DRAWS,
        "root": _ROOT,
        "layout": TextKind(about="the layout of the drawn vectors; pi18/v1 by default"),
        "weighting": _WEIGHTING,
        "groups": _GROUPS,
        "datasets": _DATASETS,
        "filters": _FILTERS,
        "language": _LANGUAGE,
        "group_multipliers": _GROUP_MULTIPLIERS,
        "corrupt_images": _CORRUPT_IMAGES,
        "kinds": _KINDS,
        "stages": Fields(
            about="what a stage of training changes in this spec: " + " or ".join(STAGES),
            fields={stage: _STAGE for stage in STAGES},
        ),
        "validation": Fields(
            about="the held-out part",
            required=("fraction",),
            fields={
                "fraction": Number(about="part of the episodes", at_least=0, at_most=0.5),
                "by": TextKind(about="what is held out together: episode", choices=("episode",)),
                "min_per_group": Number(about="fewest held-out episodes of a group", integer=True, at_least=0),
                "split": TextKind(about="the stored split that serves as validation where a dataset has it"),
            },
        ),
        "action": Fields(
            about="the action chunk",
            fields={
                "horizon": Number(about="steps of a chunk", integer=True, at_least=1, at_most=1000),
                "rate_hz": Number(about="rate to resample every source to; its own by default", above=0, at_most=1000),
                "mode": TextKind(about="absolute or relative_to_first_state", choices=ACTION_MODES),
                "normalization": TextKind(about="quantile or zscore", choices=NORMALIZATIONS),
                "rotation": TextKind(
                    about="rotations of ee_absolute: euler, or relative_rotvec (from the first state)",
                    choices=ROTATIONS,
                ),
            },
        ),
        "normalization": Fields(
            about="which steps share statistics",
            fields={"by": TextKind(about="one of " + ", ".join(POOLS), choices=POOLS)},
        ),
    },
)
NAMED: Mapping[str, Kind] = {"dataset": _ENTRY, "group": _GROUP}


def mixture_json_schema() -> dict[str, Any]:
    """The spec's JSON Schema, for `# yaml-language-server: $schema=...` in an editor."""
    header = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA, "title": "embodimix mixture"}
    return header | document_schema(MIXTURE) | {"$defs": {key: document_schema(kind) for key, kind in NAMED.items()}}
