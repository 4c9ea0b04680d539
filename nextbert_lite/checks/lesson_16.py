"""The checks of lesson 16, What to predict."""

import math
import re

import numpy as np
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
    named,
    run,
    same,
    solution,
    untouched,
    with_weights,
)
from nextbert_lite.core.encoder import Encoder, EncoderConfig

__all__ = [
    "disentangled_attention",
    "draw_by_noise",
    "hint",
    "mine",
    "perfect_draw",
    "replaced_token_model",
    "solution",
]

# --- 16.1 the build: replaced tokens ----------------------------------------------------------------------------------


class ReplacedTokenModel(nn.Module):
    """ELECTRA: a generator replaces tokens, a discriminator asks of each token whether it was replaced."""

    def __init__(self, generator, encoder, tokenizer, rate=0.15, weight=50.0):
        super().__init__()
        self.generator, self.encoder, self.tokenizer = generator, encoder, tokenizer
        self.rate, self.weight = rate, weight
        C = encoder.config.width
        self.dense, self.out = nn.Linear(C, C), nn.Linear(C, 1)

    def ordinary(self, ids):
        """True where a token is no special one, (B, T)"""
        return ~torch.isin(ids, torch.tensor(self.tokenizer.special_ids, device=ids.device))

    def corrupt(self, ids, mask):
        """ids: the text, mask: True at real tokens, both (B, T) -> seen, replaced, the generator's loss"""
        selected = (torch.rand(ids.shape, device=ids.device) < self.rate) & self.ordinary(ids)
        masked = ids.masked_fill(selected, self.tokenizer.mask_id)
        logits = self.generator(masked, mask)[selected]  # (S, V), S tokens are selected
        loss = F.cross_entropy(logits, ids[selected], reduction="sum") / max(1, len(logits))
        seen = ids.clone()
        if len(logits):
            seen[selected] = torch.multinomial(logits.detach().softmax(-1), 1)[:, 0]
        return seen, seen != ids, loss

    def forward(self, ids, mask=None):
        """ids, mask: (B, T) -> the logit of "this token was replaced", (B, T)"""
        return self.out(F.gelu(self.dense(self.encoder(ids, mask))))[..., 0]

    def loss(self, ids, mask):
        """ids, mask: (B, T) -> the generator's loss + weight · the discriminator's, a scalar"""
        seen, replaced, generator_loss = self.corrupt(ids, mask)
        asked = self.ordinary(ids)
        logits = self(seen, mask)[asked]
        return generator_loss + self.weight * F.binary_cross_entropy_with_logits(logits, replaced[asked].to(logits))


PAD, MASK, FIRST = 0, 4, 5
V = 24


class Words:
    """What the text lets an answer use of a tokenizer."""

    def __init__(self, size, special=(0, 1, 2, 3, 4), mask_id=MASK):
        self.vocab_size, self.special_ids, self.mask_id, self.pad_id = size, tuple(special), mask_id, special[0]

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise Fault(f"you read `tokenizer.{name}`. Of the tokenizer use `special_ids` and `mask_id` alone.")


PLAIN = Words(V)
OTHER = Words(V, special=(0, 1, 2, 22, 23), mask_id=23)  # <s>, <pad>, </s>, <unk>, <mask>, as RoBERTa has them


def small_encoder(size=V, C=8):
    return Encoder(EncoderConfig(size, width=C, layers=1, heads=2, ffn_width=12, max_len=16))


def a_batch(generator, B=4, T=9, tokenizer=PLAIN):
    """Ordinary words between two special tokens, then padding; ids and mask (B, T)."""
    ordinary = torch.tensor([i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids])
    ids = ordinary[torch.randint(len(ordinary), (B, T), generator=generator)]
    pad, cls, sep = (tokenizer.special_ids[i] for i in ((0, 2, 3) if tokenizer is PLAIN else (1, 0, 2)))
    lengths = torch.tensor([T, T - 3, T - 1, T - 2])[:B]
    place = torch.arange(T)
    ids[:, 0] = cls
    ids = torch.where(place == lengths[:, None] - 1, sep, ids)
    return torch.where(place < lengths[:, None], ids, pad), place < lengths[:, None]


class Table(nn.Module):
    """A generator without context: the same logits (T, V) whatever the text; it remembers what it was asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.asked = []  # of each call a copy of the ids, and the mask
        self.read, self.version = None, 0  # the ids of the last call themselves

    def forward(self, ids, mask=None):
        self.asked.append((ids.detach().clone(), mask))
        self.read, self.version = ids, ids._version
        return self.logits[: ids.shape[1]].expand(*ids.shape, -1).clone()

    def loss(self, *_, **__):
        raise Fault(
            "`generator.loss` is called. Of the generator the text promises logits alone, `generator(ids, mask)`."
        )

    @property
    def encoder(self):
        raise Fault("`generator.encoder` is read. The encoder of the discriminator is `self.encoder`.")


def certain(generator, T=9, size=V):
    """Return a generator that always draws the same word at a place, and these words (T,)."""
    words = torch.randint(FIRST, size - 2, (T,), generator=generator)
    return Table(200.0 * F.one_hot(words, size)), words


def build_of(answer, generator, table=None, tokenizer=PLAIN, rate=1.0, weight=50.0):
    """Return the learner's model with seeded weights; its generator is a `Table`."""
    table = Table(torch.randn(16, V, generator=generator)) if table is None else table
    kept = table.logits.detach().clone()
    model = answer(table, small_encoder(), tokenizer, rate=rate, weight=weight)
    like = ReplacedTokenModel(Table(kept.clone()), small_encoder(), tokenizer, rate, weight)
    with_weights(model, like, generator)
    table.logits.data.copy_(kept)
    return model.train()


def called(function, *arguments):
    """Return function(*arguments); a Fault where torch refuses what was drawn from."""
    try:
        return function(*arguments)
    except RuntimeError as error:
        if "multinomial" in str(error) or "probability tensor" in str(error):
            raise Fault(
                "`torch.multinomial` was given numbers that are no probabilities. Take the softmax of the logits first."
            ) from None
        raise


def three(model, ids, mask):
    result = called(model.corrupt, ids, mask)
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise Fault(f"`corrupt` returns {describe(result)}; expected seen, replaced, and the generator's loss.")
    if isinstance(result[0], torch.Tensor) and result[0].dtype == torch.bool:
        raise Fault("the labels come first in the result of `corrupt`. Return seen, replaced, loss.")
    if isinstance(result[1], torch.Tensor) and result[1].dtype != torch.bool:
        raise Fault(f"`replaced` is of the type {result[1].dtype}. It should be boolean, as `seen != ids` is.")
    return result


def the_logits(answer, generator):
    model = build_of(answer, generator)
    model.dense.weight.data.mul_(2.5)  # so that the exact GELU and the approximate one lie apart
    ids, mask = a_batch(generator)
    mask[0, 3] = False  # hides more than padding
    logits = untouched(model, ids, mask)
    model.double()
    with torch.no_grad():
        exactly, dense = model(ids, mask), model.dense(model.encoder(ids, mask))
        near, gelu = (model.out(F.gelu(dense, approximate=kind))[..., 0] for kind in ("tanh", "none"))
    if exactly.shape == near.shape and torch.allclose(exactly, near, rtol=0, atol=1e-10):
        if not torch.allclose(near, gelu, rtol=0, atol=1e-7):
            raise Fault("the GELU is the approximate one, with a tanh. The text asks for the exact one, `F.gelu(x)`.")
    model.float()
    return logits, model(ids[1:2], mask[1:2])


NO_MASK_TOKEN = "the generator reads the text without a [MASK]: it sees what it should guess."
OTHER_SIDE = (
    "tokens are selected with the probability 1 − rate. `torch.rand(ids.shape) < self.rate` is True with the "
    "probability rate."
)
SOME_IN_SIGHT = (
    "some selected tokens stay in sight of the generator. Here each of them becomes [MASK] for it (ELECTRA's code "
    "leaves 15 % of them as they are)."
)
EIGHTY = (
    "some selected tokens stay as they are for the generator or become another word, as in lesson 05's 80/10/10. Here "
    "each of them becomes [MASK]."
)
FIXED_RATE = "the rate is a number in your code. Use `self.rate`."
AGAIN = (
    "the generator is called again, with another text. Its loss comes from the same logits as the draws: those that "
    "it gives where it reads [MASK]."
)


