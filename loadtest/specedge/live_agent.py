"""A simulated agent beside a live one: both must get the same number of tokens per verify.

The live side is a verifier, a gateway and an agent as processes, used through the openai client. The simulated side is
the EdgeDraft system of the main table, with a device whose draft forward takes what it takes on this machine.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from openai import OpenAI

from edgedraft.local.processes import Supervisor
from edgedraft.observability.progress import progress
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.simulator.clock import Clock
from loadtest.simulator.load import Load, run
from loadtest.simulator.profiles import DeviceProfile, EdgeProfile, LinkProfile
from loadtest.simulator.systems.edgedraft import EdgeDraft
from loadtest.specedge.preparation import GREEDY, Experiment

LOOPBACK = LinkProfile("loopback", 0.001)
KEY = "bench-key"


def compare_with_live_agent(experiment: Experiment, settings: BenchSettings) -> Result:
    """Tokens per verify over all greedy requests, one at a time."""
    chats = experiment.chats[GREEDY]
    tokens = verifies = same = 0
    with tempfile.TemporaryDirectory() as folder, Supervisor(KEY, Path(folder)) as stack:
        verifier = stack.start_verifier("--threads", "1", "--dtype", settings.dtype)
        stack.start_gateway(verifier.address)
        stack.wait_for_verifier()
        stack.start_agent("--threads", "1", "--no-past-outputs", "--dtype", "float32")
        client = OpenAI(base_url=f"{stack.url}/v1", api_key=KEY)
        model = client.models.list().data[0].id
        with progress("a live agent", len(chats), "requests") as advance:
            for chat in chats:
                answer = client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": chat.message}],
                    temperature=0,
                    max_tokens=chat.max_tokens,
                )
                assert answer.usage
                tokens += answer.usage.completion_tokens
                verifies += (answer.model_extra or {})["edgedraft"]["verifier_steps"]
                same += answer.usage.completion_tokens == len(chat.text)
                advance()
    device = DeviceProfile("this machine", experiment.costs.forwards.seconds(1), "measured in the same run")
    edge = EdgeProfile(device, LOOPBACK, experiment.draft_model)
    system = EdgeDraft(Clock(), experiment.recorded_target(), experiment.costs.steps, edge)
    measured = run(system, chats, Load(1, tokens=2 * sum(len(chat.text) for chat in chats)), seed=0)
    rows = [
        {"agent": "live", "tokens": tokens, "tokens_per_verify": tokens / verifies},
        {"agent": "simulated", "tokens": measured.tokens, "tokens_per_verify": measured.tokens_per_verify},
    ]
    return Result(
        "a live agent and a simulated one on this machine",
        rows,
        {"tokens_per_verify_simulated_over_live": rows[1]["tokens_per_verify"] / rows[0]["tokens_per_verify"]},
        {"draft_forward_ms": 1e3 * device.forward_seconds},
        [f"{same} of {len(chats)} live answers as long as the recorded texts"],
    )
