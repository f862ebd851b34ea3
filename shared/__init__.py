"""What the two tiers of Tidegate have in common: decisions, the wire, time, limits and errors."""
