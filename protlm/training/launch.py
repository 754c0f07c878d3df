"""What the processes of one run have to agree on before they can talk to each other."""

import datetime
import os
import socket


def is_first() -> bool:
    """Whether this process has rank 0, as torchrun or else Lightning's launcher and SLURM say."""
    names = ("RANK",) if "RANK" in os.environ else ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


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
