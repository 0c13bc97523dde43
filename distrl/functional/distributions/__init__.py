"""Return distributions, their losses and projections."""