def many(T=16):
    """Enough ordinary words to count with, between two special tokens: ids and mask (250, T)."""
    ids = torch.randint(FIRST, V, (250, T), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = 2, 3
    return ids, torch.ones_like(ids, dtype=torch.bool)


def read_at(answer, generator, rate):
    """Return what the generator reads at the ordinary tokens of many texts, and the tokens."""
    ids, mask = many()
    table = Table(torch.zeros(16, V))
    called(build_of(answer, generator, table, rate=rate).corrupt, ids, mask)
    return table.asked[0][0][:, 1:-1], ids[:, 1:-1]


def what_it_reads(answer, generator):
    table, _ = certain(generator)
    model = build_of(answer, generator, table)
    ids, mask = a_batch(generator)
    called(untouched, model.corrupt, ids, mask)
    if not table.asked:
        raise Fault("`corrupt` does not call the generator: `self.generator(masked, mask)`.")
    asked, its_mask = table.asked[0]
    if its_mask is None or its_mask.dtype != torch.bool or not torch.equal(its_mask, mask):
        raise Fault("the generator is not given the mask (B, T): it would attend to padding.")
    special = ids < FIRST
    if torch.equal(asked[special], ids[special]) and (asked[~special] != MASK).any():
        read, words = read_at(answer, generator, 1.0)
        if (read == read[0, 0]).all():
            raise Fault(
                f"the generator reads id {read[0, 0]} at the selected tokens; [MASK] is `mask_id`, here {MASK}."
            )
        if (read == words).all():
            turned = (read_at(answer, generator, 0.0)[0] == MASK).all()
            raise Fault(OTHER_SIDE if turned else NO_MASK_TOKEN)
        if ((read != words) & (read != MASK)).any():
            raise Fault(EIGHTY)
        full, half = ((read_at(answer, generator, r)[0] == MASK).double().mean() for r in (1.0, 0.5))
        raise Fault(FIXED_RATE if abs(full - half) < 0.05 else SOME_IN_SIGHT)
    if not all(torch.equal(asked, again) for again, _ in table.asked):
        raise Fault(AGAIN)
    return asked


LIMIT = 5.8  # standard deviations of a normal variable; a right program exceeds it once in 150 million tests
SAME_POSITIONS = "the same positions are selected in all texts. Draw a number for each token: `torch.rand(ids.shape)`."
WHOLE_TEXTS = "all tokens of a text are selected, or none. Draw a number for each token: `torch.rand(ids.shape)`."
FIXED_NUMBER = (
    "each text, or each batch, has the same number of selected tokens. The text asks for independent draws, so the "
    "number varies."
)
NOT_TORCHS = (
    "after the same `torch.manual_seed` other tokens are selected. Use torch's own random numbers, so that its seed "
    "decides."
)
WORDS_NOT_TORCHS = (
    "after the same `torch.manual_seed` other words are drawn. Use torch's own random numbers, so that its seed "
    "decides."
)


def the_selection(answer, generator):
    ids, mask = many()
    for rate in (0.15, 0.4):
        table = Table(torch.zeros(16, V))
        model = build_of(answer, generator, table, rate=rate)
        seen, _, _ = three(model, ids, mask)
        selected = table.asked[0][0] == MASK
        if (seen != ids)[~selected].any():
            raise Fault("tokens are changed that were not selected: only selected ones get the generator's word.")
        inner = selected[:, 1:-1]
        if torch.equal(inner, inner[:1].expand_as(inner)):
            raise Fault(SAME_POSITIONS)
        if torch.equal(inner, inner[:, :1].expand_as(inner)):
            raise Fault(WHOLE_TEXTS)
        share = inner.double().mean()
        if abs(float(share) - rate) > LIMIT * math.sqrt(rate * (1 - rate) / inner.numel()):
            raise Fault(f"at the rate {rate} the generator sees {100 * share:.0f} % of the ordinary tokens as [MASK].")
        of_rows = inner.sum(1).double().var() / (14 * rate * (1 - rate))
        if of_rows < 0.5:
            raise Fault(FIXED_NUMBER)
        if of_rows > 1.8:
            raise Fault("the tokens of a text are not selected by independent draws.")
        model.corrupt(ids, mask)
        if torch.equal(table.asked[-1][0] == MASK, selected):
            raise Fault("two calls one after the other select the same tokens.")
    few = a_batch(generator)
    counts = set()
    for _ in range(12):  # the same number twelve times: less than once in 10^8 by independent draws
        model.corrupt(*few)
        counts.add(int((table.asked[-1][0] == MASK).sum()))
    if len(counts) == 1:
        raise Fault(FIXED_NUMBER)
    read = []
    for _ in range(2):
        torch.manual_seed(5)
        model.corrupt(ids[:20], mask[:20])
        read.append(table.asked[-1][0])
    if not torch.equal(*read):
        raise Fault(NOT_TORCHS)
    return True


NEVER_THE_ORIGINAL = "the original word is never drawn. ELECTRA allows it, and calls the token real then."
ONE_DRAW = "all selected tokens get one word. Each needs its own draw, from its own distribution."
TWICE = (
    "the softmax is taken twice, so all words come up nearly equally often. `torch.multinomial` takes probabilities, "
    "`Categorical(logits=…)` logits."
)
NOT_THE_GENERATORS = (
    "where the generator is certain of a word, others come up. Draw each word from the softmax of the generator's "
    "logits at this token, over the vocabulary, which is the last dimension."
)


def the_draws(answer, generator):
    """Certain draws: what is seen, and which tokens count as replaced."""
    table, words = certain(generator)
    model = build_of(answer, generator, table)
    ids, mask = a_batch(generator)
    ids[1, 1:4], ids[3, 2:5] = words[1:4], words[2:5]  # the generator is right there
    seen, replaced, _ = three(model, ids, mask)
    at = ids >= FIRST
    expected = words.expand_as(ids)
    if torch.is_tensor(seen) and seen.shape == ids.shape and (seen != expected)[at].any() and (seen[at] != MASK).any():
        if (seen[at] == seen[at][0]).all():
            raise Fault(ONE_DRAW)
        wrong = (seen != expected) & at
        if torch.equal(wrong, (ids == expected) & at):
            raise Fault(NEVER_THE_ORIGINAL)
        texts, mask = many(9)
        seen, _, _ = three(model, texts, mask)
        right = (seen == words)[:, 1:-1].double().mean()
        raise Fault(TWICE if abs(right.item() - math.e / (math.e + V - 1)) < 0.035 else NOT_THE_GENERATORS)
    return seen, replaced


SHARES = (0.6, 0.3, 0.1)


def the_chances(answer, generator):
    """Draws by chance: each of three words as often as the generator says, and all words where it knows nothing."""
    words = torch.randperm(V - FIRST, generator=generator)[:3] + FIRST
    logits = torch.full((16, V), -60.0)
    logits[:, words] = torch.tensor(SHARES).log() + 3.0
    model = build_of(answer, generator, Table(logits))
    ids = torch.randint(FIRST, V, (300, 16), generator=generator)
    mask = torch.ones_like(ids, dtype=torch.bool)
    seen, _, _ = three(model, ids, mask)
    counts = torch.stack([(seen == word).sum() for word in words]).double()
    if counts.sum() < seen.numel():
        raise Fault("words come up to which the generator gives no probability.")
    if counts[0] == seen.numel():
        raise Fault("always the generator's likeliest word comes up.")

    def fits(temperature):
        shares = (torch.tensor(SHARES, dtype=torch.float64).log() / temperature).softmax(0) * seen.numel()
        return float(((counts - shares) ** 2 / shares).sum()) <= 37.0  # exp(-37 / 2) is 1e-8

    if not fits(1.0):
        for temperature, name in ((0.5, "½"), (2.0, "2")):
            if fits(temperature):
                raise Fault(AT_A_TEMPERATURE.format(name))
        shown = " / ".join(f"{100 * c / seen.numel():.0f}" for c in counts)
        raise Fault(
            f"the generator gives three words 60 / 30 / 10 %, and they are drawn in {shown} %. If you add noise and "
            "take the largest, it should be −log(−log u)."
        )
    for alike in (seen[:, 1:] == seen[:, :-1], seen[1:] == seen[:-1]):
        if abs(float(alike.double().mean()) - sum(p * p for p in SHARES)) > 0.05:
            raise Fault("neighbouring tokens get the same draw; each selected token needs its own.")
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(three(model, ids[:40], mask[:40])[0])
    if not torch.equal(*drawn):
        raise Fault(WORDS_NOT_TORCHS)
    seen, _, _ = three(build_of(answer, generator, Table(torch.zeros(16, V))), ids[:80], mask[:80])
    never = [word for word in range(V) if not (seen == word).any()]  # by chance less than once in 10^22
    if never == list(PLAIN.special_ids):
        raise Fault(NO_SPECIAL_WORD)
    if never:
        raise Fault(f"{len(never)} of {V} equally likely words never come up. Draw from the whole vocabulary.")
    return True


AT_A_TEMPERATURE = (
    "the words are not drawn with the generator's probabilities: logits or probabilities are changed before the draw, "
    "as by a temperature of {}. The text asks for the generator's own."
)
NO_SPECIAL_WORD = (
    "the special tokens are never drawn. The text asks for the generator's own distribution, over the whole vocabulary."
)
NO_GRAPH = (
    "the generator's loss has no graph, so the generator never learns. Only the *draw* is without a gradient; compute "
    "the logits and the cross-entropy with one."
)
OVERWRITTEN = (
    "you overwrite the text that the generator read, which its backward pass still needs. Write the draws into a copy, "
    "`ids.clone()`."
)
FALSE_LOSSES = {  # a switch of `wrong_model` -> what to say, and where it was seen
    "everywhere": (
        "the generator's loss goes over all tokens. It is the MLM loss of lesson 05: over the selected ones only.",
        "https://github.com/d2l-ai/d2l-en/issues/2582 (a mask that does nothing)",
    ),
    "ordinary": (
        "the generator's loss goes over all ordinary tokens. Lesson 05's goes over the selected ones only.",
        "labels without the ignored ones; seen in answers to lesson 05",
    ),
    "real": (
        "the generator's loss goes over all real tokens. Lesson 05's goes over the selected ones only.",
        "the attention mask taken for the selection; seen in answers to lesson 05",
    ),
    "replaced": (
        "the generator's loss goes over replaced tokens only. It goes over all selected ones: also where the draw was "
        "right the generator learns.",
        "the discriminator's labels taken for the selection; a slip that the text invites, not yet seen in answers",
    ),
    "sum": (
        "the generator's loss is a sum over the selected tokens; expected their mean.",
        'reduction="sum"; seen in answers to lesson 05',
    ),
    "by ordinary": (
        "the sum is divided by the number of ordinary tokens. Divide by the number of selected ones.",
        "https://github.com/d2l-ai/d2l-en/issues/2582",
    ),
    "by real": (
        "the sum is divided by the number of real tokens. Divide by the number of selected ones.",
        "https://github.com/d2l-ai/d2l-en/issues/2582",
    ),
    "by all": (
        "the sum is divided by the number of all tokens, B · T. Divide by the number of selected ones.",
        "https://github.com/d2l-ai/d2l-en/issues/2582",
    ),
    "texts": (
        "you average within each text and then over the texts. Take one mean over all selected tokens of the batch.",
        "google-research/electra computes per_example_loss so, for evaluation; its training loss is one mean",
    ),
    "drawn": (
        "the target of the generator's loss is the drawn word. It should be the original.",
        "the text overwritten before the loss; a slip that the text invites, not yet seen in answers",
    ),
    "masked": (
        "the target of the generator's loss is [MASK]. It should be the original word.",
        "the masked text as labels; seen in answers to lesson 05",
    ),
    "softmax": (
        "`F.cross_entropy` gets probabilities. It takes the logits and does the softmax itself.",
        "a softmax before CrossEntropyLoss, whose documentation asks for unnormalized logits",
    ),
}


def false_losses(logits, ids, seen, masked, selected, ordinary, real):
    """Return what the generator's loss is after each of the usual mistakes, by its name."""

    def over(where, target=ids, z=logits):
        return F.cross_entropy(z[where], target[where])

    n, total = selected.sum(), over(selected) * selected.sum()
    each = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none") * selected
    return {
        "everywhere": over(torch.ones_like(selected)),
        "ordinary": over(ordinary),
        "real": over(real),
        "replaced": over(seen != ids),
        "sum": total,
        "by ordinary": total / ordinary.sum(),
        "by real": total / real.sum(),
        "by all": total / ids.numel(),
        "texts": (each.sum(1) / selected.sum(1)).mean(),
        "drawn": over(selected, seen),
        "masked": over(selected, masked),
        "softmax": over(selected, z=logits.softmax(-1)),
        "nan": total / n,
    }


def generators_loss(answer, generator):
    ids, mask = a_batch(generator)
    for rate in (0.5, 1.0):
        table = Table(torch.randn(16, V, generator=generator))
        model = build_of(answer, generator, table, rate=rate)
        seen, _, loss = three(model, ids, mask)
        if not isinstance(loss, torch.Tensor):
            raise Fault(f"the generator's loss is {describe(loss)}; expected a tensor without dimensions.")
        (gradient,) = torch.autograd.grad(loss, table.logits, allow_unused=True) if loss.requires_grad else (None,)
        if gradient is None:
            raise Fault(NO_GRAPH)
        if table.read._version != table.version:
            raise Fault(OVERWRITTEN)
        masked, logits = table.asked[0][0], table.logits.detach()[: ids.shape[1]].expand(*ids.shape, -1)
        known = false_losses(logits, ids, seen, masked, masked == MASK, ids >= FIRST, mask)
        right = known.pop("nan")
        if rate < 1 and not torch.allclose(loss.detach(), right, rtol=1e-4, atol=1e-5):
            for name, value in known.items():
                if torch.allclose(loss.detach(), value, rtol=1e-4, atol=1e-5):
                    raise Fault(FALSE_LOSSES[name][0])
            raise Fault(
                f"of half of the tokens the generator's loss is {loss.item():.4f}; expected {right.item():.4f}."
            )
    return loss, 10 * gradient


def given(model, ids, generator):
    """Put a fixed corruption in place of the model's own; one of its words is a special token."""
    special = torch.tensor(model.tokenizer.special_ids)
    replaced = (torch.rand(ids.shape, generator=generator) < 0.4) & ~torch.isin(ids, special)
    seen = torch.where(replaced, (ids - FIRST + 1) % (V - FIRST - 2) + FIRST, ids)
    seen[tuple((~torch.isin(ids, special)).nonzero()[-1])] = model.tokenizer.mask_id
    replaced = seen != ids
    generator_loss = model.generator.logits.mean() + 1.25
    model.corrupt = lambda *_, **__: (seen, replaced, generator_loss)


def whole_loss(answer, generator, weight=50.0, tokenizer=PLAIN, hide=False, **sizes):
    model = build_of(answer, generator, tokenizer=tokenizer, weight=weight)
    ids, mask = a_batch(generator, tokenizer=tokenizer, **sizes)
    mask[:, 0] &= not hide  # more than padding: [CLS]
    given(model, ids, generator)
    try:
        loss = untouched(model.loss, ids, mask)
    except AttributeError as error:
        name = re.search(rf"'{type(model).__name__}' object has no attribute '(\w+)'", str(error))
        if name is None:
            raise
        raise Fault(
            f"`loss` reads `self.{name[1]}`, which `__init__` does not set. It should need no more than the three "
            "results "
            "of `self.corrupt`."
        ) from None
    if model.generator.asked:
        raise Fault("`loss` calls the generator. `self.corrupt` does that; `loss` works with its three results.")
    if not isinstance(loss, torch.Tensor):
        raise Fault(f"the loss is {describe(loss)}; expected a tensor without dimensions.")
    return loss


def the_weight(answer, generator):
    return tuple(whole_loss(answer, generator, weight=weight, hide=weight < 1) for weight in (1.0, 50.0, 0.25))


def the_gradients(answer, generator):
    """Through the model's own `corrupt`, with certain draws: nothing of it depends on a random number."""
    table, _ = certain(generator, T=9)
    table.logits.data.mul_(0.1)  # e^20 times as probable as all others together
    model = build_of(answer, generator, table, weight=3.0)
    ids, mask = a_batch(generator)
    model.loss(ids, mask).backward()
    if table.logits.grad is None:
        raise Fault("no gradient reaches the generator: it is trained by its own loss, within the whole one.")
    parameters = {name: p.grad for name, p in named(model).items() if not name.startswith("generator")}
    if none := [name for name, g in parameters.items() if g is None]:
        raise Fault(f"no gradient reaches {', '.join(none[:3])}.")
    return table.logits.grad, model.dense.weight.grad, model.encoder.tokens.weight.grad


def others(answer, generator):
    table, _ = certain(generator, T=12)
    model = build_of(answer, generator, table, tokenizer=OTHER)
    ids, mask = a_batch(generator, B=3, T=12, tokenizer=OTHER)
    seen, replaced, _ = three(model, ids, mask)
    asked = table.asked[-1][0]
    none = torch.tensor([[2, 3, PAD]]), torch.tensor([[True, True, False]])
    empty = build_of(answer, generator, Table(torch.zeros(16, V)))
    nothing, no_label, no_loss = three(empty, *none)
    whole = whole_loss(answer, generator, tokenizer=OTHER, B=3, T=12)
    return asked, seen, replaced, nothing, no_label, no_loss, whole


def wrong_model(**switches):
    """Return a class as a learner may write it; its switches are the mistakes."""
    names = "special pick draw label graph input order asked reduce weight sign head detach out rate give".split()
    s = dict.fromkeys(names) | switches
    assert list(s) == names, switches

    def selection(self, ids):
        B, T = ids.shape
        rate, ordinary = 0.15 if s["rate"] else self.rate, self.ordinary(ids)
        if s["pick"] == "batch":
            where = ordinary.nonzero()
            selected = torch.zeros_like(ordinary)
            selected[tuple(where[torch.randperm(len(where))[: round(rate * len(where))]].T)] = True
            return selected
        if s["pick"] == "fixed":
            rank = torch.rand(ids.shape).masked_fill(~ordinary, 2.0).argsort(1).argsort(1)
            return ordinary & (rank < (rate * ordinary.sum(1, keepdim=True)).round())
        if s["pick"] == "seed":
            torch.manual_seed(0)
        if s["pick"] == "numpy":
            return ordinary & (torch.from_numpy(np.random.default_rng().random(ids.shape)) < rate)
        u = torch.rand({"positions": (T,), "texts": (B, 1)}.get(s["pick"], (B, T)))
        return ordinary & (u > rate if s["pick"] == "side" else u < rate)

    def read(self, ids, selected):
        if s["input"] == "open":
            return ids
        four = s["special"] in ("five", "four")
        masked = ids.masked_fill(selected, PAD if s["input"] == "pad" else MASK if four else self.tokenizer.mask_id)
        if s["input"] == "80":
            return torch.where(torch.rand(ids.shape) < 0.8, masked, ids)
        if s["input"] == "10":
            u = torch.rand(ids.shape)
            random = torch.randint(FIRST, V - 2, ids.shape)
            return torch.where(selected & (u > 0.9), random, torch.where(u > 0.8, ids, masked))
        return masked

    def draws(logits, original):
        """logits: (S, V) -> (S,)"""
        p = logits.softmax(-1)
        if s["draw"] == "argmax":
            return p.argmax(-1)
        if s["draw"] == "even":
            return torch.randint(logits.shape[-1], (len(logits),))
        if s["draw"] == "other":
            p[torch.arange(len(p)), original] = 0
            p = p + 1e-30
        elif s["draw"] == "special":
            p[:, list(PLAIN.special_ids)] = 0
            p = p + 1e-30 * (torch.arange(p.shape[-1]) >= FIRST)
        elif s["draw"] in ("sharp", "flat"):
            p = ((2 if s["draw"] == "sharp" else 0.5) * logits).softmax(-1)
        elif s["draw"] == "twice":
            p = p.softmax(-1)
        elif s["draw"] == "logits":
            p = logits
        elif s["draw"] == "one":
            p = p.mean(0, keepdim=True)
        elif s["draw"] == "across":
            p = logits.softmax(0)
        if s["draw"] == "numpy":
            u = torch.from_numpy(np.random.default_rng().random((len(p), 1)))
            return (p.double().cumsum(-1) < u).sum(-1).clamp(max=p.shape[-1] - 1)
        return torch.multinomial(p, 1)[:, 0].expand(len(logits))

    class Wrong(ReplacedTokenModel):
        def ordinary(self, ids):
            if s["special"] == "all":
                return torch.ones_like(ids, dtype=torch.bool)
            if s["special"] == "turned":
                return ~super().ordinary(ids)
            if s["special"] == "pad":
                return ids != self.tokenizer.pad_id
            if s["special"] in ("five", "least five"):
                return ids >= FIRST
            if s["special"] == "max":
                return ids > max(self.tokenizer.special_ids)
            return super().ordinary(ids)

        def corrupt(self, ids, mask):
            selected = selection(self, ids)
            masked = read(self, ids, selected)
            with torch.set_grad_enabled(s["graph"] != "no_grad"):
                given = self.generator(masked, mask)
            logits = given.detach() if s["graph"] == "detach" else given
            seen = masked if s["draw"] in ("left", "over") else ids.clone()
            with torch.no_grad():
                if selected.any() and s["draw"] != "left":
                    seen[selected] = draws(logits[selected].detach(), ids[selected])
                if s["draw"] == "everywhere":
                    anew = torch.multinomial(logits.detach().flatten(0, 1).softmax(-1), 1).view(ids.shape)
                    seen = torch.where(self.ordinary(ids), anew, ids)
            if s["graph"] == "again":
                logits = self.generator(seen, mask)
            if s["order"] in FALSE_LOSSES:
                loss = false_losses(logits, ids, seen, masked, selected, self.ordinary(ids), mask)[s["order"]]
            else:
                loss = F.cross_entropy(logits[selected], ids[selected], reduction="sum")
                loss = loss / (selected.sum() if s["order"] == "nan" else max(1, int(selected.sum())))
            replaced = {"selected": selected, "original": seen == ids}.get(s["label"], seen != ids)
            if s["give"] == "order":
                return replaced, seen, loss
            return seen, replaced.long() if s["give"] == "numbers" else replaced, loss

        def forward(self, ids, mask=None):
            hidden = self.encoder(ids, None if s["head"] == "mask" else mask)
            if s["head"] == "first":
                hidden = hidden[:, :1].expand_as(hidden)
            before = hidden if s["head"] == "no dense" else self.dense(hidden)
            functions = {"relu": F.relu, "tanh": torch.tanh, "near": lambda x: F.gelu(x, approximate="tanh")}
            if s["head"] == "linear":
                before = hidden
            elif s["head"] not in ("no activation", "after"):
                before = functions.get(s["head"], F.gelu)(before)
            logits = self.out(before)
            if s["head"] == "after":
                logits = F.gelu(logits)
            if s["head"] == "shape":
                return logits
            if s["head"] == "squeeze":
                return logits.squeeze()
            return logits[..., 0].sigmoid() if s["head"] == "sigmoid" else logits[..., 0]

        def loss(self, ids, mask):
            seen, replaced, generator_loss = self.corrupt(ids, mask)
            asked = {
                "all": torch.ones_like(mask),
                "real": mask,
                "replaced": replaced,
                "not replaced": self.ordinary(ids) & ~replaced,
                "seen": self.ordinary(seen),
            }.get(s["asked"], self.ordinary(ids))
            text = {"clean": ids, "masked": torch.where(replaced, self.tokenizer.mask_id, seen)}.get(s["out"], seen)
            logits = self(text, None if s["out"] == "mask" else mask)
            labels = replaced.to(logits)
            labels = 1 - labels if s["sign"] else labels
            logits = logits.sigmoid() if s["out"] == "sigmoid" else logits
            found = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
            if s["reduce"] == "sum":
                loss = (found * asked).sum()
            elif s["reduce"] == "texts":
                loss = ((found * asked).sum(1) / asked.sum(1)).mean()
            elif s["reduce"] == "all":
                loss = (found * asked).mean()
            else:
                loss = found[asked].mean()
            if s["detach"]:
                generator_loss = generator_loss.detach()
            return {
                "generator": self.weight * generator_loss + loss,
                "both": self.weight * (generator_loss + loss),
                "none": generator_loss + loss,
                "fifty": generator_loss + 50.0 * loss,
                "only": self.weight * loss,
                "mean": (generator_loss + self.weight * loss) / 2,
                "mix": (1 - self.weight) * generator_loss + self.weight * loss,
            }.get(s["weight"], generator_loss + self.weight * loss)

    return Wrong


class ByGumbel(nn.Module):
    """Another way: the Gumbel trick, index assignment, labels from the drawn words, a sum over a mask."""

    def __init__(self, generator, encoder, tokenizer, rate=0.15, weight=50.0):
        super().__init__()
        self.generator = generator
        self.encoder = encoder
        self.dense = nn.Linear(encoder.config.width, encoder.config.width)
        self.out = nn.Linear(encoder.config.width, 1)
        self.tokenizer, self.rate, self.weight = tokenizer, rate, weight

    def words(self, ids):
        found = torch.ones_like(ids, dtype=torch.bool)
        for i in self.tokenizer.special_ids:
            found &= ids != i
        return found

    def corrupt(self, ids, mask):
        chosen = torch.bernoulli(torch.full(ids.shape, float(self.rate))).bool() & self.words(ids)
        logits = self.generator(torch.where(chosen, self.tokenizer.mask_id, ids), mask)
        labels = ids.masked_fill(~chosen, -100)
        loss = F.cross_entropy(logits.transpose(1, 2), labels, reduction="sum") / chosen.sum().clamp(min=1)
        with torch.no_grad():
            noise = -torch.log(-torch.log(torch.rand(logits.shape).clamp(1e-20, 1 - 1e-7)))
            drawn = (logits + noise).argmax(-1)
        return torch.where(chosen, drawn, ids), chosen & (drawn != ids), loss

    def forward(self, ids, mask=None):
        hidden = self.encoder(ids, mask)
        return self.out(nn.GELU()(self.dense(hidden))).squeeze(-1)

    def loss(self, ids, mask):
        seen, replaced, generator_loss = self.corrupt(ids, mask)
        words = self.words(ids).float()
        each = F.binary_cross_entropy_with_logits(self.forward(seen, mask), replaced.float(), reduction="none")
        return generator_loss + self.weight * (each * words).sum() / words.sum()


class ByCategorical(ReplacedTokenModel):
    """Another way: torch.distributions; special tokens told by the original text or by what is seen, the same."""

    def corrupt(self, ids, mask):
        special = torch.isin(ids, torch.as_tensor(list(self.tokenizer.special_ids)))
        selected = torch.zeros_like(mask)
        selected[~special] = torch.rand(int((~special).sum())) < self.rate
        masked = ids.clone()
        masked[selected] = self.tokenizer.mask_id
        logits = self.generator(masked, mask)
        if not selected.any():
            return ids.clone(), torch.zeros_like(selected), logits.sum() * 0
        loss = F.nll_loss(logits[selected].log_softmax(-1), ids[selected])
        seen = ids.clone()
        seen[selected] = torch.distributions.Categorical(logits=logits[selected].detach()).sample()
        return seen, ~torch.eq(seen, ids), loss


replaced_token_model = Build(
    id="16.1",
    course=ReplacedTokenModel,
    stages=(
        Stage("the logits", the_logits),
        Stage("what the generator reads", what_it_reads),
        Stage("the selection", the_selection),
        Stage("labels", the_draws),
        Stage("the draw", the_chances),
        Stage("the generator's loss", generators_loss),
        Stage("the loss", the_weight),
        Stage("gradients", the_gradients),
        Stage(OTHER_SIZES, others),
    ),
    mistakes=(
        Mistake(
            "no dense layer",
            wrong_model(head="linear"),
            "the head is one linear layer. `dense` and a GELU come before `out`.",
            "Hugging Face's classification heads of one layer; ELECTRA's code has dense, activation, dense",
        ),
        Mistake(
            "no activation",
            wrong_model(head="no activation"),
            "there is no activation: `dense` and `out` alone are one linear layer. The exact GELU, `F.gelu`, comes "
            "between them.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "dense left out",
            wrong_model(head="no dense"),
            "`dense` is not used. The encoder's vectors go through `dense`, the GELU and `out`.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the activation last",
            wrong_model(head="after"),
            "the GELU comes after `out`. It belongs between `dense` and `out`.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the first vector for all",
            wrong_model(head="first"),
            "each token gets the logit of the first token, [CLS]. Take each token's own vector.",
            "sentence classification, where [CLS] stands for the text",
        ),
        Mistake(
            "a ReLU",
            wrong_model(head="relu"),
            "the activation is a ReLU. The text asks for the exact GELU, `F.gelu`.",
            "ReLU as a habit; torch's nn.TransformerEncoderLayer has it by default",
        ),
        Mistake(
            "a tanh",
            wrong_model(head="tanh"),
            "the activation is a tanh, which BERT's pooler has. The text asks for the exact GELU, `F.gelu`.",
            "BERT's pooler, google-research/bert modeling.py",
        ),
        Mistake(
            "the approximate GELU",
            wrong_model(head="near"),
            "the GELU is the approximate one, with a tanh. The text asks for the exact one, `F.gelu(x)`.",
            "google-research/bert, modeling.gelu, whose formula has the tanh",
        ),
        Mistake(
            "a last dimension of one",
            wrong_model(head="shape"),
            "the logits have the shape (B, T, 1). Take the last dimension away: `[..., 0]`. Against labels (B, T) it "
            "would broadcast to (B, T, T) somewhere.",
            "a last dimension kept, as lesson 13's heads return one number a class",
        ),
        Mistake(
            "all dimensions of one taken away",
            wrong_model(head="squeeze"),
            "for a batch of one text the first dimension is gone, too. `squeeze(-1)` or `[..., 0]` takes the last one "
            "away alone.",
            "squeeze() without a dimension, of which torch's documentation warns",
        ),
        Mistake(
            "a probability in place of a logit",
            wrong_model(head="sigmoid"),
            "`forward` returns probabilities. Return logits: `binary_cross_entropy_with_logits` takes the sigmoid "
            "itself, more exactly.",
            "a sigmoid before BCEWithLogitsLoss, whose documentation says that it has its own",
        ),
        Mistake(
            "no mask for the discriminator",
            wrong_model(head="mask"),
            "the encoder does not get the mask that `forward` is given, which may hide more than padding. Pass it on.",
            "an encoder called with the ids alone, which guesses the mask from the padding",
        ),
        Mistake(
            "the text itself to the generator",
            wrong_model(input="open"),
            NO_MASK_TOKEN,
            "masked labels without masked ids; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the other side of the rate",
            wrong_model(pick="side"),
            OTHER_SIDE,
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "padding for [MASK]",
            wrong_model(input="pad"),
            "the generator reads id 0 at the selected tokens; [MASK] is `mask_id`, here 4.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "special tokens for ordinary ones",
            wrong_model(special="turned"),
            "`ordinary` is the wrong way round: it is True at the special tokens.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "special tokens selected",
            wrong_model(special="all"),
            "special tokens and padding are selected too. Those in `tokenizer.special_ids` never are.",
            "https://github.com/dmlc/gluon-nlp/issues/1324 (padding among ELECTRA's masked positions)",
        ),
        Mistake(
            "only padding spared",
            wrong_model(special="pad"),
            "padding is spared, but [CLS] and [SEP] are selected. All of `tokenizer.special_ids` stay out.",
            "https://github.com/AnswerDotAI/ModernBERT/pull/218",
        ),
        Mistake(
            "80 per cent of the selected are masked",
            wrong_model(input="80"),
            SOME_IN_SIGHT,
            "google-research/electra, pretrain_helpers.mask: 0.85",
        ),
        Mistake(
            "80/10/10",
            wrong_model(input="10"),
            EIGHTY,
            "lesson 05's mask_tokens; https://github.com/google-research/bert, create_masked_lm_predictions",
        ),
        Mistake(
            "a rate of 15 per cent always",
            wrong_model(rate=True),
            FIXED_RATE,
            "the paper's 15 % in place of the argument",
        ),
        Mistake(
            "the generator called again",
            wrong_model(graph="again"),
            AGAIN,
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "one draw for all texts",
            wrong_model(pick="positions"),
            SAME_POSITIONS,
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "whole texts",
            wrong_model(pick="texts"),
            WHOLE_TEXTS,
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "a fixed number in the batch",
            wrong_model(pick="batch"),
            FIXED_NUMBER,
            "google-research/bert selects a fixed number in each text",
        ),
        Mistake(
            "the same tokens each time",
            wrong_model(pick="seed"),
            "two calls one after the other select the same tokens.",
            "torch.manual_seed within a function; seen in answers to lesson 05",
        ),
        Mistake(
            "NumPy selects",
            wrong_model(pick="numpy"),
            NOT_TORCHS,
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the logits taken for probabilities",
            wrong_model(draw="logits"),
            "`torch.multinomial` was given numbers that are no probabilities. Take the softmax of the logits first.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "results in another order",
            wrong_model(give="order"),
            "the labels come first in the result of `corrupt`. Return seen, replaced, loss.",
            "the order of results differs between implementations, such as richarddwang/electra_pytorch",
        ),
        Mistake(
            "labels as whole numbers",
            wrong_model(give="numbers"),
            "`replaced` is of the type torch.int64. It should be boolean, as `seen != ids` is.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "labels from the selection",
            wrong_model(label="selected"),
            "each *selected* token is labelled as replaced, also where the generator drew the original word. That word "
            "is no mistake: nothing about the text could tell the discriminator so. Compare what is seen with the "
            "*original* text, not with the masked one.",
            "https://github.com/google-research/electra/issues/49 (which tokens are fake?)",
        ),
        Mistake(
            "one for the original",
            wrong_model(label="original"),
            "the labels are the wrong way round: True should mean *replaced*. (Some code labels the original 1; the "
            "loss is the same, every reading of the logits is reversed.)",
            "https://github.com/google-research/electra/issues/109 (originals taken as the positives)",
        ),
        Mistake(
            "[MASK] left in the text",
            wrong_model(draw="left"),
            "the discriminator sees [MASK] where the draws should be, and could tell by that alone.",
            "the ablation that ELECTRA's paper calls 'Replace MLM' asks what [MASK] costs",
        ),
        Mistake(
            "draws everywhere",
            wrong_model(draw="everywhere"),
            "tokens are changed that were not selected: only selected ones get the generator's word.",
            "all positions sampled; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the likeliest word",
            wrong_model(draw="argmax"),
            "always the likeliest word is taken. Draw from the distribution: with the argmax the same few words come "
            "up again and again, and often the right one.",
            "https://github.com/ymcui/Chinese-ELECTRA/issues/19 ('instead of taking the argmax')",
        ),
        Mistake(
            "the softmax taken twice",
            wrong_model(draw="twice"),
            TWICE,
            "softmax of probabilities; pytorch's Categorical(probs) and Categorical(logits) mixed up",
        ),
        Mistake(
            "never the original",
            wrong_model(draw="other"),
            NEVER_THE_ORIGINAL,
            "google-research/electra, option disallow_correct (off)",
        ),
        Mistake(
            "one draw for all",
            wrong_model(draw="one"),
            ONE_DRAW,
            "torch.multinomial of one row, broadcast; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "sharper than the generator",
            wrong_model(draw="sharp"),
            AT_A_TEMPERATURE.format("½"),
            "google-research/electra, option temperature (1.0)",
        ),
        Mistake(
            "more even than the generator",
            wrong_model(draw="flat"),
            AT_A_TEMPERATURE.format("2"),
            "google-research/electra, option temperature (1.0)",
        ),
        Mistake(
            "all words alike",
            wrong_model(draw="even"),
            NOT_THE_GENERATORS,
            "a random word, as the 10 % of lesson 05",
        ),
        Mistake(
            "never a special token",
            wrong_model(draw="special"),
            NO_SPECIAL_WORD,
            "special tokens excluded from sampling, as generate's bad_words_ids does",
        ),
        Mistake(
            "NumPy draws",
            wrong_model(draw="numpy"),
            WORDS_NOT_TORCHS,
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "no graph for the generator",
            wrong_model(graph="detach"),
            NO_GRAPH,
            "https://github.com/richarddwang/electra_pytorch/issues/12 (what belongs under no_grad)",
        ),
        Mistake(
            "the text of the generator overwritten",
            wrong_model(draw="over"),
            OVERWRITTEN,
            "seen in answers to this lesson, as a right one",
        ),
        *(
            Mistake(f"the generator's loss: {name}", wrong_model(order=name), message, source)
            for name, (message, source) in FALSE_LOSSES.items()
        ),
        Mistake(
            "the mean of nothing",
            wrong_model(order="nan"),
            "where no token was selected, the generator's loss is 0 divided by 0, NaN, and one such batch ends a "
            "training. Divide by 1 at least.",
            "https://github.com/huggingface/transformers/issues/16711",
        ),
        Mistake(
            "padding counted",
            wrong_model(asked="all"),
            "padding counts in the discriminator's loss. It is never replaced, so the loss looks lower than it is, the "
            "more so the longer the longest text. Ask only of ordinary tokens.",
            "attention_mask ignored by a loss: https://github.com/huggingface/transformers/issues/2759",
        ),
        Mistake(
            "special tokens counted",
            wrong_model(asked="real"),
            "[CLS] and [SEP] count in the mean. (ELECTRA's code does so. Here the text asks for ordinary tokens alone, "
            "as no special token is ever replaced.)",
            "google-research/electra, _get_discriminator_output: weights = input_mask",
        ),
        Mistake(
            "replaced tokens only",
            wrong_model(asked="replaced"),
            "the discriminator's loss goes over replaced tokens only. All their labels are 1, so *always replaced* "
            "would solve it. The point of the task is a question at every token.",
            "ELECTRA's paper, section 3.4: 'ELECTRA 15%', the loss on masked-out tokens only",
        ),
        Mistake(
            "original tokens only",
            wrong_model(asked="not replaced"),
            "the discriminator's loss goes over the tokens that were *not* replaced. Ask of all ordinary ones.",
            "an inverted mask; seen in answers to lesson 05",
        ),
        Mistake(
            "what is ordinary now",
            wrong_model(asked="seen"),
            "the mean goes over the ordinary tokens of `seen`. A draw may be a special token; ask about the ordinary "
            "tokens of `ids`.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "multiplied by the mask, then a mean",
            wrong_model(reduce="all"),
            "you multiply by the mask and then take the mean over *all* positions, so the sum is divided by B · T. "
            "Divide by the number of ordinary tokens.",
            "https://github.com/d2l-ai/d2l-en/issues/2582",
        ),
        Mistake(
            "a mean of means",
            wrong_model(reduce="texts"),
            "you average within each text and then over the texts: a token of a short text counts more. Take one mean "
            "over all ordinary tokens of the batch.",
            "google-research/electra computes per_example_loss so, for evaluation; its training loss is one mean",
        ),
        Mistake(
            "the sum",
            wrong_model(reduce="sum"),
            "the discriminator's loss is a sum over the tokens; expected their mean.",
            'reduction="sum" kept from a draft; seen in answers to lesson 05',
        ),
        Mistake(
            "inverted labels in the loss",
            wrong_model(sign=True),
            "the loss rewards a high logit for tokens that were *not* replaced. The label is 1 for a replaced token.",
            "https://github.com/google-research/electra/issues/109",
        ),
        Mistake(
            "the sigmoid taken twice",
            wrong_model(out="sigmoid"),
            "the sigmoid is taken twice. `binary_cross_entropy_with_logits` takes the logits as they are.",
            "a sigmoid before BCEWithLogitsLoss, whose documentation says that it has its own",
        ),
        Mistake(
            "the clean text to the discriminator",
            wrong_model(out="clean"),
            "the discriminator reads the text as it was. It should read what `corrupt` gives as seen.",
            "input_ids in place of the generated ones; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "[MASK] to the discriminator",
            wrong_model(out="masked"),
            "the discriminator reads [MASK] at the replaced tokens. It should read what `corrupt` gives as seen.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "no mask in the loss",
            wrong_model(out="mask"),
            "`loss` does not pass the mask on to `forward`: `self(seen, mask)`.",
            "an encoder called with the ids alone, which guesses the mask from the padding",
        ),
        Mistake(
            "the weight on the generator",
            wrong_model(weight="generator"),
            "`weight` multiplies the generator's loss. It belongs to the discriminator's: a binary cross-entropy is a "
            "small number beside one over a vocabulary.",
            "https://github.com/ThilinaRajapakse/simpletransformers/issues/390 (which of the two is 50?)",
        ),
        Mistake(
            "the weight on both",
            wrong_model(weight="both"),
            "`weight` multiplies both losses, so it changes nothing about their balance.",
            "brackets around the sum; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "no weight",
            wrong_model(weight="none"),
            "`weight` is not used: the loss is generator's + weight · discriminator's.",
            "https://github.com/ThilinaRajapakse/simpletransformers/issues/390",
        ),
        Mistake(
            "the mean of the two",
            wrong_model(weight="mean"),
            "the sum is divided by two. The loss is generator's + weight · discriminator's.",
            "an average of losses; seen in answers to lesson 09",
        ),
        Mistake(
            "a mixture",
            wrong_model(weight="mix"),
            "`weight` is no proportion: generator's + weight · discriminator's, without (1 − weight).",
            "interpolated losses, as in distillation",
        ),
        Mistake(
            "fifty always",
            wrong_model(weight="fifty"),
            "50 is a number in your code. Use `self.weight`.",
            "ELECTRA's disc_weight in place of the argument",
        ),
        Mistake(
            "the generator left out",
            wrong_model(weight="only"),
            "the generator's loss is missing from the sum, so the generator never learns.",
            "https://github.com/ThilinaRajapakse/simpletransformers/issues/390 (the other one was missing)",
        ),
        Mistake(
            "the generator's loss detached",
            wrong_model(detach=True),
            "no gradient reaches the generator: it is trained by its own loss, within the whole one. Detach the "
            "*draw*, not the loss.",
            "https://github.com/richarddwang/electra_pytorch/issues/12",
        ),
        Mistake(
            "ids of the notebook's tokenizer",
            wrong_model(special="five"),
            "right for special tokens 0 to 4, but other tokenizers have others: RoBERTa's [MASK] is its last id. Use "
            "`self.tokenizer.special_ids` and `mask_id`.",
            "ids >= 5, the toy world's; seen in answers to lesson 05",
        ),
        Mistake(
            "ordinary from five on",
            wrong_model(special="least five"),
            "right for special tokens 0 to 4, but other tokenizers have others: RoBERTa's [MASK] is its last id. In "
            "`ordinary` use `self.tokenizer.special_ids`.",
            "ids >= 5, the toy world's; seen in answers to lesson 05",
        ),
        Mistake(
            "ordinary above the special",
            wrong_model(special="max"),
            "you take all special ids for the lowest. Another tokenizer has some at the end: ask whether an id is one "
            "of `special_ids`, as `torch.isin` does.",
            "RoBERTa's ids: 0 to 3, and the last",
        ),
        Mistake(
            "four for [MASK]",
            wrong_model(special="four"),
            "4 is a number in your code. [MASK] is `self.tokenizer.mask_id`.",
            "the toy world's id; seen in answers to lesson 05",
        ),
    ),
    hints=(
        "`__init__` keeps the three parts and two numbers, and makes `dense` (C → C) and `out` (C → 1). `forward` is "
        "`self.out(F.gelu(self.dense(self.encoder(ids, mask))))[..., 0]`.",
        "`ordinary = ~torch.isin(ids, torch.tensor(self.tokenizer.special_ids))`; selected: `torch.rand(ids.shape) < "
        "self.rate`, and ordinary. `self.generator(masked, mask)[selected]` has the shape (S, V).",
        "`torch.multinomial(logits.detach().softmax(-1), 1)[:, 0]` draws a word for each row. The mean of no row at "
        "all is "
        "0 / 0; then the loss should be 0, and nothing is seen differently.",
        "`seen != ids` are the labels. In `loss`: `F.binary_cross_entropy_with_logits(self(seen, mask)[ordinary], "
        "replaced[ordinary].float())`.",
    ),
    praise="A question at every token, and an honest label for the words that the generator guessed.",
    other_ways=(ByGumbel, ByCategorical, wrong_model()),
)

# --- 16.2 a perfect generator -----------------------------------------------------------------------------------------


def about_the_probability(guess):
    """Return what is true of a wrong guess, whatever led to it."""
    p, right = float(guess), (1 - 1 / 3) / 11
    if not 0 <= p <= 1:
        return "A probability lies between 0 and 1." + (" A percentage is divided by 100." if p > 1 else "")
    if p > 1 / 11:
        return "To be replaced a word has to be selected, so the answer cannot be above the probability of *that*."
    if abs(p - right) <= 0.12 * right:
        return (
            "It is close, but not by another rounding: count once more how many words and how many draws are possible."
        )
    if p > right:
        return "It is too large: not each draw puts another word in the place of the one that was selected."
    return "It is too small: if *praises* was selected, then in most cases another word stood there before."


perfect_draw = Prediction(
    id="16.2",
    right=(1 - 1 / 3) / 11,
    mistakes=(
        Mistake(
            "whether it was selected",
            1 / 11,
            "this is the probability that *praises* was selected. In a third of these cases the draw is *praises* "
            "again, and nothing was replaced.",
            "https://github.com/google-research/electra/issues/49",
        ),
        Mistake(
            "not selected",
            10 / 11,
            "this is the probability that *praises* was *not* selected.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "not replaced",
            31 / 33,
            "this is the probability that *praises* was *not* replaced.",
            "the complement; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "given that it was selected",
            2 / 3,
            "this is the probability once you know that *praises* was selected. Nobody tells the discriminator.",
            "the condition forgotten; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "drawn",
            1 / 3,
            "this is the probability of *praises* in a draw. Whether this word was selected at all counts, too; and "
            "replaced means that another word stood there before.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "never",
            0.0,
            "nothing about the text is wrong, and yet another word may have stood there: what counts is the original, "
            "not what can be seen.",
            "'no error, so not replaced'; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "two words in place of two thirds",
            2 / 11,
            "this is 1/11 times two. The two other words have the probability 2/3 together.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "half of the selected",
            0.5 / 11,
            "this is half of 1/11. The word that stood there before is one of *three*, equally likely.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the case that changes nothing left out",
            2 / 32,
            "this is 2 of 32 cases: the one in which *praises* was selected and drawn again is missing among them.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "ten words",
            2 / 30,
            "this is 2/3 of 1/10, but the sentence has eleven words.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "cut",
            0.06,
            "that is too coarse. Write three digits after the point, rounded; or write the fraction itself.",
            "0.060606 cut after two digits",
        ),
        Mistake(
            "guessed right",
            1 / 33,
            "this is the probability that the word was selected and drawn *right*. Replaced is the other case.",
            "the complement; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the base rate of 15 per cent",
            0.15,
            "that is a rate of ELECTRA. Here exactly one of the eleven words is selected.",
            "a number remembered in place of one computed",
        ),
        Mistake(
            "the rate of section 1",
            0.3,
            "that is the rate of section 1. Here exactly one of the eleven words is selected.",
            "a number remembered in place of one computed",
        ),
        Mistake(
            "the rate of section 1 and the draw",
            0.2,
            "that is the rate of section 1 times 2/3. Here exactly one of the eleven words is selected.",
            "a number remembered in place of one computed",
        ),
        Mistake(
            "half",
            0.5,
            "the discriminator does not toss a coin: it knows how rarely a word is selected, and how often the draw "
            "gives the word itself.",
            "'it cannot know' read as one half; a slip that the text invites, not yet seen in answers",
        ),
    ),
    hints=(
        "The sentence that you see is as probable as any sentence of the language. So count: in which cases does the "
        "generator leave *praises* in its place, and in which does it put it there?",
        "By Bayes' rule: selected with probability 1/11; the word that stood there before was drawn from the same "
        "three, so it was *praises* in a third of the cases.",
    ),
    praise="1/11 · 2/3: how often it was selected, times how hard it was to guess. Nothing else counts.",
    tolerance=0.0006,
    about=about_the_probability,
)

# --- 16.3 find the bug: draws by noise --------------------------------------------------------------------------------


def draw_right(logits, uniform, temperature):
    noise = -torch.log(-torch.log(uniform))
    return (logits / temperature + noise).argmax(-1)


def noise_inputs(generator, shape=(60, 5, 4)):
    """Logits, uniform numbers and a temperature; where two words come close, rounding may not decide between them."""
    temperature = (0.4, 0.5, 2.5)[int(torch.randint(3, (1,), generator=generator))]
    n = math.prod(shape[:-1])
    logits = torch.randn(2 * n, shape[-1], generator=generator) * 1.5
    uniform = torch.rand(2 * n, shape[-1], generator=generator).clamp(1e-3, 1 - 1e-3)
    best = (logits / temperature - torch.log(-torch.log(uniform))).topk(2).values
    clear = (best[:, 0] - best[:, 1] > 0.005).nonzero()[:n, 0]
    return logits[clear].view(shape), uniform[clear].view(shape), temperature


def about_the_draws(answer, case):
    """Return what is true of wrong draws, whatever led to them."""
    logits, uniform, temperature = case
    once, again, others = (run(answer, (logits, u, temperature)) for u in (uniform, uniform, uniform.flip(0)))
    if any(isinstance(one, Exception) for one in (once, again, others)):
        return None
    if not same(once, again):
        return "two calls with the same arguments give different words. The random numbers are those in `uniform`."
    return "the words do not depend on `uniform`. The noise comes from it." if same(once, others) else None


draw_by_noise = Exercise(
    id="16.3",
    right=draw_right,
    inputs=noise_inputs,
    also=lambda g: noise_inputs(g, (900, 6)),
    about=about_the_draws,
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda x, u, t: ((x - torch.log(-torch.log(u))) / t).argmax(-1),
            "the temperature changes nothing: it is not used, or it divides logits and noise alike, and then the "
            "largest "
            "number of a row stays the largest. Only the logits are divided, before the noise comes.",
            "google-research/electra divides first: sample_from_softmax(mlm_logits / temperature)",
        ),
        Mistake(
            "multiplied by the temperature",
            lambda x, u, t: (x * t - torch.log(-torch.log(u))).argmax(-1),
            "the temperature works the wrong way round: a *high* temperature should make the draws more even. You "
            "multiply "
            "the logits by it, or divide the noise. Divide the logits.",
            "temperature and inverse temperature mixed up, as sentence-transformers' scale and τ are",
        ),
        Mistake(
            "the sign of the noise",
            lambda x, u, t: (x / t + torch.log(-torch.log(u))).argmax(-1),
            "the sign of the noise is turned. Its distribution is lopsided, so the draws no longer follow the softmax.",
            "https://github.com/chainer/chainerrl/pull/104 (Fix the sign in Gumbel-max trick)",
        ),
        Mistake(
            "noise scaled too",
            lambda x, u, t: (x / t - torch.log(-torch.log(u)) * t).argmax(-1),
            "the temperature counts twice: the logits are divided by its square, or the noise is multiplied by it as "
            "well. "
            "Divide the logits by it, once.",
            "temperature applied to everything in sight; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "probabilities in place of logits",
            lambda x, u, t: ((x / t).softmax(-1) - torch.log(-torch.log(u))).argmax(-1),
            "the noise is added to probabilities. The trick needs logits, or log-probabilities: between 0 and 1, "
            "probabilities drown in the noise.",
            "softmax before the Gumbel noise; https://github.com/pytorch/pytorch/pull/3341 (unnormalized log-probs)",
        ),
        Mistake(
            "no noise",
            lambda x, u, t: (x / t).argmax(-1),
            "without the noise this is the argmax, whatever the temperature is.",
            "the argmax alone; https://github.com/ymcui/Chinese-ELECTRA/issues/19",
        ),
        Mistake(
            "uniform noise",
            lambda x, u, t: (x / t + u).argmax(-1),
            "the noise is uniform. The trick needs Gumbel's: −log(−log u).",
            "noise of the wrong kind; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "one logarithm",
            lambda x, u, t: (x / t - torch.log(u)).argmax(-1),
            "one logarithm is missing: Gumbel noise is −log(−log u).",
            "exponential in place of Gumbel noise; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the first row of logits",
            lambda x, u, t: (x[0] / t - torch.log(-torch.log(u))).argmax(-1),
            "`logits[0]` stands for all: each row of logits has a draw of its own.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the largest over the first dimension",
            lambda x, u, t: (x / t - torch.log(-torch.log(u))).argmax(0),
            "the largest is taken over the first dimension. The words lie along the last one, −1.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the largest over the second dimension",
            lambda x, u, t: (x / t - torch.log(-torch.log(u))).argmax(1),
            "the largest is taken over dimension 1. The words lie along the last one, −1, however many dimensions "
            "come before it.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the largest of all",
            lambda x, u, t: (x / t - torch.log(-torch.log(u))).argmax(),
            "one largest number of all is taken. Each row has its own: `argmax(-1)`.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "a last dimension of one",
            lambda x, u, t: (x / t - torch.log(-torch.log(u))).argmax(-1, keepdim=True),
            "the last dimension is kept, with the size 1. Leave it out: `argmax(-1)`.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "values and indices",
            lambda x, u, t: (x / t - torch.log(-torch.log(u))).max(-1),
            "`max(-1)` gives two tensors, the values and the indices. Return the indices alone.",
            "torch.max with a dimension returns a pair",
        ),
        Mistake(
            "the value",
            lambda x, u, t: (x / t - torch.log(-torch.log(u))).amax(-1),
            "the largest score is returned. Return its index: `argmax(-1)`.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "a softmax",
            lambda x, u, t: (x / t - torch.log(-torch.log(u))).softmax(-1),
            "a probability for each word is returned. Return the index of the winner: `argmax(-1)`.",
            "torch.nn.functional.gumbel_softmax, which returns such",
        ),
        Mistake(
            "by the cumulative sum",
            lambda x, u, t: ((x / t).softmax(-1).cumsum(-1) < u[..., :1]).sum(-1).clamp(max=x.shape[-1] - 1),
            "this draws by the cumulative sum of the probabilities, from one uniform number a row. The distribution "
            "is right; but mend the Gumbel trick, which uses a number for each word.",
            "inverse transform sampling; seen in answers to this lesson, as a right one",
        ),
    ),
    hints=(
        "Draw the line of scores on paper, and divide all of it by 2. Which word is the largest now?",
        "What should change with the temperature is how far the logits lie apart *compared with the noise*.",
    ),
    praise="Only the logits are divided; the noise keeps its size.",
    other_ways=(
        lambda x, u, t: (x.div(t).log_softmax(-1) - (-u.log()).log()).argmax(-1),
        lambda x, u, t: (x - t * torch.log(-torch.log(u))).argmax(-1),
        lambda x, u, t: ((x / t).softmax(-1) / -u.log()).max(-1).indices,
    ),
)

