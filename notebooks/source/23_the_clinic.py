# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: The clinic
#     question: How do you find what is wrong with a program that runs?
#     minutes: 210
#     part: "Part V: the next generation"
# ---

# %% [markdown]
# # 23 · The clinic
#
# > My loss of next sentence is very low, but the acc of next_correct is always near 50%.
#
# A reader of a well-known BERT repository reported this in 2018
# ([codertimo/BERT-pytorch, issue 49](https://github.com/codertimo/BERT-pytorch/issues/49)). The program ran, the loss fell,
# and the answers to *next or not?* were no better than a coin's. Bugs in training code are often like that. They raise no
# exception: they make a model that is a little worse, or a number in the log that is a little too good.

# %% [markdown]
# **The question of this lesson:** how do you find what is wrong with a program that runs?
#
# | | |
# |---|---|
# | You will | build a battery of nine tests that tells a healthy encoder from thirty sick ones; repair fifteen programs with bugs that are public and mostly famous, where hiding the symptom does not count; and correct a page of wrong prose about BERT and its successors |
# | You need | lessons 02 to 05 for attention, the encoder and the masked-language-model loss; lesson 09 for the contrastive loss. Everything else is said where it is needed |
# | It takes | about 210 minutes, eighteen exercises: the first is a build of 40 minutes, the others are short. Take the wards in any order. The machine needs less than a minute |
#
# Here are thirty sick models, one disease each, and nine tests. Before you look: does any single test catch more than half of
# them?

# %% tags=["hide-input"]
import torch

from nextbert_lite import plots
from nextbert_lite.checks import lesson_23 as check
from nextbert_lite.checks.lesson_23 import DISEASES, TESTS, Specimen

torch.manual_seed(0)
battery, caught = check.Battery(24, 16), torch.zeros(len(DISEASES), len(TESTS))
for row, disease in enumerate(DISEASES):
    for column, test in enumerate(TESTS):
        try:
            caught[row, column] = not getattr(battery, test)(Specimen(24, 16, disease))
        except (IndexError, RuntimeError):
            caught[row, column] = 1
once = int((caught.sum(1) == 1).sum())

