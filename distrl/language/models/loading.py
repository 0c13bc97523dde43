"""Construction of language models from the config: fresh or pretrained, adapters, precision."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.config.sections.language import LanguageConfig, LoraSettings
from distrl.language.models.memory_estimate import Role, check_memory, memory_parts
from distrl.language.models.model import HubConfig, HubModule, LanguageModel
from distrl.language.models.source import Source, converted, quiet_transformers, resolve_source
from distrl.language.models.tokenizers import CharacterTokenizer, HubTokenizer, TextTokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

#: Smallest speedup of bf16, and largest mean difference of log-probabilities, to choose it.
FASTER, CLOSE_ENOUGH = 1.2, 0.05


def load_language_model(
    settings: LanguageConfig,
    seed: int,
    alphabet: str | None = None,
    role: Role = "learner",
    device: torch.device | str = "cpu",
) -> LanguageModel:
    """Load the model of the section `language` onto a device.

    Args:
        settings: With `dtype: auto` both precisions are measured; loading published weights then adopts the
            publisher's (`language/models/weights.py`).
        seed: Seed of fresh weights and adapters.
        alphabet: Characters of the task, for `tiny`.
        role: Decides what must fit into memory.

    Raises:
        ConfigError: A missing source, an incomplete tokenizer, or adapters that fit no layer.
        ResourceError: Not enough memory; lists the parts.
    """
    _require_transformers()
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _tiny(settings, alphabet) if settings.source == "tiny" else _pretrained(settings, role, device)
        _freeze(model, settings)
    model.to(device)
    _check_head(model)
    model.dtype = choose_dtype(model) if settings.dtype == "auto" else DTYPES[settings.dtype]
    return model


def _tiny(settings: LanguageConfig, alphabet: str | None) -> LanguageModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = CharacterTokenizer(alphabet or "")
    context = settings.tiny_context()
    inner = -(-settings.width * 8 // 3 // 8) * 8  # 8/3 of the width: three matrices cost as much as two of 4x
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=settings.width,
        intermediate_size=inner,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_id,
        eos_token_id=tokenizer.stop_ids[0],
        bos_token_id=None,
    )
    return LanguageModel(LlamaForCausalLM(config), tokenizer, context, critic_head=settings.critic_head)


def _pretrained(settings: LanguageConfig, role: Role, device: torch.device) -> LanguageModel:
    from transformers import AutoModelForCausalLM

    source, config = _source_and_config(settings)
    _require_memory(config, settings, role, device)
    with _readable(settings.source, source):
        text = _hub_tokenizer(settings, source, config)
        network: HubModule = AutoModelForCausalLM.from_pretrained(source.place, dtype=torch.float32, **source.options())
    text.vocab_size = network.get_input_embeddings().weight.shape[0]
    limit = getattr(config, "max_position_embeddings", None) or text.tokenizer.model_max_length
    if settings.context is not None and settings.context > limit:
        raise ConfigError(
            f"language.context is {settings.context}; {settings.source} was made for {limit} tokens.",
            f"Set language.context={limit} or less.",
        )
    return LanguageModel(network, text, settings.context or limit, critic_head=settings.critic_head)


def check_fits(settings: LanguageConfig, role: Role = "learner", device: torch.device | str = "cpu") -> None:
    """Raise ResourceError before loading if a pretrained model does not fit into memory."""
    if settings.source != "tiny":
        _require_memory(_source_and_config(settings)[1], settings, role, torch.device(device))


def model_context(settings: LanguageConfig) -> int:
    """Return the context, in tokens, of the model that `load_language_model` would load."""
    if settings.source == "tiny":
        return settings.tiny_context()
    if settings.context is not None:
        return settings.context
    return getattr(_source_and_config(settings)[1], "max_position_embeddings", None) or sys.maxsize


def _source_and_config(settings: LanguageConfig) -> tuple[Source, HubConfig]:
    """Resolve the source of a pretrained model and load its config."""
    _require_transformers()
    from transformers import AutoConfig

    source = converted(resolve_source(settings.source))
    with _readable(settings.source, source):
        return source, AutoConfig.from_pretrained(source.place, **source.options())


def _require_memory(config: HubConfig, settings: LanguageConfig, role: Role, device: torch.device) -> None:
    total, trainable = _count_parameters(config, settings)
    check_memory(memory_parts(config, settings, role, total, trainable), settings.source, device)


def load_tokenizer(settings: LanguageConfig, alphabet: str | None = None) -> TextTokenizer:
    """Load the tokenizer without the model; raise ConfigError if it is missing or incomplete."""
    _require_transformers()
    if settings.source == "tiny":
        return CharacterTokenizer(alphabet or "")
    source, config = _source_and_config(settings)
    with _readable(settings.source, source):
        return _hub_tokenizer(settings, source, config)


def _hub_tokenizer(settings: LanguageConfig, source: Source, config: HubConfig) -> HubTokenizer:
    """Load the tokenizer of a pretrained model, with the end tokens of its generation config."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(source.place, **source.options())
    try:
        ends = GenerationConfig.from_pretrained(source.place, **source.options()).eos_token_id
    except OSError:  # no such file
        ends = getattr(config, "eos_token_id", None)
    stop_ids = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return HubTokenizer(tokenizer, getattr(config, "vocab_size", len(tokenizer)), stop_ids, settings.chat_template)


