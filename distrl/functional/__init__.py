"""Floor 1: pure tensor functions, each with the equation of its paper. No modules, no config, no processes."""
