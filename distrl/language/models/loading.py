"""Build the language model that a config describes: fresh or pretrained, with adapters, in a precision."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.config.sections.language import LanguageConfig, LoraSettings
from distrl.language.models.memory_estimate import Role, check_memory, memory_parts
from distrl.language.models.model import LanguageModel
from distrl.language.models.source import Source, converted, quiet_transformers, resolve_source
from distrl.language.models.tokenizers import CharacterTokenizer, HubTokenizer, TextTokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

#: bf16 is taken if it is at least this much faster, and log-probabilities differ by at most this much on average.
FASTER, CLOSE_ENOUGH = 1.2, 0.05


def load_language_model(
    settings: LanguageConfig,
    seed: int,
    alphabet: str | None = None,
    role: Role = "learner",
    device: torch.device | str = "cpu",
) -> LanguageModel:
    """The model of a config, on its device.

    Args:
        settings: The section `language`. With `dtype: auto` both precisions are measured here; whoever loads
            published weights takes the publisher's (`language/models/weights.py`).
        seed: Draws fresh weights, and first adapters.
        alphabet: Characters of the task, for `tiny`.
        role: What the model is for; decides what must fit into memory.
        device: Where it lives.

    Raises:
        ConfigError: A source that is not there, a tokenizer that lacks something, adapters that fit no layer.
        ResourceError: It does not fit; every part is named.
    """
    _require_transformers()
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _tiny(settings, alphabet) if settings.source == "tiny" else _pretrained(settings, role, device)
        _freeze(model, settings)
    model.to(device)
    _check_head(model)
    model.dtype = choose_dtype(model).dtype if settings.dtype == "auto" else DTYPES[settings.dtype]
    return model


def _tiny(settings: LanguageConfig, alphabet: str | None) -> LanguageModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = CharacterTokenizer(alphabet or "")
    context = settings.tiny_context()
    inner = -(-settings.width * 8 // 3 // 8) * 8  # 8/3 of the width, so that three matrices cost what two of 4x would
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
    from transformers import AutoConfig, AutoModelForCausalLM

    source = converted(resolve_source(settings.source))
    with quiet_transformers(), _readable(settings.source, source):
        config = AutoConfig.from_pretrained(source.place, **source.options())
        _require_room(config, settings, role, device)
        text = _hub_tokenizer(settings, source, config)
        network: Any = AutoModelForCausalLM.from_pretrained(source.place, dtype=torch.float32, **source.options())
    text.vocab_size = network.get_input_embeddings().weight.shape[0]
    limit = getattr(config, "max_position_embeddings", None) or text.tokenizer.model_max_length
    if settings.context is not None and settings.context > limit:
        raise ConfigError(
            f"language.context is {settings.context}; {settings.source} was made for {limit} tokens.",
            f"Set language.context={limit} or less.",
        )
    return LanguageModel(network, text, settings.context or limit, critic_head=settings.critic_head)


def check_fits(settings: LanguageConfig, role: Role = "learner", device: torch.device | str = "cpu") -> None:
    """Refuse a pretrained model that does not fit into memory, before anything of it is loaded.

    Raises:
        ConfigError: A source that is not there.
        ResourceError: It does not fit; every part is named.
    """
    if settings.source != "tiny":
        _require_room(_config(settings), settings, role, torch.device(device))


def model_context(settings: LanguageConfig) -> int:
    """Longest prompt and answer together, in tokens, of the model that `load_language_model` would give."""
    if settings.source == "tiny":
        return settings.tiny_context()
    if settings.context is not None:
        return settings.context
    return getattr(_config(settings), "max_position_embeddings", None) or sys.maxsize


def _config(settings: LanguageConfig) -> Any:
    """The config of a pretrained model, of transformers."""
    _require_transformers()
    from transformers import AutoConfig

    source = converted(resolve_source(settings.source))
    with quiet_transformers(), _readable(settings.source, source):
        return AutoConfig.from_pretrained(source.place, **source.options())


def _require_room(config: Any, settings: LanguageConfig, role: Role, device: torch.device) -> None:
    total, trainable = _count_parameters(config, settings)
    check_memory(memory_parts(config, settings, role, total, trainable), settings.source, device)


def load_tokenizer(settings: LanguageConfig, alphabet: str | None = None) -> TextTokenizer:
    """The tokenizer that `load_language_model` would give its model, without the model.

    Raises:
        ConfigError: A source that is not there, or a tokenizer that lacks something.
    """
    _require_transformers()
    if settings.source == "tiny":
        return CharacterTokenizer(alphabet or "")
    from transformers import AutoConfig

    source = converted(resolve_source(settings.source))
    with quiet_transformers(), _readable(settings.source, source):
        return _hub_tokenizer(settings, source, AutoConfig.from_pretrained(source.place, **source.options()))


def _hub_tokenizer(settings: LanguageConfig, source: Source, config: Any) -> HubTokenizer:
    """The tokenizer of a pretrained model; answers also end where its generation config says."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(source.place, **source.options())
    try:
        ends = GenerationConfig.from_pretrained(source.place, **source.options()).eos_token_id
    except OSError:  # there is none
        ends = getattr(config, "eos_token_id", None)
    stop_ids = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return HubTokenizer(tokenizer, getattr(config, "vocab_size", len(tokenizer)), stop_ids, settings.chat_template)


