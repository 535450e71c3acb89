"""The contract of a draft's ONNX graph, for every host that runs one: agents here, browsers elsewhere.

A run computes some rows. A row is one token behind a path of other rows or of tokens whose keys and values the host
holds, in slots of its own:

    input            dtype     shape                         meaning
    tokens           int64     [rows]                        token id of each row
    positions        int64     [rows]                        how many tokens come before it in its text
    mask             float32   [rows, past + rows]           0 where a row attends to a slot or row, MASKED elsewhere
    logit_rows       int64     [logit_rows]                  rows whose logits are wanted
    past_key.{i}     kv_dtype  [kv_heads, past, head_dim]    keys of layer i in the slots
    past_value.{i}   kv_dtype  [kv_heads, past, head_dim]    its values

    output           dtype     shape                         meaning
    logits           float32   [logit_rows, columns]         scores of the tokens of head_ids.bin
    key.{i}          kv_dtype  [kv_heads, rows, head_dim]    keys of layer i of the new rows
    value.{i}        kv_dtype  [kv_heads, rows, head_dim]    its values

The mask alone says what a row depends on: the slots of its own text, the rows on its path, and itself. So one run takes
several branches of a draft tree, whose rows are computed once, and several sessions, whose slots are concatenated;
unused slots may stand anywhere. Keys are rotated already, hence a slot may be moved. The host copies the new keys and
values to slots, keeps those that it wants, and overwrites the others: nothing is computed again after a rollback.
`past` and `logit_rows` are at least 1; a host without any tokens passes one slot that is masked. What is in masked
slots must be finite.
"""

from __future__ import annotations

from typing import Literal

TOKENS, POSITIONS, MASK, LOGIT_ROWS, LOGITS = "tokens", "positions", "mask", "logit_rows", "logits"
PAST_KEY, PAST_VALUE, KEY, VALUE = "past_key.{}", "past_value.{}", "key.{}", "value.{}"
MASKED = -30000.0  # within float16; what is masked gets no weight

VariantName = Literal["int8", "fp16"]
KvDtype = Literal["float32", "float16"]
KV_DTYPES: dict[VariantName, KvDtype] = {"int8": "float32", "fp16": "float16"}


def kv_names(layers: int, *names: str) -> list[str]:
    """The names of inputs or outputs of all layers in turn, such as key.0, value.0, key.1, value.1."""
    return [name.format(i) for i in range(layers) for name in names]
