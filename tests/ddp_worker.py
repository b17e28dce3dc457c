"""One process of training/test_distributed.py, started by torchrun: gradients of a step, then a short run."""

import sys
from pathlib import Path

import torch

from mtslvr.cli.train import train_command
from mtslvr.training import distributed, loop
from mtslvr.training.config import TrainConfig
from mtslvr.training.data import PackedClips
from mtslvr.training.views import StepBatches


def gradients(clips, config):
    """Name to gradient of the joint loss on batch 0, and the losses."""
    torch.manual_seed(0)
    objective = loop.make_objective(config).train()
    distributed.synchronise_norms(objective, torch.device("cpu"))
    parallel = loop.data_parallel(objective, config)
    batch = StepBatches(PackedClips.open(clips), config, rows=distributed.share(config.batch_size))[0]
    losses = loop.compute(parallel, batch, config)
    losses.joint.backward()
    found = distributed.mean(torch.stack([getattr(losses, name).detach() for name in loop.LOSS_NAMES]))
    buffers = {name: value for name, value in objective.named_buffers() if "running" in name}
    return {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}, found, buffers


def threads():
    """Names of the threads of this process, where the system tells them."""
    tasks = Path("/proc/self/task")
    return sorted((task / "comm").read_text().strip() for task in tasks.iterdir()) if tasks.exists() else None


if __name__ == "__main__":
    import json

    config_path, clips, out = map(Path, sys.argv[1:4])
    config = TrainConfig.from_dict(json.loads(config_path.read_text()))
    distributed.join(torch.device("cpu"))
    result = gradients(clips, config)
    if distributed.rank() == 0:
        torch.save(result, out / "gradients.pt")
    options = ["--config", config_path, "--data", clips, "--out", out / "run", "--device", "cpu", "--workers", "0"]
    this, during = distributed.rank(), threads()
    train_command.main(list(map(str, options)), standalone_mode=False)
    (out / f"threads-{this}.json").write_text(json.dumps({"during": during, "after": threads()}))
