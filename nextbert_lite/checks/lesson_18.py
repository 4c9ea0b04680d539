"""The checks of lesson 18, Where the time goes."""

import copy
import functools

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
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
    run,
    same,
    solution,
    untouched,
    with_weights,
)
from nextbert_lite.core.encoder import Encoder, EncoderConfig

__all__ = ["balance", "hint", "mine", "profile", "quantized", "solution", "unpadding"]

# --- 18.1 predict -----------------------------------------------------------------------------------------------------


LINEAR = {  # what a wrong sum of the linear layers' operations, in C², may come from
    2: "Is only the output counted?",
    6: "Are only queries, keys and values counted? (If you took 192 for C: that is another model's width.)",
    10: "The feed-forward network has two matrices, C × F and F × C: is one of them missing, and the queries, keys and "
    "values as well?",
    14: "The feed-forward network has two matrices, C × F and F × C: is one of them missing, and the output as well?",
    18: "Are the 6 C² of queries, keys and values missing?",
    20: "Queries, keys and values are three products of 2 C² each: are they counted as one?",
    22: "Are the 2 C² of the output missing?",
    32: "Is there a matrix too many, of C × F? (If you took 1,024 for C: that is another model's width.)",
    36: "If you put in T = 512, leave T open: it is the unknown.",
    288: "A number of layers or heads, 12, stands on one side only: one layer is compared with itself, all heads "
    "together.",
}


def about_balance(guess):
    """Return what is true of any other number of tokens."""
    tokens, C = float(guess), 768
    if not tokens > 0 or tokens == float("inf"):
        return "A number of tokens is positive and finite."
    if 4 * tokens % C == 0:
        multiple = tokens / C
        seen = LINEAR.get(4 * multiple)
        return (
            f"That is {multiple:g} C, where scores and mixing have {4 * multiple:g} C² operations. It would be right "
            "if the linear layers had as many, and they have 24 C²: 6 for queries, keys and values, 2 for the output, "
            f"16 for the feed-forward network.{f' {seen}' if seen else ''}"
        )
    if any(abs(tokens * ten - 4608) < 0.5 for ten in (100, 1000, 1024, 0.1, 0.01)):
        return "The digits are right and the unit is not: T is a number of tokens."
    ratio = 4 * tokens * C / (24 * C * C)
    direction, more = ("small", "fewer") if ratio < 1 else ("large", "more")
    if abs(ratio - 1) < 0.05:
        gap = abs(4 * tokens * C - 24 * C * C)
        return (
            f"It is too {direction}, and the exact number is whole: there scores and mixing have {gap:,.0f} operations "
            f"{more} than the linear layers. Solve 24 C² = 4 T C."
        )
    return f"It is too {direction}: there scores and mixing have {ratio:.3g} times the operations of the linear layers."


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
            "that is 3 C, half of what is right. Does one side count a multiplication and its addition as two "
            "operations, and the other as one? Or did you take F for C? With F = 4C the sides are 24 C² and 4 T C.",
            "12 C² (multiply-adds) set equal to 4 T C (operations)",
        ),
        Mistake(
            "the other side's multiply-adds",
            9216,
            "that is 12 C, twice what is right: it balances 24 C² and 2 T C. Did you leave out the mixing? It takes "
            "2 T C, as the scores do. Or did you count a multiplication and its addition as one operation on one side "
            "only?",
            "24 C² set equal to 2 T C: the scores without the mixing, or multiply-adds",
        ),
        Mistake(
            "the feed-forward network alone",
            3072,
            "that balances 16 C²: the feed-forward network alone, or attention's linear layers with one of the "
            "network's two matrices. Queries, keys, values and output have 8 C², and both matrices 16 C² more.",
            "16 C² = 4 T C, and the width of the feed-forward network, which is the same number",
        ),
        Mistake(
            "attention's own linear layers",
            1536,
            "that balances the four linear layers of attention only, 8 C². The feed-forward network has 16 C² more.",
            "8 C² = 4 T C",
        ),
        Mistake(
            "not divided by 4",
            18432,
            "that is 24 C. The other side is 4 T C, so divide by its 4 too. (6 times the width of the feed-forward "
            "network is the "
            "same number; C is the width of the model.)",
            "24 C² = T C, the factor 4 forgotten",
        ),
        Mistake(
            "one head",
            384,
            "that is 6 times the width of one head, 64. All heads together have the width C = 768.",
            "6 C with the width of a head for C",
        ),
        *(
            Mistake(
                name,
                value,
                f"{said} 4 T C is for *each* token already. For a whole text both sides have T times as many.",
                "4 T² C set against the linear layers of one token",
            )
            for name, value, said in (
                ("the square root", 68, "that is √(6 C), rounded up."),
                ("the square root, rounded down", 67, "that is √(6 C), rounded down."),
            )
        ),
        *(
            Mistake(
                name,
                value,
                f"that is {said} On both sides a token is multiplied with numbers of the width: solve 24 C² = 4 T C.",
                "24 C² = 4 T², the width left out of the scores",
            )
            for name, value, said in (
                ("T² for T C", 1881, "√6 · C, rounded down: the solution of 24 C² = 4 T²."),
                ("T² for T C, rounded up", 1882, "√6 · C, rounded up: the solution of 24 C² = 4 T²."),
            )
        ),
        Mistake(
            "times BERT's longest text",
            9,
            "that is how many times as long as BERT's longest text such a text is. The question asks for T itself, in "
            "tokens.",
            "T / 512 for T",
        ),
        Mistake(
            "the ratio",
            1,
            "1 is the ratio of the two sides at the T that is asked for. Give T itself, in tokens.",
            "the condition taken for the answer",
        ),
        Mistake(
            "the factor alone",
            6,
            "that is the factor: T = 6 C. The question asks for T itself, in tokens.",
            "24 C² / 4 C² without the width",
        ),
        Mistake(
            "divided the wrong way round",
            128,
            "that is C / 6, where scores and mixing have a 36th of the operations of the linear layers. From 24 C² = 4 "
            "T C comes T = 6 C.",
            "4 C / 24 in place of 24 C / 4",
        ),
        Mistake(
            "the operations",
            24 * 768 * 768,
            "that is 24 C², the operations of one token in the linear layers. At which T is 4 T C as much?",
            "one side of the equation taken for its solution",
        ),
    ),
    about=about_balance,
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
    drawn = torch.get_rng_state()
    found = untouched(answer, *case, names=("config", "lengths", "selected"))
    if not torch.equal(drawn, torch.get_rng_state()):
        raise Fault("a model was made: torch's random numbers have moved on. Compute it from `config` alone.")
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


KINDS = ({"positions": "none"}, {"position_offset": 3}, {"token_types": 2}, {"norm": "pre"}, {"layers": 0})


def all_kinds(answer, generator):
    """Configurations with other tables, another norm, no layers; one text; nothing selected."""
    found = [entries(answer, drawn_case(generator, **changes), *KEYS) for changes in KINDS]
    config, _, _ = drawn_case(generator)
    return *found, entries(answer, (config, [1], 0), *KEYS), entries(answer, (config, [], 0), *KEYS)


def products(config, lengths, selected):
    """Return what a wrong number may be off by: products of sizes, by their formulas."""
    C, V, F, layers, H = config.width, config.vocab_size, config.ffn_width, config.layers, config.heads
    tokens, squares, right = sum(lengths), sum(T * T for T in lengths), step_profile(config, lengths, selected)
    numbers = {"C": C, "V": V, "F": F, "C²": C * C, "C·F": C * F, "V·C": V * C, "max_len·C": config.max_len * C}
    numbers |= {"position_offset·C": config.position_offset * C, "token_types·C": config.token_types * C}
    layer = {"C": C, "F": F, "C²": C * C, "C·F": C * F, "C²·heads": C * C * H}
    numbers |= {f"{name}·layers": size * layers for name, size in layer.items()}
    operations = {f"tokens·{name}·layers": tokens * size * layers for name, size in layer.items()}
    operations |= {f"tokens·{name}": tokens * numbers[name] for name in ("C", "C²", "C·F", "V·C")}
    operations |= {f"selected·{name}": selected * numbers[name] for name in ("C", "V", "C²", "V·C")}
    pairs = {"ΣT²": squares, "(ΣT)²": tokens * tokens, "longest²": max(lengths, default=0) ** 2}
    operations |= {f"{name}·C·layers": n * C * layers for name, n in pairs.items()}
    operations |= {"ΣT²·C": squares * C, "ΣT²·C·layers·heads": squares * C * layers * H, "V·C": V * C, "C²": C * C}
    operations |= {
        "ΣT²·C·layers/heads": squares * C * layers // H,
        "ΣT²·layers": squares * layers,
        "ΣT²·layers·heads": squares * layers * H,
    }
    run = {key: right[key] for key in ("forward", "training")}
    run |= {f"{key}·tokens": right[key] * tokens for key in ("parameters", "multiplied")}
    kept = {f"tokens·{a}·layers": tokens * size * layers for a, size in (("C", C), ("F", F))}
    kept |= {"tokens·C": tokens * C, "tokens·F": tokens * F, "tokens·V": tokens * V, "selected·V": selected * V}
    kept |= {"selected·C": selected * C, "ΣT²·layers·heads": squares * layers * H, "ΣT²·layers": squares * layers}
    kept |= {"ΣT²·heads": squares * H, "ΣT²·C·layers": squares * C * layers, "C·layers": C * layers}
    kept |= {"tokens·layers": tokens * layers, "F·layers": F * layers, "parameters": right["parameters"]}
    state = {key: right[key] for key in ("parameters", "multiplied", "activations")} | numbers
    values = (numbers, numbers, operations, operations | run, state, kept)
    return dict(zip(KEYS, values, strict=True))


