# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: The contrastive loss
#     question: How does a model learn that two sentences mean the same?
#     minutes: 85
#     part: "Part III: contrast"
# ---

# %% [markdown]
# # 09 · The contrastive loss
#
# > A: the cook near the ovens praises the waiters in the kitchen
# >
# > a: the waiters are praised by the cook in the kitchen
# >
# > b: the cook is praised by the waiters in the kitchen
#
# One of the two lower sentences says the same as A. You see at once which. Does your masked model of lesson 06? It was trained
# to fill gaps. Nobody ever asked it whether two *sentences* mean the same.
#
# **The question of this lesson:** how does a model learn that two sentences mean the same?
#
# | | |
# |---|---|
# | You will | turn pairs of sentences into multiple-choice questions, build the loss that many sentence models are trained with, see who is pulled and who is pushed, watch a model collapse, take the positive out of the denominator and measure what happens, and train on a large batch in little memory |
# | You need | lesson 00 for cross-entropy and softmax, lesson 04 for the encoder, lesson 05 for the loss at the start |
# | It takes | about 85 minutes, five exercises; the machine needs half a minute |
#
# First the picture. Four sentences, A to D, and a paraphrase of each, a to d: the same action by the same people. (The ovens
# say which cook is meant; a and b leave them out.) B is A with the
# two roles exchanged. The masked model of lesson 06 reads all eight. The mean of its token vectors stands for the sentence.

# %%
import math
import os

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import (
    COURSE_SENTENCE,
    Encoder,
    EncoderConfig,
    SentenceEncoder,
    ToyWorld,
    alignment,
    fit,
    load,
    pad,
    plots,
    same_texts,
    seeded,
)
from nextbert_lite.checks import lesson_09 as check

seed = int(os.environ.get("NEXTBERT_SEED", 0))
world = ToyWorld()
tokenizer = world.tokenizer()
V = tokenizer.vocab_size
masked_model = SentenceEncoder(load("toy-small").model.encoder)  # mean of the token vectors

# %% [markdown]
# How alike are two vectors? A dot product also grows with the *lengths* of the vectors. So use the cosine, as lesson 04 did.
# Divide both by their length, and what is left is the **cosine** of the angle between them: 1 for the same
# direction, 0 for a right angle, −1 for opposite directions. `F.normalize` does the division.


# %% tags=["nbval-check-output"]
@torch.no_grad()
def unit_vectors(model, texts):
    """Return one vector of length 1 for each text, (N, C)."""
    device = next(model.parameters()).device
    ids, mask = pad([tokenizer.encode(text) for text in texts])
    return F.normalize(model(ids.to(device), mask.to(device)), dim=-1).cpu()


sentence = world.parse(COURSE_SENTENCE)
sentences = [sentence, world.swap_roles(sentence)]
sentences += [world.parse("it is the witnesses that defend the lawyers in the court")]
sentences += [world.parse("it is the clerk near the statue that questions the jurors because they listened")]
texts = [s.text for s in sentences]
paraphrases = [world.paraphrases(s)[0].text for s in sentences]
for upper, text, lower, paraphrase in zip("ABCD", texts, "abcd", paraphrases, strict=True):
    print(f"{upper}: {text}\n{lower}: {paraphrase}")

# %% [markdown]
# Now the vectors, and the cosine of each sentence with each paraphrase. The right answers stand on the diagonal, where they are
# framed. Where should each row be darkest?

# %%
anchors, positives = unit_vectors(masked_model, texts), unit_vectors(masked_model, paraphrases)  # (4, C) each
S = (anchors @ positives.T * 100).round() / 100  # (4, 4), cosines with two digits, to compute with by hand


def draw_matrix(matrix, title, label, digits=2):
    """Draw a small matrix as a map with its numbers; the right answers, the diagonal, are framed."""
    fig, ax = plots.figure(size=(6.2, 3.4))
    image = ax.imshow(matrix, cmap="Blues", aspect="auto")
    middle = (matrix.min() + matrix.max()) / 2
    for i, row in enumerate(matrix.tolist()):
        for j, value in enumerate(row):
            ink = "white" if value > middle else "#303030"
            ax.text(j, i, f"{value:.{digits}f}", ha="center", va="center", fontsize=11, color=ink)
        ax.add_patch(
            plots.plt.Rectangle((i - 0.47, i - 0.46), 0.94, 0.92, fill=False, color=plots.ORANGE, linewidth=2.5)
        )
    ax.set_xticks(range(4), "abcd")
    ax.set_yticks(range(4), "ABCD")
    ax.set(xlabel="paraphrase", ylabel="sentence")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    fig.colorbar(image, ax=ax).set_label(label)
    ax.set_title(title)
    return fig


fig = draw_matrix(S, "For A the masked model prefers b, the wrong one", "cosine")
plots.show(
    fig,
    alt="A map of the cosines of sentences A to D with paraphrases a to d, right answers framed: A is nearer to b, the "
    "paraphrase with the roles exchanged, than to its own a.",
)
assert S[0, 1] > S[0, 0] and S[2].argmax() == 2 and S.min() > 0.4

# %% [markdown]
# Two things are wrong with these vectors. A is a little nearer to **b**, where the waiters praise, than to its own paraphrase. And
# even sentences that have nothing to do with each other, a kitchen and a court, have cosines far above 0.

# %% [markdown]
# No person labelled these pairs; the rules of the toy world made them. We only know which sentences are paraphrases. That is
# enough for a loss.
#
# ## 1. Every row is a question
#
# Read the first row of the picture as a multiple-choice question: *which of a, b, c, d belongs to A?* The cosines are the
# model's scores, and the right answer is known: the one on the diagonal. The sentence that asks is the **anchor**, the right
# answer its **positive**, the others are the **negatives**. They cost nothing: each is the positive of another row.

# %% [markdown]
# From scores to shares you know the way, the softmax: $e^{\text{score}}$, divided by the sum over the row. But cosines lie
# between −1 and 1, and $e^1$ is only 7.4 times $e^{-1}$: with hundreds of answers to choose from, the right one could never get most
# of the share. So the cosines are first divided by a small number, the **temperature** τ. Here it is 0.05: a cosine of 0.9 becomes
# a score of 18. (The library sentence-transformers multiplies by `scale=20` instead, which is the same.)
#
# The loss of a row is −ln of the right answer's share. By hand, with a loop; which of the four rows will have the largest loss?

# %% tags=["nbval-check-output"]
temperature = 0.05
by_hand = []
for i, anchor in enumerate("ABCD"):
    scores = [S[i, j].item() / temperature for j in range(4)]
    powers = [math.exp(score) for score in scores]
    shares = [power / sum(powers) for power in powers]
    by_hand.append(-math.log(shares[i]))
    print(f"{anchor}: scores", *(f"{score:5.1f}" for score in scores), end="   shares ")
    print(*(f"{share:.3f}" for share in shares), f"  loss {by_hand[-1]:.4f}")
mean_by_hand = sum(by_hand) / 4
print(f"mean of the four losses: {mean_by_hand:.4f} nats")
assert min(by_hand[:2]) > math.log(2) > 0.2 > max(by_hand[2:])

# %% [markdown]
# A and B cost most: their right answers have less than half of the share, so the losses are above ln 2. C costs almost nothing. The mean
# over the rows is the **contrastive loss**, called **InfoNCE** after the paper that made it known (van den Oord et al. 2018):
#
# $$\text{loss} = \frac{1}{B}\sum_{i=1}^{B} -\ln \frac{e^{\cos(a_i,\, p_i)/\tau}}{\sum_{j=1}^{B} e^{\cos(a_i,\, p_j)/\tau}}$$
#
# $a_i$ is the vector of anchor i, $p_j$ that of positive j, B the number of pairs. Look at the sum under the fraction line: it
# runs over *all* j,
# and one of them is i itself. Keep that in mind for section 8.

# %% [markdown]
# ### Exercise 09.1 · one loss a row ●○○ · 6 minutes
#
# `S` holds the cosines, (B, B); the right answers are on the diagonal. Return the loss of each row, before the mean. Without
# `F.cross_entropy`: `exp`, `sum` and `log` (or `logsumexp`) do it.


# %% tags=["exercise-09.1"]
def row_losses(S, temperature):
    """S: (B, B), cosine of anchor i and positive j -> the loss of each anchor, (B,)"""
    ### BEGIN SOLUTION
    scores = S / temperature
    return scores.logsumexp(1) - scores.diagonal()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.row_losses(row_losses)

