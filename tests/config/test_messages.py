"""Every mistake is answered with one line that names it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from distrl.base.errors import ConfigError
from distrl.config.load import load_config
from tests.config.wrong_configs import GOOD, WRONG_CONFIGS, Wrong


def load_wrong(mistake: object, folder: Path) -> None:
    if isinstance(mistake, str):
        path = folder / "wrong.yaml"
        path.write_text(mistake)
        load_config(path)
    elif isinstance(mistake, list):
        load_config(GOOD, mistake)
    else:
        load_config(mistake)  # type: ignore[arg-type]


def test_the_base_of_the_table_is_right() -> None:
    assert load_config(GOOD).name == "good"


@pytest.mark.parametrize("wrong", WRONG_CONFIGS, ids=lambda wrong: wrong.message[:50])
def test_message(wrong: Wrong, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_wrong(wrong.mistake, tmp_path)
    message = str(caught.value)
    assert wrong.message in message
    assert "\n" not in message
    assert "pydantic" not in message


def test_missing_file_names_its_neighbor(tmp_path: Path) -> None:
    (tmp_path / "cartpole.yaml").write_text("name: x")
    with pytest.raises(ConfigError, match=r"no file .*cartpol\.yaml\. Did you mean .*cartpole\.yaml\?"):
        load_config(tmp_path / "cartpol.yaml")


def test_folder_and_binary_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        load_config(tmp_path / "x.yaml")


def test_errors_come_fast_and_without_heavy_imports() -> None:
    program = (
        "import sys\n"
        "from distrl.base.errors import ConfigError\n"
        "from distrl.config.load import load_config\n"
        "try:\n"
        "    load_config({'name': 'x', 'num_envs': 3})\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "print([name for name in ('torch', 'ray', 'gymnasium', 'rich') if name in sys.modules])\n"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert done.stdout.splitlines() == ["unknown key 'num_envs': did you mean env.num_envs?", "[]"]
    assert min(seconds) < 1.0
