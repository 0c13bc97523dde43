"""`ServerEngine` against a real `vllm serve`. Runs where vllm is installed; see test_vllm_engine.py."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distrl.base.errors import ResourceError
from distrl.language.engines import SamplingOptions
from distrl.language.engines.server import ServerEngine
from distrl.language.models.export import export_pretrained
from distrl.language.models.model import LanguageModel
from tests.language.engines.contract import uniforms
from tests.language.engines.server_contract import ServerContract
from tests.language.engines.test_vllm import SIZES, needs_vllm
from tests.language.models.language_cases import ragged, tiny

pytestmark = [needs_vllm, pytest.mark.slow, pytest.mark.timeout(1500)]
PATIENCE = 1200  # seconds for the server's start on a busy machine


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny(**SIZES)


@pytest.fixture(scope="module")
def prompts(model) -> list[list[int]]:
    return [row.tolist() for row in ragged([5, 11, 1, 8], model.tokenizer.vocab_size, seed=3)]


@pytest.fixture(scope="module")
def server(model, tmp_path_factory) -> Iterator[str]:
    """A served folder whose generation_config.json recommends a truncated distribution, as many on the hub do."""
    folder = export_pretrained(model, tmp_path_factory.mktemp("served") / "teacher", {"name": "teacher"})
    recommended = folder / "generation_config.json"
    told = json.loads(recommended.read_text()) if recommended.exists() else {}
    recommended.write_text(json.dumps({**told, "do_sample": True, "top_k": 2, "repetition_penalty": 1.5}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
        "--served-model-name", "teacher", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
        "--max-model-len", "256", "--max-num-seqs", "64", "--enforce-eager", "--kv-cache-memory-bytes", str(2**26),
        "--logprobs-mode", "processed_logprobs",
    ]  # fmt: skip
    settings = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **settings}
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_USE_V2_MODEL_RUNNER"):  # what our own engine asks for
        environment.pop(name, None)
    log = folder.parent / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        _wait(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            ServerEngine(f"http://127.0.0.1:{port}")
            return
        except ResourceError:
            time.sleep(2)
    raise AssertionError(log.read_text()[-3000:])


class TestVllmServer(ServerContract):
    @pytest.fixture(scope="class")
    def url(self, server) -> str:
        return server

    def test_abort_ends_requests_under_way(self, url):
        engine, said = ServerEngine(url), []
        options = SamplingOptions(max_new_tokens=200)
        ask = threading.Thread(target=lambda: said.extend(engine.generate([[3, 4]], 64, uniforms(64, 200), options)))
        ask.start()
        while not engine._open and ask.is_alive():
            time.sleep(0.01)
        time.sleep(0.05)
        engine.abort()
        ask.join(60)
        assert not ask.is_alive()
        assert [len(answer.tokens) for answer in said] == [0] * 64
        assert len(engine.generate([[3]], 1, uniforms(1, 12), SamplingOptions(max_new_tokens=3))[0].tokens) == 3
