# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: The contrastive loss
#     question: How does a model learn that two sentences mean the same?
#     minutes: 130
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
# One of the two lower sentences says the same as A, and you see at once which. Does the masked language model of lesson
# 06 see it? That model was trained to fill in masked tokens. Nothing in its training asked whether two *sentences* mean
# the same.
#
# **The question of this lesson:** how does a model learn that two sentences mean the same?
#
# | | |
# |---|---|
# | You will | build the loss that most sentence models are trained with, and prove and measure what its best value is; see which vectors it pulls together and which it pushes apart; watch a model collapse; measure what the batch size, duplicates and the denominator really change; and build gradient caching, which trains on a large batch in little memory |
# | You need | lesson 00 for cross-entropy and softmax, lesson 04 for the encoder, lesson 05 for the loss at the start, lesson 06 for Bayes' rule in the toy world |
# | It takes | about 130 minutes, five exercises, two of them builds of 30 minutes; the machine needs about a minute |
#
# First the picture. The rows are four sentences, A to D, and the columns a paraphrase of each, a to d. Each cell is the
# similarity that the masked model's vectors give the two:

# %% tags=["hide-input"]
import torch
import torch.nn.functional as F

from nextbert_lite import COURSE_SENTENCE, SentenceEncoder, ToyWorld, load, pad, plots

world = ToyWorld()
sentences = [world.parse(COURSE_SENTENCE), world.swap_roles(world.parse(COURSE_SENTENCE))]
sentences += [world.parse("it is the witnesses that defend the lawyers in the court")]
sentences += [world.parse("it is the clerk near the statue that questions the jurors because they listened")]
texts = [s.text for s in sentences]
paraphrases = [world.paraphrases(s)[0].text for s in sentences]
ids, mask = pad([world.tokenizer().encode(text) for text in texts + paraphrases])
with torch.no_grad():
    vectors = F.normalize(SentenceEncoder(load("toy-small").model.encoder).eval()(ids, mask), dim=-1)
similarity = vectors[:4] @ vectors[4:].T

fig, ax = plots.figure(size=(6.2, 3.4))
image = ax.imshow(similarity, cmap="Blues", aspect="auto")
middle = (similarity.min() + similarity.max()) / 2
for i, row in enumerate(similarity.tolist()):
    for j, value in enumerate(row):
        ink = "white" if value > middle else "#303030"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=11, color=ink)
    frame = plots.plt.Rectangle((i - 0.47, i - 0.46), 0.94, 0.92, fill=False, color=plots.ORANGE, linewidth=2.5)
    ax.add_patch(frame)
ax.set_xticks(range(4), "abcd")
ax.set_yticks(range(4), "ABCD")
ax.set(xlabel="paraphrase", ylabel="sentence")
ax.tick_params(length=0)
ax.spines[:].set_visible(False)
fig.colorbar(image, ax=ax).set_label("similarity (cosine)")
ax.set_title("For A, the masked model rates b, the wrong one, above a")
plots.show(
    fig,
    alt="A map of the similarities of sentences A to D with paraphrases a to d, right answers framed: A is nearer to b, the "
    "paraphrase with the roles exchanged, than to its own a.",
)
assert similarity[0, 1] > similarity[0, 0]

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nextbert_lite import Encoder, EncoderConfig, SentenceEncoder, ToyWorld, fit, load, pad, plots, seeded
from nextbert_lite.checks import lesson_09 as check
from nextbert_lite.corpora.bayes import same_frame
from nextbert_lite.validate import check_pairs

# %% tags=["parameters"]
# Another seed gives other sentences, weights and training batches; what the text claims should hold for it too.
seed = 0
every_row = False  # True also trains every row of the table in section 10, which takes some minutes

# %% [markdown]
# ## 1. Every row is a question
#
# A sentence's vector is the mean of its tokens' vectors. How similar are two vectors? A dot product also grows with
# their *lengths*, so use the **cosine**, as lesson 04 did: divide both vectors by their length first. It is 1 for the
# same direction, 0 for a right angle and −1 for opposite directions. `F.normalize` does the division.


# %% tags=["nbval-check-output"]
world = ToyWorld()
tokenizer = world.tokenizer()
masked_model = SentenceEncoder(load("toy-small").model.encoder).eval()  # mean of the token vectors


@torch.no_grad()
def unit_vectors(model, texts):
    """Return one vector of length 1 for each text, (N, C)."""
    device = next(model.parameters()).device
    ids, mask = pad([tokenizer.encode(text) for text in texts])
    return F.normalize(model(ids.to(device), mask.to(device)), dim=-1).cpu()


sentence = world.parse("the cook near the ovens praises the waiters in the kitchen")
sentences = [sentence, world.swap_roles(sentence)]  # B is A with the two roles exchanged
sentences += [world.parse("it is the witnesses that defend the lawyers in the court")]
sentences += [world.parse("it is the clerk near the statue that questions the jurors because they listened")]
texts = [s.text for s in sentences]
paraphrases = [world.paraphrases(s)[0].text for s in sentences]
for upper, text, lower, paraphrase in zip("ABCD", texts, "abcd", paraphrases, strict=True):
    print(f"{upper}: {text}\n{lower}: {paraphrase}")

# %% [markdown]
# Here are the numbers of the picture, rounded to two digits so that we can compute with them by hand. ("Near the ovens"
# says which cook is meant; a and b leave it out.)

# %% tags=["nbval-check-output"]
anchors, positives = unit_vectors(masked_model, texts), unit_vectors(masked_model, paraphrases)  # (4, C) each
S = (anchors @ positives.T * 100).round() / 100  # (4, 4)
print(S)
assert S[0, 1] > S[0, 0] and S.min() > 0.3

# %% [markdown]
# Two things are wrong with these vectors. A is a little nearer to **b**, where the waiters praise. And even sentences
# that have nothing to do with each other, a kitchen and a court, have cosines far above 0.
#
# One sentence proves little, though. So take 600 sentences, each with a paraphrase of its own and with the same
# paraphrase after the two roles were exchanged. How often is the right one nearer? Guess: clearly more often than not,
# half of the time, or less?


# %%
roles = world.role_swap_test(600, seed=seed)


def role_test(model):
    """Return how much nearer the own paraphrase is than the exchanged one, (600,) differences of cosines."""
    s, own, exchanged = (
        unit_vectors(model, [getattr(r, k).text for r in roles]) for k in ("sentence", "paraphrase", "swapped")
    )
    return (s * own).sum(1) - (s * exchanged).sum(1)


nearer = role_test(masked_model)
error = nearer.std().item() / math.sqrt(600)
print(
    f"the right paraphrase is nearer in {(nearer > 0).double().mean():.0%} of 600; mean difference {nearer.mean():+.4f} ± {error:.4f}"
)
assert 0.4 < (nearer > 0).double().mean() < 0.65  # chance is 0.5 ± 0.02

# %% [markdown]
# Close to a coin flip. So the masked model does not prefer the wrong sentence, as the picture may suggest: it can
# hardly tell the two apart. It must know who acts in order to conjugate the verb (lesson 06), yet the cosine of two
# mean vectors hardly depends on it.
#
# What can teach it? We have no labels, only pairs that the rules of the toy world made. All we know is which sentences
# are paraphrases, and that is enough. Read the first row of the picture as a multiple-choice question: *which of a, b,
# c, d belongs to A?* The cosines are the model's scores, and the right answer is known, namely the one on the diagonal.
# The sentence that asks is the **anchor**, the right answer its **positive**, and the others are **in-batch
# negatives**. They cost nothing, because each is the positive of another row.

# %% [markdown]
# The softmax turns scores into probabilities: $e^{\text{score}}$, divided by the sum over the row. But cosines lie
# between −1 and 1, and $e^1$ is only 7.4 times $e^{-1}$, so with hundreds of answers the right one could never get most
# of the probability. Therefore the cosines are first divided by a small number, the **temperature** τ. Here it is 0.05,
# so a cosine of 0.9 becomes a score of 18. (The library sentence-transformers multiplies by `scale=20` instead, which
# is the same.)
#
# The loss of a row is −ln of the right answer's probability. Which of the four rows will have the largest loss?

# %% tags=["nbval-check-output"]
temperature = 0.05
by_hand = []
for i, anchor in enumerate("ABCD"):
    scores = [S[i, j].item() / temperature for j in range(4)]
    powers = [math.exp(score) for score in scores]
    probabilities = [power / sum(powers) for power in powers]
    by_hand.append(-math.log(probabilities[i]))
    print(f"{anchor}: scores", *(f"{score:5.1f}" for score in scores), end="   probabilities ")
    print(*(f"{p:.3f}" for p in probabilities), f"  loss {by_hand[-1]:.4f}")
mean_by_hand = sum(by_hand) / 4
print(f"mean of the four losses: {mean_by_hand:.4f} nats")
assert by_hand[0] > math.log(2) > max(by_hand[2:])

# %% [markdown]
# A's right answer has less than half of the probability, so its loss is above ln 2. The mean over the rows is the
# **contrastive loss** in its most used form, **InfoNCE**:
#
# $$\text{loss} = \frac{1}{B}\sum_{i=1}^{B} -\ln \frac{e^{\cos(a_i,\, p_i)/\tau}}{\sum_{j=1}^{B} e^{\cos(a_i,\, p_j)/\tau}}$$
#
# $a_i$ is the vector of anchor i, $p_j$ that of positive j, B the number of pairs. Look at the sum in the denominator:
# it runs over *all* j, and one of them is i itself. Keep that in mind for sections 4 and 9.

# %% [markdown]
# ## 2. It is a cross-entropy
#
# "−ln of the right answer's probability" is what lesson 05 computed for words. There the classes were the V words of
# the vocabulary. Here they are the B positives of the batch, and the label of row i is i:

# %% tags=["nbval-check-output"]
as_cross_entropy = F.cross_entropy(S / temperature, torch.arange(4)).item()
print(f"by hand {mean_by_hand:.4f}, as cross-entropy {as_cross_entropy:.4f}")
assert abs(as_cross_entropy - mean_by_hand) < 1e-5

# %% [markdown]
# The same number. The idea is older than the name. The classic *contrastive loss* (Hadsell, Chopra and LeCun 2006) took
# one pair at a time: pull two alike things together, and push two different ones apart until their distance is at least
# a margin. The *triplet loss* (FaceNet, Schroff et al. 2015) compares a positive and a negative of one anchor: the
# positive should be nearer by a margin. Sohn (2016, *N-pair loss*) let one anchor meet many negatives in one softmax,
# and Henderson et al. (2017) did this with sentences and dot products, the other answers of the batch being the
# negatives, to suggest replies to e-mail; that is the paper which sentence-transformers cites for its loss. Van den
# Oord et al. (2018) gave it the name InfoNCE and a reason, which section 6 checks. Here are the three ages of the loss
# for anchor A, with its positive a and its negative b:

# %%
A, a, b = anchors[0], positives[0], positives[1]
d_own, d_other = (A - a).norm().item(), (A - b).norm().item()  # distances on the unit sphere, from 0 to 2
margin = 0.5
print(f"distances: to a {d_own:.3f}, to b {d_other:.3f}")
print(f"2006, pairs:    {d_own**2 / 2:.3f} for (A, a), {max(0, margin - d_other) ** 2 / 2:.3f} for (A, b)")
print(f"2015, triplet:  {max(0, d_own**2 - d_other**2 + margin):.3f}")
print(f"2017, softmax:  {by_hand[0]:.3f}, with three negatives at once and no margin")

# %% [markdown]
# ## 3. Your own loss
#
# ### Exercise 09.1 · build the contrastive loss ●●● · 30 minutes
#
# Write `info_nce_loss(anchors, positives, temperature, symmetric, negatives, same)`. It returns a tensor without
# dimensions, the mean loss over the B anchors in nats, in the dtype of the vectors, and gradients flow back to every
# vector that comes in. It changes none of its arguments. Write it in four steps and run the check after each; it tells
# you how far you are.
#
# | step | write | the check then stops at |
# |---|---|---|
# | 1 | the formula: `anchors` and `positives` are (B, C), row i of one belongs to row i of the other, of any lengths; the scores are cosines divided by `temperature`, which is 0.05 unless passed. It must hold for τ = 0.01 too, where $e^{1/\tau}$ is more than float32 can hold: use `F.cross_entropy`, `log_softmax` or `logsumexp` | stage 5, both ways |
# | 2 | `symmetric=True`: the columns are questions too (*which of A, B, C, D belongs to a?*). Return the mean of both losses | stage 6, hard negatives |
# | 3 | `negatives`, (N, C) or None: sentences that are no anchor's positive, chosen because they are difficult, and therefore called **hard negatives**. Each is one more wrong answer for *every* anchor, so the scores become (B, B + N). `symmetric` adds no question for them. With negatives, B may be 1 | stage 7, not a negative |
# | 4 | `same`, boolean (B, B) or None: True at [i, j] where positive j would be right for anchor i too, because two pairs of the batch mean the same. Then j is not a negative of i: its score becomes −∞, and its probability 0, in the rows and in the columns. `same` is symmetric. Its diagonal may be True or False; the right answer always stays | nothing more |
#
# The solution begins with `check_pairs(anchors, positives, temperature, negatives, same)`, the course's check of
# arguments, which answers a batch of one, a NaN or a temperature of 0 with a clear message. You may leave it out.


# %% tags=["exercise-09.1", "my-bert-contrastive"]
def info_nce_loss(anchors, positives, temperature=0.05, symmetric=False, negatives=None, same=None):
    """anchors, positives: (B, C), negatives: (N, C), same: boolean (B, B) -> the mean loss in nats, a scalar"""
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.info_nce_loss(info_nce_loss)

# %% [markdown]
# The rest of the lesson trains with your loss if it passes, and with the course's if it does not:

# %% tags=["nbval-check-output"]
info_nce_loss = check.mine("09.1", info_nce_loss)

# %% [markdown]
# On our four pairs: the rows, the columns, both, and the rows with two hard negatives, which are c and d with their
# roles exchanged. (Exchanging the roles in a gives b, and in b gives a; those two are in the batch already.) Which of
# the four numbers is the largest?

# %%
swapped = unit_vectors(masked_model, [world.swap_roles(world.parse(text)).text for text in paraphrases[2:]])  # (2, C)
rows, columns = info_nce_loss(anchors, positives), info_nce_loss(positives, anchors)
both = info_nce_loss(anchors, positives, symmetric=True)
harder = info_nce_loss(anchors, positives, negatives=swapped)
print(f"rows {rows:.4f}, columns {columns:.4f}, symmetric {both:.4f}; with hard negatives {harder:.4f}")
assert abs(rows - mean_by_hand) < 0.1  # a cosine was rounded by 0.005 at most, a score by 0.1
assert abs((rows + columns) / 2 - both) < 1e-6 and harder > rows  # both hold by mathematics

# %% [markdown]
# Do other libraries agree? The course stores what pytorch-metric-learning (*pml*) and sentence-transformers (*st*, its
# `MultipleNegativesRankingLoss`) gave for some random vectors in float64, at four temperatures. (`tools/oracles.py`
# made the file, and the course's tests run the libraries themselves.) "Equal" means equal to ten digits.

# %%
from safetensors import safe_open

from nextbert_lite.files import share_dir

with safe_open(share_dir("data") / "oracles" / "contrastive.safetensors", "pt") as file:
    oracle = {name: file.get_tensor(name) for name in file.keys()}
x, y, hard = oracle["anchors"], oracle["positives"], oracle["negatives"]  # (6, 16) each
ours = {
    "pml.info_nce": lambda t: info_nce_loss(x, y, t),
    "st.info_nce": lambda t: info_nce_loss(x, y, t),
    "st.symmetric": lambda t: info_nce_loss(x, y, t, symmetric=True),
    "st.negatives": lambda t: info_nce_loss(x, y, t, negatives=hard),
}
for name, loss_at in ours.items():
    values = torch.stack([loss_at(t) for t in oracle["temperatures"].tolist()])
    difference = (values - oracle[name]).abs().max().item()
    print(f"{name:>12}: {values[0]:.6f} at τ = 0.05; over four temperatures equal: {difference < 1e-10}")
    assert difference < 1e-10

# %% [markdown]
# ## 4. NT-Xent, the loss of SimCLR
#
# SimCLR (Chen et al. 2020) trains on images. It makes two altered copies of each, two **views**, and no view is an
# anchor more than the other. So why compare a only with the b's? Put all 2B views into one list. Each must find its
# partner among *all* the others: B − 1 wrong ones of the other side, and B − 1 of its own side.
#
# $$\ell_{i} = -\ln \frac{e^{\cos(v_i,\, v_{\text{partner of } i})/\tau}}{\sum_{k \neq i} e^{\cos(v_i,\, v_k)/\tau}}$$
#
# The sum leaves out view i itself, because its cosine with itself is 1 whatever the model does, and no partner could
# beat that. The name is short for *normalised temperature-scaled cross-entropy*.

# %% [markdown]
# ### Exercise 09.2 · find the bug ●●○ · 12 minutes
#
# A colleague wrote the formula down like this. It runs, it goes down in training, and the models that it trains are not
# bad. But the log shows strange numbers. Here are two batches of four pairs: in the first, all eight vectors are equal;
# in the second, partners are equal and all others at right angles, so every pair is solved.


# %% tags=["nbval-check-output"]
def buggy_nt_xent(a, b, temperature):
    views = F.normalize(torch.cat([a, b]), dim=-1)
    scores = views @ views.T / temperature
    B, N = len(a), len(views)
    partner = torch.arange(N).roll(B)
    same_text = torch.eye(B, dtype=torch.bool).repeat(2, 2)  # (2B, 2B)
    negatives = scores.masked_fill(same_text, -torch.inf)
    return (negatives.logsumexp(1) - scores[torch.arange(N), partner]).mean()


equal, solved = torch.ones(4, 4), torch.eye(4)
print(f"all equal: {buggy_nt_xent(equal, equal, 0.05):.4f}    solved: {buggy_nt_xent(solved, solved, 0.05):.4f}")
assert buggy_nt_xent(solved, solved, 0.05) < -10

# %% [markdown]
# Write the function right. It returns the mean of $\ell_i$ over the 2B views, a tensor without dimensions in the dtype
# of a and b, and leaves a and b as they are.


# %% tags=["exercise-09.2"]
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
# Section 9 returns to this bug, which is in public code, and asks how much harm it does. The package's version looks
# like this:


# %% tags=["nbval-check-output"]
def nt_xent_loss(a, b, temperature=0.5):
    """Return the loss of SimCLR: each of the 2B views finds its partner among the other 2B - 1, in nats."""
    check_pairs(a, b, temperature)
    views = F.normalize(torch.cat([a, b]), dim=-1)
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    scores = (views @ views.T / temperature).masked_fill(itself, -torch.inf)  # (2B, 2B)
    partner = torch.arange(len(views), device=views.device).roll(len(a))
    return F.cross_entropy(scores, partner)


partner = torch.arange(8).roll(4)
print("views   ", *"ABCDabcd")
print("partners", *("ABCDabcd"[i] for i in partner.tolist()))
pml = torch.stack([nt_xent_loss(x, y, t) for t in oracle["temperatures"].tolist()]) - oracle["pml.nt_xent"]
print(f"all equal: {nt_xent_loss(equal, equal, 0.05):.4f}    solved: {abs(nt_xent_loss(solved, solved, 0.05)):.4f}")
print(f"equal to pytorch-metric-learning's to ten digits: {bool(pml.abs().max() < 1e-10)}")
assert pml.abs().max() < 1e-10

# %% [markdown]
# ### Exercise 09.3 · predict the result ●●○ · 5 minutes
#
# The code that Google published with SimCLR computes one mean for the views a and one for the views b, and returns
# their **sum**. Most other code returns the mean over all 2B views. You run Google's code with B = 8 pairs. At the
# start, take the cosine of any two different views to be 0, partners included. Which loss do you see? Two digits after
# the point; `math.log` helps.

# %% tags=["exercise-09.3"]
loss_of_a_new_simclr = None
### BEGIN SOLUTION
loss_of_a_new_simclr = 2 * math.log(2 * 8 - 1)  # each view chooses among 2B - 1 others, and two means are added
### END SOLUTION

# %% tags=["nbval-check-output"]
check.simclr_start(loss_of_a_new_simclr)

# %% [markdown]
# A constant factor leaves the direction of the gradient alone, but it changes the number in the log and, with plain
# gradient descent, the step. When you compare your loss with someone else's, ask whether theirs is a mean or a sum, and
# over what.

# %% [markdown]
# ## 5. The loss at the start
#
# Lesson 05 computed the loss before the first step. Do the same here. Suppose the vectors have nothing to do with each
# other. What is the loss of B pairs? Guess before you read on: does it depend on τ?
#
# If all scores were equal, each answer would have the probability 1/B and the loss would be **ln B**. But random
# vectors do not have equal scores. The dot product of two random unit vectors of width C has mean 0 and variance 1/C.
# (Lesson 02 had the variance D, without the division by the lengths.) Divided by τ, the scores have the variance
#
# $$\sigma^2 = \frac{1}{C\,\tau^2}, \qquad\text{and by lesson 05}\qquad \text{loss at the start} \approx \ln B + \frac{\sigma^2}{2}
# \quad\text{while } \sigma \le 1.$$
#
# A small τ makes the scores of unrelated vectors differ more, and this costs half their variance.

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
        assert (C, t) != (64, 0.05) or 2 < measured - math.log(B) < variance / 2
        if variance <= 1:  # five standard errors of 50 · B rows, and 0.02 since B is finite
            assert abs(measured - math.log(B) - variance / 2) < 5 * math.sqrt(variance / (50 * B)) + 0.02

