"""The checks of lesson 17, Writing with a masked model."""

import copy
import math
from functools import cache

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer as Backend
from tokenizers import models
from torch import nn

from nextbert_lite.checks.core import (
    OTHER_SIZES,
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    hint,
    mine,
    solution,
    unchanged,
)
from nextbert_lite.core.diffusion import diffusion_loss as courses_loss
from nextbert_lite.core.diffusion import fill_gaps as courses_sampler
from nextbert_lite.training.tokenizer import Tokenizer, word_level

__all__ = [
    "diffusion_loss",
    "draw_words",
    "fill_gaps",
    "hint",
    "mine",
    "pair_probabilities",
    "solution",
    "three_at_once",
]

PAD, CLS, SEP, MASK, FIRST = 0, 2, 3, 4, 5  # ids; the words come after the special tokens


def tokenizer_of(words):
    return word_level(f"w{i}" for i in range(words))


def published(words):
    """Return a tokenizer with RoBERTa's special tokens: [CLS], [PAD], [SEP], [UNK] are 0 to 3, [MASK] comes last."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(words)), "<mask>"]
    backend = Backend(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    roles = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    return Tokenizer(backend, specials=roles)


EIGHT, TWENTY, ROBERTAS = tokenizer_of(8), tokenizer_of(20), published(8)


def kept(function, **named):
    """Return function(*arguments); Fault, with the argument's name, if it changed one of them in place."""
    before = copy.deepcopy(named)
    result = function(*named.values())
    for name, value in named.items():
        if not unchanged(before[name], value):
            raise Fault(f"`{name}` is changed in place, so the caller's is changed too. Work on a copy.")
    return result


# --- 17.1 the build: diffusion_loss -----------------------------------------------------------------------------------


class Mixer(nn.Module):
    """A small model whose answer at a position depends on all words; it remembers how often it was asked."""

    def __init__(self, generator, V):
        super().__init__()
        self.table = nn.Parameter(torch.randn(V, 6, generator=generator, dtype=torch.float64))
        self.out = nn.Parameter(torch.randn(6, V, generator=generator, dtype=torch.float64))
        self.asked = 0

    def forward(self, ids):
        self.asked += 1
        x = self.table[ids] + torch.arange(ids.shape[1], dtype=torch.float64)[:, None] / 5
        return (x + x.mean(1, keepdim=True)) @ self.out


def some_texts(generator, V, lengths):
    T = max(lengths) + 2
    ids = torch.full((len(lengths), T), PAD)
    for row, n in enumerate(lengths):
        ids[row, : n + 2] = torch.tensor([CLS, *torch.randint(FIRST, V, (n,), generator=generator).tolist(), SEP])
    return ids


def positions(ids, *chosen):
    hidden = torch.zeros(ids.shape, dtype=torch.bool)
    for row, where in enumerate(chosen):
        hidden[row, list(where)] = True
    return hidden


HIDDEN = ((1,), (1, 3, 5), (1, 2, 3), (2, 6))  # of the texts of 2, 5, 3 and 6 words


def asked(answer, model, ids, hidden, tokenizer, rates=None):
    loss = kept(lambda i, h, r: answer(model, i, h, tokenizer, r), ids=ids, hidden=hidden, rates=rates)
    if isinstance(loss, torch.Tensor) and loss.ndim:
        raise Fault(f"the result has the shape {tuple(loss.shape)}; expected one number for the batch, a scalar.")
    return loss.double() if isinstance(loss, torch.Tensor) else loss  # the text asks for no dtype


def equal_texts(answer, generator):
    ids = F.pad(some_texts(generator, 13, [5, 5]), (0, 1), value=PAD)
    return asked(answer, Mixer(generator, 13), ids, positions(ids, (2,), (1, 2, 4)), EIGHT)


def several_texts(answer, generator):
    ids = some_texts(generator, 13, [2, 5, 3, 6])
    return asked(answer, Mixer(generator, 13), ids, positions(ids, *HIDDEN), EIGHT)


def with_rates(answer, generator):
    ids = some_texts(generator, 13, [2, 5, 3, 6])
    rates = torch.tensor([0.9, 0.5, 0.7, 0.1], dtype=torch.float64)
    none = positions(ids, (), (1, 3), (), (5,))
    model = Mixer(generator, 13)
    return asked(answer, model, ids, positions(ids, *HIDDEN), EIGHT, rates), asked(
        answer, model, ids, none, EIGHT, rates
    )


def other_sizes(answer, generator):
    ids = some_texts(generator, 25, [7, 4])
    return asked(answer, Mixer(generator, 25), ids, positions(ids, (1, 4, 7), (2,)), TWENTY)


def another_tokenizer(answer, generator):
    ids = torch.tensor([[0, 4, 7, 5, 11, 2], [0, 9, 4, 2, 1, 1]])
    return asked(answer, Mixer(generator, 13), ids, positions(ids, (2, 4), (1,)), ROBERTAS)


def loss_gradients(answer, generator):
    ids = some_texts(generator, 13, [2, 5, 3, 6])
    model = Mixer(generator, 13)
    loss = asked(answer, model, ids, positions(ids, *HIDDEN), EIGHT)
    if not isinstance(loss, torch.Tensor):
        raise Fault(f"the loss is a {type(loss).__name__}, which has no gradient. Return the tensor.")
    if not loss.requires_grad:
        raise Fault("no gradient comes back from the loss: leave out `.detach()` and `no_grad`.")
    if model.asked != 1:
        raise Fault(f"the model was called {model.asked} times for one batch. Once is enough, with all texts.")
    return torch.autograd.grad(loss, tuple(model.parameters()))


def wrong_diffusion(**switches):
    """Return a diffusion_loss that a learner may write; its switches are the mistakes."""
    switch = dict.fromkeys("weights n over seen at rates stopped loss numbers".split()) | switches

    def diffusion_loss(model, ids, hidden, tokenizer, rates=None):
        if switch["seen"] == "instead":
            ids = ids.masked_fill(hidden, tokenizer.mask_id)
        words = ~torch.isin(ids, torch.tensor(tokenizer.special_ids))
        if switch["numbers"] in ("words", "both"):
            words = ids >= FIRST
        mask_id = MASK if switch["numbers"] in ("mask", "both") else tokenizer.mask_id
        seen = ids if switch["seen"] == "whole" else ids.masked_fill(hidden, mask_id)
        logits = model(seen)
        if switch["loss"] == "softmax":
            logits = logits.softmax(-1)
        if switch["stopped"] == "detached":
            logits = logits.detach()
        labels = seen if switch["seen"] == "labels" else ids
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # (B, T)
        losses = losses * {"bits": 1 / math.log(2), "sign": -1}.get(switch["loss"], 1)
        every = torch.ones_like(words)
        at = {"all": words, "visible": words & ~hidden, "everything": every}.get(switch["at"], hidden)
        per_text = losses.masked_fill(~at, 0.0).sum(1)
        n, k = words.sum(1).double(), hidden.sum(1).double()
        if switch["n"] == "specials":
            n = n + 2
        elif switch["n"] == "T":
            n = torch.full_like(n, ids.shape[1])
        weights = n / k
        if rates is not None:
            weights = 1 / rates
            weights = {
                "ignored": n / k.clamp(min=1),
                "batch": (1 / rates.mean()).expand(len(ids)),
                "both": n / k.clamp(min=1) / rates,
                "none": torch.ones_like(rates),
                "inverted": rates,
                "mean of inverses": (1 / rates).mean().expand(len(ids)),
                "over k": 1 / rates / k.clamp(min=1),
            }.get(switch["rates"], weights)
            if switch["rates"] == "times n":
                weights = weights / n * words.sum()
        weights = {"none": torch.ones_like(weights), "inverted": 1 / weights}.get(switch["weights"], weights)
        if switch["weights"] == "of the mean":
            per_text = per_text / k.clamp(min=1)
        if switch["over"] == "mlm":
            return per_text.sum() / k.sum()
        total = weights * per_text
        divide = {
            "hidden": k.sum(),
            "texts": len(ids),
            "all": ids.numel(),
            "nothing": 1,
            "specials": (words.sum(1) + 2).sum(),
            "where hidden": words[hidden.any(1)].sum(),
        }
        if switch["over"] == "each":
            return (total / words.sum(1)).mean()
        bound = total.sum() / divide.get(switch["over"], words.sum())
        return bound.item() if switch["stopped"] == "item" else bound

    return diffusion_loss


def loss_by_rows(model, ids, hidden, tokenizer, rates=None):
    covered = torch.where(hidden, torch.full_like(ids, tokenizer.mask_id), ids)
    log_p = model(covered).log_softmax(-1)
    total, words = 0.0, 0
    for b in range(len(ids)):
        n = sum(i not in tokenizer.special_ids for i in ids[b].tolist())
        where = hidden[b].nonzero()[:, 0]
        weight = n / len(where) if rates is None else 1 / rates[b]
        if len(where):
            total = total - weight * log_p[b, where, ids[b, where]].sum()
        words += n
    return total / words


def loss_by_einsum(model, ids, hidden, tokenizer, rates=None):
    special = torch.zeros(ids.shape, dtype=torch.bool)
    for i in tokenizer.special_ids:
        special |= ids == i
    logits = model(torch.where(hidden, tokenizer.mask_id, ids))
    nll = logits.logsumexp(-1) - logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    n = (~special).sum(1)
    weights = torch.reciprocal(rates) if rates is not None else n / hidden.sum(1)
    return torch.einsum("b,bt,bt->", weights.to(nll.dtype), nll, hidden.to(nll.dtype)) / n.sum()


def loss_times_hidden(model, ids, hidden, tokenizer, rates=None):
    logits = model(ids.masked_fill(hidden, tokenizer.mask_id))
    losses = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape) * hidden
    words = ~torch.isin(ids, torch.tensor(tokenizer.special_ids))
    weight = words.sum(1) / hidden.sum(1) if rates is None else 1 / rates
    return (losses.sum(1) * weight).sum() / words.sum()


def loss_by_labels(model, ids, hidden, tokenizer, rates=None):
    logits = model(ids.masked_fill(hidden, tokenizer.mask_id))
    labels = ids.masked_fill(~hidden, -100)
    losses = F.cross_entropy(logits.double().transpose(1, 2), labels, reduction="none").sum(1)
    n = sum(ids != i for i in tokenizer.special_ids).eq(len(tokenizer.special_ids)).sum(1)
    return (losses * (n / hidden.sum(1) if rates is None else rates.reciprocal())).sum() / n.sum()


