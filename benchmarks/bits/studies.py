"""The comparisons: which kinds of attention are trained on which experiment.

Kinds of a study are trained with the same seed, order of the data and number of bytes per step. The exact Transformer
of the text study has shorter blocks, at which its step takes as long as a Performer's; `exact_full` has none of that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.plots.charts import BLUE, GREEN, ORANGE, PINK, RED, SKY

REDRAWN = "callbacks.redraw.every_n_steps=25"
RARELY = "callbacks.redraw.every_n_steps=150"
FIXED = "callbacks.redraw.every_n_steps=0"


@dataclass(frozen=True)
class Kind:
    """One kind of attention.

    Args:
        title: for tables and figures.
        options: of `protlm.train`.
        colour, style: of its curve, as in matplotlib.
        usual: whether it is trained unless kinds are chosen.
    """

    title: str
    options: tuple[str, ...]
    colour: str
    style: str = "o-"
    usual: bool = True


@dataclass(frozen=True)
class Study:
    """One comparison.

    Args:
        experiment: a file of conf/experiment.
        unit: what bits are counted for.
        kinds: name -> kind.
        options: of `protlm.train`, for all kinds.
    """

    experiment: str
    unit: str
    kinds: Mapping[str, Kind]
    options: tuple[str, ...] = ()


TEXT = {
    "exact": Kind("exact Transformer, L=512", ("model.attention=exact", "data.max_length=512"), "black", "^-"),
    "softmax": Kind("positive, redrawn", ("model.attention=softmax", REDRAWN), RED),
    "softmax_fixed": Kind("positive, no redraw", ("model.attention=softmax", FIXED), ORANGE, "s:"),
    "regularised": Kind("regularised (SMREG), redrawn", ("model.attention=regularised", REDRAWN), BLUE),
    "regularised_fixed": Kind("regularised (SMREG), no redraw", ("model.attention=regularised", FIXED), SKY, "s:"),
    "trig": Kind("trigonometric, redrawn", ("model.attention=trig", REDRAWN), PINK),
    "relu": Kind("ReLU", ("model.attention=relu",), GREEN),
    "softmax_local": Kind(
        "positive, redrawn, 2 of 4 heads local",
        ("model.attention=softmax", REDRAWN, "model.local_heads=2"),
        "0.5",
        "v-",
        usual=False,
    ),
    "softmax_rare": Kind(
        "positive, redrawn every 150 steps", ("model.attention=softmax", RARELY), "#8B4513", "D-", usual=False
    ),
    "regularised_rare": Kind(
        "regularised (SMREG), redrawn every 150 steps",
        ("model.attention=regularised", RARELY),
        "#2F4F4F",
        "D-",
        usual=False,
    ),
    "exact_full": Kind("exact Transformer, L=8,192", ("model.attention=exact",), "0.3", "^--", usual=False),
}
REFORMER = "model/attention=reformer", "model.attention.rounds=1"
IMAGES = {
    "relu_6": Kind("Performer-ReLU, 6 layers", ("model.attention=relu",), GREEN),
    "softmax_6": Kind("Performer-softmax, 6 layers", ("model.attention=softmax", REDRAWN), RED),
    "relu_12": Kind("Performer-ReLU, 12 layers", ("model.attention=relu", "model.layers=12"), BLUE),
    "reformer_12": Kind("Reformer, 12 layers", (*REFORMER, "model.layers=12"), PINK, "s-"),
    "relu_local_6": Kind(
        "Performer-ReLU, 6 layers, 2 of 4 heads local",
        ("model.attention=relu", "model.local_heads=2", "model.local_window=256"),
        "0.5",
        "v-",
        usual=False,
    ),
    "softmax_local_6": Kind(
        "Performer-softmax, 6 layers, 2 of 4 heads local",
        ("model.attention=softmax", REDRAWN, "model.local_heads=2", "model.local_window=256"),
        "#8B4513",
        "D-",
        usual=False,
    ),
    "reformer_6": Kind("Reformer, 6 layers", REFORMER, ORANGE, "s:", usual=False),
}
BLOCKS = (
    "data.max_length=512",
    "data.token_budget=2048",
    "trainer.limit_val_batches=40",
    "trainer.limit_test_batches=80",
)
SHORT = (*BLOCKS, "trainer.max_steps=600", "trainer.val_check_interval=100")
LONG = (*BLOCKS, "trainer.max_steps=3000", "trainer.val_check_interval=250")
LONG_KINDS = "exact", "softmax_fixed", "softmax_rare", "regularised_fixed", "regularised_rare"
STUDIES = {
    "text": Study("text", "byte", TEXT),
    "text_short": Study("text", "byte", {name: kind for name, kind in TEXT.items() if name != "exact_full"}, SHORT),
    "text_long": Study("text", "byte", {name: replace(TEXT[name], usual=True) for name in LONG_KINDS}, LONG),
    "images": Study("image64", "dimension", IMAGES),
}
"""text_short: blocks of 512 bytes, on which a model of this size learns more in as many bytes; text_long: five times as
many steps of these."""