# %% [markdown]
# The points are measured, the dashed lines are the formula. Where do they part?

# %% tags=["hide-input"]
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
# So "InfoNCE starts at ln B" is right for large τ or wide vectors. At the lesson's own setting, C = 64 and τ = 0.05, σ
# is 2.5, and a model that knows nothing starts well above ln B, though not quite as high as the formula says. (64
# answers are too few to meet the rare giants in the mean of $e^z$, as in lesson 05.)
#
# Pairs of paraphrases start elsewhere. Take 800 sentences with 800 different meanings, each with a paraphrase, and two
# encoders, one with random weights and the masked model. Will their loss be above or below ln B?


# %%
def draw_pairs(n, number):
    """Return n random sentences, each with one of its paraphrases."""
    drawn = world.sample(n, seed=100_000 * (seed + 1) + number)
    choice = torch.rand(n, generator=seeded(seed, number)).tolist()
    return [(s, (options := world.paraphrases(s))[int(c * len(options))]) for s, c in zip(drawn, choice, strict=True)]


def new_encoder(dropout=0.0):
    """Return an encoder with random weights, the same for the same seed."""
    torch.manual_seed(seed)
    return Encoder(EncoderConfig(vocab_size=tokenizer.vocab_size, dropout=dropout, init_std="fan_in"))


by_meaning = list({pair[0].meaning: pair for pair in draw_pairs(2000, number=99_999)}.values())  # one pair a meaning
held_out = by_meaning[:800]
assert len(held_out) == 800
for name, model in {"random weights": SentenceEncoder(new_encoder()), "masked model": masked_model}.items():
    a, p = (unit_vectors(model, [pair[side].text for pair in held_out[:B]]) for side in (0, 1))
    cosines = a @ p.T
    others = cosines[~torch.eye(B, dtype=torch.bool)].mean()
    print(f"{name:>14}: cosine of partners {cosines.diagonal().mean():.2f}, of others {others:.2f}", end="; ")
    print(f"loss at τ = 0.05 {info_nce_loss(a, p):.2f}, ln B = {math.log(B):.2f}")
    assert cosines.diagonal().mean() > others + 0.01 and info_nce_loss(a, p) < math.log(B)

# %% [markdown]
# Both are below ln B before the first step. Paraphrases share words, so partners are nearer to each other than to
# strangers even with random weights: the loss starts low because the question starts easy.
#
# One more number to remember. If *all* vectors are equal, all scores are equal, whatever τ is, and the loss is exactly
# ln B. If your loss stays at ln B, look whether all vectors have become nearly equal.

# %% tags=["nbval-check-output"]
equal = torch.ones(B, 16)
for t in (0.05, 0.5):
    print(f"all vectors equal, τ = {t}: {info_nce_loss(equal, equal, t):.4f}; ln B = {math.log(B):.4f}")
    assert abs(info_nce_loss(equal, equal, t) - math.log(B)) < 1e-5

# %% [markdown]
# ## 6. What the loss learns
#
# What score would a *perfect* model give? And how low can its loss be? On real text we cannot know. In the toy world we
# can compute both, as lesson 06 computed the floor of masked language modelling.
#
# Let an anchor a and its positive p be drawn together from P(a, p). The other B − 1 positives of the batch are drawn
# from P(p) alone. A perfect model sees a and the B candidates, knows all probabilities, and asks for each j: how
# probable is it that *this* one was drawn together with a? By Bayes' rule,
#
# $$P(j \mid a, p_1 \ldots p_B) = \frac{r(a, p_j)}{\sum_k r(a, p_k)}, \qquad r(a, p) = \frac{P(p \mid a)}{P(p)} .$$
#
# A cross-entropy is least for the right probabilities (lesson 06), so the best score is $\ln r(a, p)$, and so is
# $\ln r$ plus any number that depends on the anchor alone, because the softmax ignores it. This is the **pointwise
# mutual information** of the two sentences: how much more probable p becomes once you know a. It is *not* ln P(p | a).
# A sentence that is probable anyway earns nothing for it, so the loss pushes frequent sentences away from everything
# they do not belong to.

# %% [markdown]
# Now the bound. Call J the number of the right candidate; all B are equally likely. The perfect model's loss is what
# remains unknown about J, which is $\ln B - I(J;\, a, p_1 \ldots p_B)$, where I is **mutual information** in nats: the
# mean of the pointwise one, or by how much knowing the one lowers the uncertainty about the other. The candidates alone say
# nothing about J, and what a says about J it can only say through its partner, so
# $I(J;\, a, p_1 \ldots p_B) \le I(a;\, p)$. Hence, for every model,
#
# $$\text{loss} \;\ge\; \ln B - I(a;\, p), \qquad\text{or}\qquad I(a;\, p) \;\ge\; \ln B - \text{loss}.$$
#
# Van den Oord et al. (2018) derived this bound, and the name: InfoNCE bounds *information*. It explains the number ln
# B: a model whose loss is ln B has shown no information. And since a loss is never below 0, a batch of B pairs can show
# at most ln B nats, however much the two sentences have in common.
#
# To see it, take pairs whose every probability is known: two sentences of one frame (template, topic, numbers and so
# on), in which each word was then masked with probability 0.7, so that a few words remain:


# %% tags=["nbval-check-output"]
cumulative = world.emissions.cumsum(-1)  # (F, T, V); a row is 0 behind the frame's end


def frame_pairs(n, number):
    """Return n pairs of masked sentences of one frame, ids (n, L) of the one and of the other."""
    generator = seeded(seed, 900, number)
    frames = torch.multinomial(world.frame_probabilities, n, replacement=True, generator=generator)
    sides, at, ends = [], torch.arange(cumulative.shape[1] + 2), world.lengths[frames, None] + 1
    for _ in range(2):
        draws = torch.rand(n, cumulative.shape[1], 1, generator=generator, dtype=torch.float64)
        ids = F.pad((cumulative[frames] <= draws).sum(-1) + 5, (1, 1))  # 5: the special tokens come first
        ids[torch.rand(ids.shape, generator=generator) < 0.7] = tokenizer.mask_id
        ids[:, 0] = tokenizer.cls_id
        ids = torch.where(at < ends, ids, torch.where(at == ends, tokenizer.sep_id, tokenizer.pad_id))
        sides.append(ids)
    return sides


for side in zip(*(ids.tolist() for ids in frame_pairs(3, 0)), strict=True):
    for ids in side:
        print(" ".join("____" if t == "[MASK]" else t for t in tokenizer.tokens(ids)[1 : ids.index(tokenizer.sep_id)]))
    print()

# %% [markdown]
# `same_frame` of the course's `bayes` module sums over all frames and returns $\ln r$ exactly. Its mean over partners
# is the mutual information. With 2,048 pairs, we cut the table of scores into batches of B and compute the loss of the
# perfect model. What will ln B − loss be for B = 4, and does it reach the mutual information for B = 1,024?

# %%
n = 2048
a_ids, p_ids = frame_pairs(n, 1)
best = same_frame(world, a_ids, p_ids)  # (n, n), ln r of each anchor with each positive
information = best.diagonal().mean().item()
information_error = best.diagonal().std().item() / math.sqrt(n)
print(f"mutual information: {information:.2f} ± {information_error:.2f} nats")


def loss_in_batches(scores, B):
    """Return the loss of each batch of B pairs, cut from the diagonal of a table of scores."""
    return torch.stack(
        [F.cross_entropy(scores[i : i + B, i : i + B], torch.arange(B)) for i in range(0, len(scores), B)]
    )


shown = {B: math.log(B) - loss_in_batches(best, B).mean().item() for B in (2, 4, 16, 64, 256, 1024)}
for B, bound in shown.items():
    print(
        f"B = {B:>4}: ln B {math.log(B):.2f}, loss of the perfect model {math.log(B) - bound:.2f}, ln B − loss {bound:.2f}"
    )
    assert bound < min(math.log(B), information + 4 * information_error)  # holds by mathematics, up to sampling
assert shown[16] < 0.75 * information < 0.9 * information < shown[1024]
assert all(shown[B] > 0.8 * math.log(B) for B in (2, 4, 16))  # almost as large as ln B
assert all(small < large for small, large in zip(list(shown.values()), list(shown.values())[1:], strict=False))

# %% [markdown]
# Up to B = 16 the bound is almost as large as ln B allows, and far below the mutual information: even the perfect
# model cannot *show* all that it knows, because the question is too easy. At B = 1,024 it comes within a tenth of the truth.
#
# Is $\ln r$ really the best score? Change it, and the loss should rise. Three changes, each on the same batches of 64:
# all scores halved (a temperature twice as high), scores raised by half (a lower one), and $\ln P(p \mid a)$ in place
# of $\ln r$, so that probable sentences earn something. Which costs most?


# %%
log_emissions = world.emissions.log()  # (F, T, V)


def log_probability(ids):
    """Return ln P(the words that are not masked) of each text, (N,), summed over all frames."""
    words, T = ids[:, 1:-1] - 5, ids.shape[1] - 2
    visible = torch.where(words >= 0, log_emissions[:, torch.arange(T), words.clamp(min=0)], 0.0).sum(-1)  # (F, N)
    fits = world.lengths[:, None] == (ids != tokenizer.pad_id).sum(1) - 2
    return (world.frame_probabilities.log()[:, None] + visible).where(fits, -torch.inf).logsumexp(0)


log_p = torch.cat([log_probability(part) for part in p_ids.split(128)])
others = {"halved": best / 2, "raised by half": best * 1.5, "ln P(p | a)": best + log_p}
perfect = loss_in_batches(best, 64)
print(f"ln r: {perfect.mean():.3f} nats")
for name, scores in others.items():
    excess = loss_in_batches(scores, 64) - perfect  # (32,), on the same batches
    error = excess.std().item() / math.sqrt(len(excess))
    print(f"{name:>15}: excess loss {excess.mean():.3f} ± {error:.3f} nats")
    assert excess.mean() > 3 * error
a_constant = torch.randn(n, 1, generator=seeded(seed, 2), dtype=torch.float64)
torch.testing.assert_close(loss_in_batches(best + a_constant, 64), perfect)

# %% [markdown]
# Each change costs, and the last one costs by far the most; a number added to each row changes nothing, as it must.
#
# How near does a trained encoder come? Its scores are cosines divided by τ, so they can neither be −∞ nor exceed 1/τ,
# and it has to guess all probabilities from examples. We train it with your `info_nce_loss` on fresh pairs for 300
# steps at τ = 0.1, and compare it with the perfect model on the same batches.


