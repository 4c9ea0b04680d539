"""The checks of lesson 14, Real weights."""

import torch
import torch.nn.functional as F

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution

__all__ = ["embedded", "hint", "longest_text", "looks_back", "our_name", "packed", "solution"]

# --- 14.1 three matrices in one ---------------------------------------------------------------------------------------

HEADS = 2


def three_matrices(generator):
    return tuple(torch.randn(3, 6, 6, generator=generator))


def head_by_head(query, key, value):
    """The first head's queries, keys and values, then the second head's."""
    parts = [m.view(HEADS, -1, m.shape[1]) for m in (query, key, value)]
    return torch.cat(parts, dim=1).reshape(-1, query.shape[1])


packed = Exercise(
    id="14.1",
    right=lambda query, key, value: torch.cat([query, key, value]),
    inputs=three_matrices,
    also=lambda generator: tuple(torch.randn(3, 4, 4, generator=generator)),
    mistakes=(
        Mistake(
            "side by side",
            lambda query, key, value: torch.cat([query, key, value], dim=1),
            "you put them side by side, (C, 3C). A weight of torch has a row for each output, so more outputs are more "
            "rows: one below the other, dim=0.",
            "https://github.com/huggingface/transformers/issues/4514 (which axis of a linear layer is which)",
        ),
        Mistake(
            "transposed",
            lambda query, key, value: torch.cat([query.T, key.T, value.T]),
            "each matrix is transposed. TensorFlow stores a linear layer as (in, out), torch as (out, in), and this "
            "file comes from torch. The matrices are square, so no shape warns you.",
            "https://github.com/huggingface/transformers/issues/4514",
        ),
        Mistake(
            "transposed and side by side",
            lambda query, key, value: torch.cat([query.T, key.T, value.T], dim=1),
            "that is the transposed of the right answer, (C, 3C): TensorFlow's layout. torch stores (out, in).",
            "https://github.com/huggingface/transformers/issues/4514",
        ),
        Mistake(
            "head by head",
            head_by_head,
            "that is another layout, head by head: query, key and value of the first head, then of the second. Ours "
            "keeps all queries together.",
            "https://github.com/NVIDIA/apex/issues/1131 (two layouts of the same shape)",
        ),
        Mistake(
            "keys first",
            lambda query, key, value: torch.cat([key, query, value]),
            "keys and queries have changed places. Our layer takes the first third for queries, the second for keys.",
            "https://github.com/explosion/curated-transformers/pull/50 (thirds in another order than torch's)",
        ),
        Mistake(
            "values first",
            lambda query, key, value: torch.cat([value, key, query]),
            "the order is turned round: first the queries, then the keys, then the values.",
            "https://github.com/explosion/curated-transformers/pull/50 (thirds in another order than torch's)",
        ),
        Mistake(
            "stacked",
            lambda query, key, value: torch.stack([query, key, value]),
            "that is a stack, (3, C, C). One linear layer has one matrix, (3C, C): torch.cat puts them one below the "
            "other.",
            "https://github.com/pytorch/pytorch/issues/15037 (stack where cat was meant)",
        ),
    ),
    hints=(
        "Our `qkv` is `nn.Linear(C, 3 * C)`: its weight is (3C, C), one row for each output.",
        "`q, k, v = qkv(x)` in three equal parts: the first third of the outputs are queries.",
        "`torch.cat([query, key, value])`",
    ),
    praise="One below the other: the outputs of a linear layer are its rows.",
    other_ways=(
        lambda q, k, v: torch.vstack([q, k, v]),
        lambda q, k, v: torch.stack([q, k, v]).flatten(0, 1),
        lambda q, k, v: torch.cat([q.T, k.T, v.T], dim=1).T,
    ),
)

# --- 14.2 names -------------------------------------------------------------------------------------------------------

PARTS = {
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "ffn_in",
    "output.dense": "ffn_out",
    "output.LayerNorm": "norm2",
}


def translated(name, parts):
    name = name.replace("encoder.layer.", "layers.")
    for theirs, ours in parts.items():
        name = name.replace(theirs, ours)
    return name


def all_names(generator):
    layer = int(torch.randint(10, 24, (), generator=generator))
    return ([f"encoder.layer.{layer}.{theirs}.{p}" for theirs in PARTS for p in ("weight", "bias")],)


