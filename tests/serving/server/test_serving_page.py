"""docs/serving.md: its examples run, and its tables say what the code does."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
import yaml
from tests.conftest import REPOSITORY
from tests.serving.server.running import WORDS, Running, Script, running, wait_until

from ibidem.commands import COMMANDS
from ibidem.config import describe, parse
from ibidem.serving import config
from ibidem.serving.config import ServeConfig
from ibidem.serving.server import requests
from ibidem.serving.server.chat_completions import _annotation
from ibidem.serving.server.responses import repetitions
from ibidem.serving.server.speech import Cited, Repeated

PAGE = (REPOSITORY / "docs" / "serving.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
STOPS_OF_CONTINUE = ["\n\n", "\r\n\r\n", "/src/", "#- coding: utf-8", "```"]
"""What it adds to each request of an editor."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


CURLS = [block for block in blocks("bash") if "curl" in block]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("page") / "state") as one:
        yield one


def run(words: list[str], server: Running) -> str:
    environment = {**os.environ, "IBIDEM_TOKEN": server.token}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(len(CURLS)))
def test_the_examples_with_curl_run(number: int, server: Running) -> None:
    assert len(CURLS) == 4
    script = CURLS[number].replace(ADDRESS, server.url).replace("export IBIDEM_TOKEN=ib-...", "")
    said = run(["bash", "-e", "-c", script], server)
    assert "ibidem" in said
    assert number == 0 or "nine" in said


def test_the_example_in_python_runs(server: Running) -> None:
    (script,) = blocks("python")
    assert run([sys.executable, "-c", script.replace(ADDRESS, server.url)], server) == "".join(WORDS)


def test_the_examples_of_commands_are_commands() -> None:
    for line in "\n".join(blocks("bash")).replace("\\\n", "").splitlines():
        words = line.partition(" #")[0].split()
        if words[:1] == ["ibidem"]:
            length = 2 if " ".join(words[1:3]) in COMMANDS else 1
            place = COMMANDS[" ".join(words[1 : 1 + length])].config
            module, _, name = place.partition(":")
            parse(getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name), words[1 + length :])


def continued(server: Running) -> tuple[Any, Any]:
    (text,) = blocks("yaml")
    models = yaml.safe_load(text.replace(ADDRESS, server.url).replace("ib-...", server.token))["models"]
    completion, chat = models
    return completion, chat


def request_of_editor(model: Any, prefix: str, suffix: str) -> dict[str, Any]:
    """Build the request that Continue makes of its configuration for a completion."""
    assert (model["provider"], model["roles"], model["useLegacyCompletionsEndpoint"]) == (
        "openai",
        ["autocomplete"],
        True,
    )
    template, options = model["promptTemplates"]["autocomplete"], model["defaultCompletionOptions"]
    prompt = template.replace("{{{prefix}}}", prefix).replace("{{{suffix}}}", suffix)
    assert "{{" not in prompt
    return {
        "url": urljoin(f"{model['apiBase'].rstrip('/')}/", "completions"),
        "headers": {"Authorization": f"Bearer {model['apiKey']}", "api-key": model["apiKey"]},
        "json": {
            "model": model["model"],
            "max_tokens": options["maxTokens"],
            "temperature": options["temperature"],
            "stream": True,
            "stop": STOPS_OF_CONTINUE,
            "prompt": prompt,
        },
    }


def test_the_configuration_of_the_editor_fills_a_gap(server: Running) -> None:
    completion, _ = continued(server)
    prefix, suffix = "def area(radius):\n    return ", "\n\nprint(area(2))\n"
    text = httpx.post(**request_of_editor(completion, prefix, suffix)).raise_for_status().text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "".join(WORDS)
    assert isinstance(server.service.speaker, Script)
    asked, sampling, *_ = server.service.speaker.asked[-1]
    assert asked == (prefix, suffix)
    assert (sampling.max_tokens, sampling.temperature, sampling.stop) == (64, 0, tuple(STOPS_OF_CONTINUE))


def test_the_configuration_of_the_editor_chats(server: Running) -> None:
    _, chat = continued(server)
    assert (chat["provider"], chat["roles"]) == ("openai", ["chat"])
    response = httpx.post(
        urljoin(f"{chat['apiBase']}/", "chat/completions"),
        headers={"Authorization": f"Bearer {chat['apiKey']}", "api-key": chat["apiKey"]},
        json={
            "messages": [{"role": "system", "content": "You are in a chat."}, {"role": "user", "content": "Hi"}],
            "model": chat["model"],
            "max_tokens": chat["defaultCompletionOptions"]["maxTokens"],
            "stream": True,
        },
    )
    assert "nine" in response.raise_for_status().text


def test_the_next_keystroke_frees_the_place(tmp_path: Path) -> None:
    script = Script(gate=threading.Semaphore(1))
    with running(tmp_path / "state", script) as server:
        completion, _ = continued(server)
        asked = request_of_editor(completion, "a", "b")
        for _ in range(5):
            with httpx.stream("POST", asked["url"], headers=asked["headers"], json=asked["json"]) as response:
                texts = response.iter_text()
                assert next(texts)
                assert script.open == 1
            wait_until(lambda: script.open == 0 and not len(server.service.answers))
            assert script.gate is not None
            script.gate.release()


def row(first: str) -> set[str]:
    """Return the names in the last column of a row of a table."""
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {first}"))
    return set(re.findall(r"`(\w+)`", line.rpartition(" | ")[2]))


def test_every_parameter_is_on_the_page() -> None:
    known = set(requests._ChatBody.__pydantic_fields__) | set(requests._CompletionBody.__pydantic_fields__)  # type: ignore[attr-defined]
    effect, none, neutral = row("have an effect"), row("have none"), row("accepted only")
    assert neutral == set(requests.NEUTRAL)
    assert effect | none | neutral == known - {"model"}
    assert not effect & none


def test_the_annotation_of_the_page_is_one() -> None:
    shown = json.loads(blocks("json")[0])
    cited = Cited(
        31,
        34,
        shown["number"],
        shown["chunk"],
        shown["path"],
        tuple(shown["title_path"]),
        tuple(shown["span"]),
        shown["quote"],
        supported=shown["supported"],
        score=shown["score"],
    )
    assert json.loads(json.dumps(_annotation(cited, f"{ADDRESS}/"))) == shown


def test_the_keys_and_figures_of_the_page_are_those_of_the_code() -> None:
    flags = {flag.lstrip("-") for flag, *_ in describe(ServeConfig)}
    named = set(re.findall(r"`--([a-z.-]+)", PAGE))
    assert named - {"days", "admin", "limits."} <= flags
    annotation = json.loads(blocks("json")[1])
    repeated = Repeated(112, 391, 74, 1, is_common=False, sources=tuple(annotation["sources"]))
    assert json.loads(json.dumps(repetitions([repeated]))) == [annotation]
    limits = ServeConfig(upstream="http://a").limits
    assert f"nothing for {limits.stalled_s:.0f} s" in PAGE
    assert f"at most {requests.MOST_BY_DEFAULT} tokens" in PAGE
    assert f"`temperature` {config.TEMPERATURE} and `top_p` {config.TOP_P}" in PAGE