# %% [markdown]
# ## 2. It is a cross-entropy
#
# "−ln of the right answer's share" is what lesson 05 did with words. There the classes were the V words of the vocabulary. Here they
# are the B positives of the batch, and the label of row i is i. So the whole loss is one call, with the labels 0, 1, 2, 3:

# %% tags=["nbval-check-output"]
right = torch.arange(4)  # the right answer of row i is column i
as_cross_entropy = F.cross_entropy(S / temperature, right).item()
print(f"by hand {mean_by_hand:.4f}, as cross-entropy {as_cross_entropy:.4f}")
assert abs(as_cross_entropy - mean_by_hand) < 1e-5

# %% [markdown]
# The same number. So the first version of the loss has three lines: cosines, divided by the temperature, cross-entropy.


# %%
def info_nce_loss(anchors, positives, temperature=0.05):
    """anchors, positives: (B, C), row i of one belongs to row i of the other -> the loss, in nats."""
    scores = F.normalize(anchors, dim=-1) @ F.normalize(positives, dim=-1).T / temperature  # (B, B)
    return F.cross_entropy(scores, torch.arange(len(scores)))


exact = info_nce_loss(anchors, positives).item()
print(f"with all digits of the cosines: {exact:.4f}; with two digits it was {mean_by_hand:.4f}")
assert abs(exact - mean_by_hand) < 0.1  # a cosine is off by 0.005 at most, a score by 0.1

# %% [markdown]
# ## 3. Three additions
#
# The package's function can do three more things. Each is two lines.
#
# * **More negatives.** Sentences that are nobody's positive, such as C with its roles exchanged. They become further columns:
#   (B, B + N). Such a negative, chosen because it is difficult, is called a **hard negative**.
# * **Not a negative after all.** Two pairs of a batch may mean the same. Then positive j is right for anchor i too, and calling it
#   wrong would teach nonsense. `same` is True there, and the score becomes −∞: a share of 0. Section 9 counts how often that happens.
# * **Both ways.** The columns are questions too: *which of A, B, C, D belongs to a?* `symmetric` takes the mean of both.

# %% [markdown]
# And one call checks what comes in: a batch of one, a vector with a NaN, a temperature of 0 get an error that says what to do.

# %%
from nextbert_lite.validate import check_pairs


def info_nce_loss(anchors, positives, temperature=0.05, symmetric=False, negatives=None, same=None):
    """Return the mean cross-entropy of finding each anchor's own positive among all positives, in nats.

    anchors, positives: (B, C). negatives: (N, C), further wrong answers for every anchor.
    same: boolean (B, B), True at [i, j] where positive j would be right for anchor i too: not a negative.
    """
    check_pairs(anchors, positives, temperature, negatives, same)
    B = len(anchors)
    keys = positives if negatives is None else torch.cat([positives, negatives])
    scores = F.normalize(anchors, dim=-1) @ F.normalize(keys, dim=-1).T / temperature  # (B, B + N)
    right = torch.arange(B, device=scores.device)
    if same is not None:
        others = same & ~torch.eye(B, dtype=torch.bool, device=same.device)
        scores = scores.masked_fill(F.pad(others, (0, len(keys) - B)), -torch.inf)
    loss = F.cross_entropy(scores, right)
    if symmetric:
        loss = (loss + F.cross_entropy(scores[:, :B].T, right)) / 2
    return loss


# %% [markdown]
# On our four pairs: the rows, the columns, both, and the rows with two more hard negatives, c and d with their roles exchanged.
# (a and b exchanged are b and a: those are right answers already.) Which of the four numbers is the largest?

# %%
swapped = unit_vectors(masked_model, [world.swap_roles(world.parse(text)).text for text in paraphrases[2:]])  # (2, C)
rows, columns = info_nce_loss(anchors, positives), info_nce_loss(positives, anchors)
both = info_nce_loss(anchors, positives, symmetric=True)
harder = info_nce_loss(anchors, positives, negatives=swapped)
print(f"rows {rows:.4f}, columns {columns:.4f}, symmetric {both:.4f}; with hard negatives {harder:.4f}")
assert abs(exact - rows) < 1e-6 and abs((rows + columns) / 2 - both) < 1e-6 and harder > rows

# %% [markdown]
# (`masked_fill(..., -torch.inf)` with `same` is right for the columns too, as long as `same[i, j]` equals `same[j, i]`.)
#
# ## 4. NT-Xent, the loss of SimCLR
#
# SimCLR (Chen et al. 2020) trains on pictures. Of each it makes two altered copies, two **views**, and no view is
# an anchor more than the other. So why should a only be compared with the b's? Put all 2B views into one list. Each must find its
# partner among *all* the others: B − 1 wrong partners of the other side, and B − 1 of its own side.
#
# The one thing to leave out is the view itself. Its cosine with itself is 1 whatever the model does; nobody could beat it.

# %% [markdown]
# $$\ell_{i} = -\ln \frac{e^{\cos(v_i,\, v_{\text{partner of } i})/\tau}}{\sum_{k \neq i} e^{\cos(v_i,\, v_k)/\tau}}$$
#
# $k \neq i$: the sum leaves out view i, and nothing else. The name is short for *normalised temperature-scaled cross-entropy*.


# %% tags=["nbval-check-output"]
def nt_xent_loss(a, b, temperature=0.5):
    """Return the loss of SimCLR: each of the 2B views finds its partner among the other 2B - 1, in nats.

    a, b: (B, C), row i of both are two views of one text.
    """
    check_pairs(a, b, temperature)
    views = F.normalize(torch.cat([a, b]), dim=-1)
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    scores = (views @ views.T / temperature).masked_fill(itself, -torch.inf)  # (2B, 2B)
    partner = torch.arange(len(views), device=views.device).roll(len(a))
    return F.cross_entropy(scores, partner)


partner = torch.arange(8).roll(4)
print("views   ", *"ABCDabcd")
print("partners", *("ABCDabcd"[i] for i in partner.tolist()))

# %% [markdown]
# How does it compare with InfoNCE, on our four pairs? There are more wrong answers in each row, so it must be larger than the
# symmetric loss. And there is a trap here. Google's code of SimCLR computes one mean for the views a and one for the views b, and
# returns their **sum**. Most other code returns the mean over all 2B. We write Google's version down and compare:


# %%
def simclr_as_google(a, b, temperature):
    """One direction after the other, each with the own side's views behind; their sum."""
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    itself, right = torch.eye(len(a), dtype=torch.bool), torch.arange(len(a))
    directions = []
    for one, other in ((a, b), (b, a)):
        own_side = (one @ one.T / temperature).masked_fill(itself, -torch.inf)
        directions.append(F.cross_entropy(torch.cat([one @ other.T / temperature, own_side], dim=1), right))
    return sum(directions)


nt_xent, google = nt_xent_loss(anchors, positives, 0.05), simclr_as_google(anchors, positives, 0.05)
print(f"InfoNCE one way {rows:.4f}, symmetric {both:.4f}, NT-Xent {nt_xent:.4f}, Google's code {google:.4f}")
assert nt_xent > both and abs(google - 2 * nt_xent) < 1e-5

# %% [markdown]
# Exactly twice. As a direction of the gradient that is nothing; but it is another number in the log, and with plain gradient
# descent another learning rate. When you compare your loss with somebody else's, ask which of the two they print.
#
# ## 5. Do two libraries agree?
#
# pytorch-metric-learning and sentence-transformers have these losses too. Their answers for stored random vectors
# lie in `data/oracles/` (made by `tools/oracles.py`; the tests of this course run the libraries themselves). Four temperatures, in
# float64:

# %%
from safetensors import safe_open

from nextbert_lite.files import share_dir

with safe_open(share_dir("data") / "oracles" / "contrastive.safetensors", "pt") as file:
    oracle = {name: file.get_tensor(name) for name in file.keys()}
    print("made with", file.metadata()["versions"])
x, y, hard = oracle["anchors"], oracle["positives"], oracle["negatives"]  # (6, 16) each
ours = {
    "pml.info_nce": lambda t: info_nce_loss(x, y, t),
    "pml.nt_xent": lambda t: nt_xent_loss(x, y, t),
    "st.info_nce": lambda t: info_nce_loss(x, y, t),
    "st.symmetric": lambda t: info_nce_loss(x, y, t, symmetric=True),
    "st.negatives": lambda t: info_nce_loss(x, y, t, negatives=hard),
}

