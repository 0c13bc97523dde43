"""Maximum mean discrepancy: exact values, gradients, and learning."""

from __future__ import annotations

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.functional.distributions.mmd import KERNELS, mmd_squared


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_particles_have_no_distance_and_no_nan(kernel):
    particles = torch.randn(3, 6, 2, requires_grad=True)
    loss = mmd_squared(particles, particles.detach(), kernel=kernel)
    torch.testing.assert_close(loss, torch.zeros(3), atol=1e-5, rtol=0)
    loss.sum().backward()
    assert particles.grad.isfinite().all()


def test_energy_distance_of_two_points():
    z, y = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[4.0, 6.0]])
    loss = mmd_squared(z, y, kernel="energy")
    assert loss.item() == pytest.approx(10.0)
    loss.backward()
    torch.testing.assert_close(z.grad, torch.tensor([[-1.2, -1.6]]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_order_of_particles_does_not_matter(kernel):
    z, y = torch.randn(8, 3).double(), torch.randn(5, 3).double()
    shuffled = mmd_squared(z[torch.randperm(8)], y[torch.randperm(5)], kernel=kernel)
    torch.testing.assert_close(shuffled, mmd_squared(z, y, kernel=kernel))


@pytest.mark.parametrize("kernel", KERNELS)
def test_against_the_double_sum_and_finite_differences(kernel):
    z = torch.randn(2, 4, 2).double().requires_grad_()
    y = torch.randn(2, 3, 2).double()
    probs = torch.tensor([0.2, 0.3, 0.5]).double().expand(2, 3)

    def k(a, b):
        squared = ((a - b) ** 2).sum()
        return -squared.sqrt() if kernel == "energy" else torch.exp(-squared / 2) + torch.exp(-squared / 8)

    expected = torch.zeros(2).double()
    for row in range(2):
        expected[row] += sum(k(a, b) for a in z[row] for b in z[row]) / 16
        expected[row] -= 2 * sum(p * k(a, b) for a in z[row] for b, p in zip(y[row], probs[row], strict=True)) / 4
        pairs = [(a, b, p * q) for a, p in zip(y[row], probs[row]) for b, q in zip(y[row], probs[row])]  # noqa: B905
        expected[row] += sum(w * k(a, b) for a, b, w in pairs)
    found = mmd_squared(z, y, probs, kernel, (1.0, 4.0))
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(lambda x: mmd_squared(x, y, probs, kernel, (1.0, 4.0)), z)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_learns_the_correlation_of_channels(sign):
    """A coin: rewards (x, sign x) with x = -1 or 1; each channel alone looks the same."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(16, 2, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([z], 0.05)
    for _ in range(300):
        x = 2.0 * torch.randint(0, 2, (16, 1), generator=generator) - 1.0
        loss = mmd_squared(z, torch.cat((x, sign * x), -1), kernel="energy")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.corrcoef(z.detach().T)[0, 1].item() == pytest.approx(sign, abs=0.1)


def test_unknown_kernel():
    with pytest.raises(ConfigError, match="did you mean 'gaussian'"):
        mmd_squared(torch.zeros(1, 1), torch.zeros(1, 1), kernel="gausian")
