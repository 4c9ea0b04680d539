"""The checks of lesson 07, What RoBERTa changed."""

import math

import torch
import torch.nn.functional as F

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution
from nextbert_lite.training.batches import seeded

__all__ = [
    "bits_per_byte",
    "hint",
    "largest_and_lowest",
    "make_example",
    "selected_tokens",
    "solution",
    "two_losses",
]


def drawn(n, rate, *numbers):
    return torch.rand(n, generator=seeded(*numbers)) < rate


def right_selected(n, rate, seed, epoch, copies):
    return drawn(n, rate, seed, epoch if copies is None else epoch % copies)


def epoch_of_masking(generator):
    """Return arguments with copies; epoch and copies are chosen so that %, // and min all differ."""
    return 60, 0.3, int(torch.randint(1, 1000, (), generator=generator)), 7, 4


selected_tokens = Exercise(
    id="07.1",
    right=right_selected,
    inputs=epoch_of_masking,
    also=lambda generator: (40, 0.6, int(torch.randint(1, 1000, (), generator=generator)), 9, None),
    mistakes=(
        Mistake(  # also `seeded(seed, 0)`, always version 0: the same stream
            "the seed alone",
            lambda n, rate, seed, epoch, copies: drawn(n, rate, seed),
            "every epoch has the same mask: static masking with one copy. The generator has to depend on the version "
            "too: seeded(seed, version), and with n copies the epochs go round them: epoch % copies.",
            "https://github.com/pengzhiliang/MAE-pytorch/issues/28: the same mask in every epoch",
        ),
        Mistake(
            "copies ignored",
            lambda n, rate, seed, epoch, copies: drawn(n, rate, seed, epoch),
            "this is dynamic masking whatever `copies` says. With n copies epoch n has the mask of epoch 0 again: "
            "epoch % copies.",
            "https://github.com/huggingface/transformers/issues/5979: copies and dynamic masks taken for the same",
        ),
        Mistake(
            "seed plus version",
            lambda n, rate, seed, epoch, copies: drawn(n, rate, seed + (epoch if copies is None else epoch % copies)),
            "you add seed and version. Then epoch 1 of seed 0 has the masks of epoch 0 of seed 1, and runs that you "
            "take for independent share their masks. Give both numbers: seeded(seed, version).",
            "NumPy's documentation of parallel random numbers warns of root_seed + worker_id",
        ),
    ),
    hints=(
        "What has to be the same in epochs 0 and n when there are n copies? And when copies is None?",
        "`version = epoch if copies is None else epoch % copies`",
        "`torch.rand(n, generator=seeded(seed, version)) < rate`",
    ),
    praise="The same masks after a restart, new ones in each version.",
    other_ways=(
        lambda n, r, s, e, c: torch.rand(n, generator=seeded(s, e if c is None else e % c)).lt(r),
        lambda n, r, s, e, c: torch.rand(n, generator=seeded(s, e - c * (e // c) if c else e)) < r,
    ),
)


def documents_to_pair(generator):
    """Return five documents and i = j = 4: not next, and the document behind the last one is the first."""
    return random_documents(generator), 4, 4, False, 2, 3


def random_documents(generator):
    lengths = torch.randint(2, 5, (5,), generator=generator).tolist()
    sizes = [torch.randint(2, 5, (n,), generator=generator).tolist() for n in lengths]
    return [[torch.randint(5, 90, (size,), generator=generator).tolist() for size in row] for row in sizes]


def example(documents, i, j, is_next, cls_id, sep_id, slip=""):
    """Return the right example, or one with this slip."""
    if j == i and slip != "same document":
        j = (j + 1) % len(documents)
    a = [token for sentence in documents[i][:-1] for token in sentence]
    b = documents[i if is_next else j][-1]
    middle, end = ([] if slip == place else [sep_id] for place in ("no middle", "no end"))
    ids = [cls_id, *a, *middle, *([cls_id] if slip == "second cls" else []), *b, *end]
    n_a = 1 + len(a) + (0 if slip == "early" else len(middle))
    types = [0] * n_a + [1] * (len(ids) - n_a)
    if slip == "from one":
        types = [t + 1 for t in types]
    return ids, types, int(not is_next if slip == "turned" else is_next)


def with_slip(slip):
    return lambda *arguments: example(*arguments, slip=slip)


def pair_by_loops(documents, i, j, is_next, cls_id, sep_id):
    j = i if is_next else (j if j != i else (i + 1 if i + 1 < len(documents) else 0))
    ids, types = [cls_id], [0]
    for sentence in documents[i][: len(documents[i]) - 1]:
        ids.extend(sentence)
        types += [0 for _ in sentence]
    last = documents[j][len(documents[j]) - 1]
    return [[*ids, sep_id, *last, sep_id], [*types, 0, *(1 for _ in last), 1], 1 if is_next else 0]


make_example = Exercise(
    id="07.2",
    right=example,
    inputs=documents_to_pair,
    also=lambda generator: (random_documents(generator)[:4], 1, 3, True, 90, 91),
    mistakes=(
        Mistake(
            "the same document",
            with_slip("same document"),
            'j is i here, so your "not next" example has the true next sentence and the label 0. Take the document '
            "behind it when j == i.",
            "https://github.com/codertimo/BERT-pytorch/issues/86, https://github.com/NVIDIA/DeepLearningExamples/issues/421",
        ),
        Mistake(
            "no [SEP] between",
            with_slip("no middle"),
            "the [SEP] between A and B is missing: [CLS] A [SEP] B [SEP].",
            "Devlin et al. 2019, figure 2, read too quickly",
        ),
        Mistake(
            "no [SEP] at the end",
            with_slip("no end"),
            "the last [SEP] is missing: [CLS] A [SEP] B [SEP]. B has one too.",
            "Devlin et al. 2019, figure 2, read too quickly",
        ),
        Mistake(
            "a second [CLS]",
            with_slip("second cls"),
            "B starts with a [CLS] of its own. There is one [CLS], at the start: both segments are one row.",
            "two encoded texts put behind one another: `encode` adds [CLS] and [SEP] to each",
        ),
        Mistake(
            "type 1 too early",
            with_slip("early"),
            "the first [SEP] has type 1. It belongs to A: type 0 up to and with the first [SEP].",
            "Hugging Face's documentation of token_type_ids: the first [SEP] counts to the first segment",
        ),
        Mistake(
            "types from 1",
            with_slip("from one"),
            "your types are 1 and 2. The model has two rows for them, 0 and 1: a 2 is out of range, or, where there is "
            "a third row, wastes one.",
            "codertimo/BERT-pytorch, dataset.py: segment labels 1 and 2, 0 for padding",
        ),
        Mistake(
            "label turned round",
            with_slip("turned"),
            "the label is turned round: here 1 stands for next and 0 for not next. (Google's code has it "
            "the other way: 1 is random. Look it up whenever you load a model.)",
            "google-research/bert: next_sentence_labels is 1 for a random next sentence",
        ),
    ),
    hints=(
        "First settle j, then A (all sentences but the last, one list), then B.",
        "`a = [token for sentence in documents[i][:-1] for token in sentence]`",
        "[CLS] and the first [SEP] count to A: `types = [0] * (len(a) + 2) + [1] * (len(b) + 1)`.",
    ),
    praise="A pair whose only clue is whether its parts belong together.",
    other_ways=(pair_by_loops,),
)


def losses_to_add(generator):
    """Return log-probabilities and labels of both tasks: 0 = not selected for words, 0 = not next for pairs."""
    words = torch.randn(4, 6, 9, generator=generator).log_softmax(-1)
    word_labels = torch.randint(1, 9, (4, 6), generator=generator)
    word_labels[torch.rand(4, 6, generator=generator) < 0.6] = 0
    word_labels[0, :2] = torch.tensor([3, 0])
    pairs = torch.randn(4, 2, generator=generator).log_softmax(-1)
    return words, word_labels, pairs, torch.tensor([0, 1, 0, 1])


def summed(words, word_labels, pairs, is_next, skip_words=0, skip_pairs=-100):
    gaps = F.nll_loss(words.flatten(0, 1), word_labels.flatten(), ignore_index=skip_words)
    return gaps + F.nll_loss(pairs, is_next, ignore_index=skip_pairs)


two_losses = Exercise(
    id="07.3",
    right=summed,
    inputs=losses_to_add,
    also=lambda generator: tuple(part[:3] for part in losses_to_add(generator)),
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda *a: summed(*a, skip_pairs=0),
            "the bug is still there: ignore_index=0 leaves out every pair with the label 0. The model is only ever "
            'told "next", says it always, and is right half of the time. The pairs need a loss without ignore_index.',
            "https://github.com/codertimo/BERT-pytorch/issues/32, https://github.com/codertimo/BERT-pytorch/issues/49",
        ),
        Mistake(
            "ignored nowhere",
            lambda *a: summed(*a, skip_words=-100),
            "now the pairs are right, but the gaps count every word that was *not* selected as a word of id 0. The "
            "words still need ignore_index=0, because 0 marks them as not selected here.",
            "ignore_index dropped for both, as https://github.com/codertimo/BERT-pytorch/pull/77 would",
        ),
        Mistake(
            "the mean of both",
            lambda *a: summed(*a) / 2,
            "this is the mean of the two losses. BERT trains on their sum; half of it is half the learning rate for "
            "plain gradient descent.",
            "Devlin et al. 2019, appendix A.2: the sum of the two means",
        ),
    ),
    hints=(
        "What does `ignore_index=0` do to a pair whose label is 0?",
        "Two criteria: one for the words, which ignores 0, and one for the pairs, which ignores nothing.",
        "`nn.NLLLoss()(pair_log_p, is_next)` for the pairs.",
    ),
    praise="Each loss ignores what *its* labels mark as nothing.",
    other_ways=(
        lambda w, y, p, n: F.nll_loss(w[y > 0], y[y > 0]) + F.nll_loss(p, n),
        lambda w, y, p, n: F.nll_loss(w.mT, y, ignore_index=0) - p.gather(1, n[:, None]).mean(),
    ),
)

largest_and_lowest = Prediction(
    id="07.4",
    right=(256, 16),
    mistakes=(
        Mistake(
            "larger is better",
            (256, 256),
            "the largest batch does need the largest rate. But at the same number of tokens it takes the fewest steps, "
            "and here steps are what is short. RoBERTa's runs were so long that 2K was better than 256.",
            "Liu et al. 2019, Table 3 (2K better than 256), carried over to a short run",
        ),
        Mistake(
            "small and careful, but good",
            (16, 16),
            "the smallest batch is best here, but with the smallest rate: its gradients are the noisiest, so each step "
            "must be small. It makes up for it by their number.",
            "half of the rule that rate and batch grow together (Liu et al. 2019, Table 3: 1e-4, 7e-4, 1e-3)",
        ),
    ),
    hints=(
        "A gradient over 256 sentences is less noisy than one over 16: how far may you go along it?",
        "32,768 sentences are 128 steps of 256, or 2,048 steps of 16.",
    ),
    praise="Large batches take larger steps, but fewer: here too few.",
)


def text_to_price(generator):
    texts = ["naïve café, 5 µm", "Łódź → Kraków ½", "“γ-rays” cost 3 €"]
    text = texts[int(torch.randint(3, (), generator=generator))] * int(torch.randint(2, 5, (), generator=generator))
    return 2 + 3 * float(torch.rand((), generator=generator)), 11 + len(text) // 3, text


def right_bits(nats_per_token, n_tokens, text):
    return nats_per_token * n_tokens / math.log(2) / len(text.encode())


bits_per_byte = Exercise(
    id="07.5",
    right=right_bits,
    inputs=text_to_price,
    reads=lambda outcome: torch.as_tensor(outcome, dtype=torch.float64) if outcome is not None else None,
    mistakes=(
        Mistake(
            "characters",
            lambda nats, n, text: nats * n / math.log(2) / len(text),
            "len(text) counts characters. The text has letters of two and three bytes: len(text.encode()). For plain "
            "English the two agree, so nobody sees it until the first é.",
            "https://github.com/facebookresearch/adaptive-span/issues/17: bits per character and bits per byte",
        ),
        Mistake(
            "nats",
            lambda nats, n, text: nats * n / len(text.encode()),
            "these are nats per byte: divide by ln 2 for bits. torch's cross_entropy takes natural logarithms.",
            "https://github.com/EleutherAI/lm-evaluation-harness/pull/242: a published metric that was in nats",
        ),
        Mistake(
            "times ln 2",
            lambda nats, n, text: nats * n * math.log(2) / len(text.encode()),
            "you multiply by ln 2; divide. One nat is more than a bit: 1 / ln 2 = 1.44 bits.",
            "https://github.com/lucidrains/MEGABYTE-pytorch/issues/14: times log2 e, not times ln 2",
        ),
        Mistake(
            "bits per token",
            lambda nats, n, text: nats / math.log(2),
            "these are bits per *token*. A tokenizer with longer tokens has a higher loss for each and needs fewer: "
            "multiply by the number of tokens, then divide by the bytes.",
            "https://github.com/thinking-machines-lab/tinker-cookbook/pull/823: loss per token across tokenizers",
        ),
    ),
    hints=(
        "What does the whole text cost, in nats? And in bits?",
        "The loss is a mean over tokens: times their number. One bit is ln 2 nats.",
        "`len(text.encode())` is the number of bytes.",
    ),
    praise="A figure that no tokenizer can flatter, as long as it can say the text.",
    other_ways=(
        lambda nats, n, text: n * nats * math.log2(math.e) / len(text.encode("utf-8")),
        lambda nats, n, text: torch.tensor(nats * n / len(bytes(text, "utf-8"))) / torch.tensor(2.0).log(),
    ),
)
