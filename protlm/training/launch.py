"""What the processes of one run have to agree on before they can talk to each other."""

import datetime
import os


def run_name() -> str:
    """The same in all processes of a run: the time it began, or of a SLURM job its number.

    torchrun's processes get it from the store that torchrun keeps for them; those of SLURM from their environment. A
    job that SLURM starts again has the name it had.
    """
    environment = os.environ
    interactive = environment.get("SLURM_JOB_NAME") in (None, "bash", "interactive")  # several runs in one job
    if (job := environment.get("SLURM_JOB_ID")) and not interactive:
        step = environment.get("SLURM_STEP_ID", "0")
        return f"slurm-{job}" if step in ("0", "") else f"slurm-{job}-{step}"
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False)
        key = f"protlm/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if environment["RANK"] == "0":
            store.set(key, now)
        return store.get(key).decode()
    return now
