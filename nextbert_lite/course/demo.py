"""`nextbert-lite demo`: the course's main job in a few minutes, on real text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.corpora.harvest import Document
from nextbert_lite.corpora.python_docs import load_docs
from nextbert_lite.course.runs import check_length
from nextbert_lite.files import make_folder, say
from nextbert_lite.training.batches import MLMBatches, seeded
from nextbert_lite.training.device import pick_device
from nextbert_lite.training.loop import fit, held_out_loss, steps_in
from nextbert_lite.training.tokenizer import Tokenizer, train_bpe
from nextbert_lite.use.filling import fill_mask
from nextbert_lite.views import plots

MAX_LEN = 32  # the beginning of each text: what it documents, in a sentence or two


def run_demo(out: Path, minutes: float = 2.0, seed: int = 0, device: str | None = None) -> int:
    """Read the documentation, train a tokenizer and a small encoder, show what it fills into gaps before and after.

    out: folder for loss.png and attention.png. minutes: training time; reading and showing take about half a minute
    more. Ctrl-C ends the training and shows what was learned until then.
    """
    chosen = pick_device(device)
    check_length(minutes, None)
    make_folder(out)
    say("Reading the documentation of Python, PyTorch, NumPy and Matplotlib on this machine …", flush=True)
    docs = load_docs()
    say(
        f"  {len(docs.train):,} texts to train on, {len(docs.test):,} held out: none nearly the same as a training text"
    )

    say("Training the tokenizer …", flush=True)
    tokenizer = train_bpe((d.text for d in docs.train), vocab_size=2048)
    train = beginnings(tokenizer, docs.train)
    held_out = MLMBatches(beginnings(tokenizer, docs.validation), tokenizer, batch_size=64, seed=seed + 1)
    say(f"  {tokenizer.vocab_size} different tokens; {sum(map(len, train)):,} to train on, the beginnings of the texts")

    torch.manual_seed(seed)
    config = EncoderConfig.preset("small", tokenizer.vocab_size, width=128, ffn_width=512, layers=2, max_len=MAX_LEN)
    model = MaskedLanguageModel(Encoder(config)).to(chosen)
    questions = gaps(docs.test, tokenizer, 5)
    before = answers(model, tokenizer, questions)
    start = held_out_loss(model, held_out, len(held_out))

    batches = MLMBatches(train, tokenizer, batch_size=32, rate=0.3, seed=seed)
    steps = steps_in(model, batches, 60 * minutes)
    parameters = sum(p.numel() for p in model.parameters())
    say(f"Pretraining {parameters:,} parameters on {chosen} for {steps} steps. Ctrl-C stops and shows the result.")
    history = fit(
        model, batches, steps, lr=3e-3, warmup=min(100, steps // 5), seed=seed, device=chosen, stop_after=75 * minutes
    )
    if history.interrupted:
        say(f"  Stopped at step {history.steps} of {steps}; the model keeps what it learned.")
    end = held_out_loss(model, held_out, len(held_out))
    speed = sum(history.tokens) / history.seconds
    say(f"  {history.seconds:.0f} s, {speed:,.0f} tokens/s, held-out loss {start:.2f} -> {end:.2f} nats per token")
    say(f"  (a model that knows nothing: ln {tokenizer.vocab_size} = {math.log(tokenizer.vocab_size):.2f})\n")

    after = answers(model, tokenizer, questions)
    for (text, right), old, new in zip(questions, before, after, strict=True):
        say(f"{text.replace('[MASK]', ' ____')}\n    wanted {right!r}\n    before {old}\n    after  {new}")

    for path, image in {
        out / "loss.png": curve(history.loss, tokenizer.vocab_size),
        out / "attention.png": attention(model, tokenizer, questions[0]),
    }.items():
        path.write_bytes(image)
        say(f"wrote {path}")
    return 0


def beginnings(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[list[int]]:
    """Return the first MAX_LEN token ids of each document; texts too short to learn from are left out."""
    encoded = tokenizer.encode_batch([d.text for d in documents], max_len=MAX_LEN)
    return [ids for ids in encoded if len(ids) >= 8]


def gaps(documents: Sequence[Document], tokenizer: Tokenizer, n: int) -> list[tuple[str, str]]:
    """Return n held-out sentences with a [MASK] in place of one word that is one token, and that word."""
    found = []
    mixed = [documents[i] for i in torch.randperm(len(documents), generator=seeded(0)).tolist()]  # from all libraries
    for document in mixed:
        words = document.summary.split(" ")
        if not 8 <= len(words) <= 12 or not re.fullmatch(r"[A-Z][A-Za-z ,]+\.", document.summary):
            continue
        single = [i for i, word in enumerate(words[:-1]) if i > 1 and len(tokenizer.encode(" " + word)) == 3]
        if len(single) < 3:
            continue
        gap = single[len(found) % len(single)]
        # the space before a word belongs to its token, so [MASK] stands directly behind the word before it
        text = " ".join(words[:gap]) + "[MASK]" + "".join(f" {word}" for word in words[gap + 1 :])
        found.append((text, words[gap]))
        if len(found) == n:
            break
    return found


def answers(model: MaskedLanguageModel, tokenizer: Tokenizer, questions: list[tuple[str, str]]) -> list[str]:
    """Return the three likeliest fillings of each gap, as text."""
    filled = [fill_mask(model, tokenizer, text, k=3)[0] for text, _ in questions]
    return ["  ".join(f"{token.strip()!r} {p:.2f}" for token, p in row) for row in filled]


def curve(losses: list[float], vocab_size: int) -> bytes:
    """Return the picture of the loss."""
    last = losses[-50:]
    fig = plots.loss_curve(
        losses,
        title=f"From {losses[0]:.1f} to {sum(last) / len(last):.1f} nats: the gaps have become predictable",
        reference={"ln V": math.log(vocab_size)},
    )
    return plots.png(fig)


@torch.no_grad()
def attention(model: MaskedLanguageModel, tokenizer: Tokenizer, question: tuple[str, str]) -> bytes:
    """Return the picture of the head that looks most at the token just before, on a held-out sentence."""
    text, right = question
    ids = torch.tensor([tokenizer.encode(text.replace("[MASK]", f" {right}"))], device=next(model.parameters()).device)
    _, inside = model.encoder(ids, return_inside=True)
    weights = torch.cat(inside.weights).cpu()  # (layers, heads, T, T)
    before = weights.diagonal(offset=-1, dim1=-2, dim2=-1).mean(-1)  # (layers, heads): weight on the token before
    layer, head = divmod(int(before.argmax()), before.shape[1])
    fig = plots.attention_map(
        weights[layer, head],
        [token.strip() or "␣" for token in tokenizer.tokens(ids[0])],
        title=f"Layer {layer + 1}, head {head + 1}: {before.max():.0%} of its attention on the token before",
    )
    return plots.png(fig)
