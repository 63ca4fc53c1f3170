"""How much memory of a GPU a training needs: arithmetic on the shape, without torch.

weights, gradients, optimizer all the time; divided with FSDP
16-bit casts of the weights   from a block's forward pass to its backward pass; with FSDP the gathered blocks
what the blocks keep          grows until the loss is computed, then shrinks: the peak is between
the loss                      gradients of hidden states and output matrix, and the logits of one chunk
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ibidem.modeling.config import ModelConfig

MASTER, GRADIENT, MEAN, WIDE = 4, 4, 4, 4
"""Bytes of a parameter, of its gradient, of a running mean of its gradient, and of a value in float32."""
CHUNK_TOKENS = 2048
"""Tokens whose logits the loss computes at once on an accelerator."""


class Kept(NamedTuple):
    """Something that a block keeps for its backward pass, of one token."""

    what: str
    values: int
    """Values in the precision that the block computes in."""
    wide: int = 0
    """Values in float32, whatever the precision."""

    def bytes_of(self, value_bytes: int) -> int:
        """Return its size."""
        return self.values * value_bytes + self.wide * WIDE


@dataclass(frozen=True)
class Setting:
    """How one process trains."""

    tokens: int
    """Of a micro batch."""
    value_bytes: int = 2
    """Of the precision that blocks compute in."""
    compiled: bool = False
    checkpointing: bool = False
    sharded_over: int | None = None
    """Number of GPUs that share the states (FSDP)."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    accumulates: bool = True
    """Whether a step has several micro batches."""
    replicated: bool = False
    """Whether other processes have the same states, and gradients are exchanged in buckets (DDP)."""


class Need(NamedTuple):
    """Bytes on one GPU at the peak, part by part."""

    states: float
    """Weights, gradients and optimizer; with DDP also the buckets."""
    casts: int
    """Weights in 16 bit."""
    gathered: int
    """With FSDP: two blocks and the embedding as a whole, a block's gradient, and gradients that accumulate."""
    activations: int
    loss: int
    """Hidden states, their gradient, and that of the output matrix."""
    passing: int
    """The loss's logits and sums, or what one block's backward pass allocates, whichever is larger."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


def need(shape: ModelConfig, setting: Setting) -> Need:
    """Return what a training needs."""
    return Need(
        states=_state_bytes(shape, setting),
        casts=_cast_bytes(shape, setting),
        gathered=_gathered_bytes(shape, setting),
        activations=activation_bytes(shape, setting),
        loss=_loss_bytes(shape, setting),
        passing=max(_chunk_bytes(shape, setting), _backward_bytes(shape, setting)),
    )


def kept_by_block(shape: ModelConfig, *, compiled: bool, value_bytes: int) -> list[Kept]:
    """List what a block keeps of a token; weights and positions are not counted.

    An eager block computes the feed-forward's product again, a compiled one keeps it. In float32 the compiler keeps
    queries and keys twice: beside the product of which values are a part.
    """
    D, F, H, G = shape.width, shape.ffn_hidden, shape.heads, shape.num_kv_heads
    q, kv = shape.query_width, G * shape.head_width
    again = q + kv if compiled and value_bytes == WIDE and shape.qk_norm else 0
    mask = 2 * D if shape.dropout else 0
    return [
        Kept("input of the attention's norm, and its scale", D, wide=1),
        Kept("output of the norm, which only a compiled block keeps", D if compiled else 0),
        Kept("queries, keys and values", q + 2 * kv),
        Kept("scales of the norms of queries and keys", 0, wide=H + G if shape.qk_norm else 0),
        Kept("queries and keys, as the compiler copies them", again),
        Kept("rotated queries and keys, if they do not replace those", q + kv if shape.qk_norm else 0),
        Kept("output of the attention, and its normalizers", q, wide=H),
        Kept("input of the feed-forward's norm, and its scale", D, wide=1),
        Kept("output of the norm, which only a compiled block keeps", D if compiled else 0),
        Kept("gate and up", 2 * F),
        Kept("their product, which only a compiled block keeps", F if compiled else 0),
        Kept("masks of the dropouts", mask),
    ]


def activation_bytes(shape: ModelConfig, setting: Setting) -> int:
    """Return the bytes that the blocks keep for the backward pass.

    With checkpointing each block keeps its input, and one block at a time is computed again.
    """
    size = setting.value_bytes
    block = sum(part.bytes_of(size) for part in kept_by_block(shape, compiled=setting.compiled, value_bytes=size))
    per_token = shape.layers * shape.width * size + block if setting.checkpointing else shape.layers * block
    return setting.tokens * per_token


def learner_bytes(shape: ModelConfig, setting: Setting) -> int:
    """Return the bytes of all weights, gradients and running means.

    AdamW keeps two running means of each parameter; Muon one of the blocks' matrices, and AdamW's two of the rest.
    """
    without_second = shape.layers * shape.block_matrices if setting.optimizer == "muon" else 0
    return shape.parameters * (MASTER + GRADIENT + 2 * MEAN) - without_second * MEAN


def _state_bytes(shape: ModelConfig, setting: Setting) -> float:
    buckets = GRADIENT * shape.parameters if setting.replicated else 0
    return (learner_bytes(shape, setting) + buckets) / (setting.sharded_over or 1)


def _cast_bytes(shape: ModelConfig, setting: Setting) -> int:
    if setting.value_bytes == WIDE or setting.sharded_over:
        return 0
    blocks = 1 if setting.checkpointing else shape.layers
    return setting.value_bytes * (_root_parameters(shape) + blocks * shape.block_parameters)


def _gathered_bytes(shape: ModelConfig, setting: Setting) -> int:
    """One block computes while the next is gathered; gradients are reduced in float32, at a step's last micro batch."""
    if not setting.sharded_over:
        return 0
    gathered = setting.value_bytes * (2 * shape.block_parameters + _root_parameters(shape))
    reduced = (setting.value_bytes + GRADIENT) * shape.block_parameters
    return gathered + reduced + (GRADIENT * shape.parameters if setting.accumulates else 0)


def _root_parameters(shape: ModelConfig) -> int:
    return shape.parameters - shape.layers * shape.block_parameters


def _loss_bytes(shape: ModelConfig, setting: Setting) -> int:
    """Count the last norm's input and output, the gradient of the hidden states, and that of the output matrix."""
    return setting.value_bytes * (3 * setting.tokens * shape.width + shape.vocab_size * shape.width)


def _chunk_bytes(shape: ModelConfig, setting: Setting) -> int:
    """Count a chunk's logits, in float32 and as they enter products, and the sums of the matrix's gradient."""
    narrow = 0 if setting.value_bytes == WIDE else setting.value_bytes
    logits = min(setting.tokens, CHUNK_TOKENS) * shape.vocab_size * (WIDE + narrow)
    return logits + shape.vocab_size * shape.width * (WIDE + setting.value_bytes)


def _backward_bytes(shape: ModelConfig, setting: Setting) -> int:
    """Count the gradients inside the feed-forward, where a block's backward pass is widest; a compiled one fuses."""
    factors = 3 if setting.compiled else 6
    return setting.tokens * setting.value_bytes * (factors * shape.ffn_hidden + shape.width)
