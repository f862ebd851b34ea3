"""The frames between the agent and its worker."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters.llama_cpp import frames
from edge_agent.adapters.llama_cpp.frames import FrameDecoder, FrameTooLargeError, encode
from shared.errors import ProtocolError

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_FRAMES = st.dictionaries(st.text(), _VALUES, max_size=4)


@given(sent=st.lists(_FRAMES, max_size=5), size=st.integers(1, 40))
def test_frames_arrive_whole_however_the_bytes_are_cut(
    sent: list[dict[str, Any]], size: int
) -> None:
    """What is fed in pieces of any size comes out as it was sent, in order."""
    data = b"".join(encode(frame) for frame in sent)
    decoder = FrameDecoder()
    received = [
        frame
        for start in range(0, len(data), size)
        for frame in decoder.feed(data[start : start + size])
    ]
    assert sent == received


def test_lone_surrogates_pass_unharmed() -> None:
    """A client's JSON may hold half of a surrogate pair; it is no reason to fail."""
    assert [{"text": "\ud83d"}] == list(FrameDecoder().feed(encode({"text": "\ud83d"})))


def test_a_frame_over_the_limit_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender learns the size and the limit."""
    monkeypatch.setattr(frames, "FRAME_BYTES_MAX", 10)
    with pytest.raises(FrameTooLargeError, match="18 bytes is over the limit of 10 bytes"):
        encode({"text": "123456789"[:7]})


def test_a_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    """Garbage on the pipe must not make the reader wait for gigabytes."""
    with pytest.raises(FrameTooLargeError):
        list(FrameDecoder().feed(b"\xff\xff\xff\xff"))


@pytest.mark.parametrize("payload", [b"{", b"\xff\xff", b"[1]", b"7"])
def test_a_payload_that_is_no_json_object_is_refused(payload: bytes) -> None:
    """The stream cannot be trusted any further."""
    with pytest.raises(ProtocolError, match="JSON"):
        list(FrameDecoder().feed(len(payload).to_bytes(4, "big") + payload))
