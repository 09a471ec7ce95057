"""A survey in parquet: numbers, counts, coins and text in one, with gaps, and the kinds of some people noted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import zarr

import dem

KINDS = ["fit and young", "working parents", "chronically ill"]
SHARES = np.array([0.45, 0.35, 0.2])
AGE_BMI = np.array([[29.0, 23.0], [44.0, 26.5], [63.0, 30.0]])
SMOKES, DIABETIC = np.array([0.25, 0.3, 0.15]), np.array([0.01, 0.05, 0.4])
VISITS = np.array([1.2, 3.0, 9.5])
WORK = ["at home", "employed", "retired", "student"]
WORKS = np.array([[0.05, 0.5, 0.0, 0.45], [0.2, 0.78, 0.0, 0.02], [0.15, 0.2, 0.64, 0.01]])
FAMILIES = {
    "age,bmi": "gaussian",  # correlated within a kind
    "smoker,diabetic": "bernoulli",
    "visits": "poisson",
    "work": "categorical",
}


def people(n_people: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the answers of some people, a tenth of them missing, and their kinds, of which a nurse noted some."""
    kind = rng.choice(3, size=n_people, p=SHARES)
    away = rng.normal(size=(n_people, 2))
    answers = pd.DataFrame(
        {
            "person": rng.permutation(n_people),
            "age": AGE_BMI[kind, 0] + 7.0 * away[:, 0],
            "bmi": AGE_BMI[kind, 1] + 1.5 * away[:, 0] + 2.5 * away[:, 1],
            "smoker": np.where(rng.random(n_people) < SMOKES[kind], "yes", "no"),
            "diabetic": rng.random(n_people) < DIABETIC[kind],
            "visits": rng.poisson(VISITS[kind]).astype(float),
            "work": np.array(WORK)[np.sum(rng.random((n_people, 1)) > np.cumsum(WORKS, axis=1)[kind, :-1], axis=1)],
        }
    )
    for column in ("age", "bmi", "smoker", "visits", "work"):
        answers[column] = answers[column].mask(rng.random(n_people) < 0.1)
    answers["noted"] = np.where(rng.random(n_people) < 0.02, kind, -1)
    return answers, kind


def main() -> None:
    """Write the survey file by file, fit it where it lies, and tell what each kind of people is like."""
    rng = np.random.default_rng(0)
    truth = []
    Path("survey").mkdir()
    for part in range(5):
        answers, kind = people(20_000, rng)
        answers.to_parquet(f"survey/part-{part}.parquet", row_group_size=5_000)
        truth.append(kind)

    mixture = dem.Mixture(FAMILIES, n_components=3, missing="marginalise", random_state=0)
    mixture.fit("survey", labels="noted")
    # What a nurse noted numbers the kinds: 0, 1 and 2 are those of KINDS.
    table = pd.DataFrame(mixture.class_table()).set_index(["column", "category"])
    table.columns = KINDS
    print(table.round(2).to_string())

    mixture.predict_to("survey", "kinds.zarr")
    found = zarr.open_array("kinds.zarr", mode="r")[:]
    print(f"{np.mean(found == np.concatenate(truth)):.1%} of {len(found):,} people are of the kind they were made of")

    first = pd.read_parquet("survey/part-0.parquet").head(5)
    print("as they answered:", first[list(mixture.feature_names_in_)].to_string(), sep="\n")
    print("what is missing filled in:", mixture.impute(first).round(1).to_string(), sep="\n")


if __name__ == "__main__":
    main()
