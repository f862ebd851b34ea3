"""How fast this device runs its models: measured through the worker that answers requests."""

from edge_agent.adapters.model_bench.measure import Measured, measure
from edge_agent.adapters.model_bench.results import known_speeds, load_results, save_results

__all__ = ["Measured", "known_speeds", "load_results", "measure", "save_results"]