# %% [markdown]
# Each of these five is now computed at each stored temperature and compared with the library's number. "Equal" means: to ten digits.

# %%
for name, loss_at in ours.items():
    values = torch.stack([loss_at(t) for t in oracle["temperatures"].tolist()])
    difference = (values - oracle[name]).abs().max().item()
    print(f"{name:>12}: {values[0]:.6f} at τ = 0.05; over four temperatures equal to {difference:.0e}")
    assert difference < 1e-10

# %% [markdown]
# *pml* is pytorch-metric-learning, *st* is sentence-transformers (its `MultipleNegativesRankingLoss`). Many names, one formula.
#
# From here on we use the package's two functions. They are the code that you have just read.

# %%
from nextbert_lite import info_nce_loss, nt_xent_loss

# %% [markdown]
# ## 6. The loss at the start, and what the temperature does to it
#
# Lesson 05 computed the loss before the first step. Do the same here. Suppose the vectors have nothing to do with each
# other. What is the loss of B pairs? Guess before you read on: does it depend on τ?

# %% [markdown]
# If all scores were equal, each answer would have the share 1/B and the loss would be **ln B**. But random vectors do not have equal
# scores. With C for the width of the vectors, the dot product of two random ones is a sum of C small terms with mean 0, and
# when both have length 1 its variance is 1/C. (Lesson 02 had the variance D, without the division by the lengths.) Divided by τ,
# the scores have the variance
#
# $$\sigma^2 = \frac{1}{C\,\tau^2}, \qquad\text{and by lesson 05}\qquad \text{loss at the start} \approx \ln B + \frac{\sigma^2}{2}.$$
#
# Random opinions cost half their variance, and a small τ makes opinions loud.

# %%
B = 64
temperatures = [0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0]
start = {}
for C in (64, 768):
    batches = [torch.randn(2, B, C, generator=seeded(seed, C, number)) for number in range(50)]
    start[C] = [sum(info_nce_loss(*pair, t).item() for pair in batches) / 50 for t in temperatures]
    for t, measured in zip(temperatures, start[C], strict=True):
        variance = 1 / (C * t**2)
        if t in (0.05, 0.1, 0.5):
            print(f"C = {C}, τ = {t}: ln B + {variance / 2:.2f} expected, ln B + {measured - math.log(B):.2f} measured")
        if variance <= 1:  # five standard errors of 50 · B rows, and 0.02 since B is finite
            assert abs(measured - math.log(B) - variance / 2) < 5 * math.sqrt(variance / (50 * B)) + 0.02

# %% [markdown]
# Points are measured, dashed lines are the formula:

# %%
fig, ax = plots.figure()
for (C, measured), colour, marker in zip(start.items(), [plots.BLUE, plots.ORANGE], "os", strict=True):
    ax.plot(temperatures, measured, marker, color=colour, label=f"C = {C}, measured")
    ax.plot(temperatures, [math.log(B) + 1 / (2 * C * t**2) for t in temperatures], "--", color=colour, linewidth=1.2)
ax.axhline(math.log(B), color=plots.GREY, linestyle=":", label="ln B")
ax.set(xscale="log", ylim=(3.5, 13.5), xlabel="temperature τ", ylabel="loss (nats)")
ax.set_xticks([0.03, 0.05, 0.1, 0.2, 0.5, 1], ["0.03", "0.05", "0.1", "0.2", "0.5", "1"])
ax.minorticks_off()
ax.set_title("Unrelated vectors: ln B, and more where τ is small")
ax.legend(title="dashed: ln B + 1/(2Cτ²)")
plots.show(
    fig,
    alt="Loss of 64 random pairs against the temperature: at ln 64 = 4.16 for large temperatures, rising as the temperature "
    "falls, sooner with 64 dimensions than with 768; measured points follow the formula until the scores' spread is about 2.",
)

# %% [markdown]
# So "InfoNCE starts at ln B" is right for large τ or wide vectors. With 64 dimensions and τ = 0.05 an ignorant model starts
# well above. (Below τ ≈ 0.06 the points for C = 64 leave the line: 64 answers are too few to meet the rare giants in the mean of
# $e^z$, as in lesson 05.)

# %% [markdown]
# Pairs of paraphrases start elsewhere, though. Let us see: 200 sentences with
# 200 different meanings, each with a paraphrase. One encoder with random weights, and the masked model:


# %%
def draw_pairs(n, number):
    """Return n random sentences, each with one of its paraphrases."""
    drawn = world.sample(n, seed=100_000 * (seed + 1) + number)
    choice = torch.rand(n, generator=seeded(seed, number)).tolist()
    return [(s, (options := world.paraphrases(s))[int(c * len(options))]) for s, c in zip(drawn, choice, strict=True)]


by_meaning = {pair[0].meaning: pair for pair in draw_pairs(2000, number=99_999)}
held_out = list(by_meaning.values())[:200]  # 200 different meanings
torch.manual_seed(seed)
new_model = SentenceEncoder(Encoder(EncoderConfig(vocab_size=V, init_std="fan_in")))

for name, model in {"random weights": new_model, "masked model": masked_model}.items():
    a, p = (unit_vectors(model, [pair[side].text for pair in held_out[:B]]) for side in (0, 1))
    cosines = a @ p.T
    others = cosines[~torch.eye(B, dtype=torch.bool)].mean()
    print(f"{name:>14}: cosine of partners {cosines.diagonal().mean():.2f}, of others {others:.2f}", end="; ")
    print(f"loss at τ = 0.05 {info_nce_loss(a, p):.2f}, ln B = {math.log(B):.2f}")
    assert cosines.diagonal().mean() > others + 0.01 and info_nce_loss(a, p) < math.log(B)

# %% [markdown]
# Both are below ln B before the first step. Paraphrases share words, and partners are nearer to each other than strangers are,
# even with random weights. The loss starts low because the question starts easy.

# %% [markdown]
# One more number to remember. If *all* vectors are equal, all scores are equal, whatever τ is: the loss is exactly ln B. If your
# loss stays at ln B, look whether all vectors have become nearly equal.

# %% tags=["nbval-check-output"]
equal = torch.ones(B, 16)
for t in (0.05, 0.5):
    print(f"all vectors equal, τ = {t}: {info_nce_loss(equal, equal, t):.4f}; ln B = {math.log(B):.4f}")
    assert abs(info_nce_loss(equal, equal, t) - math.log(B)) < 1e-5

# %% [markdown]
# ### Exercise 09.2 · predict the result ●●○ · 5 minutes
#
# You run Google's code of SimCLR (section 4: the sum of two directions) with B = 512 pairs. At the start, take every cosine
# of two different views to be 0. Which loss do you see? Two digits after the point; `math.log` helps.

# %% tags=["exercise-09.2"]
loss_of_a_new_simclr = None
### BEGIN SOLUTION
loss_of_a_new_simclr = 2 * math.log(2 * 512 - 1)  # each view chooses among 2B - 1 others, and two means are added
### END SOLUTION

# %% tags=["nbval-check-output"]
check.simclr_start(loss_of_a_new_simclr)

# %% [markdown]
# ## 7. Who is pulled, who is pushed
#
# The loss is a number. What training does with the vectors is decided by its gradient. For a cross-entropy it is known: the shares,
# minus 1 at the right answer. Let $p_{ij}$, with two indices, be the share that
# anchor i gives to positive j (with one index, $p_j$ is still a vector). $[i = j]$ is 1 where i = j, else 0. For one anchor:
#
# $$\frac{\partial\, \text{loss}_i}{\partial \cos(a_i, p_j)} = \frac{1}{\tau}\,\big(p_{ij} - [i = j]\big)$$
#
# A step goes *against* the gradient. So every negative's cosine goes **down**, in proportion to its share $p_{ij}$: it is pushed
# away. The positive's goes **up**, by $1 - p_{ii}$: it is pulled. As much is pulled as is pushed, since the shares add up to 1.

# %%
cosines = S.clone().requires_grad_()
F.cross_entropy(cosines / temperature, right, reduction="sum").backward()
shares = (S / temperature).softmax(1)
print((-temperature * cosines.grad).numpy().round(3))
torch.testing.assert_close(cosines.grad, (shares - torch.eye(4)) / temperature)
torch.testing.assert_close(cosines.grad.sum(1), torch.zeros(4), rtol=0, atol=1e-4)

