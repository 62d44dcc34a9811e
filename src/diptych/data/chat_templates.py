"""Chat templates of our own writing, by names; in the language of transformers (Jinja)."""

_TURNS = """\
{%- for message in messages -%}
{{ START + message['role'] + '\\n' + message['content'] | trim + END + '\\n' }}
{%- endfor -%}"""


def _turns(start: str, end: str, last: str = "") -> str:
    """Return a template of turns with a mark, the role and a line break in front and a mark behind."""
    turns = _TURNS.replace("START", repr(start)).replace("END", repr(end))
    begun = f"{{{{ {start!r} + 'assistant\\n' }}}}"
    return f"{turns}{{%- if add_generation_prompt -%}}{begun}{{%- else -%}}{{{{ {last!r} }}}}{{%- endif -%}}"


_VICUNA = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] | trim + ' ' }}"
    "{%- elif message['role'] == 'user' -%}{{ 'USER: ' + message['content'] | trim + ' ' }}"
    "{%- else -%}{{ 'ASSISTANT: ' + message['content'] | trim + '</s>' }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT: ' }}{%- endif -%}"
)

_VIDEOCHAT2 = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] | trim + ' ###' }}"
    "{%- elif message['role'] == 'user' -%}"
    "{%- if loop.first -%}{{ '###' }}{%- endif -%}{{ 'Human: ' + message['content'] | trim + ' ###' }}"
    "{%- else -%}{{ 'Assistant: ' + message['content'] | trim + ' ###' }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant: ' }}{%- endif -%}"
)

_MISTRAL = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] | trim + ' ' }}"
    "{%- elif message['role'] == 'user' -%}{{ '[INST] ' + message['content'] | trim + ' [/INST] ' }}"
    "{%- else -%}{{ message['content'] | trim + '</s> ' }}"
    "{%- endif -%}{%- endfor -%}"
)

_BRIEF = (
    "{%- for message in messages -%}"
    "{%- if message['role'] != 'assistant' -%}{{ '<|im_start|>' }}{%- endif -%}"
    "{{ message['content'] | trim + '<|im_end|>' }}"
    "{%- endfor -%}"
)

TEMPLATES: dict[str, str] = {
    "brief": _BRIEF,
    "chatml": _turns("<|im_start|>", "<|im_end|>"),
    "internlm": _turns("[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]", "</s>"),
    "vicuna": _VICUNA,
    "videochat2": _VIDEOCHAT2,
    "videochat2_mistral": _MISTRAL,
}
"""`brief`: the marks of `chatml` without roles and line breaks, for many short turns; `chatml`: without the
system turn that some models put in front by themselves; `internlm`: that of InternLM-XComposer2 in training;
`vicuna`: that of LLaVA 1.5 and Video-LLaVA, without their system sentence; `videochat2` and
`videochat2_mistral`: turns of VideoChat2 on Vicuna (`###Human: ... ###Assistant: ... ###`) and on Mistral
(`[INST]`)."""
