"""The checks of lesson 05, Masking."""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

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
    with_weights,
)
from nextbert_lite.core.encoder import ACTIVATIONS, Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel, MLMHead
from nextbert_lite.core.masking import mask_tokens as courses_mask_tokens

__all__ = [
    "exact_count",
    "hint",
    "mask_tokens",
    "masked_language_model",
    "mine",
    "selected_loss",
    "solution",
    "start_loss",
]

PAD, UNK, MASK, FIRST = 0, 1, 4, 5  # [PAD], [UNK], [MASK] and the first ordinary word
IGNORE = -100

# --- 05.1 the build: mask_tokens --------------------------------------------------------------------------------------
# A random function can be written in several right ways, which draw different numbers. So nothing is compared number by
# number: each stage measures a property on many tokens, and calls the answer wrong where a right one would be as far
# off with a probability below LIMIT's. Its sentences hold rounded numbers only, so that one mistake gives one sentence.

LIMIT = 5.8  # standard deviations of a normal variable; a right program exceeds it once in 150 million tests
OF_MANY = LIMIT + 1.2  # for the largest of up to 200 such variables
RARE = "A right program would be this far off less than once in a hundred million times."


def words_of(V, special=(0, 1, 2, 3, 4), mask_id=MASK):
    """What the text lets an answer use of a tokenizer (and pad_id, which check_masking looks for)."""
    return SimpleNamespace(vocab_size=V, special_ids=tuple(special), mask_id=mask_id, pad_id=special[0])


ROBERTAS = words_of(40, special=(0, 1, 2, 3, 39), mask_id=39)  # <s>, <pad>, </s>, <unk>, …, <mask>
SCATTERED = words_of(29, special=(0, 7, 8, 20, 28), mask_id=20)


def texts(generator, B, T, tokenizer):
    """Ordinary words between two special tokens, with every special token somewhere."""
    special = torch.tensor(tokenizer.special_ids)
    ordinary = torch.tensor([i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids])
    ids = ordinary[torch.randint(len(ordinary), (B, T), generator=generator)]
    ids[:, 0], ids[:, -1] = special[2], special[3]
    ids[: len(special), 1] = special
    ids[: len(special), 2] = ordinary[0]
    ids[: len(special), 3] = ordinary[-1]
    return ids


def listed(values):
    values = sorted(set(values))
    return ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")


def two_tensors(answer, generator):
    result = answer(texts(generator, 8, 12, words_of(40)), words_of(40), 0.5, generator)
    if not isinstance(result, tuple) or len(result) != 2 or not all(isinstance(t, torch.Tensor) for t in result):
        raise Fault("expected two tensors, `return corrupted, labels`.")
    return tuple((tuple(t.shape), str(t.dtype)) for t in result)


def read_labels(tokenizer, ids, corrupted, labels):
    """Raise a Fault unless, at the rate 1, the labels are the originals at ordinary words and -100 elsewhere."""
    special = torch.isin(ids, torch.tensor(tokenizer.special_ids))
    if (corrupted == IGNORE).any():
        raise Fault("the first result, what the model sees, has -100 in it, which is the id of no token.")
    if (labels == IGNORE).all():
        raise Fault("at the rate 1 every label is -100.")
    if (labels[~special] == IGNORE).all():
        raise Fault("at the rate 1 every ordinary word has the label -100.")
    if (chosen := ids[special & (labels == ids)]).numel():
        raise Fault(f"special tokens get a label: those with the ids {listed(chosen.tolist())}.")
    if (others := labels[special & (labels != IGNORE)]).numel():
        raise Fault(f"where no token was selected, the label is {int(others.flatten()[0])}; expected -100.")
    labelled = labels[~special] != IGNORE
    if not labelled.all() and torch.equal(labelled, (corrupted != ids)[~special]):
        raise Fault("at the rate 1 the words that stay as they are have the label -100.")
    if not labelled.all() and torch.equal(labelled, (corrupted == tokenizer.mask_id)[~special]):
        raise Fault("at the rate 1 only the words that became [MASK] have a label.")
    if labelled.double().mean() < 0.5:
        raise Fault("at the rate 1 more than half of the ordinary words are not selected.")
    if (left := ids[~special & (labels == IGNORE)]).numel():
        raise Fault(f"at the rate 1 words are left out: those with the ids {listed(left.tolist())}.")
    if (labels != ids)[~special].any():
        where = "the text as it is after the corruption" if torch.equal(labels[~special], corrupted[~special]) else ""
        raise Fault(f"the labels are not the original ids{where and ', but '}{where}.")
    return True


def the_labels(answer, generator):
    tokenizer = words_of(40)
    ids = texts(generator, 40, 30, tokenizer)
    read_labels(tokenizer, ids, *answer(ids.clone(), tokenizer, 1.0, generator))
    corrupted, labels = answer(ids.clone(), tokenizer, 0.4, generator)
    if (corrupted != ids)[labels == IGNORE].any():
        raise Fault("tokens without a label are changed: only selected tokens may be.")
    return True


def too_far(value, expected, deviation):
    return abs(float(torch.as_tensor(value).detach()) - expected) > LIMIT * deviation


