import json

import fill_rule
import numpy as np
import pytest
import torch

from mtslvr.models import checkpoint, official
from mtslvr.training import objective as heads
from mtslvr.training.config import TrainConfig
from mtslvr.training.objective import Objective, augmentation_loss, nt_xent_loss, simsiam_loss

LOSSES = np.load(fill_rule.GOLDEN / "golden_losses.npz")
INFO, MANIFEST = json.loads(str(LOSSES["info"])), fill_rule.manifest()
LISTED = MANIFEST["training_heads_not_in_checkpoints"]


def matrix(name, shape, scale=1.0):
    return torch.from_numpy(fill_rule.matrix(name, shape, scale)).requires_grad_()


@pytest.mark.parametrize("case", [c for c in INFO["cases"] if c["key"][:4] != "head"], ids=lambda c: c["key"])
def test_losses_and_their_gradients_are_published(case):
    kind, size, *_ = case["key"].split("/")
    shape = tuple(int(n) for n in size.split("x"))
    if kind == "ntxent":
        z1, z2 = (matrix(f"ntxent/{z}/{size}", shape) for z in ("z1", "z2"))
        loss, of, name = nt_xent_loss(z1, 0.2 * z1.detach() + z2.detach(), case["T"]), z1, "grad_z1"
    elif kind == "simsiam":
        p1, p2, z1, z2 = (matrix(f"simsiam/{q}/{size}", shape) for q in ("p1", "p2", "z1", "z2"))
        loss, of, name = simsiam_loss(p1, p2, z1, z2), p1, "grad_p1"
    else:
        x, y = matrix(f"bce/x/{shape[0]}", shape, 2.0), fill_rule.labels01(f"bce/y/{shape[0]}", shape)
        loss, of, name = augmentation_loss(x, torch.from_numpy(y)), x, "grad"
    loss.backward()
    torch.testing.assert_close(loss.item(), float(LOSSES[f"{case['key']}/loss"]), rtol=1e-5, atol=1e-6)
    expected = torch.from_numpy(LOSSES[f"{case['key']}/{name}"])
    torch.testing.assert_close(of.grad[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-6)


def fill_in_order(module, names, prefix):
    """Fill our tensors with the values of the published ones, which stand in the same order."""
    values = [fill_rule.fill_tensor(f"{prefix}{key}", shape) for key, shape, _ in names]
    module.load_state_dict(dict(zip(module.state_dict(), values, strict=True)))


def test_heads_are_published():
    for name, make, dim in (
        ("simclr_projector_500", heads.simclr_projector, 500),
        ("simsiam_projector_500", heads.simsiam_projector, 500),
        ("simsiam_predictor", heads.simsiam_predictor, 2048),
        ("transform_predictor_500", heads.augmentation_head, 500),
    ):
        head = make(dim)
        fill_in_order(head, LISTED[name]["keys"], f"{name}.")
        x = torch.from_numpy(fill_rule.matrix(f"head/{name}/x", (6, dim)))
        for mode, training in (("eval", False), ("train", True)):
            expected = torch.from_numpy(LOSSES[f"head/{name}/{mode}"])
            torch.testing.assert_close(head.train(training)(x)[:, :32], expected, rtol=1e-4, atol=1e-4)


def config(**changes):
    return TrainConfig(**{"temperature": 0.07, "heads": None, "separate_views": True, "predicted_views": 2, **changes})


def published_objective(case):
    """Our objective with every tensor filled by the rule under the published framework's key."""
    _, variant, kind, _ = case["key"].split("/")
    kind = kind.removesuffix("v1")
    keys = MANIFEST["variants"][variant]["keys"]
    state = {key: fill_rule.fill_tensor(f"backbone.{key}", shape) for key, shape, _ in keys}
    renamed = {official.rename_official(key): value for key, value in state.items()}
    encoder = checkpoint.build(official.official_config(state), renamed, variant)
    objective = Objective(encoder, config(contrastive=kind, augmentation_weight=case["pred_weight"]))
    width = case["feature_size"]
    fill_in_order(objective.projector, LISTED[f"{kind}_projector_{width}"]["keys"], "cont_projector.")
    if kind == "simsiam":
        fill_in_order(objective.predictor, LISTED["simsiam_predictor"]["keys"], "cont_predictor.")
    fill_in_order(objective.augmentation_head, LISTED[f"transform_predictor_{width}"]["keys"], "predict_projector.")
    return objective


@pytest.mark.parametrize("case", INFO["mtl"]["cases"], ids=lambda c: c["key"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_joint_objective_is_published(case, mode):
    objective = published_objective(case).train(mode == "train")
    view1, view2 = (torch.from_numpy(fill_rule.matrix(f"mtl/{x}", (4, 3, 64, 48))) for x in ("x1", "x2"))
    losses = objective(torch.stack([view1, view2]), torch.from_numpy(fill_rule.labels01("mtl/y", (4, 7))))
    found = torch.stack([losses.joint, losses.contrastive, losses.predictive]).detach().double()
    torch.testing.assert_close(found, torch.from_numpy(LOSSES[f"{case['key']}/{mode}"]), rtol=1e-4, atol=1e-5)
    losses.joint.backward()
    norms = INFO["mtl"]["grad_norms"][f"{case['key']}/{mode}"]
    for name, weight in (
        ("backbone.conv1.weight", objective.encoder.trunk.stem.conv.weight),
        ("backbone.bn1.weight", objective.encoder.trunk.stem.norms[0].weight),
        ("predict_projector.layer4.0.weight", objective.augmentation_head[-1].weight),
    ):
        assert weight.grad.norm().item() == pytest.approx(norms[name], rel=1e-3), name


@pytest.mark.parametrize(("contrastive", "weight"), [("none", 1.0), ("simclr", 0.0)])
def test_a_single_objective_leaves_the_other_at_zero(contrastive, weight):
    encoder = published_objective(INFO["mtl"]["cases"][2]).encoder
    objective = Objective(encoder, config(contrastive=contrastive, augmentation_weight=weight))
    losses = objective(torch.randn(2, 2, 3, 64, 48), torch.ones(2, 7))
    both = [losses.contrastive.item(), losses.predictive.item()]
    assert both.index(0) == (contrastive == "simclr") and max(both) == pytest.approx(losses.joint.item()) != 0


@pytest.mark.parametrize("case", [2, 3, 5], ids=["head", "heads", "paths"])
def test_one_pass_over_both_views_is_the_same_and_one_predicted_view_is_the_first(case):
    objective = published_objective(INFO["mtl"]["cases"][case]).eval()
    first, second = torch.randn(2, 4, 3, 64, 48)
    labels = torch.from_numpy(fill_rule.labels01("mtl/y", (4, 7)))

    def losses(*views, **changes):
        objective.config = config(**changes)
        with torch.no_grad():
            found = objective(torch.stack(views), labels)
        return torch.stack([found.contrastive, found.predictive])

    both, alone = losses(first, second), losses(first, first)
    torch.testing.assert_close(losses(first, second, separate_views=False), both, rtol=1e-5, atol=1e-5)
    for separate in (False, True):
        found = losses(first, second, separate_views=separate, predicted_views=1)
        torch.testing.assert_close(found, torch.stack([both[0], alone[1]]), rtol=1e-5, atol=1e-5)
    assert abs(both[1] - alone[1]) > 1e-4


def test_autocast_leaves_the_contrastive_loss_in_float32():
    torch.manual_seed(0)
    z, noise = torch.randn(2, 64, 256)
    exact = nt_xent_loss(z, z + 2 * noise, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        found = nt_xent_loss(z, z + 2 * noise, 0.05)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-7)
