# SPDX-License-Identifier: Apache-2.0
"""The oracle: transformers' DeepseekV2 and DeepseekV3 in float32 on the CPU, corrected where
DeepSeek's code differs.

What DeepSeek published (modeling_deepseek.py beside each checkpoint, inference/model.py of
DeepSeek-V3) is the model; transformers is a port. Where the port differs we follow DeepSeek, here
and nowhere else:

- V3 gate: experts outside the chosen groups are masked with -inf (model.py), so they lose even to
  negative choice values. transformers masked with 0.0 until it changed too; `check_v3_mask` refuses
  a version that still does.
- V2 gate with norm_topk_prob: DeepSeek divides by the sum and then does NOT apply
  routed_scaling_factor; transformers ignores norm_topk_prob. No published V2 checkpoint sets it.
- n_shared_experts null: no shared expert; transformers wants an integer.
- moe_layer_freq: a layer is MoE only if its index is also a multiple of it; transformers ignores
  it. Published: 1.
- transformers' from_pretrained drops the MTP layer: mtp.py.
"""

import copy

import torch
import transformers
from torch import nn
from transformers.models.deepseek_v2 import modeling_deepseek_v2
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

from mtp import Mtp
from weights import is_moe

# The V2 port views rotary pairs as complex numbers in place, which torch refuses where they start
# at an odd float.
_v2_rotate = modeling_deepseek_v2.apply_rotary_emb


def _fresh(x):
    return x.clone(memory_format=torch.contiguous_format)


modeling_deepseek_v2.apply_rotary_emb = lambda q, k, freqs: _v2_rotate(_fresh(q), _fresh(k), freqs)

CLASSES = {
    "deepseek_v3": (transformers.DeepseekV3Config, transformers.DeepseekV3ForCausalLM),
    "deepseek_v2": (transformers.DeepseekV2Config, transformers.DeepseekV2ForCausalLM),
}


def config_of(published):
    """transformers' config object of a config.json; missing keys take transformers' defaults."""
    plain = copy.deepcopy(published)
    plain.pop("quantization_config", None)
    if (
        "n_shared_experts" in plain
    ):  # DeepSeek's null, for none, is no int to transformers; a layer of width 0 is
        plain["n_shared_experts"] = plain["n_shared_experts"] or 0
    cfg = CLASSES[published["model_type"]][0].from_dict(plain)
    cfg._attn_implementation = "eager"
    cfg._experts_implementation = "eager"
    return cfg


def routers(module):
    return [m for m in module.modules() if type(m).__name__.endswith("TopkRouter")]


def _v2_normed_router(router):
    """DeepSeek-V2's MoEGate with norm_topk_prob: divide by the sum, leave out
    routed_scaling_factor.
    """
    scaled = router.forward

    def forward(hidden):
        logits, weights, chosen = scaled(hidden)
        weights = weights / router.routed_scaling_factor
        return logits, weights / (weights.sum(dim=-1, keepdim=True) + 1e-20), chosen

    return forward


def _fill(module, values, prefix):
    """Copies values[prefix + name] into module; experts are stacked as transformers keeps them."""
    for name, target in list(module.named_parameters()) + list(module.named_buffers()):
        if "inv_freq" in name:
            continue
        full = prefix + name
        if name.endswith("experts.gate_up_proj"):
            p = full[: -len("gate_up_proj")]
            x = torch.stack(
                [
                    torch.cat(
                        [values[f"{p}{e}.gate_proj.weight"], values[f"{p}{e}.up_proj.weight"]]
                    )
                    for e in range(target.shape[0])
                ]
            )
        elif name.endswith("experts.down_proj"):
            p = full[: -len("down_proj")]
            x = torch.stack([values[f"{p}{e}.down_proj.weight"] for e in range(target.shape[0])])
        elif target.numel() == 0:  # no shared expert
            continue
        else:
            x = values[full]
        assert x.shape == target.shape, (full, x.shape, target.shape)
        target.data.copy_(x)


