"""Embeddings for engines that map batches of records, such as Ray Data and Spark (docs/howto/scale.md)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from protlm.errors import UserError, counted, no_model
from protlm.missing_model import no_such_model


class Embedder:
    """Adds a column of embeddings to batches of records; can be pickled, and loads the model where it is used.

    Each process loads the model once, at the first batch, however often the object is sent to it.

    Args:
        model: folder or checkpoint, which every machine must see under the same path.
        sequence: name of the column of proteins; `id` and it match in any case if nothing matches exactly.
        column: name of the new column.
        id: name of the column that error messages name a protein by, if there is one.
        pool, layers, token_budget, precision: as in `ProteinModel.embed`.
        device: as in `protlm.load`; "auto" takes the accelerator that the process sees.

    Raises:
        UserError: for a model that does not exist; when called, for a batch without the column or a sequence that is
            not a protein.

    >>> from tempfile import TemporaryDirectory
    >>> from protlm import checkpoint, model_api
    >>> with TemporaryDirectory() as folder:
    ...     checkpoint.export(model_api.example(), f"{folder}/model")
    ...     embedder = Embedder(f"{folder}/model")
    ...     batch = embedder({"id": ["a", "b"], "sequence": ["MKT", "MKTAYIAK"]})
    >>> batch["id"], batch["embedding"].shape, batch["embedding"].dtype
    (['a', 'b'], (2, 16), dtype('float32'))
    """

    def __init__(
        self,
        model: str | Path | None = None,
        sequence: str = "sequence",
        column: str = "embedding",
        id: str = "id",  # noqa: A002
        pool: str = "mean",
        layers: Sequence[int] = (-1,),
        token_budget: int = 16_384,
        precision: str = "float32",
        device: str = "auto",
    ) -> None:
        if model is None:
            raise no_model("model, the path of a model folder or a training checkpoint (.ckpt)")
        if not isinstance(model, str | Path):
            got = type(model).__name__
            raise UserError(f"expected the path of a model, which each process loads itself, got {got}")
        path = Path(model)
        if not path.exists():
            raise no_such_model(path)
        self.model = path.resolve()  # workers run in other folders
        self.sequence, self.column, self.id, self.device = sequence, column, id, device
        self.options: dict[str, Any] = {"pool": pool, "layers": tuple(layers)}
        self.options |= {"token_budget": token_budget, "precision": precision}

    def __call__(self, batch: Any) -> dict[str, Any]:
        """The columns of a batch, and the embeddings (n, width) float32.

        Args:
            batch: n records as a dictionary of columns, a pandas DataFrame, or a pyarrow Table or RecordBatch.
        """
        columns = _columns(batch)
        column = _named(self.sequence, columns)
        if column is None:
            raise UserError(f"no column {self.sequence!r}; the batch has {', '.join(map(repr, columns)) or 'none'}")
        if self.column in columns:
            raise UserError(f"the batch has a column {self.column!r} already; choose another name for the embeddings")
        if isinstance(columns[column], str):
            raise UserError(f"the column {column!r} is a string; expected a list of sequences")
        sequences = list(columns[column])
        names = list(columns.get(_named(self.id, columns) or self.id, range(1, len(sequences) + 1)))
        if len(names) != len(sequences):
            raise UserError(f"{counted(len(sequences), 'sequence')} and {len(names):,} in the column {self.id!r}")
        for name, sequence in zip(names, sequences, strict=True):
            if not isinstance(sequence, str) or not sequence:
                raise UserError(f"protein {name}: expected a sequence, got {sequence!r}")
        model = _loaded(self.model, _changed(self.model), self.device)
        return {**columns, self.column: model.embed(sequences, **self.options)}

    def map_pandas(self, batches: Iterable[Any]) -> Iterator[Any]:
        """DataFrames with the column of embeddings, as lists of numbers: the function of Spark's `mapInPandas`."""
        for frame in batches:
            embeddings = self(frame)[self.column]
            yield frame.assign(**{self.column: [row.tolist() for row in embeddings]})


def _named(name: str, columns: Mapping[str, Any]) -> str | None:
    """The column of this name, otherwise the only one that differs from it in case alone; None without either."""
    alike = [name] if name in columns else [one for one in columns if str(one).lower() == name.lower()]
    return alike[0] if len(alike) == 1 else None


def _columns(batch: Any) -> dict[str, Any]:
    if isinstance(batch, Mapping):
        return dict(batch)
    if hasattr(batch, "to_pydict"):  # pyarrow
        return batch.to_pydict()
    if hasattr(batch, "columns") and hasattr(batch, "iloc"):  # pandas
        return {str(name): batch[name].to_numpy() for name in batch.columns}
    raise UserError(f"a batch of type {type(batch).__name__}: expected a dictionary of columns, a DataFrame or a Table")


def _changed(model: Path) -> int:
    """When the weights were last changed, so that a process never uses those of an earlier model of the same name."""
    weights = model / "model.safetensors"
    return (weights if weights.exists() else model).stat().st_mtime_ns


@lru_cache(maxsize=2)
def _loaded(model: Path, changed: int, device: str) -> Any:
    """The model, loaded once in each process; `changed` distinguishes versions of it."""
    from protlm.model_api import load  # imports torch

    return load(model, device)
