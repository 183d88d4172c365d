"""What tests submit to a controller."""

from liger.v1 import controller_pb2, types_pb2

MEAN = controller_pb2.PoolHead(pooling=types_pb2.POOLING_MEAN)


def submit(request_id="r", model="m", **work):
    work = work or {"prompt_token_ids": [1, 2, 3], "num_samples": 1, "max_tokens": 4}
    return controller_pb2.Submit(
        request_id=request_id,
        model=model,
        task=types_pb2.TASK_GENERATE,
        generate=controller_pb2.GenerateWork(**work),
    )


def encode_work(types=(), **head):
    item = controller_pb2.EncodeWork.Item(token_ids=[1], token_type_ids=types)
    return controller_pb2.EncodeWork(items=[item], head=controller_pb2.EncodeHead(**head))


def failure(events):
    return events[-1].failed.error
