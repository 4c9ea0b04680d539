"""The exercises of lesson 21, Retrieve and rerank: the right answers and the usual wrong ones."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite.checks.core import (
    OTHER_SIZES,
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    describe,
    hint,
    mine,
    solution,
    untouched,
    with_weights,
)
from nextbert_lite.core.contrastive import pool
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.training.batches import pad
from nextbert_lite.training.loop import evaluating
from nextbert_lite.use.rerank import QUERY, CrossEncoder, join
from nextbert_lite.use.search import all_ranks, ndcg_at

__all__ = [
    "ceiling",
    "cross_encoder",
    "graded_measure",
    "hint",
    "joining",
    "late",
    "mine",
    "negatives",
    "solution",
]

# --- 21.1 predict the result ------------------------------------------------------------------------------------------

RANKS = (1, 3, 2, 7, 1, 12, 2, 1, 40, 5)
DEPTH = 5


def mean_of(values):
    return sum(values) / len(RANKS)


ceiling = Prediction(
    id="21.1",
    right=mean_of([1 if r <= DEPTH else 1 / r for r in RANKS]),
    mistakes=(
        Mistake(
            "nothing beyond the depth",
            mean_of([r <= DEPTH for r in RANKS]),
            "that is recall@5, the proportion of answers among the five that are read again. The other three answers "
            "keep their places, and 1/7, 1/12 and 1/40 count too.",
            "recall@k is a lower bound of this ceiling",
        ),
        Mistake(
            "a perfect search",
            1.0,
            "a perfect reader puts an answer first only if it gets to read it. Three of the ten answers are not among "
            "the first five.",
            "the first search as a ceiling, forgotten",
        ),
        Mistake(
            "before the second look",
            mean_of([1 / r for r in RANKS]),
            "that is the mean reciprocal rank of the first search. The perfect reader moves each answer that it reads "
            "to rank 1.",
            "the number before instead of after",
        ),
        Mistake(
            "the fifth is not read",
            mean_of([1 if r < DEPTH else 1 / r for r in RANKS]),
            "the first five are read, and the fifth is one of them: that answer moves to rank 1 as well.",
            "an index that is off by one",
        ),
        Mistake(
            "the others move up",
            mean_of([1 if r <= DEPTH else 1 / (r - DEPTH) for r in RANKS]),
            "the answers beyond the fifth do not move up: the five texts that were read again still stand before them, "
            "in another order.",
            "the reordered texts taken away",
        ),
        Mistake(
            "the mean over those that are read",
            1 + sum(1 / r for r in RANKS if r > DEPTH) / len(RANKS),
            "add up all ten reciprocal ranks and divide by ten: more than 1 is not possible.",
            "two means added",
        ),
        Mistake(
            "the mean rank",
            len(RANKS) / sum(1 if r <= DEPTH else r for r in RANKS),
            "that is one over the mean rank. The MRR is the mean of one over the rank.",
            "harmonic and arithmetic means exchanged",
        ),
        Mistake(
            "worst place among the five",
            mean_of([1 / DEPTH if r <= DEPTH else 1 / r for r in RANKS]),
            "a perfect reader puts the answer first among the five, not last.",
            "the depth taken for the new rank",
        ),
        Mistake(
            "the proportion that is lost",
            mean_of([r > DEPTH for r in RANKS]),
            "that is the proportion of answers that are not read. The question is the MRR after the second look.",
            "one minus recall@k",
        ),
        Mistake(
            "the gain",
            mean_of([1 - 1 / r for r in RANKS if r <= DEPTH]),
            "that is by how much the MRR grows. The question is what it is afterwards.",
            "a difference in place of a value",
        ),
        Mistake(
            "those beyond get 1/6",
            mean_of([1 if r <= DEPTH else 1 / (DEPTH + 1) for r in RANKS]),
            "the answers beyond the fifth keep their own ranks, 7, 12 and 40; they do not all come next.",
            "the next rank for all that is left",
        ),
        Mistake(
            "the others fall back",
            mean_of([1 if r <= DEPTH else 1 / (r + 1) for r in RANKS]),
            "no answer falls back by one: the text that is moved to the front comes from among the five, so ranks "
            "beyond the fifth stay, 7, 12 and 40.",
            "a text moved to the front of the whole list",
        ),
        Mistake(
            "the sum",
            len(RANKS) * mean_of([1 if r <= DEPTH else 1 / r for r in RANKS]),
            "that is the sum of the ten reciprocal ranks. The MRR is their mean: divide by ten.",
            "a sum where a mean is asked for",
        ),
        Mistake(
            "divided by seven",
            sum(1 if r <= DEPTH else 1 / r for r in RANKS) / sum(r <= DEPTH for r in RANKS),
            "you divide by the seven that are read. Divide by all ten questions.",
            "a mean over the answers that were found",
        ),
        Mistake(
            "a percentage",
            100 * mean_of([1 if r <= DEPTH else 1 / r for r in RANKS]),
            "the MRR is a number between 0 and 1, not a percentage.",
            "a unit of measurement",
        ),
        Mistake(
            "a rounded percentage",
            72.5,
            "the MRR is between 0 and 1: leave out the factor of a hundred.",
            "a unit, rounded",
        ),
    ),
    hints=(
        "Seven of the ten answers are among the first five. What is their reciprocal rank afterwards?",
        "The other three keep their ranks.",
        "(7 + 1/7 + 1/12 + 1/40) / 10.",
    ),
    praise="What the first search does not find, no second look can find.",
    tolerance=0.001,
)


# --- 21.2 join --------------------------------------------------------------------------------------------------------


def two_texts(generator, vocabulary=120, asked=(28, 40), n=70):
    """Two encoded texts, longer than there is room for; neighbours in the vocabulary have the same key."""
    length = int(torch.randint(*asked, (1,), generator=generator))
    query = torch.randint(5, vocabulary, (length,), generator=generator).tolist()
    text = torch.randint(5, vocabulary, (n,), generator=generator).tolist()
    text[3] = query[1] ^ 1  # the same key, another id
    text[4] = query[-1]  # for a long query, a token that was cut off
    return [1, *query, 2], [1, *text, 2], [i // 2 for i in range(vocabulary)], 64


def always_long(generator):
    return two_texts(generator, asked=(36, 44))


def short_ones(generator):
    query, text, keys, _ = two_texts(generator, asked=(4, 5), n=9)
    return query, text, keys, 12


def wrong_join(**switches):
    """Return a join that a learner may write; its switches are the mistakes."""
    s = dict.fromkeys(
        "sep cls swap ids plain end query cut whole special sides left first room text_only late sets clsed".split()
    )
    s |= switches

    def joined(query, text, keys, max_len):
        cls, *words, sep = query
        body = text[1:-1]
        if s["sides"]:
            words, body = body, words
        everything, asked_all = body, words
        if s["clsed"]:
            words = words[: QUERY - 1]
        elif not s["query"]:
            words = words[-QUERY:] if s["left"] == "query" else words[:QUERY]
        room = max_len - 3 - len(words) + (s["room"] or 0)
        body = body[-room:] if s["left"] == "text" else body[:room]
        key = (lambda i: i) if s["ids"] else (lambda i: keys[i])
        there = {key(i) for i in (everything if s["cut"] else body)}
        asked = {key(i) for i in (asked_all if s["whole"] else words)}
        marks = (3, 2) if s["swap"] else (2, 3)
        if s["plain"]:
            types_q, types_t = [0] * len(words), [1] * len(body)
        else:
            types_q = [marks[0] if key(i) in there and not s["text_only"] else 0 for i in words]
            types_t = [marks[1] if key(i) in asked else 1 for i in body]
        ids = [cls, *words, *([] if s["sep"] else [sep]), *([cls] if s["cls"] else []), *body, sep]
        middle = [] if s["sep"] else [1 if s["first"] else 0]
        types = [0, *types_q, *middle, *([1] if s["cls"] else []), *types_t, 0 if s["end"] else 1]
        if s["late"]:
            types = [0, *types_q, 0, *(3 if key(i) in asked else 1 for i in everything), 1]
            return [cls, *words, sep, *everything, sep][:max_len], types[:max_len]
        if s["sets"]:
            types[1 + len(words)], types[-1] = 2, 3
        if s["special"]:
            types[0] = 2
            types[1 + len(words)] = 2
            types[-1] = 3
        return ids, types

    return joined


def join_by_loop(query, text, keys, max_len):
    """The same with loops."""
    words = query[1:-1]
    words = words[: min(32, len(words))]
    body = []
    for token in text[1:-1]:
        if len(words) + len(body) + 3 < max_len:
            body.append(token)
    ids, types = [query[0]], [0]
    for i in words:
        ids.append(i)
        types.append(2 if any(keys[i] == keys[j] for j in body) else 0)
    ids.append(query[-1])
    types.append(0)
    for j in body:
        ids.append(j)
        types.append(3 if any(keys[i] == keys[j] for i in words) else 1)
    return [*ids, text[-1]], [*types, 1]


def cut_at_last(query, text, keys, max_len):
    """Joined first, with the matches of all that is there, and then cut."""
    return wrong_join(late=True, cut=True)(query, text, keys, max_len)


def types_first(query, text, keys, max_len):
    ids, types = join(query, text, keys, max_len)
    return types, ids


def about_join(answer, case):
    """Say where ids or types differ first."""
    found, right = answer(*copy.deepcopy(case)), join(*case)
    if not (isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(p, tuple | list) for p in found)):
        return None
    for name, yours, wanted in zip(("ids", "types"), found, right, strict=True):
        if len(yours) != len(wanted):
            return (
                f"your {name} are {len(yours)} numbers; expected {len(wanted)}, with max_len {case[3]}. Is `max_len` "
                "used, and room left for [CLS] and both [SEP]?"
            )
        first = next((i for i, pair in enumerate(zip(yours, wanted, strict=True)) if pair[0] != pair[1]), None)
        if first is not None:
            what = {1: " ([CLS])", 2: " ([SEP])"}.get(wanted[first], "") if name == "ids" else ""
            return (
                f"{name}: the first that differs is at place {first}: {yours[first]}; expected {wanted[first]}{what}."
            )
    return None


joining = Exercise(
    id="21.2",
    right=join,
    inputs=always_long,
    also=short_ones,
    about=about_join,
    closed=True,
    reads=lambda result: tuple(list(part) for part in result) if isinstance(result, tuple | list) else result,
    mistakes=(
        Mistake(
            "no separator between the two",
            wrong_join(sep=True),
            "there is no [SEP] between query and text, so the model cannot see where one ends and the other begins.",
            "BERT's input format for pairs, Devlin et al. 2019",
        ),
        Mistake(
            "two [CLS]",
            wrong_join(cls=True, room=-1),
            "the text has its own [CLS] still. One at the beginning is enough: `text[1:-1]` takes the text without its "
            "specials.",
            "two encoded texts joined as they are",
        ),
        Mistake(
            "two [CLS], too long",
            wrong_join(cls=True),
            "the text has its own [CLS] still, and the result is one token longer than max_len.",
            "two encoded texts joined as they are",
        ),
        Mistake(
            "2 and 3 exchanged",
            wrong_join(swap=True),
            "the types 2 and 3 are exchanged: 2 is a matching token of the query, 3 one of the text.",
            "two codes exchanged",
        ),
        Mistake(
            "ids compared, not keys",
            wrong_join(ids=True),
            "you compare the ids. *Matrix* and *matrix*, or a word with and without the space before it, have two ids "
            "and one key: compare `keys[i]`.",
            "byte-level BPE has a token for a word with its space and one without",
        ),
        Mistake(
            "no matches marked",
            wrong_join(plain=True),
            "your types tell the two sides apart and nothing else. A token whose key occurs on the other side has type "
            "2 (query) or 3 (text).",
            "BERT's two segments",
        ),
        Mistake(
            "only the text is marked",
            wrong_join(text_only=True),
            "matching tokens of the query should have type 2, but yours have 0. Mark both sides.",
            "one direction forgotten",
        ),
        Mistake(
            "one too long",
            wrong_join(room=1),
            "the result has max_len + 1 tokens. [CLS] and both [SEP] need room too: the text gets max_len − 3 − the "
            "length of the query.",
            "an off-by-one that raises only at the last position of the table",
        ),
        Mistake(
            "one too short",
            wrong_join(room=-1),
            "the text could have one token more: the specials are three, [CLS] and two [SEP].",
            "an index that is off by one",
        ),
        Mistake(
            "the query is not cut",
            wrong_join(query=True),
            "the query is not cut: of a long one only the first 32 tokens are kept, or it takes the room of the text.",
            "a limit of the text forgotten",
        ),
        Mistake(
            "matches with what was cut off",
            wrong_join(cut=True, whole=True),
            "some tokens are marked that match only what was cut off. Cut first, then look for matches among what is "
            "left.",
            "an order of steps",
        ),
        Mistake(
            "matches with the rest of the text",
            wrong_join(cut=True),
            "a token of the query is marked whose match stands in the part of the text that was cut off. Cut first.",
            "an order of steps",
        ),
        Mistake(
            "matches with the rest of the query",
            wrong_join(whole=True),
            "a token of the text is marked whose match stands in the part of the query that was cut off. Cut first.",
            "an order of steps",
        ),
        Mistake(
            "specials marked as matches",
            wrong_join(special=True),
            "[SEP] is on both sides, but specials are no matches: [CLS] and the first [SEP] have type 0, the last has "
            "1.",
            "sets taken over all ids",
        ),
        Mistake(
            "both [SEP] marked as matches",
            wrong_join(sets=True),
            "[SEP] is on both sides, but specials are no matches: your first [SEP] has type 2 and the last 3. Take the "
            "sets of keys without specials.",
            "sets taken over all ids, the text without its [CLS]",
        ),
        Mistake(
            "joined first, then cut",
            cut_at_last,
            "you join first and cut the end off, so the last [SEP] is lost. Cut the text, then add [SEP].",
            "ids[:max_len] after joining",
        ),
        Mistake(
            "31 tokens of the query",
            wrong_join(clsed=True),
            "you keep 31 tokens of the query: the 32 do not count its [CLS].",
            "query[:32] with [CLS] counted",
        ),
        Mistake(
            "types before ids",
            types_first,
            "you return the types first; first the ids, then the types.",
            "two results exchanged",
        ),
        Mistake(
            "text first",
            wrong_join(sides=True),
            "the text comes first in your result; the query should.",
            "two arguments exchanged",
        ),
        Mistake(
            "the end of the text kept",
            wrong_join(left="text"),
            "of a long text you keep the end. Keep the beginning, as the models of lesson 12 do.",
            "truncation from the left",
        ),
        Mistake(
            "the end of the query kept",
            wrong_join(left="query"),
            "of a long query you keep the end. Keep its first 32 tokens.",
            "truncation from the left",
        ),
        Mistake(
            "the first [SEP] counted as text",
            wrong_join(first=True),
            "the first [SEP] belongs to the query: type 0.",
            "BERT: [SEP] belongs to the sentence that it ends",
        ),
        Mistake(
            "the last [SEP] counted as query",
            wrong_join(end=True),
            "the last [SEP] belongs to the text: type 1.",
            "BERT: [SEP] belongs to the sentence that it ends",
        ),
    ),
    hints=(
        "`words = query[1:-1][:32]` is the query without its specials.",
        "The text has max_len − 3 − len(words) places. Take the sets of keys after cutting.",
        "types = [0, one number for each word, 0, one number for each token of the text, 1].",
    ),
    praise="One sequence, and each token knows its side and whether the other side has it too.",
    other_ways=(join_by_loop,),
)


# --- 21.3 the build: a cross-encoder ----------------------------------------------------------------------------------

C, V = 12, 40


def small_encoder(dropout=0.0, width=C, T=24):
    return Encoder(
        EncoderConfig(V, width=width, layers=1, heads=2, ffn_width=20, max_len=T, token_types=4, dropout=dropout)
    )


def made(answer, generator, **options):
    """Return the answer's model with the stage's weights."""
    width = options.get("width", C)
    model = answer(small_encoder(**options))
    if not isinstance(model, nn.Module):
        raise Fault(f"CrossEncoder(encoder) gives {describe(model)}; make it an nn.Module.")
    for name, wanted in (("encoder", nn.Module), ("out", nn.Linear)):
        if not isinstance(getattr(model, name, None), wanted):
            raise Fault(f"the module needs `self.{name}`, a {'Linear layer' if name == 'out' else 'module'}.")
    if tuple(model.out.weight.shape) != (1, width):
        raise Fault(f"`self.out` has the weight {tuple(model.out.weight.shape)}; expected (1, {width}): one score.")
    return with_weights(model, CrossEncoder(small_encoder(**options)), generator).eval()


def a_batch(generator, B=6, T=11, shortest=4):
    lengths = torch.randint(shortest, T + 1, (B,), generator=generator)
    lengths[0] = T
    mask = torch.arange(T) < lengths[:, None]
    ids = torch.randint(5, V, (B, T), generator=generator).masked_fill(~mask, 0)
    types = torch.randint(4, (B, T), generator=generator).masked_fill(~mask, 0)
    return ids, types, mask


def one_number_a_row(answer, generator):
    model = made(answer, generator)
    ids, types, mask = a_batch(generator, T=8, shortest=8)
    try:
        return model(ids, types, mask)
    except TypeError as error:
        if "the mask is torch.int64" in str(error):
            raise Fault("types and mask are exchanged: the encoder is called as (ids, mask, types).") from None
        raise


def padded(answer, generator):
    model = made(answer, generator)
    return untouched(model, *a_batch(generator), names=("ids", "types", "mask"))


def hidden_tokens(answer, generator):
    """The mask hides real tokens: it decides, not the ids."""
    model = made(answer, generator)
    ids, types, mask = a_batch(generator, shortest=8)
    mask = mask & (torch.arange(11) < 7)
    ids[1, 2] = ids[4, 0] = model.encoder.config.pad_id  # and it reads what looks like padding
    return model(ids, types, mask)


def losses(answer, generator):
    model = made(answer, generator)
    batch = a_batch(generator)
    right = torch.tensor([1, 0])
    try:
        return model.loss(*batch, right), model.loss(*batch, torch.tensor([1, 0, 1]))
    except RuntimeError as error:
        if "is invalid for input of size" in str(error):
            raise Fault(
                "the number of candidates is B / Q, no fixed number: here 6 rows are 2 queries with 3 candidates each, "
                "then 3 with 2. `view(len(right), -1)` fits both."
            ) from None
        raise


def gradients(answer, generator):
    model = made(answer, generator)
    loss = model.loss(*a_batch(generator), torch.tensor([2, 1]))
    if not loss.requires_grad:
        raise Fault("`loss` has no gradient at all: it is computed under `no_grad`, or `detach` cuts it off.")
    loss.backward()
    parts = {"out.weight": model.out.weight, "the encoder's types": model.encoder.types.weight}
    for name, weight in parts.items():
        if weight.grad is None:
            raise Fault(f"`loss` gives no gradient to {name}: is there a `detach` or a `no_grad` on the way?")
    return tuple(weight.grad for weight in parts.values())


def some_rows(generator, n):
    rows = []
    for _ in range(n):
        T = int(torch.randint(4, 20, (1,), generator=generator))
        ids = torch.randint(5, V, (T,), generator=generator).tolist()
        rows.append((ids, torch.randint(4, (T,), generator=generator).tolist()))
    return rows


def scored(answer, generator, dropout=0.0, n=13, batch_size=4, **options):
    model = made(answer, generator, dropout=dropout, **options)
    sizes = []
    model.encoder.register_forward_pre_hook(lambda module, arguments: sizes.extend(len(a) for a in arguments[:1]))
    found = untouched(lambda rows: model.scores(rows, batch_size), some_rows(generator, n))
    if sizes and max(sizes) > batch_size:
        raise Fault(
            f"`scores` gives the encoder {max(sizes)} rows at once with batch_size={batch_size}: ten thousand would "
            "fill the memory. Take `batch_size` rows at a time."
        )
    if model.training:
        raise Fault(
            "`scores` leaves the model in training mode, though it was in eval mode before: put the mode back in which "
            "it was."
        )
    return found


def scored_quietly(answer, generator):
    """While the model is in training: dropout is off, no graph is kept, and afterwards it trains on."""
    model, rows = made(answer, generator, dropout=0.5).train(), some_rows(generator, 9)
    found = model.scores(rows, batch_size=4)
    if isinstance(found, torch.Tensor) and found.requires_grad:
        raise Fault(
            "`scores` keeps the graph of all its batches: thousands of texts would fill the memory. "
            "Use `torch.no_grad()`."
        )
    if not model.training:
        raise Fault(
            "`scores` leaves the model in eval mode: a training that goes on afterwards has no dropout. Put the "
            "mode back, or use `evaluating(self)`."
        )
    again = model.scores(rows, batch_size=4)
    if isinstance(found, torch.Tensor) and isinstance(again, torch.Tensor) and not torch.equal(found, again):
        raise Fault("the same rows get other scores the second time: dropout is on. Switch to eval mode first.")
    return found


def scored_wider(answer, generator):
    return scored(answer, generator, width=8, n=7, batch_size=3)


class Variant(CrossEncoder):
    """The course's cross-encoder with one change: `Variant.but(forward=...)`."""

    @classmethod
    def but(cls, **methods):
        return type("CrossEncoder", (cls,), methods)


