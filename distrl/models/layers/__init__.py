"""Network layers and observation encoders (plug point `torso`)."""
