"""The commands `info` and `completion`."""

import argparse
import json

from pipelines.contract.options import add_command

INFO_EPILOG = """example:
  embodimix info
  embodimix info --json > environment.json     for a bug report
"""
COMPLETION_EPILOG = """example:
  embodimix completion bash > ~/.local/share/bash-completion/completions/embodimix
  embodimix completion zsh > ~/.zfunc/_embodimix
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `info` and `completion` to the parser of `embodimix`."""
    info = add_command(commands, "info", "show the version, the machine, the installed extras and devices", INFO_EPILOG)
    info.add_argument("--json", action="store_true", help="print it as JSON")
    info.set_defaults(run=run_info)
    completion = add_command(
        commands, "completion", "print a script that completes commands in a shell", COMPLETION_EPILOG
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")
    completion.set_defaults(run=run_completion)


def run_info(arguments: argparse.Namespace) -> int:
    """Prints the environment."""
    from trainers.console.environment import describe_environment, render_environment

    environment = describe_environment()
    print(json.dumps(environment.to_json(), indent=1) if arguments.json else render_environment(environment))
    return 0


def run_completion(arguments: argparse.Namespace) -> int:
    """Prints the completion script of a shell."""
    import shtab

    print(shtab.complete(arguments.build_parser(), arguments.shell))
    return 0
