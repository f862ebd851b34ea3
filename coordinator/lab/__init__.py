"""The lab: offline questions about traces and plans, on the same code that runs in production."""
