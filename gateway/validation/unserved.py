"""What the contract has and this version does not do yet: refused, never ignored. The one list, made to shrink."""

from collections.abc import Callable
from typing import Final

from liger.errors import NotServedError
from liger.v1 import inference_pb2 as pb

Asked = Callable[[pb.GenerateRequest], bool]

# By field: whether a request asks for it. Values that change nothing, such as a penalty of 0, are fine.
UNSERVED: Final[dict[str, Asked]] = {
    "sampling.typical_p": lambda request: request.sampling.HasField("typical_p") and request.sampling.typical_p != 1.0,
    "sampling.repetition_penalty": lambda request: (
        request.sampling.HasField("repetition_penalty") and request.sampling.repetition_penalty != 1.0
    ),
    "sampling.presence_penalty": lambda request: request.sampling.presence_penalty != 0.0,
    "sampling.frequency_penalty": lambda request: request.sampling.frequency_penalty != 0.0,
    "sampling.logit_bias": lambda request: any(request.sampling.logit_bias.values()),
    "sampling.allowed_token_ids": lambda request: bool(request.sampling.allowed_token_ids),
    "sampling.banned_token_ids": lambda request: bool(request.sampling.banned_token_ids),
    "best_of": lambda request: request.HasField("best_of") and request.best_of != max(request.n, 1),
    "prompt_logprobs": lambda request: request.HasField("prompt_logprobs"),
    "structured_output": lambda request: request.HasField("structured_output"),
    "resume_num_tokens": lambda request: any(request.resume_num_tokens),
}


def refuse_unserved(request: pb.GenerateRequest) -> None:
    """Check that a generation, whose values are in range, asks for nothing that is not done yet.

    Raises:
        NotServedError: It does.
    """
    for field, asked in UNSERVED.items():
        if asked(request):
            raise NotServedError(f"{field} is not served yet; leave it unset", field=field)


def refuse_labels(task: pb.ClassifyTask) -> None:
    """Check that a classification brings no labels of its own.

    Raises:
        NotServedError: It does.
    """
    if task.labels:
        raise NotServedError("classify.labels is not served yet; leave it unset", field="classify.labels")
