"""Pure tensor functions, each with the equation of its paper."""
