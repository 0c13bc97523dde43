"""Plans: from a checked config to samplers, learner and evaluator."""
