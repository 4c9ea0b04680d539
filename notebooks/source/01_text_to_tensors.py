# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Text to tensors
#     question: How does any text become numbers that a model can work with?
#     minutes: 80
#     part: "Part I: build an encoder"
# ---

# %% [markdown]
# # 01 · Text to tensors
#
# A model adds and multiplies numbers. A text is letters, spaces, 中文 and 🙂. Between the two stands a short list of pieces
# that every text can be put together from, and a table with a vector for each piece.
#
# **The question of this lesson:** how does any text become numbers that a model can work with?
#
# | | |
# |---|---|
# | You will | learn the pieces from real text with 30 lines of byte-pair encoding, find that the library learns the same ones, turn a batch of texts into one tensor and a mask, and give each token its meaning and its place |
# | You need | lesson 00: tensors, and how exercises work |
# | It takes | about 80 minutes, six exercises; the machine needs half a minute |
#
# Here is a sentence of this course as a model will see it, cut into pieces:

# %%
import json
import math
import re
from collections import Counter

import torch
from torch import nn

from nextbert_lite import COURSE_SENTENCE, ToyWorld, load_docs, plots, train_bpe
from nextbert_lite.checks import lesson_01 as check

docs = load_docs()
texts = [document.text for document in docs.train]
tokenizer = train_bpe(texts, vocab_size=4096)


def draw_pieces(text, title):
    """Draw a text as its tokens, each with its id below."""
    ids = tokenizer.encode(text)
    fig, ax = plots.figure(size=(8.0, 1.5))
    x = 0.0
    for n, (i, piece) in enumerate(zip(ids, tokenizer.tokens(ids), strict=True)):
        width = max(len(piece), len(str(i)) * 0.8) + 0.8
        colour = ["#DCEBF5", "#FBEBCB"][n % 2]
        ax.add_patch(plots.plt.Rectangle((x, 0.35), width - 0.15, 0.5, color=colour))
        ax.text(x + width / 2, 0.6, piece.replace(" ", "·"), ha="center", va="center", family="monospace", fontsize=9)
        ax.text(x + width / 2, 0.15, str(i), ha="center", va="center", fontsize=8, color=plots.GREY)
        x += width
    ax.set(xlim=(0, x), ylim=(0, 1))
    ax.set_axis_off()
    ax.set_title(title)
    return fig, len(ids)


fig, n = draw_pieces(COURSE_SENTENCE, "What is frequent in documentation is one piece, the rest several")
plots.show(
    fig, alt=f"The course's sentence cut into {n} coloured pieces, each with its number below; a dot is a space."
)

# %% [markdown]
# The numbers below are what the model gets. `[CLS]` and `[SEP]` mark beginning and end.
#
# ## 1. Why not words, why not letters?
#
# The text is real: the documentation of the Python, PyTorch, NumPy and Matplotlib that are installed on your machine,
# split so that no text of the test part is nearly the same as one that we learn from (a test of the course holds that). What
# is **held out** is not used for learning, only for measuring.

# %%
held_out = [document.text for document in docs.test]
print(f"{len(texts):,} texts to learn from, {sum(map(len, texts)):,} characters; {len(held_out):,} held out")

# %% [markdown]
# Take **words** (and single punctuation marks) as the pieces: the 4,096 most frequent ones. How many words of the held-out
# texts are not among them? Or take **bytes**, the computer's own 256 symbols: how long does a text become? Guess both before
# you run the cell.


# %%
def words_of(text):
    return re.findall(r"\w+|[^\w\s]", text)


known = {word for word, _ in Counter(word for text in texts for word in words_of(text)).most_common(4096)}
held_words = [word for text in held_out for word in words_of(text) if word[0].isalnum()]  # marks are all known
unknown = sum(word not in known for word in held_words) / len(held_words)
bytes_a_word = sum(len(text.encode()) for text in held_out) / len(held_words)
pieces_a_word = sum(len(ids) - 2 for ids in tokenizer.encode_batch(held_out)) / len(held_words)

print(f"4,096 words:  {unknown:.0%} of the held-out words are unknown")
print(f"256 bytes:    {bytes_a_word:.1f} symbols per word")
print(f"4,096 pieces: nothing unknown, {pieces_a_word:.1f} symbols per word")
assert unknown > 0.05 and pieces_a_word < 0.5 * bytes_a_word

