"""Lists of episodes and texts from outside, in the forms that public ones have."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.contract.errors import UsageError
from pipelines.shards.episode_lists import count_unmatched, join_key, read_episode_list, read_episode_texts

# As openpi's ranges of DROID 1.0.1 name a recording, and as two other copies name the same one.
OPENPI_KEY = (
    "gs://xembodiment_data/r2d2/r2d2-data-full/ILIAD/success/2023-04-21/Fri_Apr_21_10:42:08_2023/recordings/MP4--"
    "gs://xembodiment_data/r2d2/r2d2-data-full/ILIAD/success/2023-04-21/Fri_Apr_21_10:42:08_2023/trajectory.h5"
)
FOLDER = "ILIAD/success/2023-04-21/Fri_Apr_21_10_42_08_2023"
NUMBER = "ILIAD+7ae1bcff+2023-04-21-10h-42m-08s"


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content) if path.suffix == ".json" else content)
    return path


@pytest.mark.parametrize(
    "key",
    [
        OPENPI_KEY,
        "/nfs/kun2/datasets/r2d2/r2d2-data-full/ILIAD/success/2023-04-21/Fri_Apr_21_10:42:08_2023/trajectory.h5",
        "ILIAD/success/2023-04-21/Fri_Apr_21_10_42_08_2023",
        "1.0.1/ILIAD/success/2023-04-21/Fri_Apr_21_10:42:08_2023#droid-train.tfrecord-00000-of-02048#3",
    ],
)
def test_every_name_of_a_droid_recording_is_one_key(key: str) -> None:
    assert join_key(key) == FOLDER


def test_ranges_of_openpi_are_half_open_steps_of_an_episode(tmp_path: Path) -> None:
    listed = read_episode_list(write(tmp_path / "keep_ranges_1_0_1.json", {OPENPI_KEY: [[0, 23], [40, 161]]}))
    assert listed.ranges == {FOLDER: ((0, 23), (40, 161))} and listed.has_ranges


def test_numbers_are_those_of_lerobot_episodes(tmp_path: Path) -> None:
    listed = read_episode_list(write(tmp_path / "episodes.json", [0, 12]))
    assert listed.ranges == {"episode_000000": None, "episode_000012": None} and not listed.has_ranges


def test_a_number_may_be_a_text_as_keys_of_json_are(tmp_path: Path) -> None:
    listed = read_episode_list(write(tmp_path / "ranges.json", {"12": [[0, 5]]}))
    assert listed.ranges == {"episode_000012": ((0, 5),)} and "12" in listed


def test_a_text_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    listed = read_episode_list(write(tmp_path / "episodes.txt", "\ufeffa.hdf5\n²\n"))
    assert list(listed.ranges) == ["a.hdf5", "²"]


def test_an_episode_with_two_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found .* twice, with other texts"):
        read_episode_texts(write(tmp_path / "x.json", {OPENPI_KEY: "open", FOLDER: "close"}))


def test_a_text_file_has_a_key_a_line(tmp_path: Path) -> None:
    listed = read_episode_list(write(tmp_path / "episodes.txt", "demo.hdf5#demo_3\n\n7\n"))
    assert list(listed.ranges) == ["demo.hdf5#demo_3", "episode_000007"] and listed.n_rows == 2


def test_droids_numbers_are_joined_by_its_own_table(tmp_path: Path) -> None:
    write(tmp_path / "episode_id_to_path.json", {NUMBER: "ILIAD/success/2023-04-21/Fri_Apr_21_10:42:08_2023"})
    calibrated = {NUMBER: {"relative_path": "x"}, "AUTOLab+0d4edc83+2023-10-27-20h-25m-34s": {}}
    listed = read_episode_list(write(tmp_path / "cam2base_extrinsics.json", calibrated))
    assert (dict(listed.ranges), listed.n_rows, listed.n_unknown) == ({FOLDER: None}, 2, 1)


def test_without_its_table_a_list_of_droids_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected episode_id_to_path.json beside it, found none"):
        read_episode_list(write(tmp_path / "list.json", [NUMBER]))


def test_droids_annotations_give_up_to_three_texts(tmp_path: Path) -> None:
    write(tmp_path / "episode_id_to_path.json", {NUMBER: FOLDER})
    annotated = {
        "language_instruction1": "Open the drawer",
        "language_instruction2": "",
        "language_instruction3": "N/A",
    }
    texts = read_episode_texts(write(tmp_path / "droid_language_annotations.json", {NUMBER: annotated}))
    assert texts.texts == {FOLDER: ("Open the drawer",)}


def test_texts_by_key_may_be_one_or_several(tmp_path: Path) -> None:
    texts = read_episode_texts(write(tmp_path / "texts.json", {"a.hdf5": "push", "b.hdf5": ["pull", "pull", "open"]}))
    assert texts.texts == {"a.hdf5": ("push",), "b.hdf5": ("pull", "open")}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "[", "expected JSON"),
        ("x.json", "[1.5]", "expected a JSON list of keys or episode numbers"),
        ("x.json", "[true]", "expected a JSON list of keys or episode numbers"),
        ("x.json", "{}", "0 rows, none of which names an episode"),
        ("x.json", '{"a": [[5, 2]]}', r"a: expected ranges \[start, end\) of steps, found \[5, 2\]"),
        ("x.json", '{"a": [[0, 5]], "a": [[7, 9]]}', "the key 'a' twice, with other values"),
        ("x.json", '{"a": [0, 5]}', r"a: expected ranges \[start, end\) of steps, found 0"),
        ("x.json", '{"a": [[0, 5.0]]}', r"expected ranges .* found \[0, 5.0\]"),
        ("x.json", '{"a": [[0, 5], [7]]}', r"expected ranges .* found \[7\]"),
        ("x.json", '{"a": [[0, 5]], "b": null}', "expected ranges of steps for every key, .* found none for 'b'"),
        ("x.json", '{"a": true, "b": false}', "b: expected a key only of an episode that is meant, found false"),
        ("x.txt", "\n", "0 rows, none of which names an episode"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        read_episode_list(tmp_path / name)


def test_an_episode_with_two_sets_of_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found .* twice, with other steps"):
        read_episode_list(write(tmp_path / "x.json", {OPENPI_KEY: [[0, 5]], FOLDER: [[0, 6]]}))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone.json: expected a list of episodes, found: No such file"):
        read_episode_list(tmp_path / "gone.json")


def test_rows_without_an_episode_are_counted() -> None:
    assert count_unmatched([FOLDER, "b", "c"], [OPENPI_KEY, "c"]) == 1
