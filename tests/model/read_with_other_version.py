"""Run by another version of transformers: logits and tokens of saved models, to be compared with ours. Imports no Heedful."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


def main(root: Path) -> None:
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        given = json.loads((folder / "given.json").read_text())
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([given["tokens"]]), use_cache=False).logits
        tokenizer = AutoTokenizer.from_pretrained(folder)
        read = {
            "logits": logits.tolist(),
            "ids": tokenizer(given["text"])["input_ids"],
            "special": sorted(tokenizer.all_special_tokens),
            "ends": GenerationConfig.from_pretrained(folder).eos_token_id,
        }
        (folder / "read.json").write_text(json.dumps(read))


main(Path(sys.argv[1]))
