"""`distrl serve`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distrl.cli.output import say

if TYPE_CHECKING:
    from distrl.config.schema import RunConfig
    from distrl.deploy.language.server import TextServer
    from distrl.language.models.model import LanguageModel


def serve(
    source: Annotated[
        Path, typer.Argument(help="A run folder, a checkpoint, a policy.safetensors, or a config (its first weights).")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; any client that reaches it may use the model.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="Name of the model for clients; by default the run's.")] = None,
) -> None:
    """Serve a language model over HTTP (OpenAI: /v1/models, /v1/completions) until Ctrl-C."""
    with make_server(source, host, port, name) as server:
        print(server.url, flush=True)
        say(f"serving {server.name} at {server.url}/v1; Ctrl-C ends it")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("ended")


def make_server(source: Path, host: str = "127.0.0.1", port: int = 8000, name: str | None = None) -> TextServer:
    """Build a server for the language model of a run, checkpoint, policy file or config."""
    from distrl.base.errors import UserError
    from distrl.deploy.language.server import TextServer
    from distrl.language.engines import make_engine

    config, model = load_model(source)
    assert config.language is not None
    try:
        return TextServer(
            make_engine(config.language, model), model.tokenizer, name or config.name, model.context, host, port
        )
    except OSError as error:
        raise UserError(
            f"{host}:{port} cannot be used: {error.strerror or error}.", "Give another --port, or --port 0 for any."
        ) from None


def load_model(source: Path) -> tuple[RunConfig, LanguageModel]:
    """Load a language model with its config; a config file gives the first weights of its run."""
    from distrl.base.errors import ConfigError
    from distrl.base.registry import import_user_code
    from distrl.config.load import load_config
    from distrl.deploy.policy_file import SavedPolicy
    from distrl.runtime.plan.language import make_text_plan

    is_config = source.suffix in (".yaml", ".yml")
    saved = None if is_config else SavedPolicy.read(source)
    config = load_config(source) if saved is None else saved.config
    if config.language is None:
        raise ConfigError(
            f"{source} is a policy of {config.env_or_task}; only language models can be served.",
            "Load it in Python: distrl.load(RUN).",
        )
    import_user_code(config.imports)
    plan = make_text_plan(config)
    model = plan.algorithm_class.acting_model(plan.build_model()) if saved is None else saved.build()
    return plan.config, model.eval()