def spread(counts, n, p):
    """How far the variance of counts is from that of independent draws, in standard deviations of a normal variable.

    The variance is distributed as chi square, whose upper tail is far heavier than a normal one, so its cube root is
    taken (Wilson and Hilferty 1931). Exact sums over binomial counts give 0.1 to 3 in a billion beyond LIMIT.
    """
    ratio = float(((counts.double() - n * p) ** 2 / (n * p * (1 - p))).mean())
    freedom = 2 * len(counts) / (2 + 1 / (n * p * (1 - p)))
    return (ratio ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def scores(counts, n, p):
    """How far each count is from n draws of probability p, by the arcsine, which makes both tails nearly normal."""
    n = torch.as_tensor(n).double()
    found = ((counts.double() + 3 / 8) / (n + 3 / 4)).sqrt().asin()
    return 2 * (n + 0.5).sqrt() * (found - math.asin(math.sqrt(p)))


def the_selection(answer, generator):
    tokenizer, B, T = words_of(205), 1500, 62
    for rate in (0.15, 0.5):
        ids = torch.randint(FIRST, tokenizer.vocab_size, (B, T), generator=generator)
        selected = answer(ids.clone(), tokenizer, rate, generator)[1] != IGNORE
        if too_far(selected.double().mean(), rate, math.sqrt(rate * (1 - rate) / ids.numel())):
            part = f"{100 * selected.double().mean():.0f} %"
            raise Fault(f"at the rate {rate} you select {part} of the ordinary tokens. {RARE}")
        rows, columns = spread(selected.sum(1), T, rate), spread(selected.sum(0), B, rate)
        if columns > LIMIT:
            raise Fault(f"some positions are selected far more often than others. {RARE}")
        if rows > LIMIT:
            raise Fault(f"the tokens of one text are selected together, or not at all. {RARE}")
        if rows < -LIMIT:
            raise Fault(f"each text has nearly the same number of selected tokens. {RARE}")
        of_word = torch.bincount(ids[selected], minlength=tokenizer.vocab_size)[FIRST:]
        n = torch.bincount(ids.flatten(), minlength=tokenizer.vocab_size)[FIRST:]
        if scores(of_word, n, rate).abs().max() > OF_MANY:
            raise Fault(f"some words are selected far more often than others. {RARE}")
    return True


def kinds(tokenizer, ids, corrupted, labels):
    """Which selected tokens became [MASK], which another word, which stayed: each (B, T)."""
    selected = labels != IGNORE
    hidden, kept = selected & (corrupted == tokenizer.mask_id), selected & (corrupted == ids)
    return hidden, selected & ~hidden & ~kept, kept


def chi_square(counts, expected):
    total = sum(counts)
    return sum((c - total * e) ** 2 / (total * e) for c, e in zip(counts, expected, strict=True))


CHI_LIMIT = 37.0  # exp(-37 / 2) is 1e-8: two degrees of freedom


def the_corruption(answer, generator):
    tokenizer, B, T = words_of(2005), 1800, 64
    share = 0.1 / 2000  # how often a random word is the original
    for rate in (1.0, 0.15):
        ids = torch.randint(FIRST, tokenizer.vocab_size, (B, T), generator=generator)
        parts = kinds(tokenizer, ids, *answer(ids.clone(), tokenizer, rate, generator))
        counts = [int(part.sum()) for part in parts]
        if sum(counts) == 0 or chi_square(counts, (0.8, 0.1 - share, 0.1 + share)) > CHI_LIMIT:
            shown = " % / ".join(f"{100 * c / max(1, sum(counts)):.0f}" for c in counts)
            raise Fault(
                f"at the rate {rate:g}, {shown} % of the selected tokens became [MASK], became another word, and "
                f"stayed; expected 80, 10 and 10. {RARE}"
            )
        if rate == 1.0 and max(spread(parts[0].sum(1), T, 0.8), spread(parts[0].sum(0), B, 0.8)) > LIMIT:
            raise Fault(f"the tokens of one text, or of one position, share their draw between the three cases. {RARE}")
    return True


def the_random_words(answer, generator):
    tokenizer, B, T = words_of(FIRST + 8), 1500, 64
    ids = torch.randint(FIRST, FIRST + 6, (B, T), generator=generator)  # two of the eight words are not in the batch
    corrupted, labels = answer(ids.clone(), tokenizer, 1.0, generator)
    hidden, replaced, kept = kinds(tokenizer, ids, corrupted, labels)
    words = corrupted[replaced]
    if (special := words[words < FIRST]).numel():
        raise Fault(f"special tokens come up as random words: those with the ids {listed(special.tolist())}.")
    if (words >= tokenizer.vocab_size).any():
        raise Fault("random words come up that the vocabulary does not have: their ids are too large.")
    if len(words) and len(words.unique()) == 1:
        raise Fault("all replaced tokens get the same word.")
    counts = [int(part.sum()) for part in (hidden, replaced, kept)]
    if chi_square(counts, (0.8, 0.0875, 0.1125)) > CHI_LIMIT and chi_square(counts, (0.8, 0.1, 0.1)) < CHI_LIMIT:
        raise Fault(f"the random word is never the original one. {RARE}")
    missing = sorted(set(range(FIRST, FIRST + 8)) - set(words.tolist()))
    if missing:
        raise Fault(f"of 8 ordinary words, those with the ids {listed(missing)} never come up as random words.")
    if chi_square(counts, (0.8, 0.0875, 0.1125)) > CHI_LIMIT:
        raise Fault(f"with a vocabulary of 8 words the three cases have wrong proportions. {RARE}")
    for original in range(FIRST, FIRST + 6):
        drawn = torch.bincount(corrupted[replaced & (ids == original)] - FIRST, minlength=8).double()
        others = torch.tensor([word + FIRST != original for word in range(8)])
        if scores(drawn[others], drawn.sum(), 1 / 7).abs().max() > OF_MANY:
            raise Fault(f"the ordinary words do not come up equally often as random words. {RARE}")
    of_text = replaced.nonzero()[:, 0]
    pairs = of_text[1:] == of_text[:-1]  # two replaced tokens of one text, one after the other
    alike = (words[1:] == words[:-1])[pairs].double()
    if alike.mean() - 1 / 8 > 0.02 + LIMIT * math.sqrt(7 / 64 / max(1, len(alike))):
        raise Fault(f"the replaced tokens of one text get the same word. {RARE}")
    return True


def short_texts(answer, generator):
    tokenizer = words_of(40)
    empty = torch.tensor([[2, 3, PAD, PAD], [2, UNK, 3, PAD]])
    corrupted, labels = untouched(lambda ids: answer(ids, tokenizer, 0.5, generator), empty)
    short = torch.randint(FIRST, 40, (2000, 3), generator=generator)
    number = (answer(short.clone(), tokenizer, 0.15, generator)[1] != IGNORE).sum(1)
    none = float((number == 0).double().mean())
    if none < 0.02:
        raise Fault("of texts of three words each has a selected token, though 0.85³ = 61 % should have none.")
    if too_far(none, 0.85**3, math.sqrt(0.85**3 * (1 - 0.85**3) / 2000)):
        raise Fault(f"{100 * none:.0f} % of the texts of three words have no selected token; 61 % should. {RARE}")
    ids = torch.randint(FIRST, 40, (2, 10), generator=generator)
    of_calls = torch.stack([answer(ids.clone(), tokenizer, 0.5, generator)[1] != IGNORE for _ in range(300)])
    if (of_calls == of_calls[0]).all():
        raise Fault("300 calls one after the other, with one generator, select the same tokens.")
    if spread(of_calls.sum((1, 2)), 20, 0.5) < -LIMIT:
        raise Fault(f"in 300 calls on a small batch, nearly the same number of tokens is selected. {RARE}")
    return corrupted, labels


def the_generator(answer, generator):
    tokenizer, ids = words_of(40), torch.randint(FIRST, 40, (20, 30), generator=generator)
    torch.manual_seed(3)
    state = torch.get_rng_state()

    def call(seed):
        return untouched(lambda ids: answer(ids, tokenizer, 0.5, torch.Generator().manual_seed(seed)), ids)

    first, again, other = call(1), call(1), call(2)
    if not torch.equal(first[1], again[1]):
        raise Fault("two generators in the same state select different tokens.")
    if not torch.equal(first[0], again[0]):
        raise Fault("two generators in the same state select the same tokens and corrupt them differently.")
    if not torch.equal(state, torch.get_rng_state()):
        raise Fault("a generator was given, and torch's own random numbers are other ones after your call.")
    if torch.equal(first[1], other[1]):
        raise Fault("two generators in different states select the same tokens.")
    if torch.equal(answer(ids, tokenizer, 0.5)[1], answer(ids, tokenizer, 0.5)[1]):
        raise Fault("without a generator, two calls one after the other select the same tokens.")
    return True


def other_vocabularies(answer, generator):
    for tokenizer in (ROBERTAS, SCATTERED):
        V, special = tokenizer.vocab_size, torch.tensor(tokenizer.special_ids)
        ids = texts(generator, 900, 31, tokenizer)
        corrupted, labels = answer(ids.clone(), tokenizer, 1.0, generator)
        where = f"with special tokens at the ids {listed(tokenizer.special_ids)}, [MASK] being {tokenizer.mask_id}: "
        try:
            read_labels(tokenizer, ids, corrupted, labels)
        except Fault as fault:
            raise Fault(f"{where}{fault}") from None
        selected = labels != IGNORE
        hidden = selected & (corrupted == tokenizer.mask_id)
        if too_far(hidden.sum() / selected.sum(), 0.8, math.sqrt(0.16 / int(selected.sum()))):
            raise Fault(f"{where}{100 * hidden.sum() / selected.sum():.0f} % of the selected tokens are [MASK].")
        words = corrupted[selected & ~hidden & (corrupted != ids)]
        if torch.isin(words, special).any() or (words >= V).any():
            raise Fault(f"{where}a random word is special, or not in the vocabulary.")
        counts = torch.bincount(words, minlength=V).double()[[i for i in range(V) if i not in tokenizer.special_ids]]
        if scores(counts, counts.sum(), 1 / len(counts)).abs().max() > OF_MANY:
            raise Fault(f"{where}the ordinary words do not come up equally often as random words. {RARE}")
    return True


def masking(
    rate=lambda shape, rate, g: torch.rand(shape, generator=g) < rate,
    special=lambda ids, t: torch.isin(ids, torch.tensor(t.special_ids)),
    corrupt=None,
    words=None,
    label=None,
    draws=lambda shape, g: torch.rand(shape, generator=g),
    shares=(0.8, 0.9),
    changes=lambda selected: selected,
    mask_id=lambda t: t.mask_id,
    generators=lambda g: (g, g),
):
    """Return a `mask_tokens` as a learner may write it; the arguments are its parts."""

    def random_words(shape, t, g):
        ordinary = torch.tensor([i for i in range(t.vocab_size) if i not in t.special_ids])
        return ordinary[torch.randint(len(ordinary), shape, generator=g)]

    def mask_tokens(ids, tokenizer, rate_=0.15, generator=None):
        first, second = generators(generator)
        selected = rate(ids.shape, rate_, first) & ~special(ids, tokenizer)
        drawn = (words or random_words)(ids.shape, tokenizer, second) if words is not BATCHS else None
        drawn = ids.flatten()[torch.randint(ids.numel(), ids.shape, generator=second)] if drawn is None else drawn
        changed = changes(selected)
        if corrupt is not None:
            corrupted = corrupt(ids, changed, drawn, mask_id(tokenizer), second)
        else:
            draw = draws(ids.shape, second)
            corrupted = ids.masked_fill(changed & (draw < shares[0]), mask_id(tokenizer))
            corrupted = torch.where(changed & (draw >= shares[0]) & (draw < shares[1]), drawn, corrupted)
        labels = ids.masked_fill(~selected, IGNORE) if label is None else label(ids, corrupted, selected)
        return corrupted, labels

    return mask_tokens


def BATCHS(*_):
    """Random words drawn from the batch: a switch of `masking`."""


def two_draws(ids, selected, words, mask_id, generator):
    replaced = selected & (torch.rand(ids.shape, generator=generator) < 0.1)
    kept = selected & (torch.rand(ids.shape, generator=generator) < 0.1) & ~replaced
    return torch.where(replaced, words, ids.masked_fill(selected & ~kept, mask_id))


def by_bernoulli(second):
    """Hugging Face's way: 80 % first, then `second` of what is left."""

    def corrupt(ids, selected, words, mask_id, generator):
        hidden = torch.bernoulli(torch.full(ids.shape, 0.8), generator=generator).bool() & selected
        rest = torch.bernoulli(torch.full(ids.shape, second), generator=generator).bool() & selected & ~hidden
        return torch.where(rest, words, ids.masked_fill(hidden, mask_id))

    return corrupt


def over_the_masks(ids, selected, words, mask_id, generator):
    draw = torch.rand(ids.shape, generator=generator)
    return torch.where(selected & (draw < 0.9), words, ids.masked_fill(selected & (draw < 0.8), mask_id))


def never_the_original(ids, selected, words, mask_id, generator):
    draw = torch.rand(ids.shape, generator=generator)
    while (alike := words == ids).any():
        words = torch.where(alike, words[torch.randperm(len(words), generator=generator)], words)
        words = words.roll(1, 1)
    return torch.where(
        selected & (draw >= 0.8) & (draw < 0.9), words, ids.masked_fill(selected & (draw < 0.8), mask_id)
    )


def the_same_draw(ids, tokenizer, rate=0.15, generator=None):
    draw = torch.rand(ids.shape, generator=generator)
    words = torch.randint(FIRST, tokenizer.vocab_size, ids.shape, generator=generator)
    selected = (draw < rate) & (ids >= FIRST)
    corrupted = ids.masked_fill(selected & (draw < 0.8), tokenizer.mask_id)
    return torch.where(selected & (draw >= 0.8) & (draw < 0.9), words, corrupted), ids.masked_fill(~selected, IGNORE)


def one_draw_for_all(ids, tokenizer, rate=0.15, generator=None):
    """Another way: one number decides both, its limits scaled by the rate."""
    draw = torch.rand(ids.shape, generator=generator)
    special = torch.isin(ids, torch.tensor(tokenizer.special_ids))
    ordinary = torch.tensor([i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids])
    words = ordinary[torch.randint(len(ordinary), ids.shape, generator=generator)]
    out = torch.where(draw < 0.9 * rate, words, ids)
    out = torch.where(draw < 0.8 * rate, tokenizer.mask_id, out)
    return torch.where(special, ids, out), torch.where((draw < rate) & ~special, ids, IGNORE)


def by_texts(ids, tokenizer, rate=0.15, generator=None):
    """Another way: a loop over the texts, and over what happens to the selected tokens of each."""
    ordinary = torch.tensor(sorted(set(range(tokenizer.vocab_size)) - set(tokenizer.special_ids)))
    corrupted, labels = ids.clone(), torch.full_like(ids, IGNORE)
    for text, out, label in zip(ids, corrupted, labels, strict=True):
        chosen = torch.bernoulli(torch.full(text.shape, float(rate)), generator=generator).bool()
        where = (chosen & torch.isin(text, ordinary)).nonzero()[:, 0]
        label[where] = text[where]
        case = torch.randint(10, where.shape, generator=generator)
        out[where[case > 1]] = tokenizer.mask_id
        where = where[case == 0]
        out[where] = ordinary[torch.randint(len(ordinary), where.shape, generator=generator)]
    return corrupted, labels


def in_place(ids, tokenizer, rate=0.15, generator=None):
    corrupted, labels = masking()(ids, tokenizer, rate, generator)
    ids.copy_(corrupted)
    return ids, labels


def seeds_itself(ids, tokenizer, rate=0.15, generator=None):
    return masking()(ids, tokenizer, rate, torch.Generator().manual_seed(0))


def exact(shape, rate, generator):
    return torch.rand(shape, generator=generator).argsort(1).argsort(1) < round(rate * shape[1])


def exact_in_the_batch(shape, rate, generator):
    draw = torch.rand(shape, generator=generator)
    return draw <= draw.flatten().kthvalue(max(1, round(rate * draw.numel())))[0]


def at_least_one(shape, rate, generator):
    draw = torch.rand(shape, generator=generator)
    return (draw < rate) | (draw == draw.amin(1, keepdim=True))


# In the order of their stages. A check looks through them from the last to the first, because an early mistake often
# shows the symptoms of the later stages too.
MASKING_MISTAKES = (
    Mistake(
        "the two results exchanged",
        lambda *arguments: masking()(*arguments)[::-1],
        "the labels come first in your result. Return what the model sees first, then the labels.",
        "the order of the two results differs between libraries: Hugging Face's torch_mask_tokens has this one",
    ),
    Mistake(
        "specials selected",
        masking(special=lambda ids, t: torch.zeros_like(ids, dtype=torch.bool)),
        "special tokens are selected too: the model would be asked to guess [CLS], [SEP] and padding, which follow "
        "from the length of the text. The ids in `tokenizer.special_ids` are never selected.",
        "https://github.com/huggingface/transformers/issues/1395",
    ),
    Mistake(
        "only padding spared",
        masking(special=lambda ids, t: ids == t.pad_id),
        "padding is spared, but the other special tokens are still selected. All of `tokenizer.special_ids` stay out.",
        "https://github.com/AnswerDotAI/ModernBERT/pull/218",
    ),
    Mistake(
        "the first word spared",
        masking(special=lambda ids, t: ids <= max(t.special_ids[:4]) + 2),
        "off by one: id 5 is the first *ordinary* word, and you never select it. Special are 0 to 4 here; "
        "`torch.isin(ids, torch.tensor(tokenizer.special_ids))` needs no comparison.",
        "> and >= exchanged at the border of the special ids; seen in answers to this exercise",
    ),
    Mistake(
        "[MASK] selected",
        masking(special=lambda ids, t: ids < MASK),
        "off by one: id 4 is [MASK], the last of the special tokens, and you select it.",
        "> and >= exchanged at the border of the special ids; seen in answers to this exercise",
    ),
    Mistake(
        "-1",
        masking(label=lambda ids, corrupted, selected: ids.masked_fill(~selected, -1)),
        "you mark with -1. torch's cross_entropy leaves out -100, unless you tell it otherwise; it takes -1 for a "
        "word that does not exist.",
        "https://github.com/EricFillion/happy-transformer/issues/128",
    ),
    Mistake(
        "0",
        masking(label=lambda ids, corrupted, selected: ids.masked_fill(~selected, PAD)),
        "you mark with 0, the id of [PAD]: cross_entropy would teach the model to answer [PAD] at every position "
        "that was not selected. The mark is -100.",
        "https://github.com/codertimo/BERT-pytorch/issues/29",
    ),
    Mistake(
        "the wrong way round",
        masking(label=lambda ids, corrupted, selected: ids.masked_fill(selected, IGNORE)),
        "the wrong way round: -100 is where a token *was* selected. -100 means 'do not count this position', and "
        "the selected ones are what counts.",
        "https://github.com/huggingface/transformers/issues/2946",
    ),
    Mistake(
        "-100 everywhere",
        masking(label=lambda ids, corrupted, selected: torch.full_like(ids, IGNORE)),
        "every label is -100, so no token would count, and the loss would be 0 or NaN. Where a token was selected "
        "the label is its original id.",
        "https://github.com/huggingface/transformers/issues/16711 (no token selected, a loss of NaN)",
    ),
    Mistake(
        "labels of the corrupted text",
        masking(label=lambda ids, corrupted, selected: corrupted.masked_fill(~selected, IGNORE)),
        "the labels are taken from the *corrupted* text: the model would be asked to answer [MASK] where it sees "
        "[MASK]. Make the labels from `ids`, before anything is changed, or corrupt a copy.",
        "https://github.com/huggingface/transformers/issues/2946 (which ids are the labels?)",
    ),
    Mistake(
        "not only the selected",
        masking(changes=torch.ones_like),
        "you corrupt tokens that were not selected: nearly all of the text is gone, and nothing is left to guess "
        "from. Combine each condition with `selected &`.",
        "the `& masked_indices` in the lines of https://github.com/huggingface/transformers/issues/11838",
    ),
    Mistake(
        "every token is a label",
        masking(label=lambda ids, corrupted, selected: ids.masked_fill(ids < FIRST, IGNORE)),
        "every ordinary token has a label, so the loss counts every position, and copying what is in plain sight "
        "earns most of it. Where a token was not selected the label is -100.",
        "https://github.com/huggingface/transformers/issues/20797 (losses of 0.1 in place of 1.6)",
    ),
    Mistake(
        "a label only where something changed",
        masking(label=lambda ids, corrupted, selected: ids.masked_fill(corrupted == ids, IGNORE)),
        "only tokens that changed have a label. The 10 % that stay were selected too, and their labels are their "
        "originals: being asked at them is what teaches the model to look at a word.",
        "labels made by comparing the two texts; seen in answers to this exercise",
    ),
    Mistake(
        "a label only at [MASK]",
        masking(label=lambda ids, corrupted, selected: ids.masked_fill(~selected | (corrupted != MASK), IGNORE)),
        "only the tokens that became [MASK] have a label. The replaced and the kept ones were selected too, and the "
        "model is asked for the original at all of them.",
        "labels made where the text reads [MASK]; seen in answers to this exercise",
    ),
    Mistake(
        "0.15 written down",
        masking(rate=lambda shape, rate, g: torch.rand(shape, generator=g) < 0.15),
        "about 15 % are selected at the rate 1 too: your function compares with 0.15 and not with its argument `rate`.",
        "a number of the text used for an argument",
    ),
    Mistake(
        "always 15 %",
        masking(rate=lambda shape, rate, g: (torch.rand(shape, generator=g) < 0.15) | (rate == 1)),
        "you select 15 % whatever the `rate`. Compare the draws with the argument.",
        "a number of the text used for an argument",
    ),
    Mistake(
        "one draw for each text",
        masking(rate=lambda shape, rate, g: (torch.rand(shape[0], 1, generator=g) < rate).expand(shape)),
        "one draw decides for a whole text: all of its tokens are selected, or none. Each token needs a draw "
        "of its own: `torch.rand(ids.shape, generator=generator)`.",
        "torch.rand(B, 1), which broadcasts without a word",
    ),
    Mistake(
        "the same positions in every text",
        masking(rate=lambda shape, rate, g: (torch.rand(shape[1], generator=g) < rate).expand(shape)),
        "one draw decides for a position in all texts of the batch: the same positions are selected everywhere. "
        "Each token needs a draw of its own: `torch.rand(ids.shape, generator=generator)`.",
        "torch.rand(T), which broadcasts without a word",
    ),
    Mistake(
        "an exact count",
        masking(rate=exact),
        "each text has the same number of selected tokens. That is Google's rule (exercise 05.5); here each token "
        "is selected by an independent draw.",
        "https://github.com/huggingface/transformers/pull/1814",
    ),
    Mistake(
        "81/10/9",
        masking(corrupt=two_draws),
        "81/10/9: the random words and the kept ones are decided by two independent draws of 10 %, so a token "
        "escapes both with 0.9 · 0.9 = 81 %. One draw decides among all three cases.",
        "the MLM of https://github.com/labmlai/annotated_deep_learning_paper_implementations",
    ),
    Mistake(
        "2 % random words",
        masking(corrupt=by_bernoulli(0.1)),
        "80/2/18: only a tenth of what [MASK] left over gets a random word. The 10 % are of all selected tokens, "
        "which is half of what is left.",
        "https://github.com/huggingface/transformers/issues/32329",
    ),
    Mistake(
        "nothing is kept",
        masking(shares=(0.8, 1.0)),
        "80/20/0: all that [MASK] left over becomes a random word, and none stays. Then a word that the model sees "
        "at a selected position is nearly always wrong.",
        "a row of table 8 in Devlin et al. 2019 (arXiv:1810.04805), where it is worse on named entities",
    ),
    Mistake(
        "nothing is replaced",
        masking(shares=(0.8, 0.8)),
        "80/0/20: there are no random words. Then a word that the model sees is always right, and it learns to copy.",
        "a row of table 8 in Devlin et al. 2019 (arXiv:1810.04805)",
    ),
    Mistake(
        "everything hidden",
        masking(shares=(1.0, 1.0)),
        "100/0/0: every selected token becomes [MASK]. Of the selected tokens 80 % do, 10 % become a random word, "
        "10 % stay.",
        "a row of table 8 in Devlin et al. 2019 (arXiv:1810.04805)",
    ),
    Mistake(
        "the same draw",
        the_same_draw,
        "the draw that selects a token also decides what happens to it. What was selected at a rate of 0.15 has a "
        "draw below 0.15, so it is always below 0.8 too. Make a second draw (or scale the limits by the rate).",
        "one torch.rand used twice; right at the rate 1 and nowhere else",
    ),
    Mistake(
        "nothing changes",
        lambda ids, tokenizer, rate=0.15, generator=None: (
            ids.clone(),
            masking()(ids, tokenizer, rate, generator)[1],
        ),
        "nothing was changed: the text comes back as it was, with all the answers in it. (This has happened in "
        "public code, where a number was compared with eight tenths of itself.)",
        "https://github.com/codertimo/BERT-pytorch/issues/29",
    ),
    Mistake(
        "random words over [MASK]",
        masking(corrupt=over_the_masks),
        "the random words overwrite the [MASK]s: draws below 0.8 are below 0.9 too, so nine in ten become random "
        "words and no [MASK] is left. Random are the draws from 0.8 on.",
        "the `& ~indices_replaced` that https://github.com/huggingface/transformers/pull/21629 asks about",
    ),
    Mistake(
        "one case for each text",
        masking(draws=lambda shape, g: torch.rand(shape[0], 1, generator=g).expand(shape)),
        "one draw decides for a whole text what happens to its selected tokens. Each token needs a draw of its "
        "own: `torch.rand(ids.shape, generator=generator)`.",
        "torch.rand(B, 1), which broadcasts without a word",
    ),
    Mistake(
        "special random words",
        masking(words=lambda shape, t, g: torch.randint(t.vocab_size, shape, generator=g)),
        "special tokens come up as random words: you draw from the whole vocabulary. Draw from the ordinary words "
        "alone. (Google's and Hugging Face's code do draw from all; the text asks for words.)",
        "torch.randint(len(self.tokenizer), …) in Hugging Face's data collator, which takes all ids",
    ),
    Mistake(
        "never the last word",
        masking(words=lambda shape, t, g: torch.randint(FIRST, t.vocab_size - 1, shape, generator=g)),
        "the last word of the vocabulary never comes up: the upper end of torch.randint is not among the numbers "
        "drawn.",
        "torch.randint's documentation: high is one above the highest integer to be drawn",
    ),
    Mistake(
        "one random word",
        masking(words=lambda shape, t, g: torch.randint(FIRST, t.vocab_size, (1, 1), generator=g).expand(shape)),
        "one random word replaces all of them. Draw one for each position.",
        "torch.randint(…, (1,)), which broadcasts without a word",
    ),
    Mistake(
        "one random word for each text",
        masking(words=lambda shape, t, g: torch.randint(FIRST, t.vocab_size, (shape[0], 1), generator=g).expand(shape)),
        "one random word for each text replaces all of its tokens. Draw one for each position.",
        "torch.randint(…, (B, 1)), which broadcasts without a word",
    ),
    Mistake(
        "words of the batch",
        masking(words=BATCHS),
        "the random words come from the batch, so a word that is not in it never comes up. Draw from all ordinary "
        "words of the vocabulary.",
        "a shuffled batch as a source of noise, as for in-batch negatives",
    ),
    Mistake(
        "never the original",
        masking(corrupt=never_the_original),
        "a sensible rule, but not the text's: the random word may by chance be the original, as in Google's code.",
        "'another word' read for Devlin et al. 2019, who say 'a random token' (section 3.1)",
    ),
    Mistake(
        "at least one",
        masking(rate=at_least_one),
        "each text has at least one selected token. In texts of three words 61 % have none when each draw is "
        "independent, and the text asks for that.",
        "max(1, …) in create_pretraining_data.py of google-research/bert",
    ),
    Mistake(
        "an exact count in the batch",
        masking(rate=exact_in_the_batch),
        "the number of selected tokens is fixed for the whole batch: chosen by a shuffle, say. Here each token is "
        "selected by an independent draw, so the number varies.",
        "torch.randperm(ids.numel())[:k], a way to choose without a draw for each token",
    ),
    Mistake(
        "generator ignored",
        masking(generators=lambda g: (None, None)),
        "`generator` is not used: the same state gives another result each time. Pass it to every draw: "
        "`generator=generator`.",
        "an argument accepted and forgotten; then no run can be repeated",
    ),
    Mistake(
        "generator for the selection only",
        masking(generators=lambda g: (g, None)),
        "the selection uses `generator`, the corruption does not. Pass it to every draw: `generator=generator`.",
        "an argument forgotten in the second of three draws",
    ),
    Mistake(
        "seeds itself",
        seeds_itself,
        "your function seeds itself: every call draws the same numbers, so each batch loses the same positions. "
        "Draw from `generator`, and make none of your own.",
        "static masking by accident: torch.manual_seed inside of a function that is called in a loop",
    ),
    Mistake(
        "ids changed in place",
        in_place,
        "`ids` is changed in place: whoever called it finds theirs changed. The text is lost, and the "
        "next epoch would corrupt what is corrupt already. `masked_fill` (without `_`) and `torch.where` make new "
        "tensors.",
        "the `inputs[indices_replaced] = …` of Hugging Face's collator, which works on a copy",
    ),
    Mistake(
        "the numbers of this lesson",
        masking(
            special=lambda ids, t: ids < FIRST,
            mask_id=lambda t: MASK,
            words=lambda shape, t, g: torch.randint(FIRST, t.vocab_size, shape, generator=g),
        ),
        "you use the numbers of this lesson, special ids 0 to 4. RoBERTa's [MASK] is its last id, other "
        "tokenizers' special tokens are scattered. Take `special_ids`, `mask_id` and `vocab_size` from the "
        "tokenizer.",
        "published tokenizers: <mask> is 50264 in roberta-base",
    ),
)

mask_tokens = Build(
    id="05.1",
    course=courses_mask_tokens,
    stages=(
        Stage("two tensors", two_tensors),
        Stage("the labels", the_labels),
        Stage("which tokens are selected", the_selection),
        Stage("80/10/10", the_corruption),
        Stage("the random words", the_random_words),
        Stage("short texts", short_texts),
        Stage("the generator", the_generator),
        Stage("other sizes", other_vocabularies),
    ),
    mistakes=MASKING_MISTAKES[::-1],
    hints=(
        "Four steps: who is selected, the labels, what happens to the selected ones, the random words. The first two "
        "need one draw for each token, `torch.rand(ids.shape, generator=generator)`.",
        "`special = torch.isin(ids, torch.tensor(tokenizer.special_ids))`; selected where the draw is below the rate "
        "and the token is not special. `ids.masked_fill(~selected, -100)` are the labels.",
        "A second draw decides: below 0.8 [MASK], from 0.8 to below 0.9 a random word, else it stays. "
        "`ids.masked_fill(selected & (draw < 0.8), tokenizer.mask_id)`, then "
        "`torch.where(selected & (0.8 <= draw) & (draw < 0.9), words, corrupted)`.",
        "Random words: list the ordinary ids, `ordinary = torch.tensor([i for i in range(tokenizer.vocab_size) if i "
        "not in tokenizer.special_ids])`, and draw places in that list, "
        "`ordinary[torch.randint(len(ordinary), ids.shape, generator=generator)]`.",
    ),
    praise="One draw selects, one decides among three cases.",
    other_ways=(masking(), masking(corrupt=by_bernoulli(0.5)), one_draw_for_all, by_texts),
)

# --- 05.2 the build: MaskedLanguageModel ------------------------------------------------------------------------------


def config_of(**changes):
    numbers = {"vocab_size": 23, "width": 12, "layers": 1, "heads": 3, "ffn_width": 24, "max_len": 16, "eps": 0.01}
    return EncoderConfig(**numbers | changes)


def model_of(answer, generator, **changes):
    """Return the learner's model with the course's parts and seeded weights, in eval mode."""
    config = config_of(**changes)
    it, table = answer(Encoder(config)), (config.vocab_size, config.width)
    own = {name: p for name, p in named(it).items() if not name.startswith("encoder.")}
    if any(tuple(p.shape) == table for p in own.values()):
        raise Fault("there is a second table (V, C) besides the encoder's: the head should be given `encoder.tokens`'.")
    return with_weights(it, MaskedLanguageModel(Encoder(config)), generator).eval()


def batch(generator, V=23, B=3, T=7):
    """Ids with padding, labels for 1, 2 and 4 tokens, and a mask that hides more than padding."""
    ids = torch.randint(FIRST, V, (B, T), generator=generator)
    ids[1, 5:], ids[0, 2], ids[2, 4] = PAD, MASK, MASK
    labels = torch.full_like(ids, IGNORE)
    for row, columns in enumerate(([2], [1, 3], [1, 2, 4, 6])):
        labels[row, columns] = torch.randint(FIRST, V, (len(columns),), generator=generator)
    mask = ids != PAD
    mask[0, 5] = mask[2, 3] = False
    return ids, labels, mask


def parts_and_shapes(answer, generator):
    it, (ids, labels, mask) = model_of(answer, generator), batch(generator)
    loss = it.loss(ids, labels, mask)
    if not isinstance(loss, torch.Tensor):
        raise Fault("the loss is no tensor, so no backward pass can start from it.")
    return tuple(it(ids, mask).shape), tuple(loss.shape)


def the_head(answer, generator):
    it = model_of(answer, generator)
    hidden = torch.randn(2, 5, 12, generator=generator)
    return untouched(it.head, hidden, torch.randn(23, 12, generator=generator))


def all_logits(answer, generator):
    it, (ids, _, mask) = model_of(answer, generator), batch(generator)
    return untouched(it, ids, mask), untouched(it, ids)


def the_loss(answer, generator):
    it, (ids, labels, mask) = model_of(answer, generator), batch(generator)
    few, zero = labels.clone(), labels.clone()
    few[1:] = IGNORE
    zero[2, 1] = 0  # an id like any other: what is not selected is -100
    return untouched(it.loss, ids, labels, mask), untouched(it.loss, ids, few), untouched(it.loss, ids, zero, mask)


def nothing_selected(answer, generator):
    it, (ids, labels, mask) = model_of(answer, generator), batch(generator)
    loss = it.loss(ids, torch.full_like(labels, IGNORE), mask)
    if isinstance(loss, torch.Tensor) and loss.isnan():
        raise Fault("the loss of a batch without a selected token is NaN.")
    if isinstance(loss, torch.Tensor) and not loss.requires_grad:
        raise Fault("the loss of a batch without a selected token has no graph: `backward()` raises an error.")
    loss.backward()
    if any(p.grad is not None and not torch.equal(p.grad, torch.zeros_like(p)) for p in it.parameters()):
        raise Fault("a batch without a selected token has gradients that are not zero.")
    return loss


def the_gradients(answer, generator):
    it, (ids, labels, mask) = model_of(answer, generator), batch(generator)
    it.loss(ids, labels, mask).backward()
    names = [name for name, _ in MaskedLanguageModel(Encoder(config_of())).named_parameters()]
    parts = [it.get_parameter(name) for name in names]
    return tuple(torch.zeros_like(p) if p.grad is None else p.grad for p in parts)


def the_start(answer, generator):
    it = answer(Encoder(config_of(width=48, init_std=0.5)))
    dense = it.head.dense
    if too_far(dense.weight.std(), 0.5, 0.5 / math.sqrt(2 * 48**2)):
        raise Fault(
            f"with init_std = 0.5 the weights of `head.dense` have a standard deviation of {dense.weight.std():.1f}."
        )
    if dense.bias.any() or it.head.bias.any():
        raise Fault("a bias of the head is not 0 at the start.")
    return True


def other_models(answer, generator):
    changes = {"vocab_size": 31, "width": 10, "heads": 2, "activation": "relu", "norm": "pre", "eps": 0.5}
    it, (ids, labels, mask) = model_of(answer, generator, **changes), batch(generator, 31, 4, 9)
    return it(ids, mask), it.loss(ids, labels, mask)


class WrongHead(MLMHead):
    def __init__(self, encoder, kind):
        super().__init__(encoder)
        self.kind = kind
        if kind == "GELU always":
            self.activation = ACTIVATIONS["gelu"]
        if kind == "eps of torch":
            self.norm = nn.LayerNorm(encoder.config.width)
        if kind == "torch's start":
            self.dense.reset_parameters()

    def forward(self, hidden, embedding):
        kind = self.kind
        x = hidden if kind == "no dense" else self.dense(hidden)
        if kind == "norm first":
            x = self.activation(self.norm(x))
        elif kind == "no activation":
            x = self.norm(x)
        else:
            x = self.activation(x) if kind == "no norm" else self.norm(self.activation(x))
        z = x @ embedding.T
        return z if kind == "no bias" else z + self.bias


class Untied(nn.Module):
    """A head with a table of its own."""

    def __init__(self, encoder):
        super().__init__()
        C, V = encoder.config.width, encoder.config.vocab_size
        self.dense, self.norm, self.decoder = nn.Linear(C, C), nn.LayerNorm(C), nn.Linear(C, V)

    def forward(self, hidden, embedding=None):
        return self.decoder(self.norm(F.gelu(self.dense(hidden))))


class Wrong(MaskedLanguageModel):
    """MaskedLanguageModel as a learner may write it; its switches are the mistakes."""

    head_kind, masked, table, shown, averaged, empty = "", True, lambda w: w, lambda z: z, "selected", "0"
    counted, index = "labels", IGNORE

    def __init__(self, encoder):
        super().__init__(encoder)
        self.head = Untied(encoder) if self.head_kind == "untied" else WrongHead(encoder, self.head_kind)

    def forward(self, ids, mask=None):
        if self.masked == "[MASK] too":
            mask = (ids != PAD if mask is None else mask) & (ids != MASK)
        hidden = self.encoder(ids, mask if self.masked else None)
        return type(self).shown(self.head(hidden, type(self).table(self.encoder.tokens.weight)))

    def loss(self, ids, labels, mask=None):
        if self.counted == "all":
            labels = torch.where(labels == IGNORE, ids, labels)
        z = self(ids, None if self.masked == "not in the loss" else mask)
        if self.counted == "positive":
            labels = labels.masked_fill(labels < 1, IGNORE)
        if self.counted == "softmax":
            z = z.softmax(-1)
        selected = labels != IGNORE
        if not selected.any() and self.empty != "0":
            return torch.tensor(0.0) if self.empty == "constant" else z.sum() * torch.nan
        if self.index != IGNORE:
            return F.cross_entropy(z.flatten(0, 1), labels.flatten(), ignore_index=self.index)
        losses = F.cross_entropy(z.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        if self.averaged == "means":
            return (losses.sum(1) / selected.sum(1).clamp_min(1)).mean()
        if self.averaged == "means of some":
            return (losses.sum(1) / selected.sum(1).clamp_min(1)).sum() / max(1, int(selected.any(1).sum()))
        by = {"selected": int(selected.sum()), "all": labels.numel(), "sum": 1, "texts": len(labels)}[self.averaged]
        return losses.sum() / max(1, by)


def wrong(**switches):
    return type("MaskedLanguageModel", (Wrong,), switches)


class ByHand(nn.Module):
    """Another way: the head on every position, log-softmax and gather, and parts in a class of its own."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.head = encoder, self.Head(encoder)

    class Head(nn.Module):
        def __init__(self, encoder):
            super().__init__()
            config = encoder.config
            self.dense, self.norm = nn.Linear(config.width, config.width), nn.LayerNorm(config.width, config.eps)
            self.bias, self.act = nn.Parameter(torch.zeros(config.vocab_size)), ACTIVATIONS[config.activation]
            self.dense.apply(encoder.initialise)

        def forward(self, hidden, embedding):
            return torch.einsum("...c,vc->...v", self.norm(self.act(self.dense(hidden))), embedding) + self.bias

    def forward(self, ids, mask=None):
        return self.head(self.encoder(ids, mask), self.encoder.tokens.weight)

    def loss(self, ids, labels, mask=None):
        selected = labels != IGNORE
        logs = self(ids, mask).log_softmax(-1)
        right = logs.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
        return -(right * selected).sum() / selected.sum().clamp_min(1)


class ByIgnoring(MaskedLanguageModel):
    """Another way: cross_entropy leaves out -100."""

    def loss(self, ids, labels, mask=None):
        z = self(ids, mask)
        total = F.cross_entropy(z.transpose(1, 2), labels, ignore_index=IGNORE, reduction="sum")
        return total / (labels != IGNORE).sum().clamp(min=1)


MODEL_MISTAKES = (
    Mistake(
        "a table of its own",
        wrong(head_kind="untied"),
        "the head has a table (V, C) of its own. BERT's head uses the encoder's, `encoder.tokens.weight`: pass it "
        "to the head's forward, and make no second one.",
        "https://github.com/codertimo/BERT-pytorch (its head is a linear layer of its own)",
    ),
    Mistake(
        "norm before activation",
        wrong(head_kind="norm first"),
        "the head normalises before the activation function. The order is dense, activation, norm.",
        "the order of the formula in section 5, read from the inside out",
    ),
    Mistake(
        "no activation",
        wrong(head_kind="no activation"),
        "the head's activation function is missing: dense, activation, norm, then the table.",
        "a step of the formula forgotten",
    ),
    Mistake(
        "no norm",
        wrong(head_kind="no norm"),
        "the head's norm is missing: dense, activation, norm, then the table.",
        "a step of the formula forgotten",
    ),
    Mistake(
        "no dense layer",
        wrong(head_kind="no dense"),
        "`dense` is made and never used: the order is dense, activation, norm, then the table.",
        "a step of the formula forgotten",
    ),
    Mistake(
        "no bias",
        wrong(head_kind="no bias"),
        "the bias of the words is missing: one number for each word is added to its logits.",
        "the decoder's bias, which published models store apart from the tied weight",
    ),
    Mistake(
        "the mask forgotten",
        wrong(masked=False),
        "the attention mask is not passed on: tokens that `mask` hides are attended to. `self.encoder(ids, mask)`.",
        "an argument accepted and forgotten",
    ),
    Mistake(
        "the mask forgotten in the loss",
        wrong(masked="not in the loss"),
        "`loss` does not pass the attention mask on, though forward does: with padding the two would see different "
        "texts. Give `mask` to the encoder there too.",
        "an argument accepted and forgotten; seen in answers to this exercise",
    ),
    Mistake(
        "[MASK] hidden from attention",
        wrong(masked="[MASK] too"),
        "positions with [MASK] are hidden from attention. [MASK] is a token like any other, whose vector is read; "
        "the attention mask is `mask` as it was given, which hides padding.",
        "the two meanings of the word mask taken for one",
    ),
    Mistake(
        "probabilities",
        wrong(shown=lambda z: z.softmax(-1)),
        "your forward returns probabilities. It should return the logits: cross_entropy has the softmax inside.",
        "torch's documentation of CrossEntropyLoss: the input is expected to contain unnormalized logits",
    ),
    Mistake(
        "softmax twice",
        wrong(counted="softmax"),
        "the loss applies a softmax before cross_entropy, which has one inside: even a sure and right answer would "
        "cost about ln V - 1. Pass the logits.",
        "torch's documentation of CrossEntropyLoss: the input is expected to contain unnormalized logits",
    ),
    Mistake(
        "loss over all positions",
        wrong(counted="all"),
        "the loss counts every position, with the token in sight as the answer where none was selected. Only "
        "selected positions count.",
        "https://github.com/CyberZHG/keras-bert/issues/188",
    ),
    Mistake(
        "divided by all positions",
        wrong(averaged="all"),
        "the right losses, but divided by the number of all positions: the result depends on how many tokens are "
        "around. Divide by the number of selected ones.",
        "https://github.com/ServiceNow/Fast-LLM/pull/426",
    ),
    Mistake(
        "divided by the texts",
        wrong(averaged="texts"),
        "the sum is divided by the number of texts. Divide by the number of selected tokens.",
        "a sum over tokens and a mean over the batch confused",
    ),
    Mistake(
        "a sum",
        wrong(averaged="sum"),
        "this is the sum: a batch with more selected tokens would take larger steps. Divide by their number.",
        "https://github.com/vid-koci/bert-commonsense/issues/1",
    ),
    Mistake(
        "a mean of means",
        wrong(averaged="means"),
        "you average each text first and then the texts: a token of a text with one selected token counts four "
        "times as much as one of a text with four. Add up all selected tokens, then divide once.",
        "https://github.com/meta-pytorch/torchtune/pull/1875",
    ),
    Mistake(
        "a mean of the means of some",
        wrong(averaged="means of some"),
        "you take the mean of each text that has a selected token, and then the mean of these: a token counts less "
        "the more are selected beside it. Add up the losses of all selected tokens, then divide once.",
        "https://github.com/meta-pytorch/torchtune/pull/1875",
    ),
    Mistake(
        "labels above 0",
        wrong(counted="positive"),
        "you take the labels above 0, so that id 0 is never counted. 0 is an id like any other; what is not selected "
        "has the label -100 and no other.",
        "labels > 0 in place of labels != -100; seen in answers to this exercise",
    ),
    Mistake(
        "ignore_index=0",
        wrong(index=0),
        "cross_entropy is told to leave out 0 and meets -100. What is not selected has the label -100, which it "
        "leaves out unless told otherwise.",
        "https://github.com/codertimo/BERT-pytorch/issues/32",
    ),
    Mistake(
        "0 / 0",
        wrong(empty="nan"),
        "a batch without a selected token gives NaN: a mean of no numbers is 0 / 0, and one NaN ruins every "
        "weight. Divide the sum by max(1, the number of selected tokens).",
        "https://github.com/huggingface/transformers/issues/16711",
    ),
    Mistake(
        "a constant 0",
        wrong(empty="constant"),
        "a batch without a selected token gives 0, but as a new tensor without a graph, so the training loop's "
        "`backward()` stops with an error. Divide the sum of no losses by 1 and it is 0 with a graph.",
        "torch.tensor(0.0) in place of a sum of nothing",
    ),
    Mistake(
        "the table detached",
        wrong(table=lambda w: w.detach()),
        "the loss is right, but no gradient reaches the table from the head. Use `encoder.tokens.weight` itself, "
        "without `.data`, `.detach()` or `torch.no_grad()`.",
        "weights tied by a copy: the two drift apart",
    ),
    Mistake(
        "torch's start",
        wrong(head_kind="torch's start"),
        "`dense` starts as torch draws it. Draw it as the encoder draws its layers: `encoder.initialise(self.dense)`.",
        "a new layer on a model with an initialisation of its own",
    ),
    Mistake(
        "GELU always",
        wrong(head_kind="GELU always"),
        "the head uses GELU whatever the configuration says. Take `ACTIVATIONS[encoder.config.activation]`.",
        "a constant of BERT used for a field of the configuration",
    ),
    Mistake(
        "torch's eps",
        wrong(head_kind="eps of torch"),
        "the norm has torch's eps. Take `encoder.config.eps`.",
        "RoBERTa's eps of 1e-5 and BERT's of 1e-12 confused (lesson 04)",
    ),
)

masked_language_model = Build(
    id="05.2",
    course=MaskedLanguageModel,
    stages=(
        Stage("parts and shapes", parts_and_shapes),
        Stage("the head", the_head),
        Stage("the logits of every position", all_logits),
        Stage("the loss", the_loss),
        Stage("nothing selected", nothing_selected),
        Stage("gradients", the_gradients),
        Stage("the start", the_start),
        Stage("other sizes", other_models),
    ),
    mistakes=MODEL_MISTAKES[::-1],
    hints=(
        "The head's parts are `nn.Linear(C, C)`, `nn.LayerNorm(C, eps=…)` and `nn.Parameter(torch.zeros(V))`; C, V, "
        "eps and the activation's name are in `encoder.config`.",
        "`F.linear(x, embedding, self.bias)` is x times the transposed table, plus the bias.",
        "The loss: `hidden = self.encoder(ids, mask)`, `selected = labels != -100`, and the head on "
        "`hidden[selected]`, (selected tokens, C).",
        "`F.cross_entropy(logits, labels[selected], reduction='sum')`, divided by `max(1, len(logits))`: 0 when "
        "nothing was selected.",
    ),
    praise="The head runs on what was selected, and nothing else.",
    other_ways=(ByHand, ByIgnoring, wrong()),
)

# --- 05.3 the loss at the start ---------------------------------------------------------------------------------------

V, C, STD = 30522, 768, 0.02  # BERT-base

start_loss = Prediction(
    id="05.3",
    right=math.log(V) + C * STD**2 / 2,
    tolerance=0.015,
    mistakes=(
        Mistake(
            "ln V",
            math.log(V),
            "ln V would be right if all logits were equal. They are not: a logit is a sum of C products, so its "
            "variance is C · s² and not s² alone, and half of it is added.",
            "https://github.com/jingyaogong/minimind/issues/548 (which loss does training start at?)",
        ),
        Mistake(
            "the whole variance",
            math.log(V) + C * STD**2,
            "you added the whole variance. The mean of e^z is e^(σ²/2): half of it is added.",
            "the 2 in the exponent forgotten, section 6",
        ),
        Mistake(
            "the standard deviation",
            math.log(V) + math.sqrt(C) * STD,
            "you added the standard deviation σ. What is added is σ²/2, half the variance.",
            "variance and standard deviation confused, section 6",
        ),
        Mistake(
            "half the standard deviation",
            math.log(V) + math.sqrt(C) * STD / 2,
            "you added σ/2. What is added is σ²/2.",
            "variance and standard deviation confused, section 6",
        ),
        Mistake(
            "s not squared",
            math.log(V) + C * STD / 2,
            "you added C · s / 2. The variance of a logit is C · s², with the square of s.",
            "the square forgotten; seen in answers to this exercise",
        ),
        Mistake(
            "taken away",
            math.log(V) - C * STD**2 / 2,
            "you took half the variance away. Random logits make the loss larger than ln V, because the mean of e^z "
            "is above 1.",
            "a wrong sign; seen in answers to this exercise",
        ),
        Mistake(
            "C in place of V",
            math.log(C) + C * STD**2 / 2,
            "you took ln C. The choice is among the V words of the vocabulary, so the loss starts from ln V.",
            "C and V exchanged; seen in answers to this exercise",
        ),
        Mistake(
            "the addition alone",
            C * STD**2 / 2,
            "that is σ²/2, what random logits add. The loss is ln V and that.",
            "a part of the formula; seen in answers to this exercise",
        ),
        Mistake(
            "one digit",
            10.5,
            "rounded too far: with one digit after the point the two terms cannot be told from others. Give two.",
            "a rounded answer; seen in answers to this exercise",
        ),
        Mistake(
            "bits",
            math.log2(V) + C * STD**2 / 2,
            "that is in bits, with the logarithm to base 2. torch's cross-entropy uses the natural one: math.log.",
            "losses in nats and in bits mixed up, see lesson 07",
        ),
    ),
    hints=(
        "Section 6: ln V + σ²/2. What is σ², the variance of a logit?",
        "A logit is a sum of C products of a number with mean square 1 and one with variance s²: σ² = C · s².",
        "`math.log(30522) + 768 * 0.02**2 / 2`",
    ),
    praise="A run that starts far from this has another initialisation, or a bug before its first step.",
)

# --- 05.4 find the bug: the mask that does nothing --------------------------------------------------------------------


def logits_and_originals(generator):
    logits = 2 * torch.randn(3, 8, 11, generator=generator)
    labels = torch.randint(0, 11, (3, 8), generator=generator)
    selected = torch.zeros(3, 8, dtype=torch.bool)
    selected[0, :1] = selected[1, 2:5] = selected[2, 3:] = True  # 1, 3 and 5 tokens of the three texts
    return logits, labels, selected


def another_batch(generator):
    logits = 2 * torch.randn(2, 6, 9, generator=generator)
    selected = torch.tensor([[True, False, False, True, False, False], [False] * 6])  # a text may have none
    return logits, torch.randint(0, 9, (2, 6), generator=generator), selected


def token_losses(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


def right_loss(logits, labels, selected):
    return (token_losses(logits, labels) * selected).sum() / selected.sum().clamp_min(1)


def mean_of_means(logits, labels, selected):
    losses = token_losses(logits, labels) * selected
    return (losses.sum(1) / selected.sum(1)).mean()


def a_loss_to_train_with(answer, case):
    """The limit of 05.4: 0 where nothing is selected, and a graph where something is."""
    logits, labels, selected = case
    none = answer(logits, labels, torch.zeros_like(selected))
    if none is None or float(none) != float(none):
        what = "None" if none is None else "NaN, because a mean of no numbers is 0 / 0"
        return (
            f"where nothing is selected it gives {what}. It should be 0 there: one NaN in training ruins every weight."
        )
    if float(none):
        return f"where nothing is selected it gives {float(none):.2f}, and not 0."
    loss = answer(logits.requires_grad_(), labels, selected)
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        return (
            "it comes without a graph, so no backward pass can start from it. Return the tensor itself, without "
            "`.item()`, `float(…)` or `.detach()`."
        )
    return None


selected_loss = Exercise(
    id="05.4",
    right=right_loss,
    inputs=logits_and_originals,
    limit=a_loss_to_train_with,
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda logits, labels, selected: token_losses(logits, labels).mean(),
            "the bug is still there: this is the mean over *all* positions, whatever `selected` says. cross_entropy "
            "has taken the mean before the mask comes; ask it for a loss per token, reduction='none'.",
            "https://github.com/d2l-ai/d2l-en/issues/2582",
        ),
        Mistake(
            "divided by all positions",
            lambda logits, labels, selected: (token_losses(logits, labels) * selected).mean(),
            "the right losses, but divided by the number of all positions: the result depends on how many tokens are "
            "around. Divide by the number of selected ones.",
            "https://github.com/ServiceNow/Fast-LLM/pull/426",
        ),
        Mistake(
            "a sum",
            lambda logits, labels, selected: (token_losses(logits, labels) * selected).sum(),
            "this is the sum: a batch with more selected tokens would take larger steps. Divide by their number.",
            "https://github.com/vid-koci/bert-commonsense/issues/1",
        ),
        Mistake(
            "a sum over all positions",
            lambda logits, labels, selected: token_losses(logits, labels).sum(),
            "this is the sum over all positions. Only selected tokens count, and their sum is divided by their number.",
            "https://github.com/CyberZHG/keras-bert/issues/188",
        ),
        Mistake(
            "a mean of means",
            mean_of_means,
            "you average each text first and then the texts: a word of a text with one selected token counts five "
            "times as much as one of a text with five. Add up all selected tokens, then divide once.",
            "https://github.com/meta-pytorch/torchtune/pull/1875",
        ),
        Mistake(
            "the others answered by 0",
            lambda logits, labels, selected: token_losses(logits, labels * selected).mean(),
            "where a token was not selected you set the answer to 0, and the mean is still over all positions: the "
            "model would be taught to answer 0 there. Those positions should not count at all.",
            "a mask multiplied into ids, where 0 is an id; seen in answers to this exercise",
        ),
        Mistake(
            "logits set to 0",
            lambda logits, labels, selected: token_losses(logits * selected[..., None], labels).mean(),
            "you set the logits to 0 where no token was selected. Each of these positions still counts, with a loss "
            "of ln V. Leave the positions out, or set their *losses* to 0 and divide by the number of the others.",
            "the mask multiplied into the wrong factor; seen in answers to this exercise",
        ),
        Mistake(
            "the others",
            lambda logits, labels, selected: right_loss(logits, labels, ~selected),
            "this is the loss of the positions that were *not* selected.",
            "https://github.com/huggingface/transformers/issues/2946 (which of the two are ignored?)",
        ),
    ),
    hints=(
        "What shape has the result of cross_entropy in the buggy version? Multiply a number by a mask: what remains?",
        "`reduction='none'` gives a loss for each position, (B · T,). Pick or weight the selected ones after that.",
        "`losses = F.cross_entropy(logits[selected], labels[selected], reduction='sum')`, divided by the number of "
        "selected tokens, or by 1 if there is none.",
    ),
    praise="The mean over the selected tokens, and 0, not NaN, for a batch without any.",
    also=another_batch,
    other_ways=(
        lambda z, y, s: F.cross_entropy(z[s], y[s], reduction="sum") / max(1, int(s.sum())),
        lambda z, y, s: F.cross_entropy(z[s], y[s]) if s.any() else torch.tensor(0.0),
        lambda z, y, s: -(z.log_softmax(-1).gather(-1, y[..., None])[..., 0] * s).sum() / max(1, s.sum()),
    ),
)

# --- 05.5 exact counts ------------------------------------------------------------------------------------------------


def padded_texts(generator):
    # where the least, the rounding, the specials, the most, a half and a text without words each make a difference
    lengths = [3, 13, 17, 160, 16, 30, 2]
    ids = torch.full((len(lengths), 160), PAD)
    for row, n in enumerate(lengths):
        ids[row, :n] = torch.randint(FIRST, 60, (n,), generator=generator)
        ids[row, 0], ids[row, n - 1] = 2, 3
    draw = torch.rand(len(lengths), 160, generator=generator)
    draw[:, 0] = 0.0  # [CLS] has the lowest draw of all
    ids[2, 4:7] = torch.tensor([FIRST, MASK, UNK])  # the edge of the special ids
    draw[2, 4:7] = torch.tensor([0.003, 0.002, 0.001])
    return ids, draw, 0.15, 15


def other_rate(generator):
    ids, draw, *_ = padded_texts(generator)
    ids[3, 85:] = PAD
    return ids[:, :90], draw[:, :90], 0.5, 9  # of three tokens two, and there is one ordinary word


def choose(count, candidates=lambda ids: ids >= FIRST):
    """Return an `exact_count` that takes count(ids, rate, most) candidates of each text, by the lowest draws."""

    def chosen(ids, draw, rate, most):
        draw = draw.masked_fill(~candidates(ids), 2.0)
        rank = draw.argsort(dim=1).argsort(dim=1)
        return (rank < count(ids, rate, most)[:, None]) & candidates(ids)

    return chosen


def real_tokens(ids):
    return (ids != PAD).sum(1)


def exact_count_by_loops(ids, draw, rate, most):
    selected = torch.zeros_like(ids, dtype=torch.bool)
    for row, text in enumerate(ids):
        words = [i for i, token in enumerate(text.tolist()) if token > 4]
        k = min(most, max(1, round(rate * int((text != 0).sum()))))
        selected[row, sorted(words, key=draw[row].tolist().__getitem__)[:k]] = True
    return selected


def how_many(ids, rate, most):
    return (rate * real_tokens(ids)).round().clamp(1, most)


chosen_right = choose(how_many)

exact_count = Exercise(
    id="05.5",
    right=chosen_right,
    inputs=padded_texts,
    also=other_rate,
    mistakes=(
        Mistake(
            "independent draws",
            lambda ids, draw, rate, most: (draw < rate) & (ids >= FIRST),
            "these are independent draws: the number differs from text to text and can be 0. Here it is fixed for each "
            "text: take that many with the lowest draws.",
            "https://github.com/huggingface/transformers/pull/1814",
        ),
        Mistake(
            "specials chosen",
            choose(how_many, lambda ids: ids != PAD),
            "the numbers are right, but [CLS] or [SEP] can be chosen. They count in n and are never selected.",
            "https://github.com/google-research/bert/issues/166",
        ),
        Mistake(
            "[MASK] chosen",
            choose(how_many, lambda ids: ids >= MASK),
            "one off: id 4 is [MASK], a special token, and yours chooses it. Ordinary words have the ids from 5 on.",
            "> and >= exchanged at the border of the special ids; seen in answers to this exercise",
        ),
        Mistake(
            "the first word never chosen",
            choose(how_many, lambda ids: ids > FIRST),
            "one off: id 5 is the first ordinary word, and yours can never choose it. Special are 0 to 4.",
            "> and >= exchanged at the border of the special ids; seen in answers to this exercise",
        ),
        Mistake(
            "padding counted",
            choose(lambda ids, rate, most: torch.full((len(ids),), rate * ids.shape[1]).round().clamp(1, most)),
            "n is the width of the batch, padding and all, so short texts lose far too many words. n counts a text's "
            "real tokens.",
            "https://github.com/lonePatient/albert_pytorch/issues/65",
        ),
        Mistake(
            "specials not counted",
            choose(lambda ids, rate, most: (rate * (ids >= FIRST).sum(1)).round().clamp(1, most)),
            "a sensible rule, but not Google's: there n counts [CLS] and [SEP] too, though they are never chosen.",
            "https://github.com/lonePatient/albert_pytorch/issues/65",
        ),
        Mistake(
            "cut off",
            choose(lambda ids, rate, most: (rate * real_tokens(ids)).floor().clamp(1, most)),
            "you cut off the fraction, 1.95 becomes 1. Google's code rounds: 2.",
            "int(round(...)) in create_pretraining_data.py of google-research/bert",
        ),
        Mistake(
            "rounded up",
            choose(lambda ids, rate, most: (rate * real_tokens(ids)).ceil().clamp(1, most)),
            "you round up, 2.4 becomes 3. The text asks for the nearest number: 2.",
            "math.ceil in place of round; seen in answers to this exercise",
        ),
        Mistake(
            "a half rounded up",
            choose(lambda ids, rate, most: (rate * real_tokens(ids) + 0.5).floor().clamp(1, most)),
            "you round a half up, 4.5 becomes 5. Python's `round` and `torch.round` give the even number, 4.",
            "rounding as at school; seen in answers to this exercise",
        ),
        Mistake(
            "the highest draws",
            lambda ids, draw, rate, most: chosen_right(ids, -draw, rate, most),
            "the numbers are right, but you take the words with the *highest* draws. The text asks for the lowest.",
            "topk without largest=False; seen in answers to this exercise",
        ),
        Mistake(
            "a single argsort",
            lambda ids, draw, rate, most: (
                (draw.masked_fill(ids < FIRST, 2.0).argsort(1) < how_many(ids, rate, most)[:, None]) & (ids >= FIRST)
            ),
            "`argsort` gives the positions in the order of their draws, and not the rank of each position. A second "
            "`argsort` of the first gives the ranks.",
            "argsort read as rank; seen in answers to this exercise",
        ),
        Mistake(
            "specials in the order",
            lambda ids, draw, rate, most: (
                (draw.argsort(1).argsort(1) < how_many(ids, rate, most)[:, None]) & (ids >= FIRST)
            ),
            "special tokens and padding take part in the order of the draws and are removed only after that, so fewer "
            "words are selected than the number says. Take them out before you sort.",
            "the two steps in the wrong order; seen in answers to this exercise",
        ),
        Mistake(
            "everything chosen",
            lambda ids, draw, rate, most: draw.argsort(1).argsort(1) < how_many(ids, rate, most)[:, None],
            "the numbers are right, but every position can be chosen, padding too. Only ordinary words can, the ids "
            "from 5 on.",
            "the specials forgotten; seen in answers to this exercise",
        ),
        Mistake(
            "specials where words run out",
            lambda ids, draw, rate, most: (
                draw.masked_fill(ids < FIRST, 2.0).argsort(1).argsort(1) < how_many(ids, rate, most)[:, None]
            ),
            "right where a text has enough words. Where it has fewer than the number says, special tokens are "
            "selected in their place: select all of its words and nothing else.",
            "a rank below the number, without a look at what it is the rank of; seen in answers to this exercise",
        ),
        Mistake(
            "none of a short text",
            choose(lambda ids, rate, most: (rate * real_tokens(ids)).round().clamp(0, most)),
            "right for longer texts, but of a text with three tokens none is chosen. The least is 1.",
            "https://github.com/huggingface/transformers/issues/16711 (no token selected, a loss of NaN)",
        ),
        Mistake(
            "always 20",
            choose(lambda ids, rate, most: (rate * real_tokens(ids)).round().clamp(1, 20)),
            "the upper limit is the argument `most`, not always 20.",
            "https://github.com/google-research/albert/issues/51",
        ),
        Mistake(
            "no upper limit",
            choose(lambda ids, rate, most: (rate * real_tokens(ids)).round().clamp_min(1)),
            "right but for the long text: no more than `most` are chosen: Google's tables have room for that many.",
            "https://github.com/google-research/albert/issues/51",
        ),
    ),
    hints=(
        "How many: `(rate * (ids != 0).sum(1)).round().clamp(1, most)`, one number for each text.",
        "Which: those with the lowest draws among the ordinary words. Give all others a draw of 2, and they come last.",
        "The rank of each position is `draw.argsort(1).argsort(1)`: selected are the ranks below the number. A loop "
        "over the texts with `draw[i].topk(k, largest=False)` does it too.",
    ),
    praise="Exactly as many as Google's BERT would choose.",
    other_ways=(exact_count_by_loops,),
)