fig, ax = plots.figure(size=(6.6, 7.2))
ax.imshow(caught, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
ax.set_xticks(range(len(TESTS)), TESTS, rotation=35, ha="left", rotation_mode="anchor")
ax.xaxis.tick_top()
ax.set_yticks(range(len(DISEASES)), DISEASES, fontsize=8)
ax.set_xticks([c - 0.5 for c in range(len(TESTS) + 1)], minor=True)
ax.set_yticks([r - 0.5 for r in range(len(DISEASES) + 1)], minor=True)
ax.grid(which="minor", color="white", linewidth=1.2)
ax.tick_params(which="both", length=0)
ax.spines[:].set_visible(False)
ax.set(xlabel="dark: this test fails for a model with this disease", ylabel="disease")
fig.suptitle(f"{once} of {len(DISEASES)} diseases are caught by one test only", x=0.01, ha="left")
plots.show(
    fig,
    alt="A grid of thirty diseases and nine tests. Most rows have a single dark cell, and the dark cells of each test lie "
    "mostly in one short block: no test catches half of the diseases.",
)
assert caught.sum(0).max() < len(DISEASES) / 2 and (caught.sum(1) >= 1).all() and once > len(DISEASES) / 2

# %%
import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import Encoder, EncoderConfig, MaskedLanguageModel, evaluating, plots, seeded
from nextbert_lite.checks import lesson_23 as check
from nextbert_lite.checks.lesson_23 import DISEASES, TESTS, Specimen

# %% tags=["parameters"]
# Another seed gives other weights, texts and batches; what the text claims should hold for it too.
seed = 0

# %% [markdown]
# ## 1. A method
#
# "Read the code again" finds the bugs that you expect. The others need a *question to the program whose answer you know*. Six
# kinds of questions find most of what is wrong in this lesson:
#
# | ask | because | example |
# |---|---|---|
# | **a tiny case by hand** | a formula with three numbers can be done on paper, and then there is no doubt who is wrong | the loss of four tokens, one of them selected |
# | **what must not matter?** | an encoder promises that some things change nothing | padding, the other texts of the batch, calling it twice |
# | **what must matter?** | what changes nothing is not used | each word, the order of the words, the mask, the weights of a loss |
# | **the gradient** | it says which parameters the loss trains | a parameter without gradient learns nothing |
# | **one batch, overfitted** | a model that cannot learn four sentences by heart cannot learn | the loss must go to 0, not only down |
# | **a reference** | somebody has written it before | torch's own layer, with which lesson 04 compares its encoder; the course's package |
#
# Two rules go with it. **Change one thing at a time**, and look at a number before and after. And **a repair is not finished
# when the symptom is gone**: an exception can be caught, a text can be cut, a seed can be fixed. Ask for the cause, and then
# ask the question again.
#
# Here is the second kind in five lines. A text of five words is read alone, and then beside a longer one. Its logits must not
# change. One of the two models adds the mask to the scores, as the numbers 0 and 1:

# %%
V, max_len = 24, 16
torch.manual_seed(seed)
healthy, sick = Specimen(V, max_len).eval(), Specimen(V, max_len, "mask added as a number").eval()
ids = torch.randint(1, V, (2, 12))  # two texts; of the first one five words are real
mask = torch.arange(12) < torch.tensor([[5], [12]])
for name, model in {"healthy": healthy, "sick": sick}.items():
    with torch.no_grad():
        beside = model(ids, mask)[0, :5]
        alone = model(ids[:1, :5], mask[:1, :5])[0]
    difference = (beside - alone).abs().max().item()
    print(f"{name:>8}: largest difference {difference:.7f}")
    assert (difference < 1e-5) == (name == "healthy")

# %% [markdown]
# The other eight tests of the first picture, `overfits` among them, do not see this disease. But this question has an exact
# answer, zero but for rounding, and so there is nothing to discuss.

# %% [markdown]
# ## 2. Your battery

# %% [markdown]
# ### Exercise 23.1 · build a battery of tests ●●● · 40 minutes
#
# Write a class `Battery` with nine methods. Each takes a masked language model and returns True when the model passes and False
# when it does not. The models are called like this:
#
# * `model(ids, mask)`, with ids (B, T) and a boolean mask (B, T), True at real tokens, gives logits (B, T, V);
# * `model.loss(ids, labels, mask)`, with labels (B, T), the word at selected tokens and -100 elsewhere, gives the mean
#   cross-entropy of the selected tokens.
#
# A model has V words, of which 0 is padding and 1 stands for [MASK], and reads up to max_len words (at least 10). It comes *in
# training mode*, most often with dropout. Your tests look at it in eval mode, leave every part in the mode in which it came, and
# do not change its weights. Equal means equal up to 1e-4.
#
# | method | True when |
# |---|---|
# | `repeats` | two calls with the same texts give the same logits |
# | `fits` | texts of max_len words give logits (B, max_len, V). An exception is an answer too, namely False |
# | `padding` | a text in a padded batch has the logits, at its real tokens, that it has alone and unpadded. What stands behind the mask may be any word |
# | `rows` | a text's logits stay when *all the other* texts of the batch are exchanged. Ask this of more rows than the first |
# | `context` | a change of one word, at whatever place, moves the logits at *every* position by more than 1e-4 |
# | `order` | for any two places i, j of a text of max_len words: to exchange the two words does more than exchange their logits |
# | `loss` | `model.loss` is the mean that you compute by hand from `model(ids, mask)`. Select different numbers of tokens in different texts |
# | `gradients` | one backward pass of the loss gives *every parameter* a gradient that is not zero everywhere |
# | `overfits` | a copy of the model, trained on one batch of three texts with 1 to 4 selected tokens each (50 steps of Adam, lr 0.02, without dropout), ends below a tenth of the loss it started with |
#
# Write one method after the other and run the check after each. It lets healthy models through your test, the thirty
# sick ones and a few more, and names those that survive. You will not see how they are made.


# %% tags=["exercise-23.1", "my-bert-clinic"]
class Battery:
    """Nine questions to a masked language model; the answer of each is True for a healthy one."""

    def __init__(self, V, max_len):
        ### BEGIN SOLUTION
        self.V, self.max_len = V, max_len

    def texts(self, B, T):
        return torch.randint(1, self.V, (B, T))

    def logits(self, model, ids, mask=None):
        with evaluating(model), torch.no_grad():
            return model(ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask)

    def batch(self):
        ids, labels = self.texts(3, 6), torch.full((3, 6), -100)
        for row, places in enumerate([[0], [1, 4], [0, 2, 3, 5]]):
            labels[row, places] = ids[row, places]
        ids[labels != -100] = 1  # [MASK]
        return ids, labels, torch.ones_like(ids, dtype=torch.bool)
        ### END SOLUTION

    def repeats(self, model):
        ### BEGIN SOLUTION
        ids = self.texts(2, 6)
        return torch.allclose(self.logits(model, ids), self.logits(model, ids), atol=1e-4)
        ### END SOLUTION

    def fits(self, model):
        ### BEGIN SOLUTION
        try:
            return self.logits(model, self.texts(2, self.max_len)).shape == (2, self.max_len, self.V)
        except (IndexError, RuntimeError):
            return False
        ### END SOLUTION

    def padding(self, model):
        ### BEGIN SOLUTION
        ids, lengths = self.texts(3, 8), [8, 5, 2]
        padded = self.logits(model, ids, torch.arange(8) < torch.tensor(lengths)[:, None])
        alone = [self.logits(model, ids[i : i + 1, :n])[0] for i, n in enumerate(lengths)]
        return all(torch.allclose(padded[i, :n], alone[i], atol=1e-4) for i, n in enumerate(lengths))
        ### END SOLUTION

    def rows(self, model):
        ### BEGIN SOLUTION
        ids, results = self.texts(4, 6), []
        for i in range(4):
            other = self.texts(4, 6)
            other[i] = ids[i]
            results.append(torch.allclose(self.logits(model, ids)[i], self.logits(model, other)[i], atol=1e-4))
        return all(results)
        ### END SOLUTION

    def context(self, model):
        ### BEGIN SOLUTION
        ids = self.texts(1, 8)
        before = self.logits(model, ids)[0]
        for t in range(8):
            changed = ids.clone()
            changed[0, t] = ids[0, t] % (self.V - 1) + 1  # another word
            moved = (self.logits(model, changed)[0] - before).abs().amax(-1)
            if not (moved > 1e-4).all():
                return False
        return True
        ### END SOLUTION

    def order(self, model):
        ### BEGIN SOLUTION
        T = self.max_len
        pairs = [(i, j) for i in range(T) for j in range(i)]
        places = torch.arange(T).repeat(len(pairs), 1)  # (pairs, T), in each row two places exchanged
        for row, (i, j) in enumerate(pairs):
            places[row, i], places[row, j] = j, i
        ids = torch.randperm(self.V - 1)[:T] + 1 if self.V > T else self.texts(1, T)[0]
        moved = self.logits(model, ids[places]) - self.logits(model, ids[None])[0][places]  # (pairs, T, V)
        return bool((moved.abs().amax((1, 2)) > 1e-4).all())
        ### END SOLUTION

    def loss(self, model):
        ### BEGIN SOLUTION
        ids, labels, mask = self.batch()
        logits, selected = self.logits(model, ids, mask), labels != -100
        by_hand = -logits.log_softmax(-1)[selected].gather(1, labels[selected][:, None]).mean()
        with evaluating(model), torch.no_grad():
            return torch.allclose(model.loss(ids, labels, mask), by_hand, atol=1e-4)
        ### END SOLUTION

    def gradients(self, model):
        ### BEGIN SOLUTION
        model = copy.deepcopy(model).eval()
        model.zero_grad()
        model.loss(*self.batch()).backward()
        return all(p.grad is not None and (p.grad != 0).any().item() for p in model.parameters())
        ### END SOLUTION

    def overfits(self, model):
        ### BEGIN SOLUTION
        model, batch = copy.deepcopy(model).eval(), self.batch()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        start = model.loss(*batch).item()
        for _ in range(50):
            optimizer.zero_grad()
            loss = model.loss(*batch)
            loss.backward()
            optimizer.step()
        return loss.item() < start / 10
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.battery(Battery)

# %% tags=["nbval-check-output"]
Battery = check.mine("23.1", Battery)

# %% [markdown]
# ## 3. Which test for which disease?
#
# The picture of the first screen was made with the course's battery. Here is yours. First the control: a battery that calls
# everything sick would catch every disease. Five healthy models, and the course's own encoder with its masked-language-model
# head, must pass all nine tests:


# %% tags=["nbval-check-output"]
def diagnose(model, tests=TESTS):
    """Return the names of the tests that the model fails."""
    failed = []
    for test in tests:
        try:
            passed = getattr(battery, test)(model)
        except (IndexError, RuntimeError):  # a test of something else met a model that does not run
            passed = False
        failed += [] if passed else [test]
    return failed


torch.manual_seed(seed)
battery = Battery(V, max_len)
for number in range(5):
    assert diagnose(Specimen(V, max_len, dropout=0.1 * (number % 2)).train()) == []
course = MaskedLanguageModel(
    Encoder(EncoderConfig(vocab_size=V, max_len=max_len, width=16, heads=2, init_std="fan_in"))
)
print("five healthy models and the course's own: failed", diagnose(course.train()))
assert diagnose(course) == []

# %% [markdown]
# Now the thirty. Each meets the test of your battery that is there for it, and must fail. The other tests that fail, as the
# first screen found them, are printed behind it:

# %%
findings = {
    disease: [test for test, dark in zip(TESTS, row, strict=True) if dark]
    for disease, row in zip(DISEASES, caught, strict=True)
}
for disease, (own, said) in DISEASES.items():
    assert diagnose(Specimen(V, max_len, disease).train(), [own]) == [own], said
    print(f"{disease:>24}: {own:<10}", *(test for test in findings[disease] if test != own))
alone = [disease for disease, failed in findings.items() if len(failed) == 1]
print(f"\n{len(alone)} of {len(DISEASES)} diseases are found by one test alone")
assert len(alone) > len(DISEASES) / 2 and sum("fits" in failed for failed in findings.values()) == 2
assert all(findings[disease] == ["context"] for disease in ("causal", "anticausal", "neighbours only"))
assert findings["softmax over queries"] == findings["mask ignored"] == ["padding"]
assert findings["positions clamped"] == ["order"] and findings["mean of means"] == ["loss"]

# %% [markdown]
# Three things to see:
#
# * A causal mask in an encoder, a softmax over the wrong dimension, clamped positions: for each of them **one question of nine**
#   knows the answer. If you test shapes only (`fits`), you find two of thirty.
# * A test also fails for a neighbour's disease. When words attend to the other texts (`batch first`), `padding` and `context`
#   fail as well. Read the failures together before you look for two causes.
# * `softmax twice` and `cosines as logits` keep all promises that the other eight tests ask about. Of the nine, only training
#   shows that something *cannot* be right.

# %% [markdown]
# ### Exercise 23.2 · predict the result ●●○ · 5 minutes
#
# A model returns probabilities, because somebody put a softmax at its end. `F.cross_entropy` expects logits and applies a softmax
# of its own. You train for ever, with V = 24 words, on a batch that a healthy model learns by heart. What is the lowest loss that
# this model can reach? Two digits after the point; `math` helps.

# %% tags=["exercise-23.2"]
lowest_loss = None
### BEGIN SOLUTION
lowest_loss = math.log(1 + 23 / math.e)  # -ln of e¹ / (e¹ + 23 e⁰)
### END SOLUTION

# %% tags=["nbval-check-output"]
check.double_softmax(lowest_loss)

# %%
torch.manual_seed(seed)
model = Specimen(V, max_len, "softmax twice", dropout=0.0)
ids = torch.randint(2, V, (3, 6))
labels = torch.full((3, 6), -100).index_put((torch.arange(3), torch.tensor([1, 3, 4])), ids[range(3), [1, 3, 4]])
batch = ids.masked_fill(labels != -100, 1), labels, torch.ones(3, 6, dtype=torch.bool)
optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.02), []
for _ in range(150):
    optimizer.zero_grad()
    loss = model.loss(*batch)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
bound = math.log(1 + (V - 1) / math.e)
print(f"start {losses[0]:.3f} (ln 24 = {math.log(V):.3f}), after 150 steps {losses[-1]:.3f}, bound {bound:.3f}")
assert min(losses) > bound - 1e-4 and losses[-1] < bound + 0.01 and losses[0] > bound + 0.4

