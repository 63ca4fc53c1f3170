"""Configurations of the serving commands. Imports no torch, so that flags are parsed at once."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ibidem.attribution.config import PolicyConfig
from ibidem.config import POSITIONAL, configuration
from ibidem.grounding.config import HeadChoice
from ibidem.records import FlashAttention

TEMPERATURE, TOP_P = 0.8, 0.95
"""Of sampling, unless a command or a request says otherwise."""
DEFAULT_TOKENS = 128
STATE = Path("artifacts/server")
Positive = Annotated[int, Field(ge=1)]


def _checked_network(address: str) -> str:
    ip_network(address)
    return address


@configuration
class GenerateConfig:
    """Complete prompts with a checkpoint."""

    checkpoint: Path
    """A checkpoint, such as artifacts/checkpoints/step-025000; or the folder of a run, for its newest one."""
    prompt: Annotated[tuple[str, ...], Field(min_length=1)]
    """Start of a document, or with --chat a question; repeat the flag for a batch."""
    chat: bool = False
    """Ask each prompt as a user, for checkpoints of `ibidem sft` and later ones, instead of continuing it."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of tokens to generate; by default 128, or as many as fit into the model's context."""
    temperature: Annotated[float, Field(ge=0)] = TEMPERATURE
    """Sampling temperature; 0 takes the most likely token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = TOP_P
    """Nucleus sampling: draw from the most likely tokens that together have this probability."""
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Random seed; same seed, same text."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """End the text before the first of these strings."""
    weights: Literal["float32", "bfloat16", "int8"] | None = None
    """Precision of the matrices; by default float32, on a GPU bfloat16. int8, for CPUs, is fastest."""
    flash_attention: FlashAttention | None = None
    """Attention on a GPU by FlashAttention-3 or 4, whose package is installed; by default by torch's own kernels."""
    cuda_graphs: bool = False
    """On a GPU, record the steps as CUDA graphs, and replay them: less work for the host between two steps."""
    output: Path | None = None
    """Write JSON lines to this file instead of showing the text."""
    attribute: Path | None = None
    """Index of `ibidem attribute build`: tell which training documents each text repeats."""

    @model_validator(mode="after")
    def _answers_end_by_themselves(self) -> "GenerateConfig":
        if self.chat and self.stop:
            raise ValueError("stop: with chat an answer ends where the model ends it; leave one of them out")
        if self.flash_attention is not None and self.weights == "float32":
            raise ValueError("flash_attention computes in 16 bits: give weights bfloat16")
        return self


@configuration
class ReportConfig:
    """Write one self-contained HTML page about a run: its data, tokenizer, training, samples and lineage."""

    run: Path
    """The run's folder, as `ibidem train` wrote it."""
    output: Path
    """The HTML file to write."""
    evaluation: tuple[Path, ...] = ()
    """Results of `ibidem evaluate` to include: JSON files, or folders with results.json or dashboard.json."""
    answers: tuple[Path, ...] = ()
    """Answers to include that `ibidem ground ask --json` printed, of one principal or several: whoever reads the page
    reads them."""
    head: Path | None = None
    """Folder of a run of `ibidem train-head`, whose held-out questions are shown."""
    title: str = "ibidem report"
    """Heading of the page."""


@configuration
class LimitsConfig:
    """What one request, and one token, may cost a server; more is refused."""

    body_bytes: Positive = 1 << 20
    """Maximum size of a request."""
    json_depth: Positive = 16
    """Maximum depth of lists and objects in one another."""
    messages: Positive = 256
    """Maximum number of messages of a conversation."""
    max_tokens: Positive = 2048
    """Maximum length of an answer, in tokens."""
    stop_strings: Positive = 16
    """Maximum number of stop strings."""
    open_streams: Positive = 32
    """Maximum number of requests of a token at the same time."""
    requests_per_minute: Positive = 600
    """Maximum number of requests of a token in a minute."""
    head_s: Annotated[float, Field(gt=0)] = 10.0
    """Maximum time in which a client sends the head of a request, and then its body, in seconds."""
    stalled_s: Annotated[float, Field(gt=0)] = 30.0
    """A client that takes nothing of its answer for so long is disconnected, in seconds."""
    connections: Positive = 2048
    """Maximum number of connections."""