# --- 16.4 the build: disentangled attention ---------------------------------------------------------------------------


class DisentangledAttention(nn.Module):
    """The attention of DeBERTa (He et al. 2021, arXiv:2006.03654, section 3.1), with distances up to K."""

    def __init__(self, C, H, K):
        super().__init__()
        self.H, self.K = H, K
        self.qkv = nn.Linear(C, 3 * C)
        self.place_key, self.place_query = nn.Linear(C, C), nn.Linear(C, C)
        self.out = nn.Linear(C, C)

    def forward(self, x, places, mask=None):
        """x: (B, T, C), places: (2K, C), mask: as in lesson 03 -> (B, T, C), weights (B, H, T, T)"""
        B, T, C = x.shape
        H, D = self.H, C // self.H
        q, k, v = self.qkv(x).view(B, T, 3, H, D).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        kr = self.place_key(places).view(-1, H, D).transpose(0, 1)  # (H, 2K, D)
        qr = self.place_query(places).view(-1, H, D).transpose(0, 1)
        t = torch.arange(T, device=x.device)
        row = (t[:, None] - t + self.K).clamp(0, 2 * self.K - 1)  # (T, T), the row of `places` for i - j
        to_place = (q @ kr.mT).gather(-1, row.expand(B, H, T, T))  # q_i · kr[row[i, j]]
        from_place = (k @ qr.mT).gather(-1, row.T.expand(B, H, T, T)).mT  # k_j · qr[row[i, j]]
        scores = (q @ k.mT + to_place + from_place) / math.sqrt(3 * D)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(B, T, C)), weights


