"""The bytes of single tokens, for the kinds of tokenizers that models come with."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE, WordPiece

from gateway.model.token_bytes import TokenBytes, escape_bytes
from tests.support.toy_model import EOS, TOKENIZER


@pytest.mark.parametrize("text", ["plain text", "naïve 漢字 😀\n\t\x00\x7f\xad", " a  b "])
def test_byte_level_tokens_add_up_to_the_text(text: str) -> None:
    token_bytes = TokenBytes(TOKENIZER)
    assert b"".join(map(token_bytes, TOKENIZER.encode(text, add_special_tokens=False).ids)) == text.encode()
    assert token_bytes(EOS) == b"<|im_end|>"
    assert token_bytes(100_000) == b""


def test_marks_for_spaces_and_byte_fallback() -> None:
    vocabulary = {"▁hi": 0, "<0xE6>": 1, "<0x0A>": 2, "▁▁": 3, "<0xag>": 4}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    assert [TokenBytes(tokenizer)(i) for i in range(6)] == [b" hi", b"\xe6", b"\n", b"  ", b"<0xag>", b"</s>"]
    tokenizer.decoder = decoders.Metaspace()  # type: ignore[assignment]
    assert [TokenBytes(tokenizer)(i) for i in range(2)] == [b" hi", b"<0xE6>"]


def test_a_tokenizer_of_another_kind_gives_its_tokens_as_they_are() -> None:
    tokenizer = Tokenizer(WordPiece({"a": 0, "##b": 1}, unk_token="a"))
    assert [TokenBytes(tokenizer)(i) for i in range(2)] == [b"a", b"##b"]


def test_bytes_that_are_no_text_are_spelled_out() -> None:
    assert escape_bytes("é".encode()) == "é"
    assert escape_bytes(b"\xc3") == "\\xc3"
    assert escape_bytes(b"a\xf0\x9f") == "\\x61\\xf0\\x9f"
