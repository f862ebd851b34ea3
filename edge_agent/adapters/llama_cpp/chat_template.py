"""The chat template in a model's file: how messages become a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from jinja2 import TemplateError
from llama_cpp.llama_chat_format import CHATML_CHAT_TEMPLATE, Jinja2ChatFormatter

from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError
from edge_agent.adapters.llama_cpp.tools import ToolFormat, tool_format
from edge_agent.adapters.llama_cpp.vocabulary import Vocabulary
from edge_agent.ports import ArmFailed

_TEMPLATE_ERRORS: Final = (
    *(TemplateError, ArithmeticError, AttributeError, LookupError),
    *(RecursionError, TypeError, ValueError),
)
"""What code in a template may raise."""


class ChatTemplate:
    """Renders messages as the model was trained to read them; ChatML where the file says nothing.

    Parameters
    ----------
    source : str
        Jinja; empty for ChatML.

    Attributes
    ----------
    tools : ToolFormat or None
        How calls of tools are written; None if the template has no tools.

    Raises
    ------
    ModelFileError
        When the template is broken.
    """

    def __init__(self, source: str, *, vocabulary: Vocabulary, arm: str) -> None:
        self._arm = arm
        self._bos = vocabulary.bos
        source = source or CHATML_CHAT_TEMPLATE
        self.tools: ToolFormat | None = tool_format(source)
        try:
            self._formatter = Jinja2ChatFormatter(
                template=source, eos_token=vocabulary.eos, bos_token=self._bos
            )
        except TemplateError as error:
            raise ModelFileError(
                f"the chat template of {arm} is broken ({error}): take another GGUF"
            ) from error

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[str, bool]:
        """The prompt, and whether the model's first token still has to be put before it.

        Raises
        ------
        ArmFailed
            `unsupported`, when the template refuses the messages.
        """
        try:
            text = self._formatter(
                messages=list(messages),  # type: ignore[arg-type]  # plain mappings for its TypedDicts
                tools=list(tools) or None,  # type: ignore[arg-type]
            ).prompt
        except _TEMPLATE_ERRORS as error:
            raise ArmFailed(
                "unsupported",
                f"the chat template of {self._arm} refuses the messages ({error}): change their "
                "roles or order, or choose another arm",
                param="messages",
            ) from error
        # A template that writes the BOS token itself must not get a second one.
        return text, not (self._bos and text.startswith(self._bos))
