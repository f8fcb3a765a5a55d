"""Makes a GGUF file, which llama.cpp reads, of a folder in Hugging Face format: ``python bench/_gguf.py FOLDER FILE bf16``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from _setup import folder_of


def make_gguf(model: Path, file: Path, number_type: str) -> None:
    """number_type: f32, f16 or bf16. Needs the environment ``llama``; runs in this one, which has torch and transformers."""
    converter = folder_of("llama") / "convert"
    if not converter.is_dir():
        raise SystemExit(f"bench: {converter} does not exist: run `python bench/_setup.py llama`")
    command = [sys.executable, str(converter / "convert_hf_to_gguf.py"), str(model.resolve()), "--outtype", number_type]
    done = subprocess.run(
        [*command, "--outfile", str(file)],
        env=os.environ | {"PYTHONPATH": f"{converter / 'gguf-py'}:{converter}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"llama.cpp's converter failed on {model}:\n{done.stderr[-2_000:]}")


if __name__ == "__main__":
    make_gguf(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
