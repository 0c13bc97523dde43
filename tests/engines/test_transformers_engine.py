"""The engine of our own: equal to computing everything anew, equal to the learner, and nothing left of earlier rows."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch

from distrl.base.errors import CheckpointError, ConfigError
from distrl.engines import SamplingOptions
from distrl.engines.decoders import HubDecoder, LlamaDecoder
from distrl.engines.transformers_engine import TransformersEngine
from distrl.models.language import LanguageModel
from distrl.models.language_weights import pack_language_weights
from distrl.models.tokenizers import CharacterTokenizer
from tests.engines.contract import assert_equals_naive, assert_learner_agrees, naive, uniforms
from tests.models.language_cases import ALPHABET, ragged, tiny


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


OPTIONS = SamplingOptions(max_new_tokens=12, stop_ids=(1, 5), entropy=True)


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize(
    "case", [{}, {"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.7, "temperature": 1.3}], ids=lambda case: str(case)
)
def test_equals_computing_everything_anew(model, prompts, rows, case):
    """Mixed prompt lengths, rows that finish at different times, and more answers than rows side by side."""
    options = dataclasses.replace(OPTIONS, **case)
    answers = assert_equals_naive(TransformersEngine(model, max_rows=rows), model, prompts, 3, options)
    assert len({len(answer.tokens) for answer in answers}) > 3  # the rows did leave at different times
    assert_learner_agrees(model, prompts, 3, answers, options)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_every_prompt_may_have_its_own_number_of_answers(model, prompts, rows):
    counts = [4, 1, 0, 7]
    numbers = uniforms(sum(counts), OPTIONS.max_new_tokens)
    answers = TransformersEngine(model, max_rows=rows).generate(prompts, counts, numbers, OPTIONS)
    asked = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
    for prompt, row, answer in zip(asked, numbers, answers, strict=True):
        assert answer.tokens.tolist() == naive(model, prompt, row, OPTIONS)
    with pytest.raises(ConfigError, match="3 numbers of answers for 4 prompts"):
        TransformersEngine(model).generate(prompts, [1, 1, 1], uniforms(3, 12), OPTIONS)


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


def test_a_pure_function_of_its_uniforms(model, prompts):
    numbers = uniforms(8, 12)
    one = TransformersEngine(model).generate(prompts, 2, numbers, OPTIONS)
    two = TransformersEngine(model).generate(prompts, 2, numbers, OPTIONS)
    for a, b in zip(one, two, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        assert a.logp.tobytes() == b.logp.tobytes()
    # an answer does not depend on who else is in the batch
    alone = TransformersEngine(model).generate(prompts[1:2], 1, numbers[3:4], OPTIONS)[0]
    assert alone.tokens.tolist() == one[3].tokens.tolist()
    np.testing.assert_allclose(alone.logp, one[3].logp, atol=1e-5)


def test_temperature_zero_is_greedy(model, prompts):
    options = SamplingOptions(max_new_tokens=6, temperature=0.0)
    answers = TransformersEngine(model).generate(prompts, 1, uniforms(4, 6), options)
    generated = model.network.generate(
        torch.tensor([prompts[0]]), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert answers[0].tokens.tolist() == generated[0, len(prompts[0]) :].tolist()
    assert not answers[0].logp.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_versions(dtype, prompts):
    teacher, student = tiny(seed=1), tiny(seed=2)
    engine = TransformersEngine(student)
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
def test_weights_swap_between_two_tokens(prompts, recompute):
    teacher, student = tiny(seed=1), tiny(seed=2)
    weights, calls = pack_language_weights(teacher, version=1), []
    engine = TransformersEngine(student, max_rows=3)

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


def test_weights_of_another_model_are_refused(model):
    with pytest.raises(CheckpointError, match="do not fit"):
        TransformersEngine(tiny()).load_weights(pack_language_weights(tiny(layers=1), version=1))


def test_score_is_what_the_learner_computes(model, prompts):
    engine = TransformersEngine(model, max_rows=3)
    answers = engine.generate(prompts, 1, uniforms(4, 12), OPTIONS)
    sequences = [[*prompt, *answer.tokens.tolist()] for prompt, answer in zip(prompts, answers, strict=True)]
    for scored, answer in zip(engine.score(sequences, [len(p) for p in prompts]), answers, strict=True):
        np.testing.assert_allclose(scored, answer.logp, atol=1e-4)


def test_abort_gives_what_there_is(model):
    engine, begun = TransformersEngine(model, max_rows=2), threading.Event()

    def poll():
        if not begun.is_set():
            begun.set()
        else:
            engine.abort()

    options = SamplingOptions(max_new_tokens=200)
    answers = engine.generate([[3, 4]], 4, uniforms(4, 200), options, poll=poll)
    assert [len(answer.tokens) for answer in answers] == [2, 2, 0, 0]
    assert not any(answer.stopped for answer in answers)
    assert len(engine.generate([[3, 4]], 1, uniforms(1, 200), SamplingOptions(max_new_tokens=5))[0].tokens) == 5


def test_wrong_requests(model):
    engine = TransformersEngine(model)
    with pytest.raises(ConfigError, match="prompt 1 has no tokens"):
        engine.generate([[3], []], 1, uniforms(2, 64), SamplingOptions())
    with pytest.raises(ConfigError, match=r"prompt 0 has 250 tokens.*64; together 314.*context is 256"):
        engine.generate([[3] * 250], 1, uniforms(1, 64), SamplingOptions())
    with pytest.raises(ConfigError, match=r"\(3, 64\); expected \(2, at least 64\)"):
        engine.generate([[3]], 2, uniforms(3, 64), SamplingOptions())
    assert engine.generate([], 3, uniforms(0, 64), SamplingOptions()) == []


def test_bf16_stays_close_to_the_learner(prompts):
    model = tiny()
    model.dtype = torch.bfloat16
    answers = TransformersEngine(model).generate(prompts, 4, uniforms(16, 12), OPTIONS)
    assert_learner_agrees(model, prompts, 4, answers, dataclasses.replace(OPTIONS, entropy=False), tolerance=0.15)
