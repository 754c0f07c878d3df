"""Options of `protlm.train` with which a step takes milliseconds."""

QUICK = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.enable_progress_bar=false", "callbacks.progress=null"]
TINY = [
    *QUICK,
    "model.layers=1",
    "model.width=16",
    "model.feed_forward=16",
    "model.num_features=8",
    "data.max_length=64",
]
