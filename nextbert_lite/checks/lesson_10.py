"""The checks of lesson 10, Sentence embeddings."""

import itertools
import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from nextbert_lite.checks.core import (
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    hint,
    mine,
    named,
    solution,
    untouched,
)
from nextbert_lite.core.contrastive import POOLINGS, SentenceEncoder, info_nce_loss, pool
from nextbert_lite.core.encoder import Encoder, EncoderConfig

__all__ = [
    "crop",
    "hint",
    "in_chunks",
    "loss_of_the_same_vector",
    "mine",
    "pooling",
    "sentence_encoder",
    "simcse",
    "solution",
]

CLS, SEP, FIRST = 2, 3, 5

# --- 10.1 the build: pool ---------------------------------------------------------------------------------------------


def hidden_of(generator, lengths=(3, 8, 5, 6), C=6):
    lengths = torch.tensor(lengths)  # one text fills the batch's width, the others are padded
    T = int(lengths.max())
    return torch.randn(len(lengths), T, C, generator=generator), torch.arange(T) < lengths[:, None]


def real_tokens(answer, generator):
    return untouched(answer, *hidden_of(generator))


def first_token(answer, generator):
    return untouched(answer, *hidden_of(generator), "cls")


def holes(answer, generator):
    hidden, mask = hidden_of(generator)
    mask = mask & (torch.rand(mask.shape, generator=generator) < 0.6)
    mask[0, 1], mask[2] = True, False  # text 2 has no real token at all
    return answer(hidden, mask)


def other_shapes(answer, generator):
    shapes = (((2, 3), 5), ((1,), 2), ((7, 4, 1, 2, 6, 6), 3))
    return tuple(answer(*hidden_of(generator, *shape)) for shape in shapes)


def other_dtypes(answer, generator):
    hidden, mask = hidden_of(generator)
    half = answer(hidden.bfloat16(), mask)  # right ways to write it round differently: its dtype alone is compared
    return answer(hidden.double(), mask), answer(hidden.double(), mask, "cls"), f"of bfloat16 vectors, {half.dtype}"


def pooled_gradients(answer, generator):
    hidden, mask = hidden_of(generator)
    answer(hidden.requires_grad_(), mask).square().sum().backward()
    return hidden.grad


def told(call):
    """Return how a call is answered: with a ValueError, or not."""
    try:
        call()
    except ValueError:
        return "a ValueError"
    return "no ValueError"


def unknown_pooling(answer, generator):
    hidden, mask = hidden_of(generator)
    return told(lambda: answer(hidden, mask, "max"))


def means_by(mean, cls=lambda hidden, mask: hidden[:, 0], strict=True):
    """Return a `pool` with another mean, another "cls", or without the refusal."""

    def pool(hidden, mask, how="mean"):
        if strict and how not in ("mean", "cls"):
            raise ValueError(how)
        return cls(hidden, mask) if how == "cls" else mean(hidden, mask)

    return pool


def right_mean(hidden, mask):
    return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def without_specials(hidden, mask):
    inner = mask[:, 1:] & mask.roll(-1, 1)[:, 1:]
    return (hidden[:, 1:] * inner[:, :, None]).sum(1) / inner.sum(1, keepdim=True).clamp(min=1)


def first_so_many(hidden, mask):
    return torch.stack([h[: int(m.sum())].sum(0) / max(1, int(m.sum())) for h, m in zip(hidden, mask, strict=True)])


pooling = Build(
    id="10.1",
    course=pool,
    stages=(
        Stage("the real tokens", real_tokens),
        Stage("the first token", first_token),
        Stage("holes and empty texts", holes),
        Stage("other sizes", other_shapes),
        Stage("other dtypes", other_dtypes),
        Stage("gradients", pooled_gradients),
        Stage("another name", unknown_pooling),
    ),
    mistakes=(
        Mistake(
            "padding in the mean",
            means_by(lambda hidden, mask: hidden.mean(1)),
            "this is the mean over all positions, padding included: a text's vector then depends on the longest text "
            "of its batch. Take the sum over the real tokens and divide by their number.",
            "https://github.com/huggingface/transformers/issues/17463",
        ),
        Mistake(
            "divided by the width",
            means_by(lambda hidden, mask: (hidden * mask[:, :, None]).mean(1)),
            "the right sum, but divided by the width of the batch. For a cosine the length does not matter, for a "
            "distance or a mean of vectors it does. Divide by the number of real tokens, `mask.sum(1)`.",
            "https://github.com/huggingface/sentence-transformers/issues/230 (what is the sum divided by?)",
        ),
        Mistake(
            "a sum",
            means_by(lambda hidden, mask: (hidden * mask[:, :, None]).sum(1)),
            "this is the sum: a long text gets a long vector. Divide by the number of real tokens.",
            "https://github.com/huggingface/sentence-transformers/issues/230",
        ),
        Mistake(
            "the padding only",
            means_by(lambda hidden, mask: right_mean(hidden, ~mask)),
            "this is the mean of the padding: the mask is the wrong way round. True means a real token.",
            "torch's key_padding_mask has True for padding, see lesson 02",
        ),
        Mistake(
            "the specials left out",
            means_by(without_specials),
            "you leave out [CLS] and [SEP]. That is a pooling too, but not this one: whatever the mask calls real "
            "counts, as in sentence-transformers.",
            "https://github.com/huggingface/sentence-transformers/issues/1623",
        ),
        Mistake(
            "[CLS] always",
            means_by(lambda hidden, mask: hidden[:, 0]),
            'this is the first token\'s vector, the pooling "cls". Without the third argument the mean is asked for.',
            "https://github.com/wangyuxinwhy/uniem/issues/24 (which of the two does a model use?)",
        ),
        Mistake(
            "the mean always",
            means_by(right_mean, cls=right_mean),
            'the mean is right, but `how` has no effect: "cls" asks for the first token\'s vector, `hidden[:, 0]`.',
            "an argument that is accepted and not used",
        ),
        Mistake(
            "NaN for an empty text",
            means_by(lambda hidden, mask: (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)),
            "a text without any real token gives 0 / 0. It should get zeros: divide by at least 1, `.clamp(min=1)`.",
            "sentence-transformers clamps the sum of the mask at 1e-9 for this",
        ),
        Mistake(
            "the first so many",
            means_by(first_so_many),
            "you count the real tokens and take so many from the front. That is right only while the padding stands "
            "at the end. Take the tokens where the mask is True.",
            "lengths in place of a mask, as in packed sequences",
        ),
        Mistake(
            "any name",
            means_by(right_mean, strict=False),
            'a name that is not known, such as "max", gets an answer all the same. A misspelled setting should be a '
            "ValueError, or nobody notices it.",
            "an `else` that takes everything",
        ),
        Mistake(
            "without [CLS]",
            means_by(lambda hidden, mask: right_mean(hidden[:, 1:], mask[:, 1:])),
            "you leave the first token, [CLS], out of the mean. Whatever the mask calls real counts.",
            "https://github.com/huggingface/sentence-transformers/issues/1623",
        ),
        Mistake(
            "float32 always",
            means_by(lambda hidden, mask: right_mean(hidden.float(), mask)),
            "the mean of float64 vectors comes back in float32: `.float()` always means float32. Bring the mask to "
            "the dtype of `hidden` instead, `mask.to(hidden.dtype)`.",
            "mask.float() and hidden.float(), copied from code that knows one dtype",
        ),
        Mistake(
            "float32 for half precision",
            means_by(lambda hidden, mask: right_mean(hidden * mask[:, :, None].float(), mask)),
            "the mean of vectors in half precision comes back in float32: a mask or weights in float32 take the "
            "product with them. Bring them to the dtype of `hidden`, `mask.to(hidden.dtype)`.",
            "mask.unsqueeze(-1).expand(...).float(), the mean pooling printed on many model cards",
        ),
        Mistake(
            "the count without its axis",
            means_by(lambda hidden, mask: (hidden * mask[:, :, None]).sum(1) / mask.sum(1).clamp(min=1)),
            "the division raises an error: the sum is (B, C), the count (B,), and torch lines up their last axes, C "
            "with B. Give the count an axis of its own, (B, 1): `keepdim=True`.",
            "keepdim forgotten, the usual slip before a division",
        ),
    ),
    hints=(
        "Make a weight for each token: 1 where the mask is True, 0 elsewhere. Multiply, then add up over the tokens.",
        "`mask[:, :, None]` is (B, T, 1) and broadcasts over (B, T, C).",
        "`(hidden * weights).sum(1) / weights.sum(1).clamp(min=1)`, with `weights = mask[:, :, None].to(hidden.dtype)`",
        'Before it: a ValueError unless `how` is "mean" or "cls", and `hidden[:, 0]` for "cls".',
    ),
    praise="A text's vector no longer depends on the other texts of its batch.",
    other_ways=(
        means_by(lambda h, m: torch.stack([text[r].sum(0) / max(1, r.sum()) for text, r in zip(h, m, strict=True)])),
        means_by(lambda h, m: torch.einsum("btc,bt->bc", h, m / m.sum(1).clamp(min=1)[:, None].to(h.dtype))),
    ),
)