# %% [markdown]
# Words lose what they do not know: `[UNK]`, *unknown*, in place of every rare word, and in documentation rare words are often
# the point. Bytes
# lose nothing, but the texts become long, and a model's work grows with the length. **Pieces** between the two lose
# nothing and stay short.
#
# ## 2. Bytes: 256 symbols for every text there is
#
# A computer stores text as bytes, numbers from 0 to 255, by the rules of UTF-8:

# %% tags=["nbval-check-output"]
for character in ["a", "é", "中"]:
    print(character, list(character.encode("utf-8")))

# %% [markdown]
# ### Exercise 01.1 · predict the result ●○○ · 3 minutes
#
# A byte-level tokenizer that has learned nothing yet has one token for each byte. How many tokens is 🙂?

# %% tags=["exercise-01.1"]
tokens_of_smile = None
### BEGIN SOLUTION
tokens_of_smile = 4  # UTF-8 needs four bytes above U+FFFF
### END SOLUTION

# %% tags=["nbval-check-output"]
check.smile(tokens_of_smile)

# %% [markdown]
# ## 3. Byte-pair encoding, by hand
#
# Start from single symbols. Find the pair of neighbours that occurs most often, make it a new symbol, replace it
# everywhere, repeat. That is all of **byte-pair encoding** (BPE; Sennrich et al. 2016; on
# bytes in GPT-2, Radford et al. 2019). Frequent words become one symbol
# after a few rounds, rare ones stay in pieces.
#
# We count each different word once and remember how often it occurs.

# %% tags=["nbval-check-output"]
toy = {"low": 5, "lower": 2, "newest": 6, "widest": 3}  # word: how often
pairs = Counter()
for word, n in toy.items():
    for pair in zip(word, word[1:], strict=False):
        pairs[pair] += n
print(pairs.most_common(4))

# %% [markdown]
# `e s` and `s t` stand together nine times. One of them becomes the first new symbol.
#
# ### Exercise 01.2 · the most frequent pair ●○○ · 6 minutes
#
# From words with counts, return the pair of neighbouring letters that occurs most often. (There are no ties in the
# test.)


# %% tags=["exercise-01.2"]
def most_frequent_pair(words):
    """words: {word: how often} -> (left, right)"""
    ### BEGIN SOLUTION
    pairs = Counter()
    for word, n in words.items():
        for pair in zip(word, word[1:], strict=False):
            pairs[pair] += n
    return pairs.most_common(1)[0][0]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.most_frequent_pair(most_frequent_pair)

# %% [markdown]
# ### Exercise 01.3 · merge a pair ●●○ · 8 minutes
#
# Replace a pair in a list of symbols by one symbol, from left to right: `["a", "a", "a", "b"]` with `("a", "a")` becomes
# `["aa", "a", "b"]`.


# %% tags=["exercise-01.3"]
def merge_pair(symbols, pair):
    """symbols: list of strings, pair: (left, right) -> a new list in which the pair is one string."""
    ### BEGIN SOLUTION
    merged, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            merged.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return merged
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.merge_pair(merge_pair)

# %% [markdown]
# Now the whole of it. Two details make it the real thing. Text is cut at spaces and punctuation first, so that no symbol
# spans two words; a run of spaces, as in indented code, is a piece of its own. And ties are broken by age: the pair whose
# left symbol is older wins, then the one whose right symbol is. (So that bytes can be printed, a space is written `Ġ`, the
# end of a line `Ċ`.)

# %% tags=["nbval-check-output"]
from tokenizers import pre_tokenizers

cutter = pre_tokenizers.ByteLevel(add_prefix_space=False)
print([piece for piece, _ in cutter.pre_tokenize_str("Return the array's shape.")])


# %%
def learn_bpe(texts, n_merges):
    """Return the list of merges, (left, right) each, that BPE learns from the texts."""
    words = Counter(word for text in texts for word, _ in cutter.pre_tokenize_str(text))
    spelled = {word: list(word) for word in words}  # each word as its symbols so far
    age = {symbol: i for i, symbol in enumerate(sorted(cutter.alphabet()))}  # the 256 bytes come first
    merges = []
    for _ in range(n_merges):
        pairs = Counter()  # 1. count
        for word, symbols in spelled.items():
            for pair in zip(symbols, symbols[1:], strict=False):
                pairs[pair] += words[word]
        # 2. choose: the largest count, then the oldest symbols
        best = min(pairs, key=lambda pair: (-pairs[pair], age[pair[0]], age[pair[1]]))
        merges.append(best)
        age.setdefault("".join(best), len(age))
        for symbols in spelled.values():  # 3. replace
            i = 0
            while i < len(symbols) - 1:
                if (symbols[i], symbols[i + 1]) == best:
                    symbols[i : i + 2] = ["".join(best)]
                i += 1
    return merges


