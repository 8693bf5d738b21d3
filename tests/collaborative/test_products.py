"""Products of bags and of blocks against plain ones."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from pipeline.collaborative.products import bag_sums, in_blocks


def test_bag_sums_and_what_is_learned_from_them() -> None:
    random = np.random.default_rng(1)
    dense = np.where(random.random((6, 9)) < 0.4, random.random((6, 9)), 0).astype(np.float32)
    dense[2] = 0
    weights = torch.randn(9, 4, requires_grad=True)
    found = bag_sums(sp.csr_matrix(dense), weights)
    torch.testing.assert_close(found, torch.from_numpy(dense) @ weights)
    (found * torch.arange(4)).sum().backward()
    torch.testing.assert_close(weights.grad, torch.from_numpy(dense).sum(dim=0)[:, None] * torch.arange(4))


def test_dropout_leaves_out_a_share_and_enlarges_the_rest() -> None:
    torch.manual_seed(1)
    found = bag_sums(sp.csr_matrix(np.ones((1, 10_000), np.float32)), torch.eye(1).expand(10_000, 1), 0.25)
    assert abs(found.item() / 10_000 - 1) < 0.02
    one = bag_sums(sp.identity(50, np.float32, "csr"), torch.ones(50, 1), 0.25)
    assert set(one.ravel().tolist()) == {0.0, float(np.float32(1 / 0.75))}


def test_a_row_does_not_depend_on_the_others() -> None:
    random = np.random.default_rng(1)
    x, weights = (random.random(shape).astype(np.float32) for shape in ((1500, 7), (7, 5)))
    found = in_blocks(x, weights)
    np.testing.assert_allclose(found, x @ weights, rtol=1e-5)
    np.testing.assert_array_equal(in_blocks(x[700:703], weights), found[700:703])
