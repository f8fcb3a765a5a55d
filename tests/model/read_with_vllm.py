"""Run by a Python that has vLLM: what it reads of saved models, to be compared with ours. Imports no Heedful.

``python read_with_vllm.py FOLDER`` reads each folder in FOLDER: ``given.json`` says what to ask, it writes ``vllm.json``. For a
model that vLLM refuses this is ``{"refused": REASON}``.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}

vllm: Any = importlib.import_module("vllm")


def read(folder: Path) -> dict[str, Any]:
    """Of each prompt with its answer: the prompt's tokens, greedy tokens, and the log-probs of the answer's tokens."""
    answers = json.loads((folder / "given.json").read_text())["answers"]
    # "auto" would compute in another type.
    settings = {"dtype": "float32", "enforce_eager": True, "max_model_len": 256, "max_num_seqs": 8, "use_tqdm_on_load": False}
    llm = vllm.LLM(str(folder), **settings)
    found: dict[str, Any] = {"prompts": [], "greedy": [], "logprobs": []}
    for answer in answers:
        sampling = vllm.SamplingParams(temperature=0.0, max_tokens=answer["greedy"])
        options: dict[str, Any] = {"sampling_params": sampling, "use_tqdm": False}
        if "messages" in answer:
            (said,) = llm.chat(answer["messages"], **options)
        else:
            (said,) = llm.generate([answer["text"]], **options)
        found["prompts"].append(list(said.prompt_token_ids))
        found["greedy"].append(list(said.outputs[0].token_ids))
        whole = {"prompt_token_ids": answer["prompt"] + answer["tokens"]}
        (scored,) = llm.generate([whole], vllm.SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)
        rows = scored.prompt_logprobs[len(answer["prompt"]) :]
        found["logprobs"].append([row[token].logprob for row, token in zip(rows, answer["tokens"], strict=True)])
    return found


def main(root: Path) -> None:
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        try:
            found = read(folder)
        except Exception as error:
            found = {"refused": f"{type(error).__name__}: {error}"}
        (folder / "vllm.json").write_text(json.dumps(found))
        gc.collect()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
