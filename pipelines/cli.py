"""The commands of `pipelines`; heavy modules are imported only when a command runs."""

import argparse


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds this part's commands to the parser of `embodimix`."""
