# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Text to tensors
#     question: How does any text become numbers that a model can work with?
#     minutes: 120
#     part: "Part I: build an encoder"
# ---

# %% [markdown]
# # 01 · Text to tensors
#
# A model adds and multiplies numbers. A text consists of letters, spaces, 中文 and 🙂. What connects the two is a vocabulary,
# which is a short list of pieces that every text can be put together from, and a table with a vector for each piece.
#
# **The question of this lesson:** how does any text become numbers that a model can work with?
#
# | | |
# |---|---|
# | You will | build byte-pair encoding, both halves: learn the pieces from real text, and encode new text with them; find that the library's tokenizer does the same; see how BERT's WordPiece differs; turn a batch of texts into one tensor and a mask; and tell the model where each token stands |
# | You need | lesson 00: tensors, and how exercises work |
# | It takes | about 120 minutes, six exercises; the machine needs about a minute |
#
# Here is a sentence of this course as a model sees it. The text is cut into tokens, each token has an id, and each id picks
# a vector:

# %% tags=["hide-input"]
import torch

from nextbert_lite import COURSE_SENTENCE, load_docs, plots, train_bpe

texts = [document.text for document in load_docs().train]
tokenizer = train_bpe(texts, vocab_size=4096)


def draw_pieces(ax, pieces, y, labels=None):
    """Draw tokens in a row as coloured boxes, with a label below each; return the middle of each box."""
    x, middles = 0.0, []
    for n, piece in enumerate(pieces):
        width = max(len(piece), 0 if labels is None else len(labels[n]) * 0.8) + 0.8
        ax.add_patch(plots.plt.Rectangle((x, y), width - 0.15, 0.5, color=["#DCEBF5", "#FBEBCB"][n % 2]))
        middles.append(x + width / 2)
        text = plots.plain(piece.replace(" ", "·"))
        ax.text(middles[-1], y + 0.25, text, ha="center", va="center", family="monospace", fontsize=9)
        if labels:
            ax.text(middles[-1], y - 0.2, labels[n], ha="center", va="center", fontsize=8, color=plots.GREY)
        x += width
    return middles


ids = tokenizer.encode(COURSE_SENTENCE)
vectors = torch.randn(4096, 6, generator=torch.Generator().manual_seed(0))[ids]  # any numbers, for the picture
fig, ax = plots.figure(size=(8.0, 2.2))
middles = draw_pieces(ax, tokenizer.tokens(ids), 1.9, [str(i) for i in ids])
for middle, vector in zip(middles, vectors, strict=True):
    for row, value in enumerate(vector.tolist()):
        colour = plots.plt.get_cmap("PuOr")(0.5 + value / 5)
        ax.add_patch(plots.plt.Rectangle((middle - 0.8, 1.2 - 0.22 * row), 1.6, 0.2, color=colour))
ax.set(xlim=(0, middles[-1] + 4), ylim=(0, 2.5))
ax.set_axis_off()
ax.set_title("Each token has an id, and equal ids pick the same vector")
plots.show(
    fig,
    alt=f"The course's sentence cut into {len(ids)} coloured tokens, each with its id below and a column of coloured numbers, which is the same for the same id; a dot is a space.",
)

# %% [markdown]
# The model gets the vectors. `[CLS]` and `[SEP]` mark the beginning and the end, and a dot stands for a space. Frequent
# words are one token; words that are rare in these texts, such as *ovens*, are several.
#
# Three words will recur. A **token** is an entry of the vocabulary, which has an id. Tokens that are words or parts of words
# are also called **pieces**. While a word is still being put together, the strings that it consists of at that moment are its
# **symbols**: single letters (or bytes) at first, and tokens at the end.

# %%
import json
import math
import re
from collections import Counter
from itertools import pairwise

import torch
from tokenizers import models, pre_tokenizers
from torch import nn

from nextbert_lite import COURSE_SENTENCE, ToyWorld, length_buckets, load_docs, pad, plots, train_bpe
from nextbert_lite.checks import lesson_01 as check

# %% [markdown]
# One number decides all that is random in this lesson: which texts we learn from, the start of the vectors, the samples.

# %% tags=["parameters"]
seed = 0  # try another

# %% [markdown]
# ## 1. Why not words, why not bytes?
#
# The text is real: the documentation of the Python, PyTorch, NumPy and Matplotlib that are installed on your machine. It is
# split so that no test text is nearly the same as a text that we learn from (one of the course's tests checks this). The
# test texts are **held out**: they are not used for learning, only for measuring.

# %%
docs = load_docs()
texts, held_out = ([document.text for document in part] for part in (docs.train, docs.test))
tokenizer = train_bpe(texts, vocab_size=4096)
generator = torch.Generator().manual_seed(seed)
print(f"{len(texts):,} texts to learn from, {sum(map(len, texts)):,} characters; {len(held_out):,} held out")

# %% [markdown]
# You could take the 4,096 most frequent **words** (and punctuation marks) as the vocabulary. How many of the words in the
# held-out texts would be missing? Or you could take **bytes**, the 256 values that a byte can have. How long would a text become?
# Guess both before you run the cell. Lengths are in tokens per 1,000 characters. (Spaces are not counted with the words.)


# %%
def words_of(text):
    return re.findall(r"\w+|[^\w\s]", text)  # words, and single marks


known = {word for word, _ in Counter(word for text in texts for word in words_of(text)).most_common(4096)}
held_words = [word for text in held_out for word in words_of(text)]
real_words = [word for word in held_words if re.match(r"\w", word)]  # without the marks
unknown = sum(word not in known for word in real_words) / len(real_words)
characters = sum(map(len, held_out))
per_thousand = {
    "4,096 words": 1000 * len(held_words) / characters,
    "256 bytes": 1000 * sum(len(text.encode()) for text in held_out) / characters,
    "4,096 pieces": 1000 * sum(len(ids) - 2 for ids in tokenizer.encode_batch(held_out)) / characters,
}
for name, n in per_thousand.items():
    print(
        f"{name:>12}: {n:5.0f} tokens per 1,000 characters; unknown: {unknown if 'words' in name else 0:.0%} of the words"
    )