# %% [markdown]
# Positive numbers pull, negative ones push, in units of 1/τ. In the row of A nearly all of the push goes to b, the sentence
# that the model takes for the right one; in the row of C there is little to do, and little is done.
#
# ### Exercise 09.3 · the gradient ●●○ · 8 minutes
#
# Write the gradient of the *mean* loss of B rows with respect to the cosines, without autograd.


# %% tags=["exercise-09.3"]
def score_gradient(S, temperature):
    """S: (B, B), cosines -> the gradient of the mean InfoNCE loss with respect to S, (B, B)"""
    ### BEGIN SOLUTION
    shares = (S / temperature).softmax(1)
    return (shares - torch.eye(len(S))) / (temperature * len(S))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.score_gradient(score_gradient)

# %% [markdown]
# Now look at it. Two dimensions, vectors of length 1: they live on a circle. One anchor, its positive, four negatives, one of which
# is nearer to the anchor than the positive. The arrows are the real thing, −gradient by autograd, for three temperatures. Before you
# run: at which temperature does every negative get more than a twentieth of the push?


# %%
def on_circle(degrees):
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=-1)  # (N, 2)


anchor, keys = on_circle([90.0]), on_circle([50.0, 122.0, 172.0, 235.0, 330.0])  # the positive is the first key


def forces(t):
    """Return -gradient at the anchor (1, 2) and at the keys (5, 2), and the negatives' shares of the push (4,)."""
    a, k = anchor.clone().requires_grad_(), keys.clone().requires_grad_()
    scores = F.normalize(a, dim=-1) @ F.normalize(k, dim=-1).T / t
    F.cross_entropy(scores, torch.tensor([0])).backward()
    return -a.grad, -k.grad, F.normalize(scores.softmax(1)[0, 1:].detach(), p=1, dim=0)


# %% [markdown]
# `F.normalize` stands inside the loss, so lengthening a vector changes nothing, and the gradient has no part along the vector. What is
# left moves it along the circle.

# %%
fig, axes = plots.figure(1, 3, size=(8.6, 3.3))
for ax, t in zip(axes, (1.0, 0.3, 0.05), strict=True):
    on_anchor, on_keys, push = forces(t)
    points, arrows = torch.cat([anchor, keys]), torch.cat([on_anchor, on_keys])
    arrows = 1.1 * arrows / arrows.norm(dim=1).max()
    assert (push.min() > 0.05) == (t == 1.0)
    colours = ["black", plots.GREEN, *[plots.RED] * 4]
    ax.add_patch(plots.plt.Circle((0, 0), 1, fill=False, color="#CCCCCC"))
    ax.scatter(*points.T, color=colours, s=36, zorder=3)
    for point, arrow, colour in zip(points.tolist(), arrows.tolist(), colours, strict=True):
        if math.hypot(*arrow) > 0.01:
            ends = {"xy": (point[0] + arrow[0], point[1] + arrow[1]), "xytext": point}
            style = {"arrowstyle": "-|>,head_width=0.2,head_length=0.3", "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", **ends, arrowprops={"color": colour, **style})
    for point, share in zip(keys[1:].tolist(), push.tolist(), strict=True):
        ax.text(0.66 * point[0], 0.72 * point[1], f"{share:.0%}", ha="center", va="center", fontsize=9, color=plots.RED)
    ax.set(xlim=(-1.4, 1.4), ylim=(-1.15, 1.4), aspect="equal")
    ax.set_axis_off()
    ax.set_title(f"τ = {t}", fontsize=10, loc="center")
fig.suptitle("At a low temperature the nearest negative is pushed alone", x=0.01, ha="left")
plots.show(
    fig,
    alt="Three circles with an anchor, a positive that is pulled towards it and four negatives that are pushed away. At "
    "temperature 1 all four are pushed, at 0.3 mostly the nearest, at 0.05 the nearest alone.",
)

# %% [markdown]
# Black: the anchor. Green: the positive, pulled towards it. Red: the negatives, with their share of the push. (In each circle the
# longest arrow is drawn equally long; some are hidden by their dot.) The anchor moves too, away from the near negative and
# towards the positive.
#
# At τ = 1 everybody is pushed, even those on the far side. At τ = 0.05 the nearest negative gets all of it.
#
# Back to the four sentences of the beginning, with a slider for τ. Choose row A and move it: from which temperature on does b, the
# paraphrase with the roles exchanged, get less than half of A's push? And whose loss *grows* again when
# τ gets very small?

# %%
from nextbert_lite import SimilarityMatrix, show

view = SimilarityMatrix(
    anchors, positives, (list("ABCD"), list("abcd")), title="At which temperature does b get half of the push?"
)
show(
    view, alt="The cosines of A to D with a to d, and the shares at τ = 0.05: A and B have less than half on their own."
)

# %% [markdown]
# The same, computed at a few temperatures:

# %%
cosines = anchors @ positives.T
for t in (0.01, 0.03, 0.1, 0.3, 0.4, 1.0):
    push = cosines[0, 1:].div(t).softmax(0)[0].item()
    losses = -cosines.div(t).log_softmax(1).diagonal()
    print(
        f"τ = {t:<4}  b's share of A's push {push:4.0%}   losses of A to D",
        *(f"{loss:z.2f}" for loss in losses.tolist()),
    )
assert cosines[0, 1:].div(0.05).softmax(0)[0] > 0.5 > cosines[0, 1:].softmax(0)[0]
at = {t: -cosines.div(t).log_softmax(1).diagonal() for t in (0.01, 0.1, 1.0)}
assert (at[0.01] > at[0.1]).tolist() == [True, True, False, False] and (at[0.1] < at[1.0]).all()

# %% [markdown]
# A and B, whose nearest paraphrase is the wrong one, pay less at first and more again when τ gets very small: the mistake
# becomes dear. C and D have the right one nearest, and the smaller τ, the less they pay.
#
# How large is the hardest negative's share of the push in a real batch? Here are 64 pairs under the masked model, and 64 pairs
# of random directions:

# %%
scale = [0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0]
a, p = (unit_vectors(masked_model, [pair[side].text for pair in held_out[:B]]) for side in (0, 1))
a_random, p_random = F.normalize(torch.randn(2, B, 64, generator=seeded(seed, 7)), dim=-1)
hardest = {}
for name, matrix in {"masked model": a @ p.T, "random directions": a_random @ p_random.T}.items():
    wrong = matrix.masked_fill(torch.eye(B, dtype=torch.bool), -torch.inf)  # the negatives alone
    hardest[name] = [(wrong / t).softmax(1).amax(1).mean().item() for t in scale]  # of a row's push
    print(f"{name:>17}:", *(f"τ = {t}: {hardest[name][scale.index(t)]:.0%}" for t in (0.01, 0.05, 0.5, 2.0)), sep="  ")
    assert all(x > y for x, y in zip(hardest[name], hardest[name][1:], strict=False))
    assert hardest[name][0] > 0.4 and hardest[name][-1] < 2 / (B - 1)

# %% [markdown]
# Between the ends it falls without a break:

# %%
fig, ax = plots.figure()
for (name, values), marker in zip(hardest.items(), ["o-", "s--"], strict=True):
    ax.plot(scale, [100 * value for value in values], marker, markersize=5, label=name)
ax.axhline(100 / (B - 1), color=plots.GREY, linestyle=":", label="all 63 negatives alike")
ax.set(xscale="log", ylim=(0, 100), xlabel="temperature τ", ylabel="the hardest negative's\nshare of the push (%)")
ax.set_xticks([0.01, 0.03, 0.1, 0.3, 1], ["0.01", "0.03", "0.1", "0.3", "1"])
ax.minorticks_off()
ax.set_title("The lower τ, the larger the hardest negative's share")
ax.legend()
plots.show(
    fig,
    alt="The hardest negative's share of the push against the temperature, falling from about half or more at 0.01 to an "
    "equal share, 1.6 %, at 2, for the masked model and for random directions.",
)

# %% [markdown]
# A low temperature makes a strict teacher: the lower it is, the more of the push goes to the most similar wrong answer. That is
# good if this answer is really wrong, and bad if it is a paraphrase that nobody marked (section 9). Wang and Liu (2021)
# describe this trade.
#
# SimCSE, in its supervised form, is BERT trained with this loss on labelled pairs and hard negatives (Tianyu Gao et al. 2021).
# For its test, STS-B, people have said how alike
# two sentences are; the score says how well the model's cosines put the pairs into the same order (100: the same order, 0: chance):
#
# | τ | 0.001 | 0.01 | 0.05 | 0.1 | 1 |
# |---|---|---|---|---|---|
# | STS-B, development part | 84.9 | 85.4 | 86.2 | 82.0 | 64.0 |
#
# That is another model, far larger, with other data; this lesson does not measure the best τ of ours.