def attention_of(answer, generator, C=8, H=2, K=3, B=2, T=6, zero=()):
    """Return the learner's module with seeded weights, its inputs, and a padding mask."""
    module = with_weights(answer(C, H, K), DisentangledAttention(C, H, K), generator).double()
    for name in zero:
        named(module)[name].data.zero_()
    x = torch.randn(B, T, C, generator=generator, dtype=torch.float64)
    places = torch.randn(2 * K, C, generator=generator, dtype=torch.float64)
    lengths = torch.arange(T, T - B, -1)
    return module, x, places, (torch.arange(T) < lengths[:, None])[:, None, None]


PLACES = [f"place_{part}.{kind}" for part in ("key", "query") for kind in ("weight", "bias")]


OUT_OF_BOUNDS = "an index is out of bounds. The rows of `places` have the numbers 0 to 2K − 1: `clamp(0, 2 * K - 1)`."
OUTPUT_ALONE = "one tensor is returned. Return two: the output, and the weights (B, H, T, T)."
WEIGHTS_OF_ALL = "the weights have lost the dimension of the heads. Return those of each head, (B, H, T, T)."
RANDOM = "two calls give different results. Nothing is random here: no dropout."
MASK_TURNED = "the mask is the wrong way round. True means *may be attended to*."
MASKED_TOO_LATE = (
    "what is hidden gets no weight, but the rows no longer sum to 1. Hide the *scores*, with −∞, before the softmax."
)
FLOAT32 = (
    "the result is right to seven digits only, although x is float64: somewhere you compute in float32, as after "
    "`.float()`, or with the root of a `torch.tensor(3 * D)`. `math.sqrt` keeps the dtype of x."
)
DETACHED = "no gradient reaches `places`, the table that is to be learned. It is detached, or used under `no_grad`."