assert unknown > 0.05
assert per_thousand["256 bytes"] > 3 * per_thousand["4,096 pieces"]
assert per_thousand["4,096 pieces"] < 1.5 * per_thousand["4,096 words"] < 0.5 * per_thousand["256 bytes"]

# %% [markdown]
# A vocabulary of words puts `[UNK]`, *unknown*, in place of every rare word, and in documentation the rare word is often the
# point. Bytes lose nothing, but a text has more than three times as many bytes as pieces, and a model's work grows with the
# length. **Pieces of words** lose nothing, and there are not many more of them than words.

# %% [markdown]
# ## 2. Bytes: 256 symbols for every text
#
# A computer stores text as bytes, numbers from 0 to 255, by the rules of UTF-8. A plain letter takes one byte; rarer
# characters take more:

# %% tags=["nbval-check-output"]
for character in ["a", "é", "中", "🙂"]:
    print(character, list(character.encode("utf-8")))

# %% [markdown]
# So a vocabulary that contains the 256 bytes can write every text. All that is left is to make it shorter.

# %% [markdown]
# ## 3. Learning: byte-pair encoding
#
# Start from single symbols. Find the pair of neighbours that occurs most often, make it a new symbol, replace it everywhere,
# and repeat. In the words of the paper that brought this to machine translation (Sennrich et al. 2016, section 3.2):
#
# > We iteratively count all symbol pairs and replace each occurrence of the most frequent pair ('A', 'B') with a new symbol
# > 'AB'.
#
# This is how **byte-pair encoding** (BPE) learns. It began as a compression algorithm (Gage 1994), and GPT-2 applied it to
# bytes (Radford et al. 2019). After a few rounds frequent words are one symbol, and rare words stay in pieces. We count
# each different word once and remember how often it occurs. The first round:

# %% tags=["nbval-check-output"]
toy = {"low": 5, "lower": 2, "newest": 6, "widest": 3}  # word: how often
counts = Counter()
for word, n in toy.items():
    for pair in pairwise(word):  # the neighbours: (l, o), (o, w)
        counts[pair] += n
print(counts.most_common(4))

# %% [markdown]
# Two pairs share the first rank: `e s` and `s t` both occur nine times. A **tie** needs a rule, or two programs learn
# different vocabularies from the same text. The library's rule, and ours, is *the older symbol wins*: of tied pairs take the
# one whose left symbol is older, then the one whose right symbol is. Letters are older than all merged symbols, and among
# letters the age is Python's order of strings (`sorted`); merged symbols follow in the order in which they were learned. So
# `e s` comes first, because e is older than s:

# %% tags=["nbval-check-output"]
for word in toy:
    print(f"{' '.join(word):12} -> {' '.join(word).replace('e s', 'es')}")

# %% [markdown]
# Now `es t` occurs nine times and `e s` does not occur at all. So the counts must be taken anew after each merge, among the
# symbols, which are letters no longer.

# %% [markdown]
# ### Exercise 01.1 · build the learning of merges ●●● · 35 minutes
#
# Write `learn_bpe(words, n_merges)`. `words` is a dict from each word to how often it occurs, as `toy` is; do not change
# it. Return the list of merges, tuples of two strings `(left, right)`, in the order in which they are learned.
#
# * Each round counts the pairs of neighbouring symbols in all words, each word as often as it occurs. A pair that occurs
#   twice in a word counts twice, also where its occurrences overlap: `aaa` holds `a a` twice.
# * It takes the pair with the largest count; of tied pairs the older one, by the rule above. A pair that occurs only once is
#   merged too.
# * It replaces the pair in all words, from left to right, each symbol used once: `a a a b` with `(a, a)` becomes `aa a b`.
#   Only whole symbols count: in `ba a` there is no `a a`.
# * If no pair is left, it stops and returns the shorter list. No words, or no merges asked for: an empty list.
#
# You may use `Counter` and `pairwise`. The check goes in stages. The first asks for one merge, so the count and the choice are
# enough for it; write them, run the check, and go on with the replacement.


# %% tags=["exercise-01.1", "my-bert-tokenizer"]
def learn_bpe(words, n_merges):
    """words: {word: how often} -> the list of merges, (left, right) each, in the order in which they are learned."""
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.learning(learn_bpe)

# %% [markdown]
# The rest of the lesson uses your function if it passes, and the course's if not:

# %% tags=["nbval-check-output"]
learn_bpe = check.mine("01.1", learn_bpe)
print(learn_bpe(toy, 8))

# %% [markdown]
# The first merges build *est*, *low* and *new*: parts of words that mean something, found by counting alone. Now to real
# text. It is cut before anything is counted, at spaces and punctuation, so that no symbol spans two words. The parts are
# called **pre-tokens**: a word with the space before it, a number, a run of marks, a run of spaces (code is indented). A
# byte that cannot be printed gets a letter that can: a space is written `Ġ`, the end of a line `Ċ`.

# %% tags=["nbval-check-output"]
cutter = pre_tokenizers.ByteLevel(add_prefix_space=False)


def pre_tokens(text):
    return [word for word, _ in cutter.pre_tokenize_str(text)]


print(pre_tokens("Return the array's shape."))

# %% [markdown]
# A pre-token is a "word" for your function, and its letters are bytes. From every sixtieth text it learns:

# %%
some = texts[seed % 60 :: 60]
merges = learn_bpe(Counter(word for text in some for word in pre_tokens(text)), n_merges=150)
for i in (0, 1, 2, 11, 50, 149):
    left, right = merges[i]
    print(f"merge {i + 1:3}: {left:>6} + {right:<6} -> {left + right}")

# %% [markdown]
# Does the `tokenizers` library of Hugging Face, which `train_bpe` calls, learn the same from the same texts?

# %% tags=["nbval-check-output"]
small = train_bpe(some, vocab_size=5 + 256 + len(merges))  # 5 special tokens, 256 bytes
by_library = [tuple(pair) for pair in json.loads(small.to_json())["model"]["merges"]]
assert merges == by_library
print(f"all {len(merges)} merges are the same, in the same order")

# %% [markdown]
# How much do more merges buy? Guess the shape of the curve: does twice the vocabulary make the text half as long?

# %% tags=["hide-input"]
sizes = [261, 512, 1024, 2048, 4096, 8192]
sample = held_out[seed % 3 :: 3]
characters = sum(map(len, sample))
compression = [characters / sum(len(ids) - 2 for ids in train_bpe(texts, size).encode_batch(sample)) for size in sizes]
gains = [later - earlier for earlier, later in pairwise(compression)][1:]  # from 512 on each step doubles V
fig, ax = plots.figure()
ax.plot(sizes, compression, "o-")
ax.set(xscale="log", xlabel="V, size of the vocabulary", ylabel="characters per token, held-out text", ylim=(0, None))
ax.set_xticks(sizes, [str(size) for size in sizes], minor=False)
ax.minorticks_off()
ax.set_title("Each doubling of the vocabulary buys less than the one before")
plots.show(
    fig,
    alt=f"Characters per token grow from {compression[0]:.1f} at V = 261 to {compression[-1]:.1f} at V = 8192, ever more slowly.",
)
assert gains == sorted(gains, reverse=True) and gains[-1] > 0

# %% [markdown]
# ## 4. Encoding: the merges, replayed
#
# Learning is half of a tokenizer. The other half cuts words that were not in the texts, and it does not count anything:
#
# > At test time, we first split words into sequences of characters, then apply the learned operations to merge the
# > characters into larger, known symbols. (Sennrich et al. 2016, section 3.2)
#
# *The learned operations* are the merges, in the order in which they were learned. The order decides, because a merge may use
# up a symbol that another merge needs.

# %% [markdown]
# ### Exercise 01.2 · predict the result ●○○ · 5 minutes
#
# Here is a list of merges, made up for this exercise: `t h`, `h e`, `th e`, `e r`, `th er`, `r e`. How is `there` cut?
# Write the list of its symbols, such as `["t", "here"]`.

# %% tags=["exercise-01.2"]
symbols_of_there = None
### BEGIN SOLUTION
symbols_of_there = ["the", "re"]  # t h applies, h e finds no h, th e applies, e r and th er find no e, r e applies
### END SOLUTION

# %% tags=["nbval-check-output"]
check.cut_there(symbols_of_there)

# %% [markdown]
# ### Exercise 01.3 · build the encoding of a word ●●● · 20 minutes
#
# Write `encode_word(word, merges)`. `merges` is a list as `learn_bpe` returns it: each of its two strings is a letter or was
# merged earlier in the list. Return the list of the word's symbols, strings, after all merges were applied in the order of
# the list, each one wherever its pair occurs, from left to right, whole symbols only, as in learning. A letter that no merge
# knows stays a symbol. The empty word gives an empty list, and no merges give the letters. Do not change `merges`.


# %% tags=["exercise-01.3", "my-bert-tokenizer"]
def encode_word(word, merges):
    """Return the word's list of symbols after each merge, (left, right), was applied in the order of the list."""
    ### BEGIN SOLUTION
    symbols = list(word)
    for left, right in merges:
        i = 0
        while i < len(symbols) - 1:
            if symbols[i] == left and symbols[i + 1] == right:
                symbols[i : i + 2] = [left + right]
            i += 1
    return symbols
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.encoding(encode_word)

# %% [markdown]
# Again yours, if it passes. It learned from four words; how does it cut a fifth?

# %% tags=["nbval-check-output"]
encode_word = check.mine("01.3", encode_word)
print(encode_word("slowest", learn_bpe(toy, 8)))

# %% [markdown]
# *slowest* is not among the toy words, and yet it is cut into parts that make sense. Here is a word that the training texts
# do not contain, cut by more and more of the merges that the library learned from all of them:

# %% tags=["hide-input"]
all_merges = [tuple(pair) for pair in json.loads(tokenizer.to_json())["model"]["merges"]]
seen = {word for text in texts for word in pre_tokens(text)}
new_word = "Ġunpadding"
assert new_word not in seen
fig, ax = plots.figure(size=(8.0, 2.8))
steps = [0, 10, 50, 150, 500, len(all_merges)]
for row, n in enumerate(steps):
    x, y = 6.0, -0.7 * row
    ax.text(5.0, y + 0.25, f"{n:,} merges", ha="right", va="center", color=plots.GREY)
    for i, piece in enumerate(encode_word(new_word, all_merges[:n])):
        width = len(piece) + 0.5
        ax.add_patch(plots.plt.Rectangle((x, y), width - 0.1, 0.5, color=["#DCEBF5", "#FBEBCB"][i % 2]))
        text = piece.replace("Ġ", "·")
        ax.text(x + width / 2 - 0.05, y + 0.25, text, ha="center", va="center", family="monospace")
        x += width
ax.set(xlim=(0, 24), ylim=(-0.7 * len(steps) + 0.5, 0.6))
ax.set_axis_off()
ax.set_title("A word that was never seen is put together from known pieces")
final = encode_word(new_word, all_merges)
plots.show(
    fig,
    alt=f"The new word unpadding in {len(new_word)} symbols without merges, and in {len(final)} after all of them: {', '.join(final)}.",
)
assert len(final) < len(new_word) / 2

