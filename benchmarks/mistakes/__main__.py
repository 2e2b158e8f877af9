"""61 mistakes that people make, each provoked for real: what the command says, and whether that helps.

    python -m benchmarks.mistakes [--kind ports] [--messages]

A message scores a point each for naming what was expected, what was found, and what to do next. A traceback,
or another exit code than promised, scores nothing. tests/test_mistakes.py holds all of them at 3.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.mistakes.provoking import provoke_all


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints every mistake with its score, and the message where it is not whole or was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="", help="only mistakes of this kind")
    parser.add_argument("--messages", action="store_true", help="show every message")
    parsed = parser.parse_args(arguments)
    outcomes = []
    for outcome in provoke_all(parsed.kind):
        outcomes.append(outcome)
        print(
            f"{outcome.score} of 3  {outcome.mistake.kind}: {outcome.mistake.name}  (exit {outcome.code})", flush=True
        )
        if outcome.score < 3 or parsed.messages:
            missing = [
                what
                for what, is_there in zip(("expected", "found", "advice"), outcome.points, strict=True)
                if not is_there
            ]
            print(f"    lacks: {', '.join(missing) or 'nothing'}")
            print("".join(f"    {line}\n" for line in outcome.message.strip().splitlines()[-8:]), end="")
    total = sum(outcome.score for outcome in outcomes)
    print(f"{total} of {3 * len(outcomes)} points, {sum(o.score < 3 for o in outcomes)} mistakes below 3")
    return 0


if __name__ == "__main__":
    sys.exit(main())
