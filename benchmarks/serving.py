"""What a server costs beside the model, and what 500 clients at once, a newcomer and another server show.

The shape is that of `configs/model/tiny.py`, 6.6 M parameters at 8,192 ids, with random weights and a tokenizer trained
on the standard library of Python. The matrices that write to the residual stream and the last norm are larger than at
the beginning of a training, so that the next token depends on the whole context and has a few hundred likely ids, not
all. One thread for the matrices (`OMP_NUM_THREADS=1`), in servers and batches; medians of the runs, in turns.

In process: 64 prompts of 64 tokens, 128 more are generated, greedy and sampled (temperature 0.8, top-p 0.95). All CPU
time counts, that of prompts and of every thread.

    batch     RunningBatch alone, in a loop
    engine    the engine, whose tokens nobody reads
    speaker   the engine and `OwnSpeaker`: text, parts and an event loop, without HTTP

Clients: 500 streams of 20 principals at once, against `ibidem serve` in a process of its own, and the same 500 prompts,
seeds and lengths through a bare `RunningBatch` of 64 slots in another one. Prompts have about 200 tokens, answers 16 to
64, sampled. Tokens per CPU-second of the server's process, from the first request to the last event; the clients are
not counted.

    model       the model alone
    documents   each principal has a document of its own, whose passage is in each of its prompts
    quotes      the same documents without a model: the answers are the passages, which shows that they are found

An answer is mixed up if it begins like that of another stream rather than like its own, or continues with what
another one says; its own is computed by the batch, from a prompt with no passage but its principal's. A canary is a
word of one principal's document; it may be in no byte that another one receives.

The newcomer is a twentieth principal, who asks while 480 streams of the 19 others run or wait. In a queue that is fair
to principals each of the 20 is given every 20th slot that becomes free; its share is thus 20 times the mean time
between two answers that end. In a queue of requests it would have to wait for all 416 that have no slot.

The peers are `transformers serve`, with its default and with continuous batching, and llama.cpp's server with a thread
and 64 slots, as the package xllamacpp has it. All have the same weights, a Llama with byte-level BPE that is imported
and then exported to each: greedy, at 1, 16 and 64 streams.

    python benchmarks/serving.py PYTHON_WITH_PEERS benchmarks/results/serving.json [PART ...]

PART is in_process, clients or peers: only these are measured, and replace what the file has of them. It takes 20
minutes on an idle machine; the figures of a busy one say little. PYTHON_WITH_PEERS has
`pip install -c constraints.txt 'transformers[serving]' llama-cpp-py-sync xllamacpp`.
"""

import asyncio
import http
import http.client
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

SHAPE: dict[str, Any] = {"vocab_size": 8192, "width": 256, "layers": 6, "heads": 4, "ffn_hidden": 640, "context": 512}
STREAMS, PROMPT, NEW, REPEATS = 64, 64, 128, 3
CORPUS_BYTES = 4_000_000
OUT_SCALE, NORM_SCALE = 30.0, 10.0
"""How much larger the matrices that write to the residual stream, and the last norm, are than at first."""

CLIENTS, PRINCIPALS, LOADS = 500, 20, 3
CLIENT_PROMPT, SHORTEST, LONGEST = 196, 16, 64
SPARE_IDS = 32
"""Rows of the peers' model that the markers of chats get."""
ALONE = 20
"""How many answers are asked for once more, one at a time."""
SLOTS = 64
CROWD, NEWCOMERS, NEWCOMER_TOKENS = 480, 10, 8
PEER_STREAMS, PEER_TOKENS, PEER_RUNS = (1, 16, 64), 64, 3
LEAST_ANSWERS = 4
"""A stream alone answers so often, one after the other: less CPU time could not be told from none."""
PARTS = ("in_process", "clients", "peers")
PEERS = ("transformers", "transformers, continuous batching", "llama.cpp")
LLAMA_CPP = """
import sys, threading, xllamacpp
chosen = xllamacpp.CommonParams()
chosen.model.path, chosen.port, chosen.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
chosen.n_parallel, chosen.n_ctx, chosen.cont_batching, chosen.use_jinja = 64, 64 * 512, True, True
chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(chosen)
threading.Event().wait()
"""
"""The program that runs the server of llama.cpp: its arguments are a model and a port."""
BARS = {"share_of_the_batch": 0.85, "peak_rss_mb": 900, "newcomer": 1.5}
SAME = 12
"""Characters by which an answer is recognized."""
READY_S = 120
Run = Callable[[float], int]
"""Generates at a temperature, and returns the number of tokens."""


