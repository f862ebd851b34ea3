"""Makes a virtual environment ready: `python3 deploy/dev/bootstrap.py PROFILE VENV`.

llama-cpp-python is published as source alone and takes minutes to compile, so its wheel is built
once per machine and kept under `${XDG_CACHE_HOME:-~/.cache}/tidegate/wheels`. Runs on a bare
Python: nothing but the standard library, no pip packages.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    sys.exit("bootstrap: Tidegate runs on Linux and macOS; on Windows use WSL 2")

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAMP_NAME = ".installed"
PACKAGES = ("edge_agent", "coordinator", "shared")
PROGRESS_INTERVAL_S = 20
FAILURE_LINES = 40
# The multimodal library is half of the build, and Tidegate sends text only.
CMAKE_ARGS = "-DLLAVA_BUILD=OFF"
# What llama.cpp can use of an x86 processor beyond AVX2, by the names that Linux gives them.
X86_OPTIONS = {
    "avx_vnni": "GGML_AVX_VNNI",
    "avx512f": "GGML_AVX512",
    "avx512vbmi": "GGML_AVX512_VBMI",
    "avx512_vnni": "GGML_AVX512_VNNI",
    "avx512_bf16": "GGML_AVX512_BF16",
}


@dataclass(frozen=True)
class Profile:
    """One set of packages, the file that pins them all, and whether llama.cpp is among them.

    `extras` of the project are installed from a copy, so that building them leaves nothing in the
    checkout. `node` is a package.json whose packages go into the folder `js` of the environment.
    """

    requirements: tuple[str, ...] = ()
    extras: str = ""
    constraints: Path = ROOT / "constraints.txt"
    llama: bool = True
    node: Path | None = None

    @property
    def fingerprint(self) -> str:
        """Changes with everything that asks for a new installation."""
        inputs = [Path(__file__), self.constraints, ROOT / "pyproject.toml"]
        inputs += [self.node] if self.node else []
        for package in PACKAGES if self.extras else ():
            inputs += sorted(each for each in (ROOT / package).rglob("*") if _is_source(each))
        told = hashlib.sha256()
        for path in inputs:
            told.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
        return told.hexdigest()


PROFILES = {
    "dev": Profile(("--no-compile", "--editable", f"{ROOT}[edge,coordinator,lab,dev]")),
    "edge": Profile(extras="[edge]"),
    "coordinator": Profile(extras="[coordinator]", llama=False),
    # The OpenAI-compatible server that plays the paid cloud: it needs other packages than we do.
    "cloud": Profile(
        ("--no-compile", "llama-cpp-python[server]"),
        constraints=ROOT / "deploy" / "demo" / "cloud-constraints.txt",
    ),
    # Clients of the API that clash with our packages, or are no Python at all.
    "compat": Profile(
        ("--no-compile", "litellm", "langchain-openai"),
        constraints=ROOT / "tests" / "compat" / "constraints.txt",
        llama=False,
        node=ROOT / "tests" / "compat" / "package.json",
    ),
}


class BootstrapError(Exception):
    """Something that the user has to put right; the message says what."""


def main() -> int:
    """Prepare the environment named on the command line; 0 when it is ready."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("profile", choices=sorted(PROFILES))
    parser.add_argument("venv", type=Path)
    arguments = parser.parse_args()
    try:
        prepare(arguments.profile, arguments.venv)
    except BootstrapError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bootstrap: interrupted; the next run starts over.", file=sys.stderr)
        return 130
    return 0


