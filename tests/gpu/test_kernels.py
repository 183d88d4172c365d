"""Kernels compute on the device what their formulas say, also far into memory and replayed from graphs."""

import pytest
import torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CHECKS = ["sums-and-norms", "gates", "rotations", "cache-writes", "empty-batches"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("check", CHECKS)
def test_kernels_follow_their_formulas(check: str, dtype: torch.dtype) -> None:
    from tests.support import kernel_checks

    assert list(kernel_checks.CHECKS) == CHECKS
    kernel_checks.CHECKS[check]("cuda", dtype)


def test_rows_beyond_32_bits_are_reached() -> None:
    from tests.support.kernel_checks import OPS
    from worker.shards.norm import Norm
    from worker.shards.spec import ActivationKind, NormKind

    num_tokens, columns = 2**17 + 5, 2**13
    hidden = torch.zeros(num_tokens, 2 * columns, dtype=torch.bfloat16, device="cuda")  # 4 GiB
    hidden[-5:] = torch.randn(5, 2 * columns, device="cuda")
    assert torch.equal(OPS.gate(hidden, ActivationKind.SILU)[-5:], OPS.gate(hidden[-5:], ActivationKind.SILU))
    norm, tail = Norm(NormKind.RMS, 1e-5), hidden[-5:].clone()
    far, near = OPS.add_norm(hidden, [hidden], None, norm), OPS.add_norm(tail, [tail.clone()], None, norm)
    assert all(torch.equal(one[-5:], other) for one, other in zip(far, near, strict=True))


def test_all_ranks_get_the_same_bytes_from_the_same_addends() -> None:
    from tests.support.kernel_checks import OPS
    from worker.shards.norm import Norm
    from worker.shards.spec import NormKind

    residual, *addends = torch.randn(5, 64, 4096, device="cuda").bfloat16()
    norm = Norm(NormKind.RMS, 1e-5)
    one, other = (OPS.add_norm(residual.clone(), addends, None, norm) for _ in range(2))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))
    swapped = OPS.add_norm(residual.clone(), addends[::-1], None, norm)
    assert (swapped[0] != one[0]).float().mean() < 0.05  # added up in float32, the order hardly shows


def test_replayed_kernels_read_what_is_in_memory_then() -> None:
    from tests.support.kernel_checks import EPS, OPS, Data, _rotation
    from worker.kernels.cache import write_kv
    from worker.shards.norm import Norm
    from worker.shards.spec import ActivationKind, NormKind

    data = Data("cuda", torch.float32)
    norm, rotation, slots = Norm(NormKind.RMS, EPS, data(96)), _rotation(data, 4, 8), torch.arange(4, device="cuda") * 3
    residual, addend, keys, values = data(4, 96), data(4, 96), data(16, 4, 8), data(16, 4, 8)

    def forward() -> tuple[torch.Tensor, ...]:
        _, normed = OPS.add_norm(residual, [addend], None, norm)
        query, key = OPS.rotate(normed.view(4, 12, 8)[:, :8], 4, rotation, None, EPS)
        write_kv(keys, values, slots, key, query)
        return OPS.gate(normed, ActivationKind.SILU), query

    forward()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = forward()
    for _ in range(3):
        start, more, turned = data(4, 96), data(4, 96), _rotation(data, 4, 8)
        residual.copy_(start), addend.copy_(more), rotation.copy_(turned), slots.add_(1)
        want = [tensor.clone() for tensor in forward()]
        held = keys.clone()
        residual.copy_(start), keys.zero_()
        graph.replay()
        assert all(torch.equal(got, wanted) for got, wanted in zip(outputs, want, strict=True))
        assert torch.equal(keys[slots], held[slots])