# %%
class FramePairs(nn.Module):
    """A sentence encoder with the contrastive loss of two sides."""

    def __init__(self, temperature):
        super().__init__()
        self.encoder, self.temperature = new_encoder(), temperature
        self.sentences = SentenceEncoder(self.encoder)

    def loss(self, a, p):
        return info_nce_loss(self.sentences(a), self.sentences(p), self.temperature)


pairs_model = FramePairs(temperature=0.1)
fit(
    pairs_model,
    lambda step: dict(zip("ap", frame_pairs(64, 10 + step), strict=True)),
    300,
    lr=2e-3,
    warmup=60,
    seed=seed,
)
pairs_model.cpu().eval()
with torch.no_grad():
    x, y = (F.normalize(pairs_model.sentences(ids), dim=-1) for ids in (a_ids, p_ids))
learned = (x @ y.T / 0.1).double()  # (n, n)
excess = loss_in_batches(learned, 64) - perfect
learned_shown = {B: math.log(B) - loss_in_batches(learned, B).mean().item() for B in shown}
print(
    f"loss {loss_in_batches(learned, 64).mean():.2f} nats; excess loss {excess.mean():.2f} ± {excess.std() / math.sqrt(32):.2f}"
)
print(f"ln B − loss for B = 1,024: {learned_shown[1024]:.2f} nats; the perfect model shows {shown[1024]:.2f}")
assert 0 < excess.mean() < 2 and 0.4 * information < learned_shown[1024] < shown[1024]

# %% [markdown]
# The bound against the batch size, of the perfect model and of the trained one:

# %% tags=["hide-input"]
fig, ax = plots.figure()
sizes = list(shown)
ax.plot(sizes, [math.log(B) for B in sizes], ":", color=plots.GREY, label="ln B, all that B candidates can show")
ax.plot(sizes, list(shown.values()), "o-", color=plots.BLUE, label="the perfect model")
ax.plot(sizes, list(learned_shown.values()), "s--", color=plots.ORANGE, label="the encoder after 300 steps")
ax.axhline(information, color=plots.GREEN, label="mutual information")
ax.set_xscale("log", base=2)
ax.set(xlabel="batch size B (pairs)", ylabel="ln B − loss (nats)", ylim=(0, 1.3 * information))
ax.set_xticks(sizes, [f"{B:,}" for B in sizes])
ax.set_title("A small batch cannot show what two sentences have in common")
ax.legend(loc="lower right", fontsize=9)
plots.show(
    fig,
    alt="ln B minus the loss against the batch size from 2 to 1,024: the perfect model follows ln B at first and then "
    "approaches the mutual information from below; the trained encoder stays below the perfect model.",
)

# %% [markdown]
# So the loss has a floor here too, and after 300 steps the trained encoder is still well above it. Since
# no score has a lower loss than $\ln r$, it is what training moves the scores towards: an estimate of how much more
# probable one sentence makes another.
#
# One warning. A tighter bound is not a better representation. Tschannen et al. (2020) give "empirical evidence, that
# the success of these methods cannot be attributed to the properties of MI alone"; it depends on the encoder and on how
# the score is computed. Two encoders that show equal information may be of very different use.

# %% [markdown]
# ## 7. Which vectors are pulled, and which are pushed
#
# The loss is a number. What training does with the vectors is decided by its gradient, so you derive that first.
#
# ### Exercise 09.4 · the gradient ●●○ · 12 minutes
#
# Write the gradient of the *mean* InfoNCE loss of B rows with respect to the cosines S, (B, B), with pen and paper
# first and then without autograd. Start with one row and its scores. The result is (B, B), in the dtype of S; S stays
# as it is.


# %% tags=["exercise-09.4"]
def score_gradient(S, temperature):
    """S: (B, B), cosines -> the gradient of the mean InfoNCE loss with respect to S, (B, B)"""
    ### BEGIN SOLUTION
    probabilities = (S / temperature).softmax(1)
    return (probabilities - torch.eye(len(S), dtype=S.dtype)) / (temperature * len(S))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.score_gradient(score_gradient)

# %% [markdown]
# Let $p_{ij}$ be the probability that anchor i gives to positive j, and $[i = j]$ be 1 where i = j, else 0. For one
# anchor:
#
# $$\frac{\partial\, \text{loss}_i}{\partial \cos(a_i, p_j)} = \frac{1}{\tau}\,\big(p_{ij} - [i = j]\big)$$
#
# A step goes *against* the gradient. So every negative's cosine goes **down**, in proportion to its probability
# $p_{ij}$: the two are pushed apart. The positive's goes **up**, by $1 - p_{ii}$: it is pulled. Pull and push are
# equal, since the probabilities add up to 1. Here is −τ · gradient for the four sentences; in which row is there most
# to do?

# %%
cosines = S.clone().requires_grad_()
F.cross_entropy(cosines / temperature, torch.arange(4), reduction="sum").backward()
print((-temperature * cosines.grad).numpy().round(3))
torch.testing.assert_close(cosines.grad, ((S / temperature).softmax(1) - torch.eye(4)) / temperature)

# %% [markdown]
# Positive numbers pull, negative ones push. In the row of A nearly all of the push goes to b, the sentence that the
# model takes for the right one. In the row of C there is little to do, and little is done.
#
# To see it as a picture, take two dimensions. Vectors of length 1 live on a circle. One anchor, its positive, and four
# negatives, one of which is nearer to the anchor than the positive. The arrows are −gradient by autograd, for three
# temperatures. At which of them does every negative get more than a twentieth of the push?


# %%
def on_circle(degrees):
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=-1)  # (N, 2)


anchor, keys = on_circle([90.0]), on_circle([50.0, 122.0, 172.0, 235.0, 330.0])  # the positive is the first key


def forces(t):
    """Return -gradient at the anchor (1, 2) and at the keys (5, 2), and each negative's proportion of the push (4,)."""
    a, k = anchor.clone().requires_grad_(), keys.clone().requires_grad_()
    scores = F.normalize(a, dim=-1) @ F.normalize(k, dim=-1).T / t
    F.cross_entropy(scores, torch.tensor([0])).backward()
    return -a.grad, -k.grad, F.normalize(scores.softmax(1)[0, 1:].detach(), p=1, dim=0)


for t in (1.0, 0.3, 0.05):
    print(f"τ = {t:<4}: proportion of the push", [round(p, 3) for p in forces(t)[2].tolist()])
    assert (forces(t)[2].min() > 0.05) == (t == 1.0)

# %% [markdown]
# The same with the arrows; the percentages are the proportions of the push:

# %% tags=["hide-input"]
fig, axes = plots.figure(1, 3, size=(8.6, 3.3))
for ax, t in zip(axes, (1.0, 0.3, 0.05), strict=True):
    on_anchor, on_keys, push = forces(t)
    points, arrows = torch.cat([anchor, keys]), torch.cat([on_anchor, on_keys])
    arrows = 1.1 * arrows / arrows.norm(dim=1).max()
    colours = ["black", plots.GREEN, *[plots.RED] * 4]
    ax.add_patch(plots.plt.Circle((0, 0), 1, fill=False, color="#CCCCCC"))
    ax.scatter(*points.T, color=colours, s=36, zorder=3)
    for point, arrow, colour in zip(points.tolist(), arrows.tolist(), colours, strict=True):
        if math.hypot(*arrow) > 0.01:
            ends = {"xy": (point[0] + arrow[0], point[1] + arrow[1]), "xytext": point}
            style = {"arrowstyle": "-|>,head_width=0.2,head_length=0.3", "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", **ends, arrowprops={"color": colour, **style})
    for point, part in zip(keys[1:].tolist(), push.tolist(), strict=True):
        ax.text(0.66 * point[0], 0.72 * point[1], f"{part:.0%}", ha="center", va="center", fontsize=9, color=plots.RED)
    ax.set(xlim=(-1.4, 1.4), ylim=(-1.15, 1.4), aspect="equal")
    ax.set_axis_off()
    ax.set_title(f"τ = {t}", fontsize=10, loc="center")
fig.suptitle("At a low temperature nearly all of the push goes to the nearest negative", x=0.01, ha="left")
plots.show(
    fig,
    alt="Three circles with an anchor, a positive that is pulled towards it and four negatives that are pushed away. At "
    "temperature 1 all four are pushed, at 0.3 mostly the nearest, at 0.05 the nearest alone.",
)

# %% [markdown]
# Black is the anchor, green the positive, and red are the negatives, each with its proportion of the push. (In each
# circle the longest arrow is drawn equally long.) An arrow has no part along its vector, because `F.normalize` inside
# the loss makes the length irrelevant. And a proportion is not a length: the negative at the lower left gets a tenth of
# the push at τ = 1 and hardly moves, because it is nearly opposite to the anchor, and there moving along the circle
# hardly changes the cosine.
#
# Back to the four sentences, with a slider for τ. Choose row A and move it: from which temperature on does b get less
# than half of A's push? And whose loss *grows* again when τ gets very small?

# %%
from nextbert_lite import SimilarityMatrix, show

view = SimilarityMatrix(
    anchors, positives, (list("ABCD"), list("abcd")), title="At which temperature does b get half of the push?"
)
show(
    view, alt="The cosines of A to D with a to d, and the probabilities at τ = 0.05: A gives most to b, the wrong one."
)

# %% [markdown]
# The same in numbers:

# %%
cosines = anchors @ positives.T
for t in (0.01, 0.03, 0.1, 0.3, 1.0):
    push = cosines[0, 1:].div(t).softmax(0)[0].item()
    losses = -cosines.div(t).log_softmax(1).diagonal()
    print(
        f"τ = {t:<4}  b gets {push:4.0%} of A's push   losses of A to D", *(f"{loss:z.2f}" for loss in losses.tolist())
    )
assert cosines[0, 1:].div(0.05).softmax(0)[0] > 0.5 > cosines[0, 1:].softmax(0)[0]
assert -cosines.div(0.01).log_softmax(1)[0, 0] > -cosines.div(0.1).log_softmax(1)[0, 0]

# %% [markdown]
# A, whose nearest paraphrase is the wrong one, pays less at first and more again when τ gets very small, because there
# a mistake becomes expensive. C and D have the right one nearest, and the smaller τ, the less they pay.
#
# At a low temperature most of the push goes to the most similar wrong answer. That is good if this answer is really
# wrong, and bad if it is a paraphrase that was not marked as one. Wang and Liu (2021) describe this trade-off. How to
# choose τ? CLIP (Radford et al. 2021) *learns* it together with the weights. Supervised SimCSE (Gao et al. 2021),
# which is BERT trained with this loss on labelled pairs and hard negatives, was tried at five temperatures on STS-B,
# where people have judged how alike two sentences are (100: the model's cosines order the pairs as people do; 0:
# chance):
#
# | τ | 0.001 | 0.01 | 0.05 | 0.1 | 1 |
# |---|---|---|---|---|---|
# | STS-B, development part | 84.9 | 85.4 | 86.2 | 82.0 | 64.0 |
#
# That is another model, far larger, with other data; this lesson does not measure the best τ of ours.

