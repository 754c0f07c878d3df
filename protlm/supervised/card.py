"""The card of a fitted model, README.md in its folder: data, split, metrics, how to use it."""

from typing import Any

from protlm.supervised.evaluation import gain_heading, gain_of, interval, shown

HOW = {
    "probe": "frozen",
    "head": "frozen",
    "lora": "with low-rank adapters",
    "full": "from which all weights were trained",
}
"""Method -> what became of the base model."""


def kept(report: dict[str, Any]) -> bool:
    """Whether the model is what `method` trained, not the probe that it started from."""
    return report.get("training", {}).get("kept", report["method"] == "probe")


def base_of(report: dict[str, Any]) -> str:
    """The base model, and what became of it."""
    base, how = report["base"], HOW[report["method"] if kept(report) else "probe"]
    return f"{base['path'] or 'given as an object'}, fingerprint {base['fingerprint']}, {how}"


def _start(report: dict[str, Any]) -> str:
    if report["method"] == "probe" or not kept(report):
        return ""
    training = report["training"]
    length = f"{training['steps']:,} steps ({training['epochs']:,} epochs)"
    return f"{length}, score on validation {training['score']:.3f}, from a "


def _penalty(strengths: list[float]) -> str:
    if len(strengths) == 1:
        return f"penalty {strengths[0]:.3g}"
    return f"the mean of {len(strengths)} ridge regressions, each on some of these and with its own penalty"


def card(report: dict[str, Any], name: str) -> str:
    """The card, from the content of report.json and the name of the folder."""
    lines = [
        f"# {name}",
        "",
        "Predicts " + "; ".join(f"{t['name']} ({t['described']})" for t in report["targets"]) + ".",
    ]
    lines += ["", "```", f"protlm predict proteins.fasta --model {name} -o predictions.csv", "```", ""]
    data = report["data"]
    lines += ["| | |", "|---|---|"]
    lines += [f"| base model | {base_of(report)} |"]
    lines += [f"| labels | {data['source']}: {data['proteins']:,} proteins, fingerprint {data['fingerprint']} |"]
    lines += [f"| evaluation | {report['split']['described']} |"]
    if report["split"]["leakage"]:
        lines += [f"| leakage | {report['split']['leakage']['described']} |"]
    for target in report["targets"]:
        lines += [f"| {target['name']} | {_start(report)}linear probe on {', '.join(target['features'])}"]
        lines[-1] += f"; {_penalty(target['strengths'])}"
        lines[-1] += f"; temperature {target['temperature']:.3g} |" if target["classes"] else " |"
    for target in report["targets"]:
        lines += ["", *metrics_of(target)]
    return "\n".join([*lines, *warnings_of(report)]) + "\n"


def metrics_of(target: dict[str, Any]) -> list[str]:
    """The section with the metrics of a target of a report."""
    names = list(next(iter(target["metrics"].values())))
    rows = f"{target['test_rows']:,} held-out rows of {target['test_proteins']:,} proteins"
    lines = [f"## {target['name']}", "", f"{rows}; 95 % bootstrap intervals over proteins."]
    lines += ["", f"| | {' | '.join([*names, gain_heading(target)])} |", f"|---|{'---|' * (len(names) + 1)}"]
    for method, metrics in target["metrics"].items():
        cells = [f"{shown(name, one['value'])} {interval(name, one)}" for name, one in metrics.items()]
        cells.append(gain_of(target, method))
        lines += [f"| {method} | {' | '.join(cells)} |"]
    return lines


def warnings_of(report: dict[str, Any]) -> list[str]:
    """The section with the warnings of a report; empty without any."""
    return ["", "## Warnings", "", *(f"- {line}" for line in report["warnings"])] if report["warnings"] else []
