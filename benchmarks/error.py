"""Approximation error of the estimators of softmax attention, and rounding error of the estimators themselves.

    python -m benchmarks.error                # three minutes

The figure repeats the approximation experiment of Choromanski et al. 2021 (their Figure 4): L=4096, d=16, Gaussian
queries, keys and values, 15 draws of the directions; queries and keys have standard deviation 1, which is hard for
random features, and 0.5. Errors are medians, since those of signed features have no useful mean. The table compares
float32 and bfloat16 with the float64 value of the same estimator; performer-pytorch has its own estimator.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import positive, program
from benchmarks.tables import check_outputs, write_csv
from protlm.performer import FavorAttention
from protlm.performer.features import FEATURE_MAPS
from protlm.performer.reference import favor_attention

LENGTH, WIDTH = 4096, 16
FEATURES = [16, 32, 64, 128, 256, 512]
SIZES = [0.5, 1.0]
"""Standard deviations of queries and keys in the figure."""
SCALES = [1, 3, 10, 30, 100]
DOUBLED = ("hyperbolic", "trig")
"""Feature maps with two features per direction."""
ESTIMATORS = [
    ("softmax", "orthogonal", "chi"),
    ("softmax", "simplex", "chi"),
    ("softmax", "iid", "chi"),
    ("hyperbolic", "orthogonal", "chi"),
    ("hyperbolic", "orthogonal", "constant"),
    ("regularised", "orthogonal", "chi"),
    ("optimal", "orthogonal", "chi"),
    ("optimal", "iid", "chi"),
    ("sderf", "orthogonal", "chi"),
    ("trig", "orthogonal", "chi"),
    ("trig", "iid", "chi"),
]
"""Kernel, directions and norms."""


def title(kernel: str, directions: str, norms: str) -> str:
    """The label of an estimator."""
    return f"{kernel}, {directions}{', constant norms' if norms == 'constant' else ''}"


def distance(x: Tensor, y: Tensor) -> float:
    """Relative error in norm."""
    return ((x.double() - y.double()).norm() / y.double().norm()).item()


def approximation(length: int, draws: int, size: float) -> list[dict[str, Any]]:
    """Relative error of the output against exact attention, by estimator and number of features."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, length, WIDTH, generator=generator)
    q, k = q * size, k * size
    exact = F.scaled_dot_product_attention(*(x.double() for x in (q, k, v)))
    rows = []
    print(f"\nrelative error of the output against exact attention: L={length}, d={WIDTH}, queries and keys with")
    print(f"standard deviation {size}, median of {draws} draws")
    print(" " * 42 + "".join(f"{'M=' + str(m):>9}" for m in FEATURES))
    for kernel, directions, norms in ESTIMATORS:
        cells = []
        for features in FEATURES:
            count = features // 2 if kernel in DOUBLED else features
            attention = FavorAttention(WIDTH, count, kernel, directions=directions, norms=norms).eval()
            if attention.feature_map.adaptive:
                attention.observe(q, k)
            errors = []
            for number in range(draws):
                attention.redraw(number)
                errors.append(distance(attention(q, k, v), exact))
            low, middle, high = torch.tensor(errors).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
            rows.append(
                {
                    "size": size,
                    "kernel": kernel,
                    "directions": directions,
                    "norms": norms,
                    "features": features,
                    "error": middle,
                    "quartile_1": low,
                    "quartile_3": high,
                }
            )
            cells.append(f"{middle:9.3f}")
        print(f"{title(kernel, directions, norms):<42}" + "".join(cells), flush=True)
    return rows