@configuration
class ServeConfig(HeadChoice):
    """Serve a model, with documents or without, to OpenAI's clients, an editor and a browser."""

    checkpoint: Path | None = None
    """A checkpoint, or the folder of a run; empty, with an index: quotes of the documents are the answers."""
    upstream: str | None = None
    """Instead of a checkpoint, the address of a server with OpenAI's API, such as http://127.0.0.1:8080/v1."""
    upstream_model: str | None = None
    """Model of the upstream server; empty: the first one that it lists."""
    upstream_key: Path | None = None
    """File with the key for the upstream server."""
    name: str = "ibidem"
    """Id under which the model is listed."""
    host: str = "127.0.0.1"
    """Address to listen on. One that others reach needs tokens before, and should be behind a TLS proxy."""
    port: Annotated[int, Field(ge=0, lt=1 << 16)] = 8000
    """Port to listen on; 0: any free one."""
    allowed_host: tuple[str, ...] = ()
    """Names under which the server is called besides its address, such as assistant.example.com."""
    trusted_proxy: tuple[Annotated[str, AfterValidator(_checked_network)], ...] = ()
    """Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, such as 127.0.0.1."""
    state: Path = STATE
    """Folder of tokens, sessions and ratings."""
    principal: str | None = None
    """Principal of the token that the first start makes; empty: the user who runs the program."""
    k: Positive = 6
    """Number of passages that an answer may cite."""
    review: tuple[Path, ...] = ()
    """Folders of forms to rate in the browser, as `ibidem ground review` wrote them."""
    slots: Positive = 64
    """Number of answers that are generated at the same time; others wait."""
    weights: Literal["float32", "bfloat16", "int8"] | None = None
    """Precision of the matrices; by default float32, on a GPU bfloat16. int8, for CPUs, is fastest."""
    limits: LimitsConfig = LimitsConfig()
    """What one request, and one token, may cost."""
    attribution: PolicyConfig = PolicyConfig()
    """What happens to the spans of an answer that the model's training documents contain."""

    @model_validator(mode="after")
    def _something_answers(self) -> "ServeConfig":
        if self.checkpoint is not None and self.upstream is not None:
            raise ValueError("checkpoint: with upstream the answers come from there; leave one of them out")
        if self.checkpoint is None and self.upstream is None and self.index is None and self.store is None:
            raise ValueError("checkpoint: missing; give a checkpoint, an upstream, or an index that is quoted")
        return self


@configuration
class TokenCreateConfig:
    """Make a token, which is shown once."""

    principal: str = Field(min_length=1)
    """Who calls with it."""
    admin: bool = False
    """Whether its owner may read the audit log in the browser."""
    days: Annotated[float, Field(gt=0, le=36_500)] = 90
    """Number of days until it expires."""
    state: Path = STATE
    """Folder of the server's state."""


@configuration
class TokenListConfig:
    """List the tokens of a server: id, principal, when they were made and when they expire."""

    state: Path = STATE
    """Folder of the server's state."""


@configuration
class TokenRevokeConfig:
    """Revoke a token: what is being sent with it ends at once."""

    token: Annotated[str, POSITIONAL] = Field()
    """Its id, as `ibidem token list` shows it."""
    state: Path = STATE
    """Folder of the server's state."""


@configuration
class ChatConfig:
    """Chat with a checkpoint in the terminal."""

    checkpoint: Path
    """A checkpoint of `ibidem sft` or later, or the folder of a run."""
    max_tokens: Positive | None = None
    """Maximum length of an answer, in tokens; by default 512, or as many as fit into the model's context."""
    temperature: Annotated[float, Field(ge=0)] = TEMPERATURE
    """Sampling temperature; 0 takes the most likely token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = TOP_P
    """Nucleus sampling: draw from the most likely tokens that together have this probability."""
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Random seed; same seed and same words, same answers."""
    weights: Literal["float32", "bfloat16", "int8"] | None = None
    """Precision of the matrices; by default float32, on a GPU bfloat16. int8, for CPUs, is fastest."""


@configuration
class ExportConfig:
    """Write a checkpoint as a folder that transformers, lm-evaluation-harness, vLLM or llama.cpp open by themselves."""

    checkpoint: Path
    """A checkpoint, or the folder of a run, for its newest one."""
    output_dir: Path
    """Folder of the export, an artifact."""
    format: Literal["hf", "gguf"] = "hf"
    """hf: Qwen3 or Llama of transformers, with its tokenizer and its chat template; gguf: one file for llama.cpp, of a
    checkpoint with an imported tokenizer of byte-level BPE."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Precision of the weights; by default the checkpoint's."""
    llama_cpp: Path | None = None
    """A Python that has llama-cpp-py-sync, to compare a GGUF file; by default the one that runs ibidem."""
    head: Path | None = None
    """A grounding head of `ibidem train-head` to put beside the model."""
    evaluation: tuple[Path, ...] = ()
    """Results of `ibidem evaluate` of this checkpoint for the model card: JSON files, or folders."""
    decision: Path | None = None
    """Decision of `ibidem gate` about this checkpoint, for the model card."""


@configuration
class ImportConfig:
    """Make a checkpoint from a Llama or Qwen3 of Hugging Face: tokenizer, weights, and their license."""

    from_: Path
    """Folder of the model: config.json, safetensors, tokenizer.json and tokenizer_config.json."""
    output_dir: Path
    """Folder of a run, which gets the checkpoint checkpoints/step-000000."""
    license: str | None = None
    """License of the weights, such as Apache-2.0, instead of the one that the folder states."""
