"""`tidectl`: the operator's command line. A gRPC client of the coordinator and nothing else."""

import os

# gRPC's core writes failed handshakes to standard error by itself, beside the one line that says
# what to do about them. It reads the variable when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
