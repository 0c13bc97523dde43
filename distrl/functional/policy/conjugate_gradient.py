"""Conjugate gradients: solve F x = b where only products with F are known, as in TRPO."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor], b: Tensor, iterations: int = 10, tolerance: float = 1e-10
) -> Tensor:
    """An approximate solution of F x = b for a symmetric positive definite F. Hestenes and Stiefel 1952.

    Exact arithmetic would need as many iterations as `b` has elements; a few give a useful natural-gradient direction.
    Starts from 0, so b = 0 returns 0. Stops early when the squared residual falls below `tolerance`, and when a
    direction has no positive curvature (F is not positive definite there, or rounding has used up all progress), with
    what was found up to then.

    Args:
        matvec: v -> F v, both (P,).
        b: (P,).
        iterations: At most so many products.
        tolerance: Squared norm of the residual b - F x that is small enough.

    Returns:
        x, (P,), without gradient.

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
    """The factor s for which s * direction reaches KL = max_kl in the quadratic model. Schulman et al. 2015, app. C.

    s = sqrt(2 max_kl / x^T F x). With a product that leaves the damping out, the step is as long as the trust region
    allows; with damping in it is shorter.

    Args:
        direction: x, (P,).
        curvature_product: F x, (P,).
        max_kl: Radius of the trust region, in nats.

    Returns:
        Scalar; 0 where x^T F x is not positive (no gradient: no move).
    """
    curvature = direction.dot(curvature_product)
    positive = curvature > 0
    safe = torch.where(positive, curvature, torch.ones_like(curvature))
    return torch.where(positive, (2.0 * max_kl / safe).sqrt(), torch.zeros_like(curvature))
