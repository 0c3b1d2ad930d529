"""Feed-forward networks against their papers and transformers: squared ReLU, GeGLU, and mixtures of experts."""

import copy
import math
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers_model import (
    CONTEXT,
    VOCAB,
    arm,
    parameter_count,
    random_model,
    randomise,
    rejected,
    rows,
    tiny,
    tiny_option,
)
from helpers_parity import LLAMA_ARM, TINY_LLAMA, both_dtypes, from_llama, same_logits, with_random_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gptx.config.instantiate import part
from gptx.ffn.base import FFN
from gptx.ffn.grouped_matmul import grouped, grouped_outer
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.side_losses import SideLosses
from gptx.model.build import build
from gptx.model.cost import cost
from gptx.model.gpt import GPT

SHAPE = ModelShape(n_layer=3, n_head=2, d_model=16, context=CONTEXT, vocab_size=VOCAB, dropout=0.0, bias=True)


def ffn(option: str, **keys: Any) -> FFN:
    """A network with random weights, in float64 and eval mode."""
    found: FFN = part(tiny_option("ffn", option, **keys), SHAPE)
    randomise(found)
    return found.double().eval()


def run(net: FFN, x: Tensor) -> Tensor:
    """The output without the side losses."""
    y: Tensor = net(x, SideLosses())
    return y


def train(net: FFN, x: Tensor) -> tuple[Tensor, SideLosses]:
    """The output in training mode, and the collected side losses and metrics."""
    side = SideLosses()
    return net.train()(x, side), side


def inputs(batch: int = 3, length: int = CONTEXT, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach() for key, value in module.named_parameters()}


# Activations


def test_squared_relu_equals_its_formula() -> None:
    net, x = ffn("relu2"), inputs()
    w = weights_of(net)
    hidden = (x @ w["up.weight"].T + w["up.bias"]).clamp(min=0) ** 2
    torch.testing.assert_close(run(net, x), hidden @ w["out.weight"].T + w["out.bias"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("tanh", [False, True])
def test_geglu_equals_equation_6(tanh: bool) -> None:
    net, x = ffn("geglu", tanh=tanh), inputs()
    w = weights_of(net)
    gate, up = (x @ w[f"{name}.weight"].T + w[f"{name}.bias"] for name in ("gate", "up"))
    exact = 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2)))
    approximate = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    y = ((approximate if tanh else exact) * up) @ w["out.weight"].T + w["out.bias"]
    torch.testing.assert_close(run(net, x), y, rtol=0, atol=1e-10)
    assert (exact - approximate).abs().max() > 1e-5, "the two forms differ"


# Grouped matrix products

groups = st.lists(st.integers(0, 5), min_size=1, max_size=5)


