"""Floor 2: seeing a run. TensorBoard, the console, metrics.jsonl, events.jsonl and log.txt; no torch."""