# %% [markdown]
# It starts near ln V, whatever the first weights are, because the softmax of 24 numbers between 0 and 1 is nearly even. Then it
# falls, and in a log it looks like slow learning. The reporter of
# [ariecattan/SciCo, issue 2](https://github.com/ariecattan/SciCo/issues/2) saw a *validation* loss stuck near 1.0, because the
# second softmax stood in the evaluation alone. The bound that the report gives, "roughly 0.74", is ln(1 + 3/e), that of the
# program's four classes.
#
# Now to the wards. Each patient has a file: what its author saw, the program, and a cell that shows the symptom as a number. You
# write the program right. The check refuses a repair that only hides the symptom, and says how. The symptoms are collected, and
# the last round (section 10) takes them again from the repaired programs:

# %% tags=["nbval-check-output"]
rounds = {}  # exercise -> (name, symptom: program -> number, the sick program, what a healthy number is)


def admit(exercise, name, symptom, program, healthy):
    """Take a patient in: show its symptom, and see that it is one."""
    rounds[exercise] = name, symptom, program, healthy
    number = symptom(program)
    assert not healthy(number), f"{name}: {number} is no symptom"
    return number


print("patients so far:", len(rounds))

# %% [markdown]
# ## 4. First ward: shapes and layouts

# %% [markdown]
# ### Exercise 23.3 · the short table ●○○ · 5 minutes
#
# **Complaint.** "It trained for days on sentences. On the first paragraph it died: *IndexError: index out of range in self*."
# The author then cut all texts at the width of the model, "because that is what it can take".


# %% tags=["nbval-check-output"]
class ShortTable(nn.Module):
    """Token + position embeddings for texts of up to max_len tokens."""

    def __init__(self, V, C, max_len):
        super().__init__()
        self.tokens = nn.Embedding(V, C)
        self.positions = nn.Embedding(C, C)

    def forward(self, ids):
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))


def longest_text(program):
    """Return the length of the longest text that runs, of 64."""
    embed = program(V=30, C=16, max_len=64)
    for T in range(1, 65):
        try:
            embed(torch.zeros(1, T, dtype=torch.long))
        except IndexError:
            return T - 1
    return 64


longest = admit("23.3", "short table", longest_text, ShortTable, lambda n: n == 64)
print(f"max_len is 64, and the longest text that runs has {longest} tokens")

# %% [markdown]
# Write the class right: `tokens` and `positions` keep their names, are both nn.Embedding, and any text of up to max_len tokens gives
# (B, T, C), where place t gets row t of a table with exactly max_len rows.


# %% tags=["exercise-23.3"]
class Embeddings(nn.Module):
    """Token + position embeddings for texts of up to max_len tokens."""

    def __init__(self, V, C, max_len):
        ### BEGIN SOLUTION
        super().__init__()
        self.tokens = nn.Embedding(V, C)
        self.positions = nn.Embedding(max_len, C)  # a row for each place
        ### END SOLUTION

    def forward(self, ids):
        ### BEGIN SOLUTION
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.embeddings(Embeddings)

# %% [markdown]
# **Discharge.** The line stands in an article on BERT's successors that circulates on the web (lesson 01 quotes it). With C = 768
# and sentences of 100 tokens nobody notices. The test that finds it is the dullest one: *run it once at full length*.

# %% [markdown]
# ### Exercise 23.4 · the layer as it comes ●●○ · 8 minutes
#
# **Complaint.** "Validation loss depends on the batch size. With batches of one it is much worse." A reader of a public exercise
# sheet saw "high training loss and test error" ([TorchLeet, issue 5](https://github.com/Exorust/TorchLeet/issues/5)).


# %%
def layer_as_it_comes(C, H):
    return nn.TransformerEncoderLayer(C, H)


def change_by_neighbours(program):
    """Return how much a text's vectors change when it is read alone instead of in a batch of three."""
    torch.manual_seed(seed)
    layer, x = program(16, 4).eval(), torch.randn(3, 5, 16)
    with torch.no_grad():
        return (layer(x)[:1] - layer(x[:1])).abs().max().item()


change = admit("23.4", "layer as it comes", change_by_neighbours, layer_as_it_comes, lambda n: n < 1e-5)
print(f"read alone, the first text's vectors change by up to {change:.2f}")

# %% [markdown]
# Write `new_layer(C, H)`: it returns a layer of torch, or a module around one, that reads x (B, T, C) and is BERT's: a text's words
# attend to one another and to nothing else, the feed-forward network has 4C hidden features and GELU, layer norms come after the
# residuals, and there is no dropout (0.0).


# %% tags=["exercise-23.4"]
def new_layer(C, H):
    """-> a module, x: (B, T, C) -> (B, T, C)"""
    ### BEGIN SOLUTION
    return nn.TransformerEncoderLayer(C, H, 4 * C, dropout=0.0, activation="gelu", batch_first=True)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.layer(new_layer)

# %% [markdown]
# **Discharge.** torch's layer reads (T, B, C) unless told otherwise, for the sake of old programs; so the *first word of every
# text* attended to the first words of the other texts. No shape is wrong, ever. `batch_first=True` has been there since 2021
# ([pytorch issue 43112](https://github.com/pytorch/pytorch/issues/43112)). The other three defaults (2048 features, ReLU, dropout
# 0.1) are those of the Transformer of 2017. A test that permutes the batch does not find this disease, because attention over the
# batch permutes with it; `rows` does.

# %% [markdown]
# ### Exercise 23.5 · it raises for every shape ●●○ · 12 minutes
#
# **Complaint.** "An exception, whatever I feed it." This contrastive module, simplified here, is printed in the same article. In
# this form nobody can have run it. Look at the error first: what does the cross-entropy get, and what would it need?


# %% tags=["nbval-check-output"]
def never_run(anchors, positives, negatives, temperature):
    logits = torch.cat([anchors, positives, negatives]) / temperature
    logits = logits - logits.mean(0)
    labels = torch.zeros(len(logits) - 1, dtype=torch.long)
    labels[0] = 1
    loss = F.cross_entropy(logits[0], labels)
    for i, logit in enumerate(logits[1:]):
        labels[i] = 0
        loss = loss + F.cross_entropy(logit, labels)
    return loss


def shapes_that_raise(program):
    """Return for how many of 18 shapes (B, N, C) the program raises."""
    raised = 0
    for B, N, C in [(B, N, C) for B in (2, 4, 7) for N in (1, 4, 6) for C in (4, 16)]:
        try:
            program(torch.randn(B, C), torch.randn(B, C), torch.randn(N, C), 0.1)
        except (ValueError, IndexError, RuntimeError):
            raised += 1
    return raised


raised = admit("23.5", "contrastive module", shapes_that_raise, never_run, lambda n: n == 0)
print(f"raises for {raised} of 18 shapes")

# %% [markdown]
# Write `contrast`: anchors and positives are (B, C), row i of both belongs together; negatives are (N, C). The scores are cosines
# divided by the temperature. Each anchor's right answer is its own positive; wrong answers are all other positives and all
# negatives. Return the mean cross-entropy over the anchors, a scalar tensor.


# %% tags=["exercise-23.5"]
def contrast(anchors, positives, negatives, temperature):
    """anchors, positives: (B, C), negatives: (N, C) -> the mean loss, a scalar"""
    ### BEGIN SOLUTION
    keys = F.normalize(torch.cat([positives, negatives]), dim=-1)
    scores = F.normalize(anchors, dim=-1) @ keys.T / temperature  # (B, B + N)
    return F.cross_entropy(scores, torch.arange(len(anchors)))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.contrastive(contrast)

# %% [markdown]
# **Discharge.** The smallest change that makes it run gives it one label for each vector, and then it trains: the first vector
# of the batch should have a large second feature, and every other vector a large first one, whatever the texts say. *To stop the
# exception is not to repair.* The mean that was subtracted over the batch is a second trap; a softmax ignores a number that is
# taken from a whole row, and this one is another in each column.

# %% [markdown]
# ## 5. Second ward: masks

# %% [markdown]
# ### Exercise 23.6 · the mask in the wrong place ●●○ · 8 minutes
#
# **Complaint.** "It works with batches of 5 and crashes with batches of 6. My texts have 5 words." The layer is torch's, with
# `batch_first=True`.


