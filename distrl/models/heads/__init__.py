"""Output heads of critics."""
