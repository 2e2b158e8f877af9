"""Pictures in columns of LeRobot's tables, the sentence of each step, and refusals that name what is there."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.images import CorruptImage, decode_image
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.sources.lerobot import find, flatten_names, read
from pipelines.sources.lerobot_files.records import EpisodeFiles
from pipelines.sources.lerobot_files.tables import read_rows, to_array
from tests.support.inputs.lerobot_writer import (
    CAMERA,
    Columns,
    level_of,
    make_rows,
    meta_row,
    numbers_shown,
    video_path,
    write_lines,
    write_v2,
    write_v3,
)

SO100 = get_adapter("lerobot_so100")


def read_one(root: Path, number: int = 0) -> NativeEpisode:
    return read(find(str(root), SO100).episodes[number], SO100)


def picture(number: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), level_of(number), np.uint8)).save(out, kind, quality=95)
    return out.getvalue()


def with_pictures(columns: Columns, first: int = 0, kind: str = "PNG", plain: bool = False) -> Columns:
    pictures = [picture(first + i, kind) for i in range(len(columns["index"]))]
    if plain:
        return columns | {CAMERA: pa.array(pictures, pa.binary())}
    rows = [{"bytes": data, "path": f"frame_{i:06d}.png"} for i, data in enumerate(pictures)]
    return columns | {CAMERA: pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}


def as_images(root: Path, number: int = 0) -> Path:
    """The dataset without its MP4s, its camera a column of pictures."""
    video_path(root, number).unlink()
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"][CAMERA]["dtype"] = "image"
    path.write_text(json.dumps(info))
    return root


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("plain", [False, True])
def test_pictures_of_a_column_are_passed_on_as_they_are(tmp_path: Path, kind: str, plain: bool) -> None:
    columns = with_pictures(make_rows(0, 4), kind=kind, plain=plain)
    native = read_one(as_images(write_v2(tmp_path, [columns])))
    assert list(native.frames[CAMERA]) == [picture(i, kind) for i in range(4)]
    assert numbers_shown([decode_image(data) for data in native.frames[CAMERA]]) == [0, 1, 2, 3]


def test_pictures_of_a_table_of_many_episodes_are_the_episodes_own(tmp_path: Path) -> None:
    episodes = [with_pictures(make_rows(0, 20, 0), 0), with_pictures(make_rows(1, 20, 20), 20)]
    root = write_v3(tmp_path, [meta_row(0, 0, 20), meta_row(1, 20, 20)], {0: episodes}, 1)
    table = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(table), table, row_group_size=7)
    (root / f"videos/{CAMERA}/chunk-000/file-000.mp4").unlink()
    frames = read_one(root, 1).frames[CAMERA]
    assert numbers_shown([decode_image(data) for data in frames]) == list(range(20, 40))
    assert frames[3] == picture(23) and frames[0] == picture(20)


def test_a_row_without_a_picture_is_named(tmp_path: Path) -> None:
    columns = make_rows(0, 3)
    rows = [{"bytes": picture(0), "path": "a"}, {"bytes": None, "path": "frame_000001.png"}, None]
    columns[CAMERA] = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    frames = read_one(as_images(write_v2(tmp_path, [columns]))).frames[CAMERA]
    with pytest.raises(CorruptImage, match=r"row 1: expected the bytes .* found a path \('frame_000001.png'\) alone"):
        frames[1]
    with pytest.raises(CorruptImage, match="row 2: expected the bytes of a picture, found None"):
        frames[2]


def no_camera(root: Path) -> str:
    with pytest.raises(Rejected) as error:
        to_episode(read_one(root), SO100, get_embodiment("so100"), ["base_0_rgb"])
    assert error.value.reason == "no_camera"
    return error.value.detail


def test_without_a_camera_the_cameras_that_are_there_are_named_with_their_types(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 3)])
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    numbers = {"dtype": "float32", "shape": [3, 64, 64], "names": None}
    depth = {"dtype": "video", "shape": [64, 64, 1], "info": {"video.is_depth_map": True}}
    info["features"] |= {"observation.images.up": numbers, "observation.images.top_depth": depth}
    path.write_text(json.dumps(info))
    (root / "videos").rename(root / "video")
    detail = no_camera(root)
    assert detail.startswith("expected base_0_rgb: observation.images.top or observation.images.laptop or")
    assert "observation.images.top (video, its MP4 is not there)" in detail
    assert "observation.images.up (float32 numbers [3, 64, 64], no encoded picture)" in detail
    assert "observation.images.top_depth (video, depth, left out)" in detail
    assert "there is a folder video/, which video_path of info.json does not name" in detail


def test_a_depth_camera_is_no_camera_of_colours(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 3)])
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"][CAMERA]["info"] = {"video.is_depth_map": True}
    path.write_text(json.dumps(info))
    assert "observation.images.top (video, depth, left out)" in no_camera(root)


def test_a_task_that_changes_inside_an_episode_is_the_text_of_its_steps(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 4, task=[0, 0, 1, 1])], tasks=("open it", "put it in"))
    native = read_one(root)
    assert native.step_text == ("open it", "open it", "put it in", "put it in")


def test_one_task_is_no_text_of_steps(tmp_path: Path) -> None:
    native = read_one(write_v2(tmp_path, [make_rows(0, 4)]))
    assert native.step_text is None and native.language == ("lift it",)


def test_subtasks_by_number_and_by_text(tmp_path: Path) -> None:
    columns = make_rows(0, 4) | {"subtask_index": np.array([0, 1, 1, 7])}
    root = write_v2(tmp_path / "numbers", [columns])
    table = pa.table({"subtask_index": [0, 1], "__index_level_0__": ["reach", "grasp"]})
    pq.write_table(table, root / "meta/subtasks.parquet")
    assert read_one(root).step_text == ("reach", "grasp", "grasp", "")
    texts = make_rows(0, 3) | {"subtask": pa.array(["reach", None, "grasp"])}
    assert read_one(write_v2(tmp_path / "texts", [texts])).step_text == ("reach", "", "grasp")


def language(rows: list[tuple[str, str | None, float]]) -> list[dict[str, Any]]:
    return [
        {"role": "assistant", "content": text, "style": style, "timestamp": time, "camera": None, "tool_calls": None}
        for style, text, time in rows
    ]


def test_language_columns_hold_a_subtask_until_the_next(tmp_path: Path) -> None:
    """As `language_persistent` of LeRobot 3.1: each row repeats the episode's list; None ends a subtask."""
    # A row at 0.7 s holds 0.69999999, as float32.
    subtasks = [("subtask", "reach", 0.1), ("subtask", None, 0.3), ("subtask", "go", 0.7)]
    rows = language([("plan", "all of it", 0.0), *subtasks])
    columns = make_rows(0, 9) | {"language_persistent": pa.array([rows] * 9)}
    root = write_v2(tmp_path, [columns], codebase_version="v3.1")
    assert read_one(root).step_text == ("", "reach", "reach", "", "", "", "", "go", "go")


