"""One side of `conversation`: EM iterations of pomegranate's GeneralMixtureModel.

Arguments: file of float64 rows (C order), n, d, K, covariance. Each line asks for a number of iterations.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings

import numpy as np
import torch
from conversation import serve
from pomegranate.distributions import Normal
from pomegranate.gmm import GeneralMixtureModel

MEMORY = 14 * 2**30  # rather an error than a machine that swaps


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    path, n_rows, n_features, n_components, covariance = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
    rows = torch.from_numpy(np.fromfile(path, dtype=np.float64).reshape(n_rows, n_features))
    variance = rows[:10000].var(dim=0, correction=0)
    start = torch.diag(variance) if covariance == "full" else variance
    torch.set_default_dtype(torch.float64)
    normals = [
        Normal(rows[k].clone(), start.clone(), covariance_type=covariance, min_cov=1e-6) for k in range(n_components)
    ]
    model = GeneralMixtureModel(normals, priors=torch.full((n_components,), 1.0 / n_components))

    def answer(question: str) -> dict:
        began = time.perf_counter()
        for _ in range(int(question)):
            model.summarize(rows)
            model.from_summaries()
        return {"seconds": time.perf_counter() - began}

    serve(answer, start_free=True, version=torch.__version__, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
