"""Chat messages as text, by the tokenizer's own chat template; transformers is not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prge.errors import UserError
from prge.examples.conversation import Conversation, Message
from prge.examples.read import Record
from prge.examples.sandbox import written
from prge.examples.shared import shared

# Contents that begin differently: what the template writes before a content is what is the same with both.
_PROBES = ("xq0jz", "Vk7wy")


@dataclass(frozen=True)
class Chat:
    """How a model takes a conversation.

    Attributes:
        template: the tokenizer's chat template, in Jinja.
        special_tokens: the tokens that the template may name, as ``bos_token``.
    """

    template: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, reply: bool = False, tools: Sequence[Any] | None = None
    ) -> str:
        """The conversation as text.

        Args:
            messages: each with ``role`` and ``content``.
            reply: whether the text ends where the assistant begins to speak.
            tools: descriptions of functions that the assistant may call.

        Raises:
            UserError: the template refuses the messages, or is broken.
        """
        text = self._written(messages, tools, reply)
        if reply and text == self._written(messages, tools, False):
            # The template has no prompt for a reply. If nothing stands before one, there is none to add.
            return self._before(messages, tools) or text
        return text

    def _written(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, reply: bool) -> str:
        values = {"messages": messages, "tools": tools, "add_generation_prompt": reply}
        return written(self.template, {**self.special_tokens, **values})

    def _before(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> str:
        """What the template writes before the assistant's next content; empty where it refuses one.

        A space belongs to the word behind it.
        """
        try:
            said = [[*messages, {"role": "assistant", "content": content}] for content in _PROBES]
            one, other = (self._written(each, tools, False) for each in said)
        except UserError:
            return ""
        return one[: shared(one, other)].rstrip(" ") if _PROBES[0] in one else ""

    @property
    def turn_end(self) -> str:
        """What the template writes behind a turn of the assistant, without white space; empty where that is nothing."""
        said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _PROBES[0]}]
        try:
            return self._written(said, None, False).partition(_PROBES[0])[2].strip()
        except UserError:
            return ""

    def records(self, row: Record, where: str) -> list[Record]:
        """A record for every turn of the assistant.

        Its ``prompt`` is the conversation before the turn. Its ``answer`` is the turn with its end-of-turn token. Both
        together are the conversation up to there, as the template writes it.

        Raises:
            UserError: the row has no ``messages`` of text, none of them is the assistant's, or the template cannot show
                a tool or a call.
        """
        said = Conversation.of(row, where)
        # A weight of 0 is OpenAI's word for a turn that is not to be learned.
        spoken = [i for i, message in enumerate(said.messages) if message["role"] == "assistant"]
        turns = [i for i in spoken if said.messages[i].get("weight") != 0]
        if spoken and not turns:
            raise UserError(f"{where}: all turns of the assistant have the weight 0, so there is nothing to learn")
        if not turns:
            raise UserError(f"{where}: no message of the role assistant, so there is nothing to learn")
        refused = None
        # Some templates write a call only where the content is null.
        for each in (said, said.with_nulls()) if said.calls else (said,):
            try:
                records = [self._turn(each.messages[: i + 1], each.tools) for i in turns]
                self._refuse_unseen(each)
                return records
            except UserError as e:
                refused = refused or e
        raise UserError(f"{where}: {refused}") from refused

    def _turn(self, messages: list[Message], tools: Sequence[Any] | None) -> Record:
        before = messages[:-1]
        prompt, whole = self.render(before, reply=True, tools=tools), self._written(messages, tools, False)
        if not whole.startswith(prompt):
            # It asks for a reply with more than stands before one, as the begin of a thought. What is there counts.
            prompt = whole[: shared(whole, self._before(before, tools))]
            if not prompt:
                raise UserError("the chat template does not begin a turn as it asks for one")
        # White space behind the end-of-turn token is the template's; the assistant does not write it.
        return {"prompt": prompt, "answer": whole[len(prompt) :].rstrip()}

    def _refuse_unseen(self, said: Conversation) -> None:
        """Refuse what the template leaves out: the assistant would learn from what it is never told."""
        help = "take a model that knows it, or take it out"
        if said.tools and self._written(said.messages, said.tools, False) == self._written(said.messages, None, False):
            raise UserError(f'the chat template does not write "tools"; {help}')
        for i, message in enumerate(said.messages):
            before, calls = said.messages[:i], message.get("tool_calls")
            if message["role"] not in ("user", "assistant"):
                probed = [*before, {**message, "content": _PROBES[0]}, *said.messages[i + 1 :]]
                if _PROBES[0] not in self._written(probed, said.tools, False):
                    role = message["role"]
                    raise UserError(f"the chat template does not write message {i + 1}, of the role {role}; {help}")
            if calls:
                plain = {**message, "content": ""}
                del plain["tool_calls"]
                told = self._written([*before, message], said.tools, False)
                told = told[shared(told, self._written([*before, plain], said.tools, False)) :]
                if not all(call["function"]["name"] in told for call in calls):
                    raise UserError(f"the chat template does not write the tool calls of message {i + 1}; {help}")
