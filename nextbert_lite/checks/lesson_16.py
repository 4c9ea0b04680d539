"""The checks of lesson 16, What to predict."""

import math
from types import SimpleNamespace

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


def words_of(size, special=(0, 1, 2, 3, 4), mask_id=MASK):
    """What the text lets an answer use of a tokenizer."""
    return SimpleNamespace(vocab_size=size, special_ids=tuple(special), mask_id=mask_id, pad_id=special[0])


PLAIN = words_of(V)
OTHER = words_of(V, special=(0, 1, 2, 22, 23), mask_id=23)  # <s>, <pad>, </s>, <unk>, <mask>, as RoBERTa has them


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
        self.asked = []

    def forward(self, ids, mask=None):
        self.asked.append((ids.detach().clone(), mask))
        return self.logits[: ids.shape[1]].expand(*ids.shape, -1)


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


def three(model, ids, mask):
    result = model.corrupt(ids, mask)
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise Fault(f"`corrupt` returns {describe(result)}; expected seen, replaced, and the generator's loss.")
    if isinstance(result[0], torch.Tensor) and result[0].dtype == torch.bool:
        raise Fault("the labels come first in the result of `corrupt`. Return seen, replaced, loss.")
    return result


def the_logits(answer, generator):
    model = build_of(answer, generator)
    ids, mask = a_batch(generator)
    mask[0, 3] = False  # hides more than padding
    return untouched(model, ids, mask)


def what_it_reads(answer, generator):
    table, _ = certain(generator)
    model = build_of(answer, generator, table)
    ids, mask = a_batch(generator)
    untouched(model.corrupt, ids, mask)
    if not table.asked:
        raise Fault("`corrupt` does not call the generator: `self.generator(masked, mask)`.")
    asked, its_mask = table.asked[-1]
    if its_mask is None or its_mask.dtype != torch.bool or not torch.equal(its_mask, mask):
        raise Fault("the generator is not given the mask (B, T): it would attend to padding.")
    return asked


LIMIT = 5.8  # standard deviations of a normal variable; a right program exceeds it once in 150 million tests


def the_selection(answer, generator):
    ids = torch.randint(FIRST, V, (250, 16), generator=generator)
    ids[:, 0], ids[:, -1] = 2, 3
    mask = torch.ones_like(ids, dtype=torch.bool)
    for rate in (0.15, 0.4):
        table = Table(torch.zeros(16, V))
        model = build_of(answer, generator, table, rate=rate)
        seen, _, _ = three(model, ids, mask)
        selected = table.asked[-1][0] == MASK
        if (seen != ids)[~selected].any():
            raise Fault("tokens are changed that were not selected: only selected ones get the generator's word.")
        n = ids.shape[0] * 14
        share = selected[:, 1:-1].double().mean()
        if abs(float(share) - rate) > LIMIT * math.sqrt(rate * (1 - rate) / n):
            raise Fault(f"at the rate {rate} the generator sees {100 * share:.0f} % of the ordinary tokens as [MASK].")
        of_rows = selected[:, 1:-1].sum(1).double().var() / (14 * rate * (1 - rate))
        if of_rows < 0.5 or of_rows > 1.8:
            raise Fault("the tokens of a text are not selected by independent draws.")
        again = build_of(answer, generator, table, rate=rate)
        again.corrupt(ids, mask)
        if torch.equal(table.asked[-1][0], table.asked[-2][0]):
            raise Fault("two calls one after the other select the same tokens.")
    return True


def the_draws(answer, generator):
    """Certain draws: what is seen, and which tokens count as replaced."""
    table, words = certain(generator)
    model = build_of(answer, generator, table)
    ids, mask = a_batch(generator)
    ids[1, 1:4], ids[3, 2:5] = words[1:4], words[2:5]  # the generator is right there
    seen, replaced, _ = three(model, ids, mask)
    return seen, replaced


SHARES = (0.6, 0.3, 0.1)