def performer_pytorch(causal: bool, width: int, features: int) -> tuple[Any, Any]:
    """Its softmax attention, and its estimator in float64, as functions of (q, k, v)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports distutils
        from performer_pytorch import performer_pytorch as theirs
    projection = theirs.gaussian_orthogonal_random_matrix(features, width)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made = [theirs.softmax_kernel(x, projection_matrix=projection, is_query=x is q) for x in (q, k)]
        return (theirs.causal_linear_attention_noncuda if causal else theirs.linear_attention)(*made, v)

    def true(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weight, softmax = projection.double(), FEATURE_MAPS["softmax"]
        return favor_attention(q, k, v, softmax, weight, causal=causal)

    return attention, true


def rounding(length: int = 257, width: int = 64, features: int = 128) -> list[dict[str, Any]]:
    """Relative error against the float64 value of the same estimator."""
    rows = []
    print(f"\nrelative error against the float64 value of the same estimator: L={length}, d={width}, M={features}")
    print(" " * 44 + "".join(f"{'x' + str(scale):>9}" for scale in SCALES))
    for causal in (False, True):
        theirs, true = performer_pytorch(causal, width, features)
        for kernel in [*FEATURE_MAPS, "performer-pytorch"]:
            for dtype in (torch.float32, torch.bfloat16):
                if kernel == "performer-pytorch" and dtype != torch.float32:
                    continue
                cells = []
                for scale in SCALES:
                    generator = torch.Generator().manual_seed(0)
                    q, k, v = torch.randn(3, 1, 4, length, width, generator=generator)
                    q, k, v = ((x * factor).to(dtype) for x, factor in ((q, scale), (k, scale), (v, 1)))
                    if kernel == "performer-pytorch":
                        error = distance(theirs(q, k, v), true(q, k, v))
                    else:
                        attention = FavorAttention(width, features, kernel, causal=causal).eval()
                        if attention.feature_map.adaptive:
                            attention.observe(q, k)
                            attention.redraw(0)
                        bias = attention.bias if attention.feature_map.adaptive else None
                        keys = attention.centred(q, k)
                        expected = favor_attention(
                            q, keys, v, attention.feature_map, attention.directions, bias, causal=causal
                        )
                        error = distance(attention(q, k, v), expected)
                    cells.append(f"{error:9.1e}")
                    rows.append(
                        {
                            "kernel": kernel,
                            "causal": causal,
                            "dtype": str(dtype).removeprefix("torch."),
                            "scale": scale,
                            "error": error,
                        }
                    )
                name = f"{kernel}, {'causal' if causal else 'bidirectional'}, {str(dtype).removeprefix('torch.')}"
                print(f"{name:<44}" + "".join(cells), flush=True)
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws error against the number of features."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    figure, axes = plt.subplots(1, len(SIZES), figsize=(12, 5.5), constrained_layout=True)
    colours = {kernel: f"C{i}" for i, kernel in enumerate(dict.fromkeys(kernel for kernel, *_ in ESTIMATORS))}
    styles = {"orthogonal": "o-", "simplex": "s--", "iid": "x:"}
    for axis, size in zip(axes, SIZES, strict=True):
        for kernel, directions, norms in ESTIMATORS:
            estimator = (size, kernel, directions, norms)
            line = [r for r in rows if (r["size"], r["kernel"], r["directions"], r["norms"]) == estimator]
            error = [row["error"] for row in line]
            axis.errorbar(
                [row["features"] for row in line],
                error,
                [
                    [row["error"] - row["quartile_1"] for row in line],
                    [row["quartile_3"] - row["error"] for row in line],
                ],
                fmt="D-." if norms == "constant" else styles[directions],
                color=colours[kernel],
                label=title(kernel, directions, norms) if axis is axes[0] else None,
                markersize=4,
                capsize=2,
                linewidth=1,
            )
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="features M (hyperbolic and trig: M / 2 directions)",
            title=f"queries and keys with standard deviation {size}",
        )
        axis.set_ylim(0.05, 5)  # estimates above are useless
        axis.set_xticks(FEATURES)
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative error of the output against exact attention")
    figure.legend(loc="outside lower center", ncol=5, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.error", description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=positive, default=LENGTH)
    parser.add_argument("--draws", type=positive, default=15)
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/error.png"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder for the CSV files")
    options = parser.parse_args()
    tables = [options.results / name for name in ("approximation.csv", "rounding.csv")]
    check_outputs(*tables, picture=options.figure)
    torch.manual_seed(0)  # performer-pytorch draws from the global generator
    errors = [row for size in SIZES for row in approximation(options.length, options.draws, size)]
    write_csv(errors, tables[0])
    draw(errors, options.figure)
    write_csv(rounding(), tables[1])
    print(f"\nfigure: {options.figure}\ntables: {tables[0]}, {tables[1]}")


if __name__ == "__main__":
    program(main)