def both(module, *arguments):
    """Return the output and the weights; a Fault for what is not two such tensors."""
    try:
        result = untouched(module, *arguments)
    except (IndexError, RuntimeError) as error:
        if "out of bounds" in str(error) or "out of range" in str(error):
            raise Fault(OUT_OF_BOUNDS) from None
        raise
    if isinstance(result, torch.Tensor):
        raise Fault(OUTPUT_ALONE)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Fault(f"expected two results, the output and the weights; yours is {describe(result)}.")
    B, T = arguments[0].shape[:2]
    if isinstance(result[1], torch.Tensor) and result[1].shape == (B, T, T):
        raise Fault(WEIGHTS_OF_ALL)
    return tuple(result)


def content_only(answer, generator):
    module, x, places, _ = attention_of(answer, generator, zero=PLACES)
    once, again = both(module, x, places), both(module, x, places)
    if not same(once, again):
        raise Fault(RANDOM)
    return once


def content_to_place(answer, generator):
    module, x, places, _ = attention_of(answer, generator, zero=PLACES[2:])
    return both(module, x, places)[1]


def place_to_content(answer, generator):
    module, x, places, _ = attention_of(answer, generator, zero=PLACES[:2])
    return both(module, x, places)[1]


def far_apart(answer, generator):
    module, x, places, _ = attention_of(answer, generator, T=11, K=2)
    return both(module, x, places)[1]


