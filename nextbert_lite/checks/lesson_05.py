"""The checks of lesson 05, Masking."""

import math

import torch
import torch.nn.functional as F

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution

__all__ = ["corrupt", "exact_count", "hint", "make_labels", "selected_loss", "solution", "start_loss"]

PAD, UNK, MASK, FIRST = 0, 1, 4, 5  # [PAD], [UNK], [MASK] and the first ordinary word

# --- 05.1 labels ------------------------------------------------------------------------------------------------------


def ids_and_draws(generator, rate=0.4):
    ids = torch.randint(FIRST, 30, (4, 12), generator=generator)
    ids[:, 0], ids[:, 9] = 2, 3  # [CLS] and [SEP], then padding
    ids[:, 10:] = PAD
    draw = torch.rand(4, 12, generator=generator)
    draw[0, [0, 9, 11]] = 0.01  # a low draw at a special token, so that the slip shows
    draw[1, 3] = 0.2
    ids[2, 2:6] = torch.tensor([FIRST, MASK, UNK, FIRST])  # the edge of the special ids
    draw[2, 2:6] = 0.01
    draw[3, 2] = rate  # the edge of the draw
    return ids, draw, rate


def wider_batch(generator):
    ids, draw, rate = ids_and_draws(generator, rate=0.7)
    return ids[1:, :8], draw[1:, :8], rate


def labels_where(chosen, ignore=-100):
    """Return a wrong or right `make_labels` that selects where `chosen(ids, draw, rate)` is True."""
    return lambda ids, draw, rate: ids.masked_fill(~chosen(ids, draw, rate), ignore)


def right_selection(ids, draw, rate):
    return (draw < rate) & (ids >= FIRST)


make_labels = Exercise(
    id="05.1",
    right=labels_where(right_selection),
    inputs=ids_and_draws,
    also=wider_batch,
    mistakes=(
        Mistake(
            "specials selected",
            labels_where(lambda ids, draw, rate: draw < rate),
            "special tokens are selected too: the model would be asked to guess [CLS], [SEP] and padding, which stand "
            "where they always stand. Only ids from 5 on may be selected.",
            "https://github.com/huggingface/transformers/issues/1395",
        ),
        Mistake(
            "only padding spared",
            labels_where(lambda ids, draw, rate: (draw < rate) & (ids != PAD)),
            "padding is spared, but [CLS] and [SEP] are still selected. All five special tokens, ids 0 to 4, stay out.",
            "https://github.com/AnswerDotAI/ModernBERT/pull/218",
        ),
        Mistake(
            "the first word spared",
            labels_where(lambda ids, draw, rate: (draw < rate) & (ids > FIRST)),
            "one off: id 5 is the first *ordinary* word, and your comparison never selects it. Special are 0 to 4: "
            "`ids >= 5`, or `ids > 4`.",
            "> and >= exchanged at the border of the special ids; seen in answers to this exercise",
        ),
        Mistake(
            "[MASK] selected",
            labels_where(lambda ids, draw, rate: (draw < rate) & (ids >= MASK)),
            "one off: id 4 is [MASK], the last of the special tokens, and yours selects it. Ordinary words have the "
            "ids from 5 on: `ids >= 5`.",
            "> and >= exchanged at the border of the special ids; seen in answers to this exercise",
        ),
        Mistake(
            "the rate itself",
            labels_where(lambda ids, draw, rate: (draw <= rate) & (ids >= FIRST)),
            "a draw *equal* to the rate selects too. Selected is where draw < rate: with rate 0 nothing is, also where "
            "a draw is exactly 0.",
            "torch.rand draws from [0, 1): 0 can come up (torch's documentation)",
        ),
        Mistake(
            "every token is a label",
            lambda ids, draw, rate: ids.clone(),
            "every position has a label, so the loss counts every position, and copying what is plain to see earns "
            "most of it. Where a token was not selected the label is -100.",
            "https://github.com/huggingface/transformers/issues/20797 (losses of 0.1 in place of 1.6)",
        ),
        Mistake(
            "the wrong way round",
            labels_where(lambda ids, draw, rate: ~right_selection(ids, draw, rate)),
            "the wrong way round: -100 stands where a token *was* selected. -100 means 'do not count this position', "
            "and the selected ones are what counts.",
            "https://github.com/huggingface/transformers/issues/2946",
        ),
        Mistake(
            "-1",
            labels_where(right_selection, -1),
            "you mark with -1. torch's cross_entropy leaves out -100, unless you tell it otherwise; -1 it takes for a "
            "word that does not exist.",
            "https://github.com/EricFillion/happy-transformer/issues/128",
        ),
        Mistake(
            "0",
            labels_where(right_selection, PAD),
            "you mark with 0, the id of [PAD]: cross_entropy would teach the model to answer [PAD] at every position "
            "that was not selected. The mark is -100.",
            "https://github.com/codertimo/BERT-pytorch/issues/29",
        ),
    ),
    hints=(
        "Selected are the positions where the draw is below the rate *and* the id is an ordinary word's.",
        "`ids.masked_fill(where, value)` makes a new tensor with `value` where `where` is True.",
        "`selected = (draw < rate) & (ids >= 5)`; return `ids.masked_fill(~selected, -100)`.",
    ),
    praise="The original where a word was selected, -100 everywhere else.",
    other_ways=(
        lambda ids, draw, rate: torch.where((draw < rate) & (ids > 4), ids, -100),
        lambda ids, draw, rate: (ids + 100) * ((draw < rate) & (ids > 4)) - 100,
    ),
)

