"""The engine that replays recorded texts."""

from __future__ import annotations

from collections.abc import Sequence

from edgedraft.tree import DraftSlice
from loadtest.simulator.playback import PlaybackEngine, verify_recorded
from loadtest.simulator.recorded_chats import RecordedChat
from verifier.engine.interface import Request, ScheduledSession

TEXT = list(range(100, 160))


def test_a_verify_follows_the_tree_as_far_as_the_text() -> None:
    tree = DraftSlice((5, 6, 7, 8), (-1, 0, 0, 2), (1, 2, 3, 4), (1, 2, 2, 3))
    assert verify_recorded(tree, [5, 7, 8, 9, 1], 0) == [5, 7, 8, 9]
    assert verify_recorded(tree, [5, 7, 8, 9, 1], 1) == [7]
    assert verify_recorded(DraftSlice(), [5, 7], 1) == [7]


def test_a_verify_commits_the_accepted_path_and_one_more_token() -> None:
    tree = DraftSlice((100, 9, 101, 102), (-1, -1, 0, 1), (0, 0, 0, 0), (1, 1, 2, 2))
    assert verify_recorded(tree, TEXT, 0) == [100, 101, 102]
    assert verify_recorded(DraftSlice(), TEXT, 5) == [105]
    assert verify_recorded(tree, TEXT, len(TEXT) - 1) == TEXT[-1:]


def test_the_engine_computes_prompts_in_parts_and_ends_with_the_text(chats: Sequence[RecordedChat]) -> None:
    engine, chat = PlaybackEngine(chats), chats[0]
    request = Request(1, chat.prompt, chat.sampling, chat.max_tokens, frozenset(), salt="new")
    assert engine.open(request) == len(chat.prompt)
    [part] = engine.step([ScheduledSession(1, 5)])
    assert (part.tokens, part.num_uncomputed) == ((), len(chat.prompt) - 5)
    text = list(engine.step([ScheduledSession(1, part.num_uncomputed)])[0].tokens)
    while True:
        [result] = engine.step([ScheduledSession(1, 1)])
        text += result.tokens
        if result.finish:
            break
    assert tuple(text) == chat.text