def mean_with_padding(self, ids, types, mask):
    return self.out(self.encoder(ids, mask, types).mean(1))[:, 0]


def mean_over_longest(self, ids, types, mask):
    return self.out((self.encoder(ids, mask, types) * mask[..., None]).sum(1) / ids.shape[1])[:, 0]


def summed(self, ids, types, mask):
    return self.out((self.encoder(ids, mask, types) * mask[..., None]).sum(1))[:, 0]


def first_token(self, ids, types, mask):
    return self.out(self.encoder(ids, mask, types)[:, 0])[:, 0]


def highest(self, ids, types, mask):
    hidden = self.encoder(ids, mask, types).masked_fill(~mask[..., None], -torch.inf)
    return self.out(hidden.amax(1))[:, 0]


def without_types(self, ids, types, mask):
    hidden = self.encoder(ids, mask)
    return self.out((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))[:, 0]


def without_mask(self, ids, types, mask):
    hidden = self.encoder(ids, None, types)
    return self.out((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))[:, 0]


def a_column(self, ids, types, mask):
    return CrossEncoder.forward(self, ids, types, mask)[:, None]


def squashed(self, ids, types, mask):
    return CrossEncoder.forward(self, ids, types, mask).sigmoid()


def summed_loss(self, ids, types, mask, right):
    return F.cross_entropy(self(ids, types, mask).view(len(right), -1), right, reduction="sum")


