# SPDX-License-Identifier: Apache-2.0
"""The multi-token prediction layer of DeepSeek-V3, in plain PyTorch.

Written from the DeepSeek-V3 report (arXiv 2412.19437, 2.2, equations 21 to 23): at position i the
representation of token i and the embedding of token i+1 are normalised, joined (embedding first,
the order of the published eh_proj) and projected; one decoder layer runs over these rows, causally
among themselves; a norm of its own and the main model's head predict token i+2. The representation
is the main model's hidden state after its final norm; the report leaves that open, serving systems
and transformers' MtpModel agree on it. The decoder layer is transformers' own class.
"""

import torch
from torch import nn


class Mtp(nn.Module):
    def __init__(self, model):
        super().__init__()
        cfg = model.config
        norm = type(model.model.norm)
        self.main = [model]  # in a list, so that its parameters are not ours
        self.enorm = norm(cfg.hidden_size, eps=cfg.rms_norm_eps)
        self.hnorm = norm(cfg.hidden_size, eps=cfg.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * cfg.hidden_size, cfg.hidden_size, bias=False)
        self.block = type(model.model.layers[-1])(cfg, layer_idx=cfg.num_hidden_layers)
        self.norm = norm(cfg.hidden_size, eps=cfg.rms_norm_eps)  # shared_head.norm in the file

    def forward(self, ids, hidden):
        """ids [n], hidden [n, h] after the final norm -> logits [n - 1, vocab]; row i predicts
        token i + 2.
        """
        model = self.main[0]
        rows = len(ids) - 1
        x = torch.cat(
            [self.enorm(model.model.embed_tokens(ids[1:])), self.hnorm(hidden[:-1])], dim=-1
        )
        x = self.eh_proj(x)[None]
        position = torch.arange(rows)[None]
        mask = torch.full((rows, rows), float("-inf")).triu(1)[None, None]
        x = self.block(
            x,
            attention_mask=mask,
            position_ids=position,
            position_embeddings=model.model.rotary_emb(x, position),
        )
        return model.lm_head(self.norm(x))[0]