# --- 05.2 corruption --------------------------------------------------------------------------------------------------


def selected_and_draws(generator):
    shape = (5, 80)
    ids = torch.randint(FIRST, 40, shape, generator=generator)
    selected = torch.rand(shape, generator=generator) < 0.5
    draw = torch.rand(shape, generator=generator)
    selected[0, :2], draw[0, :2] = True, torch.tensor([0.8, 0.9])  # the edges of the three cases
    ids[0, :2] = 7
    words = torch.randint(FIRST, 40, shape, generator=generator)
    words[0, :2] = 8
    return ids, selected, draw, words


def few_and_draws(generator):
    return tuple(part[:2, :9] for part in selected_and_draws(generator))


def corruption(masked, replaced):
    """Return a `corrupt` that hides where `masked(draw)` is True and puts a random word where `replaced(draw)` is."""

    def corrupted(ids, selected, draw, words):
        out = ids.masked_fill(selected & masked(draw), MASK)
        return torch.where(selected & replaced(draw), words, out)

    return corrupted


def everywhere(ids, selected, draw, words):
    return right_corrupt(ids, torch.ones_like(selected), draw, words)


def below(limit):
    return lambda draw: draw < limit


def below_or_at(limit):
    return lambda draw: draw <= limit


def between(low, high):
    return lambda draw: (low <= draw) & (draw < high)


right_corrupt = corruption(below(0.8), between(0.8, 0.9))

