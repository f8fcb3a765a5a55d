"""The tokens of prompt and response are those of the whole text, whatever kind of tokenizer the model has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.test_template import CHAT
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

from heedful.conversation import Turn, turns_of
from heedful.model.encoding import encode_demonstrations, encode_prompts, encode_rankings
from heedful.model.scratch import train_tokenizer
from heedful.model.template import decode_after, encode, encode_after, prompt_tokens, response_tokens
from heedful.records import Demonstration, Prompt, Ranking, Response

BYTES = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
WORDS = ["▁", "▁The", "The", "▁Rhine", "Rhine", "▁Name", "▁a", "▁river", "a", "r", "i", "v", "e", "N", "m", ":", "riv", "er"]


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram(kind: str) -> PreTrainedTokenizerFast:
    """SentencePiece as in Llama (byte fallback; legacy puts a space in front) and in T5 (line breaks are spaces)."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((byte, -20.0) for byte in BYTES)]
    pieces += [(word, -float(1 + 10 / len(word))) for word in WORDS]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=0, byte_fallback=True))
    decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(decoding)
    if kind == "legacy":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "not legacy":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Replace("\n", " ")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    begin = "" if kind == "T5" else "<s> "
    end = " </s>" if kind == "T5" else ""
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin}$A{end}", special_tokens=[("<s>", 1), ("</s>", 2)])
    return _fast(tokenizer)