# %% [markdown]
# ## 8. Two ways to take something away
#
# The loss has two parts, the pull and the push. What happens without the push? And what if the positive is missing in one
# place only, the denominator?

# %% [markdown]
# ### Without negatives: collapse
#
# Half of the loss pulls partners together. Isn't that all we want? Then take the squared distance of the partners as the loss,
# the **alignment** (Wang and Isola 2020), and leave the negatives out. The best value is 0. Think about it: which is the simplest
# way for an encoder to reach 0?
#
# We train the same small encoder, from random weights, both ways. Every ten steps we look at the 200 pairs of section 6, which were
# drawn apart from the training: the mean cosine of partners, of others, and the share of sentences whose own paraphrase is the
# nearest of 200 (chance: 0.5 %).


# %%
class WithLoss(nn.Module):
    """A sentence encoder that trains with any loss of the two sides' vectors."""

    def __init__(self, encoder, loss_of):
        super().__init__()
        self.encoder, self.sentences, self.loss_of = encoder, SentenceEncoder(encoder), loss_of

    def loss(self, ids, mask, positive_ids, positive_mask, same):
        return self.loss_of(self.sentences(ids, mask), self.sentences(positive_ids, positive_mask), same)


def pair_batch(step):
    """Return 64 fresh pairs; `same` is True where two of them have the same meaning."""
    pairs = draw_pairs(64, step)
    meanings = [s.meaning for s, _ in pairs]
    sides = [pad([tokenizer.encode(pair[side].text) for pair in pairs]) for side in (0, 1)]
    (ids, mask), (positive_ids, positive_mask) = sides
    both = {"positive_ids": positive_ids, "positive_mask": positive_mask, "same": same_texts(meanings, meanings)}
    return {"ids": ids, "mask": mask, **both}


# %% [markdown]
# What we look at, and the training: `fit` is the loop of lesson 06. Then the two runs.


# %%
def look(model):
    """Return the mean cosine of held-out partners and of others, and the share of paraphrases found."""
    a, p = (unit_vectors(model, [pair[side].text for pair in held_out]) for side in (0, 1))
    cosines, n = a @ p.T, len(a)
    pairs, found = cosines.diagonal().mean(), (cosines.argmax(1) == torch.arange(n)).float().mean()
    others = (cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))
    return {"partners": pairs.item(), "others": others.item(), "found": found.item()}


def train(loss_of, steps=100):
    """Train a small encoder from random weights; return it, what was seen on the way, and the losses."""
    torch.manual_seed(seed)
    model = WithLoss(Encoder(EncoderConfig(vocab_size=V, init_std="fan_in")), loss_of)
    seen = [{"step": 0, **look(model.sentences)}]
    options = {"evaluate": lambda: look(model.sentences), "evaluate_every": 10, "mixed_precision": False}
    history = fit(model, pair_batch, steps=steps, lr=1e-3, warmup=20, seed=seed, **options)
    return model.sentences, seen + history.evaluations, history.loss


# %% [markdown]
# Say before you run it: where will the cosine of unrelated sentences end, in the first run and in the second?

# %%
runs = {
    "only the pull": train(lambda a, p, same: alignment(a, p)),
    "InfoNCE": train(lambda a, p, same: info_nce_loss(a, p, same=same)),
}

# %%
fig, axes = plots.figure(1, 2, size=(8.4, 3.3))
for (name, (_, seen, _)), colour in zip(runs.items(), [plots.RED, plots.BLUE], strict=True):
    steps = [now["step"] for now in seen]
    axes[0].plot(steps, [now["others"] for now in seen], color=colour, label=f"{name}: others")
    axes[0].plot(steps, [now["partners"] for now in seen], "--", color=colour, label=f"{name}: partners")
    axes[1].plot(steps, [100 * now["found"] for now in seen], color=colour, label=name)
axes[0].set(xlabel="training step", ylabel="mean cosine", ylim=(-0.1, 1.05))
axes[0].set_title("Without negatives all fall together", fontsize=11)
axes[0].legend(fontsize=8, loc="center right", bbox_to_anchor=(1, 0.45))
axes[1].set(xlabel="training step", ylabel="paraphrases found (%)", ylim=(0, 100))
axes[1].set_title("With negatives partners are found", fontsize=11)
axes[1].legend(fontsize=9, loc="lower right")
plots.show(
    fig,
    alt="Left: with the pull alone the cosine of unrelated sentences goes to 1 within 20 steps; with InfoNCE it falls to about 0 "
    "while partners stay near 0.9. Right: InfoNCE finds most paraphrases among 200, the pull alone about half.",
)

# %% [markdown]
# The same at the end, in numbers. *Distance* is that of two unrelated sentences, on the unit sphere. And since the world is small: how
# many of the 200 have occurred in training?

# %%
for name, (_, seen, loss) in runs.items():
    end, distance = seen[-1], math.sqrt(2 - 2 * seen[-1]["others"])  # of two vectors of length 1
    print(f"{name:>13}: others {end['others']:.4f} (distance {distance:.2f})", end=", ")
    print(f"partners {end['partners']:.4f}, found {end['found']:.0%}")
trained_on = [s for step in range(100) for s, _ in draw_pairs(64, step)]
for what, of in {"meanings": lambda s: s.meaning, "sentences": lambda s: s.text}.items():
    met = {of(s) for s in trained_on}
    known = sum(of(s) in met for s, _ in held_out) / len(held_out)
    print(f"of the 200 {what} {known:.0%} occurred in training")
    assert known > 0.9 if what == "meanings" else known < 0.3
pull, full = (runs[name][1][-1] for name in runs)
assert pull["others"] > 0.99 and pull["partners"] > full["partners"] and abs(full["others"]) < 0.2
assert pull["found"] > max(10 / 200, 2 * runs["only the pull"][1][0]["found"])  # ten times chance, twice the start
assert runs["only the pull"][1][2]["others"] > 0.98  # after 20 steps
assert full["found"] > 0.85 and full["found"] > pull["found"] + 0.2 and runs["only the pull"][2][-1] < 0.01

# %% [markdown]
# (The meanings are not new to the models, most of the sentences are. So *found* says how well a model has learned this world's
# meanings, not what it would do with a new one.)
#
# That is **collapse**. All sentences, whatever they say, point in one direction. The loss is happy: its partners are closer together
# than those of InfoNCE, by its own measure it is the better model.
#
# One thing you may not have expected. The collapsed model still finds far more paraphrases than chance, and more than before
# its training (step 0 of the right picture). The distance between two
# unrelated sentences is a tiny part of what it is with InfoNCE, but which of these tiny distances is smallest still says something. So
# collapse, here, is not the loss of all information. But nothing in this loss asks
# for any distance between strangers.

# %% [markdown]
# Does the pull pull *everything* together? No. Look at free vectors, without an encoder, two times 64 of them, moved by the same
# loss:

# %%
free = torch.randn(2, 64, 16, generator=seeded(seed, 8)).requires_grad_()
for _ in range(300):
    (gradient,) = torch.autograd.grad(64 * alignment(*free), free)
    free = (free - 0.1 * gradient).detach().requires_grad_()
a, p = F.normalize(free.detach(), dim=-1)
partners = (a * p).sum(1).mean().item()
others = (a @ p.T)[~torch.eye(64, dtype=torch.bool)].mean().item()
print(f"free vectors, only the pull: partners {partners:.3f}, others {others:.3f}")
assert partners > 0.99 and abs(others) < 0.1

# %% [markdown]
# Partners meet, and strangers stay where they were. The pull never speaks of strangers. In the encoder all sentences go through the
# same weights: what is changed for one is changed for all, and there everything fell together.
#
# (Some methods do without negatives and do not collapse: BYOL, arXiv:2006.07733, and SimSiam, arXiv:2011.10566. They take other
# precautions.)

# %% [markdown]
# ### Without the positive in the denominator
#
# In public code you meet this variant. In SimCLR's formula the sum below has $k \neq i$, which leaves out the view *itself*.
# Read it as "leave out the positive", and you get
#
# $$\text{wrong} = -s_{\text{pos}} + \ln \sum_{\text{negatives}} e^{s} \qquad\text{in place of}\qquad
# \text{right} = -s_{\text{pos}} + \ln \Big(e^{s_{\text{pos}}} + \sum_{\text{negatives}} e^{s}\Big)$$
#
# with $s$ for the scores, cosine/τ. It is a small change. Does it matter? Guess, then let us look closely.

