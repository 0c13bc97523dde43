"""Monitoring: TensorBoard, console, metrics.jsonl, events.jsonl and log.txt; no torch."""
