"""The engine on a real pretrained model: equal to transformers, to the learner, and free of finished rows."""

from __future__ import annotations

import pytest
import torch

from distrl.config.sections.language import LanguageConfig
from distrl.language.engines import SamplingOptions
from distrl.language.engines.transformers import TransformersEngine
from distrl.language.models.loading import load_language_model
from tests.language.engines.contract import assert_equals_naive, assert_learner_agrees, uniforms
from tests.language.models.language_cases import SMOLLM2

pytestmark = pytest.mark.slow

QUESTIONS = ["Copy: red cat", "What is 2 + 3? Answer with a number."]


@pytest.fixture(scope="module")
def model():
    settings = LanguageConfig(source=SMOLLM2, dtype="fp32", freeze_embeddings=True, max_new_tokens=8)
    return load_language_model(settings, seed=0)


@pytest.fixture(scope="module")
def prompts(model):
    return [model.tokenizer.encode_prompt([{"role": "user", "content": question}]) for question in QUESTIONS]


def test_tokens_and_learner_agree(model, prompts):
    options = SamplingOptions(max_new_tokens=8, stop_ids=model.tokenizer.stop_ids, entropy=True)
    answers = assert_equals_naive(TransformersEngine(model), model, prompts, 2, options)
    assert_learner_agrees(model, prompts, 2, answers, options)


def test_truncated_support_in_a_real_vocabulary(model, prompts):
    options = SamplingOptions(max_new_tokens=4, top_p=0.9, temperature=0.8, stop_ids=model.tokenizer.stop_ids)
    answers = TransformersEngine(model).generate(prompts, 2, uniforms(4, 4), options)
    assert max(len(ids) for answer in answers for ids in answer.support) > 1
    assert_learner_agrees(model, prompts, 2, answers, options)


def test_greedy_answers_are_those_of_transformers(model, prompts):
    options = SamplingOptions(max_new_tokens=8, temperature=0.0, stop_ids=model.tokenizer.stop_ids)
    answer = TransformersEngine(model).generate(prompts[:1], 1, uniforms(1, 8), options)[0]
    with torch.inference_mode():
        want = model.network.generate(torch.tensor(prompts[:1]), max_new_tokens=8, do_sample=False)
    assert answer.tokens.tolist() == want[0, len(prompts[0]) :].tolist()
    assert model.tokenizer.decode(answer.tokens)


def test_bf16_is_close(model, prompts):
    model.dtype = torch.bfloat16
    try:
        options = SamplingOptions(max_new_tokens=8, stop_ids=model.tokenizer.stop_ids)
        answers = TransformersEngine(model).generate(prompts, 2, uniforms(4, 8), options)
        assert_learner_agrees(model, prompts, 2, answers, options, tolerance=0.5)
    finally:
        model.dtype = torch.float32
