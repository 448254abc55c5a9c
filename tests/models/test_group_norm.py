"""Group normalisation in the bundled networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trustsnn.errors import ConfigError
from trustsnn.models import MODELS, build, rebuild
from trustsnn.models.norms import BatchNormThroughTime, group_norm
from trustsnn.models.onestep import ONE_STEP, build_onestep


@pytest.mark.parametrize(("features", "groups"), [(1, 1), (8, 1), (16, 1), (32, 2), (100, 2), (64, 4), (512, 32), (24, 1)])
def test_groups_have_sixteen_channels_or_more(features, groups):
    assert group_norm(features).num_groups == groups


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("small") or name in ("mlp", "conv", "vgg9")])
def test_a_sample_is_normalised_by_itself(name):
    model = build(name, input_shape=(1, 8, 8), classes=3, channels=0.25, norm="group", threshold=0.3).double().train()
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x), torch.cat([model(each) for each in x.split(1)]))
    kinds = {type(module) for module in model.modules()}
    assert nn.GroupNorm in kinds
    assert not kinds & {nn.BatchNorm1d, nn.BatchNorm2d, BatchNormThroughTime}
    again = rebuild(model.architecture)
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", ["sew-resnet-small", "ms-resnet-small"])
def test_residual_branches_begin_as_they_do_with_batch_normalisation(name):
    grouped, batched = (build(name, input_shape=(1, 8, 8), classes=3, channels=0.25, norm=norm) for norm in ("group", "batch"))
    before = {n: p for n, p in batched.named_parameters() if not p.any()}
    assert {n for n, p in grouped.named_parameters() if not p.any()} == before.keys()


@pytest.mark.parametrize("name", ONE_STEP)
def test_the_one_step_network_has_it_too(name):
    shared = {"input_shape": (1, 8, 8), "classes": 3, "channels": 0.05}
    model = build_onestep(name, norm="group", **shared)
    assert {nn.GroupNorm} == {type(m) for m in model.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)}
    assert rebuild(model.architecture).state_dict().keys() == model.state_dict().keys()
    assert "norm" not in build_onestep(name, **shared).architecture["arguments"]  # as in checkpoints from before
    with pytest.raises(ConfigError, match="Known: batch, group"):
        build_onestep(name, norm="td", **shared)


def test_a_whole_network_goes_through_torch_func():
    """With the fast kernels, which look at a batch's spikes before they choose how to multiply."""
    model = build("conv", input_shape=(1, 8, 8), classes=3, channels=0.5, norm="group", threshold=0.3)
    x = torch.rand(70, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, sample):
        return torch.func.functional_call(model, parameters, (sample.unsqueeze(0),)).logsumexp(1).mean()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    torch.func.functional_call(model, dict(model.named_parameters()), (x,)).logsumexp(1).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name].mean(0), parameter.grad, rtol=1e-3, atol=1e-5)
