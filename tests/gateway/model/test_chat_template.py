"""The templates render as transformers renders them, and refuse as clearly."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from gateway.model.chat_template import ChatTemplate, ChatTemplateError, merge_system_messages

MESSAGES = [{"role": "user", "content": "<b>é"}]


def render(source: str, **options: object) -> str:
    return ChatTemplate(source, "<s>", "</s>").render(MESSAGES, options)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "{{ bos_token }}{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}",
            "<s><b>é\n",
        ),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<b>é"}'),
        ("{{ messages | tojson(indent=1) }}", json.dumps(MESSAGES, indent=1, ensure_ascii=False)),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
        ("{% generation %}{{ eos_token }}{% endgeneration %}", "</s>"),
        ("{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}", "True True True"),
        ("{{ enable_thinking }} {{ nothing }}", "False "),
        ("{{ strftime_now('%Y') }}", str(datetime.now().year)),
    ],
)
def test_it_renders(source: str, text: str) -> None:
    assert render(source, enable_thinking=False, messages=["never"], bos_token="never") == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[0].content + 5 }}",
        "{{ nothing.at.all }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ 1 // 0 }}",
        "{% for x in range(10000000) %}{% endfor %}",
    ],
)
def test_it_refuses(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        render(source)


def test_what_is_no_template_is_said_at_once() -> None:
    with pytest.raises(ChatTemplateError, match="does not compile"):
        ChatTemplate("{% if %}", "", "")


def test_system_messages_become_one_in_front() -> None:
    system = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "developer", "content": "c"},
    ]
    assert merge_system_messages(system) == [
        {"role": "system", "content": "a\n\nc"},
        {"role": "user", "content": "b"},
    ]
    assert merge_system_messages(MESSAGES) == MESSAGES
