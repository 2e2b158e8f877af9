"""Tests of what a server remembers of its requests, and of its metrics, read by Prometheus's own parser."""

import numpy as np
import pytest

from tests.support.servers.pages import METADATA, REPORT
from trainers.robots import Robot
from trainers.serving.health import REMEMBERED_SPANS, Health
from trainers.serving.metrics import render_metrics
from trainers.serving.observations import ObservationForm
from trainers.serving.page import render


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_requests_are_counted_in_spans_of_ten_seconds() -> None:
    clock = Clock()
    health = Health(clock)
    health.answered(10, 20)
    clock.now = 9.9
    health.answered(10, 40)
    health.refused()
    clock.now = 31
    health.failed()
    health.state("ur5e", ["arm0[1] (rad)"])
    health.state("ur5e", [])
    assert health.series() == [
        {"start_s": 0.0, "answered": 2, "refused": 1, "failed": 0, "outside": 0, "median_ms": 30.0, "slowest_ms": 40},
        {
            "start_s": 30.0,
            "answered": 0,
            "refused": 0,
            "failed": 1,
            "outside": 1,
            "median_ms": None,
            "slowest_ms": None,
        },
    ]
    assert (health.states, health.states_outside) == (2, 1)
    assert health.outside == {("ur5e", "arm0[1] (rad)"): 1}


def test_an_hour_is_remembered_and_no_more() -> None:
    clock = Clock()
    health = Health(clock)
    for number in range(REMEMBERED_SPANS + 5):
        clock.now = 10.0 * number
        health.refused()
    assert [len(health.series()), health.series()[0]["start_s"]] == [REMEMBERED_SPANS, 50.0]


def test_a_state_beyond_what_training_saw_is_named_by_its_slot() -> None:
    robot = Robot(norm_key="ur5e/joint_position/pi18/v1", parts={"arm0": (0, 1), "gripper0": (6,)}, control_hz=(20.0,))
    mask = np.isin(np.arange(18), (0, 1, 6))
    low, high = np.full(18, -1.0), np.full(18, 1.0)
    form = ObservationForm(
        robot=robot, cameras=(), state_mask=mask, low=5 * low, high=5 * high, seen_low=low, seen_high=high
    )
    state = np.zeros(18, np.float32)
    assert form.outside(state) == []
    state[[0, 1, 6]] = 1.0, -1.01, 1.2
    assert form.outside(state) == ["arm0[1] (rad)", "gripper0 (gripper)"]


def test_prometheus_reads_the_metrics() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    families = {f.name: f for f in parser.text_string_to_metric_families(render_metrics(METADATA, REPORT))}
    requests = {s.labels["outcome"]: s.value for s in families["embodimix_requests"].samples}
    assert requests == {"answered": 9, "refused": 2, "failed": 1, "dropped": 0}
    latency = families["embodimix_latency_seconds"]
    assert latency.type == "summary"
    found = {
        (s.name.removeprefix("embodimix_latency_seconds"), *sorted(s.labels.items())): s.value for s in latency.samples
    }
    assert found["", ("quantile", "0.95"), ("stage", "infer")] == 0.031
    assert found["_count", ("stage", "total")] == 9 and found["_sum", ("stage", "total")] == 0.25
    (outside,) = families["embodimix_states_outside"].samples
    assert (outside.labels, outside.value) == ({"robot": "ur5e/joint_position/pi18/v1", "slot": "arm0[2] (rad)"}, 3)
    assert families["embodimix_healthy"].samples[0].value == 1
    sick = render_metrics({**METADATA, "run": 'a "b"\\\n'}, {**REPORT, "unhealthy": "device lost", "latency_ms": {}})
    parsed = {f.name: f for f in parser.text_string_to_metric_families(sick)}
    assert parsed["embodimix_healthy"].samples[0].value == 0
    assert parsed["embodimix_info"].samples[0].labels["run"] == 'a "b"\\\n'


def test_the_page_begins_with_whether_the_server_is_healthy() -> None:
    page = render(METADATA, REPORT)
    assert page.index("Healthy: robots get answers. Look at this:") < page.index("3 of 9 states lie outside")
    assert page.index("3 of 9 states lie outside") < page.index("The last hour") < page.index("Latency")
    assert "Not healthy: device lost." in render(METADATA, {**REPORT, "unhealthy": "device lost"})
