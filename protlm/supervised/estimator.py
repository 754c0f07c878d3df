"""`Probe`: a linear probe, or a fine-tuned protein language model, as an estimator of scikit-learn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from protlm.embedding.proteome import chosen_layers
from protlm.errors import UserError
from protlm.inference.engine import TOKEN_BUDGET
from protlm.sequence.containers import proteins_of
from protlm.supervised.features import LAYER, blocks_of, variable_sites
from protlm.supervised.fit_api import PROBE, base_model, check_method, fit
from protlm.supervised.kinship import are_variants
from protlm.supervised.partition import Round, equal_sequences, folds_of
from protlm.supervised.predictor import Predictor, agreement, label_text
from protlm.supervised.probe import candidates_of, check_learnable, learn
from protlm.supervised.target import Target, target_of

_VALID = 10  # one of so many proteins is for validation


class Probe(BaseEstimator):
    """Learns labels per protein or residue from mean or residue embeddings of a frozen model, with calibrated classes.

    Features, penalty and temperature are chosen by cross-validation within the training proteins. Other methods train
    more, starting from such a probe: a tenth of the proteins tells when to stop, and whether the probe is better. Works
    with `sklearn.base.clone`, `cross_val_score` and pipelines; proteins are as for `ProteinModel`.

    Args:
        model: a model of `protlm.load`, or the path of one.
        kind: "classification", "multilabel", "regression" or "ranking"; None for the one found.
        layers: of the model; by default the middle and the last one.
        token_budget, precision: see `ProteinModel`.
        seed: of folds.
        method: "probe", "head", "lora" or "full"; see `protlm.fit`. All but the probe take the path of a model.
        epochs, learning_rate, settings: of training, for all methods but the probe; see `protlm.fit`.

    Attributes:
        classes_: (K,) after `fit`, as in y.
        predictor_: the `Predictor`.

    >>> from protlm.model_api import example
    >>> probe = Probe(example()).fit(["MKK", "MEE"] * 8, ["basic", "acidic"] * 8)
    >>> probe.predict(["MKKK", "MEEE"]).tolist()
    ['basic', 'acidic']
    """

    def __init__(
        self,
        model: Any = None,
        kind: str | None = None,
        layers: Sequence[int] | None = None,
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
        seed: int = 0,
        method: str = PROBE,
        epochs: int | None = None,
        learning_rate: float | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        self.model, self.kind, self.layers = model, kind, layers
        self.token_budget, self.precision, self.seed = token_budget, precision, seed
        self.method, self.epochs, self.learning_rate, self.settings = method, epochs, learning_rate, settings

    def fit(self, proteins: Any, labels: Any) -> "Probe":
        """Fits to n proteins and n labels: numbers, classes, lists of labels, or strings with a letter per residue.

        Labels that are None or NaN are missing. Raises a UserError for labels from which nothing can be learned.
        """
        sequences, given = proteins_of(proteins).sequences, list(labels)
        if len(sequences) != len(given):
            raise UserError(f"{len(sequences):,} proteins and {len(given):,} labels; expected one label per protein")
        target = target_of("label", [label_text(label) for label in given], sequences, self.kind)
        check_learnable(target, "labels")
        check_method(self.method)
        if self.method == PROBE:
            self.predictor_ = self._probe(sequences, target)
        else:
            self.predictor_ = self._trained(sequences, [label_text(label) for label in given], target)
        classes = self.predictor_.head().classes
        if target.kind == "classification" and not target.per_residue:
            original = {label_text(label): label for label in given}
            self.classes_ = np.array([original[name] for name in classes])
        elif classes:
            self.classes_ = np.array(classes)
        return self

    def _probe(self, sequences: list[str], target: Target) -> Predictor:
        network, base = base_model(self.model)
        layers = chosen_layers(
            self.layers or sorted({(network.config.layers + 1) // 2, network.config.layers}), network.config.layers
        )
        variants = are_variants(sequences)
        residues = variable_sites(sequences, network.config.width) if variants else ""
        candidates = candidates_of(layers, target.per_residue, variants, residues)
        names = list(dict.fromkeys(name for own in candidates for name in own))
        names.sort(key=lambda name: not name.startswith(LAYER))
        each = blocks_of(sequences, names, target.per_residue, network, self.token_budget, self.precision)
        rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for number, found in enumerate(each):
            position = target.position[target.owner == number]
            for name, values in found.items():
                if len(position):
                    rows[name].append(values[position] if target.per_residue else values[None])
        blocks = {name: np.concatenate(values) for name, values in rows.items()}
        everything = np.ones(len(sequences), dtype=bool)
        part = Round(everything, ~everything, ~everything)
        learned = learn(target, blocks, candidates, part, equal_sequences(sequences), self.seed)
        return Predictor(network, [learned.head], {}, base)

    def _trained(self, sequences: list[str], labels: list[str], target: Target) -> Predictor:
        """A predictor that is trained by gradients."""
        import pandas

        groups = equal_sequences(sequences)
        valid = folds_of(groups, min(_VALID, len(np.unique(groups))), self.seed) == 0
        rows = [*np.flatnonzero(~valid), *np.flatnonzero(valid), *np.flatnonzero(valid)]
        parts = ["train"] * int((~valid).sum()) + ["valid"] * int(valid.sum()) + ["test"] * int(valid.sum())
        table = pandas.DataFrame(
            {"sequence": [sequences[row] for row in rows], target.name: [labels[row] for row in rows], "split": parts}
        )
        options: dict[str, Any] = {"layers": self.layers, "precision": self.precision, "seed": self.seed}
        found = fit(
            table,
            model=self.model,
            method=self.method,
            target=target.name,
            kind=target.kind,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            settings=self.settings,
            relatives=False,
            **options,
        )
        # nothing was held out: fit has tested on the validation part
        found.report = {"data": {"parent": found.report["data"]["parent"]}, "training": found.report["training"]}
        return found

    def predict(self, proteins: Any) -> Any:
        """As `Predictor.predict`; classes are those of `fit`, also if they are numbers."""
        check_is_fitted(self)
        found = self.predictor_.predict(proteins, None, self.token_budget, self.precision)
        head = self.predictor_.heads[0]
        if head.kind == "classification" and not head.per_residue and self.classes_.dtype.kind != "U":
            original = dict(zip(head.classes, self.classes_.tolist(), strict=True))
            if isinstance(found, np.ndarray):
                return np.array([original[name] for name in found])
            return {key: original[name] for key, name in found.items()} if isinstance(found, dict) else found
        return found

    def predict_proba(self, proteins: Any) -> Any:
        """As `Predictor.predict_proba`."""
        check_is_fitted(self)
        return self.predictor_.predict_proba(proteins, None, self.token_budget, self.precision)

    def score(self, proteins: Any, labels: Any) -> float:
        """See `agreement`."""
        check_is_fitted(self)
        return agreement(self.predictor_.heads[0], self.predict(proteins_of(proteins).sequences), labels)
