"""The sections of a run's config, one model each; checks across sections live in `config.schema`."""