# --- 10.2 find the bug: the order after sorting -----------------------------------------------------------------------


def texts_of_lengths(generator):
    table = torch.randn(9, 4, generator=generator)
    return lambda rows: table[rows], torch.randperm(9, generator=generator) + 3, 4


def fewer_of_lengths(generator):
    table = torch.randn(7, 3, generator=generator)
    return lambda rows: table[rows], torch.randperm(7, generator=generator) + 2, 2


def not_in_chunks(answer, case):
    """Return a sentence when texts are not encoded `size` at a time in the order of their lengths."""
    encode, lengths, size = case
    calls = []

    def noted(rows):
        calls.append(torch.as_tensor(rows).reshape(-1).tolist())
        return encode(rows)

    answer(noted, lengths, size)
    most, N = max(map(len, calls)), len(lengths)
    if most > size:
        return (
            f"`encode` got {most} texts at once, where `size` is {size}: chunks keep the memory small. Encode `size` "
            "at a time: `order.split(size)`."
        )
    if len(calls) != -(-N // size):
        return (
            f"`encode` was called {len(calls)} times; {N} texts, {size} at a time, are {-(-N // size)} chunks. Each "
            "call costs time: fill the chunks, `order.split(size)`."
        )
    by_length = [int(lengths[row]) for rows in calls for row in rows]
    if by_length not in (sorted(by_length), sorted(by_length, reverse=True)):
        return (
            "the texts are not encoded in the order of their lengths: then a chunk with one long text pads all its "
            "others. Sort first, `order = lengths.argsort()`."
        )
    return None


def where_texts_are(answer, case):
    """Return a sentence on the order in which an answer gives the texts back."""
    _, lengths, size = case
    found = answer(lambda rows: torch.as_tensor(rows).reshape(-1, 1).float(), lengths, size)[:, 0].int().tolist()
    parts = [found[i : i + size] for i in range(0, len(found), size)]
    why = "row i should hold text i's vector."
    if all(part == sorted(part) for part in parts) and sorted(found) == list(range(len(lengths))):
        why = "each chunk is in order, but the whole is not. Restore it once, after `torch.cat`."
    return f"texts 0 to {len(lengths) - 1} come back as {found}: {why}"


def sorted_vectors(encode, lengths, size):
    order = lengths.argsort()
    return torch.cat([encode(rows) for rows in order.split(size)]), order


def right_chunks(encode, lengths, size):
    vectors, order = sorted_vectors(encode, lengths, size)
    return vectors[order.argsort()]


def sorted_twice(encode, lengths, size):
    vectors, order = sorted_vectors(encode, lengths, size)
    return vectors[order]


def longest_first_restored_as_shortest_first(encode, lengths, size):
    order = lengths.argsort(descending=True)
    vectors = torch.cat([encode(rows) for rows in order.split(size)])
    return vectors[lengths.argsort().argsort()]


def full_chunks_only(encode, lengths, size):
    order = lengths.argsort()
    rows = order[: len(order) // size * size]
    vectors = torch.cat([encode(some) for some in rows.split(size)])
    out = torch.zeros(len(lengths), vectors.shape[1])
    out[rows] = vectors
    return out


def chunks_written_back(encode, lengths, size):
    out = None
    for rows in lengths.sort(descending=True).indices.split(size):
        vectors = encode(rows)
        out = torch.zeros(len(lengths), vectors.shape[1]) if out is None else out
        out[rows] = vectors
    return out


def chunks_of_a_list(encode, lengths, size):
    order = sorted(range(len(lengths)), key=lengths.tolist().__getitem__)
    vectors = torch.cat([encode(order[i : i + size]) for i in range(0, len(order), size)])
    return torch.stack([vectors[order.index(i)] for i in range(len(order))])


in_chunks = Exercise(
    id="10.2",
    right=right_chunks,
    inputs=texts_of_lengths,
    also=fewer_of_lengths,
    limit=not_in_chunks,
    about=where_texts_are,
    mistakes=(
        Mistake(
            "the bug as it was",
            sorted_twice,
            "the bug is still there: `vectors[order]` applies the sorting once more. vectors[k] belongs to text "
            "order[k], so text i's vector is where i stands in `order`: `order.argsort()`.",
            "https://github.com/JohnGiorgi/DeCLUTR/pull/122 (embeddings in the wrong order)",
        ),
        Mistake(
            "not restored",
            lambda encode, lengths, size: sorted_vectors(encode, lengths, size)[0],
            "the vectors come back in the order of their lengths: row i is no longer text i's. Restore it.",
            "https://github.com/huggingface/sentence-transformers/issues/663 (does it still match?)",
        ),
        Mistake(
            "the last chunk left out",
            full_chunks_only,
            "the texts of the last chunk, which has fewer than `size`, keep zeros: `N // size` counts the full chunks "
            "only. `order.split(size)` gives the rest too.",
            "the floor of a division, as with drop_last=True of a DataLoader",
        ),
        Mistake(
            "restored by another sorting",
            longest_first_restored_as_shortest_first,
            "sorted with the longest first, but restored as if the shortest came first. Restore with the argsort of "
            "the very `order` that you used.",
            "https://github.com/facebookresearch/SentEval/issues/35 (two sortings that need not agree)",
        ),
    ),
    hints=(
        "Three texts with the lengths 5, 9, 1: what is `order`? At which position of `vectors` is text 0?",
        "You look for the inverse of the permutation `order`. `out[order] = vectors` writes with it, not reads.",
        "`return vectors[order.argsort()]`",
    ),
    praise="The inverse of a sorting is its argsort: each text's position in the sorted order.",
    other_ways=(
        chunks_written_back,
        chunks_of_a_list,
    ),
)

# --- 10.3 the build: SentenceEncoder ----------------------------------------------------------------------------------


def small_encoder(generator, width=8, heads=2, dropout=0.0):
    """Return an encoder with random weights that are not small, in float64."""
    config = EncoderConfig(
        vocab_size=30, width=width, layers=2, heads=heads, ffn_width=2 * width, max_len=12, dropout=dropout
    )
    encoder = Encoder(config).double()
    for p in encoder.parameters():  # texts must differ: small biases, norms near 1
        noise = torch.randn(p.shape, generator=generator).double()
        p.data = p.data + 0.1 * noise if p.ndim < 2 else noise * p.shape[-1] ** -0.5
    return encoder


def made(answer, encoder, **settings):
    """Return the learner's module; Fault unless its weights are the encoder's, under that name."""
    it = answer(encoder, **settings)
    found, wanted = set(named(it)), {f"encoder.{name}" for name, _ in encoder.named_parameters()}
    if found != wanted:
        odd = sorted(found ^ wanted)[0]
        raise Fault(f"the module's only part with weights should be `self.encoder`; {odd} is missing or too much.")
    return it


def texts(generator, lengths=(4, 9, 2, 7, 3, 6)):
    """Return ids and mask of texts of these lengths: (B, T) each."""
    lengths = torch.tensor(lengths)
    ids = torch.randint(FIRST, 30, (len(lengths), int(lengths.max())), generator=generator)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return ids * mask, mask


def pairs(generator, lengths=(4, 9, 2, 7, 3, 6)):
    """Return the first four arguments of `loss`."""
    return *texts(generator, lengths), *texts(generator, lengths[::-1])


def vectors(answer, generator):
    it = made(answer, small_encoder(generator)).eval()
    ids, mask = texts(generator)
    return untouched(it, ids, mask), it(ids), it(ids[:, :2], mask[:, :2])


def poolings(answer, generator):
    encoder, batch = small_encoder(generator), texts(generator)
    return tuple(made(answer, encoder, pooling=name).eval()(*batch) for name in ("cls", "first-last", "mean"))


def read_in_chunks(answer, generator):
    encoder, (ids, mask) = small_encoder(generator), texts(generator)
    shapes = []
    encoder.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    whole = made(answer, encoder).eval().encode(ids, mask)
    shapes.clear()
    chunked = untouched(made(answer, encoder, chunk=2).eval().encode, ids, mask)
    sizes = ", ".join(f"{b} texts of {t}" for b, t in sorted(shapes, key=lambda shape: shape[::-1]))
    return whole, chunked, f"the encoder reads {sizes} tokens"


def losses(answer, generator):
    encoder, batch = small_encoder(generator), pairs(generator)
    settings = ({}, {"temperature": 0.2}, {"symmetric": True}, {"temperature": 0.3, "chunk": 4})
    sizes, found = [], []
    encoder.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    for one in settings:
        it = made(answer, encoder, **one).eval()
        if getattr(it, "temperature", None) != one.get("temperature", 0.05):
            raise Fault("`self.temperature` is not the temperature. Keep it under this name: later sections read it.")
        sizes.clear()
        found.append(untouched(it.loss, *batch))
    if max(sizes, default=0) > 4:
        raise Fault(
            f"`encode` keeps to chunk=4, but `loss` gives the encoder {max(sizes)} texts at once. Call `self.encode` "
            "there, for all texts: `self(…)` is `forward`, which knows neither chunks nor the cache."
        )
    return tuple(found)


def further_texts(answer, generator):
    it, batch = made(answer, small_encoder(generator), temperature=0.2).eval(), pairs(generator)
    same = torch.eye(6, dtype=torch.bool)
    same[1, 4] = same[4, 1] = True
    negatives = texts(generator, (5, 2, 8))
    known = {"negative_ids": negatives[0], "negative_mask": negatives[1]}
    return it.loss(*batch, same=same), it.loss(*batch, **known), it.loss(*batch, same=same, **known)


def other_encoders(answer, generator):
    it = made(answer, small_encoder(generator, 12, 3), pooling="first-last", temperature=0.3, chunk=2).eval()
    return it.encode(*texts(generator, (3, 8, 5, 5, 1))), it.loss(*pairs(generator, (2, 3, 2)))


def gradient_of(it, batch):
    loss = it.loss(*batch)
    if not loss.requires_grad:
        raise Fault(
            "the loss has no gradient: vectors are detached, or computed under `torch.no_grad()`. To save memory, "
            "`checkpoint(self, ids, mask, use_reentrant=False)` computes them again in backward."
        )
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(it.parameters()))])


