import pytest

from protlm.embedding.array_job import shard_of_array_task
from protlm.errors import UserError


def slurm(task: int, first: int, last: int, count: int, step: int = 1) -> dict[str, str]:
    values = {"ID": task, "MIN": first, "MAX": last, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def sge(task: str, first: str = "1", last: str = "10", step: str = "1") -> dict[str, str]:
    return {"SGE_TASK_ID": task, "SGE_TASK_FIRST": first, "SGE_TASK_LAST": last, "SGE_TASK_STEPSIZE": step}


@pytest.mark.parametrize(
    ("environment", "parts", "shard"),
    [
        (slurm(1, 1, 8, 8), None, (1, 8)),
        (slurm(0, 0, 7, 8), None, (1, 8)),
        (slurm(7, 0, 7, 8), None, (8, 8)),
        (slurm(5, 1, 9, 5, 2), None, (3, 5)),
        (slurm(17, 17, 45, 2), 1_000, (17, 1_000)),  # --array=17,45: two tasks of a thousand again
        ({"PBS_ARRAY_INDEX": "3", "PBS_ARRAY_COUNT": "9"}, None, (3, 9)),
        ({"PBS_ARRAY_INDEX": "3"}, 12, (3, 12)),
        ({"PBS_ARRAYID": "3"}, 12, (3, 12)),
        (sge("10"), None, (10, 10)),
        ({**sge("undefined", *["undefined"] * 3), **slurm(2, 1, 2, 2)}, None, (2, 2)),
        ({"LSB_JOBINDEX": "4", "LSB_JOBINDEX_END": "6", "LSB_JOBINDEX_STEP": "1"}, None, (4, 6)),
    ],
)
def test_the_shard_of_a_task(environment: dict[str, str], parts: int | None, shard: tuple[int, int]) -> None:
    assert shard_of_array_task(environment, parts)[:2] == shard


@pytest.mark.parametrize(
    ("environment", "parts", "words"),
    [
        ({}, None, "not in an array job, where one of SLURM_ARRAY_TASK_ID, .* is set; expected i/n"),
        ({}, 9, "not in an array job"),
        (sge("undefined", *["undefined"] * 3), None, "not in an array job"),
        ({"LSB_JOBINDEX": "0"}, None, "not in an array job"),
        ({"PBS_ARRAY_INDEX": "3"}, None, "PBS does not say how many tasks the array has: give the number of shards"),
        (slurm(17, 17, 45, 2), None, "SLURM task 17 of 17-45: not a whole array from 0 or 1"),
        (slurm(3, 1, 7, 3), None, "not a whole array"),  # --array=1,3,7
        (slurm(1001, 1001, 2000, 1000), None, "not a whole array"),
        (slurm(0, 0, 9, 10), 10, "SLURM task 0: expected a task from 1 to 10"),
        (slurm(11, 1, 11, 11), 10, "expected a task from 1 to 10"),
    ],
)
def test_what_is_no_shard_is_refused(environment: dict[str, str], parts: int | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        shard_of_array_task(environment, parts)