diffusion_loss = Build(
    id="17.1",
    course=courses_loss,
    stages=(
        Stage("two texts of equal length", equal_texts),
        Stage("several texts", several_texts),
        Stage("rates", with_rates),
        Stage(OTHER_SIZES, other_sizes),
        Stage("another tokenizer", another_tokenizer),
        Stage("gradients, in float64", loss_gradients),
    ),
    mistakes=(
        Mistake(
            "no weights",
            wrong_diffusion(weights="none"),
            "the losses have no weight. A text in which k of n words are hidden stands for all n: its losses are "
            "multiplied by n/k.",
            "the plain sum of MLM losses, as lesson 05 has it",
        ),
        Mistake(
            "inverted weights",
            wrong_diffusion(weights="inverted"),
            "your weight is turned around: k/n in place of n/k. Few hidden words must count *more*.",
            "a weight multiplied where the formula divides",
        ),
        Mistake(
            "the weight of the mean",
            wrong_diffusion(weights="of the mean"),
            "you take the *mean* of a text's losses and multiply it by n/k, so k divides twice. The weight belongs to "
            "the sum.",
            "https://github.com/ML-GSAI/LLaDA/issues/4 (mean over the masked positions, or a weighted sum?)",
        ),
        Mistake(
            "divided by the hidden words",
            wrong_diffusion(over="hidden"),
            "you divide by the number of *hidden* words. The weight n/k has corrected for them already: divide by all "
            "words of the batch.",
            "a mean over the selected positions, kept from lesson 05",
        ),
        Mistake(
            "divided by the texts",
            wrong_diffusion(over="texts"),
            "this is the bound in nats a *text*. The function returns nats a word: divide by all words of the batch.",
            "sequence or token normalisation, a choice that each library makes in its own way",
        ),
        Mistake(
            "not divided",
            wrong_diffusion(over="nothing"),
            "this is the sum over the batch, in nats. Divide by the number of all words, hidden or not.",
            "a sum in place of a mean, so that the loss grows with the batch",
        ),
        Mistake(
            "padding and specials counted",
            wrong_diffusion(over="all"),
            "you divide by all B · T positions. Padding, [CLS] and [SEP] are not words; divide by the words.",
            "batch × length, right for texts that fill the batch, as LLaDA's do",
        ),
        Mistake(
            "the model saw the hidden words",
            wrong_diffusion(seen="whole"),
            "your model sees the words that it should guess. It gets `ids.masked_fill(hidden, tokenizer.mask_id)`.",
            "the whole text passed to the model in place of the masked one",
        ),
        Mistake(
            "[MASK] as the label",
            wrong_diffusion(seen="labels"),
            "your labels are the masked text: the right answer would be [MASK] itself. The labels are the true words, "
            "`ids[hidden]`.",
            "labels made after the masking",
        ),
        Mistake(
            "the masked text in place of the text",
            wrong_diffusion(seen="instead"),
            "you overwrite the text with the masked one, so the labels and the number of words come from the masked "
            "text too. Keep both.",
            "a reader's attempt: ids[hidden] = mask_id at the top",
        ),
        Mistake(
            "the loss of all words",
            wrong_diffusion(at="all"),
            "you add up the losses of the visible words too. They cost nearly nothing to guess, and the bound has only "
            "hidden words in its sum.",
            "https://github.com/huggingface/transformers/issues/2759 (which tokens count in the loss)",
        ),
        Mistake(
            "the loss of all positions",
            wrong_diffusion(at="everything"),
            "you add up the losses of all positions, visible words, special tokens and padding too. The bound has only "
            "the hidden words in its sum.",
            "a reader's attempt: cross_entropy over everything",
        ),
        Mistake(
            "bits",
            wrong_diffusion(loss="bits"),
            "this is in bits, to the base 2. Nats are asked for: the natural logarithm, as cross_entropy has it.",
            "a reader's attempt: divided by ln 2",
        ),
        Mistake(
            "softmax before cross_entropy",
            wrong_diffusion(loss="softmax"),
            "`F.cross_entropy` takes logits and does the softmax itself; you gave it probabilities.",
            "https://github.com/Lightning-Universe/lightning-bolts/issues/654 (softmax applied twice)",
        ),
        Mistake(
            "the sign",
            wrong_diffusion(loss="sign"),
            "the sign is turned around: the bound is a sum of −ln p, which is never negative.",
            "a reader's attempt: log-probabilities added up",
        ),
        Mistake(
            "the loss of the visible words",
            wrong_diffusion(at="visible"),
            "you add up the losses of the *visible* words. True in `hidden` marks the words to be guessed.",
            "the polarity of a mask turned around",
        ),
        Mistake(
            "specials in n",
            wrong_diffusion(n="specials"),
            "your n counts [CLS] and [SEP]. They are never hidden, so n is the number of words alone.",
            "n taken as the number of tokens that are no padding",
        ),
        Mistake(
            "specials are words",
            wrong_diffusion(n="specials", over="specials"),
            "[CLS] and [SEP] are not words, but you count them, in n and below the line.",
            "a reader's attempt: words as all tokens that are not padding",
        ),
        Mistake(
            "specials in the divisor",
            wrong_diffusion(over="specials"),
            "you divide by a number that counts [CLS] and [SEP] too. They are not words.",
            "the attention mask's sum as the number of words",
        ),
        Mistake(
            "T in place of n",
            wrong_diffusion(n="T"),
            "your n is the width of the batch, T. Each text has its own number of words.",
            "ids.shape[1] as the length of every text",
        ),
        Mistake(
            "plain MLM loss, or one weight for the batch",
            wrong_diffusion(over="mlm"),
            "this is the mean loss of the hidden words, lesson 05's, or n/k with the sums of the whole batch, which is "
            "the same. A text with few hidden words has too little weight in it: weight each text's losses by its own "
            "n/k.",
            "the paper's own remark that BERT's loss only lacks a weight",
        ),
        Mistake(
            "the mean of the texts' means",
            wrong_diffusion(over="each"),
            "you divide each text's bound by its own number of words and take the mean over the texts, so words of "
            "short texts count more. Add everything up first, then divide once.",
            "a mean of means; Hugging Face, *Fixing Gradient Accumulation*, October 2024",
        ),
        Mistake(
            "rates not used",
            wrong_diffusion(rates="ignored"),
            "with `rates` your weight is still n/k. Use 1/t of each text where rates are given.",
            "an argument accepted and forgotten",
        ),
        Mistake(
            "one rate for the batch",
            wrong_diffusion(rates="batch"),
            "you divide by the mean of the rates. Each text has a rate of its own.",
            "one t a batch, a choice of some training code that this loss does not make",
        ),
        Mistake(
            "both weights",
            wrong_diffusion(rates="both"),
            "with rates you multiply by n/k *and* by 1/t. They are two ways to the same number: one of them.",
            "two formulas of one paper joined",
        ),
        Mistake(
            "no weight with rates",
            wrong_diffusion(rates="none"),
            "with `rates` your losses have no weight. Multiply those of each text by 1/t.",
            "a reader's attempt: the weight in the branch without rates only",
        ),
        Mistake(
            "times the rate",
            wrong_diffusion(rates="inverted"),
            "with `rates` your weight is turned around: t in place of 1/t.",
            "a reader's attempt: multiplied where the formula divides",
        ),
        Mistake(
            "the mean of the weights",
            wrong_diffusion(rates="mean of inverses"),
            "with `rates` all texts get the same weight, the mean of 1/t. Each text has its own 1/t.",
            "a reader's attempt: one weight for the batch",
        ),
        Mistake(
            "the mean of the losses, with rates",
            wrong_diffusion(rates="over k"),
            "with `rates` the weight 1/t belongs to the *sum* of a text's losses; you divide by k as well.",
            "a reader's attempt: a mean over the hidden words, times 1/t",
        ),
        Mistake(
            "texts without hidden words left out",
            wrong_diffusion(over="where hidden"),
            "you leave out the texts without hidden words. They add nothing to the sum, but their words count below "
            "the line.",
            "a reader's attempt: empty texts skipped",
        ),
        Mistake(
            "the number of [MASK]",
            wrong_diffusion(numbers="mask"),
            "you wrote the number of [MASK] in one tokenizer into the code. Take `tokenizer.mask_id`.",
            "a reader's attempt: 4",
        ),
        Mistake(
            "the number of the first word",
            wrong_diffusion(numbers="words"),
            "you take the ids from 5 on as words. Another tokenizer has its special tokens elsewhere: "
            "`tokenizer.special_ids`.",
            "a reader's attempt: ids >= 5",
        ),
        Mistake(
            "both numbers",
            wrong_diffusion(numbers="both"),
            "the numbers of [MASK] and of the first word are those of one tokenizer. Take `tokenizer.mask_id` and "
            "`tokenizer.special_ids`.",
            "a reader's attempt: 4, and ids >= 5",
        ),
        Mistake(
            "no gradient",
            wrong_diffusion(stopped="detached"),
            "the logits were detached, so nothing can learn from this loss.",
            "torch.no_grad or detach copied from an evaluation",
        ),
        Mistake(
            "a Python number",
            wrong_diffusion(stopped="item"),
            "you return a Python number, from which nothing can learn. Return the tensor, without `.item()`.",
            "a reader's attempt: .item() at the end",
        ),
    ),
    hints=(
        "`words = ~torch.isin(ids, torch.tensor(tokenizer.special_ids))` is True at words; `words.sum(1)` is n.",
        "`logits = model(ids.masked_fill(hidden, tokenizer.mask_id))`, then `F.cross_entropy(logits[hidden], "
        'ids[hidden], reduction="none")`: one loss a hidden word.',
        "The weight (B,) of each text, spread over its hidden words: `weights[:, None].expand(ids.shape)[hidden]`.",
        "Multiply, sum over everything, divide by `words.sum()`.",
    ),
    praise="BERT's loss with a weight, and now it bounds the probability of the whole text.",
    other_ways=(loss_by_rows, loss_by_einsum, loss_times_hidden, loss_by_labels, wrong_diffusion()),
)

# --- 17.2 the build: fill_gaps ----------------------------------------------------------------------------------------

MANY = 300  # texts, over which the frequencies of what was drawn are compared


class Speaker:
    """A model whose logits at a position are always the same, (T, V); it remembers what it was shown."""

    def __init__(self, logits):
        self.logits, self.seen = logits.float(), []

    def __call__(self, ids):
        self.seen.append(ids.clone())
        return self.logits.expand(*ids.shape, -1).clone()

    def order(self, whole):
        """Return the step at which each was written, (B, T); 0: never."""
        states = torch.stack([*self.seen, whole])
        return (states == MASK).sum(0)


def logits_of(probabilities, V=13, loud=0.0):
    """Return logits (T, V) in which position t has these probabilities for the words; specials get `loud` more."""
    table = torch.full((len(probabilities), V), -30.0)
    for t, p in enumerate(probabilities):
        table[t, FIRST : FIRST + len(p)] = torch.tensor(p).log()
    table[:, :FIRST] = loud
    return table


def row_of(*tokens):
    return torch.tensor([[CLS, *tokens, SEP]] * MANY)


def law(drawn, laws, first=0):
    """Return the name of the first law (probabilities of `first`, first + 1, …) that the drawn numbers may follow."""
    N = len(drawn)
    if len(drawn.unique()) == 1 and all((p < 0.99).all() for p in list(laws.values())[:1]):
        sure = next((name for name, p in laws.items() if p[int(drawn[0]) - first] > 0.99), None)
        return sure or "the same in every text"
    for name, p in laws.items():
        p = torch.as_tensor(p, dtype=torch.float64)
        counts = (drawn - first).clamp(min=-1) + 1
        counts = counts.bincount(minlength=len(p) + 1)[1 : len(p) + 1].double()
        if counts.sum() == N and ((counts - N * p).abs() <= 5 * (N * p * (1 - p)).sqrt() + 1e-9 + (p > 0)).all():
            return name
    return "another distribution"


def proportion(first, laws):
    """Return the name of the law whose proportion, one number, the booleans follow; the nearest, if several fit."""
    share, N = first.double().mean().item(), len(first)
    fits = [name for name, p in laws.items() if abs(share - p) <= 5 * math.sqrt(p * (1 - p) / N) + 1e-9]
    return min(fits, key=lambda name: abs(share - laws[name]), default="another proportion")


