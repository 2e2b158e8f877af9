"""Kills conversions and gives them damaged, unusual and hostile inputs; prints a table of outcomes.

    python -m benchmarks.chaos [--seconds 300] [--only kills|damage|variants|attacks] [--samples ../shared] [--seed 0]

Every try runs in a process of its own, with limits on time and memory. Outcomes: `same` bytes or episodes; `refused
by name`, a row of rejects.parquet with its reason; `clear error`, which ends the run; `unprovable`, other numbers or
pixels where the format has no checksum that could show it. The others are faults: `silent difference` (an episode
lost or changed, and nothing said), `traceback`, `hang` (a minute), `ran or leaked` (code ran, or a file was written
outside).
Exit code 1 where there was a fault.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.chaos.attacks import try_attacks, try_specs
from benchmarks.chaos.damage import try_damages
from benchmarks.chaos.kills import try_kills
from benchmarks.chaos.outcomes import Tally, to_markdown
from benchmarks.chaos.sources import ADAPTERS, write_source
from benchmarks.chaos.variants import try_variants

_KINDS = ("kills", "damage", "variants", "attacks")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="for kills and damages together")
    parser.add_argument("--only", choices=_KINDS, help="one kind of tries")
    parser.add_argument("--samples", type=Path, default=Path("../shared"), help="the sample data of DROID and Bridge")
    parser.add_argument("--seed", type=int, default=0, help="other damages and moments with another number")
    arguments = parser.parse_args()
    kinds = (arguments.only,) if arguments.only else _KINDS
    samples = arguments.samples if (arguments.samples / "data/sim").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="embodimix-chaos-") as folder:
        tallies = _try_all(Path(folder), kinds, arguments.seconds / len(kinds), arguments.seed, samples)
    print(to_markdown(tallies))
    return int(any(tally.bad for tally in tallies))


def _try_all(root: Path, kinds: tuple[str, ...], seconds: float, seed: int, samples: Path | None) -> list[Tally]:
    tallies: list[Tally] = []
    for kind in kinds:
        (root / kind).mkdir()
        if kind == "kills":
            tallies.append(try_kills(root / kind, seconds, seed))
        elif kind == "variants":
            tallies.append(try_variants(root / kind))
        elif kind == "attacks":
            tallies += [try_attacks(root / kind, samples), try_specs(root / kind)]
        else:
            sources = [source for name in ADAPTERS if (source := write_source(name, root / kind, samples))]
            tallies += [try_damages(source, seconds / len(sources), seed) for source in sources]
    return tallies


if __name__ == "__main__":
    raise SystemExit(main())