def masked(answer, generator):
    module, x, places, mask = attention_of(answer, generator, T=5, K=5)
    out, weights = both(module, x, places, mask)
    hidden = weights[1, ..., -1]  # what the padding of the second text gets, (H, T)
    sums = weights.sum(-1)
    if torch.allclose(hidden, torch.ones_like(hidden)):
        raise Fault(MASK_TURNED)
    if not hidden.any() and torch.allclose(sums[0], torch.ones_like(sums[0])) and (sums[1] < 1 - 1e-4).any():
        raise Fault(MASKED_TOO_LATE)
    course = DisentangledAttention(8, 2, 5).double()
    course.load_state_dict({name: named(module)[name] for name in course.state_dict()})
    right = course(x, places, mask)
    distance = max((a - b).abs().max().item() for a, b in zip((out, weights), right, strict=True))
    if 1e-10 < distance < 1e-5:
        raise Fault(FLOAT32)
    return out, weights


def masked_by_query(answer, generator):
    module, x, places, mask = attention_of(answer, generator, T=6, K=4)
    earlier = torch.ones(6, 6, dtype=torch.bool).tril() & mask  # (B, 1, T, T): each query has keys of its own
    return both(module, x, places, earlier)


def attention_gradients(answer, generator):
    module, x, places, mask = attention_of(answer, generator)
    places.requires_grad_()
    both(module, x, places, mask)[0].pow(2).sum().backward()
    if places.grad is None:
        raise Fault(DETACHED)
    if none := [name for name, p in named(module).items() if p.grad is None]:
        raise Fault(f"no gradient reaches {', '.join(none[:3])}.")
    return places.grad, module.place_query.weight.grad, module.qkv.weight.grad