# %% [markdown]
# ## 8. With the push, and without it
#
# Half of the loss pulls partners together. Isn't that all we want? Take the squared distance of the partners as the
# loss, the **alignment** (Wang and Isola 2020), and leave the negatives out. Its best value is 0. Which is the simplest
# way for an encoder to reach it?
#
# We train the same small encoder from random weights with several losses, on the same pairs in the same order. On the
# way we look at 800 held-out pairs of 800 meanings: the mean cosine of partners, that of others, and *found*, the
# proportion of sentences whose own paraphrase is the nearest of the 800 (top-1 accuracy; chance is 1/800).


# %%
from nextbert_lite import alignment, same_texts


class WithLoss(nn.Module):
    """A sentence encoder that trains with any loss of the two sides' vectors."""

    def __init__(self, encoder, loss_of):
        super().__init__()
        self.encoder, self.sentences, self.loss_of = encoder, SentenceEncoder(encoder), loss_of

    def loss(self, ids, mask, positive_ids, positive_mask, same):
        return self.loss_of(self.sentences(ids, mask), self.sentences(positive_ids, positive_mask), same)


def pair_batches(B):
    """Return a function that makes step s's batch of B fresh pairs; `same` is True where two have the same meaning."""

    def batch(step):
        pairs = draw_pairs(B, step)
        meanings = [s.meaning for s, _ in pairs]
        (ids, mask), (positive_ids, positive_mask) = (pad([tokenizer.encode(p[i].text) for p in pairs]) for i in (0, 1))
        both = {"positive_ids": positive_ids, "positive_mask": positive_mask, "same": same_texts(meanings, meanings)}
        return {"ids": ids, "mask": mask, **both}

    return batch


# %% [markdown]
# What we look at, and the training; `fit` is the package's training loop, as in lesson 06.


# %%
def look(model, pairs=held_out):
    """Return the mean cosine of partners and of others, and the proportion of paraphrases found."""
    a, p = (unit_vectors(model, [pair[side].text for pair in pairs]) for side in (0, 1))
    cosines, n = a @ p.T, len(a)
    found = (cosines.argmax(1) == torch.arange(n)).float().mean().item()
    others = ((cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))).item()
    return {"partners": cosines.diagonal().mean().item(), "others": others, "found": found}


def train(loss_of, B=64, steps=100, lr=3e-3, watch=20):
    """Train a small encoder from random weights; return it, what was seen on the way, and the losses."""
    model = WithLoss(new_encoder(), loss_of)
    seen = [{"step": 0, **look(model.sentences)}]
    options = {"evaluate": lambda: look(model.sentences), "evaluate_every": watch, "mixed_precision": False}
    history = fit(model, pair_batches(B), steps=steps, lr=lr, warmup=steps // 5, seed=seed, **options)
    return model.sentences.cpu().eval(), seen + history.evaluations, history.loss


# %% [markdown]
# Say before you run it: where will the cosine of unrelated sentences end, in the first run and in the second?

# %%
runs = {
    "only the pull": train(lambda a, p, same: alignment(a, p)),
    "InfoNCE": train(lambda a, p, same: info_nce_loss(a, p, same=same)),
}
for name, (_, seen, _) in runs.items():
    end, distance = seen[-1], math.sqrt(2 - 2 * seen[-1]["others"])  # of two vectors of length 1
    print(f"{name:>13}: others {end['others']:.4f} (distance {distance:.2f})", end=", ")
    print(f"partners {end['partners']:.4f}, found {end['found']:.0%} (before training {seen[0]['found']:.0%})")
met = {s.meaning for step in range(100) for s, _ in draw_pairs(64, step)}
print(
    f"of the 800 held-out meanings, {sum(s.meaning in met for s, _ in held_out) / 800:.0%} occur among the training pairs"
)
pull, full = (runs[name][1][-1] for name in runs)
assert pull["found"] > 0.05  # forty times chance
assert pull["others"] > 0.99 and pull["partners"] > full["partners"] and abs(full["others"]) < 0.2
assert runs["only the pull"][1][1]["others"] > 0.97  # after 20 steps
assert full["found"] > 0.7 and full["found"] > pull["found"] + 0.1

# %% [markdown]
# The way there, seen every 20 steps:

# %% tags=["hide-input"]
fig, axes = plots.figure(1, 2, size=(8.4, 3.3))
for (name, (_, seen, _)), colour in zip(runs.items(), [plots.RED, plots.BLUE], strict=True):
    steps = [now["step"] for now in seen]
    axes[0].plot(steps, [now["others"] for now in seen], color=colour, label=f"{name}: others")
    axes[0].plot(steps, [now["partners"] for now in seen], "--", color=colour, label=f"{name}: partners")
    axes[1].plot(steps, [100 * now["found"] for now in seen], color=colour, label=name)
axes[0].set(xlabel="training step", ylabel="mean cosine", ylim=(-0.1, 1.05))
axes[0].set_title("With the pull alone all vectors align", fontsize=11)
axes[0].legend(fontsize=8, loc="center right", bbox_to_anchor=(1, 0.45))
axes[1].set(xlabel="training step", ylabel="own paraphrase found (%)", ylim=(0, 100))
axes[1].set_title("InfoNCE finds more of the partners", fontsize=11)
axes[1].legend(fontsize=9, loc="lower right")
plots.show(
    fig,
    alt="Left: with the pull alone the cosine of unrelated sentences goes to 1 within 20 steps; with InfoNCE it falls to about 0 "
    "while partners stay near 0.9. Right: InfoNCE finds most paraphrases among 800, the pull alone clearly fewer.",
)

# %% [markdown]
# That is **collapse**: all sentences, whatever they say, point in one direction. By its own loss the collapsed model is
# the better one, since its partners are closer together. You may not have expected the other result: it still finds far
# more paraphrases than chance. The distance between two unrelated sentences is tiny, but which of these tiny distances
# is smallest still says something. So what is lost here is not all information; what is lost is any reason to keep
# strangers apart.
#
# (As the last line says, the meanings are not new to the models. So *found* says how well a model has learned this
# world's meanings, not what it would do with a new one.)
#
# Does the pull always pull *everything* together? Try it on free vectors, without an encoder: two times 64 of them,
# moved by the same loss.

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
# Partners meet, and strangers stay where they were, because the pull says nothing about strangers. In the encoder all
# sentences go through the same weights: what is changed for one is changed for all, and there everything moved
# together.
#
# ### Other ways to prevent it
#
# Two families of methods need no negatives. In **BYOL** (Grill et al. 2020) and **SimSiam** (Chen and He 2020) one side
# predicts the other through a small extra network, and no gradient flows through the side that is predicted; in BYOL
# that side's weights are also a moving average of the other's. **Decorrelation** asks something of the features in
# place of the sentences: over the batch, each feature of one side should correlate by 1 with the same feature of the
# other side, and by 0 with every other feature. Constant vectors have no such correlations, so collapse is no solution.
# *Barlow Twins* (Zbontar et al. 2021) is this loss; *VICReg* (Bardes et al. 2021) pulls
# partners together, decorrelates the features of each side by itself, and asks each of them for a minimum of variance.
#
# Barlow Twins is four lines. Will it find as much as InfoNCE, without one negative?


# %%
def barlow_twins(a, p, same, weight=0.01):
    """The features' cross-correlation over the batch, (C, C), should be the identity matrix."""
    a, p = ((x - x.mean(0)) / (x.std(0) + 1e-5) for x in (a, p))
    correlation = a.T @ p / len(a)
    off_diagonal = correlation.square().sum() - correlation.diagonal().square().sum()
    return (1 - correlation.diagonal()).square().sum() + weight * off_diagonal


runs["decorrelation"] = train(barlow_twins)
end = runs["decorrelation"][1][-1]
print(
    f"decorrelation: found {end['found']:.0%}, partners {end['partners']:.2f}, others {end['others']:.2f}; InfoNCE found {full['found']:.0%}"
)
assert end["found"] > pull["found"] + 0.1 and abs(end["found"] - full["found"]) < 0.12

# %% [markdown]
# About as much, at this size. Note the cosine of the others: it is far from 0, because this loss subtracts the mean
# vector and never asks where it lies. The spread *around* the mean is what counts here.
#
# Negatives do not rule out every collapse either: the vectors may use only a few of the C dimensions, which is called
# *dimensional collapse* (Jing et al. 2021).

# %% [markdown]
# ### The question of the beginning
#
# InfoNCE finds most paraphrases. So does the model now know a from b? Look at the 600 role exchanges of section 1
# again. What do you expect?

# %%
guessed = {}
for name in ("only the pull", "InfoNCE", "decorrelation"):
    guessed[name] = right = (role_test(runs[name][0]) > 0).double().mean().item()
    print(f"{name:>13}: the right paraphrase is nearer in {right:.0%} of 600")
    assert 0.35 < right < 0.65

exchanged = 0  # sentences of the training whose role exchange is in the same batch
for step in range(100):
    meanings = [s.meaning for s, _ in draw_pairs(64, step)]
    exchanged += sum((m.whom, m.whom_number, m.action, m.who, m.who_number) in meanings for m in meanings)
print(f"in training, {exchanged / 6400:.1%} of the sentences had their role exchange in the batch")
assert exchanged / 6400 < 0.1

# %% [markdown]
# No better than a coin flip. Only about one sentence in twenty has its role exchange in its batch, so few questions of
# the training were about that, and words and topic were enough for all others. **A contrastive model learns what its
# negatives make it learn.** So give it the question: for each pair, the positive with its roles exchanged, as a hard
# negative. That is what your argument `negatives` is for. To see that it is the question that helps and not the number
# of negatives, train a second model with as many other sentences in their place. How often will each be right?


# %%
class WithHardNegatives(WithLoss):
    def loss(self, ids, mask, positive_ids, positive_mask, negative_ids, negative_mask, same):
        negatives = self.sentences(negative_ids, negative_mask)
        return info_nce_loss(
            self.sentences(ids, mask), self.sentences(positive_ids, positive_mask), negatives=negatives, same=same
        )


def with_negatives(sentences_of):
    """Return a function that makes step s's batch of section 8 with 64 more sentences, as hard negatives."""

    def batch(step):
        ids, mask = pad([tokenizer.encode(sentence) for sentence in sentences_of(step)])
        return pair_batches(64)(step) | {"negative_ids": ids, "negative_mask": mask}

    return batch


sources = {
    "any other sentences": lambda step: [p.text for _, p in draw_pairs(64, 10_000 + step)],
    "roles exchanged": lambda step: [world.swap_roles(p).text for _, p in draw_pairs(64, step)],
}
for name, sentences_of in sources.items():
    model = WithHardNegatives(new_encoder(), None)
    fit(model, with_negatives(sentences_of), steps=100, lr=3e-3, warmup=20, seed=seed, mixed_precision=False)
    trained = model.sentences.cpu().eval()
    guessed[name] = right = (role_test(trained) > 0).double().mean().item()
    print(f"64 more negatives, {name}: the right paraphrase is nearer in {right:.0%} of 600", end="; ")
    print(f"found {look(trained)['found']:.0%} of 800")
for name in ("InfoNCE", "any other sentences"):  # the margin: four standard errors of a proportion of 600
    assert guessed["roles exchanged"] > guessed[name] + 0.08

# %% [markdown]
# With the exchanged roles it tells many more of them apart; with as many other sentences it does not. We labelled
# nothing: pairs, steps and learning rate are those of the InfoNCE run, and only the negatives changed. (The batch holds
# 64 more sentences, so a step costs half as much again. Lesson 11 trains this further, and asks what a pretrained start
# adds.)

# %% [markdown]
# ## 9. The positive in the denominator
#
# The bug of exercise 09.2 takes the partner out of the sum, together with the view itself. In SimCLR's formula
# $k \neq i$ leaves out the view *itself*; read it as "leave out the positive", and you get this, with $s$ for the
# scores, cosine/τ:
#
# $$\text{without} = -s_{\text{pos}} + \ln \sum_{\text{negatives}} e^{s} \qquad\text{in place of}\qquad
# \text{with} = -s_{\text{pos}} + \ln \Big(e^{s_{\text{pos}}} + \sum_{\text{negatives}} e^{s}\Big)$$
#
# It is in public code, mostly by accident. How are the two related? Compute both for our four rows, then
# $\ln(1 + e^{\text{without}})$, and the pull on the positive that autograd gives for each:

# %%
logits = (S / temperature).requires_grad_()
negatives_only = logits.masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf)
without = negatives_only.logsumexp(1) - logits.diagonal()  # (4,), one a row
within = logits.logsumexp(1) - logits.diagonal()
(pull_within,) = torch.autograd.grad(within.sum(), logits, retain_graph=True)
(pull_without,) = torch.autograd.grad(without.sum(), logits)
for i, name in enumerate("ABCD"):
    print(
        f"{name}: with {within[i]:.4f}, without {without[i]:7.4f}, ln(1 + e^without) = {F.softplus(without[i]):.4f}",
        end="; ",
    )
    print(f"pull with {-pull_within[i, i]:.4f}, without {-pull_without[i, i]:.4f}")
