# SPDX-License-Identifier: Apache-2.0
"""The DeepSeek-V3 architecture at 11 M parameters, written for training on a CPU.

Functions of tensors, so that torch.compile sees each shape once for all layers; tokens are a flat [N, hidden] array
except in attention. Products run in `dtype` (bfloat16 in training, float32 when checked against `transformers`); the
residual stream, norms, the gate and the losses are float32. Sources: DeepSeek-V3 report 2.1-2.2 and the HF module
deepseek_v3, whose logits this must reproduce.

Two things differ from a large run. The YaRN softmax factor is always on, but the rotary frequencies are plain until
`yarn` is switched on late in training, as a context extension would. And each expert's group of rows is padded to a
multiple of 128: oneDNN builds a primitive for every new shape, and raw counts would bring a new shape every time.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "kv_lora_rank": 64,
    "max_position_embeddings": 8192,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 96,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 6,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 1,
    "pad_token_id": 2,
    "q_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-06,
    "rope_interleave": True,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 16,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 512,
        "type": "yarn",
    },
    "rope_theta": 10000.0,
    "routed_scaling_factor": 1.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 48,
    "vocab_size": 4096,
}
C = CONFIG
H, HEADS, NOPE, ROPE, V = 256, 4, C["qk_nope_head_dim"], C["qk_rope_head_dim"], C["v_head_dim"]
LATENT, EXPERTS, GROUPS, TOP = C["kv_lora_rank"], C["n_routed_experts"], C["n_group"], C["num_experts_per_tok"]
EPS, PAD_ROWS = C["rms_norm_eps"], 128

Y = C["rope_scaling"]
MSCALE = 0.1 * Y["mscale_all_dim"] * math.log(Y["factor"]) + 1.0
SOFTMAX_SCALE = (NOPE + ROPE) ** -0.5 * MSCALE * MSCALE


def rope_table(length, yarn):
    """cos, sin [length, ROPE / 2] (YaRN paper 3.2; DeepSeek's corrections floor and ceil the ramp's ends)."""
    theta = C["rope_theta"]
    plain = 1.0 / theta ** (torch.arange(0, ROPE, 2, dtype=torch.float64) / ROPE)
    freq = plain
    if yarn:
        dim = lambda turns: ROPE * math.log(Y["original_max_position_embeddings"] / (turns * 2 * math.pi)) / (
            2 * math.log(theta))
        low, high = max(math.floor(dim(Y["beta_fast"])), 0), min(math.ceil(dim(Y["beta_slow"])), ROPE - 1)
        ramp = ((torch.arange(ROPE // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
        freq = plain / Y["factor"] * ramp + plain * (1 - ramp)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), freq.float())
    return angle.cos(), angle.sin()


def rms(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * w


def mm(x, w, dtype):
    return F.linear(x.to(dtype), w.to(dtype))


def rotate(x, cos, sin):
    """Pairs (2i, 2i+1) rotated; the result in halves, as HF has it (equal dot products)."""
    a, b = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def attn_in(x, ln, qa, qa_ln, qb, kva, kva_ln, kvb, cos, sin, dtype):
    """Queries, keys and values [N, HEADS, 48] of the residual x [N, H]; cos, sin [N, ROPE / 2]."""
    h = rms(x, ln).to(dtype)
    q = mm(rms(mm(h, qa, dtype).float(), qa_ln), qb, dtype).view(-1, HEADS, NOPE + ROPE)
    kv = mm(h, kva, dtype)
    up = mm(rms(kv[:, :LATENT].float(), kva_ln), kvb, dtype).view(-1, HEADS, NOPE + V)
    cos, sin = cos[:, None], sin[:, None]
    q = torch.cat([q[..., :NOPE], rotate(q[..., NOPE:], cos, sin)], -1)
    k_pe = rotate(kv[:, None, LATENT:], cos, sin).expand(-1, HEADS, -1)
    return q, torch.cat([up[..., :NOPE], k_pe], -1), up[..., NOPE:].contiguous()


def attn_out(x, o, wo, ln, dtype):
    x = x + mm(o, wo, dtype).float()
    return x, rms(x, ln).to(dtype)


def mlp(h, gate, up, down, dtype):
    return mm(F.silu(mm(h, gate, dtype)) * mm(h, up, dtype), down, dtype)


def dense_ffn(x, h, gate, up, down, dtype):
    return x + mlp(h, gate, up, down, dtype).float()


def moe_ffn(x, h, routed, gate, up, down, dtype):
    return x + routed + mlp(h, gate, up, down, dtype).float()


def gate_scores(h, w):
    return F.linear(h.float(), w).sigmoid()


def choose(scores, bias):
    """The TOP experts of each row [N, TOP] (noaux_tc: the bias counts for the choice only)."""
    choice = scores + bias
    group = choice.view(-1, GROUPS, EXPERTS // GROUPS).topk(2, -1)[0].sum(-1)
    kept = torch.zeros_like(group).scatter_(1, group.topk(C["topk_group"], -1)[1], 1).bool()
    kept = kept.repeat_interleave(EXPERTS // GROUPS, 1)
    return choice.masked_fill(~kept, -math.inf).topk(TOP, -1)[1]


def route_weights(scores, chosen):
    w = scores.gather(1, chosen)
    return w / (w.sum(-1, keepdim=True) + 1e-20) * C["routed_scaling_factor"]


def swiglu(gu):
    g, u = gu.chunk(2, -1)
    return F.silu(g.float()).mul(u.float()).to(gu.dtype)


def swiglu_back(gu, da):
    g, u = (t.float() for t in gu.chunk(2, -1))
    da = da.float()
    s = g.sigmoid()
    return torch.cat([da * u * s * (1 + g * (1 - s)), da * g * s], -1).to(gu.dtype)


def combine(y, slot, w):
    return (y[slot].view(-1, TOP, H).float() * w[..., None]).sum(1)


def combine_back(dout, y, slot, w):
    """Gradients of combine: of the weights [N, TOP], and of the chosen rows [N * TOP, H]."""
    dout = dout[:, None]
    return (dout * y[slot].view(-1, TOP, H).float()).sum(-1), (dout * w[..., None]).view(-1, H).to(y.dtype)


class RoutedExperts(torch.autograd.Function):
    """sum_k w_k E_k(h), rows sorted by expert, each group padded with zero rows to a multiple of PAD_ROWS."""

    @staticmethod
    def forward(ctx, h, w, gate_up, down, chosen, counts):
        flat = chosen.reshape(-1)
        order = flat.argsort(stable=True)
        padded = (counts + PAD_ROWS - 1) // PAD_ROWS * PAD_ROWS
        ends = padded.cumsum(0)
        shift = (ends - padded) - (counts.cumsum(0) - counts)  # from place among the pairs to place among padded rows
        slot = torch.empty_like(flat)
        slot[order] = torch.arange(len(flat)) + shift[flat[order]]
        rows = int(ends[-1])
        x = h.new_zeros(rows, H)
        x[slot] = h.repeat_interleave(TOP, 0)
        gu, y = h.new_empty(rows, gate_up.shape[1]), h.new_empty(rows, H)
        bounds = [0] + ends.tolist()
        groups = [(e, slice(bounds[e], bounds[e + 1])) for e in range(EXPERTS) if bounds[e] < bounds[e + 1]]
        for e, s in groups:
            torch.mm(x[s], gate_up[e].t(), out=gu[s])
        a = fast.swiglu(gu)
        for e, s in groups:
            torch.mm(a[s], down[e].t(), out=y[s])
        ctx.save_for_backward(w, gate_up, down, slot, x, gu, a, y)
        ctx.groups = groups
        return fast.combine(y, slot, w)

    @staticmethod
    def backward(ctx, dout):
        w, gate_up, down, slot, x, gu, a, y = ctx.saved_tensors
        dw, picked = fast.combine_back(dout.contiguous(), y, slot, w)
        dy = torch.zeros_like(y)
        dy[slot] = picked
        da, dx = torch.empty_like(a), torch.empty_like(x)
        d_gate_up, d_down = torch.zeros_like(gate_up), torch.zeros_like(down)
        for e, s in ctx.groups:
            torch.mm(dy[s], down[e], out=da[s])
            torch.mm(dy[s].t(), a[s], out=d_down[e])
        dgu = fast.swiglu_back(gu, da)
        for e, s in ctx.groups:
            torch.mm(dgu[s], gate_up[e], out=dx[s])
            torch.mm(dgu[s].t(), x[s], out=d_gate_up[e])
        dh = dx[slot].view(-1, TOP, H).sum(1)
        return dh, dw, d_gate_up, d_down, None, None


def cross_entropy(h, head, target, mask, dtype):
    """Sum over the masked rows of the negative log likelihood."""
    nll = F.cross_entropy(mm(h, head, dtype).float(), target, reduction="none")
    return (nll * mask).sum()


class Fast:
    """The functions above, compiled or not; one place to switch."""

    fixed = "attn_in attn_out dense_ffn moe_ffn gate_scores route_weights cross_entropy".split()
    ragged = "swiglu swiglu_back combine combine_back".split()  # of any number of rows

    def __init__(self):
        self.plain = {name: globals()[name] for name in self.fixed + self.ragged}
        self.compiled = {name: torch.compile(f, dynamic=name in self.ragged) for name, f in self.plain.items()}
        self.use(compiled=False)

    def use(self, compiled):
        self.__dict__.update(self.compiled if compiled else self.plain)


fast = Fast()


def matrix(*shape, scale=1.0):
    return nn.Parameter(torch.randn(*shape) * scale * shape[-1] ** -0.5)


class Layer(nn.Module):
    """One decoder layer; parameter names are HF's, the experts stacked as [E, out, in]."""

    def __init__(self, dense):
        super().__init__()
        ones = lambda n: nn.Parameter(torch.ones(n))
        self.input_layernorm, self.post_attention_layernorm = ones(H), ones(H)
        self.q_a_proj, self.q_a_layernorm = matrix(C["q_lora_rank"], H), ones(C["q_lora_rank"])
        self.q_b_proj = matrix(HEADS * (NOPE + ROPE), C["q_lora_rank"])
        self.kv_a_proj_with_mqa, self.kv_a_layernorm = matrix(LATENT + ROPE, H), ones(LATENT)
        self.kv_b_proj = matrix(HEADS * (NOPE + V), LATENT)
        self.o_proj = matrix(H, HEADS * V, scale=0.3)
        self.dense = dense
        width = C["intermediate_size"] if dense else C["moe_intermediate_size"]
        self.gate_proj, self.up_proj = matrix(width, H), matrix(width, H)  # of the MLP, or of the shared expert
        self.down_proj = matrix(H, width, scale=0.3)
        if not dense:
            self.gate = nn.Parameter(torch.randn(EXPERTS, H) * 0.02)
            self.gate_up = matrix(EXPERTS, 2 * width, H)
            self.down = matrix(EXPERTS, H, width, scale=0.3)
            self.register_buffer("bias", torch.zeros(EXPERTS))
            self.register_buffer("load", torch.zeros(EXPERTS), persistent=False)

    def forward(self, x, cos, sin, shape, dtype):
        """x [B * T, H], shape (B, T)."""
        q, k, v = (t.view(*shape, HEADS, -1).transpose(1, 2) for t in fast.attn_in(
            x, self.input_layernorm, self.q_a_proj, self.q_a_layernorm, self.q_b_proj, self.kv_a_proj_with_mqa,
            self.kv_a_layernorm, self.kv_b_proj, cos, sin, dtype))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=SOFTMAX_SCALE)
        o = o.transpose(1, 2).reshape(x.shape[0], -1)
        x, h = fast.attn_out(x, o, self.o_proj, self.post_attention_layernorm, dtype)
        if self.dense:
            return fast.dense_ffn(x, h, self.gate_proj, self.up_proj, self.down_proj, dtype)
        scores = fast.gate_scores(h, self.gate)
        with torch.no_grad():
            chosen = choose(scores, self.bias)
            counts = chosen.reshape(-1).bincount(minlength=EXPERTS)
            self.load += counts
        routed = RoutedExperts.apply(h, fast.route_weights(scores, chosen), self.gate_up.to(dtype),
                                     self.down.to(dtype), chosen, counts)
        return fast.moe_ffn(x, h, routed, self.gate_proj, self.up_proj, self.down_proj, dtype)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        n = C["num_hidden_layers"]
        self.embed = nn.Parameter(torch.randn(C["vocab_size"], H) * 0.05)
        self.head = nn.Parameter(torch.randn(C["vocab_size"], H) * 0.005)
        self.norm = nn.Parameter(torch.ones(H))
        self.layers = nn.ModuleList(Layer(i < C["first_k_dense_replace"]) for i in range(n + 1))  # the last is MTP's
        self.enorm, self.hnorm, self.mtp_norm = (nn.Parameter(torch.ones(H)) for _ in range(3))
        self.eh_proj = matrix(H, 2 * H)

    def hidden(self, ids, yarn, dtype=torch.float32):
        """Final-normed hidden states [B, T, H] of ids [B, T]."""
        cos, sin = (t.repeat(ids.shape[0], 1) for t in rope_table(ids.shape[1], yarn))
        x = F.embedding(ids.reshape(-1), self.embed)
        for layer in self.layers[:-1]:
            x = layer(x, cos, sin, ids.shape, dtype)
        return rms(x, self.norm).view(*ids.shape, H)

    def mtp_hidden(self, hidden, next_ids, yarn, dtype=torch.float32):
        """Row i is made of (hidden of position i, token i + 1) at rotary position i, and predicts token i + 2."""
        cos, sin = (t.repeat(next_ids.shape[0], 1) for t in rope_table(next_ids.shape[1], yarn))
        e = F.embedding(next_ids.reshape(-1), self.embed)
        x = torch.cat([rms(e, self.enorm), rms(hidden.reshape(-1, H), self.hnorm)], -1)
        x = mm(x, self.eh_proj, dtype).float()
        x = self.layers[-1](x, cos, sin, next_ids.shape, dtype)
        return rms(x, self.mtp_norm).view(*next_ids.shape, H)

    def logits(self, hidden):
        return F.linear(hidden, self.head)
