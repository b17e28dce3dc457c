"""`torchrun --nproc-per-node N -m mtslvr.training ...`: `mtslvr train` in N processes."""

from ..cli.train import train_command

if __name__ == "__main__":
    train_command(prog_name="mtslvr.training")
