"""Jobs submitted to a cluster."""
