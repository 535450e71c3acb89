"""Recordings in the cache folder."""

from __future__ import annotations

from pathlib import Path

from loadtest.simulator.recordings import Recording, read_recording, recording_file, write_recording


def test_a_recording_is_read_back_and_a_broken_one_is_none(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "recording.msgpack"
    assert read_recording(file) is None
    recording = Recording({"0.0": [(1, 2), ()]}, [(3, 0, (), (5, 6), (-1, 0), (0.5, 0.25))])
    write_recording(file, recording)
    assert read_recording(file) == recording
    file.write_bytes(file.read_bytes()[:-3])
    assert read_recording(file) is None


def test_a_recording_belongs_to_its_inputs() -> None:
    assert recording_file("model", "float32") == recording_file("model", "float32")
    assert recording_file("model", "float32") != recording_file("model", "bfloat16")
