"""The commands of `mixtures`; heavy modules are imported only when a command runs."""

import argparse
import json
from typing import Any

PLAN_EXAMPLE = """example:
  embodimix mix plan mixture.yaml --draws 22400000
  embodimix mix plan mixture.yaml --explain 'in_house/fold shirt@arx'
  embodimix mix plan mixtures/specs/oxe_magic_soup.yaml --published
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds this part's commands to the parser of `embodimix`."""
    mix = commands.add_parser("mix", help="plan, lock, compare and look at mixtures", allow_abbrev=False)
    actions = mix.add_subparsers(dest="action", metavar="ACTION", required=True)
    plan = _action(actions, "plan", "show what a mixture will draw, and what looks wrong", PLAN_EXAMPLE)
    _add_spec(plan)
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.add_argument("--explain", metavar="GROUP", help="say how one group came to its share")
    about = "plan from the sizes in the spec or the datasets' statistics, without their index"
    plan.add_argument("--published", action="store_true", help=about)
    plan.set_defaults(run=run_plan)


def run_plan(arguments: argparse.Namespace) -> int:
    """Prints the plan of a mixture."""
    from mixtures.plan import explain, render

    plan = make_plan(arguments)
    if arguments.explain:
        print(explain(plan, arguments.explain))
    else:
        print(json.dumps(plan.to_json(), indent=1) if arguments.json else render(plan))
    return 0


def make_plan(arguments: argparse.Namespace) -> Any:
    """The plan that the arguments of a command ask for."""
    from mixtures.mixture import open_mixture
    from mixtures.plan import Plan
    from mixtures.published import plan_published
    from mixtures.spec import load_spec

    if arguments.published:
        return plan_published(load_spec(arguments.spec, arguments.root), arguments.draws)
    mixture = open_mixture(arguments.spec, draws=arguments.draws, root=arguments.root)
    spec = mixture.spec
    return Plan(name=spec.name, path=str(spec.path), seed=spec.seed, draws=mixture.draws, groups=mixture.groups)


def _action(actions: Any, name: str, about: str, example: str) -> argparse.ArgumentParser:
    return actions.add_parser(
        name, help=about, description=about[0].upper() + about[1:] + ".", epilog=example, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def _add_spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help="a mixture spec (YAML)")
    parser.add_argument("--draws", type=int, metavar="N", help="samples that training will draw (steps * batch size)")
    parser.add_argument("--root", metavar="DIR", help="where relative dataset paths start, in place of the spec's root")