# %%
scores = S / temperature
off_diagonal = scores.masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf)
wrong_loss = off_diagonal.logsumexp(1) - scores.diagonal()  # (4,), one a row
right_loss = scores.logsumexp(1) - scores.diagonal()
for name, w, r in zip("ABCD", wrong_loss.tolist(), right_loss.tolist(), strict=True):
    print(f"{name}: right {r:.4f}, wrong {w:7.4f}, ln(1 + e^wrong) = {math.log1p(math.exp(w)):.4f}")
torch.testing.assert_close(F.softplus(wrong_loss), right_loss)

# %% [markdown]
# The two know each other: $\text{right} = \ln(1 + e^{\text{wrong}})$, a function called *softplus*. For large values they are
# the same. But where a row is solved, the right loss ends at **0**, and the wrong one goes on below zero. With cosines it
# cannot fall below $-2/\tau + \ln(B-1)$: the positive at cosine 1, all negatives at −1.

# %% [markdown]
# And the gradient? By the chain rule, $\text{right}' = (1 - p_{\text{pos}})\cdot\text{wrong}'$. The direction is the same in each row.
# What is lost is the factor, and this factor is the one that says "this row is solved, leave it".

# %%
logits = scores.clone().requires_grad_()
(gradient_right,) = torch.autograd.grad((logits.logsumexp(1) - logits.diagonal()).sum(), logits)
masked = logits.masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf)
(gradient_wrong,) = torch.autograd.grad((masked.logsumexp(1) - logits.diagonal()).sum(), logits)
unsolved = 1 - scores.softmax(1).diagonal()  # (4,)
torch.testing.assert_close(gradient_right, unsolved[:, None] * gradient_wrong, rtol=1e-4, atol=1e-5)
for name, one, other in zip(
    "ABCD", gradient_right.diagonal().tolist(), gradient_wrong.diagonal().tolist(), strict=True
):
    print(f"{name}: pull on the positive, right {-one:.4f}, wrong {-other:.4f}")

# %% [markdown]
# C was nearly solved, D to a large part. The right loss pulls little at them; the wrong one pulls at them exactly as hard as at
# A. What does
# that do to training? We train a third encoder, with everything else equal:


# %%
def without_positive(a, p, same, temperature=0.05):
    """The wrong loss; pairs of the same meaning are left out, as in the right one."""
    scores = F.normalize(a, dim=-1) @ F.normalize(p, dim=-1).T / temperature
    return (scores.masked_fill(same, -torch.inf).logsumexp(1) - scores.diagonal()).mean()


runs["without the positive"] = train(without_positive)
for name in ("InfoNCE", "without the positive"):
    model, seen, loss = runs[name]
    end = seen[-1]
    print(f"{name:>20}: last loss {loss[-1]:6.2f}", end=", ")
    print(f"found {end['found']:.0%}, partners {end['partners']:.2f}, others {end['others']:.2f}")
assert (
    runs["without the positive"][2][-1] < -2 and abs(runs["without the positive"][1][-1]["found"] - full["found"]) < 0.1
)

# %% [markdown]
# Training does **not** break. It finds about as many paraphrases, with this model, these data and 100 steps. This variant has even
# been proposed on purpose: *decoupled contrastive learning* (Yeh et al. 2021) reports better results on pictures with small
# batches. So what is wrong with it? Three things, and you can measure them.

# %% [markdown]
# **One.** The number has no end that means "solved". And a few rows far below zero can hide, in the mean, rows that are not
# solved.

# %%
fig, axes = plots.figure(1, 2, size=(8.4, 3.3))
margin = torch.linspace(-8, 4, 100)  # the wrong loss of a row
axes[0].plot(margin, margin, "--", color=plots.RED, label="without the positive")
axes[0].plot(margin, F.softplus(margin), color=plots.BLUE, label="InfoNCE")
axes[0].axhline(0, color=plots.GREY, linewidth=0.8)
axes[0].set(xlabel="ln Σ negatives − positive's score", ylabel="loss of a row (nats)")
axes[0].set_title("One ends at 0, one has no floor there", fontsize=11)
axes[0].legend(fontsize=9)
for name, style, colour in (("without the positive", "--", plots.RED), ("InfoNCE", "-", plots.BLUE)):
    axes[1].plot(range(1, 101), runs[name][2], style, color=colour, label=name)
axes[1].axhline(0, color=plots.GREY, linewidth=0.8)
axes[1].set(xlabel="training step", ylabel="loss (nats)")
axes[1].set_title("Two runs that find about as much", fontsize=11)
plots.show(
    fig,
    alt="Left: the loss of a row without the positive is a straight line far below zero, InfoNCE bends and ends at zero. Right: "
    "in training InfoNCE falls to about 0, the other loss falls on, far below 0.",
)

# %% [markdown]
# **Two.** Solved rows keep their full weight. In a batch of new pairs under the trained InfoNCE model, which share of the rows is
# solved (the right answer has more than 99 %), and which share of the whole pull do they get?

# %%
trained = runs["InfoNCE"][0]
new_pairs = list(by_meaning.values())[200:264]  # 64 further meanings
a, p = (unit_vectors(trained, [pair[side].text for pair in new_pairs]) for side in (0, 1))
p_right = (a @ p.T / 0.05).softmax(1).diagonal()  # (64,)
solved = p_right > 0.99
weight_of_solved = ((1 - p_right)[solved].sum() / (1 - p_right).sum()).item()
print(f"solved rows: {solved.float().mean():.0%}; of the pull, with InfoNCE they get {weight_of_solved:.1%}", end=", ")
print(f"without the positive {solved.float().mean():.0%}")
assert solved.float().mean() > 0.3 and weight_of_solved < 0.5 * solved.float().mean()

# %% [markdown]
# **Three.** With cosines the damage has a limit, for a cosine cannot be below −1. With plain dot products as scores (and some code
# uses them) there is none: longer vectors make the wrong loss smaller without end, and the longer they are, the larger the step. Eight
# free pairs, gradient descent, no normalisation:

# %%
begin = torch.randn(2, 8, 8, generator=seeded(seed, 9))
eye = torch.eye(8, dtype=torch.bool)
lengths = {}
for name, drop in {"right": False, "wrong": True}.items():
    free = begin.clone()
    for step in range(201):
        free.requires_grad_()
        dots = free[0] @ free[1].T
        bottom = dots.masked_fill(eye, -torch.inf) if drop else dots
        loss = (bottom.logsumexp(1) - dots.diagonal()).mean()
        if step % 50 == 0:
            lengths.setdefault(name, []).append(free.norm(dim=-1).mean().item())
            print(f"{name}, step {step:>3}: loss {loss.item():12.3g}, mean length {lengths[name][-1]:9.3g}")
        free = (free - 0.5 * torch.autograd.grad(loss, free)[0]).detach()
assert lengths["wrong"][-1] > 20 * lengths["right"][-1]

# %% [markdown]
# The right loss runs into its floor, and its vectors hardly grow any more. The wrong one explodes.

# %% [markdown]
# ### Exercise 09.4 · find the bug ●●○ · 10 minutes
#
# This NT-Xent runs without an error. It has the bug of this section, by a mask that takes away too much:


# %%
def buggy_nt_xent(a, b, temperature):
    views = F.normalize(torch.cat([a, b]), dim=-1)
    scores = views @ views.T / temperature
    B, N = len(a), len(views)
    partner = torch.arange(N).roll(B)
    same_text = torch.eye(B, dtype=torch.bool).repeat(2, 2)  # (2B, 2B)
    negatives = scores.masked_fill(same_text, -torch.inf)
    return (negatives.logsumexp(1) - scores[torch.arange(N), partner]).mean()


print(f"buggy {buggy_nt_xent(anchors, positives, 0.05):.4f}, right {nt_xent_loss(anchors, positives, 0.05):.4f}")
print(f"solved pairs: buggy {buggy_nt_xent(torch.eye(4), torch.eye(4), 0.05):.4f}", end=", ")
print(f"right {nt_xent_loss(torch.eye(4), torch.eye(4), 0.05):.4f}")
assert buggy_nt_xent(torch.eye(4), torch.eye(4), 0.05) < -10 < 0 <= nt_xent_loss(torch.eye(4), torch.eye(4), 0.05)

