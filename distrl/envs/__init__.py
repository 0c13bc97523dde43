"""Environments: any gymnasium environment as a `VectorEnv`, wrappers, and the environment checker. No torch."""