def the_chances(answer, generator):
    """Draws by chance: each of three words as often as the generator says."""
    words = torch.randperm(V - FIRST, generator=generator)[:3] + FIRST
    logits = torch.full((16, V), -60.0)
    logits[:, words] = torch.tensor(SHARES).log() + 3.0
    model = build_of(answer, generator, Table(logits))
    ids = torch.randint(FIRST, V, (300, 16), generator=generator)
    seen, _, _ = three(model, ids, torch.ones_like(ids, dtype=torch.bool))
    counts = torch.stack([(seen == word).sum() for word in words]).double()
    if counts.sum() < seen.numel():
        raise Fault("words come up to which the generator gives no probability.")
    if counts[0] == seen.numel():
        raise Fault("always the generator's likeliest word comes up.")
    expected = torch.tensor(SHARES, dtype=torch.float64) * seen.numel()
    if float(((counts - expected) ** 2 / expected).sum()) > 37.0:  # exp(-37 / 2) is 1e-8
        shown = " / ".join(f"{100 * c / seen.numel():.0f}" for c in counts)
        raise Fault(f"the generator gives three words 60 / 30 / 10 %, and they are drawn in {shown} %.")
    alike = (seen[:, 1:] == seen[:, :-1]).double().mean()
    if abs(float(alike) - sum(p * p for p in SHARES)) > 0.05:
        raise Fault("neighbouring tokens of a text get the same draw; each selected token needs its own.")
    return True


def generators_loss(answer, generator):
    table = Table(torch.randn(16, V, generator=generator))
    model = build_of(answer, generator, table)
    ids, mask = a_batch(generator)
    _, _, loss = three(model, ids, mask)
    if not isinstance(loss, torch.Tensor):
        raise Fault(f"the generator's loss is {describe(loss)}; expected a tensor without dimensions.")
    if not loss.requires_grad:
        raise Fault(
            "the generator's loss has no graph, so the generator never learns. Only the *draw* is without a gradient; "
            "compute the logits and the cross-entropy with one."
        )
    (gradient,) = torch.autograd.grad(loss, table.logits)
    return loss, 10 * gradient


def given(model, ids, generator):
    """Put a fixed corruption in place of the model's own; return what it gives."""
    ordinary = ~torch.isin(ids, torch.tensor(model.tokenizer.special_ids))
    replaced = (torch.rand(ids.shape, generator=generator) < 0.4) & ordinary
    seen = torch.where(replaced, (ids - FIRST + 1) % (V - FIRST - 2) + FIRST, ids)
    replaced = seen != ids
    generator_loss = model.generator.logits.mean() + 1.25
    model.corrupt = lambda *_, **__: (seen, replaced, generator_loss)


def whole_loss(answer, generator, weight=50.0, tokenizer=PLAIN, **sizes):
    model = build_of(answer, generator, tokenizer=tokenizer, weight=weight)
    ids, mask = a_batch(generator, tokenizer=tokenizer, **sizes)
    given(model, ids, generator)
    loss = untouched(model.loss, ids, mask)
    if not isinstance(loss, torch.Tensor):
        raise Fault(f"the loss is {describe(loss)}; expected a tensor without dimensions.")
    return loss


