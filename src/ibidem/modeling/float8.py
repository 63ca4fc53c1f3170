"""Products of matrices in float8, as torchao computes them in training.

    forward     x        (N, D) -> e4m3     weight (O, D) -> e4m3     x @ weight.T       (N, O) in the dtype of x
    backward    grad     (N, O) -> e5m2     weight        -> e4m3     grad @ weight      (N, D)
                grad.T                      x             -> e4m3     grad.T @ x         (O, D)

Each operand is scaled so that its largest number, or with `rowwise` the largest of each row, becomes the largest that
float8 has; `rowwise` takes e4m3 for gradients too, and `rowwise_with_gw_hp` computes the weight's gradient in the dtype
of x. Weights, their gradients and what a block keeps have the dtypes that they have without.

Source: Micikevicius et al. 2022, arXiv:2209.05433.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from ibidem.records import Float8Recipe

Product = Callable[[Tensor, Tensor], Tensor]
"""Returns x @ weight.T for x and weight of the same dtype."""
MULTIPLE = 16
"""What divides every size of the operands, on a GPU."""
CAPABILITY = (8, 9)
"""Of the first GPUs that multiply in float8."""


def product(recipe: Float8Recipe, *, emulate: bool = False) -> Product:
    """Return the product of a recipe; torchao prepares torch's compiler for it.

    Args:
        recipe: how operands are scaled.
        emulate: multiply the rounded numbers in float32, on any device.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    from torchao.float8.float8_linear import matmul_with_hp_or_float8_args

    config = replace(Float8LinearConfig.from_recipe_name(recipe), emulate=emulate)
    settings = convert_to_float8_training(
        nn.Linear(MULTIPLE, MULTIPLE, bias=False, device="meta"), config=config
    ).linear_mm_config

    def multiplied(x: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = matmul_with_hp_or_float8_args.apply(x, weight.t(), settings, config)
        return result

    return multiplied
