"""Credit assignment over tokens (plug point `credit`)."""