class Oracle:
    """A model and, if there is one, its MTP layer, in float32 from the values of weights.widen."""

    def __init__(self, published, values):
        cfg = config_of(published)
        self.cfg = cfg
        self.model = CLASSES[cfg.model_type][1](cfg).float().eval()
        for i, layer in enumerate(self.model.model.layers):
            if not is_moe(cfg, i) and layer.mlp.__class__.__name__.lower().endswith("moe"):
                layer.mlp = type(layer.mlp.shared_experts)(cfg)  # moe_layer_freq
        _fill(self.model.model, values, "model.")
        head = "model.embed_tokens.weight" if cfg.tie_word_embeddings else "lm_head.weight"
        self.model.lm_head.weight = nn.Parameter(values[head].clone())
        if cfg.model_type == "deepseek_v2" and cfg.norm_topk_prob and cfg.num_experts_per_tok > 1:
            for r in routers(self.model):
                r.forward = _v2_normed_router(r)
        self.mtp = None
        p = f"model.layers.{cfg.num_hidden_layers}."
        if p + "eh_proj.weight" in values:
            self.mtp = Mtp(self.model).float().eval()
            _fill(self.mtp.block, values, p)
            for name in ("enorm", "hnorm", "eh_proj"):
                getattr(self.mtp, name).weight.data.copy_(values[f"{p}{name}.weight"])
            self.mtp.norm.weight.data.copy_(values[p + "shared_head.norm.weight"])

    @torch.no_grad()
    def hidden(self, ids):
        """Final-normed hidden states [n, h]."""
        return self.model.model(ids[None], use_cache=False).last_hidden_state[0]

    @torch.no_grad()
    def logits(self, ids):
        return self.model.lm_head(self.hidden(ids))

    @torch.no_grad()
    def mtp_logits(self, ids):
        return self.mtp(ids, self.hidden(ids)) if self.mtp else None

    @torch.no_grad()
    def greedy(self, ids, steps):
        """(tokens [steps], the logits row that chose each [steps, vocab]), by cached decoding."""
        out = self.model(ids[None], use_cache=True)
        tokens, rows = [], []
        for _ in range(steps):
            rows.append(out.logits[0, -1])
            tokens.append(int(rows[-1].argmax()))
            out = self.model(torch.tensor([[tokens[-1]]]), cache=out.cache, use_cache=True)
        return torch.tensor(tokens), torch.stack(rows)


def top1_margin(rows):
    """Smallest gap between the first and second logit of any row, as a share of the largest
    |logit|.
    """
    top = rows.topk(2, dim=-1).values
    return float((top[:, 0] - top[:, 1]).min() / rows.abs().max())


def _gap(x, k):
    """Smallest distance between the k-th and the (k+1)-th largest finite value of a row; inf where
    there is none.
    """
    if k >= x.shape[-1]:
        return float("inf")
    top = x.topk(k + 1, dim=-1).values
    gap = top[:, k - 1] - top[:, k]
    return float(gap[torch.isfinite(gap)].min()) if torch.isfinite(gap).any() else float("inf")


class RouteWatch:
    """Smallest distance of any routing decision to the other side, over all forward passes inside
    `with`: a decision nearer than rounding would make the golden logits a matter of luck.
    """

    def __init__(self, oracle):
        self.margin = float("inf")
        self.modules = routers(oracle.model) + (routers(oracle.mtp) if oracle.mtp else [])
        self.v3 = oracle.cfg.model_type == "deepseek_v3"
        self.grouped = self.v3 or oracle.cfg.topk_method == "group_limited_greedy"

    def _see(self, router, _, output):
        logits = output[0]
        choice = (
            logits.sigmoid() + router.e_score_correction_bias if self.v3 else logits.log_softmax(-1)
        )
        if self.grouped:
            groups = choice.view(len(choice), router.num_group, -1)
            score = groups.topk(2, dim=-1).values.sum(-1) if self.v3 else groups.amax(-1)
            self.margin = min(self.margin, _gap(score, router.topk_group))
            keep = torch.zeros_like(score, dtype=torch.bool)
            keep.scatter_(1, score.topk(router.topk_group, dim=-1).indices, True)
            choice = groups.masked_fill(~keep[..., None], float("-inf")).flatten(1)
        self.margin = min(self.margin, _gap(choice, router.top_k))

    def __enter__(self):
        self.handles = [m.register_forward_hook(self._see) for m in self.modules]
        # a patched router.forward is still called through the module, so hooks see it
        return self

    def __exit__(self, *_):
        for h in self.handles:
            h.remove()


def check_v3_mask():
    """Fails if this transformers masks unchosen groups with 0.0 instead of -inf."""
    cfg = config_of(
        dict(
            model_type="deepseek_v3",
            hidden_size=4,
            n_routed_experts=4,
            n_group=2,
            topk_group=1,
            num_experts_per_tok=2,
        )
    )
    router = DeepseekV3TopkRouter(cfg)
    router.weight.data.zero_()
    router.e_score_correction_bias.copy_(torch.tensor([-3.0, -2.0, -5.0, -4.0]))
    chosen = router(torch.ones(1, 4))[2]
    if sorted(chosen[0].tolist()) != [0, 1]:
        raise SystemExit(
            "this transformers masks unchosen groups with 0.0; use 5.24 or later (see reference.py)"
        )