@contextlib.contextmanager
def _readable(name: str, source: Source) -> Iterator[None]:
    """Silence transformers, and turn its errors about a source into one line."""
    try:
        with quiet_transformers():
            yield
    except (OSError, ValueError) as error:
        where = "folder" if source.local else "hub id"
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"language.source: the {where} {name!r} cannot be loaded: {reason}",
            "Check that config.json, the tokenizer's files and *.safetensors are there."
            if source.local
            else "Check the name and the network, or give a folder with the downloaded model.",
        ) from error


def _count_parameters(config: HubConfig, settings: LanguageConfig) -> tuple[int, int]:
    """Count all and trainable parameters, without memory for them."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    total = sum(parameter.numel() for parameter in network.parameters())
    if settings.lora is not None:
        names = set(settings.lora.targets)
        sizes = [m.in_features + m.out_features for n, m in network.named_modules() if n.split(".")[-1] in names]
        return total, settings.lora.rank * sum(sizes)
    frozen = network.get_input_embeddings().weight.numel() if settings.freeze_embeddings else 0
    return total, total - frozen


def _freeze(model: LanguageModel, settings: LanguageConfig) -> None:
    """Set up adapters, frozen embeddings and gradient checkpointing."""
    if settings.lora is not None:
        add_lora(model, settings.lora)
    if settings.freeze_embeddings:
        model.network.get_input_embeddings().weight.requires_grad_(False)
    if settings.gradient_checkpointing:
        model.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.network.train()


def add_lora(model: LanguageModel, settings: LoraSettings) -> None:
    """Add adapters and freeze all else except the critic; raise ConfigError if no layer fits."""
    import peft

    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number, in fact
        target_modules=list(settings.targets),
        lora_dropout=0.0,
    )
    model.network.requires_grad_(False)
    try:
        peft.inject_adapter_in_model(config, model.network)
    except ValueError as error:
        linear = {n.split(".")[-1] for n, m in model.network.named_modules() if isinstance(m, torch.nn.Linear)}
        raise ConfigError(
            f"language.lora.targets {settings.targets} fit no layer; the model's linear layers: {sorted(linear)}."
        ) from error
    for name, parameter in model.network.named_parameters():
        parameter.requires_grad_(".lora_" in name)


@torch.no_grad()
def choose_dtype(model: LanguageModel, rows: int = 4, length: int = 32) -> torch.dtype:
    """Choose bf16 if it is faster and close enough to fp32 on random tokens."""
    length = min(length, model.context)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.tokenizer.vocab_size, (rows, length), generator=generator).to(model.device)
    before = model.dtype
    seconds, logps = {}, {}
    try:
        for name, dtype in DTYPES.items():
            model.dtype = dtype
            logps[name] = _probe_logp(model, tokens)
            seconds[name] = min(_timed(model, tokens) for _ in range(3))
    finally:
        model.dtype = before
    error = float((logps["fp32"] - logps["bf16"]).abs().mean())
    speedup = seconds["fp32"] / seconds["bf16"]
    return torch.bfloat16 if speedup >= FASTER and error <= CLOSE_ENOUGH else torch.float32


def _probe_logp(model: LanguageModel, tokens: Tensor) -> Tensor:
    logp = model.logits(model.hidden(tokens)[:, :-1]).log_softmax(-1)
    return logp.gather(-1, tokens[:, 1:, None]).squeeze(-1)


def _timed(model: LanguageModel, tokens: Tensor) -> float:
    begin = time.perf_counter()
    model.logits(model.hidden(tokens)[:, -1]).sum().item()  # .item() waits for a GPU
    return time.perf_counter() - begin


@torch.no_grad()
def _check_head(model: LanguageModel) -> None:
    """Raise ConfigError for architectures that transform their logits; chunks do not."""
    tokens = torch.arange(1, 3, device=model.device)[None] % model.tokenizer.vocab_size
    full = model.network(input_ids=tokens, use_cache=False).logits
    own = model.logits(model.hidden(tokens))
    if not torch.allclose(full.float(), own, rtol=1e-3, atol=1e-3):
        raise ConfigError(
            f"{type(model.network).__name__} changes its logits after the output layer, which is not supported.",
            "Take a model whose logits are one linear layer on its last hidden state (Llama, Qwen, Mistral, GPT-2).",
        )


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "language models need the package transformers, which is not installed.",
            "Type: pip install -e '.[llm]' -c constraints.txt",
        ) from error
