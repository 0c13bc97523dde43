"""One file an algorithm: its config, its update; nothing else. Named in the config by the file's registered name."""
