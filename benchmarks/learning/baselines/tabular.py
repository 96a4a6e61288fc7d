"""Peers on tables (scikit-learn), each with the preprocessing and the choice of settings it is usually given.

Tables are float matrices with NaN where a value is missing; the median stands in for it.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Matrix = NDArray[np.float64]
#: Labels are texts for a classification and numbers for a regression.
Labels = NDArray[Any]

LOGISTIC_GRID = np.logspace(-2, 2, 5)
RIDGE_GRID = np.logspace(-3, 3, 13)
NEIGHBOURS = (1, 3, 5, 7, 9, 13)
TREES = 200


def _folds(labels_N: Labels) -> KFold | StratifiedKFold:
    if labels_N.dtype.kind == "f":
        return KFold(5, shuffle=True, random_state=0)
    commonest = int(np.unique(labels_N, return_counts=True)[1].max())
    return StratifiedKFold(min(5, commonest), shuffle=True, random_state=0)


def linear(rows_NF: Matrix, labels_N: Labels) -> Any:
    """Logistic regression or ridge on standardised columns, the strength by cross-validation (ridge: leave-one-out)."""
    if labels_N.dtype.kind == "f":
        return make_pipeline(_imputer(), StandardScaler(), RidgeCV(RIDGE_GRID)).fit(rows_NF, labels_N)
    chosen = LogisticRegressionCV(Cs=LOGISTIC_GRID, cv=_folds(labels_N), max_iter=1000)
    return _quietly(make_pipeline(_imputer(), StandardScaler(), chosen), rows_NF, labels_N)


def neighbours(rows_NF: Matrix, labels_N: Labels) -> Any:
    """k nearest neighbours on standardised columns, k by cross-validation."""
    kind = KNeighborsRegressor if labels_N.dtype.kind == "f" else KNeighborsClassifier
    model = make_pipeline(_imputer(), StandardScaler(), kind())
    possible = [k for k in NEIGHBOURS if k <= len(labels_N) // 2]
    searched = GridSearchCV(model, {f"{model.steps[-1][0]}__n_neighbors": possible}, cv=_folds(labels_N))
    return _quietly(searched, rows_NF, labels_N)


def forest(rows_NF: Matrix, labels_N: Labels) -> Any:
    """Random forest of 200 trees."""
    kind = RandomForestRegressor if labels_N.dtype.kind == "f" else RandomForestClassifier
    return make_pipeline(_imputer(), kind(TREES, random_state=0)).fit(rows_NF, labels_N)


def boosting(rows_NF: Matrix, labels_N: Labels) -> Any:
    """Gradient boosting of 100 trees of depth 3. (Histogram boosting wants 20 rows per leaf: more than there are.)"""
    kind = GradientBoostingRegressor if labels_N.dtype.kind == "f" else GradientBoostingClassifier
    return make_pipeline(_imputer(), kind(random_state=0)).fit(rows_NF, labels_N)


PEERS: dict[str, Callable[[Matrix, Labels], Any]] = {
    "linear": linear,
    "forest": forest,
    "boosting": boosting,
    "neighbours": neighbours,
}


def _imputer() -> SimpleImputer:
    return SimpleImputer(strategy="median", keep_empty_features=True)


def _quietly(model: Any, rows_NF: Matrix, labels_N: Labels) -> Any:
    """The fitted model."""
    with warnings.catch_warnings():
        # A class of one row is missing from some fold, and a fold may hold a single class: both are as they should be.
        warnings.simplefilter("ignore")
        return model.fit(rows_NF, labels_N)
