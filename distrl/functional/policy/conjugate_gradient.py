"""Conjugate gradients: solve F x = b from products with F, as in TRPO."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor], b: Tensor, iterations: int = 10, tolerance: float = 1e-10
) -> Tensor:
    """Solve F x = b approximately for a positive definite F. Hestenes and Stiefel 1952.

    Starts from 0. Stops early, with the solution so far, when the squared residual is at most `tolerance`, and at a
    direction without positive curvature.

    Args:
        matvec: v -> F v, both (P,).
        b: (P,).
        iterations: Upper bound on products.
        tolerance: Of the squared norm of the residual b - F x.

    >>> conjugate_gradient(lambda v: 2.0 * v, torch.tensor([2.0, 4.0]))
    tensor([1., 2.])
    """
    residual = b.detach().clone()
    x = torch.zeros_like(residual)
    direction = residual.clone()
    squared = residual.dot(residual)
    for _ in range(iterations):
        if squared <= tolerance:
            break
        product = matvec(direction).detach()
        curvature = direction.dot(product)
        if curvature <= 0:
            break
        step = squared / curvature
        x += step * direction
        residual -= step * product
        squared, previous = residual.dot(residual), squared
        direction = residual + (squared / previous) * direction
    return x


def trust_region_scale(direction: Tensor, curvature_product: Tensor, max_kl: float) -> Tensor:
    """Return s with KL = max_kl at s * direction. Schulman et al. 2015, app. C.

    s = sqrt(2 max_kl / x^T F x) in the quadratic model; 0 where x^T F x is not positive. A product with damping
    makes the step shorter than the trust region.

    Args:
        direction: x, (P,).
        curvature_product: F x, (P,).
        max_kl: Radius of the trust region, in nats.
    """
    curvature = direction.dot(curvature_product)
    positive = curvature > 0
    safe = torch.where(positive, curvature, torch.ones_like(curvature))
    return torch.where(positive, (2.0 * max_kl / safe).sqrt(), torch.zeros_like(curvature))
