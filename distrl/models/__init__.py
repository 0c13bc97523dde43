"""Floor 2: torsos, action distributions, policies, critics, and the flat vector that their parameters live in."""
