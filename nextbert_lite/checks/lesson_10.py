"""The checks of lesson 10, Sentence embeddings."""

import itertools
import math

import torch

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution

__all__ = ["crop", "first_and_last", "hint", "in_chunks", "loss_of_the_same_vector", "mean_pool", "solution"]

CLS, SEP, FIRST = 2, 3, 5

# --- 10.1 the mean of the real tokens ---------------------------------------------------------------------------------


def hidden_and_mask(generator):
    lengths = torch.tensor([3, 8, 5, 6])  # one text fills the batch's width, the others are padded
    return torch.randn(4, 8, 6, generator=generator), torch.arange(8) < lengths[:, None]


def one_token_each(generator):
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[:, 0] = True
    return torch.randn(2, 4, 3, generator=generator), mask


def right_mean(hidden, mask):
    return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


mean_pool = Exercise(
    id="10.1",
    right=right_mean,
    inputs=hidden_and_mask,
    also=one_token_each,
    mistakes=(
        Mistake(
            "padding in the mean",
            lambda hidden, mask: hidden.mean(1),
            "this is the mean over all positions, padding and all: a text's vector then depends on the longest text of "
            "its batch. Take the sum over the real tokens and divide by their number.",
            "https://github.com/huggingface/transformers/issues/17463",
        ),
        Mistake(
            "divided by the width",
            lambda hidden, mask: (hidden * mask[:, :, None]).mean(1),
            "the right sum, but divided by the width of the batch. For a cosine the length does not matter, for a "
            "distance or a mean of vectors it does. Divide by the number of real tokens, `mask.sum(1)`.",
            "https://github.com/huggingface/sentence-transformers/issues/230 (what is the sum divided by?)",
        ),
        Mistake(
            "a sum",
            lambda hidden, mask: (hidden * mask[:, :, None]).sum(1),
            "this is the sum: a long text gets a long vector. Divide by the number of real tokens.",
            "https://github.com/huggingface/sentence-transformers/issues/230",
        ),
        Mistake(
            "the padding only",
            lambda hidden, mask: (hidden * ~mask[:, :, None]).sum(1) / (~mask).sum(1, keepdim=True),
            "this is the mean of the padding: the mask is the wrong way round. True means a real token.",
            "torch's key_padding_mask has True for padding, see lesson 02",
        ),
        Mistake(
            "the specials left out",
            lambda hidden, mask: (
                (hidden[:, 1:] * (m := mask[:, 1:] & mask.roll(-1, 1)[:, 1:])[:, :, None]).sum(1)
                / m.sum(1, keepdim=True)
            ),
            "you leave out [CLS] and [SEP]. That is a pooling too, but not this one: whatever the mask calls real "
            "counts, as in sentence-transformers.",
            "https://github.com/huggingface/sentence-transformers/issues/1623",
        ),
        Mistake(
            "[CLS]",
            lambda hidden, mask: hidden[:, 0],
            "this is the first token's vector, the pooling 'cls'. Here the mean over all real tokens is asked.",
            "https://github.com/wangyuxinwhy/uniem/issues/24 (which of the two does a model use?)",
        ),
    ),
    hints=(
        "Make a weight for each token: 1 where the mask is True, 0 elsewhere. Multiply, then add up over the tokens.",
        "`mask[:, :, None]` is (B, T, 1) and stretches over (B, T, C).",
        "`(hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)`",
    ),
    praise="A text's vector no longer knows who stood beside it in the batch.",
    other_ways=(
        lambda h, m: torch.stack([text[real].mean(0) for text, real in zip(h, m, strict=True)]),
        lambda h, m: torch.einsum("btc,bt->bc", h, m / m.sum(1)[:, None]),
    ),
)

# --- 10.2 first and last ----------------------------------------------------------------------------------------------


def layers_and_mask(generator):
    hidden, mask = hidden_and_mask(generator)
    return [hidden, *(torch.randn(hidden.shape, generator=generator) for _ in range(3))], mask


def fewer_layers(generator):
    mask = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    return [torch.randn(3, 5, 4, generator=generator) for _ in range(3)], mask


