"""The small package that the course builds, piece by piece."""

import sys
from importlib import import_module

__version__ = "0.1.0"

# The common names by room, imported at their first use: `nextbert-lite --help` need not wait for torch.
ROOMS = {
    "core: what the lessons build": {
        "attention": "MultiHeadAttention scaled_dot_product_attention",
        "encoder": "Encoder EncoderConfig EncoderLayer Inside",
        "masking": "IGNORE mask_tokens",
        "heads": "MLMHead MaskedLanguageModel",
        "contrastive": "SentenceEncoder alignment info_nce_loss nt_xent_loss pool uniformity",
        "classify": "ClassificationHead TextClassifier TokenClassificationHead TokenClassifier",
        "diffusion": "diffusion_loss fill_gaps hide_words",
        "modern": "ModernConfig ModernEncoder local_attention rotate",
    },
    "training: what trains it": {
        "tokenizer": "Tokenizer train_bpe word_level",
        "batches": "LabelledBatches MLMBatches PairBatches fresh_batches length_buckets pad same_texts seeded",
        "loop": "evaluating fit held_out_loss linear_schedule",
        "device": "pick_device",
    },
    "corpora: what it is trained on": {
        "toy_world": "COURSE_SENTENCE ToyWorld",
        "bayes": "PerfectModel",
        "python_docs": "load_docs",
    },
    "use: what people do with a model": {
        "checkpoints": "load read_card",
        "pretrained": "load_pretrained",
        "export": "export",
        "filling": "fill_mask write",
        "explain": "explain",
        "embedding": "embed",
        "search": "Bm25 SearchIndex mrr ndcg_at paired_bootstrap recall_at",
        "finetuning": "Classifier fine_tune",
    },
    "views: figures, and views that react": {
        "plots": "plots",
        "attention": "AttentionExplorer",
        "embeddings": "EmbeddingExplorer",
        "explanations": "ExplanationMatrix",
        "masking": "MaskingPlayground",
        "similarity": "SimilarityMatrix",
        "writing": "WritingSteps",
        "view": "show",
        "search_box": "search_box",
    },
    "course: the command and the learner's folder": {
        "pretraining": "pretrain",
        "pairs": "train_pairs",
        "minilm": "minilm_folder",
        "results": "stored_table",
        "tables": "read_csv",
    },
}
_HOME = {
    name: f"{room.split(':')[0]}.{module}"
    for room, modules in ROOMS.items()
    for module, names in modules.items()
    for name in names.split()
}
__all__ = sorted(_HOME)
__doc__ += "\n\nThe common names, each from its module; `from nextbert_lite import Encoder, fit`:\n" + "".join(
    f"\n{room}\n" + "".join(f"    {module:<12} {names.replace(' ', ', ')}\n" for module, names in modules.items())
    for room, modules in ROOMS.items()
)


def __getattr__(name: str):
    """Import a common name from its module (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'nextbert_lite' has no attribute {name!r}; it has: {', '.join(__all__)}")
    module = import_module(f"nextbert_lite.{_HOME[name]}")
    value = module if name == "plots" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _FirstEdition:
    """Finds the modules' names of the first edition, for copies of lessons that learners made with it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if not name.startswith("nextbert_lite.") or name.startswith(f"{__name__}.course"):
            return None
        return import_module("nextbert_lite.course.first_edition").find(name)


sys.meta_path.insert(0, _FirstEdition)  # first: an empty folder left by an update would be found before it
