"""Which episode a LeRobot file holds: its own columns and the metadata, compared, and no positions."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.contract.errors import FailedWork
from pipelines.contract.native import Found, NativeEpisode, Reject, Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.sources.lerobot import find, read
from pipelines.sources.lerobot_files.templates import fill_template
from tests.support.inputs.lerobot_writer import (
    CAMERA,
    FPS,
    first_joint,
    make_rows,
    meta_row,
    numbers_shown,
    video_path,
    write_info,
    write_lines,
    write_v2,
    write_v3,
    write_video,
)

SO100 = get_adapter("lerobot_so100")


def read_all(root: Path) -> tuple[dict[str, NativeEpisode], Found]:
    found = find(str(root), SO100)
    return {located.reference.key: read(located, SO100) for located in found.episodes}, found


def reasons(rejects: tuple[Reject, ...]) -> list[tuple[str, str]]:
    return [(reject.source_key, reject.reason) for reject in rejects]


def check_three(episodes: dict[str, NativeEpisode], numbers: list[int]) -> None:
    """Episodes of 4, 3 and 5 rows, in one file each of rows and frames: joints and pictures are the episode's own."""
    first, length = [0, 4, 7], [4, 3, 5]
    assert sorted(episodes) == [f"episode_{n:06d}" for n in numbers]
    for n in numbers:
        native = episodes[f"episode_{n:06d}"]
        assert first_joint(native.arrays) == [round(10 * n + i / 10, 1) for i in range(length[n])]
        assert numbers_shown(native.frames[CAMERA]) == list(range(first[n], first[n] + length[n]))


THREE = [make_rows(0, 4, 0), make_rows(1, 3, 4), make_rows(2, 5, 7)]
META = [meta_row(0, 0, 4), meta_row(1, 4, 3), meta_row(2, 7, 5)]


def test_an_episode_that_the_metadata_left_out_takes_no_rows_of_the_others(tmp_path: Path) -> None:
    root = write_v3(tmp_path, META[1:], {0: THREE}, 12)
    episodes, found = read_all(root)
    check_three(episodes, [1, 2])
    assert reasons(found.rejects) == [("episode_000000", "unlisted")]


def test_the_order_of_the_metadata_is_no_order_of_the_rows(tmp_path: Path) -> None:
    episodes, found = read_all(write_v3(tmp_path, [META[2], META[0], META[1]], {0: THREE}, 12))
    check_three(episodes, [0, 1, 2])
    assert found.rejects == ()


def test_row_numbers_may_count_per_file_and_rows_lie_in_any_order(tmp_path: Path) -> None:
    rows = [META[0], META[1], meta_row(2, 0, 5, from_s=0.7, file=1)]
    files = {0: [THREE[1], THREE[0]], 1: [make_rows(2, 5, 0)]}
    episodes, found = read_all(write_v3(tmp_path, rows, files, 12))
    check_three(episodes, [0, 1, 2])
    assert found.rejects == ()


def test_rows_of_episodes_that_lie_in_one_another_stay_apart(tmp_path: Path) -> None:
    root = write_v3(tmp_path, META, {0: THREE}, 12)
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).take([0, 4, 1, 7, 5, 2, 8, 9, 3, 6, 10, 11]), path, row_group_size=5)
    episodes, found = read_all(root)
    check_three(episodes, [0, 1, 2])
    assert found.rejects == ()


def test_an_episode_may_have_a_video_file_of_its_own(tmp_path: Path) -> None:
    rows = [META[0], META[1], meta_row(2, 7, 5, from_s=0.0) | {f"videos/{CAMERA}/file_index": 1}]
    root = write_v3(tmp_path, rows, {0: THREE}, 7)
    write_video(root / f"videos/{CAMERA}/chunk-000/file-001.mp4", range(7, 12))
    check_three(read_all(root)[0], [0, 1, 2])


def test_row_numbers_that_are_not_the_tables_are_stated(tmp_path: Path) -> None:
    rows = [meta_row(0, 100, 4, from_s=0.0), meta_row(1, 104, 3, from_s=0.4), meta_row(2, 107, 5, from_s=0.7)]
    episodes, _ = read_all(write_v3(tmp_path, rows, {0: THREE}, 12))
    check_three(episodes, [0, 1, 2])
    assert "rows were taken by episode_index" in episodes["episode_000001"].inferred["rows"]


