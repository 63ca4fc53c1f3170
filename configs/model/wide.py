"""2.92 B parameters: 24 layers of the literal residual width 3072, feed-forward 8192. The same code as base."""

from ibidem.modeling.config import ModelConfig

MODEL = ModelConfig(vocab_size=65_536, width=3072, layers=24, heads=16, ffn_hidden=8192, context=8192)

assert MODEL.parameters == 2_919_395_328