# %% [markdown]
# Does your function cut as the library does? First all the held-out words with your 150 merges, then five hundred new ones
# with the library's own:

# %%
held_types = {word for text in held_out for word in pre_tokens(text)}
new_words = sorted(word for word in held_types - seen if word.strip("Ġ").isalpha())  # of letters alone


def library(word, tokenizer):
    return [token.value for token in tokenizer.backend.model.tokenize(word)]


assert all(encode_word(word, merges) == library(word, small) for word in held_types)
assert all(encode_word(word, all_merges) == library(word, tokenizer) for word in new_words[:500])
print(
    f"{len(held_types):,} held-out words are cut alike; {len(held_types - seen):,} of them were never seen in training"
)
for word in new_words[::400][:3]:
    print(word, "->", *encode_word(word, all_merges))

# %% [markdown]
# Number the symbols and you have a whole tokenizer: the five special tokens, then the bytes, then the merged symbols.

# %% tags=["nbval-check-output"]
symbols = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *sorted(cutter.alphabet()),
    *("".join(pair) for pair in merges),
]
id_of = {symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))}  # each symbol once

for text in held_out[:20]:
    ids = [id_of[symbol] for word in pre_tokens(text) for symbol in encode_word(word, merges)]
    assert [id_of["[CLS]"], *ids, id_of["[SEP]"]] == small.encode(text)
print("20 held-out texts: the same ids as the library's")

# %% [markdown]
# Your function goes through all merges, most of which do not occur in the word. A library asks the other way round: which of
# the word's pairs was learned first? It looks each pair up in a table of ranks, merges the best one, and looks again. The
# result is the same, because what a merge makes can be used only by merges further down the list. (That holds because no two
# merges of a learned list make the same symbol. The cell looks at this too.)

# %% tags=["nbval-check-output"]
rank = {pair: i for i, pair in enumerate(all_merges)}


def merged(symbols, pair):
    out = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] = "".join(pair)  # longer than the pair's left symbol, so it is not merged twice
        else:
            out.append(symbol)
    return out


def encode_by_rank(word):
    symbols = list(word)
    while found := [pair for pair in pairwise(symbols) if pair in rank]:
        symbols = merged(symbols, min(found, key=rank.get))
    return symbols


assert len({left + right for left, right in all_merges}) == len(all_merges)  # no symbol is made twice
assert all(encode_by_rank(word) == encode_word(word, all_merges) for word in new_words[:500])
print("by rank: the same symbols for 500 new words")

# %% [markdown]
# ## 5. WordPiece: BERT's own tokenizer
#
# BERT's vocabulary looks different: `token`, `##ization`. **`##` means that the piece continues a word.** (In
# byte-level BPE the space at the beginning of a word is the mark.) WordPiece differs from BPE twice. The first difference is *which pair is
# merged*. Schuster and Nakajima (2012) add the unit that raises the likelihood of the training text most. Google did
# not publish the program that learned BERT's vocabulary; the usual reading (chapter 6 of Hugging Face's course) is a
# **likelihood ratio**:
#
# $$\mathrm{score}(a, b) = \frac{\mathrm{count}(a\,b)}{\mathrm{count}(a) \cdot \mathrm{count}(b)}$$
#
# Up to a constant it says how many times as often a and b stand together as they would by chance. Which pair of the toy
# words do you expect on top?

# %% tags=["nbval-check-output"]
single, together = Counter(), Counter()
for word, n in toy.items():
    symbols = [word[0], *("##" + letter for letter in word[1:])]
    for symbol in symbols:
        single[symbol] += n
    for pair in pairwise(symbols):
        together[pair] += n
score = {(a, b): n / (single[a] * single[b]) for (a, b), n in together.items()}
print("by count:", [(*pair, n) for pair, n in together.most_common(2)])
print("by score:", [(*pair, round(score[pair], 2)) for pair in sorted(score, key=score.get, reverse=True)[:2]])
assert max(score, key=score.get) != together.most_common(1)[0][0]

# %% [markdown]
# The score prefers pairs whose parts occur nowhere else, however rare they are: `w ##i` and `##i ##d`, from *widest* alone.
# (Programs that train WordPiece today, Hugging Face's among them, choose by count.) The second difference is *how a word is
# encoded*. WordPiece forgets the merges and keeps the vocabulary; in the words of BERT's code (`tokenization.py`), it
# "uses a greedy longest-match-first algorithm". From the left, take the longest piece that is in the vocabulary, and go on
# behind it. If nothing fits, the *whole word* becomes `[UNK]`.

# %% tags=["nbval-check-output"]
vocabulary = ["[UNK]", "un", "una", "##a", "##aff", "##able", "##ab", "##f", "##l", "##le"]


def word_piece(word, vocabulary):
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if start else ""  # a piece that continues the word
        ends = [end for end in range(start + 1, len(word) + 1) if mark + word[start:end] in vocabulary]
        if not ends:
            return ["[UNK]"]
        pieces.append(mark + word[start : max(ends)])  # the longest match
        start = max(ends)
    return pieces


for word in ["unable", "unaffable", "unfazed"]:
    print(f"{word:>10}: {word_piece(word, vocabulary)}")

# %% [markdown]
# Look at *unable*. Both pieces of `un ##able` are in the vocabulary, but the greedy rule takes `una`, because it is longer,
# finds no piece for the rest, and calls the whole word unknown. *unaffable* needs four pieces in place of `un ##aff ##able`.
# And the z of *unfazed* has no piece at all, which cannot happen with bytes. (BERT's vocabulary contains the single letters,
# so there a greedy step costs pieces and not the word.) The library's WordPiece does the same as these lines:

# %% tags=["nbval-check-output"]
by_library = models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]")
letters = torch.randint(6, (1000, 8), generator=generator).tolist()
random_words = ["un" + "".join("aflebu"[i] for i in row) for row in letters]
for word in ["unable", "unaffable", "unfazed", *random_words]:
    assert [token.value for token in by_library.tokenize(word)] == word_piece(word, vocabulary)
assert word_piece("unable", vocabulary) == ["[UNK]"] and {"un", "##able"} <= set(vocabulary)
assert len(word_piece("unaffable", vocabulary)) > len(["un", "##aff", "##able"])
print("as the library's WordPiece, 1,003 words")

# %% [markdown]
# Does the way of encoding matter on real words, or do both give nearly the same? Guess the proportion of new words that
# longest match cuts in other places than the merges do, with the same 4,096 tokens.


# %%
pieces = set(cutter.alphabet()) | {left + right for left, right in all_merges}


def longest_match(word):
    cut, start = [], 0
    while start < len(word):
        end = max(end for end in range(start + 1, len(word) + 1) if word[start:end] in pieces)
        cut.append(word[start:end])
        start = end
    return cut


two_ways = [(longest_match(word), library(word, tokenizer)) for word in new_words]
differ = [(by_match, by_merges) for by_match, by_merges in two_ways if by_match != by_merges]
print(f"{len(differ) / len(two_ways):.0%} of {len(new_words):,} new words are cut in other places")
for by_match, by_merges in differ[:: len(differ) // 3][:3]:
    print(f"{' '.join(by_match):>30}  longest match | merges  {' '.join(by_merges)}")
lengths = [sum(len(way[i]) for way in two_ways) / len(two_ways) for i in (0, 1)]
print(f"tokens per word: {lengths[0]:.2f} by longest match, {lengths[1]:.2f} by merges")
assert len(differ) > 0.2 * len(two_ways) and abs(lengths[0] / lengths[1] - 1) < 0.05

# %% [markdown]
# More than a fifth of the new words come out differently, though both ways need about as many tokens. So a model
# must be given text in the way in which its own tokenizer cuts it: the vocabulary alone does not say.

# %% [markdown]
# ## 6. Nothing is lost
#
# Back to bytes. Every text comes back exactly as it was, because every text is bytes and every byte is a token. What differs
# is the price. The pieces were learned from English documentation, so a text that looks like it becomes short, and any other
# text becomes long.

# %%
sentences = [
    "Return the shape of an array.",
    "Gib die Form eines Arrays zurück.",
    "返回数组的形状。",
    "x = torch.zeros(3, 4)",
]
tokens_of = []
for text in sentences:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    tokens_of.append(len(ids) - 2)
    print(f"{tokens_of[-1]:3} tokens for {len(text):2} characters: {text}")
assert tokens_of[0] < tokens_of[1] and tokens_of[2] > 2 * len(sentences[2])

# %% [markdown]
# The sentence costs more in German, and in Chinese more than two tokens for each character. Now any characters at all:
# 2,000 random strings from all of Unicode.

# %% tags=["nbval-check-output"]
for _ in range(2000):
    codes = torch.randint(0x110000, (10,), generator=generator).tolist()
    text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)  # no halves of UTF-16 pairs
    assert tokenizer.decode(tokenizer.encode(text)) == text
print("all came back")

# %% [markdown]
# ## 7. A batch of texts: padding and its mask
#
# Five tokens are not text. `[PAD]` fills up, `[UNK]` stands for an unknown word (bytes never need it), `[CLS]` begins,
# `[SEP]` ends, and `[MASK]` hides a word from the model (lesson 05). From here on we use the toy world, a small language made
# for this course, whose tokens are whole words, so that you can read them.

# %% tags=["nbval-check-output"]
world = ToyWorld()
words = world.tokenizer()
three = [COURSE_SENTENCE, *(sentence.text for sentence in world.sample(2, seed=seed + 1))]
sequences = words.encode_batch(three)
for ids in sequences:
    print(len(ids), "tokens:", *words.tokens(ids))

# %% [markdown]
# A tensor needs rows of one length. Short rows are filled up, and a **mask** remembers which tokens are real.

# %% [markdown]
# ### Exercise 01.4 · pad a batch ●●○ · 10 minutes
#
# Return two tensors. `ids`, int64, holds the sequences as rows, each filled up on the right with `pad_id` to the length of
# the longest. `mask`, boolean, is True at the real tokens. A real token may have the same id as `pad_id`, so the mask must
# come from the lengths. No sequence is empty. Do not change the lists that you are given.


# %% tags=["exercise-01.4"]
def pad_batch(sequences, pad_id):
    """sequences: B lists of ids -> ids (B, T), mask (B, T); T is the longest length."""
    ### BEGIN SOLUTION
    lengths = torch.tensor([len(s) for s in sequences])
    T = int(lengths.max())
    ids = torch.tensor([s + [pad_id] * (T - len(s)) for s in sequences])
    return ids, torch.arange(T) < lengths[:, None]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.pad_batch(pad_batch)

# %% [markdown]
# The package's `pad` does the same. Here are the three sentences as one tensor, and their mask as 1 and 0:

# %% tags=["nbval-check-output"]
ids, mask = pad(sequences, words.pad_id)
print(ids)
print(mask.int())

# %% [markdown]
# Padding wastes computation. Documents have all lengths, even when none may have more than 128 tokens as here, so texts of
# about the same length are put into the same batch. What proportion of the positions is padding, with batches drawn at
# random and with batches by length?

# %%
lengths = [min(len(ids), 128) for ids in tokenizer.encode_batch(texts)]


def proportion_of_padding(batches):
    """Return the proportion of all positions in the batches that are padding."""
    positions = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths) / positions


