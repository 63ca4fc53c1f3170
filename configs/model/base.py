"""667 M parameters: 24 layers of width 1536 with 16 heads, feed-forward 3072, tied vocabulary of 65,536, 8k context."""

from ibidem.modeling.config import ModelConfig

MODEL = ModelConfig(vocab_size=65_536, width=1536, layers=24, heads=16, ffn_hidden=3072, context=8192)

assert MODEL.parameters == 666_974_208
