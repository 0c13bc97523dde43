"""What lies between samplers and learner."""