def main() -> None:
    if sys.argv[1] == "batch":
        run_jobs(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    peer, path = sys.argv[1], Path(sys.argv[2])
    parts = tuple(sys.argv[3:]) or PARTS
    result = {} if parts == PARTS else json.loads(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="ibidem-") as name:
        scratch = Path(name)
        os.environ["XDG_STATE_HOME"] = str(scratch / "home")
        tokenizer = make_tokenizer(scratch)
        checkpoint = make_checkpoint(scratch / "step-000000", tokenizer)
        if "in_process" in parts:
            result["in_process"] = in_process(checkpoint)
            write(path, result)
        if "clients" in parts:
            result["clients"], result["newcomer"] = clients(scratch, checkpoint)
            write(path, result)
        if "peers" in parts:
            write(path, result | {"peers": peers(scratch, tokenizer, peer)})


def make_tokenizer(folder: Path) -> Path:
    from ibidem.tokenization.train_tokenizer import TrainTokenizerConfig, train_tokenizer

    (folder / "corpus").mkdir()
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    (folder / "corpus" / "library.txt").write_text(text[:CORPUS_BYTES], encoding="utf-8")
    path = folder / "tokenizer"
    train_tokenizer(TrainTokenizerConfig(input=folder / "corpus", output_dir=path, vocab_size=SHAPE["vocab_size"]))
    return path


def make_checkpoint(path: Path, tokenizer: Path, **more: Any) -> Path:
    """Write a checkpoint with random weights."""
    import torch
    from safetensors.torch import save_file

    from ibidem import artifacts
    from ibidem.modeling.checkpoint import KIND, TOKENIZER_DIR, WEIGHTS
    from ibidem.modeling.config import ModelConfig
    from ibidem.modeling.modeling_custom import Decoder

    shape = {**SHAPE, **more}
    model = Decoder(ModelConfig(**shape))
    model.init_weights(0)
    with torch.no_grad():
        model.norm.weight *= NORM_SCALE
        for each, weight in model.named_parameters():
            if each.endswith(("out.weight", "down.weight")):
                weight.mul_(OUT_SCALE)
    with artifacts.create(path, kind=KIND, config={"model": shape}, inputs=[]) as draft:
        save_file(model.state_dict(), draft.path / WEIGHTS)
        shutil.copytree(tokenizer, draft.path / TOKENIZER_DIR)
    return path


def in_process(checkpoint: Path) -> dict[str, Any]:
    import torch

    from ibidem.serving.server.own_model import OwnSpeaker

    torch.set_num_threads(1)
    speaker = OwnSpeaker(checkpoint, slots=STREAMS)
    model, prompts = speaker._engine._batch._model, pieces(speaker._tokenizer, STREAMS, PROMPT - 1)
    systems: dict[str, Run] = {
        "batch": lambda temperature: batch(model, prompts, temperature),
        "engine": lambda temperature: engine(model, prompts, temperature),
        "speaker": lambda temperature: asyncio.run(speak(speaker, prompts, temperature)),
    }
    found = {name: compare(systems, at) for name, at in (("greedy", 0.0), ("sampled", 0.8))}
    speaker.close()
    return found


def compare(systems: dict[str, Run], temperature: float) -> dict[str, Any]:
    runs: dict[str, list[float]] = {name: [] for name in systems}
    for run in systems.values():
        run(temperature)
    for _ in range(REPEATS):
        for name, run in systems.items():
            started = time.process_time()
            count = run(temperature)
            runs[name].append(count / (time.process_time() - started))
    speeds = {name: statistics.median(each) for name, each in runs.items()}
    found = {
        "tokens_per_cpu_s": speeds,
        "share_of_the_batch": {name: speed / speeds["batch"] for name, speed in speeds.items()},
        "cpu_us_a_token_beside_the_batch": {
            name: 1e6 / speed - 1e6 / speeds["batch"] for name, speed in speeds.items() if name != "batch"
        },
        "runs": runs,
    }
    show(found)
    return found


def show(found: dict[str, Any]) -> None:
    print(json.dumps({key: value for key, value in found.items() if key != "runs"}, indent=1), flush=True)


def pieces(tokenizer: Any, count: int, size: int) -> list[str]:
    """Return different texts of so many tokens each."""
    source = "".join(
        Path(os.__file__).with_name(f"{name}.py").read_text("utf-8") for name in ("os", "typing", "inspect")
    )
    ids, found = tokenizer.encode(source), []
    step = len(ids) // (count + count // 4)
    for place in range(0, len(ids) - size, step):
        text = tokenizer.decode(ids[place : place + size])
        if len(tokenizer.encode(text)) == size and len(found) < count:
            found.append(text)
    assert len(found) == count == len(set(found)), len(found)
    return found


def batch(model: Any, prompts: list[str], temperature: float) -> int:
    from ibidem.modeling.running_batch import Request, RunningBatch

    running = RunningBatch(model, slots=STREAMS, size=PROMPT + NEW)
    for seed, ids in enumerate(random_ids(len(prompts))):
        running.admit(Request(ids, temperature, 0.95, [seed]))
    made = [0] * len(prompts)
    while drawn := running.step():
        for number in drawn:
            made[number] += 1
            if made[number] == NEW:
                running.release(number)
    return sum(made)


def engine(model: Any, prompts: list[str], temperature: float) -> int:
    from ibidem.modeling.engine import Ask, Engine

    done = Event()
    count = left = 0

    def deliver(tokens: Any) -> None:
        nonlocal count, left
        count += len(tokens)
        left -= sum(token.is_last for token in tokens)
        if not left:
            done.set()

    left = len(prompts)
    running = Engine(model, deliver=deliver, fail=lambda *_: done.set(), slots=STREAMS)
    for seed, ids in enumerate(random_ids(len(prompts))):
        running.submit(Ask(ids, NEW, temperature, 0.95, seed, ()))
    done.wait()
    running.close()
    return count


async def speak(speaker: Any, prompts: list[str], temperature: float) -> int:
    from ibidem.serving.server.speech import SamplingParams, Spoken

    async def listen(prompt: str, seed: int) -> int:
        sampling = SamplingParams(NEW, temperature, 0.95, seed)
        async with aclosing(speaker.complete(prompt, None, sampling, owner=str(seed % 20), scope=None)) as speech:
            async for said in speech:
                if isinstance(said, Spoken):
                    return said.completion_tokens
        raise AssertionError

    return sum(await asyncio.gather(*(listen(prompt, seed) for seed, prompt in enumerate(prompts))))


def random_ids(count: int) -> list[list[int]]:
    import numpy as np

    rows: list[list[int]] = np.random.default_rng(0).integers(SHAPE["vocab_size"], size=(count, PROMPT)).tolist()
    return rows


class Job(NamedTuple):
    """A stream, as a client asks for it."""

    principal: int
    question: str
    seed: int
    max_tokens: int


class Known(NamedTuple):
    """What a stream must say, as far as it is known without a server."""

    ids: list[int]
    """Of the prompt."""
    text_of: Callable[[Sequence[int]], str]
    """What is sent of an answer, given its ids."""


@dataclass
class Heard:
    """What a client heard."""

    asked: float
    first: float = 0.0
    """Time of the first event with text."""
    ended: float = 0.0
    received: bytes = b""
    text: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    error: str = "the stream has no end"

    def take(self, event: bytes) -> None:
        if event == b"data: [DONE]":
            return
        chunk = json.loads(event.removeprefix(b"data: "))
        if "error" in chunk:
            self.error = str(chunk["error"])
            return
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                self.first = self.first or time.monotonic()
                self.text += text
            if choice.get("finish_reason"):
                self.error = ""


class Served(NamedTuple):
    """A server in a process of its own."""

    pid: int
    port: int
    secrets: Sequence[str]
    """A token of each principal."""
    model: str

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_rss_mb(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6

    def count(self, what: str) -> int:
        """Count descriptors (`fd`) or threads (`task`)."""
        return len(os.listdir(f"/proc/{self.pid}/{what}"))

    async def ask(self, job: Job, temperature: float = 0.8) -> Heard:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": job.question}],
            "temperature": temperature,
            "top_p": 0.95,
            "seed": job.seed,
            "max_tokens": job.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return await post(self.port, self.secrets[job.principal], json.dumps(body).encode())

    async def ask_all(self, jobs: Sequence[Job], temperature: float = 0.8) -> list[Heard]:
        return await asyncio.gather(*(self.ask(job, temperature) for job in jobs))


async def post(port: int, secret: str, body: bytes) -> Heard:
    """Send a request on a connection of its own, and listen to the end of the stream."""
    import h11

    heard = Heard(time.monotonic())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = h11.Connection(h11.CLIENT)
    headers = {
        "host": f"127.0.0.1:{port}",
        "authorization": f"Bearer {secret}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
    }
    request = h11.Request(method="POST", target="/v1/chat/completions", headers=list(headers.items()))
    for event in (request, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await listen(reader, connection, heard)
    heard.ended = time.monotonic()
    writer.close()
    await writer.wait_closed()
    return heard


async def listen(reader: asyncio.StreamReader, connection: Any, heard: Heard) -> None:
    import h11

    rest, status = b"", 0
    while not isinstance(event := connection.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(1 << 16))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            heard.received += event.data
            if status == 200:
                *events, rest = (rest + event.data).split(b"\n\n")
                for each in events:
                    heard.take(each)
    if status != 200:
        heard.error = f"{status} {heard.received[:200]!r}"


@contextmanager
def ours(scratch: Path, *flags: str) -> Iterator[Served]:
    """Run `ibidem serve`, warmed up."""
    from ibidem.serving.server.tokens import TokenStore

    state = Path(tempfile.mkdtemp(dir=scratch))
    with TokenStore(state) as tokens:
        secrets = [tokens.create(name_of(number), is_admin=False, days=1) for number in range(PRINCIPALS)]
    port = free_port()
    command = [sys.executable, "-m", "ibidem", "serve", "--port", str(port), "--state", str(state), *flags]
    with started(command, state / "said.txt", port) as pid:
        served = Served(pid, port, secrets, "ibidem")
        yield warm(served)


def warm(served: Served) -> Served:
    asyncio.run(served.ask_all([Job(number % PRINCIPALS, f"Word {number}?", number, 8) for number in range(SLOTS)]))
    return served


@contextmanager
def started(command: Sequence[str], said: Path, port: int) -> Iterator[int]:
    """Start a server, and wait until it is ready; end it at the end of the block."""
    with said.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        deadline = time.monotonic() + READY_S
        while not is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(said.read_text(errors="replace")[-4000:])
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def is_ready(port: int) -> bool:
    """Return whether a server answers, with anything but 503, which llama.cpp's says while it loads its model."""
    asked = http.client.HTTPConnection("127.0.0.1", port)
    try:
        asked.request("GET", "/health")
        return asked.getresponse().status != http.HTTPStatus.SERVICE_UNAVAILABLE
    except OSError:
        return False
    finally:
        asked.close()


def name_of(number: int) -> str:
    return f"principal-{number:02d}"


def canary_of(number: int) -> str:
    """Return a word of one principal's document alone."""
    return f"quokka{random.Random(number).getrandbits(48):012x}"


def make_index(scratch: Path) -> Path:
    """Index a document for each principal."""
    rules = []
    for number in range(PRINCIPALS):
        path = scratch / "docs" / name_of(number) / "allowance.md"
        path.parent.mkdir(parents=True)
        path.write_text(
            f"# Allowance\n\nThe monthly allowance of the team is {1000 + 7 * number} shillings, and its code is "
            f"{canary_of(number)}. It is paid on the first Monday of each month to all members of the team who have "
            "worked there for at least half a year. Whoever leaves the team returns what is left of the allowance "
            "within six weeks. Questions about it are answered by the office of the head of department.\n",
            encoding="utf-8",
        )
        rules.append({"path": f"{name_of(number)}/**", "read": [name_of(number)]})
    (scratch / "acl.yaml").write_text(json.dumps({"rules": rules}), encoding="utf-8")
    places = ["--docs", scratch / "docs", "--acl", scratch / "acl.yaml", "--output-dir", scratch / "index"]
    subprocess.run([sys.executable, "-m", "ibidem", "ground", "index", *places], check=True, stdout=subprocess.DEVNULL)
    return scratch / "index"


def jobs_of(questions: Sequence[str]) -> list[Job]:
    lengths = random.Random(0)
    return [
        Job(seed % PRINCIPALS, question, seed, lengths.randint(SHORTEST, LONGEST))
        for seed, question in enumerate(questions)
    ]


def clients(scratch: Path, checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from ibidem.modeling.checkpoint import TOKENIZER_DIR
    from ibidem.tokenization.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(checkpoint / TOKENIZER_DIR)
    index = make_index(scratch)
    jobs = jobs_of(pieces(tokenizer, CLIENTS, CLIENT_PROMPT))
    asked = jobs_of([f"What is the monthly allowance of the team in week {seed}?" for seed in range(CLIENTS)])
    own = ("--checkpoint", str(checkpoint))
    found = {
        "model": load(scratch, checkpoint, own, jobs, known_alone(tokenizer, jobs)),
        "documents": load(
            scratch, checkpoint, (*own, "--index", str(index)), asked, known_passages(tokenizer, index, asked)
        ),
        "quotes": quotes(scratch, index, asked),
    }
    return found, newcomer(scratch, own, jobs)


def known_alone(tokenizer: Any, jobs: Sequence[Job]) -> list[Known]:
    from ibidem.conversation import Turn
    from ibidem.tokenization.chat import ChatTemplate

    template = ChatTemplate(tokenizer)

    def text_of(ids: Sequence[int]) -> str:
        return "".join(each.text if each.kind == "text" else f" [{each.text}]" for each in said_of(tokenizer, ids))

    return [Known(template.prompt((Turn.of("user", job.question),)), text_of) for job in jobs]


def known_passages(tokenizer: Any, index: Path, jobs: Sequence[Job]) -> list[Known]:
    """Return the prompts with the passages that the principals may read, as `ibidem ground ask` finds them."""
    from ibidem.grounding.ask import prompt, retrieve
    from ibidem.grounding.config import WORD_SHARE, IndexChoice
    from ibidem.grounding.opening import opened
    from ibidem.grounding.support import WordCover
    from ibidem.serving.server.citations import CitedAnswer
    from ibidem.tokenization.chat import ChatTemplate

    template = ChatTemplate(tokenizer)

    def known(job: Job) -> Known:
        passages = retrieve(retriever, job.question, name_of(job.principal), 6, lambda _: True).passages
        assert [canary_of(job.principal) in passage.text for passage in passages] == [True]

        def text_of(ids: Sequence[int]) -> str:
            answer = CitedAnswer(job.question, passages, WordCover(WORD_SHARE), cites_with_parts=True)
            return "".join(answer.say(each).text for each in said_of(tokenizer, ids)) + answer.end().text

        return Known(template.prompt(prompt(job.question, passages, is_ours=True)), text_of)

    with opened(IndexChoice(index=index), for_others=True) as retriever:
        return [known(job) for job in jobs]


def said_of(tokenizer: Any, ids: Sequence[int]) -> Iterator[Any]:
    """Yield the parts of an answer as a speaker says them."""
    from ibidem.serving.server.own_model import _PartReader
    from ibidem.tokenization.chat import ChatTemplate

    reader = _PartReader(tokenizer, ChatTemplate(tokenizer).begins, ())
    for each in ids:
        yield from reader.read([each])
    yield from reader.end()


def load(
    scratch: Path, checkpoint: Path, flags: Sequence[str], jobs: Sequence[Job], known: Sequence[Known]
) -> dict[str, Any]:
    """Ask for all streams at once, in turns with the batch; compare what is said with what it must be."""
    write_jobs(scratch / "jobs.json", jobs, known)
    batches, runs, checks = [], [], []
    for turn in range(LOADS):
        made = run_batch(checkpoint, scratch / "jobs.json")
        batches.append(made["tokens"] / made["cpu_s"])
        expected = [each.text_of(ids) for each, ids in zip(known, made["ids"], strict=True)]
        with ours(scratch, *flags) as served:
            idle_mb = served.peak_rss_mb()
            heard, run = loaded(served, jobs)
            check = compared(jobs, heard, expected)
            if turn == LOADS - 1:
                check["as_alone"] = alone(served, jobs, heard)
            runs.append({**run, "peak_rss_mb": served.peak_rss_mb(), "peak_rss_mb_before": idle_mb})
            checks.append(check)
    speed, of_batch = statistics.median(run["tokens_per_cpu_s"] for run in runs), statistics.median(batches)
    found = {
        "tokens_per_cpu_s": {"batch": of_batch, "server": speed},
        "share_of_the_batch": speed / of_batch,
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
        "prompt_tokens": statistics.mean(len(each.ids) for each in known),
        "checks": checks,
        "runs": {"batch": batches, "server": runs},
    }
    show(found)
    return found


def loaded(served: Served, jobs: Sequence[Job]) -> tuple[list[Heard], dict[str, Any]]:
    before = served.cpu_s()
    heard = asyncio.run(served.ask_all(jobs))
    cpu_s = served.cpu_s() - before
    wall_s = max(each.ended for each in heard) - min(each.asked for each in heard)
    tokens = sum(each.usage.get("completion_tokens", 0) for each in heard)
    return heard, {"tokens_per_cpu_s": tokens / cpu_s, "tokens": tokens, "cpu_s": cpu_s, "wall_s": wall_s}


def compared(jobs: Sequence[Job], heard: Sequence[Heard], expected: Sequence[str]) -> dict[str, Any]:
    texts = [each.text for each in heard]
    return {
        "streams": len(heard),
        "errors": [each.error for each in heard if each.error],
        "as_the_batch": sum(map(str.__eq__, texts, expected)),
        "others_begin_alike_for": [  # characters, out of all
            (in_common(text, each), len(text)) for text, each in zip(texts, expected, strict=True) if text != each
        ],
        "mixed_up": sum(is_mixed_up(place, text, expected) for place, text in enumerate(texts)),
        "foreign_canaries": foreign(jobs, heard),
    }


def is_mixed_up(place: int, text: str, expected: Sequence[str]) -> bool:
    """Return whether an answer begins like another one rather than like its own, or continues like another one."""
    if text == expected[place]:
        return False
    common = [in_common(text, each) for each in expected]
    behind = text[common[place] :][:SAME]
    others = (each for number, each in enumerate(expected) if number != place)
    return max(common) > common[place] or (len(behind) == SAME and any(behind in each for each in others))


def in_common(one: str, other: str) -> int:
    """Return the number of characters with which both begin."""
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) > 1), len(one))


def foreign(jobs: Sequence[Job], heard: Sequence[Heard]) -> int:
    """Count the streams with a canary of another principal in any byte."""
    canaries = [canary_of(number).encode() for number in range(PRINCIPALS)]
    return sum(
        any(canary in each.received for number, canary in enumerate(canaries) if number != job.principal)
        for job, each in zip(jobs, heard, strict=True)
    )


def alone(served: Served, jobs: Sequence[Job], heard: Sequence[Heard]) -> dict[str, int]:
    """Ask for some of the answers once more, one at a time."""
    sample = random.Random(0).sample(range(len(jobs)), ALONE)
    same = sum(asyncio.run(served.ask(jobs[place])).text == heard[place].text for place in sample)
    return {"asked": ALONE, "same": same}


def write_jobs(path: Path, jobs: Sequence[Job], known: Sequence[Known]) -> None:
    from ibidem.modeling.generate import SEED_STRIDE

    rows = [
        {"ids": each.ids, "owner": name_of(job.principal), "seed": job.seed * SEED_STRIDE, "max_tokens": job.max_tokens}
        for job, each in zip(jobs, known, strict=True)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")


def run_batch(checkpoint: Path, jobs: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "batch", str(checkpoint), str(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return dict(json.loads(done.stdout))


def run_jobs(checkpoint: Path, path: Path) -> None:
    """Run jobs through a bare batch, in a process that is set up like that of the program."""
    from ibidem import runtime

    runtime.tune()
    import torch

    from ibidem.modeling.checkpoint import TOKENIZER_DIR, load_model
    from ibidem.modeling.matrices import FrozenDecoder
    from ibidem.tokenization.tokenizer import Tokenizer

    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(checkpoint / TOKENIZER_DIR)
    model = FrozenDecoder(load_model(checkpoint)[0])
    end_ids = {tokenizer.document_id, tokenizer.turn_end_id}
    jobs = json.loads(path.read_text(encoding="utf-8"))
    drawn_of(model, [{**job, "max_tokens": 8} for job in jobs[:SLOTS]], end_ids)
    started = time.process_time()
    drawn = drawn_of(model, jobs, end_ids)
    cpu_s = time.process_time() - started
    print(json.dumps({"cpu_s": cpu_s, "tokens": sum(map(len, drawn)), "ids": drawn}))


def drawn_of(model: Any, jobs: Sequence[dict[str, Any]], end_ids: set[int]) -> list[list[int]]:
    from ibidem.modeling.running_batch import Request, RunningBatch

    running = RunningBatch(model, slots=SLOTS)
    for job in jobs:
        running.admit(Request(job["ids"], 0.8, 0.95, [job["seed"]], owner=job["owner"], scope=job["owner"]))
    drawn: list[list[int]] = [[] for _ in jobs]
    while step := running.step():
        for number, (next_id, _) in step.items():
            drawn[number].append(next_id)
            if next_id in end_ids or len(drawn[number]) == jobs[number]["max_tokens"]:
                running.release(number)
    return drawn


def quotes(scratch: Path, index: Path, jobs: Sequence[Job]) -> dict[str, Any]:
    """Ask for all answers without a model: each quotes its principal's document."""
    with ours(scratch, "--index", str(index)) as served:
        heard = asyncio.run(served.ask_all(jobs))
    found = {
        "streams": len(heard),
        "errors": [each.error for each in heard if each.error],
        "own_canaries": sum(canary_of(job.principal) in each.text for job, each in zip(jobs, heard, strict=True)),
        "foreign_canaries": foreign(jobs, heard),
    }
    show(found)
    return found


def newcomer(scratch: Path, flags: Sequence[str], jobs: Sequence[Job]) -> dict[str, Any]:
    """Let the last principal ask while the others keep the server busy; then look for what is left of them."""
    crowd = [job._replace(principal=job.seed % (PRINCIPALS - 1)) for job in jobs[:CROWD]]
    asks = [Job(PRINCIPALS - 1, job.question, job.seed, NEWCOMER_TOKENS) for job in jobs[-NEWCOMERS:]]
    with ours(scratch, *flags) as served:
        before = counts(served)
        found = asyncio.run(joined(served, crowd, asks))
        found |= {"before": before, "after": counts(served), "slots_after": slots_free(served)}
    show(found)
    return found


def counts(served: Served) -> dict[str, int]:
    time.sleep(1)  # until the last connections are closed
    return {"descriptors": served.count("fd"), "threads": served.count("task")}


async def joined(served: Served, crowd: Sequence[Job], asks: Sequence[Job]) -> dict[str, Any]:
    streams = [asyncio.create_task(served.ask(job)) for job in crowd]
    while sum(stream.done() for stream in streams) < SLOTS:  # noqa: ASYNC110 - until slots become free one by one
        await asyncio.sleep(0.01)
    began = time.monotonic()
    newcomers = [await served.ask(job) for job in asks]
    until = time.monotonic()
    still_open = sum(not stream.done() for stream in streams)
    heard = [await stream for stream in streams]
    interval = (until - began) / sum(began < each.ended <= until for each in heard)
    waited = [each.first - each.asked for each in newcomers]
    shares = [each / (PRINCIPALS * interval) for each in waited]
    return {
        "errors": [each.error for each in (*heard, *newcomers) if each.error],
        "streams_open_behind_the_last_newcomer": still_open,
        "s_between_slots": interval,
        "fair_share_s": PRINCIPALS * interval,
        "first_come_share_s": (CROWD - SLOTS + 1) * interval,
        "s_to_the_first_token": waited,
        "of_the_fair_share": {"median": statistics.median(shares), "worst": max(shares)},
        "slots_waited_for": {"median": statistics.median(waited) / interval, "worst": max(waited) / interval},
    }


def slots_free(served: Served) -> int:
    """Return how many short questions are answered at the same time: all have begun before the first one ends."""
    jobs = [Job(number % PRINCIPALS, f"Word {number}?", number, LONGEST) for number in range(SLOTS)]
    heard = asyncio.run(served.ask_all(jobs))
    first_end = min(each.ended for each in heard)
    return sum(each.first < first_end and not each.error for each in heard)


def peers(scratch: Path, trained: Path, python: str) -> dict[str, Any]:
    """Measure servers with the same weights, in turns."""
    from ibidem.modeling.checkpoint import TOKENIZER_DIR
    from ibidem.runs import newest
    from ibidem.tokenization.tokenizer import Tokenizer

    checkpoint = newest(make_llama(scratch, trained))
    ibidem("export", "--checkpoint", checkpoint, "--output-dir", scratch / "hf")
    llama_cpp = ["--format", "gguf", "--llama-cpp", python]
    ibidem("export", "--checkpoint", checkpoint, *llama_cpp, "--output-dir", scratch / "gguf")
    questions = pieces(Tokenizer.load(checkpoint / TOKENIZER_DIR), max(PEER_STREAMS), CLIENT_PROMPT)
    jobs = [Job(number % PRINCIPALS, text, number, PEER_TOKENS) for number, text in enumerate(questions)]
    runs: dict[str, dict[int, list[float]]] = {
        name: {streams: [] for streams in PEER_STREAMS} for name in ("ibidem", *PEERS)
    }
    texts: dict[str, list[str]] = {}
    for _ in range(PEER_RUNS):
        with ours(scratch, "--checkpoint", str(checkpoint)) as served:
            texts["ibidem"] = peer_run(served, jobs, runs["ibidem"])
        for name in PEERS:
            with theirs(scratch, python, name) as served:
                texts[name] = peer_run(served, jobs, runs[name])
    return summary(runs, texts)


def make_llama(scratch: Path, trained: Path) -> Path:
    """Import a Llama with random weights and byte-level BPE, which llama.cpp has too; some of its rows are spare."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    own = make_checkpoint(scratch / "step-000001", trained, qk_norm=False)
    ibidem("export", "--checkpoint", own, "--output-dir", scratch / "own")
    folder = scratch / "llama"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(scratch / "own" / name, folder)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [path.read_text(encoding="utf-8") for path in sorted((scratch / "corpus").iterdir())],
        trainers.BpeTrainer(vocab_size=SHAPE["vocab_size"] - SPARE_IDS, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}\n')
    ibidem("import", "--from", folder, "--license", "MIT", "--output-dir", scratch / "imported")
    return scratch / "imported"


def ibidem(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "ibidem", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def theirs(scratch: Path, python: str, name: str) -> Iterator[Served]:
    port, export = free_port(), scratch / "hf"
    if name == "llama.cpp":
        command = [python, "-c", LLAMA_CPP, str(scratch / "gguf" / "model.gguf"), str(port)]
    else:
        flags = ["--continuous-batching"] if name.endswith("continuous batching") else []
        place = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        command = [python, "-m", "transformers.cli.transformers", "serve", str(export), *place, *flags]
    with started(command, scratch / "peer.txt", port) as pid:
        yield warm(Served(pid, port, ["none"] * PRINCIPALS, str(export)))


def peer_run(served: Served, jobs: Sequence[Job], runs: dict[int, list[float]]) -> list[str]:
    """Measure a server at all numbers of streams; return what it said at the largest one."""
    for streams, speeds in runs.items():
        before, heard = served.cpu_s(), list[Heard]()
        for place in range(0, max(streams, LEAST_ANSWERS), streams):
            heard += asyncio.run(served.ask_all(jobs[place : place + streams], temperature=0.0))
        cpu_s = served.cpu_s() - before
        assert not any(each.error for each in heard), [each.error for each in heard]
        speeds.append(sum(each.usage["completion_tokens"] for each in heard) / cpu_s)
    return [each.text for each in heard]


def summary(runs: dict[str, dict[int, list[float]]], texts: dict[str, list[str]]) -> dict[str, Any]:
    speeds = {
        name: {streams: statistics.median(each) for streams, each in by_streams.items()}
        for name, by_streams in runs.items()
    }
    found = {
        "tokens_per_cpu_s": speeds,
        "ours_over_theirs": {
            name: {streams: speeds["ibidem"][streams] / speed for streams, speed in speeds[name].items()}
            for name in PEERS
        },
        "same_answers_of_64": {name: sum(map(str.__eq__, texts["ibidem"], texts[name])) for name in PEERS},
        "runs": runs,
    }
    show(found)
    return found


def write(path: Path, result: dict[str, Any]) -> None:
    from importlib.metadata import version

    whole = {
        **result,
        "command": f"python benchmarks/serving.py PYTHON_WITH_PEERS {path.as_posix()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS=1 for servers and batches",
        "versions": {name: version(name) for name in ("torch", "starlette", "uvicorn", "transformers")},
        "shape": SHAPE,
        "in_process_streams": {"streams": STREAMS, "prompt_tokens": PROMPT, "new_tokens": NEW},
        "bars": BARS,
    }
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
