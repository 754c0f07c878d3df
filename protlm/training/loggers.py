"""wandb without surprises: a missing login means an offline run, never a prompt."""

import os

from pytorch_lightning.loggers import WandbLogger


def wandb_logger(
    save_dir: str, project: str = "protlm", name: str | None = None, offline: bool | None = None
) -> WandbLogger:
    """A wandb logger.

    Args:
        save_dir: folder for wandb's files.
        project, name: of the run; None lets wandb choose a name.
        offline: keep the run on disk, for `wandb sync`; None does so if there is no login.
    """
    if offline is None:
        import wandb

        offline = os.environ.get("WANDB_MODE") == "offline" or not wandb.login(prompt=False)
    if offline:
        print(f"wandb: offline; send the run later with: wandb sync {save_dir}/wandb/offline-run-*")
    # `mode` too: Lightning's own `offline` comes too late for a wandb that was asked for a login
    mode = "offline" if offline else None
    return WandbLogger(project=project, name=name, save_dir=save_dir, offline=offline, mode=mode)
