"""Off-policy actor-critic algorithms for continuous actions."""
