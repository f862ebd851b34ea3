"""Tests of how the demo handles its processes, its state folder and its load."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from deploy.demo.board import Board, End
from deploy.demo.drive import Drive
from deploy.demo.processes import Children, Command, DemoError, free_ports, wait_until
from deploy.demo.run import MARKER, empty_state, main
from deploy.demo.settings import CLOUD_ARM
from deploy.demo.stream import Planned

SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print(child.pid, flush=True); time.sleep(600)"
)


def command(code: str, tmp_path: Path, **changes: Any) -> Command:
    """A Python one-liner as a child process."""
    return Command(
        name="child",
        argv=[sys.executable, "-c", code],
        cwd=tmp_path,
        advice="mend the one-liner",
        **changes,
    )


def ends(pid: int, *, within_s: float) -> Callable[[], bool]:
    """Watch a process that is not our child; the result waits for its end and tells of it."""
    watch = os.pidfd_open(pid)

    def ended() -> bool:
        try:
            return bool(select.select([watch], [], [], within_s)[0])
        finally:
            os.close(watch)

    return ended


def test_a_dead_child_is_told_with_its_log_and_advice(tmp_path: Path) -> None:
    """The end of the log and what to do are in the error."""
    children = Children(logs=tmp_path / "logs")
    child = children.start(command("raise SystemExit('no such model')", tmp_path))
    child.wait(within_s=20.0)
    with pytest.raises(DemoError, match=r"(?s)mend the one-liner.*no such model"):
        children.check()
    children.stop_all()


def test_a_finite_child_may_end_well_but_not_badly(tmp_path: Path) -> None:
    """Work that is done is no failure; work that failed is."""
    children = Children(logs=tmp_path / "logs")
    children.start(command("pass", tmp_path, finite=True)).wait(within_s=20.0)
    children.check()
    children.start(command("raise SystemExit(3)", tmp_path, finite=True)).wait(within_s=20.0)
    with pytest.raises(DemoError, match="status 3"):
        children.check()
    children.stop_all()


def test_stopping_ends_a_whole_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ignores the request is killed, and its own children with it."""
    monkeypatch.setattr("deploy.demo.processes.STOP_S_MAX", 0.2)
    children = Children(logs=tmp_path / "logs")
    child = children.start(command(STUBBORN, tmp_path))
    wait_until(lambda: child.log.read_text().endswith("\n"), child=child, within_s=20.0, what="it")
    grandchild = int(child.log.read_text())
    grandchild_ended = ends(grandchild, within_s=20.0)
    children.stop_all()
    assert child.exit_code is not None
    assert grandchild_ended()


def test_a_stopped_child_is_no_longer_missed(tmp_path: Path) -> None:
    """The demo stops the coordinator on purpose; that is no failure."""
    children = Children(logs=tmp_path / "logs")
    children.stop(children.start(command(SLEEP, tmp_path)))
    children.check()


def test_waiting_is_bounded(tmp_path: Path) -> None:
    """What never gets ready is told by name."""
    children = Children(logs=tmp_path / "logs")
    child = children.start(command(SLEEP, tmp_path))
    try:
        with pytest.raises(DemoError, match="the moon was not there"):
            wait_until(lambda: False, child=child, within_s=0.2, what="the moon")
    finally:
        children.stop_all()


def test_free_ports_differ() -> None:
    """No two processes are given the same port."""
    assert 20 == len(set(free_ports(20)))


def test_only_a_folder_of_the_demo_is_emptied(tmp_path: Path) -> None:
    """A folder with something else in it is refused and left as it is."""
    own = tmp_path / "own"
    empty_state(own)
    (own / "old.log").touch()
    empty_state(own)
    assert [MARKER] == [path.name for path in own.iterdir()]
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").touch()
    with pytest.raises(DemoError, match="--out"):
        empty_state(foreign)
    assert (foreign / "thesis.txt").exists()