def the_weight(answer, generator):
    return tuple(whole_loss(answer, generator, weight=weight) for weight in (1.0, 50.0, 0.25))


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
    names = "special draw label graph input order asked reduce weight sign head detach out rate give"
    s = dict.fromkeys(names.split()) | switches

    class Wrong(ReplacedTokenModel):
        def ordinary(self, ids):
            if s["special"] == "all":
                return torch.ones_like(ids, dtype=torch.bool)
            if s["special"] == "pad":
                return ids != self.tokenizer.pad_id
            if s["special"] == "five":
                return ids >= FIRST
            return super().ordinary(ids)

        def corrupt(self, ids, mask):
            rate = 0.15 if s["rate"] else self.rate
            selected = (torch.rand(ids.shape) < rate) & self.ordinary(ids)
            masked = ids.masked_fill(selected, MASK if s["special"] == "five" else self.tokenizer.mask_id)
            if s["input"] == "open":
                masked = ids
            if s["input"] == "80":
                masked = torch.where(torch.rand(ids.shape) < 0.8, masked, ids)
            logits = self.generator(masked, mask)
            if s["graph"]:
                logits = logits.detach()
            if s["order"] == "everywhere":
                loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
            else:
                loss = F.cross_entropy(logits[selected], ids[selected], reduction="sum")
                n = int(selected.sum())
                loss = loss if s["order"] == "sum" else loss / (n if s["order"] == "nan" else max(1, n))
            with torch.no_grad():
                probabilities = logits[selected].softmax(-1)
                if s["draw"] == "argmax":
                    drawn = probabilities.argmax(-1)
                elif s["draw"] == "twice":
                    drawn = torch.multinomial(probabilities.softmax(-1), 1)[:, 0]
                elif s["draw"] == "other":
                    at = torch.arange(len(probabilities))
                    probabilities[at, ids[selected]] = 0
                    drawn = torch.multinomial(probabilities + 1e-30, 1)[:, 0]
                elif s["draw"] == "sharp":
                    drawn = torch.multinomial((2 * logits[selected]).softmax(-1), 1)[:, 0]
                elif s["draw"] == "one" and len(probabilities):
                    drawn = torch.multinomial(probabilities.mean(0), 1).expand(len(probabilities))
                else:
                    drawn = torch.multinomial(probabilities, 1)[:, 0] if len(probabilities) else ids[selected]
            base = masked if s["draw"] == "left" else ids
            seen = base.clone()
            if s["draw"] != "left":
                seen[selected] = drawn
            replaced = {
                "selected": selected,
                "original": seen == ids,
            }.get(s["label"], seen != ids)
            if s["draw"] == "everywhere":
                anew = torch.multinomial(logits.detach().flatten(0, 1).softmax(-1), 1).view(ids.shape)
                seen = torch.where(self.ordinary(ids), anew, ids)
                replaced = seen != ids
            if s["give"] == "order":
                return replaced, seen, loss
            if s["give"] == "two":
                return seen, replaced
            return seen, replaced, loss

        def forward(self, ids, mask=None):
            hidden = self.encoder(ids, None if s["head"] == "mask" else mask)
            if s["head"] == "linear":
                return self.out(hidden)[..., 0]
            if s["head"] == "relu":
                return self.out(F.relu(self.dense(hidden)))[..., 0]
            if s["head"] == "tanh":
                return self.out(torch.tanh(self.dense(hidden)))[..., 0]
            logits = self.out(F.gelu(self.dense(hidden)))
            if s["head"] == "shape":
                return logits
            return logits[..., 0].sigmoid() if s["head"] == "sigmoid" else logits[..., 0]

        def loss(self, ids, mask):
            seen, replaced, generator_loss = self.corrupt(ids, mask)
            asked = {
                "all": torch.ones_like(mask),
                "real": mask,
                "replaced": replaced,
                "seen": self.ordinary(ids) & ~replaced,
            }.get(s["asked"], self.ordinary(ids))
            logits = self(ids if s["out"] == "clean" else seen, mask)
            labels = replaced.to(logits)
            labels = 1 - labels if s["sign"] else labels
            if s["head"] == "sigmoid" and s["out"] == "bce":
                found = F.binary_cross_entropy(logits, labels, reduction="none")
            elif s["out"] == "sigmoid":
                found = F.binary_cross_entropy_with_logits(logits.sigmoid(), labels, reduction="none")
            else:
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
            if s["weight"] == "generator":
                return self.weight * generator_loss + loss
            if s["weight"] == "both":
                return self.weight * (generator_loss + loss)
            if s["weight"] == "none":
                return generator_loss + loss
            if s["weight"] == "fifty":
                return generator_loss + 50.0 * loss
            if s["weight"] == "only":
                return self.weight * loss
            if s["weight"] == "mean":
                return (generator_loss + self.weight * loss) / 2
            if s["weight"] == "mix":
                return (1 - self.weight) * generator_loss + self.weight * loss
            return generator_loss + self.weight * loss

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
            "a last dimension of one",
            wrong_model(head="shape"),
            "the logits have the shape (B, T, 1). Take the last dimension away: `[..., 0]`. Against labels (B, T) it "
            "would broadcast to (B, T, T) somewhere.",
            "a last dimension kept, as lesson 13's heads return one number a class",
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
            "the encoder is called without the mask: it may be given one that hides more than padding. Pass it on.",
            "an encoder called with the ids alone, which guesses the mask from the padding",
        ),
        Mistake(
            "the text itself to the generator",
            wrong_model(input="open"),
            "the generator reads the text without a [MASK]: it sees what it should guess.",
            "masked labels without masked ids; a slip that the text invites, not yet seen in answers",
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
            "some selected tokens stay in sight of the generator. Here each of them becomes [MASK] for it (ELECTRA's "
            "code leaves 15 % of them as they are).",
            "google-research/electra, pretrain_helpers.mask: 0.85",
        ),
        Mistake(
            "a rate of 15 per cent always",
            wrong_model(rate=True),
            "the rate is a number in your code. Use `self.rate`.",
            "the paper's 15 % in place of the argument",
        ),
        Mistake(
            "results in another order",
            wrong_model(give="order"),
            "the labels come first in the result of `corrupt`. Return seen, replaced, loss.",
            "the order of results differs between implementations, such as richarddwang/electra_pytorch",
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
            "the softmax is taken twice, so all words come up nearly equally often. `torch.multinomial` takes "
            "probabilities, `Categorical(logits=…)` logits.",
            "softmax of probabilities; pytorch's Categorical(probs) and Categorical(logits) mixed up",
        ),
        Mistake(
            "never the original",
            wrong_model(draw="other"),
            "the original word is never drawn. ELECTRA allows it, and calls the token real then.",
            "google-research/electra, option disallow_correct (off)",
        ),
        Mistake(
            "one draw for all",
            wrong_model(draw="one"),
            "all selected tokens get one word. Each needs its own draw, from its own distribution.",
            "torch.multinomial of one row, broadcast; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "sharper than the generator",
            wrong_model(draw="sharp"),
            "the words are not drawn with the generator's probabilities: logits or probabilities are changed before "
            "the draw, as by a temperature of ½. The text asks for the generator's own.",
            "google-research/electra, option temperature (1.0)",
        ),
        Mistake(
            "no graph for the generator",
            wrong_model(graph=True),
            "the generator's loss has no graph, so the generator never learns. Only the *draw* is without a gradient; "
            "compute the logits and the cross-entropy with one.",
            "https://github.com/richarddwang/electra_pytorch/issues/12 (what belongs under no_grad)",
        ),
        Mistake(
            "the generator's loss over all tokens",
            wrong_model(order="everywhere"),
            "the generator's loss goes over all tokens. It is the MLM loss of lesson 05: over the selected ones only.",
            "https://github.com/d2l-ai/d2l-en/issues/2582 (a mask that does nothing)",
        ),
        Mistake(
            "the generator's loss as a sum",
            wrong_model(order="sum"),
            "the generator's loss is a sum over the selected tokens; expected their mean.",
            'reduction="sum"; seen in answers to lesson 05',
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
            wrong_model(asked="seen"),
            "the discriminator's loss goes over the tokens that were *not* replaced. Ask of all ordinary ones.",
            "an inverted mask; seen in answers to lesson 05",
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
    ),
    hints=(
        "`__init__` keeps the three parts and two numbers, and makes `dense` (C → C) and `out` (C → 1). `forward` is "
        "`self.out(F.gelu(self.dense(self.encoder(ids, mask))))[..., 0]`.",
        "`ordinary = ~torch.isin(ids, torch.tensor(self.tokenizer.special_ids))`; selected: `torch.rand(ids.shape) < "
        "self.rate`, and ordinary. `self.generator(masked, mask)[selected]` has the shape (S, V).",
        "`torch.multinomial(logits.detach().softmax(-1), 1)[:, 0]` draws a word for each row. It fails for no row at "
        "all; then nothing is seen differently, and the loss is 0.",
        "`seen != ids` are the labels. In `loss`: `F.binary_cross_entropy_with_logits(self(seen, mask)[ordinary], "
        "replaced[ordinary].float())`.",
    ),
    praise="A question at every token, and an honest label for the words that the generator guessed.",
    other_ways=(ByGumbel, ByCategorical, wrong_model()),
)