# %%
def mask_in_the_wrong_place(layer, x, mask):
    return layer(x, mask)


def change_by_padding(program):
    """Return how much the real tokens' vectors differ from those of each text alone; B = T = 5."""
    torch.manual_seed(seed)
    layer, x = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True), torch.randn(5, 5, 16)
    lengths = [4, 5, 2, 3, 4]
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together = program(layer, x, mask)
        alone = torch.cat([layer(x[i : i + 1, :n])[0] for i, n in enumerate(lengths)])
    return (together[mask] - alone).abs().nan_to_num(torch.inf).max().item()


change = admit("23.6", "mask in the wrong place", change_by_padding, mask_in_the_wrong_place, lambda n: n < 1e-5)
print(f"five texts of up to five words: it runs, and the real tokens' vectors are off by up to {change:.2f}")

# %% [markdown]
# Write `encode(layer, x, mask)`: layer is an `nn.TransformerEncoderLayer` with `batch_first=True`, x is (B, T, C), mask (B, T), True at
# real tokens. Return (B, T, C), where the real tokens have the vectors that they have without padding. What the padding gets is not
# looked at.


# %% tags=["exercise-23.6"]
def encode(layer, x, mask):
    """x: (B, T, C), mask: (B, T), True = a real token -> (B, T, C)"""
    ### BEGIN SOLUTION
    return layer(x, src_key_padding_mask=~mask)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.padding_mask(encode)

# %% [markdown]
# **Discharge.** The second argument is `src_mask`, (T, T): *which word may look at which place*, the same for all texts. With
# B = T a padding mask has that shape by accident. And the sign is the other way round: for this layer True means *hide*, for
# `F.scaled_dot_product_attention` and this course True means *look*. (What the difference between the two is was asked of torch
# in 2020 and sent to the forum, [pytorch issue 39439](https://github.com/pytorch/pytorch/issues/39439).) Two questions find all of this: try
# B ≠ T, and compare a text with itself alone.

# %% [markdown]
# ### Exercise 23.7 · the mean that knows its neighbours ●○○ · 6 minutes
#
# **Complaint.** "The same sentence has another embedding every time the index is built." The search engine embeds texts in batches,
# in whatever order they come.

# %%
from nextbert_lite import COURSE_SENTENCE, ToyWorld, load, pad

world = ToyWorld()
tokenizer, encoder = world.tokenizer(), load("toy-small").model.encoder.eval()
sentence = tokenizer.encode(COURSE_SENTENCE)
long_text = [tokenizer.cls_id, *sentence[1:-1] * 3, tokenizer.sep_id]


def mean_that_counts_padding(hidden, mask):
    return hidden.mean(1)


def change_of_the_mean(program):
    """Return 1 - the cosine of a sentence's vector, alone and in a batch with a text three times as long."""
    with torch.no_grad():
        (ids, mask), (both, both_mask) = pad([sentence]), pad([sentence, long_text])
        alone, beside = program(encoder(ids, mask), mask)[0], program(encoder(both, both_mask), both_mask)[0]
    return 1 - F.cosine_similarity(alone, beside, dim=0).item()


change = admit("23.7", "mean with padding", change_of_the_mean, mean_that_counts_padding, lambda n: abs(n) < 1e-5)
print(f"alone and beside a longer text: the vectors' cosine is {1 - change:.3f}")

# %% [markdown]
# Write `mean_vector(hidden, mask)`: hidden (B, T, C), mask (B, T), True at real tokens, at least one in each text. Return (B, C), the
# mean over the real tokens, in the dtype of hidden.


# %% tags=["exercise-23.7"]
def mean_vector(hidden, mask):
    """hidden: (B, T, C), mask: (B, T) -> (B, C)"""
    ### BEGIN SOLUTION
    weights = mask[:, :, None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.pooling(mean_vector)

# %% [markdown]
# **Discharge.** The attention was masked correctly. But a padding position has a vector of its own all the same, and `.mean(1)` takes
# it in. ([transformers issue 17463](https://github.com/huggingface/transformers/issues/17463) asks why padded positions are not
# zeros; nobody promised that.) Normalising the vector afterwards hides one half of the bug, the divisor, and not the other.

# %% [markdown]
# ### Exercise 23.8 · find the bug ●●○ · 10 minutes
#
# **Complaint.** "If every word has the *same* value vector, attention can only return that vector: an average of equal things. Mine
# returns others, and the padding gets through." The function worked for years in a model with one head, where q, k and v were
# (B, T, D).


# %%
def attend_of_old(q, k, v, mask):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask, -1e9).softmax(dim=2)
    return weights @ v


def change_of_equal_values(program):
    """Return how far the result is from 1 where all values of real tokens are 1 and those of the padding 0."""
    q, k = torch.randn(2, 3, 2, 6, 4, generator=seeded(seed))
    mask = (torch.arange(6) < torch.tensor([6, 3, 4])[:, None])[:, None, None, :]  # (B, 1, 1, T)
    v = mask.mT.float().expand(3, 2, 6, 4)
    return (program(q, k, v, mask) - 1).abs().max().item()


change = admit("23.8", "attention of old", change_of_equal_values, attend_of_old, lambda n: n < 1e-5)
print(f"values of 1 come back wrong by up to {change:.2f}")

# %% [markdown]
# Write `attend(q, k, v, mask)`: q, k, v (B, H, T, D), mask boolean (B, 1, 1, T), True = may be attended to. Return (B, H, T, D), each
# word's average of the values by its weights. No text is all padding.


# %% tags=["exercise-23.8"]
def attend(q, k, v, mask):
    """q, k, v: (B, H, T, D), mask: (B, 1, 1, T) -> (B, H, T, D)"""
    ### BEGIN SOLUTION
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask, -1e9).softmax(dim=-1)  # over the keys, whatever stands in front
    return weights @ v
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.attention(attend)

# %% [markdown]
# **Discharge.** *Each row of weights sums to 1* (lesson 02): that question finds the bug. It is not the whole test, because wrong
# weights that are divided by their sum pass it, too. The padding's values of 0 above show whether the padding has weight. Public cases:
# [fastNLP issue 254](https://github.com/FudanNLP/fastNLP/issues/254), where `dim=2` met four dimensions;
# [labml issue 146](https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/146), where the module
# "seems to work somehow". The reporter trained both versions, found no difference in the quality of the images (FID), and with
# longer training a small one in favour of the bug. A network learns around much. That the results look good is no test.

# %% [markdown]
# ## 6. Third ward: losses and their means

# %% [markdown]
# ### Exercise 23.9 · the weights that do nothing ●○○ · 6 minutes
#
# **Complaint.** "I select 15 % of the tokens, or 50 %, or none of the padding: the loss is the same to the last digit."


# %%
def weights_that_do_nothing(logits, labels, weights):
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return (loss * weights).sum() / weights.sum()


def effect_of_the_weights(program):
    """Return how much the loss of the same logits changes when other tokens are selected."""
    logits = 2 * torch.randn(2, 8, 30, generator=seeded(seed, 1))
    labels = torch.randint(30, (2, 8), generator=seeded(seed, 2))
    first, last = (torch.arange(8) < 4).float().expand(2, 8), (torch.arange(8) >= 4).float().expand(2, 8)
    return abs(program(logits, labels, first) - program(logits, labels, last)).item()


effect = admit("23.9", "weights without effect", effect_of_the_weights, weights_that_do_nothing, lambda n: n > 1e-3)
print(f"first or second half selected: the loss changes by {effect:.6f}")

# %% [markdown]
# Write `masked_mean(logits, labels, weights)`: logits (B, T, V), labels (B, T) with a word at *every* position, weights (B, T), 1.0 at the
# selected tokens and 0.0 elsewhere, at least one 1. Return the mean cross-entropy over the selected tokens of the batch, a scalar.


# %% tags=["exercise-23.9"]
def masked_mean(logits, labels, weights):
    """logits: (B, T, V), labels: (B, T), weights: (B, T), 1.0 where selected -> the mean loss, a scalar"""
    ### BEGIN SOLUTION
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    return (each * weights).sum() / weights.sum()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.masked_loss(masked_mean)

