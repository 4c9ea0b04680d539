"""The checks of lesson 17, Writing with a masked model."""

import math

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
    hint,
    mine,
    solution,
    untouched,
)
from nextbert_lite.core.diffusion import diffusion_loss as courses_loss
from nextbert_lite.core.diffusion import fill_gaps as courses_sampler
from nextbert_lite.training.tokenizer import word_level

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


EIGHT, TWENTY = tokenizer_of(8), tokenizer_of(20)

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


def places(ids, *chosen):
    hidden = torch.zeros(ids.shape, dtype=torch.bool)
    for row, where in enumerate(chosen):
        hidden[row, list(where)] = True
    return hidden


HIDDEN = ((1,), (1, 3, 5), (1, 2, 3), (2, 6))  # of the texts of 2, 5, 3 and 6 words


def asked(answer, model, ids, hidden, tokenizer, rates=None):
    loss = untouched(lambda i, h, r: answer(model, i, h, tokenizer, r), ids, hidden, rates)
    if isinstance(loss, torch.Tensor) and loss.ndim:
        raise Fault(f"the result has the shape {tuple(loss.shape)}; expected one number for the batch, a scalar.")
    return loss


def equal_texts(answer, generator):
    ids = F.pad(some_texts(generator, 13, [5, 5]), (0, 1), value=PAD)
    return asked(answer, Mixer(generator, 13), ids, places(ids, (2, 5), (1, 2)), EIGHT)


def several_texts(answer, generator):
    ids = some_texts(generator, 13, [2, 5, 3, 6])
    return asked(answer, Mixer(generator, 13), ids, places(ids, *HIDDEN), EIGHT)


def with_rates(answer, generator):
    ids = some_texts(generator, 13, [2, 5, 3, 6])
    rates = torch.tensor([0.9, 0.5, 0.7, 0.1], dtype=torch.float64)
    none = places(ids, (), (1, 3), (), (5,))
    model = Mixer(generator, 13)
    return asked(answer, model, ids, places(ids, *HIDDEN), EIGHT, rates), asked(answer, model, ids, none, EIGHT, rates)


def other_sizes(answer, generator):
    ids = some_texts(generator, 25, [7, 4])
    return asked(answer, Mixer(generator, 25), ids, places(ids, (1, 4, 7), (2,)), TWENTY)


def loss_gradients(answer, generator):
    ids = some_texts(generator, 13, [2, 5, 3, 6])
    model = Mixer(generator, 13)
    loss = asked(answer, model, ids, places(ids, *HIDDEN), EIGHT)
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        raise Fault(
            "no gradient comes back from the loss: keep it a tensor, without `.item()`, `.detach()`, `no_grad`."
        )
    if model.asked != 1:
        raise Fault(f"the model was called {model.asked} times for one batch. Once is enough, with all texts.")
    return torch.autograd.grad(loss, tuple(model.parameters()))


def wrong_diffusion(**switches):
    """Return a diffusion_loss that a learner may write; its switches are the mistakes."""
    switch = dict.fromkeys("weights n over seen at rates stopped".split()) | switches

    def diffusion_loss(model, ids, hidden, tokenizer, rates=None):
        words = ~torch.isin(ids, torch.tensor(tokenizer.special_ids))
        seen = ids if switch["seen"] == "whole" else ids.masked_fill(hidden, tokenizer.mask_id)
        logits = model(seen)
        if switch["stopped"]:
            logits = logits.detach()
        labels = seen if switch["seen"] == "labels" else ids
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # (B, T)
        at = {"all": words, "visible": words & ~hidden}.get(switch["at"], hidden)
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
        }
        if switch["over"] == "each":
            return (total / words.sum(1)).mean()
        return total.sum() / divide.get(switch["over"], words.sum())

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


