"""Tests of `embodimix annotate`: what the commands write and say, and how they end."""

import json
import shutil
from pathlib import Path

import pytest

from annotation_tools.episodes import EpisodeStore
from annotation_tools.parameters import dump_parameters, load_parameters
from pipelines.contract.episode import Segment
from pipelines.contract.errors import UsageError
from pipelines.segments.propose import ProposeParameters
from pipelines.segments.tables import Annotation, read_segments, write_segments
from tests.support.inputs.annotation_episodes import make_dataset
from tests.support.servers.memory_store import MemoryStore
from trainers.main import main


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("cli"), n_episodes=2)


@pytest.fixture
def dataset(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "toy" / "1.0.0"))


def test_propose_writes_a_table_of_the_segments_that_conversion_stored(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["annotate", "propose", str(dataset)]) == 0
    assert capsys.readouterr().out.startswith("2 episodes, 13 segments: median 1.90 s, 1.50 to 2.60 s, 1 idle")
    store = EpisodeStore(dataset)
    table = read_segments(dataset / "segments" / "proposals.parquet")
    for episode_id in store.briefs:
        proposed = [(a.segment.start, a.segment.end, a.segment.text) for a in table if a.episode_id == episode_id]
        assert proposed == [(s.start, s.end, s.text) for s in store.episode(episode_id).segments]


def test_propose_takes_parameters_from_a_file(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "p.yaml").write_text("schema: embodimix.propose/v1\ntarget_s: 1.0\n")
    arguments = ["annotate", "propose", str(dataset), "--parameters", str(dataset / "p.yaml"), "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["median_s"] < 1.6


def test_merge_bakes_the_next_minor_version(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["annotate", "propose", str(dataset)])
    assert main(["annotate", "merge", str(dataset), str(dataset / "segments" / "proposals.parquet")]) == 0
    out = dataset.parent / "1.1.0"
    assert capsys.readouterr().out.endswith(f"2 of 2 episodes with new segments\nwrote {out}\n")
    assert EpisodeStore(out).dataset.version == "1.1.0"
    card = (out / "card.md").read_text()
    assert "Segments of 2 episodes were merged into version 1.0.0" in card and (out / "card.html").exists()


def test_merge_of_people_who_disagree_ends_with_1_and_writes_nothing(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = EpisodeStore(dataset)
    episode_id = next(iter(store.briefs))
    key = store.key(episode_id)
    for name in ("ann", "bob"):
        segment = Segment(start=0, end=key.n_steps, text=f"what {name} says", source="human")
        row = Annotation(
            episode_id=episode_id,
            episode_hash=key.episode_hash,
            segment=segment,
            annotator=name,
            created="2024-05-01T10:00:00Z",
            tool_version="0.1.0",
        )
        write_segments(dataset / f"{name}.parquet", [row])
    tables = [str(dataset / "ann.parquet"), str(dataset / "bob.parquet")]
    assert main(["annotate", "merge", str(dataset), *tables]) == 1
    assert f"episode {episode_id}: ann and bob disagree" in capsys.readouterr().out
    assert not (dataset.parent / "1.1.0").exists()
    merged = dataset / "merged.parquet"
    assert main(["annotate", "merge", str(dataset), *tables, "--prefer", "bob", "--table", str(merged)]) == 0
    assert [a.annotator for a in read_segments(merged)] == ["bob"]


def test_a_folder_that_is_no_dataset_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", "propose", str(tmp_path)]) == 2
    assert "embodimix annotate: " in capsys.readouterr().err


def test_parameters_survive_a_round_trip(tmp_path: Path) -> None:
    parameters = ProposeParameters(target_s=1.5, glance_s=0.8)
    (tmp_path / "p.yaml").write_text(dump_parameters(parameters))
    assert load_parameters(tmp_path / "p.yaml") == parameters


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("target_s: 1", "p.yaml:1:1: expected the key 'schema' in proposal parameters, found the keys target_s"),
        ("schema: embodimix.propose/v1\ntarget: 1", "p.yaml:2:1: unknown key 'target'"),
        ("schema: embodimix.propose/v1\nmotion: {idle: 1}", "p.yaml:2:10: unknown key 'idle'"),
        ("schema: embodimix.propose/v1\ntarget_s: fast", "p.yaml:2:11: expected a number (at least 0"),
        ("schema: embodimix.propose/v1\ntarget_s: 9", "expected 0 < shortest_s < target_s < longest_s"),
        ("schema: embodimix.propose/v1\ntarget_s: 1\ntarget_s: 2", "p.yaml:3:1:"),
        ("schema: embodimix.propose/v2", "p.yaml:1:9: expected schema: embodimix.propose/v1"),
        ("schema: embodimix.propose/v1\ntarget_s: .inf", "p.yaml:2:11: expected a number (at least 0"),
        ("a: [", "p.yaml:1:5: not valid YAML"),
    ],
)
def test_bad_parameters_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_parameters(tmp_path / "p.yaml")
    assert said in str(caught.value)


def table_of(store: EpisodeStore, annotator: str, shift: int, text: str) -> list[Annotation]:
    """Every episode cut into thirds; the first cut comes `shift` steps late."""
    rows = []
    for episode_id in store.briefs:
        key = store.key(episode_id)
        third = key.n_steps // 3
        edges = [0, third + shift, 2 * third, key.n_steps]
        rows += [
            Annotation(
                episode_id=episode_id,
                episode_hash=key.episode_hash,
                annotator=annotator,
                tool_version="0.1.0",
                created="2024-05-01T10:00:00Z",
                segment=Segment(start=start, end=end, text=words, source="human"),
            )
            for start, end, words in zip(edges, edges[1:], ["reach", text, "go <b>home</b>"], strict=False)
        ]
    return rows


