# SPDX-License-Identifier: Apache-2.0
"""The golden cases, and random ones.

A case is a dict: `config` is config.json word for word, the rest says what the file and the test
hold. Dimensions are odd on purpose: nothing is a multiple of 16 that could avoid it, value width
differs from key width, prompts longer than 128 tokens cross the border of an attention block, and
so do answers that start below it.
"""

import random

DEFAULTS = dict(
    dtype="F32",  # F32, BF16, F16, or FP8 (BF16 for what published FP8 files leave alone)
    bias=(0.0, 0.1),  # e_score_correction_bias: mean, deviation
    bias_dtype="F32",
    latent_gain=1.0,
    mtp=None,  # None, "shared", "copies"
    ue8m0=False,  # FP8 scales are powers of two, as in V3.1
    shards=1,
    prompt=40,
    proves="",  # wrong readings that this case must notice (mutants.py)
)


def yarn(factor, original, mscale=None, mscale_all_dim=None, beta_fast=32, beta_slow=1, key="type"):
    out = {key: "yarn", "factor": factor, "original_max_position_embeddings": original}
    if beta_fast is not None:
        out.update(beta_fast=beta_fast, beta_slow=beta_slow)
    if mscale is not None:
        out["mscale"] = mscale
    if mscale_all_dim is not None:
        out["mscale_all_dim"] = mscale_all_dim
    return out


def _base(arch, name, vocab, hidden, layers, heads, q_lora, kv_lora, nope, rope, v):
    return {
        "architectures": [arch],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "kv_lora_rank": kv_lora,
        "max_position_embeddings": 4096,
        "model_type": name,
        "moe_layer_freq": 1,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": heads,
        "q_lora_rank": q_lora,
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.33.1",
        "use_cache": True,
        "v_head_dim": v,
        "vocab_size": vocab,
    }


def v3(dims, ffn, moe, **change):
    """dims: vocab, hidden, layers, heads, q_lora, kv_lora, nope, rope, v; ffn: dense, expert,
    shared experts; moe: experts, top-k, groups, groups kept, scaling.
    """
    c = _base("DeepseekV3ForCausalLM", "deepseek_v3", *dims)
    c["intermediate_size"], c["moe_intermediate_size"], c["n_shared_experts"] = ffn
    keys = (
        "n_routed_experts",
        "num_experts_per_tok",
        "n_group",
        "topk_group",
        "routed_scaling_factor",
    )
    c.update(zip(keys, moe))
    c.update(
        norm_topk_prob=True,
        scoring_func="sigmoid",
        topk_method="noaux_tc",
        num_nextn_predict_layers=0,
    )
    return _change(c, change)


def v2(dims, ffn, moe, **change):
    c = v3(dims, ffn, moe)
    c.update(
        architectures=["DeepseekV2ForCausalLM"], model_type="deepseek_v2", norm_topk_prob=False
    )
    c.update(scoring_func="softmax", topk_method="greedy", aux_loss_alpha=0.001, seq_aux=True)
    del c["num_nextn_predict_layers"]
    return _change(c, change)


DROP = object()


def _change(c, change):
    c.update(change)
    return {k: x for k, x in sorted(c.items()) if x is not DROP}


def case(name, says, config, **rest):
    return {**DEFAULTS, "name": name, "says": says, "config": config, **rest}


FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
R1 = dict(max_position_embeddings=163840, rope_scaling=yarn(40, 4096, 1.0, 1.0))

