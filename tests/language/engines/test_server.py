"""`ServerEngine` against a real HTTP server on loopback that serves our engine, and against servers that fall short."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from distrl.base.errors import ConfigError, ResourceError
from distrl.config.sections.language import LanguageConfig
from distrl.deploy.language.server import TextServer
from distrl.language.engines import SamplingOptions
from distrl.language.engines import server as module
from distrl.language.engines.server import ServerEngine
from distrl.language.engines.transformers import TransformersEngine
from distrl.language.models.weights import pack_language_weights
from tests.language.engines.contract import uniforms
from tests.language.engines.server_contract import ServerContract
from tests.language.models.language_cases import ragged, tiny

OPTIONS = SamplingOptions(max_new_tokens=12, stop_ids=(1, 5))


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def prompts(model) -> list[list[int]]:
    return [row.tolist() for row in ragged([5, 11, 1, 8], model.tokenizer.vocab_size, seed=3)]


@pytest.fixture(scope="module")
def server(model) -> Iterator[TextServer]:
    with TextServer(TransformersEngine(model), model.tokenizer, "teacher", model.context) as running:
        yield running


class TestContract(ServerContract):
    @pytest.fixture(scope="class")
    def url(self, server) -> str:
        return server.url


def test_requests_that_wait_become_one_batch(server, model, prompts, monkeypatch):
    sizes, generate = [], server.engine.generate

    def slow(some, *rest: Any):
        sizes.append(len(some))
        time.sleep(0.2)
        return generate(some, *rest)

    monkeypatch.setattr(server.engine, "generate", slow)
    ServerEngine(server.url).generate(prompts * 4, 1, uniforms(16, 12), OPTIONS)
    assert sum(sizes) == 16
    assert len(sizes) <= 4


def test_abort_gives_what_there_is(server, prompts, monkeypatch):
    engine, begun, go = ServerEngine(server.url), threading.Event(), threading.Event()
    generate = server.engine.generate

    def waits(*request: Any):
        begun.set()
        go.wait(20)
        return generate(*request)

    monkeypatch.setattr(server.engine, "generate", waits)
    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.extend(engine.generate(prompts, 2, uniforms(8, 12), OPTIONS)))
    thread.start()
    assert begun.wait(20)
    engine.abort()
    thread.join(20)
    go.set()
    assert not thread.is_alive()
    assert [len(answer.tokens) for answer in said] == [0] * 8
    assert not any(answer.stopped for answer in said)
    monkeypatch.undo()
    assert len(engine.generate(prompts, 1, uniforms(4, 12), OPTIONS)[0].tokens) > 0


def test_what_a_server_cannot_do(server, model, prompts):
    engine = ServerEngine(server.url)
    with pytest.raises(ConfigError, match=r"frozen; it cannot adopt version 3"):
        engine.load_weights(pack_language_weights(model, version=3))
    with pytest.raises(ConfigError, match="does not tell which tokens"):
        engine.generate(prompts, 1, uniforms(4, 12), SamplingOptions(max_new_tokens=12, top_p=0.9))
    with pytest.raises(ConfigError, match="scores at temperature 1"):
        engine.score([[3, 4]], [1], temperature=0.5)
    with pytest.raises(ConfigError, match=r"prompt 0 has 250 tokens.*context is 256"):
        engine.generate([[3] * 250], 1, uniforms(1, 64), SamplingOptions())
    with pytest.raises(ConfigError, match=r"has no model 'other'; it has \['teacher'\]"):
        ServerEngine(server.url, "other")
    with pytest.raises(ConfigError, match="whose weights are frozen"):
        LanguageConfig(engine="server")


def test_errors_of_the_server_reach_the_caller(server, monkeypatch):
    engine = ServerEngine(server.url)
    with pytest.raises(ResourceError, match=r"400.*outside the vocabulary"):
        engine.generate([[3, 999]], 1, uniforms(1, 12), OPTIONS)
    with pytest.raises(ResourceError, match=r"400.*stream: not supported"):
        engine._call("POST", "/v1/completions", {"prompt": [3], "stream": True})
    with pytest.raises(ResourceError, match=r"404.*/v1/models"):
        engine._call("GET", "/v1/nothing")
    monkeypatch.setattr(module, "PAUSE", 0.01)
    with pytest.raises(ResourceError, match="does not answer"):
        ServerEngine("http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="no address"):
        ServerEngine("ftp://somewhere")


class Lacking(BaseHTTPRequestHandler):
    """A server that gives text alone, and is busy the first time that it is asked."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self._say(503 if self.asked == 1 else 200, {"data": [{"id": "text-only"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(200, {"choices": [{"index": 0, "text": "12", "logprobs": None, "finish_reason": "stop"}]})

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None: ...


def test_a_server_without_token_ids_is_refused_and_a_busy_one_asked_again(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.01)
    server = HTTPServer(("127.0.0.1", 0), Lacking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        engine = ServerEngine(f"127.0.0.1:{server.server_address[1]}")
        assert engine.model == "text-only"
        with pytest.raises(ResourceError, match="gives no token ids"):
            engine.generate([[3, 4]], 1, uniforms(1, 12), OPTIONS)
    finally:
        server.shutdown()
        server.server_close()


def test_log_probabilities_from_before_the_temperature_are_noticed(server, model, prompts, monkeypatch):
    generate = server.engine.generate

    def raw(some, repeats, numbers, options):
        """Draws at the temperature, tells the log-probabilities of temperature 1."""
        answers = generate(some, repeats, numbers, options)
        for number, answer in enumerate(answers):
            prompt = some[number // repeats]
            answer.logp = server.engine.score([[*prompt, *answer.tokens.tolist()]], [len(prompt)])[0]
        return answers

    monkeypatch.setattr(server.engine, "generate", raw)
    engine = ServerEngine(server.url)
    with pytest.raises(ConfigError, match=r"before the temperature 0\.7"):
        engine.generate(prompts, 1, uniforms(4, 12), SamplingOptions(max_new_tokens=12, temperature=0.7))