# --- 16.2 a perfect generator -----------------------------------------------------------------------------------------

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
            "given that it was selected",
            2 / 3,
            "this is the probability once you know that *praises* was selected. Nobody tells the discriminator.",
            "the condition forgotten; a slip that the text invites, not yet seen in answers",
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
)

# --- 16.3 find the bug: draws by noise --------------------------------------------------------------------------------


def draw_right(logits, uniform, temperature):
    noise = -torch.log(-torch.log(uniform))
    return (logits / temperature + noise).argmax(-1)


def noise_inputs(generator):
    logits = torch.randn(300, 5, generator=generator) * 1.5
    uniform = torch.rand(300, 5, generator=generator).clamp(1e-6, 1 - 1e-6)
    return logits, uniform, (0.4, 0.5, 2.5)[int(torch.randint(3, (1,), generator=generator))]


draw_by_noise = Exercise(
    id="16.3",
    right=draw_right,
    inputs=noise_inputs,
    also=lambda g: (torch.randn(2, 7, 3, generator=g), torch.rand(2, 7, 3, generator=g).clamp(1e-6, 1 - 1e-6), 3.0),
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda x, u, t: ((x - torch.log(-torch.log(u))) / t).argmax(-1),
            "the temperature still divides scores and noise alike, and dividing all numbers of a row by one positive "
            "number does not change which is the largest. Only the logits are divided, before the noise comes.",
            "google-research/electra divides first: sample_from_softmax(mlm_logits / temperature)",
        ),
        Mistake(
            "multiplied by the temperature",
            lambda x, u, t: (x * t - torch.log(-torch.log(u))).argmax(-1),
            "the temperature works the wrong way round: a *high* temperature should make the draws more even. Divide "
            "by it.",
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
            "the noise is multiplied by the temperature. It stays as it is; only the logits are divided.",
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
    """The attention of DeBERTa (He et al. 2021, arXiv:2006.03654, section 3.1), with distances up to k."""

    def __init__(self, C, H, k):
        super().__init__()
        self.H, self.k = H, k
        self.qkv = nn.Linear(C, 3 * C)
        self.place_key, self.place_query = nn.Linear(C, C), nn.Linear(C, C)
        self.out = nn.Linear(C, C)

    def forward(self, x, places, mask=None):
        """x: (B, T, C), places: (2k, C), mask: as in lesson 03 -> (B, T, C), weights (B, H, T, T)"""
        B, T, C = x.shape
        H, D = self.H, C // self.H
        q, k, v = self.qkv(x).view(B, T, 3, H, D).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        kr = self.place_key(places).view(-1, H, D).transpose(0, 1)  # (H, 2k, D)
        qr = self.place_query(places).view(-1, H, D).transpose(0, 1)
        t = torch.arange(T, device=x.device)
        row = (t[:, None] - t + self.k).clamp(0, 2 * self.k - 1)  # (T, T), the row of `places` for i - j
        to_place = (q @ kr.mT).gather(-1, row.expand(B, H, T, T))  # q_i · kr[row[i, j]]
        from_place = (k @ qr.mT).gather(-1, row.T.expand(B, H, T, T)).mT  # k_j · qr[row[i, j]]
        scores = (q @ k.mT + to_place + from_place) / math.sqrt(3 * D)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(B, T, C)), weights


