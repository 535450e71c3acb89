# ruff: noqa: RUF001 - the fullwidth bars are those of a family's tokens
"""Small chat templates of the shapes of common model families, with tokenizers that have their control tokens.

They are written for the tests after the families' documentation: which markers they use and where content stands.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Metaspace


@dataclass(frozen=True)
class Family:
    """`control` are its control tokens; those in `ordinary` are not special in its tokenizer."""

    name: str
    template: str
    control: tuple[str, ...]
    ordinary: tuple[str, ...] = ()
    metaspace: bool = False
    rstrip: bool = False

    def tokenizer(self) -> Tokenizer:
        """A tokenizer of single bytes or characters."""
        if self.metaspace:
            characters = [*map(chr, range(32, 127)), "▁", "\n", "é", "｜", "\U000f003c"]
            alphabet = [*characters, *(f"<0x{n:02X}>" for n in range(256))]
            tokenizer = Tokenizer(BPE({c: i for i, c in enumerate(alphabet)}, [], byte_fallback=True))
            tokenizer.pre_tokenizer = Metaspace(prepend_scheme="first")  # type: ignore[assignment]
            tokenizer.decoder = MetaspaceDecoder(prepend_scheme="first")  # type: ignore[assignment]
        else:
            alphabet = sorted(ByteLevel.alphabet())
            tokenizer = Tokenizer(BPE({c: i for i, c in enumerate(alphabet)}, []))
            tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
            tokenizer.decoder = ByteLevelDecoder()  # type: ignore[assignment]
        tokenizer.add_special_tokens([AddedToken(t, special=True, rstrip=self.rstrip) for t in self.control])
        tokenizer.add_tokens([AddedToken(t, special=False) for t in self.ordinary])
        return tokenizer


_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n<tools>\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}"
    "{{ '\n</tools><|im_end|>\n' }}{% endif %}"
)

FAMILIES = [
    Family(
        "llama-3",
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
        "{{ m['content'] | trim }}{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% endif %}"
        "{{ '<|eot_id|>' }}"
        "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
    ),
    Family(
        "qwen-3",
        _TOOLS
        + "{% for m in messages %}{% if m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + m.content }}"
        "{{ '\n</tool_response><|im_end|>\n' }}{% else %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.reasoning_content is string %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
        "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
        '{% for c in m.tool_calls %}{{ \'\n<tool_call>\n{"name": "\' + c.function.name + \'", "arguments": \' }}'
        "{{ c.function.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
        "{% endfor %}{{ '<|im_start|>assistant\n' }}",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
    ),
    Family(
        "mistral",
        "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
        "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}"
        "{% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}{% endfor %}",
        (
            *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
            *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        ),
        metaspace=True,
    ),
    Family(
        "gemma",
        "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) }}"
        "{{ '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}{{ '<start_of_turn>model\n' }}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        metaspace=True,
    ),
    Family(
        "glm-4",
        "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}<|assistant|>",
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>"),
        rstrip=True,
    ),
    Family(
        "deepseek",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
        "{% elif m.role == 'assistant' %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}"
        "{% else %}{{ '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}{% endif %}"
        "{% endfor %}{{ '<｜Assistant｜><think>\n' }}",
        (
            *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
            *("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
        ),
        ("<think>", "</think>"),
    ),
]
