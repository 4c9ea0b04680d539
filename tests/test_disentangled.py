"""Lesson 16's attention with relative distances: equal to the published one, live and as it is stored."""

import pytest
import torch
from oracles import EXACT, deberta_attention, perturbed
from safetensors.torch import load_file

from nextbert_lite.checks.lesson_16 import DisentangledAttention
from nextbert_lite.files import share_dir


def vectors(C, k, lengths, seed=2):
    generator = torch.Generator().manual_seed(seed)
    T = max(lengths)
    x = torch.randn(len(lengths), T, C, generator=generator, dtype=torch.float64)
    places = torch.randn(2 * k, C, generator=generator, dtype=torch.float64)
    return x, places, torch.arange(T) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("k", [1, 3, 20], ids=lambda k: f"distances up to {k}")
def test_it_equals_transformers_attention_on_all_real_tokens(k, monkeypatch):
    published = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    monkeypatch.setattr(published, "scaled_size_sqrt", published.scaled_size_sqrt)  # put back after the test
    ours = perturbed(DisentangledAttention(12, 3, k))
    x, places, mask = vectors(12, k, [9, 6, 2])
    theirs = deberta_attention(ours, k, heads=3)
    seen = (mask[:, None, :, None] & mask[:, None, None, :]).expand(-1, 1, 9, 9)
    mixed, weights = theirs(x, seen, output_attentions=True, rel_embeddings=places)
    out, own = ours(x, places, mask[:, None, None])
    torch.testing.assert_close(out[mask], ours.out(mixed)[mask], **EXACT)
    torch.testing.assert_close(own.transpose(1, 2)[mask], weights.transpose(1, 2)[mask], **EXACT)


def test_it_equals_what_is_stored():
    stored = load_file(share_dir("data") / "oracles" / "deberta.safetensors")
    ours = DisentangledAttention(16, 4, 4).double()
    ours.load_state_dict({name.removeprefix("attention."): t for name, t in stored.items() if "attention." in name})
    mask = stored["mask"]
    out, weights = ours(stored["x"], stored["places"], mask[:, None, None])
    torch.testing.assert_close(out[mask], stored["out"][mask], **EXACT)
    torch.testing.assert_close(weights.transpose(1, 2)[mask], stored["weights"].transpose(1, 2)[mask], **EXACT)
