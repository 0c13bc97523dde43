"""docs/cluster.md: every block of commands is run as it stands, or says what it needs."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster_head import BIN, free_port
from tests.helpers import REPOSITORY

PAGE = (REPOSITORY / "docs" / "cluster.md").read_text()
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*) -->\n)?```bash\n(?P<text>.*?)```", re.DOTALL)
MARKS = ("tested", "tested in the background")


def blocks(mark: str) -> list[str]:
    return [block["text"] for block in BLOCK.finditer(PAGE) if block["mark"] == mark]


def test_every_block_is_tested_or_says_what_it_needs() -> None:
    marks = [block["mark"] for block in BLOCK.finditer(PAGE)]
    assert len(marks) == PAGE.count("```bash")
    for mark in marks:
        assert mark in MARKS or str(mark).startswith("needs: "), f"a block of docs/cluster.md is marked {mark!r}"
    assert len(blocks("tested")) >= 2


def test_commands_within_lines_are_tested_too() -> None:
    within = set(re.findall(r"`distrl\s+(\w+)[^`]*`", BLOCK.sub("", PAGE)))
    tested = set(re.findall(r"^distrl (\w+)", "\n".join(blocks("tested")), re.MULTILINE))
    assert within
    assert within <= tested


def test_every_file_that_the_page_names_is_there() -> None:
    for name in set(re.findall(r"(?:cluster|examples|tests)/[\w./]+\w", PAGE)):
        assert (REPOSITORY / name).exists(), name


@pytest.fixture
def newcomer() -> Iterator[tuple[Path, dict[str, str]]]:
    """A person with a copy of the project, a home of their own, and `distrl` on the path."""
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as name:
        folder = Path(name)
        for part in ("examples", "cluster"):
            (folder / part).symlink_to(REPOSITORY / part)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "DISTRL_"))}
        paths = {"PATH": f"{BIN}{os.pathsep}{kept['PATH']}", "HOME": str(folder)}
        yield folder, {**kept, **paths, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(1500)
def test_a_newcomer_types_what_the_page_says(newcomer: tuple[Path, dict[str, str]]) -> None:
    folder, env = newcomer
    laptop, on_cluster = blocks("tested")
    [background] = blocks("tested in the background")

    def type_in(text: str) -> str:
        done = subprocess.run(["bash", "-ec", text], cwd=folder, env=env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    shown = type_in(laptop)
    assert "ended: updates reached 3" in shown

    dashboard, port = free_port(), free_port()
    words = f"--port {port} --dashboard-port {dashboard} --client-port {free_port()}"
    with open(folder / "cluster.txt", "w") as output:
        cluster = subprocess.Popen(
            [sys.executable, *background.split()[1:], *words.split()],
            cwd=folder, env=env, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(dashboard, cluster, folder / "cluster.txt")
        shown = type_in(on_cluster.replace("8265", str(dashboard)))
        started = psutil.Process(cluster.pid).children(recursive=True)
    finally:
        cluster.send_signal(signal.SIGINT)
        assert cluster.wait(180) == 0
    assert "submitted second" in shown
    assert "-> 3:" in shown
    assert "versions: as on the submitting machine" in shown
    assert "writes a checkpoint" in shown
    assert "without a further checkpoint" in shown
    # The token is the newcomer's own, and nothing of the cluster is left.
    assert (folder / ".ray" / "auth_token").is_file()
    assert not [process.name() for process in psutil.wait_procs(started, timeout=15)[1]]


def wait_for(port: int, process: subprocess.Popen[bytes], output: Path) -> None:
    for _ in range(400):
        assert process.poll() is None, output.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.3)
    time.sleep(5)  # the job server answers a little after it listens
