"""The shape of a decoder, and its arithmetic. Imports no torch, so that `ibidem plan` is fast."""

import json
import runpy
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from ibidem.config import build, configuration, shipped
from ibidem.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]


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
    """H: number of attention heads; the head width K is width / heads."""
    kv_heads: Positive | None = None
    """G: number of key-value heads; fewer than `heads` is grouped-query attention. By default as many as `heads`."""
    ffn_hidden: Positive
    """F: hidden width of the feed-forward."""
    context: Positive = 8192
    """T: maximum sequence length."""
    rope_theta: float = 500_000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-5
    """Epsilon of the RMS norms."""
    qk_norm: bool = True
    """Normalize queries and keys per head (Qwen3), or not (Llama)."""
    tied: bool = True
    """Use the embedding matrix as the output matrix too."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability of the blocks' outputs, in training."""

    @model_validator(mode="after")
    def _check_heads(self) -> "ModelConfig":
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        if self.head_width % 2:
            raise ValueError(f"head width {self.head_width} (width / heads) is odd; rotary positions need pairs")
        if self.heads % self.num_kv_heads:
            raise ValueError(f"kv_heads={self.kv_heads} does not divide heads={self.heads}")
        return self

    @property
    def head_width(self) -> int:
        """K."""
        return self.width // self.heads

    @property
    def num_kv_heads(self) -> int:
        """G."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def block_parameters(self) -> int:
        """Number of parameters of one block."""
        attention = 2 * self.width * self.width + 2 * self.width * self.num_kv_heads * self.head_width
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
        12 * layers * width * context, halved if only the causal half is counted. Published MFU counts all of it.
        Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
        """
        norms = self.layers * (self.block_parameters - self.block_matrices) + self.width
        embedding_lookup = 0 if self.tied else self.vocab_size * self.width
        attention = 12 * self.layers * self.width * context
        return 6 * (self.parameters - norms - embedding_lookup) + (attention // 2 if causal else attention)

    def kv_cache_bytes(self, tokens: int, *, bytes_per_value: int = 2) -> int:
        """Return the size of the keys and values of a sequence of `tokens`."""
        return 2 * self.layers * self.num_kv_heads * self.head_width * tokens * bytes_per_value

    @property
    def block_matrices(self) -> int:
        """Number of parameters of one block's matrices: all but the norms."""
        return self.block_parameters - 2 * self.width - (2 * self.head_width if self.qk_norm else 0)


def read_model_config(path: Path) -> ModelConfig:
    """Read a shape: `MODEL` of a Python file such as configs/model/base.py, a JSON file, or the name of a shipped one.

    >>> read_model_config(Path("tiny")).parameters
    6623232

    Raises:
        ConfigError: there is no such file, or it does not define a shape.
    """
    names = [each.stem for each in sorted(shipped("model").glob("*.py"))]
    if str(path) in names and not path.exists():
        path = shipped(f"model/{path}.py")
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
