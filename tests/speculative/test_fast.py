"""What models compute with on a CPU is replaced only by the same function."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from radar_rl.speculative.fast import can_pack, speed_up

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


@pytest.mark.parametrize("rows", [1, 2, 60])
def test_outputs_and_weights_stay(models: tuple[PreTrainedModel, PreTrainedModel], rows: int) -> None:
    stock, fast = models
    ids = torch.randint(0, 64, (1, rows), generator=torch.Generator().manual_seed(rows))
    with torch.inference_mode():
        torch.testing.assert_close(fast(ids).logits, stock(ids).logits, rtol=1e-5, atol=1e-5)
    for (name, ours), (same, theirs) in zip(fast.state_dict().items(), stock.state_dict().items(), strict=True):
        assert name == same
        assert torch.equal(ours, theirs)


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