# %% [markdown]
# **Discharge.** From the PyTorch version of a textbook ([d2l-en issue 2582](https://github.com/d2l-ai/d2l-en/issues/2582)). The version for
# another library was right, because there the loss is one number a token by default
# ([pull request 2688](https://github.com/d2l-ai/d2l-en/pull/2688)). The question that finds it: *what must matter?* Change the weights, and the
# loss must change.

# %% [markdown]
# ### Exercise 23.10 · half of the pairs ●●○ · 8 minutes
#
# **Complaint.** "The loss of next sentence is very low, and the accuracy stays at 50 %." Exercise 07.4 has this disease too. Here it is with
# its symptom: a linear layer learns which of two kinds a vector is, a task that can be solved perfectly.


# %% tags=["nbval-check-output"]
def half_of_the_pairs(pair_logits, is_next, word_logits, word_labels):
    criterion = nn.CrossEntropyLoss(ignore_index=0)  # the words' label 0: not selected
    return criterion(pair_logits, is_next) + criterion(word_logits.flatten(0, 1), word_labels.flatten())


def pair_accuracy(program):
    """Train a linear layer on 64 vectors of two kinds with the program's loss -> its accuracy on them."""
    x, is_next = 0.1 * torch.randn(64, 8, generator=seeded(seed)), torch.arange(64) % 2
    x[:, 0] += 3.0 * is_next
    words, labels = torch.zeros(1, 2, 5), torch.tensor([[3, 0]])
    weight = torch.zeros(8, 2, requires_grad=True)
    bias = torch.zeros(2, requires_grad=True)
    for _ in range(100):
        loss = program(x @ weight + bias, is_next, words, labels)
        for parameter, gradient in zip((weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True):
            parameter.data -= 1.0 * gradient
    return ((x @ weight + bias).argmax(-1) == is_next).double().mean().item()


reached = admit("23.10", "half of the pairs", pair_accuracy, half_of_the_pairs, lambda n: n > 0.95)
print(f"accuracy of the pairs after training: {reached:.2f}")

# %% [markdown]
# Write `both_losses`: pair_logits (B, 2), is_next (B,) with 1 for *next* and 0 for *not next*; word_logits (B, T, V), word_labels (B, T), 0
# where no word was selected; at least one was. Return the mean loss of the pairs plus the mean loss of the selected words, a scalar.


# %% tags=["exercise-23.10"]
def both_losses(pair_logits, is_next, word_logits, word_labels):
    """-> the sum of the two mean losses, a scalar"""
    ### BEGIN SOLUTION
    words = F.cross_entropy(word_logits.flatten(0, 1), word_labels.flatten(), ignore_index=0)
    return F.cross_entropy(pair_logits, is_next) + words
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.two_losses(both_losses)

# %% [markdown]
# **Discharge.** [codertimo/BERT-pytorch, issue 32](https://github.com/codertimo/BERT-pytorch/issues/32): "pred_loss decrease fast while
# avg_acc stay at 50%". Two days later the author split the criterion on a branch (`codertimo-next-test`) and never merged it: the
# trainer on `master` still has the one. The advice in
# [issue 98](https://github.com/codertimo/BERT-pytorch/issues/98), to drop `ignore_index` everywhere, is the other mistake: then the
# word loss counts every token that was *not* selected. Two numbers that contradict each other, a loss near 0 and an accuracy of a
# coin, are a gift: one of them measures something else than you think.

# %% [markdown]
# ### Exercise 23.11 · mean of means ●●○ · 12 minutes
#
# **Complaint.** "With gradient accumulation the loss curve is another one, though it should be the same training." In October 2024
# this was found in the most used trainers ([Hugging Face, *Fixing Gradient
# Accumulation*](https://huggingface.co/blog/gradient_accumulation)); it had been reported in 2023
# ([transformers issue 24725](https://github.com/huggingface/transformers/issues/24725)).


# %%
def mean_of_means(model, batches):
    total = 0.0
    for ids, labels in batches:
        loss = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten()) / len(batches)
        loss.backward()
        total += loss.item()
    return total


