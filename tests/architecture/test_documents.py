import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from liger.cli.main import app
from tests.architecture.source import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGET = re.compile(r"^([a-z-]+): .*## ", re.MULTILINE)
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PLACE = re.compile(r"`((?:liger|gateway|controller|worker|bench|tests|proto|scripts|docs)/[\w./-]*)`")


def commands() -> Iterator[tuple[str, list[str]]]:
    """Give every command line of the documents' code blocks, with where it stands."""
    for document in DOCUMENTS:
        for block in BLOCK.findall(document.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                try:
                    words = shlex.split(line.removeprefix("$ "), comments=True)
                except ValueError:  # a sketch, not a command
                    continue
                if words:
                    yield f"{document.name}: {line}", words


def ids_and_words(program: str) -> list[object]:
    return [pytest.param(words[1:], id=where) for where, words in commands() if words[0] == program]


def test_the_readme_begins_with_demo_and_test():
    words = [words for where, words in commands() if where.startswith("README.md")]
    assert words[0][:2] == ["make", "demo"]
    assert words[1][:2] == ["make", "test"]


@pytest.mark.parametrize("words", ids_and_words("make"))
def test_every_make_target_that_is_named_exists(words):
    targets = set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    assert {word for word in words if "=" not in word and not word.startswith("-")} <= targets


@pytest.mark.parametrize("words", ids_and_words("liger"))
def test_every_liger_command_that_is_named_exists_with_its_options(words):
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert not getattr(command, "commands", {}) or not words or words[0].startswith("-")
    assert {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)} <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_place_that_is_named_exists(document):
    text = document.read_text(encoding="utf-8")
    links = [document.parent / link for link in LINK.findall(text) if "://" not in link]
    places = [ROOT / place for place in PLACE.findall(text)]
    assert [str(place) for place in (*links, *places) if not place.exists()] == []


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").iterdir()), ids=lambda script: script.name)
def test_every_script_says_what_it_does_and_can_be_run(script: Path):
    if script.is_dir():
        pytest.skip("a cache")
    lines = script.read_text(encoding="utf-8").splitlines()
    if script.suffix == ".py":
        assert any(line.startswith('"""') for line in lines[:3])
    else:
        assert lines[0] == "#!/usr/bin/env bash"
        assert lines[1].startswith("# ")
        assert script.stat().st_mode & 0o111


def test_every_target_has_its_line_in_the_help():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


def test_the_license_is_the_one_that_the_project_names():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