def test_an_episode_listed_twice_in_two_ways_is_none(tmp_path: Path) -> None:
    rows = [META[0], META[1], meta_row(1, 7, 5), META[2], META[2]]
    episodes, found = read_all(write_v3(tmp_path, rows, {0: THREE}, 12, total_episodes=3))
    check_three(episodes, [0, 2])
    assert reasons(found.rejects) == [("episode_000001", "duplicate_episode")] * 2 + [
        ("episode_000002", "duplicate_episode")
    ]


def test_the_same_number_in_a_second_table_is_counted(tmp_path: Path) -> None:
    episodes, found = read_all(write_v3(tmp_path, META, {0: THREE, 1: [make_rows(1, 3, 4)]}, 12))
    check_three(episodes, [0, 1, 2])
    assert reasons(found.rejects) == [("episode_000001", "duplicate_episode")]


def test_a_listed_episode_without_rows_and_promised_ones_are_rejects(tmp_path: Path) -> None:
    root = write_v3(tmp_path, META, {0: THREE[:2]}, 12, total_episodes=5)
    episodes, found = read_all(root)
    check_three(episodes, [0, 1])
    assert sorted(reasons(found.rejects)) == [(f"episode_{n:06d}", "promised_missing") for n in (2, 3, 4)]
    assert found.rejects[0].detail == "info.json promises 5 episodes, 3 are listed or there"


def test_a_renamed_table_is_rejected_by_its_own_number(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 4), make_rows(1, 4)])
    (root / "data/chunk-000/episode_000000.parquet").rename(root / "data/chunk-000/episode_000001.parquet")
    (located,) = find(str(root), SO100).episodes
    with pytest.raises(Rejected, match="wrong_identity.*expected the rows of episode 1, found episode_index 0"):
        read(located, SO100)


def test_the_same_number_in_two_chunks_is_a_duplicate(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 4), make_rows(1, 4)])
    other = root / "data/chunk-007/episode_000001.parquet"
    other.parent.mkdir()
    other.write_bytes((root / "data/chunk-000/episode_000000.parquet").read_bytes())
    episodes, found = read_all(root)
    assert first_joint(episodes["episode_000001"].arrays)[0] == 10.0
    assert reasons(found.rejects) == [("episode_000001", "duplicate_episode")]


def test_of_two_copies_that_the_template_does_not_name_none_is_chosen(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 4), make_rows(1, 4)])
    path = root / "data/chunk-000/episode_000001.parquet"
    for chunk in (7, 8):
        copy = root / f"data/chunk-{chunk:03d}" / path.name
        copy.parent.mkdir()
        copy.write_bytes(path.read_bytes())
    path.unlink()
    episodes, found = read_all(root)
    assert list(episodes) == ["episode_000000"]
    assert reasons(found.rejects) == [("episode_000001", "duplicate_episode")] * 2


def test_a_table_that_the_metadata_does_not_list_is_counted(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 4), make_rows(1, 4)])
    write_lines(root / "meta/episodes.jsonl", [{"episode_index": 1, "tasks": ["lift it"], "length": 4}])
    episodes, found = read_all(root)
    assert list(episodes) == ["episode_000001"]
    assert reasons(found.rejects) == [("episode_000000", "unlisted")]


def test_path_templates_are_followed(tmp_path: Path) -> None:
    templates = {
        "data_path": "rows/{episode_index:04d}.parquet",
        "video_path": "films/{video_key}/{episode_index:04d}.mp4",
    }
    root = write_v2(tmp_path, [make_rows(0, 4)], **templates)
    for old, new in (
        (root / "data/chunk-000/episode_000000.parquet", root / "rows/0000.parquet"),
        (video_path(root, 0), root / f"films/{CAMERA}/0000.mp4"),
    ):
        new.parent.mkdir(parents=True)
        old.rename(new)
    episodes, _ = read_all(root)
    assert numbers_shown(episodes["episode_000000"].frames[CAMERA]) == [0, 1, 2, 3]
    assert episodes["episode_000000"].inferred == {}


def test_files_that_the_template_does_not_name_are_found_by_their_names_and_that_is_stated(tmp_path: Path) -> None:
    template = "data/chunk-{episode_index:03d}/episode_{episode_index:06d}.parquet"
    root = write_v2(tmp_path, [make_rows(0, 4), make_rows(1, 4)], data_path=template)
    episodes, _ = read_all(root)
    assert first_joint(episodes["episode_000001"].arrays) == [10.0, 10.1, 10.2, 10.3]
    assert list(episodes["episode_000001"].inferred) == ["data_path"]