def error_of_the_gradient(program):
    """Return the relative error of the accumulated gradient: 1, 4 and 20 selected tokens in three micro-batches."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 30)).double()
    batches = []
    for n in (1, 4, 20):
        ids = torch.randint(30, (2, 10))
        batches.append((ids, ids.flatten().masked_fill(torch.arange(20) >= n, -100).view(2, 10)))
    program(model, batches)
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    ids, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    F.cross_entropy(model(ids).flatten(0, 1), labels.flatten()).backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters()])
    return ((found - whole).norm() / whole.norm()).item()


error = admit("23.11", "mean of means", error_of_the_gradient, mean_of_means, lambda n: n < 1e-10)
print(f"the accumulated gradient is off by {error:.0%} of the large batch's")

# %% [markdown]
# Write `accumulate(model, batches)`: batches is a list of (ids, labels), each (B, T), where B and T differ from one to the next; labels are
# -100 where no token was selected, and each micro-batch has at least one selected token. `model(ids)` gives logits (B, T, V). Add to the
# parameters' gradients the gradient of the *mean loss over all selected tokens of all micro-batches*, and return that mean as one
# number. Do not set gradients to zero.


# %% tags=["exercise-23.11"]
def accumulate(model, batches):
    """batches: a list of (ids, labels), each (B, T) -> the mean loss over all selected tokens, a float"""
    ### BEGIN SOLUTION
    total = sum(int((labels != -100).sum()) for _, labels in batches)
    whole = 0.0
    for ids, labels in batches:
        loss = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), reduction="sum") / total
        loss.backward()
        whole += loss.item()
    return whole
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.accumulation(accumulate)

# %% [markdown]
# **Discharge.** A mean of means weights *batches* equally, so the one token of the first micro-batch counted twenty times as much as a
# token of the third. The same mistake in other clothes: the epoch's accuracy as the mean of its batches' accuracies
# ([pytorch-lightning issue 2924](https://github.com/Lightning-AI/pytorch-lightning/issues/2924)), and data parallelism that averages
# the ranks' means. The test is a reference: one large batch.

# %% [markdown]
# ## 7. Fourth ward: sampling

# %% [markdown]
# ### Exercise 23.12 · 81, 10, 9 ●●○ · 8 minutes
#
# **Complaint.** None. The model is fine. Somebody counted.


# %% tags=["nbval-check-output"]
def two_draws(ids, selected, mask_id, V, generator=None):
    keep = selected & (torch.rand(ids.shape, generator=generator) < 0.1)
    random = selected & (torch.rand(ids.shape, generator=generator) < 0.1)
    words = torch.randint(V, ids.shape, generator=generator)
    corrupted = ids.masked_fill(selected & ~keep & ~random, mask_id)
    return torch.where(random, words, corrupted)


def percent_masked(program):
    """Return how many per cent of 500,000 selected tokens become [MASK]."""
    ids = torch.full((500_000,), 7)
    corrupted = program(ids, torch.ones_like(ids, dtype=torch.bool), 1000, 900, seeded(seed))
    return 100 * (corrupted == 1000).double().mean().item()


masked = admit("23.12", "81, 10, 9", percent_masked, two_draws, lambda n: abs(n - 80) < 0.5)
print(f"{masked:.0f} % of the selected tokens become [MASK]")

# %% [markdown]
# Write `corrupt_ids(ids, selected, mask_id, V, generator=None)`: of the selected tokens 80 % become mask_id, 10 % a random word, each place its
# own, from 0 to V - 1 (which may happen to be the old one), and 10 % stay; all others stay. Return new ids of the same shape and dtype.
# All random numbers come from `generator`, or from torch's own where it is None.


# %% tags=["exercise-23.12"]
def corrupt_ids(ids, selected, mask_id, V, generator=None):
    """ids, selected: (…) -> corrupted ids, (…)"""
    ### BEGIN SOLUTION
    draw = torch.rand(ids.shape, generator=generator)  # one draw decides
    words = torch.randint(V, ids.shape, generator=generator)
    corrupted = ids.masked_fill(selected & (draw < 0.8), mask_id)
    return torch.where(selected & (draw >= 0.8) & (draw < 0.9), words, corrupted)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.corruption(corrupt_ids)

# %% [markdown]
# **Discharge.** This is how labml's annotated implementation draws, and it does no harm that we know of (lesson 05: in the toy world
# the price of 80/10/10 itself is tiny). Why repair it? Because a paper says 80/10/10, and a reader who counts should find that. In
# [mlm-pytorch issue 6](https://github.com/lucidrains/mlm-pytorch/issues/6) the first repair of another bug produced exactly 81/10/9
# again. And a bug that nobody can see in the loss is still seen by counting.

# %% [markdown]
# ### Exercise 23.13 · the mask that never changes ●○○ · 6 minutes
#
# **Complaint.** "After many epochs the training loss is almost 0, and the validation loss has risen. I need more text." Lesson 07 measured
# what happens when few texts are trained for many epochs with one mask each.


# %% tags=["nbval-check-output"]
def masked_once(rows, corrupt, epochs):
    masked = [corrupt(row) for row in rows]
    return [masked for _ in range(epochs)]


def masks_of_a_text(program):
    """Return how many different masks the first of three texts meets in ten epochs."""
    torch.manual_seed(seed)
    rows = [torch.arange(1, 31) for _ in range(3)]
    epochs = program(rows, lambda row: row.masked_fill(torch.rand(row.shape) < 0.3, 0), 10)
    return len({tuple(epoch[0].tolist()) for epoch in epochs})


masks = admit("23.13", "masked once", masks_of_a_text, masked_once, lambda n: n == 10)
print(f"different masks in ten epochs: {masks}")

# %% [markdown]
# Write `epochs_of(rows, corrupt, epochs)`: rows is a list of texts, `corrupt(row)` returns a corrupted copy and draws new random numbers at
# each call. Return a list of `epochs` lists; in each, entry i is text i, corrupted anew. Set no seed.


# %% tags=["exercise-23.13"]
def epochs_of(rows, corrupt, epochs):
    """-> a list of epochs, each a list of corrupted rows"""
    ### BEGIN SOLUTION
    return [[corrupt(row) for row in rows] for _ in range(epochs)]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.epochs_of_masks(epochs_of)

# %% [markdown]
# **Discharge.** A data set that masks in `__init__` is masked once. keras-hub's BERT example masked before training, as
# BERT's own script does ([issue 796](https://github.com/keras-team/keras-hub/issues/796) asks for the other way); BERT made ten
# copies; RoBERTa made it *dynamic*. A seed that is set at the start of each epoch, "for reproducibility", brings the disease back. The question that finds
# it: *what must differ?*

# %% [markdown]
# ### Exercise 23.14 · the words that never come ●●● · 15 minutes
#
# **Complaint.** "My sampler's texts have a better perplexity than the model deserves." To draw from a softmax, add to each logit an
# independent noise −ln(−ln u), with u uniform between 0 and 1, and take the largest sum (the *Gumbel-max trick*). The logits come from
# a model in half precision, and the noise gets their dtype.


# %%
def noise_like_logits(logits):
    u = torch.rand_like(logits)
    return (logits - (-u.log()).log()).argmax(-1)


def proportion_of_rare_words(program):
    """Return how often 400 rare words are drawn, divided by how often they should be."""
    torch.manual_seed(seed)
    row = torch.cat([torch.tensor([0.0, -1.0]), torch.full((400,), -9.0)]).half()
    expected = row.double().softmax(-1)[2:].sum()
    return ((program(row.expand(8000, -1).contiguous()) >= 2).double().mean() / expected).item()


drawn = admit("23.14", "coarse noise", proportion_of_rare_words, noise_like_logits, lambda n: 0.7 < n < 1.3)
print(f"the rare words come {drawn:.2f} times as often as they should")

# %% [markdown]
# Write `draw(logits)`: logits (N, V) of any float dtype. Return N ids, (N,), int64, row i drawn from the softmax of row i, by any method, with
# random numbers *as fine as float64*, from torch's own generator.


# %% tags=["exercise-23.14"]
def draw(logits):
    """logits: (N, V) -> ids, (N,)"""
    ### BEGIN SOLUTION
    u = torch.rand(logits.shape, dtype=torch.float64)
    return (logits.double() - (-u.log()).log()).argmax(-1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.drawing(draw)

# %% [markdown]
# How rare is too rare? One word has the probability 0.95, and n rare words share the other 0.05. Together they should be drawn in 5 %
# of the cases, whatever n is. We draw 8,000 times with noise of each precision. Which of the three will fail, and from which n on?

# %%
sizes, measured = [1, 4, 16, 64, 256, 1024], {}
for dtype in (torch.float16, torch.float32, torch.float64):
    largest = torch.nextafter(torch.tensor(1.0, dtype=dtype), torch.tensor(0.0, dtype=dtype)).double().item()
    print(f"{str(dtype)[6:]}: with the last number below 1 the noise is {-math.log(-math.log(largest)):.1f}")
    torch.manual_seed(seed)
    measured[dtype] = []
    for n in sizes:
        logits = torch.tensor([0.95] + n * [0.05 / n]).log()
        u = torch.rand(8000, n + 1, dtype=dtype)
        drawn = (logits - (-u.log()).log()).argmax(-1)
        measured[dtype].append((drawn > 0).double().mean().item() / 0.05)
    print("   drawn / expected:", *(f"{ratio:.2f}" for ratio in measured[dtype]))
error = math.sqrt(0.95 / (0.05 * 8000))  # of a ratio
assert measured[torch.float16][-1] < 0.5
assert all(abs(ratio - 1) < 5 * error for dtype in (torch.float32, torch.float64) for ratio in measured[dtype])

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(6.4, 3.2))
for (dtype, ratios), style in zip(measured.items(), ["o-", "s-", "^:"], strict=True):
    ax.plot(sizes, ratios, style, markersize=5, label=str(dtype)[6:])
ax.axhline(1, color=plots.GREY, linewidth=1)
ax.set(xscale="log", xlabel="rare words that share a probability of 0.05", ylabel="drawn / expected", ylim=(0, 1.4))
ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
ax.minorticks_off()
ax.set_title("Half precision loses the rare words")
ax.legend(title="noise in", loc="lower left")
plots.show(
    fig,
    alt="How often rare words are drawn, divided by how often they should be, against their number: with noise in float32 and float64 the "
    "ratio stays near 1, in float16 it falls far below 1 once the words are rare enough.",
)

# %% [markdown]
# **Discharge.** float32 looks healthy here, and it has the same disease further out: its noise ends at 16.6. Zheng et al. found in 2024
# ([arXiv:2409.02908](https://arxiv.org/abs/2409.02908)) that this is enough to lower the effective temperature of samplers for masked
# diffusion models (lesson 17), so that published perplexities looked better than they were. Inference engines weigh it against speed:
# vLLM went from float64 to float32, back to float64 ([pull request 37798](https://github.com/vllm-project/vllm/pull/37798)), and then
# left the choice to the user, with float32 as the default ([pull request
# 41775](https://github.com/vllm-project/vllm/pull/41775)). It has since drawn that noise as −ln(−ln(1 − u)): the rare words then hang
# on the u near 0, where float32 is finer ([pull request 45996](https://github.com/vllm-project/vllm/pull/45996)). The check looked at
# the dtype in which you drew your random numbers, and to which you converted them, because a test that tells float32 from float64
# needs very many of them. One in vLLM ([pull request 43150](https://github.com/vllm-project/vllm/pull/43150)) drew 100,000 times with
# 262,144 rare words: 32.8 of these were expected, float64 drew 32, and float32 none.

# %% [markdown]
# ## 8. Fifth ward: training loops

# %% [markdown]
# ### Exercise 23.15 · the accuracy that wavers ●●○ · 8 minutes
#
# **Complaint.** "I evaluate twice and get two numbers." The maintainers' answer, again and again: "You probably forgot to deactivate
# the DropOut modules with `model.eval()`" ([transformers issue 432](https://github.com/huggingface/transformers/issues/432)).


# %%
def wavering_accuracy(model, ids, labels):
    with torch.no_grad():
        return (model(ids).argmax(-1) == labels).double().mean().item()


def missing_accuracy(program):
    """Return how much of the accuracy is missing for a model that is always right without dropout."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(40, 16), nn.Dropout(0.5), nn.Linear(16, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    ids = torch.randint(40, (400,))
    labels = model.eval()(ids).argmax(-1)
    return 1 - program(model.train(), ids, labels)