first_and_last = Exercise(
    id="10.2",
    right=lambda hidden, mask: right_mean((hidden[1] + hidden[-1]) / 2, mask),
    inputs=layers_and_mask,
    also=fewer_layers,
    mistakes=(
        Mistake(
            "the embeddings for the first layer",
            lambda hidden, mask: right_mean((hidden[0] + hidden[-1]) / 2, mask),
            "hidden[0] are the embeddings, not the first layer: a list of L + 1. (That is a pooling too, and the "
            "package's 'first-last'; SimCSE's code had it under the other one's name.)",
            "https://github.com/princeton-nlp/SimCSE/issues/133",
        ),
        Mistake(
            "padding in the mean",
            lambda hidden, mask: ((hidden[1] + hidden[-1]) / 2).mean(1),
            "the right layers, but padding is in the mean. Take the real tokens only.",
            "https://github.com/autoliuweijie/BERT-whitening-pytorch/issues/13",
        ),
        Mistake(
            "a sum of two layers",
            lambda hidden, mask: right_mean(hidden[1] + hidden[-1], mask),
            "this is the sum of both layers, twice the mean.",
            "https://github.com/autoliuweijie/BERT-whitening-pytorch/issues/13 (its first lines have no / 2)",
        ),
        Mistake(
            "the last two",
            lambda hidden, mask: right_mean((hidden[-2] + hidden[-1]) / 2, mask),
            "these are the last two layers, the pooling that SimCSE's code calls 'avg_top2'. The first one is "
            "hidden[1].",
            "avg_top2 in simcse/models.py of princeton-nlp/SimCSE",
        ),
    ),
    hints=(
        "How many tensors has the list, for L layers? Which of them comes out of layer 1?",
        "First the mean of the two layers, (B, T, C). Then the mean over the real tokens as in 10.1.",
        "`both = (hidden[1] + hidden[-1]) / 2`, and then 10.1 on `both`.",
    ),
    praise="The first layer's output, and not the embeddings before it.",
    other_ways=(
        lambda h, m: torch.stack([(h[1] + h[-1])[i, real].mean(0) / 2 for i, real in enumerate(m)]),
        lambda h, m: sum((x * m[..., None]).sum(1) / m.sum(1)[:, None] for x in (h[1], h[-1])) / 2,
    ),
)

# --- 10.3 find the bug: the order after sorting -----------------------------------------------------------------------


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
    id="10.3",
    right=right_chunks,
    inputs=texts_of_lengths,
    also=fewer_of_lengths,
    limit=not_in_chunks,
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
            "restored by another sorting",
            longest_first_restored_as_shortest_first,
            "sorted with the longest first, but restored as if the shortest came first. Restore with the argsort of "
            "the very `order` that you used.",
            "https://github.com/facebookresearch/SentEval/issues/35 (two sortings that need not agree)",
        ),
    ),
    hints=(
        "Three texts with the lengths 5, 9, 1: what is `order`? At which place of `vectors` is text 0?",
        "You look for the inverse of the permutation `order`. `out[order] = vectors` writes with it, not reads.",
        "`return vectors[order.argsort()]`",
    ),
    praise="argsort of argsort: each text's place in the sorted order, where its vector lies.",
    other_ways=(
        chunks_written_back,
        chunks_of_a_list,
    ),
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

B, TAU, COSINE = 64, 0.05, 0.6

loss_of_the_same_vector = Prediction(
    id="10.5",
    right=math.log(1 + (B - 1) * math.exp((COSINE - 1) / TAU)),
    tolerance=0.001,
    mistakes=(
        Mistake(
            "ln B",
            math.log(B),
            "ln 64 is the loss of somebody who guesses, when all cosines are equal. Here the own one is 1, the others "
            "0.6: it is far ahead.",
            "https://github.com/princeton-nlp/SimCSE/issues/40 (why is the loss so small from the start?)",
        ),
        Mistake(
            "zero",
            0.0,
            "nearly, but not zero: the 63 others have a cosine of 0.6, and each takes a little of the probability. "
            "That little is all that this training lives on.",
            "https://github.com/princeton-nlp/SimCSE/issues/35",
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
            "a negative loss: the positive belongs into the sum below the line too.",
            "the sum over k ≠ i read wrongly, see lesson 09 on the denominator",
        ),
    ),
    hints=(
        "Divide above and below by the positive's own e^(1/τ). What is left above is 1.",
        "Below: 1 + 63 · e^((0.6 - 1)/0.05).",
        "`math.log(1 + 63 * math.exp((0.6 - 1) / 0.05))`",
    ),
    praise="A loss near zero, and yet something to learn.",
)
