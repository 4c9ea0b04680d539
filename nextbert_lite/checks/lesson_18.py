"""The checks of lesson 18, Where the time goes."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nextbert_lite.checks.core import (
    OTHER_SIZES,
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    describe,
    hint,
    mine,
    solution,
    untouched,
    with_weights,
)
from nextbert_lite.core.encoder import Encoder, EncoderConfig

__all__ = ["balance", "hint", "mine", "profile", "quantized", "solution", "unpadding"]

# --- 18.1 predict -----------------------------------------------------------------------------------------------------

balance = Prediction(
    id="18.1",
    right=4608,
    mistakes=(
        Mistake(
            "at T = C",
            768,
            "that is where T equals C. Then scores and mixing have 4 C² operations, a sixth of the 24 C² of the "
            "linear layers. Solve 24 C² = 4 T C.",
            "the belief that attention outweighs the rest as soon as texts are longer than the model is wide",
        ),
        Mistake(
            "BERT's own limit",
            512,
            "that is the longest text that BERT reads; there the quadratic part is still small. Solve 24 C² = 4 T C.",
            "the belief that the quadratic cost is why BERT stops at 512 tokens",
        ),
        Mistake(
            "multiply-adds on one side",
            2304,
            "one side counts a multiplication and its addition as two operations, the other as one. Both sides are "
            "in the table in the same unit: 24 C² and 4 T C.",
            "12 C² (multiply-adds) set equal to 4 T C (operations)",
        ),
        Mistake(
            "the other side's multiply-adds",
            9216,
            "one side counts a multiplication and its addition as two operations, the other as one. For scores and "
            "mixing together the table has 4 T C, not 2 T C.",
            "24 C² set equal to 2 T C: the scores without the mixing, or multiply-adds",
        ),
        Mistake(
            "the feed-forward network alone",
            3072,
            "that balances the feed-forward network's 16 C² only. Queries, keys, values and output are linear layers "
            "too: 8 C² more.",
            "16 C² = 4 T C, and the width of the feed-forward network, which is the same number",
        ),
        Mistake(
            "attention's own linear layers",
            1536,
            "that balances the four linear layers of attention only, 8 C². The feed-forward network has 16 C² more.",
            "8 C² = 4 T C",
        ),
    ),
    hints=(
        "Per token the linear layers have 6 C² + 2 C² + 4 C F operations, and F = 4 C.",
        "Set 24 C² equal to 4 T C and divide by 4 C.",
    ),
    praise="At six times the width: nine times as long as the longest text that BERT reads.",
)

# --- 18.2 the build: step_profile -------------------------------------------------------------------------------------

KEYS = ("parameters", "multiplied", "forward", "training", "state", "activations")


def step_profile(config, lengths, selected):
    """config: an EncoderConfig, lengths: tokens of each text -> what a training step costs, by formula, as a dict"""
    C, V, F, layers = config.width, config.vocab_size, config.ffn_width, config.layers
    tokens = sum(lengths)
    matrices = layers * (4 * C * C + 2 * C * F)
    biases_and_norms = layers * (3 * C + C + F + C + 2 * 2 * C)
    rows = V + config.token_types
    if config.positions == "learned":
        rows += config.max_len + config.position_offset
    head = C * C + C + 2 * C + V
    parameters = rows * C + 2 * C + matrices + biases_and_norms + head
    forward = 2 * matrices * tokens
    forward += 4 * C * layers * sum(T * T for T in lengths)  # each text with itself
    forward += selected * (2 * C * C + 2 * C * V)
    return {
        "parameters": parameters,
        "multiplied": matrices,
        "forward": forward,
        "training": 3 * forward,
        "state": 4 * (1 + 1 + 2) * parameters,
        "activations": 4 * layers * tokens * (8 * C + 2 * F),
    }


def drawn_case(generator, **changes):
    """Return a configuration of odd sizes, lengths and a number of selected tokens."""

    def number(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    H = number(2, 5)
    sizes = dict(vocab_size=number(90, 200), width=H * number(3, 7), layers=number(2, 5), heads=H)
    sizes |= dict(ffn_width=number(40, 70), max_len=number(20, 40))
    lengths = [number(3, 19) for _ in range(number(4, 7))]
    return EncoderConfig(**sizes | changes), lengths, number(5, sum(lengths) // 2)


def entries(answer, case, *keys):
    """Return these entries of the learner's dict, each a whole number."""
    found = untouched(answer, *case)
    if not isinstance(found, dict):
        raise Fault(f"it returns {describe(found)}; expected a dict with the keys {', '.join(KEYS)}.")
    values = []
    for key in keys:
        if key not in found:
            raise Fault(f'the dict has no key "{key}".')
        value = found[key]
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Fault(f'"{key}" is {describe(value)}; expected a whole number.')
        if value != int(value):
            raise Fault(f'"{key}" is {value}; expected a whole number: all sizes are whole, and nothing is divided.')
        values.append(int(value))
    return tuple(values) if len(values) > 1 else values[0]


def of_key(*keys):
    """Return a stage that compares these entries of one drawn case."""

    def stage(answer, generator):
        return entries(answer, drawn_case(generator), *keys)

    return stage


def all_kinds(answer, generator):
    """Configurations with other tables, another norm, no layers; one text; nothing selected."""
    found = []
    for changes in (
        {"positions": "none"},
        {"position_offset": 2, "token_types": 2},
        {"norm": "pre"},
        {"layers": 0},
    ):
        found.append(entries(answer, drawn_case(generator, **changes), *KEYS))
    config, _, _ = drawn_case(generator)
    return *found, entries(answer, (config, [1], 0), *KEYS), entries(answer, (config, [], 0), *KEYS)


