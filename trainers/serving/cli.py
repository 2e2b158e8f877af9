"""The command `serve`; heavy modules are imported only when it runs."""

import argparse
from pathlib import Path

from model.config import FLOW_STEPS
from pipelines.contract.errors import UsageError
from pipelines.contract.options import port, positive

EPILOG = """a worked example:
  embodimix serve runs/laundry --robot arx_dual              prints one line of JSON when it is ready
  open http://127.0.0.1:8000/                                latency percentiles, counts, robots; /healthz for probes

and on the robot, with the public openpi-client package as it is:
  from openpi_client.action_chunk_broker import ActionChunkBroker
  from openpi_client.websocket_client_policy import WebsocketClientPolicy
  client = WebsocketClientPolicy("127.0.0.1", 8000)
  robot = client.get_server_metadata()["robots"]["arx_dual/joint_position/pi18/v1"]
  policy = ActionChunkBroker(client, robot["open_loop_steps"])
  action = policy.infer({"images": {"base_0_rgb": picture}, "state": joints, "prompt": "fold the shirt"})["actions"]

A client that names its data otherwise, such as DROID's:
  embodimix serve runs/droid --map base_0_rgb=observation/exterior_image_1_left \\
    --map left_wrist_0_rgb=observation/wrist_image_left \\
    --map state=observation/joint_position,observation/gripper_position
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `serve` to the parser of `embodimix`."""
    parser = commands.add_parser(
        "serve",
        help="serve a trained policy's actions to robots over a websocket",
        epilog=EPILOG,
        description="Serve a run's newest policy to openpi-client: observations in, actions in native units out.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--robot", help="norm key, or its beginning, for observations that name no robot")
    parser.add_argument(
        "--execute",
        type=int,
        default=0,
        metavar="N",
        help="actions of a chunk to send (as published: 25 at 50 Hz, 16 at 20 Hz)",
    )
    parser.add_argument("--control-hz", type=float, metavar="X", help="the robot's rate (that of its training data)")
    parser.add_argument("--prompt", help="the sentence for observations that have none")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="NAME=KEY[,KEY]",
        help="a camera, state or prompt by the client's name for it; several keys are joined",
    )
    parser.add_argument(
        "--flow-steps", type=positive, default=FLOW_STEPS, metavar="N", help="Euler steps to an action (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise that actions start from (0)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=port, default=8000, metavar="N", help="port (8000; 0: any free one)")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="file with the key that clients must send")
    parser.set_defaults(run=run_serve)


def run_serve(arguments: argparse.Namespace) -> int:
    """Serves until a signal; 0 at its end."""
    from trainers.serving.server import ServerRequest, serve_run

    serve_run(
        ServerRequest(
            run=arguments.run_directory,
            robot=arguments.robot,
            execute=arguments.execute,
            prompt=arguments.prompt,
            control_hz=arguments.control_hz,
            names=_names(arguments.map),
            flow_steps=arguments.flow_steps,
            seed=arguments.seed,
            host=arguments.host,
            port=arguments.port,
            api_key=_api_key(arguments.api_key_file),
        )
    )
    return 0


def _names(given: list[str]) -> dict[str, tuple[str, ...]]:
    names = {}
    for text in given:
        name, equals, keys = text.partition("=")
        if not (name and equals and keys):
            raise UsageError(f"--map {text}: expected NAME=KEY, such as state=observation/state")
        names[name] = tuple(keys.split(","))
    return names


def _api_key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        key = path.read_text().strip()
    except OSError as error:
        raise UsageError(f"--api-key-file {path}: {error}") from error
    if not key:
        raise UsageError(f"--api-key-file {path}: expected a key; found an empty file")
    return key
