"""Mixture specs by name: shipped ones and a project's own, in place of paths."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mixtures.specs.named import find_spec, shipped_specs
from mixtures.specs.spec import Node, load_spec
from pipelines.contract.document import Mark, SpecError
from pipelines.contract.errors import UsageError
from pipelines.contract.registries import use_registries

HEAD = "schema: embodimix.mixture/v1\nname: m\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    use_registries([])


def write(path: Path, text: str) -> Path:
    path.write_text(HEAD + text)
    return path


def paths(node: Node) -> list[str]:
    return [entry.path for entry in node.all_entries()]


def test_a_shipped_spec_is_included_by_name_and_read_as_by_path(folder: Path) -> None:
    by_path = shipped_specs()["oxe_magic_soup"]
    named = load_spec(write(folder / "a.yaml", "groups: [{name: oxe, include: embodimix:oxe_magic_soup}]\n"))
    located = load_spec(write(folder / "b.yaml", f"groups: [{{name: oxe, root: ., include: {by_path}}}]\n"))
    (node,), (other,) = named.root.nodes, located.root.nodes
    assert replace(node, mark=other.mark) == replace(other, mark=other.mark)
    assert len(node.entries) > 20


def test_datasets_of_a_shipped_spec_lie_where_those_of_the_spec_do(folder: Path) -> None:
    own = load_spec(write(folder / "a.yaml", "groups: [{name: bridge, include: embodimix:bridge}]\n"))
    assert paths(own.root) == [f"{folder}/bridge_v2/1.0.0"]
    rooted = load_spec(write(folder / "b.yaml", "root: gs://b/data\ngroups: [{name: x, include: embodimix:bridge}]\n"))
    assert paths(rooted.root) == ["gs://b/data/bridge_v2/1.0.0"]
    group = load_spec(write(folder / "c.yaml", "groups: [{name: x, root: /data, include: embodimix:bridge}]\n"))
    assert paths(group.root) == ["/data/bridge_v2/1.0.0"]


def test_a_shipped_spec_includes_others_of_its_folder(folder: Path) -> None:
    spec = load_spec(write(folder / "a.yaml", "groups: [{name: all, include: embodimix:pi0_pretrain}]\n"))
    assert f"{folder}/droid/1.0.1" in paths(spec.root)


def test_an_unknown_name_is_refused_by_line_with_the_nearest(folder: Path) -> None:
    path = write(folder / "a.yaml", "groups: [{name: oxe, include: embodimix:oxe_magic_soop}]\n")
    with pytest.raises(
        SpecError, match=r"a.yaml:3:31: mixture 'oxe_magic_soop' is neither .* Did you mean 'oxe_magic_"
    ) as caught:
        load_spec(path)
    assert caught.value.mark == Mark(file=str(path), line=3, column=31)


def test_a_registry_names_specs_of_a_project(folder: Path) -> None:
    (folder / "specs").mkdir()
    write(folder / "specs/desk.yaml", "datasets: [{path: desk/1.0.0}]\n")
    (folder / "embodimix.yaml").write_text("schema: embodimix.registry/v1\nmixtures: {desk: specs/desk.yaml}\n")
    spec = load_spec(write(folder / "a.yaml", "groups: [{name: own, include: embodimix:desk}]\n"))
    assert paths(spec.root) == ["specs/desk/1.0.0"]
    assert load_spec("embodimix:desk").name == "m"


def test_a_spec_of_a_projects_own_cannot_have_a_shipped_name(folder: Path) -> None:
    (folder / "embodimix.yaml").write_text("schema: embodimix.registry/v1\nmixtures: {bridge: my.yaml}\n")
    with pytest.raises(UsageError, match="mixture 'bridge' is shipped, too; give my.yaml another name"):
        find_spec("bridge")


def test_a_command_takes_a_shipped_spec_by_name(folder: Path) -> None:
    assert paths(load_spec("embodimix:bridge").root) == ["bridge_v2/1.0.0"]
    assert paths(load_spec("embodimix:bridge", root="/data").root) == ["/data/bridge_v2/1.0.0"]
