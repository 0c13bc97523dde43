"""A run of a language model: the same loop, with answers instead of environment steps."""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from gymnasium import spaces

from distrl.base.errors import ConfigError
from distrl.base.phases import Phases
from distrl.base.registry import register, user_sources
from distrl.config.schema import RunConfig
from distrl.config.sections.language import LanguageConfig
from distrl.deploy.language.evaluate import TextEvaluator
from distrl.language.algorithms.base import LanguageAlgorithm
from distrl.language.algorithms.supervised.warm_start import demonstration
from distrl.language.curricula.base import Curriculum, task_curriculum
from distrl.language.curricula.prompt_order import PromptLines
from distrl.language.engines import SamplingOptions, make_engine
from distrl.language.learner.answer_files import TextKeeper, require_parquet
from distrl.language.learner.learner import TextLearner
from distrl.language.models.loading import check_fits, load_tokenizer, model_context
from distrl.language.models.tokenizers import TextTokenizer, encode_item
from distrl.language.samplers.demonstrations import DemonstrationSampler
from distrl.language.samplers.sampler import TextSampler
from distrl.language.tasks.base import Task, check_task, make_task
from distrl.learning.lookup import algorithm_class, build_acting_model
from distrl.learning.shards import Shards
from distrl.runtime.plan.base import Plan, pick_device

#: Items of each split whose prompts are tried before a run: of an endless task, of one with a number of items.
FEW_ITEMS, MANY_ITEMS = 4, 512
PROMPT_SECONDS = 2.0


@dataclass
class TextPlan(Plan):
    """A checked run of a language model. An observation and an action are a token each."""

    def task(self) -> Task:
        """The run's task, as far as its algorithm asks it."""
        return self.algorithm_class.training_task(  # type: ignore[attr-defined]
            make_task(self.config.env.id, self.config.env.kwargs), self.algorithm_config
        )

    def curriculum(self, task: Task) -> Curriculum | None:
        """A fresh curriculum over the task's items, if the run has one."""
        assert self.config.language is not None
        return task_curriculum(self.config.language.curriculum, task)

    def options(self) -> SamplingOptions:
        """How the run samples."""
        settings = self.config.language
        assert settings is not None
        return SamplingOptions(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            stop_ids=tuple(load_tokenizer(settings, self.task().alphabet).stop_ids),
        )

    def build_acting_model(self) -> Any:
        """As `Plan.build_acting_model`; a precision that is `auto` comes from the learner, with its weights."""
        config = self.config
        assert config.language is not None
        if config.language.dtype == "auto":
            settings = config.language.model_copy(update={"dtype": "fp32"})
            config = config.model_copy(update={"language": settings})
        return build_acting_model(config, self.observation_space, self.action_space)

    def build_learner(
        self, shards: Shards | None = None, phases: Phases | None = None, replay_shards: Sequence[Any] = ()
    ) -> TextLearner:
        """The learner of this run, fresh."""
        config = self.config
        assert config.language is not None
        algorithm = self.algorithm_class(
            self.algorithm_config,
            self.build_model(),
            device=pick_device(config.learner.device),
            shards=shards or Shards(config.learner.shards),
        )
        assert isinstance(algorithm, LanguageAlgorithm)
        task, keeper = self.task(), None
        if self.folder and getattr(shards, "rank", 0) == 0:  # all processes of a group have the same answers
            tokenizer = algorithm.language.tokenizer
            keeper = TextKeeper(Path(self.folder), config.language.texts, tokenizer, task.parts)
        return TextLearner(
            algorithm,
            task,
            config.seed,
            config.language,
            curriculum=self.curriculum(task),
            keeper=keeper,
            post=self._weight_post() if getattr(shards, "rank", 0) == 0 else None,
            phases=phases,
        )

    def build_sampler(self, index: int, *, reuse_buffers: bool, phases: Phases | None = None) -> Any:
        config, algorithm, task = self.config, self.algorithm_config, self.task()
        assert config.language is not None
        settings = config.language
        lines = PromptLines(
            task,
            config.env.streams,
            config.env.envs_per_stream,
            algorithm.rollout_steps,
            config.seed,
            self.curriculum(task),
        )
        if self.algorithm_class.demonstrations:  # type: ignore[attr-defined]
            return DemonstrationSampler(
                index,
                load_tokenizer(settings, task.alphabet),
                task,
                lines,
                context=settings.tiny_context() if settings.source == "tiny" else settings.context,
                wanted_by=algorithm.name,
                phases=phases,
            )
        model = self.build_acting_model().eval()
        return TextSampler(
            index,
            make_engine(settings, model),
            model.tokenizer,
            task,
            lines,
            context=model.context,
            draws=self.algorithm_class.draws(algorithm),  # type: ignore[attr-defined]
            options=self.options(),
            seed=config.seed,
            fuse=not config.deterministic,
            rebuild=lambda: make_engine(settings, model),
            news=self._weight_watch(),
            recompute=settings.in_flight == "recompute",
            phases=phases,
        )

    @property
    def _board(self) -> str:
        """Name of the actor that has the newest weights; "" where samplers get them with their orders alone."""
        config = self.config
        assert config.language is not None
        swaps = config.backend == "ray" and config.language.in_flight != "drain"
        return f"weights of {config.name}" if swaps else ""

    def _weight_post(self) -> Any:
        if not self._board:
            return None
        from distrl.runtime.backends.weight_board import WeightPost  # Ray is imported only where it is used

        return WeightPost(self._board)

    def _weight_watch(self) -> Any:
        if not self._board:
            return None
        from distrl.runtime.backends.weight_board import WeightWatch

        return WeightWatch(self._board)

    def build_evaluator(self) -> Any:
        config, options = self.config, self.options()
        assert config.language is not None
        settings = config.language
        seed = config.seed if config.eval.seed is None else config.eval.seed
        greedy = replace(options, temperature=0.0, top_p=1.0, top_k=0)
        return TextEvaluator(lambda model: make_engine(settings, model), self.task(), options, greedy, seed)


