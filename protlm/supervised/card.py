"""The card of a fitted model, README.md in its folder: data, split, metrics, how to use it."""

from typing import Any

from protlm.supervised.evaluation import interval, shown


def card(report: dict[str, Any], name: str) -> str:
    """The card, from the content of report.json and the name of the folder."""
    lines = [
        f"# {name}",
        "",
        "Predicts " + "; ".join(f"{t['name']} ({t['described']})" for t in report["targets"]) + ".",
    ]
    lines += ["", "```", f"protlm predict proteins.fasta --model {name} -o predictions.csv", "```", ""]
    data, base = report["data"], report["base"]
    lines += ["| | |", "|---|---|"]
    lines += [f"| base model | {base['path'] or 'given as an object'}, fingerprint {base['fingerprint']}, frozen |"]
    lines += [f"| labels | {data['source']}: {data['proteins']:,} proteins, fingerprint {data['fingerprint']} |"]
    lines += [f"| evaluation | {report['split']['described']} |"]
    if report["split"]["leakage"]:
        lines += [f"| leakage | {report['split']['leakage']['described']} |"]
    for target in report["targets"]:
        lines += [
            f"| {target['name']} | linear probe on {', '.join(target['features'])}; penalty {target['strength']:.3g}"
        ]
        lines[-1] += f"; temperature {target['temperature']:.3g} |" if target["classes"] else " |"
    for target in report["targets"]:
        names = list(next(iter(target["metrics"].values())))
        lines += ["", f"## {target['name']}", "", f"{target['test_rows']:,} held-out rows of "]
        lines[-1] += f"{target['test_proteins']:,} proteins; 95 % bootstrap intervals over proteins."
        lines += ["", f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for method, metrics in target["metrics"].items():
            cells = [f"{shown(name, one['value'])} {interval(name, one)}" for name, one in metrics.items()]
            lines += [f"| {method} | {' | '.join(cells)} |"]
    if report["warnings"]:
        lines += ["", "## Warnings", "", *(f"- {line}" for line in report["warnings"])]
    return "\n".join(lines) + "\n"
