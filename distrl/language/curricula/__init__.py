"""Selection of prompts, sample counts and temperatures."""
