"""A process that reads a job from stdin, serves its requests on vLLM and writes their texts.

A job has the verifier's `settings`, `prompts`, `right` texts to draft from, and the file `to` write to. A process that
only runs workers for another one writes nothing.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from edgedraft.wire import Sampling
from verifier.settings import VerifierSettings


def main() -> None:
    from tests.verifier.engine.on_vllm.conftest import finish, request
    from tests.verifier.engine.test_transformers_engine import tree_for
    from verifier.engine.on_vllm.start import load

    job: dict[str, Any] = json.load(sys.stdin)
    loaded = load(VerifierSettings.model_validate(job["settings"]))
    if loaded is None:
        return
    engine, _ = loaded
    right, dice = {int(key): text for key, text in job["right"].items()}, random.Random(3)
    sampling = Sampling(**job["sampling"])
    asked = [request(key, job["prompts"][key], sampling, len(text)) for key, text in right.items()]
    texts, seen = finish(engine, asked, lambda key, text: tree_for(right[key][len(text) :], dice))
    engine.shut_down()
    Path(job["to"]).write_text(json.dumps({"texts": texts, "accepted": sum(made.accepted for made in seen)}))


if __name__ == "__main__":
    main()
