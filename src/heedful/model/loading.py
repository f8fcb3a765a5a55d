"""Load and save any Hugging Face causal language model, its tokenizer, and the scalar models made from it.

Everything is written in Hugging Face format and loads in plain transformers with the same logits; a reward model is an
``AutoModelForSequenceClassification`` with one label. Folders are written aside and renamed, so a kill or a full disk never
leaves half a model.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from heedful.errors import MissingError, ModelError, StorageError
from heedful.model.attention import use_heedful_attention
from heedful.model.fast.allocator import give_back_memory
from heedful.model.lora import ADAPTER_FOLDER, is_adapted, merged, note_adapter, save_adapter, stored_tensor
from heedful.model.precision import Precision, copy_of_buffers

# Our own progress bars are enough: transformers would draw one for each small file that it writes.
transformers.utils.logging.disable_progress_bar()

_OFFSET_KEY = "heedful_reward_offset"
_ALIGNMENT = 64  # bytes, of a new tensor of torch


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises MissingError, ModelError (no end-of-text token)."""
    folder = _model_folder(path)
    try:
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # tokenizers raises the bare class for a damaged file
        raise ModelError(
            "the tokenizer cannot be loaded",
            expected="tokenizer files that transformers' AutoTokenizer reads",
            got=str(error).partition("\n")[0] or type(error).__name__,
            where=folder,
            next_step="save the tokenizer beside the model: tokenizer.save_pretrained(FOLDER)",
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # without its files transformers makes an empty one
        raise ModelError(
            "the tokenizer cannot be loaded",
            expected="a vocabulary",
            got="special tokens only",
            where=folder,
            next_step="save the tokenizer beside the model: tokenizer.save_pretrained(FOLDER)",
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end-of-text token",
            expected="eos_token set in tokenizer_config.json: responses end with it",
            got="none",
            where=folder,
            next_step='set it, for example tokenizer.eos_token = "<|endoftext|>", and save the tokenizer again',
        )
    return tokenizer


def load_causal_model(path: str | Path, precision: Precision = "float32") -> PreTrainedModel:
    """A causal language model with Heedful's attention. Raises MissingError, ModelError.

    precision: float32 to train its weights; bfloat16 for a model that is frozen, or gets an adapter: each weight is rounded as
    it is read, and there is never an fp32 copy of the model.
    """
    model = _load(path, AutoModelForCausalLM.from_pretrained, "a causal language model", precision)
    _refuse_unsupported(model, path)
    return use_heedful_attention(model)


_UNSUPPORTED = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "logits_scaling")


def _refuse_unsupported(model: PreTrainedModel, where: str | Path) -> None:
    """Refuse logits that are more than hidden states times unembedding: their log-probs would be wrong without an error."""
    found = [name for name in _UNSUPPORTED if getattr(model.config, name, None) not in (None, 1, 1.0)]
    if getattr(model.config, "use_bidirectional_attention", None):
        found.append("use_bidirectional_attention")
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        found.append("a bias in the language-model head")
    if found:
        raise ModelError(
            "this architecture is not supported yet",
            expected="logits that are hidden states times the unembedding, and plain softmax attention",
            got=", ".join(found),
            where=where,
            next_step="use a model of another family: docs/families.md lists them",
        )


def load_scalar_model(path: str | Path, precision: Precision = "float32") -> PreTrainedModel:
    """A reward or value model (one label) with Heedful's attention; precision as in :func:`load_causal_model`.

    The head is fp32 in both: it may be trained. Raises MissingError, ModelError.
    """
    model = _load(path, AutoModelForSequenceClassification.from_pretrained, "a sequence classification model", precision)
    if model.config.num_labels != 1:
        raise ModelError(
            "this is not a reward model",
            expected="a sequence classification model with one label",
            got=f"{model.config.num_labels} labels",
            where=path,
            next_step="let `heedful align` train one",
        )
    if precision == "bfloat16":
        head = scalar_head(model)
        head.weight.data = stored_tensor(_model_folder(path), "score.weight")
    return use_heedful_attention(model)