def name_by_its_end(names):
    ends = {
        "attention.output.dense": "attention.out",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "ffn_in",
        "output.dense": "ffn_out",
        "output.LayerNorm": "norm2",
    }
    ours = []
    for name in names:
        _, _, layer, *middle, part = name.split(".")
        ours.append(f"layers.{layer}.{ends['.'.join(middle)]}.{part}")
    return ours


our_name = Exercise(
    id="14.2",
    right=lambda names: [translated(name, PARTS) for name in names],
    inputs=all_names,
    also=lambda generator: (["encoder.layer.3.output.dense.bias", "encoder.layer.0.attention.output.dense.weight"],),
    mistakes=(
        Mistake(
            "the short name first",
            lambda names: [translated(name, dict(reversed(PARTS.items()))) for name in names],
            "`output.dense` stands inside `attention.output.dense` too. Replaced first, it takes the attention's "
            "matrix for the one of the feed-forward network. Look for the longer name first.",
            "https://github.com/huggingface/transformers/issues/8242 (names of BERT's tensors, one inside the other)",
        ),
        Mistake(
            "layer, not layers",
            lambda names: [translated(name, PARTS).replace("layers.", "encoder.layer.") for name in names],
            "the front is still theirs: `encoder.layer.3` is `layers.3` with us.",
            "https://github.com/NLPScott/bert-Chinese-classification-task/issues/23 (keys that do not match)",
        ),
        Mistake(
            "one digit",
            lambda names: [
                translated(f"encoder.layer.{name[14]}{name[name.index('.', 14) :]}", PARTS) for name in names
            ],
            "a number of a layer may have two digits: layer 10 became layer 1.",
            "https://github.com/huggingface/transformers/issues/8242 (layer_10 among the names of a base model)",
        ),
        Mistake(
            "norms exchanged",
            lambda names: [
                translated(name, PARTS | {"attention.output.LayerNorm": "norm2", "output.LayerNorm": "norm1"})
                for name in names
            ],
            "the two layer norms have changed places: norm1 is the one behind the attention. Both have the same shape, "
            "so it would load without a word.",
            "https://github.com/NVIDIA/TensorRT-LLM/issues/1173 (BERT's two norms mapped by hand)",
        ),
    ),
    hints=(
        "`name.replace(theirs, ours)` for each line of the table; five replacements and one for the front.",
        "Is one of their names a part of another? Then the order of the replacements matters.",
        "Begin with the two names that start with `attention.`",
    ),
    praise="The longer names first, so that no name is found inside another.",
    other_ways=(name_by_its_end,),
)

# --- 14.3 predict the result: the longest text ------------------------------------------------------------------------

longest_text = Prediction(
    id="14.3",
    right=510,
    mistakes=(
        Mistake(
            "all rows",
            514,
            "that would use all rows. But this family starts to count at pad_id + 1, so the first rows stay unused.",
            "https://github.com/rinnakk/japanese-pretrained-models/issues/3 (the maintainer's first answer there)",
        ),
        Mistake(
            "as in RoBERTa",
            512,
            "that holds for RoBERTa itself, whose pad_id is 1: 514 - 2. Here pad_id is 3.",
            "https://github.com/huggingface/transformers/issues/1363 (why 514?)",
        ),
        Mistake(
            "starts at pad_id",
            511,
            "the first token's position is pad_id + 1, not pad_id: that row is for padding.",
            "https://github.com/huggingface/transformers/issues/11242 (positions of RoBERTa one off)",
        ),
    ),
    hints=(
        "The rows are numbered 0 to 513. Which is the first that a token gets?",
        "Rows 4, 5, …, 513 are left.",
        "`514 - (3 + 1)`",
    ),
    praise="Four rows are never used by a token; longer texts are an IndexError, or worse on a GPU.",
)

# --- 14.4 find the bug: embeddings ------------------------------------------------------------------------------------


def embedding_tables(generator):
    def draw(*shape):
        return 0.02 * torch.randn(*shape, generator=generator)  # as small as BERT's, so that eps counts

    ids = torch.randint(20, (3, 5), generator=generator)
    tables = draw(20, 8), draw(6, 8), draw(2, 8)
    return ids, *tables, 1 + 10 * draw(8), 10 * draw(8)