def written(answer, model, ids, steps, generator=None, tokenizer=EIGHT, **more):
    generator = torch.Generator().manual_seed(5) if generator is None else generator
    whole = kept(lambda i: answer(model, i, tokenizer, steps, generator=generator, **more), ids=ids)
    if not isinstance(whole, torch.Tensor):
        raise Fault(f"the result is {type(whole).__name__}; return the texts as a tensor of ids (B, T).")
    if whole.shape != ids.shape or whole.dtype != ids.dtype:
        raise Fault(
            f"the result is {tuple(whole.shape)}, {whole.dtype}; expected ids like those that came in, "
            f"{tuple(ids.shape)}, {ids.dtype}."
        )
    return whole


def one_gap(answer, generator):
    p = torch.tensor([0.35, 0.25, 0.15, 0.1, 0.06, 0.05, 0.02, 0.02])
    table = torch.zeros(4, 13)
    table[:, FIRST:] = p.log()
    table[:, :FIRST] = torch.tensor([-2.0, -2.5, -1.8, -2.2, -0.7])  # [PAD] [UNK] [CLS] [SEP] [MASK]
    whole = written(answer, Speaker(table), row_of(MASK, 6), 1)
    every = table[0].softmax(-1)
    without_mask = table[0].clone()
    without_mask[MASK] = -torch.inf
    zeros = table[0].clone()
    zeros[:FIRST] = 0.0
    right = torch.cat([torch.zeros(FIRST), p])
    laws = {
        "the model's probabilities": right,
        "the likeliest word": F.one_hot(torch.tensor(5), 13),
        "all tokens": every,
        "all but [MASK]": without_mask.softmax(-1),
        "specials with the logit 0": zeros.softmax(-1),
        "each word alike": torch.cat([torch.zeros(FIRST), torch.full((8,), 1 / 8)]),
        "each token alike": torch.full((13,), 1 / 13),
        "the likeliest token": F.one_hot(torch.tensor(MASK), 13),
        "visible positions in the queue": right / 4 + 3 / 4 * F.one_hot(torch.tensor(MASK), 13),
    }
    return law(whole[:, 1], {k: v.double() for k, v in laws.items()})


def what_stays(answer, generator):
    table = logits_of([[0.5, 0.5]] * 7)
    ids = F.pad(row_of(MASK, 7, MASK, 12), (0, 1), value=PAD)
    whole = written(answer, Speaker(table), ids, 2)
    gaps = ids == MASK
    same = "kept" if (whole == ids)[~gaps].all() else "changed"
    alike = proportion(whole[:, 1] == whole[:, 3], {"drawn apart": 0.5, "one draw for all gaps": 1.0})
    other = torch.tensor([[0, 12, 4, 2]] * MANY)  # RoBERTa's special tokens: <s> 0, </s> 2, <mask> 12; words from 4
    flat = torch.zeros(4, 13)
    flat[:, 5:11] = -30.0  # the words 4 and 11, and the special tokens
    other_whole = written(answer, Speaker(flat), other, 1, tokenizer=ROBERTAS)
    drawn = other_whole[:, 1].unique().tolist()
    elsewhere = "kept" if (other_whole == other)[:, [0, 2, 3]].all() else "changed"
    return f"what stood there is {same}", alike, f"with other specials {elsewhere}, drawn: {drawn}"


def by_chance(answer, order):
    """Return whether the number of words of a step is left to chance, for 60 texts of 7 gaps and 3 steps."""
    ids, counts = torch.tensor([[CLS, *[MASK] * 7, SEP]] * 60), []
    for state in (1, 2):
        model = Speaker(logits_of([[0.4, 0.3, 0.3]] * 9))
        whole = written(answer, model, ids, 3, torch.Generator().manual_seed(state), **order)
        after = model.seen[1] if len(model.seen) > 1 else whole
        counts.append(7 - (after == MASK).sum(1))
    both = torch.stack(counts)
    if (both == both[0, 0]).all():
        return "each text of 7 gaps writes the same number"
    if (both.sum(1) == 60 * 7 / 3).all() and both.max() > 3:
        return "the texts share one number"
    return "the number is left to chance" if both.max() > 3 else "sometimes fewer than g/s"


STEPS = (((7, 4, 1), 3), ((5, 2, 6), 6), ((6, 3, 8), 1), ((3, 3, 3), 5))  # gaps of three texts, steps


def states_of(answer, gaps, steps, **order):
    """Return the texts (B, T) before each step and after the last."""
    T = max(gaps)
    ids = torch.tensor([[CLS, *[MASK] * g, *[6] * (T - g), SEP] for g in gaps])
    model = Speaker(logits_of([[0.4, 0.3, 0.3]] * (T + 2)))
    whole = written(answer, model, ids, steps, **order)
    if len(model.seen) > steps:
        raise Fault(f"the model was called {len(model.seen)} times in {steps} steps. Call it once a step.")
    return [s for s in model.seen if (s == MASK).any()] + [whole]


def in_steps(answer, generator):
    alone = []
    for gaps, steps in STEPS:
        for g in gaps:
            counts = [int((s[0] == MASK).sum()) for s in states_of(answer, (g, g), steps, order="left")]
            alone.append(f"{g} gaps in {steps} steps: {'-'.join(map(str, counts))}")
    results = [
        by_chance(answer, {"order": "left"}),
        ", ".join(alone),
        by_chance(answer, {}),
    ]
    for gaps, steps in STEPS:
        states = states_of(answer, gaps, steps)
        again = any(((a != MASK) & (a != b)).any() for a, b in zip(states, states[1:], strict=False))
        counts = ["-".join(str(int((s[row] == MASK).sum())) for s in states) for row in range(3)]
        results.append(f"gaps before and after each of {steps} steps: {', '.join(counts)}")
        results.append("what is written is written again" if again else "what is written stays")
    return tuple(results)


class Echo:
    """A model that answers every gap with the word that stands in the text, or with any word if none does."""

    def __init__(self):
        self.seen = []

    def __call__(self, ids):
        self.seen.append(ids.clone())
        logits = torch.zeros(*ids.shape, 13)
        word = ids.where(ids >= FIRST, 0).amax(1)  # (B,)
        rows = (word > 0).nonzero()[:, 0]
        logits[rows, :, word[rows]] = 40.0
        return logits


def looks_again(answer, generator):
    model = Echo()
    whole = written(answer, model, torch.tensor([[CLS, *[MASK] * 5, SEP]] * 60), 5)
    words = whole[:, 1:-1]
    alike = (words == words[:, :1]).all(1)
    return (
        "every text goes on with its first word" if alike.all() else "later words know nothing of the first",
        "texts differ" if len(words[:, 0].unique()) > 3 else "all texts begin alike",
    )


def from_the_left(answer, generator):
    rows = [[CLS, MASK, 6, MASK, MASK, MASK, 7, MASK, SEP], [CLS, 6, MASK, MASK, 6, MASK, MASK, MASK, SEP]]
    ids = torch.tensor(rows * 10)
    model = Speaker(logits_of([[0.3, 0.3, 0.4]] * 9))
    found = model.order(written(answer, model, ids, 3, order="left"))
    expected = torch.tensor([[0, 1, 0, 1, 2, 2, 0, 3, 0], [0, 0, 1, 1, 0, 2, 2, 3, 0]] * 10)
    from_right = torch.tensor([[0, 3, 0, 2, 2, 1, 0, 1, 0], [0, 0, 3, 2, 0, 2, 1, 1, 0]] * 10)
    columns = [found[:, t][ids[:, t] == MASK].unique() for t in range(1, 8)]
    names = {
        "from the left": torch.equal(found, expected),
        "from the right": torch.equal(found, from_right),
        "the same columns in each text": all(len(steps) == 1 for steps in columns),
    }
    flat = Speaker(logits_of([[0.6, 0.4]] * 4))
    words = written(answer, flat, row_of(MASK, MASK), 2, order="left")[:, 1:3]
    likeliest = proportion((words == FIRST).flatten(), {"drawn": 0.6, "the likeliest": 1.0})
    return next((name for name, holds in names.items() if holds), "another order"), f"its words: {likeliest}"


def two_positions(answer, at_one, at_three, order, shift=0, loud=(-30.0, 0.0), temperature=1.0):
    """Return whether position 3 was written before position 1, (MANY,), and the words of position 3.

    loud: the logits of the special tokens at the positions 1 and 3.
    """
    table = logits_of([[1.0], at_one, [1.0], at_three, [1.0]])
    table[1, :FIRST], table[3, :FIRST] = loud
    if shift:
        table[shift] += 5
    model = Speaker(table)
    options = {} if temperature == 1.0 else {"temperature": temperature}
    whole = written(answer, model, row_of(MASK, 9, MASK), 2, order=order, **options)
    steps = model.order(whole)
    return steps[:, 3] < steps[:, 1], whole[:, 3]


FLAT, SHARP, WIDE = [0.5, 0.5], [0.9, 0.1], [0.7, 0.1, 0.1, 0.1]


def how_often(answer, order):
    shares = {"always": 1.0, "never": 0.0, "in 0.7": 0.7, "in 0.9": 0.9, "in 0.1": 0.1, "in 0.3": 0.3, "in 0.5": 0.5}
    a, words = two_positions(answer, FLAT, WIDE, order, shift=1)
    b, _ = two_positions(answer, FLAT, SHARP, order, loud=(3.0, 0.0))
    c, _ = two_positions(answer, SHARP, FLAT, order, shift=3)
    d, _ = two_positions(answer, SHARP, FLAT, order, loud=(0.0, -30.0))
    names = f"{order}, position 3 before position 1: " + ", ".join(proportion(x, shares) for x in (a, b, c, d))
    first = words[a] if a.any() else words
    return names, "its likeliest word" if (first == FIRST).all() else "any word of it"


def surest_and_drawn(answer, generator):
    return *how_often(answer, "surest"), *how_often(answer, "drawn")


def at_random(answer, generator):
    model = Speaker(logits_of([[0.97, 0.03], [0.5, 0.5], [0.6, 0.4], [1.0], [0.5, 0.5], [0.9, 0.1]]))
    whole = written(answer, model, row_of(MASK, MASK, MASK, MASK), 2, order="random")
    chosen = (model.order(whole)[:, 1:5] == 1).long()
    if (chosen.sum(1) != 2).any():
        return "not two gaps in the first step"
    number = chosen @ torch.tensor([1, 2, 4, 8])
    pairs = {3: 0, 5: 1, 6: 2, 9: 3, 10: 4, 12: 5}
    drawn = torch.tensor([pairs[int(i)] for i in number])
    alike = []
    for state in (6, 7, 8):
        flat = Speaker(logits_of([[0.5, 0.5]] * 6))
        whole = written(answer, flat, row_of(MASK, MASK, MASK, MASK), 2, torch.Generator().manual_seed(state))
        alike.append(bool((flat.order(whole)[:, 1:5] == torch.tensor([1, 1, 2, 2])).all()))
    return law(drawn, {"each choice alike": torch.full((6,), 1 / 6)}), "from the left" if all(alike) else "any order"


def at_temperature(answer, generator):
    p = torch.tensor([0.6, 0.2, 0.1, 0.1], dtype=torch.float64)
    found = []
    for temperature, order in ((2.0, "random"), (0.5, "random"), (0.5, "left"), (0.5, "surest"), (0.5, "drawn")):
        table = logits_of([p.tolist()] * 3)
        whole = written(answer, Speaker(table), row_of(MASK), 1, temperature=temperature, order=order)
        laws = {
            "divided": p ** (1 / temperature),
            "multiplied": p**temperature,
            "not used": p,
            "softmax of the probabilities": (p / temperature).exp(),
            "divided twice": p ** (1 / temperature**2),
        }
        name = law(whole[:, 1], {name: q / q.sum() for name, q in laws.items()}, first=FIRST)
        found.append(f"temperature {temperature}, {order}: {name}")
    five = [0.45] + [0.11] * 5  # at a temperature of 0.5 its likeliest word has 0.77
    for order in ("surest", "drawn"):
        first, _ = two_positions(answer, FLAT, five, order, temperature=0.5)
        name = proportion(first, {"first": 1.0, "last": 0.0, "first in 0.77": 0.77})
        found.append(f"{order} at 0.5: position 3 {name}")
    return tuple(found)