torch.testing.assert_close(F.softplus(without), within)
unsolved = 1 - logits.softmax(1).diagonal()  # (4,)
torch.testing.assert_close(pull_within, unsolved[:, None] * pull_without, rtol=1e-4, atol=1e-5)

# %% [markdown]
# The two are closely related: $\text{with} = \ln(1 + e^{\text{without}})$, a function called *softplus*. For large
# values they are the same. Where a row is solved, the loss with the positive ends at **0**, and the other goes on
# below zero. With cosines a row's loss could fall to $-2/\tau + \ln(B-1)$, namely if all its negatives were opposite
# to the anchor. For the gradients, the chain rule gives $\text{with}' = (1 - p_{\text{pos}})\cdot\text{without}'$.
# The direction is the same in each row; what is lost is the factor that says "this row is solved, leave it". So C,
# which was nearly solved, is pulled as hard as A.
#
# Is that harmful? Some researchers remove the factor *on purpose*. Decoupled contrastive learning (Yeh et al. 2021)
# says that it makes learning slow where all rows are nearly solved, as in small batches, and reports better results on
# images. Let another encoder decide, with everything else equal. What do you expect?


# %%
def without_positive(a, p, same, temperature=0.05):
    """The positive is not in the denominator; pairs of the same meaning are left out, as in InfoNCE."""
    scores = F.normalize(a, dim=-1) @ F.normalize(p, dim=-1).T / temperature
    return (scores.masked_fill(same, -torch.inf).logsumexp(1) - scores.diagonal()).mean()


runs["without the positive"] = train(without_positive)
for name in ("InfoNCE", "without the positive"):
    _, seen, loss = runs[name]
    end = seen[-1]
    print(f"{name:>20}: last loss {loss[-1]:6.2f}", end=", ")
    print(f"found {end['found']:.0%}, partners {end['partners']:.2f}, others {end['others']:.2f}")
assert runs["without the positive"][2][-1] < -2 < 0 < runs["InfoNCE"][2][-1] < 1
assert -0.06 < runs["without the positive"][1][-1]["found"] - full["found"] < 0.12

# %% [markdown]
# On the left the loss of one row as a function of what the two losses share; on the right the two runs:

# %% tags=["hide-input"]
fig, axes = plots.figure(1, 2, size=(8.4, 3.3))
row_loss = torch.linspace(-8, 4, 100)  # of a row, without the positive
axes[0].plot(row_loss, row_loss, "--", color=plots.RED, label="without the positive")
axes[0].plot(row_loss, F.softplus(row_loss), color=plots.BLUE, label="InfoNCE")
axes[0].axhline(0, color=plots.GREY, linewidth=0.8)
axes[0].set(xlabel="ln Σ negatives − positive's score", ylabel="loss of a row (nats)")
axes[0].set_title("One loss ends at 0, the other has no floor there", fontsize=10)
axes[0].legend(fontsize=9)
for name, style, colour in (("without the positive", "--", plots.RED), ("InfoNCE", "-", plots.BLUE)):
    axes[1].plot(range(1, 101), runs[name][2], style, color=colour, label=name)
axes[1].axhline(0, color=plots.GREY, linewidth=0.8)
axes[1].set(xlabel="training step", ylabel="loss (nats)")
axes[1].set_title("Two runs that find about as much", fontsize=10)
plots.show(
    fig,
    alt="Left: the loss of a row without the positive is a straight line far below zero, InfoNCE bends and ends at zero. Right: "
    "in training InfoNCE falls to about 0, the other loss falls on, far below 0.",
)

# %% [markdown]
# No harm to be seen, rather the contrary. It is *another loss*, often one by accident. What is really lost is the
# meaning of the number. InfoNCE at 0 says "solved"; the other loss has no such value. So you cannot read from it how
# much is left to do, you cannot compare it with ln B or with anybody's InfoNCE, and it no longer bounds the information
# of section 6. Section 10 compares the two at other batch sizes.

# %% [markdown]
# ## 10. What batch size, duplicates and the denominator change
#
# Three things about the loss are widely believed. *Larger batches are better*, because they ask harder questions. *Two
# pairs of one meaning in a batch do harm*, because each is called a wrong answer to the other, a **false negative**.
# And the positive must be in the denominator. How much does each of them change here?
#
# First the false negatives. Suppose four pairs, of which two mean the same, and a perfect encoder: equal meanings have
# equal vectors, different ones are at right angles. What should its loss be, and what is it? And how often does that
# happen? Count over 50 batches of each size.

# %% tags=["nbval-check-output"]
perfect_encoder = torch.eye(4)[[0, 0, 1, 2]]  # pairs 0 and 1 mean the same
meanings = ["praise", "praise", "defend", "question"]
plain = info_nce_loss(perfect_encoder, perfect_encoder).item()
with_same = info_nce_loss(perfect_encoder, perfect_encoder, same=same_texts(meanings, meanings)).item()
print(
    f"a perfect encoder: {plain:.4f} without `same`, {abs(with_same):.4f} with it; (2/4) ln 2 = {math.log(2) / 2:.4f}"
)
assert abs(plain - math.log(2) / 2) < 1e-5 and with_same < 1e-5
for B in (8, 32, 128):
    batches = [[s.meaning for s in world.sample(B, seed=7000 + 1000 * seed + number)] for number in range(50)]
    hits = sum(len(set(batch)) < B for batch in batches) / 50
    couples = sum(int(same_texts(batch, batch).sum()) - B for batch in batches) / (50 * B * (B - 1))
    print(f"batches of {B:>3}: {hits:.0%} hold some meaning twice; of all couples {couples:.2%} are false negatives")
    assert couples < 0.005

# %% [markdown]
# Without `same` the perfect encoder is not perfect: rows 0 and 1 see two equally good answers, each costs ln 2, and the
# only way to a lower loss is to push equals apart. In large batches a repeated meaning is the rule. But look at the
# last number: of all couples in a batch, only about one in a thousand is a false negative. Does `same` matter, then?
#
# The stored table gives each of nine conditions the same 6,400 pairs, as many small batches or as few large ones, with
# three seeds. The learning rate of each batch size was chosen beforehand for InfoNCE, out of three, on other held-out
# pairs; the best one was smaller for 8 pairs than for 32 and 128. The other two losses use the same rate. Your run trains one row of the
# table.