def off_by(answer, key, **changes):
    """Return by which products of sizes an entry is wrong, as a sentence; None if no sum of three or fewer fits."""
    generator = torch.Generator().manual_seed(18)
    cases = [drawn_case(generator, **changes) for _ in range(10)]
    gaps = [entries(answer, case, key) - step_profile(*case)[key] for case in cases]
    if not any(gaps):
        return None
    rows = [products(*case)[key] for case in cases]
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    table = torch.tensor([[float(row[name]) for name in names] for row in rows], dtype=torch.float64)
    size, gap = table.norm(dim=0), torch.tensor(gaps, dtype=torch.float64)
    for count in (1, 2, 3):
        some = torch.combinations(torch.arange(len(names)), count)
        matrices = (table / size).T[some].mT  # (choices, cases, count)
        factors = torch.linalg.lstsq(matrices, gap[None, :, None].expand(len(some), -1, 1), driver="gelsd").solution
        rest = (matrices @ factors)[..., 0] - gap
        factors = factors[..., 0] / size[some]
        halves = (2 * factors - (2 * factors).round()).abs().amax(1) < 1e-3
        fits = (rest.abs().amax(1) < 1e-6 * gap.abs().max()) & halves & (factors.abs().amin(1) > 0.25)
        if fits.any():
            best = int(torch.where(fits, factors.abs().sum(1), torch.inf).argmin())
            terms = {names[i]: round(2 * float(f)) / 2 for i, f in zip(some[best].tolist(), factors[best], strict=True)}
            return terms_told(key, terms)
    return None


def terms_told(key, terms):
    """Return a sentence on the products that are missing in an entry or too many."""
    said = []
    for word, sign in (("small", -1), ("large", 1)):
        of_sign = [f"{'' if abs(f) == 1 else f'{abs(f):g}·'}{name}" for name, f in terms.items() if f * sign > 0]
        if of_sign:
            said.append(f"too {word} by {' + '.join(of_sign)}")
    parts = " (ΣT² is the sum of the squared lengths.)" if any("ΣT" in name for name in terms) else ""
    return f'"{key}" is {" and ".join(said)}.{parts}'


def about_profile(answer, stage):
    """Return what a wrong entry is too large or too small by."""
    names = dict(zip((s.name for s in profile.stages), KEYS, strict=False))
    if stage.name in names:
        return off_by(answer, names[stage.name])
    for changes in KINDS:
        for key in KEYS:
            if said := off_by(answer, key, **changes):
                return f"with {', '.join(f'{k}={v!r}' for k, v in changes.items())}: {said}"
    return None


def off(key, amount):
    """Return a step_profile of which one entry is wrong: amount(config, lengths, selected) too large."""

    def wrong(config, lengths, selected):
        found = step_profile(config, lengths, selected)
        return found | {key: found[key] + amount(config, lengths, selected)}

    return wrong


