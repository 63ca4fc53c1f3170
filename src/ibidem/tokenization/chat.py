"""The chat template: a conversation as ids, and which of them are trained.

    <|endoftext|><|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>Hello<|end|>
                                                                     ~~~~~~~~~~~~ trained

    <|passage|>...<|/passage|>         a retrieved passage, in a turn of the user or a tool
    <|cite|>1<|/cite|>                 a citation, in the assistant's turn
    <|tool_call|>...<|/tool_call|>     a tool call, in the assistant's turn, answered by <|tool|>...<|end|>

Markers are ids that no text encodes to, and every text is encoded by itself, verbatim: no text can spell a role. Parts
of text that follow one another are one text.
Pretraining, SFT, evaluation and serving all render here.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

from ibidem.conversation import Part, PartKind, Role, Turn
from ibidem.tokenization import special

ROLE_MARKERS: dict[Role, str] = {
    "system": special.SYSTEM,
    "user": special.USER,
    "assistant": special.ASSISTANT,
    "tool": special.TOOL,
}
PART_MARKERS: dict[PartKind, tuple[str, str]] = {
    "passage": (special.PASSAGE, special.PASSAGE_END),
    "cite": (special.CITE, special.CITE_END),
    "tool_call": (special.TOOL_CALL, special.TOOL_CALL_END),
}


class ChatCodec(Protocol):
    """What the template requires of a tokenizer."""

    document_id: int
    end_ids: frozenset[int]

    def id_of(self, token: str) -> int:
        """Return the id of a special token."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, never those of special tokens."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids."""


class Rendered(NamedTuple):
    """A conversation as ids."""

    ids: list[int]
    is_trained: list[bool]
    """Whether the model learns to generate an id: the assistant's parts, and the end of its turns."""


class ChatTemplate:
    """Renders conversations with one tokenizer, and reads the turns that a model generates."""

    def __init__(self, codec: ChatCodec) -> None:
        """Look up the markers.

        Raises:
            ArtifactError: the tokenizer has no chat markers.
        """
        self._codec = codec
        self._roles = {role: codec.id_of(name) for role, name in ROLE_MARKERS.items()}
        self._parts = {kind: tuple(map(codec.id_of, names)) for kind, names in PART_MARKERS.items()}
        self.turn_end_id = codec.id_of(special.TURN_END)
        self.end_ids = codec.end_ids
        """Ids that end a generated turn."""
        begins: dict[int, PartKind] = {last: "text" for _, last in self._parts.values()}
        begins |= {first: kind for kind, (first, _) in self._parts.items() if kind != "passage"}
        self.begins = begins
        """The kind of part that begins behind a marker in a generated turn, by the marker's id."""

    def render(self, turns: Iterable[Turn]) -> Rendered:
        """Return a whole conversation."""
        rendered = Rendered([self._codec.document_id], [False])
        for turn in turns:
            body = [*self._body(turn.parts), self.turn_end_id]
            rendered.ids.extend([self._roles[turn.role], *body])
            rendered.is_trained.extend([False, *[turn.role == "assistant"] * len(body)])
        return rendered

    def prompt(self, turns: Iterable[Turn]) -> list[int]:
        """Return the ids after which a model generates the assistant's next turn."""
        return [*self.render(turns).ids, self._roles["assistant"]]

    def answer(self, parts: Iterable[Part]) -> list[int]:
        """Return the ids that follow a prompt if the assistant answers with these parts."""
        return [*self._body(parts), self.turn_end_id]

    def read(self, ids: Sequence[int]) -> Turn:
        """Return the assistant's turn that a model generated after a prompt.

        The turn ends at the first id that ends a turn. A part that is not closed is closed there; a marker that opens
        nothing here is left out.
        """
        parts: list[Part] = []
        kind: PartKind = "text"
        start = 0
        end = next((place for place, number in enumerate(ids) if number in self.end_ids), len(ids))
        for place, number in enumerate([*ids[:end], self.turn_end_id]):
            if number in self.begins or place == end:
                text = self._codec.decode(ids[start:place])
                if text or kind != "text":
                    parts.append(Part(kind, text))
                kind, start = self.begins.get(number, "text"), place + 1
        return Turn("assistant", tuple(joined(parts)))

    def _body(self, parts: Iterable[Part]) -> list[int]:
        ids: list[int] = []
        for part in joined(parts):
            text = self._codec.encode(part.text)
            if part.kind == "text":
                ids += text
            else:
                first, last = self._parts[part.kind]
                ids += [first, *text, last]
        return ids


def joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield parts, those of text that follow one another as one.

    >>> list(joined([Part("text", "a"), Part("text", "b"), Part("cite", "1")]))
    [Part(kind='text', text='ab'), Part(kind='cite', text='1')]
    """
    for is_text, group in groupby(parts, lambda part: part.kind == "text"):
        if is_text:
            yield Part("text", "".join(part.text for part in group))
        else:
            yield from group
