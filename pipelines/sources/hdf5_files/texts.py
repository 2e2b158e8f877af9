"""Words in HDF5 files: instructions, one for a file, an episode or a step, and the names of an array's dims."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from pipelines.contract.instructions import clean_instruction
from pipelines.contract.native import Rejected, check_array_size
from pipelines.sources.foreign_files import own_item

# Attributes, datasets and keys of JSON attributes that hold one instruction.
INSTRUCTION_KEYS = (
    "language_instruction",
    "language_raw",
    "lang",
    "language",
    "instruction",
    "task_description",
    "env_lang",
)
# Attributes that hold JSON with such a key: RoboCasa's (demonstration), LIBERO's (file), robosuite's (file).
_JSON_KEYS = ("ep_meta", "problem_info", "env_args")
# Datasets with one text a step.
_STEP_KEYS = ("subtask", "subtasks", "subtask_text", "step_text", "substep_reasonings", *INSTRUCTION_KEYS)
# What AgiBot World's annotations hold: a list of spans of frames and what the robot does in them.
_SPAN_KEYS = ("action_config", "label_info")
_NAME_KEYS = ("dim_names", "joint_names", "names")


def read_instruction(node: h5py.Group) -> str:
    """Returns the instruction that a file or group states in its attributes or in a dataset, "" if it states none."""
    texts: list[Any] = []
    for key in _JSON_KEYS:
        content = read_json(node.attrs.get(key))
        texts += [content.get(name) for name in INSTRUCTION_KEYS] if isinstance(content, Mapping) else []
    for key in INSTRUCTION_KEYS:
        texts.append(node.attrs.get(key))
        dataset = own_item(node, key)
        if isinstance(dataset, h5py.Dataset) and dataset.size == 1 and _is_text(dataset):
            texts.append(np.asarray(dataset[...]).reshape(-1)[0])
    return next((text for text in map(_instruction, texts) if text), "")


def read_named_texts(node: h5py.Group, key: str) -> tuple[str, ...]:
    """Returns the texts of one attribute or dataset of a group, cleaned; () where it has none of that name."""
    if key in node.attrs:
        return (_instruction(node.attrs[key]),)
    dataset = node.get(key)
    if not isinstance(dataset, h5py.Dataset) or not _is_text(dataset):
        return ()
    check_array_size(key, dataset.shape, dataset.dtype.itemsize)
    return tuple(_instruction(text) for text in np.asarray(dataset[...]).reshape(-1))


def read_step_text(group: h5py.Group, t: int, where: str) -> tuple[str, ...] | None:
    """Returns the instruction of each of `t` steps, "" where it has none; None where the file has none per step.

    They are a dataset of `t` texts, or spans of frames with a text (`start_frame`, `end_frame`, `action_text`).
    """
    for key in _STEP_KEYS:
        dataset = group.get(key)
        if isinstance(dataset, h5py.Dataset) and dataset.ndim in (1, 2) and dataset.size == t > 1 and _is_text(dataset):
            check_array_size(f"{where}: {key}", dataset.shape, dataset.dtype.itemsize)
            return tuple(_instruction(text) for text in np.asarray(dataset[...]).reshape(-1))
        is_of_steps = isinstance(dataset, h5py.Dataset) and key not in INSTRUCTION_KEYS and _is_text(dataset)
        if is_of_steps and dataset.size > 1 and t > 1:
            raise Rejected("unequal_lengths", f"{where}: {key}: expected {t} texts, one a step, found {dataset.size}")
    for key in _SPAN_KEYS:
        content = read_json(group.attrs.get(key))
        spans = content.get("action_config", content.get("spans")) if isinstance(content, Mapping) else content
        if spans:
            return _text_of_spans(spans, t, f"{where}: {key}")
    return None


def read_names(dataset: h5py.Dataset) -> tuple[str, ...]:
    """Returns the names of a dataset's columns, where it states them; () where it does not."""
    for key in _NAME_KEYS:
        value = dataset.attrs.get(key)
        if isinstance(value, (str, bytes)):
            value = read_json(value) or clean_instruction(value).split(",")
        if isinstance(value, Iterable):
            names = tuple(clean_instruction(name).strip() for name in value if isinstance(name, (str, bytes)))
            if names:
                return names
    return ()


def read_json(text: Any) -> Any:
    """Returns what a JSON attribute holds; an empty mapping where there is none or it is no JSON."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}


def _text_of_spans(spans: Any, t: int, where: str) -> tuple[str, ...]:
    texts = [""] * t
    for span in spans if isinstance(spans, Sequence) else ():
        try:
            start, end = int(span["start_frame"]), int(span["end_frame"])
            text = _instruction(span["action_text"])
        except (KeyError, TypeError, ValueError) as error:
            raise Rejected(
                "wrong_attributes", f"{where}: expected start_frame, end_frame, action_text: {error!r}"
            ) from error
        if not 0 <= start <= end <= t:
            raise Rejected("wrong_attributes", f"{where}: expected frames within 0 to {t}, found {start} to {end}")
        texts[start:end] = [text] * (end - start)
    return tuple(texts)


def _is_text(dataset: h5py.Dataset) -> bool:
    return dataset.dtype.kind in "SU" or h5py.check_string_dtype(dataset.dtype) is not None


def _instruction(value: Any) -> str:
    """One cleaned instruction of what an attribute, a row or a JSON key holds; LIBERO stores lists of letters, too."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "".join(value)
    # LIBERO keeps the quotes of its scene description.
    return clean_instruction(value).strip('"').strip() if isinstance(value, (str, bytes)) else ""
