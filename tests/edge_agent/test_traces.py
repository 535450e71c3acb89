"""The agent's spans, from the drafting loop behind a mailbox: counts of the draft, under the gateway's trace."""

from __future__ import annotations

import asyncio

from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.loop import DraftingLimits, DraftingLoop
from edge_agent.drafting.mailbox import Mailbox
from edge_agent.drafting.stats import StatsCollector
from edge_agent.traces import DraftSpans
from edgedraft.wire import Close, Commit, Open
from tests.edge_agent.scripted_gateway import until
from tests.edge_agent.tiny_drafter import GREEDY
from tests.support.in_memory_tracing import PARENT, TRACE, TRACEPARENT, InMemoryTracing, attributes, ids
from tests.support.tiny_llama import VOCAB

PROMPT = [81, 82, 83, 84, 81, 82]


async def test_a_session_is_one_span_with_counts_and_no_tokens() -> None:
    tracing, mailbox = InMemoryTracing(), Mailbox()
    spans = DraftSpans(tracing, "lookup")
    loop = DraftingLoop(mailbox, PromptLookupDrafter(), DraftingLimits(VOCAB, 4), StatsCollector(), spans=spans)
    running = asyncio.create_task(asyncio.to_thread(loop.run))
    await mailbox.deliver([Open(1, PROMPT, GREEDY, 20, window=8, trace=TRACEPARENT), Open(2, PROMPT, GREEDY, 20)])
    await mailbox.deliver([Commit(1, 0, [83, 84], window=8, nodes=2, depth=2, accepted=2)])
    await mailbox.deliver([Open(1, PROMPT, GREEDY, 20, committed=[83, 84], window=8, trace=TRACEPARENT)])
    await mailbox.deliver([Commit(1, 2, [81], finish="stop"), Close(2)])
    await until(lambda: len(tracing.spans) == 2)
    mailbox.close()
    await running
    first, second = tracing.spans
    assert ids(first)[::2] == (TRACE, PARENT)
    assert ids(second)[2] == ""
    reported = attributes(first)
    assert reported["edgedraft.draft.accepted"] == 2
    assert reported["edgedraft.committed"] == 3
    assert reported["edgedraft.finish"] == "finished (stop)"
    assert [event.name for event in first.events] == ["begun again"]
    assert attributes(second)["edgedraft.finish"] == "closed"
    assert not {81, 82, 83, 84} & set(reported.values())
