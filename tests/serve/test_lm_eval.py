"""lm-evaluation-harness's own client, ``local-completions``, against its class for plain transformers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.serve.small_models import CONTEXT, HTTP, small_gpt2, tokenizer

from heedful.listening import listen
from heedful.model.saving import save_model
from heedful.serve.served_models import ServedModel
from heedful.serve.server import make_server, url_of
from heedful.serve.serving_state import Limits

pytest.importorskip("lm_eval", reason="lm-eval (extra eval) is not installed")
pytest.importorskip("tenacity", reason="tenacity (extra dev), which the harness's client needs, is not installed")

PAIRS = [
    ("The cat sat on", " the mat."),
    ("Name three rivers.", " The Rhine, the Nile and the Amazon."),
    ("今天天气", "很好。"),
    ("🙂", "👍🏽🎉"),
    ("Grüße aus", " Köln!"),
    ("a", "b"),
] * 3


@pytest.fixture(scope="module", params=["as it is", "ends at once"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, bool]]:
    """A server, its model's folder, and whether it ends at once: the likeliest token is always end-of-text."""
    model = small_gpt2(tokenizer(), 5)
    if request.param == "ends at once":
        weight: Any = model.get_input_embeddings().weight
        norm: Any = model.base_model.ln_f
        with torch.no_grad():
            norm.bias.add_(weight[0] * 30 / weight[0].square().sum())
    folder = tmp_path_factory.mktemp("lm-eval")
    save_model(model, tokenizer(), folder / "model")
    served = ServedModel(name="model", model=model, tokenizer=tokenizer(), template="plain")
    listener = listen("127.0.0.1", 0, command="heedful serve")
    server = make_server({"model": served}, Limits(), ())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield url_of(listener), folder / "model", request.param == "ends at once"
    server.stop()
    thread.join(60)
    listener.close()


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_log_likelihoods_are_those_of_plain_transformers(both: tuple[str, Path, bool], batch: int) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    url, folder, ends_at_once = both
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(PAIRS)]
    harness: Any = HFLM, LocalCompletionsAPI
    answer = HTTP.post(f"{url}/v1/completions", json={"model": "model", "prompt": "a", "max_tokens": 1, "temperature": 0})
    assert (answer.json()["choices"][0]["finish_reason"] == "stop") == ends_at_once
    theirs = harness[0](pretrained=str(folder), device="cpu", dtype="float32", batch_size=1).loglikelihood(requests)
    ours = harness[1](
        model="model",
        base_url=f"{url}/v1/completions",
        tokenizer_backend="huggingface",
        tokenizer=str(folder),
        max_length=CONTEXT,
        batch_size=batch,
    ).loglikelihood(requests)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)


def test_its_remote_tokenizer_reads_ours(both: tuple[str, Path, bool]) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="this lm-eval has no remote tokenizer")
    if not hasattr(utils, "RemoteTokenizer"):
        pytest.skip("this lm-eval has no remote tokenizer")
    remote = utils.RemoteTokenizer(f"{both[0]}/v1/completions")
    assert remote.eos_token == "<|endoftext|>"
    assert remote.eos_token_id == tokenizer().eos_token_id
    assert remote.encode("The cat") == tokenizer()("The cat")["input_ids"]
