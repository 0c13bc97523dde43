"""Generation backends (plug point `engine`). All implement `Engine`."""

from distrl.language.engines.base import Completion, Engine, SamplingOptions, make_engine

__all__ = ["Completion", "Engine", "SamplingOptions", "make_engine"]