def attention_of(answer, generator, C=8, H=2, k=3, B=2, T=6, zero=()):
    """Return the learner's module with seeded weights, its inputs, and a padding mask."""
    module = with_weights(answer(C, H, k), DisentangledAttention(C, H, k), generator).double()
    for name in zero:
        named(module)[name].data.zero_()
    x = torch.randn(B, T, C, generator=generator, dtype=torch.float64)
    places = torch.randn(2 * k, C, generator=generator, dtype=torch.float64)
    lengths = torch.arange(T, T - B, -1)
    return module, x, places, (torch.arange(T) < lengths[:, None])[:, None, None]


PLACES = [f"place_{part}.{kind}" for part in ("key", "query") for kind in ("weight", "bias")]


def content_only(answer, generator):
    module, x, places, _ = attention_of(answer, generator, zero=PLACES)
    return tuple(untouched(module, x, places))


def content_to_place(answer, generator):
    module, x, places, _ = attention_of(answer, generator, zero=PLACES[2:])
    return module(x, places)[1]


def place_to_content(answer, generator):
    module, x, places, _ = attention_of(answer, generator, zero=PLACES[:2])
    return module(x, places)[1]


def far_apart(answer, generator):
    module, x, places, _ = attention_of(answer, generator, T=11, k=2)
    return module(x, places)[1]


