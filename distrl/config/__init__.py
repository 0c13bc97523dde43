"""Config: models, loading, overrides, derived values, messages. No torch, gymnasium or ray."""