def test_a_missing_cloud_environment_ends_with_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 2 and the message names the remedy."""
    status = main(["--out", str(tmp_path / "out"), "--cloud-python", str(tmp_path / "none")])
    assert 2 == status
    assert "make install" in capsys.readouterr().out


def planned(index: int, **changes: Any) -> Planned:
    """One request of a stream that is sent at once."""
    values: dict[str, Any] = {
        "index": index,
        "at_s": 0.0,
        "device": "pi",
        "task_class": "copy",
        "prompt": "copy: abc",
        "answer": "abc",
        "stream": False,
        "abort": False,
    }
    return Planned(**{**values, **changes})


class FakeAgent:
    """The HTTP face of an agent that copies, or refuses."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.tasks: list[str] = []
        self.grades: list[dict[str, Any]] = []
        self.feedback_status = 200
        self.chat_status = 200

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/feedback", self.feedback)
        return app

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer plainly or in three chunks."""
        body = await request.json()
        self.bodies.append(body)
        self.tasks.append(request.headers["x-tidegate-task"])
        headers = {
            "x-tidegate-request-id": f"id-{len(self.bodies)}",
            "x-tidegate-arm": CLOUD_ARM,
            "x-tidegate-reason": "drawn",
        }
        if self.chat_status != web.HTTPOk.status_code:
            error = {"error": {"message": "no candidate", "type": "server_error", "code": "x"}}
            return web.json_response(error, status=self.chat_status, headers=headers)
        common = {"id": "c", "created": 1, "model": "m"}
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
        text = body["messages"][0]["content"].removeprefix("copy: ")
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            reply = {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
            return web.json_response(reply, headers=headers)
        response = web.StreamResponse(headers={**headers, "content-type": "text/event-stream"})
        await response.prepare(request)
        for letter in text:
            choice = {"index": 0, "delta": {"content": letter}, "finish_reason": None}
            chunk = {**common, "object": "chat.completion.chunk", "choices": [choice]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        last = {**common, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        await response.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
        return response

    async def feedback(self, request: web.Request) -> web.Response:
        """Take a grade, or refuse it."""
        self.grades.append(await request.json())
        return web.json_response({}, status=self.feedback_status)


@asynccontextmanager
async def driven(agent: FakeAgent) -> AsyncIterator[Callable[..., Any]]:
    """A drive against a fake agent; gives a function that runs it and returns the board."""
    async with TestServer(agent.app()) as server:

        async def run(*stream: Planned) -> Board:
            board = Board()
            url = str(server.make_url("")).rstrip("/")
            drive = Drive({"pi": url}, deadlines_ms={"copy": 60_000}, board=board)
            drive.begin()
            await drive.run(stream)
            return board

        yield run


async def test_every_answer_is_recorded_graded_and_fed_back() -> None:
    """Plain and streamed answers alike, with what the headers and the usage say."""
    agent = FakeAgent()
    async with driven(agent) as run:
        board = await run(
            planned(0), planned(1, stream=True), planned(2, prompt="copy: x", answer="y")
        )
    records = sorted(board.records, key=lambda record: record.index)
    assert [1.0, 1.0, 0.0] == [record.reward for record in records]
    assert {CLOUD_ARM} == {record.arm for record in records}
    assert {(9, 3)} == {(record.prompt_tokens, record.completion_tokens) for record in records}
    assert all(record.hit and record.end is End.ANSWERED for record in records)
    assert {record.request_id: record.reward for record in records} == {
        grade["request_id"]: grade["score"] for grade in agent.grades
    }
    assert {"copy"} == set(agent.tasks)
    assert {"auto"} == {body["model"] for body in agent.bodies}


async def test_an_aborting_client_is_recorded_and_not_graded() -> None:
    """It leaves after the first text and has nothing to say about the answer."""
    agent = FakeAgent()
    async with driven(agent) as run:
        board = await run(planned(0, stream=True, abort=True))
    assert [End.ABORTED] == [record.end for record in board.records]
    assert "id-1" == board.records[0].request_id
    assert [] == agent.grades
    assert 0 == board.in_flight


async def test_a_refusal_is_recorded_as_a_failure() -> None:
    """It counts as reward 0, and the client does not try again by itself."""
    agent = FakeAgent()
    agent.chat_status = 503
    async with driven(agent) as run:
        board = await run(planned(0))
    assert [(End.FAILED, 0.0, "id-1")] == [
        (record.end, record.reward, record.request_id) for record in board.records
    ]
    assert 1 == len(agent.bodies)


async def test_refused_feedback_ends_the_run() -> None:
    """Grades that get lost would spoil what the run shows."""
    agent = FakeAgent()
    agent.feedback_status = 404
    async with driven(agent) as run:
        with pytest.raises(ExceptionGroup) as caught:
            await run(planned(0))
    assert caught.group_contains(DemoError, match="status 404")
