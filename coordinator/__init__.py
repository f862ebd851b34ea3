"""The coordinator: learns from outcomes, plans every slot, guards the budget."""

import os

# Before anything loads gRPC: its core writes a plain line for every handshake that fails, between
# the JSON of the log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
