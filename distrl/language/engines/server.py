"""Engine behind an OpenAI-compatible server that returns token ids and log-probabilities.

Uses `/v1/completions` with token ids in and out, like vLLM (`return_token_ids`, `stop_token_ids`, `echo`) and
`deploy/language/server.py`. The server draws the tokens: the seed of a prompt is derived from its first uniform number.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import numpy as np

from distrl.base.errors import ConfigError, ResourceError
from distrl.experience.weights import Weights
from distrl.language.engines.base import Completion, SamplingOptions, answer_counts, check_request

TRIES, PAUSE = 3, 0.5  # of a failing connection; seconds before the second try, doubled for the third
BUSY = (429, 503)

Json: TypeAlias = dict[str, Any]

#: Part of every request: servers default to the recommendations of the model's folder (generation_config.json).
NO_TRUNCATION = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}

#: Context of servers that report none.
NO_LIMIT = 2**31


class ServerEngine:
    """Continues prompts with a served model, whose weights are frozen.

    Args:
        url: Address, such as http://127.0.0.1:8000 or http://127.0.0.1:8000/v1.
        model: Name on the server. Default: the first one listed.
        max_rows: Concurrent requests, each a prompt with all of its answers.
        timeout: Seconds per request.
        key: Bearer token.

    Raises:
        ConfigError: Not a URL, or the server has no such model.
        ResourceError: The server cannot be reached.
    """

    version = 0

    def __init__(self, url: str, model: str | None = None, max_rows: int = 64, timeout: float = 600.0, key: str = ""):
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is no address of a server.", "Write for example http://127.0.0.1:8000.")
        self.url, self.timeout, self.key, self.max_rows = url, timeout, key, max_rows
        self._host, self._secure = (parts.hostname, parts.port), parts.scheme == "https"
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._aborted = threading.Event()
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._checked = {1.0, 0.0}  # temperatures with correct log-probabilities
        listed = {each["id"]: each for each in self._call("GET", "/v1/models")["data"]}
        self.model = model or next(iter(listed), "")
        if self.model not in listed:
            raise ConfigError(f"the server {url} has no model {self.model!r}; it has {sorted(listed)}.")
        self.context = int(listed[self.model].get("max_model_len") or NO_LIMIT)

    def load_weights(self, weights: Weights) -> None:
        """Raise ConfigError: the weights are frozen."""
        raise ConfigError(
            f"the weights of the server {self.url} are frozen; it cannot adopt version {weights.version}.",
            "Use distrl eval --server for a server's own model; set language.engine=transformers for samplers.",
        )

    def abort(self) -> None:
        self._aborted.set()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError, AttributeError):  # not connected
                    connection.sock.shutdown(socket.SHUT_RDWR)  # wakes the waiting thread

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        repeats: int | Sequence[int],
        uniforms: np.ndarray,
        options: SamplingOptions,
    ) -> list[Completion]:
        """Answer prompts; uniforms seed the server's generator. Answers cut by `abort` are empty.

        Raises:
            ConfigError: Truncation or entropy is requested, or the server's log-probabilities are not those of the
                distribution that it draws from.
            ResourceError: The server failed.
        """
        check_request(prompts, repeats, uniforms, options, self.context)
        if options.truncates or options.entropy:
            raise ConfigError(
                "a server does not tell which tokens top-p and top-k left, nor the entropy.",
                "Set top_p=1, top_k=0 and entropy=False.",
            )
        self._aborted.clear()
        counts = answer_counts(prompts, repeats)
        asked = [number for number, count in enumerate(counts) if count]
        if not asked:
            return []
        self._check_temperature(list(prompts[asked[0]]), options)
        first = np.cumsum([0, *counts])

        def answer(number: int) -> list[Completion]:
            if self._aborted.is_set():
                return [_completion([], [], False)] * counts[number]
            try:
                seed = int(uniforms[first[number], 0] * 2**31)
                # greedy answers are equal, and vLLM refuses to repeat them
                times = counts[number] if options.temperature > 0 else 1
                found = self._complete(list(prompts[number]), options, n=times, seed=seed)
            except (OSError, http.client.HTTPException, ResourceError):
                if not self._aborted.is_set():
                    raise
                return [_completion([], [], False)] * counts[number]
            answers = [_read(choice, self.url) for choice in sorted(found["choices"], key=lambda each: each["index"])]
            for each in answers:
                each.logp *= options.temperature > 0  # greedy tokens are not drawn
            return answers if options.temperature > 0 else answers * counts[number]

        try:
            with ThreadPoolExecutor(min(self.max_rows, len(asked))) as pool:
                return [each for answers in pool.map(answer, asked) for each in answers]
        finally:
            self._aborted.clear()

    def score(
        self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int], temperature: float = 1.0
    ) -> list[np.ndarray]:
        """Score at temperature 1. vLLM accepts no sequence that fills the whole context."""
        if temperature != 1.0:
            raise ConfigError(f"a server scores at temperature 1, not {temperature:g}.")

        def one(sequence: Sequence[int], length: int) -> np.ndarray:
            options = SamplingOptions(max_new_tokens=1, temperature=1.0)
            found = self._complete(list(sequence), options, echo=True, max_tokens=0)["choices"][0]
            return np.array(found["logprobs"]["token_logprobs"][length : len(sequence)], np.float32)

        with ThreadPoolExecutor(max(1, min(self.max_rows, len(sequences)))) as pool:
            return list(pool.map(one, sequences, prompt_lengths))

    def _complete(self, prompt: list[int], options: SamplingOptions, **more: object) -> Json:
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
            **NO_TRUNCATION,
            "stop_token_ids": list(options.stop_ids),
            "ignore_eos": True,  # only the stop tokens of the call end an answer
            "logprobs": 0,
            "return_token_ids": True,
            **more,
        }
        return self._call("POST", "/v1/completions", body)

    def _check_temperature(self, prompt: list[int], options: SamplingOptions) -> None:
        """Raise ConfigError if the server reports log-probabilities from before the temperature."""
        if options.temperature in self._checked:
            return
        said = _read(self._complete(prompt, options, n=1, seed=0, stop_token_ids=[])["choices"][0], self.url)
        plain = self.score([[*prompt, *said.tokens.tolist()]], [len(prompt)])[0]
        if np.allclose(said.logp, plain, atol=1e-4):
            raise ConfigError(
                f"the server {self.url} reports log-probabilities from before the temperature {options.temperature:g}.",
                "Start vLLM with --logprobs-mode processed_logprobs, or draw at temperature 1.",
            )
        self._checked.add(options.temperature)

    def _call(self, method: str, path: str, body: Json | None = None) -> Json:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                status, answer = self._once(method, self._base + path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                if self._aborted.is_set() or attempt == TRIES - 1:
                    raise ResourceError(
                        f"the server {self.url} does not answer: {error or type(error).__name__}.",
                        "Start it, or correct its address.",
                    ) from error
                continue
            if status not in BUSY or attempt == TRIES - 1:
                break
        if status != 200:
            raise ResourceError(f"the server {self.url} answered {path} with {status}: {answer[:300]}")
        try:
            return json.loads(answer)
        except ValueError as error:
            raise ResourceError(f"the server {self.url} answered {path} with no JSON: {answer[:100]}") from error

    def _once(self, method: str, path: str, body: Json | None, headers: dict[str, str]) -> tuple[int, str]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(*self._host, timeout=self.timeout)
        with self._lock:
            self._open.add(connection)
        try:
            connection.connect()
            if self._aborted.is_set():  # `abort` finds only connections that are open
                raise ConnectionAbortedError("aborted")
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()


def _read(choice: Json, url: str) -> Completion:
    """Read an answer; raise ResourceError without token ids or log-probabilities."""
    tokens, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
    if tokens is None or logprobs is None or len(tokens) != len(logprobs):
        raise ResourceError(
            f"the server {url} gives no token ids with log-probabilities; text alone must not be tokenized again.",
            "Use a server that knows return_token_ids and logprobs, such as vLLM.",
        )
    return _completion(tokens, logprobs, choice.get("finish_reason") == "stop")


def _completion(tokens: list[int], logp: list[float], stopped: bool) -> Completion:
    ids = np.array(tokens, np.int32)
    return Completion(ids, np.array(logp, np.float32), stopped, np.zeros(len(ids), np.int64))