# %%
losses = {
    "InfoNCE": lambda a, p, same: info_nce_loss(a, p, same=same),
    "without `same`": lambda a, p, same: info_nce_loss(a, p),
    "without the positive": without_positive,
}
rates = {8: 1e-3, 32: 4e-3, 128: 4e-3}  # batch size -> learning rate
results_batch = []
for name, B in [(name, B) for name in losses for B in rates] if every_row else [("InfoNCE", 128)]:
    _, seen, _ = train(losses[name], B, 6400 // B, rates[B], watch=6400)
    results_batch.append({"seed": seed, "loss": name, "batch": B, "lr": rates[B], "found": seen[-1]["found"]})
live = next(row["found"] for row in results_batch if (row["loss"], row["batch"]) == ("InfoNCE", 128))
print(f"trained now: InfoNCE, batches of 128: found {live:.1%}")

# %% [markdown]
# Before you run the next cell, guess for the stored rows: which of the nine conditions finds most, and how far behind
# is the worst?

# %%
from nextbert_lite import stored_table

table = stored_table("09_batch")
found = {(name, B): [] for name in losses for B in rates}
for row in table:
    found[row["loss"], int(row["batch"])].append(float(row["found"]))
mean = {key: sum(values) / len(values) for key, values in found.items()}
for name in losses:
    print(f"{name:>20}:", *(f"B = {B}: {mean[name, B]:.1%}" for B in rates), sep="  ")
assert mean["InfoNCE", 8] + 0.02 < mean["InfoNCE", 128]
assert all(abs(mean["without `same`", B] - mean["InfoNCE", B]) < 0.025 for B in rates)
gain = {B: mean["without the positive", B] - mean["InfoNCE", B] for B in rates}
assert gain[8] > 0.02 and gain[8] > gain[32] > gain[128]
assert all(w > i for B in rates for w, i in zip(found["without the positive", B], found["InfoNCE", B], strict=True))
assert abs(mean["without the positive", 8] - mean["without the positive", 128]) < 0.02  # nearly as much
same_row = found["InfoNCE", 128]
assert min(same_row) - 0.05 < live < max(same_row) + 0.05, (live, same_row)  # this run belongs to the stored ones

# %% [markdown]
# Each seed is a mark:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.4, 3.3))
for k, (name, marker, colour) in enumerate(zip(losses, "os^", [plots.BLUE, plots.ORANGE, plots.RED], strict=True)):
    for at, B in enumerate(rates):
        values = [100 * v for v in found[name, B]]
        ax.scatter([at + 0.18 * (k - 1)] * len(values), values, marker=marker, color=colour, label=None if at else name)
ax.scatter(2 - 0.18, 100 * live, marker="x", s=70, color="black", label="this run", zorder=3)
ax.set(xlabel="batch size B; 6,400 pairs in all", ylabel="own paraphrase found (%)")
ax.set_xticks(range(3), [f"{B} pairs, {6400 // B} steps" for B in rates])
ax.set_title("Without the positive, small batches find nearly as much as large ones")
ax.set_ylim(84, 98)
ax.legend(fontsize=9, loc="lower right")
plots.show(
    fig,
    alt="Own paraphrases found, in percent, for batches of 8, 32 and 128 pairs and three losses, three seeds each: with InfoNCE "
    "they rise with the batch, with and without same; without the positive they are high at all three sizes.",
)

# %% [markdown]
# The stored rows answer all three, for this world and this size. With InfoNCE *larger batches* find more at equal
# text, by about four points from 8 pairs to 128, each size with its own learning rate. *`same`* makes no consistent
# difference: the sign changes with the batch size, and one couple in a thousand is rare. It should matter where false
# negatives are common: with hard negatives, with very large batches, or with texts full of copies. And leaving *the
# positive* out of the denominator does not harm: in each of the nine pairs of runs it finds more, on average most
# where the batch is small, which is what Yeh et al. (2021) claim for images. Their reason fits: with 8 candidates a
# row is soon solved, its factor $1 - p_{\text{pos}}$ goes to 0, and InfoNCE has almost nothing left to learn from it.
# We have not tested whether InfoNCE at another temperature would catch up.

# %% [markdown]
# ## 11. Large batches in little memory
#
# Where more negatives do help, memory is the obstacle: training keeps what every layer computed, for all sentences,
# until the backward pass has gone through. The usual answer is **gradient accumulation**: four small batches one after
# the other, their gradients added up. For which losses is that the same as one large batch?
#
# For a loss that is a mean over *texts* which know nothing of each other, yes, if the batches are equally large. For a
# mean over *tokens*, not even there. Take the masked language model of lesson 06, with four batches of 8 sentences.
# Each batch has another number of masked tokens, so the mean of four means is not the mean over all of them, unless
# each mean is weighted by its number:

# %%
from nextbert_lite import mask_tokens

masked_lm = load("toy-small").model.eval()
ids, mask = world.sample_ids(32, seed=seed)
corrupted, labels = mask_tokens(ids, tokenizer, 0.15, seeded(seed, 3))
batches = list(zip(corrupted.split(8), labels.split(8), mask.split(8), strict=True))
counts = [int((part != -100).sum()) for _, part, _ in batches]
with torch.no_grad():
    whole = masked_lm.loss(corrupted, labels, mask).item()
    means = [masked_lm.loss(*batch).item() for batch in batches]
weighted = sum(m * c for m, c in zip(means, counts, strict=True)) / sum(counts)
print(f"masked tokens {counts}: one batch {whole:.4f}, mean of the means {sum(means) / 4:.4f}, weighted {weighted:.4f}")
assert abs(weighted - whole) < 1e-5 < abs(sum(means) / 4 - whole)

# %% [markdown]
# This is no detail: Hugging Face's trainer had this mistake until October 2024 (see their post *Fixing Gradient
# Accumulation*), and where a model does not use the count of tokens, as BERT's does not, it still has it (lesson 20).
#
# And the contrastive loss? Think of who the negatives are. One batch of 32 pairs against four batches of 8 pairs, added
# up with the weight 1/4 each, in float64 and without dropout, so that nothing else differs. Then with the four weights
# that come nearest to the gradient of the large batch (least squares):

# %%
model = SentenceEncoder(new_encoder(dropout=0.1)).double().eval()
pairs = held_out[:32]
ids, mask = pad([tokenizer.encode(pair[side].text) for side in (0, 1) for pair in pairs])  # (64, T): anchors, positives
N, chunk = len(pairs), 8


def of_pairs(vectors):
    """Return the InfoNCE loss of N anchors and, behind them, their N positives."""
    return info_nce_loss(*vectors.chunk(2))


def flat_gradient(model):
    """Return all gradients as one long vector, and clear them."""
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return flat


of_pairs(model(ids, mask)).backward()
whole = flat_gradient(model)
parts = []
for rows in torch.arange(N).split(chunk):
    both = torch.cat([rows, rows + N])
    of_pairs(model(ids[both], mask[both])).backward()
    parts.append(flat_gradient(model))
parts = torch.stack(parts, dim=1)  # (parameters, N / chunk), one column a small batch
sums = {"weights 1/4": parts.mean(1), "the best weights": parts @ torch.linalg.lstsq(parts, whole).solution}
print(f"one batch of {N} against {N // chunk} of {chunk}:")
for name, accumulated in sums.items():
    cosine = F.cosine_similarity(whole, accumulated, dim=0).item()
    print(f"  {name}: cosine of the gradients {cosine:.3f}, length {accumulated.norm() / whole.norm():.2f} of it")
    assert cosine < 0.99

# %% [markdown]
# Not the same, and no weights mend it. With batches of 8 every sentence has 7 negatives, however many batches you add
# up.
#
# There is a way that *is* the same, **gradient caching** (Luyu Gao et al. 2021). It exploits the fact that the loss
# sees the encoder only through its vectors, and a vector is small: C numbers a sentence, and not all that the layers
# computed. Three passes:
#
# 1. **Embed** all sentences, a chunk at a time, without a graph, and keep only the vectors.
# 2. From the vectors compute the loss, and its gradient *with respect to each vector*. This is small too.
# 3. **Embed again**, a chunk at a time, now with a graph; send the chunk's part of the gradient back through it; forget
#    the graph.
#
# By the chain rule, the sum over the chunks is the gradient of the whole batch and not an approximation.
#
# ### Exercise 09.5 · build gradient caching ●●● · 30 minutes
#
# Write `cached_backward(model, ids, mask, chunk, loss_of)`. It does what `loss_of(model(ids, mask)).backward()` does,
# but with the graph of at most `chunk` texts at any time.
#
# * `ids` and `mask` are (N, T); `model(ids, mask)` gives (N, C). `loss_of` takes all vectors, (N, C), and returns a
#   scalar. It may be any loss. N need not be a multiple of `chunk`; the last chunk may be smaller.
# * The gradients are *added* to the parameters' `.grad`, as `backward` does it. Weights, mode, ids and mask stay as
#   they are.
# * The model never gets more than `chunk` texts in one call, in the first pass either; the chunks follow the order of
#   the texts. Each graph is gone (by `backward`) before the next chunk is embedded.
# * The return value is the loss, a tensor without a graph.
# * **Dropout.** In training mode the third pass must drop the same numbers as the first, or its vectors are not those
#   that the gradient belongs to. The first pass draws from torch's generator as it stands: do not seed it; in which
#   state you leave it is up to you. `torch.get_rng_state()` returns the generator's state, and
#   `torch.set_rng_state(state)` puts it back. (This is the generator of the CPU; a GPU has one of its own,
#   `torch.cuda.get_rng_state`, and there forgetting it goes unnoticed.)
#
# `vectors.backward(g)` starts the backward pass at `vectors` with the gradient g. Write the three passes first; without
# dropout the check goes as far as stage 6. Then add dropout.


# %% tags=["exercise-09.5", "my-bert-contrastive"]
def cached_backward(model, ids, mask, chunk, loss_of):
    """Add the gradient of loss_of(model(ids, mask)) to the parameters, `chunk` texts at a time -> the loss"""
    ### BEGIN SOLUTION
    parts = list(zip(ids.split(chunk), mask.split(chunk), strict=True))
    states, vectors = [], []
    with torch.no_grad():  # 1: embed, and remember the generator's states
        for part in parts:
            states.append(torch.get_rng_state())
            vectors.append(model(*part))
    vectors = torch.cat(vectors).requires_grad_()
    loss = loss_of(vectors)
    loss.backward()  # 2: the gradient at the vectors, (N, C)
    for part, state, gradient in zip(parts, states, vectors.grad.split(chunk), strict=True):
        torch.set_rng_state(state)
        model(*part).backward(gradient)  # 3: embed again with the same random numbers, and backward
    return loss.detach()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.gradient_caching(cached_backward)

# %% tags=["nbval-check-output"]
cached_backward = check.mine("09.5", cached_backward)

# %% [markdown]
# Here is your function on the real encoder, without dropout against the gradient of the whole batch from above, and
# with dropout against the plain way, which embeds the same chunks, keeps everything and goes back once:

# %%
cached_backward(model, ids, mask, chunk, of_pairs)
difference = (flat_gradient(model) - whole).abs().max().item()
print(f"without dropout: largest difference from the whole batch {difference:.0e}")
assert difference < 1e-10

model.train()  # dropout on
torch.manual_seed(seed)
parts = zip(ids.split(chunk), mask.split(chunk), strict=True)
of_pairs(torch.cat([model(*part) for part in parts])).backward()
with_dropout = flat_gradient(model)
torch.manual_seed(seed)
cached_backward(model, ids, mask, chunk, of_pairs)
difference = (flat_gradient(model) - with_dropout).abs().max().item()
print(f"with dropout:    largest difference from the plain way   {difference:.0e}")
assert difference < 1e-10 and F.cosine_similarity(whole, with_dropout, dim=0) < 0.999

# %% [markdown]
# Equal to ten digits in float64. (In float32 or bfloat16 the order of the sums shows earlier.) The package does the
# same with fewer lines, `SentenceEncoder(encoder, chunk=8, cache=True)`: it applies `torch.utils.checkpoint`, which
# means "keep nothing here, and compute it again in the backward pass with the same random numbers", to each chunk, so
# that the loss keeps its ordinary `backward()`.

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
# What does it save, and what does it cost? torch lets us see every tensor that is kept for the backward pass. We add up
# their bytes for batches of growing size, with chunks of 16 texts, and count the operations of the matrix products.
# Guess the price first: how many times the operations of the plain way?


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
# And the operations:


# %%
def operations(run):
    with FlopCounterMode(display=False) as counter:
        run()
    model.zero_grad()
    return counter.get_total_flops()


plain = operations(lambda: of_pairs(model(ids, mask)).backward())
cached = operations(lambda: cached_backward(model, ids, mask, chunk, of_pairs))
print(f"gradient caching takes {cached / plain:.2f} times the operations of the plain way")
assert abs(cached / plain - 4 / 3) < 0.05

# %% [markdown]
# A forward pass costs 1 and a backward pass 2. Plain training pays 3, the three passes pay 4: a third more work. Now
# the memory, for chunks of 16:

# %%
small = SentenceEncoder(new_encoder(dropout=0.1))  # float32
same_length = ids[:, : mask.sum(1).min()]  # no padding, which large batches leave out (lesson 18)
sizes, C = [16, 32, 64, 128, 256, 512, 1024], 64
table = torch.zeros(len(sizes), 3)  # MB: everything at once, gradient caching, of that the loss
one_chunk = kept_bytes(lambda: small(same_length[:16]), small)
for row, size in enumerate(sizes):
    pick = torch.arange(size) % len(ids)
    if size <= 256:
        table[row, 0] = kept_bytes(lambda pick=pick: small(same_length[pick]), small)
    a, p = torch.randn(2, size // 2, C, requires_grad=True)
    loss_part = kept_bytes(lambda a=a, p=p: info_nce_loss(a, p), small) + 2 * size * C * 4  # and the vectors' gradients
    table[row, 1:] = torch.tensor([one_chunk + loss_part, loss_part])
table[5:, 0] = table[4, 0] * torch.tensor([2, 4])  # in proportion to the texts, as the first five rows are
table /= 1e6
for size, (at_once, caching, of_loss) in list(zip(sizes, table.tolist(), strict=True))[::3]:
    print(
        f"{size:>5} texts: at once {at_once:6.1f} MB, gradient caching {caching:5.1f} MB, of that the loss {of_loss:4.1f}"
    )
assert torch.allclose(table[1:5, 0] / table[:4, 0], torch.tensor(2.0), rtol=0.05)  # twice the texts, twice the memory
assert table[-1, 0] > 10 * table[-1, 1] and table[3, 1] < 1.5 * table[0, 1]

# %% [markdown]
# Both axes are logarithmic, so a straight line at 45 degrees is growth in proportion:

# %% tags=["hide-input"]
fig, ax = plots.figure()
for column, name, style in (
    (0, "everything at once", "o-"),
    (1, "gradient caching, chunks of 16", "s-"),
    (2, "vectors and scores", ":"),
):
    ax.plot(sizes, table[:, column], style, markersize=5, label=name)
ax.set(xscale="log", yscale="log", xlabel="texts in a batch", ylabel="kept for the backward pass (MB)")
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ax.set_title("What the layers keep no longer grows with the batch")
ax.legend()
plots.show(
    fig,
    alt="Megabytes kept against the texts in a batch: everything at once grows in proportion to the batch; gradient caching "
    "stays nearly flat, until the vectors and the table of scores, which grow, become visible.",
)

# %% [markdown]
# The middle line starts to rise only with the vectors and their scores. (The last two points of the upper line are
# computed from the fifth, since it grows in proportion; the middle line adds two measured parts, one chunk and the
# vectors with their scores.) The vectors grow with B, and the table of scores with B².
#
# ### Other ways to many negatives
#
# **A queue.** MoCo (He et al. 2019) keeps the vectors of the last batches in a queue of 65,536 and uses them as
# negatives. They were made by older weights, so the encoder of the keys is a slow moving average of the trained one,
# and no gradient flows into it. The number of negatives no longer depends on the batch.
#
# **Gathering.** With several devices, each embeds its own part of the batch and sends the vectors to all others, so
# each has the negatives of all. This is the usual way for large models (`gather_across_devices` in
# sentence-transformers). The gradient has to travel back the same way, or each vector learns from its own device alone.
#
# **No softmax.** SigLIP (Zhai et al. 2023) asks of each of the B² couples separately, *do you belong together, yes or
# no?*, so the loss "operates solely on image-text pairs and does not require a global view of the pairwise similarities
# for normalization". The table need never exist as a whole: each device computes its blocks. On our four pairs, with a
# scale of 10 and a bias of −10, both of which the model learns:

# %% tags=["nbval-check-output"]
scale, bias = 10, -10  # the bias says that most couples do not belong together
sign = 2 * torch.eye(4) - 1  # +1 for partners, -1 for the others
couples = -F.logsigmoid(sign * (scale * S + bias))  # (4, 4), one loss a couple
print((couples * 100).round() / 100)
print(f"SigLIP's loss, the sum over the couples divided by B: {couples.sum().item() / 4:.2f}")

# %% [markdown]
# ## What to remember
#
# * Pairs make multiple-choice questions: each anchor must find its **positive** among the others of the batch. The loss
#   is a **cross-entropy over cosines / τ**, with the labels 0 … B − 1.
# * The best score is the **pointwise mutual information** of the two sentences, and ln B − loss is a lower bound of
#   their mutual information. A small batch cannot show much of it.
# * **ln B** is the loss of equal scores. Unrelated vectors start at about ln B + 1/(2Cτ²), while this last term is at
#   most ½. Our paraphrases started below ln B.
# * The gradient is *probabilities minus one-hot*: negatives are pushed in proportion to their probability, and a **low
#   temperature** gives the nearest more of it.
# * Something must keep strangers apart: negatives do it, and so does decorrelation. With the pull alone everything
#   collapsed within 20 steps.
# * **A model learns what its negatives ask.** With in-batch negatives alone, the role exchange stayed a coin flip.
# * Leaving the positive out of the denominator gives *another loss*, whose number has no zero. Here it trained as well
#   or better, most clearly with small batches.
# * Gradient accumulation of a contrastive loss is *not* a large batch. **Gradient caching** is, to ten digits in
#   float64, for a third more work.
#
# **What this scale cannot show.** All runs trained one small encoder on 6,400 pairs of a world of few meanings, nearly
# all of them seen in training. Which τ, which batch size and which loss are best for long training of large models
# cannot be read off them. SimCLR, which starts from random weights, gained from batches of thousands; the authors of
# SimCSE, which starts from BERT, found theirs hardly sensitive to the batch size once the learning rate was tuned
# (their appendix A).
#
# **What the field did since.** Temperature, in-batch negatives and one or more hard negatives for each pair are still
# the recipe of most embedding models. What changed is where pairs and negatives come from; lesson 10 tells that
# story.
#
# **An open problem.** Which negatives are worth having? The hardest get most of the push, and an unmarked paraphrase is
# among the hardest. In practice a stronger model is asked: a cross-encoder, which reads both texts together, throws out
# candidates that it finds relevant (RocketQA, Qu et al. 2020), a guide model marks them inside the batch (GISTEmbed,
# Solatorio 2024, `GISTEmbedLoss` in sentence-transformers), or a candidate is dropped whose score comes too near to the
# positive's (NV-Retriever, Moreira et al. 2024). Each of them takes a judgement that another model has learned. Whether the pairs
# alone could tell is open.

# %% [markdown]
# **Where this comes from**
#
# * Raia Hadsell, Sumit Chopra and Yann LeCun, *Dimensionality Reduction by Learning an Invariant Mapping*, CVPR 2006
#   (the classic contrastive loss); Florian Schroff et al., *FaceNet*, 2015 (triplets),
#   [arXiv:1503.03832](https://arxiv.org/abs/1503.03832); Kihyuk Sohn, *Improved Deep Metric Learning with Multi-class
#   N-pair Loss Objective*, NeurIPS 2016.
# * Matthew Henderson et al., *Efficient Natural Language Response Suggestion for Smart Reply*, 2017 (in-batch negatives
#   of sentences), [arXiv:1705.00652](https://arxiv.org/abs/1705.00652).
# * Aaron van den Oord, Yazhe Li and Oriol Vinyals, *Representation Learning with Contrastive Predictive Coding*, 2018
#   (InfoNCE, equations 4 and 5), [arXiv:1807.03748](https://arxiv.org/abs/1807.03748); Michael Tschannen et al., *On
#   Mutual Information Maximization for Representation Learning*, 2020,
#   [arXiv:1907.13625](https://arxiv.org/abs/1907.13625).
# * Ting Chen et al., *SimCLR*, 2020 (NT-Xent), [arXiv:2002.05709](https://arxiv.org/abs/2002.05709), and its code,
#   [google-research/simclr](https://github.com/google-research/simclr).
# * Tongzhou Wang and Phillip Isola, *Alignment and Uniformity on the Hypersphere*, 2020,
#   [arXiv:2005.10242](https://arxiv.org/abs/2005.10242); Feng Wang and Huaping Liu, *Understanding the Behaviour of
#   Contrastive Loss*, 2021, [arXiv:2012.09740](https://arxiv.org/abs/2012.09740); Li Jing et al., *Understanding
#   Dimensional Collapse*, 2021, [arXiv:2110.09348](https://arxiv.org/abs/2110.09348).
# * Without negatives: BYOL, [arXiv:2006.07733](https://arxiv.org/abs/2006.07733); SimSiam,
#   [arXiv:2011.10566](https://arxiv.org/abs/2011.10566); Barlow Twins,
#   [arXiv:2103.03230](https://arxiv.org/abs/2103.03230); VICReg, [arXiv:2105.04906](https://arxiv.org/abs/2105.04906).
# * Many negatives: Kaiming He et al., *MoCo*, [arXiv:1911.05722](https://arxiv.org/abs/1911.05722); Luyu Gao et al.,
#   *Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup*, 2021 (gradient caching),
#   [arXiv:2101.06983](https://arxiv.org/abs/2101.06983); Xiaohua Zhai et al., *SigLIP*, 2023,
#   [arXiv:2303.15343](https://arxiv.org/abs/2303.15343).
# * Alec Radford et al., *CLIP*, 2021 (a learned temperature), [arXiv:2103.00020](https://arxiv.org/abs/2103.00020);
#   Tianyu Gao, Xingcheng Yao and Danqi Chen, *SimCSE*, 2021, [arXiv:2104.08821](https://arxiv.org/abs/2104.08821).
# * Chun-Hsiao Yeh et al., *Decoupled Contrastive Learning*, 2021 (without the positive, on purpose),
#   [arXiv:2110.06848](https://arxiv.org/abs/2110.06848). The denominator, asked about in public:
#   [MIDA-group/CoMIR issue 51](https://github.com/MIDA-group/CoMIR/issues/51),
#   [Sara-Ahmed/SiT issue 26](https://github.com/Sara-Ahmed/SiT/issues/26).
# * False negatives: RocketQA, [arXiv:2010.08191](https://arxiv.org/abs/2010.08191); GISTEmbed,
#   [arXiv:2402.16829](https://arxiv.org/abs/2402.16829); NV-Retriever,
#   [arXiv:2407.15831](https://arxiv.org/abs/2407.15831).
# * Accumulation of token means: Hugging Face,
#   [*Fixing Gradient Accumulation*](https://huggingface.co/blog/gradient_accumulation), October 2024.
#
# **Next:** lesson 10 trains sentence embeddings of real documentation with this loss, and asks where the pairs come
# from.