def columns_loss(self, ids, types, mask, right):
    return F.cross_entropy(self(ids, types, mask).view(-1, len(right)).T, right)


def always_first(self, ids, types, mask, right):
    return F.cross_entropy(self(ids, types, mask).view(len(right), -1), torch.zeros_like(right))


def one_by_one(self, ids, types, mask, right):
    scores = self(ids, types, mask).view(len(right), -1)
    return F.binary_cross_entropy_with_logits(scores, F.one_hot(right, scores.shape[1]).to(scores))


def softmax_twice(self, ids, types, mask, right):
    return F.cross_entropy(self(ids, types, mask).view(len(right), -1).softmax(1), right)


def quiet_loss(self, ids, types, mask, right):
    with torch.no_grad():
        scores = self(ids, types, mask)
    return F.cross_entropy(scores.view(len(right), -1), right)


def always_four(self, ids, types, mask, right):
    return F.cross_entropy(self(ids, types, mask).view(-1, 4), right)


def mask_of_ids(self, ids, types, mask):
    return CrossEncoder.forward(self, ids, types, ids != self.encoder.config.pad_id)


def mask_and_ids(self, ids, types, mask):
    return CrossEncoder.forward(self, ids, types, mask & (ids != self.encoder.config.pad_id))


def arguments_exchanged(self, ids, types, mask):
    return self.out(pool(self.encoder(ids, types, mask), mask))[:, 0]


def whole_batch(self, ids, types, mask, right):
    scores = self(ids, types, mask)
    where = torch.arange(len(right)) * (len(scores) // len(right)) + right
    return F.cross_entropy(scores.expand(len(right), -1), where)


def wrong_scores(
    undo=True, keep=False, no_grad=True, mode="back", short=False, softmax=False, typed=True, whole=False, inside=False
):
    """Return a `scores` that a learner may write."""

    def scores(self, rows, batch_size=32):
        batch_size = len(rows) if whole else batch_size
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0])) if not keep else list(range(len(rows)))
        found = []
        before = self.training
        if mode != "none":
            self.eval()
        with torch.set_grad_enabled(not no_grad):
            stop = len(order) - len(order) % batch_size if short else len(order)
            for some in (order[i : i + batch_size] for i in range(0, stop, batch_size)):
                some = sorted(some, key=lambda i: len(rows[i][0])) if inside else some
                ids, mask = pad([rows[i][0] for i in some], self.encoder.config.pad_id)
                types, _ = pad([rows[i][1] for i in some])
                one = self(ids, types if typed else torch.zeros_like(types), mask)
                found.append(one.softmax(0) if softmax else one)
        if mode in ("back", "train"):
            self.train(before or mode == "train")
        found = torch.cat(found)
        if undo == "again":
            return found[order]
        return found[torch.tensor(order).argsort()] if undo and not short else found

    return scores


