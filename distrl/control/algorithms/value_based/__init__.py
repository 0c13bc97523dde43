"""Off-policy action-value algorithms for discrete actions."""
