"""Floor 0: what every room uses. No torch, no ray, no gymnasium."""