# %% [markdown]
# Write it again, right.


# %% tags=["exercise-09.4"]
def repaired_nt_xent(a, b, temperature):
    """a, b: (B, C), two views of each text -> the NT-Xent loss, mean over the 2B views"""
    ### BEGIN SOLUTION
    views = F.normalize(torch.cat([a, b]), dim=-1)
    scores = views @ views.T / temperature
    N = len(views)
    partner = torch.arange(N).roll(len(a))
    others = scores.masked_fill(torch.eye(N, dtype=torch.bool), -torch.inf)  # only a view itself is left out
    return (others.logsumexp(1) - scores[torch.arange(N), partner]).mean()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.repaired_nt_xent(repaired_nt_xent)

# %% [markdown]
# ## 9. A negative that is none
#
# The negatives of a batch are drawn blindly. What if two of its pairs mean the same? Then each is called a wrong answer to
# the other: a **false negative**. Suppose four pairs, of which two are the same, and a perfect encoder: equal meanings
# have equal vectors, different ones are at right angles. What should the loss be, and what is it?

# %% tags=["nbval-check-output"]
perfect = torch.eye(4)[[0, 0, 1, 2]]  # pairs 0 and 1 mean the same
plain = info_nce_loss(perfect, perfect).item()
meanings = ["praise", "praise", "defend", "question"]
with_same = info_nce_loss(perfect, perfect, same=same_texts(meanings, meanings)).item()
print(f"a perfect encoder: {plain:.4f} without `same`, {with_same:.4f} with it; (2/4) ln 2 = {math.log(2) / 2:.4f}")
assert abs(plain - math.log(2) / 2) < 1e-5 and with_same < 1e-5

# %% [markdown]
# Without `same` the perfect encoder is not perfect. Rows 0 and 1 see two equally good answers, each costs ln 2, and the only way to
# a lower loss is to push equals apart.

# %% [markdown]
# How likely is that to happen? Count, over 50 batches for each size:

# %% tags=["nbval-check-output"]
shares_with = {}
for size in (4, 16, 64):
    hits = []
    for number in range(50):
        found_meanings = [s.meaning for s in world.sample(size, seed=7000 + 1000 * seed + number)]
        hits.append(len(set(found_meanings)) < size)
    shares_with[size] = sum(hits) / 50
    print(f"batches of {size:>2}: {shares_with[size]:.0%} hold some meaning twice")
assert shares_with[4] < shares_with[64] and shares_with[64] > 0.5

# %% [markdown]
# In batches of 64 it is the rule, in this world of few meanings. In real text copies and stock phrases do it. Twice the batch has
# about four times as many couples that may be equal. `same_texts` marks rows with an equal entry. Here we gave it the meanings, which
# real text does not have; there you can only compare the texts. sentence-transformers
# offers a sampler that keeps duplicates out of a batch. Paraphrases that nobody knows of remain.

# %% [markdown]
# ## 10. Large batches in little memory
#
# The others of the batch are the negatives, so a larger batch asks harder questions. But training keeps what every layer computed,
# for all sentences, until the gradient has come back. That is what fills the memory.
#
# The usual answer is **gradient accumulation**: four small batches, one after the other, and the mean of the four gradients. For a loss
# that is a mean over texts which know nothing of each other, that is the same as one large batch. Is it here? Think of who the
# negatives are.

# %%
torch.manual_seed(seed)
config = EncoderConfig(vocab_size=V, dropout=0.1, init_std="fan_in")
model = SentenceEncoder(Encoder(config)).double()  # float64, to compare ten digits
pairs = held_out[:32]
ids, mask = pad([tokenizer.encode(pair[side].text) for side in (0, 1) for pair in pairs])  # (64, T): anchors, positives
N, chunk = len(pairs), 8


def flat_gradient(model):
    """Return all gradients as one long vector, and clear them."""
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return flat


# %% [markdown]
# First the gradient of the whole batch, 32 pairs; then four batches of 8 pairs, added up with the weight 1/4 each. Without
# dropout, so that nothing else differs:

# %%
model.eval()
vectors = model(ids, mask)
info_nce_loss(vectors[:N], vectors[N:]).backward()
whole = flat_gradient(model)
for rows in torch.arange(N).split(chunk):
    a, p = model(ids[rows], mask[rows]), model(ids[rows + N], mask[rows + N])
    (info_nce_loss(a, p) * chunk / N).backward()  # torch adds up gradients
accumulated = flat_gradient(model)
cosine = F.cosine_similarity(whole, accumulated, dim=0).item()
print(f"one batch of {N} against {N // chunk} batches of {chunk}: cosine of the gradients {cosine:.3f}", end=", ")
print(f"length {accumulated.norm() / whole.norm():.2f} of it")
assert cosine < 0.999

# %% [markdown]
# Not the same. With batches of 8 every sentence has 7 negatives, however many batches you add up.

# %% [markdown]
# There is a way that *is* the same (Luyu Gao et al. 2021, *gradient caching*). It uses that the loss sees the encoder only through the
# vectors, and a vector is small: C numbers a sentence, not all that the layers computed. Three passes:
#
# 1. **Embed** all sentences, a chunk at a time, and keep only the vectors.
# 2. From the vectors compute the loss, and its gradient *with respect to each vector*. This is small too.
# 3. **Embed again**, a chunk at a time, now keeping what the layers compute; send the chunk's part of the gradient
#    back through them; forget the chunk.

# %% [markdown]
# By the chain rule the sum over the chunks is the gradient of the whole batch, not an approximation. `vectors.backward(g)` starts
# the way back with the gradient g.
#
# ### Exercise 09.5 · three passes ●●● · 15 minutes
#
# A small embedding, `tanh(x @ weight)`, in place of the encoder. Return the gradient of
# `info_nce_loss(embed(x), embed(y))` with respect to `weight`, and never embed more than `chunk` rows at once with a graph.


# %% tags=["exercise-09.5"]
def gradient_in_chunks(weight, x, y, chunk):
    """weight: (D, C), x and y: (B, D), row i of both is a pair -> the gradient at weight, (D, C)"""
    ### BEGIN SOLUTION
    weight = weight.clone().requires_grad_()
    with torch.no_grad():  # 1: embed
        a, p = ((torch.tanh(side @ weight)).requires_grad_() for side in (x, y))
    info_nce_loss(a, p).backward()  # 2: the gradient at the vectors
    for side, gradient in ((x, a.grad), (y, p.grad)):
        for rows, part in zip(side.split(chunk), gradient.split(chunk), strict=True):
            torch.tanh(rows @ weight).backward(part)  # 3: embed again, and back
    return weight.grad
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.gradient_in_chunks(gradient_in_chunks)

# %% [markdown]
# An encoder has one more difficulty: **dropout**. The third pass must drop the same numbers as the first, or its vectors are others
# than those that the gradient belongs to. Random numbers come from a generator with a state. So keep the state before each chunk, and
# put it back.


# %%
def three_passes(model, ids, mask, chunk, same_masks=True):
    """Put the gradient of the InfoNCE loss of N pairs, (2N, T), into model; embeds `chunk` texts at a time."""
    parts = list(zip(ids.split(chunk), mask.split(chunk), strict=True))
    states, vectors = [], []
    with torch.no_grad():  # 1: embed, and remember the dice
        for part in parts:
            states.append(torch.get_rng_state())
            vectors.append(model(*part))
    vectors = torch.cat(vectors).requires_grad_()
    loss = info_nce_loss(*vectors.chunk(2))
    loss.backward()  # 2: the gradient at the vectors, (2N, C)
    for part, state, gradient in zip(parts, states, vectors.grad.split(chunk), strict=True):
        if same_masks:
            torch.set_rng_state(state)
        model(*part).backward(gradient)  # 3: embed again with the same dice, and back
    return loss.detach()


# %% [markdown]
# Against the plain way, which embeds the same chunks, keeps everything, and goes back once. And against the mistake of rolling the dice
# anew:

# %%
model.train()  # dropout on
torch.manual_seed(seed)
vectors = torch.cat([model(*part) for part in zip(ids.split(chunk), mask.split(chunk), strict=True)])
info_nce_loss(*vectors.chunk(2)).backward()
whole = flat_gradient(model)
for name, same_masks in {"the same dropout masks": True, "new dropout masks": False}.items():
    torch.manual_seed(seed)
    three_passes(model, ids, mask, chunk, same_masks)
    gradient = flat_gradient(model)
    difference = (gradient - whole).abs().max().item()
    print(f"{name:>22}: largest difference {difference:.0e}, cosine {F.cosine_similarity(gradient, whole, dim=0):.3f}")
    assert difference < 1e-10 if same_masks else difference > 1e-3

