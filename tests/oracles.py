"""Other libraries' models with our weights, and what the tests of the core share."""

import io
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from hypothesis import settings
from torch import Tensor, nn

from nextbert_lite.core.attention import MultiHeadAttention
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.training.tokenizer import Tokenizer, word_level

EXACT = {"atol": 1e-10, "rtol": 1e-10}  # how near two float64 computations of the same formula must be
FLOAT32 = torch.float32, {}  # torch.testing.assert_close's own tolerances
few = settings(max_examples=20, deadline=None, derandomize=True, database=None)

BERT = {"eps": 1e-12, "token_types": 2}
ROBERTA = {"eps": 1e-5, "token_types": 1, "position_offset": 2, "pad_id": 1}


def config(**changes) -> EncoderConfig:
    """Return a configuration small enough for a test: two layers of width 16."""
    small = {"vocab_size": 40, "width": 16, "layers": 2, "heads": 4, "ffn_width": 24, "max_len": 12}
    return EncoderConfig(**{**small, **changes})


def words(n: int = 200) -> Tokenizer:
    """Return a tokenizer of n words: w0, w1, …"""
    return word_level(f"w{i}" for i in range(n))


def perturbed(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return the module in float64 with all its parameters drawn anew, from the seed alone.

    Norms and biases too: at 1 and 0, where they start, they would hide errors. The deviation of 0.2 keeps float32's
    rounding far below 1e-5 (logits of ours and of transformers: 2e-6 at most over 300 models; at about 0.4, 1.4e-5).
    """
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    centres = {id(part.weight): 1.0 for part in module.modules() if isinstance(part, nn.LayerNorm | nn.RMSNorm)}
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(centres.get(id(parameter), 0.0) + 0.2 * noise)
    return module


def batch(lengths: list[int], vocab_size: int = 40, pad_id: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random texts of these lengths, ids and mask (B, T); the ids 0 to 4 are left to the special tokens."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, vocab_size, shape, generator=generator)
    return ids.masked_fill(~mask, pad_id), mask


def largest_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


# --- the same weights in torch's and transformers' models -----------------------------------------------------------


def torch_attention(ours: MultiHeadAttention) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(ours.out.in_features, ours.H, batch_first=True, dtype=ours.out.weight.dtype)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    return theirs.eval()


def torch_names(name: str) -> str:
    """Translate the name of an `EncoderLayer`'s parameter into nn.TransformerEncoderLayer's."""
    for ours, theirs in {
        "attention.qkv.": "self_attn.in_proj_",
        "attention.out": "self_attn.out_proj",
        "ffn_in": "linear1",
        "ffn_out": "linear2",
    }.items():
        name = name.replace(ours, theirs)
    return name


def torch_encoder(ours: Encoder, norm_first: bool | None = None) -> nn.TransformerEncoder:
    """Return torch's stack of layers with our weights; it takes what `ours.embed` gives."""
    c = ours.config
    norm_first = c.norm == "pre" if norm_first is None else norm_first
    layer = nn.TransformerEncoderLayer(
        c.width,
        c.heads,
        c.ffn_width,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=c.eps,
        batch_first=True,
        norm_first=norm_first,
    )
    last = nn.LayerNorm(c.width, eps=c.eps) if c.norm == "pre" else None
    theirs = nn.TransformerEncoder(layer, c.layers, norm=last, enable_nested_tensor=False)
    theirs.to(ours.norm.weight.dtype)  # before the weights are copied, or float64 would pass through float32
    state = {torch_names(name): tensor for name, tensor in ours.state_dict().items() if name.startswith("layers.")}
    if last is not None:
        state |= {"norm.weight": ours.norm.weight, "norm.bias": ours.norm.bias}
    theirs.load_state_dict(state)
    return theirs.eval()


def huggingface_names(ours: MaskedLanguageModel, of=lambda parameter: parameter) -> dict[str, Tensor]:
    """Return our parameters, or what `of` makes of each, under the names of BertForMaskedLM or RobertaForMaskedLM."""
    encoder, head = ours.encoder, ours.head
    roberta = encoder.config.position_offset > 0
    body, tail = ("roberta", "lm_head") if roberta else ("bert", "cls.predictions")
    dense, norm = ("dense", "layer_norm") if roberta else ("transform.dense", "transform.LayerNorm")
    named = {
        f"{body}.embeddings.word_embeddings.weight": encoder.tokens.weight,
        f"{body}.embeddings.position_embeddings.weight": encoder.positions.weight,
        f"{body}.embeddings.token_type_embeddings.weight": encoder.types.weight,
        f"{tail}.bias": head.bias,
    }
    modules = {f"{body}.embeddings.LayerNorm": encoder.norm, f"{tail}.{dense}": head.dense, f"{tail}.{norm}": head.norm}
    for i, layer in enumerate(encoder.layers):
        at = f"{body}.encoder.layer.{i}"
        modules |= {
            f"{at}.attention.output.dense": layer.attention.out,
            f"{at}.attention.output.LayerNorm": layer.norm1,
            f"{at}.intermediate.dense": layer.ffn_in,
            f"{at}.output.dense": layer.ffn_out,
            f"{at}.output.LayerNorm": layer.norm2,
        }
    for name, module in modules.items():
        named |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    named = {name: of(parameter) for name, parameter in named.items()}
    for i, layer in enumerate(encoder.layers):
        for part in ("weight", "bias"):
            thirds = of(getattr(layer.attention.qkv, part)).chunk(3)
            for which, third in zip(("query", "key", "value"), thirds, strict=True):
                named[f"{body}.encoder.layer.{i}.attention.self.{which}.{part}"] = third
    return named


def huggingface(ours: MaskedLanguageModel) -> nn.Module:
    """Return BertForMaskedLM or RobertaForMaskedLM (where positions have an offset) with our weights."""
    from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

    c = ours.encoder.config
    roberta = c.position_offset > 0
    make_config, make_model = (RobertaConfig, RobertaForMaskedLM) if roberta else (BertConfig, BertForMaskedLM)
    theirs = make_model(
        make_config(
            vocab_size=c.vocab_size,
            hidden_size=c.width,
            num_hidden_layers=c.layers,
            num_attention_heads=c.heads,
            intermediate_size=c.ffn_width,
            hidden_act="gelu",
            max_position_embeddings=c.max_len + c.position_offset,
            type_vocab_size=c.token_types,
            layer_norm_eps=c.eps,
            pad_token_id=c.pad_id,
            attn_implementation="eager",  # the open formula, which also returns its weights
        )
    ).to(ours.head.bias.dtype)
    state = huggingface_names(ours)
    tail = "lm_head" if roberta else "cls.predictions"
    state[f"{tail}.decoder.weight"] = ours.encoder.tokens.weight  # tied
    state[f"{tail}.decoder.bias"] = ours.head.bias
    theirs.load_state_dict(state)  # strict: every parameter of theirs has one of ours
    return theirs.eval()


def modern_huggingface(ours: MaskedLanguageModel) -> nn.Module:
    """Return ModernBertForMaskedLM, or EuroBertForMaskedLM for RMS norms, with our weights.

    All of our norms but the head's have no bias: there it is zero. EuroBERT has no such head: its decoder stays random.
    """
    from transformers import EuroBertConfig, EuroBertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM

    c, encoder, head = ours.encoder.config, ours.encoder, ours.head
    shared = dict(vocab_size=c.vocab_size, hidden_size=c.width, num_hidden_layers=c.layers, pad_token_id=c.pad_id)
    shared |= dict(num_attention_heads=c.heads, intermediate_size=c.ffn_width, max_position_embeddings=c.max_len)
    shared |= dict(attn_implementation="sdpa")  # eager gives NaN where a row sees nothing
    state = {"embed_tokens.weight": encoder.tokens.weight, "norm.weight": encoder.norm.weight}
    if c.norm == "rms":
        config = EuroBertConfig(
            **shared,
            num_key_value_heads=c.kv_heads,
            rms_norm_eps=c.eps,
            hidden_act=c.gate,
            rope_parameters={"rope_type": "default", "rope_theta": c.theta},
            bos_token_id=1,
            eos_token_id=2,
        )
        theirs = EuroBertForMaskedLM(config).to(encoder.norm.weight.dtype)
        for i, layer in enumerate(encoder.layers):
            parts = layer.attention.qkv.weight.split([c.width, *2 * [(c.kv_heads or c.heads) * layer.attention.D]])
            state |= {f"layers.{i}.self_attn.{name}_proj.weight": p for name, p in zip("qkv", parts, strict=True)}
            gate, up = layer.feed_forward.into.weight.chunk(2)
            state |= {f"layers.{i}.mlp.gate_proj.weight": gate, f"layers.{i}.mlp.up_proj.weight": up}
            state[f"layers.{i}.mlp.down_proj.weight"] = layer.feed_forward.out.weight
            state[f"layers.{i}.self_attn.o_proj.weight"] = layer.attention.out.weight
            state[f"layers.{i}.input_layernorm.weight"] = layer.norm1.weight
            state[f"layers.{i}.post_attention_layernorm.weight"] = layer.norm2.weight
        theirs.model.load_state_dict(state)
        return theirs.eval()
    config = ModernBertConfig(
        **shared,
        norm_eps=c.eps,
        hidden_activation=c.gate,
        local_attention=2 * c.window,
        layer_types=[("sliding" if i % c.global_every else "full") + "_attention" for i in range(c.layers)],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": c.theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": c.local_theta or c.theta},
        },
        norm_bias=True,
        classifier_bias=True,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    )
    theirs = ModernBertForMaskedLM(config).to(encoder.norm.weight.dtype)
    names = {"tokens": "embeddings.tok_embeddings", "embedding_norm": "embeddings.norm", "norm": "final_norm"}
    inside = {"norm1": "attn_norm", "attention.qkv": "attn.Wqkv", "attention.out": "attn.Wo", "norm2": "mlp_norm"}
    inside |= {"feed_forward.into": "mlp.Wi", "feed_forward.out": "mlp.Wo"}
    names |= {f"layers.{i}.{a}": f"layers.{i}.{b}" for i in range(c.layers) for a, b in inside.items()}
    ours_of = encoder.state_dict()
    state = {f"model.{b}.weight": ours_of[f"{a}.weight"] for a, b in names.items() if f"{a}.weight" in ours_of}
    state |= {name: torch.zeros_like(t) for name, t in theirs.state_dict().items() if name.endswith("norm.bias")}
    state |= {f"head.{name}": tensor for name, tensor in head.state_dict().items() if name != "bias"}
    theirs.load_state_dict(state | {"decoder.weight": encoder.tokens.weight, "decoder.bias": head.bias})
    return theirs.eval()


