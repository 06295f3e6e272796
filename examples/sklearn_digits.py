"""A scikit-learn pipeline on its handwritten digits, compiled: the same answers, in less time.

`python -m examples.sklearn_digits` after `pip install '.[demo]'`. The scaler is folded into the
first dense layer.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import tvmlayers as tl
from examples.side_by_side import Side, print_table

EPOCHS = 40


def trained() -> tuple[Pipeline, np.ndarray, np.ndarray]:
    """(pipeline, images, digits): a perceptron trained on three quarters, and the other quarter."""
    x, y = load_digits(return_X_y=True)
    x, held, y, digits = train_test_split(x.astype("float32"), y, random_state=0)
    pipeline = make_pipeline(
        StandardScaler(), MLPClassifier((128, 64), max_iter=EPOCHS, random_state=0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline.fit(x, y)
    return pipeline, held, digits


def main() -> int:
    """Compare and time; the exit status is 1 where probabilities differ."""
    pipeline, held, digits = trained()
    compiled = tl.compile(tl.from_sklearn(pipeline))
    probabilities = compiled(held)
    answers = pipeline.classes_[np.argmax(probabilities, axis=1)]
    expected = pipeline.predict(held)
    error = float(np.abs(probabilities - pipeline.predict_proba(held)).max())
    print(
        f"{len(held)} images: accuracy {np.mean(answers == digits):.3f}, scikit-learn's "
        f"{np.mean(expected == digits):.3f}; probabilities differ by {error:.1e} at most"
    )
    rows = []
    for batch in (1, 256):
        some = held[:batch]
        sides = [
            Side("tvmlayers", lambda some=some: compiled(some)),
            Side("scikit-learn", lambda some=some: pipeline.predict_proba(some)),
        ]
        rows.append((f"batch {batch}", sides))
    print_table(rows)
    return 0 if error < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
