"""`TextPlan`: a run of a language model."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gymnasium import spaces

from distrl.base.errors import ConfigError
from distrl.base.phases import Phases
from distrl.base.registry import register, user_sources
from distrl.config.schema import RunConfig
from distrl.config.sections.language import LanguageConfig
from distrl.deploy.language.evaluate import TextEvaluator
from distrl.experience.schema import SchemaCheck
from distrl.experience.token_episodes import check_episodes
from distrl.language.algorithms.base import LanguageAlgorithm
from distrl.language.algorithms.supervised.warm_start import demonstration
from distrl.language.curricula.base import Curriculum, task_curriculum
from distrl.language.curricula.prompt_order import PromptLines
from distrl.language.engines import SamplingOptions, make_engine
from distrl.language.learner.answer_files import TextKeeper, require_parquet
from distrl.language.learner.learner import TextLearner
from distrl.language.models.loading import check_fits, load_tokenizer, model_context
from distrl.language.models.model import LanguageModel
from distrl.language.models.tokenizers import TextTokenizer, encode_item
from distrl.language.samplers.demonstrations import DemonstrationSampler
from distrl.language.samplers.sampler import TextSampler
from distrl.language.tasks.base import Task, check_task, make_task
from distrl.learning.lookup import algorithm_class, build_acting_model
from distrl.learning.shards import Shards
from distrl.runtime.plan.base import Plan, pick_device, search_path
from distrl.store.replay.sharded import ShardHandle

#: Items of each split whose prompts are tried before a run: of an endless task, and of a finite one.
FEW_ITEMS, MANY_ITEMS = 4, 512
PROMPT_SECONDS = 2.0


class TextPlan(Plan):
    """A checked run of a language model; an observation and an action are one token each."""

    @property
    def settings(self) -> LanguageConfig:
        assert self.config.language is not None
        return self.config.language

    @property
    def algorithm_class(self) -> type[LanguageAlgorithm]:
        found = algorithm_class(self.config)
        assert issubclass(found, LanguageAlgorithm)
        return found

    @property
    def swaps_weights(self) -> bool:
        return self.settings.in_flight != "drain"

    def task(self) -> Task:
        """Build the run's task in the form that its algorithm trains on."""
        task = make_task(self.config.text_task.name, self.config.text_task.kwargs)
        return self.algorithm_class.training_task(task, self.algorithm_config)

    def curriculum(self, task: Task) -> Curriculum | None:
        """Build a fresh curriculum over the task's items, if the run has one."""
        return task_curriculum(self.settings.curriculum, task)

    def options(self) -> SamplingOptions:
        settings = self.settings
        return SamplingOptions(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            stop_ids=tuple(load_tokenizer(settings, self.task().alphabet).stop_ids),
        )

    def build_acting_model(self) -> LanguageModel:
        """Build the model for published weights, which bring their precision with `dtype: auto`."""
        config = self.config
        if self.settings.dtype == "auto":
            settings = self.settings.model_copy(update={"dtype": "fp32"})
            config = config.model_copy(update={"language": settings})
        return build_acting_model(config, self.observation_space, self.action_space)

    def build_learner(
        self, shards: Shards | None = None, phases: Phases | None = None, replay_shards: Sequence[ShardHandle] = ()
    ) -> Any:
        config = self.config
        algorithm = self.algorithm_class(
            self.algorithm_config,
            self.build_model(),
            device=pick_device(config.learner.device),
            shards=shards or Shards(config.learner.shards),
        )
        task, keeper = self.task(), None
        first = getattr(shards, "rank", 0) == 0
        if self.folder and first:  # all processes of a group have the same answers
            keeper = TextKeeper(Path(self.folder), self.settings.texts, algorithm.language.tokenizer, task.components)
        return TextLearner(
            algorithm,
            task,
            config.seed,
            self.settings,
            curriculum=self.curriculum(task),
            keeper=keeper,
            post=self.weight_channel.sender() if self.weight_channel and first else None,
            phases=phases,
        )

    def build_sampler(
        self, index: int, *, reuse_buffers: bool, phases: Phases | None = None
    ) -> TextSampler | DemonstrationSampler:
        config, algorithm, task, settings = self.config, self.algorithm_config, self.task(), self.settings
        streams, prompts = config.streams, config.parallel // config.streams
        lines = PromptLines(task, streams, prompts, algorithm.rollout_steps, config.seed, self.curriculum(task))
        if self.algorithm_class.demonstrations:
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
            draws=self.algorithm_class.sampling_plan(algorithm),
            options=self.options(),
            seed=config.seed,
            fuse=not config.deterministic,
            rebuild=lambda: make_engine(settings, model),
            news=self.weight_channel.receiver() if self.weight_channel else None,
            recompute=settings.in_flight == "recompute",
            phases=phases,
        )

    def build_evaluator(self) -> TextEvaluator:
        config, options, settings = self.config, self.options(), self.settings
        seed = config.seed if config.eval.seed is None else config.eval.seed
        greedy = replace(options, temperature=0.0, top_p=1.0, top_k=0)
        return TextEvaluator(lambda model: make_engine(settings, model), self.task(), options, greedy, seed)

    def schema_check(self) -> SchemaCheck:
        return SchemaCheck(check_episodes, self.config.debug)


