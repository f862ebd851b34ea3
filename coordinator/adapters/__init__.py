"""The coordinator's I/O: the SQL store, the gRPC servicers, metrics."""
