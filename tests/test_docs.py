"""The documents hold: links lead somewhere, files that are named exist, commands parse, and those marked so run."""

import doctest
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import pytest
import yaml

from benchmarks.own_data.twins import TWINS
from docs import reference
from pipelines.contract.reject_reasons import REJECT_REASONS
from tests.support.checkout import ROOT
from tests.support.documented_commands import every_command, faults, sentence_faults
from tests.support.documents import DOCUMENTS, Block, anchors, blocks, commands, links, shell_lines
from tests.support.inputs.mixture_data import make_episode, write_dataset
from tests.test_house import PACKAGES
from trainers.main import build_parser, main

MARKERS = {"", "run", "skip", "file", "data"}
SERVERS = {"browse", "review", "serve"}
EVERY_COMMAND = dict(every_command(build_parser()))
# What runs, makes or describes things outside of this checkout, or what a run writes.
FOLDERS = (*PACKAGES, "tests", "docs", "benchmarks", "deploy", ".ci")

every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


@every_document
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for target in links(path):
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{path.name}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(found), f"{path.name}: {target}: no such heading among {sorted(anchors(found))}"


@every_document
def test_files_that_are_named_exist(path: Path) -> None:
    for name in re.findall(r"`([\w./-]+/[\w./-]*)`", path.read_text()):
        if name.split("/")[0] in FOLDERS:
            assert (ROOT / name).exists(), f"{path.name}: `{name}` is not there"


@every_document
def test_every_command_in_a_block_parses(path: Path) -> None:
    """By the parser that would read it: ours, a module's own, pip's; a block can be left out only with a reason."""
    for block in blocks(path):
        assert block.marker in MARKERS, f"{path.name}:{block.line}: marker {block.marker}"
        assert block.marker != "skip" or block.words, f"{path.name}:{block.line}: skipped without a reason"
    assert [fault for block in blocks(path) for fault in faults(block)] == []


@every_document
def test_every_command_and_option_in_a_sentence_exists(path: Path) -> None:
    assert list(sentence_faults(path)) == []


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_every_example_of_a_help_parses(command: str) -> None:
    lines = (EVERY_COMMAND[command].epilog or "").splitlines()
    goes_on = [False, *(line.endswith("\\") for line in lines)]
    text = "\n".join(line for n, line in enumerate(lines) if goes_on[n] or line.strip().startswith("embodimix "))
    assert list(faults(Block(path=Path(command), line=1, text=text, marker="", words=()))) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("embodimix check data --jsn", "unknown ['--jsn']"),
        ("embodimix publish data out --as lerobt", "invalid choice: 'lerobt'"),
        ("embodimix train pretrain a.yaml --steps many --run b", "invalid int value: 'many'"),
        ("embodimix card", "required: "),
        ("EMBODIMIX_CACHE=a .venv/bin/embodimix chck data", "invalid choice: 'chck'"),
        ("next   embodimix inspect logs --drft my.yaml", "unknown ['--drft'"),
        ("embodimix convert zarr a b --name a --version 1.0.0 --runer=X", "unknown ['--runer=X']"),
        ("embodimix mix plan SPEC [--drws N]", "no option --drws"),
        ("embodimix annotate export | imprt", "no command imprt"),
        ("embodimix train ... --procs 4", "no option --procs"),
        ("python -m benchmarks.mutants --modles 60", "unknown arguments"),
        ("python -m benchmarks.nothing", "no such module"),
        ("python -m benchmarks.scale --steps", "--steps"),
        ("python -m pip install --constrain constraints.txt .", "no option --constrain"),
        ("python -m pytest tests/no_such.py", "no tests/no_such.py"),
        ("python tests/no_such.py", "no tests/no_such.py"),
        ("make dmo", "make dmo"),
    ],
)
def test_a_fault_of_each_kind_is_found(line: str, fault: str) -> None:
    block = Block(path=Path("page.md"), line=7, text=f"# why\n{line}\n", marker="", words=())
    found = list(faults(block))
    assert len(found) == 1 and found[0].startswith("page.md:8: ") and fault in found[0], found


def test_a_fault_in_a_sentence_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`mix plan --drws 4`, `--relabl x`, `embodimix whre RUN`, `python tests/no.py`, `--json`, `embodimix`\n"
    )
    kinds = ("no option --drws", "no command has --relabl", "no command whre", "no tests/no.py")
    found = list(sentence_faults(page))
    assert len(found) == 4 and all(kind in fault for kind, fault in zip(kinds, found, strict=True)), found


