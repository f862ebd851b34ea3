"""llama.cpp's build and the devices that it sees, asked of it in a process of its own.

A build for another processor ends its process with an illegal instruction; the doctor outlives it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters.doctor.finding import Finding, fail, ok, warn
from edge_agent.ports import LocalModel

PROBE_S: Final = 60.0
# `-P`: the directory that the command was started in is no place to import from.
_COMMAND: Final = (sys.executable, "-P", "-m", __name__)
_BUILD_AGAIN: Final = "build it for this machine: python3 deploy/dev/bootstrap.py edge VENV"
_WITH_CUDA: Final = "build llama.cpp with CUDA: CMAKE_ARGS=-DGGML_CUDA=on before the bootstrap"
_NVIDIA: Final = ("dev/nvidia0", "dev/nvhost-gpu", "dev/nvmap")
_GPU_TYPES: Final = (1, 2)
"""`ggml_backend_dev_type` of GPUs with memory of their own, and of those without."""


def accelerator(
    models: Sequence[LocalModel], *, root: Path, command: Sequence[str] = _COMMAND
) -> Finding:
    """Whether llama.cpp runs here, and finds the GPU that the models are to use."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    except subprocess.TimeoutExpired:
        return fail("llama.cpp", f"it did not load within {PROBE_S:g} s", _BUILD_AGAIN)
    if done.returncode != 0:
        return fail("llama.cpp", _last_words(done), _BUILD_AGAIN)
    told = json.loads(done.stdout)
    gpus = [each["description"] for each in told["devices"] if each["type"] in _GPU_TYPES]
    says = f"llama-cpp-python {told['version']}, on {', '.join(gpus) or 'the processor alone'}"
    wanting = [model.arm for model in models if model.gpu_layers]
    if wanting and not gpus:
        return fail(
            "llama.cpp",
            f"{says}; gpu_layers of {', '.join(wanting)} asks for a GPU",
            f"{_WITH_CUDA}; or set gpu_layers = 0",
        )
    if not gpus and any((root / path).exists() for path in _NVIDIA):
        return warn("llama.cpp", f"{says}; there is an NVIDIA device", _WITH_CUDA)
    if gpus and models and not wanting:
        return warn(
            "llama.cpp",
            f"{says}, which no model uses",
            "set gpu_layers = -1 for the models that are to run on it",
        )
    return ok("llama.cpp", says)


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        what = "it was built for another processor" if name == "SIGILL" else "it ended at once"
        return f"{what} ({name})"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return f"it cannot be loaded: {lines[-1] if lines else 'no word why'}"


def _probe() -> dict[str, Any]:
    """What llama.cpp says of itself; run in a process of its own."""
    import llama_cpp  # noqa: PLC0415 - only the probe's process loads it
    from llama_cpp._ggml import libggml  # noqa: PLC0415

    llama_cpp.llama_backend_init()
    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    for name in ("name", "description"):
        getter = getattr(libggml, f"ggml_backend_dev_{name}")
        getter.argtypes, getter.restype = [ctypes.c_void_p], ctypes.c_char_p
    libggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    devices = []
    for index in range(libggml.ggml_backend_dev_count()):
        device = libggml.ggml_backend_dev_get(index)
        devices.append(
            {
                "name": libggml.ggml_backend_dev_name(device).decode(),
                "description": libggml.ggml_backend_dev_description(device).decode(),
                "type": libggml.ggml_backend_dev_type(device),
            }
        )
    return {
        "version": llama_cpp.__version__,
        "system_info": llama_cpp.llama_print_system_info().decode(),
        "devices": devices,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_probe()))