corrupt = Exercise(
    id="05.2",
    right=right_corrupt,
    inputs=selected_and_draws,
    also=few_and_draws,
    mistakes=(
        Mistake(
            "not only the selected",
            everywhere,
            "you corrupt tokens that were not selected: nearly all of the text is gone, and nothing is left to guess "
            "from. Combine each condition with `selected &`.",
            "the `& masked_indices` in the lines of https://github.com/huggingface/transformers/issues/11838",
        ),
        Mistake(
            "2 % random words",
            corruption(below(0.8), between(0.8, 0.82)),
            "only a tenth of what [MASK] left over gets a random word, which makes 80/2/18. The 10 % are of all "
            "selected tokens: draws from 0.8 to 0.9.",
            "https://github.com/huggingface/transformers/issues/32329",
        ),
        Mistake(
            "nothing is kept",
            corruption(below(0.8), between(0.8, 1.0)),
            "80/20/0: all that [MASK] left over becomes a random word, and none stays. Then a word that the model sees "
            "at a selected position is nearly always wrong.",
            "a row of table 8 in Devlin et al. 2019 (arXiv:1810.04805), where it is worse on named entities",
        ),
        Mistake(
            "nothing is replaced",
            corruption(below(0.8), lambda draw: draw < 0),
            "80/0/20: there are no random words. Then a word that the model sees is always right, and it learns to "
            "copy.",
            "a row of table 8 in Devlin et al. 2019 (arXiv:1810.04805)",
        ),
        Mistake(
            "everything hidden",
            corruption(below(1.0), lambda draw: draw < 0),
            "every selected token becomes [MASK], which is 100/0/0. One draw decides among three: below 0.8, from 0.8 "
            "to 0.9, and the rest.",
            "a row of table 8 in Devlin et al. 2019 (arXiv:1810.04805)",
        ),
        Mistake(
            "nothing changes",
            lambda ids, selected, draw, words: ids.clone(),
            "nothing was changed: the text comes back as it was, with all the answers in it. (This has happened in "
            "public code, where a number was compared with eight tenths of itself.)",
            "https://github.com/codertimo/BERT-pytorch/issues/29",
        ),
        Mistake(
            "random words over [MASK]",
            corruption(below(0.8), below(0.9)),
            "the random words overwrite the [MASK]s: draws below 0.8 are below 0.9 too, so nine in ten become random "
            "words and no [MASK] is left. Random are the draws from 0.8 on.",
            "the `& ~indices_replaced` that https://github.com/huggingface/transformers/pull/21629 asks about",
        ),
        Mistake(
            "the edges",
            corruption(below_or_at(0.8), lambda draw: (draw > 0.8) & (draw <= 0.9)),
            "the edges are on the wrong side: a draw of exactly 0.8 takes the random word, and one of exactly 0.9 "
            "stays. Below 0.8, from 0.8 to below 0.9, from 0.9 on.",
            "< and <= exchanged; draws lie in [0, 1), so each interval holds its lower end",
        ),
        Mistake(
            "the edge of [MASK]",
            corruption(below_or_at(0.8), lambda draw: (draw > 0.8) & (draw < 0.9)),
            "a draw of exactly 0.8 becomes [MASK] in yours; it takes the random word: [MASK] is for draws *below* 0.8.",
            "< and <= exchanged; draws lie in [0, 1), so each interval holds its lower end",
        ),
        Mistake(
            "the edge of the random words",
            corruption(below(0.8), lambda draw: (draw >= 0.8) & (draw <= 0.9)),
            "a draw of exactly 0.9 takes the random word in yours; it stays: random are the draws from 0.8 to *below* "
            "0.9.",
            "< and <= exchanged; draws lie in [0, 1), so each interval holds its lower end",
        ),
        Mistake(
            "kept and replaced exchanged",
            corruption(below(0.8), between(0.9, 1.0)),
            "the shares are right (and Google's code has this order), but here the draws from 0.8 to 0.9 take the "
            "random word and those from 0.9 on stay.",
            "create_pretraining_data.py in google-research/bert, quoted in issue 910 there",
        ),
    ),
    hints=(
        "Three cases of one draw: below 0.8, from 0.8 to below 0.9, from 0.9 on. Only the first two change anything.",
        "`torch.where(condition, words, ids)` takes from `words` where the condition holds, else from `ids`.",
        "`out = ids.masked_fill(selected & (draw < 0.8), 4)`, then "
        "`torch.where(selected & (0.8 <= draw) & (draw < 0.9), words, out)`.",
    ),
    praise="One draw, three cases: together always one.",
    other_ways=(
        lambda ids, s, d, w: torch.where(s & (d < 0.8), 4, torch.where(s & (d >= 0.8) & (d < 0.9), w, ids)),
        lambda ids, s, d, w: ids * (~s | (d >= 0.9)) + 4 * (s & (d < 0.8)) + w * (s & (d >= 0.8) & (d < 0.9)),
    ),
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
            "ln V would be right if all logits were equal. They are not: their variance is C · s², and half of it "
            "comes on top.",
            "https://github.com/jingyaogong/minimind/issues/548 (which loss does training start at?)",
        ),
        Mistake(
            "the whole variance",
            math.log(V) + C * STD**2,
            "you added the whole variance. The mean of e^z is e^(σ²/2): half of it comes on top.",
            "the 2 in the exponent forgotten, section 6",
        ),
        Mistake(
            "the standard deviation",
            math.log(V) + math.sqrt(C) * STD,
            "you added the standard deviation σ. What comes on top is σ²/2, half the variance.",
            "variance and standard deviation confused, section 6",
        ),
        Mistake(
            "half the standard deviation",
            math.log(V) + math.sqrt(C) * STD / 2,
            "you added σ/2. What comes on top is σ²/2.",
            "variance and standard deviation confused, section 6",
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
    praise="A run that starts much higher or lower than this has a bug before its first step.",
)

