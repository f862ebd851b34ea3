"""Change the code that money depends on, one small thing at a time, and see which change no test
notices.

Every change that survives must stand in tests/mutants/survivors.toml with its reason. Exit codes:
0 all survivors are explained, 1 some are not, 2 the tests do not pass as they are, or wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.mutants.making import Mutant, mutants
from tests.mutants.running import Ended, Fate, MutantRunner
from tests.mutants.survivors import Key, Listed, ListError, entry, read

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
UNNOTICED = (Fate.SURVIVED, Fate.UNREACHED)
PROGRESS_EACH = 25


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, say what survived, and whether all of it is explained."""
    targets = _targets(HERE / "targets.toml")
    options = _options(arguments, targets=targets)
    try:
        modules = _chosen(options.module, targets)
        listed = read(options.survivors)
    except (ListError, LookupError) as error:
        print(error, file=sys.stderr)
        return 2
    found = [
        mutant
        for module in modules
        for mutant in mutants(ROOT / module, module=module)
        if not options.function or mutant.function in options.function
    ]
    if not found:
        print(f"no mutants of {', '.join(options.function)}", file=sys.stderr)
        return 2
    progress = Progress(len(found), listed=listed)
    runner = MutantRunner(
        root=ROOT,
        mutants=found,
        tests={module: targets[module] for module in modules},
        report=progress.take,
    )
    files = sorted({path for module in modules for path in targets[module]})
    code = _pytest(files, runner)
    if code == pytest.ExitCode.INTERRUPTED:
        print("stopped", file=sys.stderr)
        return 130
    if runner.problem or len(progress.ended) < len(found):
        print(runner.problem or f"pytest ended with {code}", file=sys.stderr)
        return 2

    def tried(key: Key) -> bool:
        return key[0] in modules and (not options.function or key[1] in options.function)

    outdated = listed.outdated(progress.survivors(), tried=tried)
    unexplained = [each for each in progress.survivors() if not listed.explains(each)]
    if options.format == "json":
        print(json.dumps(_document(progress.ended, unexplained, outdated), indent=1))
    else:
        _say(progress.ended, unexplained, outdated)
    return 1 if unexplained else 0


def _targets(path: Path) -> dict[str, list[str]]:
    """Each module and the test files that answer for it."""
    groups = tomllib.loads(path.read_text())["group"]
    return {module: group["tests"] for group in groups for module in group["modules"]}


def _options(
    arguments: Sequence[str] | None, *, targets: Mapping[str, Sequence[str]]
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        epilog="modules: " + ", ".join(targets),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "module", nargs="*", help="a path, a folder, or a name such as `account`; all without one"
    )
    parser.add_argument(
        "--function", nargs="+", default=(), help="these only, such as `LeaseBook.grant`"
    )
    parser.add_argument(
        "--survivors", type=Path, default=HERE / "survivors.toml", help="the list with the reasons"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser.parse_args(arguments)


def _chosen(names: Sequence[str], targets: Mapping[str, object]) -> list[str]:
    """The modules that the names stand for.

    Raises
    ------
    LookupError
        If a name stands for none.
    """
    chosen: list[str] = []
    for name in names:
        found = [
            module
            for module in targets
            if module == name or Path(module).stem == name or Path(name) in Path(module).parents
        ]
        if not found:
            raise LookupError(f"{name!r} is none of the modules: {', '.join(targets)}")
        chosen += found
    return chosen or list(targets)


def _pytest(files: Sequence[str], runner: MutantRunner) -> int:
    """Collect the tests and hand over to the runner; pytest's exit code."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a fork has only the thread that forked
    folder = Path(tempfile.mkdtemp(prefix="tidegate-mutants-"))
    try:
        return pytest.main(
            [
                *(str(ROOT / path) for path in files),
                f"--rootdir={ROOT}",
                "--override-ini=addopts=--import-mode=importlib",
                f"--basetemp={folder / 'tests'}",
                "--hypothesis-profile=mutants",
                "--timeout=0",
                "--assert=plain",
                "-mnot slow and not e2e and not postgres",
                *("-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:xdist"),
            ],
            plugins=[runner],
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Progress:
    """What has ended so far, said on standard error while it goes on."""

    def __init__(self, total: int, *, listed: Listed) -> None:
        self.ended: list[Ended] = []
        self._total = total
        self._listed = listed

    def take(self, ended: Ended) -> None:
        """Another mutant has ended."""
        self.ended.append(ended)
        if ended.fate in UNNOTICED and not self._listed.explains(ended.mutant):
            self._write(f"{ended.fate} {_text(ended.mutant)}\n")
        if len(self.ended) % PROGRESS_EACH == 0 or len(self.ended) == self._total:
            self._write(
                f"{len(self.ended)} of {self._total} mutants, {len(self.survivors())} survived, "
                f"in {ended.mutant.module}{'' if sys.stderr.isatty() else chr(10)}"
            )

    def survivors(self) -> list[Mutant]:
        """Mutants that no test noticed."""
        return [each.mutant for each in self.ended if each.fate in UNNOTICED]

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}" if sys.stderr.isatty() else text)
        sys.stderr.flush()


def _text(mutant: Mutant) -> str:
    lines = "".join(f"\n    {line}" for line in mutant.diff.splitlines())
    return f"{mutant.module} {mutant.function}{lines}"


def _counts(ended: Sequence[Ended]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for each in ended:
        counts.setdefault(each.mutant.module, Counter())[each.fate] += 1
    return {
        module: {"mutants": found.total()} | {fate.value: found[fate] for fate in Fate}
        for module, found in counts.items()
    }


def _document(
    ended: Sequence[Ended], unexplained: Sequence[Mutant], outdated: Sequence[Key]
) -> dict[str, object]:
    names = ("module", "function", "diff")
    return {
        "modules": _counts(ended),
        "unexplained": [
            {"module": each.module, "function": each.function, "diff": each.diff}
            for each in unexplained
        ],
        "outdated": [dict(zip(names, key, strict=True)) for key in outdated],
    }


def _say(ended: Sequence[Ended], unexplained: Sequence[Mutant], outdated: Sequence[Key]) -> None:
    print(f"{'module':32}{'mutants':>9}" + "".join(f"{fate:>10}" for fate in Fate))
    for module, counts in _counts(ended).items():
        first, *rest = counts.values()
        print(f"{module:32}{first:>9}" + "".join(f"{count:>10}" for count in rest))
    for module, function, diff in outdated:
        print(f"\nlisted, but no longer a survivor: {module} {function}\n{diff}")
    if unexplained:
        print("\nNot explained; write a test that notices, or add to the list with a reason:\n")
        print("\n".join(entry(mutant) for mutant in unexplained))
    print(f"{len(unexplained)} survivors are not explained, {len(outdated)} entries are outdated")


if __name__ == "__main__":
    sys.exit(main())
