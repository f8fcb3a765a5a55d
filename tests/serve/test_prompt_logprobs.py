"""``echo`` with ``logprobs``: what lm-evaluation-harness reads of a server, against the model's own log-probs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.serve.small_models import CONTEXT, HTTP, chat_tokenizer, models, tokenizer
from tests.tiny import plain

from heedful.model.template import encode

LINES = ("The cat sat on the mat.", "猫坐在垫子上。🙂 ok", "a")


def own_logprobs(tokens: list[int], name: str = "plain") -> torch.Tensor:
    """[tokens - 1, vocabulary] by one plain forward pass."""
    with torch.no_grad():
        output = plain(models()[name].model)(input_ids=torch.tensor([tokens]))
    return output.logits[0, :-1].double().log_softmax(-1)


def echoed(url: str, **more: Any) -> dict[str, Any]:
    body = {"model": "plain", "echo": True, "temperature": 0, **more}
    answer = HTTP.post(f"{url}/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("most", [0, 1, 4])
def test_each_token_has_its_entry_and_the_models_logprob(server_url: str, line: str, most: int) -> None:
    tokens = encode(tokenizer(), [line])[0]
    answer = echoed(server_url, prompt=line, max_tokens=most, logprobs=5)
    choice, usage = answer["choices"][0], answer["usage"]
    logprobs = choice["logprobs"]
    assert {len(values) for values in logprobs.values()} == {len(tokens) + usage["completion_tokens"]}
    assert usage["prompt_tokens"] == len(tokens)
    assert choice["text"].startswith(line)
    assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
    if len(tokens) == 1:
        return
    expected = own_logprobs(tokens)
    found = torch.tensor(logprobs["token_logprobs"][1 : len(tokens)])
    own = expected.gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0]
    torch.testing.assert_close(found.double(), own, rtol=0, atol=1e-4)
    names = models()["plain"].token_text
    for place, likeliest in enumerate(logprobs["top_logprobs"][1 : len(tokens)]):
        values, ids = expected[place].topk(5)
        assert {names.name(token) for token in ids.tolist()} <= likeliest.keys()
        assert max(likeliest.values()) == pytest.approx(float(values[0]), abs=1e-4)
        assert logprobs["tokens"][place + 1] in likeliest
        assert 5 <= len(likeliest) <= 6


def test_offsets_find_the_tokens_in_the_text(server_url: str) -> None:
    for line in LINES:
        for prompt in (line, encode(tokenizer(), [line])[0]):
            choice = echoed(server_url, prompt=prompt, max_tokens=12, logprobs=0)["choices"][0]
            offsets, text = choice["logprobs"]["text_offset"], choice["text"]
            assert offsets == sorted(offsets)
            assert text.startswith(line)
            for name, offset in zip(choice["logprobs"]["tokens"], offsets, strict=True):
                special = name in ("<|endoftext|>", "<|padding|>")
                assert special or name.startswith("bytes:") or text[offset : offset + len(name)] == name


def test_a_model_that_ends_at_once_still_gives_an_entry(server_url: str) -> None:
    """lm-eval drops the last entry, the generated token's: were there none, it would drop the answer's last token."""
    tokens = encode(tokenizer(), ["The cat"])[0]
    answer = echoed(server_url, prompt=tokens, max_tokens=1, logprobs=1, logit_bias={"0": 100})
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == "The cat"
    assert len(choice["logprobs"]["tokens"]) == len(tokens) + 1
    assert choice["logprobs"]["tokens"][-1] == "<|endoftext|>"
    assert answer["usage"]["completion_tokens"] == 1


def harness_logprobs(outputs: dict[str, Any], lengths: list[int]) -> list[tuple[float, bool]]:
    """lm_eval/models/openai_completions.py, LocalCompletionsAPI.parse_logprobs (0.4.9), by hand."""
    results: list[tuple[float, bool]] = []
    for choice, length in zip(sorted(outputs["choices"], key=lambda one: one["index"]), lengths, strict=True):
        logprobs = sum(choice["logprobs"]["token_logprobs"][length:-1])
        tokens, likeliest = choice["logprobs"]["tokens"][length:-1], choice["logprobs"]["top_logprobs"][length:-1]
        greedy = all(token == max(top.keys(), key=lambda x: top[x]) for token, top in zip(tokens, likeliest, strict=True))
        results.append((logprobs, greedy))
    return results


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_what_the_harness_reads_is_the_models_own(server_url: str, batch: int) -> None:
    contexts = [f"{line} {i}" for i, line in enumerate(LINES * 6)][:16]
    pairs = [
        (encode(tokenizer(), [context])[0], encode(tokenizer(), [answer])[0])
        for context, answer in zip(contexts, LINES * 6, strict=False)
    ]
    greedy = own_logprobs([5, 9, 9])[0].argmax()
    pairs[3] = ([5], [int(greedy)])
    found: list[tuple[float, bool]] = []
    for first in range(0, 16, batch):
        part = pairs[first : first + batch]
        outputs = echoed(server_url, prompt=[c + a for c, a in part], max_tokens=1, logprobs=1, seed=1234)
        found += harness_logprobs(outputs, [len(context) for context, _ in part])
    for (context, answer), (value, is_greedy) in zip(pairs, found, strict=True):
        rows = own_logprobs([*context, *answer])[len(context) - 1 :]
        assert value == pytest.approx(float(rows.gather(-1, torch.tensor(answer)[:, None]).sum()), abs=1e-4)
        assert is_greedy == bool((rows.argmax(-1) == torch.tensor(answer)).all())
    assert found[3][1]


def test_the_last_place_of_the_context_can_be_read(server_url: str) -> None:
    assert (
        len(echoed(server_url, prompt=[5] * CONTEXT, max_tokens=0, logprobs=1)["choices"][0]["logprobs"]["tokens"]) == CONTEXT
    )
    answer = HTTP.post(f"{server_url}/v1/completions", json={"model": "plain", "prompt": [5] * (CONTEXT + 1), "max_tokens": 0})
    assert answer.json()["error"]["code"] == "context_length_exceeded"


# ---------------------------------------------------------------------------------------------------- tokenizer routes


def test_text_becomes_tokens_and_text_again(server_url: str) -> None:
    for line in LINES:
        answer = HTTP.post(f"{server_url}/tokenize", json={"model": "plain", "prompt": line, "return_token_strs": True}).json()
        assert answer["tokens"] == encode(tokenizer(), [line])[0]
        assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), CONTEXT)
        assert len(answer["token_strs"]) == answer["count"]
        back = HTTP.post(f"{server_url}/detokenize", json={"model": "plain", "tokens": answer["tokens"]}).json()
        assert back == {"prompt": line}


def test_a_special_token_by_itself_has_its_id_and_within_a_text_stays_text(server_url: str) -> None:
    def tokens(text: str) -> list[int]:
        return HTTP.post(f"{server_url}/tokenize", json={"prompt": text}).json()["tokens"]

    assert tokens("<|endoftext|>") == [tokenizer().eos_token_id]
    assert tokenizer().eos_token_id not in tokens("a <|endoftext|>")


def test_messages_become_the_tokens_of_the_template(server_url: str) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    answer = HTTP.post(f"{server_url}/tokenize", json={"model": "chat", "messages": messages}).json()
    expected = chat_tokenizer().apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert str(chat_tokenizer().decode(answer["tokens"])) == expected


def test_a_special_token_that_a_message_spells_stays_text(server_url: str) -> None:
    messages = [{"role": "user", "content": "Hello<|im_end|>"}]
    tokens = HTTP.post(f"{server_url}/tokenize", json={"model": "chat", "messages": messages}).json()["tokens"]
    assert tokens.count(chat_tokenizer().convert_tokens_to_ids("<|im_end|>")) == 1


def test_what_the_harness_asks_about_the_tokenizer(server_url: str) -> None:
    info = HTTP.get(f"{server_url}/tokenizer_info").json()
    assert (info["model"], info["eos_token"], info["bos_token"]) == ("plain", "<|endoftext|>", "<|endoftext|>")
    assert HTTP.get(f"{server_url}/tokenizer_info?model=chat").json()["chat_template"] == chat_tokenizer().chat_template
    assert HTTP.get(f"{server_url}/tokenizer_info?model=x").status_code == 404
