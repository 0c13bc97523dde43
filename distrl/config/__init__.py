"""Floor 1: what a run is. Models, loading, overrides, derived numbers, messages. No torch, no gymnasium, no ray."""
