"""Publishing by Beam: the files of local processes, byte for byte, and continued after a failure."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.contract.errors import FailedWork
from pipelines.publishing import graph
from pipelines.publishing.graph import WriteUnits, beam_writer, slim, whole
from pipelines.publishing.publication import Choice, Form, Publication, plan_publication
from pipelines.publishing.publishing import publish
from pipelines.publishing.unit_files import WORK, record_path, write_unit
from tests.support.inputs.mixture_data import write_spec
from tests.support.inputs.stored_episodes import make_episode, store_dataset

pytest.importorskip("av", reason="videos are written with PyAV, of the extra `pipelines`")
DATAFLOW = ("--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/tmp")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "toy" / "1.0.0"
    first = [make_episode(0), make_episode(1, t=7, wrist=False)]
    store_dataset(folder, {"train": [first, [make_episode(2)]], "val": [[make_episode(3, split="val")]]})
    return folder


def plan(dataset: Path, out: Path) -> Publication:
    (publication,) = plan_publication([Choice(path=str(dataset))], str(out), Form(dims="robot", steps_per_file=8))
    assert len(publication.units) == 4
    return publication


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_beam_writes_the_files_that_local_processes_write(dataset: Path, tmp_path: Path) -> None:
    publish([plan(dataset, tmp_path / "here")])
    write_units = beam_writer(["--runner=FnApiRunner"], 2, {})
    (published,) = publish([plan(dataset, tmp_path / "beam")], write_units=write_units)
    assert not published.already_done
    found = files(tmp_path / "beam")
    assert found == files(tmp_path / "here")
    assert sum(name.endswith(".mp4") for name in found) == 8
    (again,) = publish([plan(dataset, tmp_path / "beam")], write_units=write_units)
    assert again.already_done


def test_a_second_run_writes_what_the_first_left(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def fail_once(publication: Publication, unit: int) -> int:
        if unit == 2 and not written.count(2):
            written.append(2)
            raise FailedWork("the disk is gone")
        written.append(unit)
        return write_unit(publication, unit)

    monkeypatch.setattr(graph, "write_unit", fail_once)
    write_units = beam_writer(["--runner=FnApiRunner"], 1, {})
    publication = plan(dataset, tmp_path / "beam")
    with pytest.raises(FailedWork, match="the disk is gone. Finished files are kept; run the same command again"):
        publish([publication], write_units=write_units)
    before = [unit for unit in range(4) if record_path(publication, unit).exists()]
    begun = len(written)
    publish([publication], write_units=write_units)
    assert sorted(written[begun:] + before) == [0, 1, 2, 3]
    publish([plan(dataset, tmp_path / "here")])
    assert files(tmp_path / "beam") == files(tmp_path / "here")


def test_workers_read_the_lists_from_the_output(dataset: Path, tmp_path: Path) -> None:
    publication = plan(dataset, tmp_path / "out")
    slimmed = slim(publication)
    assert (slimmed.episodes, slimmed.tasks, slimmed.units) == ((), (), ())
    assert whole(slimmed) == publication
    assert (tmp_path / "out" / WORK / "lists.json").exists()


def test_the_job_does_not_grow_with_the_episodes(dataset: Path, tmp_path: Path) -> None:
    import apache_beam as beam

    few = plan(dataset, tmp_path / "out")
    many = replace(few, episodes=few.episodes * 1000, tasks=few.tasks * 1000, units=few.units * 1000)
    sizes = []
    for publication in (few, many):
        pipeline = beam.Pipeline()
        _ = pipeline | WriteUnits([slim(publication)], [(0, 0)])
        sizes.append(pipeline.to_runner_api().ByteSize())
    assert abs(sizes[1] - sizes[0]) < 100


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runner=NoRunner"], "--runner=NoRunner: no runner of Beam"),
        (["--runner=DataflowRuner"], "Did you mean 'DataflowRunner'"),
        (["--runner=DirectRunner"], "DirectRunner is refused"),
        (["--runner=DataflowRunner", "--project=p", "--region=r"], "expected --temp_location as well, found none"),
        (["--runner=DataflowRunner", "--project=p", "--temp_location=/tmp"], "expected gs://BUCKET/PATH for Dataflow"),
        ([*DATAFLOW], "OUT .*out: workers of Dataflow do not see this machine"),
        ([*DATAFLOW, "--template_location=gs://b/t"], "--template_location: expected a run of publish that sees"),
        (["--runner=FlinkRunner", "--workers=2"], "--workers is for local runs without other worker options"),
        (["--runer=FlinkRunner"], "--runer=FlinkRunner: neither embodimix nor Beam knows this option"),
        (["--images", "--crf=3"], "--crf: expected videos, whose quality it is; found --images"),
        (["--images", "--codec=h264"], "not allowed with argument --images"),
        (["--stage=posttrain"], "--stage: expected a mixture spec .* found the dataset"),
        (["--root=data"], "--root: expected a mixture spec .* found the dataset"),
        (["--as=rlds"], "invalid choice: 'rlds'"),
    ],
)
def test_what_would_not_work_is_refused_before_the_dataset_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    """The dataset is not there, so that a command that reads it first says so."""
    assert status_of(["publish", f"{tmp_path}/none/1.0.0", f"{tmp_path}/out", "--as=lerobot", *flags]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_workers_of_dataflow_see_what_a_mixture_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(tmp_path, "datasets: [{path: gs://b/a/1.0.0}, {path: here/1.0.0}]\n")
    assert status_of(["publish", str(spec), "gs://b/out", "--as=lerobot", *DATAFLOW]) == 2
    assert re.search(r"yaml:\d+:\d+: dataset .*here/1.0.0: workers of Dataflow", capsys.readouterr().err)
    assert status_of(["publish", "file:///data/a/1.0.0", "gs://b/out", "--as=lerobot", *DATAFLOW]) == 2
    assert "DATASET file:///data/a/1.0.0: workers of Dataflow do not" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [(), ("--runner=FnApiRunner",)], ids=["here", "Beam"])
@pytest.mark.parametrize("out", ["a_file", "a_file/out", "/proc/out"])
def test_a_place_that_cannot_be_written_is_named(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, flags: tuple[str, ...]
) -> None:
    (tmp_path / "a_file").touch()
    assert status_of(["publish", str(dataset), f"{tmp_path / out}", "--as=lerobot", "--dims=robot", *flags]) == 1
    assert re.search(rf"{out}.*: expected a path that can be read and written; found: ", capsys.readouterr().err)


def status_of(command: list[str]) -> int:
    """What the command exits with; the parser of arguments exits by itself."""
    from trainers.main import main

    try:
        return main(command)
    except SystemExit as exit:
        return int(str(exit.code))


def test_the_command_takes_beams_options(dataset: Path, tmp_path: Path) -> None:
    command = ["publish", str(dataset), str(tmp_path / "out"), "--as", "lerobot", "--dims", "robot"]
    assert status_of([*command, "--runner=FnApiRunner", "--quiet"]) == 0
    assert (tmp_path / "out" / "meta/info.json").exists()
