"""Floor 3: whoever continues prompts. One small interface, `Engine`; everything else is a way to be fast behind it."""

from distrl.language.engines.base import Completion, Engine, SamplingOptions, make_engine

__all__ = ["Completion", "Engine", "SamplingOptions", "make_engine"]
