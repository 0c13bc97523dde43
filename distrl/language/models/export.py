"""Export to a folder for `transformers`, with tokenizer and model card."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from distrl.base.errors import ConfigError
from distrl.language.models.model import HubModule, LanguageModel
from distrl.language.models.source import complete_folder, quiet_transformers
from distrl.language.models.weights import merged_state


def export_pretrained(
    model: LanguageModel,
    folder: str | os.PathLike[str],
    facts: Mapping[str, object],
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a model for `from_pretrained` of transformers, with merged adapters, without critic.

    The folder appears complete, by one rename.

    Args:
        folder: Must not exist, or be empty.
        facts: Lines of the model card; `base_model` is the source, `name` the title.
        dtype: Precision of the file.

    Raises:
        ConfigError: The folder is not empty.
        ResourceError: The disk is full.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty.", "Name a new folder.")
    with complete_folder(folder) as temporary:
        with quiet_transformers():
            _plain_network(model, dtype).save_pretrained(temporary)
        model.tokenizer.to_transformers().save_pretrained(temporary)
        (temporary / "README.md").write_text(model_card(facts, tiny=model.config.hidden_size < 256))
    return folder


def _plain_network(model: LanguageModel, dtype: torch.dtype) -> HubModule:
    """Return a model of the same class that shares the tensors, without adapters."""
    config = type(model.config).from_dict(model.config.to_dict())
    with torch.device("meta"):
        network = type(model.network)(config)
    state = {name: tensor.detach().to("cpu", dtype) for name, tensor in merged_state(model).items()}
    network.load_state_dict(state, assign=True)
    network.tie_weights()
    network.config.dtype = dtype
    if model.network.generation_config is not None:
        network.generation_config = model.network.generation_config
    return network


def model_card(facts: Mapping[str, object], tiny: bool = False) -> str:
    """Write a model card in Markdown: header for the hub, loading, facts of the run."""
    header = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if facts.get("base_model"):
        header.append(f"base_model: {facts['base_model']}")
    header += ["tags:", "- reinforcement-learning", "- distrl", "---"]
    title = str(facts.get("name") or "A language model trained with distrl")
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items() if key != "name"]
    table = ["| fact | value |", "|--|--|", *rows] if rows else []
    note = "\nIts vocabulary is the characters of its task.\n" if tiny else ""
    code = [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        "```",
    ]
    return "\n".join([*header, "", f"# {title}", note, *code, "", "## How it was made", "", *table, ""])


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