def prepare(name: str, venv: Path) -> None:
    """Install the profile into `venv` unless just this is in it; other profiles may be as well."""
    profile = PROFILES[name]
    venv.mkdir(parents=True, exist_ok=True)
    with _locked(venv, waiting_for=f"another installation into {venv}"):
        stamp = venv / STAMP_NAME
        line = f"{name} {profile.fingerprint}\n"
        there = stamp.read_text().splitlines(keepends=True) if stamp.exists() else []
        if line in there:
            stamp.touch()  # for make, which compares times
            return
        python = venv / "bin" / "python"
        if not python.exists():
            _create_venv(venv)
        find_links = (
            ["--find-links", str(llama_wheel_dir(profile, python))] if profile.llama else []
        )
        print(f"Installing the packages of {profile.constraints.name} into {venv} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="tidegate-") as scratch:
            command = [
                *(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--constraint", str(profile.constraints), *find_links, *profile.requirements),
                *([f"{_copied(Path(scratch))}{profile.extras}"] if profile.extras else []),
            ]
            quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
            if subprocess.run(command, check=False, env=quiet).returncode != 0:
                raise BootstrapError(f"pip could not install into {venv}; its message is above.")
        if profile.node is not None:
            _install_node_packages(profile.node, venv / "js")
        # Another profile that was made from anything else has lost what it shares with this one.
        same = [each for each in there if each.split()[1:] == line.split()[1:]]
        stamp.write_text("".join([*same, line]))


def _copied(scratch: Path) -> Path:
    """A copy of all that the project is built from."""
    shutil.copy(ROOT / "pyproject.toml", scratch)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, scratch / package, ignore=ignored)
    return scratch


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _install_node_packages(manifest: Path, folder: Path) -> None:
    """Install what a package.json names, at its exact versions and without their scripts."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise BootstrapError(
            "node and npm are needed for the JavaScript client; "
            "on Debian and Ubuntu: apt-get install nodejs npm."
        )
    folder.mkdir(exist_ok=True)
    shutil.copy(manifest, folder / "package.json")
    quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
    if subprocess.run([npm, "install", *quiet], check=False, cwd=folder).returncode != 0:
        raise BootstrapError(f"npm could not install into {folder}; its message is above.")


def llama_wheel_dir(profile: Profile, python: Path) -> Path:
    """Return the folder that holds this machine's llama-cpp-python wheel, building it if need be.

    The wheel is built for this very processor, so the folder's name holds whatever would change
    it: release, Python, machine, processor features and the caller's CMAKE_ARGS.
    """
    version = _pinned_version(profile.constraints)
    processor = _processor_features()
    asked = os.environ.get("CMAKE_ARGS", "")
    own = [CMAKE_ARGS] if "GGML_NATIVE" in asked else [CMAKE_ARGS, *without_amx(processor)]
    cmake_args = " ".join((asked, *own)).strip()
    python_tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    features = hashlib.sha256(f"{processor}\n{cmake_args}".encode()).hexdigest()[:8]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"llama_cpp_python-{version}-{python_tag}-{platform.machine()}-{features}"
    folder = cache / "tidegate" / "wheels" / name
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, waiting_for="another build of llama-cpp-python"):
        if not any(folder.glob("*.whl")):
            _build_llama(version, python, folder, cmake_args)
    return folder


def _build_llama(version: str, python: Path, folder: Path, cmake_args: str) -> None:
    print(
        f"Compiling llama-cpp-python {version}: once on this machine, 5 to 15 minutes.", flush=True
    )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch:
        command = [
            *(str(python), "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir"),
            *("--disable-pip-version-check", "--wheel-dir", scratch),
            f"llama-cpp-python=={version}",
        ]
        returncode, last_lines = _run_with_progress(
            command, {**os.environ, "CMAKE_ARGS": cmake_args}
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if returncode != 0 or not wheels:
            print("\n".join(last_lines), file=sys.stderr)
            raise BootstrapError(
                f"llama-cpp-python {version} did not compile (its last lines are above); "
                "it needs a C and a C++ compiler and make or ninja."
            )
        wheels[0].replace(folder / wheels[0].name)


def _run_with_progress(command: list[str], env: dict[str, str]) -> tuple[int, list[str]]:
    started_s = time.monotonic()
    last_lines: deque[str] = deque(maxlen=FAILURE_LINES)
    step = "downloading and configuring"

    def follow(lines: Iterator[str]) -> None:
        nonlocal step
        for line in lines:
            last_lines.append(line.rstrip()[:400])
            step = _step_of(line) or step

    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        process_group=0,  # so that the compilers can be stopped along with pip
    )
    if process.stdout is None:
        raise BootstrapError("pip's output could not be read.")
    reader = threading.Thread(target=follow, args=(iter(process.stdout),), daemon=True)
    reader.start()
    try:
        while (returncode := process.poll()) is None:
            reader.join(timeout=PROGRESS_INTERVAL_S)
            if reader.is_alive():
                minutes, seconds = divmod(int(time.monotonic() - started_s), 60)
                print(f"  {minutes:2d} min {seconds:02d} s: {step}", flush=True)
            else:
                process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    return returncode, list(last_lines)


def _step_of(line: str) -> str | None:
    """Read ninja's `[57/140] g++ ... -c source.cpp` as `57 of 140, source.cpp`."""
    progress = re.match(r"\s*\[(\d+)/(\d+)\]", line)
    if progress is None:
        return None
    source = re.search(r"([^/\s]+\.(?:cpp|cc|c|cu|m|mm))\s*$", line)
    return f"{progress[1]} of {progress[2]}" + (f", {source[1]}" if source else "")


def _create_venv(venv: Path) -> None:
    if subprocess.run([sys.executable, "-m", "venv", str(venv)], check=False).returncode != 0:
        raise BootstrapError(
            f"{sys.executable} could not make a virtual environment; "
            "on Debian and Ubuntu: apt-get install python3-venv."
        )


def _pinned_version(constraints: Path) -> str:
    pin = re.search(r"^llama[-_]cpp[-_]python==(\S+)$", constraints.read_text(), re.MULTILINE)
    if pin is None:
        raise BootstrapError(f"{constraints} does not pin llama-cpp-python.")
    return pin[1]


def _processor_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))


def without_amx(processor: str) -> list[str]:
    """How to build for a processor with matrix tiles: for all that it has but those.

    llama.cpp's kernels for them end the process on small models (`tilezero`, an illegal
    instruction), and with `-march=native` they cannot be left out.
    """
    features = set(processor.split())
    if "amx_tile" not in features:
        return []
    wanted = [option for feature, option in X86_OPTIONS.items() if feature in features]
    return ["-DGGML_NATIVE=OFF", *(f"-D{option}=ON" for option in wanted)]


@contextmanager
def _locked(folder: Path, *, waiting_for: str) -> Iterator[None]:
    """Hold the folder against other processes; the kernel lets go when this one dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for {waiting_for} ...", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