def scalar_model_from_causal(model: PreTrainedModel, *, pad_token_id: int | None, eos_token_id: int) -> PreTrainedModel:
    """The model with its unembedding replaced by a projection to one scalar (SPEC 3.3), fp32.

    The projection starts at N(0, 1/(width+1)), as in OpenAI's lm-human-preferences. Hugging Face's classes read the score at
    the last token that is not padding: a padding token that equals end-of-text would move it by one, so such a one is left
    unset. A body in bfloat16, which will be frozen, is not copied: both models then hold the same tensors.
    """
    inherited = {k: v for k, v in model.config.to_dict().items() if k not in ("id2label", "label2id")}
    config = AutoConfig.for_model(**{**inherited, "num_labels": 1})
    config.num_labels = 1
    config.pad_token_id = None if pad_token_id == eos_token_id else pad_token_id
    config.problem_type = "regression"
    shared = model.dtype != torch.float32
    try:
        with torch.device("meta" if shared else "cpu"):
            scalar = cast(PreTrainedModel, AutoModelForSequenceClassification.from_config(config, dtype=torch.float32))
    except ValueError as error:
        raise ModelError(
            "no reward model can be made from this architecture",
            expected="an architecture for which transformers has a ForSequenceClassification class",
            got=type(model).__name__,
            next_step="use a model of another family: docs/families.md lists them",
        ) from error
    with torch.no_grad():
        missing, unexpected = scalar.base_model.load_state_dict(model.base_model.state_dict(), strict=False, assign=shared)
        if missing or unexpected:
            raise ModelError(
                "the model's body does not fit its sequence classification class",
                expected="the same parameters in both",
                got=f"missing {missing[:3]}, unexpected {unexpected[:3]}",
                next_step="use an architecture for which transformers has a ForSequenceClassification class with the same body",
            )
        head = scalar_head(scalar)
        if shared:
            copy_of_buffers(cast(PreTrainedModel, model.base_model), cast(PreTrainedModel, scalar.base_model))
            head.to_empty(device=model.device)
        head.weight.normal_(0.0, (head.in_features + 1) ** -0.5)
    if "heedful_adapter" in vars(model):
        vars(scalar)["heedful_adapter"] = vars(model)["heedful_adapter"]
    scalar.eval()  # as a loaded model is: from_config leaves the configuration's dropout active
    return use_heedful_attention(scalar)


def scalar_head(model: PreTrainedModel) -> torch.nn.Linear:
    """The projection to one scalar. Raises ModelError where the class keeps it under another name."""
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear) or head.out_features != 1:
        raise ModelError(
            "the model has no scalar head",
            expected="a linear layer `score` with one output",
            got=type(model).__name__,
            next_step="use an architecture whose ForSequenceClassification class has one",
        )
    return head


def shift_scalar_model(model: PreTrainedModel, shift: float) -> None:
    """Add a constant to all the model's scores, in place (SPEC 3.3: the bias that puts demonstrations at mean reward 0).

    Hugging Face's heads have no bias. Where the final norm has one (GPT-2, OPT, GPT-NeoX) the constant is folded into it, along
    the head's own direction, so plain transformers gives the shifted scores too. Elsewhere it is kept in the configuration as
    ``heedful_reward_offset`` and plain transformers' scores differ from ours by that constant.
    """
    head = scalar_head(model)
    norm = _final_norm_bias(model)
    with torch.no_grad():
        if head.bias is not None:
            head.bias.add_(shift)
        elif norm is not None and norm.dtype == torch.float32:  # a frozen base in bf16 has too few digits for it
            direction = head.weight[0]
            norm.add_(direction * (shift / direction.square().sum()))
        else:
            setattr(model.config, _OFFSET_KEY, scalar_offset(model) + shift)


def scalar_offset(model: PreTrainedModel) -> float:
    """The constant to add to the head's output (0 wherever it could be folded into the weights)."""
    return float(getattr(model.config, _OFFSET_KEY, 0.0))