order = torch.randperm(len(lengths), generator=generator).tolist()
at_random = proportion_of_padding([order[i : i + 64] for i in range(0, len(order), 64)])
by_length = proportion_of_padding(length_buckets(lengths, 64, generator))
print(f"padding: {at_random:.0%} of the positions at random, {by_length:.1%} with batches by length")
assert by_length < 0.2 * at_random

# %% [markdown]
# ## 8. A vector for each token
#
# An **embedding** is a table with one row of C numbers for each of the V tokens, and a token's id picks its row. The rows
# start random and are learned. Picking a row gives the same as multiplying with a one-hot vector, only cheaper:

# %% tags=["nbval-check-output"]
torch.manual_seed(seed)
V, C = words.vocab_size, 8
table = nn.Embedding(V, C)
vectors = table(ids)  # (B, T) -> (B, T, C)
one_hot = torch.nn.functional.one_hot(ids, V).float()  # (B, T, V)
torch.testing.assert_close(vectors, one_hot @ table.weight)
found = (ids[0] == words.id("the")).nonzero()[:, 0].tolist()
print(f"ids (B, T, with T = {ids.shape[1]}) -> vectors (B, T, {C})")
print("'the' of the first sentence at positions", found)
assert all(torch.equal(vectors[0, found[0]], vectors[0, position]) for position in found)

# %% [markdown]
# The first sentence contains *the* four times, and all four have the same vector. What can an encoder do with such vectors?
# Exchange the cook and the waiters, and look at what a small encoder of random weights computes for *praises* (you build it
# in lesson 04). Does it notice who praises whom? Guess, for an encoder without positions and for one with.

# %%
from nextbert_lite import Encoder, EncoderConfig

exchanged = COURSE_SENTENCE.replace("cook", "?").replace("waiters", "cook").replace("?", "waiters")
both_ids = torch.tensor(words.encode_batch([COURSE_SENTENCE, exchanged]))
praises = words.tokens(both_ids[0].tolist()).index("praises")
moved = {}
for positions in ("none", "learned"):
    torch.manual_seed(seed)
    config = EncoderConfig(vocab_size=V, width=32, heads=2, positions=positions, init_std="fan_in")
    with torch.no_grad():
        one, other = Encoder(config)(both_ids)[:, praises]
    moved[positions] = float((one - other).norm() / one.norm())
    print(f"positions {positions:>7}: the vector of 'praises' moves by {moved[positions]:.1%} of its length")
assert moved["none"] < 1e-4 < 1e-3 < moved["learned"]

# %% [markdown]
# Without positions it does not move at all: an encoder sees a **bag of words**, which words there are and not their order.
# (A model that may look only to the left, as GPT, can find out where it is without being told: Haviv et al. 2022.)

# %% [markdown]
# ## 9. A vector for each position
#
# So each position gets a vector too, which is added to the token's. BERT's generation knew two ways to make it.
#
# **Computed** (Vaswani et al. 2017). Take the features in pairs, C / 2 of them. Think of pair i as the hand of a clock. From
# each position to the next it turns by the angle $\theta_i$, so at position t it has turned by $t\,\theta_i$, and the two
# features are the sine and the cosine of this angle. The first hand turns fastest ($\theta_0 = 1$, once around in about six
# positions), and each one after it more slowly:
#
# $$P_{t,2i} = \sin(t\,\theta_i), \qquad P_{t,2i+1} = \cos(t\,\theta_i), \qquad \theta_i = 10000^{-2i/C}$$
#
# First with loops:

# %% tags=["nbval-check-output"]
T, width = 64, 32  # rows of the table, and its columns, C
by_loops = torch.zeros(T, width)
for t in range(T):
    for i in range(width // 2):  # the pair of columns 2i and 2i + 1
        angle = t / 10000 ** (2 * i / width)
        by_loops[t, 2 * i] = math.sin(angle)
        by_loops[t, 2 * i + 1] = math.cos(angle)
print(by_loops[:3, :4])

# %% [markdown]
# ### Exercise 01.5 · sinusoids ●●○ · 10 minutes
#
# The same without loops: return the table, float32, of shape (T, C). C is even.


# %% tags=["exercise-01.5"]
def sinusoids(T, C):
    """Return the table (T, C); C is even."""
    ### BEGIN SOLUTION
    angles = torch.arange(T)[:, None] / 10000 ** (torch.arange(0, C, 2) / C)  # (T, C / 2)
    table = torch.zeros(T, C)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles.cos()
    return table
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.sinusoids(sinusoids)

# %% [markdown]
# **Learned** (BERT, RoBERTa): a second table with a row for each position, learned like the table of tokens. Here are both,
# before any training:

# %% tags=["hide-input"]
learned = nn.Embedding(T, width)
fig, axes = plots.figure(1, 2, size=(8.0, 3.4), sharey=True)
for ax, values, name in zip(axes, [by_loops, learned.weight.detach()], ["Computed", "Learned"], strict=True):
    image = ax.imshow(values, cmap="PuOr", vmin=-1.5, vmax=1.5, aspect="auto")
    ax.set(xlabel="feature")
    ax.set_title(name)
axes[0].set(ylabel="position")
fig.colorbar(image, ax=axes, label="value")
fig.suptitle("Computed positions are waves, learned ones begin as noise", x=0.01, ha="left")
plots.show(fig, alt="Two maps of position by feature: regular waves that slow down to the right, and random noise.")

# %% [markdown]
# (The last hands turn so slowly that 64 positions hardly move them.) Why clocks? Vaswani et al. say it in section 3.5:
#
# > We chose this function because we hypothesized it would allow the model to easily learn to attend by relative positions,
# > since for any fixed offset k, PE_{pos+k} can be represented as a linear function of PE_{pos}.
#
# In other words: there is *one* matrix that turns the row of position 0 into that of position k, the row of 1 into that of
# k + 1, and so on. A model that should look k positions further has to learn this one matrix, and not one for each position.
# Why is there such a matrix? To go k positions on, turn each hand by $k\,\theta_i$. A turn is a linear map, and it does not
# depend on t. For one pair, the addition formulas of sine and cosine say it:
#
# $$\begin{pmatrix} \sin(t\theta + k\theta) \\ \cos(t\theta + k\theta) \end{pmatrix} =
# \begin{pmatrix} \cos k\theta & \sin k\theta \\ -\sin k\theta & \cos k\theta \end{pmatrix}
# \begin{pmatrix} \sin t\theta \\ \cos t\theta \end{pmatrix}$$
#
# One matrix of such blocks moves every row of the table five positions on:

# %% tags=["nbval-check-output"]
k = 5
theta = 10000 ** (-torch.arange(0, width, 2) / width)  # (C / 2,), the speed of each hand
blocks = [
    torch.tensor([[math.cos(k * s), math.sin(k * s)], [-math.sin(k * s), math.cos(k * s)]]) for s in theta.tolist()
]
turn = torch.block_diag(*blocks)  # (C, C)
torch.testing.assert_close(by_loops[:-k] @ turn.T, by_loops[k:], rtol=0, atol=1e-4)
print(f"one matrix {tuple(turn.shape)} moves each of {T - k} positions by {k}")

# %% [markdown]
# It follows that the dot product of two rows depends on their distance alone. For one hand with the angles a and b at the two
# positions, the dot product is $\sin a \sin b + \cos a \cos b = \cos(a - b)$, and $a - b$ is the distance times θ.
#
# But attention does not compare the rows themselves. It multiplies them by two learned matrices first. One gives a *query* q
# for the token that looks, the other a *key* k for the token that is looked at, and the score of the two is q · k (lesson 02
# builds this). Is the score still a matter of the distance alone? Try two random matrices:

# %%
W_query, W_key = torch.randn(2, width, width, generator=generator) / math.sqrt(width)
products = {
    "rows themselves": by_loops @ by_loops.T,  # (T, T): position by position
    "queries and keys": (by_loops @ W_query) @ (by_loops @ W_key).T,
}
spread = {}
for name, scores in products.items():
    along = scores.diagonal(5)  # all pairs of positions that are 5 apart
    spread[name] = float(along.max() - along.min())
    print(f"{name:>16}, 5 apart: from {along.min():6.3f} to {along.max():6.3f}")
assert spread["rows themselves"] < 1e-3 and spread["queries and keys"] > 0.1

# %% [markdown]
# With these matrices it is not: at the same distance the score depends on where the two positions are. The sinusoids make it
# *possible* for the model to learn matrices that look at the distance; they do not make it so.
#
# **Rotary positions** (RoPE, Su et al. 2021) make it so, and they are the usual way today: ModernBERT, NeoBERT and EuroBERT
# have them, and so do most decoders. Nothing is added to the vectors. The turning comes *after* the matrices: the query at
# position t is turned by $t\,\theta_i$, hand by hand, and the key at position s by $s\,\theta_i$.
#
# Look at one hand of a query and one hand of a key, with θ = 1. Their dot product is the product of their lengths and the
# cosine of the angle between them. What happens to it if both move seven positions on? And if they exchange positions?


# %% tags=["nbval-check-output"]
def turned(hand, angle):
    """Turn one pair of features by an angle."""
    a, b = hand
    return torch.stack([a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)])


of_query, of_key = torch.tensor([1.0, 0.5]), torch.tensor([0.3, 2.0])
scores = [turned(of_query, t) @ turned(of_key, s) for t, s in ((0, 5), (7, 12), (5, 0))]
print("at 0 and 5: {:.4f}, at 7 and 12: {:.4f}, at 5 and 0: {:.4f}".format(*scores))
assert abs(scores[0] - scores[1]) < 1e-4 < 0.1 < abs(scores[0] - scores[2])

# %% [markdown]
# Seven positions on, both hands have turned by the same angle, so the angle between them is the same, and so is the dot
# product. Exchanged, they differ: a token five to the right is not a token five to the left. So of the two positions only the
# difference s − t counts, with its sign. With $R_t$ for turning all hands to position t:
#
# $$(R_t\,q) \cdot (R_s\,k) = q \cdot (R_{s-t}\,k)$$
#
# This holds for every q and k, and so whatever the matrices learn. Here are all hands, each with its own speed:


# %%
def rotate(x, t):
    """Turn each pair of features of x, (C,), by t θ, the pair's own speed."""
    theta = 10000 ** (-torch.arange(0, len(x), 2) / len(x))  # (C / 2,)
    cos, sin = (t * theta).cos(), (t * theta).sin()
    a, b = x[0::2], x[1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=1).flatten()


q, key = torch.randn(2, width, generator=generator)  # of any two tokens
starts = (0, 7, 50)
rotary = torch.stack([rotate(q, t) @ rotate(key, t + 5) for t in starts])
added = torch.stack([(q + by_loops[t] @ W_query) @ (key + by_loops[t + 5] @ W_key) for t in starts])
for i, t in enumerate(starts):
    print(f"positions {t:2} and {t + 5:2}: rotary {rotary[i]:7.4f}, sinusoids added {added[i]:7.4f}")
torch.testing.assert_close(rotary, rotary[:1].expand(3), rtol=0, atol=1e-4)
assert added.max() - added.min() > 0.1

# %% [markdown]
# The same difference gives the same number wherever the two tokens stand. That is a proof and not a finding, so the cell only
# shows that the code does what the formula says. What it buys, on texts longer than those of training, is measured in lesson
# 15, where you build it. (Between the two generations came tables and formulas of *distances* that are added to q · k: T5,
# DeBERTa, ALiBi.)
#
# This course's encoder learns its positions as BERT and RoBERTa do. In Vaswani et al.'s translation model learned and
# computed positions were nearly equal (their table 3, row E). But a learned table ends somewhere: position `max_len` has no
# row. A model must refuse a longer text, and ours says what to do:

# %% tags=["nbval-check-output"]
encoder = Encoder(EncoderConfig(vocab_size=V, width=8, heads=2, max_len=10))
try:
    encoder(ids)
except ValueError as error:
    print(error)

# %% [markdown]
# ### Exercise 01.6 · find the bug ●●○ · 6 minutes
#
# This is public code, in our words (its source is at the end of the lesson). It was written for texts of up to `max_len`
# tokens. Short texts run. Then comes a longer one, far from `max_len`:


# %% tags=["nbval-check-output"]
class BuggyEmbedding(nn.Module):
    def __init__(self, V, C, max_len):
        super().__init__()
        self.tokens = nn.Embedding(V, C)
        self.positions = nn.Embedding(C, C)

    def forward(self, ids):
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))


buggy = BuggyEmbedding(V, C=8, max_len=64)
for n in (8, 9):
    try:
        print(f"{n} tokens:", tuple(buggy(ids[:, :n]).shape))
    except IndexError as error:
        print(f"{n} tokens: IndexError: {error}")

# %% [markdown]
# Which shape should the position table have? Return zeros of that shape, a float32 tensor.


# %% tags=["exercise-01.6"]
def position_table(max_len, C):
    """Return the table of positions for texts of up to max_len tokens and a model of width C, as zeros."""
    ### BEGIN SOLUTION
    return torch.zeros(max_len, C)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.position_table(position_table)

# %% [markdown]
# ## 10. The input of an encoder
#
# Token vector plus position vector, `(B, T, C)`. BERT adds a third vector, which says which of two texts a token belongs to,
# and then applies a layer norm and dropout (lesson 04). The four *the* differ now, each by its position:

# %% tags=["nbval-check-output"]
table_of_positions = nn.Embedding(64, C)
x = table(ids) + table_of_positions(torch.arange(ids.shape[1]))  # (B, T, C)
the = x[0, found]  # its four positions
torch.testing.assert_close(the - the[0], table_of_positions.weight[found] - table_of_positions.weight[found[0]])
print("what tells the four 'the' apart is the difference of their position vectors")

# %% [markdown]
# ## What to remember
#
# * **Byte-pair encoding** learns by merging the most frequent pair, again and again, from 256 bytes up; it encodes by applying
#   the merges in the order in which they were learned. Nothing is unknown, every text comes back, and what resembles the
#   training text is short.
# * **WordPiece** writes `##` before a piece that continues a word, and encodes by longest match from the left.
# * A batch is a tensor of ids `(B, T)`, filled up with `[PAD]`, and a **mask** that is True at the real tokens.
# * An embedding picks a row: **V rows** for tokens, **max_len rows** for positions, **C columns** in both.
# * Without positions an encoder sees a bag of words. Learned and computed positions are added to the tokens; **rotary** ones
#   turn queries and keys, so that of the two positions only their difference counts in q · k.
#
# **What this scale cannot show.** Our vocabulary has 4,096 tokens from a few megabytes of documentation; BERT's has about
# 30,000, and RoBERTa's about 50,000 (GPT-2's). How a tokenizer's choices change a trained model is measured in lesson 07, by
# bits per byte.
#
# **What the field did since.** Subword tokenizers stayed. Positions changed: ModernBERT, NeoBERT and EuroBERT turn queries and
# keys (lesson 15 builds and measures it).
#
# **An open problem.** The tokens are fixed before training by counting, not by what helps the model. Models can read bytes and
# group them by how hard the next byte is to predict; the Byte Latent Transformer (Pagnoni et al. 2024) reports the quality of
# a tokenizer's model at 8 billion parameters. Whether tokenizers will go is not settled.
#
# **Where this comes from**
#
# * Philip Gage, *A New Algorithm for Data Compression*, The C Users Journal, February 1994.
# * Rico Sennrich, Barry Haddow and Alexandra Birch, *Neural Machine Translation of Rare Words with Subword Units*, 2016,
#   [arXiv:1508.07909](https://arxiv.org/abs/1508.07909): section 3.2.
# * Alec Radford et al., *Language Models are Unsupervised Multitask Learners* (GPT-2), 2019: section 2.2.
# * Yinhan Liu et al., *RoBERTa*, 2019, [arXiv:1907.11692](https://arxiv.org/abs/1907.11692): section 4.4, byte-level BPE.
# * WordPiece: Mike Schuster and Kaisuke Nakajima, *Japanese and Korean Voice Search*, 2012;
#   [BERT's tokenization.py](https://github.com/google-research/bert/blob/master/tokenization.py); and
#   [chapter 6 of Hugging Face's course](https://github.com/huggingface/course/blob/main/chapters/en/chapter6/6.mdx), which says that its formula is a
#   best guess from the literature.
# * Ashish Vaswani et al., *Attention Is All You Need*, 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762):
#   section 3.5.
# * Jianlin Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021,
#   [arXiv:2104.09864](https://arxiv.org/abs/2104.09864).
# * Adi Haviv et al., *Transformer Language Models without Positional Encodings Still Learn Positional Information*, 2022,
#   Findings of EMNLP.
# * Artidoro Pagnoni et al., *Byte Latent Transformer: Patches Scale Better Than Tokens*, 2024,
#   [arXiv:2412.09871](https://arxiv.org/abs/2412.09871).
# * The bug of 01.6: an article on BERT's successors in Chinese, its section "RoBERTa的PyTorch实现", which has
#   `self.position_embedder = nn.Embedding(hidden_size, hidden_size)`; a search for this line finds it.
#
# **Next:** lesson 02, where a word looks for the words it needs.
