"""The Bedrock client speaks Converse and turns AWS's errors into one clear error."""

from __future__ import annotations

from typing import Any

import pytest

from mindrlhf_grpo.chat.bedrock import Bedrock
from mindrlhf_grpo.errors import BackendError, RequestRefused, ServerError


class Converse:
    """A stand-in for boto3's client that records its requests."""

    def __init__(self, reply: Any = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.reply = reply

    def converse(self, **request: Any) -> Any:
        self.asked.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        text = request["messages"][-1]["content"][0]["text"]
        return self.reply or {"output": {"message": {"content": [{"reasoningContent": {}}, {"text": f"heard {text}"}]}}}


def test_system_messages_and_limits_go_where_converse_wants_them() -> None:
    client = Converse()
    model = Bedrock("some.model", client=client)
    asked = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    assert model.complete([asked, asked[1:]], max_tokens=9, temperature=0.7) == ["heard hi", "heard hi"]
    by_system = {"system" in request: request for request in client.asked}
    assert by_system[True] == {
        "modelId": "some.model",
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
        "inferenceConfig": {"maxTokens": 9, "temperature": 0.7},
        "system": [{"text": "be kind"}],
    }
    assert "system" not in by_system[False]


@pytest.mark.parametrize(
    ("reply", "said"), [(RuntimeError("AccessDenied"), "RuntimeError: AccessDenied"), ({"output": {}}, "another form")]
)
def test_trouble_is_one_clear_error(reply: Any, said: str) -> None:
    with pytest.raises(ServerError, match=f"some.model.*{said}"):
        Bedrock("some.model", client=Converse(reply)).complete([[{"role": "user", "content": "hi"}]], max_tokens=1)


def test_a_request_that_aws_finds_at_fault_is_refused_by_itself() -> None:
    """Finding F16: ValidationException is the refusal of one request, as status 400 of a chat server is."""
    at_fault = type("ValidationException", (Exception,), {})("Input is too long for requested model")
    with pytest.raises(
        RequestRefused, match=r"refused a request: ValidationException: Input is too long .*us\.some\.model"
    ):
        Bedrock("some.model", client=Converse(at_fault)).complete([[{"role": "user", "content": "hi"}]], max_tokens=1)


def test_without_boto3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("mindrlhf_grpo.chat.bedrock.importlib.import_module", missing)
    with pytest.raises(BackendError, match="pip install boto3"):
        Bedrock("some.model")