class Dropping(nn.Module):
    """A model with dropout that remembers in which mode it was called."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, ids):
        self.modes.append(self.training)
        return logits_of([[0.4, 0.3, 0.3]]).expand(*ids.shape, -1).clone()


def generator_and_dropout(answer, generator):
    ids = torch.tensor([[CLS, *[MASK] * 6, SEP]] * 20)
    state, found, model = torch.get_rng_state(), [], Speaker(logits_of([[0.3, 0.3, 0.4]] * 8))
    for order in ("random", "left", "surest", "drawn"):
        runs = []
        for seed in (3, 3, 4):
            model.seen = []
            whole = written(answer, model, ids, 3, torch.Generator().manual_seed(seed), order=order)
            runs.append((whole, model.order(whole)))
            torch.rand(1)  # torch's own generator goes on in between
        same = all(map(torch.equal, runs[0], runs[1]))
        found.append(f"{order}: one state, {'one result' if same else 'two results'}")
        alike = torch.equal(runs[0][0], runs[2][0])
        found.append(f"{order}: two states, {'one result' if alike else 'two results'}")
    once = torch.Generator().manual_seed(3)
    again = torch.equal(written(answer, model, ids, 3, once), written(answer, model, ids, 3, once))
    found.append(f"one generator, drawn from twice: {'the same text' if again else 'another text'}")
    torch.set_rng_state(state)
    again = torch.equal(answer(model, ids, EIGHT, 2), answer(model, ids, EIGHT, 2))
    found.append(f"no generator, drawn from twice: {'the same text' if again else 'another text'}")
    modes = []
    for start in (True, False):
        module = Dropping().train(start)
        written(answer, module, ids, 2)
        modes.append(
            f"{'with' if any(module.modes) else 'without'} dropout, "
            f"then in {'training' if module.training else 'eval'} mode"
        )
    return *found, *modes


def wrong_filler(**switches):
    """Return a fill_gaps that a learner may write; its switches are the mistakes."""
    keys = "word kept number again order surest drawn random temperature generator mode queue left ids".split()
    switch = dict.fromkeys(keys) | switches

    def fill_gaps(model, ids, tokenizer, steps, order="random", temperature=1.0, generator=None):
        ids = ids.clone()
        mask_id = MASK if switch["ids"] == "mask" else tokenizer.mask_id
        start, special = ids == mask_id, list(range(FIRST) if switch["ids"] == "special" else tokenizer.special_ids)
        training = model.training if switch["mode"] == "no getattr" else getattr(model, "training", False)
        if switch["mode"] == "eval":
            model.eval()
        elif training and switch["mode"] != "dropout":
            model.eval()
        if switch["generator"] == "seeded":
            generator = torch.Generator().manual_seed(0)
        elif switch["generator"] == "reseeded":
            torch.manual_seed(0 if generator is None else generator.initial_seed())
            generator = None
        elif switch["generator"] == "fresh":
            generator = torch.Generator() if generator is None else generator
        elif switch["generator"] == "ignored":
            generator = None
        of_words = None if switch["generator"] == f"not {order}" else generator
        total = start.sum(1)
        for left in range(steps, 0, -1):
            gaps = start if switch["again"] == "all positions" else ids == mask_id
            if not (ids == mask_id).any() and switch["again"] != "all positions":
                break
            if switch["number"] == "first done" and not gaps.any(1).all():
                break
            logits = model(ids).double()
            plain = logits.clone()
            if switch["temperature"] == "multiplied":
                logits = logits * temperature
            elif switch["temperature"] != "ignored":
                without = {"only random": order != "random", "not left": order == "left", "not drawn": order == "drawn"}
                logits = logits / (1 if without.get(switch["temperature"]) else temperature)
            if switch["temperature"] == "twice":
                logits = logits / temperature
            if switch["word"] == "only mask":
                logits[..., tokenizer.mask_id] = -torch.inf
            elif switch["word"] == "zero":
                logits[..., special] = 0.0
            elif switch["word"] != "specials":
                logits[..., special] = -torch.inf
            p = logits.softmax(1 if switch["word"] == "axis" else -1)
            if switch["word"] == "zeroed":
                p = plain.softmax(-1)
                p[..., special] = 0.0
            flat = p.flatten(0, 1)
            drawn = torch.multinomial(flat, 1, generator=of_words).view(ids.shape)
            if switch["word"] == "argmax":
                drawn = p.argmax(-1)
            elif switch["word"] == "uniform":
                words = torch.ones_like(flat)
                words[:, special] = 0
                drawn = torch.multinomial(words, 1, generator=of_words).view(ids.shape)
            elif switch["word"] == "one draw":
                drawn = drawn[:, 1:2].expand(ids.shape)
            elif switch["word"] == "one row":
                drawn = drawn[:1].expand(ids.shape)
            if switch["kept"] == "all":
                ids = drawn.clone()
                continue
            best = p.amax(-1)
            if switch["surest"] == "entropy":
                best = torch.special.entr(p).sum(-1).neg()
            elif switch["surest"] == "logit":
                best = logits.amax(-1)
            elif switch["surest"] == "least":
                best = -p.amax(-1)
            elif switch["surest"] == "specials":
                best = plain.softmax(-1).amax(-1)
            elif switch["surest"] == "beside specials":
                best = plain.softmax(-1)[..., FIRST:].amax(-1)
            elif switch["surest"] == "before":
                allowed = plain.clone()
                allowed[..., special] = -torch.inf
                best = allowed.softmax(-1).amax(-1)
            own = p.gather(2, drawn[..., None])[..., 0]
            if switch["surest"] == "drawn":
                best = own
            if switch["drawn"] == "surest":
                own = best
            elif switch["drawn"] == "least":
                own = -own
            elif switch["drawn"] == "before":
                allowed = plain.clone()
                allowed[..., special] = -torch.inf
                own = allowed.softmax(-1).gather(2, drawn[..., None])[..., 0]
            rand = torch.rand(ids.shape, generator=None if switch["random"] == "global" else generator)
            if switch["random"] == "one row":
                rand = rand[:1].expand(ids.shape)
            if switch["random"] == "left":
                rand = -torch.arange(ids.shape[1]).expand(ids.shape)
            spots = -torch.arange(ids.shape[1]).expand(ids.shape).double()
            if switch["order"] == "right":
                spots = -spots
            if switch["drawn"] == "random":
                own = rand.double()
            scores = {"random": rand.double(), "left": spots, "surest": best, "drawn": own}[order]
            if switch["order"] == "ignored":
                scores = rand.double()
            in_queue = scores if switch["queue"] == "all positions" else scores.masked_fill(~gaps, -torch.inf)
            queue = in_queue.argsort(1, descending=True).argsort(1)
            if switch["queue"] == "one argsort":
                queue = in_queue.argsort(1, descending=True)
            elif switch["queue"] == "batch":
                queue = in_queue.flatten().argsort(descending=True).argsort().view(ids.shape)
            g = gaps.sum(1)
            count = -(-g // left)
            if switch["number"] == "all":
                count = g
            elif switch["number"] == "one":
                count = torch.ones_like(g)
            elif switch["number"] == "floor":
                count = total // steps
            elif switch["number"] == "down":
                count = g // left
            elif switch["number"] == "batch":
                count = (-(-g.max() // left)).expand(g.shape)
            elif switch["number"] == "one step late":
                count = -(-g // (left + 1))
            elif switch["number"] == "fixed":
                count = -(-total // steps)
            elif switch["number"] == "at least one":
                count = (total // steps).clamp(min=1) if left > 1 else g
            elif switch["number"] == "steps a step":
                count = torch.full_like(g, steps)
            elif switch["number"] == "nearest":
                count = torch.round(g / left).long()
            elif switch["number"] == "without this one":
                count = -(-g // max(left - 1, 1))
            elif switch["queue"] == "batch":
                count = (-(-g.sum() // left)).expand(g.shape)
            now = gaps & (queue < count[:, None])
            if switch["number"] == "chance":
                now = gaps & (torch.rand(ids.shape, generator=generator) < 1 / left)
            if switch["random"] == "repeats" and order == "random":
                now = torch.zeros_like(gaps)
                for b, k in enumerate(count.tolist()):
                    where = gaps[b].nonzero()[:, 0]
                    if k:
                        now[b, where[torch.randint(len(where), (k,), generator=generator)]] = True
            if switch["left"] == "columns" and order == "left":
                columns = gaps.any(0).nonzero()[:, 0]
                now = gaps & torch.isin(torch.arange(ids.shape[1]), columns[: -(-len(columns) // left)])
            if switch["word"] == f"likeliest in {order}":
                drawn = p.argmax(-1)
            if switch["drawn"] == "again":
                drawn = torch.multinomial(flat, 1, generator=of_words).view(ids.shape)
            ids = torch.where(now, drawn, ids)
            if switch["again"] == "rewritten":
                ids = torch.where(start & (ids != mask_id), drawn, ids)
        if training and switch["mode"] != "left":
            model.train()
        if switch["mode"] == "always" and hasattr(model, "train"):
            model.train()
        return ids

    return fill_gaps


def fill_by_rows(model, ids, tokenizer, steps, order="random", temperature=1.0, generator=None):
    """As LLaDA writes it: a number of words for each step beforehand, a loop over the texts, topk."""
    was = model.training if isinstance(model, nn.Module) else None
    if was:
        model.eval()
    x = ids.clone()
    total = (x == tokenizer.mask_id).sum(1)
    for step in range(steps):
        with torch.no_grad():
            logits = model(x).to(torch.float64) / temperature
        allowed = torch.ones(logits.shape[-1], dtype=torch.bool)
        allowed[list(tokenizer.special_ids)] = False
        p = logits.masked_fill(~allowed, -torch.inf).softmax(-1)
        for b in range(len(x)):
            where = (x[b] == tokenizer.mask_id).nonzero()[:, 0]
            k = int(total[b]) // steps + (step < int(total[b]) % steps)
            if not k or not len(where):
                continue
            cumulative = p[b, where].cumsum(-1)
            u = torch.rand(len(where), 1, generator=generator, dtype=torch.float64)
            word = (u * cumulative[:, -1:] >= cumulative).sum(-1)
            if order == "random":
                pick = torch.randperm(len(where), generator=generator)[:k]
            elif order == "left":
                pick = torch.arange(len(where))[:k]
            elif order == "surest":
                pick = p[b, where].max(-1).values.topk(k).indices
            else:
                pick = p[b, where, word].topk(k).indices
            x[b, where[pick]] = word[pick]
    if was:
        model.train()
    return x


def fill_by_gumbel(model, ids, tokenizer, steps, order="random", temperature=1.0, generator=None):
    """Gumbel noise in float64, the positions by one sort with the visible ones at the end."""
    state = getattr(model, "training", None)
    if state is not None:
        model.train(False)
    out = ids.clone()
    with torch.no_grad():
        for left in reversed(range(1, steps + 1)):
            gap = out.eq(tokenizer.mask_id)
            n = gap.sum(1)
            if int(n.sum()) == 0:
                break
            z = model(out).double().div(temperature)
            z[:, :, torch.tensor(tokenizer.special_ids)] = float("-inf")
            log_p = z - z.logsumexp(-1, keepdim=True)
            u = torch.rand(z.shape, dtype=torch.float64, generator=generator)
            word = (log_p - (-(u.clamp(min=1e-300)).log()).log()).argmax(-1)
            key = {
                "random": torch.rand(out.shape, dtype=torch.float64, generator=generator),
                "left": torch.arange(out.shape[1], 0, -1).double().expand(out.shape),
                "surest": log_p.max(-1).values,
                "drawn": log_p.gather(-1, word.unsqueeze(-1)).squeeze(-1),
            }[order].masked_fill(~gap, float("-inf"))
            sorted_places = key.sort(dim=1, descending=True).indices
            k = (n + left - 1) // left
            for b in range(len(out)):
                chosen = sorted_places[b, : int(k[b])]
                out[b, chosen] = word[b, chosen]
    if state is not None:
        model.train(state)
    return out


def fill_everywhere(model, ids, tokenizer, steps, order="random", temperature=1.0, generator=None):
    """A draw at every position, of which torch.where takes those of the gaps; probabilities of specials set to 0."""
    training = getattr(model, "training", False)
    if training:
        model.eval()
    with torch.no_grad():
        for left in range(steps, 0, -1):
            gaps = ids == tokenizer.mask_id
            p = (model(ids).double() / temperature).softmax(-1)
            p[..., tokenizer.special_ids] = 0.0
            p = p / p.sum(-1, keepdim=True)
            drawn = torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(ids.shape)
            if order == "random":
                score = torch.rand(ids.shape, generator=generator)
            elif order == "left":
                score = -torch.arange(ids.shape[1]).float().expand(ids.shape)
            else:
                score = p.amax(-1) if order == "surest" else p.gather(2, drawn[..., None])[..., 0]
            rank = (-score.masked_fill(~gaps, -torch.inf)).argsort(1).argsort(1)
            ids = torch.where(gaps & (rank < (gaps.sum(1, keepdim=True) / left).ceil()), drawn, ids)
    if training:
        model.train()
    return ids


fill_gaps = Build(
    id="17.2",
    course=courses_sampler,
    stages=(
        Stage("one gap", one_gap),
        Stage("what stays", what_stays),
        Stage("steps", in_steps),
        Stage("it looks again", looks_again),
        Stage("left to right", from_the_left),
        Stage("surest and drawn", surest_and_drawn),
        Stage("at random", at_random),
        Stage("temperature", at_temperature),
        Stage("generator and dropout", generator_and_dropout),
    ),
    mistakes=(
        Mistake(
            "the likeliest word",
            wrong_filler(word="argmax"),
            "you write the likeliest word every time. Draw it: a word with the probability 0.2 comes in a fifth of the "
            "texts. `torch.multinomial(p, 1, generator=generator)` draws.",
            "https://github.com/ML-GSAI/LLaDA/issues/59 (repetitive sequences: is argmax the only way?)",
        ),
        Mistake(
            "special tokens drawn",
            wrong_filler(word="specials"),
            "[CLS], [PAD] and even [MASK] itself are drawn. Set the logits of `tokenizer.special_ids` to −∞ before the "
            "softmax.",
            "https://github.com/ML-GSAI/LLaDA/issues/59 (outputs filled with tokens that are no words)",
        ),
        Mistake(
            "only [MASK] is left out",
            wrong_filler(word="only mask"),
            "[MASK] is never drawn, but other special tokens are. All of `tokenizer.special_ids` are left out.",
            "the mask token set to −∞ alone, as MDLM does, which has no other specials to fear",
        ),
        Mistake(
            "specials with the logit 0",
            wrong_filler(word="zero"),
            "you set the logits of the special tokens to 0. That is no small logit: the softmax still gives them a "
            "part. Use `-torch.inf`.",
            "0 for a probability written where a logit stands",
        ),
        Mistake(
            "uniform words",
            wrong_filler(word="uniform"),
            "every word is equally likely in your texts: the model's probabilities are not used.",
            "a random word, as 80/10/10 draws it",
        ),
        Mistake(
            "no probabilities",
            wrong_filler(word="axis"),
            "what you draw from are no probabilities. Negative numbers: the softmax is missing. NaN: it runs over a "
            "dimension where every logit is −∞ (`softmax(-1)` is over the words), or −∞ was multiplied by 0.",
            "a reader's attempt: softmax(1)",
        ),
        Mistake(
            "visible positions in the queue",
            wrong_filler(queue="all positions"),
            "visible positions take part in the queue, so that some steps write nothing. Rank the gaps only: give all "
            "other positions the score −∞.",
            "a reader's attempt: scores for all positions",
        ),
        Mistake(
            "training, of any model",
            wrong_filler(mode="no getattr"),
            'not every model has `training`: it may be a plain function. `getattr(model, "training", False)` asks '
            "without an error.",
            "a reader's attempt: model.training",
        ),
        Mistake(
            "eval, of any model",
            wrong_filler(mode="eval"),
            'not every model has `eval`: it may be a plain function. Call it only if `getattr(model, "training", '
            "False)`.",
            "a reader's attempt: model.eval() in any case",
        ),
        Mistake(
            "the number of [MASK]",
            wrong_filler(ids="mask"),
            "you wrote the number of [MASK] in one tokenizer into the code. Take `tokenizer.mask_id`.",
            "a reader's attempt: ids == 4",
        ),
        Mistake(
            "the first five are special",
            wrong_filler(ids="special"),
            "you leave out the ids 0 to 4. Another tokenizer has its special tokens elsewhere: "
            "`tokenizer.special_ids`.",
            "a reader's attempt: logits[..., :5]",
        ),
        Mistake(
            "the same words in every text",
            wrong_filler(word="one row"),
            "all texts of the batch get the same words. Each text draws its own.",
            "one draw broadcast over the batch",
        ),
        Mistake(
            "written positions are overwritten",
            wrong_filler(kept="all"),
            "words that stood in the text are replaced, and so is the padding. Only gaps are written: "
            "`torch.where(gaps, drawn, ids)`.",
            "https://github.com/ML-GSAI/LLaDA/blob/main/generate.py keeps them by torch.where(mask_index, x0, x)",
        ),
        Mistake(
            "one draw for all gaps",
            wrong_filler(word="one draw"),
            "all gaps of a text get the same draw. Each gap draws from its own probabilities.",
            "one row of probabilities used for all positions",
        ),
        Mistake(
            "all at once",
            wrong_filler(number="all"),
            "all words come from one call of the model: all gaps were written in the first step, or the logits were "
            "computed before the loop. A step writes g/s of the g gaps, rounded up, and the next one asks the model "
            "again.",
            "https://github.com/ML-GSAI/LLaDA/issues/75 (why words that are drawn together need not agree)",
        ),
        Mistake(
            "one word a step",
            wrong_filler(number="one"),
            "each step writes one word, however many gaps there are, so gaps remain at the end. Write g/s, rounded up.",
            "steps taken as the number of words",
        ),
        Mistake(
            "rounded down, from the start",
            wrong_filler(number="floor"),
            "each step writes n // steps words, so what does not divide evenly is left as gaps. Some steps must write "
            "one word more, the first ones.",
            "https://github.com/ML-GSAI/LLaDA/blob/main/generate.py (its get_num_transfer_tokens spreads the rest)",
        ),
        Mistake(
            "rounded down, step by step",
            wrong_filler(number="down"),
            "you round g/s down, so the larger steps come last. Round up: 7 gaps in 3 steps are 3, 2 and 2.",
            "integer division",
        ),
        Mistake(
            "the rest in the last step",
            wrong_filler(number="at least one"),
            "all steps are equal and the last one writes what is left, which may be many words at once. Spread them: "
            "g/s rounded up, with s steps left.",
            "a remainder left for the end",
        ),
        Mistake(
            "always the same number",
            wrong_filler(number="fixed"),
            "each step writes the same number, n/steps rounded up, so the last steps have nothing to do. Divide the "
            "gaps that are *left* by the steps that are left.",
            "a number computed once before the loop",
        ),
        Mistake(
            "one step too late",
            wrong_filler(number="one step late"),
            "you divide by one step too many, so a gap remains at the end. In the last step s is 1: all gaps left are "
            "written.",
            "range(steps) read as steps left",
        ),
        Mistake(
            "one number for the batch",
            wrong_filler(number="batch"),
            "the number of words a step comes from the text with the most gaps. Each text has its own: count over "
            "dimension 1.",
            "code for a batch of one prompt, used on several",
        ),
        Mistake(
            "steps words a step",
            wrong_filler(number="steps a step"),
            "each step writes `steps` words. `steps` is the number of steps, not of words.",
            "the two numbers exchanged",
        ),
        Mistake(
            "the nearest number",
            wrong_filler(number="nearest"),
            "you round g/s to the nearest number. Round up: 7 gaps in 3 steps are 3, 2 and 2.",
            "a reader's attempt: torch.round",
        ),
        Mistake(
            "the first text that is done",
            wrong_filler(number="first done"),
            "the loop ends as soon as *one* text is done. That text waits; the others go on.",
            "a reader's attempt: break unless every text has a gap",
        ),
        Mistake(
            "without this step",
            wrong_filler(number="without this one"),
            "you divide by the steps that come after this one. s counts this step too: it goes from `steps` down to 1.",
            "a reader's attempt: range(steps - 1, -1, -1)",
        ),
        Mistake(
            "one queue for the batch",
            wrong_filler(queue="batch"),
            "the positions of all texts stand in one queue. Each text has its own: rank along dimension 1, and take "
            "the number of each text.",
            "a reader's attempt: flatten().argsort()",
        ),
        Mistake(
            "left to chance",
            wrong_filler(number="chance"),
            "each gap is written with the probability 1/s, so the number is left to chance. Here it is fixed: g/s, "
            "rounded up.",
            "a reader's attempt: MDLM's sampler, arXiv:2406.07524, draws which gaps are written",
        ),
        Mistake(
            "repeats",
            wrong_filler(random="repeats"),
            'with order="random" a position can be chosen twice in a step, so that fewer words are written. Draw '
            "without replacement, by `torch.randperm` for example.",
            "a reader's attempt: torch.randint",
        ),
        Mistake(
            "one argsort",
            wrong_filler(queue="one argsort"),
            "one `argsort` gives the positions in their order; what you compare with the number of words is the "
            "*rank* of each position, the `argsort` of that `argsort`.",
            "a reader's attempt",
        ),
        Mistake(
            "written again",
            wrong_filler(again="rewritten"),
            "a word that was written in an earlier step is drawn again in a later one. What is written stays: look for "
            "the gaps anew in each step, `ids == tokenizer.mask_id`.",
            "https://github.com/ML-GSAI/LLaDA/issues/70 (what is masked again, and what is not)",
        ),
        Mistake(
            "chosen again although written",
            wrong_filler(again="all positions"),
            "positions that are written already are chosen again, as if they were still gaps, and some gaps are never "
            "filled. The gaps are those of the *current* text, not of the first one.",
            "a mask computed before the loop",
        ),
        Mistake(
            "from the right",
            wrong_filler(order="right"),
            'with order="left" you begin at the right end.',
            "argsort without descending, or with it where it should not be",
        ),
        Mistake(
            "whole columns",
            wrong_filler(left="columns"),
            'with order="left" all texts write the same columns. Each text begins with its own leftmost gaps.',
            "a reader's attempt: gaps.any(0)",
        ),
        *(
            Mistake(
                f"the likeliest word, {order}",
                wrong_filler(word=f"likeliest in {order}"),
                f'with order="{order}" you write the likeliest word. The order says where to write; the word is drawn.',
                source,
            )
            for order, source in (
                ("left", "a reader's attempt: a greedy decoder from the left"),
                ("surest", "a reader's attempt: Mask-Predict's rule, arXiv:1904.09324"),
            )
        ),
        Mistake(
            "the order is not used",
            wrong_filler(order="ignored"),
            "the positions come in random order whatever `order` says.",
            "an argument accepted and forgotten",
        ),
        Mistake(
            "the drawn word's probability",
            wrong_filler(surest="drawn"),
            'with order="surest" you look at the probability of the word that was *drawn*. That is order="drawn". The '
            "surest position is the one whose likeliest word has the largest probability, whatever is drawn there; "
            "section 7 shows what the difference does.",
            "https://github.com/ML-GSAI/LLaDA/blob/main/generate.py (low_confidence gathers p at the drawn word)",
        ),
        Mistake(
            "the least sure first",
            wrong_filler(surest="least"),
            'with order="surest" the least sure position comes first. Sort in descending order.',
            "https://github.com/ML-GSAI/LLaDA/issues/70 (is it low confidence or high confidence?)",
        ),
        Mistake(
            "the smallest entropy",
            wrong_filler(surest="entropy"),
            "you take the position with the smallest entropy. That is another measure of sureness: here the position "
            "whose single likeliest word has the largest probability comes first.",
            "https://github.com/kuleshov-group/mdlm/issues/35 (top confidence, entropy, margin)",
        ),
        Mistake(
            "the largest logit",
            wrong_filler(surest="logit"),
            "you compare logits of different positions. A logit says nothing alone: adding 5 to all logits of one "
            "changes no probability. Compare after the softmax.",
            "max over raw scores",
        ),
        Mistake(
            "specials may be the surest",
            wrong_filler(surest="specials"),
            "a position counts as sure because a *special token* is likely there, which can never be written. Leave "
            "the special tokens out before you look for the surest position.",
            "https://github.com/DreamLM/Dream/issues/51 (a high confidence of the end token)",
        ),
        Mistake(
            "not scaled to 1",
            wrong_filler(word="zeroed"),
            "without the special tokens the others' probabilities do not sum to 1: divide by their sum, or set the "
            "logits to −∞ before the softmax, before you compare positions.",
            "a reader's attempt: p[..., special_ids] = 0",
        ),
        Mistake(
            "the surest, not scaled to 1",
            wrong_filler(surest="beside specials"),
            'with order="surest" you compare probabilities beside those of the special tokens. Without these the '
            "others sum to 1: the probabilities that the words are drawn from.",
            "a reader's attempt: the largest probability taken from the first softmax",
        ),
        Mistake(
            "drawn means random",
            wrong_filler(drawn="random"),
            'with order="drawn" the positions come in random order. First come those whose drawn word has the largest '
            "probability.",
            "a reader's attempt: the last branch is the default",
        ),
        Mistake(
            "the least probable draw first",
            wrong_filler(drawn="least"),
            'with order="drawn" the least probable draw comes first. Sort in descending order.',
            "https://github.com/ML-GSAI/LLaDA/issues/70 (low confidence or high confidence?)",
        ),
        Mistake(
            "drawn means surest",
            wrong_filler(drawn="surest"),
            'with order="drawn" you compare the likeliest words. Draw a word for each gap first and compare the '
            "probabilities of these words.",
            "the two orders taken for one",
        ),
        Mistake(
            "drawn, then drawn again",
            wrong_filler(drawn="again"),
            'with order="drawn" the word that you write is not the one by which you chose the position: it was drawn '
            "again.",
            "https://github.com/ML-GSAI/LLaDA/issues/42 (noise in one of the two positions only)",
        ),
        Mistake(
            "one order for the batch",
            wrong_filler(random="one row"),
            'with order="random" all texts get the same order of positions. Each text has its own.',
            "torch.randperm once for the batch",
        ),
        Mistake(
            "random is left to right",
            wrong_filler(random="left"),
            'with order="random" the gaps come from the left.',
            "the first k positions of nonzero()",
        ),
        Mistake(
            "the temperature in one order only",
            wrong_filler(temperature="only random"),
            'the temperature is used with order="random" only. The logits are divided by it in every order.',
            "a reader's attempt: the division in one branch",
        ),
        *(
            Mistake(
                f"no temperature, {order}",
                wrong_filler(temperature=f"not {order}"),
                f'with order="{order}" the temperature changes nothing. The logits are divided by it in every order.',
                "a reader's attempt: the division in the other branches",
            )
            for order in ("left", "drawn")
        ),
        Mistake(
            "drawn before the temperature",
            wrong_filler(drawn="before"),
            'with order="drawn" you compare probabilities before the temperature. Here they are those that the words '
            "are drawn from.",
            "https://github.com/ML-GSAI/LLaDA/blob/main/generate.py (its confidence has no temperature)",
        ),
        Mistake(
            "surest and drawn before the temperature",
            wrong_filler(surest="before", drawn="before"),
            'you compare positions by probabilities before the temperature, with "surest" and with "drawn". Here they '
            "are those that the words are drawn from.",
            "https://github.com/ML-GSAI/LLaDA/blob/main/generate.py (its confidence has no temperature)",
        ),
        Mistake(
            "surest before the temperature",
            wrong_filler(surest="before"),
            'with order="surest" you judge the positions without the temperature. The probabilities are those that the '
            "words are drawn from.",
            "https://github.com/ML-GSAI/LLaDA/blob/main/generate.py (its confidence has no temperature)",
        ),
        Mistake(
            "times the temperature",
            wrong_filler(temperature="multiplied"),
            "you multiply the logits by the temperature. Divide: a low temperature makes the likely words likelier.",
            "https://github.com/bowang-lab/BLEEP/issues/5 (a similarity multiplied)",
        ),
        Mistake(
            "the temperature is not used",
            wrong_filler(temperature="ignored"),
            "the temperature changes nothing. Divide the *logits* by it, before the softmax.",
            "a temperature behind the softmax",
        ),
        Mistake(
            "the temperature twice",
            wrong_filler(temperature="twice"),
            "the temperature is applied twice. Divide the logits by it once.",
            "a reader's attempt",
        ),
        *(
            Mistake(
                f"no generator, {order}",
                wrong_filler(generator=f"not {order}"),
                f'with order="{order}" the words do not come from the generator.',
                "a reader's attempt: multinomial called without it in one branch",
            )
            for order in ("left", "surest", "drawn")
        ),
        Mistake(
            "no generator",
            wrong_filler(generator="ignored"),
            "the generator is not used, so nobody can draw the same text again. Pass it to each function that draws.",
            "multinomial called without it",
        ),
        Mistake(
            "a seed of its own",
            wrong_filler(generator="seeded"),
            "your function seeds a generator itself, so it writes the same text whatever generator it gets.",
            "manual_seed inside a function",
        ),
        Mistake(
            "positions without the generator",
            wrong_filler(random="global"),
            'the words come from the generator, but with order="random" the positions do not. `torch.rand` takes a '
            "generator too.",
            "torch.rand without it",
        ),
        Mistake(
            "the generator's seed",
            wrong_filler(generator="reseeded"),
            "you take the seed that the generator once had, not the generator, so that two calls with one generator "
            "write the same text. Pass the generator itself to each function that draws.",
            "a reader's attempt: torch.manual_seed(generator.initial_seed())",
        ),
        Mistake(
            "a fresh generator",
            wrong_filler(generator="fresh"),
            "without a generator two calls write the same text: a new `torch.Generator()` always begins alike. Pass "
            "None on to torch.",
            "a reader's attempt: generator or torch.Generator()",
        ),
        Mistake(
            "dropout on",
            wrong_filler(mode="dropout"),
            "a model in training mode writes with dropout. Switch to `model.eval()` and back.",
            "the usual forgotten eval()",
        ),
        Mistake(
            "left in eval mode",
            wrong_filler(mode="left"),
            "the model was in training mode and is not any more: whoever goes on training trains without dropout.",
            "eval() without a way back",
        ),
        Mistake(
            "always put into training mode",
            wrong_filler(mode="always"),
            "a model that came in eval mode leaves in training mode. Give it the mode back that it had.",
            "model.train() at the end in any case",
        ),
    ),
    hints=(
        "One step: `p = (model(ids)[gaps] / temperature)` with −∞ at the special ids, softmax, `torch.multinomial(p, "
        "1, generator=generator)`; G rows for G gaps of all texts.",
        "`for left in range(steps, 0, -1)` counts the steps left; `gaps.sum(1)` are the gaps left; `-(-g // left)` "
        "rounds up.",
        "Give each gap a score (a random number, minus its position, its largest probability), all others −∞. "
        "`scores.argsort(dim=1, descending=True).argsort(1)` is each position's number in the queue.",
        "A position is written now if its number in the queue is below the text's number of words for this step: "
        "`torch.where(now, ids.masked_scatter(gaps, drawn), ids)`.",
        '`training = getattr(model, "training", False)` before, `model.train()` afterwards if it was True.',
    ),
    praise="From gaps to a text, in any order, and nobody but the generator decides what is drawn.",
    other_ways=(fill_by_rows, fill_by_gumbel, fill_everywhere, wrong_filler()),
)

# --- 17.3 predict -----------------------------------------------------------------------------------------------------


def about_a_proportion(guess):
    """Return what is to be said of a proportion that is neither right nor one of the named mistakes."""
    guess = float(guess)
    if not 0 <= guess <= 1:
        return "A proportion is a number from 0 to 1; half of the draws would be 0.5."
    if abs(guess - 0.25) < 0.06:
        return "It is close: the exact number follows from two conditions."
    if guess > 0.25:
        return "It is too large: two things must fit at once."
    return "It is too small: each of the three verbs will do, and the number of the second person is free."


three_at_once = Prediction(
    id="17.3",
    right=0.25,
    tolerance=0.005,
    about=about_a_proportion,
    mistakes=(
        Mistake(
            "one",
            1.0,
            "each of the three distributions is perfect, and still they are drawn apart: nothing makes the verb agree "
            "with the subject that was drawn in the same moment.",
            "a perfect model taken for a perfect sampler; https://github.com/ML-GSAI/LLaDA/issues/75",
        ),
        Mistake(
            "agreement only",
            0.5,
            "half of the draws agree in number. What else must fit? Look at who may act on whom.",
            "the second condition overlooked",
        ),
        Mistake(
            "an eighth",
            0.125,
            "that is one condition too many. The number of the *other* person is free: the verb agrees with one of the "
            "two only.",
            "a factor of ½ for each of the three words",
        ),
        Mistake(
            "nothing",
            0.0,
            "the kitchen is visible, so all three words come from its topic, and often enough they fit by chance.",
            "the result for eleven gaps at once",
        ),
        Mistake(
            "the impossible ones",
            0.75,
            "three quarters of the draws are *not* possible. The question asks for those that are.",
            "a reader's attempt: the complement",
        ),
        Mistake(
            "the kind of the verb",
            1 / 12,
            "all three verbs fit, whoever acts: only the verb's number must agree. A factor of ⅓ is too much.",
            "a reader's attempt: one verb taken for the right one",
        ),
        Mistake(
            "both people's number",
            1 / 16,
            "these are four conditions of ½ each. There are two: the number of the other person is free, and nothing "
            "else must fit.",
            "a reader's attempt: a factor of ½ for each choice",
        ),
    ),
    hints=(
        "Which pairs of the three words must agree with each other, once the topic is known?",
        "The verb agrees in number with the first person. And the two people come from different groups, cooks or "
        "guests, since nobody of a group acts on another of it.",
        "Both conditions hold by chance with ½ each, and they have nothing to do with each other.",
    ),
    praise="Number and group each fit in half of the draws. It is a loss of drawing at once, not of the model.",
)

# --- 17.4 the joint distribution of two gaps --------------------------------------------------------------------------


class TwoGaps:
    """A model for texts of T tokens whose answers depend on what is written elsewhere."""

    def __init__(self, generator, V, T):
        self.table = torch.randn(V, T, V, generator=generator, dtype=torch.float64)

    def __call__(self, ids):
        x = sum(self.table[ids[:, t]].roll(t, 1) for t in range(ids.shape[1]))  # (B, T, V)
        return 0.8 * x

    def __deepcopy__(self, memo):
        return self


def two_gaps(generator):
    return TwoGaps(generator, 9, 5), torch.tensor([[CLS, MASK, 6, MASK, SEP]]), 1, 3


def other_gaps(generator):
    return TwoGaps(generator, 12, 6), torch.tensor([[CLS, 7, MASK, MASK, 6, SEP]]), 3, 2


def joint(model, ids, first, second):
    p = model(ids)[0, first].softmax(-1)  # (V,)
    texts = ids.repeat(len(p), 1)
    texts[:, first] = torch.arange(len(p))
    return p[:, None] * model(texts)[:, second].softmax(-1)  # (V, V)


def joint_by_the_word(model, ids, first, second):
    p = model(ids).softmax(-1)[0, first]
    rows = []
    for a in range(len(p)):
        text = ids.clone()
        text[0, first] = a
        rows.append(p[a] * torch.softmax(model(text)[0, second], 0))
    return torch.stack(rows)


def conditionals(model, ids, first, second):
    V = model(ids).shape[-1]
    texts = ids.repeat(V, 1)
    texts[:, first] = torch.arange(V)
    return model(texts)[:, second]


pair_probabilities = Exercise(
    id="17.4",
    right=joint,
    inputs=two_gaps,
    also=other_gaps,
    reads=lambda p: p.double() if isinstance(p, torch.Tensor) else p,  # the text asks for no dtype
    mistakes=(
        Mistake(
            "the product of the marginals",
            lambda model, ids, first, second: (
                model(ids)[0, first].softmax(-1)[:, None] * model(ids)[0, second].softmax(-1)
            ),
            "this multiplies the two answers to the *same* text, as drawing both at once does. The second word must be "
            "asked for with the first one written in, once for each first word.",
            "the conditional independence of parallel decoding, arXiv:2505.22618",
        ),
        Mistake(
            "the second given the first, alone",
            lambda model, ids, first, second: conditionals(model, ids, first, second).softmax(-1),
            "these are the probabilities of the second word *given* the first: each row sums to 1. Multiply row a by "
            "the probability of a.",
            "a conditional taken for a joint",
        ),
        Mistake(
            "transposed",
            lambda model, ids, first, second: joint(model, ids, first, second).T,
            "rows and columns are exchanged: entry [a, b] belongs to a at `first` and b at `second`.",
            "the order of two dimensions",
        ),
        Mistake(
            "the other order",
            lambda model, ids, first, second: joint(model, ids, second, first).T,
            "you ask for the second gap first. That is a joint distribution too, and for a trained model another one: "
            "here `first` is filled first.",
            "the arguments exchanged",
        ),
        Mistake(
            "columns",
            lambda model, ids, first, second: (
                model(ids)[0, first].softmax(-1)[:, None] * conditionals(model, ids, first, second).softmax(0)
            ),
            "your second softmax runs over the first word. For each first word the probabilities of the second sum to "
            "1: `softmax(-1)`.",
            "a softmax over the batch",
        ),
        Mistake(
            "logits",
            lambda model, ids, first, second: model(ids)[0, first][:, None] * conditionals(model, ids, first, second),
            "you multiply logits. Take the softmax of both first.",
            "a forgotten softmax",
        ),
        Mistake(
            "read at the first gap",
            lambda model, ids, first, second: (
                model(ids)[0, first].softmax(-1)[:, None]
                * model(_with_each(ids, first, model(ids).shape[-1]))[:, first].softmax(-1)
            ),
            "with the first word written in, you read the answer at `first` again. It is asked at `second`.",
            "an index copied",
        ),
        Mistake(
            "logarithms",
            lambda model, ids, first, second: joint(model, ids, first, second).log(),
            "these are the logarithms of the probabilities: `.exp()` is missing.",
            "a reader's attempt: log_softmax, added",
        ),
        Mistake(
            "the other order, not turned back",
            lambda model, ids, first, second: joint(model, ids, second, first),
            "you ask for the second gap first, and your rows belong to it. Here `first` is filled first, and entry [a, "
            "b] has a at `first`.",
            "a reader's attempt: the arguments exchanged",
        ),
        Mistake(
            "the first word without specials",
            lambda model, ids, first, second: _without_specials(joint, model, ids, first, second),
            "you leave the special tokens out of the first word's probabilities. All V tokens count here.",
            "a reader's attempt: the rule of the sampler kept",
        ),
        Mistake(
            "no specials",
            lambda model, ids, first, second: _without_specials(joint, model, ids, first, second, both=True),
            "you leave the special tokens out of both words' probabilities. All V tokens count here.",
            "a reader's attempt: the rule of the sampler kept",
        ),
        Mistake(
            "the probabilities in columns",
            lambda model, ids, first, second: (
                model(ids)[0, first].softmax(-1)[None] * conditionals(model, ids, first, second).softmax(-1)
            ),
            "your p multiplies the columns: entry [a, b] gets the probability of b as the *first* word. `p[:, None]` "
            "multiplies row a by p[a].",
            "a reader's attempt: broadcasting along the other dimension",
        ),
        Mistake(
            "written at the second gap",
            lambda model, ids, first, second: (
                model(ids)[0, first].softmax(-1)[:, None]
                * model(_with_each(ids, second, model(ids).shape[-1]))[:, second].softmax(-1)
            ),
            "you write the first word at `second`, where it tells the model nothing about that gap. It belongs at "
            "`first`.",
            "a reader's attempt: an index copied",
        ),
        Mistake(
            "the likeliest first word",
            lambda model, ids, first, second: (
                model(ids)[0, first].softmax(-1)[:, None]
                * conditionals(model, ids, first, second)[model(ids)[0, first].argmax()].softmax(-1)
            ),
            "the same first word, the likeliest, is written in for every row. Row a needs the text with a at `first`.",
            "a reader's attempt: argmax written in",
        ),
        Mistake(
            "logits as the second factor",
            lambda model, ids, first, second: (
                model(ids)[0, first].softmax(-1)[:, None] * conditionals(model, ids, first, second)
            ),
            "the second factor is not a probability: it is a logit. Take the softmax, as for the first.",
            "a reader's attempt: a forgotten softmax",
        ),
        Mistake(
            "exponentials of logits",
            lambda model, ids, first, second: (
                model(ids)[0, first].softmax(-1)[:, None] * conditionals(model, ids, first, second).exp()
            ),
            "the second factor is the exponential of a logit, and no probability until it is divided by the row's sum: "
            "softmax, or log_softmax before the exponential.",
            "a reader's attempt: logarithms added, one of them a logit",
        ),
        Mistake(
            "averaged over the first word",
            lambda model, ids, first, second: (
                model(ids)[0, first].softmax(-1)[:, None]
                * (model(ids)[0, first].softmax(-1) @ conditionals(model, ids, first, second).softmax(-1))
            ),
            "your second factor is averaged over the first word, the same in each row, so the two words are "
            "independent. Row a needs the probabilities *given* a.",
            "a reader's attempt: a matrix product in place of an elementwise one",
        ),
    ),
    hints=(
        "`p = model(ids)[0, first].softmax(-1)` are the probabilities of the first word, (V,).",
        "Make V copies of the text, the a-th with token a at `first`: `texts = ids.repeat(V, 1)`, then "
        "`texts[:, first] = torch.arange(V)`.",
        "One call answers all of them: `model(texts)[:, second].softmax(-1)`, (V, V). Multiply row a by p[a].",
    ),
    praise="The chain rule for two gaps: first one, then the other with the first in sight.",
    other_ways=(joint_by_the_word,),
)


def _with_each(ids, position, V):
    texts = ids.repeat(V, 1)
    texts[:, position] = torch.arange(V)
    return texts


def _without_specials(joint, model, ids, first, second, both=False):
    p = joint(model, ids, first, second)
    p = p * (torch.arange(len(p)) >= FIRST)[:, None]
    if both:  # and each row's sum stays the same
        kept = p * (torch.arange(len(p)) >= FIRST)
        p = kept / kept.sum(1, keepdim=True).clamp(min=1e-300) * p.sum(1, keepdim=True)
    return p / p.sum()


# --- 17.5 find the bug: noise in low precision ------------------------------------------------------------------------

DRAWS, V5, KINDS = 4000, 300, 8
PAIR, MIXED = [0.881, 0.119], [0.2] + [0.1] * 4 + [0.05] * 8
LIKELY = [PAIR] * 6 + [MIXED] * 2  # of the words of each kind of odd rows; its words begin at 1, 14, 27 …
SPAN = len(MIXED)


def two_sorts_of_rows(V, dtype):
    """Return logits (DRAWS, V). Even rows: word 0 has ½, the others share the rest. Odd rows: a few likely words."""
    logits = torch.full((DRAWS, V), -30.0)
    logits[::2] = -math.log(V - 1)
    logits[::2, 0] = 0.0
    for kind, p in enumerate(LIKELY):
        logits[1 + 2 * kind :: 2 * KINDS, 1 + SPAN * kind :][:, : len(p)] = torch.tensor(p).log()
    return logits.to(dtype)


def half_precision(generator):
    return two_sorts_of_rows(V5, torch.bfloat16), int(torch.randint(10_000, (), generator=generator))


def another_precision(generator):
    return two_sorts_of_rows(V5 - 20, torch.float16), int(torch.randint(10_000, (), generator=generator))


def chances(cdf, p, counts):
    """Return how often a word of each class is drawn, for counts of words with the probability p and this noise."""
    x = torch.linspace(-40, 40, 40_001, dtype=torch.float64)[:, None]
    below = cdf(x - torch.tensor(p, dtype=torch.float64).log())  # (points, classes): this word stays below x
    middle, n = (below[1:] + below[:-1]) / 2, torch.tensor(counts)
    others = (middle[:, None] ** (n - torch.eye(len(n)))).prod(-1)  # and so do all words but one of this class
    return (n * (below[1:] - below[:-1]) * others).sum(0).tolist()


GUMBEL, HALF_OF_IT = "Gumbel noise", "Gumbel noise, half as large"
NOISES = {  # name -> distribution function
    GUMBEL: lambda x: (-(-x).exp()).exp(),
    HALF_OF_IT: lambda x: (-(-2 * x).exp()).exp(),
    "Gumbel noise with the sign turned around": lambda x: 1 - (-x.exp()).exp(),
    "exponential noise": lambda x: 1 - (-x.clamp(min=0)).exp(),
    "normal noise": torch.special.ndtr,
    "uniform noise": lambda x: x.clamp(0, 1),
}


@cache
def laws():
    """Return for each noise how often it draws word 0, the second word of a pair, and a word of each class of MIXED."""
    return {
        name: (
            *chances(cdf, [0.5, 0.5 / (V5 - 1)], [1, V5 - 1])[:1],
            *chances(cdf, PAIR, [1, 1])[1:],
            *chances(cdf, [0.2, 0.1, 0.05], [1, 4, 8]),
        )
        for name, cdf in NOISES.items()
    }


def follows(shares, law, sizes):
    """Return whether each proportion is within five standard errors of the law's, and of rounded logits."""
    allowed = [5 * math.sqrt(p * (1 - p) / n) + 0.006 for p, n in zip(law, sizes, strict=True)]
    return [abs(share - p) < most for share, p, most in zip(shares, law, allowed, strict=True)]


