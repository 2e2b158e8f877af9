"""Why an episode, or some steps of one, can be left out of a dataset: every reason, what it means and what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

RejectReason = Literal[
    "absurd_jump",
    "absurd_size",
    "absurd_value",
    "all_zero_matrix",
    "bad_name",
    "bad_rotation",
    "camera_delay_shift",
    "corrupt_example",
    "corrupt_image",
    "corrupt_record",
    "duplicate_episode",
    "filtered",
    "first_step",
    "first_step_zero_action",
    "foreign_flag",
    "holes",
    "joint_gap",
    "link_loop",
    "lossy_clock",
    "missing_chunk",
    "missing_file",
    "missing_frames",
    "missing_key",
    "no_action",
    "no_camera",
    "no_overlap",
    "no_reached_state",
    "no_steps",
    "non_finite",
    "one_step",
    "promised_missing",
    "too_large",
    "truncated_file",
    "truncated_video",
    "unequal_clocks",
    "unequal_lengths",
    "unknown_robot",
    "unlistable_folder",
    "unlisted",
    "unreadable",
    "unreadable_bag",
    "unreadable_config",
    "unreadable_frame",
    "unreadable_hdf5",
    "unreadable_metadata",
    "unreadable_parquet",
    "unreadable_pickle",
    "unreadable_zarr",
    "unsafe_file",
    "wrong_attributes",
    "wrong_dims",
    "wrong_identity",
    "wrong_names",
    "wrong_rate",
    "wrong_schema",
    "wrong_times",
]


@dataclass(frozen=True)
class Explanation:
    """meaning: what was found, as a clause. advice: what the owner of the source can do, as a sentence."""

    meaning: str
    advice: str


_DAMAGED = "Fetch the file again, or repair it in the source; the other episodes are kept."
_PAIRING = "Look at how the logger pairs its streams; the detail names the lengths or times that differ."
_ENTRY = "Compare the entry (`embodimix convert --explain ENTRY`) with the keys and dims that the detail names."

EXPLANATIONS: Mapping[RejectReason, Explanation] = {
    "truncated_file": Explanation("a TFRecord file that ends inside a record", _DAMAGED),
    "corrupt_record": Explanation("a record whose checksum does not match its bytes", _DAMAGED),
    "corrupt_example": Explanation("a record that is no `tf.train.Example` of RLDS steps", _DAMAGED),
    "promised_missing": Explanation(
        "an episode that the source's metadata lists or counts and its files do not hold",
        "Complete the download; `--partial` takes a part of a dataset on purpose, where the format has it.",
    ),
    "unlisted": Explanation(
        "an episode whose files are there and that the source's metadata does not list",
        "Repair the metadata, or remove the files.",
    ),
    "duplicate_episode": Explanation(
        "a second episode under the number or key of another one", "Renumber one of them, or remove the copy."
    ),
    "wrong_identity": Explanation(
        "a source that names an episode, its rows or its cameras in two ways; the detail says which differ",
        "Correct the one that is wrong: a file's name, `episode_index`, `index`, flags, or the metadata.",
    ),
    "missing_file": Explanation("a file of the episode that is not there", _DAMAGED),
    "missing_chunk": Explanation(
        "a chunk of an array that its metadata promises and that is not stored",
        "Fetch the file again; where its writer leaves chunks of zeros out on purpose, give `--sparse-chunks`.",
    ),
    "missing_frames": Explanation("a camera with fewer pictures than the episode has steps", _PAIRING),
    "truncated_video": Explanation("a video that ends before its episode does, or cannot be read", _DAMAGED),
    "corrupt_image": Explanation("a picture that cannot be decoded whole", _DAMAGED),
    "unreadable_frame": Explanation("a picture that cannot be decoded, of a form that is not known", _DAMAGED),
    "unreadable": Explanation("anything else that the reader could not read; the detail has its words", _DAMAGED),
    "unreadable_bag": Explanation("a bag, a chunk or a message of one that cannot be read", _DAMAGED),
    "unreadable_config": Explanation("an episode's configuration file that cannot be read", _DAMAGED),
    "unreadable_hdf5": Explanation("an HDF5 file that cannot be read", _DAMAGED),
    "unreadable_metadata": Explanation("an episode's metadata that cannot be read", _DAMAGED),
    "unreadable_parquet": Explanation("a Parquet file that cannot be read", _DAMAGED),
    "unreadable_pickle": Explanation("a pickle file that cannot be read, or holds more than arrays", _DAMAGED),
    "unreadable_zarr": Explanation("a zarr store that cannot be read", _DAMAGED),
    "unsafe_file": Explanation(
        "a pipe or device, or a file that names code, another file or a codec that is not allowed (docs/security.md)",
        "Write the file again with plain arrays and one of the allowed codecs.",
    ),
    "unlistable_folder": Explanation(
        "a folder below the input that cannot be listed, so that its episodes are not known",
        "Give the right to list it, or leave it out of the input.",
    ),
    "link_loop": Explanation("a link that leads back to a folder it lies in", "Remove the link."),
    "bad_name": Explanation(
        "a file or folder whose name is not UTF-8, or a split whose name no file can have", "Rename it."
    ),
    "one_step": Explanation("an episode of a single step, which holds no motion", "Nothing."),
    "no_steps": Explanation("a record without steps", "Look at the record that the detail names."),
    "no_camera": Explanation(
        "an episode that has none of the adapter's cameras",
        "Name the cameras that are there under `cameras` of the entry; the detail lists them.",
    ),
    "no_action": Explanation("an episode without an action in any slot", _ENTRY),
    "non_finite": Explanation("NaN or infinity in a state or an action", "Repair or drop these steps in the source."),
    "absurd_value": Explanation(
        "a number that no robot reaches (limits: pipelines/mapping/validate.py)",
        "Compare units: degrees, millimetres, servo ticks and controller units need `degrees` or `scale` in the entry.",
    ),
    "absurd_jump": Explanation(
        "a change between two steps that no robot makes (limits: pipelines/mapping/validate.py)",
        "Look for dropped samples or a reset inside the episode, at the step that the detail names.",
    ),
    "absurd_size": Explanation("an array or a picture that claims more bytes than one episode takes", _DAMAGED),
    "too_large": Explanation(
        "an episode whose record would be larger than a TFRecord reader takes", "Split the episode in the source."
    ),
    "wrong_dims": Explanation("a native key that is narrower or wider than the entry and robot account for", _ENTRY),
    "wrong_names": Explanation(
        "dims that the source names otherwise than the entry takes them",
        "Choose the columns by `names` in the entry, in the order of the robot's slots.",
    ),
    "missing_key": Explanation("a native key that the entry names and the episode lacks", _ENTRY),
    "unknown_robot": Explanation(
        "a robot that is not in the registry, or does not fit the entry",
        "Give `--robot`, or an entry of your own (docs/registries.md).",
    ),
    "bad_rotation": Explanation("a matrix or quaternion that is no rotation", _ENTRY),
    "all_zero_matrix": Explanation(
        "steps whose pose is stored as an all-zero matrix", "Nothing: only these steps are left out."
    ),
    "unequal_lengths": Explanation("arrays of one episode whose lengths differ", _PAIRING),
    "unequal_clocks": Explanation("streams of one episode whose times do not belong together", _PAIRING),
    "lossy_clock": Explanation("times that are too coarse, or repeat, so that rows cannot be distinguished", _PAIRING),
    "wrong_times": Explanation("time stamps that do not rise", _PAIRING),
    "wrong_rate": Explanation("a stream at another rate than the source's metadata says", _PAIRING),
    "no_overlap": Explanation("streams that share no time", _PAIRING),
    "joint_gap": Explanation("joints that are silent for half a second", _PAIRING),
    "holes": Explanation(
        "an episode that loses more than a tenth of its steps, or has a hole of more than 0.5 s in a stream", _PAIRING
    ),
    "wrong_schema": Explanation("a log of another schema than the reader knows", _ENTRY),
    "wrong_attributes": Explanation("attributes of a log that make no sense", _ENTRY),
    "foreign_flag": Explanation(
        "a flag, such as success, in a form that is neither yes nor no",
        "Store flags as booleans, 0 and 1, or the words true and false.",
    ),
    "filtered": Explanation(
        "an episode that the entry's `keep_when`, or the list of `--episodes`, leaves out on purpose",
        "Nothing, or take another entry or list.",
    ),
    "first_step": Explanation("the first step, which the entry leaves out on purpose", "Nothing."),
    "first_step_zero_action": Explanation(
        "the first step with an action of zeros, which the entry leaves out on purpose", "Nothing."
    ),
    "no_reached_state": Explanation(
        "the last step, which no state follows to relabel its action by (`relabel: reached_states`)", "Nothing."
    ),
    "camera_delay_shift": Explanation(
        "the step that is lost where pictures came one step late (Bridge before 2021-07-23)", "Nothing."
    ),
}

REJECT_REASONS: tuple[str, ...] = get_args(RejectReason)


def explain(reason: str) -> Explanation:
    """Returns what a reason means and what to do; a reason of an older version of this program is said to be one.

    >>> explain("one_step").meaning
    'an episode of a single step, which holds no motion'
    """
    return {str(name): text for name, text in EXPLANATIONS.items()}.get(
        reason, Explanation("a reason that this version does not know", "Read the detail.")
    )


def reasons_table() -> str:
    """Returns the Markdown table of docs/convert.md, one row per reason.

    >>> reasons_table().splitlines()[0]
    '| reason | what was found | what to do |'
    """
    rows = [f"| `{name}` | {text.meaning} | {text.advice} |" for name, text in EXPLANATIONS.items()]
    return "\n".join(["| reason | what was found | what to do |", "|---|---|---|", *rows]) + "\n"
