"""README.md and docs/: what they tell a reader to type, to open and to set is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from distrl.base.registry import register
from distrl.cli import app
from distrl.config.algorithm import check_algorithm, known_keys
from distrl.config.load import load_config
from distrl.config.schema import RunConfig

REPOSITORY = Path(__file__).resolve().parents[1]
#: A page -> where names of files in it may begin, besides the repository itself.
PAGES = {
    "README.md": [],
    "CONTRIBUTING.md": ["distrl"],
    "benchmarks/README.md": ["benchmarks"],
    "docs/architecture.md": ["distrl"],
    "docs/authoring.md": ["distrl"],
    "docs/cluster.md": [],
    "docs/config.md": [],
    "docs/internals.md": ["distrl", "distrl/control", "distrl/language", "distrl/runtime"],
    "docs/methods.md": [],
    "docs/monitoring.md": [],
    "docs/results.md": ["docs"],
    "docs/tasks.md": ["distrl"],
}
PLACES = [path.name for path in REPOSITORY.iterdir() if path.is_dir() and not path.name.startswith(".")]
#: Made by runs, or by the reader.
MADE = ("runs", "build", "dist", "data", "my_")
#: Functions of libraries that look like keys.
OTHERS = ("ray.get",)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_every_page_is_looked_at() -> None:
    assert {path.name for path in (REPOSITORY / "docs").glob("*.md")} == {
        page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")
    }


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text()


def quoted(page: str) -> list[str]:
    """What stands in backticks, blocks of code apart."""
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def commands(page: str) -> Iterator[list[str]]:
    """Words of every `distrl ...` that stands in a block of code or in backticks."""
    fenced = re.findall(r"^```bash\n(.*?)^```", text_of(page), flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^ {4}(?:\$ )?(distrl .*)$", text_of(page), flags=re.MULTILINE)
    blocks += [line for block in fenced for line in block.splitlines() if line.startswith("distrl ")]
    inline = [text for text in quoted(page) if text.startswith("distrl ")]
    for line in [*blocks, *inline]:
        yield shlex.split(line, comments=True)[1:]


# ---- commands --------------------------------------------------------------------------------------------------------


def test_commands_are_found() -> None:
    assert len(list(commands("README.md"))) > 20
    assert ["ps"] in commands("docs/cluster.md")


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page: str) -> None:
    for command, *words in commands(page):
        assert command in COMMANDS, f"distrl {command}"
        options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        for word in words:
            if word.startswith("-"):
                assert word.split("=")[0] in options, f"distrl {command} {word}"


@pytest.mark.parametrize("page", PAGES)
def test_runs_that_are_shown_have_configs_that_load(page: str) -> None:
    """Files of the repository with the overrides as they stand; the mistake that a page shows is one."""
    for command, *words in commands(page):
        shown = command in ("train", "submit") and words and words[0].startswith("examples/")
        if not shown or "algorithm.epoch=3" in words:
            continue
        config = load_config(REPOSITORY / words[0], [word for word in words[1:] if re.match(r"[a-z_.]+=", word)])
        check_algorithm(config, register.get("algorithm", config.algorithm["name"]).Config)


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    shown = re.findall(r"^ {4}make ([a-z]+)", text_of(page), flags=re.MULTILINE)
    shown += [text.split()[1] for text in quoted(page) if text.startswith("make ")]
    assert set(shown) <= set(targets)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not target.startswith(("http", "#")):
            assert ((REPOSITORY / page).parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    roots = [REPOSITORY, *(REPOSITORY / place for place in PAGES[page])]
    for name in files_of(page):
        assert any(list(root.glob(name) if "/" in name else root.rglob(name)) for root in roots), name


def files_of(page: str) -> list[str]:
    """Names of files and folders: in backticks, or behind `python` in a block of code."""
    in_blocks = re.findall(r"^ {4}(?:python )?((?:benchmarks|cluster)/\S+)", text_of(page), flags=re.MULTILINE)
    found = []
    for text in [*quoted(page), *in_blocks]:
        name = text.split()[0].rstrip("/")
        if not re.fullmatch(r"[\w./*-]+", name) or name.startswith(("/", ".venv", *MADE)):
            continue
        known_place = name.split("/")[0] in (*PLACES, *PAGES[page]) and "/" in name
        module = name.endswith(".py") and (PAGES[page] or "/" in name)
        if (known_place or module) and "NAME" not in name:
            found.append(name)
    return found


def test_files_are_found() -> None:
    assert "runtime/protocol/events.py" in files_of("docs/architecture.md")
    assert "benchmarks/elastic.py" in files_of("benchmarks/README.md")
    assert "docs/results.md" in files_of("benchmarks/README.md")


# ---- config keys -----------------------------------------------------------------------------------------------------


def test_config_keys_that_are_named_exist() -> None:
    algorithms = [method.target.Config for method in register.methods("algorithm")]
    keys = {key for algorithm in algorithms for key in known_keys(algorithm)}
    sections = "|".join(name for name in RunConfig.model_fields if any(key.startswith(f"{name}.") for key in keys))
    named = {
        (page, match[1])
        for page in PAGES
        for text in quoted(page)
        if (match := re.match(rf"((?:{sections})\.[a-z_.]+)(?=$|[=: ])", text)) and match[1] not in OTHERS
    }
    assert len(named) > 30
    assert not {(page, key) for page, key in named if key not in keys and not inside_a_word(key, keys)}


def inside_a_word(key: str, keys: set[str]) -> bool:
    """Below a key of a section that may also be one word or null, as `language.gate.every`, or that holds any key."""
    section = key.rpartition(".")[0]
    return section in keys and "." in section