def distance(shares, law, sizes):
    """Return the sum of the squared differences, each in standard errors of the law."""
    return sum((a - p) ** 2 * n / max(p * (1 - p), 1e-4) for a, p, n in zip(shares, law, sizes, strict=True))


def whose_draws(drawn):
    """Return what the draws of `two_sorts_of_rows` look like, in words; Fault if they are no words' numbers."""
    if not isinstance(drawn, torch.Tensor) or drawn.shape != (DRAWS,) or drawn.dtype != torch.int64:
        kind = f"{tuple(drawn.shape)} of {drawn.dtype}" if isinstance(drawn, torch.Tensor) else type(drawn).__name__
        raise Fault(f"the result is {kind}; expected one word's number a row, ({DRAWS},) of torch.int64.")
    even, odd = drawn[::2], drawn[1::2]
    kind = torch.arange(len(odd)) % KINDS
    word = odd - 1 - SPAN * kind  # 0 is the likeliest
    pair, mixed = kind < 6, kind >= 6
    if len(even.unique()) == 1 and all(len(word[kind == k].unique()) == 1 for k in range(KINDS)):
        return "the likeliest word of each row" if not even.any() and not word.any() else "one draw for all rows alike"
    foreign = (word < 0) | (word >= torch.where(pair, len(PAIR), SPAN))
    classes = ((word == 0), (word > 0) & (word < 5), (word >= 5) & (word < SPAN))
    own = [(word[pair & ~foreign] == 1).double().mean().item()]  # nan if there are none
    own += [c[mixed & ~foreign].double().mean().item() for c in classes]
    head, strange = (even == 0).double().mean().item(), foreign.double().mean().item()
    sizes = (len(even), *[int((pair & ~foreign).sum())], *[int((mixed & ~foreign).sum())] * 3)
    fine = follows((head, *own), laws()[GUMBEL], [max(n, 1) for n in sizes])
    if strange > 0.9 and (odd == 0).double().mean() > 0.4 and fine[0]:
        return "the words of one row's probabilities in all rows"
    if strange > 0.9 and head < 0.1:
        return "all words about equally often"
    if 0.05 < strange and all(fine[1:]):
        return "words that are next to impossible"
    if strange < 0.01 and all(fine):
        rare = even[even > 0]
        expected = (V5 - 21) * (1 - math.exp(-len(rare) / (V5 - 1)))  # different words among so many draws
        return "all as probable as they are" if len(rare.unique()) > 0.75 * expected else "some rare words never"
    nearest = min(laws(), key=lambda name: distance(own, laws()[name][1:], sizes[1:]))
    if strange < 0.01 and nearest == GUMBEL and all(fine[1:]) and head > 0.5:
        return "no rare word at all" if head == 1 else "rare words too rarely, the others right"
    near = [name for name, law in laws().items() if all(follows((head, *own), law, sizes))]
    if near:
        return min(near, key=lambda name: distance((head, *own), laws()[name], sizes))
    return f"word 0 in {head:.0%} of the rows in which it has ½"