# %% [markdown]
# Equal to ten digits. The package does the same with fewer lines: `SentenceEncoder(encoder, chunk=8, cache=True)`. torch has
# a function for "keep nothing here, compute it again on the way back, with the same dice": `torch.utils.checkpoint`. It is
# applied to each chunk,
# and the loss is then an ordinary one with an ordinary `backward()`.

# %%
sides = {"ids": ids[:N], "mask": mask[:N], "positive_ids": ids[N:], "positive_mask": mask[N:]}
gradients = {}
for cache in (False, True):
    packaged = SentenceEncoder(model.encoder, chunk=chunk, cache=cache).train()
    torch.manual_seed(seed)
    packaged.loss(**sides).backward()
    gradients[cache] = flat_gradient(packaged)
difference = (gradients[True] - gradients[False]).abs().max().item()
print(f"the package, with and without the cache: largest difference {difference:.0e}")
assert difference < 1e-10 and gradients[True].norm() > 0.01

# %% [markdown]
# What does it save, and what does it cost? torch lets us see every tensor that is kept for the way back. We add up their bytes,
# for batches of growing size:


# %%
def kept_bytes(run, model):
    """Return the bytes that torch keeps for backward while `run()` computes a result; weights are not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()  # alive until here, so that no address is used twice
    del result
    return sum(kept.values())


# %% [markdown]
# `small` is the same encoder in float32. The batch is 16 texts, then 32, and so on; a chunk is always 16.

# %%
small = SentenceEncoder(Encoder(EncoderConfig(vocab_size=V, dropout=0.1, init_std="fan_in")))
sizes, C = [16, 32, 64, 128, 256, 512, 1024], 64
table = torch.zeros(len(sizes), 3)  # MB: everything at once, gradient caching, of that the loss
one_chunk = kept_bytes(lambda: small(ids[:16], mask[:16]), small)
for row, size in enumerate(sizes):
    pick = torch.arange(size) % len(ids)
    if size <= 256:
        table[row, 0] = kept_bytes(lambda pick=pick: small(ids[pick], mask[pick]), small)
    a, p = torch.randn(2, size // 2, C, requires_grad=True)
    loss_part = kept_bytes(lambda a=a, p=p: info_nce_loss(a, p), small) + 2 * size * C * 4  # and the vectors' gradients
    table[row, 1:] = torch.tensor([one_chunk + loss_part, loss_part])
table[5:, 0] = table[4, 0] * torch.tensor([2, 4])  # a text more costs what every text costs
table /= 1e6
for size, numbers in zip(sizes, table.tolist(), strict=True):
    print(
        f"{size:>5} texts: at once {numbers[0]:6.1f} MB, gradient caching {numbers[1]:5.1f} MB, of that the loss {numbers[2]:4.1f}"
    )

# %% [markdown]
# Both axes of the figure are logarithmic: a straight line that rises by the same factor on both is growth in proportion.

# %%
fig, ax = plots.figure()
for column, name, style in (
    (0, "everything at once", "o-"),
    (1, "gradient caching, chunks of 16", "s-"),
    (2, "vectors and scores", ":"),
):
    ax.plot(sizes, table[:, column], style, markersize=5, label=name)
ax.set(xscale="log", yscale="log", xlabel="texts in a batch", ylabel="kept for the way back (MB)")
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ax.set_title("What the layers keep no longer grows with the batch")
ax.legend()
plots.show(
    fig,
    alt="Megabytes kept against the texts in a batch: everything at once grows in proportion to the batch; gradient caching "
    "stays nearly flat, until the vectors and the table of scores, which grow, become visible.",
)
assert torch.allclose(table[1:5, 0] / table[:4, 0], torch.tensor(2.0), rtol=0.05)  # twice the texts, twice the memory
assert table[-1, 0] > 10 * table[-1, 1] and table[3, 1] < 1.5 * table[0, 1]

# %% [markdown]
# (The upper line is the encoder alone, without the loss. Its last two points are computed from the fifth: it grows in proportion, as
# the assert shows. The middle line adds two measured parts: one chunk, and the vectors with the scores.) What the layers keep
# is one chunk's, whatever the batch. What still grows are the vectors, with B, and the table of scores, with B². For
# very large batches that table is next.
#
# The price is the second embedding. In operations of the matrix products:

# %%
from torch.utils.flop_counter import FlopCounterMode


def operations(run):
    with FlopCounterMode(display=False) as counter:
        run()
    model.zero_grad()
    return counter.get_total_flops()


plain = operations(lambda: info_nce_loss(*model(ids, mask).chunk(2)).backward())
cached = operations(lambda: three_passes(model, ids, mask, chunk))
print(f"three passes take {cached / plain:.2f} times the operations of the plain way")
assert abs(cached / plain - 4 / 3) < 0.05

# %% [markdown]
# A way forward costs 1, the way back 2; plain training pays 3, three passes pay 4. A third more work, and the batch can grow
# until the table of scores fills the memory.

# %% [markdown]
# ## What to remember
#
# * Pairs make multiple-choice questions: each anchor must find its **positive** among the others of the batch. The loss is a
#   **cross-entropy over cosines / τ**, with the labels 0 … B − 1.
# * **ln B** is the loss of equal scores. Unrelated vectors start at about ln B + 1/(2Cτ²). Our paraphrases started below ln B.
# * The gradient is *shares minus one-hot*: negatives are pushed in proportion to their share, and a **low temperature**
#   gives the nearest more of it.
# * Without negatives nothing forbids **collapse**, and here it came within 20 steps.
# * **The positive belongs in the denominator**: it is what makes the loss end at 0 and leave solved pairs alone.
# * **NT-Xent**: only a view itself is left out. Google's code returns twice the usual mean.
# * Gradient accumulation is *not* a large batch. **Gradient caching** is, to ten digits, for a third more work.

# %% [markdown]
# **What this scale cannot show.** All runs were 100 steps of one small encoder in a world of few meanings, one seed each. That
# training without
# the positive went as well says nothing about long training of large models, nor about which τ or which batch size is
# best there.
#
# **An open problem.** Which negatives are worth having? The hardest get most of the push, and a paraphrase that nobody marked is
# among the hardest. How to tell one from the other without asking a person is not solved.

# %% [markdown]
# **Where this comes from**
#
# * Aaron van den Oord, Yazhe Li and Oriol Vinyals, *Representation Learning with Contrastive Predictive Coding*, 2018 (InfoNCE),
#   [arXiv:1807.03748](https://arxiv.org/abs/1807.03748).
# * Ting Chen et al., *SimCLR*, 2020 (NT-Xent), [arXiv:2002.05709](https://arxiv.org/abs/2002.05709), and its code,
#   [google-research/simclr](https://github.com/google-research/simclr).
# * Tongzhou Wang and Phillip Isola, *Alignment and Uniformity on the Hypersphere*, 2020,
#   [arXiv:2005.10242](https://arxiv.org/abs/2005.10242).
# * Feng Wang and Huaping Liu, *Understanding the Behaviour of Contrastive Loss*, 2021,
#   [arXiv:2012.09740](https://arxiv.org/abs/2012.09740).
# * Tianyu Gao, Xingcheng Yao and Danqi Chen, *SimCSE*, 2021, [arXiv:2104.08821](https://arxiv.org/abs/2104.08821).
# * Luyu Gao et al., *Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup*, 2021 (gradient caching),
#   [arXiv:2101.06983](https://arxiv.org/abs/2101.06983).
# * Chun-Hsiao Yeh et al., *Decoupled Contrastive Learning*, 2021 (without the positive, on purpose),
#   [arXiv:2110.06848](https://arxiv.org/abs/2110.06848).
# * Nils Reimers and Iryna Gurevych, *Sentence-BERT*, 2019, [arXiv:1908.10084](https://arxiv.org/abs/1908.10084): the library
#   sentence-transformers.
# * The denominator, asked about in public: [MIDA-group/CoMIR issue 51](https://github.com/MIDA-group/CoMIR/issues/51),
#   [Sara-Ahmed/SiT issue 26](https://github.com/Sara-Ahmed/SiT/issues/26).
#
# **Next:** lesson 10 trains sentence embeddings of real documentation with this loss, and asks where the pairs come from.
