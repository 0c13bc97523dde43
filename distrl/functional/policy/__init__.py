"""Policy-gradient objectives and natural-gradient tools."""
