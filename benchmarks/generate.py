"""Cost of sampling a token after a short and a long prefix, and agreement of recurrent and parallel logits.

    python -m benchmarks.generate      # four minutes with one thread

The model has random weights. Seconds per token: one step and one draw after a prefix, the median of turns that the
lengths take alternately, so that a noisy moment affects all of them. Memory, total seconds and the largest difference
between recurrent and parallel logits: `protlm.inference.generate` from the first to the last token, each length in a
separate process.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import medians, peak_bytes, positive, program
from benchmarks.tables import write_csv
from protlm.batching.randomness import KeyedGenerator
from protlm.inference.generate import choices_of, draw, generate
from protlm.inference.probabilities import log_softmax
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import PAD, TOKENS, encode

CHOICES = choices_of()

ATTENTION = ["relu", "softmax"]
LENGTHS = [1_000, 10_000]


@dataclass(frozen=True)
class Case:
    """A model and the number of tokens to sample."""

    attention: str
    length: int
    layers: int = 6
    width: int = 320
    heads: int = 8
    feed_forward: int = 1280
    features: int = 256

    def model(self) -> Performer:
        """With the same random weights in every process."""
        torch.manual_seed(0)
        config = PerformerConfig(
            *(len(TOKENS), PAD, self.layers, self.heads, self.width, self.feed_forward),
            attention=self.attention,
            num_features=self.features,
            causal=True,
        )
        return Performer(config).eval()


def tokens_after(case: Case, model: Performer, count: int) -> Callable[[], None]:
    """Samples `count` tokens one by one, always after the same prefix of `case.length` tokens."""
    with torch.inference_mode():
        before = torch.randint(4, 24, (1, case.length), generator=torch.Generator().manual_seed(1))
        first_logits, first = model.step(before)
    chance = KeyedGenerator(1)

    def run() -> None:
        logits, state = first_logits[:, -1], first
        with torch.inference_mode():
            for place in range(count):
                chosen = draw(log_softmax(logits)[:, CHOICES], chance(0, place).random(1), 1.0, 1.0)
                logits, state = model.step(torch.from_numpy(CHOICES[chosen])[:, None], state)
                logits = logits[:, -1]

    return run


def whole(case: Case, threads: int) -> dict[str, float]:
    """Additional and total peak bytes, seconds, and the difference between recurrent and parallel logits."""
    torch.set_num_threads(threads)
    model = case.model()
    list(generate(model, max_length=100, min_length=100))  # loads libraries, so that they are not counted
    kept, step = torch.ones(case.length, len(TOKENS)), model.step  # ones: allocates the memory now

    def recorded(tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        logits, state = step(tokens, state)
        kept[state.position - 1] = logits[0, -1]
        return logits, state

    model.step = recorded
    proteins = []
    start = time.perf_counter()
    peak = peak_bytes(lambda: proteins.extend(generate(model, max_length=case.length, min_length=case.length)))
    seconds = time.perf_counter() - start
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (protein,) = proteins
    drawn = torch.from_numpy(encode(protein.sequence).astype("int64"))
    inputs = torch.cat((torch.tensor([model.config.start_id]), drawn[:-1]))
    with torch.inference_mode():
        parallel = model(inputs[None])[0]
    likelihood = float(parallel.double().log_softmax(-1).gather(1, drawn[:, None]).sum())
    return {
        "peak_bytes": peak,
        "process_bytes": process,
        "seconds": seconds,
        "largest_logit": float(parallel.abs().max()),
        "largest_difference": float((parallel - kept).abs().max()),
        "log_likelihood": protein.log_likelihood,
        "log_likelihood_difference": abs(protein.log_likelihood - likelihood),
    }


def measure(attention: list[str], lengths: list[int], count: int, repeats: int, **sizes: int) -> Iterator[dict]:
    """A row for each kind of attention and length, printed as it is measured."""
    print(
        f"{'':<10}{'tokens':>8}{'ms/token':>12}{'total, ms':>11}{'peak MiB':>10}{'process':>9}{'logits differ':>15}",
        flush=True,
    )
    context = multiprocessing.get_context("spawn")
    for kind in attention:
        cases = [Case(kind, length, **sizes) for length in lengths]
        model = cases[0].model()
        times = medians({str(case.length): tokens_after(case, model, count) for case in cases}, repeats)
        for case in cases:
            per_token = times[str(case.length)] / count
            with ProcessPoolExecutor(1, context) as pool:
                found = pool.submit(whole, case, torch.get_num_threads()).result()
            peak, process = (found[name] / 2**20 for name in ("peak_bytes", "process_bytes"))
            print(
                f"{kind:<10}{case.length:>8,}{per_token * 1e3:>12.2f}{found['seconds'] / case.length * 1e3:>11.2f}"
                f"{peak:>10.1f}{process:>9.0f}{found['largest_difference']:>15.1e}",
                flush=True,
            )
            yield {**asdict(case), "threads": torch.get_num_threads(), "seconds_per_token": per_token, **found}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--attention", nargs="+", default=ATTENTION, metavar="KIND")
    parser.add_argument("--lengths", type=positive, nargs="+", default=LENGTHS, help="tokens, including the first")
    parser.add_argument("--count", type=positive, default=50, help="tokens sampled per turn")
    parser.add_argument("--repeats", type=positive, default=15, help="timed turns, after one warm-up turn")
    for name in ("layers", "width", "heads", "feed_forward", "features"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, default=getattr(Case, name))
    parser.add_argument("--csv", type=Path, default=Path("docs/results/generate.csv"))
    options = vars(parser.parse_args())
    path = options.pop("csv")
    write_csv(measure(**options), path)


if __name__ == "__main__":
    program(main)
