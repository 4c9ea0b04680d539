"""The checks of lesson 01, Text to tensors."""

import itertools
import math
import re
from collections import Counter

import torch

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution
from nextbert_lite.training.batches import pad

__all__ = ["hint", "merge_pair", "most_frequent_pair", "pad_batch", "position_table", "sinusoids", "smile", "solution"]


def spelled_words(generator):
    """Words of the letters a, b and c with how often each occurs; drawn so that each mistake has its own pair."""
    while True:
        n = torch.randint(2, 8, (8,), generator=generator).tolist()
        words = ["".join("abc"[i] for i in torch.randint(3, (k,), generator=generator).tolist()) for k in n]
        words = {word: int(torch.randint(1, 9, (), generator=generator)) for word in words}
        rules = (right_pair, once_a_word, without_counts, shortest_first, last_in_the_alphabet, first_that_came)
        answers = [count(words) for count in rules]
        if len({repr(a) for a in answers}) == len(rules) and None not in answers:
            return (words,)


def pair_counts(words):
    counts = Counter()
    for word, n in words.items():
        for pair in zip(word, word[1:], strict=False):
            counts[pair] += n
    return counts


def best_of(counts):
    """Return the pair with the largest count, None when two share it."""
    (pair, n), *rest = counts.most_common() or [(None, 0)]
    return None if rest and rest[0][1] == n else pair


def right_pair(words):
    return best_of(pair_counts(words))


def without_counts(words):
    return best_of(Counter(pair for word in words for pair in zip(word, word[1:], strict=False)))


def once_a_word(words):
    counts = Counter()
    for word, n in words.items():
        for pair in set(zip(word, word[1:], strict=False)):
            counts[pair] += n
    return best_of(counts)


def shortest_first(words):
    counts = pair_counts(words)
    return min(counts, key=counts.get) if list(counts.values()).count(min(counts.values())) == 1 else None


def last_in_the_alphabet(words):
    return max(pair_counts(words))


def first_that_came(words):
    return next(iter(pair_counts(words)))


most_frequent_pair = Exercise(
    id="01.2",
    right=right_pair,
    inputs=spelled_words,
    mistakes=(
        Mistake(
            "words counted once",
            without_counts,
            "you count each different word once. A word that occurs 100 times has its pairs 100 times: add "
            "words[word], not 1.",
            "Sennrich et al. 2016 weight pairs by word frequency; the first thing that is forgotten",
        ),
        Mistake(
            "pairs once a word",
            once_a_word,
            "you count a pair once in each word. In 'abab' the pair (a, b) stands twice: do not make a set.",
            "the reader's shortcut of a set of pairs",
        ),
        Mistake(
            "the rarest",
            shortest_first,
            "this is the rarest pair. BPE merges the most frequent one, which saves the most symbols.",
            "min in place of max",
        ),
        Mistake(
            "the last in the alphabet",
            last_in_the_alphabet,
            "`max(counts)` compares the pairs themselves, as words in a dictionary, and never looks at the counts. "
            "Tell it what to compare: `max(counts, key=counts.get)`.",
            "max of a dict runs over its keys (Python's documentation); seen in answers to this exercise",
        ),
        Mistake(
            "the first that came",
            first_that_came,
            "this is the pair that was counted first, not the one with the largest count: a dict keeps the order in "
            "which keys came. `counts.most_common(1)` sorts them, `max(counts, key=counts.get)` finds the largest.",
            "the order of a dict taken for an order by count",
        ),
    ),
    hints=(
        "`zip(word, word[1:])` gives the neighbouring pairs of a word.",
        "Keep a Counter; for each pair of a word add the word's own count.",
        "`counts.most_common(1)[0][0]` is the pair with the largest count.",
    ),
    praise="BPE is this line, again and again.",
    other_ways=(
        lambda w: max((c := Counter(p for x, n in w.items() for p in list(itertools.pairwise(x)) * n)), key=c.get),
    ),
)


def symbols_and_pair(generator):
    letters = torch.randint(2, (9,), generator=generator).tolist()
    return [*("ab"[i] for i in letters), "a", "a", "a", "b", "a", "a", "b", "ba", "a", "b", "a", "ab"], ("a", "a")


