"""vLLM behind our interface: the contract of all engines, and what is its own. Runs where vllm is installed.

bash tests/language/engines/setup_vllm.sh        # an environment with the CPU build, in .venv-vllm
.venv-vllm/bin/python -m pytest tests/language/engines/test_vllm.py tests/language/engines/test_vllm_server.py
"""

from __future__ import annotations

import dataclasses
import importlib.util
import random

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.config.sections.language import LanguageConfig
from distrl.language.engines import SamplingOptions, make_engine
from distrl.language.engines import vllm_process as module
from distrl.language.engines.transformers import TransformersEngine
from distrl.language.engines.vllm import VllmEngine
from distrl.language.models.model import LanguageModel
from distrl.language.models.tokenizers import CharacterTokenizer
from distrl.language.models.weights import pack_language_weights
from tests.language.engines.contract import assert_equals_naive, assert_learner_agrees, uniforms
from tests.language.engines.engine_contract import OPTIONS, EngineContract
from tests.language.models.language_cases import ALPHABET, ragged, tiny

INSTALLED = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not INSTALLED, reason="vllm is not installed: see tests/language/engines/setup_vllm.sh")
SIZES = {"width": 64, "heads": 2}  # vLLM's attention on CPUs begins at 32 numbers a head


@pytest.fixture(scope="module", autouse=True)
def _stop():
    yield
    module.stop_vllm()


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(1200)  # it starts several times
class TestContract(EngineContract):
    engine_class = VllmEngine
    sizes = SIZES


