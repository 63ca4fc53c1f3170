"""1.4 M parameters: what two cores train in two and a half minutes; the shape of `ibidem demo`."""

from ibidem.modeling.config import ModelConfig

MODEL = ModelConfig(vocab_size=4096, width=128, layers=4, heads=2, ffn_hidden=384, context=512)

assert MODEL.parameters == 1_377_920
