"""Comparing the fast form with :mod:`pcka.core.reference`, values and gradients."""

import torch

ESTIMATORS = [(False, False), (True, False), (True, True)]  # center, debiased


def value_and_gradients(function, *tensors):
    """Return the value of a function, and its gradients with respect to all tensors."""
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    value = function(*tensors)
    return value.detach(), *torch.autograd.grad(value.sum(), tensors)


def assert_same(ours, wanted, tolerance=1e-11):
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
