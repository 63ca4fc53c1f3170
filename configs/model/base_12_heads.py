"""base.py with 12 heads of 128 instead of 16 of 96, the width that attention kernels are made for: 667 M parameters."""

from ibidem.modeling.config import ModelConfig

MODEL = ModelConfig(vocab_size=65_536, width=1536, layers=24, heads=12, ffn_hidden=3072, context=8192)

assert MODEL.parameters == 666_975_744
