"""Our chat template in Jinja, as tokenizers of transformers carry one.

    {"role": "user", "content": "Hi"}
    {"role": "user", "content": [{"type": "text", "text": "When?"}, {"type": "passage", "text": "From 9 to 17."}]}
    {"role": "assistant", "content": [{"type": "text", "text": "At nine"}, {"type": "cite", "text": "1"}]}

A content is one text, or a list of parts as `ibidem.conversation` has them. The ids of what is rendered are those of
`ibidem.tokenization.chat`: texts are escaped, so that none can spell a marker, whether or not the tokenizer looks for
special tokens in texts.
"""

import json

from ibidem.conversation import PART_KINDS, ROLES
from ibidem.tokenization import special
from ibidem.tokenization.alphabet import Alphabet

_TEMPLATE = """\
{%- macro text(words) -%}
  {%- if words is not string -%}
    {{- raise_exception('a text is not a string') -}}
  {%- endif -%}
  {{- wordsBRACKETS | replace('LEAD', 'LEADESCAPE') -}}
{%- endmacro -%}
{%- if tools or documents -%}
  {{- raise_exception('no form for tools and documents: write them as text, or as parts of type passage') -}}
{%- endif -%}
{{- DOCUMENT -}}
{%- for message in messages -%}
  {%- if message.role not in ROLES -%}
    {{- raise_exception('the role ' ~ message.role ~ ' is none of ' ~ ROLES | join(', ')) -}}
  {%- endif -%}
  {%- if message.tool_calls -%}
    {{- raise_exception('tool calls are parts of type tool_call of the content') -}}
  {%- endif -%}
  {{- 'LEAD|' ~ message.role ~ '|>' -}}
  {%- if message.content is string -%}
    {{- text(message.content) -}}
  {%- elif message.content is not defined or message.content is not iterable -%}
    {{- raise_exception('a message without content') -}}
  {%- else -%}
    {%- for part in message.content -%}
      {%- if part.type == 'text' -%}
        {{- text(part.text) -}}
      {%- elif part.type in MARKED -%}
        {{- 'LEAD|' ~ part.type ~ '|>' ~ text(part.text) ~ 'LEAD|/' ~ part.type ~ '|>' -}}
      {%- else -%}
        {{- raise_exception('the type ' ~ part.type ~ ' of a part is none of text, ' ~ MARKED | join(', ')) -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- 'LEAD|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- 'LEAD|assistant|>' -}}
{%- endif -%}
"""


def chat_template(alphabet: Alphabet, *, document: str | None = None) -> str:
    """Return the template of a tokenizer with this alphabet.

    Args:
        alphabet: two characters that are in no piece.
        document: of an imported tokenizer, the name of the token that begins a document.
    """
    marked = [kind for kind in PART_KINDS if kind != "text"]
    lists = {
        "ROLES": repr(list(ROLES)),
        "MARKED": repr(marked),
        "BRACKETS": " | replace('<', '<ESCAPE')" if document is None else "",
        "DOCUMENT": json.dumps(document or alphabet.marked(special.DOCUMENT), ensure_ascii=False),
        "LEAD": alphabet.lead,
        "ESCAPE": alphabet.escape,
    }
    template = _TEMPLATE
    for name, value in lists.items():
        template = template.replace(name, value)
    return template
