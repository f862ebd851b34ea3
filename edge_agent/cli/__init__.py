"""The commands of `tidegate-agent` beside `run`."""