some = texts[::60]
by_hand = learn_bpe(some, n_merges=150)
for i in (0, 1, 2, 11, 50, 149):
    print(f"merge {i + 1:3}: {by_hand[i][0]:>6} + {by_hand[i][1]:<6} -> {''.join(by_hand[i])}")

# %% [markdown]
# Does the `tokenizers` library of Hugging Face, which `train_bpe` calls, learn the same? The same texts, the same number of merges:

# %% tags=["nbval-check-output"]
small = train_bpe(some, vocab_size=5 + 256 + len(by_hand))  # 5 special tokens, 256 bytes
by_library = [tuple(pair) for pair in json.loads(small.to_json())["model"]["merges"]]
assert by_hand == by_library
print(f"all {len(by_hand)} merges are the same, in the same order")

# %% [markdown]
# How much do more merges buy?

# %%
sizes = [261, 512, 1024, 2048, 4096, 8192]
sample = held_out[::3]
characters = sum(map(len, sample))
compression = [characters / sum(len(ids) - 2 for ids in train_bpe(texts, size).encode_batch(sample)) for size in sizes]
fig, ax = plots.figure()
ax.plot(sizes, compression, "o-")
ax.set(xscale="log", xlabel="V, size of the vocabulary", ylabel="characters per token, held-out text", ylim=(0, None))
ax.set_xticks(sizes, [str(size) for size in sizes], minor=False)
ax.minorticks_off()
ax.set_title("Doubling the vocabulary buys less and less")
gains = [later - earlier for earlier, later in zip(compression[1:], compression[2:], strict=False)]
plots.show(
    fig,
    alt=f"Characters a token grow from {compression[0]:.1f} at V = 261 to {compression[-1]:.1f} at V = 8192, flattening.",
)
assert gains == sorted(gains, reverse=True) and gains[-1] > 0

# %% [markdown]
# ## 4. Nothing is lost
#
# Every text comes back exactly as it was, because every text is bytes and every byte is a token. What differs is the
# price: pieces were learned from English documentation, so what looks like it is short and what does not is long.

# %%
for text in [
    "Return the shape of an array.",
    "x = torch.zeros(3, 4)",
    "Gib die Form eines Arrays zurück.",
    "返回数组的形状。",
    "🙂",
]:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    print(f"{len(ids) - 2:3} tokens for {len(text):2} characters: {text}")

# %% [markdown]
# The same sentence costs more in German and several times as much in Chinese, and a model's work grows with the tokens. Now
# any
# characters at all, 2,000 random strings from all of Unicode:

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(0)
for _ in range(2000):
    codes = torch.randint(0x110000, (10,), generator=generator).tolist()
    text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)  # no halves of UTF-16 pairs
    assert tokenizer.decode(tokenizer.encode(text)) == text
print("all came back")

# %% [markdown]
# ## 5. A batch of texts: padding and its mask
#
# Five tokens are not text. `[PAD]` fills up, `[UNK]` stands for an unknown word (words only; bytes know everything), `[CLS]`
# begins, `[SEP]` ends, `[MASK]` hides a word from the model (lesson 05). From here on we use the toy world, whose tokens are
# whole words, so that you can read them.

# %% tags=["nbval-check-output"]
world = ToyWorld()
words = world.tokenizer()
three = [COURSE_SENTENCE, *(sentence.text for sentence in world.sample(2, seed=1))]
sequences = words.encode_batch(three)
for ids in sequences:
    print(len(ids), "tokens:", *words.tokens(ids))

# %% [markdown]
# A tensor needs rows of one length. Short rows are filled up, and a **mask** remembers which tokens are real.
#
# ### Exercise 01.4 · pad a batch ●●○ · 10 minutes
#
# Return the ids as one tensor, filled up on the right, and a boolean mask that is True at the real tokens.


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

