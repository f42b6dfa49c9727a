"""Chat messages: rendered as transformers renders them, and trained on the assistant's tokens only."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.chat_pieces import pieces, render
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.program.step import StepProgram

MESSAGES = [
    {"role": "system", "content": "Be <brief> & kind. "},
    {"role": "user", "content": "Is it open?\nToday?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "Any time."},
]
PLAIN = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEMPLATES = {
    "plain": PLAIN,
    "marked": """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- continue %}
    {%- endif %}
    {% if message.role == 'assistant' %}
        {{- '[' ~ message.role ~ ']' }}{% generation %}{{ message.content ~ eos_token }}{% endgeneration %}
    {%- else %}
        {{- '[' ~ message.role ~ ']' ~ message | tojson ~ '\\n' }}
    {% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}
""",
    "dated": "{{ strftime_now('%Y') }} {% if messages[0].role == 'x' %}{{ raise_exception('no') }}{% endif %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("reply", [False, True])
def test_text_equals_that_of_transformers(name: str, reply: bool, tokenizer_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, bos_token="<s>", eos_token="<end>")
    chat = Chat(TEMPLATES[name], {"bos_token": "<s>", "eos_token": "<end>"})
    for upto in range(1, len(MESSAGES) + 1):
        expected = tokenizer.apply_chat_template(
            MESSAGES[:upto], chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=reply
        )
        assert chat.render(MESSAGES[:upto], reply=reply) == expected


def test_every_turn_of_the_assistant_is_learned() -> None:
    records = Chat(PLAIN).records({"messages": MESSAGES}, "here")
    before = "<|system|>\nBe <brief> & kind. <end>\n<|user|>\nIs it open?\nToday?<end>\n<|assistant|>\n"
    assert records == [
        {"prompt": before, "answer": "Yes.<end>"},
        {"prompt": before + "Yes.<end>\n<|user|>\nThanks<end>\n<|assistant|>\n", "answer": "Any time.<end>"},
    ]


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (PLAIN, "hello", '"messages" must be a list'),
        (PLAIN, [{"role": "user"}], '"messages" must be a list'),
        (PLAIN, [{"role": "assistant", "content": None}], '"messages" must be a list'),
        (PLAIN, MESSAGES[:2], "no message of the role assistant"),
        ("{{ raise_exception('roles must alternate') }}", MESSAGES, "roles must alternate"),
        ("{% for", MESSAGES, "the chat template cannot write"),
        ("{{ messages.__class__.__mro__ }}", MESSAGES, "the chat template cannot write"),
        ("{{ messages | length }}", MESSAGES, "does not begin a turn as it asks for one"),
    ],
)
def test_odd_conversations_name_the_place(template: str, messages: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Chat(template).records({"messages": messages}, "a.jsonl, line 7")
    assert str(error.value).startswith("a.jsonl, line 7")


# Templates that are more than a piece before and behind each message, and whether they have pieces.
ODD = {
    "a default system": "{% if messages[0].role != 'system' %}[be kind]{% endif %}" + PLAIN,
    "a system in the user's turn": (
        "{% for m in messages %}{% if m.role == 'system' %}<u>{{ m.content }}\n\n{% elif m.role == 'user' %}"
        "{% if loop.first %}<u>{% endif %}{{ m.content | trim }}</u>{% else %}<a>{{ m.content }}</a>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    ),
    "thoughts before the last reply": (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
        "{{ m.content.split('</think>')[-1] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_a_template_s_pieces_write_what_it_writes(name: str) -> None:
    chat = Chat(ODD[name])
    found = pieces(chat)
    assert found
    for messages in (MESSAGES, MESSAGES[1:]):
        for size in range(2, len(messages) + 1):
            said, reply = messages[:size], messages[size - 1]["role"] == "user"
            assert render(found, said, reply) == chat.render(said, reply=reply)
    assert found["reserved"] == (["</think>"] if "thoughts" in name else [])


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{% for m in messages %}{% if m.content | length > 99 %}long {% endif %}{{ m.content }}{% endfor %}",
        "{{ strftime_now('%Y') }}{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages | reverse %}{{ m.content }}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{% for",
    ],
)
def test_a_template_that_does_more_has_no_pieces(template: str) -> None:
    assert pieces(Chat(template)) is None


@pytest.fixture(scope="module")
def language_model(export: Callable[..., Path]) -> Path:
    return export(label_words=(), target=" {label}", max_targets=4)


def test_only_the_assistant_s_tokens_are_targets(language_model: Path, tmp_path: Path) -> None:
    program = StepProgram(language_model)
    m = replace(program.manifest, template="{prompt}", target="{answer}", chat_template=PLAIN, max_targets=32)
    m = replace(m, max_tokens=200)
    encoder = Encoder(m, language_model / "tokenizer.json")
    data = tmp_path / "chat.jsonl"
    data.write_text(json.dumps({"messages": MESSAGES}) + "\n")
    first, second = encoder.examples(data)
    for example, answer in ((first, "Yes.<end>"), (second, "Any time.<end>")):
        assert encoder.tokenizer.decode(list(example.tokens[-example.targets :]), skip_special_tokens=False) == answer
    # As the model meets it when it is asked: the prompt's own tokens, then the answer's.
    prompt = Chat(PLAIN).render(MESSAGES[:4], reply=True)
    assert list(second.tokens[: -second.targets]) == encoder.tokenizer.encode(prompt, add_special_tokens=False).ids


def test_long_text_is_cut_into_windows(language_model: Path, tmp_path: Path) -> None:
    """Every token but the first is a target once, with all the text before it that fits."""
    program = StepProgram(language_model)
    m = replace(program.manifest, template="", target="{text}", max_targets=4, max_tokens=10)
    encoder = Encoder(m, language_model / "tokenizer.json")
    text = "Stuck on your pull request, tests fail on main and nobody can deploy until it's reverted"
    data = tmp_path / "plain.txt"
    data.write_text(text)
    whole = encoder.tokenizer.encode(text).ids
    windows = encoder.examples(data)
    whole.append(m.stop_tokens[0])
    assert [token for e in windows for token in e.tokens[-e.targets :]] == whole[1:]
    seen = 1
    for e in windows:
        seen += e.targets
        assert list(e.tokens) == whole[max(0, seen - 10) : seen] and e.targets <= 4


# As the templates that ask for a reply by the begin of a thought, and take thoughts out of what was said.
THINKS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<user>' + m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{% set content = m['content'].split('</think>')[-1] %}"
    "{{ '<assistant>' + content + '<end>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant><think>\n' }}{% endif %}"
)
NO_PROMPT = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<end>\n{% endfor %}"
INSTRUCT = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
    "{% endif %}{% endfor %}"
)
# Calls are written, and tools.
TOOLS = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}[{{ call.function.name }} {{ call.function.arguments | tojson }}]{% endfor %}"
    "<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Calls only where the content is none.
NULLS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content is none %}{% for call in m.tool_calls %}"
    "[{{ call.function.name }}]{% endfor %}{% else %}{{ m.content }}{% endif %}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ASKED = [{"role": "user", "content": "2 and 2?"}]


@pytest.mark.parametrize(
    ("template", "content", "prompt", "answer"),
    [
        (THINKS, "It is 4.", "<s><user>2 and 2?<assistant>", "It is 4.<end>"),
        (THINKS, "<think>\nHm.</think>\n\nIt is 4.", "<s><user>2 and 2?<assistant>", "\n\nIt is 4.<end>"),
        (NO_PROMPT, "It is 4.", "<user>\n2 and 2?<end>\n<assistant>\n", "It is 4.<end>"),
        (INSTRUCT, "It is 4.", "[INST] 2 and 2? [/INST]", " It is 4.</s>"),
        (INSTRUCT, " It is 4.", "[INST] 2 and 2? [/INST]", "  It is 4.</s>"),
    ],
)
def test_the_assistant_s_part_is_what_the_whole_has(template: str, content: str, prompt: str, answer: str) -> None:
    chat = Chat(template, {"bos_token": "<s>"})
    messages = [*ASKED, {"role": "assistant", "content": content}]
    assert chat.records({"messages": messages}, "here") == [{"prompt": prompt, "answer": answer}]
    assert chat.render(messages).rstrip() == prompt + answer
    assert chat.turn_end == answer[-len(chat.turn_end) :] in ("<end>", "</s>")


def test_a_template_without_a_prompt_for_replies_gets_what_stands_before_one() -> None:
    assert Chat(NO_PROMPT).render(ASKED, reply=True) == "<user>\n2 and 2?<end>\n<assistant>\n"
    assert Chat(INSTRUCT).render(ASKED, reply=True) == "[INST] 2 and 2? [/INST]"
    for template in (THINKS, NO_PROMPT, INSTRUCT):
        found = pieces(Chat(template, {"bos_token": "<s>"}))
        assert found and render(found, ASKED, True) == Chat(template, {"bos_token": "<s>"}).render(ASKED, reply=True)
        assert (", system" in found["gaps"]) == (template != THINKS)


CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Ulm"}'}}
WEATHER: list[dict[str, Any]] = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "none today"},
    {"role": "assistant", "content": "It is dry."},
]


def test_a_tool_call_is_learned_as_the_template_writes_it() -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    first, second = Chat(TOOLS).records({"messages": WEATHER, "tools": tools}, "here")
    assert first["answer"] == '[weather {"town": "Ulm"}]<end>' and first["prompt"].startswith(json.dumps(tools[0]))
    assert second["prompt"].endswith("<tool>none today<end><assistant>") and second["answer"] == "It is dry.<end>"
    for blank in (None, ""):
        said = [WEATHER[0], {**WEATHER[1], "content": blank}, *WEATHER[2:]]
        assert Chat(NULLS).records({"messages": said}, "here")[0]["answer"] == "[weather]<end>"


@pytest.mark.parametrize(
    ("template", "row", "message"),
    [
        (PLAIN, {"messages": WEATHER}, "does not write the tool calls of message 2"),
        (PLAIN, {"messages": [WEATHER[0], WEATHER[3]], "tools": [{"name": "weather"}]}, 'does not write "tools"'),
        (THINKS, {"messages": [WEATHER[0], WEATHER[2], WEATHER[3]]}, "does not write message 2, of the role tool"),
        (THINKS, {"messages": MESSAGES}, "does not write message 1, of the role system"),
        (TOOLS, {"messages": [*WEATHER[:1], {**WEATHER[1], "tool_calls": "weather"}]}, '"tool_calls" must be a list'),
        (TOOLS, {"messages": [{**WEATHER[1], "tool_calls": [{"function": 1}]}]}, "message 1: a tool call must be"),
        (
            TOOLS,
            {"messages": [{**WEATHER[1], "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "the arguments of 'f' are no JSON",
        ),
        (PLAIN, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "of the type image_url"),
    ],
)
def test_what_a_template_cannot_show_is_refused(template: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Chat(template).records(row, "a.jsonl, line 7")
    assert str(error.value).startswith("a.jsonl, line 7")


def test_parts_of_a_content_are_read() -> None:
    parts = [{"type": "text", "text": "2 and"}, {"type": "text", "text": " 2?"}]
    said = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "4"}]}]
    plain = [*ASKED, {"role": "assistant", "content": "4"}]
    assert Chat(PLAIN).records({"messages": said}, "here") == Chat(PLAIN).records({"messages": plain}, "here")