def encoder_gradients(answer, generator):
    encoder, batch = small_encoder(generator), pairs(generator)
    settings = ({}, {"chunk": 2}, {"chunk": 2, "cache": True})
    return tuple(gradient_of(made(answer, encoder, **one).train(), batch) for one in settings)


def kept(answer, generator):
    """Whether the cache keeps few numbers between forward and backward, and draws dropout's masks again."""
    encoder, batch = small_encoder(generator, dropout=0.3), pairs(generator)
    numbers, gradients = {}, {}
    for cache in (False, True):
        it, found = made(answer, encoder, temperature=0.3, chunk=2, cache=cache).train(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, f=found: f.append(t.numel()) or t, lambda t: t):
            torch.manual_seed(7)
            loss = it.loss(*batch)
        numbers[cache] = sum(found)
        torch.manual_seed(7)
        gradients[cache] = gradient_of(it, batch)
        if not loss.requires_grad:
            raise Fault("the loss has no gradient.")
    few = numbers[True] < numbers[False] / 4
    alike = torch.allclose(gradients[True], gradients[False], rtol=0, atol=1e-8)
    return (
        f"with the cache {'few' if few else 'nearly as many'} numbers are kept for backward",
        f"with dropout, the cached gradients are {'the same' if alike else 'others'}",
    )


