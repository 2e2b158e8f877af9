"""What has to lie in a folder before a mistake is made in it."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

from benchmarks.own_data.twins import write_so101_v30

DATASET, SPEC = "data/toy/1.0.0", "mixture.yaml"


def write(name: str, text: str) -> Callable[[Path], object]:
    """Prepares a file."""

    def prepare(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return prepare


def spec(body: str) -> Callable[[Path], object]:
    return write("bad.yaml", f"schema: embodimix.mixture/v1\nname: bad\n{body}\n")


def registry(body: str) -> Callable[[Path], object]:
    return write("own.yaml", f"schema: embodimix.registry/v1\n{body}")


ROBOT = "description: an arm\n    cameras: [base_0_rgb]\n    joint: {state: {arm0: 0-5}, action: {arm0: 0-5}}\n"
# A package that is not installed, as Python sees it.
WITHOUT = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Gone())
from trainers.main import main
sys.exit(main(sys.argv[1:]))
"""
COMMAND = "import sys\nfrom trainers.main import main\nsys.exit(main(sys.argv[1:]))"


def cut_shard(folder: Path) -> None:
    shard = next((folder / DATASET).glob("*.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-100])


def lose_sidecar(folder: Path) -> None:
    next((folder / DATASET / "index").glob("*.parquet")).unlink()


def break_info(folder: Path) -> None:
    (folder / DATASET / "dataset_info.json").write_text("{")


def take_port(folder: Path) -> None:
    held = socket.create_server(("127.0.0.1", 0))
    _HELD.append(held)
    (folder / "port").write_text(str(held.getsockname()[1]))


def shadow(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "__init__.py").write_text("")


def read_only(folder: Path) -> None:
    (folder / "logs").mkdir()
    (folder / "file").touch()


def logs(folder: Path) -> None:
    (folder / "logs").mkdir()


def two_arms(folder: Path) -> None:
    """A run that was trained on two robots whose names begin alike."""
    keys = ("ur5e/joint_position/pi18/v1", "ur5e_dual/joint_position/pi18/v1")
    robot = {"parts": {"arm0": [0, 1, 2, 3, 4, 5]}, "control_hz": [20.0]}
    content = {"schema": "embodimix.robots/v1", "layout": "pi18/v1", "robots": dict.fromkeys(keys, robot)}
    write("run/robots.json", json.dumps(content))(folder)


def so101(folder: Path) -> None:
    """A LeRobot dataset with one camera, observation.images.front."""
    write_so101_v30(folder / "logs", folder / "truth.npz")


# A training run whose third step is done when Ctrl-C comes twice: the signals are real, the steps are not computed.
TWICE = """
import json, os, signal, sys, time
import trainers.train
from trainers.hosts import stop_signals
from trainers.main import main
from trainers.run import RunDirectory
def train(request):
    run = RunDirectory(request.run)
    run.path.mkdir()
    run.metrics_path.write_text("".join(json.dumps({"step": step}) + chr(10) for step in (1, 2, 3)))
    with stop_signals():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
trainers.train.train = train
sys.exit(main(sys.argv[1:]))
"""
_HELD: list[socket.socket] = []