def draw_right(logits, seed):
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    return (logits.double() - (-u.log()).log()).argmax(-1)


def draw_by_multinomial(logits, seed):
    p = logits.float().softmax(-1)
    return torch.multinomial(p, 1, generator=torch.Generator().manual_seed(seed))[:, 0]


def draw_by_exponentials(logits, seed):
    generator = torch.Generator().manual_seed(seed)
    waits = torch.empty(logits.shape, dtype=torch.float64).exponential_(generator=generator)
    return (logits.double().softmax(-1) / waits).argmax(-1)


def draw_by_sums(dtype):
    """Return a draw_words that finds where a uniform number falls among the cumulative sums."""

    def draw_words(logits, seed):
        generator = torch.Generator().manual_seed(seed)
        sums = (logits if dtype is None else logits.to(dtype)).softmax(-1).cumsum(-1)
        u = torch.rand(len(sums), 1, generator=generator, dtype=sums.dtype) * sums[:, -1:]
        return torch.searchsorted(sums, u, right=True)[:, 0].clamp(max=logits.shape[1] - 1)

    return draw_words


def gumbel(u):
    return -(-u.log()).log()


def draw_with(noise=gumbel, uniform=torch.float64, cast=None, alike=False, scores=lambda logits: logits):
    """Return a draw_words with noise from a uniform number of this dtype (None: the logits'), cast to another."""

    def draw_words(logits, seed):
        generator = torch.Generator().manual_seed(seed)
        shape = logits.shape[1:] if alike else logits.shape
        u = torch.rand(shape, generator=generator, dtype=uniform or logits.dtype)
        if cast is None:
            return (scores(logits.to(u.dtype)) + noise(u)).argmax(-1)
        return (logits + noise(u.to(logits.dtype))).argmax(-1)

    return draw_words


