"""What is learned of an answer: the tokens that it has in the whole text, and then the one that ends a text."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from prge.examples.chat import Chat
from prge.examples.form import Form
from prge.examples.rows import RowMaker
from prge.export.prompts import stop_tokens
from prge.models.checkpoints import Outline

TEXTS = ["Do you ship to the harbour?", "Hello, yes we ship.", "Question: where? Answer: behind the gate.", "no no no"]
SPECIAL = ["<unk>", "<s>", "</s>", "<end>"]


def tokenizer(kind: str) -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "bytes":
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    elif kind == "prepended":  # no words: merges go over the whole text
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        scheme = "first" if kind == "metaspace, first" else "always"
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.train_from_iterator(TEXTS * 9, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


KINDS = ["bytes", "metaspace", "metaspace, first", "prepended"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("template", "target"),
    [
        ("{q}\nAnswer:", " {a}"),
        ("{q} ", "{a}"),
        ("{q}", "{a}"),
        ("", "{a}"),
        ("<s>{q}<end>", "{a}<end>"),
    ],
)
def test_answers_are_encoded_as_the_whole_text_is(kind: str, template: str, target: str) -> None:
    """The targets are the tokens that reach behind the prompt, by the tokenizer's own offsets."""
    made = tokenizer(kind)
    maker = RowMaker(Form(template, target=target), made, stop_tokens=(2, 3))
    record = {"q": "Do you ship to the harbour?", "a": "Hello, yes we ship"}
    (example,) = maker.encode(record, "here")
    prompt, answer = template.format(**record), target.format(**record)
    whole = made.encode(prompt + answer)
    end = [] if answer.endswith("<end>") else [2]
    assert list(example.tokens) == whole.ids + end
    begin = next(i for i, (_, until) in enumerate(whole.offsets) if until > len(prompt))
    assert example.targets == len(whole.ids) - max(begin, 1) + len(end)


@pytest.mark.parametrize("kind", KINDS)
def test_chats_are_too(kind: str) -> None:
    chat = Chat("{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}")
    made = tokenizer(kind)
    form = Form("{prompt}", target="{answer}", chat=chat)
    messages = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]
    (record,) = form.unfold({"messages": messages}, "here")
    (example,) = RowMaker(form, made, stop_tokens=(2,)).encode(record, "here")
    assert list(example.tokens) == made.encode(chat.render(messages), add_special_tokens=False).ids
    answer = made.decode(list(example.tokens[-example.targets :])).replace("▁", " ")
    assert example.tokens[-1] == 2 and " ".join(answer.split()) == TEXTS[1]


def test_what_does_not_end() -> None:
    """One of several choices; what a tokenizer has no end for; an empty answer, of which nothing is learned."""
    made = tokenizer("bytes")
    choices = Form("{q}", target=" {choice}", choices="choices")
    record = choices.unfold({"q": "no", "choices": ["yes", "no"], "label": "yes"}, "here")[0]
    (example,) = RowMaker(choices, made, stop_tokens=(2,)).encode(record, "here")
    assert all(row.tokens[-1] != 2 for row in example.candidates)
    free = Form("{q}", target=" {a}")
    (example,) = RowMaker(free, made).encode({"q": "no", "a": "yes"}, "here")
    assert list(example.tokens) == made.encode("no yes").ids
    assert RowMaker(Form("{q}", target="{a}"), made, stop_tokens=(2,)).encode({"q": "no", "a": ""}, "here") == []


def test_a_text_ends_in_windows_too() -> None:
    made = tokenizer("bytes")
    whole = made.encode(TEXTS[2]).ids
    windows = RowMaker(Form("", target="{text}", max_tokens=12, max_targets=3), made, stop_tokens=(2,)).encode(
        {"text": TEXTS[2]}, "here"
    )
    assert [token for e in windows for token in e.tokens[-e.targets :]] == [*whole[1:], 2]


def test_the_tokens_that_end_a_text() -> None:
    """The tokenizer's first, then the configuration's, then a chat's; a turn that ends in words has none of its own."""
    made = tokenizer("bytes")
    made.add_special_tokens([AddedToken("<|turn|>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")

    def ends(template: str) -> tuple[int, ...]:
        fast.chat_template = template
        return stop_tokens(Outline(LlamaConfig(vocab_size=400), fast, "it", (3, 999)))

    turn = "{% for m in messages %}{{ m.content }}END{% endfor %}"
    assert ends("") == ends(turn) == (2, 3)
    assert ends(turn.replace("END", "<|turn|>\n")) == (2, 3, made.token_to_id("<|turn|>"))
    assert ends(turn.replace("END", "</s>")) == (2, 3)
