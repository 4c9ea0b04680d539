"""Make data/oracles/: what other libraries compute, so that lessons can compare without them.

python tools/oracles.py
(needs the test extra: transformers, sentence-transformers, pytorch-metric-learning)
"""

import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from oracles import ROBERTA, batch, config, contrastive_losses, huggingface, perturbed  # noqa: E402

from nextbert_lite.encoder import Encoder  # noqa: E402
from nextbert_lite.heads import MaskedLanguageModel  # noqa: E402


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


def write(name, tensors, libraries):
    """Write one file, with the versions of the libraries that computed it."""
    path = ROOT / "data" / "oracles" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{library} {version(library).split('+')[0]}" for library in ("torch", *libraries))
    save_file(tensors, path, {"versions": versions})
    print(f"wrote data/oracles/{path.name}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    write("roberta", roberta(), ["transformers"])
    write("contrastive", contrastive(), ["pytorch-metric-learning", "sentence-transformers"])
