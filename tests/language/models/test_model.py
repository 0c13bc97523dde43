"""Language models: loading, tokenizers, adapters, critics, export, memory, and what is said when something is wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError, ResourceError
from distrl.config.sections.language import LanguageConfig
from distrl.experience.weights import Weights
from distrl.language.engines import SamplingOptions
from distrl.language.engines.transformers import TransformersEngine
from distrl.language.models.export import export_pretrained
from distrl.language.models.loading import choose_dtype, load_language_model
from distrl.language.models.memory_estimate import check_memory, memory_parts
from distrl.language.models.source import resolve_source
from distrl.language.models.token_logp import token_logp
from distrl.language.models.tokenizers import CharacterTokenizer, HubTokenizer
from distrl.language.models.weights import EXTRA, load_language_weights, pack_language_weights
from tests.language.engines.contract import assert_equals_naive, assert_learner_agrees, uniforms
from tests.language.models.language_cases import ALPHABET, ragged, tiny


def scored(model, tokens):
    mask = torch.ones(tokens.shape, dtype=torch.bool)
    mask[:, 0] = False
    return token_logp(model, tokens, mask)[0]


@pytest.fixture(scope="module")
def tokens():
    return torch.stack(ragged([9, 9], len(ALPHABET) + 2))


def test_the_seed_draws_the_weights():
    state = torch.random.get_rng_state()
    one, two, other = (list(tiny(seed=seed).parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(state, torch.random.get_rng_state())


def test_sizes_of_the_test_bed():
    model = load_language_model(LanguageConfig(layers=3, width=128, dtype="fp32"), 0, alphabet="0123456789 ,>")
    assert 0.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 0.7e6


@pytest.mark.parametrize("text", ["", "12+3=15", "0" * 40])
def test_characters_there_and_back(text):
    tokenizer = CharacterTokenizer(ALPHABET)
    assert tokenizer.decode([*tokenizer.encode(text), *tokenizer.stop_ids]) == text


def test_characters_outside_the_alphabet_are_named():
    with pytest.raises(ConfigError, match="character 'x' is not in the model's alphabet"):
        CharacterTokenizer(ALPHABET).encode_prompt("1x")
    with pytest.raises(ConfigError, match="no tokens"):
        CharacterTokenizer(ALPHABET).encode_prompt("")
    with pytest.raises(ConfigError, match="alphabet"):
        load_language_model(LanguageConfig(), 0)


def hub_tokenizer(template: str | None = None, **special: str):
    tokenizer = CharacterTokenizer(ALPHABET).to_transformers()
    tokenizer.eos_token = tokenizer.pad_token = None
    for name, token in special.items():
        setattr(tokenizer, name, token)
    return HubTokenizer(tokenizer, len(ALPHABET) + 2, chat_template=template)


def test_a_tokenizer_that_lacks_something():
    with pytest.raises(ConfigError, match="no token that ends an answer"):
        hub_tokenizer()
    without_padding = hub_tokenizer(eos_token="<end>")
    assert without_padding.pad_id == 1  # padding is never looked at: the end token does
    messages = [{"role": "user", "content": "1+2="}]
    with pytest.raises(ConfigError, match=r"no chat template.*language\.chat_template"):
        without_padding.encode_prompt(messages)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    with_template = hub_tokenizer(template, eos_token="<end>")
    assert with_template.encode_prompt(messages) == CharacterTokenizer(ALPHABET).encode("1+2=>")
    assert with_template.decode([*with_template.encode("12"), 1, 1]) == "12"


@pytest.mark.parametrize("head", ["scalar", {"name": "categorical", "size": 11}, {"name": "quantile", "size": 5}])
def test_a_critic_on_the_trunk_learns(head, tokens):
    model = tiny(critic_head=head)
    hidden = model.hidden(tokens)
    params = model.value_params(hidden)
    distribution = model.critic.distribution
    assert params.shape == (*tokens.shape, distribution.param_size)
    assert distribution.mean(params).shape == tokens.shape
    target = torch.full((*tokens.shape, 1), 0.7)
    optimizer = torch.optim.Adam(model.critic.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        distribution.loss(model.value_params(hidden.detach()), target, torch.ones_like(target)).mean().backward()
        optimizer.step()
    torch.testing.assert_close(
        distribution.mean(model.value_params(hidden)), torch.full(tokens.shape, 0.7), atol=0.1, rtol=0
    )
    distribution.loss(model.value_params(model.hidden(tokens)), target, torch.ones_like(target)).mean().backward()
    assert model.network.base_model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0  # it reaches the trunk
    with pytest.raises(ConfigError, match="no critic"):
        tiny().value_params(hidden)


def with_adapters(**options):
    model = tiny(lora={"rank": 4, "alpha": 8}, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return model


def test_adapters_learn_alone_and_leave_a_reference(tokens):
    model = with_adapters()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names
    assert all(".lora_" in name for name in names)
    acting = scored(model, tokens)
    with model.reference(), torch.no_grad():
        reference = scored(model, tokens)
    assert not torch.allclose(acting, reference, atol=1e-2)
    assert names == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    torch.testing.assert_close(scored(model, tokens), acting)
    fresh = tiny(lora={"rank": 4, "alpha": 8})  # fresh adapters change nothing
    torch.testing.assert_close(scored(fresh, tokens), reference)
    with pytest.raises(ConfigError, match="no adapters"), tiny().reference():
        pass


def test_the_engine_acts_with_adapters_and_adopts_them_alone():
    model, other = with_adapters(), tiny(lora={"rank": 4, "alpha": 8})
    prompts = [row.tolist() for row in ragged([4, 7], model.tokenizer.vocab_size)]
    options = SamplingOptions(max_new_tokens=8, stop_ids=(1,))
    answers = assert_equals_naive(TransformersEngine(model), model, prompts, 3, options)
    assert_learner_agrees(model, prompts, 3, answers, options)
    weights = pack_language_weights(model, version=3)
    assert all(".lora_" in entry.name for entry in weights.table if not entry.name.startswith(EXTRA))
    engine = TransformersEngine(other)
    engine.load_weights(weights)
    again = engine.generate(prompts, 3, uniforms(6, 8), options)
    assert [a.tokens.tolist() for a in again] == [a.tokens.tolist() for a in answers]


def test_wrong_adapters():
    with pytest.raises(ConfigError, match=r"fit no layer; the model's linear layers: \['down_proj'"):
        tiny(lora={"targets": ["c_attn"]})


def test_recomputed_activations_change_nothing(tokens):
    plain, saving = tiny(), tiny(gradient_checkpointing=True)
    scored(plain, tokens).sum().backward()
    scored(saving, tokens).sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("lora", [False, True])
def test_export_is_a_folder_of_transformers(lora, tokens, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = with_adapters() if lora else tiny()
    folder = export_pretrained(model, tmp_path / "out", {"name": "sorter", "task": "sort", "success": 0.91234})
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logp = loaded(input_ids=tokens).logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
        torch.testing.assert_close(logp, scored(model, tokens)[:, 1:], atol=1e-5, rtol=1e-5)
    assert not [name for name in loaded.state_dict() if "lora" in name]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("12+3=")["input_ids"] == model.tokenizer.encode("12+3=")
    assert (
        tokenizer.decode([*model.tokenizer.encode("15"), model.tokenizer.stop_ids[0]], skip_special_tokens=True) == "15"
    )
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert "# sorter" in card
    assert "| success | 0.9123 |" in card
    with pytest.raises(ConfigError, match="not empty"):
        export_pretrained(model, folder, {})
    if not lora:  # and back in: the folder is a source
        again = load_language_model(LanguageConfig(source=str(folder), dtype="fp32"), 0)
        torch.testing.assert_close(scored(again, tokens), scored(model, tokens))
        assert again.tokenizer.encode_prompt("1+1=") == model.tokenizer.encode_prompt("1+1=")
        with pytest.raises(ConfigError, match="made for 256 tokens"):
            load_language_model(LanguageConfig(source=str(folder), context=500), 0)


def test_publishing_bytes_are_a_copy():
    model = tiny()
    weights = pack_language_weights(model, 1, torch.bfloat16)
    assert weights.buffer.nbytes < 0.6 * sum(parameter.nbytes for parameter in model.parameters())
    other = tiny(seed=1)
    load_language_weights(other, weights)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2**-8, atol=1e-6)


def test_a_model_that_does_not_fit_is_refused_by_part():
    settings = LanguageConfig(source="owner/big", dtype="bf16")
    config = tiny().config
    parts = memory_parts(config, settings, "learner", total=int(7e9), trainable=int(7e9))
    assert {"parameters", "gradients", "optimizer", "activations"} <= parts.keys()
    assert parts["optimizer"] == int(56e9)
    with pytest.raises(
        ResourceError, match=r"owner/big needs about 1\d\d\.\d GB on cpu \(parameters 28\.00, .*24\.0 GB are"
    ):
        check_memory(parts, "owner/big", torch.device("cpu"), free=int(24e9))
    check_memory(parts, "owner/big", torch.device("cpu"), free=int(240e9))
    sampler = memory_parts(config, settings, "sampler", total=100, trainable=100)
    assert {"decoder", "keys and values"} <= sampler.keys()
    assert memory_parts(config, settings, "frozen", total=100, trainable=0) == {"parameters": 400}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:nosuchpackage/x.gguf", r"'nosuchpackage' is not installed.*pip install"),
        ("package:distrl/x.gguf", r"distrl has no 'x\.gguf'"),
        ("/nowhere/model.gguf", "no file"),
        ("just-a-word", "neither a folder, nor"),
    ],
)
def test_sources_that_are_not_there(source, message):
    with pytest.raises(ConfigError, match=message):
        resolve_source(source)


def test_a_folder_without_a_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=re.escape(f"the folder {str(tmp_path)!r} cannot be loaded")):
        load_language_model(LanguageConfig(source=str(tmp_path)), 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 100, "heads": 8}, "multiple of 16"),
        ({"source": "package:x"}, "package:NAME/FILE"),
        ({"engine": "transformer"}, "did you mean 'transformers'"),
        ({"context": 64, "max_new_tokens": 64}, "nothing is left for a prompt"),
        ({"freeze_embeddings": True}, "never learn letters"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(ConfigError, match=message):
        LanguageConfig(**wrong)


def test_the_precision_is_measured():
    assert choose_dtype(tiny()) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_published_bytes_are_those_of_named_arrays(dtype):
    model = tiny(critic_head="scalar")
    model.extras = {"rates": np.array([0.25, 0.5]), "count": np.array(3)}
    weights = pack_language_weights(model, 4, dtype)
    arrays = {}
    for name, parameter in model.named_parameters():
        low = dtype == torch.bfloat16 and parameter.dim() > 1 and not name.startswith("critic.")
        tensor = parameter.detach()
        arrays[name] = tensor.bfloat16().view(torch.uint16).numpy() if low else tensor.numpy()
    arrays |= {f"extra.{name}": extra for name, extra in model.extras.items()}
    arrays["extra.computes_in_bf16"] = np.array(False)
    wanted = Weights.of(arrays, 4)
    assert weights.table == wanted.table
    assert weights.checksum() == wanted.checksum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whoever_adopts_weights_computes_in_their_precision(dtype: torch.dtype):
    model, other = tiny(), tiny(seed=1)
    model.dtype = dtype
    other.dtype = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16
    TransformersEngine(other).load_weights(pack_language_weights(model, version=2))
    assert other.dtype == dtype
