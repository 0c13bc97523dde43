"""Sections `env` for tests, without validation: an id may also be a class or function."""

from distrl.config.sections.env import EnvConfig

env_config = EnvConfig.model_construct
