"""Fingerprints are equal exactly when every id stands for the same token, whatever the file's format."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from edgedraft.tokenizer import fingerprint

BPE: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [
        {"id": 4, "content": "<|end|>", "special": True},
        {"id": 5, "content": "<|pad|>", "special": True},
    ],
    "pre_tokenizer": {"type": "ByteLevel"},
    "model": {
        "type": "BPE",
        "vocab": {"a": 0, "b": 1, "\u00e9": 2, "ab": 3, "<|end|>": 4},
        "merges": ["a b"],
    },
}
UNIGRAM: dict[str, Any] = {
    "added_tokens": [],
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["b", -2.5]]},
}


def changed(change: Callable[[dict[str, Any]], object], document: dict[str, Any] = BPE) -> str:
    document = copy.deepcopy(document)
    change(document)
    return fingerprint(json.dumps(document))


def test_it_is_a_sha256_in_hex() -> None:
    assert len(bytes.fromhex(fingerprint(json.dumps(BPE)))) == 32


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(BPE, indent=2),
        json.dumps(BPE, ensure_ascii=False),
        json.dumps(BPE, sort_keys=True, separators=(",", ":")),
        json.dumps(BPE).encode(),
        json.dumps(BPE, ensure_ascii=False).encode("utf-16"),
        json.dumps({**BPE, "model": {**BPE["model"], "vocab": dict(reversed(BPE["model"]["vocab"].items()))}}),
        json.dumps({**BPE, "added_tokens": BPE["added_tokens"][::-1]}),
    ],
    ids=["indented", "utf-8", "sorted", "bytes", "utf-16", "vocab reversed", "added reversed"],
)
def test_the_form_of_the_file_does_not_matter(text: str | bytes) -> None:
    assert fingerprint(text) == fingerprint(json.dumps(BPE))


def test_what_the_library_writes_again_is_the_same() -> None:
    tokenizer = Tokenizer(models.BPE(vocab=dict(BPE["model"]["vocab"]), merges=[("a", "b")]))
    tokenizer.add_special_tokens(["<|end|>", "<|pad|>"])
    assert fingerprint(tokenizer.to_str()) == fingerprint(json.dumps(BPE))
    assert fingerprint(Tokenizer.from_str(tokenizer.to_str()).to_str(pretty=True)) == fingerprint(json.dumps(BPE))


def test_merges_and_processing_do_not_enter() -> None:
    assert changed(lambda d: d["model"].update(merges=[])) == fingerprint(json.dumps(BPE))
    assert changed(lambda d: d.update(pre_tokenizer=None, post_processor={"type": "x"})) == fingerprint(json.dumps(BPE))
    assert changed(lambda d: d["model"].update(type="WordLevel")) == fingerprint(json.dumps(BPE))


def test_scores_do_not_enter() -> None:
    rescored = changed(lambda d: d["model"]["vocab"][1].__setitem__(1, -9.0), UNIGRAM)
    assert rescored == fingerprint(json.dumps(UNIGRAM))


CHANGES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], object]]] = {
    "two tokens swapped": (BPE, lambda d: d["model"]["vocab"].update(a=1, b=0)),
    "a token moved": (BPE, lambda d: d["model"]["vocab"].update(ab=9)),
    "a token renamed": (BPE, lambda d: d["model"]["vocab"].update({"e": d["model"]["vocab"].pop("\u00e9")})),
    "a token more": (BPE, lambda d: d["model"]["vocab"].update(c=6)),
    "a token less": (BPE, lambda d: d["model"]["vocab"].pop("ab")),
    "an added token moved": (BPE, lambda d: d["added_tokens"][1].update(id=6)),
    "an added token renamed": (BPE, lambda d: d["added_tokens"][1].update(content="<|sep|>")),
    "an added token less": (BPE, lambda d: d["added_tokens"].pop()),
    "pieces swapped": (UNIGRAM, lambda d: d["model"]["vocab"].reverse()),
    "a piece less": (UNIGRAM, lambda d: d["model"]["vocab"].pop()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_token_that_differs_is_seen(name: str) -> None:
    document, change = CHANGES[name]
    assert changed(change, document) != fingerprint(json.dumps(document))


def test_an_added_token_that_the_vocabulary_holds_counts_once() -> None:
    assert changed(lambda d: d["added_tokens"].pop(0)) == fingerprint(json.dumps(BPE))


@pytest.mark.parametrize("one", ['a",1,"b', 'a"],[1,"b', "a,1b", "a1b", "a\n1b", "a\x001b"])
def test_tokens_do_not_run_into_one_another(one: str) -> None:
    both = {"a": 0, "b": 1}
    assert changed(lambda d: d["model"].update(vocab={one: 0})) != changed(lambda d: d["model"].update(vocab=both))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rubbish",
        b"\xff\xfe\x00",
        "null",
        "7",
        "[]",
        '"model"',
        "{}",
        '{"model": null}',
        '{"model": {}}',
        '{"model": {"vocab": null}}',
        '{"model": {"vocab": 5}}',
        '{"model": {"vocab": "ab"}}',
        '{"model": {"vocab": [["a"]]}}',
        '{"model": {"vocab": [["a", 0, 1]]}}',
        '{"model": {"vocab": {"a": null}}}',
        '{"model": {"vocab": {"a": "x"}}}',
        '{"model": {"vocab": {"a": [0]}}}',
        '{"model": {"vocab": {"a": Infinity}}}',
        '{"model": {"vocab": {"a": NaN}}}',
        '{"model": {"vocab": {}}, "added_tokens": 3}',
        '{"model": {"vocab": {}}, "added_tokens": [3]}',
        '{"model": {"vocab": {}}, "added_tokens": [{"id": 1}]}',
        '{"model": {"vocab": {}}, "added_tokens": [{"content": "a"}]}',
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=lambda text: str(text[:40]),
)
def test_rubbish_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        fingerprint(text)
