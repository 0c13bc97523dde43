"""Language models: loading, scoring, packing, sharding, export."""
