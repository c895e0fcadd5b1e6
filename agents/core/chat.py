"""Converts text to token ids; the only file that uses a chat template.

A prompt is encoded once, as a user turn or as the environment's messages. One assistant turn follows, written by the
policy and the environment together. Feedback is encoded on its own and appended, so that sampled tokens are never
re-encoded. Where an environment offers tools, feedback is a tool message: what the chat template writes from the end of
the assistant's message, in which the call is, to the beginning of the next one. Only the tokenizer and its template
write special tokens: their names in other text are encoded as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Encoding, Tokenizer

from agents.core.decoder import TokenBytes, TokenDecoder
from agents.core.errors import ModelError, one_line

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

_SAMPLE = "```output\n  1\n```\n"
Message = Mapping[str, Any]
"""A message of a chat: its role and its content."""
Tools = Sequence[Mapping[str, Any]]
"""JSON schemas of tools."""

_QUESTION: Message = {"role": "user", "content": "A message of the user"}
_ANSWER: Message = {"role": "assistant", "content": "A message of the assistant"}
_END_OF_MESSAGE = "<|eom_id|>"
_CALLS = {"hermes": ("<tool_call>", '"arguments"'), "llama3": ('"parameters"',)}
"""What a call has in each dialect."""
_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "tool_of_a_test",
        "description": "A tool.",
        "parameters": {"type": "object", "properties": {"code": {"type": "string", "description": "Code."}}},
    },
}


class Chat:
    """Encodes prompts and feedback, and decodes sampled tokens piece by piece.

    Args:
        tokenizer: A fast tokenizer with an end-of-sequence token.
        template: ``chat`` wraps the prompt in a user turn of the tokenizer's chat template and opens the assistant's
            turn; ``raw`` uses the prompt unchanged, as the paper's evaluation of Qwen2.5-Math does, after what the
            tokenizer itself puts before a text, such as a beginning-of-sequence token.
        template_kwargs: Variables of the chat template; by default ``enable_thinking`` is False. Templates ignore those
            that they do not have.
        dialect: How the environment's policies write code: ``fence``, or ``hermes`` or ``llama3`` for tool calls.

    Raises:
        ModelError: The tokenizer is slow, has no end-of-sequence token, changes the text that it encodes, or lacks the
            requested chat template; a variable is none of the template's; or the template cannot be used for the tool
            calls of the dialect.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Literal["chat", "raw"] = "chat",
        *,
        template_kwargs: Mapping[str, Any] | None = None,
        dialect: str = "fence",
    ) -> None:
        if template == "chat" and not tokenizer.chat_template:
            raise ModelError("Expect a tokenizer with a chat template, got one without: use `--template raw`.")
        if tokenizer.eos_token_id is None:
            raise ModelError("Expect a tokenizer with an end-of-sequence token, got one without.")
        if not tokenizer.is_fast:
            raise ModelError(f"Expect a fast tokenizer, got the slow {type(tokenizer).__name__}.")
        self.tokenizer = tokenizer
        self.template = template
        self._template_kwargs = {"enable_thinking": False} if template_kwargs is None else dict(template_kwargs)
        reserved = {"messages", *signature(tokenizer.apply_chat_template).parameters} - {"kwargs"}
        for name in sorted(reserved & self._template_kwargs.keys()):
            raise ModelError(f"Expect `chat_template_kwargs` to be variables of the chat template, got `{name}`.")
        added = tokenizer.added_tokens_decoder
        self._added = {i: token.content for i, token in added.items() if not token.content.isspace()}
        self._special = {i: name for i, name in self._added.items() if added[i].special}
        longest_first = sorted(self._special.values(), key=len, reverse=True)
        self._special_name = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._encode_inner = _inner_encoder(tokenizer)
        self._token_bytes = TokenBytes(tokenizer.backend_tokenizer)
        text = "".join(filter(self._has, _SAMPLE))  # a vocabulary for one environment may lack the rest
        written = b"".join(map(self._token_bytes.of, self.encode_feedback(text))).decode(errors="replace")
        if written != text:
            raise ModelError(f"Expect a tokenizer that keeps text as it is, got {written!r} for {text!r}.")
        if dialect != "fence":
            self._check_tools(dialect)

    def stop_token_ids(self, generation_config: GenerationConfig | None) -> frozenset[int]:
        """Return the tokens that end a completion.

        They are the tokenizer's eos token, those of the generation config, the one that the chat template, if there is
        one, writes after an assistant's message, and ``<|eom_id|>``, with which Llama ends a message with a call.
        """
        named = getattr(generation_config, "eos_token_id", None)
        more = named if isinstance(named, list) else [] if named is None else [named]
        end_of_message = [token_id for token_id, name in self._special.items() if name == _END_OF_MESSAGE]
        return frozenset([int(self.tokenizer.eos_token_id), *more, *self._end_of_turn(), *end_of_message])

    def end_of_turn(self) -> int:
        """Return the token that ends the policy's last turn: the chat template's, else the end of sequence."""
        written = self._end_of_turn() if self.template == "chat" else []
        return int((written or [self.tokenizer.eos_token_id])[0])

    def encode_prompt(self, prompt: str, messages: Sequence[Message] | None = None, tools: Tools = ()) -> list[int]:
        """Return the token ids before the policy's first token.

        Args:
            prompt: The prompt as a single text.
            messages: The prompt as chat messages, used with the chat template; None: one user turn with ``prompt``. If
                the template rejects or drops a system message, it is put before the first user message.
            tools: The tools that the policy may call, presented by the chat template.

        Raises:
            ModelError: The chat template rejects the messages.
        """
        if self.template == "raw":
            return self._encode_raw(prompt)
        written = messages or [{"role": "user", "content": prompt}]
        return self._encode_messages(written, lambda marked: self._render(marked, tools))

    def encode_feedback(self, feedback: str, tools: Tools = ()) -> list[int]:
        """Return the token ids of text that the environment inserts into the assistant's turn.

        Names of special tokens are encoded as plain text, so that program output cannot end a turn. A tokenizer that
        puts a space before a text does not do so here.

        Args:
            feedback: The text.
            tools: The tools that the policy may call; with any, the text is the content of a tool message, which
                follows the assistant's message up to its end and precedes the beginning of the next.
        """
        if not tools:
            return self._without_special(self._encode_inner(feedback), feedback)
        messages = [_QUESTION, _ANSWER, _tool_message(feedback, tools)]
        return self._encode_messages(messages, lambda marked: self._after_answer(marked, tools))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        return b"".join(map(self._token_bytes.of, token_ids)).decode(errors="replace")

    def decoder(self) -> TokenDecoder:
        """Return a decoder for the tokens of one completion."""
        return TokenDecoder(self._token_bytes)

    def _has(self, char: str) -> bool:
        ids = self.encode_feedback(char)
        return bool(ids) and self.tokenizer.unk_token_id not in ids

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _encode_raw(self, text: str) -> list[int]:
        """Encode a prompt as the tokenizer does, but without tokens that it puts behind a text."""
        encoded = self.tokenizer(text, split_special_tokens=True).encodings[0]
        ids = self._without_special(encoded, text)
        for is_added in reversed(encoded.special_tokens_mask if 0 in encoded.special_tokens_mask else ()):
            if not is_added:
                break
            ids.pop()
        return ids

    def _without_special(self, encoded: Encoding, text: str) -> list[int]:
        """Return the ids of encoded text, in which special tokens that the model itself found are spelled."""
        ids: list[int] = []
        for token_id, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
            is_name = self._special.get(token_id) == text[start:end]
            ids += [i for char in text[start:end] for i in self._encode_inner(char).ids] if is_name else [token_id]
        return ids

    def _encode_messages(self, messages: Sequence[Message], render: Callable[[Sequence[Message]], str]) -> list[int]:
        """Encode what ``render`` makes of messages, in whose contents names of special tokens are text."""
        texts = "".join(message["content"] for message in messages)
        if not self._special_name.search(texts):
            return self._encode(render(messages))
        mark = next(char for char in map(chr, range(0xE000, 0xF900)) if char not in texts)

        def marked(text: str) -> str:
            return self._special_name.sub(lambda name: mark + name[0], text)

        return self._encode_marked(render([{**each, "content": marked(each["content"])} for each in messages]), mark)

    def _encode_marked(self, marked: str, mark: str) -> list[int]:
        """Encode a rendered prompt in which a mark precedes each name of a special token that is text.

        From such a name on to the template's next special token, text is encoded as feedback is.
        """
        text, *parts = marked.split(mark)
        named: set[int] = set()  # where characters of these names stand
        for part in parts:
            name = self._special_name.match(part)
            named |= set(range(len(text), len(text) + (name.end() if name else 0)))
            text += part
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = []
        begin: int | None = None  # of the text that is encoded as feedback is
        for token_id, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            is_special = token_id in self._special
            if is_special and not named.isdisjoint(range(start, end)):
                begin = start if begin is None else begin
            elif is_special and begin is not None:
                ids += self.encode_feedback(text[begin:start])
                begin = None
            if begin is None:
                ids.append(token_id)
        return ids if begin is None else ids + self.encode_feedback(text[begin:])

    def _render(self, messages: Sequence[Message], tools: Tools) -> str:
        """Return the text of a prompt; a system message that the template has no place for joins the user's."""
        first, *others = messages
        if first["role"] != "system":
            return self._apply_template(messages, tools)
        try:
            text = self._apply_template(messages, tools)
            if first["content"].strip() in text:
                return text
        except ModelError:
            pass
        asked, *later = others or [{"role": "user", "content": ""}]
        if asked["role"] != "user":
            asked, later = {"role": "user", "content": ""}, others
        joined = f"{first['content']}\n\n{asked['content']}".strip()
        return self._apply_template([{"role": "user", "content": joined}, *later], tools)

    def _after_answer(self, messages: Sequence[Message], tools: Tools, *, opens_turn: bool = True) -> str:
        """Return what the template writes behind the message `_ANSWER`."""
        return self._apply_template(messages, tools, opens_turn=opens_turn).partition(_ANSWER["content"])[2]

    def _apply_template(
        self, messages: Sequence[Mapping[str, Any]], tools: Tools = (), *, opens_turn: bool = True
    ) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(map(dict, messages)),
                    add_generation_prompt=opens_turn,
                    tokenize=False,
                    tools=list(map(dict, tools)) or None,
                    **self._template_kwargs,
                )
            )
        except Exception as error:  # a template is a program, and raises what it likes
            roles = [message["role"] for message in messages]
            raise ModelError(
                f"Expect a chat template that takes messages of the roles {roles} and the variables "
                f"{self._template_kwargs}, got: {one_line(error)}. Use `--template raw`, or another prompt."
            ) from error

    def _end_of_turn(self) -> list[int]:
        """Return the added token that the template writes after an assistant's message, if it does."""
        if not self.tokenizer.chat_template:
            return []
        for messages in ([_QUESTION, _ANSWER], [_QUESTION, _ANSWER, _QUESTION]):
            try:
                text = self._apply_template(messages, opens_turn=False)
            except ModelError:
                continue
            _, found, behind = text.rpartition(_ANSWER["content"])
            encoded = self.tokenizer(behind if found else "", add_special_tokens=False, return_offsets_mapping=True)
            for token_id, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                if self._added.get(token_id) == behind[start:end].strip() and not behind[:start].strip():
                    return [token_id]
        return []

    def _check_tools(self, dialect: str) -> None:
        """Check that the chat template presents tools, writes calls as the dialect does, and answers them.

        A tool message may depend on nothing but its content, and must follow the assistant's message as it was.
        """
        flag = f"`--env.dialect {dialect}`"
        if self.template == "raw":
            raise ModelError(f"Expect a chat template for {flag}, got `--template raw`.")
        tools, content = [_TOOL], "7431\n"
        if _TOOL["function"]["name"] not in self._apply_template([_QUESTION], tools):
            raise ModelError(f"Expect a chat template that presents tools for {flag}, got one that drops them.")
        function = {"name": "tool_of_a_test", "arguments": {"code": content}}
        call: Message = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
        answer = _tool_message(content, tools)
        try:
            closing = self._after_answer([_QUESTION, _ANSWER], tools, opens_turn=False)
            first = self._after_answer([_QUESTION, _ANSWER, answer], tools)
            later = self._after_answer([_QUESTION, call, _tool_message("1", tools), _ANSWER, answer], tools)
            called = self._apply_template([_QUESTION, call], tools, opens_turn=False)
        except ModelError as error:
            raise ModelError(f"Expect a chat template for tool calls with {flag}: {error}") from error
        _, _, written = called.rpartition(_QUESTION["content"])
        if "7431" in written and not all(part in written for part in _CALLS.get(dialect, ())):
            raise ModelError(f"Expect a chat template that writes calls as {flag} does, got {written!r}.")
        tokens = b"".join(map(self._token_bytes.of, self._encode(first))).decode(errors="replace")
        follows = first.startswith(closing) and "7431" in first[len(closing) :]
        if not (follows and first == later and tokens == first):
            raise ModelError(
                f"Expect a chat template for {flag} that puts a tool message behind the text before it, and changes "
                f"nothing of that, got {first!r} behind a message that ends with {closing!r}."
            )