def one_text(generator):
    ids, *tables = embedding_tables(generator)
    return ids[:1, :4], *(table[..., :6].contiguous() for table in tables)


def embeds(with_type=True, eps=1e-12, type_id=0, positions_of=1):
    def embed(ids, tokens, positions, types, weight, bias):
        x = tokens[ids] + (positions[: ids.shape[1]] if positions_of == 1 else positions[: ids.shape[0], None])
        x = x + types[type_id] if with_type else x
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)

    return embed


def both_types(ids, tokens, positions, types, weight, bias):
    x = tokens[ids] + positions[: ids.shape[1]] + types.sum(0)
    return F.layer_norm(x, (x.shape[-1],), weight, bias, 1e-12)


def type_after_norm(ids, tokens, positions, types, weight, bias):
    x = tokens[ids] + positions[: ids.shape[1]]
    return F.layer_norm(x, (x.shape[-1],), weight, bias, 1e-12) + types[0]


def embedded_by_hand(ids, tokens, positions, types, weight, bias):
    x = torch.stack([torch.stack([tokens[i] + positions[t] + types[0] for t, i in enumerate(row)]) for row in ids])
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, correction=0, keepdim=True) + 1e-12).sqrt() * weight + bias


embedded = Exercise(
    id="14.4",
    right=embeds(),
    inputs=embedding_tables,
    also=one_text,
    mistakes=(
        Mistake(
            "the bugs as they were",
            embeds(with_type=False, eps=1e-5),
            "both bugs are still there. Which of the five tables is not used? And which eps does config.json name, "
            "which one does F.layer_norm take if nobody says?",
            "https://github.com/keras-team/keras-hub/issues/642 and FACTS.md (add token_type_embeddings[0])",
        ),
        Mistake(
            "the type still missing",
            embeds(with_type=False),
            "eps is right now. But `types` is still not used: a model with token types adds one to every token, row 0 "
            "where there is only one sentence.",
            "FACTS.md (add token_type_embeddings[0])",
        ),
        Mistake(
            "the default eps",
            embeds(eps=1e-5),
            "the token type is there. But F.layer_norm takes eps = 1e-5 unless you say otherwise, and this model has "
            "1e-12. BERT's embeddings are small, so eps is seen in the result.",
            "https://github.com/nomic-ai/gpt4all/pull/1946 (all-MiniLM-L6-v2 run with another eps)",
        ),
        Mistake(
            "type 1",
            embeds(type_id=1),
            "you add row 1, the type of a *second* sentence. A single text is of type 0.",
            "https://github.com/john-hewitt/structural-probes/issues/13 (ones in place of zeros)",
        ),
        Mistake(
            "type 1, default eps",
            embeds(type_id=1, eps=1e-5),
            "you add row 1, the type of a *second* sentence; a single text is of type 0. And eps is still the default.",
            "https://github.com/huggingface/transformers/issues/2506 (all types 1 by mistake)",
        ),
        Mistake(
            "both types",
            both_types,
            "you add both rows of `types`. Each token has one type: row 0 for a single text.",
            "FACTS.md (add token_type_embeddings[0])",
        ),
        Mistake(
            "type after the norm",
            type_after_norm,
            "the type is added behind the norm. All three embeddings are summed first, and the norm comes last.",
            "FACTS.md (add token_type_embeddings[0], to the sum of the embeddings)",
        ),
    ),
    hints=(
        "Five tables come in. Are all of them used?",
        "`help(F.layer_norm)`: what is eps if you do not give it?",
        "`x = tokens[ids] + positions[:T] + types[0]`, and `eps=1e-12`",
    ),
    praise="Three tables, one norm, and the eps of the file: the first layer gets what it got in training.",
    other_ways=(
        embedded_by_hand,
        lambda ids, tokens, positions, types, weight, bias: F.layer_norm(
            F.embedding(ids, tokens)
            + positions[torch.arange(ids.shape[1]).expand_as(ids)]
            + types[torch.zeros_like(ids)],
            weight.shape,
            weight,
            bias,
            1e-12,
        ),
    ),
)

