"""Data between processes: rollouts, fragments, weights; and the ledger. No torch."""