# %% tags=["nbval-check-output"]
from nextbert_lite import length_buckets, pad

ids, mask = pad(sequences, words.pad_id)
print(ids)
print(mask.int())

# %% [markdown]
# Padding is work for nothing. Documents have all lengths, even when none is allowed more than 128 tokens as here, so texts of about the same length are
# put into the same batch:

# %%
lengths = [min(len(ids), 128) for ids in tokenizer.encode_batch(texts)]


def share_of_padding(batches):
    """Return which share of all places in the batches is padding."""
    places = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths) / places


order = torch.randperm(len(lengths), generator=generator).tolist()
at_random = share_of_padding([order[i : i + 64] for i in range(0, len(order), 64)])
by_length = share_of_padding(length_buckets(lengths, 64, generator))
print(f"padding: {at_random:.0%} of the places at random, {by_length:.1%} with batches by length")
assert by_length < 0.2 * at_random

# %% [markdown]
# ## 6. A vector for each token
#
# An **embedding** is a table with one row of C numbers for each of the V tokens; a token's id picks its row. The rows start
# random and are learned. Picking a row is the same as multiplying with a one-hot vector, only cheaper:

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
V, C = words.vocab_size, 8
table = nn.Embedding(V, C)
vectors = table(ids)  # (B, T) -> (B, T, C)
one_hot = torch.nn.functional.one_hot(ids, V).float()  # (B, T, V)
torch.testing.assert_close(vectors, one_hot @ table.weight)
print(f"ids {tuple(ids.shape)} -> vectors {tuple(vectors.shape)}")

# %% [markdown]
# Look at *the* in the first sentence: it stands there four times, and all four have the same vector. The model cannot
# tell them apart, let alone know which comes first.

# %% tags=["nbval-check-output"]
found = (ids[0] == words.id("the")).nonzero()[:, 0].tolist()
print("'the' at places", found)
assert all(torch.equal(vectors[0, found[0]], vectors[0, place]) for place in found)

# %% [markdown]
# ## 7. A vector for each place
#
# So each *position* gets a vector too, and it is added to the token's. There are two usual ways to make it.
#
# **Computed** (Vaswani et al. 2017): feature pairs are clock hands, the first turns fast, the last slowly.
#
# $$P_{t,2i} = \sin\!\left(\frac{t}{10000^{2i/C}}\right), \qquad P_{t,2i+1} = \cos\!\left(\frac{t}{10000^{2i/C}}\right)$$
#
# First with loops:

# %% tags=["nbval-check-output"]
places, width = 64, 32  # rows of the table, and its columns, C
by_loops = torch.zeros(places, width)
for t in range(places):
    for i in range(width // 2):  # the pair of columns 2i and 2i + 1
        angle = t / 10000 ** (2 * i / width)
        by_loops[t, 2 * i] = math.sin(angle)
        by_loops[t, 2 * i + 1] = math.cos(angle)
print(by_loops[:3, :4])

# %% [markdown]
# ### Exercise 01.5 · sinusoids ●●○ · 10 minutes
#
# The same without loops.


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
# **Learned** (BERT, RoBERTa): a second table, with a row for each position, learned like the first. Here are both. The
# learned one has learned nothing yet.

# %%
learned = nn.Embedding(places, width)
fig, axes = plots.figure(1, 2, size=(8.0, 3.4), sharey=True)
for ax, values, name in zip(
    axes, [by_loops, learned.weight.detach()], ["Computed: clocks", "Learned: noise at first"], strict=True
):
    image = ax.imshow(values, cmap="PuOr", vmin=-1.5, vmax=1.5, aspect="auto")
    ax.set(xlabel="feature")
    ax.set_title(name)
axes[0].set(ylabel="position")
fig.colorbar(image, ax=axes, label="value")
fig.suptitle("Two ways to say where a token stands", x=0.01, ha="left")
plots.show(fig, alt="Two maps of position by feature: regular waves that slow down to the right, and random noise.")

# %% [markdown]
# (The last clocks turn so slowly that 64 places hardly move them.) The clocks have a property that the noise lacks: how
# similar two positions are, by their dot product, depends on their *distance* alone, because the difference of two angles
# does. Near places look alike, everywhere in the text.

# %%
similarity = by_loops @ by_loops.T  # (T, T)
for distance in (1, 5, 20):
    along = similarity.diagonal(distance)
    print(f"distance {distance:2}: from {along.min():.3f} to {along.max():.3f}")
    assert along.max() - along.min() < 1e-3
noise = learned.weight.detach() @ learned.weight.detach().T
assert noise.diagonal(1).max() - noise.diagonal(1).min() > 1

# %% [markdown]
# BERT and RoBERTa learn their positions all the same, and so do we: with a fixed longest text it makes little difference,
# and Vaswani et al. found nearly the same quality for both (their table 3, row E).
#
# A learned table ends somewhere: position `max_len` has no row. A model must refuse a longer text, and ours (you build it in
# lesson 04) says what to do:

# %% tags=["nbval-check-output"]
from nextbert_lite import Encoder, EncoderConfig

encoder = Encoder(EncoderConfig(vocab_size=V, width=8, heads=2, max_len=10))
try:
    encoder(ids)
except ValueError as error:
    print(error)

# %% [markdown]
# ### Exercise 01.6 · find the bug ●●○ · 6 minutes
#
# This is from public teaching code, in our words. Short texts run. Then comes a longer one:


# %% tags=["nbval-check-output"]
class BuggyEmbedding(nn.Module):
    def __init__(self, V, C, max_len):
        super().__init__()
        self.tokens = nn.Embedding(V, C)
        self.positions = nn.Embedding(C, C)

    def forward(self, ids):
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))


