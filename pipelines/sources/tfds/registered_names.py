"""The names that TFDS has for datasets of its own: a dataset of ours with one of them is not found by TFDS."""

import functools
from importlib import resources

import yaml


def explain_clash(name: str) -> str:
    """Returns what is wrong with a dataset's name, as sentences; "" where nothing is.

    `tfds.builder(name, data_dir=...)` opens the class that TFDS registers under a name, and with it the files in that
    class's own bucket; `data_dir` is not looked at. So do Octo's and OpenVLA's readers open datasets.
    """
    if name not in registered_names():
        return ""
    return (
        f"TFDS has a dataset of its own named {name!r}: tfds.builder({name!r}, data_dir=...) opens that one in place "
        f"of this, and so do Octo's and OpenVLA's readers. Choose another name, such as {name}_v2"
    )


@functools.cache
def registered_names() -> frozenset[str]:
    """The names that TFDS registers, as `tfds.list_builders` gave them for the version in `tfds_names.yaml`."""
    text = resources.files("pipelines").joinpath("tfds_names.yaml").read_text()
    return frozenset(yaml.safe_load(text)["names"])