def merged(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            out.append("".join(pair))
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


def merged_first_only(symbols, pair):
    for i in range(len(symbols) - 1):
        if tuple(symbols[i : i + 2]) == pair:
            return [*symbols[:i], "".join(pair), *symbols[i + 2 :]]
    return symbols


def merged_overlapping(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            out.append("".join(pair))
        else:
            out.append(symbols[i])
        i += 1
    return out


def merged_from_the_right(symbols, pair):
    return [s[::-1] for s in merged(symbols[::-1], pair[::-1])][::-1]


def merged_across_borders(symbols, pair):
    return " ".join(symbols).replace(" ".join(pair), "".join(pair)).split(" ")


def merged_by_regex(symbols, pair):
    text = "\0" + "\0".join(symbols) + "\0"
    inside = re.escape("\0".join(pair))
    return re.sub(rf"(?<=\0){inside}(?=\0)", lambda _: "".join(pair), text).strip("\0").split("\0")


def merged_by_stack(symbols, pair):
    out, just_merged = [], False
    for symbol in symbols:
        if out and not just_merged and (out[-1], symbol) == pair:
            out[-1], just_merged = "".join(pair), True
        else:
            out.append(symbol)
            just_merged = False
    return out


merge_pair = Exercise(
    id="01.3",
    right=merged,
    inputs=symbols_and_pair,
    mistakes=(
        Mistake(
            "the first only",
            merged_first_only,
            "only the first occurrence is merged. Go on to the end of the list.",
            "a return (or break) inside the loop",
        ),
        Mistake(
            "overlapping",
            merged_overlapping,
            "after a merge you step on by one symbol, so the second of the pair is used again. Step on by two.",
            "the index of the loop after a merge",
        ),
        Mistake(
            "the last one lost",
            lambda symbols, pair: merged(symbols, pair)[:-1],
            "the last symbol is lost: a loop that stops before it must still add it.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "compared with a list",
            lambda symbols, pair: list(symbols),
            "nothing is merged. A slice of a list is a list, the pair is a tuple, and [1, 2] == (1, 2) is False: "
            "compare tuple(symbols[i : i + 2]).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "from the right",
            merged_from_the_right,
            "in 'aaa' you merge the last two. BPE reads from the left: 'aa' 'a'. It matters, because encoding must cut "
            "a text as training did.",
            "the order of merges in a run, as in the runs of dashes in the documentation",
        ),
        Mistake(
            "across borders",
            merged_across_borders,
            "you join the symbols to one string and replace in it, which merges across borders: in 'ba a' the *end* of "
            "the symbol 'ba' is taken for the symbol 'a'. Compare whole symbols.",
            "the lookarounds in get_vocab of Sennrich et al. 2016 (arXiv:1508.07909, algorithm 1) are there for this",
        ),
    ),
    also=lambda generator: (["n", "es", "t", "t", "tes", "t", "es", "th", "es", "t", "est", " es", "t"], ("es", "t")),
    hints=(
        "Walk through the list with an index i, and build a new list.",
        "If symbols[i] and symbols[i + 1] are the pair, append both as one string and add 2 to i, else 1.",
    ),
    praise="Also in a run such as 'aaa', where the order matters.",
    other_ways=(merged_by_stack, merged_by_regex),
)

smile = Prediction(
    id="01.1",
    right=4,
    mistakes=(
        Mistake(
            "one character",
            1,
            "it is one character, but a byte-level tokenizer starts from bytes, and UTF-8 needs several for it.",
            "characters and bytes confused; len('🙂') is 1",
        ),
        Mistake(
            "two",
            2,
            "2 is what UTF-16 counts in units (Java, JavaScript). UTF-8 writes an emoji in more bytes.",
            "UTF-16 surrogate pairs",
        ),
        Mistake(
            "three",
            3,
            "3 bytes reach up to U+FFFF, where the common Chinese characters are. This emoji lies above.",
            "the length of a Chinese character in UTF-8",
        ),
    ),
    hints=("UTF-8 uses 1 byte for ASCII, 2 for é, 3 for 中.", "Emoji lie beyond U+FFFF: one byte more than 中."),
    praise="Four tokens for one emoji, until merges join its bytes.",
)


def sequences(generator):
    lengths = [2, 5, 3]
    return ([[0, *torch.randint(2, 50, (n,), generator=generator).tolist()] for n in lengths], 1)  # 0 is a token here


def padded_left(sequences, pad_id):
    T = max(map(len, sequences))
    ids = torch.tensor([[pad_id] * (T - len(s)) + s for s in sequences])
    return ids, ids != pad_id


def cut_to_shortest(sequences, pad_id):
    T = min(map(len, sequences))
    ids = torch.tensor([s[:T] for s in sequences])
    return ids, torch.ones_like(ids, dtype=torch.bool)


def padded_by_loops(sequences, pad_id):
    T = max(len(s) for s in sequences)
    ids, mask = torch.full((len(sequences), T), pad_id), torch.zeros(len(sequences), T, dtype=bool)
    for i, s in enumerate(sequences):
        ids[i, : len(s)] = torch.tensor(s)
        mask[i, : len(s)] = True
    return ids, mask


pad_batch = Exercise(
    id="01.4",
    right=lambda s, pad_id: pad(s, pad_id),
    inputs=sequences,
    also=lambda generator: ([[3, 4], [5], [6, 7, 8, 9], [2, 3]], 99),
    mistakes=(
        Mistake(
            "mask inverted",
            lambda s, pad_id: (pad(s, pad_id)[0], ~pad(s, pad_id)[1]),
            "the ids are right, the mask is the wrong way round. In this course True means 'may be attended to': "
            "a real token.",
            "https://github.com/facebookresearch/detr/issues/96",
        ),
        Mistake(
            "on the left",
            padded_left,
            "you fill up on the left, so that a text's first token stands somewhere else in each batch, and so do its "
            "positions. BERT fills up on the right.",
            "left padding is what generating models such as GPT use",
        ),
        Mistake(
            "cut",
            cut_to_shortest,
            "you cut all texts to the shortest one's length, and lose words. Fill up to the longest one's.",
            "zip stops at the shortest",
        ),
        Mistake(
            "mask of numbers",
            lambda s, pad_id: (pad(s, pad_id)[0], pad(s, pad_id)[1].long()),
            "the mask is right as 1 and 0, but it must be boolean: `~mask` of 1 and 0 is -2 and -1.",
            "Hugging Face's attention_mask is int64",
        ),
    ),
    hints=(
        "T is the length of the longest sequence. Add `[pad_id] * (T - len(s))` to each.",
        "The mask from the lengths: `torch.arange(T) < lengths[:, None]`.",
    ),
    praise="ids for the model, mask for its attention.",
    other_ways=(padded_by_loops,),
)


def sinusoid_table(T, C, step=2, base=10000.0, joined=False, swapped=False):
    """Return the table of Vaswani et al. 2017, section 3.5, or one of its usual misreadings."""
    angles = torch.arange(T)[:, None] / base ** (torch.arange(0, C, 2) * step / 2 / C)
    even, odd = (angles.cos(), angles.sin()) if swapped else (angles.sin(), angles.cos())
    return torch.cat([even, odd], dim=1) if joined else torch.stack([even, odd], dim=2).flatten(1)


def sinusoids_by_loops(T, C):
    f = [math.sin, math.cos]
    return torch.tensor([[f[c % 2](t / 10000 ** ((c - c % 2) / C)) for c in range(C)] for t in range(T)])


sinusoids = Exercise(
    id="01.5",
    right=sinusoid_table,
    inputs=lambda generator: (int(torch.randint(5, 9, (), generator=generator)), 8),
    also=lambda generator: (9, 12),
    mistakes=(
        Mistake(
            "halves in place of pairs",
            lambda T, C: sinusoid_table(T, C, joined=True),
            "all sines stand in the first half and all cosines in the second. It works as well, but it is not the "
            "paper's layout: sine and cosine alternate.",
            "tensor2tensor's code joins halves, the paper alternates",
        ),
        Mistake(
            "i in place of 2i",
            lambda T, C: sinusoid_table(T, C, step=1),
            "the exponent runs over i / C, it should run over 2i / C: the wavelengths reach only half as far (in the "
            "logarithm).",
            "the index i of the paper counts pairs, not features",
        ),
        Mistake(
            "2i twice",
            lambda T, C: sinusoid_table(T, C, step=4),
            "torch.arange(0, C, 2) is already 2i; you multiply by two once more.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "sine and cosine exchanged",
            lambda T, C: sinusoid_table(T, C, swapped=True),
            "the even features are the sines: position 0 starts with 0, 1, 0, 1.",
            "the two formulas exchanged",
        ),
        Mistake(
            "turned",
            lambda T, C: sinusoid_table(T, C).T,
            "rows and columns are exchanged: a row for each position, a column for each feature.",
            "shape of the table",
        ),
    ),
    hints=(
        "`torch.arange(0, C, 2)` is 2i for all pairs at once; `torch.arange(T)[:, None]` the positions as a column.",
        "`angles = positions / 10000 ** (two_i / C)` has the shape (T, C / 2).",
        "`table[:, 0::2] = angles.sin()` fills the even features, `table[:, 1::2]` the odd ones.",
    ),
    praise="Each pair of features is a clock hand that turns at its own speed.",
    other_ways=(sinusoids_by_loops,),
)

position_table = Exercise(
    id="01.6",
    right=lambda max_len, C: torch.zeros(max_len, C),
    inputs=lambda generator: (int(torch.randint(20, 30, (), generator=generator)), 8),
    also=lambda generator: (12, 6),
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda max_len, C: torch.zeros(C, C),
            "still C rows: the first text with more than C tokens ends in an IndexError. One row for each *position*.",
            "public BERT teaching code has a position table with hidden_size rows",
        ),
        Mistake(
            "turned",
            lambda max_len, C: torch.zeros(C, max_len),
            "rows and columns are exchanged: a row is looked up for a position, and holds C features.",
            "the same bug the other way round",
        ),
        Mistake(
            "square",
            lambda max_len, C: torch.zeros(max_len, max_len),
            "a row has max_len features, but it is added to a token's vector, which has C.",
            "the same bug the other way round",
        ),
    ),
    hints=("How many different positions can a token have? How wide is the vector it is added to?",),
    praise="max_len rows, C columns: and a text longer than max_len is refused with a sentence.",
    other_ways=(lambda max_len, C: torch.stack([torch.zeros(C)] * max_len),),
)
