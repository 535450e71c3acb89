"""The limits of a grammar: its size, what compiling it may cost, and what llguidance may spend on one token.

Gateway and verifier use this one set, so that what the gateway accepts also compiles at the verifier. Grammars come
from clients: a short one can occupy a compiler for minutes, or an engine's step for seconds.
"""

from __future__ import annotations

from llguidance import LLParserLimits

from edgedraft.wire import MAX_GRAMMAR
from edgedraft.workers.limits import WorkerLimits

MAX_CHARACTERS = MAX_GRAMMAR  # what a wire message carries

MAX_ERROR_CHARACTERS = 300


# llguidance's own limits count parser work, and some inputs escape them: an intersection of twenty patterns in a JSON
# schema compiles for minutes. Ordinary grammars take milliseconds, and less than the 30 MiB of an idle worker again.
WORKER_LIMITS = WorkerLimits(cpu_seconds=2.0, wall_seconds=30.0, memory_bytes=1 << 30, output_bytes=1 << 16)


def parser_limits() -> LLParserLimits:
    """Returns llguidance's limits for compiling a grammar and for following it token by token.

    llguidance's defaults are meant for grammars of the operator's own: with them one token of a hostile grammar took 52
    seconds, with these 1.6. LLParserLimits documents the units.
    """
    return LLParserLimits(
        # The default. A row holds about 4 items per optional field of an object and one per text of a choice; requests
        # may have 1,024 choices. A lower limit refuses ordinary schemas: 300 stopped at 75 optional fields.
        max_items_in_row=2_000,
        # A tenth of the default: parser items per token mask. This ends ambiguous grammars, whose
        # tokens took up to 0.1 s each.
        step_max_items=5_000,
        # A quarter of the default: lexer work per token mask.
        step_lexer_fuel=50_000,
        # Less than half of the default: lexer work when the grammar is compiled.
        initial_lexer_fuel=400_000,
        # A tenth of the default: lexer states kept per session, hence its memory.
        max_lexer_states=25_000,
        # A fifth of the default; 128 tools of ten parameters each need a fraction of it.
        max_grammar_size=100_000,
        # Computing them at once could take seconds in the engine's process.
        precompute_large_lexemes=False,
        # Verbose messages quote the parser's state.
        verbose_errors=False,
    )
