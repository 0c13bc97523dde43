"""What travels between rooms: rollouts, fragments, weights; and the ledger that accounts for every unit. No torch."""
