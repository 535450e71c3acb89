"""Texts are measured by their characters only where no token can stand for more of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece

from gateway.model.control_tokens import PromptTokenizer, PromptTooLong
from gateway.model.text_length import characters_per_token

FEW = 30  # tokens
FALLBACK = {f"<0x{byte:02X}>": byte for byte in range(256)}


def byte_level(normalizer: normalizers.Normalizer | None = None, **options: str) -> Tokenizer:
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE({**alphabet, "ab": 256, "abab": 257}, [("a", "b"), ("ab", "ab")], **options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    if normalizer:
        tokenizer.normalizer = normalizer  # type: ignore[assignment]
    return tokenizer


def fallback(normalizer: normalizers.Normalizer | None = None, vocabulary: dict[str, int] = FALLBACK) -> Tokenizer:
    """As Llama 2's: bytes of unknown characters, spaces written as a character of their own."""
    letters = {letter: len(vocabulary) + number for number, letter in enumerate(("▁", "a", "b", "ab"))}
    model = BPE(
        vocabulary | letters | {"<unk>": 999}, [("a", "b")], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(  # type: ignore[assignment]
        [*([normalizer] if normalizer else []), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return tokenizer


def words(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def with_added(**options: bool) -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("[M]", normalized=False, **options)])
    return tokenizer


def without_z() -> Tokenizer:
    alphabet = sorted(letter for letter in pre_tokenizers.ByteLevel.alphabet() if letter != "z")
    tokenizer = Tokenizer(BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    return tokenizer


def word_model(model: WordPiece | WordLevel) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return tokenizer


def unknown_letters() -> Tokenizer:
    return Tokenizer(BPE({"a": 0, "b": 1, "<unk>": 2}, [], unk_token="<unk>", fuse_unk=True))


BOUND: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level, composed": lambda: byte_level(normalizers.NFC()),
    "byte-level, compatible": lambda: byte_level(normalizers.NFKC()),
    "byte-level, decomposed and in lower case": lambda: byte_level(
        normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    ),
    "byte-level, shortened": lambda: byte_level(normalizers.Replace("ab ", "a")),
    "byte-level by the normalizer": lambda: byte_level(normalizers.ByteLevel()),
    "byte-level, split": lambda: words(pre_tokenizers.Split(Regex(r"\s+"), "isolated")),
    "byte-level with an added token": with_added,
    "byte fallback": fallback,
}

# Tokenizers that drop or fuse characters, and a text of many characters and few tokens.
UNBOUND: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "unknown characters that are fused": (unknown_letters, "z" * 10_000 + "a"),
    "unknown characters that are dropped": (lambda: Tokenizer(BPE({"a": 0}, [])), "z" * 10_000 + "a"),
    "an alphabet with a gap": (without_z, "z" * 10_000),
    "a byte that is missing": (
        lambda: fallback(vocabulary={name: at for name, at in FALLBACK.items() if name != "<0x7A>"}),
        "z" * 10_000,
    ),
    "Strip": (lambda: byte_level(normalizers.Strip()), " " * 10_000 + "a" + "\n" * 10_000),
    "Strip in a sequence": (lambda: fallback(normalizers.Strip()), " " * 10_000 + "a"),
    "accents": (
        lambda: byte_level(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
        "a" + "́" * 10_000,
    ),
    "control characters": (lambda: byte_level(normalizers.BertNormalizer()), "\x01" * 10_000 + "a"),
    "Replace by nothing": (lambda: byte_level(normalizers.Replace(" ", "")), " " * 10_000 + "a"),
    "Replace of a pattern": (lambda: byte_level(normalizers.Replace(Regex(" {2,}"), " ")), "a" + " " * 10_000 + "b"),
    "Replace of a pattern that spans": (
        lambda: byte_level(normalizers.Replace(Regex("<[^>]*>"), "")),
        "<" + "a z" * 10_000 + ">b",
    ),
    "Whitespace": (lambda: words(pre_tokenizers.Whitespace()), "a" + " " * 10_000 + "b"),
    "WhitespaceSplit": (lambda: words(pre_tokenizers.WhitespaceSplit()), "a" + "\t" * 10_000 + "b"),
    "a delimiter": (lambda: words(pre_tokenizers.CharDelimiterSplit("-")), "a" + "-" * 10_000 + "b"),
    "Split that removes": (lambda: words(pre_tokenizers.Split(Regex(r"\s+"), "removed")), "a" + " " * 10_000 + "b"),
    "lstrip": (lambda: with_added(lstrip=True), "a" + " " * 10_000 + "[M]"),
    "rstrip": (lambda: with_added(rstrip=True), "[M]" + " " * 10_000 + "a"),
    "WordPiece": (lambda: word_model(WordPiece({"[UNK]": 0, "a": 1, "##a": 2}, unk_token="[UNK]")), "a" * 10_000),
    "WordLevel": (lambda: word_model(WordLevel({"[UNK]": 0}, unk_token="[UNK]")), "a" * 10_000),
    "Unigram": (lambda: Tokenizer(Unigram([("<unk>", 0.0), ("a", -1.0)], 0, False)), "z" * 10_000),
}


@pytest.mark.parametrize("name", BOUND)
@settings(deadline=None, max_examples=60)
@given(
    text=st.text(
        alphabet=st.one_of(
            st.sampled_from("ab \n\t\u0301\u0345\u0314ᾂ가\u1100\u1161\u11a8İ[M]\x01"),
            st.characters(exclude_categories=["Cs"]),
        )
    )
)
def test_a_text_has_a_token_for_so_many_characters(name: str, text: str) -> None:
    tokenizer = BOUND[name]()
    bound = characters_per_token(tokenizer)
    assert bound is not None
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(text) <= bound * len(tokens)


def test_four_characters_may_become_one() -> None:
    plain, composed = characters_per_token(byte_level()), characters_per_token(byte_level(normalizers.NFC()))
    assert (plain, composed) == (4, 16)
    shortened = byte_level(normalizers.Replace("ab ", "a"))
    assert characters_per_token(shortened) == 12
    assert len(shortened.encode("ab " * 8, add_special_tokens=False).ids) == 8


@pytest.mark.parametrize("name", UNBOUND)
def test_a_text_that_fits_is_not_refused_for_its_characters(name: str) -> None:
    make, text = UNBOUND[name]
    tokenizer = make()
    expected = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(expected) <= FEW < len(text) / max(map(len, tokenizer.get_vocab()))
    assert characters_per_token(tokenizer) is None
    encoded = PromptTokenizer(tokenizer, "").encode_plain(text, FEW, with_ends=False, with_control=True)
    assert encoded == expected


@pytest.mark.parametrize("name", UNBOUND)
def test_a_text_of_too_many_tokens_is_refused(name: str) -> None:
    tokenizer = UNBOUND[name][0]()
    text = "a z-" * 25_000
    count = len(tokenizer.encode(text, add_special_tokens=False).ids)
    limit = min(100, count - 1)
    with pytest.raises(PromptTooLong) as raised:
        PromptTokenizer(tokenizer, "").encode_plain(text, limit, with_ends=False, with_control=True)
    assert limit < raised.value.num_tokens <= count
    read_in_part = count > 10_000 and "pattern" not in name
    assert not read_in_part or raised.value.num_tokens < count / 2, "its beginning told"


def test_a_word_that_the_cut_splits_is_not_counted_by_its_pieces() -> None:
    """All of it is one unknown word; the beginning that is looked at ends in the middle, 90 pieces long."""
    tokenizer = word_model(WordPiece({"[UNK]": 0, "a": 1, "##a": 2}, unk_token="[UNK]"))
    cut = 4 * FEW + 4096
    text = " " * (cut - 90) + "a" * 10_000
    encoded = PromptTokenizer(tokenizer, "").encode_plain(text, FEW, with_ends=False, with_control=True)
    assert encoded == [0]
