"""Load any Hugging Face causal language model or reward model and its tokenizer from a folder, never from the internet."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from heedful.errors import MissingError, ModelError
from heedful.model.attention import use_heedful_attention
from heedful.model.end_tokens import config_end_tokens
from heedful.model.fast.allocator import give_back_memory
from heedful.model.lora import note_adapter, stored_tensor
from heedful.model.precision import Precision
from heedful.model.scalar_models import scalar_head
from heedful.model.weight_files import check_all_there
from heedful.model_files import how_to_get, is_gguf, what_is_there

# transformers would draw a progress bar for each small file that it writes; ours are enough.
transformers.utils.logging.disable_progress_bar()

_ALIGNMENT = 64  # bytes; torch aligns new tensors to it


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder. Raises MissingError, ModelError (unreadable, empty or without end-of-text token)."""
    folder, options = _source(path)
    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
        tokenizer = cast(PreTrainedTokenizerBase, loaded)
    except Exception as error:  # for a damaged file, tokenizers raises a bare Exception
        _refuse_code(folder, error)
        raise ModelError(
            "the tokenizer cannot be loaded",
            expected="tokenizer files that transformers' AutoTokenizer reads",
            got=str(error).partition("\n")[0] or type(error).__name__,
            where=path,
            next_step="save the tokenizer beside the model: tokenizer.save_pretrained(FOLDER)",
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # if its files are missing, transformers makes an empty one
        raise ModelError(
            "the tokenizer cannot be loaded",
            expected="a vocabulary",
            got="special tokens only",
            where=path,
            next_step="save the tokenizer beside the model: tokenizer.save_pretrained(FOLDER)",
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end-of-text token",
            expected="eos_token set in tokenizer_config.json: responses end with it",
            got="none",
            where=path,
            next_step='set it, for example tokenizer.eos_token = "<|endoftext|>", and save the tokenizer again',
        )
    return tokenizer


def load_configuration(path: str | Path) -> PretrainedConfig:
    """The configuration in a model's folder. Raises MissingError, ModelError (unreadable, or quantised weights)."""
    folder, options = _source(path)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # its class depends on how the file is damaged
        _refuse_code(folder, error)
        raise ModelError(
            "the model's configuration cannot be read",
            expected="a config.json that transformers reads",
            got=str(error).partition("\n")[0] or type(error).__name__,
            where=path,
            next_step="check it: load it in plain transformers",
        ) from error
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        raise ModelError(
            "the model's weights are quantised",
            expected="weights in float32, bfloat16 or float16, which can be trained",
            got=f"quantization_config: {str(quantised)[:80]}",
            where=folder,
            next_step="use the original model that was quantised",
        )
    return config


def _refuse_code(folder: Path, error: Exception) -> None:
    """Explain transformers' error for a model that needs Python code from its folder, which Heedful never runs."""
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        raise ModelError(
            "the model needs Python code from its own folder, which Heedful does not run",
            expected="a model that transformers loads with its own classes",
            got="auto_map in its configuration, for classes that transformers does not have",
            where=folder,
            next_step="use a model of a family that transformers knows: docs/families.md lists them",
        ) from error


def load_causal_model(path: str | Path, precision: Precision = "float32") -> PreTrainedModel:
    """A causal language model with Heedful's attention. Raises MissingError, ModelError.

    precision: float32 to train all weights; bfloat16 for a model that is frozen or gets an adapter. In bfloat16 each weight is
    rounded as it is read, and there is never an fp32 copy of the model.
    """
    model = _load(path, AutoModelForCausalLM.from_pretrained, "a causal language model", precision)
    _refuse_unsupported(model, path)
    return use_heedful_attention(model)


_UNSUPPORTED = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "logits_scaling")


def _refuse_unsupported(model: PreTrainedModel, where: str | Path) -> None:
    """Refuse models whose logits are more than hidden states times unembedding; their log-probs would be silently wrong."""
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

    The head is always fp32, because it may be trained. Raises MissingError, ModelError.
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


def unembedding(model: PreTrainedModel) -> torch.Tensor:
    """The weights of the language-model head [vocabulary, width]. Raises ModelError if there is none."""
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError("the model has no language-model head", expected="a causal language model", got=type(model).__name__)
    return cast(torch.Tensor, head.weight)


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str | Path) -> None:
    """Raise ModelError if the tokenizer has more tokens than the model, or another end-of-text token."""
    rows = cast(torch.Tensor, model.get_input_embeddings().weight).shape[0]
    check_vocabulary(rows, tokenizer, where)
    ends = config_end_tokens(model)
    if ends and tokenizer.eos_token_id not in ends:
        raise ModelError(
            "the tokenizer does not match the model",
            expected=f"end-of-text token {' or '.join(map(str, dict.fromkeys(ends)))} (the model's configuration)",
            got=f"{tokenizer.eos_token_id} ({tokenizer.eos_token!r})",
            where=where,
            next_step="use the tokenizer that the model was trained with",
        )


