"""Both production engines under a simulated clock, network, disk and provider, from a seed."""