def exact_rotation(patch) -> None:
    """Let transformers' ModernBERT and EuroBERT compute in the numbers they are given: parts of them take float32."""
    from transformers.models.eurobert import modeling_eurobert as euro
    from transformers.models.modernbert import modeling_modernbert as modern

    def angles(self, x, position_ids, layer_type=None):
        rope, D = self.config.rope_parameters, self.config.hidden_size // self.config.num_attention_heads
        speed = (rope[layer_type] if layer_type else rope)["rope_theta"] ** (-torch.arange(0, D, 2).double() / D)
        angle = (position_ids[..., None] * speed).repeat(1, 1, 2)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)

    def root_mean_square(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    patch.setattr(modern, "apply_rotary_pos_emb", euro.apply_rotary_pos_emb)  # the same, in the numbers' own type
    patch.setattr(modern.ModernBertRotaryEmbedding, "forward", angles)
    patch.setattr(euro.EuroBertRotaryEmbedding, "forward", angles)
    patch.setattr(euro.EuroBertRMSNorm, "forward", root_mean_square)


# --- the contrastive losses of two libraries ------------------------------------------------------------------------


def contrastive_losses(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> dict[str, Tensor]:
    """Return what pytorch-metric-learning (pml) and sentence-transformers (st) compute of these vectors, all (B, C)."""
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    def ranking(vectors: list[Tensor], **options) -> Tensor:
        loss = MultipleNegativesRankingLoss(nn.Identity(), scale=1 / temperature, **options)
        return loss.compute_loss_from_embeddings(vectors, None)

    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    return {
        "pml.info_nce": SelfSupervisedLoss(NTXentLoss(temperature), symmetric=False)(anchors, positives),
        "pml.nt_xent": SelfSupervisedLoss(NTXentLoss(temperature))(anchors, positives),
        "st.info_nce": ranking([anchors, positives]),
        "st.symmetric": ranking([anchors, positives], **both),
        "st.negatives": ranking([anchors, positives, negatives]),
    }


def drawn(fig):
    """Return the texts that stand in a figure; a formula would be in pieces."""
    with plt.rc_context({"svg.fonttype": "none"}):
        buffer = io.StringIO()
        fig.savefig(buffer, format="svg")
    tree = ElementTree.fromstring(buffer.getvalue())
    return {"".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")}


def deberta_attention(ours, k: int, heads: int):
    """Return transformers' DebertaV2 attention with the weights of a `DisentangledAttention`, distances up to k.

    Its √(3D) is computed in float32; the returned module's own is in float64, as the parity needs.
    """
    from transformers import DebertaV2Config
    from transformers.models.deberta_v2 import modeling_deberta_v2 as published

    C = ours.out.in_features
    settings = {"hidden_size": C, "num_attention_heads": heads, "attention_probs_dropout_prob": 0.0}
    settings |= {"hidden_dropout_prob": 0.0, "relative_attention": True, "max_relative_positions": k}
    settings |= {"pos_att_type": ["p2c", "c2p"], "position_buckets": -1, "share_att_key": False}
    theirs = published.DisentangledSelfAttention(DebertaV2Config(**settings)).double().eval()
    qkv = zip(("query_proj", "key_proj", "value_proj"), ours.qkv.weight.chunk(3), ours.qkv.bias.chunk(3), strict=True)
    weights = {f"{name}.{kind}": value for name, w, b in qkv for kind, value in (("weight", w), ("bias", b))}
    for name, part in (("pos_key_proj", ours.place_key), ("pos_query_proj", ours.place_query)):
        weights |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
    theirs.load_state_dict(weights)
    published.scaled_size_sqrt = lambda layer, factor: torch.tensor(layer.size(-1) * factor, dtype=layer.dtype).sqrt()
    return theirs
