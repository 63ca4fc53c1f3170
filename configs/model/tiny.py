"""6 M parameters: what two cores train in a few minutes."""

from ibidem.modeling.config import ModelConfig

MODEL = ModelConfig(vocab_size=8192, width=256, layers=6, heads=4, ffn_hidden=640, context=512)

assert MODEL.parameters == 6_623_232
