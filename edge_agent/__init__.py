"""The agent: an OpenAI endpoint on the device that decides alone which model answers."""
