"""Task `file`: prompts from JSONL or Parquet files, answers checked by a verifier.

env:
  id: file
  kwargs: {path: data/gsm8k.jsonl, prompt: question, answer: answer, verifier: math, system: Think first.}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from distrl.base.errors import ConfigError, unknown
from distrl.base.registry import register
from distrl.base.seeds import seed_for
from distrl.language.tasks.base import SPLITS, Item, Prompt, Task, prompt_fault
from distrl.language.verifiers.base import Verifier, make_verifier

#: Rows whose expected answers are checked before the run by slow verifiers.
FEW = 64
#: Verifiers whose expected value is a correct answer.
EXPECT_AN_ANSWER = ("exact", "numeric", "math")

#: Prompt, expected value, demonstration.
Row: TypeAlias = tuple[Prompt, Any, str | None]


@register.task("file")
class FileTask(Task):
    """Prompts from files.

    Args:
        path: A .jsonl or .parquet file, or a list of them.
        prompt: Field of the prompt, as text.
        messages: Field of the prompt as a list of {"role", "content"}, instead of `prompt`.
        answer: Field of the verifier's expected value; None for verifiers that expect none.
        verifier, options: Name and options of the verifier.
        demonstration: Field of a correct answer, for warm starts. Defaults to the expected value of verifiers that
            compare with it.
        system: System turn before each prompt.
        chat: Give text prompts as a user's turn; false: raw, for models without a chat template.
        held_out: Share of the prompts held out for evaluation, chosen by a hash of the prompt.
        held_out_path: Files of held-out prompts; all of `path` is then for training.

    Raises:
        ConfigError: A file or field is missing, a row cannot be read or verified (with file and line), or a split is
            empty.
    """

    def __init__(
        self,
        path: str | list[str],
        prompt: str = "prompt",
        messages: str | None = None,
        answer: str | None = "answer",
        verifier: str = "exact",
        options: Mapping[str, Any] | None = None,
        demonstration: str | None = None,
        system: str | None = None,
        chat: bool = True,
        held_out: float = 0.1,
        held_out_path: str | list[str] | None = None,
    ):
        if not 0.0 <= held_out < 1.0:
            raise ConfigError(f"held_out = {held_out} is not a share in [0, 1).", "Set task.kwargs.held_out: 0.1.")
        self.fields = {"prompt": messages or prompt, "answer": answer, "demonstration": demonstration}
        self.is_chat, self.system, self.as_messages = chat, system, messages is not None
        self.expected_is_answer = demonstration is None and verifier in EXPECT_AN_ANSWER
        self.verifier: Verifier = make_verifier(verifier, options)
        self.components = self.verifier.components
        self.verify_seconds = self.verifier.seconds
        rows = self._read(path)
        if held_out_path is not None:
            self.rows = {"train": rows, "eval": self._read(held_out_path)}
        else:
            self.rows = _split(rows, held_out)
        for split in SPLITS:
            if not self.rows[split] and (split == "train" or held_out > 0.0):
                raise ConfigError(f"{path}: {len(rows)} prompts leave none for {split!r}.", "Change held_out.")
        self.size, self.eval_size = len(self.rows["train"]), len(self.rows["eval"])

    def item(self, index: int, split: str = "train") -> Item:
        rows = self.rows.get(split)
        if rows is None or not 0 <= index < len(rows):
            raise IndexError(
                f"no item {index} of {split!r}: {', '.join(f'{k} {len(v)}' for k, v in self.rows.items())}"
            )
        prompt, expected, shown = rows[index]
        return Item(index, split, prompt, {"expected": expected, "demonstration": shown})

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        return self.verifier.score(answer, item.facts["expected"])

    def demonstration(self, item: Item) -> str | None:
        return item.facts["demonstration"]

    def _read(self, path: str | list[str]) -> list[Row]:
        found: list[Row] = []
        for name in [path] if isinstance(path, str) else path:
            for place, row in read_rows(Path(name)):
                found.append(self._row(place, row, check=self.verifier.checks_quickly or len(found) < FEW))
        return found

    def _row(self, place: str, row: Mapping[str, Any], check: bool) -> Row:
        values = {role: None if field is None else _field(place, row, field) for role, field in self.fields.items()}
        prompt = self._prompt(place, values["prompt"])
        expected = values["answer"]
        if check:
            try:
                self.verifier.check(expected)
            except (ValueError, SyntaxError) as error:
                raise ConfigError(
                    f"{place}: field {self.fields['answer']!r}: the verifier {error}.",
                    "Fix the row, or choose another verifier.",
                ) from None
        shown = values["demonstration"]
        if shown is None and self.expected_is_answer and expected is not None:
            shown = expected[0] if isinstance(expected, list) else expected
        return prompt, expected, None if shown is None else str(shown)

    def _prompt(self, place: str, value: Any) -> Prompt:
        prompt: Any = value
        if self.as_messages and isinstance(value, list):
            prompt = tuple(value)
        elif self.as_messages or not isinstance(value, str):
            kind = "a list of messages" if self.as_messages else "text (a list of messages is named by `messages`)"
            raise ConfigError(f"{place}: the prompt is {type(value).__name__}, not {kind}.", "Name another field.")
        elif value and (self.is_chat or self.system is not None):
            prompt = ({"role": "user", "content": value},)
        if self.system is not None and isinstance(prompt, tuple):
            prompt = ({"role": "system", "content": self.system}, *prompt)
        fault = prompt_fault(prompt)
        if fault:
            raise ConfigError(f"{place}: {fault}.", "Fix the row.")
        return prompt


def read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a JSONL or Parquet file with their places ("data.jsonl:3").

    Raises:
        ConfigError: The file is missing, of another type, or a line is no JSON object.
    """
    if not path.is_file():
        raise ConfigError(f"no prompt file {str(path)!r}.", "Give a path relative to the working folder.")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    if path.suffix not in (".jsonl", ".ndjson"):
        raise ConfigError(f"{path}: prompts come from .jsonl or .parquet files.", "Convert it, one JSON object a line.")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{path}:{number}: not JSON: {error}.", "Write one JSON object a line.") from None
            if not isinstance(row, dict):
                raise ConfigError(f"{path}:{number}: a {type(row).__name__}, not a JSON object.", "Write {...}.")
            yield f"{path}:{number}", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ConfigError(f"{path}: Parquet files need pyarrow.", "pip install 'distrl[llm]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield f"{path}: row {number}", row
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: no Parquet file: {str(error)[:200]}.", "Write it again.") from None


def _field(place: str, row: Mapping[str, Any], field: str) -> Any:
    if field not in row or row[field] is None:
        raise ConfigError(f"{place}: {unknown('field', field, row)}", "Name the file's fields under task.kwargs.")
    return row[field]


def _split(rows: list[Row], share: float) -> dict[str, list[Row]]:
    """Split into training and held-out rows by a hash of the prompt, stable when rows are added."""
    hashes = [seed_for(0, "held out", json.dumps(row[0], sort_keys=True)) / 2**31 for row in rows]
    limit = share
    if share > 0.0 and rows and min(hashes) >= share:  # hold out at least one prompt of a small file
        limit = min(hashes) * (1.0 + 1e-12)
    return {
        "train": [row for row, hash_ in zip(rows, hashes, strict=True) if hash_ >= limit],
        "eval": [row for row, hash_ in zip(rows, hashes, strict=True) if hash_ < limit],
    }