def masked(answer, generator):
    module, x, places, mask = attention_of(answer, generator, T=5, k=5)
    return tuple(untouched(module, x, places, mask))


def masked_by_query(answer, generator):
    module, x, places, mask = attention_of(answer, generator, T=6, k=4)
    earlier = torch.ones(6, 6, dtype=torch.bool).tril() & mask  # (B, 1, T, T): each query has keys of its own
    return tuple(untouched(module, x, places, earlier))


def attention_gradients(answer, generator):
    module, x, places, mask = attention_of(answer, generator)
    places.requires_grad_()
    module(x, places, mask)[0].pow(2).sum().backward()
    return places.grad, module.place_query.weight.grad, module.qkv.weight.grad


def other_widths(answer, generator):
    module, x, places, mask = attention_of(answer, generator, C=12, H=4, k=2, B=3, T=7)
    return tuple(module(x, places, mask))


def wrong_attention(**switches):
    s = dict.fromkeys("scale parts index key clamp mask heads out share centre side".split()) | switches

    class Wrong(DisentangledAttention):
        def forward(self, x, places, mask=None):
            B, T, C = x.shape
            H, D, K = self.H, C // self.H, self.k
            q, k, v = self.qkv(x).view(B, T, 3, H, D).permute(2, 0, 3, 1, 4)
            if s["heads"]:
                q, k, v = (part.reshape(B, H, T, D) for part in self.qkv(x).chunk(3, dim=-1))
            if s["share"]:
                shared = self.qkv(places).view(-1, 3, H, D).permute(1, 2, 0, 3)
                qr, kr = shared[0], shared[1]
            else:
                kr = self.place_key(places).view(-1, H, D).transpose(0, 1)
                qr = self.place_query(places).view(-1, H, D).transpose(0, 1)
            if s["side"]:
                kr, qr = qr, kr
            t = torch.arange(T)
            distance = t[:, None] - t
            if s["key"]:
                distance = -distance
            row = (distance + (K - 1 if s["centre"] else K)).clamp(0, 2 * K - 1)
            if s["clamp"] == "wrap":
                row = (distance + K) % (2 * K)
            if s["clamp"] == "none":
                row = distance + K
            back = row.T if s["index"] == "paper" else row  # row[i, j] or row[j, i]
            to_place = (q @ kr.mT).gather(-1, row.expand(B, H, T, T))
            from_place = (k @ qr.mT).gather(-1, back.T.expand(B, H, T, T)).mT
            if s["index"] == "query":
                from_place = (q @ qr.mT).gather(-1, row.expand(B, H, T, T))
            if s["index"] == "no transpose":
                from_place = from_place.mT
            parts = {"c2p": (to_place,), "p2c": (from_place,)}.get(s["parts"], (to_place, from_place))
            scale = math.sqrt(D if s["scale"] == "one" else C if s["scale"] == "C" else 3 * D)
            scores = q @ k.mT + sum(parts)
            if s["scale"] == "content":
                scores = q @ k.mT / scale + sum(parts)
            elif s["scale"] == "apart":
                scores = q @ k.mT / math.sqrt(D) + sum(parts) / math.sqrt(D)
            elif s["scale"] != "none":
                scores = scores / scale
            if mask is not None and s["mask"] != "none":
                scores = scores + mask if s["mask"] == "added" else scores.masked_fill(~mask, -torch.inf)
                if s["mask"] == "turned":
                    scores = (q @ k.mT + sum(parts)) / scale
                    scores = scores.masked_fill(mask, -1e9)
            weights = scores.softmax(-2 if s["out"] == "keys" else -1)
            mixed = (weights @ v).transpose(1, 2).reshape(B, T, C)
            return (mixed if s["out"] == "left" else self.out(mixed)), weights

    return Wrong


