from __future__ import annotations

import pytest

from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.chat_template import ChatTemplate

USER = [{"role": "user", "content": "<b> & 'é'"}]


def render(source: str, messages: list[dict[str, str]] = USER, **tokens: str) -> str:
    return ChatTemplate(source, tokens).render(messages)


def test_named_tokens_and_the_generation_prompt() -> None:
    assert (
        render("{{ bos_token }}{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}", bos_token="<s>")
        == "<s><b> & 'é'>"
    )


def test_blocks_leave_no_white_space_and_loops_can_be_left() -> None:
    source = "{% for m in messages %}\n    {% if loop.index > 1 %}{% break %}{% endif %}\n{{ m.role }}\n{% endfor %}"
    assert render(source, USER * 2) == "user\n"


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ messages[0] | tojson }}") == '{"role": "user", "content": "<b> & \'é\'"}'


def test_generation_tag_renders_its_body() -> None:
    assert render("{% generation %}{{ messages[0].role }}{% endgeneration %}!") == "user!"


def test_the_date_is_fixed_so_that_a_resumed_run_sees_the_same_prompt() -> None:
    assert render("{{ strftime_now('%d %b %Y') }}") == "26 Jul 2024"


def test_absent_tools_are_none() -> None:
    assert render("{% if tools is none and documents is none %}none{% endif %}") == "none"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses the conversation: roles must alternate"),
        ("{{ messages[0].content + 1 }}", "refuses the conversation"),
        ("{{ nothing.at.all }}", "refuses the conversation"),
        ("{{ messages.append(1) }}", "refuses the conversation"),
        ("{{ ''.__class__.__mro__ }}", "refuses the conversation"),
    ],
)
def test_a_refusal_is_a_data_error(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        render(source)


def test_a_template_that_does_not_compile() -> None:
    with pytest.raises(DataError, match="does not compile"):
        ChatTemplate("{% if %}", {})
