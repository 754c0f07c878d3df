"""The shard of a task in an array job, from the variables that SLURM, PBS, SGE and LSF set."""

from collections.abc import Mapping
from typing import NamedTuple

from protlm.errors import UserError


class _Scheduler(NamedTuple):
    """Names of variables; a task lies between the first and the last number, in steps."""

    name: str
    task: str
    first: str = ""
    last: str = ""
    step: str = ""
    tasks: str = ""


_SLURM = [f"SLURM_ARRAY_TASK_{part}" for part in ("ID", "MIN", "MAX", "STEP", "COUNT")]
_SGE = [f"SGE_TASK_{part}" for part in ("ID", "FIRST", "LAST", "STEPSIZE")]
_LSF = [f"LSB_JOBINDEX{part}" for part in ("_END", "_STEP")]
SCHEDULERS = (
    _Scheduler("SLURM", *_SLURM),
    _Scheduler("PBS", "PBS_ARRAY_INDEX", tasks="PBS_ARRAY_COUNT"),
    _Scheduler("Torque", "PBS_ARRAYID"),
    _Scheduler("SGE", *_SGE),
    _Scheduler("LSF", "LSB_JOBINDEX", "", *_LSF),
)


class ArrayShard(NamedTuple):
    """Shard `part` of `parts`, and where these numbers come from, in words."""

    part: int
    parts: int
    source: str


def shard_of_array_task(environment: Mapping[str, str], parts: int | None = None) -> ArrayShard:
    """The shard of this task.

    Args:
        environment: the variables, such as `os.environ`.
        parts: number of shards; the number of the task, from 1, is then that of the shard. By default the number of
            tasks in the array, whose numbers have to start at 0 or 1.

    Raises:
        UserError: outside an array job, or if the numbers do not say which shard is meant.

    >>> shard_of_array_task({"SGE_TASK_ID": "5", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "9", "SGE_TASK_STEPSIZE": "2"})
    ArrayShard(part=3, parts=5, source='SGE task 5 of 1-9:2')
    """

    def number(name: str, default: int | None = None) -> int | None:
        text = environment.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else default

    for scheduler in SCHEDULERS:
        task = number(scheduler.task)
        if task is None or (scheduler.name == "LSF" and task == 0):  # 0 is no array
            continue
        if parts is not None:
            return _checked(task, parts, f"{scheduler.name} task {task}")
        first, last = number(scheduler.first, 1), number(scheduler.last)
        step, count = number(scheduler.step, 1) or 1, number(scheduler.tasks)
        assert first is not None
        if last is None and count is not None:
            last = first + count - 1
        if last is None:
            raise UserError(f"{scheduler.name} does not say how many tasks the array has: give the number of shards")
        source = f"{scheduler.name} task {task} of {first}-{last}{f':{step}' if step > 1 else ''}"
        expected = (last - first) // step + 1
        if first > 1 or (count is not None and count != expected):
            raise UserError(f"{source}: not a whole array from 0 or 1; give the number of shards")
        return _checked((task - first) // step + 1, expected, source)
    names = ", ".join(scheduler.task for scheduler in SCHEDULERS)
    raise UserError(f"not in an array job, where one of {names} is set; expected i/n, such as 1/8")


def _checked(part: int, parts: int, source: str) -> ArrayShard:
    if not 1 <= part <= parts:
        raise UserError(f"{source}: expected a task from 1 to {parts:,}")
    return ArrayShard(part, parts, source)