class ByEinsum(DisentangledAttention):
    """Another way: the vectors of each pair's distance, (T, T, H, D), in full."""

    def forward(self, x, places, mask=None):
        T, C = x.shape[1:]
        split = lambda y: y.unflatten(-1, (self.H, C // self.H))  # noqa: E731
        q, k, v = map(split, self.qkv(x).chunk(3, dim=-1))
        i, j = torch.meshgrid(torch.arange(T), torch.arange(T), indexing="ij")
        pair = places[torch.clamp(i - j, -self.k, self.k - 1) + self.k]  # (T, T, C)
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
        Stage("content to place", content_to_place),
        Stage("place to content", place_to_content),
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
            "not divided",
            wrong_attention(scale="none"),
            "the scores are not divided. Divide by √(3D).",
            "seen in answers to lesson 02",
        ),
        Mistake(
            "heads by a reshape",
            wrong_attention(heads=True),
            "the heads are cut across tokens: `reshape(B, H, T, D)` mixes them. `view(B, T, H, D)` first, then "
            "exchange the dimensions.",
            "seen in answers to lesson 03",
        ),
        Mistake(
            "no last layer",
            wrong_attention(out="left"),
            "the mixed values are returned without the layer `out`.",
            "seen in answers to lesson 03",
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
            "keys and queries of places exchanged",
            wrong_attention(side=True),
            "`place_key` and `place_query` are exchanged: the content's *query* meets the place's *key*, and the "
            "content's key the place's query.",
            "https://github.com/microsoft/DeBERTa/issues/47 (which goes with which)",
        ),
        Mistake(
            "the distance turned",
            wrong_attention(key=True),
            "the distance is turned: row[i, j] is i − j + k, query minus key.",
            "j − i, as in other relative positions (T5, Shaw et al.)",
        ),
        Mistake(
            "one row too low",
            wrong_attention(centre=True),
            "off by one: the distance 0 has row k of `places`, not row k − 1.",
            "2k rows have no middle row; a slip that the text invites, not yet seen in answers",
        ),
        Mistake(
            "no content to place",
            wrong_attention(parts="p2c"),
            "the part *content to place*, q_i · kr, is missing.",
            "transformers, pos_att_type with one of the two",
        ),
        Mistake(
            "no place to content",
            wrong_attention(parts="c2p"),
            "the part *place to content*, k_j · qr, is missing.",
            "transformers, pos_att_type with one of the two",
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
            "not transposed back",
            wrong_attention(index="no transpose"),
            "the third part stands at [j, i]. It was computed for keys, so exchange its last two dimensions before you "
            "add it.",
            "https://github.com/microsoft/DeBERTa/issues/47",
        ),
        Mistake(
            "wrapped round",
            wrong_attention(clamp="wrap"),
            "distances beyond k are taken modulo 2k, so a word far to the left looks like one on the right. Keep them "
            "at the last row: `clamp(0, 2k − 1)`.",
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
            "the mask turned",
            wrong_attention(mask="turned"),
            "the mask is the wrong way round. True means *may be attended to*.",
            "torch's nn.MultiheadAttention, where True hides",
        ),
    ),
    hints=(
        "Begin with lesson 03's attention: `q, k, v` of (B, H, T, D), scores, softmax, `out`. Only the scores are new.",
        "`kr = self.place_key(places).view(-1, H, D).transpose(0, 1)` is (H, 2k, D), and `q @ kr.mT` (B, H, T, 2k): "
        "each query's score for each distance. `gather(-1, row.expand(B, H, T, T))` takes the one that is needed.",
        "For the third part do the same with the keys: the result at [j, i] should read row[i, j], so gather with "
        "`row.T`, and exchange the last two dimensions of what comes out.",
    ),
    praise="Three products, one table of distances, √(3D).",
    other_ways=(ByEinsum, wrong_attention()),
)
