"""The checks of lesson 01, Text to tensors."""

import math
import re
from collections import Counter
from itertools import pairwise

import torch
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
    solution,
    untouched,
)
from nextbert_lite.training.batches import pad

__all__ = [
    "cut_there",
    "encoding",
    "hint",
    "learning",
    "mine",
    "pad_batch",
    "position_table",
    "sinusoids",
    "solution",
]


# --- the build: learn_bpe ---------------------------------------------------------------------------------------------


def learn_bpe(words, n_merges):
    """words: {word: how often} -> the list of merges, (left, right) each, in the order in which they are learned."""
    spelled = {word: list(word) for word in words}  # each word as its symbols so far
    letters = sorted({letter for word in words for letter in word})
    age = {symbol: i for i, symbol in enumerate(letters)}  # the letters first, then what is merged from them
    merges = []
    while len(merges) < n_merges:
        counts = Counter()  # 1. count
        for word, symbols in spelled.items():
            for pair in pairwise(symbols):
                counts[pair] += words[word]
        if not counts:
            break  # each word is one symbol
        best = min(counts, key=lambda pair: (-counts[pair], age[pair[0]], age[pair[1]]))  # 2. choose
        merges.append(best)
        age["".join(best)] = len(age)
        for symbols in spelled.values():  # 3. replace
            i = 0
            while i < len(symbols) - 1:
                if (symbols[i], symbols[i + 1]) == best:
                    symbols[i : i + 2] = ["".join(best)]  # two symbols become one, so the list is shorter now
                i += 1
    return merges


def encode_word(word, merges):
    """Return the word's list of symbols after each merge, (left, right), was applied in the order of the list."""
    symbols = list(word)
    for left, right in merges:
        i = 0
        while i < len(symbols) - 1:
            if symbols[i] == left and symbols[i + 1] == right:
                symbols[i : i + 2] = [left + right]
            i += 1
    return symbols


# What a learner may do with a pair in a list of symbols: the first is right, the others are mistakes.


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


def first_only(symbols, pair):
    for i in range(len(symbols) - 1):
        if tuple(symbols[i : i + 2]) == pair:
            return [*symbols[:i], "".join(pair), *symbols[i + 2 :]]
    return symbols


