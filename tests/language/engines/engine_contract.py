"""The tests that every engine with weights of its own must pass: a class to inherit from."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from distrl.base.errors import CheckpointError, ConfigError
from distrl.language.engines import SamplingOptions
from distrl.language.engines.transformers import TransformersEngine
from distrl.language.models.model import LanguageModel
from distrl.language.models.weights import pack_language_weights
from tests.language.engines.contract import assert_equals_naive, assert_learner_agrees, naive, uniforms
from tests.language.models.language_cases import ragged, tiny

OPTIONS = SamplingOptions(max_new_tokens=12, stop_ids=(1, 5), entropy=True)

LAWS = [{}, {"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.7, "temperature": 1.3}]


class EngineContract:
    """Set `engine_class`; `sizes` are further options of the tiny models."""

    engine_class: ClassVar[Any]
    sizes: ClassVar[dict[str, Any]] = {}

    @classmethod
    def tiny(cls, seed: int = 0, **options: Any) -> LanguageModel:
        return tiny(seed, **{**cls.sizes, **options})

    @pytest.fixture(scope="class")
    def model(self) -> LanguageModel:
        return self.tiny()

    @pytest.fixture(scope="class")
    def prompts(self, model) -> list[list[int]]:
        return [row.tolist() for row in ragged([5, 11, 1, 8], model.tokenizer.vocab_size, seed=3)]

    @pytest.mark.parametrize("case", LAWS, ids=lambda case: str(case))
    @pytest.mark.parametrize("rows", [1, 3, 64])
    def test_equals_computing_everything_anew(self, model, prompts, rows, case):
        """Mixed prompt lengths, rows that finish at different times, and more answers than rows side by side."""
        options = dataclasses.replace(OPTIONS, **case)
        answers = assert_equals_naive(self.engine_class(model, max_rows=rows), model, prompts, 3, options)
        assert len({len(answer.tokens) for answer in answers}) > 3  # the rows did leave at different times
        assert_learner_agrees(model, prompts, 3, answers, options)

    def test_every_prompt_may_have_its_own_number_of_answers(self, model, prompts):
        counts = [4, 1, 0, 7]
        engine, numbers = self.engine_class(model, max_rows=3), uniforms(sum(counts), OPTIONS.max_new_tokens)
        answers = engine.generate(prompts, counts, numbers, OPTIONS)
        asked = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
        for prompt, row, answer in zip(asked, numbers, answers, strict=True):
            assert answer.tokens.tolist() == naive(model, prompt, row, OPTIONS)
        with pytest.raises(ConfigError, match="3 numbers of answers for 4 prompts"):
            engine.generate(prompts, [1, 1, 1], uniforms(3, 12), OPTIONS)

    def test_a_pure_function_of_its_uniforms(self, model, prompts):
        numbers = uniforms(8, 12)
        one = self.engine_class(model, max_rows=3).generate(prompts, 2, numbers, OPTIONS)
        two = self.engine_class(model, max_rows=3).generate(prompts, 2, numbers, OPTIONS)
        for a, b in zip(one, two, strict=True):
            assert a.tokens.tolist() == b.tokens.tolist()
            assert a.logp.tobytes() == b.logp.tobytes()
        # an answer does not depend on who else is in the batch
        alone = self.engine_class(model, max_rows=3).generate(prompts[1:2], 1, numbers[3:4], OPTIONS)[0]
        assert alone.tokens.tolist() == one[3].tokens.tolist()
        np.testing.assert_allclose(alone.logp, one[3].logp, atol=1e-5)

    def test_temperature_zero_is_greedy(self, model, prompts):
        options = SamplingOptions(max_new_tokens=6, temperature=0.0)
        answers = self.engine_class(model, max_rows=3).generate(prompts, 1, uniforms(4, 6), options)
        generated = model.network.generate(
            torch.tensor([prompts[0]]), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert answers[0].tokens.tolist() == generated[0, len(prompts[0]) :].tolist()
        assert not answers[0].logp.any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_weights_are_versions(self, dtype, prompts):
        teacher, student = self.tiny(seed=1), self.tiny(seed=2)
        engine = self.engine_class(student, max_rows=3)
        before = engine.generate(prompts, 2, uniforms(8, 12), OPTIONS)
        engine.load_weights(pack_language_weights(teacher, version=7, dtype=dtype))
        after = engine.generate(prompts, 2, uniforms(8, 12), OPTIONS)
        assert engine.version == 7
        assert {int(v) for answer in before for v in answer.versions} == {0}
        assert {int(v) for answer in after for v in answer.versions} == {7}
        assert [a.tokens.tolist() for a in before] != [a.tokens.tolist() for a in after]
        if dtype == torch.float32:
            want = TransformersEngine(teacher).generate(prompts, 2, uniforms(8, 12), OPTIONS)
            assert [a.tokens.tolist() for a in want] == [a.tokens.tolist() for a in after]
        assert_learner_agrees(student, prompts, 2, after, OPTIONS)

    @pytest.mark.parametrize("recompute", [False, True])
    def test_weights_swap_between_two_tokens(self, prompts, recompute):
        teacher, student = self.tiny(seed=1), self.tiny(seed=2)
        weights, calls = pack_language_weights(teacher, version=1), []
        engine = self.engine_class(student, max_rows=3)

        def poll():
            calls.append(None)
            return weights if len(calls) == 4 else None

        answers = engine.generate(prompts, 2, uniforms(8, 12), OPTIONS, poll=poll, recompute=recompute)
        mixed = [i for i, answer in enumerate(answers) if len(set(answer.versions.tolist())) == 2]
        fresh = [i for i, answer in enumerate(answers) if answer.versions[0] == 1]
        assert mixed
        assert fresh
        for i in fresh if not recompute else fresh + mixed:
            # every token drawn with the new weights has their log-probability, given all that came before it
            sequence = [*prompts[i // 2], *answers[i].tokens.tolist()]
            want = TransformersEngine(teacher).score([sequence], [len(prompts[i // 2])])[0]
            new = answers[i].versions == 1
            np.testing.assert_allclose(answers[i].logp[new], want[new], atol=1e-4)

    def test_weights_of_another_model_are_refused(self):
        with pytest.raises(CheckpointError, match="do not fit"):
            self.engine_class(self.tiny()).load_weights(pack_language_weights(self.tiny(layers=1), version=1))

    def test_score_is_what_the_learner_computes(self, model, prompts):
        engine = self.engine_class(model, max_rows=3)
        answers = engine.generate(prompts, 1, uniforms(4, 12), OPTIONS)
        sequences = [[*prompt, *answer.tokens.tolist()] for prompt, answer in zip(prompts, answers, strict=True)]
        lengths = [len(prompt) for prompt in prompts]
        for scored, answer in zip(engine.score(sequences, lengths), answers, strict=True):
            np.testing.assert_allclose(scored, answer.logp, atol=1e-4)
        full = [ragged([model.context], model.tokenizer.vocab_size)[0].tolist()]  # not a token more would fit
        for temperature in (1.0, 0.6):
            want = TransformersEngine(model).score([*sequences, *full], [*lengths, 9], temperature)
            for one, two in zip(engine.score([*sequences, *full], [*lengths, 9], temperature), want, strict=True):
                np.testing.assert_allclose(one, two, atol=1e-4)

    def test_abort_gives_what_there_is(self, model):
        engine, polls, seen = self.engine_class(model, max_rows=3), [], []

        def poll():
            polls.append(None)
            if len(polls) == 3:
                engine.abort()

        options = SamplingOptions(max_new_tokens=200)
        numbers = uniforms(5, 200)
        answers = engine.generate([[3, 4]], 5, numbers, options, poll=poll)
        seen = [len(answer.tokens) for answer in answers]
        assert 0 < seen[0] < 5  # a token or two a poll
        assert seen == [seen[0]] * 3 + [0, 0]
        assert not any(answer.stopped for answer in answers)
        short = SamplingOptions(max_new_tokens=seen[0])
        assert answers[0].tokens.tolist() == naive(model, [3, 4], numbers[0], short)
        assert len(engine.generate([[3, 4]], 1, uniforms(1, 200), SamplingOptions(max_new_tokens=5))[0].tokens) == 5

    def test_abort_from_another_thread(self, model):
        engine, begun = self.engine_class(model, max_rows=3), threading.Event()
        options, said = SamplingOptions(max_new_tokens=200), []

        def poll():
            begun.set()
            aborting.join(20)  # the other thread is done before the next token

        aborting = threading.Thread(target=lambda: begun.wait(20) and engine.abort())
        aborting.start()
        said = engine.generate([[3, 4]], 3, uniforms(3, 200), options, poll=poll)
        assert max(len(answer.tokens) for answer in said) < 3
        assert not any(answer.stopped for answer in said)

    def test_wrong_requests(self, model):
        engine = self.engine_class(model)
        with pytest.raises(ConfigError, match="prompt 1 has no tokens"):
            engine.generate([[3], []], 1, uniforms(2, 64), SamplingOptions())
        with pytest.raises(ConfigError, match=r"prompt 0 has 250 tokens.*64; together 314.*context is 256"):
            engine.generate([[3] * 250], 1, uniforms(1, 64), SamplingOptions())
        with pytest.raises(ConfigError, match=r"\(3, 64\); expected \(2, at least 64\)"):
            engine.generate([[3]], 2, uniforms(3, 64), SamplingOptions())
        assert engine.generate([], 3, uniforms(0, 64), SamplingOptions()) == []