def test_agree_writes_a_report_and_ends_with_1_under_a_threshold(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = EpisodeStore(dataset)
    tables = [dataset / "ann.parquet", dataset / "bob.parquet"]
    write_segments(tables[0], table_of(store, "ann", 0, "lift"))
    write_segments(tables[1], table_of(store, "bob<i>", 5, "Lift."))
    arguments = ["annotate", "agree", str(dataset), *map(str, tables)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "ann and bob<i>, 2 episodes" in told
    assert "boundary F1, 0.25 s         0.500 [0.500, 0.500]" in told
    assert "boundary F1, 0.5 s          1.000 [1.000, 1.000]" in told
    assert "label agreement             1.000 [1.000, 1.000]" in told
    assert main([*arguments, "--min-f1", "0.9", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["shortfalls"] == ["ann and bob<i>: boundary F1 0.500, expected 0.9 or more"]
    assert found["pairs"][0]["segment_f1"]["0.5"]["value"] == 1.0
    page = (dataset / "agreement.html").read_text()
    assert "<svg" in page and "bob&lt;i&gt;" in page and "bob<i>" not in page


def test_agree_of_one_annotator_is_wrong_use(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_segments(dataset / "ann.parquet", table_of(EpisodeStore(dataset), "ann", 0, "lift"))
    assert main(["annotate", "agree", str(dataset), str(dataset / "ann.parquet")]) == 2
    assert "expected two annotators or more with an episode in common" in capsys.readouterr().err


def test_label_by_rules_writes_a_table_and_keeps_answers(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["annotate", "label", str(dataset), "--backend", "rules"]
    assert main(arguments) == 0
    assert "2 of 2 episodes labelled, 2 questions asked" in capsys.readouterr().out
    table = read_segments(dataset / "segments" / "rules.parquet")
    assert {(a.segment.source, a.annotator) for a in table} == {("proposal", "rules")}
    assert main(arguments) == 0
    assert "2 known already" in capsys.readouterr().out


def test_label_estimate_asks_nothing(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = ["--url", "http://127.0.0.1:9/v1", "--model", "m", "--usd-in", "1", "--estimate"]
    assert main(["annotate", "label", str(dataset), *url]) == 0
    told = capsys.readouterr().out
    assert told.startswith("2 episodes, 2 questions, 0 known already; about ") and "USD" in told
    assert not (dataset / "segments").exists()


def test_label_with_failures_ends_with_1_and_names_them(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", "label", str(dataset), "--command", "echo", "{}"]) == 1
    assert "2 questions without a usable answer" in capsys.readouterr().out
    letters = (dataset / "segments" / "command.dead_letters.jsonl").read_text().splitlines()
    assert [json.loads(letter)["reason"] for letter in letters] == ["bad answer", "bad answer"]


@pytest.mark.parametrize("options", [[], ["--backend", "http"], ["--backend", "rules", "--runner=FnApiRunner"]])
def test_label_without_a_labeler_or_with_stray_options_is_wrong_use(dataset: Path, options: list[str]) -> None:
    assert main(["annotate", "label", str(dataset), *options]) == 2


def test_a_review_for_other_machines_needs_a_token(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", "review", str(dataset), "--host", "0.0.0.0", "--no-token"]) == 2
    assert "other machines could connect, so --no-token is refused" in capsys.readouterr().err


def test_a_table_of_others_is_not_written_over(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", "propose", str(dataset)]) == 0
    table = dataset / "segments" / "proposals.parquet"
    before = table.read_bytes()
    assert main(["annotate", "label", str(dataset), "--backend", "rules", "--name", "proposals"]) == 1
    assert "found segments that would be lost, of kinematics (proposal)" in capsys.readouterr().err
    assert table.read_bytes() == before
    assert main(["annotate", "propose", str(dataset)]) == 0


def test_a_dataset_in_an_object_store_is_proposed_labelled_and_merged(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "mem://bucket/toy/1.0.0"
    files = [path for path in dataset.rglob("*") if path.is_file()]
    objects = {f"{url}/{path.relative_to(dataset)}": path.read_bytes() for path in files}
    monkeypatch.setattr(MemoryStore, "objects", objects)
    assert main(["annotate", "propose", url]) == 0
    assert main(["annotate", "label", url, "--backend", "rules", "--table", f"{url}/segments/proposals.parquet"]) == 0
    assert main(["annotate", "merge", url, f"{url}/segments/rules.parquet"]) == 0
    assert capsys.readouterr().out.endswith("wrote mem://bucket/toy/1.1.0\n")
    baked = EpisodeStore("mem://bucket/toy/1.1.0")
    local = EpisodeStore(dataset)
    for episode_id in local.briefs:
        texts = [segment.text for segment in baked.episode(episode_id).segments]
        assert any(text.startswith("grasp: ") for text in texts)
        assert baked.jpeg(episode_id, "base_0_rgb", 9) == local.jpeg(episode_id, "base_0_rgb", 9)
    assert main(["annotate", "review", url]) == 2
    assert "expected a folder on this machine to keep the work in" in capsys.readouterr().err
