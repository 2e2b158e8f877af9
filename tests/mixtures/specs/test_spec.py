"""Mixture specs: what is read, and where and how mistakes are reported."""

from pathlib import Path

import pytest

from mixtures.specs.filters import Filter
from mixtures.specs.grammar import mixture_json_schema
from mixtures.specs.spec import ActionRule, Weighting, load_spec
from pipelines.contract.document import SpecError
from pipelines.contract.errors import UsageError

HEAD = "schema: embodimix.mixture/v1\nname: m\n"


def write(folder: Path, text: str, name: str = "m.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def failure(folder: Path, text: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(write(folder, text))
    return str(caught.value).removeprefix(f"{folder}/")


def test_reads_the_designs_example(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "weighting: {alpha: 1}\ndatasets: [{path: /data/bridge/1.0.0}]\n", "oxe_magic_soup.yaml")
    spec = load_spec(
        write(
            tmp_path,
            """schema: embodimix.mixture/v1
name: pretrain_v3
seed: 17
weighting: {rule: power, alpha: 0.43, group_by: [task, robot], count: steps}
groups:
  - name: open_data
    share: 0.091                 # fixed share of the draws; leave out and the rule decides
    include: oxe_magic_soup.yaml
  - name: in_house
    datasets:
      - {path: gs://bucket/laundry_arx/2.1.0, multiplier: 1.0, cap_steps: 50000000}
filters: [{drop: idle}, {keep: success}]
language: {segment: 0.5, task: 0.5}
validation: {fraction: 0.01, by: episode, min_per_group: 1}
action: {horizon: 50, mode: relative_to_first_state, normalization: quantile}
""",
        )
    )
    open_data, in_house = spec.root.nodes
    assert (spec.name, spec.seed, spec.action.horizon) == ("pretrain_v3", 17, 50)
    assert (open_data.share, open_data.weighting.alpha, in_house.weighting.alpha) == (0.091, 1.0, 0.43)
    assert open_data.entries[0].path == "/data/bridge/1.0.0"
    assert in_house.entries[0].cap_steps == 50_000_000
    assert [(f.keep, f.predicate) for f in open_data.entries[0].filters] == [(False, "idle"), (True, "success")]


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner", HEAD + "datasets: [{path: ../data/a/1.0.0}]\n", "inner.yaml")
    spec = load_spec(write(tmp_path, HEAD + "groups: [{name: g, include: inner/inner.yaml}]\n"))
    assert Path(spec.root.nodes[0].entries[0].path).resolve() == tmp_path / "data/a/1.0.0"


def test_a_groups_root_moves_the_relative_paths_of_what_it_includes(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "root: /else\ndatasets: [{path: a/1.0.0}]\n", "inner.yaml")
    spec = load_spec(write(tmp_path, HEAD + "groups: [{name: g, include: inner.yaml, root: 'gs://bucket/data'}]\n"))
    assert spec.root.nodes[0].entries[0].path == "gs://bucket/data/a/1.0.0"


def test_temperature_is_another_way_to_say_alpha(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, HEAD + "weighting: {temperature: 2.3256}\ndatasets: [{path: a}]\n"))
    assert spec.root.weighting == Weighting(alpha=pytest.approx(0.43, abs=1e-5))