def test_task_texts_of_v2_lines_and_their_success(tmp_path: Path) -> None:
    columns = make_rows(0, 3) | {"next.success": np.array([False, False, True])}
    assert read_one(write_v2(tmp_path / "a", [columns])).success == 1
    words = make_rows(0, 3) | {"next.success": pa.array(["false", "false", "false"])}
    assert read_one(write_v2(tmp_path / "b", [words])).success == 0
    unknown = make_rows(0, 3) | {"next.success": np.array([0.0, 0.0, np.nan])}
    assert read_one(write_v2(tmp_path / "c", [unknown])).success == -1


def test_names_of_dims_in_every_form() -> None:
    names = ("a", "b", "c")
    for form in (["a", "b", "c"], {"motors": ["a", "b", "c"]}, {"arm": ["a", "b"], "grip": ["c"]}, [["a", "b", "c"]]):
        assert flatten_names(form) == names
    assert flatten_names({"a": 0, "b": 1, "c": 2}) == names
    assert flatten_names({"c": 2, "a": 0, "b": 1}) == names
    assert flatten_names([{"motors": ["a", "b"]}, "c"]) == names
    assert flatten_names(None) == flatten_names("motors") == ()


def test_arrays_of_lists_and_of_missing_numbers() -> None:
    assert to_array(pa.chunked_array([pa.array([[1, 2], [3, 4]])])).tolist() == [[1, 2], [3, 4]]  # type: ignore[union-attr]
    fixed = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    assert to_array(pa.chunked_array([fixed[1:]])).tolist() == [[3, 4]]  # type: ignore[union-attr]
    gap = to_array(pa.chunked_array([pa.array([[1.0, 2.0], None])]))
    assert gap is not None and np.isnan(gap[1]).all()
    assert to_array(pa.chunked_array([pa.array([[1.0], [2.0, 3.0]])])) is None
    assert to_array(pa.chunked_array([pa.array(["a"])])) is None
    assert to_array(pa.chunked_array([pa.array([True, None])])).tolist()[0] == 1.0  # type: ignore[union-attr]


def test_whole_numbers_that_no_float_holds_are_rounded_and_no_error() -> None:
    found = to_array(pa.chunked_array([[(1 << 53) + 1, 3]]))
    assert found is not None and found.tolist() == [float(1 << 53), 3.0]


def test_a_table_of_another_episode_names_the_number_that_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"episode_index": [3, 3, 7], "x": [0.0, 1.0, 2.0]}), tmp_path / "a.parquet")
    with pytest.raises(Rejected, match="wrong_identity: .*expected the rows of episode 3, found episode_index 7"):
        read_rows(EpisodeFiles(number=3, data=tmp_path / "a.parquet"), None, None)


def test_few_bytes_that_stand_for_many_numbers_are_refused_before_they_are_read(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 3)])
    path = root / "data/chunk-000/episode_000000.parquet"
    zeros = pa.array([np.zeros(12_000_000, np.int8)] * 3)
    pq.write_table(pq.read_table(path).append_column("zeros", zeros), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(Rejected, match="absurd_size: column zeros: expected one episode's numbers"):
        read_one(root)


def test_task_lines_may_be_of_unknown_numbers(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 4, task=[0, 0, 5, 5])])
    write_lines(root / "meta/tasks.jsonl", [{"task_index": 0, "task": "open it"}])
    assert read_one(root).step_text == ("open it", "open it", "", "")
