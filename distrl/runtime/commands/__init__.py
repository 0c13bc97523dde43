"""Commands to a live run: status, stop, scale."""