# --- 14.5 who looks back ----------------------------------------------------------------------------------------------


def maps_and_words(generator):
    B, H, T = 4, 3, 7
    lengths = torch.tensor([7, 4, 5, 6])
    weights = torch.randn(B, H, T, T, generator=generator) * 2
    real = torch.arange(T) < lengths[:, None]
    weights = weights.masked_fill(~real[:, None, None], -torch.inf).softmax(-1)
    words = real & (torch.arange(T) > 0) & (torch.arange(T) < lengths[:, None] - 1)  # neither [CLS] nor [SEP]
    return weights, words


def looks(weights, words, offset=-1, pairs=None, transposed=False):
    W = weights.transpose(-1, -2) if transposed else weights
    if offset < 0:
        W, pairs = W[:, :, 1:, :-1], words[:, 1:] & words[:, :-1] if pairs is None else pairs
    else:
        W, pairs = W[:, :, :-1, 1:], words[:, 1:] & words[:, :-1] if pairs is None else pairs
    found = W.diagonal(dim1=-2, dim2=-1)  # (B, H, T - 1)
    return (found * pairs[:, None]).sum((0, 2)) / pairs.sum()


def per_text(weights, words):
    W, pairs = weights[:, :, 1:, :-1].diagonal(dim1=-2, dim2=-1), words[:, 1:] & words[:, :-1]
    return ((W * pairs[:, None]).sum(2) / pairs.sum(1)[:, None]).mean(0)


def looks_back_by_loops(weights, words):
    total, count = 0.0, 0
    for b in range(len(words)):
        for t in range(1, words.shape[1]):
            if words[b, t] and words[b, t - 1]:
                total, count = total + weights[b, :, t, t - 1], count + 1
    return total / count


looks_back = Exercise(
    id="14.5",
    right=looks,
    inputs=maps_and_words,
    also=lambda generator: tuple(part[1:] for part in maps_and_words(generator)),
    mistakes=(
        Mistake(
            "the next word",
            lambda weights, words: looks(weights, words, offset=1),
            "that is the weight on the *next* word. Rows look (queries), columns are looked at (keys): row t, column "
            "t - 1.",
            "https://github.com/tensorflow/text/pull/936 (queries and keys exchanged in the explanation)",
        ),
        Mistake(
            "everything counted",
            lambda weights, words: weights[:, :, 1:, :-1].diagonal(dim1=-2, dim2=-1).mean((0, 2)),
            "you average over padding and the special tokens too. Padding has rows of weights like any token; nobody "
            "uses them.",
            "https://github.com/OpenNMT/CTranslate2/pull/247 (padding in returned attention)",
        ),
        Mistake(
            "the first word counted",
            lambda weights, words: looks(weights, words, pairs=words[:, 1:]),
            "the first word of each text has no word before it, but [CLS]: you count its weight on [CLS] as a look "
            "back.",
            "section 5: what stands before the first word is [CLS]",
        ),
        Mistake(
            "divided by all places",
            lambda weights, words: looks(weights, words) * (words[:, 1:] & words[:, :-1]).float().mean(),
            "the sum is right, but you divide by all places, padding and all, not by the number of pairs of words.",
            "https://github.com/UKPLab/sentence-transformers/issues/2569 (padding in the divisor of a mean)",
        ),
        Mistake(
            "the mean of means",
            per_text,
            "you average each text first and the texts after that: a word of a short text then counts more than one of "
            "a long text. Sum over all pairs of all texts, and divide once.",
            "section 5: the mean is over words",
        ),
    ),
    hints=(
        "`weights[:, :, 1:, :-1]` has the weight of row t on column t - 1 on its diagonal.",
        "Count the places where this token *and* the one before are words: `words[:, 1:] & words[:, :-1]`.",
        "`(found * pairs[:, None]).sum((0, 2)) / pairs.sum()`",
    ),
    praise="Rows look, columns are looked at, and padding has no say.",
    other_ways=(
        looks_back_by_loops,
        lambda w, words: (
            torch.einsum("bhtt,bt->h", w[:, :, 1:, :-1], (words[:, 1:] * words[:, :-1]).float())
            / (words[:, 1:] & words[:, :-1]).sum()
        ),
    ),
)
