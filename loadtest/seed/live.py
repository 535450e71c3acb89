"""Desktops that are played back beside a live one: both must get the same number of tokens out of a verify.

The live side is a verifier, a gateway and an agent as processes, asked by the openai client. The other side is the
streaming system of the main table with a device whose look takes what the draft model takes here, next to the server.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from openai import OpenAI

from edgedraft.local.processes import Supervisor
from edgedraft.observability.progress import progress
from loadtest.report import Result
from loadtest.seed.bench import Bench
from loadtest.seed.clock import Clock
from loadtest.seed.fleet import Load, run
from loadtest.seed.profiles import Device, Link
from loadtest.seed.server import EDGE_LIMITS
from loadtest.seed.streaming import Streaming
from loadtest.settings import BenchSettings

NEAR = Link("loopback", 0.001)
KEY = "bench-key"


def live(bench: Bench, settings: BenchSettings) -> Result:
    """Tokens per verify over all greedy requests, one at a time."""
    asked = bench.chats[0.0]
    tokens = verifies = same = 0
    with tempfile.TemporaryDirectory() as folder, Supervisor(KEY, Path(folder)) as stack:
        verifier = stack.start_verifier("--threads", "1", "--dtype", settings.dtype)
        stack.start_gateway(verifier.address)
        stack.wait_for_verifier()
        stack.start_agent("--threads", "1", "--no-past-outputs", "--dtype", "float32")
        client = OpenAI(base_url=f"{stack.url}/v1", api_key=KEY)
        model = client.models.list().data[0].id
        with progress("a live agent", len(asked), "requests") as advance:
            for chat in asked:
                answer = client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": chat.words}],
                    temperature=0,
                    max_tokens=chat.most,
                )
                assert answer.usage
                how = (answer.model_extra or {})["edgedraft"]
                tokens += answer.usage.completion_tokens
                verifies += how["verifier_steps"]
                same += answer.usage.completion_tokens == len(chat.text)
                advance()
    here = Device("this machine", bench.looks.seconds(1), "measured in the same run")
    system = Streaming(Clock(), bench.played(), bench.steps, (here, NEAR, bench.drafts), limits=EDGE_LIMITS)
    window = run(system, asked, Load(1, tokens=2 * sum(len(chat.text) for chat in asked)), seed=0)
    rows = [
        {"desktop": "live", "tokens": tokens, "tokens_per_verify": tokens / verifies},
        {
            "desktop": "played back",
            "tokens": window.tokens,
            "tokens_per_verify": window.tokens / window.meters.verifies,
        },
    ]
    return Result(
        "a live agent beside one played back, on this machine",
        rows,
        {"tokens_per_verify_played_over_live": rows[1]["tokens_per_verify"] / rows[0]["tokens_per_verify"]},
        {"look_ms": 1e3 * here.look},
        [f"{same} of {len(asked)} live answers as long as the recorded texts"],
    )