def tied(seed: int) -> LanguageModel:
    """Grouped heads, and an output layer that is the embedding."""
    import transformers

    tokenizer = CharacterTokenizer(ALPHABET)
    torch.manual_seed(seed)
    network = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=tokenizer.vocab_size, pad_token_id=0, eos_token_id=1, bos_token_id=None, hidden_size=64,
            intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
            max_position_embeddings=128, tie_word_embeddings=True,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn(parameter.shape))
    return LanguageModel(network.eval(), tokenizer, 128)


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
class TestOwn:
    def test_a_tied_output_layer_is_loaded_too(self):
        student, teacher = tied(1), tied(2)
        prompts = [row.tolist() for row in ragged([5, 11, 1], student.tokenizer.vocab_size, seed=3)]
        engine = VllmEngine(student, max_rows=4)
        assert_equals_naive(engine, student, prompts, 2, OPTIONS)
        engine.load_weights(pack_language_weights(teacher, version=1))
        assert_learner_agrees(teacher, prompts, 2, assert_equals_naive(engine, teacher, prompts, 2, OPTIONS), OPTIONS)

    def test_adapters_are_merged_in(self):
        model = tiny(lora={"rank": 4}, **SIZES)
        prompts = [[3, 4, 5], [6]]
        engine = VllmEngine(model, max_rows=4)
        plain = assert_equals_naive(engine, model, prompts, 4, OPTIONS)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0.0, 0.5)
        engine.refresh(1)
        tuned = assert_equals_naive(engine, model, prompts, 4, OPTIONS)
        assert_learner_agrees(model, prompts, 4, tuned, OPTIONS)
        assert [a.tokens.tolist() for a in plain] != [a.tokens.tolist() for a in tuned]

    def test_two_engines_share_one_process_and_keep_their_weights(self):
        one, two = VllmEngine(tiny(1, **SIZES), max_rows=4), VllmEngine(tiny(2, **SIZES), max_rows=4)
        for engine in (one, two, one):
            assert_equals_naive(engine, engine.model, [[3, 4], [5]], 2, OPTIONS)
        assert module.vllm_for(one.model, 4) is module.vllm_for(two.model, 4)

    def test_long_prompts_share_what_they_begin_with(self):
        """Blocks of the cache are reused within a call, and not after new weights."""
        model, teacher = tiny(1, context=512, **SIZES), tiny(2, context=512, **SIZES)
        shared = ragged([300], model.tokenizer.vocab_size)[0].tolist()
        prompts = [[*shared, 3, 4], [*shared, 5]]
        engine = VllmEngine(model, max_rows=4)
        assert_equals_naive(engine, model, prompts, 4, OPTIONS)
        engine.load_weights(pack_language_weights(teacher, version=1))
        assert_equals_naive(engine, teacher, prompts, 4, OPTIONS)

    def test_an_engine_that_failed_leaves_room_for_another(self, monkeypatch):
        model = tiny(1, **SIZES)
        engine = VllmEngine(model, max_rows=4)
        process = module.vllm_for(model, 4)
        monkeypatch.setattr(process.engine, "step", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.generate([[3]], 2, uniforms(2, 12), OPTIONS)
        assert_equals_naive(VllmEngine(model, max_rows=4), model, [[3]], 2, OPTIONS)

    def test_the_process_is_left_as_it_was(self):
        module.stop_vllm()
        numbers, state, threads = np.random.get_state()[1].copy(), torch.get_rng_state(), torch.set_num_threads  # noqa: NPY002
        first = random.getstate()
        VllmEngine(tiny(1, **SIZES), max_rows=5).generate([[3]], 2, uniforms(2, 12), OPTIONS)
        assert (np.random.get_state()[1] == numbers).all()  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.set_num_threads is threads
        assert random.getstate() == first

    def test_a_model_that_it_cannot_compute_is_refused(self):
        with pytest.raises(ConfigError, match=r"heads have a size of 8; vLLM on CPUs computes \[32, "):
            VllmEngine(tiny())

    def test_bf16_stays_close_to_the_learner(self):
        model = tiny(1, **SIZES)
        model.dtype = torch.bfloat16
        prompts = [[3, 4, 5], [6], [7, 8]]
        answers = VllmEngine(model, max_rows=4).generate(prompts, 4, uniforms(12, 12), OPTIONS)
        assert_learner_agrees(model, prompts, 4, answers, dataclasses.replace(OPTIONS, entropy=False), tolerance=0.3)


@needs_vllm
@pytest.mark.timeout(600)
def test_the_config_names_it():
    assert isinstance(make_engine(LanguageConfig(engine="vllm", max_rows=4), tiny(**SIZES)), VllmEngine)


@pytest.mark.skipif(INSTALLED, reason="vllm is installed")
def test_without_vllm_it_says_what_to_install():
    with pytest.raises(ConfigError, match=r"which cannot be imported: No module named 'vllm'") as caught:
        make_engine(LanguageConfig(engine="vllm"), tiny(**SIZES))
    assert "distrl[vllm]" in str(caught.value.__dict__) + str(caught.value)


def test_the_cache_holds_all_rows_or_one_full_context():
    model = tiny(**SIZES)  # 2 layers, 2 heads of 32 numbers, fp32: 1 KiB a token; a context of 256
    assert module.cache_bytes(model, 4) == (4 * 2 + 2) * module.BLOCK * 1024
    model.context = 100 * module.BLOCK
    assert module.cache_bytes(model, 1) == (101 + 2) * module.BLOCK * 1024
    assert module.cache_bytes(model, 64) == (64 * 8 + 2) * module.BLOCK * 1024


def test_what_is_drawn_is_drawn_as_in_the_transformers_engine():
    """The sheet alone, on the logits of our own engine; a row that is asked twice at one place keeps the last draw."""
    model = tiny(**SIZES)
    options = SamplingOptions(max_new_tokens=2, top_p=0.8, entropy=True)
    numbers = uniforms(2, 2)
    want = TransformersEngine(model).generate([[3, 4], [5, 6]], 1, numbers, options)
    sheet = module.Sheet(numbers, options, version=3)
    sheet.taken = {0: [], 1: []}
    with torch.no_grad():
        for _ in range(2):
            rows = [[*([3, 4], [5, 6])[row], *sheet.taken[row]] for row in range(2)]
            logits = model.logits(model.hidden(torch.tensor(rows))[:, -1])
            sheet.draw(logits.flip(0), [0, 1])  # dropped
            for row, token in enumerate(sheet.draw(logits, [0, 1]).tolist()):
                sheet.taken[row].append(token)
    for row, answer in enumerate(want):
        said = sheet.completion(row)
        assert said.tokens.tolist() == answer.tokens.tolist()
        assert said.versions.tolist() == [3, 3]
        np.testing.assert_allclose(said.logp, answer.logp, atol=1e-5)
        np.testing.assert_allclose(said.entropy, answer.entropy, atol=1e-5)
        assert [ids.tolist() for ids in said.support] == [ids.tolist() for ids in answer.support]