def check_vocabulary(rows: int, tokenizer: PreTrainedTokenizerBase, where: str | Path) -> None:
    """Raise ModelError if the tokenizer has more tokens than the model's embedding has rows."""
    if len(tokenizer) > rows:
        raise ModelError(
            "the tokenizer does not match the model",
            expected=f"at most {rows} tokens (rows of the model's embedding)",
            got=f"{len(tokenizer)} tokens",
            where=where,
            next_step="use the tokenizer that the model was trained with, or resize the model's embeddings",
        )


def check_architecture(config: PretrainedConfig, where: str | Path, *, scalar: bool = False) -> PreTrainedModel:
    """Check from the configuration alone that Heedful supports an architecture; returns the model without weights.

    scalar: whether it must also support a reward model. Raises ModelError.
    """
    try:
        with torch.device("meta"):
            model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config))
            judge = cast(PreTrainedModel, AutoModelForSequenceClassification.from_config(config)) if scalar else None
    except Exception as error:  # its class depends on the architecture
        raise ModelError(
            "this architecture is not supported",
            expected="one for which transformers has a ForCausalLM and a ForSequenceClassification class",
            got=f"{type(config).__name__}: {str(error).partition(chr(10))[0]}",
            where=where,
            next_step="use a model of another family: docs/families.md lists them",
        ) from error
    _refuse_unsupported(model, where)
    use_heedful_attention(model)
    if judge is not None and not isinstance(getattr(judge, "score", None), torch.nn.Linear):
        raise ModelError(
            "no reward model can be made from this architecture",
            expected="a ForSequenceClassification class with a linear layer `score`",
            got=type(judge).__name__,
            where=where,
            next_step="use a model of another family: docs/families.md lists them",
        )
    return model


def _source(path: str | Path) -> tuple[Path, dict[str, str]]:
    """The folder and options for transformers' loading: a folder in Hugging Face format, or a GGUF file in a folder.

    transformers dequantises a quantised GGUF file into full tensors. Raises MissingError.
    """
    file = Path(path).expanduser()
    if not is_gguf(file):
        return _model_folder(path), {}
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise MissingError(
            "reading a GGUF file needs packages that are not installed",
            expected="the extra gguf",
            got=f"no {' and no '.join(missing)}",
            where=file,
            next_step="pip install 'heedful[gguf]', or give the folder in Hugging Face format that the file was made from",
        )
    return file.parent, {"gguf_file": file.name}


def _model_folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise MissingError(
            "there is no model here",
            expected="a folder in Hugging Face format with config.json, or a GGUF file",
            got="no such folder" if not folder.exists() else what_is_there(folder),
            where=folder,
            next_step=how_to_get(str(path), folder),
        )
    return folder


def _load(path: str | Path, load: Callable[..., object], kind: str, precision: Precision) -> PreTrainedModel:
    folder, options = _source(path)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    try:
        if not options:
            check_all_there(folder)
        loaded = load(folder, dtype=dtype, local_files_only=True, output_loading_info=True, trust_remote_code=False, **options)
    except Exception as error:  # safetensors has a class of its own for a damaged file
        _refuse_code(folder, error)
        raise ModelError(
            f"the model cannot be loaded as {kind}",
            expected="weights and a configuration that transformers reads",
            got=(error.got if isinstance(error, ModelError) else str(error).partition("\n")[0]) or type(error).__name__,
            where=path,
            next_step="check it: load it in plain transformers",
        ) from error
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    if missing := sorted(info["missing_keys"]):  # transformers fills them with random numbers
        raise ModelError(
            f"the model cannot be loaded as {kind}",
            expected="a weight for each parameter",
            got=f"none for {', '.join(missing[:3])}" + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            where=path,
            next_step="give the folder of a complete model of this kind",
        )
    _refuse_numbers_that_are_none(model, folder)
    model.eval()
    _align(model)
    if options:
        _forget_storage(model)
    else:
        note_adapter(model, folder)
    give_back_memory()  # reading takes much memory for a short time
    return model


def _refuse_numbers_that_are_none(model: PreTrainedModel, folder: Path) -> None:
    """Raise ModelError for NaN or infinity. In one row of an embedding, only batches with that token would show it."""
    broken = [
        name
        for name, parameter in model.named_parameters()
        if parameter.numel() and not torch.isfinite(torch.stack(torch.aminmax(parameter.detach()))).all()
    ]
    if broken:
        raise ModelError(
            "the model's weights are not all finite numbers",
            expected="numbers",
            got=f"NaN or infinity in {', '.join(broken[:3])}" + (f" and {len(broken) - 3} more" if len(broken) > 3 else ""),
            where=folder,
            next_step="download or copy the model again; if it was trained, use an earlier checkpoint",
        )


def _forget_storage(model: PreTrainedModel) -> None:
    """Forget that a GGUF file was quantised: its weights are plain tensors now, and a saved model must say so."""
    config: Any = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    for name, value in (("hf_quantizer", None), ("is_quantized", False)):
        if hasattr(model, name):
            setattr(model, name, value)


def _align(model: PreTrainedModel) -> None:
    """Align the weights in memory like new tensors, one at a time; in a mapped file they may start at any address.

    MKL rounds differently for other alignments, so a loaded model would not give the same bits as the one that was saved.
    """
    for parameter in model.parameters():
        if parameter.data_ptr() % _ALIGNMENT:
            parameter.data = parameter.data.clone()