def test_filters_of_outer_levels_come_first(tmp_path: Path) -> None:
    inner = "filters: [{keep: {robot: [arx], min_steps: 9}}]"
    text = HEAD + f"filters: [{{drop: idle}}]\ndatasets:\n  - path: a\n    {inner}\n"
    (entry,) = load_spec(write(tmp_path, text)).root.entries
    assert [f.predicate for f in entry.filters] == ["idle", None]
    assert entry.filters[1] == Filter(
        keep=True, mark=entry.filters[1].mark, values=(("robot", ("arx",)),), limits=(("min_steps", 9.0),)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wieghting: {alpha: 1}\n", "m.yaml:3:1: unknown key 'wieghting' in a mixture spec. Did you mean 'weighting'?"),
        ("weighting: {alpha: 1,\n", "m.yaml:4:1: not valid YAML"),
        (
            "weighting: {alpha: 1.5}\n",
            "m.yaml:3:20: expected the power: 0 uniform, 1 in proportion to the count "
            "(at least 0, at most 1), found '1.5'",
        ),
        ("weighting: {alpha: 1, temperature: 2}\n", "m.yaml:3:36: expected either alpha or temperature, found both"),
        (
            "weighting: {group_by: [taks]}\n",
            "m.yaml:3:24: expected one of task, robot, dataset, control_mode, found 'taks'.",
        ),
        (
            "groups:\n  - {name: a, share: 0.7, datasets: [{path: a}]}\n"
            "  - {name: b, share: 0.6, datasets: [{path: b}]}\n",
            "m.yaml:3:1: expected fixed shares of at most 1 in all, found 0.7 + 0.6 = 1.3",
        ),
        (
            "groups:\n  - {name: a, share: 0.7, datasets: [{path: a}]}\n",
            "m.yaml:3:1: every group has a fixed share, so they must add up to 1; found 0.7 = 0.7",
        ),
        (
            "groups:\n  - {name: a, share: 1, datasets: [{path: a}]}\n  - {name: b, datasets: [{path: b}]}\n",
            "m.yaml:3:1: the fixed shares take all draws and leave nothing for 'b'",
        ),
        ("groups:\n  - {name: a}\n", "m.yaml:4:5: group 'a': expected one of include, datasets or groups"),
        ("groups:\n  - {name: a, datasets: []}\n", "m.yaml:4:25: expected a list of datasets, found an empty list"),
        (
            "groups:\n  - {name: a, datasets: [{path: a}]}\n  - {name: a, datasets: [{path: b}]}\n",
            "m.yaml:5:12: two groups are named 'a'; the first is on line 4",
        ),
        (
            "datasets:\n  - {path: a}\n  - {path: a}\n",
            "m.yaml:5:12: the same dataset is listed twice; the first is on line 4",
        ),
        (
            "datasets: [{path: a}]\ndatasets: [{path: b}]\n",
            "m.yaml:4:1: key 'datasets' is given twice; the first is on line 3",
        ),
        (
            "datasets: [{multiplier: 2}]\n",
            "m.yaml:3:12: expected the key 'path' in a dataset, found the keys multiplier",
        ),
        ("datasets: [{path: a, cap_steps: 1.5}]\n", "m.yaml:3:33: expected most steps used"),
        ("datasets: [{path: a}]\nfilters: [{drop: idel}]\n", "m.yaml:4:18: expected what to match"),
        ("datasets: [{path: a}]\nfilters: [{drop: {robt: [a]}}]\n", "Did you mean 'robot'?"),
        (
            "datasets: [{path: a}]\nfilters: [{drop: {state: {18: [0, 1]}}}]\n",
            "m.yaml:4:31: expected a slot from 0 to 17 in the ranges of state, found '18'",
        ),
        (
            "datasets: [{path: a}]\nfilters: [{drop: {action: {6: [1, 0]}}}]\n",
            "expected the lowest and the highest value of action 6, found [1.0, 0.0]",
        ),
        ("datasets: [{path: a}]\nfilters: [{drop: {source: [humn]}}]\n", "Did you mean 'human'?"),
        ("datasets: [{path: a}]\nlanguage: {segment: 0, task: 0}\n", "m.yaml:4:11: expected a weight above 0"),
        ("groups: [{name: a, include: b.yaml}]\n", "m.yaml:3:29: expected a mixture spec to include, found no file"),
        ("groups: &g [{name: a, groups: *g}]\n", "nested deeper than 64 levels"),
        ("", "m.yaml:1:1: expected `groups` or `datasets`, found neither"),
    ],
)
def test_a_mistake_is_reported_with_file_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    assert message in failure(tmp_path, HEAD + text)


def test_a_part_that_was_written_in_percent_is_shown_as_one(tmp_path: Path) -> None:
    for written, hint in (("43", "Did you mean 0.43?"), ("430", ""), ("-1", ""), (".nan", "")):
        message = failure(tmp_path, HEAD + f"weighting: {{alpha: {written}}}\ndatasets: [{{path: a}}]\n")
        assert "expected the power" in message and message.partition(". ")[2] == hint, message
    message = failure(tmp_path, HEAD + "datasets: [{path: a}]\naction: {horizon: 1001}\n")
    assert "expected steps of a chunk" in message and "Did you mean" not in message


