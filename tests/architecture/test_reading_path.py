import ast
import re

import pytest

from tests.architecture.source import PACKAGES, ROOT, name_of

LONGEST_PATH = 1500  # lines that a newcomer reads to know the way of a request


def test_a_newcomers_path_is_short():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## A newcomer's path")[2].partition("\n## ")[0]
    files = re.findall(r"`([\w/]+\.(?:py|md))`", section)

    assert files[0] == "README.md"
    assert len(files) >= 8
    assert sum(len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in files) <= LONGEST_PATH


@pytest.mark.parametrize(
    "package",
    sorted(file for name in PACKAGES for file in (ROOT / name).rglob("__init__.py") if "v1" not in file.parts),
    ids=name_of,
)
def test_a_packages_reading_map_names_what_is_there(package):
    text = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
    named = re.findall(r"`([\w.]+)`", text.partition("Reading map:")[2])
    places = [[ROOT.joinpath(*name.split(".")), package.parent.joinpath(*name.split("."))] for name in named]
    missing = [
        name
        for name, candidates in zip(named, places, strict=True)
        if not any(place.is_dir() or place.with_suffix(".py").is_file() for place in candidates)
    ]
    assert missing == []
