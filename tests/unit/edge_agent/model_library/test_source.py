"""How sources are written."""

from __future__ import annotations

import pytest

from edge_agent.model_source import (
    HubSource,
    ModelSource,
    PathSource,
    UrlSource,
    file_name,
    parse_source,
)


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        ("hf://Qwen/Qwen2.5-GGUF/q4_k_m.gguf", HubSource("Qwen/Qwen2.5-GGUF", "q4_k_m.gguf"), ""),
        ("hf://o/r@v1.0/sub/a.gguf", HubSource("o/r", "sub/a.gguf", "v1.0"), "a.gguf"),
        ("hf://models/o/r@refs%2Fpr%2F3/a.gguf", HubSource("o/r", "a.gguf", "refs/pr/3"), ""),
        (
            "https://example.com/m/a%20b.gguf?token=s",
            UrlSource("https://example.com/m/a%20b.gguf?token=s"),
            None,
        ),
        ("https://example.com/m/a.gguf?t=s", UrlSource("https://example.com/m/a.gguf?t=s"), ""),
        ("http://127.0.0.1:8000/a.gguf", UrlSource("http://127.0.0.1:8000/a.gguf"), ""),
        ("/media/stick/a.gguf", PathSource("/media/stick/a.gguf"), ""),
    ],
)
def test_a_source_is_read(text: str, source: ModelSource, name: str | None) -> None:
    """The Hub with or without a revision, an address, a path; each names a file."""
    if name is None:
        with pytest.raises(ValueError, match="name of a file"):
            parse_source(text)
        return
    assert source == parse_source(text)
    assert (name or text.partition("?")[0].rpartition("/")[2]) == file_name(source)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hf://qwen.gguf", "hf://OWNER/REPOSITORY/FILE"),
        ("hf://owner/repo", "hf://OWNER/REPOSITORY/FILE"),
        ("hf://owner/repo/../a.gguf", "hf://OWNER/REPOSITORY/FILE"),
        ("hf://owner/repo/a.gguf@main", "hf://OWNER/REPOSITORY@REVISION/FILE"),
        ("http://example.com/a.gguf", "https://"),
        ("ftp://example.com/a.gguf", "https://"),
        ("https://user:pass@example.com/a.gguf", "no user name or password"),
        ("https://example.com/", "name of a file"),
        ("https://example.com/.hidden", "name of a file"),
        ("", "a path"),
    ],
)
def test_a_mistake_is_explained(text: str, says: str) -> None:
    """With what would be right."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_source(text)
    assert says in str(caught.value)


def test_a_source_shows_no_secret() -> None:
    """An address is shown, logged and recorded without its query."""
    assert "https://h/a.gguf" == str(parse_source("https://h/a.gguf?X-Signature=secret"))
    assert "hf://o/r@v1/a.gguf" == str(parse_source("hf://models/o/r@v1/a.gguf"))