CASES = [
    case(
        "v3-r1",
        "R1 in small: q_lora, 4 groups of which 2, normed weights x 2.5, one dense layer, YaRN 40 "
        "x 4096",
        v3((97, 36, 3, 3, 21, 26, 24, 8, 20), (41, 10, 1), (8, 3, 4, 2, 2.5), **R1),
        prompt=72,
        bias=(0.1, 0.2),
        proves="rope_pairs no_yarn no_softmax_mscale bias_in_weight norm no_scaling no_groups "
        "group_max",
    ),
    case(
        "v3-moonlight",
        "Moonlight in small: no q_lora, one group, plain RoPE theta 50000, two shared experts, "
        "BF16; rms_norm_eps 1e-5, while q_a and kv_a norms keep 1e-6 (in DeepSeek's code and in "
        "transformers)",
        v3(
            (77, 50, 3, 3, None, 36, 22, 10, 26),
            (61, 11, 2),
            (10, 3, 1, 1, 2.446),
            rope_theta=50000.0,
            rms_norm_eps=1e-05,
            max_position_embeddings=8192,
        ),
        dtype="BF16",
        latent_gain=0.04,
        bias=(0.3, 0.1),
        prompt=150,
        proves="latent_eps rope_theta rope_pairs bias_in_weight no_scaling",
    ),
    case(
        "v3-kimi",
        "Kimi-K2 in small: theta 50000, YaRN 32 x 4096 with beta 1 and 1, one group, 48 experts "
        "of which 8, BF16 with a BF16 correction bias; 261 tokens cross two block borders",
        v3(
            (67, 36, 2, 4, 25, 33, 18, 12, 14),
            (52, 9, 1),
            (48, 8, 1, 1, 2.827),
            rope_theta=50000.0,
            max_position_embeddings=131072,
            rope_scaling=yarn(32, 4096, 1.0, 1.0, 1.0, 1.0),
        ),
        dtype="BF16",
        bias_dtype="BF16",
        prompt=261,
        proves="rope_theta no_yarn no_softmax_mscale bias_in_weight beta_default",
    ),
    case(
        "v3-negative",
        "Correction bias near -1, so that choice values are negative and a masked group may not "
        "win with 0; no dense layer, 3 shared experts",
        v3(
            (75, 30, 2, 2, 21, 27, 20, 6, 33),
            (44, 9, 3),
            (16, 4, 4, 2, 1.25),
            first_k_dense_replace=0,
        ),
        bias=(-1.0, 0.25),
        prompt=60,
        proves="mask_zero bias_in_weight no_groups group_max",
    ),
    case(
        "v3-unnormed",
        "norm_topk_prob false, routed_scaling_factor 1.7, rms_norm_eps 1e-3, tied embeddings, 2 dense "
        "layers, top-1 routing",
        v3(
            (85, 30, 4, 5, 18, 23, 14, 4, 9),
            (46, 17, 2),
            (6, 1, 2, 1, 1.7),
            first_k_dense_replace=2,
            norm_topk_prob=False,
            rms_norm_eps=1e-03,
            tie_word_embeddings=True,
        ),
        bias=(0.0, 0.3),
        prompt=33,
        proves="norm no_scaling eps",
    ),
    case(
        "v3-mscale",
        "YaRN with mscale unlike mscale_all_dim, so that cos and sin are scaled too; theta "
        "100000, rope_type and type",
        v3(
            (62, 38, 2, 3, None, 30, 21, 14, 17),
            (50, 12, 1),
            (12, 4, 3, 2, 2.0),
            rope_theta=100000.0,
            max_position_embeddings=16384,
            rope_scaling={**yarn(16, 1024, 1.3, 0.6), "rope_type": "yarn"},
        ),
        prompt=200,
        proves="no_rope_mscale no_softmax_mscale no_yarn",
    ),
    case(
        "v3-mtp",
        "MTP without embedding and head of its own, BF16, behind 2 dense layers; 140 tokens, so "
        "that MTP attention crosses a block border",
        v3(
            (70, 38, 3, 3, 26, 35, 24, 8, 18),
            (55, 11, 1),
            (8, 2, 4, 2, 2.5),
            first_k_dense_replace=2,
            num_nextn_predict_layers=1,
            **R1,
        ),
        dtype="BF16",
        mtp="shared",
        prompt=140,
        proves="mtp_before_norm mtp_order mtp_no_last_norm mtp_same_token",
    ),
    case(
        "v3-mtp-copies",
        "MTP with copies of embedding and head in the file, as published; F32, no q_lora",
        v3(
            (65, 34, 2, 2, None, 29, 17, 10, 22),
            (47, 13, 1),
            (6, 2, 1, 1, 1.5),
            num_nextn_predict_layers=1,
        ),
        mtp="copies",
        prompt=24,
        proves="mtp_before_norm mtp_order mtp_no_last_norm",
    ),
    case(
        "v3-f16",
        "F16 weights; 7 heads, v wider than nope + rope; rope_interleave false: pairs (i, i + "
        "dim/2), transformers' key",
        v3(
            (120, 42, 2, 7, 19, 31, 10, 6, 23),
            (49, 17, 1),
            (9, 4, 3, 2, 2.2),
            torch_dtype="float16",
            rope_interleave=False,
        ),
        dtype="F16",
        prompt=70,
        proves="rope_pairs norm",
    ),
    case(
        "v3-fp8",
        "FP8 as the official files: hidden 136 and 300 rows of kv_b (60 a head: rows 128 and 256 "
        "lie inside heads 2 and 4) make ragged blocks; embedding, head, norms, gate in BF16, bias "
        "in F32",
        v3(
            (60, 136, 2, 5, 30, 40, 40, 8, 20),
            (46, 12, 11),
            (5, 2, 1, 1, 2.5),
            quantization_config=FP8,
            **R1,
        ),
        dtype="FP8",
        prompt=36,
        proves="fp8_one_scale",
    ),
    case(
        "v3-fp8-shards",
        "FP8 in three shards, each scale in another file than its matrix; power-of-two scales "
        "(V3.1); kv_lora 140 and 170 rows of kv_b: 4 blocks; MTP whose eh_proj stays BF16",
        v3(
            (76, 48, 2, 5, None, 140, 18, 6, 16),
            (132, 10, 2),
            (4, 2, 2, 1, 2.5),
            num_nextn_predict_layers=1,
            quantization_config={**FP8, "scale_fmt": "ue8m0"},
        ),
        dtype="FP8",
        ue8m0=True,
        mtp="shared",
        shards=3,
        prompt=30,
        proves="fp8_one_scale mtp_order",
    ),
    case(
        "v3-defaults",
        "Only what has no sensible default is given: 8 groups of which 4, top-8, 3 dense layers, "
        "1 shared expert, normed x 2.5, eps 1e-6, theta 10000, beta 32 and 1 and untied come from "
        "defaults. YaRN without mscale scales cos and sin by 0.1 ln(factor) + 1 and leaves the "
        "softmax alone. num_nextn_predict_layers absent: no MTP",
        v3(
            (64, 32, 4, 2, 15, 18, 12, 8, 13),
            (40, 7, 1),
            (24, 8, 8, 4, 2.5),
            max_position_embeddings=8192,
            rope_scaling=yarn(4, 2048, beta_fast=None),
            **dict.fromkeys(
                "n_group topk_group num_experts_per_tok first_k_dense_replace n_shared_experts "
                "norm_topk_prob routed_scaling_factor rms_norm_eps rope_theta tie_word_embeddings "
                "num_nextn_predict_layers moe_layer_freq scoring_func topk_method hidden_act "
                "attention_bias torch_dtype use_cache".split(),
                DROP,
            ),
        ),
        prompt=50,
        bias=(0.2, 0.2),
        proves="no_rope_mscale no_groups norm no_scaling",
    ),
    case(
        "v3-resaved",
        "As transformers 5 saves it: rope_parameters holds rope_theta and scaling, dtype, "
        "head_dim; num_nextn_predict_layers 1 although the file has no MTP layer (transformers "
        "drops it): no MTP",
        v3(
            (72, 36, 2, 3, 20, 26, 16, 8, 12),
            (45, 11, 1),
            (8, 3, 2, 1, 2.5),
            num_nextn_predict_layers=1,
            max_position_embeddings=40960,
            dtype="float32",
            head_dim=8,
            qk_head_dim=24,
            rope_interleave=True,
            pad_token_id=None,
            pretraining_tp=1,
            output_router_logits=False,
            transformers_version="5.24.0",
            rope_parameters={
                **yarn(10, 4096, 1.0, 1.0, key="rope_type"),
                "rope_theta": 500000.0,
                "type": "yarn",
            },
            rope_theta=DROP,
            rope_scaling=DROP,
            torch_dtype=DROP,
            moe_layer_freq=DROP,
            scoring_func=DROP,
            topk_method=DROP,
        ),
        prompt=45,
        proves="rope_theta no_yarn no_softmax_mscale",
    ),
    case(
        "v2-lite",
        "V2-Lite in small: no q_lora, softmax gate, greedy, 2 shared experts, YaRN 40 x 4096 with "
        "both mscales 0.707, BF16",
        v2(
            (96, 45, 3, 3, None, 37, 21, 10, 19),
            (66, 13, 2),
            (11, 4, 1, 1, 1.0),
            max_position_embeddings=163840,
            rope_scaling=yarn(40, 4096, 0.707, 0.707),
            pretraining_tp=1,
        ),
        dtype="BF16",
        prompt=110,
        proves="no_yarn no_softmax_mscale norm rope_pairs",
    ),
    case(
        "v2-236b",
        "V2 in small: q_lora, group_limited_greedy (group score is the largest, 4 groups of which "
        "2), factor 16, num_key_value_heads absent",
        v2(
            (92, 42, 2, 3, 23, 34, 20, 12, 15),
            (51, 12, 2),
            (12, 3, 4, 2, 16.0),
            max_position_embeddings=163840,
            topk_method="group_limited_greedy",
            rope_scaling=yarn(40, 4096, 0.707, 0.707),
            num_key_value_heads=DROP,
        ),
        prompt=64,
        proves="no_groups group_sum no_scaling norm",
    ),
    case(
        "v2-normed",
        "norm_topk_prob true in V2: weights are divided by their sum and routed_scaling_factor is "
        "not applied (DeepSeek's modeling_deepseek.py; transformers ignores the key); "
        "moe_layer_freq 2 makes layer 1 dense (transformers ignores it); mscale 1.0 with "
        "mscale_all_dim 0.707; tied embeddings",
        v2(
            (78, 40, 3, 4, 17, 24, 13, 8, 11),
            (43, 10, 1),
            (10, 3, 2, 1, 3.0),
            first_k_dense_replace=0,
            moe_layer_freq=2,
            norm_topk_prob=True,
            topk_method="group_limited_greedy",
            tie_word_embeddings=True,
            max_position_embeddings=20480,
            rope_scaling=yarn(20, 1024, 1.0, 0.707),
        ),
        prompt=48,
        proves="v2_hf_norm no_groups no_rope_mscale",
    ),
]


