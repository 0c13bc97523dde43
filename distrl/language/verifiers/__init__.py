"""Answer verifiers (plug point `verifier`)."""