class _readable:
    """Turns what transformers says about a source that cannot be read into one line."""

    def __init__(self, name: str, source: Source):
        self.name, self.source = name, source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, OSError | ValueError):
            where = "folder" if self.source.local else "hub id"
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"language.source: the {where} {self.name!r} cannot be loaded: {reason}",
                "Check that config.json, the tokenizer's files and *.safetensors are there."
                if self.source.local
                else "Check the name and the network, or give a folder with the downloaded model.",
            ) from error


def _count_parameters(config: Any, settings: LanguageConfig) -> tuple[int, int]:
    """Parameters, and how many of them learn, without making any."""
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
    """Adapters, frozen embeddings and recomputed activations, as the config wants them."""
    if settings.lora is not None:
        add_lora(model, settings.lora)
    if settings.freeze_embeddings:
        model.network.get_input_embeddings().weight.requires_grad_(False)
    if settings.gradient_checkpointing:
        model.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.network.train()


def add_lora(model: LanguageModel, settings: LoraSettings) -> None:
    """Give a model adapters, and freeze everything else but its critic.

    Raises:
        ConfigError: The names fit no layer.
    """
    import peft

    scale: Any = settings.alpha  # peft's annotation says whole numbers; it divides alpha by the rank
    config = peft.LoraConfig(r=settings.rank, lora_alpha=scale, target_modules=list(settings.targets), lora_dropout=0.0)
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


@dataclass(frozen=True)
class DtypeProbe:
    """What was measured to choose a precision.

    Attributes:
        dtype: The choice.
        speedup: Time of a forward pass in fp32 over that in bf16.
        error: Mean difference of log-probabilities.
    """

    dtype: torch.dtype
    speedup: float
    error: float


@torch.no_grad()
def choose_dtype(model: LanguageModel, rows: int = 4, length: int = 32) -> DtypeProbe:
    """bf16 where it is faster here and close enough to fp32, on random tokens; leaves `model.dtype` as it was."""
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
    chosen = torch.bfloat16 if speedup >= FASTER and error <= CLOSE_ENOUGH else torch.float32
    return DtypeProbe(chosen, speedup, error)


def _probe_logp(model: LanguageModel, tokens: Tensor) -> Tensor:
    logp = model.logits(model.hidden(tokens)[:, :-1]).log_softmax(-1)
    return logp.gather(-1, tokens[:, 1:, None]).squeeze(-1)


def _timed(model: LanguageModel, tokens: Tensor) -> float:
    begin = time.perf_counter()
    model.logits(model.hidden(tokens)[:, -1]).sum().item()  # .item() waits for a GPU
    return time.perf_counter() - begin


@torch.no_grad()
def _check_head(model: LanguageModel) -> None:
    """Some architectures scale or squash their logits; chunks would not know of it.

    Raises:
        ConfigError: This one does.
    """
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