missing = admit("23.15", "dropout in evaluation", missing_accuracy, wavering_accuracy, lambda n: n == 0)
print(f"a model that is right in all of 400 cases has an accuracy of {1 - missing:.2f}")

# %% [markdown]
# Write `accuracy(model, ids, labels)`: `model(ids)` gives logits (N, K), labels is (N,). Return the accuracy without dropout, one number. No
# graph for gradients is built, and afterwards *each part* of the model is in the mode, training or eval, in which it came: some parts may be in
# eval mode for good.


# %% tags=["exercise-23.15"]
def accuracy(model, ids, labels):
    """-> the proportion of right answers without dropout"""
    ### BEGIN SOLUTION
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    with torch.no_grad():
        right = (model(ids).argmax(-1) == labels).float().mean().item()
    for part, mode in modes:
        part.training = mode
    return right
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.evaluation(accuracy)

# %% [markdown]
# **Discharge.** `torch.no_grad()` keeps no graph and has nothing to do with dropout. A fixed seed makes the wrong number repeatable, which is
# worse. And the usual repair brings the next disease: `model.eval()` without the way back trains the rest of the run without dropout, and
# `model.train()` wakes the dropout of parts that were in eval mode for good.

# %% [markdown]
# ### Exercise 23.16 · tied, and untied again ●●○ · 8 minutes
#
# **Complaint.** "My model has more parameters than the paper's, by exactly one table of the vocabulary."


# %% tags=["nbval-check-output"]
class UntiedAgain(nn.Module):
    """An embedding and an output layer that share one table, drawn with a standard deviation of std."""

    def __init__(self, V, C, std):
        super().__init__()
        self.tokens, self.output = nn.Embedding(V, C), nn.Linear(C, V, bias=False)
        self.output.weight = self.tokens.weight  # tied
        self.tokens.weight = nn.Parameter(std * torch.randn(V, C))  # and initialised

    def forward(self, ids):
        return self.output(self.tokens(ids))


def tables(program):
    """Return how many tables of V·C numbers are trained."""
    return sum(p.numel() for p in program(300, 16, 0.02).parameters()) / (300 * 16)


number = admit("23.16", "untied again", tables, UntiedAgain, lambda n: n == 1)
print(f"tables that are trained: {number:.0f}")

# %% [markdown]
# Write the class right: `tokens` (nn.Embedding) and `output` (nn.Linear without bias) share *one* parameter from `__init__` on, and its
# numbers are drawn with mean 0 and standard deviation std. `forward` gives the scores of the tokens' vectors with every row of the
# table, (…, V).


# %% tags=["exercise-23.16"]
class Tied(nn.Module):
    """An embedding and an output layer that share one table, drawn with a standard deviation of std."""

    def __init__(self, V, C, std):
        ### BEGIN SOLUTION
        super().__init__()
        self.tokens, self.output = nn.Embedding(V, C), nn.Linear(C, V, bias=False)
        nn.init.normal_(self.tokens.weight, std=std)  # in place
        self.output.weight = self.tokens.weight
        ### END SOLUTION

    def forward(self, ids):
        ### BEGIN SOLUTION
        return self.output(self.tokens(ids))
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.tied(Tied)

# %% [markdown]
# **Discharge.** An assignment replaces an object, an in-place function changes it. The disease comes with every step that makes new tables
# after the tie: resizing the vocabulary ([PaddleNLP issue 5557](https://github.com/PaddlePaddle/PaddleNLP/issues/5557)), building the
# model on the *meta* device ([modalities issue 357](https://github.com/Modalities/modalities/issues/357)). Two equal tables are no tie:
# they part at the first step. Test `a is b`.

# %% [markdown]
# ### Exercise 23.17 · decayed by its name ●●○ · 8 minutes
#
# **Complaint.** "The gains of my layer norms shrink, though I switched weight decay off for LayerNorm." The model is this course's.


