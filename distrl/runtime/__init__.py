"""The loop, its back ends, checkpoints and run folders. The only room that imports ray."""
