"""Work for the benchmarks from people's own data: a model's folder and files that ``heedful import`` reads.

Nothing of the files is kept: tokens lie in the benchmark's temporary folder.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from _workload import Size, size_of
from heedful.errors import DataError
from heedful.model import load_causal_model, load_tokenizer, save_model, scalar_model_from_causal
from heedful.model.encoding import encode_demonstrations, encode_prompts, encode_rankings
from heedful.project.data_folder import Records
from heedful.project.importing import AUTO, import_file
from heedful.project.selection import demonstrations_of, prompts_of, training_rankings
from heedful.records import Split

LIMITS = {"max_prompt_tokens": 512, "max_response_tokens": 256}


@dataclass(frozen=True)
class RealData:
    """What the files hold, as token ids. rankings: by the number of responses of a prompt."""

    size: Size
    examples: list[dict[str, list[int]]]
    rankings: dict[int, list[dict[str, Any]]]
    prompts: list[list[int]]


def flags(parser: ArgumentParser) -> None:
    """The two flags of a benchmark on a real model."""
    parser.add_argument("--model", type=Path, default=None, help="folder of a model, instead of the sizes; needs --data")
    parser.add_argument("--data", type=Path, nargs="+", default=(), help="files or folders that `heedful import` reads")


def read(chosen: Namespace) -> RealData:
    """All files' records, with the model's own tokenizer and template. Files that are not of a known format are named."""
    tokenizer = load_tokenizer(chosen.model)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for file in files_in(chosen.data):
            try:
                report = import_file(AUTO, file, folder)
            except DataError as error:
                print(f"bench: {file.name} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
            print(f"bench: {file.name}: {report.accepted} of {report.read} rows, format {report.format}", file=sys.stderr)
        records = Records.load(folder)
    encoding: dict[str, Any] = LIMITS | {"template": "chat" if tokenizer.chat_template else "plain", "may_be_empty": True}
    demonstrations = [row for split in get_args(Split) for row in demonstrations_of(records, split)]
    ranked = [row for split in get_args(Split) for row in training_rankings(records, split)]
    asked = [row for split in get_args(Split) for row in prompts_of(records, split)]
    examples, _ = encode_demonstrations(tokenizer, records.prompts, demonstrations, **encoding)
    rankings, _ = encode_rankings(tokenizer, records.prompts, records.responses, ranked, **encoding)
    _, prompts, _ = encode_prompts(tokenizer, asked, max_tokens=LIMITS["max_prompt_tokens"], template=encoding["template"])
    by_k: dict[int, list[dict[str, Any]]] = {}
    for row in rankings:
        ranks = row.ranks[0]
        if len(set(ranks)) == len(ranks) and 0 not in ranks:  # without ties: those a pairwise trainer has no pairs for
            by_k.setdefault(len(ranks), []).append({"prompt": row.prompt, "responses": row.responses, "ranks": list(ranks)})
    examples_ = [{"prompt": example.prompt, "response": example.response} for example in examples]
    return RealData(size_of(json.loads((chosen.model / "config.json").read_text())), examples_, by_k, prompts)


def files_in(given: list[Path]) -> list[Path]:
    """Files as they are given, and all files of rows below a folder."""
    found: list[Path] = []
    for path in given:
        if not path.exists():
            raise SystemExit(f"bench: {path} does not exist")
        found += sorted(p for p in path.rglob("*.jsonl*") if p.is_file()) if path.is_dir() else [path]
    return found


def prepare_models(model: Path, folder: Path) -> None:
    """``folder/policy`` (the model) and ``folder/reward`` (the same with one label, whose weights are random)."""
    (folder / "policy").symlink_to(model.resolve(), target_is_directory=True)
    tokenizer = load_tokenizer(model)
    causal: Any = load_causal_model(model)
    end: Any = tokenizer.eos_token_id
    padding: Any = tokenizer.pad_token_id
    save_model(scalar_model_from_causal(causal, pad_token_id=padding, eos_token_id=end), tokenizer, folder / "reward")


def enough(what: str, rows: list[Any], needed: int) -> list[Any]:
    """The first rows, again and again if there are too few: what is timed depends on their lengths only."""
    if not rows:
        raise SystemExit(f"bench: expected {what} in the files of --data, found none")
    return [rows[i % len(rows)] for i in range(needed)]
