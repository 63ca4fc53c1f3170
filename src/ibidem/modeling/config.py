"""The shape of a decoder, and its arithmetic. Imports no torch, so that `ibidem plan` is fast."""

import json
import math
import runpy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ibidem import artifacts
from ibidem.config import build, configuration, shipped
from ibidem.errors import ConfigError
from ibidem.runs import newest

Positive = Annotated[int, Field(ge=1)]
Above = Annotated[float, Field(gt=0)]
RARE = frozenset({"head_dim", "rope_scaling"})
"""Keys of a shape that are written only if they are set."""


@configuration
class RopeScaling:
    """How rotary frequencies are scaled, so that a model reads longer texts than it was first trained on."""

    kind: Literal["linear", "llama3", "yarn"]
    """Which pairs are slowed down: all alike, or the slow ones alone (see `ibidem.modeling.rope`)."""
    factor: Above
    """How many times more slowly they turn."""
    original_context: Positive | None = None
    """Maximum sequence length of the first training (llama3, yarn)."""
    low_frequency: Above = 1.0
    """Pairs that turn fewer times than this within the original context are slowed down (llama3)."""
    high_frequency: Above = 4.0
    """Pairs that turn more often than this stay as they are (llama3)."""
    fast_turns: Above = 32.0
    """Pairs that turn more often than this within the original context stay as they are (yarn: beta_fast)."""
    slow_turns: Above = 1.0
    """Pairs that turn fewer times than this are slowed down (yarn: beta_slow)."""
    truncate: bool = True
    """Whether these limits are rounded to whole pairs (yarn)."""
    attention_factor: Above | None = None
    """By how much queries and keys are multiplied; by default 0.1 ln(factor) + 1 (yarn)."""

    @model_validator(mode="after")
    def _check_limits(self) -> "RopeScaling":
        if self.kind != "linear" and self.original_context is None:
            raise ValueError(f"original_context is missing; {self.kind} needs it")
        if self.low_frequency >= self.high_frequency:
            raise ValueError("low_frequency is not below high_frequency")
        return self

    @property
    def size(self) -> float:
        """Length of a vector of length 1 after its rotation."""
        if self.kind != "yarn":
            return 1.0
        return self.attention_factor or (0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0)