class ByHand(nn.Module):
    """The same in other words: pooling by a product, scores one batch after another in the rows' own order."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.out = encoder, nn.Linear(encoder.config.width, 1)

    def forward(self, ids, types, mask):
        weights = mask.to(self.out.weight.dtype) / mask.sum(1, keepdim=True)
        return self.out(torch.einsum("btc,bt->bc", self.encoder(ids, mask, types), weights)).squeeze(-1)

    def loss(self, ids, types, mask, right):
        log_p = self(ids, types, mask).reshape(len(right), -1).log_softmax(1)
        return -log_p[torch.arange(len(right)), right].mean()

    def scores(self, rows, batch_size=32):
        with torch.no_grad(), evaluating(self):
            batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
            found = []
            for some in batches:
                ids, mask = pad([r[0] for r in some], self.encoder.config.pad_id)
                found.append(self(ids, pad([r[1] for r in some])[0], mask))
            return torch.cat(found)


cross_encoder = Build(
    id="21.3",
    course=CrossEncoder,
    stages=(
        Stage("one score a row", one_number_a_row),
        Stage("padding", padded),
        Stage("the mask", hidden_tokens),
        Stage("the loss", losses),
        Stage("gradients", gradients),
        Stage("scores", scored),
        Stage("scores in training", scored_quietly),
        Stage(OTHER_SIZES, scored_wider),
    ),
    mistakes=(
        Mistake(
            "padding in the mean",
            Variant.but(forward=mean_with_padding),
            "the mean is taken over padding too, so a score changes with the longest row of its batch. Multiply by the "
            "mask and divide by the number of real tokens, or use `pool`.",
            "mean pooling without a mask, lesson 10",
        ),
        Mistake(
            "divided by the longest length",
            Variant.but(forward=mean_over_longest),
            "the sum over real tokens is divided by T, the length of the batch. Divide by the number of real tokens of "
            "each row.",
            "mean pooling, lesson 10",
        ),
        Mistake(
            "sum in place of mean",
            Variant.but(forward=summed),
            "you add up the vectors and do not divide: long texts would get large scores. Take the mean.",
            "a sum where a mean is asked for",
        ),
        Mistake(
            "the first token only",
            Variant.but(forward=first_token),
            "you take the vector of [CLS] alone. The text asks for the mean over the real "
            "tokens: docs-contrastive was trained with the mean, and its [CLS] has learned nothing of its own.",
            "BERT's pooler, Devlin et al. 2019",
        ),
        Mistake(
            "maximum in place of mean",
            Variant.but(forward=highest),
            "you take the maximum over the tokens; the text asks for the mean.",
            "max pooling, one of the poolings in use",
        ),
        Mistake(
            "types not passed on",
            Variant.but(forward=without_types),
            "the types do not reach the encoder, which takes 0 for all of them. Then the model does not know where the "
            "query ends: `self.encoder(ids, mask, types)`.",
            "an argument that nothing uses",
        ),
        Mistake(
            "mask not passed on",
            Variant.but(forward=without_mask),
            "the mask does not reach the encoder, so tokens that it hides are attended to.",
            "an argument that nothing uses",
        ),
        Mistake(
            "a column",
            Variant.but(forward=a_column),
            "the scores have the shape (B, 1): take the only column away, `[:, 0]` or `.squeeze(-1)`.",
            "nn.Linear(C, 1) keeps a dimension",
        ),
        Mistake(
            "a sigmoid too much",
            Variant.but(forward=squashed),
            "the scores go through a sigmoid. Return the raw score: cross-entropy takes the softmax itself, and a "
            "squashed score is hard to move away from 0 and 1.",
            "the logistic head of Nogueira and Cho 2019 kept for a softmax over candidates",
        ),
        Mistake(
            "the sum of the losses",
            Variant.but(loss=summed_loss),
            "`loss` is the sum over the queries; the text asks for the mean.",
            "a sum where a mean is asked for",
        ),
        Mistake(
            "candidates in columns",
            Variant.but(loss=columns_loss),
            "the scores are cut in the wrong direction. The candidates of one query stand behind one another: "
            "`scores.view(len(right), -1)` has a row for each query.",
            "view and transpose exchanged",
        ),
        Mistake(
            "the first one is always right",
            Variant.but(loss=always_first),
            "`right` is not used: the first candidate is taken for the right one. It may be any of them.",
            "an argument that nothing uses",
        ),
        Mistake(
            "each candidate by itself",
            Variant.but(loss=one_by_one),
            "you ask of each candidate by itself whether it is right. That is the loss of Nogueira and Cho 2019; here "
            "the candidates of a query compete: a cross-entropy over them.",
            "pointwise and listwise losses",
        ),
        Mistake(
            "softmax twice",
            Variant.but(loss=softmax_twice),
            "there is a softmax before the cross-entropy, which takes one itself: two of them flatten everything.",
            "F.cross_entropy expects logits",
        ),
        Mistake(
            "all candidates of the batch",
            Variant.but(loss=whole_batch),
            "each query is compared with the candidates of all queries. But a score was computed for *its* query: only "
            "a query's own candidates can compete.",
            "in-batch negatives of a bi-encoder, which a cross-encoder has not",
        ),
        Mistake(
            "in the order of the lengths",
            Variant.but(scores=wrong_scores(undo=False)),
            "the scores come in the order of the lengths. Put them back into the order of the rows.",
            "sorted for speed and not put back",
        ),
        Mistake(
            "sorted a second time",
            Variant.but(scores=wrong_scores(undo="again")),
            "the scores are right, but in another order. `order[i]` says which row came i-th: `found[order] = scores` "
            "puts them back. Indexing *with* order, `scores[order]`, sorts a second time.",
            "a permutation taken for its inverse",
        ),
        Mistake(
            "sorted inside each batch",
            Variant.but(scores=wrong_scores(keep=True, undo=False, inside=True)),
            "the scores are right, but inside each batch they come in the order of the lengths. Put them back into the "
            "order of the rows.",
            "sorted inside a batch and not put back",
        ),
        Mistake(
            "all rows in one batch",
            Variant.but(scores=wrong_scores(whole=True)),
            "`batch_size` is not used: all rows go through the encoder at once; ten thousand would fill the memory.",
            "an argument that nothing uses",
        ),
        Mistake(
            "in training mode afterwards",
            Variant.but(scores=wrong_scores(mode="train")),
            "`scores` ends in training mode whatever the mode was before. Remember it first, `was = self.training`, or "
            "use `evaluating(self)`.",
            "model.train() at the end of an evaluation",
        ),
        Mistake(
            "no gradient",
            Variant.but(loss=quiet_loss),
            "`loss` runs the model under `no_grad`, so nothing can be learned from it. Only `scores` goes without a "
            "graph.",
            "evaluation code used for training",
        ),
        Mistake(
            "always four candidates",
            Variant.but(loss=always_four),
            "you take four candidates for each query. Their number is B / Q: `view(len(right), -1)`.",
            "a number of the lesson written into the code",
        ),
        Mistake(
            "the mask made of the ids",
            Variant.but(forward=mask_of_ids),
            "you take the mask from the ids. `mask` decides: it may hide tokens that are no padding.",
            "padding is not the only thing that a mask hides",
        ),
        Mistake(
            "mask and ids",
            Variant.but(forward=mask_and_ids),
            "you hide tokens whose id is that of padding although the mask says that they are read. `mask` alone "
            "decides.",
            "a second mask made of the ids",
        ),
        Mistake(
            "types and mask exchanged",
            Variant.but(forward=arguments_exchanged),
            "the encoder is called as (ids, mask, types); you give it the types in place of the mask.",
            "two arguments exchanged",
        ),
        Mistake(
            "the last batch dropped",
            Variant.but(scores=wrong_scores(short=True, keep=True)),
            "the last rows have no score: they do not fill a batch, but they are to be scored all the same.",
            "len(rows) // batch_size",
        ),
        Mistake(
            "softmax over a batch",
            Variant.but(scores=wrong_scores(softmax=True)),
            "the scores go through a softmax, whose sum runs over whatever rows share a batch. Return them as they "
            "are.",
            "probabilities of a batch that means nothing",
        ),
        Mistake(
            "types forgotten in scores",
            Variant.but(scores=wrong_scores(typed=False)),
            "`scores` gives the model types of zero only. Each row is (ids, types): pad both.",
            "training and use differ",
        ),
        Mistake(
            "dropout left on",
            Variant.but(scores=wrong_scores(mode="none")),
            "in training mode `scores` drops features at random. Switch to eval mode, and back afterwards.",
            "model.eval() forgotten",
        ),
    ),
    hints=(
        "`self.out = nn.Linear(encoder.config.width, 1)`; the mean is lesson 10's `pool(hidden, mask)`.",
        "`loss`: `scores.view(len(right), -1)` is (queries, candidates), and F.cross_entropy does the rest.",
        "`scores`: with `torch.no_grad()` and `evaluating(self)`, pad ids and types of a batch; if you sort by length, "
        "write each score to its row's place: `found[some] = …`.",
    ),
    praise="One number for a query and a text that see each other in every layer.",
    other_ways=(ByHand,),
)


# --- 21.4 hard negatives ----------------------------------------------------------------------------------------------


def hard_negatives(scores, near, k):
    """scores: (N, N), text i answers query i, near: (N, N) bool -> the k best wrong texts of each query, (N, k)"""
    out = near | torch.eye(len(scores), dtype=torch.bool)
    return scores.masked_fill(out, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :k]


def searched(generator, n=9, k=3):
    """Scores with ties and below 0; some texts near others, in both directions."""
    scores = torch.randint(-6, 4, (n, n), generator=generator).float()
    scores[torch.arange(n), torch.arange(n)] = torch.randint(-2, 5, (n,), generator=generator).float()
    near = torch.rand(n, n, generator=generator) < 0.12
    near = near | near.T
    near[0, 1] = near[1, 0] = True
    near[torch.arange(n), torch.arange(n)] = torch.arange(n) % 2 == 0  # a text may be called near itself or not
    return scores, near, k


def wrong_negatives(**switches):
    s = (
        dict.fromkeys(
            "right near least lowest first side zero values by_number last skip hit given either lower".split()
        )
        | switches
    )

    def find(scores, near, k):
        n = len(scores)
        own = torch.eye(n, dtype=torch.bool)
        out = torch.zeros(n, n, dtype=torch.bool)
        if s["side"]:
            scores = scores.T
        if not s["right"]:
            out = out | own
        if not s["near"]:
            out = out | (near[scores.argmax(1)] if s["hit"] else near & ~own if s["right"] else near)
        if s["given"]:
            out = near
        if s["either"]:
            out = near ^ own
        if s["lower"]:
            scores, out = scores - (near | own).float(), torch.zeros_like(own)
        fill = 0.0 if s["zero"] else torch.inf if s["least"] else -torch.inf
        kept = scores.masked_fill(out, fill)
        if s["last"]:
            order = n - 1 - kept.flip(1).argsort(dim=1, descending=True, stable=True)
        else:
            order = kept.argsort(dim=1, descending=not s["least"], stable=True)
        order = order[:, 1 : k + 1] if s["skip"] else order[:, :k]
        if s["by_number"]:
            return order.sort(1).values
        return kept.gather(1, order) if s["values"] else order

    return find


def negatives_by_loop(scores, near, k):
    rows = []
    for i, row in enumerate(scores.tolist()):
        allowed = [j for j in range(len(row)) if j != i and not near[i, j]]
        rows.append(sorted(allowed, key=lambda j: (-row[j], j))[:k])
    return torch.tensor(rows)


def a_mask(scores, near, k):
    found = hard_negatives(scores, near, k)
    return torch.zeros_like(near).scatter(1, found, True)


def filtered_late(scores, near, k):
    top = scores.topk(k + 1).indices
    return torch.tensor([[j for j in row.tolist() if j != i and not near[i, j]][:k] for i, row in enumerate(top)])


RAGGED = (
    "you take the first hits and filter them afterwards, so some queries have fewer than k. Filter first, then take k."
)


def about_negatives(answer, case):
    """Ties that topk breaks, rows of different lengths, a fixed size."""
    scores, near, _ = case
    try:
        found = answer(*copy.deepcopy(case))
    except (ValueError, RuntimeError, IndexError) as error:
        if "expected sequence of length" in str(error):
            return RAGGED
        if "must match the size" in str(error) or "shape" in str(error):
            return f"is a size written into your code? Here there are {len(scores)} texts: `len(scores)`. ({error})"
        return None
    if isinstance(found, list) or type(found).__module__ == "numpy":
        return "expected a tensor: `torch.tensor(…)` makes one of a list or an array."
    right = hard_negatives(*case)
    if not isinstance(found, torch.Tensor) or found.shape != right.shape or found.dtype != right.dtype:
        return None
    if found.min() < 0 or found.max() >= len(scores):
        return None
    kept = scores.masked_fill(near | torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    if torch.equal(kept.gather(1, found), kept.gather(1, right)):
        return (
            "the scores of your texts are right, but among equal scores the order is another: `topk` and a plain "
            "`argsort` promise none. `argsort(dim=1, descending=True, stable=True)` keeps the lower number first."
        )
    return None


negatives = Exercise(
    id="21.4",
    right=hard_negatives,
    inputs=searched,
    also=lambda generator: searched(generator, 14, 5),
    about=about_negatives,
    closed=True,
    mistakes=(
        Mistake(
            "the right text left in",
            wrong_negatives(right=True),
            "the right text of a query is among its negatives: the model would be punished for the right answer. Leave "
            "out text i for query i, whether or not `near` says that it is near itself.",
            "the top of a search is mostly the answer",
        ),
        Mistake(
            "near-duplicates left in",
            wrong_negatives(near=True),
            "near-duplicates of the right text are among the negatives, and some of them would answer the query as "
            "well. The text asks to leave out where `near[i]` is True.",
            "RocketQA, arXiv:2010.08191: unlabelled positives among the top passages",
        ),
        Mistake(
            "both left in",
            wrong_negatives(near=True, right=True),
            "you return the best texts of the search as they are, the right one and its near-duplicates among them.",
            "no filter at all",
        ),
        Mistake(
            "the worst texts",
            wrong_negatives(least=True),
            "these are the texts with the *lowest* scores, the easiest negatives there are. Take the highest.",
            "a sort in the wrong direction",
        ),
        Mistake(
            "the first hit skipped",
            wrong_negatives(skip=True),
            "you skip the best wrong text, as if the first hit were the right one. The right text is left out already, "
            "and it need not be the first.",
            "top k + 1 without its first",
        ),
        Mistake(
            "the first hit skipped in place of the right one",
            wrong_negatives(skip=True, right=True),
            "you take away the first hit as if it were the right text. It may be any hit: leave out text i for query "
            "i.",
            "top k + 1 without its first",
        ),
        Mistake(
            "queries and texts exchanged",
            wrong_negatives(side=True),
            "you search along the wrong axis: row i has the scores of query i, so the texts are the columns.",
            "two axes of one shape exchanged",
        ),
        Mistake(
            "left out with 0",
            wrong_negatives(zero=True),
            "what is left out gets the score 0, but scores may be below 0, and then it comes first. Use −∞.",
            "a mask by zero, lesson 02",
        ),
        Mistake(
            "scores in place of numbers",
            wrong_negatives(values=True),
            "you return the scores; the text asks for the numbers of the texts.",
            "values and indices of topk",
        ),
        Mistake(
            "sorted by number",
            wrong_negatives(by_number=True),
            "the numbers are right but not in order: the text with the highest score comes first.",
            "nonzero gives them by number",
        ),
        Mistake(
            "ties from the end",
            wrong_negatives(last=True),
            "among equal scores you take the higher number first; the text asks for the lower one. "
            "`argsort(descending=True, stable=True)` keeps their order.",
            "an unstable or reversed sort",
        ),
        Mistake(
            "near the first hit",
            wrong_negatives(hit=True),
            "you leave out what is near the *first hit*. Near-duplicates of the right text are meant: `near[i]`.",
            "the top hit taken for the answer",
        ),
        Mistake(
            "a mask",
            a_mask,
            "you return which texts are negatives, as True and False; the text asks for their numbers, (N, k).",
            "a mask in place of indices",
        ),
        Mistake(
            "the diagonal as near gives it",
            wrong_negatives(given=True),
            "you leave out what `near` marks and nothing else. Its diagonal is to be ignored: where it is False, the "
            "right text is among your negatives. Leave out text i for query i yourself.",
            "a near-duplicate of itself, which a table may call so or not",
        ),
        Mistake(
            "the diagonal as near gives it, and the first hit skipped",
            wrong_negatives(given=True, skip=True),
            "you take away what `near` marks, and then the first hit as if it were the right text. It may be any hit: "
            "leave out text i for query i.",
            "top k + 1 without its first",
        ),
        Mistake(
            "one or the other",
            wrong_negatives(either=True),
            "where `near` marks its own diagonal, your two reasons to leave a text out cancel each other. Leave out "
            "what is near *or* right: `|`.",
            "a sum compared with 1, or ^ for |",
        ),
        Mistake(
            "a little lower",
            wrong_negatives(lower=True),
            "what is left out gets a score that is lower by 1 and may still win. It must lose against everything: −∞.",
            "a penalty in place of a mask",
        ),
        Mistake(
            "filtered afterwards",
            filtered_late,
            RAGGED,
            "a filter after the top k",
        ),
    ),
    hints=(
        "Two things are left out: the right text, on the diagonal, and what `near` marks.",
        "`torch.eye(len(scores), dtype=torch.bool) | near` is what to leave out. Give it −∞ in a copy.",
        "`argsort(dim=1, descending=True, stable=True)[:, :k]`.",
    ),
    praise="Wrong, hard, and no near-duplicate of the right one.",
    other_ways=(negatives_by_loop,),
)


# --- 21.5 the build: late interaction ---------------------------------------------------------------------------------


def max_sim(query, query_mask, text, text_mask, chunk=64):
    """query: (Q, T, C), text: (N, S, C), their masks True = a token -> ColBERT's score of each pair, (Q, N)"""
    query, text = F.normalize(query, dim=-1), F.normalize(text, dim=-1)
    found = []
    for vectors, real in zip(text.split(chunk), text_mask.split(chunk), strict=True):
        cosine = torch.einsum("qtc,nsc->qnts", query, vectors)
        best = cosine.masked_fill(~real[None, :, None], -torch.inf).amax(-1)  # over the text's tokens, (Q, n, T)
        found.append((best * query_mask[:, None]).sum(-1))
    return torch.cat(found, dim=1)


