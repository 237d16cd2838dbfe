"""Chat templates in small, which serialise tool calls as those of known models do, and the readers that
serving engines apply to what a model then writes."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

QWEN = """{%- for m in messages %}<|im_start|>{{ m.role }}
{%- if m.content %}
{{ m.content }}{% endif %}
{%- if m.role == 'assistant' and m.tool_calls %}
{%- for call in m.tool_calls %}{% set call = call.function if call.function else call %}
<tool_call>
{"name": "{{ call.name }}", "arguments": {{ call.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}<|im_end|>
{% endfor %}"""
"""As Qwen2.5's: the arguments with tojson, whatever they are."""

HERMES = """{%- for m in messages %}<|im_start|>{{ m.role }}
{%- if m.role == 'assistant' and 'tool_calls' in m %}
{%- for call in m.tool_calls %}
<tool_call>
{"arguments": {% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}
{{- call.function.arguments | tojson }}{% endif %}, "name": "{{ call.function.name }}"}
</tool_call>{% endfor %}{% else %}
{{ m.content }}{% endif %}<|im_end|>
{% endfor %}"""
"""As Hermes': asks whether the field is there, and takes arguments of both kinds."""

LLAMA = """{%- for m in messages %}
{%- if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) %}
<|start_header_id|>{{ m.role }}<|end_header_id|>
{{ m.content | trim }}<|eot_id|>
{%- elif 'tool_calls' in m %}
{%- for call in m.tool_calls %}
<|start_header_id|>assistant<|end_header_id|>
{"name": "{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}<|eot_id|>
{%- endfor %}
{%- else %}
<|start_header_id|>ipython<|end_header_id|>
{{ m.content | tojson }}<|eot_id|>
{%- endif %}{% endfor %}"""
"""As Llama 3.1's, which asks `'tool_calls' in message`; that one takes a single call, this one several."""

TEXT = """{%- for m in messages %}[{{ m.role }}]
{%- if m.tool_calls %}{% for call in m.tool_calls %}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments }}}</tool_call>
{%- endfor %}{% else %}{{ m.content }}{% endif %}
{% endfor %}"""
"""As templates that take the arguments as JSON text and put it in as it is."""


MISTRAL = """{%- for m in messages %}
{%- if m.role == 'assistant' and m.tool_calls %}[TOOL_CALLS] [
{%- for call in m.tool_calls %}
{%- if call.id | length != 9 or not call.id.isalnum() %}{{ raise_exception('nine letters') }}{% endif %}
{"id": "{{ call.id }}", "name": "{{ call.function.name }}",
 "arguments": {{ call.function.arguments | tojson }}}{{ ',' if not loop.last }}
{%- endfor %}]</s>
{%- elif m.role == 'tool' %}[TOOL_RESULTS] {"content": {{ m.content | tojson }}}
{%- else %}[INST] {{ m.content }}[/INST]{% endif %}
{% endfor %}"""
"""As Mistral 7B Instruct v0.3's: refuses every id that has not nine letters and digits."""


def mistral_calls(text: str) -> list[tuple[str, str]]:
    """What the parser `mistral` hands to a client."""
    blocks = re.findall(r"\[TOOL_CALLS\] (\[.*?\])</s>", text, re.S)
    return [(call["name"], json.dumps(call["arguments"])) for block in blocks for call in json.loads(block)]


def hermes_calls(text: str) -> list[tuple[str, str]]:
    """What the parser `hermes` of vLLM and SGLang hands to a client: (name, arguments as text)."""
    blocks = re.findall(r"<tool_call>\s*(.*?)\s*</tool_call>", text, re.S)
    return [(call["name"], json.dumps(call["arguments"])) for call in map(json.loads, blocks)]


def llama_calls(text: str) -> list[tuple[str, str]]:
    """What the parser `llama3_json` hands to a client."""
    blocks = re.findall(r"assistant<\|end_header_id\|>\n(\{.*?\})<\|eot_id\|>", text, re.S)
    return [(call["name"], json.dumps(call["parameters"])) for call in map(json.loads, blocks)]


@dataclass(frozen=True)
class Model:
    """How a model writes its calls, and how its server reads them."""

    template: str
    read: Callable[[str], list[tuple[str, str]]]
    arguments: str
    """object or text: the form of --arguments that it takes."""


MODELS = {
    "Qwen2.5": Model(QWEN, hermes_calls, "object"),
    "Hermes": Model(HERMES, hermes_calls, "object"),
    "Hermes, text": Model(HERMES, hermes_calls, "text"),
    "Llama 3.1": Model(LLAMA, llama_calls, "object"),
    "Mistral": Model(MISTRAL, mistral_calls, "object"),
    "text as it is": Model(TEXT, hermes_calls, "text"),
}
