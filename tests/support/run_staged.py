"""Runs a staged job as a worker would that holds only what was installed: python run_staged.py PIPELINE_PB."""

import json
import sys
from importlib import metadata
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner


def main(path: str) -> None:
    """Runs the proto and prints which files of ours, and which packages of others, it needed."""
    before = set(sys.modules)
    proto = beam_runner_api_pb2.Pipeline.FromString(Path(path).read_bytes())
    for environment in proto.components.environments.values():
        environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
        del environment.dependencies[:]
    options = PipelineOptions(["--runner=FnApiRunner"])
    FnApiRunner().run_via_runner_api(proto, options).wait_until_finish()
    new = {name: module for name, module in sys.modules.items() if name not in before}
    ours = sorted(str(module.__file__) for name, module in new.items() if name.split(".")[0] in OURS)
    owners = metadata.packages_distributions()
    others = {owner for name in new if "." not in name for owner in owners.get(name, ()) if owner != "embodimix"}
    print(json.dumps({"ours": ours, "others": sorted(others)}))


OURS = ("pipelines", "mixtures", "model", "trainers", "annotation_tools")

if __name__ == "__main__":
    main(sys.argv[1])
