"""What `bench prefix` asks, and how its table is made; no process runs here."""

from __future__ import annotations

from loadtest.benchmarks.prefix import REPEATS, SIDES, Sample, first_turn, ratios, rows, second_turn, side_order

SAMPLES = {
    "cold": [Sample(4.0, 2000, 0), Sample(5.0, 2002, 0), Sample(90.0, 2004, 0)],
    "warm": [Sample(0.5, 2000, 1936), Sample(0.4, 2002, 1936), Sample(0.6, 2004, 1952)],
    "other tenant": [Sample(5.5, 2000, 0), Sample(6.0, 2002, 0), Sample(1.0, 2004, 0)],
}


def test_conversations_differ_from_their_first_words_and_are_as_long() -> None:
    texts = ["".join(str(message.get("content")) for message in first_turn(i)) for i in range(2 * REPEATS)]
    assert len({text[:2] for text in texts}) == 2 * REPEATS
    assert len({len(text) for text in texts}) == 1
    assert first_turn(3) == first_turn(3)


def test_a_second_turn_goes_on_behind_the_first_and_its_answer() -> None:
    first = first_turn(0)
    second = second_turn(first, "the answer")
    assert second[: len(first)] == first
    assert [message["role"] for message in second[len(first) :]] == ["assistant", "user"]
    assert second[len(first)] == {"role": "assistant", "content": "the answer"}


def test_every_side_is_first_as_often_and_all_are_asked_each_time() -> None:
    orders = [side_order(repeat) for repeat in range(REPEATS)]
    assert all(set(order) == set(SIDES) for order in orders)
    assert sorted(order[0] for order in orders) == sorted(SIDES * (REPEATS // len(SIDES)))


def test_the_table_has_medians_with_what_was_cached() -> None:
    table = {row["side"]: row for row in rows(SAMPLES)}
    assert list(table) == list(SIDES)
    assert table["cold"]["first_token_ms"] == 5000
    assert (table["cold"]["fastest_ms"], table["cold"]["slowest_ms"]) == (4000, 90000)
    assert (table["warm"]["prompt_tokens"], table["warm"]["cached_tokens"]) == (2002, 1936)


def test_the_ratios_are_of_medians() -> None:
    assert ratios(SAMPLES) == {"ttft_cold_over_warm": 10.0, "ttft_other_tenant_over_cold": 1.1}