def llama_bpe() -> PreTrainedTokenizerFast:
    """SentencePiece's byte-pair encoding: Llama 2."""
    steps = [("T", "h"), ("Th", "e"), ("▁", "The"), ("R", "h"), ("Rh", "i"), ("Rhi", "n"), ("Rhin", "e"), ("▁", "Rhine")]
    words = ["▁", *"TheRinNamarv:"] + [left + right for left, right in steps]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **BYTES}
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(BPE(vocabulary, steps, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(decoding)
    return _fast(tokenizer)


def byte_level() -> PreTrainedTokenizerFast:
    texts = ["Name a river.\nThe Rhine", "Human: Name a river.\n\nAssistant: The Rhine\n- a\n  b\n\n\n1234 it's"] * 20
    tokenizer: Any = train_tokenizer(texts, vocabulary_size=400, context_length=64)
    return tokenizer


KINDS = {
    "byte-level": byte_level(),
    "unigram, legacy": unigram("legacy"),
    "unigram, not legacy": unigram("not legacy"),
    "unigram, T5": unigram("T5"),
    "Llama 2": llama_bpe(),
}
each_kind = pytest.mark.parametrize("kind", KINDS)

LONE = Prompt(id="p", turns=turns_of("Name a river\n"))
CONVERSATION = Prompt(id="p", turns=(Turn("user", "Name"), Turn("assistant", "The"), Turn("user", "a river")))


def whole_tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """What whoever loads the tokenizer gets of a text, but for an end-of-text at its end."""
    ids = list(tokenizer(text)["input_ids"])
    return ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids


@each_kind
@pytest.mark.parametrize(("prompt", "text"), [(LONE, "The Rhine"), (LONE, "The  Rhine\nName"), (CONVERSATION, "The Rhine")])
def test_prompt_and_response_are_the_tokens_of_the_whole_text(kind: str, prompt: Prompt, text: str) -> None:
    tokenizer = KINDS[kind]
    space = "" if prompt is LONE else " "
    want = whole_tokens(tokenizer, prompt.text + space + text)
    limits: dict[str, Any] = {"max_prompt_tokens": 200, "max_response_tokens": 99}
    said = [Demonstration(id="d", prompt_id="p", text=text, labeler="a")]
    (example,), _ = encode_demonstrations(tokenizer, {"p": prompt}, said, **limits)
    assert example.prompt + example.response == [*want, tokenizer.eos_token_id]
    assert example.prompt == prompt_tokens(tokenizer, [prompt])[0]  # what a model that answers is given
    responses = {name: Response(id=name, prompt_id="p", text=other) for name, other in (("a", text), ("b", ""))}
    ranking = Ranking(id="k", prompt_id="p", response_ids=("a", "b"), ranks=(1, 2), labeler="x")
    (ranked,), _ = encode_rankings(tokenizer, {"p": prompt}, responses, [ranking], **limits)
    assert ranked.prompt + ranked.responses[0] == [*want, tokenizer.eos_token_id]
    assert ranked.responses[1] == [tokenizer.eos_token_id]


@each_kind
def test_a_token_that_would_span_the_boundary_is_cut_there_and_no_space_is_added(kind: str) -> None:
    """The prompt's tokens must not depend on the response: several responses share it, and a model answers after it."""
    tokenizer = KINDS[kind]
    (before,) = encode(tokenizer, ["Name a riv"])
    for text in ("er", "er The"):
        (after,) = encode_after(tokenizer, ["Name a riv"], [text])
        if kind != "unigram, T5":  # there every text begins a word: its tokens cannot continue one
            assert tokenizer.decode([*before, *after], skip_special_tokens=True) == f"Name a riv{text}"


@each_kind
@pytest.mark.parametrize("before", ["Name a river:", "Name a river\n"])
def test_what_a_model_says_is_decoded_as_it_follows_the_prompt(kind: str, before: str) -> None:
    tokenizer = KINDS[kind]
    text = "The Rhine" if before.endswith("\n") else " The Rhine"
    tokens = encode(tokenizer, [before])
    after = encode_after(tokenizer, [before], [text])
    if kind != "unigram, T5":  # T5 has no line breaks
        assert decode_after(tokenizer, tokens, after) == [text]


@settings(max_examples=400, deadline=None)
@given(
    before=st.text(st.sampled_from("Nam er.\n\t 1'sRhine—é"), max_size=12),
    ends=st.sampled_from(["\n", "\n\n", ":", " ", "", "r", "1"]),
    text=st.text(st.sampled_from("The Rin\n\t 1'ser-—é\u0301"), max_size=12),
)
def test_a_byte_level_tokenizer_gives_the_tokens_of_the_text_by_itself(before: str, ends: str, text: str) -> None:
    """GPT-2 adds no space in front of a text, so nothing changes for it: projects go on with the tokens they had."""
    tokenizer = KINDS["byte-level"]
    assert encode_after(tokenizer, [before + ends], [text]) == encode(tokenizer, [text])


@each_kind
def test_special_tokens_in_data_stay_text_and_are_counted(kind: str) -> None:
    tokenizer = KINDS[kind]
    end = str(tokenizer.eos_token)
    prompts = {"p": LONE, "q": Prompt(id="q", turns=turns_of(f"Name {end} a river\n"))}
    said = [
        Demonstration(id="d", prompt_id="p", text="The Rhine", labeler="a"),
        Demonstration(id="e", prompt_id="p", text=f"The {end}", labeler="a"),
        Demonstration(id="f", prompt_id="q", text="The Rhine", labeler="a"),
    ]
    limits: dict[str, Any] = {"max_prompt_tokens": 99, "max_response_tokens": 99}
    examples, counts = encode_demonstrations(tokenizer, prompts, said, **limits)
    assert all(tokenizer.eos_token_id not in (example.prompt + example.response)[:-1] for example in examples)
    assert "3 used; 2 spell a special token, which is kept as text" in str(counts)
    assert encode_prompts(tokenizer, list(prompts.values()), max_tokens=99)[2].special_tokens_spelt == 1
    responses = {name: Response(id=name, prompt_id="p", text=text) for name, text in (("a", "The"), ("b", end))}
    ranking = Ranking(id="k", prompt_id="p", response_ids=("a", "b"), ranks=(1, 2), labeler="x")
    assert encode_rankings(tokenizer, prompts, responses, [ranking], **limits)[1].special_tokens_spelt == 1


@pytest.mark.parametrize("kind", ["unigram, legacy", "Llama 2", "byte-level"])
def test_an_answer_in_a_chat_follows_the_rendered_turns(kind: str) -> None:
    rendered = CHAT.replace("<|assistant|>{% endif %}", "<|assistant|>\n{% endif %}")
    tokenizer = type(KINDS[kind])(
        tokenizer_object=Tokenizer.from_str(KINDS[kind].backend_tokenizer.to_str()), eos_token=KINDS[kind].eos_token
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    tokenizer.chat_template = rendered
    (before,), (after,) = prompt_tokens(tokenizer, [LONE], "chat"), response_tokens(tokenizer, [LONE], ["The Rhine"], "chat")
    text = "<|user|> Name a river <|end|> <|assistant|>\nThe Rhine"
    assert before + after == tokenizer(text, add_special_tokens=False)["input_ids"]
    (spelt,) = response_tokens(tokenizer, [LONE], ["The <|end|>"], "chat")
    assert tokenizer.convert_tokens_to_ids("<|end|>") not in spelt