def wrong_settings(answer, generator):
    encoder = small_encoder(generator)
    cases = {
        'pooling="max"': {"pooling": "max"},
        "chunk=0": {"chunk": 0},
        "chunk=-1": {"chunk": -1},
        "cache without chunk": {"cache": True},
        "temperature=0": {"temperature": 0.0},
        "temperature=-1": {"temperature": -1.0},
    }
    accepted = [name for name, o in cases.items() if told(lambda o=o: answer(encoder, **o)) == "no ValueError"]
    if accepted:
        zero = " In an `if`, 0 counts as False: ask `chunk is not None`." if accepted == ["chunk=0"] else ""
        raise Fault(f"no ValueError for {', '.join(accepted)}.{zero}")
    return "a ValueError for each"


class WrongEncoder(SentenceEncoder):
    """SentenceEncoder as a learner may write it; its switches are the mistakes."""

    masked, pools, layer, halved, unit, by_name = True, "masked", 0, 2, False, True
    restore, sorts, cuts, keeps = "inverse", True, True, "right"
    default_tau, one_way, uses_same, uses_negatives, caches, trusts = False, False, True, True, True, False
    swaps = False

    def __init__(self, encoder, pooling="mean", temperature=0.05, symmetric=False, chunk=None, cache=False):
        nn.Module.__init__(self)
        if not self.trusts and (
            pooling not in POOLINGS
            or (chunk is not None and chunk < 1)
            or (cache and chunk is None)
            or temperature <= 0
        ):
            raise ValueError("settings")
        self.encoder, self.pooling, self.temperature, self.symmetric = encoder, pooling, temperature, symmetric
        self.chunk, self.cache = chunk, cache

    def forward(self, ids, mask=None):
        mask = ids != self.encoder.config.pad_id if mask is None else mask
        hidden, inside = self.encoder(ids, mask if self.masked else torch.ones_like(mask), return_inside=True)
        if self.pooling == "first-last" and self.by_name:
            hidden = ((inside.hidden[1] if self.layer else self.encoder.embed(ids)) + hidden) / self.halved
        if self.pools == "all":
            mask = torch.ones_like(mask)
        vector = pool(hidden, mask, "cls" if self.pooling == "cls" and self.by_name else "mean")
        return F.normalize(vector, dim=-1) if self.unit else vector

    def encode(self, ids, mask):
        if self.chunk is None:
            return self(ids, mask)
        lengths = mask.sum(1)
        order = lengths.argsort() if self.sorts else torch.arange(len(ids))
        found = []
        for rows in order.split(self.chunk):
            T = int(lengths[rows].max()) if self.cuts else ids.shape[1]
            batch = ids[rows, :T], mask[rows, :T]
            if self.cache and self.caches and torch.is_grad_enabled():
                if self.keeps == "no gradient":
                    with torch.no_grad():
                        found.append(self(*batch).requires_grad_())
                else:
                    found.append(
                        checkpoint(self, *batch, use_reentrant=False, preserve_rng_state=self.keeps == "right")
                    )
            else:
                found.append(self(*batch))
        found = torch.cat(found)
        return {"inverse": found[order.argsort()], "twice": found[order], "not": found}[self.restore]

    def loss(self, ids, mask, positive_ids, positive_mask, same=None, negative_ids=None, negative_mask=None):
        a, b = self.encode(ids, mask), self.encode(positive_ids, positive_mask)
        hard = None
        if negative_ids is not None and self.uses_negatives:
            hard = self.encode(negative_ids, negative_mask)
        tau, same = 0.05 if self.default_tau else self.temperature, same if self.uses_same else None
        last = (same, hard) if self.swaps else (hard, same)
        return info_nce_loss(a, b, tau, self.symmetric and not self.one_way, *last)


def wrong(**switches):
    return type("SentenceEncoder", (WrongEncoder,), switches)