def other_widths(answer, generator):
    module, x, places, mask = attention_of(answer, generator, C=12, H=4, K=2, B=3, T=7)
    return both(module, x, places, mask)


def wrong_attention(**switches):
    """Return a class as a learner may write it; its switches are the mistakes."""
    names = "scale parts index row cut mask heads out share side bias places".split()
    s = dict.fromkeys(names) | switches
    assert list(s) == names, switches

    def content(qkv, H, D):
        """qkv: (B, T, 3C) -> queries, keys and values, each (B, H, T, D)"""
        B, T = qkv.shape[:2]
        if s["heads"] == "reshape":
            return [part.reshape(B, H, T, D) for part in qkv.chunk(3, dim=-1)]
        if s["heads"] == "by head":
            return qkv.view(B, T, H, 3, D).permute(3, 0, 2, 1, 4)
        if s["heads"] == "strided":
            return qkv.view(B, T, 3, D, H).permute(2, 0, 4, 1, 3)
        q, k, v = qkv.view(B, T, 3, H, D).permute(2, 0, 3, 1, 4)
        return (k, q, v) if s["heads"] == "keys first" else (q, k, v)

    def rows(T, K):
        t = torch.arange(T)
        distance = t[:, None] - t
        return {
            "turned": (K - distance).clamp(0, 2 * K - 1),
            "centre": (distance + K - 1).clamp(0, 2 * K - 1),
            "wrap": (distance + K) % (2 * K),
            "free": distance + K,
            "long": (distance + K).clamp(0, 2 * K),
            "short": distance.clamp(1 - K, K - 1) + K,
            "no k": distance.clamp(0, 2 * K - 1),
            "size": (distance.abs() + K).clamp(0, 2 * K - 1),
        }.get(s["row"], (distance + K).clamp(0, 2 * K - 1))

    class Wrong(DisentangledAttention):
        def __init__(self, C, H, K):
            super().__init__(C, H, K)
            if s["bias"]:
                self.place_key, self.place_query = (nn.Linear(C, C, bias=False) for _ in range(2))

        def forward(self, x, places, mask=None):
            B, T, C = x.shape
            H, D, K = self.H, C // self.H, self.K
            if s["places"] == "detach":
                places = places.detach()
            if s["places"] == "norm":
                places = F.layer_norm(places, (C,))
            q, k, v = content(self.qkv(x), H, D)
            if s["share"]:
                shared = self.qkv(places).view(-1, 3, H, D).permute(1, 2, 0, 3)
                qr, kr = shared[0], shared[1]
            elif s["cut"]:
                kr, qr = (layer(places).view(H, -1, D) for layer in (self.place_key, self.place_query))
            else:
                kr = self.place_key(places).view(-1, H, D).transpose(0, 1)
                qr = self.place_query(places).view(-1, H, D).transpose(0, 1)
            if s["side"]:
                kr, qr = qr, kr
            row = rows(T, K)
            pick = row.expand(B, H, T, T)
            to_place = ((k if s["index"] == "key" else q) @ kr.mT).gather(-1, pick)
            from_place = {
                "paper": lambda: (k @ qr.mT).gather(-1, pick).mT,
                "query": lambda: (q @ qr.mT).gather(-1, pick),
                "query, transposed": lambda: (q @ qr.mT).gather(-1, pick.mT).mT,
                "no transpose": lambda: (k @ qr.mT).gather(-1, pick.mT),
                "as it is": lambda: (k @ qr.mT).gather(-1, pick),
            }.get(s["index"], lambda: (k @ qr.mT).gather(-1, pick.mT).mT)()
            parts = {"c2p": (to_place,), "p2c": (from_place,)}.get(s["parts"], (to_place, from_place))
            if s["parts"] == "four":
                parts = *parts, (qr * kr).sum(-1)[:, row]
            scores = q @ k.mT + sum(parts)
            if s["scale"] == "content":
                scores = q @ k.mT / math.sqrt(3 * D) + sum(parts)
            else:
                root = {"one": D, "C": C, "3C": 3 * C, "none": 1, "three": 9 * D}.get(s["scale"], 3 * D)
                scores = scores / (torch.tensor(3.0 * D).sqrt() if s["scale"] == "tensor" else math.sqrt(root))
            if mask is not None and s["mask"] not in ("none", "late"):
                mask = mask[:, :, :1] if s["mask"] == "first" else ~mask if s["mask"] == "turned" else mask
                hidden = 0.0 if s["mask"] == "zero" else -1e9 if s["mask"] == "turned" else -torch.inf
                scores = scores + mask if s["mask"] == "added" else scores.masked_fill(~mask, hidden)
            weights = scores.softmax(-2 if s["out"] == "keys" else -1)
            if s["mask"] == "late" and mask is not None:
                weights = weights * mask
            if s["out"] == "dropout":
                weights = F.dropout(weights, 0.1)
            mixed = (weights @ v).reshape(B, T, C) if s["out"] == "merged" else (weights @ v).transpose(1, 2).flatten(2)
            given = mixed if s["out"] == "left" else self.out(mixed) + (x if s["out"] == "residual" else 0)
            if s["out"] == "alone":
                return given
            return given, {"scores": scores, "mean": weights.mean(1)}.get(s["out"], weights)

    return Wrong


