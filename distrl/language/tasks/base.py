"""What a text task is: it gives items and verifies answers.

    task = make_task("sort_digits", {"count": 6})
    item = task.item(7)                                   # the same item in every process, whatever was asked before
    parts, problem = verify_safely(task, item, "113459")  # {"success": 1.0, "placed": 1.0}, None

A task holds no state that changes, so samplers, evaluation and resumed runs need nothing but its arguments.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from distrl.base.errors import ConfigError, EnvError, nearest
from distrl.base.registry import register
from distrl.language.sandbox.time_limit import call_within

#: One turn of a chat: {"role": "system" | "user" | "assistant" | "tool", "content": text}.
Message = Mapping[str, str]
#: Raw text, or messages for the model's chat template.
Prompt = str | tuple[Message, ...]

ROLES = ("system", "user", "assistant", "tool")
SPLITS = ("train", "eval")


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        index: Its number within the split.
        split: "train" or "eval" (held out).
        prompt: What the model sees.
        facts: What `verify` needs to know; plain values that JSON can hold.
    """

    index: int
    split: str
    prompt: Prompt
    facts: Mapping[str, Any] = field(default_factory=dict)


class Task:
    """Base class of text tasks. Register with `@register.task("name")`; a run chooses it by `env.id: text/name`.

    Attributes:
        parts: Names of the reward parts that `verify` gives, in order. The first is success, in [0, 1].
        size: Number of training items; None where there is no end of them.
        eval_size: Number of held-out items; None where there is no end of them.
        alphabet: Characters that a character-level model needs for prompts and answers; None for natural text.
        verify_seconds: Wall time that one `verify` may take.
    """

    parts: tuple[str, ...] = ("success",)
    size: int | None = None
    eval_size: int | None = None
    alphabet: ClassVar[str | None] = None
    verify_seconds: float = 5.0

    def item(self, index: int, split: str = "train") -> Item:
        """Item number `index` of a split: a pure function of its arguments and the constructor's.

        Raises:
            IndexError: There are fewer items.
        """
        raise NotImplementedError

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        """A finite number for each of `parts`. May raise: callers use `verify_safely`.

        Args:
            item: From `item`.
            answer: What the model wrote, without prompt and stop token.
        """
        raise NotImplementedError

    def demonstration(self, item: Item) -> str | None:
        """A right answer, for supervised warm starts; None where it is not known."""
        return None

    def distinct(self, answer: str) -> str | None:
        """One form for all ways to write a right answer, for counting distinct solutions; None: do not count."""
        return answer.strip()


def make_task(name: str, kwargs: Mapping[str, Any] | None = None) -> Task:
    """The task that a config names.

    Args:
        name: A registered name, with or without `text/` before it, or `module:Class`.
        kwargs: Arguments of its constructor.

    Raises:
        ConfigError: No such task, or not one of its arguments.
    """
    factory = register.get("task", name.removeprefix("text/"))
    kwargs = dict(kwargs or {})
    known = inspect.signature(factory).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        for word in kwargs:
            if word not in known:
                guess = nearest(word, known)
                raise ConfigError(
                    f"task {name!r} has no argument {word!r}; it has {', '.join(known) or 'none'}.",
                    f"Write env.kwargs.{guess}." if guess else "Remove it from env.kwargs.",
                )
    for word, parameter in known.items():
        named = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if named and parameter.default is inspect.Parameter.empty and word not in kwargs:
            raise ConfigError(f"task {name!r} needs the argument {word!r}.", f"Set env.kwargs.{word}.")
    task = factory(**kwargs)
    if not isinstance(task, Task):
        raise ConfigError(f"{name!r} made a {type(task).__name__}, not a Task.", "Derive it from distrl's Task.")
    return task


