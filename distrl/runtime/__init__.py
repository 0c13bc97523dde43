"""The loop, its backends, checkpoints and run folders; the only package that imports Ray."""