def draw_the_frequent(logits, seed):
    p = logits.double().softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(p.masked_fill(p < 0.005, 0.0), 1, generator=generator)[:, 0]


def draw_from_the_first_row(logits, seed):
    p = logits[0].double().softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(p, len(logits), replacement=True, generator=generator)


MANY_WORDS, FEW_ROWS = 30_000, 200


def seed_and_rare_words(answer, case):
    """Return what is wrong with the seed, or with words that are rarer than those of the inputs."""
    logits, seed = case
    first = answer(logits, seed)
    torch.rand(1)  # somebody else draws
    if not torch.equal(first, answer(logits, seed)):
        return "the same seed gives other words each time. Pass a generator with this seed to each function that draws."
    if torch.equal(first, answer(logits, seed + 1)):
        return "another seed gives the same words: your function does not use its argument `seed`."
    if logits.dtype == torch.float16:  # once is enough
        many = torch.full((FEW_ROWS, MANY_WORDS + 1), -math.log(MANY_WORDS))
        many[:, 0] = 0.0
        share = (answer(many.to(torch.bfloat16), seed) == 0).double().mean().item()
        if abs(share - 0.5) > 5 * 0.5 / math.sqrt(FEW_ROWS):
            return (
                f"where {MANY_WORDS:,} rare words share the half, word 0 comes in {100 * share:.0f} % of the draws. "
                "Your noise cannot get large enough for a rare word: draw it in float64, and cut nothing off."
            )
    return None