def wrong_profile(**switches):
    """Return a step_profile as a learner may write it; its switches are the mistakes."""
    names = "types tied biases norms head positions multiplied adds pairs mixing asked dense back state acts offset"
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
        rows -= config.token_types * bool(s["types"])
        head = C * C + C + 2 * C + V
        if s["tied"]:
            head += C * V
        if s["head"]:
            head = 0
        total = rows * C + norms + matrices + biases + head
        total -= biases * (s["biases"] == "layers")
        total -= norms * (s["norms"] == "all") + 2 * C * (s["norms"] == "first")
        total -= (norms // 2) * (s["norms"] in ("weights", "all weights")) + C * (s["norms"] == "all weights")
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
            wrong_profile(norms="all weights"),
            "each layer norm has a weight *and* a bias, 2C numbers; you count C.",
            "one number a feature, as in RMSNorm",
        ),
        Mistake(
            "norms without biases but the head's",
            wrong_profile(norms="weights"),
            "each layer norm has a weight *and* a bias, 2C numbers. You count 2C for the head's and C for the others.",
            "RMSNorm's one number a feature in the encoder, and the head copied from the text",
        ),
        Mistake(
            "one norm of the model",
            wrong_profile(norms="first"),
            "2C numbers are missing, one layer norm: besides those of the layers the encoder has one and the head has "
            "one.",
            "the norms of the layers only",
        ),
        Mistake(
            "both norms outside the layers",
            off("parameters", lambda c, lengths, n: -4 * c.width),
            "4C numbers are missing, two layer norms: besides those of the layers the encoder has one and the head has "
            "one.",
            "the norms of the layers only",
        ),
        Mistake(
            "one norm a layer",
            off("parameters", lambda c, lengths, n: -2 * c.width * c.layers),
            "2C numbers a layer are missing. A layer has two norms with a weight and a bias each, 4C, and biases of 3C "
            "+ C + F + C.",
            "one norm a layer, or the weight alone of each norm, or a bias of C for queries, keys and values together",
        ),
        Mistake(
            "no bias in the head's norm or linear layer",
            off("parameters", lambda c, lengths, n: -c.width),
            "C numbers are missing outside the layers: the bias of the head's linear layer, or that of a layer norm.",
            "one of the three vectors of C + 2C in the head",
        ),
        Mistake(
            "the bias over the words",
            off("parameters", lambda c, lengths, n: -c.vocab_size),
            "the head's bias of V numbers is missing.",
            "a tied decoder thought of as having no parameters at all",
        ),
        Mistake(
            "qkv for every head",
            off("parameters", lambda c, lengths, n: 3 * c.width**2 * c.layers * (c.heads - 1)),
            "a head has C / H features, so the matrix of queries, keys and values is C × 3C for all heads together.",
            "3·C·C times the number of heads",
        ),
        Mistake(
            "F = 4C",
            off("parameters", lambda c, lengths, n: c.layers * (2 * c.width + 1) * (4 * c.width - c.ffn_width)),
            "that is right where F = 4C. `config.ffn_width` may be another number.",
            "12 C² + 13 C, the size of a layer of BERT's",
        ),
        Mistake(
            "no token types",
            wrong_profile(types=True),
            "the table of token types is missing: `token_types` rows.",
            "a table that most of the course's encoders do not have",
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
            "the head's first matrix",
            off("multiplied", lambda c, lengths, n: c.width**2),
            "the head's C × C matrix is counted. The head runs on selected tokens only, and the text leaves it out "
            "here.",
            "all nn.Linear of the model",
        ),
        Mistake(
            "biases, no norms",
            off("multiplied", lambda c, lengths, n: c.layers * (5 * c.width + c.ffn_width)),
            "the biases are counted. They are added to a token: no matrix product.",
            "all parameters of the linear layers",
        ),
        Mistake(
            "12 C²",
            off("multiplied", lambda c, lengths, n: c.layers * 2 * c.width * (4 * c.width - c.ffn_width)),
            "12 C² a layer is right where F = 4C. `config.ffn_width` may be another number.",
            "12 C² taken for the size of a layer",
        ),
        Mistake(
            "queries, keys and values once",
            off("multiplied", lambda c, lengths, n: -2 * c.layers * c.width**2),
            "2C² a layer are missing: queries, keys and values have a C × C matrix each, and the output has a fourth.",
            "one C × C matrix for queries, keys and values, or three for the whole attention",
        ),
        Mistake(
            "one matrix of the feed-forward network",
            off("multiplied", lambda c, lengths, n: -c.layers * c.width * c.ffn_width),
            "C·F a layer are missing: the feed-forward network has two matrices, C × F and F × C.",
            "C·F for the whole network",
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
            "attention of one layer",
            off("forward", lambda c, lengths, n: -4 * c.width * (c.layers - 1) * sum(T * T for T in lengths)),
            "scores and mixing are counted for one layer; there are `config.layers`.",
            "the number of layers only in the linear part",
        ),
        Mistake(
            "the head of one token",
            off("forward", lambda c, lengths, n: (1 - n) * 2 * c.width * (c.width + c.vocab_size)),
            "the head is counted for one token; it is asked for `selected`.",
            "2 C² + 2 C V without the number of tokens",
        ),
        Mistake(
            "all tokens padded",
            lambda c, lengths, n: step_profile(c, [max(lengths, default=0)] * len(lengths), n),
            "everything is counted with the longest length for every text, the linear layers too. `lengths` already "
            "says what is computed for each.",
            "B · T tokens with the batch's T",
        ),
        Mistake(
            "linear layers as multiply-adds",
            off("forward", lambda c, ls, n: -sum(ls) * c.layers * (4 * c.width**2 + 2 * c.width * c.ffn_width)),
            "the linear layers are counted as multiply-adds and the rest as operations. Each entry of a matrix takes "
            "two operations for each token.",
            "multiplied · tokens, without the factor 2",
        ),
        Mistake(
            "the head as multiply-adds",
            off("forward", lambda c, lengths, n: -n * c.width * (c.width + c.vocab_size)),
            "the head is counted as multiply-adds and the rest as operations: 2·C² + 2·C·V for each selected token.",
            "C² + C·V, without the factor 2",
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
            "6ND",
            lambda c, ls, n: (p := step_profile(c, ls, n)) | {"training": 6 * p["multiplied"] * sum(ls)},
            "6ND with the multiplied parameters leaves out attention and the head. Here it is 3 × forward, exactly.",
            "the rule of thumb for large models",
        ),
        Mistake(
            "6ND of all",
            lambda c, ls, n: (p := step_profile(c, ls, n)) | {"training": 6 * p["parameters"] * sum(ls)},
            "6ND with all parameters leaves out attention, and counts tables that are not multiplied and a head that "
            "runs on selected tokens only. Here it is 3 × forward, exactly.",
            "the rule of thumb for large models",
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
            "2C a token are missing: queries, keys and values are 3C, and the inputs of the two norms, x + attention "
            "and "
            "x + feed-forward, are kept too.",
            "queries, keys and values counted as C, or the residual sums thought of as free",
        ),
        Mistake(
            "one tensor of C",
            off("activations", lambda c, lengths, n: -4 * c.layers * sum(lengths) * c.width),
            "C a token and layer is missing. It is 8C + 2F: its own input; queries, keys and values (3C); the heads' "
            "outputs; the inputs of *both* norms (2C); the output of the first norm.",
            "the input of one norm forgotten",
        ),
        Mistake(
            "16 C",
            off("activations", lambda c, ls, n: 8 * c.layers * sum(ls) * (4 * c.width - c.ffn_width)),
            "16 C is right where F = 4C. `config.ffn_width` may be another number.",
            "16 times the input, the proportion for F = 4C",
        ),
        Mistake(
            "the head's scores",
            off("activations", lambda c, lengths, n: 4 * n * c.vocab_size),
            "the head's scores, selected · V, are counted. The head is left out here: the layers only.",
            "all activations of the step",
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
    about=about_profile,
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


@functools.cache
def shapes_of(config):
    """Return lesson 04's encoder, made once: the names and shapes of its parameters."""
    with torch.random.fork_rng(devices=[]):
        return Encoder(config)


def made(answer, generator, **changes):
    """Return the learner's encoder in float64 with seeded weights, in eval mode."""
    if not isinstance(answer, type) or not issubclass(answer, nn.Module):
        raise Fault(f"expected the class UnpaddedEncoder; this is {describe(answer)}.")
    config = small_config(**changes)
    return with_weights(answer(config).double(), shapes_of(config), generator).eval()


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


def two_masks(generator):
    """Return a mask with padding on the right, and one with padding anywhere."""
    return torch.arange(6) < torch.tensor([3, 6, 1, 4])[:, None], scattered(generator)


def packing(answer, generator):
    encoder, found = made(answer, generator), []
    for mask in two_masks(generator):
        x = torch.randn(*mask.shape, 5, generator=generator).double()
        packed = untouched(encoder.pack, x, mask, names=("x", "mask"))
        if isinstance(packed, torch.Tensor) and packed.ndim == 2:
            raise Fault(f"`pack` gives the shape {tuple(packed.shape)}; expected a batch of one row, (1, N, C).")
        found.append(packed)
    return tuple(found)


def unpacking(answer, generator):
    """Back in place, with the gradient; memory that nobody has written holds no numbers here."""
    encoder, found = made(answer, generator), []
    for mask in two_masks(generator):
        x = torch.randn(1, int(mask.sum()), 5, generator=generator).double().requires_grad_()
        y = with_unwritten_memory(encoder.unpack, x, mask)
        if not isinstance(y, torch.Tensor) or y.shape != (*mask.shape, 5):
            return y  # `about_unpack` says what is wrong with it
        if not y.requires_grad:
            raise Fault("what `unpack` gives has no graph: nothing before it would learn.")
        (gradient,) = torch.autograd.grad((y * torch.randn(y.shape, generator=generator)).sum(), x)
        found += [y, gradient]
    return tuple(found)


class Unwritten(TorchFunctionMode):
    """Puts NaN into what `torch.empty` gives: what was there before may be zeros by chance."""

    def __torch_function__(self, function, types, arguments=(), more=None):
        made = function(*arguments, **(more or {}))
        unwritten = function in (torch.empty, torch.empty_like, torch.Tensor.new_empty)
        return made.fill_(torch.nan) if unwritten and made.is_floating_point() else made


def with_unwritten_memory(function, *arguments):
    with Unwritten():
        return function(*arguments)


def attending(answer, generator):
    encoder, found = made(answer, generator), []
    for lengths in ([3, 5, 2, 5], [4], [1, 1, 3]):
        q, k, v = (torch.randn(1, 3, sum(lengths), 4, generator=generator).double() for _ in range(3))
        found.append(untouched(encoder.attend, q, k, v, lengths, names=("q", "k", "v", "lengths")))
    return tuple(found)


def of_layer(answer, generator, norm, train=False):
    """Return the learner's encoder and one of its layers; in training its dropout lets nothing through."""
    encoder = made(answer, generator, norm=norm)
    for layer in encoder.layers if train else ():
        layer.dropout = nn.Dropout(1.0)
    if train:
        encoder.config = copy.copy(encoder.config)
        object.__setattr__(encoder.config, "dropout", 1.0)  # which a configuration does not take
        encoder.train()
    return encoder, encoder.layers[1]


def a_layer(answer, generator):
    """One layer on a packed row, post-norm and pre-norm."""
    found = []
    for norm in ("post", "pre"):
        encoder, layer = of_layer(answer, generator, norm)
        x = torch.randn(1, 9, 12, generator=generator).double()
        found.append(untouched(encoder.layer_forward, layer, x, [4, 3, 2], names=("layer", "x", "lengths")))
    return tuple(found)


def dropped(answer, generator):
    """One layer in training, with a dropout of the residuals that lets nothing through."""
    found = []
    for norm in ("post", "pre"):
        encoder, layer = of_layer(answer, generator, norm, train=True)
        found.append(encoder.layer_forward(layer, torch.randn(1, 9, 12, generator=generator).double(), [4, 3, 2]))
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
    return untouched(encoder, ids, mask, names=("ids", "mask"))


def own_mask(answer, generator):
    """A mask that is not `ids != pad_id`: a real token with the id of padding, and two words that are not read."""
    encoder = made(answer, generator)
    ids, mask = texts_of(generator, [6, 3, 5])
    ids[0, 2], mask[2, :2] = encoder.config.pad_id, False
    return untouched(encoder, ids, mask, names=("ids", "mask"))


def configurations(answer, generator):
    """Pre-norm; RoBERTa's positions; no positions; no mask given; padding on the left; a mask of its own."""
    found = [whole(answer, generator, norm="pre"), whole(answer, generator, position_offset=2)]
    found.append(whole(answer, generator, positions="none"))
    encoder = made(answer, generator)
    ids, mask = texts_of(generator, [2, 6, 5])
    found.append(encoder(ids))
    found.append(encoder(ids.flip(1), mask.flip(1)))
    other = made(answer, generator, pad_id=3)
    return *found, other(ids.masked_fill(~mask, 3)), own_mask(answer, generator)


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
    return dropping(answer, generator), dropped(answer, generator), gradients(answer, generator)


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
    ids, mask = texts_of(generator, [4, 0, 2])
    try:
        some = encoder(ids, mask)
    except ValueError as error:
        raise Fault(
            f"a batch with one text without a real token raises a ValueError ({error}). That text is no error while "
            "others have some: its row is zeros."
        ) from None
    if isinstance(some, torch.Tensor) and some.shape[0] < 3:
        raise Fault("a text without a real token is gone from the batch: (B, T, C), with zeros in its row.")
    empty = torch.zeros(0, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.int64)
    for ids in empty:
        try:
            encoder(ids, ids != 0)
        except ValueError as error:
            if len(str(error)) < 15 or "torch." in str(error):
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
    return long, full, one, some


def other_encoders(answer, generator):
    """Another width, other heads, other lengths; in float32."""
    encoder = made(answer, generator, width=20, heads=2, ffn_width=33, layers=3, max_len=30)
    return encoder.float()(*texts_of(generator, [30, 17, 2, 2, 9, 30]))


def wrong_unpadding(**switches):
    """Return an UnpaddedEncoder as a learner may write it; its switches are the mistakes."""
    names = "pack unpack attend places norm dropout empty layer linear mask lengths"
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
            if s["pack"] == "columns":
                return x[:, mask.any(0)].flatten(0, 1)[None]
            if s["pack"] == "zeros":
                return (x * mask[..., None]).flatten(0, 1)[None]
            return super().pack(x, mask)

        def unpack(self, x, mask):
            if s["unpack"] == "repeat":
                flat = (mask.flatten().cumsum(0) - 1).clamp(min=0)
                return x[0, flat].view(*mask.shape, -1)
            if s["unpack"] == "left":
                out = x.new_zeros(*mask.shape, x.shape[-1])
                for i, text in enumerate(x[0].split(mask.sum(1).tolist())):
                    out[i, : len(text)] = text
                return out
            if s["unpack"] == "empty":
                out = torch.empty(*mask.shape, x.shape[-1], dtype=x.dtype)
                out[mask] = x[0]
                return out
            if s["unpack"] == "longest":
                return nn.utils.rnn.pad_sequence(x[0].split(mask.sum(1).tolist()), batch_first=True)
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
            what, came = s["layer"], x
            pre = what == "pre" or (layer.pre and what != "post")
            normed = layer.norm1(x) if pre else x
            if what == "heads first":
                qkv = attention.qkv(normed).view(1, N, attention.H, 3, C // attention.H).transpose(2, 3)
            else:
                qkv = attention.qkv(normed).view(1, N, 3, attention.H, C // attention.H)
            rate = attention.dropout if layer.training or s["dropout"] == "always" else 0.0
            heads = self.attend(*qkv.permute(2, 0, 3, 1, 4), lengths, rate)
            heads = (heads if what == "no transpose" else heads.transpose(1, 2)).reshape(1, N, C)
            attended = heads if what == "no out" else attention.out(heads)
            if what == "own attention":
                attended, _ = attention(normed)
            first, second = (layer.norm2, layer.norm1) if what == "norms swapped" else (layer.norm1, layer.norm2)
            if s["dropout"] not in ("none", "on the network", "on the sums"):
                attended = layer.dropout(attended)
            x = {"no residual": 0 * x, "no residuals": 0 * x, "residual of the norm": normed}.get(what, x) + attended
            x = layer.dropout(x) if s["dropout"] == "on the sums" else x
            x = x if pre else first(x)
            normed = second(x) if pre else x
            further = layer.feed_forward(x if what == "no norm2" else normed)
            if s["dropout"] not in ("none", "on the attention", "on the sums"):
                further = layer.dropout(further)
            x = {"residual of the norm": normed if pre else x, "residual of the layer": came}.get(what, x)
            x = further if what in ("no residuals", "no second residual") else x + further
            x = layer.dropout(x) if s["dropout"] == "on the sums" else x
            if pre or (what == "no norm2"):
                return x
            return (layer.norm1 if what == "norm1 twice" else second)(x)

        def forward(self, ids, mask=None):
            if mask is None:
                mask = ids != (0 if s["mask"] == "zero" else self.config.pad_id)
                if s["mask"] == "all":
                    mask = torch.ones_like(mask)
            if s["mask"] == "ids":
                mask = ids != self.config.pad_id
            if s["mask"] == "in place":
                mask &= ids != self.config.pad_id
            if s["mask"] == "both":
                mask = mask & (ids != self.config.pad_id)
            if not mask.any() and s["empty"] is None:
                raise ValueError(f"there is no real token in this batch of shape {tuple(ids.shape)}: leave it out.")
            if not mask.any():
                return torch.zeros(*ids.shape, self.config.width)
            if s["linear"] == "all":
                x = self.embed(ids)
                for layer in self.layers:
                    x, _ = layer(x, mask[:, None, None])
                return self.unpack(self.pack(self.norm(x) if self.config.norm == "pre" else x, mask), mask)
            if s["empty"] == "refused" and not mask.any(1).all():
                raise ValueError("a text of this batch has no real token.")
            if s["empty"] == "dropped":
                ids, mask = ids[mask.any(1)], mask[mask.any(1)]
            lengths = (ids != self.config.pad_id if s["lengths"] == "ids" else mask).sum(1).tolist()
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
            elif s["places"] == "tokens":
                x = self.tokens(ids[mask][None])
            else:
                x = self.pack(self.embed(ids), mask)
            for number, layer in enumerate(self.layers):
                if s["linear"] == "first" and number == 0:
                    y, _ = layer(self.embed(ids), mask[:, None, None])
                    x = self.pack(y, mask)
                else:
                    x = self.layer_forward(self.layers[0] if s["layer"] == "first" else layer, x, lengths)
            if s["norm"] == "after":
                x = self.unpack(x, mask)
                return self.norm(x) if self.config.norm == "pre" else x
            if (self.config.norm == "pre" and s["norm"] != "last") or s["norm"] == "always":
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


class ByFunctions(UnpaddedEncoder):
    """A layer by torch's functions, with the rate of the configuration; packing by torch's masked functions."""

    def pack(self, x, mask):
        return torch.masked_select(x, mask[..., None]).view(1, -1, x.shape[-1])

    def unpack(self, x, mask):
        return torch.zeros(*mask.shape, x.shape[-1]).to(x).masked_scatter(mask[..., None], x)

    def layer_forward(self, layer, x, lengths):
        def dropped(x):
            return F.dropout(x, self.config.dropout, self.training)

        def attended(x):
            q, k, v = F.linear(x, layer.attention.qkv.weight, layer.attention.qkv.bias).chunk(3, dim=-1)
            q, k, v = (t.unflatten(2, (layer.attention.H, -1)).transpose(1, 2) for t in (q, k, v))
            rate = layer.attention.dropout * layer.training
            heads = self.attend(q, k, v, [n for n in lengths if n], rate).transpose(1, 2).flatten(2)
            return dropped(layer.attention.out(heads))

        def normed(norm, x):
            return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)

        if layer.pre:
            x = x + attended(normed(layer.norm1, x))
            return x + dropped(layer.feed_forward(normed(layer.norm2, x)))
        x = normed(layer.norm1, x + attended(x))
        return normed(layer.norm2, x + dropped(layer.feed_forward(x)))


def attempt(function, *arguments, **more):
    """Return function(*arguments), or the exception that it raises."""
    try:
        return function(*arguments, **more)
    except Exception as error:  # noqa: BLE001 - a learner's code may raise anything; it is described
        return error


def raised(error):
    return f"your code raised {type(error).__name__}: {str(error).rstrip('.')}."


def close(a, b):
    """Whether two tensors hold the same numbers."""
    return (
        isinstance(a, torch.Tensor)
        and a.shape == b.shape
        and torch.allclose(a.detach().double(), b.detach().double(), rtol=1e-4, atol=1e-5)
    )


def about_unpadding(answer, stage):
    """Return what is wrong in a stage that fails in a way without a name."""
    generator = torch.Generator().manual_seed(18)
    torch.manual_seed(18)
    encoder = made(answer, generator)
    if stage.name == "pack":
        return about_pack(encoder, generator)
    if stage.name == "unpack":
        return about_unpack(encoder, generator)
    if stage.name == "attention":
        return about_attend(encoder, generator)
    if stage.name == "a layer" or stage.name == "training":
        for norm in ("post", "pre"):
            encoder, layer = of_layer(answer, generator, norm, stage.name == "training")
            x = torch.randn(1, 9, 12, generator=generator).double()
            if said := about_layer(encoder, layer, x, [4, 3, 2]):
                return f"{norm}-norm: {said}"
    for name, changes in {
        "": {},
        'with norm="pre": ': {"norm": "pre"},
        "with position_offset=2: ": {"position_offset": 2},
        'with positions="none": ': {"positions": "none"},
    }.items():
        encoder = made(answer, generator, **changes)
        ids, mask = texts_of(generator, [7, 3, 5])
        if said := about_forward(encoder, ids, mask) or about_forward(encoder, ids.flip(1), mask.flip(1)):
            return name + said
    ids[0, 2], mask[2, :2] = encoder.config.pad_id, False
    encoder = made(answer, generator)
    if said := about_forward(encoder, ids, mask):
        return f"with a mask that is not `ids != pad_id`: {said}"
    ids, mask = texts_of(generator, [4, 0, 2])
    said = about_forward(encoder, ids, mask)
    return said and f"with a text without a real token: {said}"


def about_pack(encoder, generator):
    for mask in two_masks(generator):
        x, n = torch.randn(*mask.shape, 5, generator=generator).double(), int(mask.sum())
        packed = attempt(encoder.pack, x.clone(), mask.clone())
        if close(packed, x[mask][None]):
            continue
        if isinstance(packed, Exception):
            more = " The texts have different lengths." if "invalid for input of size" in str(packed) else ""
            return f"{raised(packed)}{more} All real tokens: `x[mask]`."
        if not isinstance(packed, torch.Tensor):
            return f"`pack` gives {describe(packed)}; expected one tensor, (1, N, C)."
        if packed.shape == (n, 1, 5):
            return f"`pack` gives the shape {tuple(packed.shape)}; expected (1, N, C), a batch of one row."
        if packed.shape == (1, 5, n):
            return "features and tokens have changed places; expected (1, N, C)."
        if packed.ndim != 3 or packed.shape[0] != 1 or packed.shape[2] != 5:
            return f"`pack` gives the shape {tuple(packed.shape)}; expected (1, {n}, 5): one row with all real tokens."
        found, real = packed.shape[1], x[mask]
        if found > n:
            return f"padding is still in the row: {found} tokens, and {n} are real. Take those where the mask is True."
        if found < n:
            return f"tokens are lost: the row has {found}, and {n} are real."
        same_token = torch.cdist(packed[0].double(), real) < 1e-6
        if bool(same_token.any(0).all()):
            return "the real tokens are there, in another order. Text after text, in the order in which they stand."
        at_padding = torch.cdist(packed[0].double(), x[~mask]) < 1e-6
        if bool(at_padding.any()):
            return f"{int(at_padding.any(1).sum())} of the row's tokens are padding, and as many real ones are missing."
        return "the row holds tokens that are not in x: `pack` only chooses, it does not compute."
    return None


def about_unpack(encoder, generator):
    for mask in two_masks(generator):
        x = torch.randn(1, int(mask.sum()), 5, generator=generator).double().requires_grad_()
        right = x.new_zeros(*mask.shape, 5)
        right[mask] = x[0]
        y = attempt(with_unwritten_memory, encoder.unpack, x, mask.clone())
        if close(y, right) and y.dtype == x.dtype:
            continue
        if isinstance(y, Exception):
            text = raised(y)
            if "dtype" in str(y):
                return f"{text} `torch.zeros(...)` is float32, whatever x is; `x.new_zeros(...)` is like x."
            if "leaf Variable" in str(y) or "in-place" in str(y) or "inplace" in str(y):
                return f"{text} Write into a new tensor of zeros: `padded[mask] = x[0]`."
            if "shape mismatch" in str(y) or "broadcast" in str(y):
                return f"{text} `padded[mask]` is (N, C), so `x[0]` goes there."
            return None
        if not isinstance(y, torch.Tensor):
            return f"`unpack` gives {describe(y)}; expected the shape {(*mask.shape, 5)}."
        if y.shape != right.shape:
            shape, B, T = tuple(y.shape), *mask.shape
            if y.ndim == 3 and shape[0] == B and shape[2] == 5:
                return (
                    f"`unpack` gives the shape {shape}; expected {(B, T, 5)}: T comes from `mask`, not from the "
                    "longest text."
                )
            return f"`unpack` gives the shape {shape}; expected {(B, T, 5)}, the mask's shape and the features."
        if y.dtype != x.dtype:
            return f"`unpack` gives {y.dtype}; x is {x.dtype}. `x.new_zeros(...)` is like x, `torch.zeros` is float32."
        if close(y[mask], right[mask]):
            return (
                "the real tokens are right, and at padding there is something else than zeros. Begin with "
                "`x.new_zeros(...)` and write the real tokens only."
            )
        if bool((torch.cdist(x[0], y.detach().flatten(0, 1)) < 1e-6).any(1).all()):
            return (
                "the tokens are there and stand at other places than where the mask is True, in the order of the row."
            )
        return "tokens are lost or changed: each token of the row goes to a place where the mask is True."
    return None


def about_attend(encoder, generator):
    """With v = 1, each output of `attend` is its attention weights."""
    for lengths in ([3, 5, 2, 5], [4], [1, 1, 3]):
        N = sum(lengths)
        q, k = (torch.randn(1, 3, N, N, generator=generator).double() for _ in range(2))
        v = torch.eye(N).double().expand(1, 3, N, N)
        owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        within = owner[:, None] == owner
        right = F.scaled_dot_product_attention(q, k, v, within)
        weights = attempt(encoder.attend, q.clone(), k.clone(), v.clone(), list(lengths))
        if close(weights, right):
            continue
        if isinstance(weights, Exception):
            return attend_raised(weights)
        if not isinstance(weights, torch.Tensor):
            return f"`attend` gives {describe(weights)}; expected one tensor, (1, H, N, D), like q."
        if weights.shape != right.shape:
            return attend_shape(weights, right.shape)
        return about_weights(weights.detach(), right, within, q, k)
    return None


def attend_raised(error):
    text = raised(error)
    if "except in dimension" in str(error):
        return f"{text} Texts stand one after the other in dim 2 of (1, H, N, D); dim 1 is the heads."
    if "invalid for input of size" in str(error) or "view size" in str(error):
        return f"{text} The texts have different lengths, so the row is no (texts, T) grid: `split(lengths, dim=2)`."
    if "split_with_sizes" in str(error) or "split_sizes" in str(error):
        return f"{text} The tokens are dim 2 of (1, H, N, D), and their lengths add up to N there only."
    return None


def attend_shape(weights, right):
    """Return what is wrong with the shape of what `attend` gives."""
    shape, (_, H, N, D) = tuple(weights.shape), right
    if (weights.ndim == 4 and shape[1:] == (H, N, D)) or shape == (H, N, D):
        return f"`attend` gives the shape {shape}; expected (1, H, N, D), a batch of one row."
    if weights.ndim == 4 and shape[0] == 1 and shape[1] == H and shape[3] == D and shape[2] < N:
        return (
            f"tokens are lost: {shape[2]} of {N} come back. Each text must give its own tokens: a slice begins at "
            "`start` "
            "and ends at `start + n`, and `start` moves on by n."
        )
    if weights.ndim == 4 and shape[0] == 1 and shape[1] == H and shape[3] == D:
        return (
            f"there are {shape[2]} tokens for {N}: texts overlap, or come back more than once, or padding is left in."
        )
    if sorted(shape) == sorted(right) or weights.numel() == H * N * D:
        return (
            f"`attend` gives the shape {shape}; expected that of q, (1, H, N, D): texts one after the other in dim 2."
        )
    return f"`attend` gives the shape {shape}; expected that of q, (1, H, N, D) = {tuple(right)}."


def about_weights(weights, right, within, q, k):
    """Return what is wrong with attention weights (1, H, N, N), of which those within a text should be positive."""
    N = len(within)
    seen = (weights.abs() > 1e-12).any(1)[0]
    scores = (q @ k.mT / N**0.5).masked_fill(~within, -torch.inf)
    for said, other in {
        "the texts come back in another order than they came.": None,
        "the heads have changed places.": None,
        "queries and keys are swapped.": (k @ q.mT / N**0.5).masked_fill(~within, -torch.inf).softmax(-1),
        "the scores are not divided by √D.": (scores * N**0.5).softmax(-1),
        "the scores are divided by D in place of √D.": (scores / N**0.5).softmax(-1),
        "the softmax goes over the queries; it goes over the keys, the last dimension.": scores.softmax(
            -2
        ).nan_to_num(),
        "there is no softmax: the scores themselves are the weights.": scores.masked_fill(~within, 0),
        "every token of a text gets the same weight: the mean of the values.": within / within.sum(1, keepdim=True),
        "keys stand in the place of values, or queries in the place of keys.": None,
    }.items():
        if other is not None and close(weights, other.double().expand_as(weights)):
            return said
    outside, inside = bool((seen & ~within).any()), bool((within & ~seen).any())
    if bool(seen.all()):
        return "each text attends to all others of the row. Cut q, k and v into texts: `split(lengths, dim=2)`."
    if outside and not inside:
        return f"a token attends to {int((seen & ~within).sum(1).max())} tokens of other texts, besides its own text's."
    if inside and not outside:
        lost = within & ~seen
        if bool((~seen.any(1)).any()):
            return f"{int((~seen.any(1)).sum())} tokens of the row get nothing: their rows are zeros."
        if bool((lost == (within & torch.ones_like(within).triu(1))).all()):
            return "a token attends to those before it only. Every token of the text may be attended to."
        if not bool(lost[~torch.eye(N, dtype=torch.bool)].any()):
            return "a token does not attend to itself."
        return f"a token does not see {int(lost.sum(1).max())} tokens of its own text."
    if outside:
        if bool((weights[0].sum(0).abs() > 1e-12).any()) and sorted(seen.sum(1).tolist()) == sorted(
            within.sum(1).tolist()
        ):
            return "the texts are cut at the right lengths and in another order: each length belongs to its own text."
        return "the row is cut at other places than between the texts: `split(lengths, dim=2)` for q, k and v alike."
    if not close(weights.sum(-1), right.sum(-1)):
        return "the weights of a token do not add up to 1."
    return "each text attends to itself and to no other, but with other weights: softmax(q·k / √D), head by head."


class Record:
    """What the parts of a module get and give, in the order in which they are called."""

    def __init__(self):
        self.calls = []

    def function(self, owner, name, label):
        """Note the calls of a method."""
        plain = getattr(owner, name)

        def noted(*arguments, **more):
            given = plain(*arguments, **more)
            self.calls.append((label, (*arguments, *more.values()), given))
            return given

        owner.__dict__[name] = noted

    def module(self, part, label):
        """Note the calls of a module."""

        def note(_, arguments, given):
            self.calls.append((label, arguments, given))

        part.register_forward_hook(note)

    def of(self, label):
        """Return arguments and results of the calls with this label."""
        return [(arguments, given) for name, arguments, given in self.calls if name == label]


def record_layer(encoder, layer):
    record = Record()
    record.function(encoder, "attend", "attend")
    record.function(layer, "feed_forward", "feed_forward")
    parts = {"layer": layer, "attention": layer.attention, "qkv": layer.attention.qkv, "out": layer.attention.out}
    for label, part in (parts | {name: getattr(layer, name) for name in ("norm1", "norm2", "dropout")}).items():
        record.module(part, label)
    return record


SHOULD_GET = {  # what each part of a layer gets, with post-norm and with pre-norm
    "norm1": ("x + layer.dropout(what the attention gives)", "x"),
    "qkv": ("x", "norm1(x)"),
    "attend": ("queries, keys and values",) * 2,
    "out": ("the heads' outputs, (1, N, C): `.transpose(1, 2).reshape(1, N, C)`",) * 2,
    "feed_forward": ("what norm1 gives", "what norm2 gives"),
    "norm2": ("norm1's output + layer.dropout(what the feed-forward network gives)", "x + the attention's part"),
}
CALLED = {
    "qkv": "`layer.attention.qkv`",
    "attend": "`self.attend`",
    "out": "`layer.attention.out`",
    "feed_forward": "`layer.feed_forward`",
    "norm1": "`layer.norm1`",
    "norm2": "`layer.norm2`",
    "dropout": "`layer.dropout`",
}
ORDER = {
    "post": ("qkv", "attend", "out", "norm1", "feed_forward", "norm2"),
    "pre": ("norm1", "qkv", "attend", "out", "norm2", "feed_forward"),
}


def about_layer(encoder, layer, x, lengths):
    """Return at which part a layer goes wrong: the first that gets something else than it should."""
    ours = UnpaddedEncoder(small_config(norm="pre" if layer.pre else "post")).double().train(layer.training)
    ours.load_state_dict(encoder.state_dict())
    twin = ours.layers[1]
    twin.dropout = copy.deepcopy(layer.dropout)
    expected, found = record_layer(ours, twin), record_layer(encoder, layer)
    right = ours.layer_forward(twin, x.clone(), list(lengths))
    y = attempt(encoder.layer_forward, layer, x.clone(), list(lengths))
    if close(y, right):
        return None
    for label in ("layer", "attention"):
        if found.of(label):
            name = "layer" if label == "layer" else "layer.attention"
            return (
                f"`{name}` is called on the whole row, so attention goes from text to text. Use its parts and "
                "`self.attend`."
            )
    if y is None:
        return "`layer_forward` returns None: is a `return` missing?"
    pre = int(layer.pre)
    for label in ORDER["pre" if pre else "post"]:
        calls, wanted = found.of(label), expected.of(label)[0]
        if not calls:
            if isinstance(y, Exception):
                break
            return f"{CALLED[label]} is not called. It gets {SHOULD_GET[label][pre]}."
        given = calls[0][0]
        if label == "attend":
            if said := about_heads(given, wanted[0]):
                return said
        elif not close(given[0], wanted[0][0]):
            return wrong_input(label, pre, given[0], x, expected)
        if len(calls) > 1:
            return f"{CALLED[label]} is called {len(calls)} times; a layer calls it once."
    if isinstance(y, Exception):
        last = found.calls[-1][0] if found.calls else None
        place = f" behind {CALLED[last]}" if last in CALLED else ""
        return f"your code raised {type(y).__name__}{place}: {str(y).rstrip('.')}."
    if not isinstance(y, torch.Tensor) or y.shape != right.shape:
        return f"`layer_forward` gives {describe(y)}; expected the shape {tuple(right.shape)}."
    if pre:
        network, first = expected.of("feed_forward")[0][1], expected.of("norm2")[0][0][0]
        if close(y, network) or close(y, first):
            return (
                "the result is one half of the sum, which is x + the attention's part + "
                "layer.dropout(layer.feed_forward(...))."
            )
        return (
            "all parts get what they should, and the result is wrong. It is x + the attention's part + "
            "layer.dropout(layer.feed_forward(...))."
        )
    return "all parts get what they should, and the result is not what `layer.norm2` gives."


def wrong_input(label, pre, given, x, expected):
    """Return what a part of a layer gets in place of what it should."""
    attended = expected.of("dropout")[0][1]
    inputs = {"x itself": x, "what the attention gives, without the residual": attended}
    inputs["the sum without `layer.dropout`"] = x + expected.of("out")[0][1]
    inputs["x + what the attention gives, before the norm"] = x + attended
    inputs["norm1 of x"] = expected.of("norm1")[0][1] if pre else F.layer_norm(x, x.shape[-1:])
    if not pre:
        first, network = expected.of("norm1")[0][1], expected.of("feed_forward")[0][1]
        inputs["what norm1 gives, before the feed-forward network"] = first
        inputs["what the feed-forward network gives, without the residual"] = network
        inputs["x, the layer's own input, + what the network gives"] = x + network
        inputs["the sum without `layer.dropout`, or with it in another place"] = first + network
    heads = expected.of("out")[0][0][0]
    inputs["the heads' outputs, without `layer.attention.out`"] = x + heads
    said = next((name for name, value in inputs.items() if close(given, value)), "something else")
    if label == "out" and isinstance(given, torch.Tensor) and given.shape == heads.shape:
        if close(given.sort().values, heads.sort().values):
            said = "the right numbers with the features in another order"
        elif close(given.flatten().sort().values, heads.flatten().sort().values):
            said = "the right numbers in another order, so tokens are mixed"
    shape = f" of shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) and given.shape != x.shape else ""
    return f"{CALLED[label]} gets {said}{shape}; expected {SHOULD_GET[label][pre]}."


def about_heads(given, wanted):
    """Return what is wrong with what `attend` gets: q, k, v, lengths, and a dropout that may be left out."""
    if len(given) < 4:
        return "`self.attend` gets q, k, v and the list of lengths."
    rate = given[4] if len(given) > 4 else 0.0
    q, right = given[:3], wanted[:3]
    if [int(n) for n in given[3]] != list(wanted[3]):
        return f"`self.attend` gets the lengths {list(given[3])}; expected {list(wanted[3])}."
    if rate != wanted[4]:
        return f"`self.attend` gets the dropout {rate}; expected {wanted[4]}: the attention's own in training, else 0."
    if all(close(a, b) for a, b in zip(q, right, strict=True)):
        return None
    if any(not isinstance(a, torch.Tensor) or a.shape != right[0].shape for a in q):
        shapes = ", ".join(str(tuple(a.shape)) if isinstance(a, torch.Tensor) else describe(a) for a in q)
        wanted_shape = tuple(right[0].shape)
        return f"`self.attend` gets q, k and v of the shapes {shapes}; expected (1, H, N, D) = {wanted_shape} each."
    which = [next(("qkv"[j] for j, b in enumerate(right) if close(a, b)), "?") for a in q]
    if "?" not in which:
        return f"`self.attend` gets {', '.join(which)} for q, k, v: the features of `qkv` are q, then k, then v."
    return (
        "queries, keys and values are cut out of `qkv` in a wrong way: `view(1, N, 3, H, D)`, then the 3 to the front "
        "and the heads before the tokens, `permute(2, 0, 3, 1, 4)`. A view alone does not exchange tokens and heads."
    )


def record_encoder(encoder):
    record = Record()
    for name in ("embed", "pack", "layer_forward", "unpack"):
        record.function(encoder, name, name)
    record.module(encoder.norm, "norm")
    for layer in encoder.layers:
        record.module(layer, "layer")
    return record


def about_forward(encoder, ids, mask):
    """Return at which step `forward` goes wrong."""
    ours = UnpaddedEncoder(encoder.config).double().eval()
    ours.load_state_dict(encoder.state_dict())
    right = ours(ids, mask)
    expected, found = record_encoder(ours), record_encoder(encoder)
    ours(ids, mask)
    y = attempt(encoder, ids.clone(), mask.clone())
    if close(y, right):
        return None
    if y is None:
        return "`forward` returns None: is a `return` missing at its end, or is it still blank?"
    why = f" Here {raised(y)}" if isinstance(y, Exception) else ""
    if found.of("layer"):
        return (
            "lesson 04's own layers run, on the padded batch or on the whole row. Call `self.layer_forward(layer, x, "
            "lengths)` on what `self.pack` gives."
        )
    for name in ("embed", "pack", "layer_forward", "unpack"):
        if not found.of(name):
            if why:
                return f"`forward` stops before `self.{name}` is called.{why}"
            return f"`self.{name}` is not called: embed, pack, `layer_forward` for all layers, the last norm, unpack."
    (embedded, *_), _ = found.of("embed")[0]
    if not (isinstance(embedded, torch.Tensor) and torch.equal(embedded, ids)):
        return "`self.embed` gets something else than `ids`, as it came: it counts the positions in the padded batch."
    (x, real, *_), _ = found.of("pack")[0]
    if not close(real, mask):
        return f"`self.pack` gets another mask than the one that was given.{why}"
    if not close(x, expected.of("embed")[0][1]):
        return f"`self.pack` gets something else than what `self.embed(ids)` gives.{why}"
    if said := about_calls(encoder, ours, found, expected):
        return said + why
    (x, real, *_), back = found.of("unpack")[0]
    (wanted, _), _ = expected.of("unpack")[0]
    if not close(x, wanted):
        norms = len(found.of("norm")) - len(expected.of("norm"))
        if norms:
            often = "once too often" if norms > 0 else "once less than it should be"
            return f"the encoder's norm is applied {often} before `unpack`."
        last = "of the last norm" if ours.config.norm == "pre" else "of the last layer"
        return f"`self.unpack` gets something else than what comes out {last}."
    if not close(real, mask):
        return "`self.unpack` gets another mask than `self.pack`."
    if close(back, right):
        return f"`unpack` gives the right result, and `forward` returns something else.{why}"
    return None


def about_calls(encoder, ours, found, expected):
    """Return what is wrong with the calls of `layer_forward`."""
    calls, wanted = found.of("layer_forward"), expected.of("layer_forward")
    for number, ((layer, x, lengths, *_), given) in enumerate(calls):
        if number == len(wanted):
            return f"`layer_forward` is called {len(calls)} times for {len(wanted)} layers."
        (_, right, these), result = wanted[number]
        if layer is not encoder.layers[number]:
            return f"call {number + 1} of `layer_forward` gets another layer than `self.layers[{number}]`."
        if [int(n) for n in lengths if n] != [n for n in these if n]:
            return f"`layer_forward` gets the lengths {list(lengths)}; expected {these}, from the same mask as `pack`."
        if not close(x, right):
            before = "what `pack` gives" if number == 0 else f"what layer {number} of {len(wanted)} gives"
            return f"call {number + 1} of `layer_forward` gets something else than {before}."
        if not close(given, result):
            return f"layer {number + 1} gives something else here than lesson 04's, although it gets what it should."
    if len(calls) < len(wanted):
        return f"`layer_forward` is called {len(calls)} times for {len(wanted)} layers."
    return None


unpadding = Build(
    id="18.3",
    course=UnpaddedEncoder,
    stages=(
        Stage("pack", packing),
        Stage("unpack", unpacking),
        Stage("attention", attending),
        Stage("a layer", a_layer),
        Stage("the encoder", whole),
        Stage("configurations", configurations),
        Stage(
            "operations and edge cases",
            lambda answer, generator: (operations(answer, generator), edges(answer, generator)),
        ),
        Stage("training", in_training),
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
            "padding in the row",
            wrong_unpadding(pack="columns"),
            "padding is still in the row: only positions that are padding in *all* texts are left out. Take the tokens "
            "where the mask is True: `x[mask]`.",
            "the batch cut to its longest text",
        ),
        Mistake(
            "zeros in the row",
            wrong_unpadding(pack="zeros"),
            "padding is still in the row, as zeros. Take the tokens where the mask is True: `x[mask]`.",
            "x * mask, which hides padding and computes it all the same",
        ),
        Mistake(
            "unwritten memory",
            wrong_unpadding(unpack="empty"),
            "at padding there is memory that nobody has written, because `torch.empty` gives whatever was there "
            "before. "
            "Begin with zeros: `x.new_zeros(...)`.",
            "torch.empty in place of torch.zeros",
        ),
        Mistake(
            "as long as the longest text",
            wrong_unpadding(unpack="longest"),
            "each text is written to the left of its row, and the rows are as long as the longest text. B and T come "
            "from `mask`, and every token goes back to where the mask is True.",
            "pad_sequence",
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
            "an encoder with its tables written out and one of them forgotten",
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
            "no residuals",
            wrong_unpadding(layer="no residuals"),
            "both residuals are missing: x + attended, and x + what the feed-forward network gives.",
            "the parts of a layer applied one after the other",
        ),
        Mistake(
            "no second residual",
            wrong_unpadding(layer="no second residual"),
            "the residual around the feed-forward network is missing: x + layer.dropout(layer.feed_forward(...)).",
            "one residual a layer",
        ),
        Mistake(
            "the first residual twice",
            wrong_unpadding(layer="residual of the layer"),
            "the second residual adds the layer's input. It adds what the first half of the layer gives: x + attended, "
            "with post-norm its norm.",
            "the variable `residual` set once",
        ),
        Mistake(
            "residual of the normed x",
            wrong_unpadding(layer="residual of the norm"),
            "with pre-norm the residual is x as it came in, and not norm(x): x + f(norm(x)).",
            "x = norm1(x) before the residual is taken",
        ),
        Mistake(
            "norm1 twice",
            wrong_unpadding(layer="norm1 twice"),
            "the second norm is `layer.norm2`; you apply `layer.norm1` twice.",
            "a line copied",
        ),
        Mistake(
            "the norms swapped",
            wrong_unpadding(layer="norms swapped"),
            "the two norms are swapped: `layer.norm1` belongs to the attention, `layer.norm2` to the feed-forward "
            "network.",
            "two parts of the same shape",
        ),
        Mistake(
            "no norm2",
            wrong_unpadding(layer="no norm2"),
            "`layer.norm2` is missing: a layer has two norms.",
            "one norm a layer",
        ),
        Mistake(
            "pre-norm always",
            wrong_unpadding(layer="pre"),
            "every layer is computed as pre-norm. Where `layer.pre` is false the norms come last: norm(x + f(x)).",
            "the order of newer models for all",
        ),
        Mistake(
            "lesson 03's attention on the row",
            wrong_unpadding(layer="own attention"),
            "attention goes from text to text, because `layer.attention`, which lesson 04's `layer` calls, "
            "takes the row for one long text. Use its parts qkv and out, with `self.attend(q, k, v, lengths, ...)` "
            "between them.",
            "the module that is there",
        ),
        Mistake(
            "the first layer for all",
            wrong_unpadding(layer="first"),
            "all layers have the first layer's weights: pass `layer`, not `self.layers[0]`.",
            "a line that was tried out with one layer",
        ),
        Mistake(
            "the encoder's norm always",
            wrong_unpadding(norm="always"),
            "with post-norm the encoder's norm is applied a second time: `self.embed` has applied it, and the layers "
            "end "
            "with their own. The last norm belongs to pre-norm.",
            'the condition `config.norm == "pre"` left out',
        ),
        Mistake(
            "norm after unpack",
            wrong_unpadding(norm="after"),
            "padding is not zero: first the norm, then `unpack`. A norm makes its bias of zeros.",
            "the last two lines in the other order",
        ),
        Mistake(
            "table of tokens alone",
            wrong_unpadding(places="tokens"),
            "`self.tokens` looks up words and no more. `self.embed(ids)` adds the positions and, with post-norm, "
            "applies the encoder's norm.",
            "self.tokens(ids) in place of self.embed(ids)",
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
            "a mask of its own",
            wrong_unpadding(mask="ids"),
            "the `mask` that is given is not used: you compare `ids` with `pad_id`. That is for no mask only.",
            "the mask made anew, which is the same for most batches",
        ),
        Mistake(
            "both masks",
            wrong_unpadding(mask="both"),
            "a token is left out if its id is `pad_id`, although the `mask` that is given says it is real. A mask that "
            "is given decides alone.",
            "mask & (ids != pad_id)",
        ),
        Mistake(
            "the mask changed",
            wrong_unpadding(mask="in place"),
            "`mask` is changed in place: whoever called it finds theirs changed. And no `pad_id` is asked for where a "
            "mask is given.",
            "mask &= ids != pad_id",
        ),
        Mistake(
            "lengths of the ids",
            wrong_unpadding(lengths="ids"),
            "the lengths come from `ids`; they must come from the same mask as `pack`: `mask.sum(1)`.",
            "two masks in one function",
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
            "no dropout of the layer",
            wrong_unpadding(dropout="none"),
            "`layer.dropout` is missing: lesson 04's layer applies it to what attention and the feed-forward network "
            "give, before the residual is added.",
            "dropout thought of as attention's alone",
        ),
        Mistake(
            "dropout of the attention's result alone",
            wrong_unpadding(dropout="on the attention"),
            "`layer.dropout` is missing behind the feed-forward network: x + layer.dropout(layer.feed_forward(...)).",
            "one of two calls",
        ),
        Mistake(
            "dropout of the network alone",
            wrong_unpadding(dropout="on the network"),
            "`layer.dropout` is missing behind the attention: x + layer.dropout(attended).",
            "one of two calls",
        ),
        Mistake(
            "dropout of the sum",
            wrong_unpadding(dropout="on the sums"),
            "`layer.dropout` is applied to the sum, so the residual is dropped too. First dropout, then the residual: "
            "x "
            "+ layer.dropout(attended).",
            "dropout behind each half of a layer",
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
            "all layers padded",
            wrong_unpadding(linear="all"),
            "the result is right, but all layers compute padding: lesson 04's own layers run on the padded batch, and "
            "you pack what they give. Pack before the layers, and call `self.layer_forward`.",
            "pack and unpack used as a mask for the result",
        ),
        Mistake(
            "nothing for nothing",
            wrong_unpadding(empty="zeros"),
            "a batch without a real token gives zeros. Raise a ValueError that says so: what is empty here was lost "
            "somewhere before.",
            "an early return for the empty case",
        ),
        Mistake(
            "an empty text refused",
            wrong_unpadding(empty="refused"),
            "one text without a real token is refused. It is no error while others have some: its row is zeros.",
            "mask.any(1).all() in place of mask.any()",
        ),
        Mistake(
            "an empty text dropped",
            wrong_unpadding(empty="dropped"),
            "a text without a real token is gone from the batch, so the rows behind it move up. The result is (B, T, "
            "C), "
            "with zeros in its row.",
            "ids[mask.any(1)]",
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
    other_ways=(ByLength, WithWeights, wrong_unpadding(), ByFunctions),
    about=about_unpadding,
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


STILL_128 = (
    "the largest weight of a row becomes 128, which int8 does not have: its values end at 127, and 128 wraps around to "
    "−128. The largest positive weight of the row turns its sign. Divide by 127."
)
CLAMPED = (
    "clamping hides the wrap-around, but the scale is still a 128th of the largest weight, so that weight is off by up "
    "to a whole step. Let the largest be 127: divide by 127."
)
ONE_SCALE = (
    "all rows have one scale, so the largest weight of the matrix decides how finely every other row is stored. Give "
    "each row its own: `amax(1)`."
)
NO_ABS = (
    "the scale comes from the largest weight, but in some rows the most negative one is larger in size, and does not "
    "fit into ±127. Take absolute values first."
)
ZERO_POINT = (
    "(max − min) over the number of steps belongs to a quantisation with a zero point, which shifts the range. This "
    "one "
    "is symmetric: the largest absolute value is 127."
)
CUT_OFF = (
    "the cast to int8 cuts off everything after the point, an error of up to a whole step, always towards zero. Round "
    "first."
)


NOT_ROUNDED = "q is not rounded."


def about_quantized(answer, case):
    """Return what is wrong with a q and a scale that no named mistake gives: kinds, then the scale, then q, then 0."""
    (w,) = case
    rows, columns = w.shape
    found, again = run(answer, case), run(answer, case)
    if isinstance(found, RuntimeError) and "must match the size" in str(found):
        return f"your code raised RuntimeError: {found}. Each row is divided by one number: `scale[:, None]`."
    if isinstance(found, TypeError) and "return_types" in str(found):
        return "`max(1)` gives a pair, the values and where they are. Take `.values`, or `amax(1)`."
    if not isinstance(found, tuple | list) or len(found) != 2 or not all(isinstance(t, torch.Tensor) for t in found):
        return None
    q, scale = found
    if not same(again, found):
        return "another call with the same w gives another result: round to the nearest, not by chance."
    if scale.shape == w.shape and q.shape != w.shape:
        return "first q, then the scale: `return q, scale`."
    if scale.shape == (rows, 1):
        return "the scale has the shape (rows, 1); expected one number a row, (rows,): `scale[:, 0]`."
    if not scale.ndim:
        return ONE_SCALE
    if scale.shape == (columns,) or scale.shape == (1, columns):
        return "there is one scale for each column; expected one for each row: `amax(1)`."
    if scale.shape != (rows,) or q.shape != w.shape:
        return None
    if scale.dtype != w.dtype and q.dtype == torch.int8:
        return f"the scale is {scale.dtype}; expected w's dtype, {w.dtype}."
    live, largest, scale = ~(w == 0).all(1), w.abs().amax(1), scale.double()
    said = about_scale(w[live].double(), q[live], scale[live], largest[live].double())
    if q.dtype != torch.int8 and said not in (None, NOT_ROUNDED):
        if q.is_floating_point() and bool(((q - w).abs() <= largest[:, None] / 127).all()):
            return "q holds the weights again, q · scale. Return the whole numbers, in int8."
        return f"q is {q.dtype}; expected int8, which has negative numbers of its own and needs no offset."
    if q.dtype != torch.int8:
        first = "q is not rounded" if said else "the numbers are right, but"
        return f"{first}{', and' if said else ''} q is {q.dtype}: `.round().to(torch.int8)`."
    return said or about_zeros(q[~live], scale[~live])


def about_zeros(q, scale):
    """Return what is wrong with q and scale of the rows of zeros."""
    if not (scale - 1).abs().max() < 1e-6:
        if abs(float(scale[0]) * 127 - 1) < 1e-4:
            return (
                "a row of zeros has the scale 1/127: its largest weight is made 1 before the division. The scale is 1."
            )
        return f"a row of zeros has the scale {float(scale[0]):.3g}; expected 1, so that nobody divides by 0 later."
    return "a row of zeros must give zeros." if q.any() else None


def about_scale(w, q, scale, largest):
    """Return what is wrong in the rows that are not zero; largest: their largest sizes."""
    if not torch.isfinite(scale).all():
        return "the scale of a row that is not all zeros is not a finite number."
    steps = largest / scale  # what the weight of the largest size becomes

    def like(value, close=1e-4):
        return bool(((steps - value).abs() < close * abs(value)).all())

    if bool((scale.abs() < 1e-12).any()):
        return "a scale is zero although its row is not."
    at = largest[:, None] == w.abs()
    stored = torch.where(at, q.double().nan_to_num(999), torch.zeros_like(w)).sum(1)
    if like(128):
        return STILL_128 if bool((stored[w.amax(1) == largest] < 0).all()) else CLAMPED
    if not like(127):
        return about_steps(w, scale, steps, like)
    exact = w / scale[:, None]
    if bool(((q.double() - exact).abs() < 0.5001).all()):
        return None if torch.equal(q.double(), q.double().round()) else NOT_ROUNDED
    clear = (exact - exact.round()).abs() > 1e-3  # the rest is whole, and may be rounded either way
    for step, name in (
        (torch.trunc, None),
        (torch.floor, "`floor` rounds down"),
        (torch.ceil, "`ceil` rounds up"),
    ):
        if torch.equal(q[clear].double(), step(exact[clear])):
            return f"{name}, an error of up to a whole step, always in one direction. Use `round`." if name else CUT_OFF
    if torch.equal(q[clear].double().abs(), exact[clear].abs().ceil()):
        return "you round away from 0, so every size grows, by up to a whole step. Use `round`."
    if torch.equal(q.double(), exact.round().clamp(min=0)):
        return "negative weights are cut off at 0: int8 goes from −128, and q from −127 to 127."
    if torch.equal(q.double().abs(), exact.round().abs()):
        return "the sizes are right, but signs are lost or turned. Only the scale takes absolute values."
    if not q.any():
        return "q is all zeros: divide by the scale before rounding and casting."
    if torch.equal(q.double(), w.round()) or torch.equal(q.double(), w.float().to(torch.int8).double()):
        return "the weights themselves are cast. q is w divided by the scale of its row, rounded."
    return about_steps_of_q(q.double(), w, exact, at)


def about_steps_of_q(q, w, exact, at):
    """Return in which way q is not the rounded steps `exact`; at: where the largest size of each row is."""
    off = q - exact.round()
    rule = "Expected: w divided by the scale of its row, then rounded."
    if bool((off == off.flatten()[0]).all()):
        return f"q is shifted by {off.flatten()[0]:.0f}: a symmetric quantisation has no offset, and 0 stays 0."
    if bool((off % 256 == 0).all()):
        return f"numbers beyond the range of int8 wrap around: {int((off != 0).sum())} of {off.numel()}."
    before = (w.round() / (w / exact).nan_to_num(1.0)).nan_to_num(0.0)
    wrapped = (q - before + 128) % 256 - 128  # what does not fit into int8 wraps around
    if bool((wrapped.abs() < 1.0001).all()):
        return f"the weights are rounded before they are divided, so most become 0 first. {rule}"
    of_128 = (w * 128 / w.abs().amax(1, keepdim=True)).round()
    if torch.equal(q, of_128.clamp(-127, 127)) or torch.equal(q, of_128.clamp(-128, 127)):
        return "q is w divided by a 128th of the largest size, and the scale is a 127th. Divide by the scale itself."
    if not bool(off[~at].any()):
        return "only the weight of the largest size in each row is wrong: it becomes 127 or −127."
    for sign, word in ((1, "positive"), (-1, "negative")):
        if not bool(off[exact.round() * sign <= 0].any()):
            return f"only the {word} weights are wrong. {rule}"
    if bool((q.abs() <= exact.abs().max() * 0 + 127).all()) and bool((off.abs() <= 1).all()):
        return f"{int((off != 0).sum())} of {off.numel()} numbers are off by one step: round to the nearest. {rule}"
    largest = w.abs().amax(1, keepdim=True)
    scale = largest / 127
    for name, other in (
        ("w · scale", w * scale),
        ("w divided by the square of the scale", w / scale**2),
        ("w divided by the root of the scale", w / scale**0.5),
        ("w divided by the largest size of its row, so between −1 and 1", w / largest),
        ("w divided by the mean scale of all rows", w / scale.mean()),
        ("w divided by the largest scale of all rows", w / scale.max()),
        ("w divided by the smallest scale of all rows", w / scale.min()),
        ("127 times the sign of w, whatever its size", w.sign() * 127),
        ("the sign of w", w.sign()),
        ("w divided by the largest size and rounded, and multiplied by 127 after that", (w / largest).round() * 127),
        ("127 · w, whatever the scale", w * 127),
        ("w divided by 127, whatever the scale", w / 127),
        ("w cut off at ±127 before it is divided", w.clamp(-127, 127) / scale),
        ("w moved by the mean of its row", (w - w.mean(1, keepdim=True)) / scale),
        ("w moved by the smallest weight of its row", (w - w.amin(1, keepdim=True)) / scale),
    ):
        fits = (other.clamp(-127, 127), other.clamp(-128, 128), (other + 128) % 256 - 128)  # the last wraps around
        if any(bool(((q - one).abs() < 1.0001).all()) for one in fits):
            return f"q is {name}. {rule}"
    good = ~off.bool().any(1)
    if bool(good.any()):
        return f"only {int(good.sum())} of {len(good)} rows are right: each row has a scale of its own. {rule}"
    return f"the scale is right, but q is off by up to {off.abs().max():.0f} steps. {rule}"


def about_steps(w, scale, steps, like):
    """Return what is wrong with a scale that is not a 127th of the largest size."""
    if bool((scale == 1).all()):
        return "every row has the scale 1, which is meant for a row of zeros alone: `torch.where` decides row by row."
    if bool(((scale - scale[0]).abs() < 1e-6 * scale[0].abs()).all()):
        return ONE_SCALE
    if bool(((scale * w.abs().amax(1) - 127).abs() < 0.02).all()):
        return "that is steps a unit, 1 / s. The scale is the size of one step: q · scale must give the weight."
    if bool(((scale.sort().values * 127 / w.abs().amax(1).sort().values - 1).abs() < 1e-4).all()):
        return "the scales are right, and stand at other rows than their own."
    for bound in (127, 128, 127.5):
        if bool(((w.amax(1) / scale - bound).abs() < 1e-3).all()) and bool((w.amin(1) < 0).any()):
            return NO_ABS
        if bool(((-w.amin(1) / scale - bound).abs() < 1e-3).all()):
            return "the scale comes from the smallest weight alone. The largest may be larger in size: take `abs()`."
    for bound in (254, 255, 256):
        if bool((((w.amax(1) - w.amin(1)) / scale - bound).abs() < 1e-2).all()):
            return ZERO_POINT
    for name, size in (
        ("the mean of the absolute values", w.abs().mean(1)),
        ("the standard deviation", w.std(1)),
        ("the standard deviation", w.std(1, correction=0)),
        ("the root of the mean square", w.square().mean(1).sqrt()),
        ("the length of the row as a vector", w.norm(dim=1)),
        ("the sum of the absolute values", w.abs().sum(1)),
        ("the largest distance from the mean", (w - w.mean(1, keepdim=True)).abs().amax(1)),
        ("the mean", w.mean(1)),
        ("the size of the mean", w.mean(1).abs()),
        ("the median of the absolute values", w.abs().median(1).values),
        ("the smallest absolute value", w.abs().amin(1)),
        ("the variance", w.var(1)),
        ("the first weight", w[:, 0]),
        ("the last weight", w[:, -1]),
        ("the square of the largest size", w.square().amax(1)),
        ("the difference of the largest and the smallest weight", w.amax(1) - w.amin(1)),
    ):
        ratio = size / scale
        if bool(((ratio - ratio[0]).abs() < 1e-4 * ratio[0].abs()).all()):
            return f"the scale comes from {name} of a row. The weight of the largest *size* must become 127."
    if bool((scale < 0).any()):
        return "a scale is negative. It is the size of a step: take the absolute value of the largest weight."
    if bool(((steps - steps[0]).abs() < 1e-3 * steps[0].abs()).all()):
        return about_constant(float(steps.mean()))
    right = w.abs().amax(1) / 127
    good, more = (steps - 127).abs() < 0.01, scale - right
    if bool(((more - more[0]).abs() < 1e-3 * more[0].abs() + 1e-6 * right).all()):
        return (
            f"{float(more[0]):.3g} is added to each scale, so no largest weight is stored exactly, and small rows "
            "suffer most. Only a row of zeros needs another scale, 1."
        )
    if torch.equal(scale, scale.round()) and not torch.equal(right, right.round()):
        return "the scales are whole numbers. q is whole; the scale is the size of a step, and keeps its digits."
    if bool(((steps - 128).abs() < 0.01)[~good].all()) and bool((w.amin(1) + w.abs().amax(1) == 0)[~good].all()):
        return (
            "where the weight of the largest size is negative it becomes −128. Then −w does not give −q, since int8 "
            "has no 128. Divide by 127 on either side."
        )
    if bool((scale[~good] == scale[~good][0]).all() and (scale >= scale[~good][0]).all()):
        return (
            f"no scale is below {float(scale[~good][0]):.3g} (a `clamp`, or a maximum?), which is too coarse for rows "
            "of small weights. Only a row of zeros needs another scale: decide row by row."
        )
    if bool((scale[~good] == 1).all() and (w[~good] == 0).any(1).all()):
        return "a row with *one* weight of 0 gets the scale 1, which is meant for a row of zeros alone: `.all(1)`."
    i = int((~good).nonzero()[0])
    where = "the last row alone is" if bool(good[:-1].all()) else "the scale is"
    return (
        f"{where} wrong: a row's largest size is {float(w[i].abs().max()):.4g} and its scale {float(scale[i]):.4g}, so "
        f"the largest weight is {float(steps[i]):.4g} steps; expected 127 in every row."
    )


def about_constant(steps):
    """Return what is wrong where the largest weight of each row becomes this number."""
    if abs(steps - 1) < 1e-3:
        return "the scale is the largest size itself. It is the size of one of 127 steps: divide by 127."
    if steps < 126.999:
        return (
            f"the largest weight becomes {steps:.4g}: steps are left over, since 127 is a value of int8 too. Divide by "
            "127."
        )
    if steps <= 127.6:
        return (
            f"the largest weight divided by the scale is {steps:.5g}, not a whole number, so it is not stored exactly. "
            "Divide by 127."
        )
    return f"the largest weight becomes {steps:.4g}, which int8 does not have: its values end at 127. Divide by 127."


def symmetric(answer, case):
    """Return a sentence if −w does not give −q where a weight lies half-way between two steps."""
    w = torch.tensor([[127, 0.5, -2.5, 1.5, -3.5], [-127, 0.5, 2.5, -1.5, 4.5]]).to(case[0].dtype)
    if torch.equal(answer(w.clone())[0], -answer(-w)[0]):
        return None
    return (
        "−w does not give −q where a weight lies half-way between two steps: halves are rounded in one direction, as "
        "`floor(x + 0.5)` does. `round` treats both signs alike."
    )


def a_matrix(generator, rows=6, columns=9, dtype=torch.float32):
    w = torch.randn(rows, columns, generator=generator).to(dtype) * 10.0 ** (torch.arange(rows) - 2)[:, None]
    at = torch.arange(rows), torch.randint(columns, (rows,), generator=generator)
    w[0, at[1][0] - 1] = 0  # one weight of a row that is not all zeros
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


def half_away(w):
    largest = w.abs().max(dim=1).values
    scale = largest.where(largest > 0, 127.0) / 127
    steps = w / scale.unsqueeze(1)
    return (steps.sign() * (steps.abs() + 0.5).floor()).type(torch.int8), scale


quantized = Exercise(
    id="18.4",
    right=quantize,
    inputs=a_matrix,
    also=lambda generator: a_matrix(generator, 3, 21, torch.float64),
    limit=symmetric,
    about=about_quantized,
    mistakes=(
        Mistake(
            "still 128",
            wraps,
            STILL_128,
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
            ONE_SCALE,
            "one scale a tensor, the simplest scheme, copied for weights",
        ),
        Mistake(
            "cut off",
            with_scale(lambda w: w.abs().amax(1) / 127, torch.trunc),
            CUT_OFF,
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
            NO_ABS,
            "w.max() without abs()",
        ),
        Mistake(
            "asymmetric range",
            with_scale(lambda w: (w.amax(1) - w.amin(1)) / 255),
            ZERO_POINT,
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
    other_ways=(by_rows, by_norm, half_away),
)
