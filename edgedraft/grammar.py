"""How much a grammar may ask for, and whether one stays within it: found out in a process that can be ended.

Grammars come from clients. Compiling one is mostly a matter of milliseconds, but llguidance's own limits do not cover
all that a hostile one can make it do (an intersection of twenty patterns in a JSON schema runs for minutes), and a
thread cannot be ended. What a grammar does to a text is verifier/grammar.py's. This file runs by itself, too: as the
process that it starts; so it imports nothing of this project.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLParserLimits

PROBE_SECONDS = 3.0
PROBE_BYTES = 1 << 31
REASON = 500  # characters


def limits() -> LLParserLimits:
    """A tenth to a quarter of llguidance's defaults, which are meant for grammars that one wrote oneself."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=400_000,
        step_lexer_fuel=50_000,
        step_max_items=5_000,
        max_items_in_row=300,
        max_lexer_states=25_000,
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


def refusal(grammar: str) -> str:
    """Why this grammar cannot be had; empty if it can. Takes a third of a second, PROBE_SECONDS at most."""
    try:
        probe = subprocess.run(
            [sys.executable, "-P", __file__],
            input=grammar.encode(),
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "the grammar takes too long to compile"
    except OSError as error:
        return f"grammars cannot be compiled now: {error.strerror}"
    if probe.returncode:
        return "the grammar is too large to compile"
    return probe.stdout.decode(errors="replace")


def _main() -> None:
    from llguidance import LLMatcher

    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (PROBE_BYTES, PROBE_BYTES))
    grammar = sys.stdin.buffer.read().decode()
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, None, limits=limits())
    sys.stdout.buffer.write((messages[0] if failed else "")[:REASON].encode())


if __name__ == "__main__":
    _main()