# %%
def decayed_by_name(model, weight_decay):
    no_decay = ("bias", "LayerNorm.weight")
    spared = [p for name, p in model.named_parameters() if any(part in name for part in no_decay)]
    others = [p for name, p in model.named_parameters() if not any(part in name for part in no_decay)]
    return [{"params": others, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def gain_after_decay(program):
    """Return the mean gain of a layer norm, 1 at the start, after 300 steps whose gradients are all zero."""
    model = Encoder(EncoderConfig(vocab_size=30, width=16, heads=2))
    optimizer = torch.optim.AdamW(program(model, 0.1), lr=0.01)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for _ in range(300):
        optimizer.step()
    return model.layers[0].norm1.weight.mean().item()


gain = admit("23.17", "decayed by name", gain_after_decay, decayed_by_name, lambda n: abs(n - 1) < 1e-6)
print(f"after 300 steps without any gradient the gains are {gain:.2f}; (1 - 0.01 · 0.1)^300 = {0.999**300:.2f}")

# %% [markdown]
# Write `groups(model, weight_decay)`: a list of dicts with `params` and `weight_decay`, as torch's optimizers take them. As in BERT, biases and
# the parameters of layer norms are not decayed (0), all other parameters are, embeddings too. Each parameter, tied and
# frozen ones too, is in exactly one group, once, whatever the model's parts are called. All its norms are nn.LayerNorm, and only biases and
# the parameters of norms have one dimension.


# %% tags=["exercise-23.17"]
def groups(model, weight_decay):
    """-> two groups of parameters, [{"params": …, "weight_decay": …}, …]"""
    ### BEGIN SOLUTION
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.decay_groups(groups)

# %% [markdown]
# **Discharge.** The list of names was right for one model and was copied to all. In RoBERTa's head the norm is called `layer_norm`
# ([transformers issue 16908](https://github.com/huggingface/transformers/issues/16908)), in other models `norm` or `ln_f`
# ([DeepSpeedExamples pull request 755](https://github.com/deepspeedai/DeepSpeedExamples/pull/755)). A filter that matches nothing says
# nothing. Print what it caught.

# %% [markdown]
# ## 9. Sixth ward: words

# %% [markdown]
# ### Exercise 23.18 · a page of wrong prose ●●○ · 20 minutes
#
# Errors of text live longer than errors of code, because nothing ever runs them. Here are eighteen statements about BERT and its
# successors. Some are true. Several of the others come from the article of patients 23.3 and 23.5, and the rest are misreadings that are
# easily made.
#
# | | statement |
# |---|---|
# | 1 | BERT reads in both directions by means of a bidirectional LSTM. |
# | 2 | RoBERTa masks more sparsely than BERT, to preserve more of the text. |
# | 3 | In RoBERTa's Table 2, full sentences *without* next sentence prediction do better than segment pairs *with* it on SQuAD 2.0, MNLI-m and RACE. |
# | 4 | The authors of RoBERTa are Y. Liu, Y. Dai, D. Xie and X. Zhang. |
# | 5 | SimCLR, *A Simple Framework for Contrastive Learning of Visual Representations*, is arXiv:2006.10374. |
# | 6 | BERT's masking replaces 10 % of all tokens of a text by random words. |
# | 7 | In unsupervised SimCSE, the two views of a sentence differ only in their dropout masks. |
# | 8 | RoBERTa's authors confirmed that next sentence prediction helps. |
# | 9 | RoBERTa improves on BERT by changing the architecture. |
# | 10 | Multi-head attention is one of the additions that BERT's successors made. |
# | 11 | ELECTRA's discriminator gets a loss at every real token, not at selected ones only. |
# | 12 | The loss of a masked language model is the sum of −ln P over all N words of the text. |
# | 13 | The sum in InfoNCE's denominator runs over k ≠ i, so the positive is left out. |
# | 14 | ModernBERT masks 30 % of the tokens in training. |
# | 15 | Every layer of ModernBERT attends to the whole text. |
# | 16 | In RoBERTa the first token of a text has the position number 2. |
# | 17 | BERT's *static* masking means that a text has one and the same mask for the whole training. |
# | 18 | A token that ELECTRA's generator happened to guess right counts as *replaced*. |
#
# Look up what you do not know: the papers are listed at the end of this lesson. Put True for a statement that stands, or
# the letter of what should stand there:
#
# | | | | |
# |---|---|---|---|
# | a | over the selected tokens only | l | ten copies of the data, with different masks |
# | b | arXiv:2002.05709 | m | Liu, Ott, Goyal, Du, Joshi, Chen, Levy, Lewis, Zettlemoyer, Stoyanov |
# | c | every third layer does; the others see a window of 128 tokens | n | the positive stays; where both views are in one list, a view *itself* is left out |
# | d | self-attention without a causal mask | o | arXiv:1810.04805 |
# | e | two Transformers, one for each direction | p | the Transformer of 2017 had it |
# | f | the recipe of pretraining: masking, inputs, batches, data | q | 1.5 % |
# | g | 5 % of the tokens instead of 15 % | r | 8.5 % |
# | h | 15 % as BERT does, but drawn anew each time | s | only the first and the last layer do |
# | i | as original | t | over the masked tokens, not the random and the kept ones |
# | j | Devlin, Chang, Lee, Toutanova | u | it is not counted at all |
# | k | without it the results were as good or slightly better | v | one token in two |

# %% tags=["exercise-23.18"]
page = None  # {1: True, 2: "a", …}
### BEGIN SOLUTION
page = {1: "d", 2: "h", 3: True, 4: "m", 5: "b", 6: "q", 7: True, 8: "k", 9: "f", 10: "p", 11: True, 12: "a"}
page |= {13: "n", 14: True, 15: "c", 16: True, 17: "l", 18: "i"}
### END SOLUTION

# %% tags=["nbval-check-output"]
check.words(page)

# %% [markdown]
# Number 6 is the kind that sounds right: of the tokens 15 % are selected, and 10 % *of those* become a random word. Number 13 is a formula
# read wrongly. In SimCLR's equation i and k run over all 2B views, so k ≠ i leaves out the view itself. Copied to a formula where i is an
# anchor and k a positive, the same sign leaves out the right answer, and the loss can fall below 0 (09.2). A number that cannot be, such as
# a negative cross-entropy, is a test of prose, too.

# %% [markdown]
# ## 10. The last round
#
# A symptom proves a disease only if the healthy program does not have it. Here all symptoms are taken again, with the same
# seeds, from the course's repaired programs:

# %%
print(f"{'patient':>32}  {'sick':>10}  {'repaired':>10}")
for exercise, (name, symptom, program, is_healthy) in rounds.items():
    before, after = symptom(program), symptom(check.healed(exercise))
    print(f"{exercise:>6}  {name:>24}  {before:10.4g}  {after:10.4g}")
    assert not is_healthy(before) and is_healthy(after), name
assert len(rounds) == 15

# %% [markdown]
# Look at the column of the sick ones: only two of the fifteen, 23.3 and 23.5, raised an exception here. The others ran, returned the right
# shape, and were wrong by a few per cent, by a factor, or by nothing that a loss shows.

# %% [markdown]
# ## What to remember
#
# * **Ask questions whose answer you know**: a tiny case by hand, what must not matter, what must matter, the gradient, one batch
#   overfitted, a reference.
# * **Padding, neighbours in the batch, and a second call must change nothing.** Every word and its place must change something.
# * **No test finds everything.** Of thirty diseases most were seen by one test of nine only. Tests of shapes see almost none.
# * **A mean needs its divisor named**: of tokens, of texts, of batches. Most of the wrong losses here are a mean over something else.
# * **Defaults are decisions** of somebody else: `batch_first`, ReLU, 2048, `reduction="mean"`, the dtype of a random number.
# * **A repair is finished when the question is answered**, not when the symptom is gone. Catching, cutting, clamping, reseeding and
#   normalising hide.
# * **Prose has bugs, too**, and nothing runs it. Look up numbers, names and denominators.
#
# **What this scale cannot show.** The patients are small and have one disease each; in a real program several meet, and one can hide
# another. We measured symptoms, not the harm that a bug does to a large model; in 23.8 the reporter found none. Bugs of many
# devices, of mixed precision in training, and of data (duplicates, leaks, wrong labels) are hardly here: lessons 18 to 20 meet some.
#
# **What the field did since.** Libraries took over some of the questions. Hugging Face's trainer tells a loss how many items the whole
# batch has, where the model accepts it ([transformers issue 37766](https://github.com/huggingface/transformers/issues/37766)), and
# nearly all models there run through one common set of tests, `ModelTesterMixin`, to which a test can be added when a bug is found
# ([pull request 45079](https://github.com/huggingface/transformers/pull/45079) adds one for resized tables).
#
# **An open problem.** Which tests would be enough? Mutation testing, which this lesson did with thirty mutants, measures a battery by the
# mutants that survive it. It cannot say anything about a bug that nobody thought of, and a network that learns around its bugs gives
# little away.

# %% [markdown]
# **Where this comes from**
#
# * *Shapes*: an article on BERT's successors in Chinese, its sections on RoBERTa and on contrastive learning in PyTorch (lesson 01 says how to
#   find it); [Exorust/TorchLeet issue 5](https://github.com/Exorust/TorchLeet/issues/5);
#   [IBM/TabFormer pull request 14](https://github.com/IBM/TabFormer/pull/14);
#   [pytorch issue 43112](https://github.com/pytorch/pytorch/issues/43112).
# * *Masks*: [pytorch issue 39439](https://github.com/pytorch/pytorch/issues/39439);
#   [transformers issue 17463](https://github.com/huggingface/transformers/issues/17463);
#   [fastNLP issue 254](https://github.com/FudanNLP/fastNLP/issues/254);
#   [labml issue 146](https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/146).
# * *Losses*: [d2l-en issue 2582](https://github.com/d2l-ai/d2l-en/issues/2582);
#   [codertimo/BERT-pytorch issues 32](https://github.com/codertimo/BERT-pytorch/issues/32),
#   [49](https://github.com/codertimo/BERT-pytorch/issues/49) and [98](https://github.com/codertimo/BERT-pytorch/issues/98);
#   [transformers issue 24725](https://github.com/huggingface/transformers/issues/24725) and
#   [*Fixing Gradient Accumulation*](https://huggingface.co/blog/gradient_accumulation);
#   [ariecattan/SciCo issue 2](https://github.com/ariecattan/SciCo/issues/2).
# * *Sampling*: labml's
#   [`labml_nn/transformers/mlm`](https://github.com/labmlai/annotated_deep_learning_paper_implementations);
#   [mlm-pytorch issue 6](https://github.com/lucidrains/mlm-pytorch/issues/6);
#   [keras-hub issue 796](https://github.com/keras-team/keras-hub/issues/796); Kaiwen Zheng et al., *Masked Diffusion Models are
#   Secretly Time-Agnostic Masked Models and Exploit Inaccurate Categorical Sampling*, 2024,
#   [arXiv:2409.02908](https://arxiv.org/abs/2409.02908); vLLM's pull requests
#   [37798](https://github.com/vllm-project/vllm/pull/37798), [41775](https://github.com/vllm-project/vllm/pull/41775),
#   [43150](https://github.com/vllm-project/vllm/pull/43150) and [45996](https://github.com/vllm-project/vllm/pull/45996).
# * *Training*: [transformers issues 432](https://github.com/huggingface/transformers/issues/432) and
#   [16908](https://github.com/huggingface/transformers/issues/16908);
#   [PaddleNLP issue 5557](https://github.com/PaddlePaddle/PaddleNLP/issues/5557);
#   [DeepSpeedExamples pull request 755](https://github.com/deepspeedai/DeepSpeedExamples/pull/755).
# * *Words*: Devlin et al., *BERT*, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805), and its code,
#   [google-research/bert](https://github.com/google-research/bert); Liu et al., *RoBERTa*,
#   [arXiv:1907.11692](https://arxiv.org/abs/1907.11692); Vaswani et al., 2017,
#   [arXiv:1706.03762](https://arxiv.org/abs/1706.03762); Chen et al., *SimCLR*,
#   [arXiv:2002.05709](https://arxiv.org/abs/2002.05709); Gao et al., *SimCSE*,
#   [arXiv:2104.08821](https://arxiv.org/abs/2104.08821); Clark et al., *ELECTRA*,
#   [arXiv:2003.10555](https://arxiv.org/abs/2003.10555); Warner et al., *ModernBERT*,
#   [arXiv:2412.13663](https://arxiv.org/abs/2412.13663).
# * The checks name further sources, one for each usual mistake.
#
# **Next:** lesson 24 collects the parts that you built into a BERT of your own, and finds out whether they make one.