class ByHand(nn.Module):
    """Another way: the longest text first, the mean and the chunks written out."""

    def __init__(self, encoder, pooling="mean", temperature=0.05, symmetric=False, chunk=None, cache=False):
        super().__init__()
        if pooling not in ("mean", "cls", "first-last") or (chunk or 1) < 1 or (chunk == 0):
            raise ValueError("pooling or chunk")
        if (cache and not chunk) or not temperature > 0:
            raise ValueError("cache or temperature")
        self.encoder, self.settings = encoder, (pooling, temperature, symmetric, chunk, cache)
        self.temperature = temperature

    def forward(self, ids, mask=None):
        real = ids.ne(self.encoder.config.pad_id) if mask is None else mask
        last = self.encoder(ids, real)
        if self.settings[0] == "cls":
            return last[:, 0]
        if self.settings[0] == "first-last":
            last = 0.5 * last + 0.5 * self.encoder.embed(ids)
        return torch.stack([h[r].mean(0) for h, r in zip(last, real, strict=True)])

    def encode(self, ids, mask):
        chunk, cache = self.settings[3:]
        lengths = mask.sum(1).tolist()
        order = sorted(range(len(ids)), key=lambda i: -lengths[i])
        size = chunk or len(ids)
        out = [None] * len(ids)
        for start in range(0, len(ids), size):
            rows = order[start : start + size]
            width = lengths[rows[0]] if chunk else ids.shape[1]
            part = ids[rows][:, :width], mask[rows][:, :width]
            read = checkpoint(self, *part, use_reentrant=False) if cache else self(*part)
            for row, vector in zip(rows, read, strict=True):
                out[row] = vector
        return torch.stack(out)

    def loss(self, ids, mask, positive_ids, positive_mask, same=None, negative_ids=None, negative_mask=None):
        a, b = (F.normalize(self.encode(*one), dim=-1) for one in ((ids, mask), (positive_ids, positive_mask)))
        _, tau, symmetric, _, _ = self.settings
        scores = a @ b.T / tau
        if same is not None:
            scores = scores.masked_fill(same & ~torch.eye(len(a), dtype=torch.bool), -torch.inf)
        wide = scores
        if negative_ids is not None:
            wide = torch.cat([scores, a @ F.normalize(self.encode(negative_ids, negative_mask), dim=-1).T / tau], 1)
        loss = (wide.logsumexp(1) - scores.diag()).mean()
        return (loss + (scores.logsumexp(0) - scores.diag()).mean()) / 2 if symmetric else loss


sentence_encoder = Build(
    id="10.3",
    course=SentenceEncoder,
    stages=(
        Stage("one vector a text", vectors),
        Stage("the poolings", poolings),
        Stage("in chunks", read_in_chunks),
        Stage("the loss", losses),
        Stage("same texts and hard negatives", further_texts),
        Stage("other sizes", other_encoders),
        Stage("gradients", encoder_gradients),
        Stage("memory", kept),
        Stage("wrong settings", wrong_settings),
    ),
    mistakes=(
        Mistake(
            "vectors of length 1",
            wrong(unit=True),
            "the vectors have length 1. `forward` returns them as the pooling gives them; the loss normalises.",
            "sentence-transformers has a module Normalize of its own for this",
        ),
        Mistake(
            "the encoder without the mask",
            wrong(masked=False),
            "the pooling leaves the padding out, but the encoder does not: real tokens attend to padding. Hand the "
            "mask to `self.encoder` too.",
            "https://github.com/huggingface/transformers/issues/17463",
        ),
        Mistake(
            "padding in the mean",
            wrong(pools="all"),
            "the encoder gets the mask, the pooling does not: padding is in the mean (exercise 10.1).",
            "https://github.com/huggingface/transformers/issues/17463",
        ),
        Mistake(
            "one pooling",
            wrong(by_name=False),
            "`pooling` has no effect: every setting gives the mean of the last layer.",
            "an argument that is accepted and not used",
        ),
        Mistake(
            "the first layer for the embeddings",
            wrong(layer=1),
            '"first-last" takes the output of the first layer here. In this class it means the embeddings, '
            "`self.encoder.embed(ids)`.",
            "https://github.com/princeton-nlp/SimCSE/issues/133",
        ),
        Mistake(
            "a sum of two layers",
            wrong(halved=1),
            '"first-last" is the sum of embeddings and last layer here; it should be their mean.',
            "https://github.com/autoliuweijie/BERT-whitening-pytorch/issues/13 (its first lines have no / 2)",
        ),
        Mistake(
            "not restored",
            wrong(restore="not"),
            "`encode` with chunks returns the vectors in the order of the texts' lengths. Restore the order of the "
            "batch (exercise 10.2).",
            "https://github.com/huggingface/sentence-transformers/issues/663 (does it still match?)",
        ),
        Mistake(
            "sorted twice",
            wrong(restore="twice"),
            "`vectors[order]` applies the order of lengths a second time. Its inverse is `order.argsort()` (exercise "
            "10.2).",
            "https://github.com/JohnGiorgi/DeCLUTR/pull/122 (embeddings in the wrong order)",
        ),
        Mistake(
            "not sorted",
            wrong(sorts=False),
            "the chunks are taken in the order of the batch. Sort by length first, so that texts of similar length "
            "share a chunk and little padding is read.",
            "chunks without sorting, as in a plain split of the batch",
        ),
        Mistake(
            "as wide as the batch",
            wrong(cuts=False),
            "each chunk is as wide as the whole batch, so nothing is saved. Cut a chunk to its own longest text: "
            "`ids[rows, :T]`.",
            "sorting without cutting; the padding stays",
        ),
        Mistake(
            "0.05 always",
            wrong(default_tau=True),
            "the loss ignores `temperature`: it always has 0.05, the default of `info_nce_loss`. Hand over "
            "`self.temperature`.",
            "a default that hides a forgotten argument",
        ),
        Mistake(
            "one way",
            wrong(one_way=True),
            "`symmetric` has no effect on the loss. Hand `self.symmetric` to `info_nce_loss`.",
            "an argument that is accepted and not used",
        ),
        Mistake(
            "same ignored",
            wrong(uses_same=False),
            "`same` has no effect: a text that is right for two anchors is pushed away from one of them. Hand it to "
            "`info_nce_loss`.",
            "false negatives, see lesson 09",
        ),
        Mistake(
            "no hard negatives",
            wrong(uses_negatives=False),
            "the hard negatives have no effect: encode them too and hand them to `info_nce_loss`.",
            "an argument that is accepted and not used",
        ),
        Mistake(
            "same for the negatives",
            wrong(swaps=True),
            "`same` comes where `info_nce_loss` expects the hard negatives. Its arguments end with `negatives, same`; "
            "hand them over by name.",
            "two arguments that change places from one function to the next",
        ),
        Mistake(
            "no gradient through the cache",
            wrong(keeps="no gradient"),
            "with `cache` the encoder gets no gradient: under `torch.no_grad()` alone nothing is computed again in "
            "backward. `checkpoint(self, ids, mask, use_reentrant=False)` does that.",
            "the first pass of gradient caching without the third, see lesson 09",
        ),
        Mistake(
            "no cache",
            wrong(caches=False),
            "`cache` has no effect: as many numbers are kept for backward as without it. Run each chunk through "
            "`checkpoint` of torch.",
            "an argument that is accepted and not used",
        ),
        Mistake(
            "other masks",
            wrong(keeps="new masks"),
            "with the cache, backward draws other dropout masks than forward, so the gradients belong to another "
            "loss. Leave `preserve_rng_state` at True.",
            "preserve_rng_state=False of torch.utils.checkpoint",
        ),
        Mistake(
            "every setting accepted",
            wrong(trusts=True),
            "settings that cannot work are accepted. Raise a ValueError for each of the four that the text lists.",
            "a misspelled setting that nobody notices",
        ),
    ),
    hints=(
        "`forward` first: the encoder gives (B, T, C) for `ids` and `mask`; `pool` makes (B, C) of it. The mask that "
        "is left out is `ids != self.encoder.config.pad_id`.",
        '"first-last": `(self.encoder.embed(ids) + hidden) / 2`, and then the mean.',
        "`encode`: `order = lengths.argsort()`, then for each `rows in order.split(self.chunk)` the texts "
        "`ids[rows, :T]`, with T the longest of these rows. At the end `torch.cat(vectors)[order.argsort()]`.",
        "`loss`: encode anchors, positives and, if given, negatives; then "
        "`info_nce_loss(anchors, positives, self.temperature, self.symmetric, negatives, same)`.",
        "The cache: `checkpoint(self, ids[rows, :T], mask[rows, :T], use_reentrant=False)` in place of `self(…)`, "
        "where `self.cache and torch.is_grad_enabled()`.",
    ),
    praise="Token ids in, one vector a text out, and a batch as large as you like.",
    other_ways=(ByHand, wrong()),
)

