"""A paid request through the agent, against the same through LiteLLM's proxy."""
