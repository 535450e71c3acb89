"""Bytes of incomplete bodies: bounded in all, one key may take them while nobody needs them, and shares are fair."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from gateway.http.errors import ApiError
from gateway.limits.body_bytes import Body, BodyBytes


def reading(stack: ExitStack, bodies: BodyBytes, key: str, cut: list[str] | None = None) -> Body:
    return stack.enter_context(bodies.reading(key, lambda: (cut if cut is not None else []).append(key)))


def test_one_key_may_take_all_and_not_more() -> None:
    bodies = BodyBytes(100)
    with ExitStack() as stack:
        for _ in range(10):
            bodies.take(reading(stack, bodies, "a"), 10)
        with pytest.raises(ApiError) as refused:
            bodies.take(reading(stack, bodies, "a"), 1)
        assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "1")
    assert bodies.used == 0
    assert not bodies._bodies
    assert not bodies._used


def test_another_key_gets_its_share_from_the_one_that_has_most() -> None:
    bodies, cut = BodyBytes(100), []
    with ExitStack() as stack:
        many = [reading(stack, bodies, "a", cut) for _ in range(10)]
        for number, body in enumerate(many):
            bodies.take(body, 20 if not number else 8)
        honest = reading(stack, bodies, "b", cut)
        bodies.take(honest, 50)
        assert set(cut) == {"a"}
        assert many[0].is_cut_off
        assert bodies.used <= 100
        with pytest.raises(ApiError):
            bodies.take(many[0], 1)
        with pytest.raises(ApiError):  # it is at its share
            bodies.take(honest, 20)
        assert "b" not in cut
