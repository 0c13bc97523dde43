"""The learner's interface to algorithms, shared by environments and language models."""
