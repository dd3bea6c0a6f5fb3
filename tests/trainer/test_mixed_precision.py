"""bfloat16 only where the device is made for it."""

import platform

import pytest
import torch

from trainer.mixed_precision import mixed_precision, suits


@pytest.mark.parametrize(
    ("machine", "units", "suited"),
    [("x86_64", (False, False), False), ("AMD64", (True, False), True), ("x86_64", (False, True), True),
     ("aarch64", (False, False), True)],
)  # fmt: skip
def test_a_processor_without_units_computes_in_full(
    machine: str, units: tuple[bool, bool], suited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: units[0])
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units[1])
    with mixed_precision("cpu", wanted=True):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if suited else torch.float32)
    with mixed_precision("cpu", wanted=False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert suits("cuda")
