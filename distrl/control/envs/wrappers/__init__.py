"""Environment wrappers, by registered name."""
