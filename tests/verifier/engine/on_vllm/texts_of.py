"""A process with vLLM's workers spread as a job on stdin says: serves its requests and writes their texts.

A job has `settings` of the verifier, `prompts`, `right` texts to draft from, and the file `to` write to. A process that
turns out to be a worker of another one writes nothing.
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
    begun = load(VerifierSettings.model_validate(job["settings"]))
    if begun is None:
        return
    engine, _ = begun
    right, dice = {int(key): text for key, text in job["right"].items()}, random.Random(3)
    sampling = Sampling(**job["sampling"])
    asked = [request(key, job["prompts"][key], sampling, len(text)) for key, text in right.items()]
    texts, seen = finish(engine, asked, lambda key, text: tree_for(right[key][len(text) :], dice))
    engine.shut_down()
    Path(job["to"]).write_text(json.dumps({"texts": texts, "accepted": sum(made.accepted for made in seen)}))


if __name__ == "__main__":
    main()
