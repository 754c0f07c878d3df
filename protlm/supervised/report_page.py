"""The report of a fit as one self-contained page: table of baselines, confusion matrix or residuals, calibration."""

import base64
import html
import io
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from protlm.supervised.evaluation import interval, shown
from protlm.supervised.metrics import MAIN

PARTS = Path(__file__).parent / "page"
_MOST_CLASSES = 30  # in the picture of the confusion matrix


def report_page(report: dict[str, Any]) -> str:
    """The page, from the content of report.json."""
    names = ", ".join(target["name"] for target in report["targets"])
    data, split, base = report["data"], report["split"], report["base"]
    lines = [
        f"{data['proteins']:,} labelled proteins of {data['source']} (fingerprint {data['fingerprint']})",
        f"Base model: {base['path'] or 'given as an object'} (fingerprint {base['fingerprint']}), frozen",
        f"Evaluation: {split['described']}",
    ]
    if split["leakage"]:
        lines.append(f"Leakage: {split['leakage']['described']}")
    body = ["<ul>", *(f"<li>{html.escape(line)}</li>" for line in lines), "</ul>"]
    body += [f'<p class="warning">{html.escape(line)}</p>' for line in report["warnings"]]
    for target in report["targets"]:
        body += [f"<h2>{html.escape(target['name'])}: {html.escape(target['described'])}</h2>"]
        body += [f"<p>{target['test_rows']:,} held-out rows of {target['test_proteins']:,} proteins; "]
        body += ["95 % bootstrap intervals over proteins.</p>", _metrics(target)]
        if "calibration" in target:
            body += [_picture(_calibration(target), "Calibration: fraction that is right by confidence")]
        if "points" in target:
            body += [_picture(_residuals(target), "Predicted against measured values")]
        if "confusion" in target:
            body += ["<h3>Confusion matrix (rows: true class; columns: predicted)</h3>", _confusion(target)]
    title = html.escape(f"protlm fit: {names}")
    return Template((PARTS / "report.html").read_text(encoding="utf-8")).substitute(title=title, body="\n".join(body))


def _metrics(target: dict[str, Any]) -> str:
    names = list(next(iter(target["metrics"].values())))
    rows = [f"<tr><th>method</th>{''.join(f'<th>{html.escape(name)}</th>' for name in names)}</tr>"]
    for number, (method, metrics) in enumerate(target["metrics"].items()):
        cells = [
            f"<td>{shown(name, one['value'])} <small>{interval(name, one)}</small></td>"
            for name, one in metrics.items()
        ]
        kind = ' class="probe"' if number == 0 else ""
        rows.append(f"<tr{kind}><td>{html.escape(method)}</td>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _confusion(target: dict[str, Any]) -> str:
    names, counts = target["classes"], target["confusion"]
    if len(names) > _MOST_CLASSES:
        return f"<p>{len(names):,} classes; the matrix is in report.json.</p>"
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = [f"<tr><th></th>{heads}</tr>"]
    for name, row in zip(names, counts, strict=True):
        total = max(1, sum(row))
        cells = "".join(
            f'<td style="background: rgb(13 148 136 / {count / total:.2f})">{count:,}</td>' for count in row
        )
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    return f'<div class="scroll"><table class="matrix">{"".join(rows)}</table></div>'


def _calibration(target: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    curve = target["calibration"]["curve"]
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    confidence, accuracy = ([point[name] for point in curve] for name in ("confidence", "accuracy"))
    axes.plot(confidence, accuracy, marker="o", color="#0d9488")
    axes.set(xlabel="predicted probability", ylabel="fraction that is right", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"expected calibration error {target['calibration']['expected_error']:.3f}", fontsize=10)
    return figure


def _residuals(target: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    ranking = target["kind"] == "ranking"  # predictions are ranks: their differences from values say nothing
    figure = Figure(figsize=(4.5 if ranking else 9, 4), layout="constrained")
    left, *others = np.ravel(figure.subplots(1, 1 if ranking else 2))
    measured, predicted = (list(column) for column in zip(*target["points"], strict=True))
    ends = [min(measured), max(measured)]
    if not ranking:
        left.plot(ends, ends, color="0.7", linewidth=1)
    left.scatter(measured, predicted, s=6, alpha=0.5, color="#0d9488")
    left.set(xlabel="measured", ylabel="predicted rank" if ranking else "predicted")
    for right in others:
        right.axhline(0, color="0.7", linewidth=1)
        differences = [one - other for one, other in target["points"]]
        right.scatter(predicted, differences, s=6, alpha=0.5, color="#0d9488")
        right.set(xlabel="predicted", ylabel="measured - predicted")
    value = next(iter(target["metrics"].values()))[MAIN[target["kind"]]]["value"]
    left.set_title(f"{MAIN[target['kind']]} {shown(MAIN[target['kind']], value)}", fontsize=10)
    return figure


def _picture(figure: Any, text: str) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    encoded = base64.b64encode(drawn.getvalue()).decode()
    return f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{encoded}"></p>'