def unembedding(model: PreTrainedModel) -> torch.Tensor:
    """[vocabulary, width] weights of the language-model head."""
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError("the model has no language-model head", expected="a causal language model", got=type(model).__name__)
    return cast(torch.Tensor, head.weight)


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str | Path) -> None:
    """Refuse a tokenizer that can produce ids which the model does not have. Raises ModelError."""
    rows = cast(torch.Tensor, model.get_input_embeddings().weight).shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            "the tokenizer does not match the model",
            expected=f"at most {rows} tokens (rows of the model's embedding)",
            got=f"{len(tokenizer)} tokens",
            where=where,
            next_step="use the tokenizer that the model was trained with, or resize the model's embeddings",
        )
    if model.config.eos_token_id not in (None, tokenizer.eos_token_id) and (
        not isinstance(model.config.eos_token_id, list) or tokenizer.eos_token_id not in model.config.eos_token_id
    ):
        raise ModelError(
            "the tokenizer does not match the model",
            expected=f"end-of-text token {model.config.eos_token_id} (the model's configuration)",
            got=f"{tokenizer.eos_token_id} ({tokenizer.eos_token!r})",
            where=where,
            next_step="use the tokenizer that the model was trained with",
        )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Write model and tokenizer to a folder in Hugging Face format: all of it or nothing. Raises StorageError.

    A model with an adapter is written merged, as a plain model, with the adapter by itself in the folder ``adapter``.
    """

    def write(folder: Path) -> None:
        if is_adapted(model):
            merged(model).save_pretrained(folder)
            save_adapter(model, folder / ADAPTER_FOLDER)
        else:
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    write_folder(Path(path), write)


ASIDE = ".aside-"
"""How the names of folders begin that are being written or removed: those of a process that was killed mean nothing."""


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill left of :func:`write_folder` in a folder and below; nobody else may be writing there."""
    for path in sorted(folder.rglob(f"{ASIDE}*")):
        shutil.rmtree(path, ignore_errors=True)


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a new folder beside ``path``, fsync all of it, and put it in place of ``path`` by renaming.

    Raises StorageError on a full or failing disk; then nothing new is left and an old ``path`` is untouched.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{path.name}-", dir=path.parent))
        aside.chmod(0o755)
        write(aside)
        for file in aside.rglob("*"):
            _fsync(file)
        _fsync(aside)
        if path.exists():
            _exchange(aside, path)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, path)
        _fsync(path.parent)
    except BaseException as error:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        # safetensors and torch wrap the operating system's error in their own classes.
        if isinstance(error, OSError) or "no space" in str(error).lower() or "i/o error" in str(error).lower():
            raise StorageError(
                "the disk refused to write",
                expected="room for the whole folder",
                got=str(error),
                where=path,
                next_step="free some space and run the same command again: the last checkpoint is untouched",
            ) from error
        raise


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders: in one step where the system can (Linux), so that one is always in place; else in three."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <fcntl.h> and <linux/fs.h>
    if renameat2 is not None and renameat2(here, os.fsencode(new), here, os.fsencode(old), exchange) == 0:
        return
    between = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{old.name}-old-", dir=old.parent)) / old.name
    os.rename(old, between)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(between, old)
        raise
    else:
        os.rename(between, new)
    finally:
        between.parent.rmdir()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _final_norm_bias(model: PreTrainedModel) -> torch.Tensor | None:
    """The bias of the norm right before the head, where there is one."""
    for name in ("ln_f", "final_layer_norm", "norm"):
        for body in (model.base_model, getattr(model.base_model, "decoder", None)):
            if getattr(body, "project_out", None) is not None:  # OPT-350m: a projection stands between norm and head
                return None
            norm = getattr(body, name, None)
            if norm is not None:
                return getattr(norm, "bias", None)
    return None


def _model_folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise MissingError(
            "there is no model here",
            expected="a folder in Hugging Face format with config.json",
            got="no such folder" if not folder.exists() else "no config.json in it",
            where=folder,
            next_step="give the path of a downloaded model (Heedful never downloads one by itself)",
        )
    return folder


def _load(path: str | Path, load: Callable[..., object], kind: str, precision: Precision) -> PreTrainedModel:
    folder = _model_folder(path)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    try:
        loaded = load(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
    except Exception as error:  # safetensors has a class of its own for a damaged file
        raise ModelError(
            f"the model cannot be loaded as {kind}",
            expected="weights and a configuration that transformers reads",
            got=str(error).partition("\n")[0] or type(error).__name__,
            where=folder,
            next_step="check the folder: load it in plain transformers",
        ) from error
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    if missing := sorted(info["missing_keys"]):  # transformers would make them up at random
        raise ModelError(
            f"the model cannot be loaded as {kind}",
            expected="a weight for each parameter",
            got=f"none for {', '.join(missing[:3])}" + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            where=folder,
            next_step="give the folder of a model of this kind, saved whole",
        )
    model.eval()
    _align(model)
    note_adapter(model, folder)
    give_back_memory()  # what reading took
    return model


def _align(model: PreTrainedModel) -> None:
    """Move the weights to where new tensors begin, one at a time: those of a mapped file may begin anywhere.

    Products of the same numbers then round otherwise (MKL): a loaded model would not give the bits of the one that was saved.
    """
    for parameter in model.parameters():
        if parameter.data_ptr() % _ALIGNMENT:
            parameter.data = parameter.data.clone()
