"""Client of models on AWS Bedrock (Converse API), with the same ``complete`` as a chat server's.

boto3 finds credentials itself (environment, profile, role) and retries when it is throttled; it is imported only when a
client is created.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from ..errors import BackendError, RequestRefused, ServerError
from .chat_server import Conversation, in_parallel


class Bedrock:
    """One model in one region.

    Args:
        model: id of a model or inference profile.
        client: an object with boto3's ``converse``; None creates one.

    Raises:
        BackendError: boto3 is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        region: str = "us-east-1",
        timeout: float = 120.0,
        concurrency: int = 4,
        retries: int = 6,
        client: Any = None,
    ) -> None:
        self.model = model
        self.url = f"AWS Bedrock in {region}"
        self._concurrency = concurrency
        self._client = client or _client(region, timeout, retries, concurrency)

    def close(self) -> None:
        """Do nothing: boto3 closes its connections itself."""

    def complete(
        self, conversations: Sequence[Conversation], *, max_tokens: int, temperature: float = 0.0
    ) -> list[str]:
        """Return the answer to each conversation, in order.

        Raises:
            RequestRefused: AWS finds a conversation itself at fault (ValidationException).
            ServerError: no credentials, or no answer after all tries.
        """
        limits = {"maxTokens": max_tokens, "temperature": temperature}
        return in_parallel(lambda asked: self._answer(asked, limits), conversations, self._concurrency)

    def _answer(self, conversation: Conversation, limits: dict[str, float]) -> str:
        system = [{"text": message["content"]} for message in conversation if message["role"] == "system"]
        messages = [
            {"role": message["role"], "content": [{"text": message["content"]}]}
            for message in conversation
            if message["role"] != "system"
        ]
        extra = {"system": system} if system else {}
        try:
            reply = self._client.converse(modelId=self.model, messages=messages, inferenceConfig=limits, **extra)
        except Exception as error:  # botocore makes its classes when it runs
            said = f"{type(error).__name__}: {str(error)[:300]}"
            if type(error).__name__ == "ValidationException":
                raise RequestRefused(
                    f"{self.url} (model {self.model}) refused a request: {said}. Where it refuses all, the region may "
                    f"serve this model under the id of an inference profile only (us.{self.model.removeprefix('us.')})"
                ) from error
            raise ServerError(
                f"{self.url} (model {self.model}) did not answer: {said}. "
                f"Check credentials, region and access to the model, then run the same command again"
            ) from error
        try:
            parts = reply["output"]["message"]["content"]
            return "".join(part.get("text", "") for part in parts)
        except (KeyError, TypeError, AttributeError):
            raise ServerError(
                f"{self.url} (model {self.model}) gave an answer of another form than Converse's"
            ) from None


def _client(region: str, timeout: float, retries: int, connections: int) -> Any:
    try:
        boto3, config = importlib.import_module("boto3"), importlib.import_module("botocore.config")
    except ModuleNotFoundError:
        raise BackendError("AWS Bedrock needs boto3: pip install boto3") from None
    settings = config.Config(
        read_timeout=timeout,
        max_pool_connections=connections,
        retries={"mode": "adaptive", "total_max_attempts": retries + 1},
    )
    return boto3.client("bedrock-runtime", region_name=region, config=settings)
