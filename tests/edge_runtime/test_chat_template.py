"""Chat templates: Hugging Face's conventions, in a sandbox, with errors that say what to do."""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from support import byte_tokenizer

from edge_runtime.chat_template import ChatTemplate
from edge_runtime.errors import ChatTemplateError
from offload.types import Message

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <there> & 'you'\n"},
    {"role": "assistant", "content": " Hello. "},
    {"role": "user", "content": "naïve 🙂?"},
]
LIGHT = {
    "name": "light",
    "description": "Turn <on> & off: naïve 東京",
    "parameters": {"type": "object", "properties": {"area": {"type": "string"}}},
}
TOOLS = [{"type": "function", "function": LIGHT}]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = """{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
<|im_start|>system
You are helpful.<|im_end|>
    {% endif %}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
INST = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
  {%- set system = messages[0]['content'] %}
  {%- set turns = messages[1:] %}
{%- else %}
  {%- set turns = messages %}
{%- endif %}
{%- for message in turns %}
  {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('roles must alternate') }}
  {%- endif %}
  {%- if message['role'] == 'user' %}
    {{- '[INST] ' ~ (system ~ '\n\n' if loop.first and system is defined else '') }}
    {{- message['content'] | trim ~ ' [/INST]' }}
  {%- else %}
    {%- generation %} {{- message['content'] | trim ~ eos_token }}{% endgeneration %}
  {%- endif %}
{%- endfor %}"""
TOOLED = """{%- if tools %}
{{ 'Today: ' ~ strftime_now('%d %b %Y') ~ '\n' }}
{% for tool in tools %}
{{ tool | tojson }}
{{ tool | tojson(indent=2) }}
{% endfor %}{% endif -%}
{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' %}
        {%- set ns.last = messages|length - 1 - loop.index0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {{- '<' + message.role + ('!' if loop.index0 == ns.last else '') + '>' + message.content + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<assistant>' }}{%- endif %}"""
TEMPLATES = {"chatml": CHATML, "inst": INST, "tooled": TOOLED}


def noon() -> datetime:
    return datetime(2026, 3, 5, 12, tzinfo=timezone.utc)


def test_messages_become_the_prompt_that_the_template_spells() -> None:
    prompt = ChatTemplate(CHATML).render([Message("user", "hi")])
    assert prompt == (
        "<|im_start|>system\nYou are "
        "helpful.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not ChatTemplate(CHATML).render(TALK, add_generation_prompt=False).endswith("assistant\n")


def test_generation_blocks_loop_controls_and_special_tokens_work() -> None:
    prompt = ChatTemplate(INST, special_tokens=SPECIAL).render(TALK)
    assert prompt == "<s>[INST] Be brief.\n\nHi <there> & 'you' [/INST]Hello.</s>[INST] naïve 🙂? [/INST]"
    assert "<user!>naïve" in ChatTemplate(TOOLED).render(TALK)


def test_json_is_not_escaped_for_html() -> None:
    prompt = ChatTemplate(TOOLED, now=noon).render(TALK, tools=TOOLS)
    assert json.dumps(TOOLS[0], ensure_ascii=False) in prompt
    assert json.dumps(TOOLS[0], ensure_ascii=False, indent=2) in prompt
    assert "Today: 05 Mar 2026" in prompt


def test_further_variables_reach_the_template() -> None:
    template = ChatTemplate("{{ context.area }}: {{ messages[0].content }}")
    assert (
        template.render([Message("user", "lights on")], context={"area": "kitchen"}) == "kitchen: lights on"
    )


def test_a_template_that_refuses_says_its_own_reason() -> None:
    with pytest.raises(ChatTemplateError, match="refuses these messages: roles must alternate"):
        ChatTemplate(INST, special_tokens=SPECIAL).render([TALK[1], TALK[3]])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{% for i in range(999999999) %}x{% endfor %}",
        "{{ self._TemplateReference__context.environment.globals.clear() }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source).render(TALK)


@pytest.mark.parametrize(
    ("source", "messages", "told"),
    [
        ("{% for %}", TALK, "m.jinja is not a valid template"),
        ("{{ messages[0].content + 1 }}", TALK, "fails on these messages: TypeError"),
        ("{{ messages[0].parts.first }}", TALK, "fails on these messages"),
        ("x", [], "there are no messages"),
        ("x", [{"content": "hi"}], "a message has no role: \\['content'\\]"),
    ],
)
def test_a_failing_template_names_itself(source: str, messages: list[Any], told: str) -> None:
    with pytest.raises(ChatTemplateError, match=told):
        ChatTemplate(source, origin="m.jinja").render(messages)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError, match=r"has no chat_template.jinja, .* give a raw prompt instead"):
        ChatTemplate.from_file(tmp_path / "chat_template.jinja")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ChatTemplateError, match=r"t\.jinja cannot be read"):
        ChatTemplate.from_file(tmp_path / "t.jinja")
    (tmp_path / "t.jinja").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(ChatTemplateError, match="1048577 bytes; a chat template may have 1048576"):
        ChatTemplate.from_file(tmp_path / "t.jinja")


@pytest.mark.heavy
@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("add", [True, False], ids=["prompt", "whole"])
def test_prompts_are_those_of_transformers(name: str, tools: Any, add: bool) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="parity needs transformers: install the extra 'parity'"
    )
    reference = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), **SPECIAL)
    if name == "tooled" and tools:
        # transformers has no clock to hold: both use today's
        ours = ChatTemplate(TEMPLATES[name], special_tokens=SPECIAL)
    else:
        ours = ChatTemplate(TEMPLATES[name], special_tokens=SPECIAL, now=noon)
    theirs = reference.apply_chat_template(
        TALK, chat_template=TEMPLATES[name], tools=tools, add_generation_prompt=add, tokenize=False
    )
    assert ours.render(TALK, tools=tools, add_generation_prompt=add) == theirs
