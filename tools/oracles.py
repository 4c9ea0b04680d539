"""Make data/oracles/: what other libraries compute, so that lessons can compare without them.

python tools/oracles.py          (needs the test extra: transformers)
"""

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from oracles import ROBERTA, batch, config, huggingface, perturbed  # noqa: E402

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


if __name__ == "__main__":
    folder = ROOT / "data" / "oracles"
    folder.mkdir(parents=True, exist_ok=True)
    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    save_file(roberta(), folder / "roberta.safetensors", {"versions": versions})
    print(f"wrote data/oracles/roberta.safetensors, {(folder / 'roberta.safetensors').stat().st_size:,} bytes")