def _random_rope(r):
    """(rope_scaling or None, rope_theta, max_position_embeddings)"""
    theta = r.choice([10000, 10000.0, 50000.0, 100000.0, 1000000.0])
    if r.random() < 0.35:
        return None, theta, r.choice([512, 4096, 8192])
    original, factor = r.choice([64, 256, 1024, 4096]), r.choice([8, 10.0, 16, 32, 40, 64.0])
    mscales = r.choice([(1.0, 1.0), (0.707, 0.707), (1.0, 0.707), (1.4, 0.5), (None, None)])
    betas = r.choice([(32, 1), (32, 1), (1.0, 1.0), (16, 2), (None, None)])
    scaling = yarn(factor, original, *mscales, *betas)
    if r.random() < 0.1:
        scaling["truncate"] = False  # transformers' key: the ramp's ends are not rounded
    return scaling, theta, int(original * factor)


def _restyle(r, c):
    """The same config in one of the spellings that are met in published files."""
    style = r.choice(["type", "type", "rope_type", "both", "rope_parameters"])
    scaling = c["rope_scaling"]
    if scaling and style != "type":
        scaling = {**scaling, "rope_type": "yarn"}
        if style == "rope_type":
            del scaling["type"]
        c["rope_scaling"] = scaling
    if style == "rope_parameters":
        c["rope_parameters"] = {
            **(scaling or {"rope_type": "default"}),
            "rope_theta": c["rope_theta"],
        }
        c["dtype"] = c.pop("torch_dtype")
        del c["rope_scaling"], c["rope_theta"]
    elif scaling is None and r.random() < 0.5:
        del c["rope_scaling"]
    return c


