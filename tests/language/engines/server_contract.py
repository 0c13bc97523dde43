"""The tests of `ServerEngine` against whoever serves a tiny model: a class to inherit from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError, ResourceError
from distrl.language.engines import SamplingOptions
from distrl.language.engines.server import ServerEngine
from distrl.language.engines.transformers import TransformersEngine
from tests.language.engines.contract import assert_equals_naive, assert_learner_agrees, uniforms
from tests.language.models.language_cases import ragged


class ServerContract:
    """Give fixtures `model`, a language model with a context of 256, `prompts` of it, and `url`, where it is served."""

    def test_greedy_answers_equal_the_naive_ones(self, url, model, prompts):
        options = SamplingOptions(max_new_tokens=12, stop_ids=(1, 5), temperature=0.0)
        answers = assert_equals_naive(ServerEngine(url), model, prompts, 2, options)
        assert not any(answer.logp.any() for answer in answers)

    @pytest.mark.parametrize("temperature", [1.0, 0.7])
    def test_learner_agrees_and_answers_differ(self, url, model, prompts, temperature):
        engine = ServerEngine(url + "/v1", ServerEngine(url).model)
        options = SamplingOptions(max_new_tokens=12, stop_ids=(1, 5), temperature=temperature)
        numbers = uniforms(16, 12)
        answers = engine.generate(prompts, 4, numbers, options)
        assert_learner_agrees(model, prompts, 4, answers, options)
        assert len({len(answer.tokens) for answer in answers}) > 3
        for answer in answers:
            assert answer.stopped == (int(answer.tokens[-1]) in options.stop_ids)
            assert answer.versions.tolist() == [0] * len(answer.tokens)
        assert len({tuple(answer.tokens.tolist()) for answer in answers[:4]}) > 1
        again = engine.generate(prompts, 4, numbers, options)
        assert [a.tokens.tolist() for a in again] == [a.tokens.tolist() for a in answers]
        others = engine.generate(prompts, 4, uniforms(16, 12, seed=9), options)
        assert [a.tokens.tolist() for a in others] != [a.tokens.tolist() for a in answers]

    def test_first_tokens_follow_the_models_distribution(self, url, model):
        """2,000 answers of one token: no token's share is further from its probability than chance makes it."""
        engine, count = ServerEngine(url), 2000
        answers = engine.generate([[3, 4]], count, uniforms(count, 1), SamplingOptions(max_new_tokens=1))
        found = np.bincount([int(answer.tokens[0]) for answer in answers], minlength=model.tokenizer.vocab_size) / count
        with torch.no_grad():
            distribution = model.logits(model.hidden(torch.tensor([[3, 4]]))[0, -1]).softmax(0).numpy()
        assert (
            np.abs(found - distribution) <= 4.5 * np.sqrt(distribution * (1 - distribution) / count) + 1 / count
        ).all()

    def test_scores_are_the_models(self, url, model, prompts):
        sequences = [[*prompt, 3, 7, 4] for prompt in prompts]
        sequences.append(ragged([model.context - 1], model.tokenizer.vocab_size)[0].tolist())
        lengths = [*(len(prompt) for prompt in prompts), 9]
        wanted = TransformersEngine(model).score(sequences, lengths)
        for one, two in zip(ServerEngine(url).score(sequences, lengths), wanted, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-4)

    def test_what_it_cannot_do_is_said(self, url):
        engine = ServerEngine(url)
        assert engine.context == 256
        with pytest.raises(ConfigError, match=r"prompt 0 has 250 tokens.*context is 256"):
            engine.generate([[3] * 250], 1, uniforms(1, 64), SamplingOptions())
        with pytest.raises(ResourceError, match=r"/v1/completions with 400"):
            engine.generate([[3, 999]], 1, uniforms(1, 12), SamplingOptions(max_new_tokens=12))
        with pytest.raises(ConfigError, match=r"has no model 'other'"):
            ServerEngine(url, "other")
