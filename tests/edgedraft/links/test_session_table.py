"""Session numbers of a link."""

from __future__ import annotations

import pytest

from edgedraft.links.session_table import SessionTable


def test_numbers_are_never_used_twice() -> None:
    table: SessionTable[str] = SessionTable()
    assert [table.add("a"), table.add("b")] == [1, 2]
    assert table.remove(2)
    assert not table.remove(2)
    assert table.add("c") == 3
    assert (table.find(1), table.find(2), table.find(3)) == ("a", None, "c")
    with pytest.raises(KeyError):
        table.find(4)
    assert table.clear() == ["a", "c"]
    assert len(table) == 0