def token_vectors(generator, n, T, C=6, whole=False, about=0.0):
    lengths = torch.full((n,), T) if whole else torch.randint(2, T + 1, (n,), generator=generator)
    return torch.randn(n, T, C, generator=generator) + about, torch.arange(T) < lengths[:, None]


def by_hand(answer, generator):
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    text = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]], [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]])
    return answer(query, torch.ones(1, 2, dtype=torch.bool), text, torch.ones(2, 3, dtype=torch.bool))


def lengths(answer, generator):
    query, text = token_vectors(generator, 2, 4, whole=True), token_vectors(generator, 5, 7, whole=True)
    return untouched(answer, *query, *text, names=("query", "query_mask", "text", "text_mask"))


def masks(answer, generator):
    return answer(*token_vectors(generator, 3, 5), *token_vectors(generator, 6, 8))


def all_opposed(answer, generator):
    """Every cosine is below 0: what is masked must not win with a 0."""
    q, q_mask = token_vectors(generator, 3, 4, about=9.0)
    text, text_mask = token_vectors(generator, 4, 6, about=-9.0)
    return answer(q, q_mask, text, text_mask)


def chunks(answer, generator):
    pair = *token_vectors(generator, 3, 4), *token_vectors(generator, 7, 5)
    return answer(*pair, chunk=3), answer(*pair, chunk=1), answer(*pair, chunk=50)