def operands(counts: list[int], *sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    stream = torch.Generator().manual_seed(sum(counts))
    tensors = [torch.randn(*size, dtype=torch.float64, generator=stream, requires_grad=True) for size in sizes]
    return (*tensors, torch.tensor(counts))


@settings(max_examples=10)
@given(counts=groups, wide=st.integers(1, 4), out=st.integers(1, 4))
def test_grouped_products_equal_a_loop(counts: list[int], wide: int, out: int) -> None:
    n, e = sum(counts), len(counts)
    x, weight, sizes = operands(counts, (n, wide), (e, wide, out))
    y = grouped(x, weight, sizes)
    expected = torch.cat([rows @ matrix for rows, matrix in zip(x.split(counts), weight, strict=True)])
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    for found, true in zip(*(torch.autograd.grad(z.sin().sum(), (x, weight)) for z in (y, expected)), strict=True):
        torch.testing.assert_close(found, true, rtol=0, atol=1e-12)


def test_grouped_products_pass_torch_opcheck() -> None:
    counts = [4, 0, 3]
    x, weight, sizes = operands(counts, (7, 4), (3, 4, 5))
    y, _ = operands(counts, (7, 5))
    assert torch.autograd.gradgradcheck(grouped, (x, weight, sizes))
    for op, args in ((grouped, (x, weight, sizes)), (grouped_outer, (x, y, sizes))):
        assert torch.autograd.gradcheck(op, args)
        assert set(torch.library.opcheck(op, args).values()) == {"SUCCESS"}


# Mixtures of experts


def slow(net: FFN, x: Tensor, top_k: int, limit: float = math.inf) -> Tensor:
    """Token by token and expert by expert: equation 2 of Switch for one expert, section 2.1 of Mixtral for more."""
    w, y = weights_of(net), torch.zeros_like(x)
    for b, row in enumerate(x):
        load = [0] * len(w["gate"])
        for t, token in enumerate(row):
            logits = w["router.weight"] @ token
            chosen = sorted(range(len(logits)), key=lambda e: -logits[e].item())[:top_k]
            chance = logits[chosen].softmax(0) if top_k > 1 else logits.softmax(0)[chosen]  # TopK, then softmax
            for p, e in zip(chance, chosen, strict=True):
                load[e] += 1
                if load[e] <= limit:
                    y[b, t] += p * ((F.silu(token @ w["gate"][e]) * (token @ w["up"][e])) @ w["out"][e])
    return y


@settings(max_examples=10)
@given(n_expert=st.integers(1, 9), data=st.data(), batch=st.integers(1, 3), length=st.integers(1, 9))
def test_experts_equal_the_equations(n_expert: int, data: st.DataObject, batch: int, length: int) -> None:
    top_k = data.draw(st.integers(1, n_expert))
    net, x = ffn("moe", n_expert=n_expert, top_k=top_k), inputs(batch, length)
    torch.testing.assert_close(run(net, x), slow(net, x, top_k), rtol=0, atol=1e-10)


@settings(max_examples=10)
@given(
    capacity=st.sampled_from([0.25, 0.5, 1.0, 1.25, 2.0, 8.0]),
    top_k=st.integers(1, 4),
    n_expert=st.integers(4, 8),
    length=st.integers(1, 11),
)
def test_choices_beyond_the_capacity_add_nothing_in_training(
    capacity: float, top_k: int, n_expert: int, length: int
) -> None:
    net, x = ffn("moe", n_expert=n_expert, top_k=top_k, capacity=capacity), inputs(2, length)
    complete = run(net, x)
    torch.testing.assert_close(complete, slow(net, x, top_k), rtol=0, atol=1e-10, msg="evaluation drops nothing")
    most = math.ceil(capacity * top_k * length / n_expert)
    y, side = train(net, x)
    torch.testing.assert_close(y, slow(net, x, top_k, most), rtol=0, atol=1e-10)
    dropped = side.metrics["dropped_share"][0].item()
    assert (dropped > 0) == ((y - complete).abs().max() > 1e-9).item()
    if capacity == 8.0:
        assert dropped == 0
    torch.testing.assert_close(run(net.eval(), x), complete)


def test_dropped_share_of_equal_tokens() -> None:
    """Equal tokens all choose the same two experts, and each takes a quarter of a row."""
    net = ffn("moe", n_expert=8, top_k=2, capacity=1.0)
    y, side = train(net, inputs(2, 1).expand(2, 8, 16))
    assert side.metrics["dropped_share"][0].item() == pytest.approx(0.75)
    assert (y[:, :2].abs().amax(-1) > 0).all() and (y[:, 2:] == 0).all(), "the first tokens are computed"


def test_capacity_is_causal() -> None:
    net, x = ffn("moe", capacity=0.5), inputs(1)
    y, side = train(net, x)
    assert side.metrics["dropped_share"][0] > 0.2
    for t in range(1, CONTEXT):
        changed = run(net, torch.cat((x[:, :t], -x[:, t:]), 1))
        torch.testing.assert_close(changed[:, :t], y[:, :t], rtol=0, atol=1e-12)


def test_rows_do_not_compete_for_capacity() -> None:
    net, x = ffn("moe", capacity=0.5).train(), inputs(4)
    torch.testing.assert_close(run(net, x), torch.cat([run(net, row[None]) for row in x]), rtol=0, atol=1e-12)


# Side losses


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_balance_loss_is_that_of_switch(top_k: int) -> None:
    """Equations 4 to 6, a row at a time: E * sum over the experts of (share of the tokens) * (mean probability)."""
    net, x = ffn("moe", top_k=top_k, balance=0.5), inputs()
    _, side = train(net, x)
    expected = torch.zeros((), dtype=torch.float64)
    for row in x:
        chance = (row @ weights_of(net)["router.weight"].T).softmax(-1)
        best = chance.argsort(-1, descending=True)[:, :top_k].tolist()
        share = torch.tensor([sum(e in chosen for chosen in best) / len(best) for e in range(8)], dtype=torch.float64)
        expected += 8 * (share * chance.mean(0)).sum() / len(x)
    [reported], [loss] = side.metrics["balance_loss"], side.losses
    torch.testing.assert_close(reported, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss.detach(), 0.5 * expected, rtol=1e-12, atol=0)
    assert loss.requires_grad and not reported.requires_grad


def test_balance_loss_only_in_training_and_only_with_a_weight() -> None:
    net, x = ffn("moe"), inputs()
    side = SideLosses()
    net(x, side)
    assert side.losses == [] and side.metrics == {}
    _, side = train(net, x)
    assert len(side.losses) == 1 and side.metrics.keys() == {"balance_loss", "dropped_share"}
    _, off = train(ffn("moe", balance=0.0), x)
    assert off.losses == [] and off.metrics.keys() == side.metrics.keys()


def test_model_reports_metrics_in_training_only() -> None:
    model, side = random_model(tiny(arm(ffn="moe"))), SideLosses()
    model.eval()(rows(2, CONTEXT), side=side)
    assert side.means() == {}
    model.train()(rows(2, CONTEXT), side=side)
    assert {name: value.shape for name, value in side.means().items()} == {"balance_loss": (), "dropped_share": ()}


@pytest.mark.parametrize("recompute", [False, True])
def test_side_losses_are_collected_once_with_activation_checkpointing(recompute: bool) -> None:
    cfg = tiny(arm(ffn="moe"))
    cfg.activation_checkpointing = recompute
    model, row, added, side = random_model(cfg).train(), rows(2, CONTEXT + 1), [], SideLosses()
    with patch.object(SideLosses, "added_to", lambda side, loss: (added.append(list(side.losses)), loss)[1]):
        model(row[:, :-1], row[:, 1:], side=side).backward()
    assert [len(losses) for losses in added] == [2], "one loss for each layer"
    assert [len(values) for values in side.metrics.values()] == [2, 2]


def test_side_loss_changes_the_gradient_and_not_the_loss() -> None:
    def gradients(balance: float) -> tuple[float, dict[str, Tensor]]:
        cfg = tiny(arm(ffn="moe"))
        cfg.ffn.balance = balance
        model, row = random_model(cfg).train(), rows(4, CONTEXT + 1)
        sides: list[Tensor] = []
        for net in model.ffns:
            net.register_forward_hook(lambda net, given, out: sides.append(given[1].losses[-1]) if balance else None)
        loss = model(row[:, :-1], row[:, 1:])
        copy.deepcopy(model)  # fails if the model holds tensors with a graph
        named = dict(model.named_parameters())
        found = dict(zip(named, torch.autograd.grad(loss, list(named.values()), retain_graph=True), strict=True))
        if balance:
            extra = torch.autograd.grad(torch.stack(sides).mean(), list(named.values()), allow_unused=True)
            found = {key: found[key] - (0 if e is None else e) for key, e in zip(named, extra, strict=True)}
            assert max(e.abs().max() for e in extra if e is not None) > 1e-4
        return loss.item(), found

    (plain, without), (shown, rest) = gradients(0.0), gradients(0.5)
    assert plain == shown
    for key, gradient in without.items():
        torch.testing.assert_close(rest[key], gradient, rtol=0, atol=1e-12)


# Equality with transformers


def mixtral_config(**extra: Any) -> Any:
    from transformers import MixtralConfig

    return MixtralConfig(
        **TINY_LLAMA,
        num_local_experts=8,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        **extra,
    )


def experts_of(state: dict[str, Tensor], hf_name: str, prefix: str) -> dict[str, Tensor]:
    """Rename Hugging Face's weights, which are (E, out, in) with gate and up in one tensor."""
    gate, up = state[f"{hf_name}.experts.gate_up_proj"].mT.chunk(2, -1)
    out = state[f"{hf_name}.experts.down_proj"].mT
    router = state[f"{hf_name}.gate.weight"]
    return {f"{prefix}router.weight": router, f"{prefix}gate": gate, f"{prefix}up": up, f"{prefix}out": out}


@both_dtypes
def test_experts_and_balance_loss_equal_mixtral(dtype: torch.dtype, tolerance: float) -> None:
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func

    reference = with_random_weights(MixtralSparseMoeBlock(mixtral_config()), dtype).train()
    model = ffn("moe", ratio=2.5).to(dtype)
    model.load_state_dict(experts_of({f"x.{key}": value for key, value in reference.state_dict().items()}, "x", ""))
    x = inputs().to(dtype)
    y, side = train(model, x)
    torch.testing.assert_close(y, reference(x), rtol=tolerance, atol=tolerance)
    logits, _, _ = reference.gate(x)
    torch.testing.assert_close(model.router(x).flatten(0, 1), logits, rtol=tolerance, atol=tolerance)
    # Hugging Face's function computes the loss of a batch, gptx that of each row.
    losses = [load_balancing_loss_func((row,), 8, 2) for row in logits.unflatten(0, x.shape[:2])]
    loss = torch.stack(losses).mean()
    torch.testing.assert_close(side.metrics["balance_loss"][0], loss, rtol=tolerance, atol=0, check_dtype=False)


@both_dtypes
def test_mixtral_equals_transformers(dtype: torch.dtype, tolerance: float) -> None:
    from transformers import MixtralForCausalLM

    hf = with_random_weights(MixtralForCausalLM(mixtral_config(experts_implementation="eager")), dtype)
    state = hf.state_dict()
    cfg = tiny((*(a for a in LLAMA_ARM if a[0] != "ffn"), ("ffn", "moe")), bias=False, tie=False)
    cfg.ffn.ratio, cfg.norm.eps = 2.5, 1e-5
    model = build(cfg, VOCAB).to(dtype).eval()
    weights = from_llama(state, 2, tie=False)
    for layer in range(2):
        weights |= experts_of(state, f"model.layers.{layer}.mlp", f"blocks.{layer}.ffn.")
    model.load_state_dict(weights)
    same_logits(model, hf, tolerance)
    assert parameter_count(model) == parameter_count(hf)


# Compiler, autocast, cost


def moe_model(capacity: float = 0.0, **model: Any) -> GPT:
    cfg = tiny(arm(ffn="moe", kernel="reference"), **model)
    cfg.ffn.capacity = capacity
    return random_model(cfg)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("capacity", [0.0, 1.0])
def test_moe_compiles_to_one_graph(dtype: torch.dtype, capacity: float) -> None:
    model, row = moe_model(capacity).to(dtype).train(), rows(4, CONTEXT + 1)

    def step(model: nn.Module) -> tuple[Tensor, ...]:
        side = SideLosses()
        loss = model(row[:, :-1], row[:, 1:], side=side)
        return loss, *side.means().values(), *torch.autograd.grad(loss, list(model.parameters()))

    expected = step(model)
    torch.compiler.reset()
    for found, true in zip(step(torch.compile(model, fullgraph=True, backend="eager")), expected, strict=True):
        torch.testing.assert_close(found, true)


@pytest.mark.parametrize("capacity", [0.0, 1.0])
def test_bf16_autocast_is_close(capacity: float) -> None:
    """In low precision the router may choose other experts, so its logits are scaled up to be decisive."""
    net, x = ffn("moe", capacity=capacity).float().train(), inputs().float()
    with torch.no_grad():
        net.router.weight *= 50
    y = run(net, x)
    with torch.autocast("cpu", torch.bfloat16):
        low = run(net, x)
    assert low.dtype == torch.bfloat16
    agree = (low.float() - y).norm(dim=-1) < 0.05 * y.norm(dim=-1) + 1e-3
    assert agree.float().mean() > 0.9
    gradients = torch.autograd.grad(low.float().square().sum(), list(net.parameters()))
    assert all(g.dtype == torch.float32 and g.isfinite().all() and g.abs().max() > 0 for g in gradients)


def test_moe_cost_on_the_meta_device() -> None:
    with torch.device("meta"):
        on_meta = build(tiny(arm(ffn="moe")), VOCAB)
    assert cost(on_meta, torch.float32) == cost(build(tiny(arm(ffn="moe")), VOCAB), torch.float32)


@pytest.mark.parametrize("n_expert", [4, 16])
@pytest.mark.parametrize("top_k", [1, 3])
def test_only_the_chosen_experts_are_computed(n_expert: int, top_k: int) -> None:
    net, x = ffn("moe", n_expert=n_expert, top_k=top_k), inputs()
    with FlopCounterMode(display=False) as counter:
        run(net, x)
    router = net.router.weight.numel()
    assert counter.get_total_flops() == 2 * 3 * CONTEXT * (net.macs_per_token + router)
    hidden = net.gate.shape[-1]
    assert net.macs_per_token == top_k * 3 * 16 * hidden and net.gate.numel() == n_expert * 16 * hidden


def test_experts_are_initialised_like_other_layers() -> None:
    named = dict(build(tiny(arm(ffn="moe"), n_layer=3, d_model=64), VOCAB).named_parameters())
    for key, std in {"gate": 0.02, "up": 0.02, "out": 0.02 / 6**0.5, "router.weight": 0.02}.items():
        experts = named[f"blocks.1.ffn.{key}"]
        assert abs(experts.std().item() / std - 1) < 4 / (2 * experts.numel()) ** 0.5, key
        assert not torch.equal(experts[0], experts[1]), "experts start with equal weights"


# Rejections


@pytest.mark.parametrize(("n_expert", "top_k"), [(8, 0), (8, 9), (0, 1), (4, -1)])
def test_rejects_impossible_top_k(n_expert: int, top_k: int) -> None:
    message = rejected(lambda: ffn("moe", n_expert=n_expert, top_k=top_k))
    assert f"ffn.top_k={top_k}, ffn.n_expert={n_expert}: expected 1 <= top_k <= n_expert" in message
    assert message.endswith("2 of 8") and ffn("moe", n_expert=8, top_k=2)


@pytest.mark.parametrize(("key", "typical"), [("capacity", 1.25), ("balance", 0.01)])
@pytest.mark.parametrize("given", [-1.0, math.inf, math.nan])
def test_rejects_out_of_range_numbers(key: str, typical: float, given: float) -> None:
    message = rejected(lambda: ffn("moe", **{key: given}))
    assert message == f"ffn.{key}={given}: expected 0 (none) or more, such as {typical}"
    assert ffn("moe", **{key: typical}) and ffn("moe", **{key: 0.0})
