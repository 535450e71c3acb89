"""`edgedraft demo`: EdgeDraft on this machine: one streamed answer, then both modes compared."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from openai import OpenAI

from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.local.processes import StartError, Supervisor
from edgedraft.observability.logs import configure_logging
from loadtest.benchmarks.quick import compare
from loadtest.report import print_result
from loadtest.settings import DemoSettings

QUESTION = "Why is the sky blue? Answer in three sentences."


def main(settings: DemoSettings) -> None:
    """Exits with 1 when a process does not start, naming its log."""
    configure_logging("warning")
    resolve_model(DEMO_MODEL)
    folder = Path(tempfile.mkdtemp(prefix="edgedraft-demo-"))
    try:
        with Supervisor("demo-key", folder) as stack:
            print("starting verifier, gateway and agent ...", flush=True)
            verifier = stack.start_verifier("--threads", "1", "--no-prompt-lookup")  # datacenter-only is plain decoding
            stack.start_gateway(verifier.address)
            stack.wait_for_verifier()
            stack.start_agent("--threads", "1", "--no-past-outputs")
            _stream(stack)
            print("\nNow the same prompts datacenter-only and with the edge:\n", flush=True)
            print_result(compare(stack, verifier.address, "float32", settings.prompts))
    except StartError as error:
        sys.exit(f"edgedraft demo: {error}; the logs are in {folder}")


def _stream(stack: Supervisor) -> None:
    client = OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key)
    model = client.models.list().data[0].id
    print(f"\n{model}, through the openai client at {stack.url}/v1\n\n> {QUESTION}\n", flush=True)
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=120, stream=True
    )
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
