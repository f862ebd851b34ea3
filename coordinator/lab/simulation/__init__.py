"""Whole fleets in memory: the production engines under a simulated clock, network and disk."""
