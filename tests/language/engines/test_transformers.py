"""The engine of our own: equal to computing everything anew, equal to the learner, and nothing left of earlier rows."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from distrl.language.engines.cached_forward import HubDecoder, LlamaDecoder
from distrl.language.engines.transformers import TransformersEngine
from distrl.language.models.model import LanguageModel
from distrl.language.models.tokenizers import CharacterTokenizer
from tests.language.engines.contract import assert_equals_naive, assert_learner_agrees, uniforms
from tests.language.engines.engine_contract import OPTIONS, EngineContract
from tests.language.models.language_cases import ALPHABET, ragged, tiny


def other_architecture(kind: str) -> LanguageModel:
    """A fresh model that is no plain Llama."""
    import transformers

    tokenizer = CharacterTokenizer(ALPHABET)
    common = {"vocab_size": tokenizer.vocab_size, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
    torch.manual_seed(1)
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **common)
        network = transformers.GPT2LMHeadModel(config)
    elif kind == "gpt_neox":
        network = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(intermediate_size=64, **sizes, **common))
    elif kind == "qwen2":
        config = transformers.Qwen2Config(intermediate_size=64, num_key_value_heads=2, **sizes, **common)
        network = transformers.Qwen2ForCausalLM(config)
    else:
        config = transformers.LlamaConfig(
            intermediate_size=64, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, **sizes, **common
        )
        network = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn(parameter.shape))
    return LanguageModel(network.eval(), tokenizer, 128)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny()


@pytest.fixture(scope="module")
def prompts(model) -> list[list[int]]:
    return [row.tolist() for row in ragged([5, 11, 1, 8], model.tokenizer.vocab_size, seed=3)]


class TestContract(EngineContract):
    engine_class = TransformersEngine


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen2", "grouped_llama"])
def test_other_architectures(kind, prompts):
    model = other_architecture(kind)
    engine = TransformersEngine(model, max_rows=5)
    assert isinstance(engine._decoder, LlamaDecoder if kind in ("qwen2", "grouped_llama") else HubDecoder)
    answers = assert_equals_naive(engine, model, prompts, 2, OPTIONS)
    assert_learner_agrees(model, prompts, 2, answers, OPTIONS)


def test_a_common_beginning_is_computed_once(model, monkeypatch):
    shared = ragged([20], model.tokenizer.vocab_size)[0].tolist()
    prompts = [shared + row.tolist() for row in ragged([3, 6, 2], model.tokenizer.vocab_size, seed=5)]
    engine, seen = TransformersEngine(model), []
    block = engine._decoder.block
    monkeypatch.setattr(
        engine._decoder, "block", lambda tokens, *rest: seen.append(tokens.numel()) or block(tokens, *rest)
    )
    answers = assert_equals_naive(engine, model, prompts, 4, OPTIONS)
    assert_learner_agrees(model, prompts, 4, answers, OPTIONS)
    assert sum(seen) <= 20 + 3 * 6  # the beginning once, each rest once: not once for each of the 12 answers


def test_prompts_are_computed_ahead_where_rows_free_up_one_by_one(model, monkeypatch):
    prompts = [row.tolist() for row in ragged([8] * 40, model.tokenizer.vocab_size, seed=4)]
    engine, seen = TransformersEngine(model, max_rows=4), []
    block = engine._decoder.block
    monkeypatch.setattr(
        engine._decoder, "block", lambda tokens, *rest: seen.append(len(tokens)) or block(tokens, *rest)
    )
    assert_equals_naive(engine, model, prompts, 1, OPTIONS)
    assert sum(seen) == 40
    assert len(seen) <= 3  # of 4 at first, then of 256 tokens


def test_finished_rows_cost_nothing(model, monkeypatch):
    engine, sizes = TransformersEngine(model), []
    step = engine._decoder.step
    monkeypatch.setattr(engine._decoder, "step", lambda tokens, *rest: sizes.append(len(tokens)) or step(tokens, *rest))
    options = dataclasses.replace(OPTIONS, max_new_tokens=40)
    answers = engine.generate([[3]], 24, uniforms(24, 40), options)
    assert sum(sizes) == sum(len(answer.tokens) - 1 for answer in answers)
    assert sizes[0] > 3 * sizes[-1]


def test_bf16_stays_close_to_the_learner(prompts):
    model = tiny()
    model.dtype = torch.bfloat16
    answers = TransformersEngine(model).generate(prompts, 4, uniforms(16, 12), OPTIONS)
    assert_learner_agrees(model, prompts, 4, answers, dataclasses.replace(OPTIONS, entropy=False), tolerance=0.15)