@configuration
class ModelConfig:
    """Shape of the decoder.

    One letter per axis throughout the project: B batch, T tokens, D width, H heads, G key-value heads, K head width,
    F feed-forward, V vocabulary.
    """

    vocab_size: Positive
    """V: number of token ids."""
    width: Positive
    """D: width of the residual stream."""
    layers: Positive
    """Number of blocks."""
    heads: Positive
    """H: number of attention heads."""
    head_dim: Positive | None = None
    """K: width of a head. By default width / heads."""
    kv_heads: Positive | None = None
    """G: number of key-value heads; fewer than `heads` is grouped-query attention. By default as many as `heads`."""
    ffn_hidden: Positive
    """F: hidden width of the feed-forward."""
    context: Positive = 8192
    """T: maximum sequence length."""
    rope_theta: Above = 500_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """How they are scaled. By default they are not."""
    norm_eps: Above = 1e-5
    """Epsilon of the RMS norms."""
    qk_norm: bool = True
    """Normalize queries and keys per head (Qwen3), or not (Llama)."""
    tied: bool = True
    """Use the embedding matrix as the output matrix too."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability of the blocks' outputs, in training."""

    @model_validator(mode="after")
    def _check_heads(self) -> "ModelConfig":
        if self.head_dim is None and self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        if self.head_width % 2:
            raise ValueError(f"head width {self.head_width} is odd; rotary positions need pairs")
        if self.heads % self.num_kv_heads:
            raise ValueError(f"kv_heads={self.kv_heads} does not divide heads={self.heads}")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what most shapes do not have: manifests of a shape are equal whether or not they knew of it."""
        tree: dict[str, Any] = serialize(self)
        return {name: value for name, value in tree.items() if value is not None or name not in RARE}

    @property
    def head_width(self) -> int:
        """K."""
        return self.width // self.heads if self.head_dim is None else self.head_dim

    @property
    def query_width(self) -> int:
        """H * K: width of the queries of a token, and of what its heads read."""
        return self.heads * self.head_width

    @property
    def num_kv_heads(self) -> int:
        """G."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def block_parameters(self) -> int:
        """Number of parameters of one block."""
        attention = 2 * self.width * self.query_width + 2 * self.width * self.num_kv_heads * self.head_width
        norms = 2 * self.width + (2 * self.head_width if self.qk_norm else 0)
        return attention + 3 * self.width * self.ffn_hidden + norms

    @property
    def parameters(self) -> int:
        """Number of all parameters.

        >>> ModelConfig(vocab_size=65536, width=1536, layers=24, heads=16, ffn_hidden=3072).parameters
        666974208
        """
        embeddings = self.vocab_size * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * self.block_parameters + self.width

    def flops_per_token(self, context: int, *, causal: bool = True) -> int:
        """Count the floating-point operations of training on one token, forward and backward.

        Six for each parameter of a matrix (the embedding counts once, as the output matrix), plus the attention's
        12 * layers * H * K * context, halved if only the causal half is counted. Published MFU counts all of it.
        Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
        """
        norms = self.layers * (self.block_parameters - self.block_matrices) + self.width
        embedding_lookup = 0 if self.tied else self.vocab_size * self.width
        attention = 12 * self.layers * self.query_width * context
        return 6 * (self.parameters - norms - embedding_lookup) + (attention // 2 if causal else attention)

    def kv_cache_bytes(self, tokens: int, *, bytes_per_value: int = 2) -> int:
        """Return the size of the keys and values of a sequence of `tokens`."""
        return 2 * self.layers * self.num_kv_heads * self.head_width * tokens * bytes_per_value

    @property
    def block_matrices(self) -> int:
        """Number of parameters of one block's matrices: all but the norms."""
        return self.block_parameters - 2 * self.width - (2 * self.head_width if self.qk_norm else 0)


def _of_checkpoint(folder: Path) -> ModelConfig:
    artifact = artifacts.load(folder)
    if "vocab_size" not in (tree := artifact.config.get("model", {})):
        raise ConfigError(f"model {folder}: {artifacts.with_article(artifact.kind)}, and no checkpoint")
    return build(ModelConfig, tree, origin=f"{folder}: ")


def read_model_config(path: Path) -> ModelConfig:
    """Read a shape: `MODEL` of a Python file such as configs/model/base.py, a JSON file, or the name of a shipped one.

    A checkpoint or a run has the shape of its model.

    >>> read_model_config(Path("tiny")).parameters
    6623232

    Raises:
        ConfigError: there is no such file, or it does not define a shape.
    """
    names = [each.stem for each in sorted(shipped("model").glob("*.py"))]
    if str(path) in names and not path.exists():
        path = shipped(f"model/{path}.py")
    if path.is_dir():
        return _of_checkpoint(newest(path))
    if path.suffix not in {".py", ".json"}:
        raise ConfigError(f"model {path}: no .py file that sets MODEL, no .json file, and none of {', '.join(names)}")
    try:
        if path.suffix == ".json":
            return build(ModelConfig, json.loads(path.read_text(encoding="utf-8")), origin=f"{path}: ")
        model = runpy.run_path(str(path)).get("MODEL")
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"model {path}: no such file; configs/model/base.py is an example") from None
    except AssertionError:
        raise ConfigError(
            f"model {path}: an assert in it fails; if the shape changed, correct its number too"
        ) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a file of the user's own ran
        raise ConfigError(f"model {path}: {type(error).__name__}: {error}") from None
    if not isinstance(model, ModelConfig):
        raise ConfigError(f"model {path}: it does not set MODEL = ModelConfig(...)")
    return model