buggy = BuggyEmbedding(V, C=8, max_len=64)
print("8 tokens:", tuple(buggy(ids[:, :8]).shape))
try:
    buggy(ids)
except IndexError as error:
    print(f"{ids.shape[1]} tokens: IndexError: {error}")

# %% [markdown]
# Which shape should the position table have? Return zeros of that shape, a tensor.


# %% tags=["exercise-01.6"]
def position_table(max_len, C):
    """Return the table of positions for texts of up to max_len tokens and a model of width C, as zeros."""
    ### BEGIN SOLUTION
    return torch.zeros(max_len, C)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.position_table(position_table)

# %% [markdown]
# ## 8. The input of an encoder
#
# Token vector plus position vector, `(B, T, C)`: that is what goes into the first layer. The four *the* are different now:

# %%
positions = nn.Embedding(64, C)
x = table(ids) + positions(torch.arange(ids.shape[1]))  # (B, T, C)
the = x[0, [1, 4, 7, 10]]  # its four places
print("x:", tuple(x.shape), " mask:", tuple(mask.shape))
nearest = torch.cdist(the, the).fill_diagonal_(torch.inf).min().item()
print(f"the nearest two of the four 'the' are {nearest:.2f} apart")
assert nearest > 0.1

# %% [markdown]
# ## What to remember
#
# * **Byte-pair encoding** starts from 256 bytes and merges the most frequent pair, again and again. Nothing is unknown, every
#   text comes back, and what resembles the training text is short.
# * A batch is a tensor of ids `(B, T)`, filled up with `[PAD]`, and a **mask** that is True at the real tokens.
# * An embedding picks a row: **V rows** for tokens, **max_len rows** for positions, **C columns** in both.
# * Without positions a model sees a bag of words: which ones, not in which order.
#
# **What this scale cannot show.** Our vocabulary has 4,096 pieces from 6 MB of documentation; RoBERTa's has about 50,000
# and is GPT-2's. How a tokenizer's choices change a trained model is measured in lesson 07, by bits per byte.
#
# **An open problem.** The pieces are fixed before training by counting, not by what helps the model. Models that read bytes
# and decide themselves what to group exist, and it is not settled when they pay.
#
# **Where this comes from**
#
# * Rico Sennrich, Barry Haddow and Alexandra Birch, *Neural Machine Translation of Rare Words with Subword Units*, 2016,
#   [arXiv:1508.07909](https://arxiv.org/abs/1508.07909).
# * Alec Radford et al., *Language Models are Unsupervised Multitask Learners* (GPT-2), 2019: section 2.2.
# * Ashish Vaswani et al., *Attention Is All You Need*, 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762):
#   section 3.5.
# * Yinhan Liu et al., *RoBERTa*, 2019, [arXiv:1907.11692](https://arxiv.org/abs/1907.11692): section 4.4, byte-level BPE.
#
# **Next:** lesson 02, where a word looks for the words it needs.