@pytest.mark.parametrize(
    "template",
    [
        "../{episode_index}.parquet",
        "/etc/{episode_index}.parquet",
        "data/{episode_index.__class__}.parquet",
        "data/x",
        7,
    ],
)
def test_templates_that_lead_elsewhere_are_not_followed(tmp_path: Path, template: object) -> None:
    root = write_v2(tmp_path / "set", [make_rows(0, 4)], data_path=template)
    pq.write_table(pq.read_table(root / "data/chunk-000/episode_000000.parquet"), tmp_path / "0.parquet")
    episodes, _ = read_all(root)
    assert "is no path below the dataset" in episodes["episode_000000"].inferred["templates"]


def test_widths_of_templates_are_bounded() -> None:
    assert fill_template("{episode_index:06d}-{video_key}", {"episode_index": 7, "video_key": "top"}) == "000007-top"
    assert len(fill_template("{episode_index:0999999999d}", {"episode_index": 7})) == 20


def test_files_of_their_own_under_a_label_of_v3_are_read(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 4), make_rows(1, 4)], codebase_version="v3.0")
    episodes, _ = read_all(root)
    assert first_joint(episodes["episode_000001"].arrays) == [10.0, 10.1, 10.2, 10.3]
    assert (
        "info.json says v3.0; the files are laid out as a file per episode"
        in episodes["episode_000001"].inferred["layout"]
    )


def test_metadata_of_v3_with_a_table_for_each_episode_is_read(tmp_path: Path) -> None:
    template = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    root = write_v3(tmp_path, META, {0: THREE}, 12, data_path=template, chunks_size=1000)
    table = pq.read_table(root / "data/chunk-000/file-000.parquet")
    (root / "data/chunk-000/file-000.parquet").unlink()
    for n, (start, t) in enumerate(((0, 4), (4, 3), (7, 5))):
        pq.write_table(table.slice(start, t), root / f"data/chunk-000/episode_{n:06d}.parquet")
    episodes, found = read_all(root)
    check_three(episodes, [0, 1, 2])
    assert found.rejects == ()


def test_rows_go_by_their_frame_index(tmp_path: Path) -> None:
    columns = make_rows(0, 4)
    mixed = {name: values[[2, 0, 3, 1]] for name, values in columns.items()}
    episodes, _ = read_all(write_v2(tmp_path, [mixed]))
    assert first_joint(episodes["episode_000000"].arrays) == [0.0, 0.1, 0.2, 0.3]
    assert numbers_shown(episodes["episode_000000"].frames[CAMERA]) == [0, 1, 2, 3]


def test_two_rows_of_one_frame_index_are_refused(tmp_path: Path) -> None:
    columns = make_rows(0, 4) | {"frame_index": np.array([0, 1, 1, 2])}
    (located,) = find(str(write_v2(tmp_path, [columns])), SO100).episodes
    with pytest.raises(Rejected, match="frame_index: expected numbers that rise"):
        read(located, SO100)


def test_metadata_nested_too_deep_is_a_message(tmp_path: Path) -> None:
    write_info(tmp_path, "v2.1", 1)
    (tmp_path / "meta/info.json").write_text("[" * 100_000)
    with pytest.raises(FailedWork, match="info.json: expected JSON"):
        find(str(tmp_path), SO100)


def test_a_video_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    import os

    root = write_v2(tmp_path, [make_rows(0, 4), make_rows(1, 4)])
    video_path(root, 0).unlink()
    os.mkfifo(video_path(root, 0))
    first, second = find(str(root), SO100).episodes
    with pytest.raises(Rejected, match="unsafe_file"):
        read(first, SO100)
    assert read(second, SO100).n_steps == 4


def test_an_unused_camera_that_is_damaged_costs_no_episode(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [make_rows(0, 4)])
    other = root / "videos/chunk-000/observation.images.unused/episode_000000.mp4"
    write_video(other, range(2), fps=FPS * 3)
    episodes, _ = read_all(root)
    assert list(episodes["episode_000000"].frames) == [CAMERA]
    assert episodes["episode_000000"].n_steps == 4