class Watched(torch.overrides.TorchFunctionMode):
    """Remember the largest tensor that an operation gave."""

    largest = torch.Size()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.shape, key=lambda shape: shape.numel())
        return result


def memory(answer, generator):
    """60 texts in chunks of 4: the cosines of all texts at once are never there."""
    pair = *token_vectors(generator, 5, 8), *token_vectors(generator, 60, 10)
    with Watched() as watched:
        found = answer(*pair, chunk=4)
    if watched.largest.numel() > 2 * 60 * 10 * 6:  # twice the vectors of all texts
        raise Fault(
            f"a tensor {tuple(watched.largest)} of {watched.largest.numel():,} numbers is made, though a chunk of 4 "
            "texts has only Q · 4 · T · S = 1,600 cosines. Is `chunk` used? Is C, the width, still in it (`einsum` and "
            "`@` add it up at once)? Or do you cut along the tokens instead of the texts?"
        )
    return found


def gradients_of(answer, generator):
    query, q_mask = token_vectors(generator, 2, 3)
    text, t_mask = token_vectors(generator, 4, 5)
    query.requires_grad_(), text.requires_grad_()
    found = answer(query, q_mask, text, t_mask)
    if not isinstance(found, torch.Tensor) or not found.requires_grad:
        raise Fault("the scores have no gradient: a late-interaction model is trained through this function.")
    (found * torch.arange(1.0, 9).view(2, 4)).sum().backward()
    return query.grad, text.grad


def other_sizes(answer, generator):
    return answer(*token_vectors(generator, 4, 3, C=5), *token_vectors(generator, 9, 11, C=5), chunk=2)


def wrong_max_sim(**switches):
    """Return a max_sim that a learner may write; its switches are the mistakes."""
    names = "mean side zero query_mask text_mask normal only_text all both turned short abs soft every detach real"
    s = dict.fromkeys(f"{names} floor middle qinf wide".split()) | switches

    def score(query, query_mask, text, text_mask, chunk=64):
        unit = lambda x: F.normalize(x, dim=1 if s["normal"] == "axis" else -1)  # noqa: E731
        if s["normal"] != "none":
            text = unit(text)
            query = query if s["only_text"] else unit(query)
        found = []
        stop = len(text) - len(text) % chunk if s["floor"] or (s["short"] and len(text) > chunk) else len(text)
        step = len(text) if s["every"] else chunk
        for i in range(0, stop, step):
            vectors, real = text[i : i + step], text_mask[i : i + step]
            if s["wide"]:
                cosine = (query[:, None, :, None] * vectors[None, :, None]).sum(-1)
            else:
                cosine = torch.einsum("qtc,nsc->qnts", query, vectors)
            cosine = cosine.detach() if s["detach"] else cosine
            cosine = cosine.abs() if s["abs"] else cosine
            on = query_mask[:, None, :, None]
            if s["side"]:  # the best query token for each text token
                kept = cosine.masked_fill(~on, -torch.inf).amax(-2)
                found.append((kept * real[None]).sum(-1))
                continue
            fill = 0.0 if s["zero"] else -torch.inf
            kept = cosine if s["text_mask"] else cosine.masked_fill(~real[None, :, None], fill)
            if s["qinf"]:
                found.append(kept.masked_fill(~on, -torch.inf).amax(-1).sum(-1))
                continue
            if s["middle"]:
                best = cosine.masked_fill(~real[None, :, None], 0.0).mean(-1)
            elif s["all"]:
                best = cosine.masked_fill(~real[None, :, None], 0.0).sum(-1)
            elif s["soft"]:
                best = (kept.softmax(-1) * cosine).sum(-1)
            else:
                best = kept.amax(-1)
            if s["both"]:
                found.append(best.masked_fill(~query_mask[:, None], -torch.inf).amax(-1))
                continue
            total = (best if s["query_mask"] else best * query_mask[:, None]).sum(-1)
            if s["mean"]:
                total = total / query_mask.sum(1, keepdim=True)
            if s["real"]:
                total = total / real.sum(1)[None]
            found.append(total)
        result = torch.cat(found, dim=1)
        return result.T if s["turned"] else result

    return score


def cut_along_tokens(query, query_mask, text, text_mask, chunk=64):
    """The chunks are of the text's tokens."""
    query, text = F.normalize(query, dim=-1), F.normalize(text, dim=-1)
    best = None
    for i in range(0, text.shape[1], chunk):
        cosine = torch.einsum("qtc,nsc->qnts", query, text[:, i : i + chunk])
        one = cosine.masked_fill(~text_mask[None, :, None, i : i + chunk], -torch.inf).amax(-1)
        best = one if best is None else torch.maximum(best, one)
    return (best * query_mask[:, None]).sum(-1)


