"""The parts that a configuration asks for, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.doctor.finding import Verdict
from edge_agent.adapters.doctor.local import configuration
from edge_agent.adapters.identity_file import IdentityFile
from edge_agent.cli.parts import new_classifier, problems_of, tried_classifier
from edge_agent.config import AgentConfig, load
from edge_agent.session import Credential
from shared.errors import ConfigError
from tests.fakes.task_models import small_onnx


def config(**classifier: Any) -> AgentConfig:
    """A configuration with this `[classifier]` table."""
    return load(None, {"name": "pi", "classifier": classifier})


async def test_the_table_decides_how_a_request_is_told(tmp_path: Path) -> None:
    """Path, threshold and names, and whether there is a classifier at all."""
    path = tmp_path / "mine.onnx"
    path.write_bytes(small_onnx())
    made = new_classifier(config(path=str(path), threshold=1.0, classes={"trips": "travel"}))
    assert made is not None
    await made.prepare(["other", "code", "travel"])
    assert ("code", "travel") == tuple(made.classes)
    guess = made.classify("a compiler error in the percentage")
    assert guess is not None
    assert "other" == guess.task_class
    assert new_classifier(config(enabled=False, path=str(path))) is None


def test_what_cannot_be_used_is_refused_before_it_is_in_force(tmp_path: Path) -> None:
    """By a reload, and by `run --check`."""
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"junk")
    broken = config(path=str(path))
    with pytest.raises(ConfigError, match=r"junk\.onnx: is not a model that can be loaded"):
        tried_classifier(broken)
    (problem,) = problems_of(broken, file=None)
    assert "classifier" == problem.key
    assert "junk.onnx: is not a model" in problem.problem
    assert () == problems_of(config(enabled=False, path=str(path)), file=None)


def test_a_slip_in_a_name_of_the_shipped_model_is_refused(tmp_path: Path) -> None:
    """With the names that there are."""
    (problem,) = problems_of(config(classes={"maths": "math"}), file=None)
    assert "classifier.classes.maths" in problem.problem
    assert "summarisation" in problem.problem
    assert () == problems_of(config(classes={"math": "sums"}), file=None)


def test_what_is_there_and_no_good_is_named_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is no model, and two applications with one secret."""
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"junk")
    for name in ("SHOP", "LAB"):
        monkeypatch.setenv(name, "sk-the-same-secret")
    settings = load(
        None,
        {
            "state_dir": str(tmp_path),
            "models": [{"arm": "tiny", "path": str(junk)}],
            "keys": [{"key": f"env:{name}", "tag": name.lower()} for name in ("SHOP", "LAB")],
        },
    )
    found = {each.key: each.problem for each in problems_of(settings, file=None)}
    assert ["models[0].path", "keys[1].key"] == list(found)
    assert "junk.gguf is no GGUF file" in found["models[0].path"]
    assert "is the secret of 'shop' too" in found["keys[1].key"]


def test_a_device_that_has_joined_needs_its_join_token_no_more(tmp_path: Path) -> None:
    """It was good once; the environment of a later start need not have it."""
    link = {"address": "127.0.0.1:7481", "join_token": "env:NO_SUCH_TOKEN"}
    settings = load(None, {"state_dir": str(tmp_path), "coordinator": link})
    assert ["coordinator.join_token"] == [each.key for each in problems_of(settings, file=None)]
    assert [Verdict.FAIL] == [each.verdict for each in configuration(settings)]
    IdentityFile(settings.books_path).keep(Credential("dev-1", "secret"))
    assert () == problems_of(settings, file=None)
    assert [Verdict.OK] == [each.verdict for each in configuration(settings)]
