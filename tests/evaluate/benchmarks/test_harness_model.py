"""Our model class for lm-evaluation-harness against its own HFLM and plain transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.evaluate.benchmarks.data_sets import jsonl
from tests.evaluate.benchmarks.test_benchmark_run import TEXT, write_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from heedful.errors import ConfigError
from heedful.model import save_model
from heedful.model.inference import load_policy
from heedful.model.loading import unembedding
from heedful.model.scratch import train_tokenizer

lm_eval: Any = pytest.importorskip("lm_eval", reason="lm-evaluation-harness (extra benchmarks) is not installed")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models import huggingface  # noqa: E402

from heedful.evaluate.benchmarks.harness_model import HarnessModel, harness_model, sampling_of  # noqa: E402

HFLM: Any = huggingface.HFLM  # a decorator of its own hides its type

PAIRS = [
    ("The red cat", " sleeps"),
    ("Question: who paints a house?\nAnswer:", " the man"),
    ("Question: who paints a house?\nAnswer:", " A blue dog barks at night."),
    ("Title: Cold Sea ", "is cold"),  # the space goes to the continuation
    ("", "The sea is cold."),
    ("", " Yes"),
    ("A dog.\n\n", "It barks."),
    ("Grüße aus Köln — “schön”", " naïve café"),
    ("The cat sleeps. " * 40, " It is positive."),  # more than the window holds
    ("The cat", " sleeps" * 8),
]
TEXTS = ["The sea is cold.", "A blue dog barks at night. " * 20, "x", "They sold it in May."]


def write_llama(folder: Path, context_length: int = 64) -> Path:
    """A Llama whose tokenizer puts a begin-of-text token in front of every text."""
    tokenizer: Any = train_tokenizer(TEXT, vocabulary_size=400, context_length=context_length)
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=448,
        max_position_embeddings=context_length,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=begin,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
    )
    save_model(LlamaForCausalLM(config), tokenizer, folder)
    return folder


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    return write_model(path / "gpt2", 1, context_length=64) if request.param == "gpt2" else write_llama(path / "llama")


def requests(kind: Any, arguments: list[Any]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


def hflm(folder: Path, batch_size: int, *, begins: bool = True) -> Any:
    begins = begins and "llama" in folder.name
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch_size, add_bos_token=begins)


def ours(folder: Path, batch_size: int) -> HarnessModel:
    return HarnessModel(*load_policy(folder), batch_size=batch_size)


def test_log_likelihoods_are_those_of_hflm_at_any_batch_size(folder: Path) -> None:
    asked = requests("loglikelihood", PAIRS)
    for size in (1, 4, 16):
        theirs = hflm(folder, size).loglikelihood(asked, disable_tqdm=True)
        model = ours(folder, size)
        found = model.loglikelihood(asked, disable_tqdm=True)
        for (total, greedy), (other, other_greedy), pair in zip(found, theirs, PAIRS, strict=True):
            assert total == pytest.approx(other, abs=1e-4), pair
            assert greedy == other_greedy, pair
        assert model.num_cut == 1


def test_log_likelihoods_are_those_of_plain_transformers(folder: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = ours(folder, 4)
    tokenizer: Any = model.tokenizer
    for context, continuation in PAIRS[:3]:
        head, whole = tokenizer(context)["input_ids"], tokenizer(context + continuation)["input_ids"]
        logits = plain(torch.tensor([whole])).logits[0, len(head) - 1 : -1].detach()
        tail = torch.tensor(whole[len(head) :])
        total = float(torch.log_softmax(logits, -1).gather(1, tail[:, None]).sum())
        ((found, greedy),) = model.loglikelihood(requests("loglikelihood", [(context, continuation)]), disable_tqdm=True)
        assert found == pytest.approx(total, abs=1e-4)
        assert greedy == bool((logits.argmax(-1) == tail).all())


def test_a_greedy_continuation_is_recognised(folder: Path) -> None:
    """What the model itself says is greedy; the same with another last token is not."""
    model = ours(folder, 4)
    tokenizer: Any = model.tokenizer
    context = "The red cat"
    (said,) = model.generate_until(requests("generate_until", [(context, {"until": [], "max_gen_toks": 4})]), disable_tqdm=True)
    head = tokenizer(context)["input_ids"]
    tail = tokenizer(context + said)["input_ids"][len(head) :]
    ((_, greedy),) = model._loglikelihood_tokens([((context, said), head, tail)], disable_tqdm=True)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    likeliest = plain(torch.tensor([[*head, *tail]])).logits[0, len(head) - 1 : -1].argmax(-1).tolist()
    assert greedy == (likeliest == tail)
    ((_, wrong),) = model._loglikelihood_tokens([((context, ""), head, [*likeliest[:1], 7, 7])], disable_tqdm=True)
    assert not wrong


def test_rolling_log_likelihoods(folder: Path) -> None:
    asked = requests("loglikelihood_rolling", [(text,) for text in TEXTS])
    # With add_bos_token HFLM would put the begin-of-text token in front of a text twice.
    theirs = hflm(folder, 1, begins=False).loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours(folder, 4).loglikelihood_rolling(asked, disable_tqdm=True) == pytest.approx(theirs, abs=1e-3)


def test_responses_are_those_of_hflm(folder: Path) -> None:
    options = [{"until": ["\n"], "max_gen_toks": 6}, {"until": ["e", "the"], "max_gen_toks": 8, "do_sample": False}]
    asked = requests("generate_until", [(context, options[i % 2]) for i, (context, _) in enumerate(PAIRS) if context])
    theirs = hflm(folder, 1).generate_until(asked, disable_tqdm=True)
    model = ours(folder, 4)
    assert model.generate_until(asked, disable_tqdm=True) == theirs
    assert model.num_cut == 1


def ends_at_once(policy: Any, tokenizer: Any, weight: float = 50.0) -> None:
    """Let a GPT-2 say its end-of-text token, whatever it is asked."""
    with torch.no_grad():
        policy.transformer.ln_f.bias.fill_(1.0)
        unembedding(policy)[cast(int, tokenizer.eos_token_id)] = weight


def test_a_model_that_ends_at_once_says_nothing(tmp_path: Path) -> None:
    policy, tokenizer = load_policy(write_model(tmp_path / "m", 1, context_length=64))
    ends_at_once(policy, tokenizer)
    model = HarnessModel(policy, tokenizer, batch_size=2)
    contexts = ["The red cat", "A dog", "Yes"]
    assert model.generate_until(
        requests("generate_until", [(c, {"until": ["\n"], "max_gen_toks": 6}) for c in contexts]), disable_tqdm=True
    ) == [
        "",
        "",
        "",
    ]
    ((_, greedy),) = model.loglikelihood(requests("loglikelihood", [("A dog", " sleeps")]), disable_tqdm=True)
    assert not greedy


def test_options_of_generation() -> None:
    sampling = sampling_of({"until": "\n\n", "max_gen_toks": 7, "do_sample": True, "temperature": 0.5, "top_p": 0.9}, (0,))
    assert (sampling.stop, sampling.max_tokens, sampling.temperature, sampling.top_p) == (("\n\n",), 7, 0.5, 0.9)
    assert sampling_of({"until": ["", "a"], "temperature": 0.0}, (0,)).stop == ("a",)
    assert sampling_of({"do_sample": False, "temperature": 0.7}, (0,)).temperature == 0
    with pytest.raises(ConfigError, match="num_beams"):
        sampling_of({"num_beams": 3}, (0,))


def test_a_chat_is_rendered_by_the_tokenizer(folder: Path) -> None:
    model = ours(folder, 1)
    with pytest.raises(ConfigError, match="no chat template"):
        model.apply_chat_template([{"role": "user", "content": "Hi"}])
    tokenizer: Any = model.tokenizer
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    text = model.apply_chat_template([{"role": "user", "content": "Hi"}])
    assert text == f"{tokenizer.bos_token}[user]Hi"
    # The rendered begin-of-text is a token, and there is no second one.
    assert model.tok_encode(text).count(tokenizer.bos_token_id) == 1
    assert model.tok_encode(text)[0] == tokenizer.bos_token_id


def test_the_harness_drives(folder: Path, tmp_path: Path) -> None:
    """One of its own kind of task, from a file on this machine."""
    rows = [{"question": "Who sleeps?", "choices": ["The cat", "A dog"], "gold": i % 2} for i in range(4)]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    task = {
        "task": "ours",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    }
    found = lm_eval.simple_evaluate(
        model=harness_model(folder, precision="float32"),
        tasks=[task],
        bootstrap_iters=0,
        task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
    )
    assert found["results"]["ours"]["acc,none"] == 0.5
