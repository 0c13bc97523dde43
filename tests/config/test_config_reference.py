"""The reference page is complete and current."""

from __future__ import annotations

from pathlib import Path

import pytest

from distrl.config.algorithm import AlgorithmConfig, known_keys
from distrl.config.messages import keys_of, section_model
from distrl.config.reference import algorithm_configs, main, render
from distrl.config.schema import RunConfig

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_page_is_current() -> None:
    expected = render(algorithm_configs())
    assert PAGE.read_text() == expected, "docs/config.md is old; run: python -m distrl.config.reference"


def test_main_writes_the_page(tmp_path: Path) -> None:
    main(str(tmp_path / "config.md"))
    assert (tmp_path / "config.md").read_text() == render(algorithm_configs())


def test_every_key_is_on_the_page() -> None:
    page = render()
    for key in known_keys():
        leaf = key.rsplit(".", 1)[-1]
        assert f"| `{leaf}` |" in page or f"## {leaf}\n" in page


@pytest.mark.parametrize("model", [RunConfig, AlgorithmConfig])
def test_every_key_is_described(model: type[RunConfig] | type[AlgorithmConfig]) -> None:
    sections = {key.split(".")[0] for key in keys_of(model) if "." in key} | {"algorithm"}
    for name, info in model.model_fields.items():
        if name not in sections:
            assert info.description, name
    for name in sections - {"algorithm"}:
        section = section_model(RunConfig.model_fields[name].annotation)
        assert section is not None
        assert section.__doc__
        for key, info in section.model_fields.items():
            assert info.description, f"{name}.{key}"


def test_own_keys_and_changed_defaults_of_an_algorithm() -> None:
    class Own(AlgorithmConfig):
        """An algorithm of one's own."""

        gamma: float = 0.5
        beta: float = 1.0
        """Weight of something."""

    page = render({"own": Own})
    part = page.split("### algorithm: own\n")[1].split("\n## ")[0]
    assert "| `beta` | number | `1` | Weight of something. |" in part
    assert "| `gamma` |" in part
    assert "`rollout_steps`" not in part