def wrong_profile(**switches):
    """Return a step_profile as a learner may write it; its switches are the mistakes."""
    names = "tied biases norms head positions multiplied adds pairs mixing asked dense back state acts offset"
    s = dict.fromkeys(names.split()) | switches

    def step_profile(config, lengths, selected):
        C, V, F, layers = config.width, config.vocab_size, config.ffn_width, config.layers
        tokens = sum(lengths)
        matrices = layers * (4 * C * C + 2 * C * F)
        biases = layers * (5 * C + F)
        norms = layers * 4 * C + 2 * C
        rows = V + config.token_types
        if config.positions == "learned" or s["offset"] == "always":
            rows += config.max_len + config.position_offset
        if s["offset"] == "none":
            rows -= config.position_offset * (config.positions == "learned")
        if s["positions"]:
            rows = V
        head = C * C + C + 2 * C + V
        if s["tied"]:
            head += C * V
        if s["head"]:
            head = 0
        total = rows * C + norms + matrices + biases + head
        total -= biases * (s["biases"] == "layers")
        total -= norms * (s["norms"] == "all") + 2 * C * (s["norms"] == "first")
        total -= (norms // 2) * (s["norms"] == "weights")
        multiplied = matrices
        if s["multiplied"] == "table":
            multiplied += V * C
        if s["multiplied"] == "all":
            multiplied = total
        if s["multiplied"] == "head":
            multiplied += C * C + C * V
        if s["multiplied"] == "one layer":
            multiplied //= max(1, layers)
        if s["multiplied"] == "vectors":
            multiplied += biases + layers * 4 * C
        pairs = {
            None: sum(T * T for T in lengths),
            "row": tokens * tokens,
            "longest": len(lengths) * max(lengths, default=0) ** 2,
            "none": 0,
            "linear": tokens,
            "heads": sum(T * T for T in lengths),
        }[s["pairs"]]
        heads = config.heads if s["pairs"] == "heads" else 1
        forward = 2 * matrices * tokens
        forward += (2 if s["mixing"] else 4) * C * layers * pairs * heads
        asked = tokens if s["asked"] else selected
        forward += asked * ((0 if s["dense"] == "no" else 2 * C * C) + 2 * C * V)
        if s["dense"] == "none":
            forward -= asked * (2 * C * C + 2 * C * V)
        if s["adds"]:
            forward //= 2
        training = forward * {None: 3, "once": 2, "same": 1, "four": 4}[s["back"]]
        state = total * {None: 16, "weights": 4, "sgd": 8, "one": 12, "moments": 8.0, "numbers": 4.0}.get(
            s["state"], 16
        )
        if s["state"] == "matrices":
            state = 16 * matrices
        width = {None: 8 * C + 2 * F, "linear": 4 * C + F, "one": 8 * C + F, "outputs": 6 * C + 2 * F}.get(
            s["acts"], 8 * C + 2 * F
        )
        acts = 4 * layers * tokens * width
        if s["acts"] == "numbers":
            acts //= 4
        if s["acts"] == "one layer":
            acts //= max(1, layers)
        if s["acts"] == "square":
            acts += 4 * layers * config.heads * sum(T * T for T in lengths)
        if s["acts"] == "text":
            acts = acts // max(1, tokens) * max(lengths, default=0)
        values = (total, multiplied, forward, training, state, acts)
        return dict(zip(KEYS, values, strict=True))

    return step_profile


def with_parts(config, lengths, selected):
    """The same, part by part as the layers are written, with a made-up order of the keys."""
    C, H = config.width, config.heads
    layer = {"qkv": (C, 3 * C), "out": (C, C), "ffn_in": (C, config.ffn_width), "ffn_out": (config.ffn_width, C)}
    weights = sum(a * b for a, b in layer.values())
    biases = sum(b for _, b in layer.values())
    N = config.vocab_size * C + config.layers * (weights + biases + 4 * C) + 2 * C
    N += config.token_types * C
    N += 0 if config.positions == "none" else (config.max_len + config.position_offset) * C
    N += C * C + C + 2 * C + config.vocab_size
    forward = 0
    for T in lengths:
        for a, b in layer.values():
            forward += config.layers * 2 * T * a * b
        forward += config.layers * H * 2 * (2 * T * T * (C // H))
    forward += selected * 2 * (C * C + C * config.vocab_size)
    kept = sum(lengths) * config.layers * (C + 3 * C + C + C + C + C + config.ffn_width * 2)
    return {
        "activations": float(kept * 4),
        "state": N * 4 + N * 4 + N * 8,
        "training": forward + 2 * forward,
        "forward": torch.tensor(forward),
        "multiplied": config.layers * weights,
        "parameters": N,
        "tokens": sum(lengths),
    }


profile = Build(
    id="18.2",
    course=step_profile,
    stages=(
        Stage("parameters", of_key("parameters")),
        Stage("multiplied parameters", of_key("multiplied")),
        Stage("operations of the forward pass", of_key("forward")),
        Stage("operations of a training step", of_key("training")),
        Stage("bytes of the state", of_key("state")),
        Stage("bytes of the activations", of_key("activations")),
        Stage(OTHER_SIZES, all_kinds),
    ),
    mistakes=(
        Mistake(
            "the tied table twice",
            wrong_profile(tied=True),
            "the table of tokens is counted twice. Lesson 05's head has no matrix of its own for the words: it "
            "multiplies the token embedding itself.",
            "the sum of embedding and decoder sizes of a model with tied weights",
        ),
        Mistake(
            "no biases",
            wrong_profile(biases="layers"),
            "the biases of the layers' linear layers are missing: 3C + C + F + C in each layer.",
            "12 C² taken for the size of a layer",
        ),
        Mistake(
            "no norms",
            wrong_profile(norms="all"),
            "the layer norms are missing: two in each layer and one in the encoder, 2C numbers each.",
            "12 C² plus biases taken for the size of a layer",
        ),
        Mistake(
            "norms without biases",
            wrong_profile(norms="weights"),
            "each layer norm has a weight *and* a bias, 2C numbers; you count C.",
            "one number a feature, as in RMSNorm",
        ),
        Mistake(
            "the encoder's own norm",
            wrong_profile(norms="first"),
            "the encoder's own layer norm is missing, which it has besides those of its layers: 2C numbers.",
            "the norms of the layers only",
        ),
        Mistake(
            "no head",
            wrong_profile(head=True),
            "the head is missing: a linear layer C → C with its bias, a layer norm, and a bias of V numbers.",
            "the parameters of the encoder taken for those of the model",
        ),
        Mistake(
            "no positions",
            wrong_profile(positions=True),
            "the table of positions is missing, (max_len + position_offset) · C numbers.",
            "the token table taken for all of the embeddings",
        ),
        Mistake(
            "the table is multiplied",
            wrong_profile(multiplied="table"),
            "the table of tokens is counted as multiplied. An embedding is looked up: a row is copied, and nothing is "
            "multiplied.",
            "https://github.com/pytorch/torchtitan/pull/280",
        ),
        Mistake(
            "all are multiplied",
            wrong_profile(multiplied="all"),
            "these are all parameters. Only the entries of the layers' weight matrices are multiplied for every token.",
            "https://github.com/pytorch/torchtitan/issues/452",
        ),
        Mistake(
            "the head is multiplied for all",
            wrong_profile(multiplied="head"),
            "the head's matrices are counted. The head runs on selected tokens only, so it is not part of what *each* "
            "token is multiplied by.",
            "N of a causal model, whose head scores every token",
        ),
        Mistake(
            "biases are multiplied",
            wrong_profile(multiplied="vectors"),
            "biases and norms are counted. They are added to a token or scale it: no matrix product.",
            "all parameters of the layers",
        ),
        Mistake(
            "one layer",
            wrong_profile(multiplied="one layer"),
            "these are the matrices of one layer; there are `config.layers`.",
            "12 C² without the number of layers",
        ),
        Mistake(
            "multiply-adds",
            wrong_profile(adds=True),
            "this is half of the operations: a multiplication and its addition are counted as one. Here they count as "
            "two, 2·m·k·n.",
            "https://github.com/facebookresearch/fvcore/issues/69",
        ),
        Mistake(
            "attention left out",
            wrong_profile(pairs="none"),
            "scores and mixing are missing. They have no parameters, so 2 · parameters · tokens does not see them: 4 · "
            "T² · C in each layer for a text of T tokens.",
            "https://github.com/karpathy/nanoGPT/issues/322",
        ),
        Mistake(
            "each token with itself",
            wrong_profile(pairs="linear"),
            "scores and mixing are counted once a token. *Each* token has a score with all T tokens of its text: T² "
            "pairs.",
            "4 C in place of 4 T C",
        ),
        Mistake(
            "across texts",
            wrong_profile(pairs="row"),
            "(sum of the lengths)² is one text that holds all tokens: attention from every text to every other. The "
            "square belongs inside the sum.",
            "https://github.com/huggingface/trl/issues/784",
        ),
        Mistake(
            "the longest text for all",
            wrong_profile(pairs="longest"),
            "scores and mixing are counted with the longest length for every text. `lengths` already says what is "
            "computed for each.",
            "B · T² with the batch's T",
        ),
        Mistake(
            "no mixing",
            wrong_profile(mixing=True),
            "only one of attention's two products is counted. The scores take 2·T²·C, and mixing the values takes as "
            "many.",
            "q·k counted, weights·v forgotten",
        ),
        Mistake(
            "all heads over",
            wrong_profile(pairs="heads"),
            "scores and mixing are multiplied by the number of heads. A head has C / H features, so H heads together "
            "take what one of width C would.",
            "H · T² · C, with the whole width for every head",
        ),
        Mistake(
            "the head at all positions",
            wrong_profile(asked=True),
            "the head is counted for all tokens. It is asked for `selected` of them only; lesson 05's loss leaves the "
            "others out.",
            "a head over (B, T, V), as many implementations compute it; lesson 05 measures what that costs",
        ),
        Mistake(
            "the head's first layer",
            wrong_profile(dense="no"),
            "the head's linear layer C → C is missing: 2C² for each selected token, before its 2·C·V.",
            "2·C·V taken for the whole head",
        ),
        Mistake(
            "no head's operations",
            wrong_profile(dense="none"),
            "the head's operations are missing: 2C² + 2·C·V for each selected token. It multiplies the table, although "
            "the embedding does not.",
            "the encoder's operations taken for the model's",
        ),
        Mistake(
            "backward once",
            wrong_profile(back="once"),
            "the backward pass is counted like one forward pass. It has two products for each one: the gradient of the "
            "input and the gradient of the weight. Together 3 × forward.",
            "forward and backward taken for equally expensive",
        ),
        Mistake(
            "forward alone",
            wrong_profile(back="same"),
            "this is the forward pass alone; the backward pass costs twice as much again.",
            "2ND in place of 6ND",
        ),
        Mistake(
            "recomputed",
            wrong_profile(back="four"),
            "four times the forward pass is what gradient checkpointing costs, which runs it twice. Here nothing is "
            "recomputed: 3 × forward.",
            "the factor 8 in place of 6 in formulas for training with recomputation",
        ),
        Mistake(
            "weights alone",
            wrong_profile(state="weights"),
            "these are the bytes of the weights alone. Gradients take as many, and AdamW keeps two moments for each "
            "parameter: 16 bytes in all.",
            "https://github.com/caomaolufei/AIInfraGuide/issues/24",
        ),
        Mistake(
            "no moments",
            wrong_profile(state="sgd"),
            "this is half of it: weights and gradients without AdamW's two moments, or the moments alone. Together "
            "they are four numbers for each parameter.",
            "the state of plain SGD",
        ),
        Mistake(
            "one of the four missing",
            wrong_profile(state="one"),
            "12 bytes a parameter: one of weights, gradients, first and second moment is missing.",
            "https://github.com/AI-Hypercomputer/maxtext/issues/606",
        ),
        Mistake(
            "state of the matrices",
            wrong_profile(state="matrices"),
            "the factor 16 is right, but it belongs to *all* parameters: tables, biases and norms are trained too.",
            "16 bytes times the N of 6ND",
        ),
        Mistake(
            "numbers, not bytes",
            wrong_profile(acts="numbers"),
            "this is the number of *numbers*. A float32 takes 4 bytes.",
            "the count of activations taken for bytes",
        ),
        Mistake(
            "before the activation function",
            wrong_profile(acts="one"),
            "the feed-forward network's hidden numbers are kept twice: before the activation function, whose gradient "
            "needs its input, and after it, as the input of the next linear layer.",
            "one tensor of width F a layer",
        ),
        Mistake(
            "inputs of linear layers only",
            wrong_profile(acts="linear"),
            "these are the inputs of the four linear layers only. Queries, keys and values, the input of both norms "
            "and the numbers before the activation function are needed too.",
            "gradients of weights thought of, and not those of attention, norms and activation function",
        ),
        Mistake(
            "inputs of the norms",
            wrong_profile(acts="outputs"),
            "2C a token are missing: the inputs of the two norms, x + attention and x + feed-forward, are kept too.",
            "the residual sums thought of as free",
        ),
        Mistake(
            "one layer's activations",
            wrong_profile(acts="one layer"),
            "these are the activations of one layer. The backward pass needs those of all layers.",
            "the memory of inference, which can forget a layer once the next one has run",
        ),
        Mistake(
            "T times T",
            wrong_profile(acts="square"),
            "you count T × T weights for each head. The fused attention does not keep them.",
            "the activation formulas of papers from before fused attention",
        ),
        Mistake(
            "one text",
            wrong_profile(acts="text"),
            "these are the activations of the longest text. All texts of the batch are kept at once.",
            "the batch forgotten",
        ),
        Mistake(
            "positions that are not there",
            wrong_profile(offset="always"),
            'with `positions="none"` the model has no table of positions.',
            "the configuration's fields taken for tables",
        ),
        Mistake(
            "no offset",
            wrong_profile(offset="none"),
            "the table of positions has `max_len + position_offset` rows; the offset is missing.",
            "RoBERTa's 514 rows for 512 tokens",
        ),
    ),
    hints=(
        "Write down each part with its shape: tables (V, C) and (max_len + offset, C); a layer has qkv (3C, C), out "
        "(C, C), ffn_in (F, C), ffn_out (C, F), their biases, and two norms of 2C.",
        "`matrices = layers * (4 * C * C + 2 * C * F)`. A token takes two operations with each of these numbers.",
        "Attention: `4 * C * layers * sum(T * T for T in lengths)`. The head: `selected * (2 * C * C + 2 * C * V)`.",
        "Training is three forward passes. The state is 16 bytes for each of all parameters.",
        "Activations a token and layer: C (input) + 3C (q, k, v) + C (heads) + 2C (inputs of the norms) + C (output of "
        "the first norm) + 2F; times 4 bytes.",
    ),
    praise="Parameters, operations and bytes, and no model was made.",
    other_ways=(with_parts, wrong_profile()),
)

# --- 18.3 the build: UnpaddedEncoder ----------------------------------------------------------------------------------


class UnpaddedEncoder(Encoder):
    """Lesson 04's encoder, which computes nothing for padding: linear layers on real tokens, attention text by text."""

    def pack(self, x, mask):
        """x: (B, T, C), mask: (B, T), True = a real token -> the real tokens, (1, N, C)"""
        return x[mask][None]

    def unpack(self, x, mask):
        """x: (1, N, C) -> (B, T, C), zeros at padding"""
        padded = x.new_zeros(*mask.shape, x.shape[-1])
        padded[mask] = x[0]
        return padded

    def attend(self, q, k, v, lengths, dropout=0.0):
        """q, k, v: (1, H, N, D) -> (1, H, N, D): each text attends to itself"""
        texts = zip(*(part.split(lengths, dim=2) for part in (q, k, v)), strict=True)
        return torch.cat([F.scaled_dot_product_attention(*text, dropout_p=dropout) for text in texts], dim=2)

    def layer_forward(self, layer, x, lengths):
        """x: (1, N, C) -> (1, N, C), one encoder layer"""
        attention, N, C = layer.attention, *x.shape[1:]
        qkv = attention.qkv(layer.norm1(x) if layer.pre else x).view(1, N, 3, attention.H, C // attention.H)
        heads = self.attend(*qkv.permute(2, 0, 3, 1, 4), lengths, attention.dropout if layer.training else 0.0)
        attended = layer.dropout(attention.out(heads.transpose(1, 2).reshape(1, N, C)))
        if layer.pre:
            x = x + attended
            return x + layer.dropout(layer.feed_forward(layer.norm2(x)))
        x = layer.norm1(x + attended)
        return layer.norm2(x + layer.dropout(layer.feed_forward(x)))

    def forward(self, ids, mask=None):
        """ids: (B, T), mask: (B, T), True = a real token -> (B, T, C), zeros at padding"""
        mask = ids != self.config.pad_id if mask is None else mask
        if not mask.any():
            raise ValueError(f"there is no real token in this batch of shape {tuple(ids.shape)}: leave it out.")
        lengths = mask.sum(1).tolist()
        x = self.pack(self.embed(ids), mask)
        for layer in self.layers:
            x = self.layer_forward(layer, x, lengths)
        if self.config.norm == "pre":
            x = self.norm(x)
        return self.unpack(x, mask)


def small_config(**changes):
    return EncoderConfig(**dict(vocab_size=40, width=12, layers=2, heads=3, ffn_width=20, max_len=64) | changes)


def made(answer, generator, **changes):
    """Return the learner's encoder in float64 with seeded weights, in eval mode."""
    if not isinstance(answer, type) or not issubclass(answer, nn.Module):
        raise Fault(f"expected the class UnpaddedEncoder; this is {describe(answer)}.")
    config = small_config(**changes)
    return with_weights(answer(config).double(), Encoder(config), generator).eval()


def texts_of(generator, lengths, T=None, V=40):
    """Return ids and mask of texts of these lengths, padded on the right to T."""
    T = max(lengths) if T is None else T
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, V, (len(lengths), T), generator=generator)
    return ids.masked_fill(~mask, 0), mask


def scattered(generator, B=4, T=7):
    """Return a mask with padding on the left, on the right and in between."""
    mask = torch.rand(B, T, generator=generator) < 0.6
    mask[0, :2], mask[0, 2:] = False, True  # padding on the left
    mask[1, :3], mask[1, 3:] = True, False
    mask[2, 0], mask[2, 1], mask[2, 2] = True, False, True
    mask[3, -1] = True
    return mask


def packing(answer, generator):
    encoder, found = made(answer, generator), []
    right = torch.arange(6) < torch.tensor([3, 6, 1, 4])[:, None]
    for mask in (right, scattered(generator)):
        x = torch.randn(*mask.shape, 5, generator=generator).double()
        packed = untouched(encoder.pack, x, mask)
        if isinstance(packed, torch.Tensor) and packed.ndim == 2:
            raise Fault(f"`pack` gives the shape {tuple(packed.shape)}; expected a batch of one row, (1, N, C).")
        found.append(packed)
    return tuple(found)


def unpacking(answer, generator):
    encoder, found = made(answer, generator), []
    right = torch.arange(6) < torch.tensor([3, 6, 1, 4])[:, None]
    for mask in (right, scattered(generator)):
        x = torch.randn(1, int(mask.sum()), 5, generator=generator).double().requires_grad_()
        y = encoder.unpack(x, mask)
        if not isinstance(y, torch.Tensor) or y.shape != (*mask.shape, 5):
            raise Fault(f"`unpack` gives {describe(y)}; expected the shape {(*mask.shape, 5)}.")
        if not y.requires_grad:
            raise Fault("what `unpack` gives has no graph: nothing before it would learn.")
        (gradient,) = torch.autograd.grad((y * torch.randn(y.shape, generator=generator)).sum(), x)
        found += [y, gradient]
    return tuple(found)


def attending(answer, generator):
    encoder, found = made(answer, generator), []
    for lengths in ([3, 5, 2, 5], [4], [1, 1, 3]):
        q, k, v = (torch.randn(1, 3, sum(lengths), 4, generator=generator).double() for _ in range(3))
        found.append(untouched(encoder.attend, q, k, v, lengths))
    return tuple(found)


def dropping(answer, generator):
    """Dropout counts in training only, and then it reaches the attention weights."""
    encoder = made(answer, generator, dropout=0.5)
    ids, mask = texts_of(generator, [9, 4, 6])
    out = encoder(ids, mask)
    encoder.train()
    q = torch.ones(1, 3, 40, 4).double()
    if torch.equal(encoder.attend(q, q, q, [30, 10], 0.5), encoder.attend(q, q, q, [30, 10], 0.5)):
        raise Fault("`attend` takes a dropout and does not use it: `dropout_p=dropout`.")
    given = []
    plain = encoder.attend
    encoder.attend = lambda *a, **k: given.append((*a, *k.values())[4:5]) or plain(*a, **k)
    encoder(ids, mask)
    if not given:
        raise Fault("`forward` does not call `attend`.")
    if given[0] != (0.5,):
        raise Fault("in training `attend` must get the attention's own dropout, `layer.attention.dropout`.")
    return out


def whole(answer, generator, **changes):
    encoder = made(answer, generator, **changes)
    ids, mask = texts_of(generator, [7, 3, 11, 3, 1])
    return untouched(encoder, ids, mask)


def configurations(answer, generator):
    """Pre-norm; RoBERTa's positions; token types; no mask given; padding on the left."""
    found = [whole(answer, generator, norm="pre"), whole(answer, generator, position_offset=2)]
    found.append(whole(answer, generator, positions="none"))
    encoder = made(answer, generator)
    ids, mask = texts_of(generator, [2, 6, 5])
    found.append(encoder(ids))
    found.append(encoder(ids.flip(1), mask.flip(1)))
    other = made(answer, generator, pad_id=3)
    return *found, other(ids.masked_fill(~mask, 3))


def gradients(answer, generator):
    encoder = made(answer, generator)
    ids, mask = texts_of(generator, [7, 3, 5])
    out = encoder(ids, mask)
    if not out.requires_grad:
        raise Fault("the encoder's output has no graph: nothing would learn.")
    (out * torch.randn(out.shape, generator=generator).double()).sum().backward()
    parameters = dict(encoder.named_parameters())
    if none := [name for name, p in parameters.items() if p.grad is None]:
        raise Fault(f"no gradient reaches {', '.join(none[:3])}.")
    return tuple(p.grad for p in parameters.values())


def in_training(answer, generator):
    return dropping(answer, generator), gradients(answer, generator)


def operations(answer, generator):
    """What is computed: linear layers on real tokens, scores within each text."""
    lengths = [12, 2, 5, 2, 1]
    encoder = made(answer, generator)
    ids, mask = texts_of(generator, lengths)
    config = encoder.config
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        encoder(ids, mask)
    counts = {str(op).split(".")[-1]: n for op, n in counter.get_flop_counts()["Global"].items()}
    linear = sum(n for name, n in counts.items() if name in ("mm", "addmm"))
    C, layers, squares = config.width, config.layers, sum(T * T for T in lengths)
    needed = 2 * layers * (4 * C * C + 2 * C * config.ffn_width) * sum(lengths), 4 * C * layers * squares
    if linear > needed[0]:
        raise Fault(
            f"the linear layers make {linear / needed[0]:.2f} times the operations that the real tokens need: they "
            "still see padding."
        )
    pairs = (counter.get_total_flops() - linear) / needed[1]
    row, square = sum(lengths) ** 2 / squares, len(lengths) * max(lengths) ** 2 / squares
    if abs(pairs - row) < 1e-6:
        raise Fault(
            f"scores of all tokens of the row with all others are computed, {pairs:.1f} times as many as the texts "
            "need; a mask that hides most of them afterwards saves nothing."
        )
    if abs(pairs - square) < 1e-6:
        raise Fault(
            f"the attention is padded again: {pairs:.1f} times the scores that the texts need, with softmax rows of "
            "padding. Call it text by text."
        )
    if pairs > 1 + 1e-6:
        raise Fault(f"scores and mixing make {pairs:.2f} times the operations that the texts need.")
    return True


def edges(answer, generator):
    """One token beside 512; nothing to save; an empty batch."""
    encoder = made(answer, generator, max_len=512, layers=1)
    long = encoder(*texts_of(generator, [1, 512]))
    full = encoder(*texts_of(generator, [4, 4]))
    one = encoder(*texts_of(generator, [1], T=3))
    empty = torch.zeros(0, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.int64)
    for ids in empty:
        try:
            encoder(ids, ids != 0)
        except ValueError as error:
            if len(str(error)) < 15:
                raise Fault(
                    f"a batch of shape {tuple(ids.shape)} without a real token raises a ValueError that says "
                    f"{str(error)!r}; say what is wrong."
                ) from None
        except Exception as error:  # noqa: BLE001 - whatever a learner's code raises for it
            raise Fault(
                f"a batch of shape {tuple(ids.shape)} without a real token raises {type(error).__name__}; expected a "
                "ValueError that says so."
            ) from None
        else:
            raise Fault(
                f"a batch of shape {tuple(ids.shape)} without a real token is accepted. Raise a ValueError that says "
                "so: what is empty here was lost somewhere before."
            )
    return long, full, one


def other_encoders(answer, generator):
    """Another width, other heads, other lengths; in float32."""
    encoder = made(answer, generator, width=20, heads=2, ffn_width=33, layers=3, max_len=30)
    return encoder.float()(*texts_of(generator, [30, 17, 2, 2, 9, 30]))


def wrong_unpadding(**switches):
    """Return an UnpaddedEncoder as a learner may write it; its switches are the mistakes."""
    names = "pack unpack attend places norm dropout empty layer linear mask"
    s = dict.fromkeys(names.split()) | switches

    class Wrong(UnpaddedEncoder):
        def pack(self, x, mask):
            if s["pack"] == "by position":
                return x.transpose(0, 1)[mask.T][None]
            if s["pack"] == "lengths":
                return torch.cat([row[:n] for row, n in zip(x, mask.sum(1).tolist(), strict=True)])[None]
            if s["pack"] == "first":
                return x[:, mask[0]].flatten(0, 1)[None]
            if s["pack"] == "inverted":
                return x[~mask][None]
            return super().pack(x, mask)

        def unpack(self, x, mask):
            if s["unpack"] == "repeat":
                flat = (mask.flatten().cumsum(0) - 1).clamp(min=0)
                return x[0, flat].view(*mask.shape, -1)
            if s["unpack"] == "left":
                out = x.new_zeros(*mask.shape, x.shape[-1])
                for row, text in zip(out, x[0].split(mask.sum(1).tolist()), strict=True):
                    row[: len(text)] = text
                return out
            if s["unpack"] == "data":
                out = x.new_zeros(*mask.shape, x.shape[-1])
                out[mask] = x[0].detach()
                return out
            return super().unpack(x, mask)

        def attend(self, q, k, v, lengths, dropout=0.0):
            if s["attend"] == "all":
                return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
            if s["attend"] == "block":
                owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
                return F.scaled_dot_product_attention(q, k, v, owner[:, None] == owner, dropout_p=dropout)
            if s["attend"] == "equal":
                size = -(-q.shape[2] // len(lengths))
                parts = zip(*(t.split(size, dim=2) for t in (q, k, v)), strict=True)
                return torch.cat([F.scaled_dot_product_attention(*p, dropout_p=dropout) for p in parts], dim=2)
            if s["attend"] == "first":
                n = lengths[0]
                parts = zip(*(t.split(n, dim=2) for t in (q, k, v)), strict=True)
                return torch.cat([F.scaled_dot_product_attention(*p, dropout_p=dropout) for p in parts], dim=2)
            if s["attend"] == "causal":
                parts = zip(*(t.split(lengths, dim=2) for t in (q, k, v)), strict=True)
                return torch.cat([F.scaled_dot_product_attention(*p, is_causal=True) for p in parts], dim=2)
            if s["attend"] == "order":
                order = sorted(range(len(lengths)), key=lengths.__getitem__)
                parts = [t.split(lengths, dim=2) for t in (q, k, v)]
                return torch.cat([F.scaled_dot_product_attention(*(t[i] for t in parts)) for i in order], dim=2)
            if s["attend"] == "padded":
                T = max(lengths)
                mask = torch.arange(T) < torch.tensor(lengths)[:, None]

                def spread(t):
                    out = t.new_zeros(*mask.shape, t.shape[1], t.shape[3])
                    out[mask] = t[0].transpose(0, 1)
                    return out.transpose(1, 2)

                heads = F.scaled_dot_product_attention(*map(spread, (q, k, v)), mask[:, None, None], dropout_p=dropout)
                return heads.transpose(1, 2)[mask].transpose(0, 1)[None]
            if s["dropout"] == "ignored":
                dropout = 0.0
            return super().attend(q, k, v, lengths, dropout)

        def layer_forward(self, layer, x, lengths):
            attention, N, C = layer.attention, *x.shape[1:]
            pre = layer.pre if s["layer"] != "post" else False
            qkv = attention.qkv(layer.norm1(x) if pre else x)
            if s["layer"] == "heads first":
                qkv = qkv.view(1, N, attention.H, 3, C // attention.H).transpose(2, 3)
            else:
                qkv = qkv.view(1, N, 3, attention.H, C // attention.H)
            rate = attention.dropout if layer.training or s["dropout"] == "always" else 0.0
            heads = self.attend(*qkv.permute(2, 0, 3, 1, 4), lengths, rate)
            if s["layer"] == "no transpose":
                heads = heads.reshape(1, N, C)
            else:
                heads = heads.transpose(1, 2).reshape(1, N, C)
            attended = layer.dropout(heads if s["layer"] == "no out" else attention.out(heads))
            if s["layer"] == "no residual":
                x = 0 * x
            if pre:
                x = x + attended
                return x + layer.dropout(layer.feed_forward(layer.norm2(x)))
            x = layer.norm1(x + attended)
            return layer.norm2(x + layer.dropout(layer.feed_forward(x)))

        def forward(self, ids, mask=None):
            if mask is None:
                mask = ids != (0 if s["mask"] == "zero" else self.config.pad_id)
                if s["mask"] == "all":
                    mask = torch.ones_like(mask)
            if not mask.any() and s["empty"] is None:
                raise ValueError(f"there is no real token in this batch of shape {tuple(ids.shape)}: leave it out.")
            if not mask.any():
                return torch.zeros(*ids.shape, self.config.width)
            lengths = mask.sum(1).tolist()
            if s["places"] == "go on":
                x = self.embed(ids[mask][None])
            elif s["places"] == "from 0":
                table = torch.cat([torch.arange(n) for n in lengths])
                x = self.tokens(ids[mask][None])
                if self.config.positions == "learned":
                    x = x + self.positions(table)
                x = self.norm(x) if self.config.norm == "post" else x
            elif s["places"] == "none":
                x = self.tokens(ids[mask][None])
                x = self.norm(x) if self.config.norm == "post" else x
            else:
                x = self.pack(self.embed(ids), mask)
            for number, layer in enumerate(self.layers):
                if s["linear"] == "first" and number == 0:
                    y, _ = layer(self.embed(ids), mask[:, None, None])
                    x = self.pack(y, mask)
                else:
                    x = self.layer_forward(layer, x, lengths)
            if self.config.norm == "pre" and s["norm"] != "last":
                x = self.norm(x)
            return self.unpack(x, mask)

    return Wrong


class ByLength(UnpaddedEncoder):
    """One call for all texts of a length; embeddings of the real tokens only."""

    def pack(self, x, mask):
        return x.flatten(0, 1).index_select(0, mask.flatten().nonzero()[:, 0]).unsqueeze(0)

    def unpack(self, x, mask):
        places = mask.flatten().nonzero()[:, 0]
        flat = torch.zeros(mask.numel(), x.shape[-1], dtype=x.dtype, device=x.device).index_copy(0, places, x[0])
        return flat.view(mask.shape[0], mask.shape[1], x.shape[-1])

    def attend(self, q, k, v, lengths, dropout=0.0):
        starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
        out = torch.empty_like(q)
        for n in sorted(set(lengths) - {0}):
            at = torch.stack([torch.arange(s, s + n) for s, m in zip(starts.tolist(), lengths, strict=True) if m == n])
            some = (part[0][:, at].transpose(0, 1) for part in (q, k, v))  # (texts, H, n, D)
            heads = F.scaled_dot_product_attention(*some, dropout_p=dropout)
            out = out.index_copy(2, at.flatten(), heads.transpose(0, 1).flatten(1, 2)[None])
        return out

    def forward(self, ids, mask=None):
        if mask is None:
            mask = ids != self.config.pad_id
        if int(mask.sum()) == 0:
            raise ValueError("nothing to encode: the batch has no real token.")
        x = self.tokens(ids[mask])
        if self.config.positions == "learned":
            x = x + self.positions(self.position_ids(ids)[mask])
        if self.config.norm == "post":
            x = self.norm(x)
        x = self.dropout(x)[None]
        lengths = [int(n) for n in mask.sum(1)]
        for layer in self.layers:
            x = self.layer_forward(layer, x, lengths)
        return self.unpack(self.norm(x) if self.config.norm == "pre" else x, mask)


class WithWeights(UnpaddedEncoder):
    """Attention written down openly, text by text."""

    def attend(self, q, k, v, lengths, dropout=0.0):
        out, start = [], 0
        for n in lengths:
            some = slice(start, start + n)
            scores = q[:, :, some] @ k[:, :, some].mT / q.shape[-1] ** 0.5
            out.append(F.dropout(scores.softmax(-1), dropout) @ v[:, :, some])
            start += n
        return torch.cat(out, 2)


unpadding = Build(
    id="18.3",
    course=UnpaddedEncoder,
    stages=(
        Stage("pack", packing),
        Stage("unpack", unpacking),
        Stage("attention", attending),
        Stage("the encoder", whole),
        Stage("configurations", configurations),
        Stage("training", in_training),
        Stage("operations", operations),
        Stage("edge cases", edges),
        Stage(OTHER_SIZES, other_encoders),
    ),
    mistakes=(
        Mistake(
            "position by position",
            wrong_unpadding(pack="by position"),
            "the row holds the first token of each text, then the second of each, and so on. Put text after text: "
            "`x[mask]` does.",
            "a batch of shape (T, B), as recurrent networks have it; pack_padded_sequence packs that way",
        ),
        Mistake(
            "padding taken to be on the right",
            wrong_unpadding(pack="lengths"),
            "you take the first tokens of each row, as many as are real. Padding may also be on the left or in "
            "between: take those where `mask` is True.",
            "x[i, :n], as code for BERT's tokenizer is written; decoders are padded on the left",
        ),
        Mistake(
            "the first text's mask for all",
            wrong_unpadding(pack="first"),
            "the first text's mask is used for all texts. Each has its own row of the mask.",
            "mask[0], right for one text; also attention masks built once for a batch",
        ),
        Mistake(
            "the padding kept",
            wrong_unpadding(pack="inverted"),
            "you take the padding and leave the real tokens out: the mask is True at a real token.",
            "torch's key_padding_mask, where True means padding",
        ),
        Mistake(
            "copies at padding",
            wrong_unpadding(unpack="repeat"),
            "the real tokens are right, but there are copies of a neighbour at padding. The text asks for zeros there: "
            "a sum over positions must not count a token twice.",
            "a gather with the running count of the mask as its index",
        ),
        Mistake(
            "back to the left",
            wrong_unpadding(unpack="left"),
            "each text is written to the left of its row. Put every token back where the mask is True, which may be "
            "on the right or in between.",
            "row[:n] = text",
        ),
        Mistake(
            "the graph cut off",
            wrong_unpadding(unpack="data"),
            "what `unpack` gives has no graph, so nothing before it would learn. Write `x[0]` itself into the new "
            "tensor, without `detach` or `.data`.",
            "in-place writing avoided by detach after an error of autograd",
        ),
        Mistake(
            "attention across texts",
            wrong_unpadding(attend="all"),
            "each text attends to all others of the row. Cut the row into texts, `q.split(lengths, dim=2)`, and call "
            "the attention for each.",
            "https://github.com/huggingface/nanoVLM/pull/204",
        ),
        Mistake(
            "the first text's length for all",
            wrong_unpadding(attend="first"),
            "the row is cut into pieces of the first text's length. Each text has its own: `split(lengths, dim=2)` "
            "with the whole list.",
            "https://github.com/Tencent-Hunyuan/HunyuanVideo/pull/310",
        ),
        Mistake(
            "equal pieces",
            wrong_unpadding(attend="equal"),
            "the row is cut into equal pieces. The texts have different lengths: `split(lengths, dim=2)`.",
            "chunk(len(lengths), dim=2)",
        ),
        Mistake(
            "causal",
            wrong_unpadding(attend="causal"),
            "a token attends to those before it only. This is an encoder: every token of the text may be attended to.",
            "is_causal=True copied from a packed decoder",
        ),
        Mistake(
            "sorted and left so",
            wrong_unpadding(attend="order"),
            "the texts come back in the order of their lengths. Put them back in the order in which they came.",
            "texts grouped by length without the way back",
        ),
        Mistake(
            "positions go on",
            wrong_unpadding(places="go on"),
            "the positions go on from one text to the next: the second text's first token gets the position behind the "
            "first text's last. Embed first, then pack.",
            "https://github.com/huggingface/nanoVLM/issues/201",
        ),
        Mistake(
            "no positions",
            wrong_unpadding(places="none"),
            "the tokens have no positions. `self.embed(ids)` adds them; then pack.",
            "self.tokens(ids) in place of self.embed(ids)",
        ),
        Mistake(
            "each head's q, k, v together",
            wrong_unpadding(layer="heads first"),
            "the features of `qkv` are split head by head first. Lesson 03's class has all queries, then all keys, "
            "then all values: `view(1, N, 3, H, D)`.",
            "the layout of GPT-NeoX, (H, 3, D)",
        ),
        Mistake(
            "heads not brought together",
            wrong_unpadding(layer="no transpose"),
            "the heads' outputs (1, H, N, D) are reshaped without a transpose, which mixes tokens. "
            "`.transpose(1, 2).reshape(1, N, C)`.",
            "view(B, T, C) on (B, H, T, D)",
        ),
        Mistake(
            "no output layer",
            wrong_unpadding(layer="no out"),
            "the heads' outputs are added as they are; `layer.attention.out` is missing.",
            "the attention function taken for the attention layer",
        ),
        Mistake(
            "no residual",
            wrong_unpadding(layer="no residual"),
            "the residual of the attention is missing: x + attended.",
            "a layer rewritten from its picture",
        ),
        Mistake(
            "post-norm always",
            wrong_unpadding(layer="post"),
            "every layer is computed as post-norm. Where `layer.pre` is true the norms come first: x + f(norm(x)).",
            "the order of BERT for all models",
        ),
        Mistake(
            "no last norm",
            wrong_unpadding(norm="last"),
            'the last norm is missing: with `config.norm == "pre"` the encoder\'s own norm comes after all layers.',
            "a loop over layers that returns at once",
        ),
        Mistake(
            "positions from 0",
            wrong_unpadding(places="from 0"),
            "the positions count from 0 within each text. That is right for BERT's padding on the right, but RoBERTa "
            "counts from 2, and a text padded on the left begins later: take them from `self.embed(ids)`.",
            "https://github.com/OpenRLHF/OpenRLHF/issues/377",
        ),
        Mistake(
            "no mask is all real",
            wrong_unpadding(mask="all"),
            "without a mask all positions are taken for real. No mask means `ids != self.config.pad_id`.",
            "attention_mask=None, which means no padding in transformers",
        ),
        Mistake(
            "padding is 0",
            wrong_unpadding(mask="zero"),
            "without a mask you compare with 0. The id of padding is in the configuration: `self.config.pad_id`.",
            "ids != 0, right for BERT's vocabulary and wrong for RoBERTa's",
        ),
        Mistake(
            "dropout at evaluation",
            wrong_unpadding(dropout="always"),
            "attention weights are dropped at evaluation too. The function's `dropout_p` always counts: pass 0 unless "
            "`layer.training`.",
            "https://github.com/pytorch/pytorch/issues/124464",
        ),
        Mistake(
            "no dropout",
            wrong_unpadding(dropout="ignored"),
            "`attend` takes a dropout and does not use it: `dropout_p=dropout`.",
            "an argument that was added and not passed on",
        ),
        Mistake(
            "a mask over the whole row",
            wrong_unpadding(attend="block"),
            "the result is right, but scores of all tokens of the row with all others are computed, and most of them "
            "are hidden by a mask afterwards. Call the attention text by text.",
            "a block-diagonal mask over one long row: https://github.com/Tencent-Hunyuan/HunyuanVideo/pull/310",
        ),
        Mistake(
            "padded for attention",
            wrong_unpadding(attend="padded"),
            "the result is right, but for the attention you pad again: softmax rows of padding are computed. Call it "
            "text by text.",
            "BERT layers that unpad for the linear layers only, such as MosaicBERT's path without a fused kernel",
        ),
        Mistake(
            "the first layer padded",
            wrong_unpadding(linear="first"),
            "the result is right, but the first layer still computes padding. Pack what `embed` gives, before all "
            "layers.",
            "packing behind the first layer, where its mask is used for the last time",
        ),
        Mistake(
            "nothing for nothing",
            wrong_unpadding(empty="zeros"),
            "a batch without a real token gives zeros. Raise a ValueError that says so: what is empty here was lost "
            "somewhere before.",
            "an early return for the empty case",
        ),
    ),
    hints=(
        "`x[mask]` takes all tokens where a mask (B, T) is True, text after text: (N, C).",
        "Back: `padded = x.new_zeros(B, T, C)`, then `padded[mask] = x[0]`. Autograd follows that.",
        "`q.split(lengths, dim=2)` cuts the row into texts; call the attention for each and `torch.cat(..., dim=2)`.",
        "A layer: `layer.attention.qkv(x).view(1, N, 3, H, D).permute(2, 0, 3, 1, 4)` gives q, k and v, each (1, H, N, "
        "D); after `attend`, `.transpose(1, 2).reshape(1, N, C)` and `layer.attention.out`. Then residuals and norms, "
        "as in lesson 04.",
        "Embed before you pack: `self.pack(self.embed(ids), mask)`. So each token keeps its position.",
    ),
    praise="Nothing is computed for padding, and no number changed.",
    other_ways=(ByLength, WithWeights, wrong_unpadding()),
)

# --- 18.4 find the bug ------------------------------------------------------------------------------------------------


def quantize(w):
    """w: (rows, columns) -> int8 (rows, columns), scale (rows,)"""
    scale = w.abs().amax(1) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (w / scale[:, None]).round().to(torch.int8), scale


def with_scale(scale_of, step=torch.round, low=-127, high=127):
    """Return a quantize with another scale, another rounding or other limits."""

    def quantize(w):
        scale = scale_of(w)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale)).expand(len(w))
        q = step(w / scale[:, None])
        return (q if low is None else q.clamp(low, high)).to(torch.int8), scale

    return quantize


def wraps(w):
    scale = w.abs().amax(1) / 128
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    q = (w / scale[:, None]).round()
    return torch.where(q > 127, q - 256, q).to(torch.int8), scale  # what a cast of 128 gives on most processors


def scale_of_zero(value):
    def quantize(w):
        scale = w.abs().amax(1) / 127
        q = (w / torch.where(scale > 0, scale, torch.ones_like(scale))[:, None]).round().to(torch.int8)
        return q, torch.where(scale > 0, scale, torch.full_like(scale, value))

    return quantize


def a_matrix(generator, rows=6, columns=9, dtype=torch.float32):
    w = torch.randn(rows, columns, generator=generator).to(dtype) * 10.0 ** torch.arange(rows)[:, None]
    at = torch.arange(rows), torch.randint(columns, (rows,), generator=generator)
    w[at] = 4.1 * w.abs().amax(1) * torch.where(torch.arange(rows) % 2 == 0, 1.0, -1.0).to(dtype)
    w[rows // 2] = 0
    return (w,)


def by_rows(w):
    q, s = torch.zeros(w.shape, dtype=torch.int8), torch.ones(len(w), dtype=w.dtype)
    for i, row in enumerate(w):
        largest = float(row.abs().max())
        if largest:
            s[i] = largest / 127
            q[i] = torch.clamp(torch.round(row / s[i]), -127, 127).to(torch.int8)
    return q, s


def by_norm(w):
    s = torch.linalg.vector_norm(w, float("inf"), dim=-1, keepdim=True) / 127
    s[s == 0] = 1
    return torch.round(w / s).char(), s[:, 0]


quantized = Exercise(
    id="18.4",
    right=quantize,
    inputs=a_matrix,
    also=lambda generator: a_matrix(generator, 3, 21, torch.float64),
    mistakes=(
        Mistake(
            "still 128",
            wraps,
            "the largest weight of a row becomes 128, which int8 does not have: its values end at 127, and 128 wraps "
            "around to −128. The largest positive weight of the row turns its sign. Divide by 127.",
            "https://github.com/uxlfoundation/oneDNN/pull/5879",
        ),
        Mistake(
            "clamped at 127",
            with_scale(lambda w: w.abs().amax(1) / 128, high=127, low=-128),
            "clamping hides the wrap-around, but the scale is still a 128th of the largest weight, so that weight is "
            "off by up to a whole step, and −128 occurs. Let the largest be 127: divide by 127.",
            "clamp(-128, 127), the range of the type in place of a symmetric one",
        ),
        Mistake(
            "128, clamped both ways",
            with_scale(lambda w: w.abs().amax(1) / 128),
            "q stays within ±127, but the scale is a 128th of the largest weight: 127 of these steps do not reach it, "
            "and its error is a whole step. Divide by 127.",
            "the clamp added, the scale kept",
        ),
        Mistake(
            "one scale for all",
            with_scale(lambda w: w.abs().amax() / 127),
            "all rows have one scale, so the largest weight of the matrix decides how finely every other row is "
            "stored. Give each row its own: `amax(1)`.",
            "one scale a tensor, the simplest scheme, copied for weights",
        ),
        Mistake(
            "cut off",
            with_scale(lambda w: w.abs().amax(1) / 127, torch.trunc),
            "the cast to int8 cuts off everything after the point, an error of up to a whole step, always towards "
            "zero. Round first.",
            ".to(torch.int8) without round()",
        ),
        Mistake(
            "rounded down",
            with_scale(lambda w: w.abs().amax(1) / 127, torch.floor),
            "`floor` rounds down, an error of up to a whole step, always in one direction. Use `round`.",
            "floor division for rounding",
        ),
        Mistake(
            "the largest, not the largest size",
            with_scale(lambda w: w.amax(1) / 127),
            "the scale comes from the largest weight, but in some rows the most negative one is larger in size, and is "
            "cut off. Take absolute values first.",
            "w.max() without abs()",
        ),
        Mistake(
            "asymmetric range",
            with_scale(lambda w: (w.amax(1) - w.amin(1)) / 255),
            "(max − min) / 255 belongs to a quantisation with a zero point, which shifts the range. This one is "
            "symmetric: the largest absolute value is 127.",
            "the formula for uint8 with a zero point used without it",
        ),
        Mistake(
            "a scale of zero",
            scale_of_zero(0.0),
            "a row of zeros gets the scale 0, or one that is nearly 0: whoever divides by it gets no number, or a huge "
            "one. Give it the scale 1.",
            "a dead row of a pruned layer divided by its own maximum",
        ),
        Mistake(
            "no number for a row of zeros",
            scale_of_zero(torch.nan),
            "a row of zeros has no finite scale. Give it the scale 1.",
            "0 / 0 in a row of zeros",
        ),
    ),
    hints=(
        "Print q at the place of the largest error.",
        "int8 has 256 values, but they are −128 to 127: how large is the largest positive one?",
        "`scale = w.abs().amax(1) / 127`, and where that is 0, 1.",
    ),
    praise="127 steps on each side of zero, and the largest weight keeps its sign.",
    other_ways=(by_rows, by_norm),
)
