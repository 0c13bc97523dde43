"""Text tasks: items (prompts) and verification of answers.

    task = make_task("sort_digits", {"count": 6})
    item = task.item(7)                                   # a pure function of task arguments and index
    components, problem = verify_safely(task, item, "113459")  # {"success": 1.0, "placed": 1.0}, None

A task has no mutable state, so samplers, evaluation and resumed runs need only its arguments.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from distrl.base.errors import ConfigError, EnvError, nearest
from distrl.base.registry import register
from distrl.language.sandbox.time_limit import call_within

#: One turn of a chat: {"role": "system" | "user" | "assistant" | "tool", "content": text}.
Message = Mapping[str, str]
#: Raw text, or messages for the model's chat template.
Prompt = str | tuple[Message, ...]
#: Plain JSON values that `verify` needs.
Facts: TypeAlias = Mapping[str, Any]

ROLES = ("system", "user", "assistant", "tool")
SPLITS = ("train", "eval")


@dataclass(frozen=True)
class Item:
    """Prompt with the facts for its verification; `split` is "train" or "eval" (held out)."""

    index: int
    split: str
    prompt: Prompt
    facts: Facts = field(default_factory=dict)


class Task:
    """Base class of text tasks, registered with `@register.task("name")`.

    Attributes:
        components: Names of the reward components of `verify`, in order. The first is success, in [0, 1].
        size: Number of training items; None for unlimited.
        eval_size: Number of held-out items; None for unlimited.
        alphabet: Characters of prompts and answers, for character-level models; None for natural text.
        verify_seconds: Time limit of one `verify`, wall time.
    """

    components: tuple[str, ...] = ("success",)
    size: int | None = None
    eval_size: int | None = None
    alphabet: ClassVar[str | None] = None
    verify_seconds: float = 5.0

    def item(self, index: int, split: str = "train") -> Item:
        """Make item `index` of a split, a pure function; raise IndexError beyond its size."""
        raise NotImplementedError

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        """Compute a finite number per component of an answer without prompt and stop token.

        May raise: callers use `verify_safely`.
        """
        raise NotImplementedError

    def demonstration(self, item: Item) -> str | None:
        """Return a correct answer for supervised warm starts, or None if unknown."""
        return None

    def distinct(self, answer: str) -> str | None:
        """Normalize a correct answer to count distinct solutions; None excludes it."""
        return answer.strip()


def make_task(name: str, kwargs: Mapping[str, object] | None = None) -> Task:
    """Make a task by registered name or `module:Class`, with constructor arguments.

    Raises:
        ConfigError: Unknown task or argument, or a required argument is missing.
    """
    factory = register.get("task", name)
    kwargs = dict(kwargs or {})
    known = inspect.signature(factory).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        for word in kwargs:
            if word not in known:
                guess = nearest(word, known)
                raise ConfigError(
                    f"task {name!r} has no argument {word!r}; it has {', '.join(known) or 'none'}.",
                    f"Write task.kwargs.{guess}." if guess else "Remove it from task.kwargs.",
                )
    for word, parameter in known.items():
        named = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if named and parameter.default is inspect.Parameter.empty and word not in kwargs:
            raise ConfigError(f"task {name!r} needs the argument {word!r}.", f"Set task.kwargs.{word}.")
    task = factory(**kwargs)
    if not isinstance(task, Task):
        raise ConfigError(f"{name!r} made a {type(task).__name__}, not a Task.", "Derive it from distrl's Task.")
    return task


def verify_safely(
    task: Task, item: Item, answer: str, timeout: float | None = None
) -> tuple[dict[str, float], str | None]:
    """Verify an answer within `timeout` (None: `task.verify_seconds`), catching failures.

    Returns:
        Numbers in the order of `task.components`, and None; after a failure zeros, and a sentence with the problem.
    """
    try:
        seconds = task.verify_seconds if timeout is None else timeout
        found = call_within(seconds, lambda: task.verify(item, answer))
        components = {name: float(found[name]) for name in task.components}
    except Exception as error:  # a failing verifier must not end the run
        return _zeros(task), f"{item.split} item {item.index}: the verifier failed: {_brief(error)}"
    wrong = [f"{name} = {value}" for name, value in components.items() if not math.isfinite(value)]
    if wrong:
        return _zeros(task), f"{item.split} item {item.index}: not finite: {', '.join(wrong)}"
    success = components[task.components[0]]
    if not 0.0 <= success <= 1.0:
        return _zeros(task), f"{item.split} item {item.index}: {task.components[0]} = {success} is not within [0, 1]"
    return components, None


def _zeros(task: Task) -> dict[str, float]:
    return dict.fromkeys(task.components, 0.0)


def _brief(error: Exception) -> str:
    text = str(error).strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def prompt_fault(prompt: object) -> str | None:
    """Describe the problem of a malformed prompt; None for a valid one.

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
    if message["role"] == "assistant":
        return "the last message is the assistant's; nothing is left to answer"
    return None


def check_task(task: Task, items: int = 4, timeout: float = 10.0) -> None:
    """Check a few items before a run.

    Raises:
        EnvError: An item cannot be made, differs when made twice, has a malformed prompt, or its verifier fails or
            rejects the task's demonstration.
    """
    name = type(task).__name__
    if not task.components:
        raise EnvError(f"task {name} has no reward components.", 'Set components = ("success",) or more.')
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
        raise EnvError(f"{where} differs when it is made twice.", "Draw it from generator(seed, split, index).")
    fault = prompt_fault(item.prompt)
    if fault:
        raise EnvError(f"{where}: {fault}.", "Give text, or messages that end with a question.")
    answer = task.demonstration(item)
    components, problem = verify_safely(task, item, answer or "")
    if problem:
        raise EnvError(f"{problem}.", "Fix the task's verify.")
    if answer is not None and components[task.components[0]] < 1.0:
        raise EnvError(f"{where}: its own demonstration {answer!r:.80} is not a success: {components}.", "Fix verify.")