@every_document
def test_python_examples_hold(path: Path) -> None:
    if path.name == "serving.md":
        pytest.skip("its examples talk to a server; tests/trainers/serving does the same")
    examples = doctest.DocTestParser().get_doctest(path.read_text(), {}, path.name, str(path), 0)
    if examples.examples:
        assert doctest.DocTestRunner(verbose=False).run(examples).failed == 0


def test_the_menu_leads_to_pages_and_the_reference_has_what_the_code_has() -> None:
    """`make docs` is strict about the rest."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    written = {path.name for path in DOCUMENTS if path.parent.name == "docs"}
    assert set(reference.listed(nav)) <= written | set(reference.pages())
    assert set(reference.pages()) <= set(reference.listed(nav))
    assert "## embodimix mix plan\n" in reference.commands() and "--draws" in reference.commands()
    assert all(f"`{reason}`" in reference.rejects() for reason in REJECT_REASONS)
    assert "`bridge_orig`" in reference.registries() and "`ur5e`" in reference.registries()
    assert reference.without_ways_out("[a](../x.py) [b](c.md) [d](LICENSE)") == "a [b](c.md) d"


def marked(name: str) -> list[Path]:
    return [path for path in DOCUMENTS if any(block.marker == name for block in blocks(path))]


@pytest.mark.parametrize("path", marked("run"), ids=lambda path: path.name)
def test_marked_commands_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one document run in their order in one folder."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(path):
        if block.marker == "data":
            make_data(*block.words, folder=tmp_path)
        elif block.marker == "file":
            (tmp_path / block.words[0]).write_text(block.text)
        elif block.marker == "run":
            run_block(block)


def make_data(twin: str, name: str, folder: Path) -> None:
    """Writes a small set in another tool's form to `folder / name`, or of `shards` a finished dataset."""
    if twin == "shards":
        path = folder / name
        write_dataset(path.parents[1], path.parent.name, [make_episode(n) for n in range(4)])
        return
    write = next(candidate.write for candidate in TWINS if candidate.name == twin)
    written = write(folder / "written", folder / "truth.npz")
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.move(written, folder / name)


def run_block(block: Block) -> None:
    """Runs the lines of a block: our command in this process, since it starts faster there, others in a shell."""
    ours = [words for _, words in commands(block)]
    for _, line in shell_lines(block.text.strip()):
        if line.startswith("embodimix"):
            words = ours.pop(0)
            assert not SERVERS & set(words), f"{block.path.name}:{block.line}: it would run until it is interrupted"
            target = re.search(r" > (\S+)$", line)
            with open(target[1], "w") if target else nullcontext(sys.stdout) as out, redirect_stdout(out):
                # `check --json` ends with 1 where it found something, which the next command reads.
                codes = (0, 1) if target else (0,)
                assert main(words) in codes, f"{block.path.name}:{block.line}: embodimix {' '.join(words)}"
        else:
            subprocess.run(["bash", "-ec", line], check=True)
    assert not ours


def test_the_readers_of_documents_see_what_is_there(tmp_path: Path) -> None:
    """A test of links or commands that finds none would always pass."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One `code` word: two\n[a](b.md#c) `[no](link)` [web](https://x.org)\n\n"
        "    embodimix check a \\\n      --json   # why\n    embodimix convert FORMAT IN\n\n"
        "1. Item\n\n    more of the item\n\n    <!-- test: run -->\n\n        embodimix card d\n\n    text\n"
        "\n<!-- test: file m.yaml -->\n\n```yaml\na: 1\n```\n"
    )
    assert links(page) == ["b.md#c"]
    assert anchors(page) == {"one-code-word-two"}
    found = blocks(page)
    assert [(block.marker, block.words) for block in found] == [("", ()), ("run", ()), ("file", ("m.yaml",))]
    assert [words for block in found for _, words in commands(block)] == [["check", "a", "--json"], ["card", "d"]]
    assert found[2].text == "a: 1\n"


def test_the_documents_hold_commands_and_links() -> None:
    assert sum(1 for path in DOCUMENTS for block in blocks(path) for _ in commands(block)) >= 70
    assert sum(len(links(path)) for path in DOCUMENTS) >= 60
