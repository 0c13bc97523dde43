"""Run folders, checkpoints, callbacks and progress."""
