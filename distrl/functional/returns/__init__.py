"""Return and advantage estimators."""
