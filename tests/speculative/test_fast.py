"""What models compute with on a CPU is replaced only by the same function."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from radar_rl.speculative.fast import ROWS, can_pack, speed_up

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "initializer_range": 0.2,
}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama with gelu": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, hidden_act="gelu", mlp_bias=True)),
    "qwen2, biased": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
}

pytestmark = pytest.mark.skipif(not can_pack(torch.zeros(2, 2)), reason="a torch without oneDNN")


@pytest.fixture(params=MODELS)
def models(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model as transformers made it, and sped up."""
    torch.manual_seed(0)
    stock = MODELS[request.param]().eval()
    for name, weight in stock.named_parameters():
        if weight.ndim == 1:
            nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.3)
    fast = copy.deepcopy(stock)
    with torch.inference_mode():
        speed_up(fast)
    return stock, fast


def replaced(model: PreTrainedModel) -> set[str]:
    return {name.rpartition(".")[2] for name, module in model.named_modules() if "forward" in vars(module)}


@pytest.mark.parametrize("rows", [1, 2, 60, 61, 130])
def test_outputs_and_weights_stay(models: tuple[PreTrainedModel, PreTrainedModel], rows: int) -> None:
    stock, fast = models
    ids = torch.randint(0, 64, (1, rows), generator=torch.Generator().manual_seed(rows))
    with torch.inference_mode():
        torch.testing.assert_close(fast(ids).logits, stock(ids).logits, rtol=1e-5, atol=1e-5)
    for (name, ours), (same, theirs) in zip(fast.state_dict().items(), stock.state_dict().items(), strict=True):
        assert name == same
        assert torch.equal(ours, theirs)


class Packed(TorchDispatchMode):
    """Counts rows that packed weights are read for."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_linear_pointwise" in str(func):
            self.rows.add(args[0].numel() // args[0].shape[-1])
        return func(*args, **(kwargs or {}))


def test_packed_weights_are_read_for_few_numbers_of_rows(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    """For each of them oneDNN keeps a kernel for ever, so that a prompt of every length would fill the memory."""
    _, fast = models
    with torch.inference_mode(), Packed() as packed:
        for texts in (1, 3):
            for length in range(1, 100):
                fast(torch.zeros((texts, length), dtype=torch.long))
    beyond = {*range(64, 128, 8), *range(128, 256, 16), *range(256, 297 + 32, 32)}
    assert packed.rows == set(range(2, ROWS + 1)) | beyond


def test_what_is_another_function_is_left_alone(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    stock, fast = models
    assert replaced(stock) == set()
    gated = {"mlp"} if stock.config.hidden_act == "silu" else {"gate_proj", "up_proj", "down_proj"}
    norms = {"norm", "input_layernorm", "post_attention_layernorm"}
    assert replaced(fast) == {"q_proj", "k_proj", "v_proj", "o_proj", "lm_head"} | gated | norms


def test_projections_called_out_of_order_are_themselves(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    stock, fast = (model.model.layers[0].self_attn for model in models)
    one, other = torch.randn(2, 1, 5, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for calls in (["v", "q", "k", "k"], ["q", "v", "k"], ["q", "other", "v"], ["k", "q", "q", "v"]):
            for call in calls:
                name, x = ("k", other) if call == "other" else (call, one)
                ours, theirs = (getattr(attention, f"{name}_proj")(x) for attention in (fast, stock))
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
