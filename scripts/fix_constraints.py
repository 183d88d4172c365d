# ruff: noqa: INP001 - a script, not a module
"""Writes constraints.txt: the versions in this environment of everything that the extra `dev` needs."""

import re
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "liger-plus"
HEADER = """\
# The versions that `make setup` installs and the tests ran with; written by `make fix-constraints`.
# pip accepts a local build of a version (such as torch 2.13.0+cpu) where an index offers one.
"""


def needed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """Give the names of all distributions that one needs, itself included."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    yield name
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield from needed(canonicalize_name(requirement.name), frozenset(requirement.extras), seen)


def main() -> None:
    """Write the file."""
    names = set(needed(ROOT, frozenset({"dev"}), set())) - {ROOT}
    pins = (f"{name}=={re.sub(r'[+].*', '', distribution(name).version)}" for name in sorted(names))
    Path("constraints.txt").write_text(HEADER + "\n".join(pins) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
