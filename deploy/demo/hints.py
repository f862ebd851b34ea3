"""What to try on a set that was left running."""

from __future__ import annotations

from pathlib import Path

from deploy.demo.fleet import Fleet

QUESTION = "reverse: tidegate"


def hints(fleet: Fleet, *, logs: Path) -> str:
    """Commands for `curl`, `openai` and `tidectl`, ready to be pasted.

    The admin token stays in its file: what is printed here may end in a log.
    """
    name, url = next(iter(fleet.agent_urls.items()))
    agents = "\n".join(f"  {device:8} {agent}/v1" for device, agent in fleet.agent_urls.items())
    body = f'{{"model": "auto", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    return f"""\
Agents (any OpenAI client, model "auto"):
{agents}
The coordinator's metrics: {fleet.web_url}/metrics
Logs: {logs}

curl, with the headers that say which arm answered, and why:
  curl -i {url}/v1/chat/completions -H 'content-type: application/json' \\
    -H 'x-tidegate-task: reverse' -d '{body}'

The decision alone, without the call:
  curl {url}/v1/route -H 'content-type: application/json' \\
    -H 'x-tidegate-task: add' -d '{body}'

The official client:
.venv/bin/python - <<'END'
from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="none")
for chunk in client.chat.completions.create(
    model="auto", messages=[{{"role": "user", "content": "{QUESTION}"}}], stream=True
):
    print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="")
END

The operator's side:
  alias tidectl='.venv/bin/tidectl --address {fleet.admin.address} \
--token-file {fleet.admin_token_file}'
  tidectl status
  tidectl budget show
  tidectl arm list
  tidectl table show {name}
  tidectl decision list
  tidectl pause-spend

Ctrl-C ends everything."""
