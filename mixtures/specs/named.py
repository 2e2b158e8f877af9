"""Mixture specs by name, `embodimix:NAME`: those that are shipped, and those that a project's own registries name."""

from importlib import resources
from pathlib import Path

from pipelines.contract.errors import UsageError, nearest
from pipelines.contract.registries import own_mixtures

PREFIX = "embodimix:"


def names_spec(source: str) -> bool:
    """Whether a command's argument names a mixture spec, and not a dataset."""
    return source.endswith((".yaml", ".yml")) or source.startswith(PREFIX)


def shipped_specs() -> dict[str, Path]:
    """Name -> path of every mixture spec that is shipped, sorted by name."""
    folder = Path(str(resources.files("mixtures.specs")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_spec(name: str) -> tuple[Path, bool]:
    """The path of a spec, `embodimix:` left out of its name, and whether it is shipped.

    Raises UsageError with the nearest names where there is none, or where one of a project's own is shipped, too.
    """
    shipped, own = shipped_specs(), own_mixtures()
    if name in shipped and name in own:
        raise UsageError(f"mixture {name!r} is shipped, too; give {own[name]} another name in the registry")
    if name not in shipped and name not in own:
        raise UsageError(f"mixture {name!r} is neither shipped nor in a registry. {nearest(name, [*shipped, *own])}")
    return (shipped[name], True) if name in shipped else (own[name], False)
