"""The worker process of service.py: checks grammars, one per job.

A job is a JSON pair of a Check and a grammar, its output what is wrong with the grammar, empty for nothing. That of the
check "list" is JSON, the keywords that are left out of the grammar's schemas.
"""

from __future__ import annotations

import json
from typing import Literal

from edgedraft.grammar.compiler import GrammarError, try_grammar, unimplemented_keywords, validate_grammar
from edgedraft.workers.child import serve

Check = Literal["compile", "try", "list"]


def find_error(check: Check, grammar: str) -> str:
    """Returns what is wrong with the grammar, empty for nothing. Takes as long as compiling takes."""
    try:
        if check == "try":
            try_grammar(grammar)
        else:
            validate_grammar(grammar)
    except GrammarError as error:
        return str(error)
    return ""


def _check(job: bytes, setup: object) -> bytes:
    check, grammar = json.loads(job)
    if check == "list":
        return json.dumps(unimplemented_keywords(grammar)).encode()
    return find_error(check, grammar).encode(errors="replace")


if __name__ == "__main__":
    find_error("try", "start: /a*/")  # the tokenizer is built once, before the time of any grammar counts
    serve(_check)
