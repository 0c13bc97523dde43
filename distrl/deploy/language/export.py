"""Export of trained language models to Hugging Face folders."""

from __future__ import annotations

from pathlib import Path

from distrl.base.errors import ConfigError
from distrl.base.registry import import_user_code
from distrl.deploy.policy_file import SavedPolicy
from distrl.language.models.export import export_pretrained


def export_text(checkpoint: str | Path, folder: str | Path) -> Path:
    """Write the language model of a run or checkpoint; returns the folder.

    Raises:
        CheckpointError: There is no policy.
        ConfigError: It is not a language model, or the folder holds something.
    """
    saved = SavedPolicy.read(checkpoint)
    config = saved.config
    if config.language is None:
        raise ConfigError(
            f"{checkpoint} is a policy of {config.env_or_task}, not a language model.", "Export it with --format onnx."
        )
    import_user_code(config.imports)
    facts = {
        "name": config.name,
        "base_model": config.language.source,
        "task": config.text_task.name,
        "algorithm": config.algorithm["name"],
        "seed": config.seed,
        **{key: value for key, value in saved.facts.items() if isinstance(value, str | int | float)},
    }
    return export_pretrained(saved.build(), folder, facts)
