"""Answer files of a run: readable pages, and on request all answers as Parquet.

Files are named by the update that learned from the answers and written whole or not at all. An update that is made
again, after a resume or by a rebuilt learner, writes the same file once more, so no answer is there twice.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError, ResourceError
from distrl.base.files import write_atomic, write_atomic_with
from distrl.config.sections.language import TextsSettings
from distrl.experience.token_episodes import MODEL, to_arrow
from distrl.language.models.tokenizers import TextTokenizer
from distrl.monitor.token_page import Answer, html_page, markdown

TEXTS, ROLLOUTS = "texts", "rollouts"
NEWEST = "newest.md"  # what TensorBoard shows


class TextKeeper:
    """Writes into the run folder from the learner's process."""

    def __init__(self, folder: Path, settings: TextsSettings, tokenizer: TextTokenizer, components: tuple[str, ...]):
        self.folder, self.settings, self.tokenizer, self.components = folder, settings, tokenizer, components
        self._begun = self._off = False

    def keep(self, episodes: Columns, update: int) -> list[str]:
        """Write what is due after an update.

        Returns:
            Warnings: files that cannot be written do not end a run.
        """
        due = self.settings.every and (update % self.settings.every == 0 or update == 1)
        if self._off or not (due or self.settings.rollouts):
            return []
        if not self.folder.is_dir():
            self._off = True
            return [
                f"the learner runs on {platform.node()}, which does not see the run folder {self.folder}: no texts and"
                " rollouts are kept. Put the run folder on a disk that all nodes share (--runs-dir)."
            ]
        try:
            self._forget_later(update)
            if due:
                self._write_page(episodes, update)
            if self.settings.rollouts:
                self._write_rollouts(episodes, update)
        except (OSError, ResourceError) as error:
            self._off = True
            return [f"texts and rollouts are no longer kept: {error}"]
        return []

    def _forget_later(self, update: int) -> None:
        """Files of updates that an earlier attempt made after the checkpoint that this one began with."""
        if self._begun:
            return
        self._begun = True
        for path in [*self.folder.glob(f"{TEXTS}/update-*.html"), *self.folder.glob(f"{ROLLOUTS}/update-*.parquet")]:
            if int(path.stem.removeprefix("update-")) >= update:
                path.unlink(missing_ok=True)

    def _write_page(self, episodes: Columns, update: int) -> None:
        answers = list(self._answers(episodes, update - 1))
        title = f"Update {update}: {len(answers)} of {len(episodes.group)} answers"
        write_atomic(self.folder / TEXTS / f"update-{update:07d}.html", html_page(title, answers))
        write_atomic(self.folder / TEXTS / NEWEST, markdown(title, answers))

    def _answers(self, episodes: Columns, version: int) -> Iterator[Answer]:
        """The first rows. `version` is that of the weights before the update."""
        for row in range(min(self.settings.rows, len(episodes.group))):
            span = slice(int(episodes.offsets[row]), int(episodes.offsets[row + 1]))
            kind = episodes.kind[span]
            age = np.where(kind == MODEL, version - episodes.version[span], 0)
            components = ", ".join(
                f"{name} {value:.4g}" for name, value in zip(self.components, episodes.components[row], strict=True)
            )
            yield Answer(
                self.tokenizer.pieces(episodes.tokens[span].tolist()),
                kind.tolist(),
                episodes.mask[span].tolist(),
                episodes.logp[span].tolist(),
                age.tolist(),
                f"item {episodes.item[row]}, {components}, {int(episodes.mask[span].sum())} tokens,"
                f" {'cut' if episodes.truncated[row] else 'ended'}"
                f"{'' if episodes.verified[row] else ', not verified'}",
            )

    def _write_rollouts(self, episodes: Columns, update: int) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        prompts, answers = [], []
        for row in range(len(episodes.group)):
            span = slice(int(episodes.offsets[row]), int(episodes.offsets[row + 1]))
            tokens = episodes.tokens[span].tolist()
            begin = next((place for place, kind in enumerate(episodes.kind[span]) if kind == MODEL), len(tokens))
            prompts.append(self.tokenizer.decode(tokens[:begin]))
            answers.append(self.tokenizer.decode(tokens[begin:]))
        table = to_arrow(episodes, self.components)
        table = table.append_column("update", pa.array(np.full(len(prompts), update, np.int64)))
        table = table.append_column("prompt_text", pa.array(prompts)).append_column("answer_text", pa.array(answers))
        path = self.folder / ROLLOUTS / f"update-{update:07d}.parquet"
        write_atomic_with(path, lambda file: parquet.write_table(table, file))


def require_parquet(settings: TextsSettings) -> None:
    """Raise ConfigError if `texts.rollouts` needs Parquet and pyarrow is not installed."""
    if not settings.rollouts:
        return
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "language.texts.rollouts writes Parquet files, which need the package pyarrow; it is not installed.",
            "Type: pip install -e '.[llm]' -c constraints.txt",
        ) from error
