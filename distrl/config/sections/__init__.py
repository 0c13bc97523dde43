"""Sections of a run's config, one model each; checks across sections are in `config.schema`."""
