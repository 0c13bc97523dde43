"""Language tasks (plug point `task`)."""
