"""What the processes of one run have to agree on before they can talk to each other."""

import datetime
import os
import socket


def rank() -> int:
    """Of this process, as torchrun, SLURM or Lightning's launcher say; 0 if it is the only one."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def run_name() -> str:
    """The same in all processes of a run: the time it began, or of a SLURM job its number.

    torchrun's processes get it from the store that torchrun keeps for them; those of SLURM from their environment. A
    job that SLURM starts again has the name it had, and so have processes that torchrun starts again.
    """
    environment = os.environ
    interactive = environment.get("SLURM_JOB_NAME") in (None, "bash", "interactive")  # several runs in one job
    if (job := environment.get("SLURM_JOB_ID")) and not interactive:
        step = environment.get("SLURM_STEP_ID", "0")
        return f"slurm-{job}" if step in ("0", "") else f"slurm-{job}-{step}"
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        store = TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=False)
        name = store.compare_set("protlm/run", "", now).decode()  # of the first that comes; it outlives a restart
        restart = environment["TORCHELASTIC_RESTART_COUNT"]
        if restart != "0" and environment["GROUP_WORLD_SIZE"] == "1":
            _meet_elsewhere(store, f"protlm/port/{restart}")
        return name
    return now


def _meet_elsewhere(store: object, key: str) -> None:
    """Makes torch.distributed use a new store, kept by rank 0.

    torchrun's (torch 2.13) still has the addresses of processes that have died, and those that start again would wait
    for them. Nodes count restarts apart, so this is for one node.
    """
    if os.environ["RANK"] == "0":
        with socket.socket() as free:
            free.bind(("", 0))
            store.set(key, str(free.getsockname()[1]))  # type: ignore[attr-defined]
    os.environ["MASTER_PORT"] = store.get(key).decode()  # type: ignore[attr-defined]
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