def overlapping(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            out.append("".join(pair))
        else:
            out.append(symbols[i])
        i += 1
    return out


def from_the_right(symbols, pair):
    return [s[::-1] for s in merged([s[::-1] for s in symbols[::-1]], tuple(s[::-1] for s in pair[::-1]))][::-1]


def across_borders(symbols, pair):
    return " ".join(symbols).replace(" ".join(pair), "".join(pair)).split(" ") if symbols else []


def emptied_places(symbols, pair):
    """The new symbol in the left one's place, and an empty string in the right one's."""
    symbols = list(symbols)
    for i in range(len(symbols) - 1):
        if (symbols[i], symbols[i + 1]) == pair:
            symbols[i], symbols[i + 1] = "".join(pair), ""
    return symbols


def by_a_range(symbols, pair):
    symbols = list(symbols)
    for i in range(len(symbols) - 1):  # as long as the list was before anything was merged
        if symbols[i] == pair[0] and symbols[i + 1] == pair[1]:
            symbols[i : i + 2] = ["".join(pair)]
    return symbols


def by_spelling(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        together = "".join(symbols[i : i + 2]) == "".join(pair)
        out.append("".join(symbols[i : i + 1 + together]))
        i += 1 + together
    return out


def without_the_last(symbols, pair):
    out, i = [], 0
    while i < len(symbols) - 1:
        together = (symbols[i], symbols[i + 1]) == pair
        out.append("".join(symbols[i : i + 1 + together]))
        i += 1 + together
    return out


def as_it_was(symbols, pair):
    return list(symbols)


def by_regex(symbols, pair):
    """Right, by a regular expression that sees whole symbols only."""
    text, inside = "\0" + "\0".join(symbols) + "\0", re.escape("\0".join(pair))
    return re.sub(rf"(?<=\0){inside}(?=\0)", lambda _: "".join(pair), text).strip("\0").split("\0")


# How a learner may choose among the counted pairs.


def by_rule(counts, age):
    return min(counts, key=lambda pair: (-counts[pair], age[pair[0]], age[pair[1]]))


def that_came_first(counts, age):
    return max(counts, key=counts.get)


def first_in_the_alphabet(counts, age):
    return min(counts, key=lambda pair: (-counts[pair], pair))


def last_in_the_alphabet(counts, age):
    return max(counts, key=lambda pair: (counts[pair], pair))


def youngest(counts, age):
    return min(counts, key=lambda pair: (-counts[pair], -age[pair[0]], -age[pair[1]]))


def right_symbol_first(counts, age):
    return min(counts, key=lambda pair: (-counts[pair], age[pair[1]], age[pair[0]]))


def left_symbol_only(counts, age):
    return min(counts, key=lambda pair: (-counts[pair], age[pair[0]]))


def rarest(counts, age):
    return min(counts, key=lambda pair: (counts[pair], age[pair[0]], age[pair[1]]))


def counts_not_looked_at(counts, age):
    return max(counts)


def once_a_word(symbols):
    return set(pairwise(symbols))


def apart(symbols):
    """The pairs of neighbours without those that overlap an equal one: 'aaa' has one pair."""
    found, last = [], -2
    for i, pair in enumerate(pairwise(symbols)):
        if not (found and found[-1] == pair and last == i - 1):
            found.append(pair)
            last = i
    return found


def learner(
    choose=by_rule, replace=merged, weighted=True, pairs=pairwise, least=1, stops=True, letters=sorted, known=True
):
    """Return learn_bpe as a learner may write it."""

    def learn(words, n_merges):
        spelled = {word: list(word) for word in words}
        age = {symbol: i for i, symbol in enumerate(letters(dict.fromkeys("".join(words))))}
        merges = []
        for _ in range(n_merges):
            counts = Counter()
            for word, symbols in spelled.items():
                for pair in pairs(symbols):
                    counts[pair] += words[word] if weighted else 1
            if stops and (not counts or max(counts.values()) < least):
                break
            best = choose(counts, age)
            merges.append(best)
            age.setdefault("".join(best), len(age))
            spelled = {word: replace(symbols, best) for word, symbols in spelled.items()}
            for symbol in (symbol for symbols in spelled.values() for symbol in symbols if known):
                age.setdefault(symbol, len(age))  # what a wrong replacement makes is young
        return merges

    return learn


def one_count(words, n_merges):
    counts = Counter()
    for word, n in words.items():
        for pair in pairwise(word):
            counts[pair] += n
    return [pair for pair, _ in counts.most_common(n_merges)]


def symbols_returned(words, n_merges):
    return ["".join(pair) for pair in learn_bpe(words, n_merges)]


def as_lists(words, n_merges):
    return [list(pair) for pair in learn_bpe(words, n_merges)]


def consumed(words, n_merges):
    merges = learn_bpe(words, n_merges)
    for word in words:
        words[word] = 0
    return merges


def drawn(generator, letters, n_words, longest, largest):
    """Words of these letters, each with how often it occurs."""
    sizes = torch.randint(2, longest + 1, (n_words,), generator=generator).tolist()
    words = [
        "".join(letters[i] for i in torch.randint(len(letters), (n,), generator=generator).tolist()) for n in sizes
    ]
    return {word: int(torch.randint(1, largest + 1, (), generator=generator)) for word in words}


def no_ties(words, n_merges):
    """Whether each of the first merges has the largest count for itself."""
    rules = (by_rule, that_came_first, first_in_the_alphabet, last_in_the_alphabet, youngest, right_symbol_first)
    found = [learner(rule)(words, n_merges) for rule in rules]
    return all(one == found[0] for one in found)


def words_that_tell(generator, answers, n_merges, letters="abc", n_words=8, longest=7, largest=9, ties=False):
    """Draw words for which all these answers differ, and without ties where those are not the topic."""
    while True:
        words = drawn(generator, letters, n_words, longest, largest)
        found = [repr(answer(dict(words), n_merges)) for answer in answers]
        if len(set(found)) == len(found) and (ties or no_ties(words, n_merges)):
            return words


FIRST = tuple(
    learner(**how)
    for how in (
        {},
        {"weighted": False},
        {"pairs": once_a_word},
        {"choose": rarest},
        {"choose": counts_not_looked_at},
    )
)
SEVERAL = (learn_bpe, one_count, learner(replace=first_only), learner(replace=as_it_was))
RUNS = (learn_bpe, learner(replace=overlapping), learner(replace=from_the_right), learner(pairs=apart))
TIES = (
    *map(
        learner, (by_rule, that_came_first, first_in_the_alphabet, last_in_the_alphabet, youngest, right_symbol_first)
    ),
    learner(left_symbol_only),
    learner(letters=list),
)


def learned(answer, words, n_merges):
    """Return answer(words, n_merges); if it is another list of merges, say of which words."""
    merges = untouched(answer, words, n_merges)
    right = learn_bpe(words, n_merges)
    if merges is not None and merges != right:
        raise Fault(f"learn_bpe({words}, {n_merges}) gives {merges!r}; expected {right!r}.")
    return merges


def first_merge(answer, generator):
    return learned(answer, {"ac": 6, "bab": 1, "cbcb": 5, "bcc": 1}, 1)  # each answer of FIRST takes another pair


def several_merges(answer, generator):
    return learned(answer, words_that_tell(generator, SEVERAL, 4, "abcd", 8, 8), 4)


def runs(answer, generator):
    return learned(answer, words_that_tell(generator, RUNS, 3, "aaab", 5, 9), 3)


def borders(answer, generator):
    return learned(answer, words_that_tell(generator, (learn_bpe, learner(replace=across_borders)), 4, "abb"), 4)


def ties(answer, generator):
    return learned(answer, words_that_tell(generator, TIES, 5, "abcd", 6, 6, 2, ties=True), 5)


def nothing_left(answer, generator):
    cases = [({"abc": 2, "a": 5}, 9), ({"ab": 1, "ba": 1}, 9), ({"abc": 2}, 0), ({"a": 3}, 2), ({}, 2)]
    return tuple(untouched(answer, words, n_merges) for words, n_merges in cases)


def other_words(answer, generator):
    of_the_lesson = {"low": 1, "lower": 9, "newest": 2, "widest": 7}  # its words, with other counts
    return untouched(answer, drawn(generator, "Ġest.(+é中", 30, 9, 60), 15), untouched(answer, of_the_lesson, 6)


def by_changed_counts(words, n_merges):
    """Another right way: count once, and after a merge count anew only the words that hold it."""

    def counts_of(symbols, n):
        return Counter({pair: n * times for pair, times in Counter(pairwise(symbols)).items()})

    spelled = {word: list(word) for word in words}
    counts = sum((counts_of(symbols, words[word]) for word, symbols in spelled.items()), Counter())
    order = sorted(set("".join(words)))
    merges = []
    while len(merges) < n_merges and counts:
        most = max(counts.values())
        best = min((p for p, n in counts.items() if n == most), key=lambda p: (order.index(p[0]), order.index(p[1])))
        merges.append(best)
        if best[0] + best[1] not in order:
            order.append(best[0] + best[1])
        for word, symbols in spelled.items():
            if best in pairwise(symbols):
                counts.subtract(counts_of(symbols, words[word]))
                spelled[word] = by_regex(symbols, best)
                counts.update(counts_of(spelled[word], words[word]))
        counts = +counts
    return merges


learning = Build(
    id="01.1",
    course=learn_bpe,
    stages=(
        Stage("the first merge", first_merge),
        Stage("several merges", several_merges),
        Stage("runs of a letter", runs),
        Stage("whole symbols", borders),
        Stage("ties", ties),
        Stage("nothing left to merge", nothing_left),
        Stage("other sizes", other_words),
    ),
    mistakes=(
        Mistake(
            "words counted once",
            learner(weighted=False),
            "you count each different word once. A word that occurs 100 times has its pairs 100 times: add "
            "words[word], not 1.",
            "Sennrich et al. 2016 weight pairs by word frequency; the first thing that is forgotten",
        ),
        Mistake(
            "pairs once a word",
            learner(pairs=once_a_word),
            "you count a pair once in each word. In 'abab' the pair (a, b) occurs twice: do not make a set.",
            "the reader's shortcut of a set of pairs",
        ),
        Mistake(
            "the rarest",
            learner(rarest),
            "this is the rarest pair. BPE merges the most frequent one, which saves the most symbols.",
            "min in place of max",
        ),
        Mistake(
            "counts not looked at",
            learner(counts_not_looked_at),
            "`max(counts)` compares the pairs themselves, as words in a dictionary, and never looks at the counts. "
            "Tell it what to compare, with `key=`.",
            "max of a dict runs over its keys (Python's documentation); seen in answers to this exercise",
        ),
        Mistake(
            "symbols returned",
            symbols_returned,
            "these are the new symbols. Return the merges themselves, tuples (left, right): 'abc' may have been made "
            "of (a, bc) or of (ab, c), and encoding needs to know which.",
            "vocabulary and merges confused: the library stores both",
        ),
        Mistake(
            "lists in place of tuples",
            as_lists,
            "the pairs are right, but they are lists. Return tuples, `(left, right)`: a list cannot be a key of a "
            "dict, and [1, 2] == (1, 2) is False.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "a range that ends too late",
            learner(replace=by_a_range),
            "your code raised IndexError: list index out of range. If you shorten a list inside `for i in range(...)`, "
            "the range still ends where the list ended before. Use `while i < len(symbols) - 1`, or write into a new "
            "list.",
            "del or slice assignment inside a for loop",
        ),
        Mistake(
            "empty strings left behind",
            learner(replace=emptied_places),
            "after a merge an empty string stays where the right symbol was. It stands between two neighbours, so "
            "their pair is not found any more, and it is counted as a symbol itself. Take it out of the list.",
            "symbols[i + 1] = '' to keep the list's length; a fresh reader of this lesson",
        ),
        Mistake(
            "the words consumed",
            consumed,
            "`words` is changed in place: whoever called it finds theirs changed.",
            "counts or spellings kept in the caller's dict",
        ),
        Mistake(
            "counted only at the start",
            one_count,
            "the pairs are counted once, at the start. A merge changes what stands beside what: count again before "
            "each merge, among the symbols and not among the letters.",
            "most_common(n) in place of n rounds",
        ),
        Mistake(
            "nothing replaced",
            learner(replace=as_it_was),
            "the same pair is found again and again: it was not replaced in the words. If you compare a slice of a "
            "list with the pair: [1, 2] == (1, 2) is False.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the first occurrence only",
            learner(replace=first_only),
            "in each word only the first occurrence of the pair is replaced. Go on to the end of the word.",
            "a return (or break) inside the loop",
        ),
        Mistake(
            "the last symbol lost",
            learner(replace=without_the_last),
            "where a word's last symbol is not merged, your replacement loses it. A loop over pairs ends one symbol "
            "before the end of the word: what is left there must be kept too.",
            "`while i < len(symbols) - 1` around a new list; a fresh reader of this lesson",
        ),
        Mistake(
            "overlapping",
            learner(replace=overlapping),
            "after a merge you step on by one of the old symbols, so the second of the pair is used again. A symbol "
            "belongs to one merge: 'aaa' becomes 'aa' 'a'.",
            "the index of the loop after a merge",
        ),
        Mistake(
            "from the right",
            learner(replace=from_the_right),
            "in 'aaa' you merge the last two. BPE reads from the left: 'aa' 'a'.",
            "the order of merges in a run, as in the runs of dashes in the documentation",
        ),
        Mistake(
            "overlapping pairs counted once",
            learner(pairs=apart),
            "in 'aaa' you count `a a` once. It is counted twice, also where the two overlap; only the replacement uses "
            "each symbol once.",
            "str.count, and counters of what will be replaced; a fresh reader of this lesson",
        ),
        Mistake(
            "across borders, and then unknown",
            learner(replace=across_borders, known=False),
            "you join the symbols to one string and replace in it, which merges across borders: in 'ba a' the *end* of "
            "the symbol 'ba' is taken for the symbol 'a'. This makes symbols that no merge made, hence the KeyError. "
            "Compare whole symbols.",
            "a fresh reader of this lesson: the KeyError is all that is seen",
        ),
        Mistake(
            "across borders",
            learner(replace=across_borders),
            "you join the symbols to one string and replace in it, which merges across borders: in 'ba a' the *end* of "
            "the symbol 'ba' is taken for the symbol 'a'. Compare whole symbols.",
            "the lookarounds in get_vocab of Sennrich et al. 2016 (arXiv:1508.07909, algorithm 1) are there for this",
        ),
        Mistake(
            "the one that came first",
            learner(that_came_first),
            "of pairs with equal counts you take the one that was counted first, which depends on the order of the "
            "words. The text has another rule: the older left symbol, then the older right one.",
            "max(counts, key=counts.get) and most_common keep the order of counting",
        ),
        Mistake(
            "ties by the alphabet",
            learner(first_in_the_alphabet),
            "of pairs with equal counts you take the first in the alphabet, which is right among letters only. "
            "All letters are older than any symbol that was merged, and those are in the order of their merges.",
            "min over (-count, pair)",
        ),
        Mistake(
            "the last in the alphabet",
            learner(last_in_the_alphabet),
            "of pairs with equal counts you take the last in the alphabet. The text asks for the older left symbol, "
            "then the older right one.",
            "max over (count, pair)",
        ),
        Mistake(
            "the youngest",
            learner(youngest),
            "of pairs with equal counts you take the youngest symbols. It is the oldest: what was there first wins.",
            "max over (count, age)",
        ),
        Mistake(
            "the right symbol first",
            learner(right_symbol_first),
            "of pairs with equal counts you compare the right symbols first. Compare the left ones, then the right "
            "ones.",
            "the order of the two in the key",
        ),
        Mistake(
            "the left symbol only",
            learner(left_symbol_only),
            "of pairs with equal counts you compare the left symbols only. If these are the same symbol too, the older "
            "right one decides.",
            "half of the rule; a fresh reader of this lesson",
        ),
        Mistake(
            "letters by their first appearance",
            learner(letters=list),
            "you number the letters in the order in which they appear in the words, so that the result depends on the "
            "order of the words. Among letters the age is the alphabet's: number them `sorted`.",
            "dict.fromkeys, or an age given where a letter is first met",
        ),
        Mistake(
            "seen twice",
            learner(least=2),
            "you stop where the most frequent pair occurs once. The text merges it too; a smallest count is an option "
            "of the library that is off.",
            "min_frequency=2 in many programs",
        ),
        Mistake(
            "no pair left",
            learner(stops=False),
            "no pair is left, and the smallest or largest of nothing is an error. Stop when nothing was counted.",
            "min() of an empty Counter",
        ),
    ),
    hints=(
        "Keep `spelled`, a dict from each word to its list of symbols; it begins with `list(word)`. Each round changes "
        "these lists and never the words.",
        "A round counts: `for pair in pairwise(symbols): counts[pair] += words[word]`. If `counts` is empty, stop.",
        "It chooses: keep `age`, a dict that numbers the letters, `sorted`, and then each new symbol. A pair's key "
        "is `(-counts[pair], age[pair[0]], age[pair[1]])`, and the smallest key wins.",
        "It replaces: go through the symbols with an index i. If symbols[i] and symbols[i + 1] are the pair, put one "
        "string in their place: `symbols[i : i + 2] = [left + right]`. Then i + 1.",
    ),
    praise="This is what `train_bpe` learns, more slowly.",
    other_ways=(by_changed_counts, learner()),
)


# --- the build: encode_word -------------------------------------------------------------------------------------------


def encoder(order=list, replace=merged, after=lambda symbols: symbols):
    """Return encode_word as a learner may write it."""

    def encode(word, merges):
        symbols = list(word)
        for pair in order(merges):
            symbols = replace(symbols, pair)
        return after(symbols)

    return encode


def by_rank(word, merges):
    """Right, and fast where there are many merges: the pair that was learned first, until none is left."""
    rank, symbols = {pair: i for i, pair in reversed(list(enumerate(merges)))}, list(word)
    while found := [pair for pair in pairwise(symbols) if pair in rank]:
        symbols = merged(symbols, min(found, key=rank.get))
    return symbols


def longest_match(word, merges):
    """What BERT's WordPiece does with a vocabulary."""
    symbols, vocabulary = [], {"".join(pair) for pair in merges}
    while word:
        ends = [end for end in range(2, len(word) + 1) if word[:end] in vocabulary]
        end = max(ends, default=1)
        symbols.append(word[:end])
        word = word[end:]
    return symbols


def leftmost(word, merges):
    """Merge the first pair from the left that may be merged, whatever its rank."""
    symbols, known = list(word), set(merges)
    while found := [i for i in range(len(symbols) - 1) if (symbols[i], symbols[i + 1]) in known]:
        i = found[0]
        symbols[i : i + 2] = ["".join(symbols[i : i + 2])]
    return symbols


def until_one_is_missing(word, merges):
    symbols = list(word)
    for pair in merges:
        if pair not in pairwise(symbols):
            break
        symbols = merged(symbols, pair)
    return symbols


def one_merge(word, merges):
    symbols = list(word)
    for pair in merges:
        if pair in pairwise(symbols):
            return merged(symbols, pair)
    return symbols


def only_known(word, merges):
    known = set("".join(left + right for left, right in merges))
    return [symbol if symbol[0] in known else "[UNK]" for symbol in encode_word(word, merges)]


def without_unknown(word, merges):
    known = {symbol for pair in merges for symbol in pair}
    return encode_word("".join(letter for letter in word if letter in known), merges)


def emptied(word, merges):
    symbols = encode_word(word, merges)
    merges.clear()
    return symbols


OTHER_ORDERS = (longest_match, leftmost, encoder(lambda merges: merges[::-1]))


def word_and_merges(generator, answers, letters="abcd", n_words=8, longest=8, n_merges=9):
    """Draw merges that were learned from some words, and another word that these answers cut differently."""
    while True:
        merges = learn_bpe(drawn(generator, letters, n_words, longest, 9), n_merges)
        word = "".join(letters[i] for i in torch.randint(len(letters), (14,), generator=generator).tolist())
        found = [repr(answer(word, list(merges))) for answer in answers]
        if len(set(found)) == len(found):
            return word, merges


def by_hand(answer, generator):
    lowest = untouched(answer, "lowest", [("e", "s"), ("es", "t"), ("n", "e"), ("l", "o"), ("lo", "w")])
    hello = untouched(answer, "hello", [("l", "l"), ("h", "e"), ("he", "ll")])
    return lowest, hello, untouched(answer, "abc", [("b", "c"), ("a", "bc")])  # the right one of two symbols is merged


def each_occurrence(answer, generator):
    banana = untouched(answer, "banana", [("a", "n")])
    return banana, untouched(answer, "lowslow", [("l", "o"), ("lo", "w"), ("e", "r")])


def in_order(answer, generator):
    return untouched(answer, *word_and_merges(generator, (encode_word, *OTHER_ORDERS)))


def runs_encoded(answer, generator):
    wrong = (encode_word, encoder(replace=overlapping), encoder(replace=from_the_right))
    return untouched(answer, *word_and_merges(generator, wrong, "aaab"))


def whole_symbols(answer, generator):
    drawn_word = untouched(answer, *word_and_merges(generator, (encode_word, encoder(replace=across_borders)), "abb"))
    return drawn_word, untouched(answer, "abc", [("b", "c"), ("a", "b"), ("ab", "c")])  # spelled abc, but of (a, bc)


def edges(answer, generator):
    merges = [("a", "b"), ("ab", "c")]
    cases = [("", merges), ("a", merges), ("zabcé", merges), ("ab", merges), ("abc", [])]
    return tuple(untouched(answer, word, merges) for word, merges in cases)


def other_merges(answer, generator):
    merges = learn_bpe(drawn(generator, "Ġest.(+é中", 30, 9, 60), 25)
    words = drawn(generator, "Ġest.(+é中z", 12, 20, 2)
    return tuple(untouched(answer, word, merges) for word in words)


encoding = Build(
    id="01.3",
    course=encode_word,
    stages=(
        Stage("a case by hand", by_hand),
        Stage("each occurrence", each_occurrence),
        Stage("the order of the merges", in_order),
        Stage("runs of a letter", runs_encoded),
        Stage("whole symbols", whole_symbols),
        Stage("edge cases", edges),
        Stage("other sizes", other_merges),
    ),
    mistakes=(
        Mistake(
            "nothing merged",
            encoder(replace=as_it_was),
            "nothing is merged: these are the letters. If you compare a slice of a list with the pair: "
            "[1, 2] == (1, 2) is False.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "a string",
            encoder(after=" ".join),
            "this is a string. Return the list of symbols.",
            "the symbols joined for printing",
        ),
        Mistake(
            "one merge",
            one_merge,
            "you stop after the first merge that occurs in the word. Go through all of them.",
            "a return inside the loop",
        ),
        Mistake(
            "until one is missing",
            until_one_is_missing,
            "you stop at the first merge that does not occur in the word. Most merges do not: go on to the next one.",
            "a break in place of continue",
        ),
        Mistake(
            "the merges consumed",
            emptied,
            "`merges` is changed in place: whoever called it finds theirs changed.",
            "merges.pop(0) in a while loop",
        ),
        Mistake(
            "the first occurrence only",
            encoder(replace=first_only),
            "each merge is applied once. A pair may occur several times in a word: replace it everywhere.",
            "a break after the first match",
        ),
        Mistake(
            "the last symbol lost",
            encoder(replace=without_the_last),
            "where the last symbol is not merged, you lose it, once for each merge. A loop over pairs ends one symbol "
            "before the end of the word: what is left there must be kept too.",
            "`while i < len(symbols) - 1` around a new list; a fresh reader of this lesson",
        ),
        Mistake(
            "empty strings left behind",
            encoder(replace=emptied_places, after=lambda symbols: [symbol for symbol in symbols if symbol]),
            "after a merge an empty string stays where the right symbol was, and the next merges do not see that the "
            "symbols beside it are neighbours. Take it out at once and not at the end.",
            "symbols[i + 1] = '' to keep the list's length; a fresh reader of this lesson",
        ),
        Mistake(
            "empty strings in the result",
            encoder(replace=emptied_places),
            "after a merge an empty string stays where the right symbol was, so the next merges do not see that the "
            "symbols beside it are neighbours, and it comes back as a symbol. Take it out of the list.",
            "symbols[i + 1] = '' to keep the list's length",
        ),
        Mistake(
            "a range that ends too late",
            encoder(replace=by_a_range),
            "your code raised IndexError: list index out of range. If you shorten a list inside `for i in range(...)`, "
            "the range still ends where the list ended before. Use `while i < len(symbols) - 1`, or write into a new "
            "list.",
            "del or slice assignment inside a for loop",
        ),
        Mistake(
            "the longest symbol",
            longest_match,
            "you look for the longest known symbol from the left. That is WordPiece's way of encoding, BERT's own. BPE "
            "applies the merges in the order in which they were learned, and cuts some words elsewhere.",
            "the two tokenizers confused, in many tutorials",
        ),
        Mistake(
            "the leftmost pair",
            leftmost,
            "you merge the first pair from the left that may be merged. The pair that was learned first comes first, "
            "wherever it stands.",
            "the merges read as a set",
        ),
        Mistake(
            "the last merge first",
            encoder(lambda merges: merges[::-1]),
            "you apply the merges backwards, so that the symbols that a merge needs are not there yet.",
            "the order of the list",
        ),
        Mistake(
            "overlapping",
            encoder(replace=overlapping),
            "after a merge you step on by one of the old symbols, so the second of the pair is used again and a letter "
            "comes twice.",
            "the index of the loop after a merge",
        ),
        Mistake(
            "from the right",
            encoder(replace=from_the_right),
            "in 'aaa' you merge the last two. Encoding must cut as learning did, from the left: 'aa' 'a'.",
            "the order of merges in a run, as in the runs of dashes in the documentation",
        ),
        Mistake(
            "across borders",
            encoder(replace=across_borders),
            "you join the symbols to one string and replace in it, which merges across borders: in 'ba a' the *end* of "
            "the symbol 'ba' is taken for the symbol 'a'. Compare whole symbols.",
            "the lookarounds in get_vocab of Sennrich et al. 2016 (arXiv:1508.07909, algorithm 1) are there for this",
        ),
        Mistake(
            "the spelling compared",
            encoder(replace=by_spelling),
            "you compare what the two symbols spell together. ab + c and a + bc both spell abc, but the merge (ab, c) "
            "is for the first alone: compare the left symbols and the right ones.",
            "symbols[i] + symbols[i + 1] == left + right; a fresh reader of this lesson",
        ),
        Mistake(
            "the empty word",
            encoder(after=lambda symbols: symbols or [""]),
            "the empty word has no symbols, so its list is empty; yours holds one empty string.",
            "''.split(' ') is ['']; a fresh reader of this lesson",
        ),
        Mistake(
            "an unknown letter left out",
            without_unknown,
            "a letter that no merge knows is left out, so the word cannot be put together again. It stays a symbol.",
            "filtering by the vocabulary; a fresh reader of this lesson",
        ),
        Mistake(
            "an unknown letter",
            only_known,
            "a letter that no merge knows is lost. It stays as it is: in a byte-level tokenizer each has a token.",
            "[UNK] is WordPiece's answer",
        ),
    ),
    hints=(
        "It is step 3 of learning, the replacement, for one word and each merge of the list in turn.",
        "`symbols = list(word)`, then `for left, right in merges:` and inside it a loop over the index i.",
        "If symbols[i] == left and symbols[i + 1] == right: `symbols[i : i + 2] = [left + right]`. Then i + 1, "
        "as long as i < len(symbols) - 1.",
    ),
    praise="Learning counts once; encoding only replays what was learned.",
    other_ways=(by_rank, encoder()),
)

cut_there = Prediction(
    id="01.2",
    right=["the", "re"],
    mistakes=(
        Mistake(
            "the longest symbol first",
            ["ther", "e"],
            "'ther' is a symbol, but it is made of 'th' and 'er', and the 'e' that 'er' needs is already inside 'the': "
            "that merge was learned earlier.",
            "longest match, WordPiece's way of encoding",
        ),
        Mistake(
            "one merge",
            ["th", "e", "r", "e"],
            "that is the word after the first merge. Go on: th + e comes later in the list.",
            "the list read to its first match",
        ),
        Mistake(
            "two merges",
            ["the", "r", "e"],
            "one merge more applies, further down the list: r + e.",
            "the list not read to its end",
        ),
        Mistake(
            "the last first",
            ["t", "he", "re"],
            "h + e is older than th + e, but t + h is older still, and after it there is no 'h' left.",
            "the order of the first two merges",
        ),
        Mistake(
            "e + r before th + e",
            ["th", "er", "e"],
            "e + r is further down the list than th + e, which has used the first 'e' by then.",
            "the list read as a set; a fresh reader of this lesson",
        ),
        Mistake(
            "the last merge before th + e",
            ["th", "e", "re"],
            "after t + h go on with the next merge of the list that applies: th + e comes before r + e.",
            "th + e not seen, because 'th' is new; a fresh reader of this lesson",
        ),
        Mistake(
            "the example",
            ["t", "here"],
            "that is the example of how to write an answer. Write `t h e r e` and go down the list.",
            "the example copied",
        ),
        Mistake(
            "one symbol",
            ["there"],
            "no merge of the list makes 'there'.",
            "a whole word expected",
        ),
    ),
    hints=(
        "Write `t h e r e`. Go down the list; apply each merge where its two symbols stand side by side.",
        "After t + h there is no single h any more, so h + e does nothing.",
    ),
    praise="Three merges apply, and the order decided which.",
)


def sequences(generator):
    lengths = [3, 5, 2]  # the first is not the shortest
    rows = [[0, *torch.randint(2, 50, (n,), generator=generator).tolist(), 1] for n in lengths]
    return rows, 1  # 0 is a token here, and so is the padding's 1 at the end of each text


def padded_left(sequences, pad_id):
    T = max(map(len, sequences))
    ids = torch.tensor([[pad_id] * (T - len(s)) + s for s in sequences])
    return ids, torch.tensor([[False] * (T - len(s)) + [True] * len(s) for s in sequences])


def padded_left_by_ids(sequences, pad_id):
    ids, _ = padded_left(sequences, pad_id)
    return ids, ids != pad_id


def cut_to_first(sequences, pad_id):
    ids, mask = pad(sequences, pad_id)
    return ids[:, : len(sequences[0])], mask[:, : len(sequences[0])]


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
            "mask from the ids",
            lambda s, pad_id: (pad(s, pad_id)[0], pad(s, pad_id)[0] != pad_id),
            "the ids are right, but the mask hides real tokens that have the padding's id. Take it from the lengths.",
            "a fresh reader of this lesson; `ids != pad_id` is usual where no token has this id",
        ),
        Mistake(
            "on the left",
            padded_left,
            "you fill up on the left, so that a text's first token stands somewhere else in each batch, and so do its "
            "positions. BERT fills up on the right.",
            "left padding is what generating models such as GPT use",
        ),
        Mistake(
            "on the left, and the mask from the ids",
            padded_left_by_ids,
            "you fill up on the left, and take the mask from the ids, which hides real tokens that have the padding's "
            "id. BERT fills up on the right, and the lengths tell which tokens are real.",
            "both mistakes at once",
        ),
        Mistake(
            "filled up with 0",
            lambda s, pad_id: (pad(s, 0)[0], pad(s, pad_id)[1]),
            "you fill up with 0. It is `pad_id` that fills up, and not every vocabulary gives it the number 0.",
            "torch.zeros, and pad_sequence's default; a fresh reader of this lesson",
        ),
        Mistake(
            "turned",
            lambda s, pad_id: tuple(tensor.T for tensor in pad(s, pad_id)),
            "rows and columns are exchanged: a row for each sequence, (B, T).",
            "pad_sequence without batch_first=True",
        ),
        Mistake(
            "cut to the first",
            cut_to_first,
            "you take the first text's length for all, and lose words of the longer ones. Take the longest one's.",
            "T = len(sequences[0]); a fresh reader of this lesson",
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


def growing_speeds(T, C):
    angles = torch.arange(T)[:, None] * 10000 ** (torch.arange(0, C, 2) / C)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def by_columns(T, C, factor):
    """A speed for each column in place of each pair of columns."""
    column = torch.arange(C)
    angles = torch.arange(T)[:, None] / 10000 ** (factor * column / C)
    return torch.where(column % 2 == 0, angles.sin(), angles.cos())


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
            "a speed for each column",
            lambda T, C: by_columns(T, C, 1),
            "each column has a speed of its own, so that sine and cosine at 2i and 2i + 1 are no longer the height and "
            "width of one hand. Both of a pair take the exponent 2i / C, where i counts pairs.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "a speed for each column, and 2i of columns",
            lambda T, C: by_columns(T, C, 2),
            "you take i for the number of the column. It counts the pairs: the columns 2i and 2i + 1 belong to one "
            "hand, whose speed has the exponent 2i / C in both.",
            "i taken for the column; a fresh reader of this lesson",
        ),
        Mistake(
            "the exponent's sign",
            growing_speeds,
            "the exponent has the wrong sign: the hands turn faster and faster to the right. θ falls from 1 towards "
            "1 / 10000.",
            "division and a negative exponent at once, or neither; a fresh reader of this lesson",
        ),
        Mistake(
            "from position 1",
            lambda T, C: sinusoid_table(T + 1, C)[1:],
            "your first row is that of position 1. Positions start at 0, where each hand has the angle 0.",
            "torch.arange(1, T + 1); a fresh reader of this lesson",
        ),
        Mistake(
            "sines alone",
            lambda T, C: sinusoid_table(T, C)[:, 0::2].repeat_interleave(2, dim=1),
            "the odd columns are sines too; they should be the cosines of the same angles. The height of a hand alone "
            "does not say where it points.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "from 1 to 1 / 10000",
            lambda T, C: torch.stack(
                [f(torch.arange(T)[:, None] / 10000 ** torch.linspace(0, 1, C // 2)) for f in (torch.sin, torch.cos)], 2
            ).flatten(1),
            "your speeds end at exactly 1 / 10000. In the formula the last pair has i = C / 2 − 1, so its "
            "speed is a little above that.",
            "tensor2tensor's code divides by the number of pairs less one",
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


def about_the_layer(answer, case):
    """Say that a layer was returned in place of the table that it holds."""
    if isinstance(answer(*case), nn.Module):
        return "you return a layer. The check asks for the table that such a layer holds: zeros of its weight's shape."
    return None


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
            "position_embedder = nn.Embedding(hidden_size, hidden_size) in an article, 'RoBERTa的PyTorch实现'",
        ),
        Mistake(
            "turned",
            lambda max_len, C: torch.zeros(C, max_len),
            "rows and columns are exchanged: a row is looked up for a position, and holds C features.",
            "the same bug the other way round",
        ),
        Mistake(
            "one row too many",
            lambda max_len, C: torch.zeros(max_len + 1, C),
            "one row too many: the positions are 0 to max_len − 1.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "a batch",
            lambda max_len, C: torch.zeros(1, max_len, C),
            "the table has no dimension for the batch: its rows are looked up by position, as in nn.Embedding.",
            "parameters of vision transformers have shape (1, T, C); a fresh reader of this lesson",
        ),
        Mistake(
            "the shape alone",
            lambda max_len, C: (max_len, C),
            "the shape is right. Return a tensor of zeros that has it.",
            "a fresh reader of this lesson",
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
    about=about_the_layer,
    other_ways=(lambda max_len, C: torch.stack([torch.zeros(C)] * max_len),),
)