def make_text_plan(config: RunConfig) -> TextPlan:
    """Check everything that needs the task and its tokenizer.

    Raises:
        ConfigError, EnvError: What is wrong, and what to type.
    """
    found = algorithm_class(config)
    if not issubclass(found, LanguageAlgorithm):
        raise ConfigError(
            f"language is set, but algorithm {config.algorithm['name']} learns from environment steps.",
            "Choose one for language models (distrl methods), such as algorithm.name=grpo, or remove language.",
        )
    assert config.language is not None
    if config.learner.precision != "fp32":
        raise ConfigError(
            f"learner.precision is {config.learner.precision}, which is for networks of environments.",
            "Set language.dtype=bf16 instead.",
        )
    settings = config.language
    if config.deterministic and settings.dtype == "auto":  # `auto` asks the clock
        settings = settings.model_copy(update={"dtype": "fp32"})
        config = config.model_copy(update={"language": settings})
    check_in_flight(settings, config.deterministic)
    task = make_task(config.env.id, config.env.kwargs)
    check_task(task)
    task_curriculum(settings.curriculum, task)
    require_parquet(settings.texts)
    if found.demonstrations:
        _check_demonstrations(config, task)
    tokenizer = load_tokenizer(settings, task.alphabet)
    check_prompts(task, tokenizer, settings)
    here = config.backend == "serial" or config.ray.address in (None, "local")  # else the machines are others
    if here and config.learner.sharding is None:
        check_fits(settings, device=pick_device(config.learner.device))
    vocabulary = spaces.Discrete(tokenizer.vocab_size)
    search_path = [path or os.getcwd() for path in sys.path]
    plan = TextPlan(config, vocabulary, vocabulary, True, search_path, user_sources(config.imports))
    if config.learner.sharding is not None:  # by name: runs without it do not depend on its files
        return import_module("distrl.runtime.plan.sharded_language").sharded_plan(plan)
    return plan


def _check_demonstrations(config: RunConfig, task: Task) -> None:
    """What a supervised run needs, before it begins.

    Raises:
        ConfigError: The first item has no demonstration, or a curriculum waits for successes.
    """
    assert config.language is not None
    name = config.algorithm["name"]
    if config.language.curriculum is not None:
        raise ConfigError(
            f"language.curriculum goes by the success of answers, and algorithm {name} learns from demonstrations.",
            "Remove language.curriculum: every item comes once in each pass.",
        )
    demonstration(load_tokenizer(config.language, task.alphabet), task, 0, f"algorithm {name}")


def check_prompts(task: Task, tokenizer: TextTokenizer, settings: LanguageConfig) -> None:
    """Try the prompts of the first items, as many as a moment allows, before a run spends time on them.

    Raises:
        ConfigError: One that the model cannot be asked.
    """
    context, until = model_context(settings), time.monotonic() + PROMPT_SECONDS
    for split, size in (("train", task.size), ("eval", task.eval_size)):
        for index in range(FEW_ITEMS if size is None else min(size, MANY_ITEMS)):
            if index >= FEW_ITEMS and time.monotonic() > until:
                break
            encode_item(tokenizer, task.item(index, split), settings.max_new_tokens, context)


def check_in_flight(settings: LanguageConfig, deterministic: bool) -> None:
    """Refuse swaps of weights where they cannot be, or where they would depend on who was faster.

    Raises:
        ConfigError: In deterministic mode, or with an engine that finishes what it has begun.
    """
    if settings.in_flight == "drain":
        return
    if deterministic:
        raise ConfigError(
            f"language.in_flight is {settings.in_flight}: when new weights arrive depends on time, and the run is"
            " deterministic.",
            "Set language.in_flight=drain, or deterministic=false.",
        )
    if "poll" not in inspect.signature(register.get("engine", settings.engine).generate).parameters:
        raise ConfigError(
            f"language.in_flight is {settings.in_flight}, but the engine {settings.engine} finishes every batch with"
            " the weights that it began with.",
            "Set language.in_flight=drain, or language.engine=transformers.",
        )
