"""Chat templates as the families publish them (without branches that are not used here), and tokenizers of their kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tests.model.test_token_boundary import BYTES, WORDS, byte_level, llama_bpe, unigram
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

CHATML = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n\
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + \
message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
{{ '<|im_start|>assistant\n' }}{% endif %}"""
# Qwen3: the reasoning of earlier answers is dropped, and an answer without any gets an empty block if it is the last.
QWEN3 = """{%- for message in messages %}
    {%- if message.role != 'assistant' %}
        {{- '<|im_start|>' + ('user\n<tool_response>\n' + message.content + '\n</tool_response>' if message.role == 'tool'
            else message.role + '\n' + message.content) + '<|im_end|>' + '\n' }}
    {%- else %}
        {%- set content = message.content %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.last %}
            {{- '<|im_start|>assistant\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}"""
LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}\
{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}\
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
LLAMA3 = """{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' \
+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}\
{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}\
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
GEMMA3 = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}\
{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for message in rest %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' + (first if loop.first else '') }}\
{{ message['content'] | trim }}{{ '<end_of_turn>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
# TinyLlama, Zephyr: no begin-of-text, although the tokenizer begins every text with it.
ZEPHYR = """{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"""
# Phi-3: end-of-text after the whole conversation.
PHI3 = """{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""
# A file of a user's own for a base model without a template (docs/templates.md).
OWN = """{% for message in messages %}{{ '### ' + message['role'] | capitalize + ':\n' + message['content'] }}\
{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"""

_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Family:
    """How a family writes conversations."""

    kind: Literal["byte-level", "byte-level with begin", "Llama 3", "Llama 2", "unigram, not legacy", "Gemma"]
    template: str
    special: tuple[str, ...] = ()
    end: str = "</s>"
    system: bool = True


FAMILIES: dict[str, Family] = {
    "GPT-2, template of the user's": Family("byte-level", OWN, (), "<|endoftext|>"),
    "GPT-NeoX, template of the user's": Family("byte-level", OWN, (), "<|endoftext|>"),
    "OPT, template of the user's": Family("byte-level with begin", OWN, (), "<|endoftext|>"),
    "Llama 2": Family("Llama 2", LLAMA2),
    "Llama 3": Family("Llama 3", LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
    "TinyLlama": Family("Llama 2", ZEPHYR),
    "SmolLM2": Family("byte-level", SMOLLM2, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "Qwen2.5": Family("byte-level", CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "Qwen3": Family("byte-level", QWEN3, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "Gemma": Family("Gemma", GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", system=False),
    "Gemma 3": Family("Gemma", GEMMA3, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
    "Mistral": Family("Llama 2", MISTRAL, system=False),
    "Mistral, not legacy": Family("unigram, not legacy", MISTRAL, system=False),
    "Phi-3": Family("Llama 2", PHI3, ("<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|end|>"), "<|end|>"),
}


def gemma_bpe() -> PreTrainedTokenizerFast:
    """SentencePiece's byte-pair encoding without a space in front of the text: Gemma."""
    words = ["▁", "\n", *dict.fromkeys("".join(WORDS).replace("▁", ""))]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **BYTES}
    steps = [("▁", "a"), ("T", "h"), ("Th", "e"), ("▁", "The"), ("R", "h"), ("Rh", "i")]
    for word in [*words, *(left + right for left, right in steps)]:
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(BPE(vocabulary, steps, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def of_kind(kind: str) -> PreTrainedTokenizerFast:
    """A new tokenizer of a kind, with its begin-of-text and end-of-text tokens."""
    if kind == "Llama 2":
        return llama_bpe()
    if kind == "unigram, not legacy":
        return unigram("not legacy")
    if kind == "Gemma":
        return gemma_bpe()
    tokenizer: Any = byte_level()
    if kind == "Llama 3":  # line breaks before a word stay together
        words = pre_tokenizers.Split(Regex(_LLAMA3_WORDS), behavior="isolated")
        bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_of_words])
    if kind != "byte-level":
        end = tokenizer.eos_token_id
        tokenizer.add_special_tokens({"bos_token": "<|begin_of_text|>"})
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", tokenizer.bos_token_id)]
        )
        assert tokenizer.eos_token_id == end
    return tokenizer


def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """A tokenizer with the family's special tokens; its template is the family's, unless a user brings it."""
    tokenizer = of_kind(family.kind)
    if family.special:
        tokenizer.add_special_tokens({"additional_special_tokens": list(family.special)})
    if family.template is not OWN:
        tokenizer.chat_template = family.template
    return tokenizer
