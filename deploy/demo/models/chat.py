"""Ask a loaded GGUF file through the chat template that it carries."""

from __future__ import annotations

from typing import cast

import llama_cpp

ANSWER_LIMIT = 32
"""The largest number of tokens in an answer."""


def load(path: str, threads: int) -> llama_cpp.Llama:
    """Load a GGUF file.

    Parameters
    ----------
    path : str
        The file.
    threads : int
        Threads of llama.cpp.

    Returns
    -------
    llama_cpp.Llama
        The loaded model.
    """
    return llama_cpp.Llama(
        path, n_ctx=256, n_threads=threads, n_threads_batch=threads, verbose=False
    )


def ask(llama: llama_cpp.Llama, prompt: str) -> str:
    """Get the greedy answer to one user message.

    Parameters
    ----------
    llama : llama_cpp.Llama
        The loaded model.
    prompt : str
        The text of the user's message.

    Returns
    -------
    str
        The text of the answer.
    """
    reply = llama.create_chat_completion(
        messages=[{"role": "user", "content": prompt}],
        temperature=0.0,
        max_tokens=ANSWER_LIMIT,
    )
    completion = cast(llama_cpp.CreateChatCompletionResponse, reply)
    return completion["choices"][0]["message"]["content"] or ""
