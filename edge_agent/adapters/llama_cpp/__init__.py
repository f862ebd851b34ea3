"""Local models: a supervised llama.cpp process that answers several requests per batch.

`supervisor` is the agent's side, `worker` the process. `scheduler` decides what each decoding
step does; `model` is the only module that touches llama.cpp.
"""
