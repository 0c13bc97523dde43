"""Risk measures and risk-sensitive gradients."""
