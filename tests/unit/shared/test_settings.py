"""Secrets by reference, and how keys and problems are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.settings import (
    PROBLEMS_SHOWN_MAX,
    ConfigProblems,
    Problem,
    did_you_mean,
    dotted_key,
    read_secret,
    read_toml,
)


def test_a_secret_comes_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surrounding white space is no part of it."""
    monkeypatch.setenv("A_SECRET", " hush\n")
    assert read_secret("env:A_SECRET") == "hush"


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    """Nor is the line end of a file."""
    (tmp_path / "secret").write_text("hush\n")
    assert read_secret(f"file:{tmp_path / 'secret'}") == "hush"


@pytest.mark.parametrize("content", ["", " \n", "two words", "line\nbreak", "ключ", "x" * 20_000])
def test_what_no_secret_looks_like_is_refused_without_repeating_it(
    tmp_path: Path, content: str
) -> None:
    """Most likely the wrong file."""
    (tmp_path / "secret").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_secret(f"file:{tmp_path / 'secret'}", key="api_key")
    assert caught.value.key == "api_key"
    assert not content.strip() or content not in str(caught.value)


@pytest.mark.parametrize("rest", ["", "hush", "env:hu-sh", "ENV:HUSH", "https://hush"])
def test_a_literal_is_no_reference(rest: str) -> None:
    """It is refused and not repeated."""
    with pytest.raises(ConfigError, match=r"^k: ") as caught:
        read_secret(rest, key="k")
    assert not {"hush", "hu-sh", "HUSH"} & set(re.findall(r"[\w-]+", str(caught.value)))


@pytest.mark.parametrize("ref", ["env:", "file:"])
def test_a_reference_to_nothing_is_refused(ref: str) -> None:
    """The part after the colon is needed."""
    with pytest.raises(ConfigError, match="reference"):
        read_secret(ref)


def test_references_that_lead_nowhere_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable or the file is named."""
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(ConfigError, match="NOT_SET is not set"):
        read_secret("env:NOT_SET")
    with pytest.raises(ConfigError, match="none: No such file"):
        read_secret(f"file:{tmp_path / 'none'}")


def test_keys_are_written_as_in_toml() -> None:
    """Names with dots are quoted, places in lists are in brackets."""
    assert dotted_key(["arms", "a.b", "price"]) == 'arms."a.b".price'
    assert dotted_key([2, "path"], prefix="models") == "models[2].path"


def test_the_closest_word_is_proposed_or_else_all_are() -> None:
    """A near miss gets one proposal, anything else the list."""
    assert did_you_mean("florr", ["floor", "rho"]) == "; did you mean 'floor'?"
    assert did_you_mean("zzz", ["floor", "rho"]) == "; known are floor, rho"


def test_long_lists_of_problems_are_cut_in_text_only() -> None:
    """The text stays readable; `problems` has them all."""
    error = ConfigProblems([Problem(f"k{index}", "bad") for index in range(50)], source="f.toml")
    assert len(error.problems) == 50
    assert len(str(error).splitlines()) == PROBLEMS_SHOWN_MAX + 1
    assert str(error).splitlines()[-1] == "f.toml: ... and 30 more problems"


def test_no_text_outgrows_a_header() -> None:
    """Details of a gRPC status are cut off at eight kilobytes, so a line has an end."""
    error = ConfigProblems([Problem("k" * 1_000, "bad" * 1_000)] * 50)
    assert len(str(error)) < 6_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a = ", "not valid TOML"),
        (b"a = " + b"[" * 9_999, "not valid TOML"),
        (b"\xef\xbb\xbf\xef\xbb\xbfa = 1", "not valid TOML"),
        ("a = 1".encode("utf-16"), "save it as UTF-8"),
        (b"#" * 2_000_000, "larger than"),
    ],
    ids=["torn", "deep", "two marks", "UTF-16", "huge"],
)
def test_what_is_no_toml_file_is_named_with_the_reason(
    tmp_path: Path, content: bytes, says: str
) -> None:
    """By its path; one byte-order mark before a file is no fault."""
    path = tmp_path / "some.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigProblems) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert {"a": 1} == read_toml(path)
