"""Losses: what they equal, and that what is not known does not count."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from trainer.losses import concordance_loss, share_loss
from trainer.metrics import concordance

NAN = float("nan")


def test_with_one_label_a_row_it_is_the_cross_entropy() -> None:
    logits, labels = torch.randn(9, 7, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 7
    for smoothing in (0.0, 0.1):
        expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(
            share_loss(logits, functional.one_hot(labels, 7).float(), smoothing), expected
        )


def test_a_row_without_a_label_changes_neither_loss_nor_gradient() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(2), requires_grad=True)
    targets = functional.one_hot(torch.arange(5), 7).float()
    targets[3:] = 0
    loss = share_loss(logits, targets, 0.1)
    torch.testing.assert_close(loss, share_loss(logits[:3], targets[:3], 0.1))
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[3:].any()
    assert share_loss(logits, torch.zeros(5, 7)) == 0


def test_the_loss_is_one_less_the_metric() -> None:
    rng = np.random.default_rng(3)
    answers, targets = rng.normal(0, 1, (40, 2)), rng.normal(0, 1, (40, 2))
    targets[:7, 0], targets[30:, 1] = NAN, NAN
    expected = np.mean([1 - concordance(answers[:, i], targets[:, i]) for i in range(2)])
    assert concordance_loss(torch.from_numpy(answers), torch.from_numpy(targets)) == pytest.approx(
        expected, abs=1e-5
    )


def test_an_attribute_nobody_knows_adds_nothing() -> None:
    answers = torch.randn(6, 2, generator=torch.Generator().manual_seed(4), requires_grad=True)
    known = torch.rand(6, generator=torch.Generator().manual_seed(5))
    half = torch.stack((known, torch.full((6,), NAN)), 1)
    half[2, 0] = NAN
    loss = concordance_loss(answers, half)
    torch.testing.assert_close(loss, concordance_loss(answers[:, :1], half[:, :1]))
    loss.backward()
    assert answers.grad is not None
    assert answers.grad[[0, 1, 3, 4, 5], 0].all()
    assert not answers.grad[:, 1].any()
    assert answers.grad[2, 0] == 0


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_to_concord_is_zero_and_finite(rows: int) -> None:
    answers = torch.zeros(3, 1, requires_grad=True)
    targets = torch.full((3, 1), NAN)
    targets[:rows] = 0.5
    loss = concordance_loss(answers, targets)
    loss.backward()
    assert loss == 0
    assert answers.grad is not None
    assert torch.isfinite(answers.grad).all()


def test_equal_answers_have_a_finite_gradient() -> None:
    answers = torch.zeros(4, 1, requires_grad=True)
    concordance_loss(answers, torch.zeros(4, 1)).backward()
    assert answers.grad is not None
    assert torch.isfinite(answers.grad).all()