# --- 05.4 find the bug: the mask that does nothing --------------------------------------------------------------------


def logits_and_selection(generator):
    logits = 2 * torch.randn(3, 8, 11, generator=generator)
    labels = torch.randint(0, 11, (3, 8), generator=generator)
    selected = torch.zeros(3, 8, dtype=torch.bool)
    selected[0, :1] = selected[1, 2:5] = selected[2, 3:] = True  # 1, 3 and 5 tokens of the three texts
    return logits, labels, selected


def nothing_selected(generator):
    logits, labels, selected = logits_and_selection(generator)
    return logits, labels, torch.zeros_like(selected)


def token_losses(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


def right_loss(logits, labels, selected):
    return (token_losses(logits, labels) * selected).sum() / selected.sum().clamp_min(1)


def mean_of_means(logits, labels, selected):
    losses = token_losses(logits, labels) * selected
    return (losses.sum(1) / selected.sum(1)).mean()


selected_loss = Exercise(
    id="05.4",
    right=right_loss,
    inputs=logits_and_selection,
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
            "the right losses, but divided by the number of all positions: the result depends on how many tokens stand "
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
            "this is the sum over all N positions, the formula that circulates. Only selected tokens count, and their "
            "sum is divided by their number.",
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
    also=nothing_selected,
    other_ways=(
        lambda z, y, s: F.cross_entropy(z[s], y[s], reduction="sum") / max(1, int(s.sum())),
        lambda z, y, s: F.cross_entropy(z[s], y[s]) if s.any() else torch.tensor(0.0),
        lambda z, y, s: -(z.log_softmax(-1).gather(-1, y[..., None])[..., 0] * s).sum() / max(1, s.sum()),
    ),
)

# --- 05.5 exact counts ------------------------------------------------------------------------------------------------


def padded_texts(generator):
    lengths = [3, 13, 17, 160]  # where the least, the rounding, the specials and the most each make a difference
    ids = torch.full((4, 160), PAD)
    for row, n in enumerate(lengths):
        ids[row, :n] = torch.randint(FIRST, 60, (n,), generator=generator)
        ids[row, 0], ids[row, n - 1] = 2, 3
    draw = torch.rand(4, 160, generator=generator)
    draw[:, 0] = 0.0  # [CLS] has the lowest draw of all
    ids[2, 4:7] = torch.tensor([FIRST, MASK, UNK])  # the edge of the special ids
    draw[2, 4:7] = torch.tensor([0.003, 0.002, 0.001])
    return ids, draw, 0.15


def other_rate(generator):
    ids, draw, _ = padded_texts(generator)
    return ids[1:, :90], draw[1:, :90], 0.33


def choose(count, candidates=lambda ids: ids >= FIRST):
    """Return an `exact_count` that takes `count(ids, rate)` candidates of each text, those with the lowest draws."""

    def chosen(ids, draw, rate):
        draw = draw.masked_fill(~candidates(ids), 2.0)
        rank = draw.argsort(dim=1).argsort(dim=1)
        return (rank < count(ids, rate)[:, None]) & candidates(ids)

    return chosen


def real_tokens(ids):
    return (ids != PAD).sum(1)


def exact_count_by_loops(ids, draw, rate):
    selected = torch.zeros_like(ids, dtype=torch.bool)
    for row, text in enumerate(ids):
        words = [i for i, token in enumerate(text.tolist()) if token > 4]
        k = min(20, max(1, round(rate * int((text != 0).sum()))))
        selected[row, sorted(words, key=draw[row].tolist().__getitem__)[:k]] = True
    return selected


exact_count = Exercise(
    id="05.5",
    right=choose(lambda ids, rate: (rate * real_tokens(ids)).round().clamp(1, 20)),
    inputs=padded_texts,
    also=other_rate,
    mistakes=(
        Mistake(
            "independent draws",
            lambda ids, draw, rate: (draw < rate) & (ids >= FIRST),
            "these are independent draws: the number differs from text to text and can be 0. Here it is fixed for each "
            "text: take that many with the lowest draws.",
            "https://github.com/huggingface/transformers/pull/1814",
        ),
        Mistake(
            "specials chosen",
            choose(lambda ids, rate: (rate * real_tokens(ids)).round().clamp(1, 20), lambda ids: ids != PAD),
            "the numbers are right, but [CLS] or [SEP] can be chosen. They count in n and are never selected.",
            "https://github.com/google-research/bert/issues/166",
        ),
        Mistake(
            "[MASK] chosen",
            choose(lambda ids, rate: (rate * real_tokens(ids)).round().clamp(1, 20), lambda ids: ids >= MASK),
            "one off: id 4 is [MASK], a special token, and yours chooses it. Ordinary words have the ids from 5 on.",
            "> and >= exchanged at the border of the special ids; seen in answers to this exercise",
        ),
        Mistake(
            "the first word never chosen",
            choose(lambda ids, rate: (rate * real_tokens(ids)).round().clamp(1, 20), lambda ids: ids > FIRST),
            "one off: id 5 is the first ordinary word, and yours can never choose it. Special are 0 to 4.",
            "> and >= exchanged at the border of the special ids; seen in answers to this exercise",
        ),
        Mistake(
            "padding counted",
            choose(lambda ids, rate: torch.full((len(ids),), rate * ids.shape[1]).round().clamp(1, 20)),
            "n is the width of the batch, padding and all, so short texts lose far too many words. n counts a text's "
            "real tokens.",
            "https://github.com/lonePatient/albert_pytorch/issues/65",
        ),
        Mistake(
            "specials not counted",
            choose(lambda ids, rate: (rate * (ids >= FIRST).sum(1)).round().clamp(1, 20)),
            "a sensible rule, but not Google's: there n counts [CLS] and [SEP] too, though they are never chosen.",
            "https://github.com/lonePatient/albert_pytorch/issues/65",
        ),
        Mistake(
            "cut off",
            choose(lambda ids, rate: (rate * real_tokens(ids)).floor().clamp(1, 20)),
            "you cut off the fraction, 1.95 becomes 1. Google's code rounds: 2.",
            "int(round(...)) in create_pretraining_data.py of google-research/bert",
        ),
        Mistake(
            "none of a short text",
            choose(lambda ids, rate: (rate * real_tokens(ids)).round().clamp(0, 20)),
            "right for longer texts, but of a text with three tokens none is chosen. The least is 1.",
            "https://github.com/huggingface/transformers/issues/16711 (no token selected, a loss of NaN)",
        ),
        Mistake(
            "no upper limit",
            choose(lambda ids, rate: (rate * real_tokens(ids)).round().clamp_min(1)),
            "right but for the long text: Google's code chooses 20 at most, because its tables have room for 20.",
            "https://github.com/google-research/albert/issues/51",
        ),
    ),
    hints=(
        "How many: `(rate * (ids != 0).sum(1)).round().clamp(1, 20)`, one number for each text.",
        "Which: those with the lowest draws among the ordinary words. Give all others a draw of 2, and they come last.",
        "The rank of each position is `draw.argsort(1).argsort(1)`: selected are the ranks below the number. A loop "
        "over the texts with `draw[i].topk(k, largest=False)` does it too.",
    ),
    praise="Exactly as many as Google's BERT would choose.",
    other_ways=(exact_count_by_loops,),
)