def _tool_message(content: str, tools: Tools) -> Message:
    return {"role": "tool", "name": str(tools[0]["function"]["name"]), "content": content}


def _inner_encoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], Encoding]:
    """Return what encodes text in the middle of a sequence: without special tokens and without a space before it."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    parts = {name: _state(getattr(backend, name)) for name in ("normalizer", "pre_tokenizer")}
    inner = {name: _without_prefix(part) for name, part in parts.items()}
    if inner == parts:
        return lambda text: tokenizer(text, add_special_tokens=False, split_special_tokens=True).encodings[0]
    changed = Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), **inner}))
    changed.no_truncation()
    changed.no_padding()
    changed.encode_special_tokens = True
    return lambda text: changed.encode(text, add_special_tokens=False)


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _without_prefix(part: Any) -> Any:
    """Return a normalizer or pre-tokenizer, as JSON, without what puts a space before a text.

    >>> _without_prefix({"type": "Metaspace", "prepend_scheme": "always"})
    {'type': 'Metaspace', 'prepend_scheme': 'never'}
    """
    match part:
        case {"type": "Prepend"}:
            return None
        case {"type": "Metaspace"}:
            return {**part, "prepend_scheme": "never"}
        case {"type": "ByteLevel", "add_prefix_space": True}:
            return {**part, "add_prefix_space": False}
        case {"type": "Sequence"}:
            return {
                name: [inner for each in value if (inner := _without_prefix(each)) is not None]
                if isinstance(value, list)
                else value
                for name, value in part.items()
            }
    return part
