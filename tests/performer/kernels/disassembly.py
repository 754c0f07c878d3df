"""Finds a fault of ptxas of CUDA 12.8 in machine code for Hopper: uniform registers that are read but never written.

They are parts of addresses of operands in shared memory, so that a kernel ends with an illegal memory access, or its
results are wrong; neither the interpreter nor PTX shows it.
"""

import re
import subprocess
import tempfile

INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(?:@!?U?P\w+\s+)?(\S+) (.*?)\s*;")
OPERANDS = re.compile(r"(g?desc\[)?\bUR(\d+)\b")


def unwritten(cubin: bytes) -> list[str]:
    """The instructions that read a uniform register which none before them, in order of addresses, has written."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    written: set[int] = set()
    found = []
    for line in text.splitlines():
        if match := INSTRUCTION.match(line):
            address, name, rest = match.groups()
            results, read = operands(name, rest.split(", "))
            if not read <= written:
                found.append(f"{address}: {name} {rest}")
            written |= results
    return found


def operands(name: str, arguments: list[str]) -> tuple[set[int], set[int]]:
    """The numbers of the uniform registers that an instruction writes, and of those that it reads."""
    results: set[int] = set()
    wide = ".64" in name or "WIDE" in name
    if name.startswith(("U", "R2UR", "S2UR", "REDUX")) and (first := re.fullmatch(r"UR(\d+)", arguments[0])):
        results = {int(first[1]) + i for i in range(2 if wide else 1)}
        arguments = arguments[1:]
    read: set[int] = set()
    for argument in arguments:
        for kind, number in OPERANDS.findall(argument):
            start, count = int(number), 1
            if kind == "gdesc[":  # of both operands, or of the second if the first is in registers
                start, count = (start, 4) if argument == arguments[1] else (start + 2, 2)
            elif kind or name == "UIADD3.64":
                count = 2
            read |= set(range(start, start + count))
    return results, read