diffusion_loss = Build(
    id="17.1",
    course=courses_loss,
    stages=(
        Stage("two texts of equal length", equal_texts),
        Stage("several texts", several_texts),
        Stage("rates", with_rates),
        Stage(OTHER_SIZES, other_sizes),
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
            "your weight is turned around: k/n (or t) in place of n/k (or 1/t). Few hidden words must count *more*.",
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
            "you divide by all B · T places. Padding, [CLS] and [SEP] are no words; divide by the words.",
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
            "the loss of all words",
            wrong_diffusion(at="all"),
            "you add up the losses of the visible words too. They cost nearly nothing to guess, and the bound has only "
            "hidden words in its sum.",
            "https://github.com/huggingface/transformers/issues/2759 (which tokens count in the loss)",
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
            "specials in the divisor",
            wrong_diffusion(over="specials"),
            "you divide by a number that counts [CLS] and [SEP] too. They are no words: nothing is asked of them.",
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
            "no gradient",
            wrong_diffusion(stopped=True),
            "the logits were detached, so nothing can learn from this loss.",
            "torch.no_grad or detach copied from an evaluation",
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
    other_ways=(loss_by_rows, loss_by_einsum, wrong_diffusion()),
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
    """Return the name of the law whose proportion, one number, the booleans follow."""
    share, N = first.double().mean().item(), len(first)
    for name, p in laws.items():
        if abs(share - p) <= 5 * math.sqrt(p * (1 - p) / N) + 1e-9:
            return name
    return "another proportion"


def written(answer, model, ids, steps, generator=None, tokenizer=EIGHT, **more):
    generator = torch.Generator().manual_seed(5) if generator is None else generator
    whole = untouched(lambda i: answer(model, i, tokenizer, steps, generator=generator, **more), ids)
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
    }
    return law(whole[:, 1], {k: v.double() for k, v in laws.items()})


def what_stays(answer, generator):
    table = logits_of([[0.5, 0.5]] * 7)
    ids = F.pad(row_of(MASK, 7, MASK, 12), (0, 1), value=PAD)
    whole = written(answer, Speaker(table), ids, 2)
    gaps = ids == MASK
    kept = "kept" if (whole == ids)[~gaps].all() else "changed"
    alike = proportion(whole[:, 1] == whole[:, 3], {"drawn apart": 0.5, "one draw for all gaps": 1.0})
    return f"what stood there is {kept}", alike


def in_steps(answer, generator):
    results = []
    for gaps, steps in (((7, 4, 1), 3), ((5, 2, 6), 6), ((6, 3, 8), 1), ((3, 3, 3), 5)):
        T = max(gaps)
        ids = torch.tensor([[CLS, *[MASK] * g, *[6] * (T - g), SEP] for g in gaps])
        model = Speaker(logits_of([[0.4, 0.3, 0.3]] * (T + 2)))
        whole = written(answer, model, ids, steps)
        states = [s for s in model.seen if (s == MASK).any()] + [whole]
        again = any(((a != MASK) & (a != b)).any() for a, b in zip(states, states[1:], strict=False))
        if len(model.seen) > steps:
            raise Fault(f"the model was called {len(model.seen)} times in {steps} steps. Call it once a step.")
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
    ids = torch.tensor([[CLS, MASK, 6, MASK, MASK, MASK, 7, MASK, SEP], [CLS, 6, MASK, MASK, 6, MASK, MASK, MASK, SEP]])
    model = Speaker(logits_of([[0.3, 0.3, 0.4]] * 9))
    found = model.order(written(answer, model, ids, 3, order="left"))
    expected = torch.tensor([[0, 1, 0, 1, 2, 2, 0, 3, 0], [0, 0, 1, 1, 0, 2, 2, 3, 0]])
    if torch.equal(found, expected):
        return "from the left"
    from_right = torch.tensor([[0, 3, 0, 2, 2, 1, 0, 1, 0], [0, 0, 3, 2, 0, 2, 1, 1, 0]])
    return "from the right" if torch.equal(found, from_right) else "another order"


def two_places(answer, at_one, at_three, order, shift=0, loud=-30.0, temperature=1.0):
    """Return whether position 3 was written before position 1, (MANY,), and the words of position 3."""
    table = logits_of([[1.0], at_one, [1.0], at_three, [1.0]])
    table[1, :FIRST] = loud
    if shift:
        table[shift] += 5
    model = Speaker(table)
    options = {} if temperature == 1.0 else {"temperature": temperature}
    whole = written(answer, model, row_of(MASK, 9, MASK), 2, order=order, **options)
    steps = model.order(whole)
    return steps[:, 3] < steps[:, 1], whole[:, 3]


FLAT, SHARP, WIDE = [0.5, 0.5], [0.9, 0.1], [0.7, 0.1, 0.1, 0.1]


def how_often(answer, order):
    shares = {"always": 1.0, "never": 0.0, "in 0.7": 0.7, "in 0.9": 0.9, "in 0.1": 0.1, "in 0.5": 0.5}
    a, words = two_places(answer, FLAT, WIDE, order, shift=1)
    b, _ = two_places(answer, FLAT, SHARP, order, loud=3.0)
    c, _ = two_places(answer, SHARP, FLAT, order, shift=3)
    names = "position 3 before position 1: " + ", ".join(proportion(x, shares) for x in (a, b, c))
    first = words[a] if a.any() else words
    return names, "its likeliest word" if (first == FIRST).all() else "any word of it"


def surest(answer, generator):
    return how_often(answer, "surest")[:1]


def surest_and_drawn(answer, generator):
    return *surest(answer, generator), *how_often(answer, "drawn")


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
    for temperature in (2.0, 0.5):
        table = logits_of([p.tolist()] * 3)
        whole = written(answer, Speaker(table), row_of(MASK), 1, temperature=temperature)
        laws = {
            "divided": p ** (1 / temperature),
            "multiplied": p**temperature,
            "not used": p,
            "softmax of the probabilities": (p / temperature).exp(),
        }
        found.append(law(whole[:, 1], {name: q / q.sum() for name, q in laws.items()}, first=FIRST))
    five = [0.45] + [0.11] * 5  # at a temperature of 0.5 its likeliest word has 0.77
    first, _ = two_places(answer, FLAT, five, "surest", temperature=0.5)
    return *found, f"surest at 0.5: position 3 {proportion(first, {'first': 1.0, 'last': 0.0})}"


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
    for order in ("random", "drawn"):
        runs = []
        for seed in (3, 3, 4):
            model.seen = []
            whole = written(answer, model, ids, 3, torch.Generator().manual_seed(seed), order=order)
            runs.append((whole, model.order(whole)))
            torch.rand(1)  # torch's own generator goes on in between
        same = all(map(torch.equal, runs[0], runs[1]))
        found.append("one state, one result" if same else "one state, two results")
        found.append("two states, one result" if torch.equal(runs[0][0], runs[2][0]) else "two states, two results")
    torch.set_rng_state(state)
    answer(model, ids, EIGHT, 2)  # without a generator
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
    keys = "word kept number again order surest drawn random temperature generator mode".split()
    switch = dict.fromkeys(keys) | switches

    def fill_gaps(model, ids, tokenizer, steps, order="random", temperature=1.0, generator=None):
        ids = ids.clone()
        start, special = ids == tokenizer.mask_id, list(tokenizer.special_ids)
        training = getattr(model, "training", False)
        if training and switch["mode"] != "dropout":
            model.eval()
        if switch["generator"] == "seeded":
            generator = torch.Generator().manual_seed(0)
        elif switch["generator"] == "ignored":
            generator = None
        total = start.sum(1)
        for left in range(steps, 0, -1):
            gaps = start if switch["again"] == "all positions" else ids == tokenizer.mask_id
            if not (ids == tokenizer.mask_id).any() and switch["again"] != "all positions":
                break
            logits = model(ids).double()
            plain = logits.clone()
            if switch["temperature"] == "multiplied":
                logits = logits * temperature
            elif switch["temperature"] != "ignored":
                logits = logits / temperature
            if switch["word"] == "only mask":
                logits[..., tokenizer.mask_id] = -torch.inf
            elif switch["word"] == "zero":
                logits[..., special] = 0.0
            elif switch["word"] != "specials":
                logits[..., special] = -torch.inf
            p = logits.softmax(-1)
            flat = p.flatten(0, 1)
            drawn = torch.multinomial(flat, 1, generator=generator).view(ids.shape)
            if switch["word"] == "argmax":
                drawn = p.argmax(-1)
            elif switch["word"] == "uniform":
                words = torch.ones_like(flat)
                words[:, special] = 0
                drawn = torch.multinomial(words, 1, generator=generator).view(ids.shape)
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
            elif switch["surest"] == "before":
                allowed = plain.clone()
                allowed[..., special] = -torch.inf
                best = allowed.softmax(-1).amax(-1)
            own = p.gather(2, drawn[..., None])[..., 0]
            if switch["surest"] == "drawn":
                best = own
            if switch["drawn"] == "surest":
                own = best
            rand = torch.rand(ids.shape, generator=None if switch["random"] == "global" else generator)
            if switch["random"] == "one row":
                rand = rand[:1].expand(ids.shape)
            if switch["random"] == "left":
                rand = -torch.arange(ids.shape[1]).expand(ids.shape)
            spots = -torch.arange(ids.shape[1]).expand(ids.shape).double()
            if switch["order"] == "right":
                spots = -spots
            scores = {"random": rand.double(), "left": spots, "surest": best, "drawn": own}[order]
            if switch["order"] == "ignored":
                scores = rand.double()
            queue = scores.masked_fill(~gaps, -torch.inf).argsort(1, descending=True).argsort(1)
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
            now = gaps & (queue < count[:, None])
            if switch["drawn"] == "again":
                drawn = torch.multinomial(flat, 1, generator=generator).view(ids.shape)
            ids = torch.where(now, drawn, ids)
            if switch["again"] == "rewritten":
                ids = torch.where(start & (ids != tokenizer.mask_id), drawn, ids)
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


fill_gaps = Build(
    id="17.2",
    course=courses_sampler,
    stages=(
        Stage("one gap", one_gap),
        Stage("what stays", what_stays),
        Stage("steps", in_steps),
        Stage("it looks again", looks_again),
        Stage("left to right", from_the_left),
        Stage("the surest", surest_and_drawn),
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
            "you take the position with the smallest entropy. That is another measure of sureness (Dream offers it): "
            "here the position whose single likeliest word has the largest probability comes first.",
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
            "the special tokens out before you look for the surest place.",
            "https://github.com/DreamLM/Dream/issues/51 (a high confidence of the end token)",
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
            'with order="random" all texts get the same order of places. Each text has its own.',
            "torch.randperm once for the batch",
        ),
        Mistake(
            "random is left to right",
            wrong_filler(random="left"),
            'with order="random" the gaps come from the left.',
            "the first k positions of nonzero()",
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
            "the temperature changes nothing. It divides the *logits*; dividing the probabilities has no effect, since "
            "they are scaled to 1 again.",
            "a temperature behind the softmax",
        ),
        Mistake(
            "surest before the temperature",
            wrong_filler(surest="before"),
            'with order="surest" you judge the positions without the temperature. The probabilities are those that the '
            "words are drawn from.",
            "https://github.com/ML-GSAI/LLaDA/blob/main/generate.py (its confidence has no temperature)",
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
    other_ways=(fill_by_rows, fill_by_gumbel, wrong_filler()),
)

# --- 17.3 predict -----------------------------------------------------------------------------------------------------

three_at_once = Prediction(
    id="17.3",
    right=0.25,
    tolerance=0.005,
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


# --- 17.5 find the bug: noise in low precision ------------------------------------------------------------------------

DRAWS = 4000


def heavy_head(V, dtype):
    """Return logits (DRAWS, V): word 0 has the probability ½, the others share the other half equally."""
    logits = torch.full((DRAWS, V), -math.log(V - 1))
    logits[:, 0] = 0.0
    return logits.to(dtype)


def half_precision(generator):
    return heavy_head(300, torch.bfloat16), int(torch.randint(10_000, (), generator=generator))


def another_precision(generator):
    return heavy_head(120, torch.float16), int(torch.randint(10_000, (), generator=generator))


def how_often_the_head(drawn):
    """Return what the draws of `heavy_head` look like, in words."""
    if not isinstance(drawn, torch.Tensor) or drawn.shape != (DRAWS,) or drawn.dtype != torch.int64:
        kind = f"{tuple(drawn.shape)}, {drawn.dtype}" if isinstance(drawn, torch.Tensor) else type(drawn).__name__
        return f"a result of the kind {kind}; one word's number a row, ({DRAWS},) of torch.int64, is asked for"
    share = (drawn == 0).double().mean().item()
    tail = len(drawn[drawn > 0].unique())
    kinds = {
        "word 0 in half of the draws, as its probability says": abs(share - 0.5) < 5 * 0.5 / math.sqrt(DRAWS),
        "word 0 in every draw": share == 1,
        "word 0 never": share == 0,
        "word 0 in nearly every draw": share > 0.93,
        "word 0 in too many draws": share > 0.5,
    }
    name = next((name for name, holds in kinds.items() if holds), "word 0 in too few draws")
    return name if share > 0.93 or share == 0 or tail > 60 else f"{name}, and only some of the others"


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


def draw_in(dtype_of_noise, cast=None, sign=1, logs=2):
    def draw_words(logits, seed):
        generator = torch.Generator().manual_seed(seed)
        kind = logits.dtype if dtype_of_noise is None else dtype_of_noise
        u = torch.rand(logits.shape, generator=generator, dtype=kind)
        if cast is not None:
            u, logits = u.to(cast), logits.to(cast)
        noise = -(-u.log()).log() if logs == 2 else u.log()
        return (logits + sign * noise).argmax(-1)

    return draw_words


def drawn_by_the_seed(answer, case):
    """Return what is wrong with the seed: other words for the same one, or the same words for another one."""
    logits, seed = case
    first = answer(logits, seed)
    torch.rand(1)  # somebody else draws
    if not torch.equal(first, answer(logits, seed)):
        return "the same seed gives other words each time. Pass a generator with this seed to each function that draws."
    if torch.equal(first, answer(logits, seed + 1)):
        return "another seed gives the same words: your function does not use its argument `seed`."
    return None


draw_words = Exercise(
    id="17.5",
    right=draw_right,
    inputs=half_precision,
    also=another_precision,
    reads=how_often_the_head,
    limit=drawn_by_the_seed,
    mistakes=(
        Mistake(
            "still low precision",
            draw_in(None),
            "the rare words are still too rare. Ask how large the noise of a word can get at most, and how large it "
            "must be for a rare word to win.",
            "arXiv:2409.02908; one version of llada/generate.py in RohitNagraj/Fast-dLLM draws the noise in float16",
        ),
        Mistake(
            "no noise",
            lambda logits, seed: logits.argmax(-1),
            "you take the likeliest word: nothing is drawn any more.",
            "the temperature 0 of LLaDA's generate.py",
        ),
        Mistake(
            "the noise with the wrong sign",
            draw_in(torch.float64, torch.float64, sign=-1),
            "the sign of the noise is turned around: now rare words win hardly ever. Gumbel noise is −ln(−ln u), with "
            "a long tail to large values, and it is added.",
            "https://github.com/chainer/chainerrl/pull/104 (the sign in the Gumbel-max trick)",
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
    other_ways=(draw_by_multinomial, draw_by_exponentials),
)
