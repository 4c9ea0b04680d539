"""The small package that the course builds, piece by piece."""

from importlib import import_module

__version__ = "0.1.0"

# The common names, imported at their first use: `nextbert-lite --help` need not wait for torch.
_HOME = {
    "Tokenizer": "tokenizer",
    "train_bpe": "tokenizer",
    "word_level": "tokenizer",
    "MultiHeadAttention": "attention",
    "scaled_dot_product_attention": "attention",
    "Encoder": "encoder",
    "EncoderConfig": "encoder",
    "EncoderLayer": "encoder",
    "MLMHead": "heads",
    "MaskedLanguageModel": "heads",
    "fill_mask": "heads",
    "ClassificationHead": "heads",
    "TokenClassificationHead": "heads",
    "TextClassifier": "heads",
    "TokenClassifier": "heads",
    "LabelledBatches": "heads",
    "MLMBatches": "masking",
    "fresh_batches": "masking",
    "mask_tokens": "masking",
    "length_buckets": "batching",
    "pad": "batching",
    "fit": "training",
    "held_out_loss": "training",
    "load": "checkpoints",
    "read_csv": "finetuning",
    "fine_tune": "finetuning",
    "load_pretrained": "pretrained",
    "SentenceEncoder": "contrastive",
    "info_nce_loss": "contrastive",
    "nt_xent_loss": "contrastive",
    "PairBatches": "contrastive",
    "pool": "contrastive",
    "alignment": "contrastive",
    "uniformity": "contrastive",
    "embed": "embedding",
    "SearchIndex": "search",
    "pick_device": "device",
    "ToyWorld": "corpora.toy_world",
    "load_docs": "corpora.python_docs",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Import a common name from its module (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'nextbert_lite' has no attribute {name!r}; it has: {', '.join(__all__)}")
    value = getattr(import_module(f"nextbert_lite.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
