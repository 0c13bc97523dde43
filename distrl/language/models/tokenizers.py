"""Tokenizers: characters for tiny models, or Hugging Face."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from distrl.base.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


#: Raw text, or chat messages {"role", "content"} for the chat template.
Prompt = str | Sequence[Mapping[str, str]]


class TextTokenizer(ABC):
    """Interface of tokenizers.

    Attributes:
        stop_ids: Tokens that end an answer; the first one ends demonstrations.
        pad_id: Padding token, never scored.
        vocab_size: Rows of the embedding.
    """

    stop_ids: tuple[int, ...]
    pad_id: int
    vocab_size: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Encode a text without special tokens."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids without stop and padding tokens."""

    @abstractmethod
    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Decode each token separately, special ones included, for display only."""

    @abstractmethod
    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Encode a text, or messages in the chat template; ConfigError without one or if empty."""

    @abstractmethod
    def to_transformers(self) -> PreTrainedTokenizerBase:
        """Return an equivalent tokenizer of transformers, for export."""


class CharacterTokenizer(TextTokenizer):
    """One token per character of the alphabet, from id 2; 0 is padding, 1 ends an answer.

    >>> tokenizer = CharacterTokenizer("ab>")
    >>> tokenizer.encode("ba>"), tokenizer.decode([3, 2, 1]), tokenizer.vocab_size
    ([3, 2, 4], 'ba', 5)
    """

    PAD, END = 0, 1

    def __init__(self, alphabet: str):
        self.alphabet = "".join(dict.fromkeys(alphabet))
        if not self.alphabet:
            raise ConfigError("a character-level model needs an alphabet, and the task gives none.")
        self.pad_id, self.stop_ids = self.PAD, (self.END,)
        self.vocab_size = len(self.alphabet) + 2
        self._ids = {character: i + 2 for i, character in enumerate(self.alphabet)}

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise ConfigError(
                f"the character {error.args[0]!r} is not in the model's alphabet {self.alphabet!r}.",
                "Give the task an alphabet with every character of its prompts and answers.",
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.alphabet[int(i) - 2] for i in ids if i >= 2)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return ["<pad>" if i == self.PAD else "<end>" if i == self.END else self.alphabet[int(i) - 2] for i in ids]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        text = prompt if isinstance(prompt, str) else "".join(message["content"] for message in prompt)
        return _filled(self.encode(text), prompt)

    def to_transformers(self) -> PreTrainedTokenizerBase:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        vocabulary = {"<pad>": self.PAD, "<end>": self.END, **self._ids}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        backend.decoder = decoders.Fuse()
        return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")


class HubTokenizer(TextTokenizer):
    """Tokenizer of transformers.

    Args:
        vocab_size: Rows of the model's embedding; may exceed the tokenizer's vocabulary.
        stop_ids: Further tokens that end an answer, from the model's generation config.
        chat_template: Replaces the tokenizer's own.

    Raises:
        ConfigError: No token that ends an answer. A missing padding token is replaced by it.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, stop_ids: Sequence[int] = (), chat_template: str | None = None):
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        ends = ([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]) + list(stop_ids)
        if not ends:
            raise ConfigError(
                "the tokenizer has no token that ends an answer (eos_token), so no answer could ever be finished.",
                "Set eos_token in the folder's tokenizer_config.json to the token that ended texts in training.",
            )
        self.stop_ids = tuple(dict.fromkeys(int(i) for i in ends))
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token_id is None:
            raise ConfigError(
                "the tokenizer has neither a padding token nor an eos_token to take for it.",
                "Set pad_token in the folder's tokenizer_config.json to a token that texts never hold.",
            )
        self.pad_id = int(tokenizer.pad_token_id)

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self.tokenizer.decode([int(i)], skip_special_tokens=False) for i in ids]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return _filled(self._start + self.encode(prompt), prompt)
        if not self.tokenizer.chat_template:
            raise ConfigError(
                "the prompt is a list of chat messages, and the model's tokenizer has no chat template.",
                "Set language.chat_template, take an instruction-tuned model, or let the task give plain text.",
            )
        messages = [dict(message) for message in prompt]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return _filled(self.encode(text), prompt)

    @cached_property
    def _start(self) -> list[int]:
        """Tokens before every plain text, such as begin-of-text."""
        whole, bare = self.tokenizer("a")["input_ids"], self.encode("a")
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return list(whole[:at])

    def to_transformers(self) -> PreTrainedTokenizerBase:
        return self.tokenizer


def encode_item(tokenizer: TextTokenizer, item: Any, max_new_tokens: int, context: int) -> list[int]:
    """Encode an item's prompt; raise ConfigError if it fails or leaves no space for an answer."""
    where = f"{item.split} item {item.index}"
    try:
        ids = tokenizer.encode_prompt(item.prompt)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.problem}", error.fix) from None
    if len(ids) + max_new_tokens > context:
        raise ConfigError(
            f"{where}: its prompt has {len(ids)} tokens, and an answer may have {max_new_tokens}; together"
            f" {len(ids) + max_new_tokens}, and the model's context is {context}.",
            "Shorten or leave out such prompts, or set language.max_new_tokens or language.context.",
        )
    return ids


def _filled(ids: list[int], prompt: Prompt) -> list[int]:
    if not ids:
        raise ConfigError(f"the prompt {prompt!r} has no tokens; a model needs at least one to go on from.")
    return ids
