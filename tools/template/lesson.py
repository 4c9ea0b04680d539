# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: "TITLE"
#     question: "REPLACE: which question does this lesson answer?"
#     minutes: 20
#     part: "PART"
# ---

# %% [markdown]
# # NN · TITLE
#
# REPLACE this paragraph: what can the learner do by now, and what goes wrong when they try more? Until you do, this is
# a small lesson that works, on the mean of a text's real tokens. REPLACE marks each text that you have to write; put
# your own cells in place of those around it too.
#
# **The question of this lesson:** REPLACE: the question of the header?
#
# | | |
# |---|---|
# | You will | REPLACE: what the learner builds, measures and finds out |
# | You need | lesson 01 for padding; REPLACE: each lesson that this one uses, by its number, and what for |
# | It takes | about 20 minutes, three exercises; the machine needs seconds |
#
# REPLACE: one sentence that leads to the first picture, which shows what the question is about.

# %% tags=["hide-input"]
from nextbert_lite import ToyWorld, plots

ids, mask = ToyWorld().sample_ids(8, seed=0)  # both (B, T); mask: True at real tokens
assert mask.any(dim=1).all() and not mask.all()  # REPLACE: what the picture's title says, as an assert

fig, ax = plots.figure(size=(6.0, 2.6))
ax.imshow(mask, vmax=1.5, cmap="Blues", aspect="auto")
ax.set(xlabel="position", ylabel="text")
ax.set_title("REPLACE: each text is padded to the longest one")
plots.show(fig, alt=f"REPLACE: of {mask.numel()} positions in the batch {mask.sum()} are real, the others padding.")

# %% [markdown]
# REPLACE: what the learner needs to know of these imports. Take this cell out if there is nothing.

# %%
import torch

from nextbert_lite.checks import lesson_NN as check

# %% [markdown]
# What another run may change stands in one cell:

# %% tags=["parameters"]
seed = 0  # of whatever is drawn in this lesson; the tests also run it with others

# %% [markdown]
# ## 1. REPLACE: one idea a section
#
# REPLACE: the idea in a few sentences, then its formula. Here it is the mean of the vectors $x_t$ at the real
# positions $R$:
#
# $$\bar x = \frac{1}{|R|} \sum_{t \in R} x_t$$
#
# First by hand, with numbers that fit on a line. Guess the result before you run the cell.

# %% tags=["nbval-check-output"]
vectors = torch.tensor([[1.0, 6.0], [3.0, 2.0], [9.0, 9.0]])  # (T, C); the last row is padding
real = [True, True, False]
total = [0.0, 0.0]
for vector, is_real in zip(vectors.tolist(), real, strict=True):
    if is_real:
        total = [a + b for a, b in zip(total, vector, strict=True)]
by_hand = [value / sum(real) for value in total]
print(by_hand)

# %% [markdown]
# REPLACE: what changes from the loop to tensors. The same number comes out again:

# %% tags=["nbval-check-output"]
vectorised = vectors[torch.tensor(real)].mean(dim=0)
print(vectorised.tolist())
assert vectorised.tolist() == by_hand

# %% [markdown]
# ### Exercise NN.1 · build REPLACE: a name ●●● · 20 minutes
#
# REPLACE: the lesson's build, a class or a loop of 10 to 60 lines; say what to write, all that the check asks, and
# nothing about how. Here: write the mean for a batch of texts, in the dtype of the vectors. A text without a real token
# gives zeros. The arguments stay as they are.


# %% tags=["exercise-NN.1", "my-bert-example"]
def mean_of_real(vectors, mask):
    """vectors: (B, T, C), mask: (B, T), True at real tokens -> (B, C)"""
    ### BEGIN SOLUTION
    total = (vectors * mask[:, :, None]).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.mean_over_real(mean_of_real)

# %% [markdown]
# The lesson goes on with your function if it passes, and with the course's if not:

# %% tags=["nbval-check-output"]
mean_of_real = check.mine("NN.1", mean_of_real)

# %% [markdown]
# REPLACE: what the build is used for. Here the same text has the same mean, however wide its batch is:

# %% tags=["nbval-check-output"]
for width in (3, 6, 12):
    padded = torch.zeros(1, width, 2)
    padded[0, :2] = vectors[:2]
    print(width, mean_of_real(padded, torch.arange(width)[None] < 2).tolist())
    assert mean_of_real(padded, torch.arange(width)[None] < 2).tolist() == [by_hand]

# %% [markdown]
# ## 2. REPLACE: the next idea
#
# ### Exercise NN.2 · predict the result ●○○ · 3 minutes
#
# REPLACE: a question with more than three possible answers, or whose answer is a number. Here: each of the 3 tokens of
# a text has the value 8, the batch is 12 positions wide, and padding has the value 0. Someone forgets the mask. Which
# mean do they get?

# %% tags=["exercise-NN.2"]
mean = None
### BEGIN SOLUTION
mean = 2.0  # 3 times 8, over 12
### END SOLUTION

# %% tags=["nbval-check-output"]
check.mean_with_padding(mean)

# %% [markdown]
# REPLACE: what the answer means. The wider the batch, the smaller the result:

# %% tags=["nbval-check-output"]
means = [torch.tensor([8.0] * 3 + [0.0] * (width - 3)).mean().item() for width in (3, 6, 12, 24)]
print(means)
assert means == sorted(means, reverse=True)

# %% [markdown]
# REPLACE: where somebody met this, with a link.

# %% [markdown]
# ### Exercise NN.3 · find the bug ●●○ · 5 minutes
#
# REPLACE: tell the symptom, never the cause. This function should give the largest value among a text's real tokens:


# %%
def buggy_largest(vectors, mask):
    return (vectors * mask[:, :, None]).amax(dim=1)


text = torch.tensor([[[-3.0], [-1.0], [-2.0], [7.0]]])  # (B, T, C); the last token is padding
wrong = buggy_largest(text, torch.tensor([[True, True, True, False]]))
print(f"three values below 0, and the largest is {wrong.item()}")
assert wrong.item() == 0

# %% [markdown]
# Write it again, corrected.


# %% tags=["exercise-NN.3"]
def largest(vectors, mask):
    """vectors: (B, T, C), mask: (B, T), True at real tokens -> (B, C)"""
    ### BEGIN SOLUTION
    return vectors.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.largest(largest)

# %% [markdown]
# REPLACE: what the bug would have done in a real model, or how to see it early.

# %% [markdown]
# ## What to remember
#
# * REPLACE: three or four sentences that a learner should still know in a month.
#
# **What this scale cannot show.** REPLACE: what may be different in a model or on data of another size.
#
# **An open problem.** REPLACE: what nobody knows yet, with a citation.
#
# **Where this comes from**
#
# * REPLACE: authors, *title*, year, with a link. Open each one, and see that it says what you cite it for.
#
# **Next:** REPLACE: the next lesson, and the question that leads to it.
