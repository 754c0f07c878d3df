"""The report of a fit as one self-contained page: baselines, calibration, learning curve, confusions or residuals."""

import base64
import html
import io
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from protlm.supervised.card import base_of
from protlm.supervised.evaluation import gain_heading, gain_of, interval, shown
from protlm.supervised.metrics import MAIN

PARTS = Path(__file__).parent / "page"
_MOST_CLASSES = 30  # in the picture of the confusion matrix


def report_page(report: dict[str, Any]) -> str:
    """The page, from the content of report.json."""
    names = ", ".join(target["name"] for target in report["targets"])
    data, split = report["data"], report["split"]
    lines = [
        f"{data['proteins']:,} labelled proteins of {data['source']} (fingerprint {data['fingerprint']})",
        f"Base model: {base_of(report)}",
        f"Evaluation: {split['described']}",
    ]
    if training := report.get("training"):
        lines.append(
            f"Training: {training['steps']:,} steps ({training['epochs']:,} epochs); score on validation "
            f"{training['start']:.3f} before, {training['score']:.3f} after, standard error of the difference "
            f"{training['margin']:.3f}"
        )
    if split["leakage"]:
        lines.append(f"Leakage: {split['leakage']['described']}")
    body = ["<ul>", *(f"<li>{html.escape(line)}</li>" for line in lines), "</ul>"]
    body += [f'<p class="warning">{html.escape(line)}</p>' for line in report["warnings"]]
    for target in report["targets"]:
        body += [f"<h2>{html.escape(target['name'])}: {html.escape(target['described'])}</h2>"]
        body += [f"<p>{target['test_rows']:,} held-out rows of {target['test_proteins']:,} proteins; "]
        body += ["95 % bootstrap intervals over proteins.</p>", _metrics(target), f"<p>{_meaning(target)}</p>"]
        if "threshold" in target:
            name, least = html.escape(target["threshold"]["class"]), target["threshold"]["probability"]
            body += [f"<p>{name} is rare, and predicted from a probability of {least:.3f}, which has the highest F1"]
            body += ["in the validation part or, without one, in cross-validation within the training part, also in"]
            body += ["the confusion matrix. Accuracy, MCC and macro F1 are of the more probable class.</p>"]
        if "calibration" in target:
            body += [_picture(_calibration(target), "Calibration: fraction that is right by confidence")]
        if "points" in target:
            body += [_picture(_residuals(target), "Predicted against measured values")]
        if len(target.get("learning_curve", ())) > 1:
            body += [_picture(_learning_curve(target), "Learning curve: the probe fitted to fewer proteins")]
        if "confusion" in target:
            body += ["<h3>Confusion matrix (rows: true class; columns: predicted)</h3>", _confusion(target)]
    title = html.escape(f"protlm fit: {names}")
    return Template((PARTS / "report.html").read_text(encoding="utf-8")).substitute(title=title, body="\n".join(body))


_MEANINGS = {
    "accuracy": "Accuracy is the fraction of rows whose most probable class is right.",
    "MCC": "MCC, Matthews' correlation coefficient, is 0 for guesses and 1 for perfect predictions.",
    "F1": "F1 is that of the rarer class, called from a probability that is chosen on the other half of the proteins.",
    "macro F1": "Macro F1 counts all classes equally.",
    "AUROC": "AUROC is the probability that a row of a class gets a higher score for it than another row.",
    "AUPRC": "AUPRC, average precision, of guesses is the frequency of the class; look at it where a class is rare.",
    "Fmax": "Fmax is the F1 of the labels of a protein at the best threshold.",
    "micro AUPRC": "Micro AUPRC is the average precision of all pairs of a protein and a label.",
    "Spearman": "Spearman's correlation compares orders; 0 for guesses, 1 for the right order.",
    "R2": "R2 is the fraction of the variance that is explained; 0 for the mean.",
    "RMSE": "RMSE is the root mean squared error, in the unit of the labels.",
    "NDCG": "NDCG is the gain of the tenth predicted best, relative to that of the best possible choice.",
    "top-10 % recall": "Recall is the fraction of the best tenth that is predicted to be in it.",
}


def _meaning(target: dict[str, Any]) -> str:
    """What the metrics of a target mean, a sentence each."""
    names = next(iter(target["metrics"].values()))
    return html.escape(" ".join(_MEANINGS[name] for name in names if name in _MEANINGS))


def _metrics(target: dict[str, Any]) -> str:
    names = list(next(iter(target["metrics"].values())))
    heads = [*names, gain_heading(target)]
    rows = [f"<tr><th>method</th>{''.join(f'<th>{html.escape(name)}</th>' for name in heads)}</tr>"]
    for number, (method, metrics) in enumerate(target["metrics"].items()):
        cells = [
            f"<td>{shown(name, one['value'])} <small>{interval(name, one)}</small></td>"
            for name, one in metrics.items()
        ]
        cells.append(f"<td>{gain_of(target, method)}</td>")
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


def _learning_curve(target: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    proteins, values = ([point[name] for point in target["learning_curve"]] for name in ("proteins", "value"))
    axes.plot(proteins, values, marker="o", color="#0d9488")
    axes.set_xscale("log", base=2)
    axes.set_xticks(proteins, [f"{count:,.0f}" for count in proteins])
    axes.minorticks_off()
    axes.set(xlabel="training proteins", ylabel=target["learning_curve"][0]["metric"])
    axes.set_title("learning curve of the probe", fontsize=10)
    return figure


def _picture(figure: Any, text: str) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    encoded = base64.b64encode(drawn.getvalue()).decode()
    return f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{encoded}"></p>'
