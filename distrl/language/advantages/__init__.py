"""Advantage estimators for groups of answers (plug point `advantage`)."""