# --- 10.4 crops -------------------------------------------------------------------------------------------------------


def text_and_place(generator):
    words = torch.randint(FIRST, 90, (12,), generator=generator).tolist()
    start = int(torch.randint(2, 5, (1,), generator=generator))
    return [CLS, *words, SEP], start, 5


def text_with_an_end(generator):
    ids, _, _ = text_and_place(generator)
    return ids, 4, 20  # fewer than n are left


crop = Exercise(
    id="10.4",
    right=lambda ids, start, n: [CLS, *ids[1:-1][start : start + n], SEP],
    inputs=text_and_place,
    also=text_with_an_end,
    mistakes=(
        Mistake(
            "no specials",
            lambda ids, start, n: ids[1:-1][start : start + n],
            "the right tokens, but [CLS] and [SEP] are missing: the model has never seen a text that begins and ends "
            "like this.",
            "https://github.com/huggingface/transformers/issues/812",
        ),
        Mistake(
            "no [SEP]",
            lambda ids, start, n: [CLS, *ids[1:-1][start : start + n]],
            "[SEP] was cut off with the rest of the text. Put it behind the tokens.",
            "https://github.com/jackroos/VL-BERT/issues/28",
        ),
        Mistake(
            "counted from [CLS]",
            lambda ids, start, n: [CLS, *ids[start : start + n], SEP],
            "one off: you count from [CLS]. Word 0 is ids[1], and a crop from 0 on would have [CLS] twice.",
            "https://github.com/lucidrains/RETRO-pytorch/issues/25 (two [CLS] in the first chunk)",
        ),
        Mistake(
            "a slice of everything",
            lambda ids, start, n: ids[start : start + n],
            "this is a slice of the ids as they are: [CLS] counts as a word, and the crop has neither [CLS] nor [SEP] "
            "of its own.",
            "https://github.com/huggingface/transformers/issues/812",
        ),
        Mistake(
            "n is the end",
            lambda ids, start, n: [CLS, *ids[1:-1][start:n], SEP],
            "n is how many tokens, not where they end: `words[start : start + n]`.",
            "length and end of a slice confused; torch.narrow takes a length, a slice an end",
        ),
        Mistake(
            "n with the specials",
            lambda ids, start, n: [CLS, *ids[1:-1][start : start + n - 2], SEP],
            "two tokens short: n counts tokens, [CLS] and [SEP] come on top. (The tokenizer's `max_len` counts them.)",
            "max_len of `encode_batch`, which includes both",
        ),
        Mistake(
            "two [SEP]",
            lambda ids, start, n: [CLS, *ids[start + 1 : start + 1 + n], SEP],
            "where fewer than n tokens are left, the slice takes the text's own [SEP] along, and yours comes after it. "
            "The slice must stop before the last id.",
            "a slice from start + 1 on that is tried in the middle of a text only",
        ),
    ),
    hints=(
        "First take the specials off: `words = ids[1:-1]`. Put them on again at the end.",
        "`words[start : start + n]` stops by itself where the text ends.",
        "`[ids[0], *words[start : start + n], ids[-1]]`",
    ),
    praise="A piece of a text, dressed as a text.",
    other_ways=(
        lambda ids, start, n: [2, *ids[start + 1 : min(start + 1 + n, len(ids) - 1)], 3],
        lambda ids, start, n: [2, *list(itertools.islice(ids, start + 1, len(ids) - 1))[:n], 3],
    ),
)

# --- 10.5 predict the result: the same vector twice -------------------------------------------------------------------

B, TAU, COSINE = 64, 0.05, 0.8

loss_of_the_same_vector = Prediction(
    id="10.5",
    right=math.log(1 + (B - 1) * math.exp((COSINE - 1) / TAU)),
    tolerance=0.005,
    mistakes=(
        Mistake(
            "ln B",
            math.log(B),
            "ln 64 is the loss when all cosines are equal. Here the cosine with the own positive is 1, and the others "
            "are 0.8.",
            "https://github.com/princeton-nlp/SimCSE/issues/40 (why is the loss so small from the start?)",
        ),
        Mistake(
            "zero",
            0.0,
            "not zero: the 63 others have a cosine of 0.8, and each takes a part of the probability.",
            "https://github.com/princeton-nlp/SimCSE/issues/35",
        ),
        Mistake(
            "64 negatives",
            math.log(1 + B * math.exp((COSINE - 1) / TAU)),
            "you count 64 negatives. The batch has 64 positives, and one of them is the anchor's own: 63 others.",
            "the batch size taken for the number of negatives",
        ),
        Mistake(
            "no temperature",
            math.log(1 + (B - 1) * math.exp(COSINE - 1)),
            "you left out the temperature: the cosines are divided by 0.05 before the exponential.",
            "https://github.com/princeton-nlp/SimCSE/issues/40",
        ),
        Mistake(
            "times the temperature",
            math.log(1 + (B - 1) * math.exp((COSINE - 1) * TAU)),
            "you multiplied by the temperature. The cosines are divided by it: 0.05 makes differences 20 times larger.",
            "a scale of 20 and a temperature of 0.05 are the same, see MultipleNegativesRankingLoss",
        ),
        Mistake(
            "the positive left out",
            math.log((B - 1) * math.exp((COSINE - 1) / TAU)),
            "you left the positive out of the denominator: the sum runs over all j, with j = i among them.",
            "the sum over k ≠ i read wrongly, see lesson 09 on the denominator",
        ),
    ),
    hints=(
        "Divide numerator and denominator by the positive's own e^(1/τ). The numerator is then 1.",
        "The denominator is 1 + 63 · e^((0.8 - 1)/0.05).",
        "`math.log(1 + 63 * math.exp((0.8 - 1) / 0.05))`",
    ),
    praise="Far below ln 64, although a cosine of 0.8 looks close to 1.",
)

