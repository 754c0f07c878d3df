"""The command linearise."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from protlm.cli.console import Backend, Device, Precision, announced, say
from protlm.cli.outputs import FOLDER, check_outputs
from protlm.errors import UserError


def linearise(
    teacher: Annotated[Path, Argument(help="Model folder or training checkpoint (.ckpt) with exact attention.")],
    output: Annotated[Path, Option("--output", "-o", metavar="STUDENT", help="Model folder to write.")],
    fasta: Annotated[
        list[Path] | None, Option(help="Proteins to train on, a FASTA file, plain or compressed; repeatable.")
    ] = None,
    check: Annotated[
        Path | None,
        Option(
            help="FASTA file of other proteins, on which to compare the student with its teacher, after its training "
            "or, if STUDENT exists, without."
        ),
    ] = None,
    steps: Annotated[int, Option(min=1, help="Of training in all.")] = 2000,
    match: Annotated[
        int, Option(min=0, help="First steps: only the learned features are trained, to match attention outputs.")
    ] = 1000,
    tune: Annotated[
        int, Option(min=0, help="Last steps: pre-training. All others match representations and logits.")
    ] = 0,
    tune_method: Annotated[
        str, Option(help="What these train: full (all weights) or lora (low-rank adapters, which are merged).")
    ] = "full",
    features: Annotated[int, Option(min=1, help="Learned features of each head.")] = 64,
    block: Annotated[
        int, Option(min=1, help="Residues; each attends exactly to its own block and both adjacent ones.")
    ] = 64,
    form: Annotated[
        str, Option("--map", help="Form of the learned features: positive, hedgehog or relu.")
    ] = "positive",
    exact_heads: Annotated[
        float, Option(help="Fraction of heads that stay exact, which is quadratic in length: those imitated worst.")
    ] = 0.0,
    exact_layers: Annotated[float, Option(help="Fraction of layers that stay exact in all heads, likewise.")] = 0.0,
    window_heads: Annotated[
        float,
        Option(
            help="Fraction of heads without learned features, which see near residues only: those that lose "
            "least by it."
        ),
    ] = 0.0,
    window_layers: Annotated[float, Option(help="Fraction of layers without learned features, likewise.")] = 0.0,
    choose_by: Annotated[
        str, Option(help="How these are chosen: error (of the layer's output) or kl (of attention).")
    ] = "error",
    max_length: Annotated[int, Option(min=8, help="Tokens; longer training proteins are cropped at random.")] = 1024,
    token_budget: Annotated[int, Option(min=1, help="Maximum number of tokens in a batch.")] = 2048,
    clusters: Annotated[
        Path | None, Option(help="Clusters (representative, tab, member): proteins of one are in one part of the data.")
    ] = None,
    lengths: Annotated[
        str | None,
        Option(
            help="Of --check: tokens at which both models are timed, such as 1024,8192; '' for none. Default: powers "
            "of 2 up to 32768, as far as the teacher takes less than a minute."
        ),
    ] = None,
    proteins: Annotated[int, Option(min=2, help="Of --check: at most so many, chosen by their hashes.")] = 200,
    setting: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Any option of python -m protlm.train +experiment=linearise, such as optimizer.lr=1e-4; repeatable.",
        ),
    ] = None,
    seed: Annotated[int, Option(min=0, help="Of the order of proteins, crops and masks.")] = 1,
    precision: Precision = "float32",
    device: Device = "auto",
    attention_backend: Backend = "auto",
) -> None:
    """Turn a model with exact attention into one with linear attention, and measure what is lost.

    A command that was interrupted resumes when it is repeated.
    """
    from protlm.distillation.gap_report import check_student, lengths_of, tables_of
    from protlm.distillation.run import linearise as distil
    from protlm.distillation.run import sampled
    from protlm.model_api import placed
    from protlm.performer.baselines import Exact

    times = None if lengths is None else lengths_of(lengths)
    measured = [] if check is None else sampled([check], proteins)
    if check is not None and len(measured) < 2:
        raise UserError(f"{check}: at least two proteins are needed to compare teacher and student")
    if not (output.exists() and check is not None and not fasta):
        if not fasta:
            raise UserError("--fasta: give the proteins to train on")
        check_outputs({"--output": (output, FOLDER)}, [teacher, *fasta, *filter(None, [check, clusters])])
        options = {"steps": steps, "match": match, "tune": tune, "tune_method": tune_method}
        options |= {"features": features, "block": block, "map": form}
        options |= {"exact_heads": exact_heads, "exact_layers": exact_layers, "window_heads": window_heads}
        options |= {"window_layers": window_layers, "choose_by": choose_by, "max_length": max_length, "seed": seed}
        options |= {"token_budget": token_budget, "clusters": clusters, "precision": precision, "device": device}
        options["attention_backend"] = attention_backend
        distil(teacher, output, fasta, setting or (), **options)
        say(f"wrote {output}; use it with --model {output}")
    if check is None:
        say(f"to compare it with its teacher: protlm linearise {teacher} -o {output} --check FASTA")
        return

    def place(model: Any) -> Any:
        """On the device; the teacher has exact attention, for which there is no choice."""
        backend = "auto" if isinstance(model.config.kind, Exact) else attention_backend
        return announced(placed(model, device, backend, None))

    reports = check_student(teacher, output, measured, times, place, lambda text: say(f"measuring {text}"))
    print(tables_of(reports))
    say(f"wrote {output / 'gap.json'}")
