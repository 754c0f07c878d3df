"""How often something is right, as a function of its strength: isotonic regression.

Legend: m observations.
"""

import numpy as np


class PrecisionCurve:
    """The fraction that is right, which never falls as strength rises (Zadrozny and Elkan 2002).

    Both ends get one wrong observation more, so that a few that happen to be right do not give certainty. Without
    observations precision is 0.

    Args:
        strength: (m,).
        right: (m,) fractions in 0 to 1.
    """

    def __init__(self, strength: np.ndarray, right: np.ndarray) -> None:
        from sklearn.isotonic import IsotonicRegression

        ends = [strength.min(), strength.max()] if len(strength) else [0.0, 0.0]
        observed = np.append(strength, ends), np.append(right, [0.0, 0.0])
        self._fitted = IsotonicRegression(out_of_bounds="clip").fit(*observed)

    def __call__(self, strength: np.ndarray) -> np.ndarray:
        """(k,) precision at each strength.

        >>> curve = PrecisionCurve(np.array([0.1] * 50 + [0.9] * 50), np.array([0] * 50 + [1] * 50))
        >>> curve(np.array([0.0, 0.9])).round(2).tolist()
        [0.0, 0.98]
        """
        return self._fitted.predict(strength) if len(strength) else np.zeros(0)