# --- 10.6 the build: a SimCSE step ------------------------------------------------------------------------------------


def simcse_step(model, optimizer, ids, mask):
    """One step of unsupervised SimCSE on a batch of texts, each (B, T) -> the loss before the step, a float"""
    model.train()  # dropout makes the two views
    same = (ids[:, None] == ids).all(-1)  # (B, B), True where two rows are the same text
    loss = model.loss(ids, mask, ids, mask, same=same)  # it encodes twice, so each text is read through two masks
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


class Reader(SentenceEncoder):
    """A sentence encoder whose dropout is known: in training mode each reading of a text has a mask of its own.

    The mask depends on which time the text is read, not on the call: two passes, or one over both copies, are alike.
    """

    def __init__(self, generator, temperature=0.5, drops=True, size=1.0, C=16):
        super().__init__(nn.Identity(), temperature=temperature)
        self.table = nn.Parameter(size * torch.randn(40, C, generator=generator))
        self.masks = 2.0 * (torch.rand(16, C, generator=generator) < 0.5) if drops else None
        self.read = Counter()

    def forward(self, ids, mask=None):
        mask = ids != 0 if mask is None else mask
        found = []
        for row, real in zip(ids, mask, strict=True):
            vector = self.table[row[real]].mean(0)
            if self.masks is not None and self.training:
                key = tuple(row[real].tolist())
                vector = vector * self.masks[(self.read[key] + sum(key)) % len(self.masks)]
                self.read[key] += 1
            found.append(vector)
        return torch.stack(found)


class Shifted(Reader):
    """A Reader with a second parameter, so that the gradient of all parameters is not that of each."""

    def __init__(self, generator, **settings):
        super().__init__(generator, **settings)
        self.shift = nn.Parameter(self.table.detach()[0].clone())

    def forward(self, ids, mask=None):
        return super().forward(ids, mask) + self.shift


def some_texts(generator, B=5, T=6):
    """Return ids and mask of texts that begin with different tokens: (B, T) each."""
    ids, mask = texts(generator, tuple(range(T, T - B, -1)))
    ids[:, 1] = torch.arange(B) + FIRST
    mask[:, 1] = True
    return ids, mask


def stepped(answer, model, *batches, lr=0.1, optimizer=torch.optim.SGD):
    """Return what the answer gives for each batch; the model has learned then."""
    made = optimizer(model.parameters(), lr=lr)
    return [untouched(lambda ids, mask: answer(model, made, ids, mask), *batch) for batch in batches]


def as_number(loss):
    """Return what kind of thing a loss is, and its value."""
    return None if loss is None else (f"a {type(loss).__name__}", torch.as_tensor(loss).detach().float())


def step_loss(answer, generator):
    return as_number(*stepped(answer, Reader(generator, drops=False).train(), some_texts(generator)))


def two_views(answer, generator):
    return as_number(*stepped(answer, Reader(generator).train(), some_texts(generator)))


def from_eval(answer, generator):
    model = Reader(generator).eval()
    return as_number(*stepped(answer, model, some_texts(generator)))


def twice_in_the_batch(answer, generator):
    ids, mask = some_texts(generator)
    again = torch.cat([ids, ids[1:3]]), torch.cat([mask, mask[1:3]])
    nearly = ids[:1].clone()
    nearly[0, -1] = 4  # another last token: another text
    again = torch.cat([again[0], nearly]), torch.cat([again[1], mask[:1]])
    return as_number(*stepped(answer, Reader(generator, drops=False).train(), again))


def one_step(answer, generator):
    model = Reader(generator, temperature=1.0, size=2.0).train()
    stepped(answer, model, some_texts(generator))
    return model.table.detach(), f"afterwards the model is in {'training' if model.training else 'eval'} mode"


def several_steps(answer, generator):
    model = Reader(generator, temperature=1.0, size=2.0).train()
    model.table.grad = 0.1 * torch.ones_like(model.table)  # from before
    stepped(answer, model, some_texts(generator), some_texts(generator))
    return model.table.detach()


def long_gradients(answer, generator):
    model = Shifted(generator, temperature=0.05, size=0.02).train()
    stepped(answer, model, some_texts(generator))
    return model.table.detach(), model.shift.detach()


def other_optimizers(answer, generator):
    model = Reader(generator, temperature=0.3, C=7).train()
    found = stepped(answer, model, some_texts(generator, 3, 8), lr=0.01, optimizer=torch.optim.AdamW)
    return as_number(*found) and (*as_number(*found), model.table.detach())


def steps_by(
    loss=None,
    mode="train",
    same=lambda ids: (ids[:, None] == ids).all(-1),
    zero="before",
    clip=lambda parameters: nn.utils.clip_grad_norm_(parameters, 1.0),
    gives=lambda loss: loss.item(),
):
    """Return a `simcse_step` with one thing done otherwise."""

    def simcse_step(model, optimizer, ids, mask):
        if mode:
            model.train(mode == "train")
        s = same(ids)
        value = model.loss(ids, mask, ids, mask, same=s) if loss is None else loss(model, ids, mask, s)
        if zero == "before":
            optimizer.zero_grad()
        value.backward()
        if zero == "after":
            optimizer.zero_grad()
        clip(model.parameters())
        optimizer.step()
        return gives(value)

    return simcse_step


def read_once(model, ids, mask, same):
    z = model(ids, mask)
    return info_nce_loss(z, z, model.temperature, same=same)


def one_side(model, ids, mask, same):
    a = model(ids, mask)
    with torch.no_grad():
        b = model(ids, mask)
    return info_nce_loss(a, b, model.temperature, same=same)


