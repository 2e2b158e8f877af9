"""The demo's bags hold what its in-house logs do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.images import decode_image
from pipelines.mapping.adapters import get_adapter, parse_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.sources import bag, zarr
from trainers.demo.bags import ENTRY_FILE, ENTRY_NAME
from trainers.demo.logs import Series, write_logs
from trainers.demo.world import MOBILE_DUAL

MOBILE = Series(format="bag", folder="x", body=MOBILE_DUAL, task="drive_and_lift_box", colours=(), episodes=1)


def test_a_bag_and_a_log_of_one_demonstration_are_the_same_episode(tmp_path: Path) -> None:
    write_logs(tmp_path / "bags", [MOBILE], 0, "x")
    write_logs(tmp_path / "logs", [replace(MOBILE, format="zarr")], 0, "x")
    content = yaml.safe_load((tmp_path / "bags/x" / ENTRY_FILE).read_text())
    entry = parse_adapter(ENTRY_NAME, content["adapters"][ENTRY_NAME])
    cameras = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    found = []
    for reader, adapter, root in ((bag, entry, "bags"), (zarr, get_adapter("inhouse_log"), "logs")):
        (located,) = reader.find(str(tmp_path / root), adapter).episodes
        found.append(to_episode(reader.read(located, adapter), adapter, get_embodiment(MOBILE_DUAL.robot), cameras))
    of_bag, of_log = found
    np.testing.assert_array_equal(of_bag.state, of_log.state)
    np.testing.assert_array_equal(of_bag.action, of_log.action)
    assert (of_bag.task, of_bag.success, of_bag.dropped) == (of_log.task, of_log.success, of_log.dropped)
    for camera in cameras:
        # Two encodings as JPEG lie between them.
        pictures = [np.asarray(decode_image(bytes(e.images[camera][5])), np.int16) for e in found]  # type: ignore[arg-type]
        assert np.abs(pictures[0] - pictures[1]).mean() < 3
