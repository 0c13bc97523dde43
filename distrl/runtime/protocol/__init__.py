"""Orders and events between loop and backends."""