class ByEinsum(DisentangledAttention):
    """Another way: the vectors of each pair's distance, (T, T, H, D), in full."""

    def forward(self, x, places, mask=None):
        T, C = x.shape[1:]
        split = lambda y: y.unflatten(-1, (self.H, C // self.H))  # noqa: E731
        q, k, v = map(split, self.qkv(x).chunk(3, dim=-1))
        i, j = torch.meshgrid(torch.arange(T), torch.arange(T), indexing="ij")
        pair = places[torch.clamp(i - j, -self.K, self.K - 1) + self.K]  # (T, T, C)
        scores = torch.einsum("bihd,bjhd->bhij", q, k)
        scores = scores + torch.einsum("bihd,ijhd->bhij", q, split(self.place_key(pair)))
        scores = scores + torch.einsum("bjhd,ijhd->bhij", k, split(self.place_query(pair)))
        scores = scores * (3 * C // self.H) ** -0.5
        if mask is not None:
            scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
        weights = F.softmax(scores, dim=-1)
        return self.out(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2)), weights


disentangled_attention = Build(
    id="16.4",
    course=DisentangledAttention,
    stages=(
        Stage("content alone", content_only),
        Stage("content to position", content_to_place),
        Stage("position to content", place_to_content),
        Stage("far apart", far_apart),
        Stage("the mask", masked),
        Stage("a mask for each query", masked_by_query),
        Stage("gradients", attention_gradients),
        Stage(OTHER_SIZES, other_widths),
    ),
    mistakes=(
        Mistake(
            "divided by the root of D",
            wrong_attention(scale="one"),
            "the scores are divided by √D. They are a sum of *three* products, each of variance D: divide by √(3D).",
            "He et al. 2021, section 3.1 (the factor 1/√(3d)); lesson 02's √D kept",
        ),
        Mistake(
            "divided by the root of C",
            wrong_attention(scale="C"),
            "the scores are divided by √C. Divide by √(3D), D = C / H being a head's width.",
            "the model's width in place of the head's; seen in answers to lesson 03",
        ),
        Mistake(
            "divided by the root of 3C",
            wrong_attention(scale="3C"),
            "the scores are divided by √(3C). Divide by √(3D), D = C / H being a head's width.",
            "the model's width in place of the head's; seen in answers to lesson 03",
        ),
        Mistake(
            "divided by three roots",
            wrong_attention(scale="three"),
            "the scores are divided by 3√D. Three products of variance D have the variance 3D: the 3 belongs under "
            "the root.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "content alone divided",
            wrong_attention(scale="content"),
            "only q_i · k_j is divided by √(3D). Divide the sum of the three products.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "a root in float32",
            wrong_attention(scale="tensor"),
            FLOAT32,
            "transformers, DebertaV2: torch.sqrt(torch.tensor(…, dtype=torch.float))",
        ),
        Mistake(
            "not divided",
            wrong_attention(scale="none"),
            "the scores are not divided. Divide by √(3D).",
            "seen in answers to lesson 02",
        ),
        Mistake(
            "heads by a reshape",
            wrong_attention(heads="reshape"),
            "the heads are cut across tokens: `reshape(B, H, T, D)` mixes them. `view(B, T, H, D)` first, then "
            "exchange the dimensions.",
            "seen in answers to lesson 03",
        ),
        Mistake(
            "features by head",
            wrong_attention(heads="by head"),
            "the features are cut by head first, q, k and v within each. Here all queries come first, C of them, then "
            "all keys, then all values.",
            "GPT-NeoX's order of query_key_value, view(…, heads, 3 · D)",
        ),
        Mistake(
            "every H-th feature",
            wrong_attention(heads="strided"),
            "a head gets every H-th feature. Head h has the features h·D to (h+1)·D − 1: `view(B, T, 3, H, D)`.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "keys before queries",
            wrong_attention(heads="keys first"),
            "queries and keys are exchanged: the first C features of `qkv` are the queries, then come the keys, then "
            "the values.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "heads put together without a transpose",
            wrong_attention(out="merged"),
            "the heads are put together without exchanging the dimensions: from (B, H, T, D) to (B, T, H, D), and "
            "then to (B, T, C).",
            "seen in answers to lesson 03",
        ),
        Mistake(
            "no last layer",
            wrong_attention(out="left"),
            "the mixed values are returned without the layer `out`.",
            "seen in answers to lesson 03",
        ),
        Mistake(
            "a residual connection",
            wrong_attention(out="residual"),
            "x is added to the output. The residual connection belongs to the layer around the attention.",
            "Hugging Face's BertSelfOutput, which adds it",
        ),
        Mistake(
            "the output alone",
            wrong_attention(out="alone"),
            OUTPUT_ALONE,
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "scores for weights",
            wrong_attention(out="scores"),
            "the second result is the scores. Return the weights, what the softmax gives.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the mean of the heads",
            wrong_attention(out="mean"),
            WEIGHTS_OF_ALL,
            "torch's nn.MultiheadAttention, average_attn_weights=True",
        ),
        Mistake(
            "dropout",
            wrong_attention(out="dropout"),
            RANDOM,
            "dropout on the attention weights, as in BERT's own code",
        ),
        Mistake(
            "no bias",
            wrong_attention(bias=True),
            "the module lacks place_key.bias, place_query.bias. These layers have a bias: leave out `bias=False`.",
            "microsoft/DeBERTa v1, pos_proj without bias",
        ),
        Mistake(
            "the softmax over the queries",
            wrong_attention(out="keys"),
            "the softmax runs over the queries. Each row, the last dimension, sums to 1.",
            "seen in answers to lesson 02",
        ),
        Mistake(
            "the content's projections for places",
            wrong_attention(share=True),
            "the rows of `places` go through `qkv`. They have projections of their own, `place_key` and `place_query`. "
            "(DeBERTa-v2 and v3 do share them: `share_att_key`.)",
            "transformers, DebertaV2: share_att_key",
        ),
        Mistake(
            "the table normalised",
            wrong_attention(places="norm"),
            "`places` goes through a layer norm first. Take the table as it is given.",
            "transformers, DebertaV2: norm_rel_ebd",
        ),
        Mistake(
            "the heads of the table cut",
            wrong_attention(cut=True),
            "the heads of `places` are cut across its rows. `view(2 * K, H, D)` first, then exchange the dimensions.",
            "seen in answers to lesson 03, for the tokens",
        ),
        Mistake(
            "the table detached",
            wrong_attention(places="detach"),
            DETACHED,
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "keys and queries of places exchanged",
            wrong_attention(side=True),
            "`place_key` and `place_query` are exchanged: the content's *query* meets the place's *key*, and the "
            "content's key the place's query.",
            "https://github.com/microsoft/DeBERTa/issues/47 (which goes with which)",
        ),
        Mistake(
            "the distance turned",
            wrong_attention(row="turned"),
            "the distance is turned: row[i, j] is i − j + K, query minus key.",
            "j − i, as in other relative positions (T5, Shaw et al.)",
        ),
        Mistake(
            "one row too low",
            wrong_attention(row="centre"),
            "off by one: the distance 0 has row K of `places`, not row K − 1.",
            "2K rows have no middle row; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "K forgotten",
            wrong_attention(row="no k"),
            "K is not added to the distance, so all keys to the right share one row with the distance 0.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the size of the distance",
            wrong_attention(row="size"),
            "the size of the distance is taken, so left and right share their rows. i − j keeps its sign.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "one row unused",
            wrong_attention(row="short"),
            "the row 0 is not used: distances end at −(K − 1) in your code. To the right they end at −K.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "no end",
            wrong_attention(row="free"),
            OUT_OF_BOUNDS,
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "no content to position",
            wrong_attention(parts="p2c"),
            "the part *content to position*, q_i · kr, is missing.",
            "transformers, pos_att_type with one of the two",
        ),
        Mistake(
            "no position to content",
            wrong_attention(parts="c2p"),
            "the part *position to content*, k_j · qr, is missing.",
            "transformers, pos_att_type with one of the two",
        ),
        Mistake(
            "a fourth product",
            wrong_attention(parts="four"),
            "a fourth product is added, place to place. The score has three parts.",
            "He et al. 2021 leave it out and say why",
        ),
        Mistake(
            "the paper's index",
            wrong_attention(index="paper"),
            "the third part reads row[j, i]. So does the formula of the paper, δ(j, i), but not the code that the "
            "published weights were trained with, nor the text here: row[i, j] in both parts.",
            "https://github.com/nntrainer/nntrainer/pull/3982; https://github.com/microsoft/DeBERTa/issues/162",
        ),
        Mistake(
            "the query in the third part",
            wrong_attention(index="query"),
            "the third part uses the content's query. It is the *key* of j that meets the place's query.",
            "https://github.com/microsoft/DeBERTa/issues/47",
        ),
        Mistake(
            "the query in the third part, transposed",
            wrong_attention(index="query, transposed"),
            "the third part multiplies queries of the content with queries of the places. Take the content's *keys* "
            "there; the rest of it is right.",
            "https://github.com/microsoft/DeBERTa/issues/47",
        ),
        Mistake(
            "the key in the second part",
            wrong_attention(index="key"),
            "the second part uses the content's key. It is the *query* of i that meets the place's key.",
            "https://github.com/microsoft/DeBERTa/issues/47",
        ),
        Mistake(
            "not transposed back",
            wrong_attention(index="no transpose"),
            "the third part stands at [j, i]. It was computed for keys, so exchange its last two dimensions before you "
            "add it.",
            "https://github.com/microsoft/DeBERTa/issues/47",
        ),
        Mistake(
            "neither transposed",
            wrong_attention(index="as it is"),
            "the third part is computed for keys, so it stands at [j, i], and it reads row[j, i] there. Gather with "
            "`row.T`, then exchange the last two dimensions.",
            "https://github.com/microsoft/DeBERTa/issues/47",
        ),
        Mistake(
            "wrapped round",
            wrong_attention(row="wrap"),
            "distances beyond K are taken modulo 2K, so a word far to the left looks like one on the right. Keep them "
            "at the last row: `clamp(0, 2K − 1)`.",
            "modulo in place of clamp; negative indices wrap in Python too",
        ),
        Mistake(
            "no mask",
            wrong_attention(mask="none"),
            "the mask is not used: real tokens attend to padding.",
            "seen in answers to lesson 02",
        ),
        Mistake(
            "the mask added",
            wrong_attention(mask="added"),
            "the mask is added to the scores, which gives 1 more to what may be seen. Where it is False the score "
            "becomes −∞: `masked_fill(~mask, -torch.inf)`.",
            "a boolean for a mask of 0 and −∞, as in torch's float masks",
        ),
        Mistake(
            "a score of zero",
            wrong_attention(mask="zero"),
            "what is hidden gets the score 0, and e⁰ = 1 is still a weight. Its score should be −∞.",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "masked too late",
            wrong_attention(mask="late"),
            MASKED_TOO_LATE,
            "seen in answers to lesson 02",
        ),
        Mistake(
            "one query's mask for all",
            wrong_attention(mask="first"),
            "the mask of the first query is used for all. It may have a row for each: (B, 1, T, T).",
            "a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "the mask turned",
            wrong_attention(mask="turned"),
            MASK_TURNED,
            "torch's nn.MultiheadAttention, where True hides",
        ),
    ),
    hints=(
        "Begin with lesson 03's attention: `q, k, v` of (B, H, T, D), scores, softmax, `out`. Only the scores are new.",
        "`kr = self.place_key(places).view(-1, H, D).transpose(0, 1)` is (H, 2K, D), and `q @ kr.mT` (B, H, T, 2K): "
        "each query's score for each distance. `gather(-1, row.expand(B, H, T, T))` takes the one that is needed.",
        "For the third part do the same with the keys: the result at [j, i] should read row[i, j], so gather with "
        "`row.T`, and exchange the last two dimensions of what comes out.",
    ),
    praise="Three products, one table of distances, √(3D).",
    other_ways=(ByEinsum, wrong_attention()),
)
