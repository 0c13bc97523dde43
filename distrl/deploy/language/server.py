"""OpenAI-compatible HTTP server of an engine: GET /v1/models, POST /v1/completions.

    with TextServer(TransformersEngine(model), model.tokenizer, name="teacher") as server:
        teacher = ServerEngine(server.url)

Waiting requests with equal options become one batch of the engine. Bound to loopback by default;
any client that reaches the port can use the model.
"""

from __future__ import annotations

import json
import queue
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from distrl.base.errors import UserError
from distrl.base.seeds import generator
from distrl.language.engines.base import Completion, Engine, SamplingOptions

#: Options of OpenAI that would change the answer and are not known here.
REFUSED = ("stream", "best_of", "logit_bias", "frequency_penalty", "presence_penalty", "suffix", "stop")


@dataclass
class _Job:
    """A request with its result."""

    prompt: list[int]
    repeats: int
    seed: int
    options: SamplingOptions
    score: bool
    done: threading.Event = field(default_factory=threading.Event)
    answers: list[Completion] = field(default_factory=list)
    scores: np.ndarray | None = None
    error: Exception | None = None


class TextServer:
    """HTTP server of an engine.

    Args:
        engine: One thread of the server uses it.
        tokenizer: Text to tokens and back, for prompts that are text.
        name: Of the model.
        context: Longest prompt and answer together, reported to clients.
        host, port: Where to listen; port 0 takes a free one.
    """

    def __init__(self, engine: Engine, tokenizer: Any, name: str, context: int, host: str = "127.0.0.1", port: int = 0):
        self.engine, self.tokenizer, self.name, self.context = engine, tokenizer, name, context
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path != "/v1/models":
                    return self._say(
                        404, {"error": {"message": f"no {self.path}; there are /v1/models, /v1/completions"}}
                    )
                listed = {"id": server.name, "object": "model", "owned_by": "distrl", "max_model_len": server.context}
                return self._say(200, {"object": "list", "data": [listed]})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path != "/v1/completions":
                    return self._say(404, {"error": {"message": f"no {self.path}; there is /v1/completions"}})
                try:
                    return self._say(200, server.answer(json.loads(body)))
                except (UserError, ValueError, TypeError, KeyError) as error:
                    return self._say(400, {"error": {"message": str(error), "type": type(error).__name__}})

            def _say(self, status: int, answer: dict[str, Any]) -> None:
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                """Requests are not worth a line each."""

        self._http = ThreadingHTTPServer((host, port), Handler)
        self._http.daemon_threads = True
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._http.serve_forever, self._work)]

    @property
    def url(self) -> str:
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> TextServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.engine.abort()
        self._http.shutdown()
        self._http.server_close()
        self._jobs.put(None)
        for thread in self._threads:
            thread.join(10)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a request for completions.

        Raises:
            ValueError, UserError: The request is wrong, or the engine cannot answer it.
        """
        job = self._job(request)
        self._jobs.put(job)
        job.done.wait()
        if job.error is not None:
            raise job.error
        if job.scores is not None:
            choices = [self._choice(0, job.prompt, [None, *job.scores.tolist()], "length")]
        else:
            choices = [
                self._choice(number, said.tokens.tolist(), said.logp.tolist(), "stop" if said.stopped else "length")
                for number, said in enumerate(job.answers)
            ]
        return {"object": "text_completion", "model": self.name, "choices": choices}

    def _choice(self, number: int, tokens: list[int], logp: list[float | None], reason: str) -> dict[str, Any]:
        logprobs = {"tokens": [f"token_id:{token}" for token in tokens], "token_logprobs": logp}
        text = self.tokenizer.decode(tokens)
        return {"index": number, "text": text, "token_ids": tokens, "logprobs": logprobs, "finish_reason": reason}

    def _job(self, request: dict[str, Any]) -> _Job:
        foreign = [name for name in REFUSED if request.get(name)]
        if foreign:
            raise ValueError(f"{', '.join(foreign)}: not supported here")
        if request.get("model", self.name) != self.name:
            raise ValueError(f"no model {request['model']!r}; there is {self.name!r}")
        prompt = request["prompt"]
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
        wrong = [token for token in ids if not 0 <= token < self.tokenizer.vocab_size]
        if wrong:
            raise ValueError(f"token ids {wrong[:3]} are outside the vocabulary of {self.tokenizer.vocab_size}")
        score = bool(request.get("echo"))
        if score and request.get("max_tokens") != 0:
            raise ValueError("echo is for scoring: it needs max_tokens 0")
        ends = [] if request.get("ignore_eos") else list(self.tokenizer.stop_ids)
        options = SamplingOptions(
            max_new_tokens=1 if score else int(request.get("max_tokens", 16)),
            temperature=float(request.get("temperature", 1.0)),
            top_p=float(request.get("top_p", 1.0)),
            top_k=max(0, int(request.get("top_k", 0))),
            stop_ids=(*ends, *map(int, request.get("stop_token_ids") or [])),
        )
        seed = request.get("seed")
        drawn = int(np.random.default_rng().integers(2**31)) if seed is None else int(seed)
        return _Job(ids, int(request.get("n", 1)), drawn, options, score)

    def _work(self) -> None:
        """Take all waiting jobs, and answer those with equal options as one batch."""
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            while not self._jobs.empty():
                if (more := self._jobs.get()) is None:
                    self._jobs.put(None)
                    break
                jobs.append(more)
            kinds: dict[Any, list[_Job]] = {}
            for each in jobs:
                kinds.setdefault((each.options, each.repeats, each.score), []).append(each)
            for alike in kinds.values():
                self._answer(alike)

    def _answer(self, jobs: list[_Job]) -> None:
        repeats, options = jobs[0].repeats, jobs[0].options
        try:
            if jobs[0].score:
                found = self.engine.score([job.prompt for job in jobs], [1] * len(jobs))
                for job, scores in zip(jobs, found, strict=True):
                    job.scores = scores
            else:
                shape = (repeats, options.max_new_tokens)
                uniforms = np.concatenate([generator(job.seed, "served").random(shape) for job in jobs])
                said = self.engine.generate([job.prompt for job in jobs], repeats, uniforms, options)
                for number, job in enumerate(jobs):
                    job.answers = said[number * repeats : (number + 1) * repeats]
        except Exception as error:  # the request's, not the server's, end
            if len(jobs) == 1:
                jobs[0].error = error
            else:  # one of them is to blame; the others get their answers
                for job in jobs:
                    self._answer([job])
                return
        for job in jobs:
            job.done.set()
