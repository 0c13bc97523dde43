"""Pages of answers: HTML with colored tokens, and Markdown for TensorBoard.

The page needs no scripts: every token carries its three colors, and three buttons on the page choose between them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from distrl.experience.token_episodes import MODEL, PROMPT

#: (name, meaning of the colors), in the order of the page's buttons.
COLORS = {
    "logp": "log-probability of a token when it was drawn: white is certain, red is a surprise",
    "version": "age of the weights that drew a token: white are the newest, blue older ones",
    "mask": "green is learned from",
}
#: At this log-probability red is full, and at this many versions blue is.
FULL_LOGP, FULL_AGE = -4.0, 8
SHOWN_CHARACTERS = 600  # of each text in Markdown

_STYLE = """
body { font: 14px/1.5 sans-serif; margin: 2em auto; max-width: 70em; color: #222; background: #fff; }
.answer { margin: 0 0 1.2em; padding: .6em .8em; border: 1px solid #ddd; border-radius: 4px; }
.facts { color: #555; font-size: 12px; }
.tokens { font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.prompt { color: #888; }
.model { border-bottom: 1px solid #aaa; }
.other { color: #75507b; font-style: italic; }
"""


@dataclass
class Answer:
    """One answer with its prompt; sequences have one entry a token.

    Attributes:
        kind: Author of the token, numbers as in `experience/token_episodes.py`.
        mask: True for tokens that are learned from.
        age: Versions that its weights are older than the newest; 0 for tokens of the prompt and of tools.
        facts: The line above the answer.
    """

    pieces: Sequence[str]
    kind: Sequence[int]
    mask: Sequence[bool]
    logp: Sequence[float]
    age: Sequence[int]
    facts: str

    @property
    def prompt(self) -> str:
        """The text before the first token of the model."""
        return "".join(self.pieces[: self._begin])

    @property
    def said(self) -> str:
        """The text from the first token of the model on."""
        return "".join(self.pieces[self._begin :])

    @property
    def _begin(self) -> int:
        return next((place for place, kind in enumerate(self.kind) if kind == MODEL), len(self.pieces))


_CLASSES = {PROMPT: "prompt", MODEL: "model"}


def html_page(title: str, answers: Sequence[Answer]) -> str:
    """Render an HTML document."""
    buttons = "".join(
        f'<input type="radio" name="color" id="{name}"{" checked" * (not place)}>'
        f'<label for="{name}">{name}</label> <small>{meaning}</small><br>'
        for place, (name, meaning) in enumerate(COLORS.items())
    )
    chosen = "\n".join(f"body:has(#{name}:checked) .model {{ background: var(--{name}); }}" for name in COLORS)
    blocks = "\n".join(_block(answer) for answer in answers)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}{chosen}\n</style></head>\n<body><h1>{html.escape(title)}</h1>\n<p>{buttons}"
        "Prompts are gray, tokens of the model underlined, others violet; hold the pointer over a token to see its"
        f" numbers.</p>\n{blocks}\n</body></html>\n"
    )


def _block(answer: Answer) -> str:
    columns = answer.pieces, answer.kind, answer.mask, answer.logp, answer.age
    tokens = "".join(_token(*numbers) for numbers in zip(*columns, strict=True))
    facts = html.escape(answer.facts)
    return f'<div class="answer"><div class="facts">{facts}</div><div class="tokens">{tokens}</div></div>'


def _token(piece: str, kind: int, mask: bool, logp: float, age: int) -> str:
    text = html.escape(piece) or "&#8709;"
    if kind != MODEL:
        return f'<span class="{_CLASSES.get(kind, "other")}">{text}</span>'
    style = f"--logp:{surprise_color(logp)};--version:{age_color(age)};--mask:{'#b7e4c7' if mask else '#fff'}"
    title = f"log-probability {logp:.3f}, {age} versions old, {'' if mask else 'not '}learned from"
    return f'<span class="model" style="{style}" title="{title}">{text}</span>'


def surprise_color(logp: float) -> str:
    """Return white at log-probability 0, red from `FULL_LOGP` on; yellow for NaN.

    >>> surprise_color(0.0), surprise_color(-9.0)
    ('#ffffff', '#ff6666')
    """
    if not math.isfinite(logp):
        return "#ffee00"
    rest = round(255 - 153 * min(max(logp / FULL_LOGP, 0.0), 1.0))
    return f"#ff{rest:02x}{rest:02x}"


def age_color(age: int) -> str:
    """Return white for the newest weights, blue from `FULL_AGE` versions on.

    >>> age_color(0), age_color(8)
    ('#ffffff', '#7799ff')
    """
    share = min(max(age / FULL_AGE, 0.0), 1.0)
    return f"#{round(255 - 136 * share):02x}{round(255 - 102 * share):02x}ff"


def markdown(title: str, answers: Sequence[Answer]) -> str:
    """Render prompts and answers as code blocks for TensorBoard."""
    parts = [f"### {title}"]
    for answer in answers:
        parts.append(f"{answer.facts}\n\n{_code(answer.prompt)}\n\n{_code(answer.said)}")
    return "\n\n---\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    cut = text if len(text) <= SHOWN_CHARACTERS else "..." + text[-SHOWN_CHARACTERS:]
    return "\n".join("    " + line for line in (cut or " ").splitlines())
