"""Generated protobuf code; `make proto` writes it from proto/."""
