"""Every way of running the recurrence gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distrl.functional import scan


def plain(delta: np.ndarray, decay: np.ndarray) -> np.ndarray:
    result = np.zeros_like(delta)
    after = np.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        after = result[t] = delta[t] + decay[t] * after
    return result


SHAPES = [(1, 1), (2, 3), (3, 1), (16, 4), (17, 2), (128, 4), (1000, 3)]
WAYS = {
    "chosen": scan.reverse_scan,
    "doubling": lambda d, k: torch.from_numpy(scan._doubling_numpy(d.numpy(), k.numpy())),
    "loop": lambda d, k: torch.from_numpy(scan._loop_numpy(d.numpy(), k.numpy())),
    "doubling torch": scan._doubling_torch,
    "loop torch": scan._loop_torch,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS)
def test_all_ways_agree_in_float64(way, shape):
    rng = np.random.default_rng(0)
    delta = rng.normal(size=shape)
    decay = rng.random(shape) * (rng.random(shape) < 0.9)
    decay[rng.random(shape) < 0.3] = 1.0
    before = delta.copy(), decay.copy()
    found = WAYS[way](torch.from_numpy(delta), torch.from_numpy(decay))
    np.testing.assert_allclose(found.numpy(), plain(delta, decay), rtol=0, atol=1e-9)
    assert np.array_equal(delta, before[0])
    assert np.array_equal(decay, before[1])


def test_columns_need_not_be_contiguous():
    rng = np.random.default_rng(1)
    delta, decay = torch.from_numpy(rng.normal(size=(4, 9))).T, torch.from_numpy(rng.random((9, 8)))[:, ::2]
    np.testing.assert_allclose(scan.reverse_scan(delta, decay), plain(delta.numpy(), decay.numpy()), atol=1e-12)


def test_big_arrays_take_the_loop_and_agree():
    rng = np.random.default_rng(2)
    delta, decay = rng.normal(size=(600, 256)), rng.random((600, 256))
    assert delta.size >= scan.LOOP_FROM
    found = scan.reverse_scan(torch.from_numpy(delta), torch.from_numpy(decay))
    np.testing.assert_allclose(found.numpy(), plain(delta, decay), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_decays_above_one_do_not_spoil_finite_sums(dtype):
    delta, decay = torch.zeros(300, 1, dtype=dtype), torch.full((300, 1), 4.0, dtype=dtype)
    delta[5] = 1.0  # 4^200 is infinite in these types, but nothing is multiplied by it
    found = scan.reverse_scan(delta, decay)
    assert found[:6, 0].tolist() == [4.0**5, 4.0**4, 4.0**3, 4.0**2, 4.0, 1.0]
    assert (found[6:] == 0).all()


def test_float32_stays_float32_and_close():
    rng = np.random.default_rng(3)
    delta, decay = rng.normal(size=(2048, 2)), np.full((2048, 2), 0.99 * 0.95)
    found = scan.reverse_scan(torch.from_numpy(delta).float(), torch.from_numpy(decay).float())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), plain(delta, decay), atol=2e-5)


def test_no_gradient_flows():
    delta = torch.ones(4, 1, requires_grad=True)
    assert not scan.reverse_scan(delta, torch.ones(4, 1)).requires_grad


def test_no_steps_give_no_steps():
    assert scan.reverse_scan(torch.ones(0, 3), torch.ones(0, 3)).shape == (0, 3)


def test_shapes_must_be_equal():
    with pytest.raises(ValueError, match=r"\(3, 1\).*\(3, 2\)"):
        scan.reverse_scan(torch.ones(3, 1), torch.ones(3, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_accelerator_agrees():
    rng = np.random.default_rng(4)
    delta, decay = rng.normal(size=(500, 7)), rng.random((500, 7))
    found = scan.reverse_scan(torch.from_numpy(delta).cuda(), torch.from_numpy(decay).cuda())
    np.testing.assert_allclose(found.cpu().numpy(), plain(delta, decay), rtol=0, atol=1e-9)