draw_words = Exercise(
    id="17.5",
    right=draw_right,
    inputs=half_precision,
    also=another_precision,
    reads=whose_draws,
    limit=seed_and_rare_words,
    mistakes=(
        Mistake(
            "still low precision",
            draw_with(uniform=None),
            "frequent words come as often as they should, rare ones too rarely. Print the largest value of your noise: "
            "it must be able to make up for what the logit of a rare word lacks.",
            "arXiv:2409.02908; one version of llada/generate.py in RohitNagraj/Fast-dLLM draws the noise in float16",
        ),
        Mistake(
            "no noise",
            lambda logits, seed: logits.argmax(-1),
            "you take the likeliest word of each row: nothing is drawn. Each word of a row needs noise of its own.",
            "the temperature 0 of LLaDA's generate.py",
        ),
        Mistake(
            "the noise with the wrong sign",
            draw_with(lambda u: (-u.log()).log()),
            "the sign of the noise is turned around: now rare words hardly ever win. Gumbel noise is −ln(−ln u), with "
            "a long tail to large values, and it is added.",
            "https://github.com/chainer/chainerrl/pull/104 (the sign in the Gumbel-max trick)",
        ),
        Mistake(
            "one logarithm",
            draw_with(lambda u: -u.log()),
            "this is exponential noise, −ln u. Gumbel noise has two logarithms: −ln(−ln u).",
            "a reader's attempt",
        ),
        Mistake(
            "normal noise",
            draw_with(lambda u: torch.special.ndtri(u.clamp(min=1e-12))),
            "this is normal noise. The largest sum is a draw from the softmax with Gumbel noise only, −ln(−ln u).",
            "a reader's attempt: torch.randn in place of torch.rand",
        ),
        Mistake(
            "uniform noise",
            draw_with(lambda u: u),
            "this is uniform noise, u itself: it can never make up for more than 1. Gumbel noise is −ln(−ln u).",
            "a reader's attempt",
        ),
        Mistake(
            "half of the noise",
            draw_with(scores=lambda logits: 2 * logits),
            "your logits are multiplied by 2, as a temperature of ½ does: rare words come too rarely everywhere.",
            "a reader's attempt: the sharper texts kept",
        ),
        Mistake(
            "rare words cut off",
            draw_the_frequent,
            "frequent words come as often as they should, and rare words never. Leave out nothing: together they have "
            "half of the probability.",
            "a reader's attempt: probabilities below 0.005 set to 0, as in top-k sampling",
        ),
        Mistake(
            "infinite noise",
            draw_with(cast="low"),
            "words come that are next to impossible: their noise is infinite. A u close to 1 becomes exactly 1 when it "
            "is rounded to low precision, and −ln(−ln 1) = ∞. Keep u in float64.",
            "a reader's attempt: u drawn in float64, then cast to the dtype of the logits",
        ),
        Mistake(
            "one noise for all rows",
            draw_with(alike=True),
            "all rows with equal logits get the same word. Each row needs noise of its own: `torch.rand(logits.shape, "
            "…)`.",
            "a reader's attempt: torch.rand(logits.shape[-1])",
        ),
        Mistake(
            "noise on probabilities",
            draw_with(scores=lambda logits: logits.softmax(-1)),
            "all words come about equally often. The noise is added to the logits; probabilities differ by less than "
            "1, which is little beside the noise.",
            "a reader's attempt: a softmax before the noise is added",
        ),
        Mistake(
            "the first row for all",
            draw_from_the_first_row,
            "each row gets a draw from the probabilities of the same row. Draw each row from its own logits.",
            "a reader's attempt: torch.multinomial(p[0], N, replacement=True)",
        ),
        Mistake(
            "sums in low precision",
            draw_by_sums(None),
            "some rare words never come, others too often: their probabilities vanish in a sum of low precision. Turn "
            "the logits into float64 first.",
            "a reader's attempt: an inverse distribution function in bfloat16",
        ),
    ),
    hints=(
        "Print the largest value of the noise for 4,000 · 300 numbers, once in `torch.bfloat16`, once in "
        "`torch.float64`.",
        "Numbers from `torch.rand` are multiples of 2⁻⁸ in bfloat16, so none lies between 1 − 2⁻⁸ and 1, where large "
        "noise comes from.",
        "Draw the noise in float64, and add it to logits in float64.",
    ),
    praise="Rare words come as often as they should, and the same seed draws them again.",
    other_ways=(
        draw_by_multinomial,
        draw_by_exponentials,
        draw_by_sums(torch.float64),
        draw_with(uniform=torch.float32),
    ),
)
