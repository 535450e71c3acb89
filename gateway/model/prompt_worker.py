"""The process that renders chat templates and tokenizes: templates come from verifiers and texts from clients.

It runs under edgedraft/workers, which bounds its time and memory. It imports little, because there are several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgedraft.workers.child import serve
from gateway.model.call_arguments import with_argument_objects
from gateway.model.chat_template import ChatTemplate, ChatTemplateError, merge_system_messages, split_reasoning
from gateway.model.control_tokens import ControlTokenInContent, PromptTokenizer, PromptTooLong
from gateway.model.prompt_jobs import (
    Encode,
    Encoded,
    Inspect,
    Inspected,
    Message,
    PromptResult,
    Refused,
    Render,
    TooLong,
    decode_job,
    decode_setup,
    encode_message,
    pack_tokens,
)
from gateway.model.reasoning import detect_reasoning_markers
from gateway.model.tokenizer import load_tokenizer
from gateway.model.tool_call_format import MARKERS
from gateway.model.tool_prompt import add_tools_as_text

ENDING_CHARACTERS = 256  # of a rendered prompt that are returned; reasoning.py looks for a marker there


@dataclass(frozen=True, slots=True)
class PromptModel:
    """A loaded PromptSetup."""

    tokenizer: PromptTokenizer
    template: ChatTemplate | None
    reasoning_markers: tuple[str, str] | None

    @classmethod
    def load(cls, content: bytes) -> PromptModel:
        """Raises TokenizerError and ChatTemplateError."""
        setup = decode_setup(content)
        tokenizer = load_tokenizer(setup.tokenizer)
        added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        reasoning_markers = detect_reasoning_markers(setup.chat_template, added)
        markers = (*MARKERS, *(reasoning_markers or ()))
        template = ChatTemplate(setup.chat_template, setup.bos_token, setup.eos_token) if setup.chat_template else None
        return cls(PromptTokenizer(tokenizer, setup.chat_template, markers), template, reasoning_markers)


def run_job(content: bytes, model: PromptModel | None) -> bytes:
    """Does one job of prompt_jobs.py."""
    assert model
    try:
        result = _run(decode_job(content), model)
    except PromptTooLong as error:
        result = TooLong(error.num_tokens)
    except (ChatTemplateError, ControlTokenInContent) as error:
        result = Refused(str(error))
    return encode_message(result)


def _run(job: Inspect | Render | Encode, model: PromptModel) -> PromptResult:
    match job:
        case Inspect():
            return Inspected(model.template is not None and model.template.supports_tools)
        case Encode():
            return Encoded(
                [
                    pack_tokens(
                        model.tokenizer.encode_plain(
                            text, job.max_tokens, with_ends=job.with_ends, with_control=job.with_control
                        )
                    )
                    for text in job.texts
                ]
            )
        case Render():
            return _render(job, model)


def _render(job: Render, model: PromptModel) -> Encoded:
    if model.template is None:
        raise ChatTemplateError("this model has no chat template, so it cannot serve chats")
    # Before the texts are protected: what stands escaped in a JSON text is the client's, too.
    messages: Sequence[Message] = with_argument_objects(job.messages)
    if model.reasoning_markers:
        messages = [split_reasoning(message, model.reasoning_markers) for message in messages]
    shield, (messages, options, tools) = model.tokenizer.protect((messages, job.options, job.tools))
    if job.tools_as_text:
        messages, tools = add_tools_as_text(messages, tools), None
    text = model.template.render(merge_system_messages(messages), options, tools, dict(shield.pairs))
    tokens = model.tokenizer.encode(text, shield, job.max_tokens)
    return Encoded([pack_tokens(tokens)], shield.restore(text[-ENDING_CHARACTERS:]))


if __name__ == "__main__":
    serve(run_job, PromptModel.load)
