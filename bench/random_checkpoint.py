#!/usr/bin/env python3
"""Writes a checkpoint of DeepSeek-V2-Lite's geometry with random BF16 weights, for measuring the server with a model
that is as slow as a real one: bench/random_checkpoint.py DIR [LAYERS, default 8]. The tokenizer is the default model's, with
made-up words for the ids it does not have. About 1.1 GB a layer."""
import json, os, shutil, struct, sys

import numpy as np

out, layers = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8
root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
config = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "torch_dtype": "bfloat16",
    "vocab_size": 102400, "hidden_size": 2048, "num_hidden_layers": layers, "num_attention_heads": 16,
    "num_key_value_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 10944, "first_k_dense_replace": 1,
    "moe_layer_freq": 1, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
    "moe_intermediate_size": 1408, "scoring_func": "softmax", "topk_method": "greedy", "n_group": 1, "topk_group": 1,
    "norm_topk_prob": False, "routed_scaling_factor": 1.0, "rms_norm_eps": 1e-6, "rope_theta": 10000,
    "max_position_embeddings": 16384, "tie_word_embeddings": False, "hidden_act": "silu", "attention_bias": False,
    "bos_token_id": 0, "eos_token_id": 1,
}
h, heads = config["hidden_size"], config["num_attention_heads"]


def ffn(prefix, inter):
    return [(prefix + "gate_proj.weight", (inter, h)), (prefix + "up_proj.weight", (inter, h)),
            (prefix + "down_proj.weight", (h, inter))]


def layer(i):
    p = f"model.layers.{i}."
    t = [(p + "input_layernorm.weight", (h,)), (p + "post_attention_layernorm.weight", (h,)),
         (p + "self_attn.q_proj.weight", (heads * 192, h)), (p + "self_attn.kv_a_proj_with_mqa.weight", (576, h)),
         (p + "self_attn.kv_a_layernorm.weight", (512,)), (p + "self_attn.kv_b_proj.weight", (heads * 256, 512)),
         (p + "self_attn.o_proj.weight", (h, heads * 128))]
    if i == 0:
        return t + ffn(p + "mlp.", config["intermediate_size"])
    t += [(p + "mlp.gate.weight", (64, h))] + ffn(p + "mlp.shared_experts.", 2 * 1408)
    for e in range(64):
        t += ffn(f"{p}mlp.experts.{e}.", 1408)
    return t


rng = np.random.default_rng(1)
pool = (rng.standard_normal(1 << 24, dtype=np.float32) * 0.02).view(np.uint32)
pool = (pool >> 16).astype("<u2").tobytes()  # BF16 by truncation; values repeat every 16 M, which costs nobody anything
ones = np.full(65536, 0x3F80, "<u2").tobytes()
os.makedirs(out, exist_ok=True)
shards = [[("model.embed_tokens.weight", (102400, h)), ("model.norm.weight", (h,)), ("lm_head.weight", (102400, h))]]
shards += [layer(i) for i in range(layers)]
index, at = {}, 0
for n, tensors in enumerate(shards):
    name = f"model-{n + 1:05}-of-{len(shards):05}.safetensors"
    header, end = {}, 0
    for t, shape in tensors:
        size = 2 * int(np.prod(shape))
        header[t] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        index[t] = name
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(out, name), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t, shape in tensors:
            left = 2 * int(np.prod(shape))
            if len(shape) == 1:
                f.write(ones[:left])
                continue
            while left:
                part = pool[at : at + left]
                f.write(part)
                left -= len(part)
                at = (at + len(part) + 2 * 7919) % (len(pool) - 2)
json.dump(config, open(os.path.join(out, "config.json"), "w"), indent=1)
json.dump({"metadata": {}, "weight_map": index}, open(os.path.join(out, "model.safetensors.index.json"), "w"))
tok = json.load(open(os.path.join(root, "models/tiny/tokenizer.json")))
vocab = tok["model"]["vocab"]
used = set(vocab.values()) | {t["id"] for t in tok["added_tokens"]}
vocab.update({f"~{i:x}": i for i in range(config["vocab_size"]) if i not in used})
json.dump(tok, open(os.path.join(out, "tokenizer.json"), "w"), ensure_ascii=False)
shutil.copy(os.path.join(root, "models/tiny/tokenizer_config.json"), out)
