"""Counting what is read from the device, wherever the tensors are."""

import pytest
import torch


class HostReads:
    """Counts copies to the host, as ``Tensor.cpu`` or into host memory, from here on.

    Attributes:
        count: how many.
        numbers: in all of them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.numbers = 0
        to_host, into = torch.Tensor.cpu, torch.Tensor.copy_

        def counting_to_host(tensor: torch.Tensor) -> torch.Tensor:
            self.count += 1
            self.numbers += tensor.numel()
            return to_host(tensor)

        def counting_into(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            self.count += 1
            self.numbers += values.numel()
            return into(tensor, values)

        monkeypatch.setattr(torch.Tensor, "cpu", counting_to_host)
        monkeypatch.setattr(torch.Tensor, "copy_", counting_into)
