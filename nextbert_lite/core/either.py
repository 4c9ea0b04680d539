"""Either encoder, of lesson 04 or of lesson 15, from its configuration."""

from __future__ import annotations

from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.modern import ModernConfig, ModernEncoder


def encoder_of(config: EncoderConfig | ModernConfig | dict) -> Encoder | ModernEncoder:
    """Return a new encoder for either configuration, or for its fields as a checkpoint's card holds them."""
    if isinstance(config, dict):
        config = (ModernConfig if "gate" in config else EncoderConfig)(**config)
    return ModernEncoder(config) if isinstance(config, ModernConfig) else Encoder(config)
