"""Language-model algorithms, by family."""
