# SPDX-License-Identifier: Apache-2.0
"""Reads safetensors files with the standard library alone, for the scripts that the product's tests
run.
"""

import array
import json
import os
import struct
import sys


class Tensor:
    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, shape, data

    def numbers(self):
        """F32, I32 or I64 as a flat array."""
        out = array.array({"F32": "f", "I32": "i", "I64": "q"}[self.dtype], bytes(self.data))
        if sys.byteorder == "big":
            out.byteswap()
        return out


def read_file(path):
    """{name: Tensor}"""
    with open(path, "rb") as f:
        raw = f.read()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    body = memoryview(raw)[8 + length :]
    out = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            out[name] = Tensor(entry["dtype"], entry["shape"], body[begin:end])
    return out


def read_checkpoint(folder):
    """{name: Tensor} over model.safetensors or all shards of the index."""
    index = os.path.join(folder, "model.safetensors.index.json")
    if not os.path.exists(index):
        return read_file(os.path.join(folder, "model.safetensors"))
    with open(index) as f:
        files = sorted(set(json.load(f)["weight_map"].values()))
    out = {}
    for file in files:
        out.update(read_file(os.path.join(folder, file)))
    return out