def verify_safely(
    task: Task, item: Item, answer: str, timeout: float | None = None
) -> tuple[dict[str, float], str | None]:
    """`task.verify`, whatever it does. An item whose verifier fails is worth nothing, and the problem has a name.

    Args:
        task: The task.
        item: One of its items.
        answer: What the model wrote.
        timeout: Seconds of wall time; None: the task's `verify_seconds`.

    Returns:
        Numbers by part, in the order of `task.parts`, and None or one sentence on what went wrong (then all are 0).
    """
    try:
        seconds = task.verify_seconds if timeout is None else timeout
        found = call_within(seconds, lambda: task.verify(item, answer))
        parts = {name: float(found[name]) for name in task.parts}
    except Exception as error:  # any failure of a user's verifier is this item's, not the run's
        return _nothing(task), f"{item.split} item {item.index}: the verifier failed: {_told(error)}"
    wrong = [f"{name} = {value}" for name, value in parts.items() if not math.isfinite(value)]
    if wrong:
        return _nothing(task), f"{item.split} item {item.index}: not finite: {', '.join(wrong)}"
    success = parts[task.parts[0]]
    if not 0.0 <= success <= 1.0:
        return _nothing(task), f"{item.split} item {item.index}: {task.parts[0]} = {success} is not within [0, 1]"
    return parts, None


def _nothing(task: Task) -> dict[str, float]:
    return dict.fromkeys(task.parts, 0.0)


def _told(error: Exception) -> str:
    text = str(error).strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def prompt_fault(prompt: Any) -> str | None:
    """What is wrong with a prompt, or None.

    >>> prompt_fault(({"role": "user", "content": "Hello"},))
    >>> prompt_fault(({"role": "robot", "content": "Hello"},))
    "message 0 has role 'robot'; roles are system, user, assistant, tool"
    """
    if isinstance(prompt, str):
        return None if prompt else "the prompt is empty"
    if not isinstance(prompt, tuple) or not prompt:
        return f"a prompt is text or a tuple of messages, not {type(prompt).__name__} {prompt!r:.60}"
    for number, message in enumerate(prompt):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            return f"message {number} is not {{'role': ..., 'content': text}}: {message!r:.60}"
        if message.get("role") not in ROLES:
            return f"message {number} has role {message.get('role')!r}; roles are {', '.join(ROLES)}"
    return "the last message is the assistant's; nothing is left to answer" if message["role"] == "assistant" else None


def check_task(task: Task, items: int = 4, timeout: float = 10.0) -> None:
    """Try a few items before a run spends time on them.

    Raises:
        EnvError: An item that cannot be made, differs when it is made again, has a malformed prompt, or whose verifier
            fails or does not accept the task's own demonstration.
    """
    name = type(task).__name__
    if not task.parts:
        raise EnvError(f"task {name} has no reward parts.", 'Set parts = ("success",) or more.')
    for split, size in (("train", task.size), ("eval", task.eval_size)):
        for index in range(items if size is None else min(items, size)):
            _check_item(task, f"task {name}, {split} item {index}", index, split, timeout)


def _check_item(task: Task, where: str, index: int, split: str, timeout: float) -> None:
    try:
        item = call_within(timeout, lambda: task.item(index, split))
        again = call_within(timeout, lambda: task.item(index, split))
    except TimeoutError as error:
        raise EnvError(f"{where}: making it {error}.", "Check the task's arguments.") from None
    if item != again:
        raise EnvError(f"{where} is another one when it is made again.", "Draw it from generator(seed, split, index).")
    fault = prompt_fault(item.prompt)
    if fault:
        raise EnvError(f"{where}: {fault}.", "Give text, or messages that end with a question.")
    answer = task.demonstration(item)
    parts, problem = verify_safely(task, item, answer or "")
    if problem:
        raise EnvError(f"{problem}.", "Mend the task's verify.")
    if answer is not None and parts[task.parts[0]] < 1.0:
        raise EnvError(f"{where}: its own demonstration {answer!r:.80} is not a success: {parts}.", "Mend verify.")