def make_text_plan(config: RunConfig) -> TextPlan:
    """Check everything that needs the task and its tokenizer."""
    found = algorithm_class(config)
    if not issubclass(found, LanguageAlgorithm):
        raise ConfigError(
            f"language is set, but algorithm {config.algorithm['name']} learns from environment steps.",
            "Choose one for language models (distrl methods), such as algorithm.name=grpo, or remove language.",
        )
    assert config.language is not None
    if config.learner.precision != "fp32":
        problem = f"learner.precision is {config.learner.precision}, which is for networks of environments."
        raise ConfigError(problem, "Set language.dtype=bf16 instead.")
    settings = config.language
    if config.deterministic and settings.dtype == "auto":  # `auto` depends on time
        settings = settings.model_copy(update={"dtype": "fp32"})
        config = config.model_copy(update={"language": settings})
    check_in_flight(settings, config.deterministic)
    task = make_task(config.text_task.name, config.text_task.kwargs)
    check_task(task)
    task_curriculum(settings.curriculum, task)
    require_parquet(settings.texts)
    if found.demonstrations:
        name = config.algorithm["name"]
        if settings.curriculum is not None:
            raise ConfigError(
                f"language.curriculum needs the success rates of answers, and algorithm {name} learns from "
                "demonstrations.",
                "Remove language.curriculum: every item comes once in each pass.",
            )
        demonstration(load_tokenizer(settings, task.alphabet), task, 0, f"algorithm {name}")
    tokenizer = load_tokenizer(settings, task.alphabet)
    check_prompts(task, tokenizer, settings)
    here = config.backend == "serial" or config.ray.address in (None, "local")  # other machines may be larger
    if here and config.learner.sharding is None:
        check_fits(settings, device=pick_device(config.learner.device))
    vocabulary = spaces.Discrete(tokenizer.vocab_size)
    return TextPlan(config, vocabulary, vocabulary, True, search_path(), user_sources(config.imports))


def check_prompts(task: Task, tokenizer: TextTokenizer, settings: LanguageConfig) -> None:
    """Encode the prompts of the first items, for at most `PROMPT_SECONDS` per split."""
    context, until = model_context(settings), time.monotonic() + PROMPT_SECONDS
    for split, size in (("train", task.size), ("eval", task.eval_size)):
        for index in range(FEW_ITEMS if size is None else min(size, MANY_ITEMS)):
            if index >= FEW_ITEMS and time.monotonic() > until:
                break
            encode_item(tokenizer, task.item(index, split), settings.max_new_tokens, context)


def check_in_flight(settings: LanguageConfig, deterministic: bool) -> None:
    """Refuse weight swaps in deterministic mode, and with engines that cannot interrupt a batch."""
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
            " the weights that it started with.",
            "Set language.in_flight=drain, or language.engine=transformers.",
        )