def both_sides(model, ids, mask, same):
    a, b = (F.normalize(model(ids, mask), dim=-1) for _ in range(2))
    scores = torch.cat([a @ b.T, a @ a.T], 1) / model.temperature
    hidden = torch.cat([same & ~torch.eye(len(ids), dtype=torch.bool), same | torch.eye(len(ids), dtype=torch.bool)], 1)
    return F.cross_entropy(scores.masked_fill(hidden, -torch.inf), torch.arange(len(ids)))


def in_one_pass(model, optimizer, ids, mask):
    """Another way: one pass over both copies, as in SimCSE's own code."""
    model.train()
    optimizer.zero_grad(set_to_none=False)
    a, b = F.normalize(model(torch.cat([ids, ids]), torch.cat([mask, mask])), dim=-1).chunk(2)
    rows = [tuple(row) for row in ids.tolist()]
    copies = torch.tensor([[i != j and x == y for j, y in enumerate(rows)] for i, x in enumerate(rows)])
    scores = (a @ b.T / model.temperature).masked_fill(copies, -torch.inf)
    loss = (scores.logsumexp(1) - scores.diag()).mean()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    return float(loss.detach())


simcse = Build(
    id="10.6",
    course=simcse_step,
    stages=(
        Stage("the loss", step_loss),
        Stage("two views", two_views),
        Stage("the mode", from_eval),
        Stage("a text twice in the batch", twice_in_the_batch),
        Stage("one step", one_step),
        Stage("several steps", several_steps),
        Stage("clipping", long_gradients),
        Stage("other sizes", other_optimizers),
    ),
    mistakes=(
        Mistake(
            "the loss with its graph",
            steps_by(gives=lambda loss: loss),
            "you return the loss as a tensor. A list of them keeps every step's graph alive: return `loss.item()`.",
            "losses collected with their graphs, a leak of memory in many training loops",
        ),
        Mistake(
            "negatives from the own side",
            steps_by(both_sides),
            "you also compare the first views with each other, as NT-Xent does. SimCSE finds each text's second view "
            "among the second views only.",
            "SimCLR's loss in place of SimCSE's, see lesson 09",
        ),
        Mistake(
            "read once",
            steps_by(read_once),
            "anchor and positive are one and the same vector, through one dropout mask. Read the texts twice: "
            "dropout then draws two masks, and the two vectors are the two views.",
            "https://github.com/princeton-nlp/SimCSE/issues/229 (do the two copies get the same mask?)",
        ),
        Mistake(
            "in eval mode",
            steps_by(mode="eval"),
            "the model is in eval mode while it learns: there is no dropout then, and the two views are the same.",
            "https://github.com/princeton-nlp/SimCSE/issues/126 (where is the dropout?)",
        ),
        Mistake(
            "the mode left as it is",
            steps_by(mode=None),
            "a model that comes in eval mode, as after any measurement, stays in it, and the two views are the same. "
            "Switch to training mode: `model.train()`.",
            "https://github.com/princeton-nlp/SimCSE/issues/126 (where is the dropout?)",
        ),
        Mistake(
            "a copy as a negative",
            steps_by(same=lambda ids: None),
            "a text that comes twice in the batch is pushed away from its own copy. Tell the loss by `same`, (B, B), "
            "True where two rows hold the same ids.",
            "false negatives, see lesson 09",
        ),
        Mistake(
            "alike in the first tokens",
            steps_by(same=lambda ids: (ids[:, None, :3] == ids[:, :3]).all(-1)),
            "two texts that begin alike are taken for the same text. Compare all their ids.",
            "a comparison that stops too early",
        ),
        Mistake(
            "alike in one token",
            steps_by(same=lambda ids: (ids[:, None] == ids).any(-1)),
            "two texts are taken for the same as soon as one position agrees, padding included. They are the same "
            "only if all ids are equal: `.all(-1)`.",
            "any in place of all",
        ),
        Mistake(
            "0.05 always",
            steps_by(lambda model, ids, mask, same: info_nce_loss(model(ids, mask), model(ids, mask), same=same)),
            "the loss has the temperature 0.05, the default of `info_nce_loss`, whatever the model's is. Hand over "
            "`model.temperature`, or call `model.loss`.",
            "a default that hides a forgotten argument",
        ),
        Mistake(
            "one side detached",
            steps_by(one_side),
            "the loss is right, but the second view has no gradient. Both views learn.",
            "the target encoder of MoCo and BYOL, which SimCSE does not have",
        ),
        Mistake(
            "gradients thrown away",
            steps_by(zero="after"),
            "`zero_grad` stands between `backward` and `step`: the gradients are gone before the optimizer sees them.",
            "https://github.com/karpathy/micrograd and its like: the order of the three calls",
        ),
        Mistake(
            "gradients left over",
            steps_by(zero=None),
            "gradients of earlier steps are added to this one's: call `optimizer.zero_grad()` before `backward`.",
            "a forgotten zero_grad; it still learns, only worse",
        ),
        Mistake(
            "not clipped",
            steps_by(clip=lambda parameters: None),
            "long gradients are not clipped: `nn.utils.clip_grad_norm_(model.parameters(), 1.0)` before the step.",
            "lesson 06's loop without its clipping",
        ),
        Mistake(
            "each parameter by itself",
            steps_by(clip=lambda parameters: [nn.utils.clip_grad_norm_([p], 1.0) for p in parameters]),
            "each parameter's gradient is clipped by itself, which changes the direction of the step. Clip the one "
            "gradient of all parameters: `clip_grad_norm_(model.parameters(), 1.0)`, without a loop.",
            "a loop over the parameters around clip_grad_norm_",
        ),
        Mistake(
            "clipped by value",
            steps_by(clip=lambda parameters: nn.utils.clip_grad_value_(parameters, 1.0)),
            "each number of the gradient is cut at 1, which changes its direction. Shorten the whole gradient to the "
            "length 1: `clip_grad_norm_`.",
            "two functions of torch with similar names",
        ),
    ),
    hints=(
        "`model.loss(ids, mask, ids, mask)` encodes its anchors and its positives in two passes. What does dropout do "
        "in each of them, in training mode?",
        "`same = (ids[:, None] == ids).all(-1)` compares each row with each, and is (B, B).",
        "Then as in lesson 06: `optimizer.zero_grad()`, `loss.backward()`, clip, `optimizer.step()`.",
        "Return `loss.item()`, a plain float.",
    ),
    praise="A text and itself, twice through dropout: that is all of unsupervised SimCSE.",
    other_ways=(in_one_pass, steps_by()),
)