def random_case(seed):
    """One configuration drawn over everything the cases above switch on, over a larger space of
    sizes.
    """
    r = random.Random(seed)
    is_v3 = r.random() < 0.65
    heads = r.randint(1, 6)
    hidden = heads * r.randint(-(-24 // heads), 72 // heads)
    dtype = r.choice(["F32", "F32", "BF16", "F16", "FP8"])
    if dtype == "FP8" and r.random() < 0.6:
        hidden = heads * -(-r.randint(129, 150) // heads)
    dims = (
        r.randint(33, 150),
        hidden,
        r.randint(1, 4),
        heads,
        r.choice([None, r.randint(5, 48)]),
        r.randint(9, 150 if dtype == "FP8" else 60),
        r.randint(3, 40),
        2 * r.randint(2, 12),
        r.randint(3, 45),
    )
    groups = r.choice([1, 1, 2, 3, 4, 8])
    each = r.randint(2, 6)
    kept = r.randint(1, groups)
    top = r.randint(1, min(8, kept * each))
    moe = (groups * each, top, groups, kept, r.choice([1.0, 1.7, 2.5, 2.827, 16.0]))
    ffn = (r.randint(8, 150), r.randint(3, 33), r.choice([None, 1, 1, 2, 3, 4]))
    scaling, theta, longest = _random_rope(r)
    prompt = r.choice([r.randint(2, 20), r.randint(20, 127), r.randint(128, 300)])
    change = dict(
        rope_scaling=scaling,
        rope_theta=theta,
        max_position_embeddings=max(longest, prompt + 64),
        first_k_dense_replace=min(r.randint(0, dims[2]), r.randint(0, 3)),
        rms_norm_eps=r.choice([1e-6, 1e-5, 1e-3]),
        tie_word_embeddings=r.random() < 0.25,
        norm_topk_prob=r.random() < 0.6,
    )
    if dtype == "FP8":
        change["quantization_config"] = FP8
    rest = dict(
        dtype=dtype,
        prompt=prompt,
        latent_gain=r.choice([1.0, 0.05]),
        shards=r.choice([1, 1, 2, 5]),
        bias=r.choice([(0.0, 0.1), (0.4, 0.2), (-1.0, 0.2)]),
        bias_dtype=r.choice(["F32", "F32", "BF16"]),
        ue8m0=r.random() < 0.3,
    )
    if is_v3:
        rest["mtp"] = r.choice([None, "shared", "copies"])
        if change["tie_word_embeddings"] and rest["mtp"] == "copies":
            rest["mtp"] = "shared"
        change["num_nextn_predict_layers"] = 1 if rest["mtp"] else 0
        if r.random() < 0.15:
            change["rope_interleave"] = False
        config = v3(dims, ffn, moe, **change)
    else:
        # DeepSeek's V2 code leaves top-1 with norm_topk_prob to the factor alone; transformers
        # ignores the key.
        change["norm_topk_prob"] = r.random() < 0.3 and top > 1
        change["topk_method"] = r.choice(
            ["greedy", "group_limited_greedy"]
        )  # greedy ignores the groups
        change["moe_layer_freq"] = r.choice([1, 1, 2])
        config = v2(dims, ffn, moe, **change)
    return case(f"random-{seed}", "drawn by random_case", _restyle(r, config), **rest)