def max_sim_by_loops(query, query_mask, text, text_mask, chunk=64):
    """The same with loops over queries and texts, without padding."""
    rows = []
    for q, real in zip(query, query_mask, strict=True):
        q = q[real] / q[real].norm(dim=-1, keepdim=True)
        row = []
        for t, there in zip(text, text_mask, strict=True):
            t = t[there] / t[there].norm(dim=-1, keepdim=True)
            row.append((q @ t.T).max(1).values.sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def about_late(answer, stage):
    """Say that a smaller chunk has other scores, or on which side the length of a vector counts."""
    g = torch.Generator().manual_seed(0)
    sides = *token_vectors(g, 3, 4, whole=True), *token_vectors(g, 7, 5, whole=True)
    some, each = (answer(*sides, chunk=n) for n in (3, 1))
    if torch.allclose(some[:, :6], each[:, :6], atol=1e-5) and not torch.allclose(some, each, atol=1e-5):
        return (
            "with 7 texts and `chunk=3`, the seventh has other scores than with `chunk=1`; the first six do not. "
            "What does not fill a chunk is a chunk too, a smaller one, also where all texts are fewer than `chunk`."
        )
    for side, at in (("query", 0), ("text", 2)) if stage.name == "lengths of vectors" else ():
        longer = sides[at].clone()
        longer[:, 0] *= 3
        if not torch.allclose(answer(*sides[:at], longer, *sides[at + 1 :]), answer(*sides), atol=1e-5):
            return (
                f"if a vector of the {side} is made three times as long, the scores change. Bring each vector of the "
                f"{side} to length 1 as well."
            )
    return None


late = Build(
    id="21.5",
    course=max_sim,
    stages=(
        Stage("a case by hand", by_hand),
        Stage("lengths of vectors", lengths),
        Stage("masks", masks),
        Stage("cosines below 0", all_opposed),
        Stage("chunks", chunks),
        Stage("memory", memory),
        Stage("gradients", gradients_of),
        Stage(OTHER_SIZES, other_sizes),
    ),
    mistakes=(
        Mistake(
            "mean over the query's tokens",
            wrong_max_sim(mean=True),
            "you take the mean over the query's tokens; ColBERT adds them up. (The order of the texts is the same, the "
            "numbers are not.)",
            "mean for sum; Khattab and Zaharia 2020",
        ),
        Mistake(
            "the best query token for each text token",
            wrong_max_sim(side=True),
            "the maximum runs over the wrong side: for each token of the *query* take the best token of the text. The "
            "other way round, long texts win because they have more tokens.",
            "an axis; the formula is not symmetric",
        ),
        Mistake(
            "sum over all pairs",
            wrong_max_sim(all=True),
            "you add up all cosines. Only the best text token counts for each token of the query.",
            "the maximum forgotten",
        ),
        Mistake(
            "one maximum",
            wrong_max_sim(both=True),
            "you take the maximum over both sides: one pair of tokens decides. Add up over the query's tokens.",
            "the sum forgotten",
        ),
        Mistake(
            "a soft maximum",
            wrong_max_sim(soft=True),
            "you take a mean weighted by a softmax; the formula has the maximum itself.",
            "attention in place of a maximum",
        ),
        Mistake(
            "absolute cosines",
            wrong_max_sim(abs=True),
            "you take the size of the cosine without its sign: the opposite vector would be a perfect match.",
            "a sign lost by an absolute value",
        ),
        Mistake(
            "not normalised",
            wrong_max_sim(normal="none"),
            "the vectors are not brought to length 1, so long vectors win. Divide each by its length (F.normalize, "
            "dim=-1).",
            "a product for a cosine",
        ),
        Mistake(
            "only the text normalised",
            wrong_max_sim(only_text=True),
            "the query's vectors are not brought to length 1: tokens with long vectors count more.",
            "one side forgotten",
        ),
        Mistake(
            "normalised over the tokens",
            wrong_max_sim(normal="axis"),
            "you normalise over the tokens, not over the features: dim=-1. (F.normalize's own default is dim=1.)",
            "torch.nn.functional.normalize has the default dim=1",
        ),
        Mistake(
            "text's padding counts",
            wrong_max_sim(text_mask=True),
            "padding of the text can be the best match. Give it −∞ before the maximum.",
            "a forgotten mask",
        ),
        Mistake(
            "query's padding counts",
            wrong_max_sim(query_mask=True),
            "padding of the query adds its own best matches. (ColBERT pads queries with [MASK] on purpose, "
            '"query augmentation"; here padding does not count.)',
            "a forgotten mask",
        ),
        Mistake(
            "no mask at all",
            wrong_max_sim(text_mask=True, query_mask=True),
            "neither mask is used: padding counts on both sides.",
            "two forgotten masks",
        ),
        Mistake(
            "padding as 0",
            wrong_max_sim(zero=True),
            "padding of the text gets the cosine 0, which wins where all real cosines are below 0. Use −∞.",
            "a mask by zero, lesson 02",
        ),
        Mistake(
            "texts and queries exchanged in the result",
            wrong_max_sim(turned=True),
            "the result is (N, Q); expected a row for each query, (Q, N).",
            "two axes of one shape exchanged",
        ),
        Mistake(
            "divided by the text's length",
            wrong_max_sim(real=True),
            "you divide by the length of the text; the formula does not.",
            "a correction that a maximum does not need",
        ),
        Mistake(
            "the last chunk dropped",
            wrong_max_sim(short=True),
            "the last texts are missing: they do not fill a chunk and have scores all the same.",
            "N // chunk chunks, and the rest forgotten",
        ),
        Mistake(
            "everything at once",
            wrong_max_sim(every=True),
            "`chunk` is not used: all cosines are there at once.",
            "an argument that nothing uses",
        ),
        Mistake(
            "the width kept",
            wrong_max_sim(wide=True),
            "your product has the features in it still, Q · chunk · T · S · C numbers, before they are added up: for "
            "the lesson's search, ten gigabytes. `torch.einsum` or `@` add them up at once.",
            "a broadcast product in place of a matrix product",
        ),
        Mistake(
            "cut along the tokens",
            cut_along_tokens,
            "you take `chunk` *tokens* of each text at a time, for all texts at once. Take `chunk` texts.",
            "the chunks along another axis",
        ),
        Mistake(
            "whole chunks only",
            wrong_max_sim(floor=True),
            "you take `len(text) // chunk` chunks. What does not fill a chunk has scores all the same, also where all "
            "texts together are fewer than `chunk`: `range(0, len(text), chunk)`.",
            "N // chunk chunks, none for a few texts",
        ),
        Mistake(
            "mean over the text's tokens",
            wrong_max_sim(middle=True),
            "you take the mean over the text's tokens. The formula has the maximum.",
            "mean for maximum",
        ),
        Mistake(
            "the query's padding gets −∞",
            wrong_max_sim(qinf=True),
            "padding of the query has −∞ as its best cosine, and you add that up. Leave it out of the sum: times "
            "`query_mask`, or 0.",
            "one mask for both sides",
        ),
        Mistake(
            "detached",
            wrong_max_sim(detach=True),
            "the scores have no gradient: there is a `detach` or a `no_grad` on the way.",
            "evaluation code used for training",
        ),
    ),
    hints=(
        '`torch.einsum("qtc,nsc->qnts", query, vectors)` has all cosines of a chunk, if the vectors have length 1.',
        "Fill with −∞ where the text has padding, `real[None, :, None]`, then `.amax(-1)`.",
        "Multiply by `query_mask[:, None]`, sum over the query's tokens, and join the chunks with torch.cat(…, dim=1).",
    ),
    praise="Every token of the query looks for its best partner, and the texts can be encoded in advance.",
    about=about_late,
    other_ways=(max_sim_by_loops,),
)


# --- 21.6 find the bug ------------------------------------------------------------------------------------------------


def graded_ndcg(scores, grades, k):
    """scores, grades: (Q, N) -> nDCG@k, the mean over the queries, a float"""
    N = scores.shape[1]
    worth = 1 / torch.log2(2 + torch.arange(N, dtype=torch.float64))
    worth[k:] = 0
    above = (scores[:, None] > scores[:, :, None]).sum(2)  # texts with a higher score, (Q, N)
    equal = (scores[:, None] == scores[:, :, None]).sum(2)
    upto = F.pad(worth.cumsum(0), (1, 0))  # what the first 0, 1, … ranks are worth together
    mean_worth = (upto[above + equal] - upto[above]) / equal
    best = grades.sort(dim=1, descending=True).values
    return ((grades * mean_worth).sum(1) / (best * worth).sum(1)).mean().item()


def graded(generator, Q=5, N=12, k=4):
    """Scores with many ties; the best texts are partly not found."""
    scores = torch.randint(0, 4, (Q, N), generator=generator).float()
    grades = torch.randint(0, 4, (Q, N), generator=generator).float() * (torch.rand(Q, N, generator=generator) < 0.5)
    grades[:, 0] = 1.0
    grades[:, -1] = 3.0
    scores[0] = 1.0  # a search that knows nothing
    return scores, grades, k


def wrong_ndcg(**switches):
    s = dict.fromkeys("ideal ties gain cut off micro ascending binary middle sum top1 natural".split()) | switches

    def measure(scores, grades, k):
        n = scores.shape[1]
        place = torch.arange(1, n + 1, dtype=torch.float64)
        within = torch.ones(n, dtype=torch.float64) if s["cut"] else (place <= k).double()
        if s["off"] == "log":
            worth = within / place.log2().clamp(min=1)
        elif s["off"] == "rank":
            worth = within / place
        elif s["off"] == "none":
            worth = within
        else:
            worth = within / (1 + place).log2()
        gains = grades.double()
        if s["gain"]:
            gains = 2**gains - 1
        if s["binary"]:
            gains = (gains > 0).double()
        scores = -scores if s["ascending"] else scores
        order = scores.argsort(dim=1, descending=True, stable=True)
        if s["ties"] == "middle":
            rank = all_ranks(scores).double()
            each = (rank <= k) / (1 + rank).log2()
            got = (gains * each).sum(1)
        elif s["ties"] in ("worst", "best", "both"):
            by = {way: gains.argsort(dim=1, descending=way == "best", stable=True) for way in ("worst", "best")}
            sums = []
            for way in ("worst", "best") if s["ties"] == "both" else (s["ties"],):
                some = scores.gather(1, by[way]).argsort(dim=1, descending=True, stable=True)
                sums.append((gains.gather(1, by[way]).gather(1, some) * worth).sum(1))
            got = sum(sums) / len(sums)
        elif s["ties"] == "within":  # the mean over those within k only
            some = order[:, :k]
            level = scores.gather(1, some)
            same = (level[:, :, None] == level[:, None]).double()
            mean = (same @ gains.gather(1, some)[..., None])[..., 0] / same.sum(2)
            got = (mean * worth[:k]).sum(1)
        elif s["ties"] == "places":  # the mean worth over the places within k only
            below = (scores[:, :, None] < scores[:, None, :]).sum(2)
            equal = (scores[:, :, None] == scores[:, None, :]).sum(2)
            total = F.pad(worth.cumsum(0), (1, 0))
            each = (total[below + equal] - total[below]) / ((below + equal).clamp(max=k) - below).clamp(min=1)
            got = (gains * each).sum(1)
        elif s["ties"]:  # as they come
            got = (gains.gather(1, order) * worth).sum(1)
        elif s["ties"] is None:
            below = (scores[:, :, None] < scores[:, None, :]).sum(2)  # texts with a higher score
            equal = (scores[:, :, None] == scores[:, None, :]).sum(2)
            total = F.pad(worth.cumsum(0), (1, 0))
            got = (gains * (total[below + equal] - total[below]) / equal).sum(1)
        if s["ideal"] == "means":
            same = (scores[:, :, None] == scores[:, None]).double()
            mean = (same @ gains[..., None])[..., 0] / same.sum(2)
            ideal = (mean.gather(1, order[:, :k]).sort(1, descending=True).values * worth[:k]).sum(1)
        elif s["ideal"] == "found":
            best = gains.gather(1, order[:, :k]).sort(1, descending=True).values
            ideal = (best * worth[:k]).sum(1)
        elif s["ideal"] == "all":
            ideal = (gains.sort(1, descending=True).values / (1 + place).log2()).sum(1)
        elif s["ideal"] == "none":
            ideal = torch.ones(len(scores), dtype=torch.float64)
        else:
            ideal = (gains.sort(1, descending=True).values * worth).sum(1)
        if s["micro"]:
            return float(got.sum() / ideal.sum())
        each = got / ideal.clamp(min=1e-9)
        return float(each.sum() if s["sum"] else each.mean())

    return measure


def is_number(result):
    return isinstance(result, float | int) or (isinstance(result, torch.Tensor) and result.ndim == 0)


def ndcg_by_shuffles(scores, grades, k):
    """The same with loops: each grade times the mean worth of the places that its text may take."""
    import math

    total = 0.0
    for row, marks in zip(scores.tolist(), grades.tolist(), strict=True):
        got = 0.0
        for score, mark in zip(row, marks, strict=True):
            above, level = sum(x > score for x in row), sum(x == score for x in row)
            got += mark * sum(1 / math.log2(1 + r) for r in range(above + 1, above + level + 1) if r <= k) / level
        best = sorted(marks, reverse=True)[:k]
        total += got / sum(mark / math.log2(1 + r) for r, mark in enumerate(best, 1))
    return total / len(scores)


def always_ten(scores, grades, k):
    return graded_ndcg(scores, grades, 10)


def one_a_query(scores, grades, k):
    return torch.tensor([ndcg_at(s[None], k, grades=g[None]) for s, g in zip(scores, grades, strict=True)])


def calls_the_package(answer, case):
    """The text asks for the measure itself."""
    if "ndcg_at" in getattr(getattr(answer, "__code__", None), "co_names", ()):
        return "you call `ndcg_at`. Write the measure itself; `all_ranks` and loops are fine."
    return None


def about_ndcg(answer, case):
    """Ask for two small cases: no ties, and nothing but ties."""
    if said := calls_the_package(answer, case):
        return said
    grades = torch.tensor([[0.0, 3.0, 1.0, 2.0, 0.0, 1.0]])
    tidy, level = torch.tensor([[6.0, 1.0, 5.0, 2.0, 4.0, 3.0]]), torch.ones(1, 6)
    try:
        if answer(*copy.deepcopy(case)) != answer(*copy.deepcopy(case)):
            return (
                "it gives another value each time. One shuffle of the ties is one order; the mean is over all of them."
            )
        good = [
            abs(float(answer(s.clone(), grades.clone(), 3)) - graded_ndcg(s, grades, 3)) < 1e-4 for s in (tidy, level)
        ]
        value = float(answer(level.clone(), grades.clone(), 3))
    except Exception:  # noqa: BLE001 - a learner's code may raise anything
        return None
    right = graded_ndcg(level, grades, 3)
    if good == [True, False]:
        return (
            f"it is right without ties. With ties it is not: 6 equal scores with the grades 0, 3, 1, 2, 0, 1 give "
            f"{value:.3f} at k = 3; the mean over all their orders is {right:.3f}."
        )
    if good == [False, True]:
        return "it is right where all scores are equal, and wrong where none are: see how the order is cut at k."
    if good == [True, True]:
        return (
            "it is right without ties, and where all scores are equal. See what it does with a group of ties in the "
            "middle, with one that goes beyond rank k, and with the mean over several queries."
        )
    return "it is wrong already without ties: see the discount, the order, and the best order of *all* texts below it."


graded_measure = Exercise(
    id="21.6",
    right=graded_ndcg,
    inputs=graded,
    also=lambda generator: graded(generator, 3, 20, 10),
    limit=calls_the_package,
    about=about_ndcg,
    closed=True,
    reads=lambda result: torch.tensor(float(result)).double() if is_number(result) else result,
    mistakes=(
        Mistake(
            "as it was",
            wrong_ndcg(ideal="found", ties=True),
            "this is still what the colleague wrote. Compute small cases by hand: one where the best texts are not "
            "found, one where all scores are equal.",
            "the program as given",
        ),
        Mistake(
            "only the ties mended",
            wrong_ndcg(ideal="found"),
            "the ties are right now. But the best order is still made of the texts that were *found*, so a search that "
            "misses every good text is compared with what it has. Take the grades of all texts.",
            "an ideal DCG over the retrieved texts, a bug of several evaluation scripts",
        ),
        Mistake(
            "only the ideal mended",
            wrong_ndcg(ties=True),
            "the best order is right now. But texts with equal scores stand in the order of the corpus: a search that "
            "knows nothing gets what that order happens to be worth. Take the mean over all orders of the ties.",
            "McSherry and Najork 2008",
        ),
        Mistake(
            "ties by their middle rank",
            wrong_ndcg(ties="middle"),
            "tied texts get the worth of their middle rank. Take the mean of what the ranks are worth, which is "
            "another number (lesson 12).",
            "McSherry and Najork 2008",
        ),
        Mistake(
            "exponential gains",
            wrong_ndcg(gain=True),
            "you take 2^grade − 1 as the gain. That is in use, too, but the text says: the grade itself.",
            "another gain in use, which makes high grades count more",
        ),
        Mistake(
            "grades as yes or no",
            wrong_ndcg(binary=True),
            "you count every grade above 0 as 1. A text of grade 3 is worth three times one of grade 1.",
            "binary relevance",
        ),
        Mistake(
            "not cut at k",
            wrong_ndcg(cut=True),
            "texts beyond rank k count too. They are worth 0, in the result and in the best order.",
            "nDCG without @k",
        ),
        Mistake(
            "the ideal not cut at k",
            wrong_ndcg(ideal="all"),
            "the best order counts all its texts, also those beyond rank k, so that not even a perfect search gets 1.",
            "an ideal DCG without @k",
        ),
        Mistake(
            "not divided",
            wrong_ndcg(ideal="none"),
            "the gain is not divided by that of the best order: this is DCG.",
            "DCG for nDCG",
        ),
        Mistake(
            "log of the rank",
            wrong_ndcg(off="log"),
            "the worth is 1 / log2(rank), which is 1 for ranks 1 and 2. It should be 1 / log2(1 + rank).",
            "a discount that would divide by 0 at rank 1",
        ),
        Mistake(
            "one over the rank",
            wrong_ndcg(off="rank"),
            "the worth is 1 / rank, as in MRR. nDCG has 1 / log2(1 + rank).",
            "two discounts exchanged",
        ),
        Mistake(
            "no discount",
            wrong_ndcg(off="none"),
            "all ranks up to k are worth the same. They should be worth 1 / log2(1 + rank).",
            "a forgotten discount",
        ),
        Mistake(
            "sums before the ratio",
            wrong_ndcg(micro=True),
            "you divide the sum over all queries by the sum of the best ones. Divide for each query, then take the "
            "mean: each query counts the same.",
            "micro for macro",
        ),
        Mistake(
            "the sum over the queries",
            wrong_ndcg(sum=True),
            "you add up over the queries; the text asks for the mean.",
            "a sum where a mean is asked for",
        ),
        Mistake(
            "the lowest score first",
            wrong_ndcg(ascending=True),
            "the order is upside down: a higher score is better.",
            "argsort without descending",
        ),
        Mistake(
            "the means of the ties sorted",
            wrong_ndcg(ideal="means"),
            "the ties are right now. But the best order is made of the mean grades that were *found*; it is that of "
            "the grades of all texts, without means.",
            "an ideal DCG over what was retrieved",
        ),
        Mistake(
            "the ideal not cut, ties as they come",
            wrong_ndcg(ideal="all", ties=True),
            "two things are left: the best order counts texts beyond rank k, and texts with equal scores stand in the "
            "order of the corpus.",
            "an ideal DCG without @k",
        ),
        Mistake(
            "the worst order of the ties",
            wrong_ndcg(ties="worst"),
            "you put the lower grades first among equals, the worst of their orders. Take the mean over all.",
            "a pessimistic measure",
        ),
        Mistake(
            "the best order of the ties",
            wrong_ndcg(ties="best"),
            "you put the better grades first among equals, the best of their orders. Take the mean over all.",
            "an optimistic measure",
        ),
        Mistake(
            "the mean of the best and the worst order",
            wrong_ndcg(ties="both"),
            "you take the mean of the best and the worst order of the ties. All their orders count equally, not these "
            "two alone.",
            "the middle of two extremes",
        ),
        Mistake(
            "ties within k only",
            wrong_ndcg(ties="within"),
            "you take the mean over those of the ties that happen to stand within k. The group of equals may go beyond "
            "rank k: take all of it.",
            "cut first, then the mean",
        ),
        Mistake(
            "places within k only",
            wrong_ndcg(ties="places"),
            "you take the mean worth over the group's places within k. Places beyond k are worth 0 and count in the "
            "mean.",
            "a mean over part of a group",
        ),
        Mistake(
            "always ten",
            always_ten,
            "you cut at 10, the k of the lesson, whatever `k` is given.",
            "a number of the lesson written into the code",
        ),
        Mistake(
            "one value a query",
            one_a_query,
            "you return a value for each query; the text asks for their mean, one number.",
            "the mean forgotten",
        ),
    ),
    hints=(
        "A search finds one text of grade 1 and none of grade 3. What should it get, and what does the program give?",
        "The best order is that of all N grades. And what does `argsort` do with equal scores?",
        "A text with a texts above it and e equal ones (itself too) takes the ranks a + 1 to a + e equally often: give "
        "it the mean of what these ranks are worth, 0 beyond k.",
    ),
    praise="The best order of all texts in the denominator, and ties by their mean.",
    other_ways=(ndcg_by_shuffles, wrong_ndcg()),
)
