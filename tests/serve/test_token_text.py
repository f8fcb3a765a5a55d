"""The bytes of tokens, for the kinds of vocabularies that there are, against the tokenizers' own decoding."""

from __future__ import annotations

import random

from tests.serve.small_models import TEXTS, chat_tokenizer, tokenizer
from tests.tiny import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from heedful.model.template import decode_after, encode
from heedful.serve.token_text import TokenText


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Spaces as ▁ and bytes as <0xE7>, as Llama 2's."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(
        [TEXTS[0] * 9, TEXTS[1] * 9], trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    made = Tokenizer.from_str(made.to_str().replace('"special":true', '"special":false'))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", bos_token="<s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )


def test_byte_level_text_is_the_tokenizers_own() -> None:
    names = TokenText(tokenizer())
    for text in TEXTS:
        tokens = encode(tokenizer(), [text])[0]
        assert names.text(tokens) == text
        assert b"".join(map(names.bytes_of, tokens)) == text.encode()


def test_special_tokens_add_nothing_and_have_a_name() -> None:
    names = TokenText(chat_tokenizer())
    number = chat_tokenizer().convert_tokens_to_ids("<|im_end|>")
    assert isinstance(number, int)
    assert names.bytes_of(number) == b""
    assert names.name(number) == "<|im_end|>"


def test_a_part_of_a_character_is_named_by_its_bytes() -> None:
    names = TokenText(tokenizer())
    tokens = encode(tokenizer(), ["ж"])[0]
    assert [names.name(token) for token in tokens] == ["bytes:\\xd0", "bytes:\\xb6"]


def test_sentencepiece_keeps_the_space_of_a_word() -> None:
    made = sentencepiece_tokenizer()
    names = TokenText(made)
    before = encode(made, ["The cat"])[0]
    for text in (" sat on the mat", "s ran", " 猫 🙂"):
        whole = encode(made, ["The cat" + text])[0]
        if whole[: len(before)] == before:
            row = whole[len(before) :]
            assert names.text(row) == text == decode_after(made, [before], [row])[0]
    assert any(names.bytes_of(token) == b"\xe7" for token in encode(made, ["猫"])[0])


def test_ids_without_a_token_add_nothing() -> None:
    """The embedding has more rows than the tokenizer has tokens."""
    assert TokenText(tokenizer()).bytes_of(len(tokenizer()) + 3) == b""


def test_other_vocabularies_are_read_after_another_token() -> None:
    words = TokenText(tiny_tokenizer())
    assert words.text([5, 6]) == " w5 w6"


def test_every_sequence_of_tokens_joins_to_the_decoded_text() -> None:
    rng = random.Random(4)
    names = TokenText(tokenizer())
    for _ in range(200):
        tokens = [rng.randrange(len(tokenizer())) for _ in range(rng.randrange(1, 20))]
        assert names.text(tokens) == str(tokenizer().decode(tokens, skip_special_tokens=True))
