"""`distrl serve` answers over HTTP, and refuses what cannot be served."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrl.base.errors import ConfigError, UserError
from distrl.cli.serve import load_model, make_server
from distrl.language.engines import SamplingOptions
from distrl.language.engines.server import ServerEngine
from distrl.runtime.train import train
from tests.cli.conftest import Command
from tests.runtime.test_text_runs import text_config

CONFIG = """\
name: served
backend: serial
task: {name: sort_digits, kwargs: {count: 3}, prompts: 2, streams: 1}
language: {source: tiny, layers: 1, width: 16, heads: 2, max_new_tokens: 4, dtype: fp32}
algorithm: {name: grpo}
stop: {updates: 1}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "served.yaml"
    path.write_text(CONFIG)
    return path


def call(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_a_config_is_served_with_its_first_weights(config: Path) -> None:
    with make_server(config, port=0) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert [model["id"] for model in call(f"{server.url}/v1/models")["data"]] == ["served"]
        body = {"model": "served", "prompt": "312>", "max_tokens": 4, "n": 2, "seed": 1}
        first, again = (call(f"{server.url}/v1/completions", body) for _ in range(2))
        assert len(first["choices"]) == 2
        assert all(len(choice["token_ids"]) <= 4 for choice in first["choices"])
        assert first == again


def test_a_run_is_served_with_its_trained_weights(tmp_runs: Path) -> None:
    train(text_config("trained", stop={"updates": 1}), runs_dir=tmp_runs)
    _, model = load_model(tmp_runs / "trained")
    prompt = model.tokenizer.encode("312>")
    options = SamplingOptions(max_new_tokens=3, temperature=0.0, stop_ids=tuple(model.tokenizer.stop_ids))
    with make_server(tmp_runs / "trained", port=0, name="mine") as server:
        served = ServerEngine(server.url, "mine").generate([prompt], 1, np.zeros((1, 3)), options)
        own = server.engine.generate([prompt], 1, np.zeros((1, 3)), options)
    assert served[0].tokens.tolist() == own[0].tokens.tolist()


def test_a_served_model_is_evaluated_like_the_run(tmp_runs: Path, distrl_command: Command) -> None:
    train(text_config("trained", stop={"updates": 1}), runs_dir=tmp_runs)
    own = json.loads(distrl_command("eval", tmp_runs / "trained", "--episodes", "4", "--json").out)
    with make_server(tmp_runs / "trained", port=0) as server:
        done = distrl_command("eval", tmp_runs / "trained", "--server", server.url, "--episodes", "4", "--json")
    assert done.code == 0, done.err
    served = json.loads(done.out)
    assert served["server"] == server.url
    assert served["texts"] == own["texts"]
    assert served["returns"] == own["returns"]


def test_servers_that_do_not_fit_are_named(config: Path, trained: Path, distrl_command: Command) -> None:
    done = distrl_command("eval", trained, "--server", "http://127.0.0.1:9")
    assert "has no task of language models" in done.err
    assert "no address of a server" in distrl_command("eval", config, "--server", "ftp://somewhere").err
    with make_server(config, port=0) as server:
        assert distrl_command("eval", config, "--server", server.url, "--episodes", "2").code == 0


def test_policies_of_environments_are_refused(trained: Path) -> None:
    with pytest.raises(ConfigError, match="only language models can be served"):
        make_server(trained, port=0)


def test_a_port_in_use_is_named(config: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} cannot be used: .*--port"):
            make_server(config, port=port)


def test_what_is_not_there_is_named(distrl_command: Command, tmp_path: Path) -> None:
    done = distrl_command("serve", tmp_path / "nothing")
    assert done.code != 0
    assert "no policy in" in done.err


@pytest.mark.slow
def test_the_command_answers_until_ctrl_c(config: Path) -> None:
    words = [sys.executable, "-m", "distrl", "serve", str(config), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        answer = call(f"{url}/v1/completions", {"prompt": "312>", "max_tokens": 2})
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
