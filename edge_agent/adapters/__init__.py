"""The agent's I/O: HTTP, llama.cpp, cloud endpoints, SQLite, the link to the coordinator."""