def test_a_wrong_schema_version_is_refused(tmp_path: Path) -> None:
    message = failure(tmp_path, "schema: embodimix.mixture/v2\nname: m\n")
    assert message.startswith("m.yaml:1:9: expected the schema, found 'embodimix.mixture/v2'. Did you mean")


def test_includes_that_go_in_a_circle_are_refused(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "groups: [{name: a, include: m.yaml}]\n", "b.yaml")
    message = failure(tmp_path, HEAD + "groups: [{name: a, include: b.yaml}]\n")
    assert message == "b.yaml:3:29: include goes in a circle: m.yaml -> b.yaml -> m.yaml"


def test_a_mistake_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "datsets: []\n", "b.yaml")
    message = failure(tmp_path, HEAD + "groups: [{name: a, include: b.yaml}]\n")
    assert message == "b.yaml:3:1: unknown key 'datsets' in a mixture spec. Did you mean 'datasets' or 'draws'?"


def test_a_missing_spec_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a mixture spec, a YAML file, found none"):
        load_spec(tmp_path / "none.yaml")


def test_the_json_schema_names_every_key_of_a_dataset() -> None:
    dataset = mixture_json_schema()["$defs"]["dataset"]
    assert dataset["required"] == ["path"]
    assert set(dataset["properties"]) >= {"path", "multiplier", "cap_steps", "max_epochs", "min_share", "filters"}
    assert dataset["additionalProperties"] is False


def test_groups_nest_twenty_deep(tmp_path: Path) -> None:
    text = "datasets: [{path: a, filters: [{keep: {state: {6: [0, 1]}}}]}]"
    for level in range(20):
        text = f"groups: [{{name: g{level}, {text}}}]"
    spec = load_spec(write(tmp_path, HEAD + text + "\n"))
    node, names = spec.root, []
    while node.nodes:
        (node,) = node.nodes
        names.append(node.name)
    assert names == [f"g{level}" for level in reversed(range(20))]
    assert node.entries[0].filters[0].ranges[0].slot == 6


@pytest.mark.parametrize("text", ["groups: " + "[" * 5_000, "name2: a\0b\n", "datasets: [{path: " + "{a: " * 5_000])
def test_what_yaml_cannot_read_is_a_message(tmp_path: Path, text: str) -> None:
    assert "not valid YAML" in failure(tmp_path, HEAD + text)


def test_aliases_of_aliases_are_counted(tmp_path: Path) -> None:
    lines = ["name: bomb", "groups:", "  - &a0 {name: x, datasets: [{path: x}]}"]
    lines += [f"  - &a{i} {{name: g{i}, groups: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(SpecError, match="expected at most 200000 values; do aliases hold aliases?"):
        load_spec(tmp_path / "a.yaml")


def test_merges_of_merges_are_counted(tmp_path: Path) -> None:
    lines = ["anchors:", "  a0: &a0 {name: x}"]
    lines += [f"  a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
    (tmp_path / "a.yaml").write_text("\n".join([*lines, "<<: *a11"]))
    with pytest.raises(SpecError, match="expected at most 200000 values"):
        load_spec(tmp_path / "a.yaml")


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(UsageError, match="/dev/zero: expected a readable mixture spec of at most 16777216 characters"):
        load_spec("/dev/zero")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("draws: 1.5\ndatasets: [{path: a}]\n", "whole, at least 1"),
        ("datasets: [{path: a}]\nfilters: [{keep: {min_steps: -1}}]\n", "at least 0"),
        ("datasets: [{path: a}]\nfilters: [{keep: {max_idle: -0.5}}]\n", "at least 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(body: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(f"schema: embodimix.mixture/v1\nname: test\n{body}")
    with pytest.raises(UsageError, match=message):
        load_spec(path)


@pytest.mark.parametrize(
    "rule",
    [ActionRule(mode="relative_to_first_state"), ActionRule(rate_hz=10.0), ActionRule(rotation="relative_rotvec")],
)
def test_each_way_of_changing_actions_asks_for_statistics_of_chunks(rule: ActionRule) -> None:
    assert rule.changes_actions and not ActionRule().changes_actions
