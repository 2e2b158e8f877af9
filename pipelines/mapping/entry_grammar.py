"""The grammar of an adapter entry: its keys, their kinds and meanings; checked before an entry is built."""

from typing import Literal, get_args

from pipelines.contract.document import AnyOf, Fields, Flag, ListOf, MapOf, Number, Scalar, TextKind
from pipelines.contract.registries import REPLACES
from pipelines.contract.slots import CAMERAS, CONTROL_MODES, Part
from pipelines.mapping.bag_form import BAG
from pipelines.mapping.cameras import Channels, DrawEach, Flip
from pipelines.mapping.part_units import ANGLES, LENGTHS

# Which episodes have a part: all, or those that hold its native keys.
When = Literal["always", "present"]

_TEXT_LIST = ListOf(about="a list of names", item=TextKind(about="a name"), may_be_empty=True)
_NAMES = AnyOf(about="a name or a list of names", kinds=(TextKind(about="a name"), _TEXT_LIST))
_NUMBERS = AnyOf(
    about="a number, or one for each dim",
    kinds=(Number(about="a number"), ListOf(about="a list of numbers", item=Number(about="a number"))),
)
_FLAGS = MapOf(about="native flags and their values", value=Scalar(about="true, false or a number"))
CAMERA = Fields(
    about="a camera: native names or a draw among them, and how its pictures are stored",
    fields={
        "from": _NAMES,
        "draw": ListOf(about="native cameras", item=TextKind(about="a name")),
        "each": TextKind(about="how often one is drawn", choices=get_args(DrawEach)),
        "flip": TextKind(about="along which axis pictures are mirrored", choices=get_args(Flip)),
        "rotate": Number(about="degrees by which pictures are to be turned clockwise", integer=True),
        "channels": TextKind(about="the order of the colours", choices=get_args(Channels)),
        "range": Number(about="the greatest value of pictures that are no bytes, 1 or 255", integer=True),
        "crop": Fields(
            about="the rectangle that is kept of a picture as it is stored, in pixels",
            fields={
                "top": Number(about="rows above it", integer=True, at_least=0),
                "left": Number(about="columns to its left", integer=True, at_least=0),
                "height": Number(about="its rows", integer=True, above=0),
                "width": Number(about="its columns", integer=True, above=0),
            },
            required=("top", "left", "height", "width"),
        ),
    },
)
_CAMERA = AnyOf(about="a native camera, a list of them, or a mapping of these", kinds=(*_NAMES.kinds, CAMERA))
_CAMERAS = Fields(about="camera slots", fields={camera: _CAMERA for camera in CAMERAS})

_UNIT = TextKind(about="a unit of the source's numbers", choices=(*LENGTHS, *ANGLES))

PART = Fields(
    about="the native dims of a part",
    fields={
        "from": AnyOf(
            about="native dims such as action[0:6], or a list of them",
            kinds=(TextKind(about="native dims"), ListOf(about="a list of native dims", item=TextKind(about="dims"))),
        ),
        "names": ListOf(about="the source's own names of the dims", item=TextKind(about="a name")),
        "form": TextKind(about="how the numbers are to be read"),
        "degrees": Flag(about="whether angles are in degrees"),
        "scale": _NUMBERS,
        "offset": _NUMBERS,
        "wrap": Flag(about="whether angles are differences, of which the short way round is meant"),
        "open": Number(about="a gripper's native value when open"),
        "closed": Number(about="a gripper's native value when closed"),
        "clip": Flag(about="whether a gripper is kept within 0..1"),
        "relative": Flag(about="whether a gripper's values say open, close or stay"),
        "next": Flag(about="whether the action is what the key holds one step later"),
        "units": AnyOf(
            about="a unit, or one of lengths and one of angles", kinds=(_UNIT, ListOf(about="units", item=_UNIT))
        ),
        "when": AnyOf(
            about="which episodes have the part: present, or native flags and their values",
            kinds=(TextKind(about="which episodes have the part", choices=get_args(When)), _FLAGS),
        ),
    },
    required=("from",),
)
_PARTS = Fields(about="parts", fields={part: PART for part in get_args(Part)})

ENTRY = Fields(
    about="an adapter entry",
    fields={
        "title": TextKind(about="a line on what the dataset is"),
        "format": TextKind(about="a format of the input"),
        "robot": TextKind(about="a robot of the registries, or from_log"),
        "control_mode": TextKind(about="a control mode", choices=CONTROL_MODES),
        "control_hz": Number(about="a rate in Hz", above=0),
        "units": TextKind(about="the units of vectors", choices=("metric", "native")),
        "by_units": MapOf(about="units and the entries for them", value=TextKind(about="an entry")),
        "aliases": _TEXT_LIST,
        "cameras": _CAMERAS,
        "optional_cameras": _CAMERAS,
        "state": _PARTS,
        "action": _PARTS,
        "widths": MapOf(about="native keys and their widths", value=Number(about="a width", integer=True, above=0)),
        "language": _TEXT_LIST,
        "episodes": TextKind(about="groups of an HDF5 file that are an episode each, such as data/demo_*"),
        "task": TextKind(about="an instruction"),
        "drop_first": TextKind(about="which first steps are left out"),
        "max_loss": Number(about="the share of steps that an episode may lose", at_least=0, at_most=1),
        "idle_when": _FLAGS,
        "keep_when": _FLAGS,
        "compressed": _TEXT_LIST,
        "swapped_channels": _TEXT_LIST,
        "published_size": ListOf(about="height and width", item=Number(about="pixels", integer=True, above=0)),
        "relabel": TextKind(about="what replaces the actions", choices=("never", "reached_states")),
        "note": TextKind(about="what a reader should know"),
        "bag": BAG,
        "shift_before": TextKind(about="a date, such as 2021-07-23"),
        "replaces": REPLACES,
    },
    required=("title", "format", "robot", "control_mode", "units"),
)
